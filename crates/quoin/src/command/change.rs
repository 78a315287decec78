//! Changes of a volume's copies: begun by one command or another, and waited for in the same way.

use crate::client::Client;
use crate::command::volume_show;
use crate::failure::Failure;
use crate::units::size::Size;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use quoin_api::v1::{Replica, ReplicaRole, ReplicaState, Segment, Volume};
use std::io::IsTerminal;
use std::time::Duration;
use tokio::time::Instant;

/// A command that takes longer than this shows how far it is.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// How often to ask how far it is.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// The length of the bar of one segment.
const STEPS: u64 = 1000;
/// How much of that is for filling the new copies; the rest is for making them count.
const FILLING: u64 = 950;

/// Whether to wait.
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Answer when the change is begun, not when it is done
    #[arg(long)]
    pub(crate) no_wait: bool,
}

/// What has been begun: of each segment, the copies that come and go.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Begun {
    segment: u32,
    add: Vec<u64>,
    remove: Vec<u64>,
}

/// Waits until what the answer shows as begun is done, or has ended otherwise. Ending the command does not end the change.
pub(crate) async fn wait(client: &Client, answer: Volume, args: &WaitArgs) -> Result<Volume, Failure> {
    let begun = begun(&answer);
    let name = answer.name.clone();
    let mut volume = answer;
    if args.no_wait {
        return Ok(volume);
    }
    let mut bar = Bar::new(client);
    while begun.iter().any(|begun| is_under_way(&volume, begun)) {
        bar.show(&volume, &begun);
        tokio::time::sleep(POLL_INTERVAL).await;
        volume = volume_show::get(client, &name).await?;
    }
    bar.clear();
    if begun.iter().all(|begun| is_done(&volume, begun)) {
        return Ok(volume);
    }
    Err(Failure::failed(format!("the change of volume {name} was given up"))
        .hint(format!("see `quoin volume show {name}`; a storage node may have been replaced meanwhile")))
}

fn begun(volume: &Volume) -> Vec<Begun> {
    let changing = |segment: &Segment| {
        let change = segment.change.as_ref()?;
        Some(Begun { segment: segment.index, add: change.add.clone(), remove: change.remove.clone() })
    };
    volume.segments.iter().filter_map(changing).collect()
}

fn segment_of<'a>(volume: &'a Volume, begun: &Begun) -> Option<&'a Segment> {
    volume.segments.iter().find(|segment| segment.index == begun.segment)
}

/// Whether this very change is under way; a later one may have followed it.
fn is_under_way(volume: &Volume, begun: &Begun) -> bool {
    let change = segment_of(volume, begun).and_then(|segment| segment.change.as_ref());
    change.is_some_and(|change| change.add == begun.add && change.remove == begun.remove)
}

/// Whether all that was to come has come, and nothing that was to go is left.
fn is_done(volume: &Volume, begun: &Begun) -> bool {
    let Some(segment) = segment_of(volume, begun) else { return false };
    let counts = |replica: &&Replica| {
        replica.state() != ReplicaState::Dropping && replica.role() != ReplicaRole::Learner
    };
    let is_there = |id: &u64| segment.replicas.iter().filter(counts).any(|replica| replica.id == *id);
    begun.add.iter().all(is_there) && !begun.remove.iter().any(is_there)
}

/// How far it is, in steps of all that were begun, and in words.
fn progress(volume: &Volume, begun: &[Begun]) -> (u64, String) {
    let (mut steps, mut done, mut bytes, mut bytes_total) = (0, 0, 0, 0);
    for begun in begun {
        let Some(segment) = segment_of(volume, begun).filter(|_| is_under_way(volume, begun)) else {
            (steps, done) = (steps + STEPS, done + 1);
            continue;
        };
        let added = segment.replicas.iter().filter(|replica| begun.add.contains(&replica.id));
        let (of_it, total) = added.fold((0, 0), |(done, total), replica| {
            let of_it = replica.resync_done_bytes.min(replica.resync_total_bytes);
            (done + of_it, total + replica.resync_total_bytes)
        });
        (bytes, bytes_total) = (bytes + of_it, bytes_total + total);
        let is_joint = segment.change.as_ref().is_some_and(|change| change.joint);
        steps += match total {
            _ if is_joint => FILLING,
            0 => 0,
            _ => {
                u64::try_from(u128::from(of_it) * u128::from(FILLING) / u128::from(total)).unwrap_or(FILLING)
            }
        };
    }
    let mut words = match begun.len() {
        1 => String::new(),
        all => format!("{done} of {all} segments"),
    };
    if bytes_total > 0 {
        let gap = if words.is_empty() { "" } else { ", " };
        words = format!("{words}{gap}{} of {}", Size(bytes), Size(bytes_total));
    }
    if volume.attachment.is_none() {
        words = "waiting for a gateway that is online".to_owned();
    }
    (steps, words)
}

/// The bar on stderr, if that is a terminal.
struct Bar {
    is_shown: bool,
    begun: Instant,
    bar: Option<ProgressBar>,
}

impl Bar {
    fn new(client: &Client) -> Self {
        let is_shown = std::io::stderr().is_terminal() && !client.is_json();
        Self { is_shown, begun: Instant::now(), bar: None }
    }

    fn show(&mut self, volume: &Volume, begun: &[Begun]) {
        if !self.is_shown || self.begun.elapsed() < SILENCE_MAX {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::new(STEPS * begun.len() as u64);
            if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent:>3} %, {elapsed} {msg}") {
                bar.set_style(style);
            }
            bar
        });
        let (steps, words) = progress(volume, begun);
        bar.set_position(steps);
        bar.set_message(words);
    }

    fn clear(&self) {
        self.bar.iter().for_each(ProgressBar::finish_and_clear);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::words::tests::a_changing_volume;

    #[test]
    fn the_bar_follows_the_copies_that_are_filled() {
        let mut volume = a_changing_volume();
        let begun = begun(&volume);
        assert_eq!(begun, [Begun { segment: 0, add: vec![14], remove: vec![13] }]);
        assert!(is_under_way(&volume, &begun[0]) && !is_done(&volume, &begun[0]));
        assert_eq!(progress(&volume, &begun), (237, "25 MiB of 100 MiB".to_owned()));
        volume.segments[0].change.as_mut().unwrap().joint = true;
        assert_eq!(progress(&volume, &begun).0, FILLING);
        volume.attachment = None;
        assert!(progress(&volume, &begun).1.contains("gateway"));
    }

    #[test]
    fn what_was_given_up_is_not_taken_for_done() {
        let mut volume = a_changing_volume();
        let begun = begun(&volume);
        volume.segments[0].change = None;
        volume.segments[0].replicas[3].set_state(ReplicaState::Dropping);
        assert!(!is_under_way(&volume, &begun[0]) && !is_done(&volume, &begun[0]));
        let mut volume = a_changing_volume();
        volume.segments[0].change = None;
        volume.segments[0].replicas[3].set_role(ReplicaRole::Voter);
        volume.segments[0].replicas.remove(2);
        assert!(is_done(&volume, &begun[0]));
        assert_eq!(progress(&volume, &begun).0, STEPS);
    }
}
