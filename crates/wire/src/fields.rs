//! Little-endian fields of *meta*: writing cannot fail, reading what a peer said can.

use crate::frame::FrameError;
use crate::message::{EpochStart, LeaseHolder, Point, Refusal, SnapshotPoint, Source};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use quoin_types::limits::SNAPSHOTS_MAX;
use quoin_types::{Epoch, Generation, InstanceId, NodeId, ReplicaId, Seq, SnapshotId, Version};

/// The most entries that any list in meta may have.
const LIST_MAX: usize = 65_536;

/// Stands for the version of an extent whose map entry is damaged. No write ever has this number.
const VERSION_UNKNOWN: Version = Seq(u64::MAX);

pub(crate) struct Fields {
    meta: Bytes,
}

impl Fields {
    pub(crate) fn new(meta: Bytes) -> Self {
        Self { meta }
    }

    pub(crate) fn u8(&mut self) -> Result<u8, FrameError> {
        self.meta.try_get_u8().map_err(|_| FrameError::Short)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, FrameError> {
        self.meta.try_get_u16_le().map_err(|_| FrameError::Short)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FrameError> {
        self.meta.try_get_u32_le().map_err(|_| FrameError::Short)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FrameError> {
        self.meta.try_get_u64_le().map_err(|_| FrameError::Short)
    }

    pub(crate) fn flag(&mut self) -> Result<bool, FrameError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(FrameError::Value("flag")),
        }
    }

    pub(crate) fn id16(&mut self) -> Result<[u8; 16], FrameError> {
        let mut id = [0; 16];
        self.meta.try_copy_to_slice(&mut id).map_err(|_| FrameError::Short)?;
        Ok(id)
    }

    pub(crate) fn replica(&mut self) -> Result<ReplicaId, FrameError> {
        self.u64().map(ReplicaId)
    }

    pub(crate) fn epoch(&mut self) -> Result<Epoch, FrameError> {
        self.u64().map(Epoch)
    }

    pub(crate) fn seq(&mut self) -> Result<Seq, FrameError> {
        self.u64().map(Seq)
    }

    /// A version, or all ones where nobody knows it.
    pub(crate) fn known_version(&mut self) -> Result<Option<Version>, FrameError> {
        Ok(Some(self.seq()?).filter(|version| *version != VERSION_UNKNOWN))
    }

    pub(crate) fn point(&mut self) -> Result<Point, FrameError> {
        Ok(Point { epoch: self.epoch()?, seq: self.seq()? })
    }

    pub(crate) fn holder(&mut self) -> Result<LeaseHolder, FrameError> {
        Ok(LeaseHolder { instance: InstanceId(self.id16()?), epoch: self.epoch()? })
    }

    /// A list whose entries take at least `entry_bytes` each, so that a length can be checked before memory is taken.
    pub(crate) fn list<T>(
        &mut self,
        entry_bytes: usize,
        mut entry: impl FnMut(&mut Self) -> Result<T, FrameError>,
    ) -> Result<Vec<T>, FrameError> {
        let count = self.u32()? as usize;
        if count > LIST_MAX || count.saturating_mul(entry_bytes) > self.meta.remaining() {
            return Err(FrameError::Short);
        }
        (0..count).map(|_| entry(self)).collect()
    }

    pub(crate) fn history(&mut self) -> Result<Vec<EpochStart>, FrameError> {
        let history =
            self.list(16, |fields| Ok(EpochStart { epoch: fields.epoch()?, first: fields.seq()? }))?;
        if history.windows(2).any(|pair| pair[0].epoch >= pair[1].epoch || pair[0].first > pair[1].first) {
            return Err(FrameError::Value("history"));
        }
        Ok(history)
    }

    /// The snapshot whose state is looked at, if it is not the present one.
    pub(crate) fn view(&mut self) -> Result<Option<SnapshotId>, FrameError> {
        if self.flag()? { self.u64().map(|id| Some(SnapshotId(id))) } else { Ok(None) }
    }

    /// A replica's snapshots: seqs rise.
    pub(crate) fn snapshots(&mut self) -> Result<Vec<SnapshotPoint>, FrameError> {
        let snapshots =
            self.list(16, |fields| Ok(SnapshotPoint { id: SnapshotId(fields.u64()?), seq: fields.seq()? }))?;
        if snapshots.len() > SNAPSHOTS_MAX || !snapshots.is_sorted_by(|a, b| a.seq < b.seq) {
            return Err(FrameError::Value("list of snapshots"));
        }
        Ok(snapshots)
    }

    pub(crate) fn text(&mut self) -> Result<String, FrameError> {
        let length = usize::from(self.u16()?);
        if length > self.meta.remaining() {
            return Err(FrameError::Short);
        }
        String::from_utf8(self.meta.split_to(length).into()).map_err(|_| FrameError::Value("text"))
    }

    pub(crate) fn source(&mut self) -> Result<Source, FrameError> {
        Ok(Source { node: NodeId(self.u64()?), replica: self.replica()?, address: self.text()? })
    }

    pub(crate) fn refusal(&mut self) -> Result<Refusal, FrameError> {
        let code = self.u8()?;
        let value = self.u64()?;
        Ok(match code {
            1 => Refusal::HigherEpoch(Epoch(value)),
            2 => Refusal::OtherInstance,
            3 => Refusal::HigherGeneration(Generation(value)),
            4 => Refusal::UnknownReplica,
            5 => Refusal::OtherSegment,
            6 => Refusal::StaleSession,
            7 => Refusal::Gap(Seq(value)),
            8 => Refusal::WrongState,
            9 => Refusal::Behind,
            10 => Refusal::NoSpace,
            11 => Refusal::Disk,
            12 => Refusal::PeerDamaged,
            13 => Refusal::LacksSnapshot,
            _ => return Err(FrameError::Value("refusal")),
        })
    }

    pub(crate) fn result<T>(
        &mut self,
        ok: impl FnOnce(&mut Self) -> Result<T, FrameError>,
    ) -> Result<Result<T, Refusal>, FrameError> {
        if self.flag()? { ok(self).map(Ok) } else { self.refusal().map(Err) }
    }
}

pub(crate) trait PutFields: BufMut {
    fn flag(&mut self, flag: bool) {
        self.put_u8(u8::from(flag));
    }

