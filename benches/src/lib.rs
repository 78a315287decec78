//! What the benchmarks share: repetition and a table. They measure on the machine they run on; the figures are for
//! comparing two versions there, not for brochures.

use quoin_e2e::clock::now;
use std::hint::black_box;
use std::time::Duration;

/// The unit of checksums and of atomic writes.
pub const BLOCK: usize = 4096;

/// How long one benchmark is repeated.
const RUN: Duration = Duration::from_millis(700);

/// Repeats something and gives the time that one run takes.
pub fn time_of<T>(mut run: impl FnMut() -> T) -> Duration {
    let begun = now();
    let mut runs = 0u32;
    while begun.elapsed() < RUN {
        for _ in 0..16 {
            black_box(run());
        }
        runs += 16;
    }
    begun.elapsed() / runs
}

/// Prints lines with their columns aligned; the first line is the heading.
pub fn print_table(lines: &[Vec<String>]) {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|text| text.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for line in lines {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(text, width)| format!("{text:<width$}")).collect();
        println!("{}", cells.join("  ").trim_end());
    }
}
