//! A toy replica store: an image of the segment, and a journal whose records are first appended, then accepted (they
//! survive the process), then durable (they survive power).

use bytes::Bytes;
use quoin_replication::replica::{Persist, PulledExtent, ReplicaMeta};
use quoin_types::{BLOCK_BYTES, BLOCKS_PER_EXTENT, Epoch, ExtentIndex, Seq, SnapshotId};
use quoin_wire::{FetchedExtent, SnapshotPoint, block_checksum};
use std::collections::{BTreeMap, VecDeque};

/// Marks the value of a block that was zeroed; the rest is a tag that tells which operation did it, so that the checker
/// can tell zeroes apart. Real stores have one kind of zero; here it travels as a tag beside the data.
const ZEROED: u64 = 1 << 63;
const TAG_SEQ_BITS: u32 = 22;

pub(crate) fn zero_value(epoch: Epoch, seq: Seq) -> u64 {
    assert!(epoch.0 < 1 << (32 - TAG_SEQ_BITS) && seq.0 < 1 << TAG_SEQ_BITS, "the tag is too small");
    ZEROED | epoch.0 << TAG_SEQ_BITS | seq.0
}

pub(crate) fn block_bytes(value: u64) -> [u8; BLOCK_BYTES as usize] {
    let mut block = [0; BLOCK_BYTES as usize];
    block[..8].copy_from_slice(&value.to_le_bytes());
    block
}

pub(crate) fn block_value(block: &[u8]) -> u64 {
    u64::from_le_bytes(block[..8].try_into().expect("eight bytes"))
}

/// Blocks and versions that are not zero.
type Comparable = (Vec<(u32, u64)>, Vec<(u32, Seq)>);

/// The blocks of a replica, now or at a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Content {
    blocks: BTreeMap<u32, u64>,
    versions: BTreeMap<u32, Seq>,
}

/// What is on the disk, once the journal is applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Image {
    pub(crate) content: Content,
    /// A snapshot is a copy: what it is meant to be, whatever a real store does.
    pub(crate) snapshots: BTreeMap<Seq, (SnapshotId, Content)>,
    pub(crate) meta: ReplicaMeta,
    pub(crate) position: Seq,
}

#[derive(Clone, Debug)]
pub(crate) enum Record {
    Operation { seq: Seq, first: u32, values: Vec<u64> },
    Meta(Persist),
    Pulled(PulledExtent),
    Snapshot(SnapshotPoint),
    DeleteSnapshot(SnapshotId),
}

impl Image {
    fn apply(&mut self, record: &Record) {
        match record {
            Record::Operation { seq, first, values } => {
                for (block, value) in (*first..).zip(values) {
                    self.content.blocks.insert(block, *value);
                    self.content.versions.insert(block / BLOCKS_PER_EXTENT, *seq);
                }
                self.position = *seq;
            }
            Record::Snapshot(SnapshotPoint { id, seq }) => {
                assert!(self.snapshots.values().all(|(other, _)| other != id), "snapshot {id} is made twice");
                assert!(self.snapshots.keys().all(|other| other < seq), "snapshot {id} is made too late");
                self.snapshots.insert(*seq, (*id, self.content.clone()));
                self.position = *seq;
            }
            Record::DeleteSnapshot(id) => self.snapshots.retain(|_, (other, _)| other != id),
            Record::Meta(persist) => {
                self.meta = persist.meta.clone();
                self.position = persist.position.unwrap_or(self.position);
            }
            Record::Pulled(pulled) => self.content.apply_pulled(pulled),
        }
    }

    /// What a view sees, if the snapshot is there.
    pub(crate) fn view(&self, snapshot: Option<SnapshotId>) -> Option<&Content> {
        match snapshot {
            None => Some(&self.content),
            Some(id) => self.snapshots.values().find(|(other, _)| *other == id).map(|(_, content)| content),
        }
    }

    pub(crate) fn snapshot_points(&self) -> Vec<SnapshotPoint> {
        self.snapshots.iter().map(|(seq, (id, _))| SnapshotPoint { id: *id, seq: *seq }).collect()
    }

    /// Everything that must be the same on all replicas in the end.
    pub(crate) fn comparable(&self) -> impl PartialEq + std::fmt::Debug {
        let snapshots: Vec<_> =
            self.snapshots.iter().map(|(seq, (id, content))| (*seq, *id, content.comparable())).collect();
        let Image { meta, position, content, .. } = self;
        (content.comparable(), snapshots, meta.history.clone(), meta.mixed, meta.shaken, *position)
    }
}

impl Content {
    /// The extents with a version above this.
    pub(crate) fn changed_since(&self, since: Seq) -> impl Iterator<Item = ExtentIndex> {
        self.versions.iter().filter(move |(_, version)| **version > since).map(|(e, _)| ExtentIndex(*e))
    }

