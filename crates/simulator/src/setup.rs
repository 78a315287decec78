//! What a run is made of: drawn from the seed, within what the scenario allows.

use crate::faults::Kind;
use crate::queue::{MICROSECOND, MILLISECOND, Nanos, SECOND};
use crate::random::Random;
use crate::scenario::Scenario;
use quoin_replication::Timing;
use quoin_types::{Durability, EXTENT_BYTES};
use std::time::Duration;

/// The cluster, the load and the faults of one run.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) nodes: usize,
    pub(crate) gateways: usize,
    /// Gateways are on the machines of storage nodes.
    pub(crate) local_gateways: bool,
    pub(crate) replicas: usize,
    /// The policy of rule C3; 0 for none.
    pub(crate) min_replicas: u32,
    pub(crate) segments: u32,
    pub(crate) segment_bytes: u64,
    pub(crate) durability: Durability,
    pub(crate) timing: Timing,
    pub(crate) retained_bytes_max: usize,
    pub(crate) capacity_bytes: u64,
    /// Less than the clients want.
    pub(crate) fills: bool,
    /// One storage node is in trouble, and all others are well.
    pub(crate) troubles_one: bool,
    pub(crate) resync_bytes_per_second: Option<u64>,
    pub(crate) scrub_bytes_per_second: Option<u64>,
    /// Of a message between machines, at least and at most.
    pub(crate) delay: (Nanos, Nanos),
    /// Of a sync, at least.
    pub(crate) disk_latency: Nanos,
    pub(crate) uncached_permille: u64,
    pub(crate) clients: usize,
    pub(crate) depth: usize,
    pub(crate) hot_blocks: u64,
    /// Between a client's requests, on average.
    pub(crate) request_gap: Nanos,
    /// How long a client waits for an answer before it goes elsewhere.
    pub(crate) patience: Nanos,
    /// Faults last until so many requests were made.
    pub(crate) operations: u64,
    /// Between faults, on average.
    pub(crate) fault_gap: Nanos,
    /// How long a fault lasts, on average.
    pub(crate) fault_time: Nanos,
    /// The kinds of faults, as often as they are likely.
    pub(crate) faults: Vec<Kind>,
}

/// Everything shorter than in life, so that leases end, nodes are given up and attachments become lossy within a run.
fn timing(random: &mut Random) -> Timing {
    let default = Timing::default();
    let faster = random.pick(&[1, 4, 10]);
    Timing {
        lease: default.lease / faster,
        heartbeat: default.heartbeat / faster,
        late_answers: default.late_answers / faster,
        lossy_after: Duration::from_secs(random.pick(&[2, 4])),
        unanswered_max: default.unanswered_max / faster.min(4),
        hedge_min: default.hedge_min,
        hedge_max: default.hedge_max,
        retry: default.retry / faster,
    }
}

impl Setup {
    /// Draws a run.
    pub(crate) fn draw(scenario: &Scenario, seed: u64) -> Self {
        let random = &mut Random::split(seed, 1);
        let replicas = random.pick(&scenario.replicas);
        let nodes = replicas.max(2) + random.index(2) + scenario.spares();
        let segments = random.pick(&[1, 1, 2, 3]);
        let gateways = 2 + random.index(2);
        let setup = Self {
            nodes,
            gateways: if scenario.has_one_gateway() { 1 } else { gateways },
            local_gateways: random.permille(300) && !scenario.troubles_one(),
            replicas,
            min_replicas: match replicas {
                2 if scenario.may_shrink() => 1,
                2 => random.pick(&[0, 1]),
                _ => 0,
            },
            segments,
            segment_bytes: EXTENT_BYTES * random.pick(&[2, 4, 8]),
            durability: if random.permille(300) { Durability::WriteThrough } else { Durability::Flush },
            timing: timing(random),
            retained_bytes_max: random.pick(&[64 << 10, 256 << 10, 4 << 20]),
            capacity_bytes: if scenario.has_snapshots() {
                128 << 20
            } else {
                random.pick(&[64 << 20, 64 << 20, 8 << 20])
            },
            resync_bytes_per_second: random.pick(&[None, Some(4 << 20)]),
            scrub_bytes_per_second: if scenario.has_rot() {
                Some(8 << 20)
            } else {
                random.pick(&[None, Some(1 << 20)])
            },
            delay: random.pick(&[
                (20 * MICROSECOND, 60 * MICROSECOND),
                (50 * MICROSECOND, 500 * MICROSECOND),
                (100 * MICROSECOND, 5 * MILLISECOND),
            ]),
            disk_latency: random.pick(&[20, 100, 400, 2_000]) * MICROSECOND,
            uncached_permille: random.pick(&[0, 100, 500]),
            clients: random.between(1, 4) as usize,
            depth: random.between(1, 6) as usize,
            hot_blocks: random.pick(&[6, 16, 40]),
            request_gap: random.pick(&[1, 3, 8]) * MILLISECOND * scenario.slowness(),
            patience: random.pick(&[SECOND, 4 * SECOND]),
            operations: random.between(500, 800),
            fault_gap: random.pick(&[20, 60, 150]) * MILLISECOND,
            fault_time: random.pick(&[10, 60, 300]) * MILLISECOND,
            faults: scenario.draw_faults(random),
            fills: false,
            troubles_one: scenario.troubles_one(),
        };
        let setup = if scenario.fills() { setup.filled(random) } else { setup };
        scenario.bounds.apply(setup, random)
    }

    /// The same with disks that hold from a half to seven eighths of what the clients want to write.
    fn filled(self, random: &mut Random) -> Self {
        let (segments, extents) = (random.pick(&[1, 1, 2]), random.pick(&[48, 64]));
        let wanted = u64::from(segments) * extents * EXTENT_BYTES;
        Self {
            segments,
            segment_bytes: extents * EXTENT_BYTES,
            capacity_bytes: wanted / 8 * random.between(5, 7),
            fills: true,
            ..self
        }
    }
}
