//! The journal: a ring of pre-written files, appended to in batches by one writer.
//!
//! A position counts bytes since the beginning of the ring's life and only rises; its place in the files is the
//! remainder by the ring's size. The engine sees to it that the head never passes the tail by more than that.

use crate::format::batch::{self, BatchHeader};
use crate::format::checkpoint::Geometry;
use crate::format::record::{Body, Record};
use crate::format::{BLOCK, Salt, round_up};
use crate::{Error, Lsn};
use bytes::Bytes;
use quoin_disk::{Dir, File, OpenMode};
use quoin_types::{ReplicaId, Seq};
use std::io::{self, IoSlice};
use std::sync::Arc;

/// The most bytes that records gather before they are written without being asked to.
const BATCH_BYTES_MAX: u64 = 4 << 20;
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// The ring of files.
#[derive(Clone)]
pub(crate) struct Ring {
    files: Vec<Arc<dyn File>>,
    geometry: Geometry,
}

pub(crate) fn file_name(number: u32) -> String {
    format!("journal.{number}")
}

impl Ring {
    /// Writes the files, whole: an allocated file that was never written costs twice per sync.
    pub(crate) fn create(dir: &dyn Dir, geometry: Geometry) -> Result<Self, Error> {
        let zeros = vec![0; (1 << 20).min(geometry.file_bytes as usize)];
        for number in geometry.first_file..geometry.first_file + geometry.files {
            let name = file_name(number);
            let write = || -> io::Result<()> {
                let file = dir.open(&name, OpenMode::OpenOrCreate)?;
                file.set_len(0)?;
                let mut offset = 0;
                while offset < geometry.file_bytes {
                    let length = zeros.len().min((geometry.file_bytes - offset) as usize);
                    file.write_at(&zeros[..length], offset)?;
                    offset += length as u64;
                }
                file.sync()
            };
            write().map_err(Error::io(format!("creating {name}")))?;
        }
        dir.sync().map_err(Error::io("creating the journal"))?;
        Self::open(dir, geometry)
    }

    pub(crate) fn open(dir: &dyn Dir, geometry: Geometry) -> Result<Self, Error> {
        let mut files = Vec::new();
        for number in geometry.first_file..geometry.first_file + geometry.files {
            let name = file_name(number);
            let file = dir.open(&name, OpenMode::Existing).map_err(Error::io(&*name))?;
            if file.len().map_err(Error::io(&*name))? != geometry.file_bytes {
                return Err(Error::corrupt(name, "its length is not that of the checkpoint"));
            }
            files.push(file);
        }
        Ok(Self { files, geometry })
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.geometry.file_bytes * u64::from(self.geometry.files)
    }

    pub(crate) fn files(&self) -> &[Arc<dyn File>] {
        &self.files
    }

    /// Where a position is: file, offset in it, and how many bytes of the file follow.
    fn place(&self, position: u64) -> (usize, u64, usize) {
        let within = position % self.bytes();
        let offset = within % self.geometry.file_bytes;
        ((within / self.geometry.file_bytes) as usize, offset, (self.geometry.file_bytes - offset) as usize)
    }

