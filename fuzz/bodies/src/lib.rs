//! What the fuzz targets do, as plain functions: cargo-fuzz calls them (`/fuzz`), and so does a normal test
//! (`tests/smoke.rs`) with the kept corpus and some thousand random inputs.
//!
//! Each takes any bytes, panics if a promise is broken, and touches neither disk, clock nor network. Where a target needs
//! to get past a checksum, it computes it itself, from the tables of `docs/disk-format.md` (`layout`): the code under test
//! has no hooks for this, and the document is checked against it.

mod disk;
mod edits;
mod exercise;
mod frames;
mod layout;
mod nbd;
mod source;
mod template;

/// One target.
pub type Body = fn(&[u8]);

/// All targets, by the names of the files in `/fuzz/fuzz_targets` and of the directories in `/fuzz/corpus`.
pub const TARGETS: [(&str, Body); 8] = [
    ("superblock", disk::superblock),
    ("checkpoint", disk::checkpoint),
    ("journal", disk::journal),
    ("map", disk::map),
    ("disk_open", disk::disk_open),
    ("wire_frames", frames::wire_frames),
    ("nbd_handshake", nbd::handshake),
    ("nbd_transmission", nbd::transmission),
];

/// Runs one target on one input.
///
/// # Panics
/// If a promise is broken, or there is no such target.
pub fn run(target: &str, input: &[u8]) {
    let (_, body) = TARGETS.iter().find(|(name, _)| *name == target).expect("the name of a target");
    body(input);
}
