//! `quoin status` for people: the worst first, then who is there, then how every copy does.

use super::paint::{Mood, Paint};
use super::{table, words};
use crate::units::duration::human;
use crate::units::size::Size;
use quoin_api::v1::{ClusterStatus, ReplicaHealth, ReplicaRole, Volume};
use quoin_types::hex;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// The whole status.
pub(crate) fn render(status: &ClusterStatus, paint: Paint) -> String {
    let names = node_names(status);
    let mut text = cluster(status, paint);
    push_section(&mut text, paint, "managers", &managers_summary(status), &managers(status, paint));
    let online = status.nodes.iter().filter(|node| words::node_health(node.health()) == "online").count();
    let summary = format!("{online} of {} online", status.nodes.len());
    push_section(&mut text, paint, "storage nodes", &summary, &table::nodes(&status.nodes, paint, 2));
    push_section(&mut text, paint, "gateways", "", &gateways(status, paint));
    push_section(&mut text, paint, "volumes", "", &table::volumes(&status.volumes, paint, 2));
    for volume in &status.volumes {
        let change = change(volume).map(|words| format!("  {}", paint.mood(Mood::Watch, &words)));
        let heading = paint.heading(&format!("copies of {}", volume.name));
        writeln!(text, "\n{heading}{}", change.unwrap_or_default()).expect("String");
        for line in copies(volume, &names, paint) {
            writeln!(text, "  {line}").expect("String");
        }
    }
    text
}

/// The names of the storage nodes by id.
pub(crate) fn node_names(status: &ClusterStatus) -> BTreeMap<u64, String> {
    status.nodes.iter().map(|node| (node.id, node.name.clone())).collect()
}

fn push_section(text: &mut String, paint: Paint, title: &str, summary: &str, body: &str) {
    let gap = if summary.is_empty() { "" } else { "  " };
    write!(text, "\n{}{gap}{summary}\n{body}", paint.heading(title))
        .expect("writing to a String cannot fail");
}

fn cluster(status: &ClusterStatus, paint: Paint) -> String {
    let id = hex::encode(&status.cluster_id);
    let verdict = match (status.healthy, status.problems.len()) {
        (true, _) => paint.mood(Mood::Good, "healthy"),
        (false, 0) => paint.mood(Mood::Bad, "not healthy"),
        (false, problems) => paint.mood(Mood::Bad, &words::count(problems, "problem", "problems")),
    };
    let mut text = format!("{} {id}  {verdict}\n", paint.heading("cluster"));
    for problem in &status.problems {
        writeln!(text, "  {} {problem}", paint.mood(Mood::Bad, "!"))
            .expect("writing to a String cannot fail");
    }
    text
}

fn managers_summary(status: &ClusterStatus) -> String {
    let reachable = status.managers.iter().filter(|manager| manager.reachable).count();
    let leader = match status.managers.iter().find(|manager| manager.leader) {
        Some(manager) => format!("{} leads (term {})", manager.id, status.raft_term),
        None => "nobody leads".to_owned(),
    };
    format!("{reachable} of {} reachable, {leader}", status.managers.len())
}

fn managers(status: &ClusterStatus, paint: Paint) -> String {
    let rows = status
        .managers
        .iter()
        .map(|manager| {
            let state = match (manager.reachable, manager.leader) {
                (false, _) => paint.mood(Mood::Bad, "unreachable"),
                (true, true) => paint.mood(Mood::Good, "leader"),
                (true, false) => paint.mood(Mood::Good, "follower"),
            };
            let applied = manager.applied_index.to_string();
            vec![manager.id.to_string(), state, applied, manager.address.clone()]
        })
        .collect();
    table::table(&["ID", "STATE", "APPLIED", "ADDRESS"], rows, 2, "no manager is known")
}

fn gateways(status: &ClusterStatus, paint: Paint) -> String {
    let rows = status
        .gateways
        .iter()
        .map(|gateway| {
            let state = match gateway.online {
                true => paint.mood(Mood::Good, "online"),
                false => paint.mood(Mood::Bad, "unreachable"),
            };
            let counts = [gateway.attached_volumes.to_string(), gateway.clients.to_string()];
            let [volumes, clients] = counts;
            vec![gateway.id.clone(), state, volumes, clients, gateway.nbd_address.clone()]
        })
        .collect();
    table::table(&["NAME", "STATE", "VOLUMES", "CLIENTS", "NBD"], rows, 2, "no gateway has registered yet")
}

