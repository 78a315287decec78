//! A scenario that somebody has written down: kinds of faults with how likely they are, and what a run may be made of. The format
//! is in `docs/simulator.md`; `scenarios/` has examples.

use crate::faults::Kind;
use crate::queue::MILLISECOND;
use crate::random::Random;
use crate::setup::Setup;
use quoin_types::{Durability, EXTENT_BYTES};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;

/// As it is in the file. Everything may be left out.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct ScenarioFile {
    /// How likely each kind of fault is, compared with the others.
    pub(crate) faults: BTreeMap<Kind, u64>,
    /// What runs are made of, instead of what they are by default.
    pub(crate) setup: Bounds,
}

/// Values, of which each run picks one.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct Bounds {
    pub(crate) replicas: Vec<usize>,
    gateways: Vec<usize>,
    segments: Vec<u32>,
    segment_extents: Vec<u64>,
    write_through: Vec<bool>,
    clients: Vec<usize>,
    depth: Vec<usize>,
    operations: Vec<u64>,
    request_gap_ms: Vec<u64>,
    fault_gap_ms: Vec<u64>,
    fault_time_ms: Vec<u64>,
}

/// The most of anything: so that a run ends.
const WEIGHT_MAX: u64 = 100;

impl ScenarioFile {
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Self::parse(&text).map_err(|problem| format!("{}: {problem}", path.display()))
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let file: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        if let Some((kind, weight)) = file.faults.iter().find(|(_, weight)| **weight > WEIGHT_MAX) {
            return Err(format!("faults: the weight {weight} of {kind:?} is more than {WEIGHT_MAX}"));
        }
        file.setup.check()?;
        Ok(file)
    }
}

fn within<T: Copy + PartialOrd + std::fmt::Display>(
    name: &str,
    values: &[T],
    bounds: RangeInclusive<T>,
) -> Result<(), String> {
    match values.iter().find(|value| !bounds.contains(value)) {
        None => Ok(()),
        Some(value) => {
            Err(format!("setup: {name} = {value} is not from {} to {}", bounds.start(), bounds.end()))
        }
    }
}

impl Bounds {
    fn check(&self) -> Result<(), String> {
        within("replicas", &self.replicas, 1..=5)?;
        within("gateways", &self.gateways, 1..=8)?;
        within("segments", &self.segments, 1..=8)?;
        within("segment-extents", &self.segment_extents, 1..=256)?;
        within("clients", &self.clients, 1..=16)?;
        within("depth", &self.depth, 1..=64)?;
        within("operations", &self.operations, 1..=1_000_000)?;
        within("request-gap-ms", &self.request_gap_ms, 1..=10_000)?;
        within("fault-gap-ms", &self.fault_gap_ms, 1..=60_000)?;
        within("fault-time-ms", &self.fault_time_ms, 1..=60_000)
    }

    /// A run within them; it has its replicas already, for what else it needs follows from them.
    pub(crate) fn apply(&self, mut setup: Setup, random: &mut Random) -> Setup {
        fn pick<T: Copy>(values: &[T], random: &mut Random, into: &mut T) {
            if !values.is_empty() {
                *into = random.pick(values);
            }
        }
        fn pick_ms(values: &[u64], random: &mut Random, into: &mut u64) {
            if !values.is_empty() {
                *into = random.pick(values) * MILLISECOND;
            }
        }
        pick(&self.gateways, random, &mut setup.gateways);
        pick(&self.segments, random, &mut setup.segments);
        pick(&self.clients, random, &mut setup.clients);
        pick(&self.depth, random, &mut setup.depth);
        pick(&self.operations, random, &mut setup.operations);
        pick_ms(&self.request_gap_ms, random, &mut setup.request_gap);
        pick_ms(&self.fault_gap_ms, random, &mut setup.fault_gap);
        pick_ms(&self.fault_time_ms, random, &mut setup.fault_time);
        if !self.segment_extents.is_empty() {
            setup.segment_bytes = random.pick(&self.segment_extents) * EXTENT_BYTES;
        }
        if !self.write_through.is_empty() {
            let write_through = random.pick(&self.write_through);
            setup.durability = if write_through { Durability::WriteThrough } else { Durability::Flush };
        }
        setup
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named() {
        let problem = |text: &str| ScenarioFile::parse(text).unwrap_err();
        assert!(problem("[faults]\nkill-nod = 1").contains("kill-node"));
        assert!(problem("[faults]\nkill-node = 101").contains("more than 100"));
        assert!(problem("[setup]\nreplicas = [3, 9]").contains("replicas = 9 is not from 1 to 5"));
        assert!(problem("[setup]\nreplica = [3]").contains("unknown field"));
    }

    #[test]
    fn the_examples_are_read() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!files.is_empty());
        for file in files {
            assert!(!ScenarioFile::read(&file).unwrap().faults.is_empty(), "{}", file.display());
        }
    }
}
