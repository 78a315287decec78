//! Clients that share blocks, and write down what they saw, for `quoin-history` to judge.
//!
//! Every write has a value of its own. One record takes what the clients of several gateways see: their clock is one.

use crate::clock::{now, think};
use crate::nbd::{Command, Nbd, NbdError};
use crate::pattern::{self, BLOCK, mix};
use quoin_history::{History, Operation, What};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a client that waits for an answer looks whether it shall stop.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What clients saw so far.
#[derive(Clone)]
pub struct Record {
    shared: Arc<Shared>,
}

struct Shared {
    origin: Instant,
    next_value: AtomicU64,
    next_client: AtomicU64,
    history: Mutex<History>,
}

impl Default for Record {
    fn default() -> Self {
        let (next_value, next_client) = (AtomicU64::new(1), AtomicU64::new(0));
        Self {
            shared: Arc::new(Shared { origin: now(), next_value, next_client, history: Mutex::default() }),
        }
    }
}

impl Record {
    /// A moment as the history has it.
    pub fn ns(&self, at: Instant) -> u64 {
        u64::try_from(at.duration_since(self.shared.origin).as_nanos()).expect("a short test")
    }

    /// Starts clients of a volume.
    #[track_caller]
    pub fn clients(&self, address: SocketAddr, export: &str, plan: Plan) -> Clients {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..plan.clients)
            .map(|_| {
                let nbd = Nbd::open(address, export).unwrap_or_else(|error| panic!("{export}: {error}"));
                let number = self.shared.next_client.fetch_add(1, Ordering::Relaxed);
                let (record, stop, count) = (self.clone(), stop.clone(), count.clone());
                let client =
                    Client { nbd, record, plan, number, random: mix(number), seen: Vec::new(), stop };
                std::thread::spawn(move || client.run(&count))
            })
            .collect();
        Clients { stop, count, threads }
    }

    /// What was seen by clients that have been stopped.
    pub fn history(&self) -> History {
        self.shared.history.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Judges all that was seen, and then reads every block and judges that, too; gives the values that the blocks hold.
    ///
    /// # Panics
    /// With the operations that no disk can have answered so. If `E2E_HISTORY` names a directory, the history is written there.
    #[track_caller]
    pub fn judge(&self, nbd: &mut Nbd, blocks: u64) -> Vec<u64> {
        let mut seen = Vec::new();
        let mut values = Vec::new();
        for block in 0..blocks {
            let begun = now();
            let content = nbd.read(block * BLOCK as u64, BLOCK as u32).expect("a read at the end");
            let value = pattern::version(block, &content).unwrap_or_else(|problem| panic!("{problem}"));
            seen.push(self.operation(u64::MAX, What::Read { block, value }, begun, true));
            values.push(value);
        }
        self.add(&seen);
        let history = self.history();
        if let Some(dir) = std::env::var_os("E2E_HISTORY") {
            let test = std::thread::current().name().unwrap_or("history").replace("::", "-");
            let path = Path::new(&dir).join(format!("{test}.jsonl"));
            let file = std::fs::File::create(path).expect("a file for the history");
            quoin_history::write(&history, std::io::BufWriter::new(file)).expect("a history on disk");
        }
        if let Err(violation) = quoin_history::check(&history) {
            panic!("{violation}");
        }
        values
    }

    fn operation(&self, client: u64, what: What, begun: Instant, answered: bool) -> Operation {
        let end_ns = answered.then(|| self.ns(now()));
        Operation { client, epoch: 0, what, start_ns: self.ns(begun), end_ns }
    }

    fn add(&self, seen: &[Operation]) {
        let mut history = self.shared.history.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().for_each(|operation| history.push(*operation));
    }
}

/// What clients do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many clients there are. Each has one request under way at a time.
    pub clients: u64,
    /// The first of the blocks that they share.
    pub first_block: u64,
    /// How many blocks they share.
    pub blocks: u64,
    /// Of ten requests, how many are reads.
    pub reads_of_ten: u64,
    /// Whether every write is to be durable before it is answered.
    pub fua: bool,
    /// How long each waits before its next request.
    pub think: Duration,
}

/// What some clients were told.
#[derive(Default, Debug)]
pub struct Told {
    /// All that they did.
    pub operations: Vec<Operation>,
    /// The errors that ended clients: each has at most one.
    pub errors: Vec<String>,
}

