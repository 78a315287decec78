//! The supervisor's unix socket: `quoin dev start|stop|kill` from another terminal. One JSON line each way.

use super::layout::Layout;
use super::supervisor::Event;
use crate::failure::{Failure, Kind};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

/// The longest line either side takes.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// What can be asked of a supervisor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// Run a process that does not run.
    Start,
    /// SIGTERM; it stays down until `start`.
    Stop,
    /// SIGKILL, as a crash: it is started again if its role is one of `--respawn`.
    Kill,
}

/// A request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) action: Action,
    /// `<role>-<n>`.
    pub(crate) member: String,
}

/// An answer: what was done, or why not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    Done { message: String, pid: Option<u32> },
    Failed { kind: Kind, message: String, hint: Option<String> },
}

impl From<Failure> for Reply {
    fn from(failure: Failure) -> Self {
        Self::Failed { kind: failure.kind, message: failure.message, hint: failure.hint }
    }
}

/// The socket's path, with the directory that must be kept open for it.
fn socket(layout: &Layout) -> io::Result<(File, PathBuf)> {
    quoin_transport::short_socket_path(&layout.run_dir().join("dev.sock"))
}

/// Serves the socket until the process ends. Each request becomes an event.
pub(crate) fn serve(layout: &Layout, events: mpsc::UnboundedSender<Event>) -> Result<(), Failure> {
    let bound = socket(layout).and_then(|(dir, path)| Ok((UnixListener::bind(path)?, dir)));
    let (listener, _dir) =
        bound.map_err(|error| Failure::io("open the control socket run/dev.sock", &error))?;
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    tokio::spawn(converse(stream, events.clone()));
                }
                // Out of descriptors, for instance: let the others finish first.
                Err(_) => tokio::task::yield_now().await,
            }
        }
    });
    Ok(())
}

/// One client. What goes wrong with it concerns only itself.
async fn converse(stream: UnixStream, events: mpsc::UnboundedSender<Event>) {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    if BufReader::new(read.take(LINE_BYTES_MAX)).read_line(&mut line).await.is_err() {
        return;
    }
    let reply = match serde_json::from_str(&line) {
        Ok(request) => {
            let (answer, answered) = oneshot::channel();
            let stopping = || Failure::unavailable("the dev cluster is stopping").into();
            match events.send(Event::Request(request, answer)) {
                Ok(()) => answered.await.unwrap_or_else(|_| stopping()),
                Err(_) => stopping(),
            }
        }
        Err(error) => Failure::bad_usage(format!("the request is not understood: {error}")).into(),
    };
    let text = serde_json::to_string(&reply).expect("a reply has string keys only");
    // A client that has gone away does not need the answer.
    let _ = write.write_all(format!("{text}\n").as_bytes()).await;
}

/// Asks the supervisor of a directory.
pub(crate) async fn ask(layout: &Layout, request: &Request) -> Result<(String, Option<u32>), Failure> {
    let nobody = || {
        Failure::unavailable(format!("no `quoin dev` runs in {}", layout.dir().display()))
            .hint("start it, or name the directory of the one that runs with --dir")
    };
    let (_dir, path) = socket(layout).map_err(|_| nobody())?;
    let mut stream = UnixStream::connect(path).await.map_err(|_| nobody())?;
    let text = serde_json::to_string(request).expect("a request has string keys only");
    let lost = |error: &io::Error| Failure::unavailable(format!("`quoin dev` ended meanwhile: {error}"));
    stream.write_all(format!("{text}\n").as_bytes()).await.map_err(|error| lost(&error))?;
    let mut line = String::new();
    BufReader::new(stream.take(LINE_BYTES_MAX)).read_line(&mut line).await.map_err(|error| lost(&error))?;
    match serde_json::from_str(&line) {
        Ok(Reply::Done { message, pid }) => Ok((message, pid)),
        Ok(Reply::Failed { kind, message, hint }) => Err(Failure { kind, message, hint }),
        Err(_) => Err(Failure::unavailable("`quoin dev` ended before it answered")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_reaches_the_supervisor_and_its_answer_comes_back() {
        let parent = tempfile::tempdir().unwrap();
        let layout = Layout::prepare(&parent.path().join("long".repeat(40))).unwrap();
        let request = Request { action: Action::Kill, member: "storage-node-2".to_owned() };
        assert_eq!(ask(&layout, &request).await.unwrap_err().kind, Kind::Unavailable);

        let (events, mut received) = mpsc::unbounded_channel();
        serve(&layout, events).unwrap();
        let expected = request.clone();
        let supervisor = tokio::spawn(async move {
            let Some(Event::Request(request, answer)) = received.recv().await else { panic!("no request") };
            assert_eq!(request, expected);
            answer.send(Failure::not_found("no such process").hint("h").into()).unwrap();
            let Some(Event::Request(_, answer)) = received.recv().await else { panic!("no request") };
            answer.send(Reply::Done { message: "killed".to_owned(), pid: Some(7) }).unwrap();
        });
        let refusal = ask(&layout, &request).await.unwrap_err();
        assert_eq!((refusal.kind, refusal.hint.as_deref()), (Kind::NotFound, Some("h")));
        assert_eq!(ask(&layout, &request).await.unwrap(), ("killed".to_owned(), Some(7)));
        supervisor.await.unwrap();
        assert_eq!(ask(&layout, &request).await.unwrap_err().kind, Kind::Unavailable);
    }
}
