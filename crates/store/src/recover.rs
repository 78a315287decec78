//! Recovery: the last checkpoint, then the journal's records in order, then a look at every map entry.

use crate::engine::Engine;
use crate::format::checkpoint::Checkpoint;
use crate::format::record::{Body, Record};
use crate::format::{COUNT_MAX, Salt};
use crate::map::ExtentMap;
use crate::open::read_checkpoint;
use crate::reader::Reader;
use crate::replica::{Replica, State};
use crate::{Error, Opened, tail};
use quoin_disk::Dir;
use quoin_types::limits::SEGMENT_BYTES_DEFAULT;
use quoin_types::{BLOCK_BYTES, ExtentIndex, ReplicaId, Seq};

/// How much block data is gathered before it is applied: bounds memory, and lets neighbours be written together.
const GROUP_BYTES: usize = 16 << 20;

/// The later of the two checkpoints. If one is not valid, a crash may have torn it, and the other counts; that the journal
/// then still begins where the other says is proven by [`Engine::recover`]'s look at the rest of the ring.
pub(crate) fn load_checkpoint(dir: &dyn Dir, salt: Salt) -> Result<Checkpoint, Error> {
    let (even, odd) = (read_checkpoint(dir, 0, salt)?, read_checkpoint(dir, 1, salt)?);
    let latest = even.into_iter().chain(odd).max_by_key(|checkpoint| checkpoint.number);
    let latest =
        latest.ok_or_else(|| Error::corrupt("the checkpoint", "neither of its two files is valid"))?;
    is_possible(&latest)
        .then_some(latest)
        .ok_or_else(|| Error::corrupt("the checkpoint", "it tells what cannot be"))
}

/// What the checkpoint says is untrusted even with the right checksum: numbers that only rise must have room to, the
/// journal's files must be as [`crate::Options`] allows, and the segments as replicas are created.
fn is_possible(checkpoint: &Checkpoint) -> bool {
    let Checkpoint { number, lsn, position, incarnation, geometry, .. } = checkpoint;
    [*number, lsn.0, *position, *incarnation].iter().all(|number| *number < COUNT_MAX)
        && position.is_multiple_of(BLOCK_BYTES)
        && geometry.first_file < u32::MAX / 2
        && geometry.files <= 1024
        && geometry.file_bytes <= 1 << 34
        && geometry.file_bytes.is_multiple_of(BLOCK_BYTES)
        && checkpoint.replicas.iter().all(|state| is_segment(state.segment_bytes))
        && checkpoint.replicas.is_sorted_by(|a, b| a.id < b.id)
}

/// Whether [`Engine::create_replica`] would have taken it.
pub(crate) fn is_segment(bytes: u64) -> bool {
    (1..=SEGMENT_BYTES_DEFAULT).contains(&bytes) && bytes.is_multiple_of(BLOCK_BYTES)
}

impl Engine {
    /// Brings data and maps to the journal's end, and rebuilds what is kept in memory only.
    pub(crate) fn recover(&mut self, mut start: Checkpoint, opened: &mut Opened) -> Result<(), Error> {
        for state in std::mem::take(&mut start.replicas) {
            let map = ExtentMap::open(&*self.dir, self.salt, state.id, state.segment_bytes, state.chunks)?;
            let mut replica = Replica::new(state.segment_bytes, map);
            replica.live = State { meta: state.meta, position: state.position };
            replica.applied = Some(replica.live.clone());
            self.replicas.insert(state.id, replica);
        }
        let ring = self.journal.ring().clone();
        // What is read must be what the device has (E4): a page that only the cache has may be gone next time.
        for file in ring.files() {
            let reread = || file.sync().and_then(|()| file.drop_cached(0, ring.geometry().file_bytes));
            reread().map_err(Error::io("reading the journal"))?;
        }
        self.data.sync().map_err(Error::io("syncing data"))?;
        let end = tail::find_end(Reader::new(ring.clone(), self.salt, &start), &*self.data)?;
        let mut reader = Reader::new(ring, self.salt, &start);
        reader.limit = end;
        self.replay(&mut reader, opened)?;
        (self.accepted, self.durable) = (end, end);
        (self.applied, self.applied_position) = (end, reader.position);
        (opened.end, opened.replayed_bytes) = (end, reader.position - start.position);
        self.replicas.retain(|_, replica| replica.dropped.is_none());
        self.rebuild_slots(opened)
    }

