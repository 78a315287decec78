//! One run: a cluster from its seed, faults, healing, and what must hold then.

use crate::checker;
use crate::queue::{MILLISECOND, Nanos, SECOND};
use crate::scenario::Scenario;
use crate::setup::Setup;
use crate::trace::Trace;
use crate::world::World;
use quoin_history::History;
use quoin_replication::writer::VoterHealth;

/// In which a cluster without faults creates its volume.
const BIRTH_MAX: Nanos = 20 * SECOND;
/// Faults end after this time, whatever was done by then.
const FAULTS_MAX: Nanos = 60 * SECOND;
/// Liveness: in which everything works again once nothing breaks any more.
const HEALING_MAX: Nanos = 60 * SECOND;
/// How often a client may be cut off by what was begun before everything was mended.
const ATTEMPTS_MAX: u32 = 5;
/// In which the last round is answered.
const LAST_ROUND_MAX: Nanos = 10 * SECOND;

/// What came of a run.
pub struct Run {
    /// What is wrong; nothing if all is well.
    pub problem: Option<String>,
    /// A number that differs when anything in two runs differs.
    pub digest: u64,
    /// Events.
    pub events: u64,
    /// Requests of clients.
    pub asked: u64,
    /// Those that were answered well.
    pub answered: u64,
    /// Those that were told that there is no space.
    pub refused_for_space: u64,
    /// Faults were over at this virtual time.
    pub healed_ns: u64,
    /// Everything was over at this virtual time.
    pub ended_ns: u64,
    /// What the clients saw.
    pub history: History,
    /// What it was drawn from the seed.
    pub setup: String,
}

/// Runs a seed.
pub fn run(scenario: &Scenario, seed: u64, trace: Trace) -> Run {
    let setup = Setup::draw(scenario, seed);
    let description = format!("{setup:?}");
    let mut world = World::new(setup, seed, trace);
    world.trace.line(0, || description.clone());
    let mut healed_ns = 0;
    let result = live(&mut world, &mut healed_ns);
    let problem = world.problem.take().or(result.err());
    Run {
        problem,
        digest: world.trace.digest(),
        events: world.trace.events(),
        asked: world.workload.asked,
        answered: world.workload.answered,
        refused_for_space: world.workload.refused_for_space,
        healed_ns,
        ended_ns: world.now,
        history: std::mem::take(&mut world.observer.history),
        setup: description,
    }
}

fn live(world: &mut World, healed_ns: &mut Nanos) -> Result<(), String> {
    until(world, BIRTH_MAX, "the volume is not created", World::prepare_volume)?;
    world.start_clients();
    until(world, BIRTH_MAX, "nobody can use the volume", |world| world.workload.answered > 0)?;
    world.steady_since = Some(world.now);
    world.arm_fault();
    let enough = world.setup.operations;
    let end = world.now + FAULTS_MAX;
    while world.now < end && world.workload.asked < enough {
        step(world, 20 * MILLISECOND)?;
    }
    world.heal();
    *healed_ns = world.now;
    if world.setup.fills {
        make_room(world)?;
    }
    until(world, HEALING_MAX, "not everything works again", is_well)?;
    world.workload.active = false;
    until(world, HEALING_MAX, "not everything is quiet", is_quiet)?;
    if world.setup.scrub_bytes_per_second.is_some() {
        mend(world)?;
    }
    last_round(world)
}

fn step(world: &mut World, time: Nanos) -> Result<(), String> {
    world.run_until(world.now + time);
    world.held = world.held.look(world);
    let problem = world.observer.problem();
    world.problem.take().or(problem).map_or(Ok(()), Err)
}

/// Lets the world run until something is so.
fn until(
    world: &mut World,
    at_most: Nanos,
    otherwise: &str,
    mut is_so: impl FnMut(&mut World) -> bool,
) -> Result<(), String> {
    let end = world.now + at_most;
    while !is_so(world) {
        if world.now >= end {
            return Err(format!("{otherwise} within {} s: {}", at_most / SECOND, describe(world)));
        }
        step(world, 10 * MILLISECOND)?;
    }
    Ok(())
}

/// All clients are connected to the gateway they want, and all its replicas are in sync.
fn is_well(world: &mut World) -> bool {
    world.clients.iter().all(|client| client.is_connected())
        && is_in_order(world)
        && world.managers.are_complete()
}

/// All storage nodes are there, and all replicas in sync; and nothing is being done about them.
pub(crate) fn is_in_order(world: &World) -> bool {
    world.nodes.iter().all(|node| node.node.is_some()) && in_sync(world) && nothing_pends(world)
}

/// Nothing is being changed, taken or dropped.
fn nothing_pends(world: &World) -> bool {
    let is_settled = |volume: &quoin_cluster::Volume| {
        let ready = |replica: &quoin_cluster::Replica| replica.state == quoin_cluster::ReplicaState::Ready;
        let all_ready = volume.replicas().all(|(.., replica)| ready(replica));
        !volume.is_changing() && !volume.is_taking() && all_ready && volume.growing_to_bytes.is_none()
    };
    world.managers.volume().is_some_and(is_settled)
}

fn in_sync(world: &World) -> bool {
    let gateway = world.workload.targets[0];
    let Some(running) = &world.gateways[gateway].running else { return false };
    let reports = running.core.reports();
    !reports.is_empty() && reports.iter().all(quoin_gateway::core::VolumeReport::is_clean)
}

fn is_quiet(world: &mut World) -> bool {
    is_well(world) && world.clients.iter().all(|client| client.is_idle())
}

