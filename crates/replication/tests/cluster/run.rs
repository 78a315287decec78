//! One run: a random set-up, faults, healing, and the checks.

use crate::gateway::BLOCKS;
use crate::rng::Rng;
use crate::world::{MILLISECOND, Setup, World};
use quoin_replication::writer::VoterHealth;
use quoin_types::Durability;
use std::collections::BTreeSet;

fn random_setup(rng: &mut Rng) -> Setup {
    Setup {
        voters: rng.pick(&[1, 2, 3, 3, 3, 3, 3, 5]),
        spares: rng.pick(&[0, 1, 3]),
        durability: if rng.permille(250) { Durability::WriteThrough } else { Durability::Flush },
        retained_bytes_max: rng.pick(&[9_000, 40_000, 200_000, 10_000_000]),
        delay_max: rng.pick(&[100_000, 500_000, 3_000_000]),
        peer_delay_max: rng.pick(&[100_000, 2_000_000, 10_000_000]),
        fault_gap: rng.pick(&[4, 12, 12, 40]) * MILLISECOND,
        chaos: rng.pick(&[300, 600, 1_200]) * MILLISECOND,
        request_gap: rng.pick(&[300_000, 1_000_000, 3_000_000]),
        snapshots: rng.pick(&[0, 5, 20, 60]),
    }
}

/// Runs a seed.
pub(crate) fn run(seed: u64) -> Result<(), String> {
    run_world(seed).map(|_| ())
}

/// Something that differs when anything in a run differs.
pub(crate) fn fingerprint(seed: u64) -> (u64, usize, String) {
    let world = run_world(seed).expect("a good seed");
    (world.now, world.checker.writes.len(), format!("{:?}", world.nodes[0].store.live))
}

fn run_world(seed: u64) -> Result<World, String> {
    let mut rng = Rng::new(!seed);
    let setup = random_setup(&mut rng);
    let faults = random_faults(&mut rng);
    let end = setup.chaos;
    let mut world = World::new(setup, seed);
    while world.now < end && world.problem.is_none() {
        let gap = world.rng.below(2 * world.setup.fault_gap);
        world.run_until(world.now + gap);
        fault(&mut world, &faults);
    }
    finish(&mut world)?;
    if std::env::var_os("QUOIN_TRACE").is_some() {
        eprintln!("seed {seed}: {}", summary(&world));
    }
    Ok(world)
}

/// What a run exercised.
fn summary(world: &World) -> String {
    let acked = world.checker.writes.values().filter(|write| write.acked.is_some()).count();
    let statistics = world.gateways.iter().map(|gateway| gateway.segment.statistics());
    let (resends, resyncs) = statistics.fold((0, 0), |(a, b), s| (a + s.resends, b + s.resyncs));
    let (writes, attached) = (world.checker.writes.len(), world.gateways.len());
    let (reads, lossy) = (world.checker.reads(), world.checker.lossy.len());
    let (snapshots, kept) = (world.checker.snapshots.len(), world.nodes[0].store.live.snapshots.len());
    format!(
        "{:?}: {acked} of {writes} writes, {reads} blocks read, {attached} attached, {lossy} lossy, {resends} resends, \
         {resyncs} resyncs, {snapshots} snapshots durable, {kept} kept",
        world.setup
    )
}

/// The kinds of faults, each on or off in a run, so that some runs are full of one kind and others lack it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    BreakSession,
    CutGateway,
    CutNodes,
    StopNode,
    PowerLoss,
    PauseNode,
    FullDisk,
    StopAll,
    PowerLossOfAll,
    PauseGateway,
    HungGateway,
    StopGateway,
    TakeOver,
    SplitTakeOver,
    ChangeConfiguration,
}

