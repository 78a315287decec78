//! Bit rot.

use super::World;
use quoin_disk::{Dir, OpenMode};

impl World {
    /// Flips a bit of a block on one node's disk. A good copy is always somewhere: each extent rots on one node only.
    pub(crate) fn rot(&mut self) -> bool {
        let Some(volume) = self.managers.volume() else { return false };
        let segment = self.fault_random.index(volume.segments.len());
        let extent = self.fault_random.below(volume.segment_bytes >> 16);
        let replicas = &volume.segments[segment].replicas;
        let victim = &replicas[(segment + extent as usize) % replicas.len()];
        let Some(process) = self.nodes.iter().find(|process| process.id() == victim.node) else {
            return false;
        };
        let dir = process.disk.files();
        let Ok(map) = dir.open(&format!("map.{}", victim.id), OpenMode::Existing) else { return false };
        let mut entry = [0; 96];
        if map.read_at(&mut entry, 4096 + extent * 96).is_err() || entry == [0; 96] {
            return false;
        }
        let Ok(data) = dir.open("data", OpenMode::Existing) else { return false };
        let slot = u64::from_le_bytes(entry[..8].try_into().unwrap_or_default());
        let zeros = u16::from_le_bytes([entry[80], entry[81]]);
        let block = self.fault_random.below(16);
        let is_there = data.len().is_ok_and(|length| slot < length >> 16);
        if !is_there || zeros >> block & 1 == 1 {
            return false;
        }
        let at = (slot << 16) + (block << 12) + self.fault_random.below(4096);
        let mut byte = [0];
        let flipped = data.read_at(&mut byte, at).is_ok()
            && data.write_at(&[byte[0] ^ (1 << self.fault_random.below(8))], at).is_ok();
        flipped && data.sync().is_ok()
    }
}