/// The copies of one volume on one node that do alike.
#[derive(Default)]
struct Group {
    replicas: usize,
    done_bytes: u64,
    total_bytes: u64,
    bytes_per_second: u64,
    detail: String,
}

/// How far a change of the volume's copies is, if there is one.
pub(crate) fn change(volume: &Volume) -> Option<String> {
    let (mut filling, mut joint) = (0, 0);
    for change in volume.segments.iter().filter_map(|segment| segment.change.as_ref()) {
        if change.joint { joint += 1 } else { filling += 1 }
    }
    let segments = |count| words::count(count, "segment", "segments");
    match (filling, joint) {
        (0, 0) => None,
        (_, 0) => Some(format!("new copies are being filled ({})", segments(filling))),
        (0, _) => Some(format!("new copies take over ({})", segments(joint))),
        _ => Some(format!("new copies are being filled ({}) and take over ({joint})", segments(filling))),
    }
}

/// One line for each node, role and health, the worst first: a volume of 4,000 segments still fits a screen.
pub(crate) fn copies(volume: &Volume, names: &BTreeMap<u64, String>, paint: Paint) -> Vec<String> {
    let mut groups: BTreeMap<(u8, u64, i32, i32), Group> = BTreeMap::new();
    for replica in volume.segments.iter().flat_map(|segment| &segment.replicas) {
        let key = (severity(replica.health()), replica.node, replica.health, replica.role);
        let group = groups.entry(key).or_default();
        group.replicas += 1;
        group.done_bytes += replica.resync_done_bytes;
        group.total_bytes += replica.resync_total_bytes;
        group.bytes_per_second += replica.resync_bytes_per_second;
        if group.detail.is_empty() {
            group.detail.clone_from(&replica.detail);
        }
    }
    let many_segments = volume.segments.len() > 1;
    groups
        .into_iter()
        .map(|((_, node, health, role), group)| {
            let name = names.get(&node).cloned().unwrap_or_else(|| format!("node {node}"));
            let health = ReplicaHealth::try_from(health).unwrap_or(ReplicaHealth::Unknown);
            let (mood, words) = describe(health, &group, volume.attachment.is_some());
            let part = match ReplicaRole::try_from(role) {
                Ok(ReplicaRole::Learner) => "new, ",
                Ok(ReplicaRole::Incoming) => "takes over, ",
                Ok(ReplicaRole::Outgoing) => "leaves, ",
                Ok(ReplicaRole::Voter | ReplicaRole::Unspecified) | Err(_) => "",
            };
            let count = match many_segments {
                true => format!("  {}", words::count(group.replicas, "segment", "segments")),
                false => String::new(),
            };
            format!("{name}{count}  {part}{}", paint.mood(mood, &words))
        })
        .collect()
}

const fn severity(health: ReplicaHealth) -> u8 {
    match health {
        ReplicaHealth::Failed => 0,
        ReplicaHealth::Missing => 1,
        ReplicaHealth::CatchingUp => 2,
        ReplicaHealth::Unknown | ReplicaHealth::Unspecified => 3,
        ReplicaHealth::InSync => 4,
    }
}

fn describe(health: ReplicaHealth, group: &Group, is_attached: bool) -> (Mood, String) {
    let because = |word: &str| match group.detail.as_str() {
        "" => word.to_owned(),
        detail => format!("{word}: {detail}"),
    };
    match health {
        ReplicaHealth::InSync => (Mood::Good, "in sync".to_owned()),
        ReplicaHealth::CatchingUp => (Mood::Watch, catching_up(group)),
        ReplicaHealth::Missing => (Mood::Bad, because("missing")),
        ReplicaHealth::Failed => (Mood::Bad, because("failed")),
        ReplicaHealth::Unknown | ReplicaHealth::Unspecified => match (group.detail.as_str(), is_attached) {
            ("", true) => (Mood::Watch, "not reported yet".to_owned()),
            ("", false) => (Mood::Plain, "at rest: no gateway has the volume".to_owned()),
            (detail, true) => (Mood::Watch, detail.to_owned()),
            (detail, false) => (Mood::Plain, detail.to_owned()),
        },
    }
}

