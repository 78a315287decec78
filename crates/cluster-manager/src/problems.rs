//! What is wrong with the cluster, in words, the worst first.

use crate::live::Presence;
use crate::view::{View, awaited};
use quoin_api::v1;
use quoin_cluster::{Volume, VolumeStage};
use quoin_types::{NodeId, quorum};
use std::collections::BTreeSet;

/// How bad a problem is. The order is that of the list.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Rank {
    /// Clients wait.
    Stalled,
    /// The next failure may make them wait.
    Endangered,
    /// Somebody should look.
    Notable,
}

/// All problems.
pub(crate) fn problems(view: &View<'_>, managers: &[v1::Manager]) -> Vec<String> {
    let mut found: Vec<(Rank, String)> = Vec::new();
    for volume in view.state.volumes().values().filter(|volume| !volume.deleting) {
        found.extend(missing_replicas(view, volume));
        found.extend(too_few(volume));
        found.extend(unavailable(view, volume));
        found.extend(lossy(volume));
        found.extend(creating(view, volume));
    }
    found.extend(nodes(view));
    let silent = managers.iter().filter(|manager| !manager.reachable);
    found.extend(silent.map(|manager| {
        (Rank::Endangered, format!("manager {} ({}) does not answer", manager.id, manager.address))
    }));
    found.sort_by_key(|(rank, _)| *rank);
    found.into_iter().map(|(_, text)| text).collect()
}

/// One line per volume, about the segment that has lost the most. Of a joint configuration both halves count, each by itself.
fn missing_replicas(view: &View<'_>, volume: &Volume) -> Option<(Rank, String)> {
    let message = view.volume(volume);
    let is_lost = |replica: &&&v1::Replica| {
        matches!(replica.health(), v1::ReplicaHealth::Missing | v1::ReplicaHealth::Failed)
    };
    let halves: Vec<Vec<&v1::Replica>> =
        message.segments.iter().flat_map(|segment| [voters(segment, false), voters(segment, true)]).collect();
    let lost_of = |half: &[&v1::Replica]| half.iter().filter(is_lost).count();
    let still_needed = |half: &[&v1::Replica]| {
        let to_spare = half.len() - half.len().min(quorum::majority(half.len()));
        lost_of(half).saturating_sub(to_spare)
    };
    let worst = halves.iter().rev().max_by_key(|half| (still_needed(half), lost_of(half)))?;
    let (lost, of) = (lost_of(worst), worst.len());
    if lost == 0 {
        return None;
    }
    let lost_nodes: BTreeSet<NodeId> =
        worst.iter().filter(is_lost).map(|replica| NodeId(replica.node)).collect();
    let reasons = reasons(view, &lost_nodes);
    let (rank, consequence) = match still_needed(worst) {
        0 => (Rank::Endangered, "reads and writes go on".to_owned()),
        1 => (Rank::Stalled, "writes wait until one is back".to_owned()),
        more => (Rank::Stalled, format!("writes wait until {more} are back")),
    };
    let (replicas, are) =
        if of == 1 { ("replica", "is") } else { ("replicas", if lost == 1 { "is" } else { "are" }) };
    let text = format!(
        "volume {}: {lost} of {of} {replicas} {are} missing ({}): {consequence}",
        volume.name, reasons
    );
    Some((rank, text))
}

/// Those whose answers count: before the change that is under way, or after it.
fn voters(segment: &v1::Segment, after: bool) -> Vec<&v1::Replica> {
    let votes = |replica: &&v1::Replica| match replica.role() {
        v1::ReplicaRole::Voter => true,
        v1::ReplicaRole::Incoming => after,
        v1::ReplicaRole::Outgoing => !after,
        v1::ReplicaRole::Learner | v1::ReplicaRole::Unspecified => false,
    };
    segment.replicas.iter().filter(votes).collect()
}

/// One line per volume that has fewer copies than are wanted, and gets none.
fn too_few(volume: &Volume) -> Option<(Rank, String)> {
    let fewest = volume.served_segments().iter().map(|segment| segment.next_voters().count()).min()?;
    let (wanted, name) = (volume.replicas, &volume.name);
    if fewest >= wanted as usize {
        return None;
    }
    let text = format!(
        "volume {name}: it has {fewest} of {wanted} replicas; `quoin volume set-replicas {name} {wanted}` adds what is missing"
    );
    Some((Rank::Endangered, text))
}

