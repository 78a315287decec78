//! Every fuzz target on its kept inputs, and on random ones from a seed.
//!
//! `QUOIN_FUZZ_SEED=17` takes another seed, `QUOIN_FUZZ_INPUTS=100000` more inputs per target, and
//! `QUOIN_FUZZ_INPUT=superblock:00ff…` runs one input, as a failure names it.

use quoin_fuzz_bodies::{TARGETS, run};
use std::fmt::Write;
use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

/// Splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }

    /// Half of them random from the first byte on, the others a kept one with some bytes changed, added or removed.
    fn input(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        if corpus.is_empty() || self.below(2) == 0 {
            let length = 1 << self.below(9);
            return self.bytes(length);
        }
        let mut input = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(6) {
            let at = self.below(input.len() + 1);
            match self.below(4) {
                0 => input.truncate(at),
                1 => input.splice(at..at, [self.next() as u8]).for_each(drop),
                _ if at < input.len() => input[at] = self.next() as u8,
                _ => input.push(self.next() as u8),
            }
        }
        input
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes all");
        text
    })
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(target);
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("no kept inputs of {target}: {error}"));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn smoke(target: &str, inputs: u64) {
    if let Ok(one) = std::env::var("QUOIN_FUZZ_INPUT") {
        if let Some(text) = one.strip_prefix(&format!("{target}:")) {
            let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal digits");
            run(target, &(0..text.len()).step_by(2).map(byte).collect::<Vec<u8>>());
        }
        return;
    }
    let seed = number("QUOIN_FUZZ_SEED", 1);
    let mut random = Random(seed);
    let kept = corpus(target);
    let random_inputs = (0..number("QUOIN_FUZZ_INPUTS", inputs)).map(|_| random.input(&kept));
    for input in kept.iter().cloned().chain(random_inputs) {
        if catch_unwind(|| run(target, &input)).is_err() {
            panic!("{target} fails; again with QUOIN_FUZZ_INPUT={target}:{}", hex(&input));
        }
    }
}

#[test]
fn superblock() {
    smoke("superblock", 1500);
}

#[test]
fn checkpoint() {
    smoke("checkpoint", 1500);
}

#[test]
fn journal() {
    smoke("journal", 2000);
}

#[test]
fn map() {
    smoke("map", 2000);
}

#[test]
fn disk_open() {
    smoke("disk_open", 2000);
}

#[test]
fn wire_frames() {
    smoke("wire_frames", 20_000);
}

#[test]
fn nbd_handshake() {
    smoke("nbd_handshake", 20_000);
}

#[test]
fn nbd_transmission() {
    smoke("nbd_transmission", 20_000);
}

#[test]
fn each_target_has_a_program() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz_targets");
    for (target, _) in TARGETS {
        let text = fs::read_to_string(dir.join(format!("{target}.rs"))).unwrap();
        assert!(text.contains(&format!("run(\"{target}\"")), "{target}");
    }
}
