//! A record of the journal: one change, with everything that replaying it needs (E3).
//!
//! Layout: a header of 56 bytes, then the kind's own part (changes of 120 bytes each, or opaque meta bytes padded to
//! 8), then block data. The header's checksum covers header and own part, and begins with the journal's incarnation
//! (E4). Block data is covered by the block checksums within the entries.

use super::entry::{ALL_ZERO, Cell, ENTRY_BYTES, EntryBytes, Layer, MapId};
use super::{BLOCK, Salt, round_up};
use crate::Lsn;
use crate::slots::Slot;
use bytes::Bytes;
use quoin_types::{ExtentIndex, ReplicaId, Seq, SnapshotId, Version};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub(crate) const HEADER_BYTES: usize = 56;
pub(crate) const CHANGE_BYTES: usize = 120;
const HAS_POSITION: u8 = 1;

const CREATE: u8 = 1;
const DROP: u8 = 2;
const META: u8 = 3;
const EXTENTS: u8 = 4;
const ZERO: u8 = 5;
const SNAPSHOT: u8 = 6;
const DELETE: u8 = 7;
const FOLD: u8 = 8;

const NO_SLOT: u64 = u64::MAX;
/// Of a fold: all extents of the layer.
const TO_THE_END: u32 = u32::MAX;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct HeaderBytes {
    checksum: U32,
    /// Header and own part, without block data.
    length: U32,
    data_length: U32,
    kind: u8,
    flags: u8,
    changes: U16,
    lsn: U64,
    replica: U64,
    position: U64,
    /// Create: bytes of the segment. Zero: first extent and, in the upper half, the number of extents. Snapshot, delete:
    /// the layer. Fold: the layer and, in the upper half, the last extent.
    argument: U64,
    /// Create, meta: bytes of meta. Zero: the version. Snapshot: its id.
    second: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ChangeBytes {
    extent: U32,
    /// Whose map: 0 is the live one.
    layer: U32,
    /// The slot that the blocks come from which neither this record nor the zero mask brings; all ones for none.
    copy_from: U64,
    /// Bit set: the record carries this block's data.
    data_mask: U16,
    /// Bit set: this block's data is in the entry's slot, written there outside of the journal.
    placed_mask: U16,
    reserved: [u8; 4],
    entry: EntryBytes,
}

/// Create: the layer that the replica is a clone of; layer 0 for none. Zero: the layer that keeps the extents as in the
/// base; 0 for none.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct LayerBytes {
    replica: U64,
    layer: U32,
    reserved: [u8; 4],
}

const LAYER_BYTES: usize = 16;
const _: () = assert!(size_of::<HeaderBytes>() == HEADER_BYTES);
const _: () = assert!(size_of::<ChangeBytes>() == CHANGE_BYTES && CHANGE_BYTES == ENTRY_BYTES + 24);
const _: () = assert!(size_of::<LayerBytes>() == LAYER_BYTES);

/// One record, whole.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Record {
    pub(crate) lsn: Lsn,
    pub(crate) replica: ReplicaId,
    /// The replica's last seq after this record, where the record changes it.
    pub(crate) position: Option<Seq>,
    pub(crate) body: Body,
}

/// What a record does.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Body {
    /// A replica begins, empty, or as its base is.
    Create {
        segment_bytes: u64,
        base: Option<MapId>,
        meta: Bytes,
    },
    Drop,
    Meta(Bytes),
    Extents {
        changes: Vec<ExtentChange>,
        runs: Vec<Run>,
    },
    /// Extents become zero as a whole. `keep_in`: none of them was written in this replica before, and this layer keeps
    /// that.
    Zero {
        first: ExtentIndex,
        count: u32,
        version: Version,
        keep_in: Option<Layer>,
    },
    /// A new layer keeps what is overwritten from here on.
    Snapshot {
        layer: Layer,
        snapshot: SnapshotId,
    },
    /// The layer is no snapshot any more.
    Delete {
        layer: Layer,
    },
    /// The layer gives up its extents up to this one, to the next older layer if that wants them; `None`: up to the last,
    /// and the layer is gone.
    Fold {
        layer: Layer,
        through: Option<ExtentIndex>,
        changes: Vec<ExtentChange>,
    },
}

/// The whole resulting entry of one extent in one map (E3).
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct ExtentChange {
    pub(crate) extent: ExtentIndex,
    pub(crate) layer: Layer,
    /// The blocks that are neither zero nor brought by this record are copied from here when it is applied. That slot's
    /// content does not change, and is there for as long as this record may be applied again (E2).
    pub(crate) copy_from: Option<Slot>,
    pub(crate) data_mask: u16,
    /// E4: data that was written straight to the slot; the record counts only with it.
    pub(crate) placed_mask: u16,
    pub(crate) cell: Cell,
    pub(crate) encoded: EntryBytes,
}

/// Data of neighbouring blocks of one extent. A record's runs are in the order of its changes, then of the blocks.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Run {
    pub(crate) slot: Slot,
    pub(crate) first_block: u32,
    pub(crate) data: Bytes,
}

