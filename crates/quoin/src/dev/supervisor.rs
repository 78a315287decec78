//! The owner of a dev cluster's processes: one loop, one event at a time.
//!
//! Nothing else starts a process, knows whether it runs, or writes the state file. How processes are stopped is in
//! [`super::shut_down`].

use super::control::{Action, Reply, Request};
use super::doors;
use super::layout::{Layout, write_atomically};
use super::member::{Member, RespawnRoles, Role};
use super::probe;
use super::process::{Process, describe, log_tail};
use super::respawn::Backoff;
use super::say::Say;
use super::state::State;
use crate::failure::Failure;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::process::ExitStatus;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// How long a process that was told to stop may take before it is killed.
pub(super) const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// How long a process that was started by hand may take to answer.
const START_PATIENCE: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// What happens to a supervisor.
pub(crate) enum Event {
    /// A process has ended.
    Exited { member: Member, run: u64, status: ExitStatus },
    /// The pause before a respawn is over.
    RespawnDue { member: Member, run: u64 },
    /// A process that was told to stop has had its time.
    StopOverdue { member: Member, run: u64 },
    /// Someone asks for something.
    Request(Request, oneshot::Sender<Reply>),
}

/// One member, running or not.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) process: Option<Process>,
    /// Counts the member's processes, so that an event about an earlier one is recognised.
    run: u64,
    started: Option<Instant>,
    /// Told to stop: not to be started again by itself.
    is_stopped: bool,
    backoff: Backoff,
    /// Who waits for the process to end.
    waiting: Vec<oneshot::Sender<Reply>>,
}

/// The owner of all processes.
pub(crate) struct Supervisor {
    pub(super) layout: Layout,
    pub(super) state: State,
    respawn: RespawnRoles,
    pub(super) say: Say,
    pub(super) slots: BTreeMap<Member, Slot>,
    /// Where the gateway listens, for as long as there is one or one is to come: its clients wait while it is started again, and
    /// are not refused.
    doors: Vec<OwnedFd>,
    events: mpsc::UnboundedSender<Event>,
    is_up: bool,
}

impl Supervisor {
    pub(crate) fn new(
        layout: Layout,
        state: State,
        respawn: RespawnRoles,
        say: Say,
        events: mpsc::UnboundedSender<Event>,
    ) -> Self {
        let slots = state.members.iter().map(|member| (member.member(), Slot::default())).collect();
        Self { layout, state, respawn, say, slots, doors: Vec::new(), events, is_up: false }
    }

    /// Starts every process.
    pub(crate) fn start_all(&mut self) -> Result<(), Failure> {
        let members: Vec<Member> = self.slots.keys().copied().collect();
        members.into_iter().try_for_each(|member| self.spawn(member))
    }

    /// The cluster serves its volume: from now on a process that dies does not end the whole.
    pub(crate) fn is_up(&mut self) {
        self.is_up = true;
    }

