//! Which storage nodes may be given replicas, and waiting until that is known.
//!
//! Replicas go to nodes that are online, and nowhere else: where a copy is put, it stays. A leader that is new has not heard
//! of every node yet. It waits for the rest, also if those that it has heard of would do, because the others may be in
//! zones that the copies should be spread over. That takes a heartbeat, or three if a node is gone, and at most most of
//! the call's time; then those that are online are taken, if they are enough.

use super::failure::{Failure, with_hint};
use super::route::{Api, Call};
use crate::live::Candidates;
use quoin_cluster::Candidate;
use std::time::Duration;
use tonic::Status;

/// How often to look whether a node has reported to a new leader.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// What is kept of a call's time for placing the replicas and answering.
const TIME_TO_PLACE: Duration = Duration::from_millis(1000);

impl Api {
    /// The nodes that so many copies of a segment may go to.
    pub(super) async fn candidates(&self, call: Call, replicas: u32) -> Result<Vec<Candidate>, Failure> {
        loop {
            let Candidates { online, unknown } = self.candidates_now();
            if unknown == 0 {
                return Ok(online);
            }
            if !self.leads() {
                return Err(Failure::TryAgain);
            }
            if !call.has_time_for(TIME_TO_PLACE) {
                let enough = online.len() >= replicas as usize;
                return if enough { Ok(online) } else { Err(not_known_yet(replicas, online.len(), unknown)) };
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The nodes that a volume's further segments may go to, if it needs any.
    pub(super) async fn candidates_to_grow(
        &self,
        call: Call,
        name: &str,
        size_bytes: u64,
    ) -> Result<Vec<Candidate>, Failure> {
        let replicas = {
            let state = self.shared.state();
            let volume = state.volume_named(name);
            volume.filter(|volume| volume.lacks_segments_for(size_bytes)).map(|volume| volume.replicas)
        };
        match replicas {
            Some(replicas) => self.candidates(call, replicas).await,
            None => Ok(self.candidates_now().online),
        }
    }

    fn candidates_now(&self) -> Candidates {
        self.view(|view| view.live.candidates(view.state, view.now))
    }
}

fn not_known_yet(replicas: u32, online: usize, unknown: usize) -> Failure {
    let message = format!(
        "{replicas} replicas need as many storage nodes: {online} are online, and the new leader has not heard of {unknown} more yet"
    );
    Status::failed_precondition(with_hint(&message, "try again in a few seconds")).into()
}
