//! The suite: what is run, and what is wanted of it.

/// What a write's acknowledgement means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    Flush,
    WriteThrough,
}

impl Mode {
    pub(crate) fn volume(self) -> &'static str {
        match self {
            Self::Flush => "vol1",
            Self::WriteThrough => "through",
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Flush => "flush",
            Self::WriteThrough => "write-through",
        }
    }
}

/// What a line is held against, and the least that it has to reach of it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Target {
    pub(crate) mode: Mode,
    pub(crate) ratio: f64,
}

/// A line of the suite.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    /// As fio's option `rw` takes it.
    pub(crate) pattern: &'static str,
    pub(crate) block_bytes: u32,
    pub(crate) outstanding: u32,
    /// A flush after each write.
    pub(crate) fsync: bool,
    /// A raw file with `O_DSYNC` is comparable in mode `write-through`.
    pub(crate) raw: bool,
    pub(crate) targets: &'static [Target],
    /// The most CPU time of all processes but fio per I/O, in microseconds, in mode `flush`.
    pub(crate) cpu_us_max: Option<f64>,
}

impl Workload {
    /// As `--only` finds it.
    pub(crate) fn line(&self, mode: Mode) -> String {
        format!("{} {}", mode.name(), self.name)
    }

    pub(crate) fn target(&self, mode: Mode) -> Option<Target> {
        self.targets.iter().copied().find(|target| target.mode == mode)
    }

    /// Whether MB/s say more than I/Os per second.
    pub(crate) fn is_sequential(&self) -> bool {
        self.block_bytes > 65_536
    }

    /// Where fio's report has its figures.
    pub(crate) fn section(&self) -> &'static str {
        match self.pattern {
            "randread" | "read" => "read",
            "randrw" => "mixed",
            _ => "write",
        }
    }

    pub(crate) fn named(name: &str) -> &'static Self {
        WORKLOADS.iter().find(|workload| workload.name == name).expect("a name of the suite")
    }
}

const fn flush(ratio: f64) -> Target {
    Target { mode: Mode::Flush, ratio }
}

const fn through(ratio: f64) -> Target {
    Target { mode: Mode::WriteThrough, ratio }
}

const RANDOM: Workload = Workload {
    name: "",
    pattern: "",
    block_bytes: 4096,
    outstanding: 1,
    fsync: false,
    raw: false,
    targets: &[],
    cpu_us_max: None,
};
const SEQUENTIAL: Workload = Workload { block_bytes: 1 << 20, outstanding: 8, ..RANDOM };

pub(crate) const WORKLOADS: [Workload; 9] = [
    Workload {
        name: "randwrite 4k x1",
        pattern: "randwrite",
        raw: true,
        targets: &[flush(0.30), through(0.33)],
        ..RANDOM
    },
    Workload {
        name: "randwrite 4k x32",
        pattern: "randwrite",
        outstanding: 32,
        raw: true,
        targets: &[flush(0.30), through(0.28)],
        cpu_us_max: Some(70.0),
        ..RANDOM
    },
    Workload { name: "randread 4k x1", pattern: "randread", targets: &[flush(0.40)], ..RANDOM },
    Workload {
        name: "randread 4k x32",
        pattern: "randread",
        outstanding: 32,
        targets: &[flush(0.50)],
        ..RANDOM
    },
    Workload { name: "randrw 70/30 4k x1", pattern: "randrw", ..RANDOM },
    Workload { name: "randrw 70/30 4k x32", pattern: "randrw", outstanding: 32, ..RANDOM },
    Workload { name: "write 1m x8", pattern: "write", raw: true, targets: &[flush(0.17)], ..SEQUENTIAL },
    Workload { name: "read 1m x8", pattern: "read", targets: &[flush(0.45)], ..SEQUENTIAL },
    Workload {
        name: "randwrite 4k fsync each",
        pattern: "randwrite",
        fsync: true,
        targets: &[flush(0.33)],
        ..RANDOM
    },
];
