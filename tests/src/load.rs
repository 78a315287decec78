//! Clients at work: writes, reads and flushes, each checked and timed.
//!
//! Each client has a connection and a region of the volume of its own, so that it knows what every block must hold.

use crate::clock::now;
use crate::nbd::{Nbd, NbdError};
use crate::pattern::{self, BLOCK, mix};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What the clients do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many clients there are.
    pub clients: u64,
    /// How many blocks each of them has.
    pub blocks: u64,
    /// Of ten requests, how many are reads.
    pub reads_of_ten: u64,
    /// After how many writes a client flushes; 0 for never.
    pub flush_every: u64,
}

/// What is known of a block: a later look at it may find any write from `acknowledged` to `sent`.
#[derive(Clone, Copy, Default, Debug)]
pub struct Block {
    /// The last write that was sent.
    pub sent: u64,
    /// The last write that was acknowledged.
    pub acknowledged: u64,
    /// The last write that a flush has covered.
    pub flushed: u64,
}

/// A request that was answered.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// When it was sent.
    pub begun: Instant,
    /// How long the answer took.
    pub took: Duration,
    /// Whether it was a flush, whose time is the disk's.
    pub is_flush: bool,
}

/// What clients have done and found.
#[derive(Default, Debug)]
pub struct Work {
    /// All answered requests, by client.
    pub answered: Vec<Answered>,
    /// What went wrong.
    pub errors: Vec<String>,
    /// Every block, from the first client's first on.
    pub blocks: Vec<Block>,
}

/// Clients that run until they are stopped, or meet an error.
pub struct Load {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Work>>,
}

impl Load {
    /// Starts clients on a volume that was never written.
    #[track_caller]
    pub fn start(address: SocketAddr, export: &str, plan: Plan) -> Self {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..plan.clients)
            .map(|client| {
                let nbd = Nbd::open(address, export).unwrap_or_else(|error| panic!("{export}: {error}"));
                let (stop, count) = (stop.clone(), count.clone());
                std::thread::spawn(move || Client::new(nbd, plan, client).run(&stop, &count))
            })
            .collect();
        Self { stop, count, threads }
    }

    /// How many requests have been answered.
    pub fn answered(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits until so many more requests have been answered, or all clients have ended.
    ///
    /// # Panics
    /// If that takes longer than this time.
    #[track_caller]
    pub fn until_more(&self, requests: u64, within: Duration) {
        let goal = self.answered() + requests;
        crate::until("requests to be answered", within, || {
            let over = self.answered() >= goal || self.threads.iter().all(JoinHandle::is_finished);
            if over { Ok(()) } else { Err(format!("{} of {goal}", self.answered())) }
        });
    }

    /// Waits until the clients have met the error that is expected.
    #[track_caller]
    pub fn until_ended(&self, within: Duration) {
        crate::until("the clients to end", within, || {
            if self.threads.iter().all(JoinHandle::is_finished) { Ok(()) } else { Err("they run".to_owned()) }
        });
    }

    /// Stops the clients and gives what they did.
    pub fn stop(self) -> Work {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Work::default();
        for thread in self.threads {
            let work = thread.join().expect("a client does not panic");
            all.answered.extend(work.answered);
            all.errors.extend(work.errors);
            all.blocks.extend(work.blocks);
        }
        all
    }
}

impl Work {
    /// The longest time that a read or a write took which was under way at some moment of this span.
    pub fn worst(&self, from: Instant, to: Instant) -> Duration {
        let spans = self
            .answered
            .iter()
            .filter(|one| !one.is_flush && one.begun <= to && one.begun + one.took >= from);
        spans.map(|one| one.took).max().unwrap_or_default()
    }

    /// Reads every block back.
    ///
    /// # Errors
    /// In words: what was acknowledged and is not there, or what nobody wrote and is.
    pub fn verify(&self, nbd: &mut Nbd) -> Result<(), String> {
        const AT_ONCE: usize = 256;
        let mut number = 0;
        for blocks in self.blocks.chunks(AT_ONCE) {
            let length = u32::try_from(blocks.len() * BLOCK).expect("short");
            let data = nbd.read(number * BLOCK as u64, length).map_err(|error| error.to_string())?;
            for (block, content) in blocks.iter().zip(data.chunks(BLOCK)) {
                let version = pattern::version(number, content)?;
                if version < block.flushed || version < block.acknowledged || version > block.sent {
                    return Err(format!("block {number} holds write {version}: {block:?}"));
                }
                number += 1;
            }
        }
        Ok(())
    }
}

struct Client {
    nbd: Nbd,
    plan: Plan,
    first_block: u64,
    random: u64,
    writes: u64,
    work: Work,
}

impl Client {
    fn new(nbd: Nbd, plan: Plan, client: u64) -> Self {
        let blocks = vec![Block::default(); usize::try_from(plan.blocks).expect("few blocks")];
        let work = Work { blocks, ..Work::default() };
        Self { nbd, plan, first_block: client * plan.blocks, random: mix(client), writes: 0, work }
    }

    fn run(mut self, stop: &AtomicBool, count: &AtomicU64) -> Work {
        while !stop.load(Ordering::Relaxed) {
            let begun = now();
            match self.request() {
                Ok(is_flush) => {
                    self.work.answered.push(Answered { begun, took: begun.elapsed(), is_flush });
                    count.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    self.work.errors.push(error);
                    break;
                }
            }
        }
        self.work
    }

    fn request(&mut self) -> Result<bool, String> {
        let words = |what: &str, error: NbdError| format!("{what}: {error}");
        self.random = mix(self.random);
        let index = usize::try_from(self.random % self.plan.blocks).expect("few blocks");
        let number = self.first_block + index as u64;
        let offset = number * BLOCK as u64;
        if self.plan.flush_every > 0 && self.writes >= self.plan.flush_every {
            self.writes = 0;
            self.nbd.flush().map_err(|error| words("flush", error))?;
            self.work.blocks.iter_mut().for_each(|block| block.flushed = block.acknowledged);
            return Ok(true);
        }
        if (self.random >> 32) % 10 < self.plan.reads_of_ten {
            let content = self.nbd.read(offset, BLOCK as u32).map_err(|error| words("read", error))?;
            let (version, block) = (pattern::version(number, &content)?, self.work.blocks[index]);
            if version != block.acknowledged {
                return Err(format!("block {number} holds write {version}: {block:?}"));
            }
            return Ok(false);
        }
        self.writes += 1;
        let block = &mut self.work.blocks[index];
        block.sent += 1;
        self.nbd.write(offset, &pattern::block(number, block.sent)).map_err(|error| words("write", error))?;
        block.acknowledged = block.sent;
        Ok(false)
    }
}
