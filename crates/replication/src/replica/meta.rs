//! The durable protocol state of a replica, and its bytes.
//!
//! The disk engine keeps these bytes without looking into them. Fields are only ever added at the end.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quoin_types::{Epoch, Generation, InstanceId, SegmentId, Seq, VolumeId};
use quoin_wire::{EpochStart, LeaseHolder, Point};

/// The version of the layout below.
const FORMAT: u16 = 1;

/// What a replica must remember through any crash.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReplicaMeta {
    /// The segment that it holds.
    pub segment: SegmentId,
    /// The highest generation it was told.
    pub generation: Generation,
    /// The highest epoch it promised, with the process it belongs to (rule W4). Epoch zero: none yet.
    pub promise: LeaseHolder,
    /// The epochs in its state.
    pub history: Vec<EpochStart>,
    /// While a resync has changed it: the common point (rule A3).
    pub mixed: Option<Point>,
    /// While mixed: what rounds without the live stream have brought, under the promised epoch (rule S4).
    pub pulled_through: Option<Seq>,
    /// It may have lost accepted writes to a loss of power (rule A2).
    pub shaken: bool,
}

/// The bytes are no state of a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MetaError {
    /// Written by a later version.
    #[error("the replica's state has format {0}, this version knows {FORMAT}")]
    Format(u16),
    /// Ends early, or holds impossible values.
    #[error("the replica's state is damaged")]
    Damaged,
}

impl ReplicaMeta {
    /// The state of a replica that was just placed.
    pub fn new(segment: SegmentId, generation: Generation) -> Self {
        Self { segment, generation, ..Self::default() }
    }

    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(96 + 16 * self.history.len());
        out.put_u16_le(FORMAT);
        out.put_u64_le(self.segment.volume.0);
        out.put_u32_le(self.segment.index);
        out.put_u64_le(self.generation.0);
        out.put_slice(self.promise.instance.as_bytes());
        out.put_u64_le(self.promise.epoch.0);
        out.put_u8(u8::from(self.shaken));
        let mixed = self.mixed.unwrap_or_default();
        out.put_u8(u8::from(self.mixed.is_some()));
        out.put_u64_le(mixed.epoch.0);
        out.put_u64_le(mixed.seq.0);
        out.put_u8(u8::from(self.pulled_through.is_some()));
        out.put_u64_le(self.pulled_through.unwrap_or_default().0);
        out.put_u32_le(self.history.len() as u32);
        for start in &self.history {
            out.put_u64_le(start.epoch.0);
            out.put_u64_le(start.first.0);
        }
        out.freeze()
    }

    /// Reads the bytes.
    ///
    /// # Errors
    /// [`MetaError`].
    pub fn decode(mut bytes: &[u8]) -> Result<Self, MetaError> {
        match bytes.try_get_u16_le() {
            Ok(FORMAT) => {}
            Ok(other) => return Err(MetaError::Format(other)),
            Err(_) => return Err(MetaError::Damaged),
        }
        Self::fields(bytes).ok_or(MetaError::Damaged)
    }

    fn fields(mut bytes: &[u8]) -> Option<Self> {
        let input = &mut bytes;
        let segment =
            SegmentId { volume: VolumeId(input.try_get_u64_le().ok()?), index: input.try_get_u32_le().ok()? };
        let generation = Generation(input.try_get_u64_le().ok()?);
        let mut instance = [0; 16];
        input.try_copy_to_slice(&mut instance).ok()?;
        let promise =
            LeaseHolder { instance: InstanceId(instance), epoch: Epoch(input.try_get_u64_le().ok()?) };
        let shaken = input.try_get_u8().ok()? != 0;
        let is_mixed = input.try_get_u8().ok()? != 0;
        let point =
            Point { epoch: Epoch(input.try_get_u64_le().ok()?), seq: Seq(input.try_get_u64_le().ok()?) };
        let has_pulled = input.try_get_u8().ok()? != 0;
        let pulled = Seq(input.try_get_u64_le().ok()?);
        let count = input.try_get_u32_le().ok()? as usize;
        if input.remaining() < count.checked_mul(16)? {
            return None;
        }
        let history = (0..count)
            .map(|_| EpochStart { epoch: Epoch(input.get_u64_le()), first: Seq(input.get_u64_le()) })
            .collect();
        Some(Self {
            segment,
            generation,
            promise,
            history,
            mixed: is_mixed.then_some(point),
            pulled_through: has_pulled.then_some(pulled),
            shaken,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_and_back(
            numbers in any::<[u64; 7]>(), index in any::<u32>(), instance in any::<[u8; 16]>(),
            flags in any::<[bool; 3]>(), starts in proptest::collection::vec(any::<(u64, u64)>(), 0..9),
        ) {
            let meta = ReplicaMeta {
                segment: SegmentId { volume: VolumeId(numbers[0]), index },
                generation: Generation(numbers[1]),
                promise: LeaseHolder { instance: InstanceId(instance), epoch: Epoch(numbers[2]) },
                history: starts.iter().map(|(e, s)| EpochStart { epoch: Epoch(*e), first: Seq(*s) }).collect(),
                mixed: flags[0].then_some(Point { epoch: Epoch(numbers[3]), seq: Seq(numbers[4]) }),
                pulled_through: flags[1].then_some(Seq(numbers[5])),
                shaken: flags[2],
            };
            let bytes = meta.encode();
            prop_assert_eq!(ReplicaMeta::decode(&bytes), Ok(meta));
            for cut in 0..bytes.len() {
                prop_assert!(ReplicaMeta::decode(&bytes[..cut]).is_err());
            }
        }
    }
}
