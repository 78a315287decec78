//! Format, open and shut down.

use crate::checkpoint::RedoWork;
use crate::engine::Engine;
use crate::format::checkpoint::{self, Checkpoint, Geometry};
use crate::format::starts::{self, Starts};
use crate::format::{BLOCK, Salt, superblock};
use crate::journal::{Journal, Ring, file_name};
use crate::place::Placements;
use crate::pool::Pool;
use crate::slot_data::SlotData;
use crate::slots::Slots;
use crate::{Error, Identity, Opened, Options, Statistics, Unopened, map, recover};
use bytes::Bytes;
use quoin_disk::{Dir, File, Lock, OpenMode};
use quoin_types::collections::HashMap;
use quoin_types::{BootId, ClusterId, EXTENT_BYTES, StartMark};
use std::collections::{BTreeSet, VecDeque};
use std::io::{self, ErrorKind};
use std::sync::Arc;

pub(crate) const DATA: &str = "data";

pub(crate) fn lock(dir: &dyn Dir) -> Result<Lock, Error> {
    dir.lock().map_err(|error| match error.kind() {
        ErrorKind::WouldBlock => Error::Locked,
        _ => Error::io("locking the directory")(error),
    })
}

/// All of a file; `None` if it is not there.
pub(crate) fn read_whole(dir: &dyn Dir, name: &str) -> Result<Option<Vec<u8>>, Error> {
    let file = match dir.open(name, OpenMode::Existing) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(name)(error)),
    };
    let read = || -> io::Result<Vec<u8>> {
        let mut content = vec![0; file.len()? as usize];
        file.read_at(&mut content, 0)?;
        Ok(content)
    };
    read().map(Some).map_err(Error::io(name))
}

/// Writes at a place of a file, durably but for the file's name.
fn write_durably(dir: &dyn Dir, name: &str, offset: u64, content: &[u8]) -> Result<(), Error> {
    let write = || -> io::Result<()> {
        let file = dir.open(name, OpenMode::OpenOrCreate)?;
        file.write_at(content, offset)?;
        file.sync()
    };
    write().map_err(Error::io(format!("writing {name}")))
}

pub(crate) fn read_identity(dir: &dyn Dir) -> Result<Identity, Error> {
    // The superblock is the last that formatting writes: one that is empty or blank was never finished.
    let block = read_whole(dir, superblock::NAME)?.unwrap_or_default();
    if block.iter().all(|byte| *byte == 0) {
        return Err(Error::NotFormatted);
    }
    superblock::decode(&block)
}

impl Engine {
    /// Makes an empty directory a disk. Everything else is durable before the superblock, which makes it one.
    pub fn format(dir: &dyn Dir, identity: &Identity) -> Result<(), Error> {
        if identity.capacity_bytes > superblock::CAPACITY_BYTES_MAX {
            return Err(Error::Option { what: "capacity_bytes is more than 256 TiB" });
        }
        let _lock = lock(dir)?;
        match read_identity(dir) {
            Err(Error::NotFormatted) => {}
            Ok(found) => return Err(Error::AlreadyFormatted { disk: found.disk }),
            Err(error) => return Err(error),
        }
        let salt = Salt::of_disk(identity.disk);
        let first = Checkpoint { number: 1, ..Checkpoint::default() };
        let starts = Starts { clean: true, ..Starts::default() };
        write_durably(dir, DATA, 0, &[])?;
        write_durably(dir, checkpoint::file_name(0), 0, &[])?;
        write_durably(dir, checkpoint::file_name(1), 0, &first.encode(salt))?;
        write_durably(dir, starts::NAME, starts.offset(), &starts.encode(salt))?;
        write_durably(dir, superblock::NAME, 0, &[0; BLOCK])?;
        dir.sync().map_err(Error::io("formatting"))?;
        write_durably(dir, superblock::NAME, 0, &superblock::encode(identity))
    }

