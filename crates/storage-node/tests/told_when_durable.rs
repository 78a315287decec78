//! What a storage node tells the cluster manager is durable, however often it is asked (rule C2).

mod support;

use quoin_storage_node::node::{Assignment, Node, Output, Wanted};
use quoin_types::{Moment, ReplicaId};
use support::{assignment, node};

const NOW: Moment = Moment::ZERO;

fn want(node: &mut Node, wanted: Wanted) -> Vec<Output> {
    let assignment = Assignment { wanted, ..assignment(ReplicaId(1), 1) };
    node.on_assignments(&[assignment], NOW).unwrap();
    node.outputs()
}

fn reports(outputs: &[Output]) -> usize {
    outputs.iter().filter(|output| matches!(output, Output::Created(_) | Output::Dropped(_))).count()
}

/// The sync hangs while views come: nothing is told. Once it has ended, it is told once, and again whenever it is asked.
fn told_when_durable(node: &mut Node, wanted: Wanted) {
    let mut outputs = want(node, wanted);
    assert_eq!(reports(&outputs), 0);
    assert_eq!(reports(&want(node, wanted)), 0, "the record is not durable");
    let mut told = 0;
    while let Some(output) = outputs.pop() {
        match output {
            Output::Sync(job) => node.on_synced(job.run(), NOW).unwrap(),
            Output::Apply(job) => node.on_applied(job.run(), NOW).unwrap(),
            _ => {}
        }
        let more = node.outputs();
        told += reports(&more);
        outputs.extend(more);
    }
    assert_eq!(told, 1);
    assert_eq!(reports(&want(node, wanted)), 1, "who asks again is told again");
}

#[test]
fn a_replica_exists_and_is_gone_when_that_is_durable() {
    let mut node = node(100);
    told_when_durable(&mut node, Wanted::Created);
    told_when_durable(&mut node, Wanted::Dropped);
}
