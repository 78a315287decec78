//! The engine with its jobs on threads, as the storage node runs them.

use benches::BLOCK;
use bytes::Bytes;
use quoin_disk::{Dir, OsDir};
use quoin_store::{
    ApplyDone, ApplyJob, CheckpointDone, CheckpointJob, Engine, Identity, Lsn, Opened, Options, PlaceDone,
    PlaceJob, SyncDone, SyncJob, View,
};
use quoin_types::{BootId, ClusterId, DiskId, ReplicaId, Seq};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

pub(crate) const REPLICA: ReplicaId = ReplicaId(1);
const PLACERS: usize = 4;

enum Done {
    Place(PlaceDone),
    Sync(SyncDone),
    Apply(ApplyDone),
    Checkpoint(CheckpointDone),
}

/// One disk in a directory, with one replica.
pub(crate) struct Rig {
    pub(crate) engine: Engine,
    seq: u64,
    /// Writes that are not durable yet.
    outstanding: VecDeque<Lsn>,
    places: Sender<PlaceJob>,
    syncs: Sender<SyncJob>,
    applies: Sender<ApplyJob>,
    checkpoints: Sender<CheckpointJob>,
    done: Receiver<Done>,
}

/// Threads with one queue.
fn threads<J: Send + 'static>(
    count: usize,
    done: &Sender<Done>,
    run: impl Fn(J) -> Done + Copy + Send + 'static,
) -> Sender<J> {
    let (jobs, queue) = channel();
    let queue = Arc::new(Mutex::new(queue));
    for _ in 0..count {
        let (queue, done) = (queue.clone(), done.clone());
        std::thread::spawn(move || {
            loop {
                let next = queue.lock().expect("a thread has panicked").recv();
                let Ok(job) = next else { return };
                if done.send(run(job)).is_err() {
                    return;
                }
            }
        });
    }
    jobs
}

/// Opens the disk that is there.
pub(crate) fn open(path: &Path) -> (Engine, Opened) {
    let dir: Arc<dyn Dir> = Arc::new(OsDir::open(path).expect("a directory"));
    Engine::open(dir, None, BootId([1; 16]), Options::default()).expect("an engine")
}

impl Rig {
    /// Makes the directory a disk with an empty replica.
    pub(crate) fn new(path: &Path, capacity_bytes: u64, segment_bytes: u64) -> Self {
        std::fs::create_dir_all(path).expect("a directory");
        let identity = Identity { cluster: ClusterId([7; 16]), disk: DiskId([9; 16]), capacity_bytes };
        Engine::format(&OsDir::open(path).expect("a directory"), &identity).expect("a formatted disk");
        let mut rig = Self::on(open(path).0);
        rig.engine.create_replica(REPLICA, segment_bytes, Bytes::new()).expect("a replica");
        rig.settle();
        rig
    }

    fn on(engine: Engine) -> Self {
        let (finished, done) = channel();
        Self {
            engine,
            seq: 0,
            outstanding: VecDeque::new(),
            places: threads(PLACERS, &finished, |job: PlaceJob| Done::Place(job.run())),
            syncs: threads(1, &finished, |job: SyncJob| Done::Sync(job.run())),
            applies: threads(1, &finished, |job: ApplyJob| Done::Apply(job.run())),
            checkpoints: threads(1, &finished, |job: CheckpointJob| Done::Checkpoint(job.run())),
            done,
        }
    }

    pub(crate) fn next_seq(&mut self) -> Seq {
        self.seq += 1;
        Seq(self.seq)
    }

    /// One write, of whole blocks.
    pub(crate) fn write(&mut self, offset: u64, checksums: &[u32], data: &Bytes) {
        let seq = self.next_seq();
        let lsn = self.engine.write(REPLICA, seq, offset, checksums, data.clone()).expect("a write");
        self.outstanding.push_back(lsn);
    }

    /// Ends a batch: writes it, and gives the threads what there is to do.
    pub(crate) fn submit(&mut self) {
        self.engine.submit().expect("a batch");
        self.start_jobs();
    }

    fn start_jobs(&mut self) {
        let engine = &mut self.engine;
        while let Some(job) = engine.start_place() {
            self.places.send(job).expect("the threads live");
        }
        engine.start_sync().into_iter().for_each(|job| self.syncs.send(job).expect("the thread lives"));
        engine.start_apply().into_iter().for_each(|job| self.applies.send(job).expect("the thread lives"));
        if let Some(job) = engine.start_checkpoint(false) {
            self.checkpoints.send(job).expect("the thread lives");
        }
    }

    fn deliver(&mut self, done: Done) {
        match done {
            Done::Place(done) => drop(self.engine.finish_place(done).expect("data in its place")),
            Done::Sync(done) => drop(self.engine.finish_sync(done).expect("a sync")),
            Done::Apply(done) => self.engine.finish_apply(done).expect("an apply"),
            Done::Checkpoint(done) => self.engine.finish_checkpoint(done).expect("a checkpoint"),
        }
        self.start_jobs();
    }

    /// Takes note of what has ended, without a wait.
    pub(crate) fn turn(&mut self) {
        while let Ok(done) = self.done.try_recv() {
            self.deliver(done);
        }
    }

    /// Waits until at most this many writes are not durable; says how many have become so.
    pub(crate) fn wait_durable(&mut self, at_most: usize) -> u64 {
        let before = self.outstanding.len();
        loop {
            let durable = self.engine.durable();
            while self.outstanding.pop_front_if(|lsn| *lsn <= durable).is_some() {}
            if self.outstanding.len() <= at_most {
                return (before - self.outstanding.len()) as u64;
            }
            let done = self.done.recv().expect("the threads live");
            self.deliver(done);
        }
    }

    /// Waits until all that was written is accepted.
    pub(crate) fn wait_accepted(&mut self, last: Lsn) {
        while self.engine.accepted() < last {
            let done = self.done.recv().expect("the threads live");
            self.deliver(done);
        }
    }

    /// Waits until everything is durable and in its place.
    pub(crate) fn settle(&mut self) {
        self.submit();
        self.wait_durable(0);
        while self.engine.applied() < self.engine.durable() || self.engine.durable() < self.engine.accepted()
        {
            let done = self.done.recv().expect("the threads live");
            self.deliver(done);
        }
    }

    /// A checkpoint of everything.
    pub(crate) fn checkpoint(&mut self) {
        self.settle();
        let before = self.engine.statistics().checkpoints;
        if let Some(job) = self.engine.start_checkpoint(true) {
            self.checkpoints.send(job).expect("the thread lives");
            while self.engine.statistics().checkpoints == before {
                let done = self.done.recv().expect("the threads live");
                self.deliver(done);
            }
        }
    }

    /// Reads blocks, and has them verified.
    pub(crate) fn read(&mut self, offset: u64, blocks: usize) {
        self.read_view(View::Live, offset, blocks);
    }

    pub(crate) fn read_view(&mut self, view: View, offset: u64, blocks: usize) {
        let mut plan = self.engine.read(REPLICA, view, offset, (blocks * BLOCK) as u64).expect("a read");
        if !plan.try_cached().expect("a cached read") {
            plan.run();
        }
        let _ = self.engine.finish_read(plan).expect("a read");
    }
}