/// `catching up  43 % (43 MiB of 100 MiB, 19 MiB/s, 3 s left)`, without what is not known yet.
fn catching_up(group: &Group) -> String {
    if group.total_bytes == 0 {
        return "catching up".to_owned();
    }
    let done = group.done_bytes.min(group.total_bytes);
    let per_cent = u128::from(done) * 100 / u128::from(group.total_bytes);
    let mut text = format!("catching up {per_cent} % ({} of {}", Size(done), Size(group.total_bytes));
    if group.bytes_per_second > 0 {
        let left = Duration::from_secs((group.total_bytes - done).div_ceil(group.bytes_per_second));
        let rate = Size(group.bytes_per_second);
        write!(text, ", {rate}/s, {} left", human(left)).expect("writing to a String cannot fail");
    }
    text.push(')');
    text
}

#[cfg(test)]
mod tests {
    use super::super::words::tests::{a_changing_volume, a_status, a_volume};
    use super::*;

    #[test]
    fn copies_are_told_in_words_the_worst_first() {
        let names = node_names(&a_status());
        assert_eq!(
            copies(&a_volume(), &names, Paint::none()),
            [
                "node-3  missing: connection refused",
                "node-2  catching up 43 % (43 MiB of 100 MiB, 19 MiB/s, 3 s left)",
                "node-1  in sync",
            ]
        );
    }

    #[test]
    fn a_change_is_told_with_its_progress() {
        let mut volume = a_changing_volume();
        let lines = copies(&volume, &BTreeMap::new(), Paint::none());
        assert_eq!(lines[2], "node 4  new, catching up 25 % (25 MiB of 100 MiB, 19 MiB/s, 4 s left)");
        assert_eq!(change(&volume).unwrap(), "new copies are being filled (1 segment)");
        volume.segments[0].change.as_mut().unwrap().joint = true;
        volume.segments[0].replicas[2].set_role(ReplicaRole::Outgoing);
        assert_eq!(change(&volume).unwrap(), "new copies take over (1 segment)");
        let lines = copies(&volume, &BTreeMap::new(), Paint::none());
        assert_eq!(lines[0], "node 3  leaves, missing: connection refused");
        assert_eq!(change(&a_volume()), None);
        let status = ClusterStatus { volumes: vec![volume], ..a_status() };
        let text = render(&status, Paint::none());
        assert!(text.contains("copies of vol1  new copies take over (1 segment)"), "{text}");
    }

    #[test]
    fn many_segments_are_one_line_for_each_node() {
        let mut volume = a_volume();
        let mut second = volume.segments[0].clone();
        second.index = 1;
        volume.segments.push(second);
        let lines = copies(&volume, &BTreeMap::new(), Paint::none());
        assert_eq!(lines[0], "node 3  2 segments  missing: connection refused");
        assert_eq!(lines[1], "node 2  2 segments  catching up 43 % (86 MiB of 200 MiB, 38 MiB/s, 3 s left)");
    }

    #[test]
    fn problems_come_before_everything_else() {
        let text = render(&a_status(), Paint::none());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], format!("cluster {}  1 problem", "01".repeat(16)));
        assert_eq!(lines[1], "  ! node-3 is unreachable");
        assert!(text.contains("managers  2 of 2 reachable, 1 leads (term 4)"), "{text}");
        assert!(text.contains("storage nodes  2 of 3 online"), "{text}");
        assert!(text.contains("copies of vol1"), "{text}");
        let healthy = ClusterStatus { healthy: true, problems: Vec::new(), ..a_status() };
        assert!(render(&healthy, Paint::none()).lines().next().unwrap().ends_with("  healthy"));
    }

    #[test]
    fn a_rate_of_zero_gives_no_estimate() {
        let group = Group { done_bytes: 50, total_bytes: 100, ..Group::default() };
        assert_eq!(catching_up(&group), "catching up 50 % (50 B of 100 B)");
        assert_eq!(catching_up(&Group::default()), "catching up");
    }
}
