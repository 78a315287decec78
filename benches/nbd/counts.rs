//! What each I/O costs each role: CPU time, switches of threads, system calls. And what the cluster costs when it rests.

use crate::fio;
use crate::servers::Server;
use crate::usage::Usage;
use crate::workload::{Mode, Workload};
use benches::print_table;
use quoin_e2e::clock::{now, until};
use quoin_e2e::processes::{self, Signal};
use quoin_e2e::{Background, Dev, program};
use std::time::Duration;

const COUNTED: [&str; 6] =
    ["randwrite 4k x1", "randwrite 4k x32", "randread 4k x1", "randread 4k x32", "write 1m x8", "read 1m x8"];
const ROLES: [(&str, &[&str]); 3] = [
    ("gateway", &["gateway-1"]),
    ("3 storage nodes", &["storage-node-1", "storage-node-2", "storage-node-3"]),
    ("3 cluster managers", &["cluster-manager-1", "cluster-manager-2", "cluster-manager-3"]),
];
const RESTS: Duration = Duration::from_secs(10);
/// Of one core, all processes together.
const IDLE_SHARE_MAX: f64 = 0.01;

fn pids(dev: &Dev, names: &[&str]) -> Vec<u32> {
    names.iter().map(|name| dev.pid(name).unwrap_or_else(|| panic!("{name} does not run"))).collect()
}

/// Counts in an extra run of each line, for counting costs time.
pub(crate) fn by_role(dev: &Dev, seconds: u32) {
    let mut lines = vec![
        ["per I/O in mode flush", "role", "CPU µs", "waits", "pushed aside", "system calls"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for name in COUNTED {
        let workload = Workload::named(name);
        let server = Server::quoin(dev, Mode::Flush);
        if workload.pattern.contains("read") {
            server.warm();
        }
        let roles = ROLES.map(|(role, names)| (role, pids(dev, names)));
        let before = roles.each_ref().map(|(_, pids)| Usage::of(pids));
        let counters = roles.each_ref().map(|(_, pids)| SystemCalls::count(pids));
        let (job, _) = fio::run_for(&server, workload, seconds);
        let ios = job[workload.section()]["total_ios"].as_f64().expect("fio counts its I/Os");
        for (((role, pids), before), counter) in roles.iter().zip(before).zip(counters) {
            let used = Usage::of(pids).since(before);
            let calls = counter.and_then(SystemCalls::end);
            let mut line =
                vec![name.to_owned(), (*role).to_owned(), format!("{:.1}", used.cpu_seconds / ios * 1e6)];
            line.extend(
                [used.voluntary_switches, used.other_switches].map(|count| format!("{:.2}", count / ios)),
            );
            line.push(calls.map_or("not counted".to_owned(), |calls| format!("{:.2}", calls / ios)));
            lines.push(line);
        }
    }
    println!();
    print_table(&lines);
    println!("system calls are counted by `perf stat` where it is there and may");
}

/// `perf stat` on some processes.
struct SystemCalls(Background);

impl SystemCalls {
    /// `None` where there is no perf, or it may not.
    fn count(pids: &[u32]) -> Option<Self> {
        let list = pids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let perf = ["perf", "stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p", &list];
        // A shell, so that a missing program is an answer like any other.
        let mut counter =
            Background::start(&mut program("sh", &[&["-c", "exec \"$@\"", "sh"], &perf[..]].concat()));
        let begun = now();
        until("perf to have begun or ended", Duration::from_secs(5), || {
            if !counter.is_running() || begun.elapsed() > Duration::from_millis(300) {
                Ok(())
            } else {
                Err("a moment more".into())
            }
        });
        counter.is_running().then_some(Self(counter))
    }

    fn end(self) -> Option<f64> {
        processes::send(self.0.pid(), Signal::INT);
        let said = self.0.finish(Duration::from_secs(10)).stderr;
        said.lines().find(|line| line.contains("sys_enter"))?.split(',').next()?.parse().ok()
    }
}

/// What all processes use while nobody asks for anything; the volume stays attached.
pub(crate) fn idle(dev: &Dev) {
    let all = Usage::pids(&dev.dir());
    let measure = |pids: &[u32]| Usage::of(pids).cpu_seconds;
    let roles = ROLES.map(|(role, names)| (role, pids(dev, names)));
    let (begun, before) = (now(), measure(&all));
    let befores = roles.each_ref().map(|(_, pids)| measure(pids));
    until("the cluster to have rested", RESTS * 2, || {
        if begun.elapsed() >= RESTS { Ok(()) } else { Err("not long enough".into()) }
    });
    let took = begun.elapsed().as_secs_f64();
    let share = (measure(&all) - before) / took;
    println!(
        "\nidle: {:.2} % of one core, target ≤ {:.0} %: {}",
        share * 100.0,
        IDLE_SHARE_MAX * 100.0,
        if share <= IDLE_SHARE_MAX { "pass" } else { "MISS" }
    );
    for ((role, pids), before) in roles.iter().zip(befores) {
        println!("  {role}: {:.2} %", (measure(pids) - before) / took * 100.0);
    }
}