    pub(crate) fn read(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            let (file, offset, room) = self.place(position + done as u64);
            let end = buffer.len().min(done + room);
            self.files[file].read_at(&mut buffer[done..end], offset)?;
            done = end;
        }
        Ok(())
    }

    /// Hands the parts, one after the other, to `write`, with the number of the file and the offset in it: once per file
    /// touched (nearly always one).
    fn write(
        &self,
        mut position: u64,
        parts: &[&[u8]],
        mut write: impl FnMut(usize, &[IoSlice<'_>], u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut parts = parts.iter().copied();
        let mut part = parts.next().unwrap_or_default();
        while !part.is_empty() {
            let (file, offset, mut room) = self.place(position);
            let mut slices = Vec::with_capacity(parts.len() + 1);
            while room > 0 && !part.is_empty() {
                let (now, later) = part.split_at(part.len().min(room));
                slices.push(IoSlice::new(now));
                room -= now.len();
                position += now.len() as u64;
                part = if later.is_empty() { parts.next().unwrap_or_default() } else { later };
            }
            write(file, &slices, offset)?;
        }
        Ok(())
    }
}

/// Records that were not written yet.
#[derive(Default)]
struct Batch {
    /// The batch's header, then the records without their block data.
    own: Vec<u8>,
    /// Block data, and how much of `own` comes before each.
    data: Vec<(usize, Bytes)>,
    data_bytes: usize,
    records: u32,
    first_lsn: Lsn,
}

impl Batch {
    fn bytes(&self) -> usize {
        self.own.len().max(batch::HEADER_BYTES) + self.data_bytes
    }

    /// With padding to whole blocks.
    fn total_bytes(&self) -> usize {
        round_up(self.bytes(), BLOCK)
    }

    /// All of it, in order.
    fn parts(&self) -> Vec<&[u8]> {
        let mut parts: Vec<&[u8]> = Vec::with_capacity(self.data.len() * 2 + 2);
        let mut own_done = 0;
        for (own_end, data) in &self.data {
            parts.push(&self.own[own_done..*own_end]);
            parts.push(data);
            own_done = *own_end;
        }
        parts.push(&self.own[own_done..]);
        parts.push(&ZEROS[..self.total_bytes() - self.bytes()]);
        parts.retain(|part| !part.is_empty());
        parts
    }
}

/// A batch and its place, to be written by any thread.
pub(crate) struct SealedBatch {
    ring: Ring,
    position: u64,
    batch: Batch,
}

impl SealedBatch {
    /// Bytes that it takes in the journal.
    pub(crate) fn bytes(&self) -> u64 {
        self.batch.total_bytes() as u64
    }

    /// Writes it; it is durable then.
    pub(crate) fn write_durably(&self) -> io::Result<()> {
        self.ring.write(self.position, &self.batch.parts(), |file, slices, offset| {
            self.ring.files[file].write_durably_at(slices, offset)
        })
    }
}

/// The journal's writing end.
pub(crate) struct Journal {
    ring: Ring,
    disk: Salt,
    /// E4: of this start.
    incarnation: u64,
    salt: Salt,
    next_lsn: Lsn,
    /// Where the next batch goes. Always a multiple of 4 KiB.
    head: u64,
    /// Where the checkpoint says that recovery begins: nothing from here on may be overwritten.
    tail: u64,
    batch: Batch,
    /// Files written since the last sync began.
    dirty: Vec<bool>,
}

impl Journal {
    pub(crate) fn new(ring: Ring, disk: Salt, incarnation: u64, end: Lsn, position: u64) -> Self {
        let dirty = vec![false; ring.files.len()];
        let salt = disk.of_incarnation(incarnation);
        let next_lsn = Lsn(end.0 + 1);
        Self {
            ring,
            disk,
            incarnation,
            salt,
            next_lsn,
            head: position,
            tail: position,
            batch: Batch::default(),
            dirty,
        }
    }

    pub(crate) fn ring(&self) -> &Ring {
        &self.ring
    }

    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    pub(crate) fn head(&self) -> u64 {
        self.head
    }

    /// Bytes that hold batches after the last checkpoint.
    pub(crate) fn used(&self) -> u64 {
        self.head - self.tail
    }

    pub(crate) fn is_batch_empty(&self) -> bool {
        self.batch.records == 0
    }

    /// The last record appended.
    pub(crate) fn last_lsn(&self) -> Lsn {
        Lsn(self.next_lsn.0 - 1)
    }

    /// The last record that is in the files, or on its way there.
    pub(crate) fn written(&self) -> Lsn {
        Lsn(self.next_lsn.0 - 1 - u64::from(self.batch.records))
    }

    /// The most bytes that one record may have.
    pub(crate) fn record_bytes_max(&self) -> u64 {
        self.ring.bytes() / 2 - BLOCK as u64
    }

    /// Whether a record of this size should join the current batch.
    pub(crate) fn fits_batch(&self, bytes: usize) -> bool {
        let limit = BATCH_BYTES_MAX.min(self.ring.bytes() / 4) as usize;
        self.batch.records == 0 || self.batch.bytes() + bytes <= limit
    }

    /// Bytes that the current batch will take.
    pub(crate) fn batch_bytes(&self) -> u64 {
        self.batch.total_bytes() as u64
    }

    /// Whether the current batch can be written without overwriting what recovery needs.
    pub(crate) fn has_room(&self) -> bool {
        self.used() + self.batch_bytes() <= self.ring.bytes()
    }

    /// Adds a record to the current batch.
    pub(crate) fn push(&mut self, replica: ReplicaId, position: Option<Seq>, body: Body) -> Record {
        let record = Record { lsn: self.next_lsn, replica, position, body };
        let batch = &mut self.batch;
        if batch.records == 0 {
            batch.first_lsn = record.lsn;
            batch.own.clear();
            batch.own.resize(batch::HEADER_BYTES, 0);
        }
        record.encode(self.salt, &mut batch.own);
        if let Body::Extents { runs, .. } = &record.body {
            for run in runs {
                batch.data.push((batch.own.len(), run.data.clone()));
                batch.data_bytes += run.data.len();
            }
        }
        batch.records += 1;
        self.next_lsn.0 += 1;
        record
    }

    /// Writes the current batch and says how many bytes that were.
    pub(crate) fn write_batch(&mut self, durable: Lsn, checkpoint: u64) -> io::Result<u64> {
        self.complete_header(durable, checkpoint);
        let Self { ring, batch, dirty, head, .. } = self;
        ring.write(*head, &batch.parts(), |file, slices, offset| {
            dirty[file] = true;
            ring.files[file].write_vectored_at(slices, offset)
        })?;
        let total = batch.total_bytes() as u64;
        *head += total;
        batch.data.clear();
        batch.data_bytes = 0;
        batch.records = 0;
        batch.own.clear();
        Ok(total)
    }

    /// Gives the current batch its place, and away: whoever gets it writes it.
    pub(crate) fn seal_batch(&mut self, durable: Lsn, checkpoint: u64) -> SealedBatch {
        self.complete_header(durable, checkpoint);
        let batch = std::mem::take(&mut self.batch);
        let sealed = SealedBatch { ring: self.ring.clone(), position: self.head, batch };
        self.head += sealed.bytes();
        sealed
    }

    fn complete_header(&mut self, durable: Lsn, checkpoint: u64) {
        let batch = &mut self.batch;
        let header = BatchHeader {
            incarnation: self.incarnation,
            first_lsn: batch.first_lsn,
            durable_lsn: durable,
            checkpoint,
            records: batch.records,
            body_bytes: (batch.bytes() - batch::HEADER_BYTES) as u32,
        };
        batch.own[..batch::HEADER_BYTES].copy_from_slice(&header.encode(self.disk));
    }

    /// The files written since this was last asked: what a sync must cover.
    pub(crate) fn take_dirty(&mut self) -> Vec<Arc<dyn File>> {
        let files = self.ring.files.iter().zip(&mut self.dirty);
        files.filter_map(|(file, dirty)| std::mem::take(dirty).then(|| file.clone())).collect()
    }

    /// E3: a checkpoint at this position is durable; what is before it may be overwritten.
    pub(crate) fn recycle(&mut self, position: u64) {
        debug_assert!(self.tail <= position && position <= self.head);
        self.tail = position;
    }
}
