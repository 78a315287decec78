//! One NBD client's session over TCP.

use super::{ClientId, Shell, Waiting, attach};
use crate::core::{ClientOperation, Reply};
use bytes::{Bytes, BytesMut};
use quoin_api::v1;
use quoin_disk::clock;
use quoin_nbd::{
    BlockSizes, Errno, ExportError, ExportErrorKind, ExportInfo, ExportSummary, Handshake, Limits, Operation,
    ProtocolError, Received, Request, Step, Transmission,
};
use quoin_replication::writer::Failure;
use quoin_transport::Outbox;
use quoin_types::VolumeId;
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How long a client may take to choose an export.
const HANDSHAKE_MAX: Duration = Duration::from_secs(30);
/// What is read at once where no more is known to come.
const READ_BYTES: usize = 128 * 1024;
/// Payloads up to this size are copied out of the read buffer, which can then be used again.
const COPY_BYTES_MAX: usize = 16 * 1024;
/// The most requests of one client under way.
const REQUESTS_MAX: usize = 1024;
/// Answers that a client has not fetched: beyond this, no more is read from it.
const UNSENT_BYTES_MAX: usize = 64 << 20;

/// The answering half of a client.
pub(super) struct ClientLink {
    pub(super) volume: VolumeId,
    pub(super) outbox: Outbox,
    pub(super) closed: CancellationToken,
    under_way: Rc<Cell<usize>>,
    answered: Rc<Notify>,
}

/// Why a client's session ended before the client wished it to.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error(transparent)]
    Socket(#[from] io::Error),
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error("it took too long to choose an export")]
    Slow,
    #[error("its volume is no longer attached here")]
    Fenced,
}

impl ClientLink {
    /// Queues the answer to a request.
    pub(super) fn answer(&self, waiting: &Waiting, reply: Result<Reply, Failure>) {
        let (offset, length) = waiting.range;
        self.outbox.with(|queue| match reply {
            Ok(Reply::Done) => queue.append(|out| waiting.encoder.ok(waiting.cookie, out)),
            Ok(Reply::Read(data)) => {
                queue.append(|out| waiting.encoder.read_header(waiting.cookie, offset, length, out));
                data.into_iter().for_each(|bytes| queue.push_payload(bytes));
            }
            Err(failure) => {
                let (errno, message) = match failure {
                    Failure::NoSpace => (Errno::NoSpace, "no majority of the storage nodes has space left"),
                    Failure::Fenced => (Errno::Shutdown, "the volume is attached to another gateway now"),
                    Failure::Damaged => (Errno::Io, "no replica has an undamaged copy"),
                    Failure::DamagedInReach => (
                        Errno::Io,
                        "every replica in reach is damaged here; one that is missing may have a good copy",
                    ),
                };
                queue.append(|out| waiting.encoder.error(waiting.cookie, errno, message, out));
            }
        });
        self.under_way.set(self.under_way.get() - 1);
        self.answered.notify_one();
    }
}

/// Serves a client to its end.
pub(super) async fn serve(shell: &Rc<Shell>, stream: TcpStream) -> Result<(), ClientError> {
    quoin_transport::prepare(&stream)?;
    let stream = Rc::new(stream);
    let mut input = BytesMut::with_capacity(READ_BYTES);
    let chosen = tokio::select! {
        chosen = tokio::time::timeout(HANDSHAKE_MAX, handshake(shell, &stream, &mut input)) => chosen,
        () = shell.shutdown.cancelled() => return Ok(()),
    };
    let Some((volume, export, structured)) = chosen.map_err(|_| ClientError::Slow)?? else { return Ok(()) };
    let id = ClientId(shell.next_number());
    let outbox = Outbox::new(stream.clone());
    let closed = CancellationToken::new();
    let (under_way, answered) = (Rc::new(Cell::new(0)), Rc::new(Notify::new()));
    let link = ClientLink {
        volume,
        outbox: outbox.clone(),
        closed: closed.clone(),
        under_way: under_way.clone(),
        answered: answered.clone(),
    };
    shell.clients.borrow_mut().insert(id, link);
    let mut session = Session {
        shell,
        id,
        volume,
        stream: &stream,
        transmission: Transmission::new(&export, structured, Limits::default()),
        outbox: outbox.clone(),
        under_way,
        answered,
    };
    let result = tokio::select! {
        result = session.run(&mut input) => result,
        result = outbox.run() => result.map_err(ClientError::from),
        () = closed.cancelled() => Err(ClientError::Fenced),
    };
    shell.clients.borrow_mut().remove(&id);
    result
}

async fn fill(stream: &TcpStream, input: &mut BytesMut, missing: usize) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        input.reserve(missing.max(READ_BYTES));
        match stream.try_read_buf(input) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

/// Until an export is chosen; `None` if the client leaves without one.
async fn handshake(
    shell: &Rc<Shell>,
    stream: &Rc<TcpStream>,
    input: &mut BytesMut,
) -> Result<Option<(VolumeId, ExportInfo, bool)>, ClientError> {
    let mut handshake = Handshake::new(Limits::default());
    let outbox = Outbox::new(stream.clone());
    let mut chosen = None;
    loop {
        match handshake.advance(input)? {
            Step::NeedMore { missing } => {
                if fill(stream, input, missing).await? == 0 {
                    return Ok(None);
                }
            }
            Step::Send(bytes) => {
                outbox.with(|queue| queue.push_payload(bytes));
                outbox.drain().await?;
            }
            Step::StartTls => unreachable!("this session was not given TLS to offer"),
            Step::ListExports => {
                let list = list(shell).await;
                handshake.answer_list(list.as_deref().map_err(Clone::clone));
            }
            Step::OpenExport { name, .. } => {
                let answer = match attach::attach(shell, &name).await {
                    Ok(volume) => {
                        chosen = Some(volume);
                        export(shell, &name, volume)
                    }
                    Err(error) => Err(error),
                };
                handshake.answer_open(answer);
            }
            Step::Transmission { export, structured } => {
                return Ok(chosen.map(|volume| (volume, export, structured)));
            }
            Step::Close(_) => return Ok(None),
        }
    }
}

