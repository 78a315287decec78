//! Where the journal ends (E4): at the last record that, with all before it, is whole, its data outside of the journal
//! included.
//!
//! A block that a record placed in a slot is right if it has the record's checksum. It need not be if a later record, itself
//! before the end, brings the block anew: that one may have been applied, or half so, and is applied again. Records that a
//! batch reports as durable are not looked at: a sync has covered their data, and every read verifies it.

use crate::format::BLOCK;
use crate::format::entry::{Cell, Entry};
use crate::format::record::Record;
use crate::reader::Reader;
use crate::slots::Slot;
use crate::{Error, Lsn};
use quoin_disk::File;
use quoin_types::EXTENT_BYTES;
use std::collections::VecDeque;
use std::io::ErrorKind;

/// What records say of slots, as far as the end may depend on it.
#[derive(Default)]
struct Tail {
    placed: VecDeque<Placed>,
    /// Blocks that records bring to slots through the journal.
    journaled: VecDeque<(Lsn, Slot, u16)>,
}

/// Blocks that a record placed, and their checksums.
struct Placed {
    lsn: Lsn,
    slot: Slot,
    mask: u16,
    checksums: [u32; 16],
}

/// The journal cannot end at `from`, nor after it but before `until`, if there is such a record.
struct Gap {
    from: Lsn,
    until: Option<Lsn>,
}

/// The last record that counts. Fails if a durable one is lost.
pub(crate) fn find_end(mut reader: Reader, data: &dyn File) -> Result<Lsn, Error> {
    let mut tail = Tail::default();
    while let Some((records, whole)) = reader.next_batch()? {
        records.iter().for_each(|record| tail.add(record));
        tail.forget(reader.durable);
        if !whole {
            break;
        }
    }
    let last = reader.end();
    reader.scan_rest()?;
    tail.forget(reader.durable);
    let end = latest_outside(&tail.gaps(data)?, last);
    if reader.durable > end {
        return Err(Error::DurableLost { end, durable: reader.durable });
    }
    Ok(end)
}

fn latest_outside(gaps: &[Gap], last: Lsn) -> Lsn {
    let mut end = last;
    while let Some(gap) = gaps.iter().find(|gap| gap.from <= end && gap.until.is_none_or(|until| end < until))
    {
        end = Lsn(gap.from.0 - 1);
    }
    end
}

impl Tail {
    fn add(&mut self, record: &Record) {
        let lsn = record.lsn;
        for change in record.body.changes() {
            let Cell::Entry(Entry { slot: Some(slot), checksums, .. }) = change.cell else { continue };
            if change.data_mask != 0 {
                self.journaled.push_back((lsn, slot, change.data_mask));
            }
            if change.placed_mask != 0 {
                self.placed.push_back(Placed { lsn, slot, mask: change.placed_mask, checksums });
            }
        }
    }

    /// Records up to here are durable.
    fn forget(&mut self, durable: Lsn) {
        while self.placed.pop_front_if(|placed| placed.lsn <= durable).is_some() {}
        while self.journaled.pop_front_if(|(lsn, ..)| *lsn <= durable).is_some() {}
    }

    fn gaps(&self, data: &dyn File) -> Result<Vec<Gap>, Error> {
        let mut gaps = Vec::new();
        for placed in &self.placed {
            let wrong = placed.wrong_blocks(data)?;
            for block in (0..16).filter(|block| wrong >> block & 1 == 1) {
                let brings = |(lsn, slot, mask): &&(Lsn, Slot, u16)| {
                    *lsn > placed.lsn && *slot == placed.slot && mask >> block & 1 == 1
                };
                let until = self.journaled.iter().find(brings).map(|(lsn, ..)| *lsn);
                gaps.push(Gap { from: placed.lsn, until });
            }
        }
        Ok(gaps)
    }
}

impl Placed {
    /// The blocks that the device does not hold as the record says.
    fn wrong_blocks(&self, data: &dyn File) -> Result<u16, Error> {
        let start = self.slot.byte_offset();
        data.drop_cached(start, EXTENT_BYTES).map_err(Error::io("reading data"))?;
        let mut wrong = 0;
        let mut buffer = [0; BLOCK];
        for block in (0..16).filter(|block| self.mask >> block & 1 == 1) {
            let right = match data.read_at(&mut buffer, start + (block * BLOCK) as u64) {
                Ok(()) => crc32fast::hash(&buffer) == self.checksums[block],
                // The file's length was not durable.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => false,
                Err(error) => return Err(Error::io("reading data")(error)),
            };
            wrong |= u16::from(!right) << block;
        }
        Ok(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_lies_in_no_gap() {
        let gap = |from, until: Option<u64>| Gap { from: Lsn(from), until: until.map(Lsn) };
        for (gaps, expected) in [
            (vec![], 9),
            (vec![gap(5, None)], 4),
            (vec![gap(5, Some(7))], 9),
            (vec![gap(5, Some(7)), gap(7, None)], 4),
            (vec![gap(7, None), gap(2, Some(5)), gap(4, Some(9))], 1),
            (vec![gap(9, None), gap(3, Some(9))], 2),
        ] {
            assert_eq!(latest_outside(&gaps, Lsn(9)), Lsn(expected));
        }
    }
}