    /// Takes one event. An error says that the cluster cannot come up and must be stopped.
    pub(crate) fn handle(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Exited { member, run, status } if self.is_current(member, run) => {
                self.exited(member, status)?;
            }
            Event::RespawnDue { member, run } if self.is_current(member, run) => self.respawn(member),
            Event::StopOverdue { member, run } if self.is_current(member, run) => {
                if let Some(process) = &self.slots[&member].process {
                    self.say.progress(&format!("{member} does not stop: killing it"));
                    process.signal(Signal::KILL);
                }
            }
            Event::Exited { .. } | Event::RespawnDue { .. } | Event::StopOverdue { .. } => {}
            Event::Request(request, answer) => self.request(&request, answer),
        }
        Ok(())
    }

    fn is_current(&self, member: Member, run: u64) -> bool {
        self.slots.get(&member).is_some_and(|slot| slot.run == run)
    }

    fn slot(&mut self, member: Member) -> &mut Slot {
        self.slots.entry(member).or_default()
    }

    fn spawn(&mut self, member: Member) -> Result<(), Failure> {
        let events = self.events.clone();
        let slot = self.slot(member);
        slot.run += 1;
        let run = slot.run;
        let on_exit = move |status| {
            // Nobody listens any more once the supervisor has ended.
            let _ = events.send(Event::Exited { member, run, status });
        };
        if member.role == Role::Gateway && self.doors.is_empty() {
            self.doors = doors::open(self.state.gateway().listen, self.layout.nbd_socket().as_deref())?;
        }
        let doors = if member.role == Role::Gateway { &self.doors[..] } else { &[] };
        let process = Process::spawn(&self.layout, member, doors, on_exit)
            .map_err(|error| Failure::io(format_args!("start {member}"), &error))?;
        let pid = process.pid;
        let slot = self.slot(member);
        slot.process = Some(process);
        slot.started = Some(Instant::now());
        slot.is_stopped = false;
        write_atomically(&self.layout.pid(member), &format!("{pid}\n"))?;
        self.state.set_pid(member, Some(pid));
        self.state.save(&self.layout.state())
    }

    /// A process has ended: the files say so, whoever waited is told, and it is started again if that is the rule.
    fn exited(&mut self, member: Member, status: ExitStatus) -> Result<(), Failure> {
        let how = describe(status);
        let log_start = self.slot(member).process.as_ref().map_or(0, |process| process.log_start);
        self.forget(member)?;
        let slot = self.slot(member);
        let was_asked_for = slot.is_stopped || !slot.waiting.is_empty();
        let ran = slot.started.map(|started| started.elapsed()).unwrap_or_default();
        for answer in slot.waiting.drain(..) {
            let _ = answer.send(Reply::Done { message: format!("{member} {how}"), pid: None });
        }
        let is_stopped = slot.is_stopped;
        if member.role == Role::Gateway && (is_stopped || !self.respawn.contains(Role::Gateway)) {
            self.doors.clear();
        }
        if is_stopped {
            self.say.progress(&format!("{member} was stopped; `quoin dev start {member}` starts it again"));
            return Ok(());
        }
        if !self.is_up && !was_asked_for && !status.success() && status.code().is_some() {
            let tail = log_tail(&self.layout.log(member), log_start);
            return Err(Failure::failed(format!("{member} {how} at its start; {tail}"))
                .hint("the log says why; if the data may go, --reset starts afresh"));
        }
        if !self.respawn.contains(member.role) {
            self.say.progress(&format!("{member} {how}; `quoin dev start {member}` starts it again"));
            return Ok(());
        }
        let delay = self.slot(member).backoff.after(ran);
        self.respawn_after(member, &how, delay);
        Ok(())
    }

    fn respawn_after(&mut self, member: Member, how: &str, delay: Duration) {
        if delay.is_zero() {
            self.say.progress(&format!("{member} {how}; starting it again"));
            self.respawn(member);
            return;
        }
        let delay_ms = delay.as_millis();
        self.say.progress(&format!("{member} {how} once more; starting it again in {delay_ms} ms"));
        let run = self.slot(member).run;
        self.later(delay, Event::RespawnDue { member, run });
    }

    fn respawn(&mut self, member: Member) {
        let slot = self.slot(member);
        if slot.is_stopped || slot.process.is_some() {
            return;
        }
        if let Err(failure) = self.spawn(member) {
            let delay = self.slot(member).backoff.after(Duration::ZERO).max(Duration::from_secs(1));
            self.respawn_after(member, &failure.message, delay);
        }
    }

    /// Removes the traces of a process that has ended.
    pub(super) fn forget(&mut self, member: Member) -> Result<(), Failure> {
        self.slot(member).process = None;
        // Removed already: fine.
        let _ = std::fs::remove_file(self.layout.pid(member));
        self.state.set_pid(member, None);
        self.state.save(&self.layout.state())
    }

    fn request(&mut self, request: &Request, answer: oneshot::Sender<Reply>) {
        let member = match self.find(&request.member) {
            Ok(member) => member,
            Err(failure) => {
                let _ = answer.send(failure.into());
                return;
            }
        };
        match request.action {
            Action::Start => self.start(member, answer),
            Action::Stop => self.stop(member, answer),
            Action::Kill => self.kill(member, answer),
        }
    }

    fn find(&self, name: &str) -> Result<Member, Failure> {
        let found = name.parse().ok().filter(|member| self.slots.contains_key(member));
        found.ok_or_else(|| {
            let members: Vec<String> = self.slots.keys().map(Member::to_string).collect();
            Failure::not_found(format!("{name} is no process of this cluster"))
                .hint(format!("there is {}", members.join(", ")))
        })
    }

    fn start(&mut self, member: Member, answer: oneshot::Sender<Reply>) {
        if let Some(process) = &self.slot(member).process {
            let failure = Failure::failed(format!("{member} runs already (pid {})", process.pid));
            let hint = format!("`quoin dev stop {member}` or `quoin dev kill {member}` ends it first");
            let _ = answer.send(failure.hint(hint).into());
            return;
        }
        if let Err(failure) = self.spawn(member) {
            let _ = answer.send(failure.into());
            return;
        }
        self.say.progress(&format!("{member} is started"));
        let admin = self.state.find(member).map(|state| state.admin);
        let (Some(process), Some(admin)) = (&self.slots[&member].process, admin) else { return };
        let (gone, pid, log_start) = (process.gone(), process.pid, process.log_start);
        let log = self.layout.log(member);
        tokio::spawn(async move {
            let reply = tokio::select! {
                () = gone.cancelled() => {
                    Failure::failed(format!("{member} ended at its start; {}", log_tail(&log, log_start))).into()
                }
                is_healthy = healthy(admin) => match is_healthy {
                    Ok(()) => Reply::Done { message: format!("{member} runs (pid {pid})"), pid: Some(pid) },
                    Err(reason) => Failure::unavailable(format!("{member} runs but is not healthy: {reason}")).into(),
                },
            };
            let _ = answer.send(reply);
        });
    }

    fn stop(&mut self, member: Member, answer: oneshot::Sender<Reply>) {
        let respawns = self.respawn.contains(member.role);
        let slot = self.slot(member);
        let was_stopped = std::mem::replace(&mut slot.is_stopped, true);
        match &slot.process {
            Some(process) => {
                process.signal(Signal::TERM);
                slot.waiting.push(answer);
                let run = slot.run;
                self.later(STOP_PATIENCE, Event::StopOverdue { member, run });
            }
            None if was_stopped || !respawns => {
                let _ = answer.send(not_running(member).into());
            }
            // It was about to be started again.
            None => {
                let _ = answer.send(Reply::Done { message: format!("{member} stays down"), pid: None });
            }
        }
    }

    fn kill(&mut self, member: Member, answer: oneshot::Sender<Reply>) {
        let slot = self.slot(member);
        match &slot.process {
            Some(process) => {
                process.signal(Signal::KILL);
                slot.waiting.push(answer);
            }
            None => {
                let _ = answer.send(not_running(member).into());
            }
        }
    }

    fn later(&self, delay: Duration, event: Event) {
        let events = self.events.clone();
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            let _ = events.send(event);
        });
    }
}

fn not_running(member: Member) -> Failure {
    Failure::failed(format!("{member} does not run")).hint(format!("`quoin dev start {member}` starts it"))
}

/// Waits until an admin port answers.
async fn healthy(admin: std::net::SocketAddr) -> Result<(), String> {
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        match probe::http(admin, "/healthz").await {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(POLL_INTERVAL).await,
            answer => return answer,
        }
    }
}
