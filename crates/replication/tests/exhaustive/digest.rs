//! Hashes of parts of a state. What the machines hold is taken as their `Debug` text, so that no field can be forgotten
//! and production types need no hooks. 128 bits: among 2³⁰ states, two share a hash with a chance of 2⁻⁶⁸.

use std::fmt::{Debug, Write};
use std::hash::{Hash, Hasher};

const LANES: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f];

/// Hashes what is written to it.
#[derive(Clone, Copy)]
pub(crate) struct Digest([u64; 2]);

impl Digest {
    pub(crate) fn new() -> Self {
        Self(LANES)
    }

    pub(crate) fn number(&mut self, number: u64) {
        for (lane, factor) in self.0.iter_mut().zip(LANES) {
            let product = u128::from(*lane ^ number) * u128::from(factor);
            *lane = (product as u64 ^ (product >> 64) as u64).rotate_left(17) ^ factor;
        }
    }

    pub(crate) fn digest(&mut self, other: u128) {
        self.number(other as u64);
        self.number((other >> 64) as u64);
    }

    pub(crate) fn done(self) -> u128 {
        u128::from(self.0[0]) << 64 | u128::from(self.0[1])
    }
}

impl Write for Digest {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for chunk in text.as_bytes().chunks(8) {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            self.number(u64::from_le_bytes(bytes));
        }
        self.number(text.len() as u64);
        Ok(())
    }
}

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.number(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.number(number);
    }

    fn write_usize(&mut self, number: usize) {
        self.number(number as u64);
    }

    fn write_u8(&mut self, number: u8) {
        self.number(u64::from(number));
    }

    fn write_u128(&mut self, number: u128) {
        self.digest(number);
    }

    fn finish(&self) -> u64 {
        self.0[0]
    }
}

/// The digest of what a value hashes.
pub(crate) fn hash_of(value: &impl Hash) -> u128 {
    let mut digest = Digest::new();
    value.hash(&mut digest);
    digest.done()
}

/// The digest of a value's `Debug` text.
pub(crate) fn digest_of(value: &impl Debug) -> u128 {
    let mut digest = Digest::new();
    write!(digest, "{value:?}").expect("a digest takes all text");
    digest.done()
}
