//! Threads that wait for the disk, so that the node's thread does not.

use super::jobs::Jobs;
use crate::node::{Fatal, Node, PullId, ReadJob};
use quoin_disk::clock;
use quoin_store::{
    ApplyDone, ApplyJob, CheckpointDone, CheckpointJob, PlaceDone, PlaceJob, ScrubJob, SyncDone, SyncJob,
};
use quoin_types::Moment;
use quoin_wire::Source;
use std::cell::Cell;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Threads that read.
const READERS: usize = 4;
/// Threads that write data of whole extents: with as many at once a device is busy without a pause.
const PLACERS: usize = 4;

/// A job that has ended.
pub(super) enum Done {
    Place(PlaceDone),
    /// And how long it took.
    Sync(SyncDone, Duration),
    Apply(ApplyDone),
    Checkpoint(CheckpointDone),
    Read(Box<ReadJob>),
    Scrub(Box<ScrubJob>),
}

impl Done {
    /// Tells the node.
    pub(super) fn deliver(self, node: &mut Node, now: Moment) -> Result<(), Fatal> {
        match self {
            Done::Place(done) => node.on_placed(done, now),
            Done::Sync(done, _) => node.on_synced(done, now),
            Done::Apply(done) => node.on_applied(done, now),
            Done::Checkpoint(done) => node.on_checkpointed(done, now),
            Done::Read(job) => node.on_read_done(*job),
            Done::Scrub(job) => node.on_scrubbed(*job),
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
    places: Jobs<PlaceJob>,
    syncs: Sender<SyncJob>,
    applies: Sender<ApplyJob>,
    checkpoints: Sender<CheckpointJob>,
    reads: Jobs<ReadJob>,
    scrubs: Sender<ScrubJob>,
    connects: UnboundedSender<(PullId, Source)>,
    connects_in: Cell<Option<UnboundedReceiver<(PullId, Source)>>>,
    under_way: std::rc::Rc<Cell<usize>>,
}

impl IoThreads {
    pub(super) fn start() -> io::Result<(Self, Finished)> {
        let (done, done_in) = unbounded_channel();
        let places = Jobs::new();
        spawn_several("place", PLACERS, &places, &done, |job: PlaceJob| Done::Place(job.run()))?;
        let (syncs, jobs) = channel::<SyncJob>();
        spawn("sync", jobs, done.clone(), |job| {
            let (done, time) = run_sync(job);
            Done::Sync(done, time)
        })?;
        let (applies, jobs) = channel::<ApplyJob>();
        spawn("apply", jobs, done.clone(), |job| Done::Apply(job.run()))?;
        let (checkpoints, jobs) = channel::<CheckpointJob>();
        spawn("checkpoint", jobs, done.clone(), |job| Done::Checkpoint(job.run()))?;
        let (scrubs, jobs) = channel::<ScrubJob>();
        spawn("scrub", jobs, done.clone(), |mut job| {
            job.run();
            Done::Scrub(Box::new(job))
        })?;
        let reads = Jobs::new();
        spawn_several("read", READERS, &reads, &done, |mut job: ReadJob| {
            job.run();
            Done::Read(Box::new(job))
        })?;
        let (connects, connects_in) = unbounded_channel();
        let under_way = std::rc::Rc::default();
        let threads = Self {
            places,
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

    pub(super) fn place(&self, job: PlaceJob) {
        self.under_way.set(self.under_way.get() + 1);
        self.places.push(job);
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
        self.reads.push(job);
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

    /// Whether a job that the engine waits for is under way.
    pub(super) fn disk_jobs_under_way(&self) -> bool {
        self.under_way.get() > 0
    }
}

/// Waits for a sync, and says how long it took.
pub(super) fn run_sync(job: SyncJob) -> (SyncDone, Duration) {
    let begin = clock::now();
    let done = job.run();
    (done, clock::now().since(begin))
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

/// Threads that take their jobs from one queue.
fn spawn_several<J: Send + 'static>(
    name: &str,
    count: usize,
    jobs: &Jobs<J>,
    done: &UnboundedSender<Done>,
    run: impl Fn(J) -> Done + Copy + Send + 'static,
) -> io::Result<()> {
    for number in 0..count {
        let (jobs, done) = (jobs.out(), done.clone());
        std::thread::Builder::new().name(format!("{name}-{number}")).spawn(move || {
            while let Some(job) = jobs.pop() {
                if done.send(run(job)).is_err() {
                    return;
                }
            }
        })?;
    }
    Ok(())
}
