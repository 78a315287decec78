//! What a gateway says to a storage node before it writes.

use quoin_types::{Epoch, Generation, InstanceId, ReplicaId, SegmentId, Seq, VolumeId};
use quoin_wire::{EpochStart, Open, Point, Speaker, StartEpoch};

/// Who speaks when the gateway of this number does.
pub(crate) fn gateway(number: u8) -> Speaker {
    Speaker::Gateway(InstanceId([number; 16]))
}

/// The gateway of this number opens a replica of the segment that `assignments.rs` gives it.
pub(crate) fn open(replica: ReplicaId, gateway: u8, epoch: Epoch) -> Open {
    let segment = SegmentId { volume: VolumeId(replica.0), index: 0 };
    let instance = InstanceId([gateway; 16]);
    Open { replica, segment, epoch, generation: Generation(1), instance, void: None }
}

/// The first epoch of a segment starts: nothing was written before it.
pub(crate) fn start(replica: ReplicaId, epoch: Epoch) -> StartEpoch {
    let history = vec![EpochStart { epoch, first: Seq(1) }];
    StartEpoch { replica, epoch, history, expect: Point::default(), allow_mixed: false }
}
