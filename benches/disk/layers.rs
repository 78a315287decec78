//! What a thousand snapshots cost, beside the same engine with one, and written in the same way.

use super::{
    GIB, MIB, OUTSTANDING, RANDOM_BYTES, Table, Target, data, in_turns, per_core_second, random_offsets,
};
use crate::rig::{REPLICA, Rig};
use quoin_e2e::clock::now;
use quoin_store::View;
use quoin_types::SnapshotId;
use std::path::Path;

const SNAPSHOTS: u64 = 1000;
/// Random blocks written after each snapshot: each time the first of its extent, so 64 KiB are copied.
const WRITES_EACH: u64 = 8;

/// A disk with data everywhere, in the page cache.
fn filled(path: &Path) -> Rig {
    let mut rig = Rig::new(path, 2 * GIB, 512 * MIB);
    let (checksums, data) = data(256);
    let each_mib = || (0..RANDOM_BYTES).step_by(MIB as usize);
    each_mib().for_each(|offset| {
        rig.write(offset, &checksums, &data);
        rig.submit();
    });
    rig.checkpoint();
    rig
}

/// Random blocks are written, with this many snapshots in between; says how long making one takes, in µs.
fn write_over(rig: &mut Rig, snapshots: u64) -> f64 {
    let (checksums, data) = data(1);
    let mut next = random_offsets();
    let mut making = 0.0;
    for turn in 0..SNAPSHOTS {
        if turn.is_multiple_of(SNAPSHOTS / snapshots) {
            let seq = rig.next_seq();
            let began = now();
            rig.engine.create_snapshot(REPLICA, SnapshotId(turn + 1), seq).expect("a snapshot");
            making += began.elapsed().as_secs_f64();
        }
        (0..WRITES_EACH).for_each(|_| rig.write(next(), &checksums, &data));
        rig.settle();
    }
    rig.checkpoint();
    (0..RANDOM_BYTES).step_by(MIB as usize).for_each(|offset| rig.read(offset, 256));
    1e6 * making / snapshots as f64
}

pub(super) fn layers(path: &Path, table: &mut Table) {
    let (mut plain, mut rig) = (filled(&path.join("one")), filled(&path.join("thousand")));
    write_over(&mut plain, 1);
    let each = write_over(&mut rig, SNAPSHOTS);
    table.add(
        "making one of 1,000 snapshots",
        format!("{each:.1} µs"),
        String::new(),
        each,
        " µs",
        &Target::None,
    );

    let oldest = View::Snapshot(SnapshotId(1));
    for (what, view, target) in [
        ("read under 1,000 snapshots ÷ under one", View::Live, Target::AtLeast(90.0)),
        ("read of the oldest of 1,000 ÷ of the live", oldest, Target::None),
    ] {
        let (mut next, mut next_plain) = (random_offsets(), random_offsets());
        let rate = |rig: &mut Rig, view, next: &mut dyn FnMut() -> u64| {
            per_core_second(|| {
                (0..OUTSTANDING).for_each(|_| rig.read_view(view, next(), 1));
                OUTSTANDING as u64
            })
        };
        rate(&mut rig, view, &mut random_offsets());
        let (ours, without, ratio) =
            in_turns(|| rate(&mut rig, view, &mut next), || rate(&mut plain, View::Live, &mut next_plain));
        let (ours, without) = (format!("{ours:.0}/s"), format!("{without:.0}/s under one"));
        table.add(what, ours, without, 100.0 * ratio, " %", &target);
    }
}
