//! Stopping a dev cluster: who uses another goes first, each with its time to finish.

use super::member::{Member, Role};
use super::supervisor::{STOP_PATIENCE, Supervisor};
use rustix::process::Signal;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// A role that takes longer than this to stop is said to.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// After SIGKILL only a process stuck in the kernel remains.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

impl Supervisor {
    /// Stops every process. `hurry` kills what is left at once. Returns what could not be ended.
    pub(crate) async fn shut_down(&mut self, hurry: &CancellationToken) -> Vec<Member> {
        for role in Role::ALL {
            let members = self.running(role);
            self.signal(&members, Signal::TERM);
            let ended = tokio::select! {
                () = hurry.cancelled() => false,
                ended = self.ended(&members) => ended,
            };
            if !ended {
                let left = self.running(role);
                self.say.progress(&format!("killing {}", names(&left)));
                self.signal(&left, Signal::KILL);
                let gone = async {
                    for member in &left {
                        self.wait(*member).await;
                    }
                };
                // What survives SIGKILL is reported below.
                let _ = timeout(KILL_PATIENCE, gone).await;
            }
            for member in members {
                if self.is_gone(member) {
                    // The state file is on its way out too: a failure to write it changes nothing.
                    let _ = self.forget(member);
                }
            }
        }
        let _ = std::fs::remove_file(self.layout.run_dir().join("dev.sock"));
        self.state.supervisor_pid = None;
        let _ = self.state.save(&self.layout.state());
        Role::ALL.into_iter().flat_map(|role| self.running(role)).collect()
    }

    fn running(&self, role: Role) -> Vec<Member> {
        let of_role = self.slots.keys().copied().filter(|member| member.role == role);
        of_role.filter(|member| self.slots[member].process.is_some() && !self.is_gone(*member)).collect()
    }

    fn is_gone(&self, member: Member) -> bool {
        self.slots[&member].process.as_ref().is_none_or(|process| process.gone().is_cancelled())
    }

    fn signal(&self, members: &[Member], signal: Signal) {
        for process in members.iter().filter_map(|member| self.slots[member].process.as_ref()) {
            process.signal(signal);
        }
    }

    async fn wait(&self, member: Member) {
        if let Some(process) = &self.slots[&member].process {
            process.gone().cancelled().await;
        }
    }

    /// Whether all of them end by themselves in time.
    async fn ended(&self, members: &[Member]) -> bool {
        let all = async {
            for member in members {
                self.wait(*member).await;
            }
        };
        tokio::pin!(all);
        if timeout(SILENCE_MAX, &mut all).await.is_ok() {
            return true;
        }
        let left: Vec<Member> = members.iter().copied().filter(|member| !self.is_gone(*member)).collect();
        self.say.progress(&format!("waiting for {} to stop", names(&left)));
        timeout(STOP_PATIENCE.saturating_sub(SILENCE_MAX), all).await.is_ok()
    }
}

fn names(members: &[Member]) -> String {
    members.iter().map(Member::to_string).collect::<Vec<_>>().join(", ")
}
