//! `cargo xtask history check FILE`: could one disk have given these answers?

use quoin_history::{History, What};
use std::fs::File;
use std::io::BufReader;

/// Reads and judges a file of operations, as `quoin_history::read` describes it.
///
/// # Errors
/// In words: no history, or the operations that no order explains.
pub(crate) fn check(path: &str) -> Result<(), String> {
    let file = File::open(path).map_err(|error| format!("cannot open {path}: {error}"))?;
    let history = quoin_history::read(BufReader::new(file)).map_err(|error| format!("{path}: {error}"))?;
    println!("{}", summary(&history));
    quoin_history::check(&history).map_err(|violation| violation.to_string())
}

fn summary(history: &History) -> String {
    let (mut reads, mut writes, mut unknown, mut flushes) = (0, 0, 0, 0);
    for operation in history.operations() {
        match operation.what {
            What::Read { .. } => reads += 1,
            What::Write { .. } => writes += 1,
            What::Flush => flushes += 1,
        }
        unknown += u64::from(operation.end_ns.is_none());
    }
    format!("{reads} reads, {writes} writes, {unknown} of them without an answer, {flushes} flushes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_judged() {
        let path = std::env::temp_dir().join(format!("quoin-xtask-history-{}.jsonl", std::process::id()));
        let judge = |text: &str| {
            std::fs::write(&path, text).unwrap();
            check(path.to_str().unwrap())
        };
        let write =
            r#"{"op":"write","client":0,"block":17,"value":"42","start_ns":1,"end_ns":2,"outcome":"ok"}"#;
        let read =
            r#"{"op":"read","client":0,"block":17,"value":"42","start_ns":3,"end_ns":4,"outcome":"ok"}"#;
        assert_eq!(judge(&format!("{write}\n{read}\n")), Ok(()));
        assert!(judge(read).unwrap_err().contains("nobody wrote"));
        assert!(judge("{}").unwrap_err().contains("line 1"));
        std::fs::remove_file(&path).unwrap();
        assert!(check(path.to_str().unwrap()).is_err());
    }
}