/// Every disk is looked at as a whole, and no damage is left.
fn mend(world: &mut World) -> Result<(), String> {
    let laps = |world: &World| -> Vec<u64> {
        world.nodes.iter().map(|node| node.node.as_ref().map_or(0, |node| node.scrub_laps().0)).collect()
    };
    let before = laps(world);
    until(world, HEALING_MAX, "damage is left", |world| {
        let looked_at = laps(world).iter().zip(&before).all(|(now, then)| *now >= then + 2);
        let is_whole = |process: &crate::world::NodeProcess| {
            process.node.as_ref().is_some_and(|node| node.damaged_extents() == 0)
        };
        looked_at && world.nodes.iter().all(is_whole)
    })
}

/// Nothing is under way on any disk, and all replicas of a segment are at one position.
fn at_rest(world: &mut World) -> bool {
    let Some(volume) = world.managers.volume() else { return false };
    let position = |replica: &quoin_cluster::Replica| {
        let process = world.nodes.iter().find(|process| process.id() == replica.node)?;
        Some(process.node.as_ref()?.engine().replica(replica.id)?.position)
    };
    let agree = volume.segments.iter().all(|segment| {
        let positions: Vec<_> = segment.members().map(|(replica, _)| position(replica)).collect();
        positions[0].is_some() && positions.iter().all(|other| *other == positions[0])
    });
    agree && world.nodes.iter().all(|node| node.is_quiet())
}

/// Asks until all of it was answered: an attachment that was asked for before everything was mended may yet cut the
/// client off.
fn insist(
    world: &mut World,
    what: &str,
    ask: impl Fn(&mut World),
    is_over: impl Fn(&mut World) -> bool,
) -> Result<(), String> {
    for _ in 0..ATTEMPTS_MAX {
        world.workload.last_open = 0;
        let before = world.workload.asked;
        ask(world);
        until(world, LAST_ROUND_MAX, what, &is_over)?;
        if world.workload.asked > before && world.workload.last_open == 0 {
            return Ok(());
        }
    }
    Err(what.into())
}

/// Everything is read, the replicas are compared, and everything is given back.
fn last_round(world: &mut World) -> Result<(), String> {
    insist(world, "the last reads are not answered", World::read_everything, is_quiet)?;
    until(world, LAST_ROUND_MAX, "the storage nodes do not come to rest", at_rest)?;
    let shown = checker::replicas_converge(world)?;
    world.managers.volume().map_or(Ok(()), |volume| world.observer.check_members(volume))?;
    world.observer.snapshots_show(&shown)?;
    checker::linearizable(world)?;
    checker::bounded_memory(world)?;
    until(world, LAST_ROUND_MAX, "the snapshots are not deleted", World::delete_snapshots)?;
    if world.entries_rotted > 0 {
        // The slot that a damaged map entry named comes back with the next start.
        world.restart_nodes();
        until(world, HEALING_MAX, "not everything works again after a restart", is_quiet)?;
    }
    insist(world, "the trims are not answered", World::trim_everything, is_quiet)?;
    // Checkpoints give it back: the next one but one, if one has just begun.
    let is_given_back = |world: &mut World| checker::no_space_leak(world).is_ok();
    until(world, World::TWO_CHECKPOINTS, "", is_given_back).or_else(|_| checker::no_space_leak(world))?;
    if world.setup.fills {
        insist(world, "there is room, and nothing can be written", World::write_again, is_quiet)?;
    }
    Ok(())
}

/// Of full disks: what copies lack may have no room before something is given back, and that must be possible.
fn make_room(world: &mut World) -> Result<(), String> {
    world.workload.active = false;
    until(world, HEALING_MAX, "the clients wait for ever", World::clients_are_idle)?;
    insist(world, "nothing can be given back", World::trim_half, World::clients_are_idle)
}

fn describe(world: &World) -> String {
    let gateway = world.workload.targets[0];
    let reports = world.gateways[gateway].running.as_ref().map(|running| running.core.reports());
    let replicas: Vec<String> = reports
        .iter()
        .flatten()
        .flat_map(|report| &report.replicas)
        .filter(|replica| replica.health != VoterHealth::InSync || replica.shaken)
        .map(|replica| {
            format!("{} on {}: {:?} shaken {}", replica.replica, replica.node, replica.health, replica.shaken)
        })
        .collect();
    let nodes: Vec<String> = world
        .nodes
        .iter()
        .map(|node| format!("{} up {} refused {}", node.index, node.node.is_some(), node.refused))
        .collect();
    let clients: Vec<String> = world
        .clients
        .iter()
        .map(|client| format!("connected {} idle {}", client.is_connected(), client.is_idle()))
        .collect();
    let availability: Vec<String> = reports
        .iter()
        .flatten()
        .map(|report| format!("epoch {} available {} {:?}", report.epoch, report.available, report.segments))
        .collect();
    let positions: Vec<String> = world
        .nodes
        .iter()
        .filter_map(|process| process.node.as_ref().map(|node| (process, node)))
        .flat_map(|(process, node)| {
            node.engine().replicas().map(move |(id, view)| {
                let durable = node.engine().durable();
                format!(
                    "{id} on {} at {} durable {durable} quiet {}",
                    process.index,
                    view.position,
                    process.is_quiet()
                )
            })
        })
        .collect();
    format!(
        "gateway {gateway} {availability:?}, positions {positions:?}, replicas {replicas:?}, nodes {nodes:?}, clients {clients:?}"
    )
}