    /// Opens a disk: takes the directory, raises the start counter, replays the journal and checks every map entry.
    /// `boot` is that of the running kernel. With a `cluster`, a disk of another one is refused. Who must be asked before
    /// the disk may start (rule C2) takes the two steps of it by themselves: [`Engine::look_at`] and [`Unopened::open`].
    pub fn open(
        dir: Arc<dyn Dir>,
        cluster: Option<ClusterId>,
        boot: BootId,
        options: Options,
    ) -> Result<(Engine, Opened), Error> {
        Engine::look_at(dir, cluster)?.open(boot, options, StartMark::default())
    }

    /// Takes the directory and reads who the disk is and how often it was started. Nothing is written: dropped, the disk is what
    /// it was.
    pub fn look_at(dir: Arc<dyn Dir>, cluster: Option<ClusterId>) -> Result<Unopened, Error> {
        let lock = lock(&*dir)?;
        let identity = read_identity(&*dir)?;
        if let Some(expected) = cluster.filter(|cluster| *cluster != identity.cluster) {
            return Err(Error::WrongCluster { found: identity.cluster, expected });
        }
        let salt = Salt::of_disk(identity.disk);
        let checkpoint = recover::load_checkpoint(&*dir, salt)?;
        let starts = Starts::latest(&read_whole(&*dir, starts::NAME)?.unwrap_or_default(), salt)?;
        Ok(Unopened { lock, dir, identity, salt, checkpoint, starts })
    }

    /// Raises the start counter and opens what was looked at.
    pub(crate) fn start(
        unopened: Unopened,
        boot: BootId,
        options: Options,
        mark: StartMark,
    ) -> Result<(Engine, Opened), Error> {
        options.validate()?;
        let count = unopened.next_start_count();
        let Unopened { lock, dir, identity, salt, checkpoint, starts: last } = unopened;
        let file = |name| dir.open(name, OpenMode::Existing).map_err(Error::io(name));
        let starts_file = file(starts::NAME)?;
        // A2: the former boot stays on record until the caller has noted what its end means.
        let power_was_lost = !last.clean && last.boot != boot;
        let recorded = if power_was_lost { last.boot } else { boot };
        let starts = Starts { sequence: last.sequence + 1, count, boot: recorded, clean: false, mark };
        write_starts(&*starts_file, &starts, salt)?;
        let mut opened =
            Opened { start_count: count, crashed: !last.clean, power_was_lost, ..Opened::default() };

        let slots = Slots::new(identity.capacity_bytes / EXTENT_BYTES);
        let reserve_slots = (options.reserve_bytes / EXTENT_BYTES).min(slots.count() / 8);
        let ring = Ring::open(&*dir, checkpoint.geometry)?;
        let data = file(DATA)?;
        data.expect_random_reads().map_err(Error::io(DATA))?;
        let mut engine = Engine {
            _lock: lock,
            salt,
            boot,
            starts,
            starts_file,
            checkpoint_files: [file(checkpoint::file_name(0))?, file(checkpoint::file_name(1))?],
            data,
            journal: Journal::new(ring, salt, count, checkpoint.lsn, checkpoint.position),
            slots,
            reserve_slots,
            replicas: HashMap::default(),
            with_deleted: BTreeSet::new(),
            pool: Pool::open(&*dir, salt)?,
            slot_data: SlotData::default(),
            accepted: checkpoint.lsn,
            durable: checkpoint.lsn,
            sync_under_way: false,
            write_through: None,
            applied: checkpoint.lsn,
            applied_position: checkpoint.position,
            pending: VecDeque::new(),
            placements: Placements::default(),
            batch_ends: VecDeque::new(),
            unapplied_bytes: 0,
            applying: None,
            apply_number: 0,
            filesystem_full: false,
            ask_filesystem: false,
            checkpoint_number: checkpoint.number,
            checkpoint_lsn: checkpoint.lsn,
            checkpoint_in_flight: None,
            redo_work: RedoWork::default(),
            names_changed: true,
            freed: VecDeque::new(),
            freed_chunks: VecDeque::new(),
            quarantine: VecDeque::new(),
            read_epoch: Arc::new(()),
            landing: Arc::default(),
            poisoned: None,
            statistics: Statistics::default(),
            identity,
            dir,
        };
        engine.recover(checkpoint, &mut opened)?;
        engine.begin_incarnation(options)?;
        engine.statistics = Statistics::default();
        Ok((engine, opened))
    }

