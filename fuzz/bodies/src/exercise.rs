//! What is done with a disk that was tampered with: check, dump, open, read everything, write, shut down, open again.

use crate::template::{History, checkpoint, open, write};
use quoin_disk::{Dir, MemDir};
use quoin_store::{Engine, Error, ExtentOutcome, ReadOutcome, Scrub, View, check, dump};
use quoin_types::{BLOCK_BYTES, ExtentIndex, ReplicaId, Seq};
use std::fmt;
use std::sync::Arc;

/// How much of each replica is read.
const BLOCKS_MAX: u64 = 128;
/// A dump that goes on and on.
const DUMP_BYTES_MAX: usize = 4 << 20;

/// Whatever was done to the disk:
///
/// - nothing panics, and nothing takes memory without bounds;
/// - a disk that the offline check finds well opens;
/// - a disk that opened, took writes and was shut down opens again, with these writes.
///
/// With a `history`, which says that nobody forged checksums:
///
/// - all of a disk that the offline check finds well can be read;
/// - no block is ever served that the history does not know.
pub(crate) fn exercise(image: &MemDir, history: Option<&History>) {
    let dir: Arc<dyn Dir> = Arc::new(image.clone());
    let is_well = check(&dir, &mut |_| ()).is_ok_and(|report| report.problems.is_empty());
    let mut text = Bounded(0);
    let dumped = dump(&dir, &mut text);
    assert!(text.0 < DUMP_BYTES_MAX, "the dump has no end: {dumped:?}");
    let mut engine = match open(image) {
        Ok(engine) => engine,
        // Whose disk it is, nobody tells the check.
        Err(Error::WrongCluster { .. }) => return,
        Err(error) => {
            assert!(!is_well, "the check found nothing, but the disk does not open: {error}");
            return;
        }
    };
    let is_forged = history.is_none();
    let is_well = is_well && !is_forged;
    let mut history = history.cloned();
    read_all(&mut engine, is_well, history.as_ref());
    scrub(&mut engine, is_well);
    let written = write_some(&mut engine, history.get_or_insert_default());
    assert!(written.is_ok() || !is_well, "a disk that is well cannot be written: {written:?}");
    if engine.shutdown().is_err() {
        assert!(!is_well, "a disk that is well cannot be shut down");
        return;
    }
    let mut engine = match open(image) {
        Ok(engine) => engine,
        // A forged batch header within another batch's data is nothing, until the journal begins elsewhere.
        Err(Error::DurableLost { .. } | Error::Corrupt { .. }) if is_forged => return,
        Err(error) => panic!("it does not open after a shutdown: {error}"),
    };
    if let Ok(Some((replica, block, value))) = written {
        let data = read(&mut engine, replica, View::Live, block, 1).expect("what was just written");
        assert!(data.chunks(8).all(|word| word == value.to_le_bytes()), "it reads as something else");
    }
}

struct Bounded(usize);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 += text.len();
        if self.0 < DUMP_BYTES_MAX { Ok(()) } else { Err(fmt::Error) }
    }
}

fn read(engine: &mut Engine, replica: ReplicaId, view: View, block: u64, count: u64) -> Option<Vec<u8>> {
    let mut plan = engine.read(replica, view, block * BLOCK_BYTES, count * BLOCK_BYTES).ok()?;
    loop {
        plan.run();
        match engine.finish_read(plan).ok()? {
            ReadOutcome::Data { data, .. } => return Some(data.to_vec()),
            ReadOutcome::Retry(again) => plan = again,
            ReadOutcome::Mismatch { .. } => return None,
        }
    }
}

fn read_all(engine: &mut Engine, is_well: bool, history: Option<&History>) {
    let replicas: Vec<(ReplicaId, u64)> =
        engine.replicas().map(|(id, replica)| (id, replica.segment_bytes / BLOCK_BYTES)).collect();
    let views = replicas.iter().flat_map(|(replica, blocks)| {
        let snapshots = engine.snapshots(*replica).unwrap_or_default().into_iter();
        let snapshots = snapshots.map(|snapshot| View::Snapshot(snapshot.id));
        [View::Live].into_iter().chain(snapshots).map(|view| (*replica, *blocks, view))
    });
    for (replica, blocks, view) in views.collect::<Vec<_>>() {
        for block in 0..blocks.min(BLOCKS_MAX) {
            let data = read(engine, replica, view, block, 1);
            assert!(data.is_some() || !is_well, "block {block} of replica {replica} cannot be read");
            let is_known = |data: &[u8]| history.is_none_or(|history| history.knows(replica, block, data));
            assert!(data.is_none_or(|data| is_known(&data)), "block {block} of replica {replica} is made up");
        }
        for extent in (0..blocks.div_ceil(16).min(BLOCKS_MAX / 16) as u32).map(ExtentIndex) {
            let Ok(mut plan) = engine.read_extent(replica, view, extent) else { continue };
            plan.run();
            let outcome = engine.finish_extent(plan);
            assert!(!is_well || matches!(outcome, Ok(ExtentOutcome::Data(_) | ExtentOutcome::Retry(_))));
        }
        let changed = engine.changed_since(replica, view, Seq(1), ExtentIndex(0), 1000);
        assert!(changed.is_ok_and(|changed| changed.len() <= 1000));
        let _ = engine.count_changed_since(replica, view, Seq::ZERO);
    }
}

/// A lap of scrub, which ends.
fn scrub(engine: &mut Engine, is_well: bool) {
    let mut scrub = Scrub::default();
    while let Some(mut job) = engine.start_scrub(&mut scrub, 1 << 20) {
        job.run();
        let report = engine.finish_scrub(job);
        assert!(report.damaged.is_empty() || !is_well, "{:?}", report.damaged);
    }
}

/// Writes a block and a whole extent, zeroes one, and makes a checkpoint. Says what must be there afterwards.
fn write_some(engine: &mut Engine, history: &mut History) -> Result<Option<(ReplicaId, u64, u64)>, Error> {
    let Some((replica, segment_bytes)) = engine.replicas().map(|(id, view)| (id, view.segment_bytes)).next()
    else {
        return Ok(None);
    };
    let seq = 1_000_000;
    let outcomes = [
        write(engine, history, replica, seq, 2, &[9001]),
        write(engine, history, replica, seq + 1, 16, &[9002; 16]),
        engine.zero(replica, Seq(seq + 2), 0, BLOCK_BYTES).map(drop),
    ];
    while engine.fold()? {}
    checkpoint(engine)?;
    let is_refusal = |error: &Error| {
        matches!(error, Error::NoSpace | Error::Corrupt { .. })
            || (matches!(error, Error::OutOfRange { .. }) && segment_bytes < 32 * BLOCK_BYTES)
    };
    for error in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
        assert!(is_refusal(error), "{error}");
    }
    Ok(outcomes[0].is_ok().then_some((replica, 2, 9001)))
}
