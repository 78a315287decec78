//! A checkpoint: where the journal's live part begins, and the state of every replica there.

use super::entry::{Layer, MapId};
use super::{FORMAT_VERSION, Salt, check_version, round_up};
use crate::pool::PoolChunk;
use crate::{Error, Lsn};
use bytes::Bytes as Buffer;
use quoin_types::{ExtentIndex, ReplicaId, Seq, SnapshotId};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub(crate) const HEADER_BYTES: usize = 96;
const MAGIC: [u8; 8] = *b"QUOINCKP";

/// The name of the file that holds the checkpoint of this number: they take turns.
pub(crate) fn file_name(number: u64) -> &'static str {
    if number.is_multiple_of(2) { "checkpoint.0" } else { "checkpoint.1" }
}

/// Which files make up the journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Geometry {
    pub(crate) first_file: u32,
    pub(crate) files: u32,
    pub(crate) file_bytes: u64,
}

/// A checkpoint's content.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Checkpoint {
    /// Rises with each; the valid file with the higher number counts.
    pub(crate) number: u64,
    /// E3: everything up to here is in data and maps.
    pub(crate) lsn: Lsn,
    /// Where the first record after `lsn` begins, in bytes since the journal's beginning.
    pub(crate) position: u64,
    /// E4: the only incarnation whose records continue it.
    pub(crate) incarnation: u64,
    pub(crate) geometry: Geometry,
    /// In order of their ids.
    pub(crate) replicas: Vec<ReplicaState>,
}

/// A replica as of the checkpoint.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct ReplicaState {
    pub(crate) id: ReplicaId,
    pub(crate) segment_bytes: u64,
    /// The layer that it is a clone of.
    pub(crate) base: Option<MapId>,
    /// It was dropped, and is kept for its clones.
    pub(crate) dropped: bool,
    pub(crate) position: Seq,
    /// The number of the layer made last.
    pub(crate) last_layer: Layer,
    /// From the oldest to the newest.
    pub(crate) layers: Vec<LayerState>,
    /// Which chunks of its map were ever stored to (or more): a restart reads only these.
    pub(crate) chunks: Vec<u64>,
    pub(crate) meta: Buffer,
}

