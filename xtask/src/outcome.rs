//! What a chore has found: how many checks passed, and which failed.

/// What a step has found.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Outcome {
    pub(crate) passed: u64,
    /// Marked `#[ignore]` in the source: measurements, not checks.
    pub(crate) ignored: u64,
    /// What failed: names of tests, or reasons.
    pub(crate) failures: Vec<String>,
}

impl Outcome {
    pub(crate) fn failed(failure: String) -> Outcome {
        Outcome { failures: vec![failure], ..Outcome::default() }
    }

    pub(crate) fn has_passed(&self) -> bool {
        self.failures.is_empty()
    }

    pub(crate) fn and(mut self, other: Outcome) -> Outcome {
        self.passed += other.passed;
        self.ignored += other.ignored;
        self.failures.extend(other.failures);
        self
    }
}