impl Told {
    /// The longest that an operation took which was under way at some moment of this span, in the record's time. One without
    /// an answer counts as long as it was waited for.
    pub fn worst(&self, from_ns: u64, to_ns: u64) -> Duration {
        let spans = self.operations.iter().map(|one| (one.start_ns, one.end_ns.unwrap_or(u64::MAX)));
        let under_way = spans.filter(|(start, end)| *start <= to_ns && *end >= from_ns);
        Duration::from_nanos(under_way.map(|(start, end)| end - start).max().unwrap_or_default())
    }

    /// How long the operations took that began in one of these spans, the shortest first.
    pub fn latencies(&self, spans: &[(u64, u64)]) -> Vec<Duration> {
        let within = |one: &&Operation| spans.iter().any(|(from, to)| (*from..*to).contains(&one.start_ns));
        let took = |one: &Operation| one.end_ns.unwrap_or(u64::MAX) - one.start_ns;
        let mut all: Vec<Duration> =
            self.operations.iter().filter(within).map(|one| Duration::from_nanos(took(one))).collect();
        all.sort_unstable();
        all
    }
}

/// Clients at work, until they are stopped or meet an error.
pub struct Clients {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Told>>,
}

impl Clients {
    /// How many requests have been answered.
    pub fn answered(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits until so many more requests have been answered, or all clients have ended.
    #[track_caller]
    pub fn until_more(&self, requests: u64, within: Duration) {
        let goal = self.answered() + requests;
        crate::until("requests to be answered", within, || {
            let over = self.answered() >= goal || self.have_ended();
            if over { Ok(()) } else { Err(format!("{} of {goal}", self.answered())) }
        });
    }

    /// Waits until that much time has passed since a moment, while the clients work.
    #[track_caller]
    pub fn until_after(&self, begun: Instant, time: Duration) {
        crate::until("a span of work to pass", time * 2, || {
            if begun.elapsed() >= time { Ok(()) } else { Err("not yet".to_owned()) }
        });
    }

    /// Whether all have met an error.
    pub fn have_ended(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Stops them, also while they wait for an answer, and gives what they were told.
    pub fn stop(self) -> Told {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Told::default();
        for thread in self.threads {
            let told = thread.join().expect("a client does not panic");
            all.operations.extend(told.operations);
            all.errors.extend(told.errors);
        }
        all
    }
}

struct Client {
    nbd: Nbd,
    record: Record,
    plan: Plan,
    number: u64,
    random: u64,
    seen: Vec<Operation>,
    stop: Arc<AtomicBool>,
}

impl Client {
    fn run(mut self, count: &AtomicU64) -> Told {
        let mut errors = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            match self.request() {
                Ok(true) => {
                    count.fetch_add(1, Ordering::Relaxed);
                    if !self.plan.think.is_zero() {
                        think(self.plan.think);
                    }
                }
                Ok(false) => break,
                Err(error) => {
                    errors.push(error);
                    break;
                }
            }
        }
        self.record.add(&self.seen);
        Told { operations: self.seen, errors }
    }

    /// One request; `false` if it was stopped while it waited for the answer.
    fn request(&mut self) -> Result<bool, String> {
        self.random = mix(self.random);
        let block = self.plan.first_block + self.random % self.plan.blocks;
        let offset = block * BLOCK as u64;
        let begun = now();
        if (self.random >> 32) % 10 < self.plan.reads_of_ten {
            let sent = self.nbd.send(Command::Read(BLOCK as u32), offset, &[]);
            let Some(content) = self.answer(sent).map_err(|error| format!("read: {error}"))? else {
                return Ok(false);
            };
            let value = pattern::version(block, &content)?;
            self.seen.push(self.record.operation(self.number, What::Read { block, value }, begun, true));
            return Ok(true);
        }
        let value = self.record.shared.next_value.fetch_add(1, Ordering::Relaxed);
        let content = pattern::block(block, value);
        let begun = now();
        let sent = self.nbd.send(Command::Write { fua: self.plan.fua }, offset, &content);
        let answer = self.answer(sent);
        let answered = matches!(answer, Ok(Some(_)));
        let what = What::Write { block, value, durable: self.plan.fua && answered };
        // An error is no proof that nothing was written.
        self.seen.push(self.record.operation(self.number, what, begun, answered));
        answer.map(|answer| answer.is_some()).map_err(|error| format!("write: {error}"))
    }

    /// The answer to the only request under way; `None` if this client is to stop before it is there.
    fn answer(&mut self, sent: Result<u64, NbdError>) -> Result<Option<Vec<u8>>, NbdError> {
        let cookie = sent?;
        while !self.nbd.answers_within(LOOK_EVERY)? {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
        }
        let (answered, answer) = self.nbd.receive()?;
        assert_eq!(answered, cookie, "the answer to another request");
        answer.map(Some)
    }
}
