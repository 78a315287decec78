//! Threads that wait for the disk, so that the node's thread does not.

use crate::node::{Fatal, Node, PullId, ReadJob};
use quoin_store::{ApplyDone, ApplyJob, CheckpointDone, CheckpointJob, ScrubJob, SyncDone, SyncJob};
use quoin_types::Moment;
use quoin_wire::Source;
use std::cell::Cell;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Threads that read.
const READERS: usize = 4;

/// A job that has ended.
pub(super) enum Done {
    Sync(SyncDone),
    Apply(ApplyDone),
    Checkpoint(CheckpointDone),
    Read(ReadJob),
    Scrub(ScrubJob),
}

impl Done {
    /// Tells the node.
    pub(super) fn deliver(self, node: &mut Node, now: Moment) -> Result<(), Fatal> {
        match self {
            Done::Sync(done) => node.on_synced(done, now),
            Done::Apply(done) => node.on_applied(done, now),
            Done::Checkpoint(done) => node.on_checkpointed(done, now),
            Done::Read(job) => node.on_read_done(job),
            Done::Scrub(job) => node.on_scrubbed(job),
        }
    }
}

/// Jobs that have ended, in the order of their ends.
pub(super) struct Finished {
    done: UnboundedReceiver<Done>,
    under_way: std::rc::Rc<Cell<usize>>,
}

impl Finished {
    pub(super) async fn recv(&mut self) -> Option<Done> {
        let done = self.done.recv().await?;
        if !matches!(done, Done::Read(_) | Done::Scrub(_)) {
            self.under_way.set(self.under_way.get() - 1);
        }
        Some(done)
    }
}

/// The threads' queues. They end when it is dropped.
pub(super) struct IoThreads {
    syncs: Sender<SyncJob>,
    applies: Sender<ApplyJob>,
    checkpoints: Sender<CheckpointJob>,
    reads: Sender<ReadJob>,
    scrubs: Sender<ScrubJob>,
    connects: UnboundedSender<(PullId, Source)>,
    connects_in: Cell<Option<UnboundedReceiver<(PullId, Source)>>>,
    under_way: std::rc::Rc<Cell<usize>>,
}

impl IoThreads {
    pub(super) fn start() -> io::Result<(Self, Finished)> {
        let (done, done_in) = unbounded_channel();
        let (syncs, jobs) = channel::<SyncJob>();
        spawn("sync", jobs, done.clone(), |job| Done::Sync(job.run()))?;
        let (applies, jobs) = channel::<ApplyJob>();
        spawn("apply", jobs, done.clone(), |job| Done::Apply(job.run()))?;
        let (checkpoints, jobs) = channel::<CheckpointJob>();
        spawn("checkpoint", jobs, done.clone(), |job| Done::Checkpoint(job.run()))?;
        let (scrubs, jobs) = channel::<ScrubJob>();
        spawn("scrub", jobs, done.clone(), |mut job| {
            job.run();
            Done::Scrub(job)
        })?;
        let (reads, jobs) = channel::<ReadJob>();
        let jobs = Arc::new(Mutex::new(jobs));
        for number in 0..READERS {
            spawn_reader(number, jobs.clone(), done.clone())?;
        }
        let (connects, connects_in) = unbounded_channel();
        let under_way = std::rc::Rc::default();
        let threads = Self {
            syncs,
            applies,
            checkpoints,
            reads,
            scrubs,
            connects,
            connects_in: Cell::new(Some(connects_in)),
            under_way: std::rc::Rc::clone(&under_way),
        };
        Ok((threads, Finished { done: done_in, under_way }))
    }

    pub(super) fn sync(&self, job: SyncJob) {
        self.under_way.set(self.under_way.get() + 1);
        self.syncs.send(job).expect("the sync thread lives as long as its queue");
    }

    pub(super) fn apply(&self, job: ApplyJob) {
        self.under_way.set(self.under_way.get() + 1);
        self.applies.send(job).expect("the apply thread lives as long as its queue");
    }

    pub(super) fn checkpoint(&self, job: CheckpointJob) {
        self.under_way.set(self.under_way.get() + 1);
        self.checkpoints.send(job).expect("the checkpoint thread lives as long as its queue");
    }

    pub(super) fn read(&self, job: ReadJob) {
        self.reads.send(job).expect("the readers live as long as their queue");
    }

    pub(super) fn scrub(&self, job: ScrubJob) {
        self.scrubs.send(job).expect("the scrub thread lives as long as its queue");
    }

    pub(super) fn connect_peer(&self, id: PullId, source: Source) {
        // The receiver is gone only while the node stops.
        let _ = self.connects.send((id, source));
    }

    /// The queue of wanted connections, for the one task that makes them.
    pub(super) fn connects(&self) -> Option<UnboundedReceiver<(PullId, Source)>> {
        self.connects_in.take()
    }

    /// Whether a sync, an apply or a checkpoint is under way.
    pub(super) fn disk_jobs_under_way(&self) -> bool {
        self.under_way.get() > 0
    }
}

fn spawn<J: Send + 'static>(
    name: &str,
    jobs: Receiver<J>,
    done: UnboundedSender<Done>,
    run: impl Fn(J) -> Done + Send + 'static,
) -> io::Result<()> {
    std::thread::Builder::new().name(name.into()).spawn(move || {
        for job in jobs {
            if done.send(run(job)).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

fn spawn_reader(
    number: usize,
    jobs: Arc<Mutex<Receiver<ReadJob>>>,
    done: UnboundedSender<Done>,
) -> io::Result<()> {
    std::thread::Builder::new().name(format!("read-{number}")).spawn(move || {
        loop {
            let next = jobs.lock().unwrap_or_else(std::sync::PoisonError::into_inner).recv();
            let Ok(mut job) = next else { return };
            job.run();
            if done.send(Done::Read(job)).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}