/// Blocks of a slot that come from another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Copy {
    pub(crate) from: Slot,
    pub(crate) to: Slot,
    pub(crate) mask: u16,
}

impl ExtentChange {
    /// What is to be copied when this is applied.
    pub(crate) fn copy(&self) -> Option<Copy> {
        let (Some(from), Cell::Entry(entry)) = (self.copy_from, &self.cell) else { return None };
        let mask = !(entry.zero_mask | self.data_mask | self.placed_mask);
        Some(Copy { from, to: entry.slot?, mask })
    }
}

impl Body {
    /// Bytes of the record without its block data.
    pub(crate) fn own_bytes(&self) -> usize {
        HEADER_BYTES
            + match self {
                Body::Create { meta, .. } => LAYER_BYTES + round_up(meta.len(), 8),
                Body::Meta(meta) => round_up(meta.len(), 8),
                Body::Extents { .. } | Body::Fold { .. } => self.changes().len() * CHANGE_BYTES,
                Body::Zero { .. } => LAYER_BYTES,
                Body::Drop | Body::Snapshot { .. } | Body::Delete { .. } => 0,
            }
    }

    /// The entries that it names one by one.
    pub(crate) fn changes(&self) -> &[ExtentChange] {
        match self {
            Body::Extents { changes, .. } | Body::Fold { changes, .. } => changes,
            _ => &[],
        }
    }

    /// The data that it brings through the journal.
    pub(crate) fn runs(&self) -> &[Run] {
        match self {
            Body::Extents { runs, .. } => runs,
            _ => &[],
        }
    }

    /// Bytes of block data.
    pub(crate) fn data_bytes(&self) -> usize {
        self.runs().iter().map(|run| run.data.len()).sum()
    }
}

impl Record {
    /// Appends the record, without its block data, to `buffer`.
    pub(crate) fn encode(&self, salt: Salt, buffer: &mut Vec<u8>) {
        let start = buffer.len();
        let mut header = self.header();
        buffer.extend_from_slice(header.as_bytes());
        match &self.body {
            Body::Create { base, meta, .. } => {
                buffer.extend_from_slice(LayerBytes::of(*base).as_bytes());
                buffer.extend_from_slice(meta);
            }
            Body::Meta(meta) => buffer.extend_from_slice(meta),
            Body::Zero { keep_in, .. } => {
                let keep_in = keep_in.map(|layer| MapId { replica: self.replica, layer });
                buffer.extend_from_slice(LayerBytes::of(keep_in).as_bytes());
            }
            Body::Extents { changes, .. } | Body::Fold { changes, .. } => {
                for change in changes {
                    buffer.extend_from_slice(ChangeBytes::of(change).as_bytes());
                }
            }
            Body::Drop | Body::Snapshot { .. } | Body::Delete { .. } => {}
        }
        buffer.resize(start + self.body.own_bytes(), 0);
        header.checksum = U32::new(salt.checksum(&[&buffer[start + 4..]]));
        buffer[start..start + 4].copy_from_slice(header.checksum.as_bytes());
    }

    fn header(&self) -> HeaderBytes {
        let (kind, argument, second) = match &self.body {
            Body::Create { segment_bytes, meta, .. } => (CREATE, *segment_bytes, meta.len() as u64),
            Body::Drop => (DROP, 0, 0),
            Body::Meta(meta) => (META, 0, meta.len() as u64),
            Body::Extents { .. } => (EXTENTS, 0, 0),
            Body::Zero { first, count, version, .. } => (ZERO, halves(first.0, *count), version.0),
            Body::Snapshot { layer, snapshot } => (SNAPSHOT, halves(layer.0, 0), snapshot.0),
            Body::Delete { layer } => (DELETE, halves(layer.0, 0), 0),
            Body::Fold { layer, through, .. } => {
                (FOLD, halves(layer.0, through.map_or(TO_THE_END, |extent| extent.0)), 0)
            }
        };
        HeaderBytes {
            checksum: U32::new(0),
            length: U32::new(self.body.own_bytes() as u32),
            data_length: U32::new(self.body.data_bytes() as u32),
            kind,
            flags: if self.position.is_some() { HAS_POSITION } else { 0 },
            changes: U16::new(self.body.changes().len() as u16),
            lsn: U64::new(self.lsn.0),
            replica: U64::new(self.replica.0),
            position: U64::new(self.position.unwrap_or(Seq::ZERO).0),
            argument: U64::new(argument),
            second: U64::new(second),
        }
    }

