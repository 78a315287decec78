//! Checkpoints for their age: what an idle disk has to give back comes back.

mod support;

use quoin_storage_node::node::{Node, Output};
use quoin_types::{Moment, ReplicaId};
use std::time::Duration;
use support::{assignment, node};

fn at(seconds: u64) -> Moment {
    Moment::ZERO + Duration::from_secs(seconds)
}

/// Appends a record: the least that a node can be asked to do.
fn change(node: &mut Node, replica: u64, now: Moment) {
    node.on_assignments(&[assignment(ReplicaId(replica), 1)], now).unwrap();
}

/// Does the work that was asked for, and what follows from it. Gives how many checkpoints there were.
fn work(node: &mut Node, mut outputs: Vec<Output>, now: Moment) -> usize {
    let mut checkpoints = 0;
    while let Some(output) = outputs.pop() {
        match output {
            Output::Sync(job) => node.on_synced(job.run(), now).unwrap(),
            Output::Apply(job) => node.on_applied(job.run(), now).unwrap(),
            Output::Checkpoint(job) => {
                checkpoints += 1;
                node.on_checkpointed(job.run(), now).unwrap();
            }
            _ => {}
        }
        outputs.extend(node.outputs());
    }
    checkpoints
}

#[test]
fn what_a_checkpoint_came_too_early_for_is_in_the_next_one() {
    let mut node = node(100);
    change(&mut node, 1, at(1));
    let outputs = node.outputs();
    assert_eq!(work(&mut node, outputs, at(1)), 0);
    // The second record is in the journal, and not applied yet, when a checkpoint is due.
    change(&mut node, 2, at(20));
    let outputs = node.outputs();
    node.tick(at(20)).unwrap();
    let due = node.outputs();
    assert!(due.iter().any(|output| matches!(output, Output::Checkpoint(_))), "the first record's");
    work(&mut node, due.into_iter().chain(outputs).collect(), at(20));
    // Nothing happens on the disk any more.
    node.tick(at(40)).unwrap();
    let due = node.outputs();
    assert_eq!(work(&mut node, due, at(40)), 1, "the second record's");
    node.tick(at(60)).unwrap();
    let due = node.outputs();
    assert_eq!(work(&mut node, due, at(60)), 0, "there is nothing more to gain");
}