const FAULTS: [(Fault, u64); 15] = [
    (Fault::BreakSession, 12),
    (Fault::CutGateway, 13),
    (Fault::CutNodes, 8),
    (Fault::StopNode, 12),
    (Fault::PowerLoss, 10),
    (Fault::PauseNode, 10),
    (Fault::FullDisk, 3),
    (Fault::StopAll, 2),
    (Fault::PowerLossOfAll, 1),
    (Fault::PauseGateway, 4),
    (Fault::HungGateway, 4),
    (Fault::StopGateway, 4),
    (Fault::TakeOver, 2),
    (Fault::SplitTakeOver, 4),
    (Fault::ChangeConfiguration, 6),
];

/// A seed's choice of faults, as a list to pick from.
fn random_faults(rng: &mut Rng) -> Vec<Fault> {
    let mut faults = vec![Fault::BreakSession];
    for (fault, weight) in FAULTS {
        let weight = rng.pick(&[0, weight, weight, 3 * weight]);
        faults.extend((0..weight).map(|_| fault));
    }
    faults
}

fn fault(world: &mut World, faults: &[Fault]) {
    let node = world.rng.below(world.nodes.len() as u64) as usize;
    let other = world.rng.below(world.nodes.len() as u64) as usize;
    let gateway = world.current();
    let some_time = world.rng.between(1, 80) * MILLISECOND;
    match world.rng.pick(faults) {
        Fault::BreakSession => world.cut_gateway(gateway, node, 0),
        Fault::CutGateway => world.cut_gateway(gateway, node, some_time),
        Fault::CutNodes => world.cut_nodes(node, other, some_time),
        Fault::StopNode => world.stop_node(node, false, some_time),
        Fault::PowerLoss => world.stop_node(node, true, some_time),
        Fault::PauseNode => world.pause_node(node, some_time),
        Fault::FullDisk => world.fill(node, some_time),
        Fault::StopAll => all_nodes(world, false),
        Fault::PowerLossOfAll => all_nodes(world, true),
        Fault::PauseGateway => world.pause_gateway(gateway, some_time),
        Fault::ChangeConfiguration => world.begin_change(),
        _ if world.attach_pending => {}
        Fault::HungGateway => {
            // Another takes over while it hangs; it wakes up later.
            let pause = world.rng.between(20, 300) * MILLISECOND;
            world.pause_gateway(gateway, pause);
            world.attach_later(some_time / 4, false);
        }
        Fault::StopGateway => {
            world.stop_gateway(gateway);
            let proven = world.rng.permille(500);
            world.attach_later(some_time / 2, proven);
        }
        Fault::TakeOver => world.attach_later(some_time / 4, false),
        Fault::SplitTakeOver => split_take_over(world, node),
    }
}

/// The old gateway is left with one node, and the new one is given the others: what the old one goes on to serve is
/// bounded by its leases only (rule R2). Some of the others restart, and must not have forgotten.
fn split_take_over(world: &mut World, node: usize) {
    let (old, new) = (world.current(), world.current() + 1);
    let time = world.rng.between(50, 300) * MILLISECOND;
    let restart = world.rng.permille(500);
    for other in 0..world.nodes.len() {
        if other == node {
            world.cut_gateway(new, other, time);
        } else {
            world.cut_gateway(old, other, time);
            world.cut_nodes(node, other, time);
            if restart {
                world.stop_node(other, false, MILLISECOND);
            }
        }
    }
    world.attach_later(MILLISECOND, false);
}

fn all_nodes(world: &mut World, power_lost: bool) {
    for node in 0..world.nodes.len() {
        let downtime = world.rng.between(1, 50) * MILLISECOND;
        world.stop_node(node, power_lost, downtime);
    }
}

/// Heals everything, waits for quiet, and checks.
pub(crate) fn finish(world: &mut World) -> Result<(), String> {
    world.heal();
    if !world.gateways[world.current()].up && !world.attach_pending {
        world.attach_later(0, false);
    }
    world.run_until(world.now + 200 * MILLISECOND);
    world.clients_active = false;
    await_quiet(world, "after healing")?;
    let gateway = world.current();
    read_everything(world, gateway);
    await_quiet(world, "after the last reads")?;
    // A voter that hangs is in sync for as long as it is waited for.
    world.run_until(world.now + 150 * MILLISECOND);
    await_quiet(world, "in the end")?;
    world.run_until(world.now + 20 * MILLISECOND);
    problem(world)?;
    (0..world.nodes.len()).for_each(|node| world.tell_unwanted(node));
    compare(world)?;
    check_snapshots(world)?;
    let durable = world.checker.check()?;
    check_histories(world, &durable)
}

