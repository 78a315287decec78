//! A run's trace: a number that differs when anything in it differs, and every event as a line of text if wanted.

use crate::queue::Nanos;
use crate::world::Event;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// The trace of one run.
#[derive(Default)]
pub struct Trace {
    digest: u64,
    events: u64,
    out: Option<BufWriter<File>>,
}

impl Trace {
    /// Text goes to this file.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn to_file(path: &Path) -> io::Result<Self> {
        Ok(Self { out: Some(BufWriter::new(File::create(path)?)), ..Self::default() })
    }

    pub(crate) fn event(&mut self, now: Nanos, event: &Event) {
        self.events += 1;
        let (kind, a, b) = event.outline();
        self.mix(now);
        self.mix(kind << 48 ^ a << 24 ^ b);
        if let Some(out) = &mut self.out {
            // A trace that cannot be written is no reason to end the run.
            let _ = writeln!(out, "{now} {event:?}");
        }
    }

    /// Bytes that go from one process to another.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.mix(u64::from(crc32fast::hash(bytes)) << 32 | bytes.len() as u64);
    }

    /// Something worth a line of text.
    pub(crate) fn line(&mut self, now: Nanos, line: impl FnOnce() -> String) {
        if let Some(out) = &mut self.out {
            let _ = writeln!(out, "{now} {}", line());
        }
    }

    fn mix(&mut self, number: u64) {
        self.digest = (self.digest.rotate_left(5) ^ number).wrapping_mul(0x517C_C1B7_2722_0A95);
    }

    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    pub(crate) fn events(&self) -> u64 {
        self.events
    }
}