/// Where replicas are lost: `node-2, node-3 unreachable`, or `on node-4` where the node is there and its replica is not.
fn reasons(view: &View<'_>, nodes: &BTreeSet<NodeId>) -> String {
    let is_silent = |node: &&NodeId| view.presence(**node) == Presence::Unreachable;
    let (silent, there): (Vec<&NodeId>, Vec<&NodeId>) = nodes.iter().partition(is_silent);
    let names = |nodes: Vec<&NodeId>| -> String {
        let names: Vec<String> = nodes.into_iter().map(|node| view.node_name(*node)).collect();
        names.join(", ")
    };
    match (silent.is_empty(), there.is_empty()) {
        (false, true) => format!("{} unreachable", names(silent)),
        (true, _) => format!("on {}", names(there)),
        (false, false) => format!("{} unreachable; on {}", names(silent), names(there)),
    }
}

fn unavailable(view: &View<'_>, volume: &Volume) -> Option<(Rank, String)> {
    let attachment = view.volume(volume).attachment?;
    // Nobody waits for a steward.
    if attachment.available || attachment.steward {
        return None;
    }
    let detail = if attachment.detail.is_empty() { "no reason given" } else { &attachment.detail };
    Some((Rank::Stalled, format!("volume {} is not available: {detail}", volume.name)))
}

fn lossy(volume: &Volume) -> Option<(Rank, String)> {
    let attachment = volume.attachment.as_ref().filter(|attachment| attachment.lossy)?;
    let text = format!(
        "volume {}: writes that were never flushed may be missing since a loss of power before epoch {}",
        volume.name, attachment.epoch
    );
    Some((Rank::Notable, text))
}

fn creating(view: &View<'_>, volume: &Volume) -> Option<(Rank, String)> {
    let (count, nodes) = awaited(volume);
    if count == 0 {
        return None;
    }
    let names: Vec<String> = nodes.iter().map(|node| view.node_name(*node)).collect();
    let rank = if volume.stage() == VolumeStage::Ready { Rank::Notable } else { Rank::Endangered };
    Some((rank, format!("volume {}: {count} replicas do not exist yet on {}", volume.name, names.join(", "))))
}

/// Damage that stands. What is repaired within moments, as it is where a good copy is in reach, is seldom seen here.
fn damage(node: &v1::Node) -> Option<String> {
    let (extents, are) = match node.damaged_extents {
        0 => return None,
        1 => ("1 extent".to_owned(), "is"),
        more => (format!("{more} extents"), "are"),
    };
    let name = &node.name;
    Some(format!(
        "storage node {name}: {extents} of its disk {are} damaged and not repaired yet; its log names them"
    ))
}

fn nodes(view: &View<'_>) -> Vec<(Rank, String)> {
    let mut found = Vec::new();
    for node in view.state.nodes().values() {
        let message = view.node(node);
        match message.health() {
            v1::NodeHealth::Unreachable => found.push((
                Rank::Endangered,
                format!("storage node {} ({}) {}", node.name, node.data_address, message.detail),
            )),
            v1::NodeHealth::Refused => {
                found.push((
                    Rank::Endangered,
                    format!("storage node {} is refused: {}", node.name, message.detail),
                ));
            }
            v1::NodeHealth::Online | v1::NodeHealth::Unspecified => {}
        }
        found.extend(damage(&message).map(|text| (Rank::Endangered, text)));
    }
    let strangers = view.live.refused_strangers(view.state);
    found.extend(
        strangers.map(|(name, why)| (Rank::Notable, format!("storage node {name} is refused: {why}"))),
    );
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_told_while_it_stands() {
        let node =
            |damaged_extents| v1::Node { name: "node-2".into(), damaged_extents, ..v1::Node::default() };
        assert_eq!(damage(&node(0)), None);
        assert_eq!(
            damage(&node(1)).as_deref(),
            Some(
                "storage node node-2: 1 extent of its disk is damaged and not repaired yet; its log names them"
            )
        );
        assert!(damage(&node(5)).is_some_and(|text| text.contains("5 extents of its disk are damaged")));
    }
}
