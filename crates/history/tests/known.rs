//! Cases with a known verdict, one by one.

use quoin_history::{History, Operation, Reason, What, check};

/// Operations on block 7, written shortly.
#[derive(Default)]
struct Case {
    history: History,
    epoch: u64,
}

impl Case {
    fn add(mut self, what: What, start_ns: u64, end_ns: Option<u64>) -> Self {
        let client = self.history.operations().len() as u64;
        self.history.push(Operation { client, epoch: self.epoch, what, start_ns, end_ns });
        self
    }

    fn write(self, value: u64, start: u64, end: u64) -> Self {
        self.add(What::Write { block: 7, value, durable: false }, start, Some(end))
    }

    fn durable(self, value: u64, start: u64, end: u64) -> Self {
        self.add(What::Write { block: 7, value, durable: true }, start, Some(end))
    }

    fn unknown(self, value: u64, start: u64) -> Self {
        self.add(What::Write { block: 7, value, durable: false }, start, None)
    }

    fn read(self, value: u64, start: u64, end: u64) -> Self {
        self.add(What::Read { block: 7, value }, start, Some(end))
    }

    fn flush(self, start: u64, end: u64) -> Self {
        self.add(What::Flush, start, Some(end))
    }

    fn epoch(mut self, epoch: u64) -> Self {
        self.epoch = epoch;
        self
    }

    fn lossy(mut self, epoch: u64) -> Self {
        self.history.push_lossy(epoch);
        self.epoch(epoch)
    }

    #[track_caller]
    fn holds(self) -> Self {
        if let Err(violation) = check(&self.history) {
            panic!("{violation}");
        }
        self
    }

    #[track_caller]
    fn fails(&self) -> Reason {
        let violation = check(&self.history).expect_err("no disk does that");
        assert_eq!(violation.block, 7);
        violation.reason
    }
}

#[test]
fn a_stale_read_is_found() {
    let case = Case::default().write(1, 10, 20).write(2, 30, 40).read(1, 35, 45).holds();
    let words = format!("{}", check(&case.read(1, 41, 45).history).unwrap_err());
    let expected = "\
block 7: no order explains the values 1 and 2:
  1 before 2, for this had ended:
    write of 1 to block 7 by client 0, 10 ns to 20 ns
  when this began:
    write of 2 to block 7 by client 1, 30 ns to 40 ns
  2 before 1, for this had ended:
    write of 2 to block 7 by client 1, 30 ns to 40 ns
  when this began:
    read of 1 from block 7 by client 3, 41 ns to 45 ns
  and each was written once";
    assert_eq!(words, expected);
}

#[test]
fn a_lost_update_is_found() {
    let case = Case::default().write(1, 10, 20).read(0, 5, 15).holds().read(0, 20, 30).holds();
    assert!(matches!(case.read(0, 21, 30).fails(), Reason::NoZeroes { .. }));
}

#[test]
fn concurrent_writes_may_take_effect_in_any_order_but_in_one() {
    let both = || Case::default().write(1, 10, 100).write(2, 10, 100);
    both().read(1, 200, 210).read(1, 220, 230).holds();
    both().read(2, 200, 210).holds();
    both().read(1, 20, 30).read(2, 40, 50).read(2, 200, 210).holds();
    let back = both().read(1, 20, 30).read(2, 40, 50).read(1, 60, 70).fails();
    assert!(matches!(back, Reason::NoOrder { .. }));
    // Reads that overlap may see both, in any order; those after both of them agree.
    both().read(1, 20, 50).read(2, 20, 50).read(2, 200, 210).holds().read(1, 201, 211).fails();
}

#[test]
fn a_write_without_an_answer_may_happen_late_or_never_but_not_be_undone() {
    let case = || Case::default().write(1, 10, 20).unknown(2, 30);
    case().read(1, 1000, 1010).holds();
    case().read(1, 40, 50).read(2, 1000, 1010).holds();
    case().read(2, 40, 50).holds().read(1, 51, 60).fails();
    case().read(2, 10, 29).fails();
    // Overwritten before anybody looked, or after: both are possible.
    case().write(3, 40, 50).read(2, 60, 70).holds().read(3, 80, 90).fails();
}

