//! The raft log on disk: one redb database, one transaction, and so one sync, per batch of changes.

use super::backend::Backend;
use prost::Message as _;
use quoin_disk::Dir;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition};

/// The database's file in the data directory.
const FILE: &str = "raft.redb";
/// What redb may keep in memory. The log is in memory as it is, so this is for little more than one transaction.
const CACHE_BYTES: usize = 16 << 20;

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

const FORMAT: &str = "format";
const FORMAT_VERSION: &[u8] = b"1";
const HARD_STATE: &str = "hard_state";
const CONF_STATE: &str = "conf_state";
const SNAPSHOT: &str = "snapshot";
const COMPACTED: &str = "compacted";

/// The data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory cannot be used, or another process holds it.
    #[error("the data directory: {0}")]
    Io(std::io::Error),
    /// The database failed; after a failed sync nothing is pretended.
    #[error("the raft log: {0}")]
    Database(Box<redb::Error>),
    /// What is in it makes no sense.
    #[error("the raft log is damaged: {0}")]
    Damaged(&'static str),
    /// Written by a later version.
    #[error("the raft log has another format than this version knows: upgrade this member")]
    Format,
}

impl<E: Into<redb::Error>> From<E> for StoreError
where
    E: std::error::Error,
{
    fn from(error: E) -> Self {
        StoreError::Database(Box::new(error.into()))
    }
}

/// The place before the first entry that is still kept.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Compacted {
    pub(crate) index: u64,
    pub(crate) term: u64,
}

/// What a data directory holds.
#[derive(Default, Debug)]
pub(crate) struct Loaded {
    pub(crate) hard_state: HardState,
    pub(crate) conf_state: ConfState,
    pub(crate) snapshot: Snapshot,
    pub(crate) compacted: Compacted,
    pub(crate) entries: Vec<Entry>,
}

/// Changes that become durable together.
#[derive(Default, Debug)]
pub(crate) struct Batch<'a> {
    /// Appended; entries at and after the first one's index are replaced.
    pub(crate) entries: &'a [Entry],
    pub(crate) hard_state: Option<&'a HardState>,
    pub(crate) conf_state: Option<&'a ConfState>,
    pub(crate) snapshot: Option<&'a Snapshot>,
    /// Entries up to and including this one are removed.
    pub(crate) compacted: Option<Compacted>,
    /// Every entry is removed first: a snapshot from the leader replaces them.
    pub(crate) clear: bool,
}

/// The open database.
pub(crate) struct Store {
    database: Database,
}

