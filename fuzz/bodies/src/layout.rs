//! The disk's format as `docs/disk-format.md` tells it, as far as a fuzzer needs it: where structures begin, and how their
//! checksums are made right again after an edit. Independent of the code under test; this file alone follows the format.
//!
//! Lengths are taken from the structures' own headers, so that a record whose own part grows needs no change here.

use crate::template::DISK;
use quoin_disk::{Dir, MemDir, OpenMode};

pub(crate) const PAGE: usize = 4096;
const BATCH_HEADER: usize = 64;
const RECORD_HEADER: usize = 56;
const CHECKPOINT_HEADER: usize = 96;
const CHECKPOINT_REPLICA: usize = 56;
const CHECKPOINT_LAYER: usize = 32;
const MAP_HEADER: usize = 40;
const ENTRY: usize = 96;
const EXTENTS: u8 = 4;
const FOLD: u8 = 8;
/// Entries of a chunk of a layer.
const LAYER_CHUNK: usize = 128;

fn crc(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

fn get32(bytes: &[u8], at: usize) -> usize {
    let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
    word.map_or(0, u32::from_le_bytes) as usize
}

fn get64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn read(image: &MemDir, name: &str) -> Vec<u8> {
    let Ok(file) = image.open(name, OpenMode::Existing) else { return Vec::new() };
    let mut content = vec![0; file.len().unwrap_or(0) as usize];
    file.read_at(&mut content, 0).expect("memory can be read");
    content
}

pub(crate) fn replace(image: &MemDir, name: &str, content: &[u8]) {
    let file = image.open(name, OpenMode::OpenOrCreate).expect("memory can be opened");
    let done = file.set_len(content.len() as u64).and_then(|()| file.write_at(content, 0));
    done.and_then(|()| file.sync()).expect("memory can be written");
}

/// The checksum at 12–15 of a header, over its other bytes, after a salt.
fn seal(header: &mut [u8], salt: &[u8]) {
    let checksum = crc(&[salt, &header[..12], &header[16..]]);
    put32(header, 12, checksum);
}

pub(crate) fn repair_superblock(content: &mut [u8]) {
    if let Some(block) = content.get_mut(..64) {
        let id = block[32..48].to_vec();
        seal(block, &id);
    }
}

pub(crate) fn repair_starts(content: &mut [u8]) {
    for block in content.chunks_mut(PAGE).filter(|block| block.len() >= 64) {
        seal(&mut block[..64], DISK.as_bytes());
    }
}

pub(crate) fn repair_checkpoint(content: &mut [u8]) {
    let length = get64(content, 16) as usize;
    if (CHECKPOINT_HEADER..=content.len()).contains(&length) {
        seal(&mut content[..length], DISK.as_bytes());
    }
}

/// Makes the checksums of a map's header and of all its entries right.
pub(crate) fn repair_map(content: &mut [u8], replica: u64) {
    if let Some(header) = content.get_mut(..MAP_HEADER) {
        seal(header, DISK.as_bytes());
    }
    let entries = content.get_mut(PAGE..).unwrap_or_default();
    for (extent, entry) in (0u32..).zip(entries.chunks_exact_mut(ENTRY)) {
        seal_entry(entry, replica, 0, extent);
    }
}

/// The same for the maps of layers, as far as the checkpoint in `checkpoint` tells whose the chunks are.
pub(crate) fn repair_layers(content: &mut [u8], checkpoint: &[u8]) {
    if content.len() >= 16 {
        let checksum = crc(&[DISK.as_bytes(), &content[..12]]);
        put32(content, 12, checksum);
    }
    for Chunk { replica, layer, number, place } in chunks(checkpoint) {
        let start = PAGE.saturating_add(place.saturating_mul(LAYER_CHUNK * ENTRY));
        let entries = content.get_mut(start..).unwrap_or_default().chunks_exact_mut(ENTRY);
        for (index, entry) in entries.take(LAYER_CHUNK).enumerate() {
            seal_entry(entry, replica, layer, (number * LAYER_CHUNK + index) as u32);
        }
    }
}

struct Chunk {
    replica: u64,
    layer: u32,
    number: usize,
    place: usize,
}

/// The chunks that a checkpoint names.
fn chunks(checkpoint: &[u8]) -> Vec<Chunk> {
    let mut found = Vec::new();
    for at in replicas(checkpoint) {
        let mut layer = at + CHECKPOINT_REPLICA + get32(checkpoint, at + 52) * 8;
        for _ in 0..get32(checkpoint, at + 40) {
            let count = get32(checkpoint, layer + 28);
            let places = (0..count).map(|index| layer + CHECKPOINT_LAYER + index * 8);
            found.extend(places.take_while(|place| place + 8 <= checkpoint.len()).map(|place| Chunk {
                replica: get64(checkpoint, at),
                layer: get32(checkpoint, layer) as u32,
                number: get32(checkpoint, place),
                place: get32(checkpoint, place + 4),
            }));
            layer = layer.saturating_add(CHECKPOINT_LAYER + count * 8);
            if layer >= checkpoint.len() {
                break;
            }
        }
    }
    found
}

/// Where the replicas of a checkpoint begin.
fn replicas(checkpoint: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut at = CHECKPOINT_HEADER;
    while at + CHECKPOINT_REPLICA <= checkpoint.len() {
        found.push(at);
        let mut own = CHECKPOINT_REPLICA + get32(checkpoint, at + 52) * 8;
        for _ in 0..get32(checkpoint, at + 40) {
            own += CHECKPOINT_LAYER + get32(checkpoint, at + own + 28) * 8;
            if at + own >= checkpoint.len() {
                break;
            }
        }
        at += own + get32(checkpoint, at + 48).next_multiple_of(8);
    }
    found
}

fn seal_entry(entry: &mut [u8], replica: u64, layer: u32, extent: u32) {
    let (covered, _) = entry.split_at(ENTRY - 4);
    let place = [&replica.to_le_bytes()[..], &layer.to_le_bytes(), &extent.to_le_bytes()].concat();
    let checksum = crc(&[DISK.as_bytes(), &place, covered]);
    put32(entry, ENTRY - 4, checksum);
}

/// The names of the journal's files, in the ring's order.
pub(crate) fn journal_names(image: &MemDir) -> Vec<String> {
    let mut names = image.list().expect("memory can be listed");
    names.retain(|name| name.starts_with("journal."));
    names.sort_by_key(|name| name["journal.".len()..].parse().unwrap_or(u32::MAX));
    names
}

/// Makes the checksums of all batches, records, entries and blocks in the journal right, as far as their lengths let one
/// walk along them.
pub(crate) fn repair_journal(image: &MemDir) {
    let names = journal_names(image);
    let files: Vec<Vec<u8>> = names.iter().map(|name| read(image, name)).collect();
    let mut ring = files.concat();
    for start in (0..ring.len()).step_by(PAGE) {
        if !ring[start..].starts_with(b"QUOINJNL") {
            continue;
        }
        // A batch may go on in the next file, and behind the last in the first.
        let mut batch = [&ring[start..], &ring[..start]].concat();
        let end = (BATCH_HEADER + get32(&batch, 44)).min(batch.len());
        repair_batch(&mut batch[..end]);
        let (now, later) = batch[..end].split_at(end.min(ring.len() - start));
        ring[start..start + now.len()].copy_from_slice(now);
        ring[..later.len()].copy_from_slice(later);
    }
    let mut rest = &ring[..];
    for (name, file) in names.iter().zip(&files) {
        let (own, others) = rest.split_at(file.len());
        replace(image, name, own);
        rest = others;
    }
}

fn repair_batch(batch: &mut [u8]) {
    if batch.len() < BATCH_HEADER {
        return;
    }
    let (header, mut rest) = batch.split_at_mut(BATCH_HEADER);
    seal(header, DISK.as_bytes());
    let incarnation = &header[16..24];
    while rest.len() >= RECORD_HEADER {
        let (own, data) = (get32(rest, 4), get32(rest, 8));
        if own < RECORD_HEADER || own.saturating_add(data) > rest.len() {
            return;
        }
        let (record, behind) = rest.split_at_mut(own + data);
        let (head, blocks) = record.split_at_mut(own);
        if [EXTENTS, FOLD].contains(&head[12]) {
            repair_changes(head, blocks);
        }
        let checksum = crc(&[DISK.as_bytes(), incarnation, &head[4..]]);
        put32(head, 0, checksum);
        rest = behind;
    }
}

/// Of a record of extents: the checksums of the blocks that it brings, then those of its entries, which end each change.
fn repair_changes(head: &mut [u8], mut blocks: &[u8]) {
    let count = usize::from(u16::from_le_bytes([head[14], head[15]]));
    let replica = get64(head, 24);
    let changes = &mut head[RECORD_HEADER..];
    if count == 0 || changes.len() / count < ENTRY + 24 {
        return;
    }
    let length = changes.len() / count;
    for change in changes.chunks_exact_mut(length) {
        let extent = get32(change, 0) as u32;
        let layer = get32(change, 4) as u32;
        let mask = u16::from_le_bytes([change[16], change[17]]);
        let entry = &mut change[length - ENTRY..];
        for block in (0..16).filter(|block| mask >> block & 1 == 1) {
            let Some((data, rest)) = blocks.split_at_checked(PAGE) else { break };
            put32(entry, 16 + block * 4, crc(&[data]));
            blocks = rest;
        }
        seal_entry(entry, replica, layer, extent);
    }
}

/// Places in a file where something begins: what an edit's position is counted from.
pub(crate) fn anchors(name: &str, content: &[u8]) -> Vec<usize> {
    let mut found = vec![0];
    if name.starts_with("journal.") {
        for start in (0..content.len()).step_by(PAGE) {
            if content[start..].starts_with(b"QUOINJNL") {
                let end = start + BATCH_HEADER + get32(content, start + 44);
                found.push(start);
                let mut at = start + BATCH_HEADER;
                while at + RECORD_HEADER <= end.min(content.len()) && get32(content, at + 4) >= RECORD_HEADER
                {
                    found.extend([at, at + RECORD_HEADER, at + get32(content, at + 4)]);
                    at += get32(content, at + 4) + get32(content, at + 8);
                }
            }
        }
    } else if name.starts_with("map.") || name == "layers" {
        let entries = content.get(PAGE..).unwrap_or_default().chunks(ENTRY);
        // Which ones are empty, their versions and kinds say.
        let used = (0..)
            .zip(entries)
            .filter(|(_, entry)| entry.len() == ENTRY && (get64(entry, 8) != 0 || entry[82] != 1));
        found.extend(used.map(|(extent, _)| PAGE + extent * ENTRY));
        found.push(PAGE + 6 * ENTRY);
    } else if name.starts_with("checkpoint.") {
        for at in replicas(content) {
            found.extend([at, at + CHECKPOINT_REPLICA + get32(content, at + 52) * 8]);
        }
    } else {
        found.extend((PAGE..content.len()).step_by(PAGE));
    }
    found.retain(|at| *at < content.len().max(1));
    found
}