fn problem(world: &World) -> Result<(), String> {
    world.problem.clone().map_or(Ok(()), Err)
}

fn read_everything(world: &mut World, gateway: usize) {
    let real = world.now;
    let now = world.gateway_clock(gateway);
    world.gateways[gateway].flush(real, now);
    for block in BLOCKS {
        world.gateways[gateway].read(block, 1, real, now);
    }
    world.after_gateway(gateway);
}

/// Every voter is in sync and every request answered, within bounded time.
fn await_quiet(world: &mut World, when: &str) -> Result<(), String> {
    let end = world.now + 5_000 * MILLISECOND;
    while world.now < end {
        world.run_until(world.now + 10 * MILLISECOND);
        problem(world)?;
        let gateway = &world.gateways[world.current()];
        let in_sync = gateway.segment.status().iter().all(|voter| voter.health == VoterHealth::InSync);
        let changing = world.configuration.is_changing();
        if in_sync && !changing && gateway.outstanding() == 0 && !gateway.segment.is_busy() {
            return Ok(());
        }
    }
    let gateway = &world.gateways[world.current()];
    Err(format!(
        "no quiet {when}: {} requests open, {:?}, {:?}",
        gateway.outstanding(),
        gateway.segment.status(),
        gateway.segment
    ))
}

/// All replicas are the same, bit for bit.
fn compare(world: &World) -> Result<(), String> {
    let mut members = world.members();
    let first = members.next().expect("a member");
    let (index, first) = (first.index, first.store.live.comparable());
    for node in members {
        let other = node.store.live.comparable();
        if first != other {
            return Err(format!("replicas {index} and {} differ:\n{first:?}\n{other:?}", node.index));
        }
    }
    Ok(())
}

/// Each snapshot that was durable on a majority, and not deleted, is there, and is what the history says of its seq. That
/// all replicas have the same is checked before.
fn check_snapshots(world: &World) -> Result<(), String> {
    let (history, _) = world.last_history();
    let kept = &world.members().next().expect("a member").store.live.snapshots;
    for (id, (epoch, seq)) in &world.checker.snapshots {
        if world.unwanted.contains(id) {
            continue;
        }
        let Some((_, content)) = kept.get(seq).filter(|(other, _)| other == id) else {
            return Err(format!("snapshot {id}, write {seq} of epoch {epoch}, is lost: {:?}", kept.keys()));
        };
        let expected = world.checker.state_at(*seq, history);
        for block in BLOCKS {
            let value = content.value(block);
            let number = world.zero_numbers.get(&value).copied().unwrap_or(value);
            let known = expected.get(&block).copied().unwrap_or_default();
            if number != known && !world.mixed_start {
                return Err(format!("block {block} of snapshot {id} at {seq} is {number}, and was {known}"));
            }
        }
    }
    Ok(())
}

/// Every acknowledged write is in the history that all replicas share (W1, A2): at most one epoch acknowledges.
fn check_histories(world: &World, durable: &BTreeSet<u64>) -> Result<(), String> {
    let (history, last) = world.last_history();
    for (number, write) in &world.checker.writes {
        let lossy_since = world.checker.lossy.range(write.epoch + 1..).next().is_some();
        if write.acked.is_none() || (lossy_since && !durable.contains(number)) || write.seq == 0 {
            continue;
        }
        let at = history.iter().position(|start| start.epoch.0 == write.epoch);
        let end = at.map(|at| history.get(at + 1).map_or(last.0, |next| next.first.0 - 1));
        if end.is_none_or(|end| end < write.seq) {
            return Err(format!("write {number}, acknowledged as {write:?}, is not in {history:?}"));
        }
    }
    Ok(())
}