    /// Reads the record at the beginning of `bytes`, which must be `lsn`, and says how long it is. `None` if there is
    /// no such record whole: wrong checksum, wrong incarnation, block data that is not what its entry says (E4).
    pub(crate) fn decode(bytes: &Bytes, lsn: Lsn, salt: Salt, disk: Salt) -> Option<(Record, usize)> {
        let (header, _) = HeaderBytes::ref_from_prefix(bytes).ok()?;
        let own_end = header.length.get() as usize;
        let end = own_end + header.data_length.get() as usize;
        if own_end < HEADER_BYTES || end > bytes.len() || header.lsn.get() != lsn.0 {
            return None;
        }
        if salt.checksum(&[&bytes[4..own_end]]) != header.checksum.get() {
            return None;
        }
        let mut own = bytes.slice(HEADER_BYTES..own_end);
        let data = bytes.slice(own_end..end);
        let replica = ReplicaId(header.replica.get());
        let meta = |own: &Bytes| {
            (header.second.get() <= own.len() as u64).then(|| own.slice(..header.second.get() as usize))
        };
        let (low, high) = (header.argument.get() as u32, (header.argument.get() >> 32) as u32);
        let body = match header.kind {
            CREATE => Body::Create {
                segment_bytes: header.argument.get(),
                base: LayerBytes::read(&mut own)?,
                meta: meta(&own)?,
            },
            DROP => Body::Drop,
            META => Body::Meta(meta(&own)?),
            EXTENTS => {
                let changes = decode_changes(&own, replica, disk)?;
                let runs = decode_runs(&changes, data)?;
                Body::Extents { changes, runs }
            }
            ZERO => Body::Zero {
                first: ExtentIndex(low),
                count: high,
                version: Seq(header.second.get()),
                keep_in: LayerBytes::read(&mut own)?.map(|map| map.layer),
            },
            SNAPSHOT => Body::Snapshot { layer: Layer(low), snapshot: SnapshotId(header.second.get()) },
            DELETE => Body::Delete { layer: Layer(low) },
            FOLD => Body::Fold {
                layer: Layer(low),
                through: Some(high).filter(|last| *last != TO_THE_END).map(ExtentIndex),
                changes: decode_changes(&own, replica, disk)?,
            },
            _ => return None,
        };
        let position = (header.flags & HAS_POSITION != 0).then(|| Seq(header.position.get()));
        Some((Record { lsn, replica, position, body }, end))
    }
}

/// Two numbers in one.
fn halves(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

impl LayerBytes {
    fn of(map: Option<MapId>) -> Self {
        let MapId { replica, layer } = map.unwrap_or(MapId::live(ReplicaId(0)));
        Self { replica: U64::new(replica.0), layer: U32::new(layer.0), reserved: [0; 4] }
    }

    /// Takes one from the beginning; `Some(None)` for one that names no layer.
    fn read(own: &mut Bytes) -> Option<Option<MapId>> {
        if own.len() < LAYER_BYTES {
            return None;
        }
        let bytes = own.split_to(LAYER_BYTES);
        let bytes = Self::ref_from_bytes(&bytes).ok()?;
        let map = MapId { replica: ReplicaId(bytes.replica.get()), layer: Layer(bytes.layer.get()) };
        Some(Some(map).filter(|map| map.layer != Layer::LIVE))
    }
}

impl ChangeBytes {
    fn of(change: &ExtentChange) -> Self {
        Self {
            extent: U32::new(change.extent.0),
            layer: U32::new(change.layer.0),
            copy_from: U64::new(change.copy_from.map_or(NO_SLOT, |slot| slot.0)),
            data_mask: U16::new(change.data_mask),
            placed_mask: U16::new(change.placed_mask),
            reserved: [0; 4],
            entry: change.encoded,
        }
    }
}

fn decode_changes(own: &[u8], replica: ReplicaId, disk: Salt) -> Option<Vec<ExtentChange>> {
    let mut changes = Vec::with_capacity(own.len() / CHANGE_BYTES);
    for bytes in own.chunks(CHANGE_BYTES) {
        let bytes = ChangeBytes::ref_from_bytes(bytes).ok()?;
        let (extent, layer) = (ExtentIndex(bytes.extent.get()), Layer(bytes.layer.get()));
        let cell = Cell::decode(&bytes.entry, disk, MapId { replica, layer }, extent)?;
        let (data_mask, placed_mask) = (bytes.data_mask.get(), bytes.placed_mask.get());
        let copy_from = Some(bytes.copy_from.get()).filter(|slot| *slot != NO_SLOT).map(Slot);
        let zero_mask = match &cell {
            Cell::Entry(entry) => entry.zero_mask,
            Cell::Empty | Cell::AsBase | Cell::Lost => ALL_ZERO,
        };
        if (data_mask | placed_mask) & zero_mask != 0
            || data_mask & placed_mask != 0
            || (copy_from.is_some() && cell.slot().is_none())
        {
            return None;
        }
        let encoded = bytes.entry;
        changes.push(ExtentChange { extent, layer, copy_from, data_mask, placed_mask, cell, encoded });
    }
    Some(changes)
}

fn decode_runs(changes: &[ExtentChange], mut data: Bytes) -> Option<Vec<Run>> {
    let mut runs = Vec::new();
    for change in changes {
        let Cell::Entry(entry) = &change.cell else { continue };
        for block in (0..16).filter(|block| change.data_mask >> block & 1 == 1) {
            if data.len() < BLOCK || crc32fast::hash(&data[..BLOCK]) != entry.checksums[block as usize] {
                return None;
            }
            runs.push(Run { slot: entry.slot?, first_block: block, data: data.split_to(BLOCK) });
        }
    }
    data.is_empty().then_some(runs)
}