    fn list<T>(&mut self, entries: &[T], mut entry: impl FnMut(&mut Self, &T)) {
        debug_assert!(entries.len() <= LIST_MAX);
        self.put_u32_le(entries.len() as u32);
        entries.iter().for_each(|value| entry(self, value));
    }

    fn history(&mut self, history: &[EpochStart]) {
        self.list(history, |out, start| {
            out.put_u64_le(start.epoch.0);
            out.put_u64_le(start.first.0);
        });
    }

    fn known_version(&mut self, version: Option<Version>) {
        self.put_u64_le(version.unwrap_or(VERSION_UNKNOWN).0);
    }

    fn view(&mut self, view: Option<SnapshotId>) {
        self.flag(view.is_some());
        if let Some(snapshot) = view {
            self.put_u64_le(snapshot.0);
        }
    }

    fn snapshots(&mut self, snapshots: &[SnapshotPoint]) {
        self.list(snapshots, |out, snapshot| {
            out.put_u64_le(snapshot.id.0);
            out.put_u64_le(snapshot.seq.0);
        });
    }

    fn point(&mut self, point: Point) {
        self.put_u64_le(point.epoch.0);
        self.put_u64_le(point.seq.0);
    }

    fn holder(&mut self, holder: LeaseHolder) {
        self.put_slice(holder.instance.as_bytes());
        self.put_u64_le(holder.epoch.0);
    }

    fn text(&mut self, text: &str) {
        debug_assert!(text.len() <= usize::from(u16::MAX));
        self.put_u16_le(text.len() as u16);
        self.put_slice(text.as_bytes());
    }

    fn source(&mut self, source: &Source) {
        self.put_u64_le(source.node.0);
        self.put_u64_le(source.replica.0);
        self.text(&source.address);
    }

    fn refusal(&mut self, refusal: Refusal) {
        let (code, value) = match refusal {
            Refusal::HigherEpoch(epoch) => (1, epoch.0),
            Refusal::OtherInstance => (2, 0),
            Refusal::HigherGeneration(generation) => (3, generation.0),
            Refusal::UnknownReplica => (4, 0),
            Refusal::OtherSegment => (5, 0),
            Refusal::StaleSession => (6, 0),
            Refusal::Gap(seq) => (7, seq.0),
            Refusal::WrongState => (8, 0),
            Refusal::Behind => (9, 0),
            Refusal::NoSpace => (10, 0),
            Refusal::Disk => (11, 0),
            Refusal::PeerDamaged => (12, 0),
            Refusal::LacksSnapshot => (13, 0),
        };
        self.put_u8(code);
        self.put_u64_le(value);
    }

    fn result<T>(&mut self, result: &Result<T, Refusal>, ok: impl FnOnce(&mut Self, &T)) {
        self.flag(result.is_ok());
        match result {
            Ok(value) => ok(self, value),
            Err(refusal) => self.refusal(*refusal),
        }
    }
}

impl PutFields for BytesMut {}
