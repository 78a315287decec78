//! The JSON of `disk check`: a contract like the rest of [`super::json`].

use quoin_store::{Part, Report};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// What a check found.
#[derive(Serialize)]
pub(crate) struct DiskCheck {
    directory: String,
    damaged: bool,
    cluster_id: Option<String>,
    disk: Option<String>,
    capacity_bytes: Option<u64>,
    start_count: u64,
    clean_shutdown: bool,
    checkpoint_lsn: u64,
    end_lsn: u64,
    records: u64,
    replicas: u64,
    snapshots: u64,
    extents: u64,
    blocks: u64,
    verified_bytes: u64,
    seconds: f64,
    problem_counts: BTreeMap<&'static str, u64>,
    problems: Vec<Problem>,
}

#[derive(Serialize)]
struct Problem {
    part: &'static str,
    message: String,
}

/// A part's name.
pub(crate) const fn part(part: Part) -> &'static str {
    match part {
        Part::Superblock => "superblock",
        Part::Starts => "starts",
        Part::Checkpoint => "checkpoint",
        Part::Journal => "journal",
        Part::Map => "map",
        Part::Data => "data",
    }
}

impl DiskCheck {
    pub(crate) fn new(directory: &Path, found: &Report, seconds: f64) -> Self {
        let identity = found.identity.as_ref();
        let all = [Part::Superblock, Part::Starts, Part::Checkpoint, Part::Journal, Part::Map, Part::Data];
        let count = |part| found.problems.iter().filter(|problem| problem.part == part).count() as u64;
        let problems = found.problems.iter();
        Self {
            directory: directory.display().to_string(),
            damaged: !found.problems.is_empty(),
            cluster_id: identity.map(|identity| identity.cluster.to_string()),
            disk: identity.map(|identity| identity.disk.to_string()),
            capacity_bytes: identity.map(|identity| identity.capacity_bytes),
            start_count: found.starts,
            clean_shutdown: found.clean,
            checkpoint_lsn: found.checkpoint.0,
            end_lsn: found.end.0,
            records: found.records,
            replicas: found.replicas,
            snapshots: found.snapshots,
            extents: found.extents,
            blocks: found.blocks,
            verified_bytes: found.verified_bytes,
            seconds,
            problem_counts: all.into_iter().map(|kind| (part(kind), count(kind))).collect(),
            problems: problems
                .map(|problem| Problem { part: part(problem.part), message: problem.message.clone() })
                .collect(),
        }
    }
}