    fn replay(&mut self, reader: &mut Reader, opened: &mut Opened) -> Result<(), Error> {
        let mut group = Vec::new();
        let mut group_bytes = 0;
        while let Some((records, whole)) = reader.next_batch()? {
            opened.replayed_records += records.len() as u64;
            for record in records {
                self.prepare_replay(&record)?;
                group_bytes += record.body.data_bytes();
                group.push(record);
            }
            if group_bytes >= GROUP_BYTES {
                self.redo(std::mem::take(&mut group))?;
                group_bytes = 0;
            }
            if !whole {
                break;
            }
        }
        self.redo(group)
    }

    /// What the verbs did before they appended the record.
    fn prepare_replay(&mut self, record: &Record) -> Result<(), Error> {
        let id = record.replica;
        if let Body::Create { segment_bytes, .. } = &record.body {
            // Whatever was stored there is stored again by the records that follow (E3).
            if !is_segment(*segment_bytes) {
                return Err(Error::corrupt("the journal", format!("record {} makes no segment", record.lsn)));
            }
            let map = ExtentMap::create(&*self.dir, self.salt, id, *segment_bytes)?;
            self.replicas.insert(id, Replica::new(*segment_bytes, map));
        }
        let capacity = self.slots.count();
        let damaged =
            || Error::corrupt("the journal", format!("record {} does not fit its replica", record.lsn));
        let replica = self.replicas.get_mut(&id).ok_or_else(damaged)?;
        let extents = replica.map.extents();
        match &record.body {
            Body::Extents { changes, .. } => {
                for change in changes {
                    let slot_exists = change.entry.slot.is_none_or(|slot| slot.0 < capacity);
                    if change.extent.0 >= extents || !slot_exists {
                        return Err(damaged());
                    }
                    replica.map.prepare_store(change.extent, 1)?;
                }
            }
            Body::Zero { first, count, .. } => {
                if first.0.checked_add(*count).is_none_or(|end| end > extents) {
                    return Err(damaged());
                }
                replica.map.prepare_store(*first, *count)?;
            }
            Body::Create { .. } | Body::Drop | Body::Meta(_) => {}
        }
        replica.replay_state(record);
        Ok(())
    }

    /// Reads all maps: which slots are used, which entries are damaged.
    fn rebuild_slots(&mut self, opened: &mut Opened) -> Result<(), Error> {
        let mut ids: Vec<ReplicaId> = self.replicas.keys().copied().collect();
        ids.sort_unstable();
        let Engine { slots, replicas, .. } = self;
        for id in ids {
            let Some(replica) = replicas.get_mut(&id) else { continue };
            let (mut allocated, mut bounds, mut twice) = (0, Vec::new(), None);
            replica.map.scan(ExtentIndex(0), None, |extent, entry| {
                let Some(entry) = entry else {
                    tracing::error!(replica = %id, %extent, "a map entry is damaged; the extent cannot be read");
                    opened.damaged.push((id, extent));
                    // Nobody knows its version: no scan may pass over it.
                    bounds.push((extent, Seq(u64::MAX)));
                    return true;
                };
                bounds.push((extent, entry.version));
                if let Some(slot) = entry.slot {
                    allocated += 1;
                    if !slots.mark_used(slot) {
                        twice = Some((extent, slot));
                    }
                }
                true
            });
            if let Some((extent, slot)) = twice {
                let what = format!("the map entry of extent {extent} of replica {id}");
                return Err(Error::corrupt(
                    what,
                    format!("slot {} is another extent's, or does not exist", slot.0),
                ));
            }
            replica.extents_allocated = allocated;
            for (extent, version) in bounds {
                replica.map.raise_bound(extent, 1, version);
            }
        }
        Ok(())
    }
}
