//! The table: a line for each server, and for ours what was wanted.

use crate::fio::Measured;
use crate::workload::{Mode, Workload};
use benches::print_table;

const HEADING: [&str; 12] = [
    "mode",
    "workload",
    "server",
    "rate",
    "ratio",
    "target",
    "",
    "p50 µs",
    "p99",
    "p99.9",
    "CPU µs per I/O",
    "with fio",
];

/// All lines measured so far.
#[derive(Default)]
pub(crate) struct Table {
    lines: Vec<Vec<String>>,
    missed: usize,
    wanted: usize,
    others_cores_max: f64,
}

impl Table {
    /// Adds what one line of the suite gave: ours first, then what its ratio is taken to, then others.
    pub(crate) fn add(&mut self, mode: Mode, workload: &Workload, measured: Vec<(&'static str, Measured)>) {
        let ours = measured[0].1.per_second;
        let reference = measured.get(1).map(|(_, reference)| reference.per_second);
        for (index, (name, measured)) in measured.into_iter().enumerate() {
            let mut line = [mode.name(), workload.name, name].map(str::to_owned).to_vec();
            line.push(rate(workload, &measured));
            line.extend(match reference.filter(|_| index == 0) {
                Some(reference) => self.verdict(mode, workload, ours / reference, measured.cpu_us.0),
                None => [String::new(), String::new(), String::new()],
            });
            line.extend(measured.latencies_us.map(|us| format!("{us:.0}")));
            line.extend([measured.cpu_us.0, measured.cpu_us.1].map(|us| format!("{us:.1}")));
            println!("{}", line.join("  "));
            self.lines.push(line);
            self.others_cores_max = self.others_cores_max.max(measured.others_cores_max);
        }
    }

    /// The ratio, what was wanted of it and of the CPU time, and whether that was reached.
    fn verdict(&mut self, mode: Mode, workload: &Workload, ratio: f64, cpu_us: f64) -> [String; 3] {
        let ratio_min = workload.target(mode).map(|target| target.ratio);
        let cpu_us_max = workload.cpu_us_max.filter(|_| mode == Mode::Flush);
        let words: Vec<String> = (ratio_min.map(|ratio| format!("≥ {ratio:.2}")).into_iter())
            .chain(cpu_us_max.map(|us| format!("≤ {us:.0} µs")))
            .collect();
        let met = [ratio_min.map(|least| ratio >= least), cpu_us_max.map(|most| cpu_us <= most)];
        let verdicts: Vec<&str> =
            met.into_iter().flatten().map(|met| if met { "pass" } else { "MISS" }).collect();
        self.wanted += verdicts.len();
        self.missed += verdicts.iter().filter(|verdict| **verdict == "MISS").count();
        [format!("{ratio:.2}"), words.join(", "), verdicts.join(", ")]
    }

    pub(crate) fn print(&self) {
        let heading = HEADING.map(str::to_owned).to_vec();
        println!();
        print_table(&[&[heading], &self.lines[..]].concat());
        println!(
            "\nthe ratio is taken to the line below ours; {} of {} targets missed; others on the machine, the kernel's \
             own threads among them, used at most {:.2} cores during a turn",
            self.missed, self.wanted, self.others_cores_max
        );
    }
}

fn rate(workload: &Workload, measured: &Measured) -> String {
    if workload.is_sequential() {
        format!("{:.0} MB/s", measured.bytes_per_second / 1e6)
    } else {
        format!("{:.0}/s", measured.per_second)
    }
}
