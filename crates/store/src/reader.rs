//! A walk along the journal, batch by batch: what recovery and the offline check read it with.

use crate::format::batch::{self, BatchHeader};
use crate::format::checkpoint::Checkpoint;
use crate::format::record::Record;
use crate::format::{BLOCK, Salt, round_up};
use crate::journal::Ring;
use crate::{Error, Lsn};
use bytes::Bytes;

/// How much of the journal is read at once when only headers are looked for.
const SCAN_BYTES: usize = 1 << 20;

/// The walk: where it is and what it found.
pub(crate) struct Reader {
    ring: Ring,
    disk: Salt,
    salt: Salt,
    incarnation: u64,
    /// Where the live part begins; it ends a ring's length further on.
    start: u64,
    pub(crate) position: u64,
    pub(crate) next: Lsn,
    /// No record after this one is read.
    pub(crate) limit: Lsn,
    /// E4: the highest durable position that any batch header reports.
    pub(crate) durable: Lsn,
    /// The checkpoint that the walk begins at, and the latest that any batch header says was there.
    checkpoint: u64,
    latest_checkpoint: u64,
}

impl Reader {
    /// From the checkpoint on.
    pub(crate) fn new(ring: Ring, disk: Salt, checkpoint: &Checkpoint) -> Self {
        Self {
            ring,
            disk,
            salt: disk.of_incarnation(checkpoint.incarnation),
            incarnation: checkpoint.incarnation,
            start: checkpoint.position,
            position: checkpoint.position,
            next: Lsn(checkpoint.lsn.0 + 1),
            limit: Lsn(u64::MAX),
            durable: checkpoint.lsn,
            checkpoint: checkpoint.number,
            latest_checkpoint: checkpoint.number,
        }
    }

    /// E2: a later checkpoint was durable once, and slots that it freed were perhaps used again: replaying from this one
    /// would write old data over new.
    pub(crate) fn check_checkpoint(&self) -> Result<(), Error> {
        if self.latest_checkpoint > self.checkpoint {
            let (latest, found) = (self.latest_checkpoint, self.checkpoint);
            let detail = format!("number {latest} was durable, and only {found} can be read");
            return Err(Error::corrupt("the checkpoint", detail));
        }
        Ok(())
    }

    fn note(&mut self, header: &BatchHeader) {
        self.durable = self.durable.max(header.durable_lsn);
        self.latest_checkpoint = self.latest_checkpoint.max(header.checkpoint);
    }

    /// The last record that was read.
    pub(crate) fn end(&self) -> Lsn {
        Lsn(self.next.0 - 1)
    }

    /// The records of the next batch, up to the first that is not valid, and whether all of them were.
    pub(crate) fn next_batch(&mut self) -> Result<Option<(Vec<Record>, bool)>, Error> {
        let left = self.start + self.ring.bytes() - self.position;
        if left < BLOCK as u64 {
            return Ok(None);
        }
        let mut block = [0; batch::HEADER_BYTES];
        self.ring.read(self.position, &mut block).map_err(Error::io("reading the journal"))?;
        let Some(header) = BatchHeader::decode(&block, self.disk) else { return Ok(None) };
        let total = round_up(batch::HEADER_BYTES + header.body_bytes as usize, BLOCK) as u64;
        if header.incarnation != self.incarnation || header.first_lsn != self.next || total > left {
            return Ok(None);
        }
        self.note(&header);
        let mut body = vec![0; header.body_bytes as usize];
        let body_position = self.position + batch::HEADER_BYTES as u64;
        self.ring.read(body_position, &mut body).map_err(Error::io("reading the journal"))?;
        let mut rest = Bytes::from(body);
        let mut records = Vec::new();
        for _ in 0..header.records {
            if self.next > self.limit {
                return Ok(Some((records, false)));
            }
            let Some((record, length)) = Record::decode(&rest, self.next, self.salt, self.disk) else {
                return Ok(Some((records, false)));
            };
            rest = rest.slice(length..);
            self.next.0 += 1;
            records.push(record);
        }
        self.position += total;
        Ok(Some((records, true)))
    }

    /// E4: looks at the rest of the ring for headers that report more as durable than was found. This sees damage in
    /// the middle of the journal, and a checkpoint that was lost after its predecessor's journal was recycled.
    pub(crate) fn scan_rest(&mut self) -> Result<(), Error> {
        let end = self.start + self.ring.bytes();
        let mut position = self.position;
        let mut buffer = vec![0; SCAN_BYTES.min(self.ring.bytes() as usize)];
        while position < end {
            let length = buffer.len().min((end - position) as usize);
            self.ring.read(position, &mut buffer[..length]).map_err(Error::io("reading the journal"))?;
            for block in buffer[..length].chunks(BLOCK) {
                if let Some(header) = BatchHeader::decode(block, self.disk) {
                    self.note(&header);
                }
            }
            position += length as u64;
        }
        Ok(())
    }
}