fn export(shell: &Shell, name: &str, volume: VolumeId) -> Result<ExportInfo, ExportError> {
    let gone = || ExportError::new(ExportErrorKind::Shutdown, "the volume has just been detached; try again");
    Ok(ExportInfo {
        name: name.into(),
        description: "a replicated Quoin volume".into(),
        size_bytes: shell.core.borrow().size_bytes(volume).ok_or_else(gone)?,
        read_only: false,
        multi_conn: true,
        block_sizes: BlockSizes::default(),
    })
}

async fn list(shell: &Rc<Shell>) -> Result<Vec<ExportSummary>, ExportError> {
    let volumes = shell
        .managers
        .cluster(async |mut client| Ok(client.list_volumes(v1::ListVolumesRequest {}).await?.into_inner()))
        .await
        .map_err(|status| ExportError::new(ExportErrorKind::Shutdown, status.message()))?;
    let ready = volumes.volumes.into_iter().filter(|volume| volume.state() == v1::VolumeState::Ready);
    Ok(ready.map(|volume| ExportSummary { name: volume.name, description: String::new() }).collect())
}

/// The transmission phase of one client.
struct Session<'a> {
    shell: &'a Rc<Shell>,
    id: ClientId,
    volume: VolumeId,
    stream: &'a TcpStream,
    transmission: Transmission,
    outbox: Outbox,
    under_way: Rc<Cell<usize>>,
    answered: Rc<Notify>,
}

impl Session<'_> {
    async fn run(&mut self, input: &mut BytesMut) -> Result<(), ClientError> {
        loop {
            let leaving = self.take_requests(input)?;
            if leaving || self.shell.shutdown.is_cancelled() {
                return self.leave().await;
            }
            self.wait_for_room().await?;
            let missing = self.transmission.missing(input);
            tokio::select! {
                read = fill(self.stream, input, missing) => if read? == 0 { return Ok(()) },
                () = self.shell.shutdown.cancelled() => {}
            }
        }
    }

    /// Gives the core every whole request that has come, as one batch. `true`: the client says good-bye.
    fn take_requests(&mut self, input: &mut BytesMut) -> Result<bool, ClientError> {
        let shell = self.shell;
        let result = shell.event(|core, _| {
            while let Some(received) = self.transmission.next_request(input)? {
                match received {
                    Received::Request(request) => {
                        let (operation, waiting) = self.begin(request);
                        if !shell.submit(core, self.volume, waiting, operation) {
                            return Err(ClientError::Fenced);
                        }
                    }
                    Received::Answered(answered) => {
                        self.outbox.with(|queue| queue.push_payload(answered.reply));
                    }
                    Received::Disconnect => return Ok(true),
                }
            }
            Ok(false)
        });
        self.outbox.flush();
        result
    }

    fn begin(&self, request: Request) -> (ClientOperation, Waiting) {
        self.under_way.set(self.under_way.get() + 1);
        let range = match request.operation {
            Operation::Read { offset, len, .. } => (offset, len),
            _ => (0, 0),
        };
        let is_read = matches!(request.operation, Operation::Read { .. });
        let operation = match request.operation {
            Operation::Read { offset, len, .. } => ClientOperation::Read { offset, length: len },
            Operation::Write { offset, data, fua } => {
                // A slice keeps the whole read buffer alive as long as the write is retained (W2): a small one is copied.
                let data = if data.len() <= COPY_BYTES_MAX { Bytes::copy_from_slice(&data) } else { data };
                ClientOperation::Write { offset, data, durable: fua }
            }
            Operation::Flush => ClientOperation::Flush,
            Operation::Trim { offset, len, fua } => {
                ClientOperation::Trim { offset, length: u64::from(len), durable: fua }
            }
            Operation::WriteZeroes { offset, len, fua, .. } => {
                ClientOperation::Zero { offset, length: u64::from(len), durable: fua }
            }
        };
        let encoder = self.transmission.replies();
        let begun = clock::now();
        (operation, Waiting { client: self.id, cookie: request.cookie, encoder, range, begun, is_read })
    }

    /// Backpressure: a client with much under way, or that does not fetch its answers, is not read from.
    async fn wait_for_room(&self) -> Result<(), ClientError> {
        while self.under_way.get() >= REQUESTS_MAX
            || (self.under_way.get() > 0
                && self.shell.core.borrow().in_flight_bytes(self.volume)
                    > self.shell.config.in_flight_bytes_max)
        {
            self.answered.notified().await;
        }
        if self.outbox.len() > UNSENT_BYTES_MAX {
            self.outbox.drain().await?;
        }
        Ok(())
    }

    /// Answers what is under way, then ends.
    async fn leave(&self) -> Result<(), ClientError> {
        while self.under_way.get() > 0 {
            self.answered.notified().await;
        }
        self.outbox.drain().await?;
        Ok(())
    }
}