/// A layer as of the checkpoint.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct LayerState {
    pub(crate) layer: Layer,
    pub(crate) snapshot: SnapshotId,
    /// The replica's position when it was made.
    pub(crate) seq: Seq,
    /// It is no snapshot any more, and folded when nothing needs it.
    pub(crate) deleted: bool,
    /// The extents before this one were given up by a fold.
    pub(crate) folded: ExtentIndex,
    /// Chunks of its map, and where in the pool they are (or more: chunks whose entries are all empty).
    pub(crate) chunks: Vec<(u32, PoolChunk)>,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct HeaderBytes {
    magic: [u8; 8],
    version: U32,
    checksum: U32,
    length: U64,
    number: U64,
    lsn: U64,
    position: U64,
    incarnation: U64,
    first_file: U32,
    files: U32,
    file_bytes: U64,
    replicas: U64,
    reserved: [u8; 16],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ReplicaBytes {
    id: U64,
    segment_bytes: U64,
    position: U64,
    base_replica: U64,
    base_layer: U32,
    last_layer: U32,
    layers: U32,
    flags: U32,
    meta_bytes: U32,
    chunk_words: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct LayerBytes {
    layer: U32,
    flags: U32,
    snapshot: U64,
    seq: U64,
    folded: U32,
    chunks: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ChunkBytes {
    chunk: U32,
    place: U32,
}

/// Of a replica: it was dropped. Of a layer: it was deleted.
const GONE: u32 = 1;

const _: () = assert!(size_of::<HeaderBytes>() == HEADER_BYTES);
const _: () = assert!(size_of::<ReplicaBytes>() == 56);
const _: () = assert!(size_of::<LayerBytes>() == 32);
const _: () = assert!(size_of::<ChunkBytes>() == 8);

impl Checkpoint {
    pub(crate) fn encode(&self, salt: Salt) -> Vec<u8> {
        let mut out = vec![0; HEADER_BYTES];
        for replica in &self.replicas {
            encode_replica(replica, &mut out);
            out.resize(round_up(out.len(), 8), 0);
        }
        let mut header = HeaderBytes {
            magic: MAGIC,
            version: U32::new(FORMAT_VERSION),
            checksum: U32::new(0),
            length: U64::new(out.len() as u64),
            number: U64::new(self.number),
            lsn: U64::new(self.lsn.0),
            position: U64::new(self.position),
            incarnation: U64::new(self.incarnation),
            first_file: U32::new(self.geometry.first_file),
            files: U32::new(self.geometry.files),
            file_bytes: U64::new(self.geometry.file_bytes),
            replicas: U64::new(self.replicas.len() as u64),
            reserved: [0; 16],
        };
        out[..HEADER_BYTES].copy_from_slice(header.as_bytes());
        header.checksum = U32::new(salt.checksum(&[&out[..12], &out[16..]]));
        out[..HEADER_BYTES].copy_from_slice(header.as_bytes());
        out
    }

    /// Reads a checkpoint; `Ok(None)` if it is not there whole (torn, or never written).
    pub(crate) fn decode(content: &Buffer, salt: Salt) -> Result<Option<Checkpoint>, Error> {
        let Ok((header, _)) = HeaderBytes::ref_from_prefix(content) else { return Ok(None) };
        let length = header.length.get();
        if header.magic != MAGIC || length < HEADER_BYTES as u64 || length > content.len() as u64 {
            return Ok(None);
        }
        let content = content.slice(..length as usize);
        if salt.checksum(&[&content[..12], &content[16..]]) != header.checksum.get() {
            return Ok(None);
        }
        check_version("checkpoint", header.version.get())?;
        let mut rest = content.slice(HEADER_BYTES..);
        let mut replicas = Vec::new();
        for _ in 0..header.replicas.get() {
            let replica = decode_replica(&mut rest);
            replicas
                .push(replica.ok_or_else(|| Error::corrupt("checkpoint", "its table of replicas is short"))?);
        }
        Ok(Some(Checkpoint {
            number: header.number.get(),
            lsn: Lsn(header.lsn.get()),
            position: header.position.get(),
            incarnation: header.incarnation.get(),
            geometry: Geometry {
                first_file: header.first_file.get(),
                files: header.files.get(),
                file_bytes: header.file_bytes.get(),
            },
            replicas,
        }))
    }
}

fn encode_replica(replica: &ReplicaState, out: &mut Vec<u8>) {
    let base = replica.base.unwrap_or(MapId::live(ReplicaId(0)));
    let header = ReplicaBytes {
        id: U64::new(replica.id.0),
        segment_bytes: U64::new(replica.segment_bytes),
        position: U64::new(replica.position.0),
        base_replica: U64::new(base.replica.0),
        base_layer: U32::new(base.layer.0),
        last_layer: U32::new(replica.last_layer.0),
        layers: U32::new(replica.layers.len() as u32),
        flags: U32::new(if replica.dropped { GONE } else { 0 }),
        meta_bytes: U32::new(replica.meta.len() as u32),
        chunk_words: U32::new(replica.chunks.len() as u32),
    };
    out.extend_from_slice(header.as_bytes());
    for word in &replica.chunks {
        out.extend_from_slice(&word.to_le_bytes());
    }
    for layer in &replica.layers {
        let header = LayerBytes {
            layer: U32::new(layer.layer.0),
            flags: U32::new(if layer.deleted { GONE } else { 0 }),
            snapshot: U64::new(layer.snapshot.0),
            seq: U64::new(layer.seq.0),
            folded: U32::new(layer.folded.0),
            chunks: U32::new(layer.chunks.len() as u32),
        };
        out.extend_from_slice(header.as_bytes());
        for (chunk, place) in &layer.chunks {
            let bytes = ChunkBytes { chunk: U32::new(*chunk), place: U32::new(place.0) };
            out.extend_from_slice(bytes.as_bytes());
        }
    }
    out.extend_from_slice(&replica.meta);
}

/// Takes that many bytes from the beginning.
fn take(rest: &mut Buffer, bytes: usize) -> Option<Buffer> {
    (bytes <= rest.len()).then(|| rest.split_to(bytes))
}

fn decode_replica(rest: &mut Buffer) -> Option<ReplicaState> {
    let header = take(rest, size_of::<ReplicaBytes>())?;
    let header = ReplicaBytes::ref_from_bytes(&header).ok()?;
    let words = take(rest, header.chunk_words.get() as usize * 8)?;
    let words = words.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()));
    let chunks = words.collect();
    let mut layers = Vec::new();
    for _ in 0..header.layers.get() {
        layers.push(decode_layer(rest)?);
    }
    let meta_bytes = header.meta_bytes.get() as usize;
    let mut meta = take(rest, round_up(meta_bytes, 8))?;
    meta.truncate(meta_bytes);
    let base = MapId { replica: ReplicaId(header.base_replica.get()), layer: Layer(header.base_layer.get()) };
    Some(ReplicaState {
        id: ReplicaId(header.id.get()),
        segment_bytes: header.segment_bytes.get(),
        base: Some(base).filter(|base| base.layer != Layer::LIVE),
        dropped: header.flags.get() & GONE != 0,
        position: Seq(header.position.get()),
        last_layer: Layer(header.last_layer.get()),
        layers,
        chunks,
        meta,
    })
}

fn decode_layer(rest: &mut Buffer) -> Option<LayerState> {
    let header = take(rest, size_of::<LayerBytes>())?;
    let header = LayerBytes::ref_from_bytes(&header).ok()?;
    let chunks = take(rest, header.chunks.get() as usize * size_of::<ChunkBytes>())?;
    let chunks = <[ChunkBytes]>::ref_from_bytes(&chunks).ok()?;
    Some(LayerState {
        layer: Layer(header.layer.get()),
        snapshot: SnapshotId(header.snapshot.get()),
        seq: Seq(header.seq.get()),
        deleted: header.flags.get() & GONE != 0,
        folded: ExtentIndex(header.folded.get()),
        chunks: chunks.iter().map(|bytes| (bytes.chunk.get(), PoolChunk(bytes.place.get()))).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use quoin_types::DiskId;

    #[test]
    fn it_comes_back_whole_or_not_at_all() {
        let salt = Salt::of_disk(DiskId([5; 16]));
        let replica = |id: u64, meta: &'static [u8]| ReplicaState {
            id: ReplicaId(id),
            segment_bytes: 1 << 30,
            base: (id > 1).then_some(MapId { replica: ReplicaId(1), layer: Layer(3) }),
            dropped: id == 2,
            position: Seq(id * 10),
            last_layer: Layer(5),
            layers: vec![LayerState {
                layer: Layer(id as u32),
                snapshot: SnapshotId(8),
                seq: Seq(4),
                deleted: id == 9,
                folded: ExtentIndex(77),
                chunks: vec![(1, PoolChunk(2)), (3, PoolChunk(0))],
            }],
            chunks: vec![id, 7],
            meta: Buffer::from_static(meta),
        };
        let checkpoint = Checkpoint {
            number: 3,
            lsn: Lsn(44),
            position: 8192,
            incarnation: 2,
            geometry: Geometry { first_file: 4, files: 4, file_bytes: 65536 },
            replicas: vec![replica(1, b"abc"), replica(2, b""), replica(9, b"12345678")],
        };
        let bytes = checkpoint.encode(salt);
        let mut longer = bytes.clone();
        longer.extend_from_slice(b"the rest of a longer one before");
        assert_eq!(Checkpoint::decode(&longer.into(), salt).unwrap(), Some(checkpoint));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(Checkpoint::decode(&damaged.into(), salt).unwrap(), None);
            assert_eq!(Checkpoint::decode(&bytes[..at].to_vec().into(), salt).unwrap(), None);
        }
    }
}
