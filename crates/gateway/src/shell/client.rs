//! One NBD client's session over TCP.

use super::{ClientId, Shell, Waiting, attach};
use crate::answer;
use crate::core::{ClientOperation, Core, Reply};
use bytes::{Bytes, BytesMut};
use quoin_api::v1;
use quoin_disk::clock;
use quoin_nbd::{
    BlockSizes, ExportError, ExportErrorKind, ExportInfo, ExportSummary, Handshake, Limits, Negotiated,
    Operation, PAYLOAD_BYTES_MAX, ProtocolError, Received, Request, Step, Transmission,
};
use quoin_replication::writer::Failure;
use quoin_transport::{Outbox, Queue};
use quoin_types::{BLOCK_BYTES, VolumeId};
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

/// What follows the name of a volume in that of its read-only export. No volume's name may hold it.
const READ_ONLY_SUFFIX: &str = "+ro";

/// The answering half of a client.
pub(super) struct ClientLink {
    pub(super) volume: VolumeId,
    pub(super) outbox: Outbox,
    pub(super) closed: CancellationToken,
    under_way: Rc<UnderWay>,
}

/// A client's requests that were not answered yet.
#[derive(Default)]
struct UnderWay {
    requests: Cell<usize>,
    bytes: Cell<usize>,
    answered: Notify,
}

/// What came of the bytes that a client has sent.
enum Taken {
    /// All whole requests in them are under way, or answered.
    All,
    /// There may be more, which have to wait.
    Full,
    /// The client says good-bye.
    Leaving,
}

impl answer::Sink for Queue {
    fn header(&mut self, put: impl FnOnce(&mut BytesMut)) {
        self.append(put);
    }

    fn data(&mut self, data: Bytes) {
        self.push_payload(data);
    }
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
        self.outbox
            .with(|queue| answer::answer(waiting.encoder, waiting.cookie, &waiting.asked, reply, queue));
        let UnderWay { requests, bytes, answered } = &*self.under_way;
        requests.set(requests.get() - 1);
        bytes.set(bytes.get() - waiting.memory_bytes);
        answered.notify_one();
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
    let Some((volume, export, negotiated)) = chosen.map_err(|_| ClientError::Slow)?? else { return Ok(()) };
    let id = ClientId(shell.next_number());
    let outbox = Outbox::new(stream.clone());
    let closed = CancellationToken::new();
    let under_way = Rc::new(UnderWay::default());
    let link =
        ClientLink { volume, outbox: outbox.clone(), closed: closed.clone(), under_way: under_way.clone() };
    shell.clients.borrow_mut().insert(id, link);
    let mut session = Session {
        shell,
        id,
        volume,
        stream: &stream,
        transmission: Transmission::new(&export, negotiated, Limits::default()),
        outbox: outbox.clone(),
        under_way,
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
) -> Result<Option<(VolumeId, ExportInfo, Negotiated)>, ClientError> {
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
            Step::MetaContexts { export, with_snapshots } => {
                let (name, _) = exported_volume(&export);
                let snapshots = attach::snapshots(shell, name, with_snapshots).await;
                handshake.answer_contexts(snapshots.as_deref().map_err(Clone::clone));
            }
            Step::OpenExport { name, .. } => {
                let answer = match attach::attach(shell, exported_volume(&name).0).await {
                    Ok(volume) => {
                        chosen = Some(volume);
                        export(shell, &name, volume)
                    }
                    Err(error) => Err(error),
                };
                handshake.answer_open(answer);
            }
            Step::Transmission { export, negotiated } => {
                return Ok(chosen.map(|volume| (volume, export, negotiated)));
            }
            Step::Close(_) => return Ok(None),
        }
    }
}

/// The volume that the name of an export means, and whether it is meant read-only.
fn exported_volume(name: &str) -> (&str, bool) {
    name.strip_suffix(READ_ONLY_SUFFIX).map_or((name, false), |name| (name, true))
}