#[test]
fn values_out_of_thin_air_and_from_the_future_are_found() {
    assert!(matches!(Case::default().read(9, 1, 2).fails(), Reason::NeverWritten { .. }));
    let other_block = Case::default().add(What::Write { block: 8, value: 9, durable: false }, 0, Some(1));
    assert!(matches!(other_block.read(9, 1, 2).fails(), Reason::NeverWritten { .. }));
    assert!(matches!(Case::default().write(1, 10, 20).read(1, 1, 9).fails(), Reason::NotYetWritten { .. }));
    Case::default().write(1, 10, 20).read(1, 1, 10).holds();
}

#[test]
fn one_value_is_written_once() {
    assert!(matches!(Case::default().write(1, 10, 20).write(1, 30, 40).fails(), Reason::WrittenTwice { .. }));
    // On another block it is another value.
    Case::default()
        .write(1, 10, 20)
        .add(What::Write { block: 8, value: 1, durable: false }, 30, None)
        .holds();
}

#[test]
fn zeroes_are_written_again_and_again() {
    let case = || Case::default().write(1, 10, 20).write(0, 30, 40);
    case().read(0, 50, 60).write(2, 70, 80).write(0, 90, 100).read(0, 110, 120).holds();
    // Nothing of it is there again after it was zeroed.
    assert!(matches!(case().read(1, 50, 60).fails(), Reason::NoOrder { .. }));
    // Written again since.
    assert!(matches!(case().write(2, 50, 60).read(0, 61, 70).fails(), Reason::NoZeroes { .. }));
    // A trim without an answer explains zeroes at any time.
    case().write(2, 50, 60).unknown(0, 55).read(0, 80, 90).holds();
}

#[test]
fn a_lossy_attachment_keeps_what_was_durable() {
    let before = || Case::default().epoch(1).write(1, 10, 20).write(2, 30, 40).flush(25, 45).write(3, 50, 60);
    before().epoch(2).read(3, 100, 110).holds();
    before().epoch(2).read(2, 100, 110).fails();
    // Flushed: the first. The two others may be gone, but what is seen stays.
    before().lossy(2).read(1, 100, 110).holds().read(3, 120, 130).fails();
    before().lossy(2).read(2, 100, 110).holds();
    before().lossy(2).read(0, 100, 110).fails();
    // What was read of it before is gone, too.
    before().read(3, 70, 80).lossy(2).read(2, 100, 110).holds();
    // Durable by its own answer.
    before().durable(4, 62, 64).lossy(2).read(4, 100, 110).holds().read(2, 120, 130).fails();
    // It cannot come back after something durable.
    before().durable(4, 62, 64).lossy(2).read(3, 100, 110).fails();
    // A second one: the flush of the part between is not for what the first one lost.
    let twice = || before().lossy(2).read(2, 100, 110).flush(120, 130).lossy(3);
    twice().read(1, 140, 150).holds();
    twice().read(0, 140, 150).fails();
    let since = check(&twice().read(0, 140, 150).history).unwrap_err().since;
    assert_eq!(since, Some(3));
}

#[test]
fn a_flush_speaks_for_what_was_answered_before_it_began() {
    let lost = |flush_start| {
        let case = Case::default().epoch(1).write(1, 10, 20).flush(flush_start, 30);
        check(&case.lossy(2).read(0, 100, 110).history)
    };
    assert_eq!(lost(19), Ok(()));
    assert!(lost(20).is_err());
    // Of a later attachment, too, as long as none was lossy between.
    let case = || Case::default().epoch(1).write(1, 10, 20).epoch(2).flush(30, 40);
    case().lossy(3).read(0, 100, 110).fails();
    assert_eq!(case().history.durable(), [true, false]);
    // A flush without an answer says nothing.
    let case = Case::default().epoch(1).write(1, 10, 20).add(What::Flush, 30, None);
    case.lossy(2).read(0, 100, 110).holds();
}