impl Store {
    /// Opens or creates the database in `directory`.
    pub(crate) fn open(directory: &dyn Dir) -> Result<(Self, Loaded), StoreError> {
        let backend = Backend::open(directory, FILE).map_err(StoreError::Io)?;
        let database = Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend)?;
        let store = Self { database };
        store.check_format()?;
        let loaded = store.load()?;
        Ok((store, loaded))
    }

    fn check_format(&self) -> Result<(), StoreError> {
        let transaction = self.database.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            transaction.open_table(LOG)?;
            let known = meta.get(FORMAT)?.map(|value| value.value().to_vec());
            match known.as_deref() {
                None => drop(meta.insert(FORMAT, FORMAT_VERSION)?),
                Some(FORMAT_VERSION) => {}
                Some(_) => return Err(StoreError::Format),
            }
        }
        transaction.commit()?;
        Ok(())
    }

    fn load(&self) -> Result<Loaded, StoreError> {
        let transaction = self.database.begin_read()?;
        let meta = transaction.open_table(META)?;
        let log = transaction.open_table(LOG)?;
        let mut loaded = Loaded {
            hard_state: decode(&meta, HARD_STATE)?,
            conf_state: decode(&meta, CONF_STATE)?,
            snapshot: decode(&meta, SNAPSHOT)?,
            ..Loaded::default()
        };
        if let Some(value) = meta.get(COMPACTED)? {
            loaded.compacted = decode_compacted(value.value())?;
        }
        for (expected, item) in (loaded.compacted.index + 1..).zip(log.iter()?) {
            let (index, bytes) = item?;
            let entry = Entry::decode(bytes.value()).map_err(|_| StoreError::Damaged("an entry"))?;
            if index.value() != expected || entry.index != expected {
                return Err(StoreError::Damaged("the entries have a gap"));
            }
            loaded.entries.push(entry);
        }
        Ok(loaded)
    }

    /// Makes a batch durable.
    pub(crate) fn write(&self, batch: &Batch<'_>) -> Result<(), StoreError> {
        let transaction = self.database.begin_write()?;
        {
            let mut log = transaction.open_table(LOG)?;
            let mut meta = transaction.open_table(META)?;
            write_entries(&mut log, batch)?;
            if let Some(hard_state) = batch.hard_state {
                meta.insert(HARD_STATE, hard_state.encode_to_vec().as_slice())?;
            }
            if let Some(conf_state) = batch.conf_state {
                meta.insert(CONF_STATE, conf_state.encode_to_vec().as_slice())?;
            }
            if let Some(snapshot) = batch.snapshot {
                meta.insert(SNAPSHOT, snapshot.encode_to_vec().as_slice())?;
            }
            if let Some(compacted) = batch.compacted {
                meta.insert(COMPACTED, encode_compacted(compacted).as_slice())?;
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

fn write_entries(log: &mut Table<'_, u64, &'static [u8]>, batch: &Batch<'_>) -> Result<(), StoreError> {
    if batch.clear {
        log.retain(|_, _| false)?;
    }
    if let Some(compacted) = batch.compacted {
        log.retain_in(..=compacted.index, |_, _| false)?;
    }
    if let Some(first) = batch.entries.first() {
        log.retain_in(first.index.., |_, _| false)?;
    }
    for entry in batch.entries {
        log.insert(entry.index, entry.encode_to_vec().as_slice())?;
    }
    Ok(())
}

fn decode<M: prost::Message + Default>(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &'static str,
) -> Result<M, StoreError> {
    match meta.get(key)? {
        Some(value) => M::decode(value.value()).map_err(|_| StoreError::Damaged(key)),
        None => Ok(M::default()),
    }
}

fn encode_compacted(compacted: Compacted) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&compacted.index.to_le_bytes());
    bytes[8..].copy_from_slice(&compacted.term.to_le_bytes());
    bytes
}

fn decode_compacted(bytes: &[u8]) -> Result<Compacted, StoreError> {
    let (index, term) = bytes.split_at_checked(8).ok_or(StoreError::Damaged(COMPACTED))?;
    let number =
        |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).map_err(|_| StoreError::Damaged(COMPACTED));
    Ok(Compacted { index: number(index)?, term: number(term)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use quoin_disk::{Effect, Fault, FaultyDir, MemDir, Operation};
    use std::io::ErrorKind;
    use std::sync::Arc;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: vec![index as u8; 3], ..Entry::default() }
    }

    #[test]
    fn what_was_written_is_there_after_opening_again() {
        let directory = MemDir::new();
        let (store, loaded) = Store::open(&directory).unwrap();
        assert!(loaded.entries.is_empty());
        let first: Vec<Entry> = (1..=6).map(|index| entry(index, 1)).collect();
        let hard_state = HardState { term: 2, vote: 3, commit: 4 };
        store.write(&Batch { entries: &first, hard_state: Some(&hard_state), ..Batch::default() }).unwrap();
        // Entries of a new term replace the tail, and the head is compacted.
        store.write(&Batch { entries: &[entry(5, 2)], ..Batch::default() }).unwrap();
        let compacted = Compacted { index: 2, term: 1 };
        store.write(&Batch { compacted: Some(compacted), ..Batch::default() }).unwrap();
        drop(store);
        let (_, loaded) = Store::open(&directory).unwrap();
        assert_eq!(loaded.entries, [entry(3, 1), entry(4, 1), entry(5, 2)]);
        assert_eq!(loaded.hard_state, hard_state);
        assert_eq!(loaded.compacted, compacted);
    }

    #[test]
    fn a_directory_belongs_to_one_member_at_a_time() {
        let directory = MemDir::new();
        let (store, _) = Store::open(&directory).unwrap();
        let taken = |result| matches!(result, Err(StoreError::Io(e)) if e.kind() == ErrorKind::WouldBlock);
        assert!(taken(Store::open(&directory).map(drop)));
        drop(store);
        Store::open(&directory).unwrap();
    }

    #[test]
    fn whatever_a_loss_of_power_leaves_every_batch_that_was_written_is_in_it() {
        let directory = MemDir::new();
        let (store, _) = Store::open(&directory).unwrap();
        for index in 1..=20 {
            store.write(&Batch { entries: &[entry(index, 1)], ..Batch::default() }).unwrap();
            let (_, loaded) = Store::open(&directory.crash(index)).unwrap();
            assert_eq!(loaded.entries.last(), Some(&entry(index, 1)));
            assert_eq!(loaded.entries.len() as u64, index);
        }
    }

    #[test]
    fn after_a_failed_sync_nothing_is_written_any_more() {
        let healthy = MemDir::new();
        drop(Store::open(&healthy).unwrap());
        let faulty = FaultyDir::new(Arc::new(healthy));
        let (store, _) = Store::open(&faulty).unwrap();
        let (operation, effect) = (Operation::Sync, Effect::InputOutput);
        faulty.inject(Fault { operation, name_prefix: FILE.to_owned(), after: 0, times: 1, effect });
        let write = || store.write(&Batch { entries: &[entry(1, 1)], ..Batch::default() });
        assert!(write().is_err());
        assert!(write().is_err(), "the disk is well again, and not believed");
    }
}