    fn apply_pulled(&mut self, pulled: &PulledExtent) {
        let mut data = pulled.data.chunks_exact(BLOCK_BYTES as usize);
        for block in 0..BLOCKS_PER_EXTENT {
            let bit = 1_u16 << block;
            let value = if pulled.zero_mask & bit != 0 {
                let tag = u64::from(pulled.checksums[block as usize]);
                if tag == 0 { 0 } else { ZEROED | tag }
            } else {
                block_value(data.next().expect("the wire checks the amount of data"))
            };
            if pulled.keep_blocks & bit == 0 {
                self.blocks.insert(pulled.extent.0 * BLOCKS_PER_EXTENT + block, value);
            }
        }
        let kept = if pulled.keep_blocks == 0 { Seq::ZERO } else { self.version(pulled.extent.0) };
        self.versions.insert(pulled.extent.0, kept.max(pulled.version));
    }

    fn version(&self, extent: u32) -> Seq {
        self.versions.get(&extent).copied().unwrap_or_default()
    }

    pub(crate) fn value(&self, block: u32) -> u64 {
        self.blocks.get(&block).copied().unwrap_or_default()
    }

    pub(crate) fn fetch(&self, extent: u32, position: Seq) -> FetchedExtent {
        let mut fetched = FetchedExtent {
            position,
            version: self.version(extent),
            zero_mask: 0,
            checksums: [0; 16],
            data: Bytes::new(),
        };
        let mut data = Vec::new();
        for block in 0..BLOCKS_PER_EXTENT {
            let value = self.value(extent * BLOCKS_PER_EXTENT + block);
            if value == 0 || value & ZEROED != 0 {
                fetched.zero_mask |= 1 << block;
                fetched.checksums[block as usize] = (value & u64::from(u32::MAX)) as u32;
            } else {
                let bytes = block_bytes(value);
                fetched.checksums[block as usize] = block_checksum(&bytes);
                data.extend_from_slice(&bytes);
            }
        }
        fetched.data = data.into();
        fetched
    }

    /// Blocks never written and zero are the same.
    fn comparable(&self) -> Comparable {
        let blocks: Vec<_> =
            self.blocks.iter().filter(|(_, value)| **value != 0).map(|(b, v)| (*b, *v)).collect();
        let versions: Vec<_> = self
            .versions
            .iter()
            .filter(|(_, version)| **version != Seq::ZERO)
            .map(|(e, v)| (*e, *v))
            .collect();
        (blocks, versions)
    }
}

/// The journal and the images at its two ends. Indices count records from the beginning of time.
pub(crate) struct Store {
    durable_image: Image,
    pub(crate) live: Image,
    journal: VecDeque<Record>,
    start: u64,
    pub(crate) accepted: u64,
}

impl Store {
    pub(crate) fn new(meta: ReplicaMeta) -> Self {
        let image =
            Image { content: Content::default(), snapshots: BTreeMap::new(), meta, position: Seq::ZERO };
        Self { durable_image: image.clone(), live: image, journal: VecDeque::new(), start: 0, accepted: 0 }
    }

    pub(crate) fn append(&mut self, record: Record) -> u64 {
        self.live.apply(&record);
        self.journal.push_back(record);
        self.end()
    }

    pub(crate) fn end(&self) -> u64 {
        self.start + self.journal.len() as u64
    }

    pub(crate) fn durable(&self) -> u64 {
        self.start
    }

    /// Everything before `index` is durable; gives the position there.
    pub(crate) fn make_durable(&mut self, index: u64) -> Seq {
        while self.start < index {
            let record = self.journal.pop_front().expect("only what was appended is made durable");
            self.durable_image.apply(&record);
            self.start += 1;
        }
        self.accepted = self.accepted.max(index);
        self.durable_image.position
    }

    /// The position at the accepted mark.
    pub(crate) fn accepted_position(&self) -> Seq {
        let accepted = self.journal.iter().take((self.accepted - self.start) as usize);
        let of = |record: &Record| match record {
            Record::Operation { seq, .. } => Some(*seq),
            Record::Snapshot(snapshot) => Some(snapshot.seq),
            Record::Meta(persist) => persist.position,
            Record::Pulled(_) | Record::DeleteSnapshot(_) => None,
        };
        accepted.rev().find_map(of).unwrap_or(self.durable_image.position)
    }

    /// The process or the machine is gone: only a prefix that ends at `kept` is left. Recovery makes it durable.
    pub(crate) fn lose_after(&mut self, kept: u64) {
        let kept = kept.clamp(self.start, self.accepted);
        self.make_durable(kept);
        self.journal.clear();
        self.accepted = kept;
        self.live = self.durable_image.clone();
    }
}
