//! Bit rot.

use super::World;
use quoin_cluster::Replica;
use quoin_disk::{Dir, File, OpenMode};
use std::sync::Arc;

/// In which a map keeps what it knows of an extent, behind a block of its own.
const ENTRY_BYTES: u64 = 96;
const ENTRIES_FROM: u64 = 4096;

impl World {
    /// Flips a bit of a block on one node's disk. A good copy is always somewhere: each extent rots on one node only.
    pub(crate) fn rot(&mut self) -> bool {
        let Some(volume) = self.managers.volume() else { return false };
        let segment = self.fault_random.index(volume.segments.len());
        let extent = self.fault_random.below(volume.segment_bytes >> 16);
        let Some((map, data)) = self.files_of(segment, extent) else { return false };
        let mut entry = [0; ENTRY_BYTES as usize];
        let at = ENTRIES_FROM + extent * ENTRY_BYTES;
        if map.read_at(&mut entry, at).is_err() || entry == [0; ENTRY_BYTES as usize] {
            return false;
        }
        let slot = u64::from_le_bytes(entry[..8].try_into().unwrap_or_default());
        let zeros = u16::from_le_bytes([entry[80], entry[81]]);
        let block = self.fault_random.below(16);
        let is_there = data.len().is_ok_and(|length| slot < length >> 16);
        if !is_there || zeros >> block & 1 == 1 {
            return false;
        }
        let at = (slot << 16) + (block << 12) + self.fault_random.below(4096);
        self.flip(&*data, at)
    }

    /// Flips a bit of what a node's map says of an extent that is not the last one; says which. Rather than on others it is
    /// on the node that is read from.
    pub(crate) fn rot_entry(&mut self) -> Option<(usize, u64)> {
        const TRIES: usize = 8;
        let volume = self.managers.volume()?;
        let mut places = (0..TRIES).map(|_| {
            let segment = self.fault_random.index(volume.segments.len());
            (segment, self.fault_random.below((volume.segment_bytes >> 16) - 1))
        });
        let is_read = |(segment, extent): &(usize, u64)| {
            let victim = victim(&volume.segments[*segment].replicas, *segment, *extent);
            Some(victim.node) == self.last_reader
        };
        let first = places.next()?;
        let (segment, extent) = if is_read(&first) { first } else { places.find(is_read).unwrap_or(first) };
        let (map, _) = self.files_of(segment, extent)?;
        let mut entry = [0; ENTRY_BYTES as usize];
        let at = ENTRIES_FROM + extent * ENTRY_BYTES;
        map.read_at(&mut entry, at).ok().filter(|()| entry != [0; ENTRY_BYTES as usize])?;
        let byte = self.fault_random.below(ENTRY_BYTES);
        let has_rotted = self.flip(&*map, at + byte);
        self.entries_rotted += u64::from(has_rotted);
        has_rotted.then_some((segment, extent))
    }

    /// The map and the data of the one node on which an extent rots.
    fn files_of(&self, segment: usize, extent: u64) -> Option<(Arc<dyn File>, Arc<dyn File>)> {
        let replicas = &self.managers.volume()?.segments[segment].replicas;
        let victim = victim(replicas, segment, extent);
        let process = self.nodes.iter().find(|process| process.id() == victim.node)?;
        let dir = process.disk.files();
        let map = dir.open(&format!("map.{}", victim.id), OpenMode::Existing).ok()?;
        Some((map, dir.open("data", OpenMode::Existing).ok()?))
    }

    fn flip(&mut self, file: &dyn File, at: u64) -> bool {
        let mut byte = [0];
        let flipped = file.read_at(&mut byte, at).is_ok()
            && file.write_at(&[byte[0] ^ (1 << self.fault_random.below(8))], at).is_ok();
        flipped && file.sync().is_ok()
    }
}

/// The one replica on which an extent rots.
fn victim(replicas: &[Replica], segment: usize, extent: u64) -> &Replica {
    &replicas[(segment + extent as usize) % replicas.len()]
}