fn export(shell: &Shell, name: &str, volume: VolumeId) -> Result<ExportInfo, ExportError> {
    let gone = || ExportError::new(ExportErrorKind::Shutdown, "the volume has just been detached; try again");
    Ok(ExportInfo {
        name: name.into(),
        description: "a replicated Quoin volume".into(),
        size_bytes: shell.core.borrow().size_bytes(volume).ok_or_else(gone)?,
        read_only: exported_volume(name).1,
        multi_conn: true,
        block_sizes: BlockSizes::new(1, BLOCK_BYTES as u32, PAYLOAD_BYTES_MAX)
            .expect("sizes that fit each other"),
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
    under_way: Rc<UnderWay>,
}

impl Session<'_> {
    async fn run(&mut self, input: &mut BytesMut) -> Result<(), ClientError> {
        loop {
            let taken = self.take_requests(input)?;
            if matches!(taken, Taken::Leaving) || self.shell.shutdown.is_cancelled() {
                return self.leave().await;
            }
            self.wait_for_room().await?;
            if matches!(taken, Taken::Full) {
                continue;
            }
            let missing = self.transmission.missing(input);
            tokio::select! {
                read = fill(self.stream, input, missing) => if read? == 0 { return Ok(()) },
                () = self.shell.shutdown.cancelled() => {}
            }
        }
    }

    /// Gives the core the whole requests that have come, as one batch, as far as there is room for them.
    fn take_requests(&mut self, input: &mut BytesMut) -> Result<Taken, ClientError> {
        let shell = self.shell;
        let result = shell.event(|core, _| {
            while self.has_room(core) {
                let Some(received) = self.transmission.next_request(input)? else { return Ok(Taken::All) };
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
                    Received::Disconnect => return Ok(Taken::Leaving),
                }
            }
            Ok(Taken::Full)
        });
        self.outbox.flush();
        result
    }

    fn begin(&self, request: Request) -> (ClientOperation, Waiting) {
        let is_read = matches!(request.operation, Operation::Read { .. });
        let (mut operation, asked) = answer::begin(request.operation);
        if let ClientOperation::Write { data, .. } = &mut operation
            && data.len() <= COPY_BYTES_MAX
        {
            // A slice keeps the whole read buffer alive as long as the write is retained (W2): a small one is copied.
            *data = Bytes::copy_from_slice(data);
        }
        let memory_bytes = operation.memory_bytes();
        let UnderWay { requests, bytes, .. } = &*self.under_way;
        requests.set(requests.get() + 1);
        bytes.set(bytes.get() + memory_bytes);
        let (encoder, begun) = (self.transmission.replies(), clock::now());
        let waiting =
            Waiting { client: self.id, cookie: request.cookie, encoder, asked, memory_bytes, begun, is_read };
        (operation, waiting)
    }

    /// Whether one more request may begin: there is always room for one, however large, so that no client can keep all
    /// others from theirs. Answers that were not fetched count like requests.
    fn has_room(&self, core: &Core) -> bool {
        let (config, UnderWay { requests, bytes, .. }) = (&self.shell.config, &*self.under_way);
        let unsent_bytes = self.outbox.len();
        let is_idle = requests.get() == 0 && unsent_bytes < config.client_in_flight_bytes_max;
        is_idle
            || requests.get() < config.client_requests_max
                && bytes.get() + unsent_bytes < config.client_in_flight_bytes_max
                && self.shell.under_way_bytes.get() < config.total_in_flight_bytes_max
                && core.in_flight_bytes(self.volume) <= config.in_flight_bytes_max
    }

    /// Backpressure: a client with much under way, or that does not fetch its answers, is not read from.
    async fn wait_for_room(&self) -> Result<(), ClientError> {
        while !self.has_room(&self.shell.core.borrow()) {
            if self.under_way.requests.get() == 0 {
                self.outbox.drain().await?;
            } else {
                self.under_way.answered.notified().await;
            }
        }
        Ok(())
    }

    /// Answers what is under way, then ends.
    async fn leave(&self) -> Result<(), ClientError> {
        while self.under_way.requests.get() > 0 {
            self.under_way.answered.notified().await;
        }
        self.outbox.drain().await?;
        Ok(())
    }
}
