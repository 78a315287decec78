//! One run of fio, and what several of them say together.

use crate::servers::{Server, Target, bytes};
use crate::usage::{Usage, machine_seconds};
use crate::workload::Workload;
use quoin_e2e::clock::now;
use quoin_e2e::{command, program};
use serde_json::Value;
use std::time::Duration;

/// What fio may take beyond the time that it measures.
const SLACK: Duration = Duration::from_secs(60);

/// One run.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    pub(crate) ios: f64,
    pub(crate) per_second: f64,
    bytes_per_second: f64,
    /// p50, p99, p99.9, in microseconds; of the flush where each write is followed by one.
    latencies_us: [f64; 3],
    servers_cpu_seconds: f64,
    fio_cpu_seconds: f64,
    /// Cores that everything else on the machine used meanwhile, the kernel's threads included.
    others_cores: f64,
}

/// Several runs: the middle one's rate and latencies, and the CPU time per I/O of all.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) per_second: f64,
    pub(crate) bytes_per_second: f64,
    pub(crate) latencies_us: [f64; 3],
    /// Without fio's own, and with it.
    pub(crate) cpu_us: (f64, f64),
    /// The most that others used in one of the runs.
    pub(crate) others_cores_max: f64,
}

impl Measured {
    pub(crate) fn of(mut turns: Vec<Turn>) -> Self {
        turns.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
        let middle = &turns[turns.len() / 2];
        let per_io = |seconds: fn(&Turn) -> f64| {
            turns.iter().map(seconds).sum::<f64>() / turns.iter().map(|turn| turn.ios).sum::<f64>() * 1e6
        };
        let servers = per_io(|turn| turn.servers_cpu_seconds);
        Self {
            per_second: middle.per_second,
            bytes_per_second: middle.bytes_per_second,
            latencies_us: middle.latencies_us,
            cpu_us: (servers, servers + per_io(|turn| turn.fio_cpu_seconds)),
            others_cores_max: turns.iter().map(|turn| turn.others_cores).fold(0.0, f64::max),
        }
    }
}

fn job(server: &Server, workload: &[String]) -> std::process::Command {
    let mut arguments = vec![
        "--name=bench".to_owned(),
        "--output-format=json".into(),
        "--percentile_list=50:99:99.9".into(),
        "--norandommap".into(),
        "--group_reporting".into(),
        format!("--size={}", bytes()),
    ];
    match &server.target {
        Target::Nbd(uri) => arguments.extend(["--ioengine=nbd".into(), format!("--uri={uri}")]),
        Target::Raw(path) => {
            arguments.extend([format!("--filename={}", path.display()), "--sync=dsync".into()]);
        }
    }
    arguments.extend_from_slice(workload);
    program("fio", &arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

/// How a number of requests are kept outstanding. Buffered writes with `O_DSYNC` block whoever makes them, so a raw file
/// gets as many threads, each with one.
fn outstanding(server: &Server, count: u32) -> Vec<String> {
    match server.target {
        Target::Nbd(_) => vec![format!("--iodepth={count}")],
        Target::Raw(_) => vec!["--ioengine=psync".into(), "--thread".into(), format!("--numjobs={count}")],
    }
}

/// Writes everything once.
pub(crate) fn prefill(server: &Server) {
    let mut arguments = words(&["--rw=write", "--bs=1M"]);
    arguments.extend(match server.target {
        Target::Nbd(_) => words(&["--iodepth=8"]),
        Target::Raw(_) => words(&["--ioengine=psync"]),
    });
    command::run(&mut job(server, &arguments), Duration::from_secs(300)).ok();
}

/// Runs a line for some seconds.
pub(crate) fn run_for(server: &Server, workload: &Workload, seconds: u32) -> (Value, f64) {
    let mut arguments = vec![
        format!("--rw={}", workload.pattern),
        format!("--bs={}", workload.block_bytes),
        format!("--runtime={seconds}"),
        "--time_based".into(),
        "--rwmixread=70".into(),
        format!("--unified_rw_reporting={}", if workload.section() == "mixed" { "mixed" } else { "none" }),
    ];
    arguments.extend(outstanding(server, workload.outstanding));
    if workload.fsync {
        arguments.push("--fsync=1".into());
    }
    let before = Usage::cpu_seconds(&server.pids);
    let ran = command::run(&mut job(server, &arguments), Duration::from_secs(seconds.into()) + SLACK).ok();
    let cpu = Usage::cpu_seconds(&server.pids) - before;
    // What fio wants to remark comes before its report.
    let report = ran.stdout.find('{').map_or("", |begin| &ran.stdout[begin..]);
    let report: Value =
        serde_json::from_str(report).unwrap_or_else(|error| panic!("fio's report: {error}: {ran:?}"));
    (report["jobs"][0].clone(), cpu)
}

/// Runs a line, and takes from fio's report what is wanted of it.
pub(crate) fn run(server: &Server, workload: &Workload, seconds: u32) -> Turn {
    let (begun, machine) = (now(), machine_seconds());
    let (job, servers_cpu_seconds) = run_for(server, workload, seconds);
    let (machine, took) = (machine_seconds() - machine, begun.elapsed().as_secs_f64());
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("no figure in fio's report: {job}"));
    let all = &job[workload.section()];
    let latencies = if workload.fsync { &job["sync"]["lat_ns"] } else { &all["clat_ns"] };
    let latency = |at: &str| number(&latencies["percentile"][at]) / 1e3;
    let seconds = number(&all["runtime"]) / 1e3;
    // Of several threads fio gives the mean share of a core.
    let threads = if matches!(server.target, Target::Raw(_)) { workload.outstanding } else { 1 };
    let share = (number(&job["usr_cpu"]) + number(&job["sys_cpu"])) / 100.0 * f64::from(threads);
    let fio_cpu_seconds = share * seconds;
    assert_eq!(job["error"], 0, "fio met an error");
    Turn {
        ios: number(&all["total_ios"]),
        per_second: number(&all["iops"]),
        bytes_per_second: number(&all["bw_bytes"]),
        latencies_us: ["50.000000", "99.000000", "99.900000"].map(latency),
        servers_cpu_seconds,
        fio_cpu_seconds,
        others_cores: (machine - servers_cpu_seconds - fio_cpu_seconds).max(0.0) / took,
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
