//! A small seeded generator for election timeouts and ids. raft-rs takes its timeouts from the thread's generator, which no
//! test and no simulator can repeat; they are replaced by these.

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A random number.
    pub(crate) fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// A random id.
    pub(crate) fn id(&mut self) -> [u8; 16] {
        (u128::from(self.number()) << 64 | u128::from(self.number())).to_le_bytes()
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number from `low` up to, but not including, `high`, that depends on the others alone.
pub(crate) fn drawn(seed: u64, term: u64, role: u64, low: usize, high: usize) -> usize {
    let span = high.saturating_sub(low).max(1) as u64;
    let number = mix(mix(mix(seed).wrapping_add(term)).wrapping_add(role));
    low + usize::try_from(number % span).unwrap_or(0)
}
