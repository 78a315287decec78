//! Which replicas are on a disk: what the managers' lists, old and new ones, do to them.

mod support;

use quoin_storage_node::node::{Assignment, Node, Output, Wanted};
use quoin_types::{Moment, ReplicaId};
use support::{assignment, node};

const NOW: Moment = Moment::ZERO;
const ID: ReplicaId = ReplicaId(7);

/// What the node tells the managers.
#[derive(PartialEq, Eq, Debug)]
enum Told {
    Exists(ReplicaId),
    Gone(ReplicaId),
}

fn wanted(wanted: Wanted) -> Assignment {
    Assignment { wanted, ..assignment(ID, 1) }
}

/// Does the work that was asked for, and what follows from it.
fn work(node: &mut Node, now: Moment) -> Vec<Told> {
    let mut told = Vec::new();
    let mut outputs = node.outputs();
    while let Some(output) = outputs.pop() {
        match output {
            Output::Sync(job) => node.on_synced(job.run(), now).unwrap(),
            Output::Apply(job) => node.on_applied(job.run(), now).unwrap(),
            Output::Checkpoint(job) => node.on_checkpointed(job.run(), now).unwrap(),
            Output::Created(id) => told.push(Told::Exists(id)),
            Output::Dropped(id) => told.push(Told::Gone(id)),
            _ => {}
        }
        outputs.extend(node.outputs());
    }
    told
}

fn shown(node: &mut Node, list: &[Assignment]) -> Vec<Told> {
    node.on_assignments(list, NOW).unwrap();
    work(node, NOW)
}

/// Lets time pass, so that what is gone is given back.
fn wait(node: &mut Node) {
    for seconds in [20, 40] {
        let now = Moment::from_nanos(seconds * 1_000_000_000);
        node.tick(now).unwrap();
        assert_eq!(work(node, now), []);
    }
}

/// A manager that lags shows a list in which a replica is still to be made that was dropped, and reported so, before.
#[test]
fn a_replica_that_an_old_list_brought_back_is_dropped_when_the_managers_say_so() {
    let mut node = node(100);
    assert_eq!(shown(&mut node, &[wanted(Wanted::Created)]), [Told::Exists(ID)]);
    assert_eq!(shown(&mut node, &[wanted(Wanted::Dropped)]), [Told::Gone(ID)]);
    assert_eq!(shown(&mut node, &[]), []);
    assert_eq!(
        shown(&mut node, &[wanted(Wanted::Created)]),
        [],
        "its remains are still there, and in the way of nobody"
    );
    wait(&mut node);
    assert_eq!(shown(&mut node, &[wanted(Wanted::Created)]), [Told::Exists(ID)], "the old list");
    node.on_unwanted(&[ID], NOW).unwrap();
    assert_eq!(work(&mut node, NOW), [Told::Gone(ID)]);
    assert_eq!(node.replica_counts().0, 0);
}

/// Nobody may have heard that it was made: whatever the newest list lacks is asked for again. The list itself is no order.
#[test]
fn a_replica_that_the_list_lacks_is_told_and_kept() {
    let mut node = node(100);
    shown(&mut node, &[wanted(Wanted::Created)]);
    assert_eq!(shown(&mut node, &[]), [Told::Exists(ID)]);
    assert_eq!(shown(&mut node, &[wanted(Wanted::Kept)]), []);
    node.on_unwanted(&[ReplicaId(8)], NOW).unwrap();
    assert_eq!(work(&mut node, NOW), []);
    assert_eq!(node.replica_counts().0, 1);
}