    /// E4: after recovery a checkpoint names the new incarnation, and nothing of the journal before it counts any more.
    fn begin_incarnation(&mut self, options: Options) -> Result<(), Error> {
        let old = self.journal.ring().geometry();
        let (files, file_bytes) = (options.journal_files, options.journal_file_bytes);
        let mut position = self.applied_position;
        let mut ring = self.journal.ring().clone();
        if (old.files, old.file_bytes) != (files, file_bytes) {
            // New files beside the old ones, which the last checkpoint needs until the new one is durable.
            let first_file = old.first_file.checked_add(old.files).unwrap_or(0);
            ring = Ring::create(&*self.dir, Geometry { first_file, files, file_bytes })?;
            position = 0;
        }
        self.applied_position = position;
        self.redo_work = RedoWork::default();
        self.journal = Journal::new(ring, self.salt, self.starts.count, self.durable, position);
        self.checkpoint_now()?;
        self.remove_strays()
    }

    /// Removes files that a crash left behind: maps of replicas that are not, journal files of another geometry.
    fn remove_strays(&mut self) -> Result<(), Error> {
        let geometry = self.journal.ring().geometry();
        let mut known: Vec<String> = self.replicas.keys().map(|id| map::file_name(*id)).collect();
        known.extend((geometry.first_file..geometry.first_file + geometry.files).map(file_name));
        known.sort_unstable();
        for name in self.dir.list().map_err(Error::io("listing the directory"))? {
            let ours = name.starts_with("map.") || name.starts_with("journal.");
            if ours && known.binary_search(&name).is_err() {
                self.dir.remove(&name).map_err(Error::io(format!("removing {name}")))?;
                self.names_changed = true;
            }
        }
        Ok(())
    }

    /// After a loss of power: the caller has committed what it means for its replicas (rule A2). Until this is called,
    /// each further open says again that power was lost, so that a crash in between forgets nothing.
    pub fn power_loss_noted(&mut self) -> Result<(), Error> {
        self.ensure_healthy()?;
        let starts = Starts { sequence: self.starts.sequence + 1, boot: self.boot, ..self.starts };
        write_starts(&*self.starts_file, &starts, self.salt).map_err(|error| self.poison(error))?;
        self.starts = starts;
        Ok(())
    }

    /// Commits, syncs, makes a checkpoint and marks the shutdown as clean: the next start has nothing to replay.
    pub fn shutdown(mut self) -> Result<(), Error> {
        self.commit()?;
        self.checkpoint_now()?;
        let starts = Starts {
            sequence: self.starts.sequence + 1,
            clean: self.starts.boot == self.boot,
            ..self.starts
        };
        write_starts(&*self.starts_file, &starts, self.salt)
    }
}

fn write_starts(file: &dyn File, starts: &Starts, salt: Salt) -> Result<(), Error> {
    let write = || -> io::Result<()> {
        file.write_at(&starts.encode(salt), starts.offset())?;
        file.sync()
    };
    write().map_err(Error::io("writing starts"))
}

/// The content of a checkpoint file.
pub(crate) fn read_checkpoint(dir: &dyn Dir, number: u64, salt: Salt) -> Result<Option<Checkpoint>, Error> {
    let content = Bytes::from(read_whole(dir, checkpoint::file_name(number))?.unwrap_or_default());
    Checkpoint::decode(&content, salt)
}
