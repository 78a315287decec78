//! The process that `quoin attach` leaves behind: started, and heard until the disk is there or cannot be.
//!
//! It is the same binary with `--background`. It says how it went in one line of JSON on its standard output, and logs to
//! a file.

use crate::command::attach::{self, HowArgs};
use crate::failure::{Failure, Kind};
use quoin_attach::Session;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

/// Where it logs.
const LOG: &str = "/run/quoin/attach.log";

/// How it went.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Attached { device: String },
    Failed { kind: Kind, message: String, hint: Option<String> },
}

/// Starts the process and waits until the disk is there; gives the disk.
pub(crate) async fn start(how: &HowArgs, volume: &str) -> Result<String, Failure> {
    let log = open_log()?;
    let binary = std::env::current_exe().map_err(|error| Failure::io("find this program", &error))?;
    let mut child = Command::new(binary)
        .arg("attach")
        .args(how.words(volume)?)
        .arg("--background")
        // So that it keeps no directory from being unmounted.
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|error| Failure::io("start the process that attends to the disk", &error))?;
    let stdout = child.stdout.take().expect("it is piped");
    let mut line = String::new();
    BufReader::new(stdout)
        .read_line(&mut line)
        .await
        .map_err(|error| Failure::io("hear the process that attends to the disk", &error))?;
    match serde_json::from_str(&line) {
        Ok(Word::Attached { device }) => Ok(device),
        Ok(Word::Failed { kind, message, hint }) => Err(Failure { kind, message, hint }),
        Err(_) => Err(Failure::failed("the process that attends to the disk ended without a word")
            .hint(format!("its log is {LOG}"))),
    }
}

/// Is that process: says how it went, then attends to the disk.
pub(crate) async fn serve(attach: impl Future<Output = Result<Session, Failure>>) -> Result<(), Failure> {
    // Away from the terminal: its hang-up and its Ctrl-C are not meant for this process. It fails only for one that
    // leads a group already, which then has no terminal to lose either.
    let _ = rustix::process::setsid();
    let session = match attach.await {
        Ok(session) => session,
        Err(failure) => {
            let Failure { kind, message, hint } = failure.clone();
            say(&Word::Failed { kind, message, hint })?;
            return Err(failure);
        }
    };
    say(&Word::Attached { device: session.device().to_string() })?;
    attach::stay(session).await
}

fn say(word: &Word) -> Result<(), Failure> {
    let line = serde_json::to_string(word).expect("the words have string keys only");
    crate::view::print(&format!("{line}\n"))
}

fn open_log() -> Result<fs::File, Failure> {
    let path = Path::new(LOG);
    let opened = fs::create_dir_all(path.parent().expect("it is in a directory"))
        .and_then(|()| fs::OpenOptions::new().create(true).append(true).open(path));
    opened.map_err(|error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => attach::failure(&quoin_attach::Error::NotPermitted),
        _ => Failure::io(format_args!("open {LOG}"), &error),
    })
}
