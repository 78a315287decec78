//! Tables without borders, which `awk` reads too, and the rows of volumes and nodes.

use super::paint::{Mood, Paint};
use super::words;
use crate::units::duration::human;
use crate::units::size::Size;
use quoin_api::v1;
use std::fmt::Write as _;
use std::time::Duration;

/// A table with a heading. No rows: only the words in `empty`.
pub(crate) fn table(heading: &[&str], rows: Vec<Vec<String>>, indent: usize, empty: &str) -> String {
    let margin = " ".repeat(indent);
    if rows.is_empty() {
        return format!("{margin}{empty}\n");
    }
    let heading = heading.iter().map(|title| (*title).to_owned()).collect();
    let lines: Vec<Vec<String>> = std::iter::once(heading).chain(rows).collect();
    let width = |column: usize| lines.iter().map(|line| visible(&line[column])).max().unwrap_or(0);
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let mut row = margin.clone();
        for (cell, width) in line.iter().zip(&widths) {
            row.push_str(cell);
            row.push_str(&" ".repeat(width - visible(cell) + 2));
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

/// The columns that a cell takes: its characters without the escape sequences that colour them.
fn visible(cell: &str) -> usize {
    let mut in_escape = false;
    let is_shown = |c: &char| match (in_escape, *c) {
        (false, '\u{1b}') => {
            in_escape = true;
            false
        }
        (false, _) => true,
        (true, c) => {
            in_escape = c != 'm';
            false
        }
    };
    cell.chars().filter(is_shown).count()
}

/// `KEY  value` lines.
pub(crate) fn fields(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    pairs.iter().fold(String::new(), |mut text, (key, value)| {
        writeln!(text, "{key:<width$}  {value}").expect("writing to a String cannot fail");
        text
    })
}

/// A table of storage nodes.
pub(crate) fn nodes(nodes: &[v1::Node], paint: Paint, indent: usize) -> String {
    let rows = nodes
        .iter()
        .map(|node| {
            let used = format!("{} of {}", Size(node.used_bytes), Size(node.capacity_bytes));
            vec![
                node.id.to_string(),
                node.name.clone(),
                node_health(node, paint),
                node.replicas.to_string(),
                used,
                node.zone.clone(),
                node.data_address.clone(),
            ]
        })
        .collect();
    table(
        &["ID", "NAME", "HEALTH", "REPLICAS", "USED", "ZONE", "ADDRESS"],
        rows,
        indent,
        "no storage node has registered yet",
    )
}

/// How a node is, in words.
pub(crate) fn node_health(node: &v1::Node, paint: Paint) -> String {
    let word = words::node_health(node.health());
    match node.health() {
        v1::NodeHealth::Online => paint.mood(Mood::Good, word),
        v1::NodeHealth::Unreachable => {
            let silent = human(Duration::from_millis(node.last_heartbeat_age_ms));
            paint.mood(Mood::Bad, &format!("{word}, silent for {silent}"))
        }
        v1::NodeHealth::Refused => paint.mood(Mood::Bad, &format!("{word}: {}", node.detail)),
        v1::NodeHealth::Unspecified => paint.mood(Mood::Watch, word),
    }
}

/// A table of volumes.
pub(crate) fn volumes(volumes: &[v1::Volume], paint: Paint, indent: usize) -> String {
    let rows = volumes
        .iter()
        .map(|volume| {
            vec![
                volume.id.to_string(),
                volume.name.clone(),
                Size(volume.size_bytes).to_string(),
                volume.replicas.to_string(),
                volume.durability().or_default().to_string(),
                volume_state(volume, paint),
                attachment(volume, paint),
            ]
        })
        .collect();
    let heading = ["ID", "NAME", "SIZE", "REPLICAS", "DURABILITY", "STATE", "ATTACHED TO"];
    table(&heading, rows, indent, "no volumes: `quoin volume create NAME --size 10GiB` makes one")
}

/// A table of the snapshots of these volumes.
pub(crate) fn snapshots(volumes: &[v1::Volume], paint: Paint, indent: usize) -> String {
    let row = |volume: &v1::Volume, snapshot: &v1::Snapshot| {
        let mood = if snapshot.state() == v1::SnapshotState::Ready { Mood::Good } else { Mood::Watch };
        vec![
            snapshot.id.to_string(),
            volume.name.clone(),
            snapshot.name.clone(),
            Size(snapshot.size_bytes).to_string(),
            paint.mood(mood, words::snapshot_state(snapshot.state())),
        ]
    };
    let of = |volume: &v1::Volume| -> Vec<Vec<String>> {
        volume.snapshots.iter().map(|snapshot| row(volume, snapshot)).collect()
    };
    let rows = volumes.iter().flat_map(of).collect();
    let empty = "no snapshots: `quoin snapshot create VOLUME NAME` takes one";
    table(&["ID", "VOLUME", "NAME", "SIZE", "STATE"], rows, indent, empty)
}

/// A volume's state, coloured.
pub(crate) fn volume_state(volume: &v1::Volume, paint: Paint) -> String {
    let mood = if volume.state() == v1::VolumeState::Ready { Mood::Good } else { Mood::Watch };
    paint.mood(mood, words::volume_state(volume.state()))
}

/// Which gateway has the volume, and whether it can serve it.
pub(crate) fn attachment(volume: &v1::Volume, paint: Paint) -> String {
    let Some(attachment) = &volume.attachment else { return "-".to_owned() };
    if attachment.steward {
        return format!("{} (steward: repairs it, nobody uses it)", attachment.gateway);
    }
    let clients = words::count(attachment.clients as usize, "client", "clients");
    let mut text = format!("{} ({clients})", attachment.gateway);
    if !attachment.available {
        let reason = if attachment.detail.is_empty() { "too few copies answer" } else { &attachment.detail };
        text = paint.mood(Mood::Bad, &format!("{text}, waiting: {reason}"));
    }
    if attachment.lossy {
        text.push_str(&paint.mood(Mood::Watch, ", lossy"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::words::tests::a_status;
    use super::*;

    #[test]
    fn tables_have_a_heading_and_columns_without_borders() {
        let text = nodes(&a_status().nodes, Paint::none(), 2);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[0].starts_with("  ID  NAME"), "{text}");
        assert!(lines[1].contains("node-1") && lines[1].contains("1 GiB of 10 GiB"), "{text}");
        assert!(lines[3].contains("unreachable, silent for 12 s"), "{text}");
        assert!(volumes(&[], Paint::none(), 0).contains("no volumes"));
    }

    #[test]
    fn colours_take_no_room() {
        assert_eq!(visible("\u{1b}[31;1mgone\u{1b}[0m"), 4);
        let rows = vec![vec!["\u{1b}[32mok\u{1b}[39m".to_owned(), "x".to_owned()]];
        let text = table(&["STATE", "B"], rows, 0, "");
        assert_eq!(text, "STATE  B\n\u{1b}[32mok\u{1b}[39m     x\n");
    }

    #[test]
    fn a_volume_that_waits_says_why() {
        let mut status = a_status();
        let volume = &mut status.volumes[0];
        assert_eq!(attachment(volume, Paint::none()), "gateway-1 (1 client)");
        let attached = volume.attachment.as_mut().unwrap();
        attached.available = false;
        attached.detail = "node-2 and node-3 are missing".to_owned();
        let text = attachment(volume, Paint::none());
        assert_eq!(text, "gateway-1 (1 client), waiting: node-2 and node-3 are missing");
        volume.attachment.as_mut().unwrap().steward = true;
        assert_eq!(attachment(volume, Paint::none()), "gateway-1 (steward: repairs it, nobody uses it)");
    }

    #[test]
    fn snapshots_are_told_with_their_volume() {
        let text = snapshots(&a_status().volumes, Paint::none(), 0);
        let last = text.lines().last().unwrap().split_whitespace().collect::<Vec<_>>();
        assert_eq!(last, ["6", "vol1", "monday", "4", "GiB", "ready"]);
        assert!(snapshots(&[], Paint::none(), 0).contains("quoin snapshot create"));
    }
}
