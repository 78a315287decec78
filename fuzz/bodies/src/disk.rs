//! The targets of the disk's format. The first byte of each input chooses the disk that is tampered with, and whether
//! checksums are made right afterwards; so both sides of every checksum are reached.

use crate::edits::{damage, forge};
use crate::exercise::exercise;
use crate::layout;
use crate::source::Source;
use crate::template::{Template, template};
use quoin_disk::MemDir;

/// A disk to tamper with, whether to repair checksums, and the rest of the input.
fn begin(input: &[u8]) -> Option<(&'static Template, MemDir, u8, Source<'_>)> {
    let mut source = Source(input);
    let mode = source.u8()?;
    let template = template(usize::from(mode & 1));
    Some((template, template.image.process_crash(), mode >> 1, source))
}

/// Any bytes as superblock and as record of starts: as they come, or laid over the valid ones.
pub(crate) fn superblock(input: &[u8]) {
    let Some((_, image, mode, source)) = begin(input) else { return };
    let (first, second) = source.0.split_at(source.0.len().min(if mode & 2 == 0 { 64 } else { 4096 }));
    for (name, bytes, is_kept, repair) in [
        ("superblock", first, mode & 4 != 0, layout::repair_superblock as fn(&mut [u8])),
        ("starts", second, mode & 8 != 0, layout::repair_starts),
    ] {
        if is_kept {
            continue;
        }
        let mut content = layout::read(&image, name);
        if mode & 16 == 0 {
            content.iter_mut().zip(bytes).for_each(|(byte, mask)| *byte ^= mask);
        } else {
            content = bytes.to_vec();
        }
        if mode & 1 == 0 {
            repair(&mut content);
        }
        layout::replace(&image, name, &content);
    }
    exercise(&image, None);
}

/// Edits of the checkpoints, or any bytes in the place of one.
pub(crate) fn checkpoint(input: &[u8]) {
    let Some((_, image, mode, mut source)) = begin(input) else { return };
    let is_checkpoint = |name: &str| name.starts_with("checkpoint.");
    match mode >> 1 & 3 {
        0 => layout::replace(&image, "checkpoint.0", source.0),
        1 => layout::replace(&image, "checkpoint.1", source.0),
        _ => forge(&image, is_checkpoint, &mut source),
    }
    if mode & 1 == 0 {
        for name in ["checkpoint.0", "checkpoint.1"] {
            let mut content = layout::read(&image, name);
            layout::repair_checkpoint(&mut content);
            layout::replace(&image, name, &content);
        }
    }
    exercise(&image, None);
}

/// Edits of the journal's files.
pub(crate) fn journal(input: &[u8]) {
    let Some((_, image, mode, mut source)) = begin(input) else { return };
    forge(&image, |name| name.starts_with("journal."), &mut source);
    if mode & 1 == 0 {
        layout::repair_journal(&image);
    }
    exercise(&image, None);
}

/// Edits of the extent maps, those of layers included.
pub(crate) fn map(input: &[u8]) {
    let Some((_, image, mode, mut source)) = begin(input) else { return };
    forge(&image, |name| name.starts_with("map.") || name == "layers", &mut source);
    if mode & 1 == 0 {
        let checkpoints = ["checkpoint.0", "checkpoint.1"].map(|name| layout::read(&image, name));
        let mut layers = layout::read(&image, "layers");
        checkpoints.iter().for_each(|checkpoint| layout::repair_layers(&mut layers, checkpoint));
        layout::replace(&image, "layers", &layers);
        for replica in 1..5 {
            let name = format!("map.{replica}");
            let mut content = layout::read(&image, &name);
            if !content.is_empty() {
                layout::repair_map(&mut content, replica);
                layout::replace(&image, &name, &content);
            }
        }
    }
    exercise(&image, None);
}

/// Damage to all files, as disks do it: no checksum is made right, so nothing that was never written may be served.
pub(crate) fn disk_open(input: &[u8]) {
    let Some((template, image, _, mut source)) = begin(input) else { return };
    damage(&image, template, &mut source);
    exercise(&image, Some(&template.history));
}
