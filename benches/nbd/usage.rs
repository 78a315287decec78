//! What processes have used, as `/proc` tells it, and what else the machine does.

use quoin_e2e::processes;
use std::fs;
use std::path::Path;

/// Of the times in `/proc`: the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// What some processes have used since they began.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    pub(crate) voluntary_switches: f64,
    pub(crate) other_switches: f64,
}

impl Usage {
    /// All processes of a cluster.
    pub(crate) fn pids(dir: &Path) -> Vec<u32> {
        processes::of_dir(dir)
    }

    /// User and system time, that of ended threads included. Exact to some 10 ms for each process.
    pub(crate) fn cpu_seconds(pids: &[u32]) -> f64 {
        pids.iter().map(|pid| ticks(&read(&format!("/proc/{pid}/stat")))).sum::<f64>() / TICKS_PER_SECOND
    }

    /// Of the threads that run now, to the nanosecond.
    pub(crate) fn of(pids: &[u32]) -> Self {
        let mut sum = Self::default();
        for pid in pids {
            for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
                let task = task.path().display().to_string();
                let first = |text: &str| text.split_whitespace().next().and_then(|word| word.parse().ok());
                let ns: f64 = first(&read(&format!("{task}/schedstat"))).unwrap_or(0.0);
                sum.cpu_seconds += ns / 1e9;
                let status = read(&format!("{task}/status"));
                let switches =
                    |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).and_then(first);
                sum.voluntary_switches += switches("voluntary_ctxt_switches:").unwrap_or(0.0);
                sum.other_switches += switches("nonvoluntary_ctxt_switches:").unwrap_or(0.0);
            }
        }
        sum
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds - before.cpu_seconds,
            voluntary_switches: self.voluntary_switches - before.voluntary_switches,
            other_switches: self.other_switches - before.other_switches,
        }
    }
}

/// A process that has just ended has used nothing.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The fields 14 and 15, counted behind the name, which may hold anything.
fn ticks(stat: &str) -> f64 {
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace());
    fields.into_iter().flatten().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum()
}

/// The processor time that all of the machine has used, interrupts and what the hypervisor took included.
pub(crate) fn machine_seconds() -> f64 {
    const IDLE: [usize; 2] = [3, 4];
    let stat = read("/proc/stat");
    let all = stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let fields = all.split_whitespace().take(8).enumerate().filter(|(field, _)| !IDLE.contains(field));
    fields.filter_map(|(_, ticks)| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
}

/// How many tasks wanted a processor in the last minute.
pub(crate) fn load_average() -> String {
    read("/proc/loadavg").split(' ').next().unwrap_or("unknown").to_owned()
}

/// Its processor, in words.
pub(crate) fn machine() -> String {
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = read("/proc/sys/kernel/osrelease");
    let congestion = read("/proc/sys/net/ipv4/tcp_congestion_control");
    format!(
        "{cores} × {}, Linux {}, TCP {} by default",
        model.trim_start_matches([' ', '\t', ':']),
        kernel.trim(),
        congestion.trim()
    )
}
