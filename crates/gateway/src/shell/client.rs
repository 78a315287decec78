//! One NBD client's session.

use super::door::Pass;
use super::memory::Account;
use super::metrics::TurnedAway;
use super::socket::{ClientSocket, TlsStartError};
use super::tickets::Waiting;
use super::{ClientId, Shell, attach};
use crate::answer;
use crate::core::{ClientOperation, Reply};
use bytes::{Bytes, BytesMut};
use quoin_api::v1;
use quoin_disk::clock;
use quoin_disk::landing::{CHUNK_BYTES_MAX, Chunk};
use quoin_nbd::{
    AttachmentInfo, BlockSizes, ConnectionName, ExportError, ExportErrorKind, ExportInfo, ExportSummary,
    Handshake, Limits, Negotiated, OpenKind, Operation, PAYLOAD_BYTES_MAX, ProtocolError, Received, Request,
    Step, TlsPolicy, Transmission,
};
use quoin_replication::writer::Failure;
use quoin_tls::TlsError;
use quoin_transport::{LARGE_BYTES_MIN, Outbox, Queue};
use quoin_types::{BLOCK_BYTES, VolumeId};
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What is read at once where no more is known to come.
const READ_BYTES: usize = 128 * 1024;
/// The same of a stranger, who may be one of many.
const HANDSHAKE_READ_BYTES: usize = 4 * 1024;
/// Payloads up to this size are copied out of the read buffer, which can then be used again.
const COPY_BYTES_MAX: usize = 16 * 1024;
/// How long the last answers may take to be fetched.
const LEAVE_MAX: Duration = Duration::from_millis(500);
/// What follows the name of a volume in that of its read-only export. No volume's name may hold it.
const READ_ONLY_SUFFIX: &str = "+ro";

/// The answering half of a client.
pub(super) struct ClientLink {
    pub(super) volume: VolumeId,
    /// By which name it was opened.
    export: String,
    pub(super) closed: CancellationToken,
    /// Whether it was told that the attachment goes on from an earlier one, and may rely on that.
    pub(super) goes_on: bool,
    /// Which connection it is, if it said so.
    name: Option<ConnectionName>,
    outbox: Outbox<ClientSocket>,
    account: Rc<Account>,
    under_way: Rc<Cell<usize>>,
    answered: Rc<Notify>,
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
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("it took too long to choose an export")]
    Slow,
    #[error("it had not chosen an export when a newer connection needed its place")]
    Displaced,
    #[error("it did not move while memory for clients was short")]
    Stalled,
    #[error("it did not fetch its last answers")]
    Unfetched,
    #[error(
        "another connection has taken its place, or what it was told of its volume's attachment does not hold any more"
    )]
    Fenced,
}

impl ClientError {
    /// Under which name it is counted; none if the gateway has not turned it away.
    pub(super) fn reason(&self) -> Option<TurnedAway> {
        match self {
            Self::Socket(_) | Self::Unfetched | Self::Fenced => None,
            Self::Protocol(_) => Some(TurnedAway::Protocol),
            Self::Tls(_) => Some(TurnedAway::Tls),
            Self::Slow => Some(TurnedAway::Handshake),
            Self::Displaced => Some(TurnedAway::Displaced),
            Self::Stalled => Some(TurnedAway::Stalled),
        }
    }
}

impl ClientLink {
    /// Queues the answer to a request.
    pub(super) fn answer(&self, waiting: &Waiting, reply: Result<Reply, Failure>) {
        self.outbox
            .with(|queue| answer::answer(waiting.encoder, waiting.cookie, &waiting.asked, reply, queue));
        self.account.answered(waiting.promised_bytes, self.outbox.len());
        self.under_way.set(self.under_way.get() - 1);
        self.answered.notify_one();
    }

    /// Whether a new client takes the place of one that there is.
    fn replaces(&self, former: &Self) -> bool {
        let named = self.name.zip(former.name);
        self.export == former.export && named.is_some_and(|(new, former)| new.replaces(&former))
    }

    /// Sends what is queued, as far as the socket takes it.
    pub(super) fn flush(&self) {
        self.outbox.flush();
        self.account.unsent(self.outbox.len());
    }
}

/// Serves a client to its end.
pub(super) async fn serve(shell: &Rc<Shell>, socket: ClientSocket, pass: Pass) -> Result<(), ClientError> {
    let limits = shell.config.limits;
    socket.prepare(limits.peer_timeout, shell.config.tcp_congestion_control.as_deref())?;
    let socket = Rc::new(socket);
    let mut input = BytesMut::with_capacity(HANDSHAKE_READ_BYTES);
    let chosen = tokio::select! {
        chosen = tokio::time::timeout(limits.handshake_timeout, handshake(shell, &socket, &pass, &mut input)) => chosen,
        () = pass.displaced() => return Err(ClientError::Displaced),
        () = shell.shutdown.cancelled() => return Ok(()),
    };
    let Some((volume, export, negotiated)) = chosen.map_err(|_| ClientError::Slow)?? else { return Ok(()) };
    // While it was told, the attachment may have ended, and another one begun: from here on it hears of that.
    if export.attachment != attach::info(shell, volume) {
        return Err(ClientError::Fenced);
    }
    let goes_on =
        negotiated.knows_attachment && export.attachment.is_some_and(|at| at.unbroken_since < at.epoch);
    let id = ClientId(shell.next_number());
    let outbox = Outbox::new(socket.clone());
    let account = shell.memory.open();
    let closed = CancellationToken::new();
    let (under_way, answered) = (Rc::new(Cell::new(0)), Rc::new(Notify::new()));
    let link = ClientLink {
        volume,
        export: export.name.clone(),
        closed: closed.clone(),
        goes_on,
        name: negotiated.connection,
        outbox: outbox.clone(),
        account: account.clone(),
        under_way: under_way.clone(),
        answered: answered.clone(),
    };
    {
        let mut clients = shell.clients.borrow_mut();
        clients.values().filter(|former| link.replaces(former)).for_each(|former| former.closed.cancel());
        clients.insert(id, link);
    }
    shell.awake.notify_one();
    let mut session = Session {
        shell,
        id,
        volume,
        socket: &socket,
        transmission: Transmission::new(&export, negotiated, Limits::default()),
        outbox: outbox.clone(),
        account: account.clone(),
        closed: &closed,
        postponed: None,
        arriving: None,
        under_way,
        answered,
    };
    let result = tokio::select! {
        result = session.run(&mut input) => result,
        result = send(&outbox, &account) => result.map_err(ClientError::from),
        () = account.cut_off() => Err(ClientError::Stalled),
        () = closed.cancelled() => Err(ClientError::Fenced),
    };
    shell.clients.borrow_mut().remove(&id);
    shell.awake.notify_one();
    result
}

/// Sends what full sockets leave, and keeps the account of it. Ends with the socket.
async fn send(outbox: &Outbox<ClientSocket>, account: &Account) -> io::Result<()> {
    loop {
        outbox.send_some().await?;
        account.unsent(outbox.len());
    }
}

/// Until an export is chosen; `None` if the client leaves without one.
async fn handshake(
    shell: &Rc<Shell>,
    socket: &Rc<ClientSocket>,
    pass: &Pass,
    input: &mut BytesMut,
) -> Result<Option<(VolumeId, ExportInfo, Negotiated)>, ClientError> {
    let mut handshake = Handshake::with_tls(Limits::default(), tls_policy(shell, socket));
    let outbox = Outbox::new(socket.clone());
    let mut chosen = None;
    loop {
        match handshake.advance(input)? {
            Step::NeedMore { missing } => {
                if socket.fill(input, missing.max(HANDSHAKE_READ_BYTES)).await? == 0 {
                    return Ok(None);
                }
            }
            Step::Send(bytes) => {
                outbox.with(|queue| queue.push_payload(bytes));
                outbox.drain().await?;
            }
            Step::StartTls => {
                start_tls(shell, socket, input).await?;
                handshake.tls_started();
            }
            Step::ListExports => {
                pass.set_undecided(false);
                let list = list(shell).await;
                pass.set_undecided(true);
                handshake.answer_list(list.as_deref().map_err(Clone::clone));
            }
            Step::MetaContexts { export, with_snapshots } => {
                let (name, _) = exported_volume(&export);
                pass.set_undecided(false);
                let snapshots = attach::snapshots(shell, name, with_snapshots).await;
                pass.set_undecided(true);
                handshake.answer_contexts(snapshots.as_deref().map_err(Clone::clone));
            }
            Step::OpenExport { name, kind } => {
                // While it waits for us it is not put out; if it only asked, it may be again.
                pass.set_undecided(false);
                let (volume, _) = exported_volume(&name);
                let answer = if kind == OpenKind::Info {
                    attach::size_bytes(shell, volume).await.map(|size_bytes| export(&name, size_bytes, None))
                } else {
                    let attached = attach::attach(shell, volume).await;
                    attached.and_then(|volume| attached_export(shell, &name, *chosen.insert(volume)))
                };
                handshake.answer_open(answer);
                pass.set_undecided(true);
            }
            Step::Transmission { export, negotiated } => {
                pass.set_undecided(false);
                return Ok(chosen.map(|volume| (volume, export, negotiated)));
            }
            Step::Close(_) => return Ok(None),
        }
    }
}

fn tls_policy(shell: &Shell, socket: &ClientSocket) -> TlsPolicy {
    match &shell.config.tls {
        None => TlsPolicy::Off,
        Some(tls) if tls.required && !socket.is_local() => TlsPolicy::Required,
        Some(_) => TlsPolicy::Available,
    }
}

async fn start_tls(shell: &Shell, socket: &ClientSocket, input: &mut BytesMut) -> Result<(), ClientError> {
    let credentials = shell.tls.as_ref().expect("TLS is offered only with credentials");
    let session = credentials.session(&shell.metrics)?;
    socket.start_tls(session, input).await.map_err(|error| match error {
        TlsStartError::Socket(error) => error.into(),
        TlsStartError::Tls(error) => error.into(),
    })
}

/// The volume that the name of an export means, and whether it is meant read-only.
fn exported_volume(name: &str) -> (&str, bool) {
    name.strip_suffix(READ_ONLY_SUFFIX).map_or((name, false), |name| (name, true))
}

fn attached_export(shell: &Shell, name: &str, volume: VolumeId) -> Result<ExportInfo, ExportError> {
    let gone = || ExportError::new(ExportErrorKind::Shutdown, "the volume has just been detached; try again");
    let size_bytes = shell.core.borrow().size_bytes(volume).ok_or_else(gone)?;
    let attachment = attach::info(shell, volume).ok_or_else(gone)?;
    Ok(export(name, size_bytes, Some(attachment)))
}

fn export(name: &str, size_bytes: u64, attachment: Option<AttachmentInfo>) -> ExportInfo {
    ExportInfo {
        name: name.into(),
        description: "a replicated Quoin volume".into(),
        size_bytes,
        read_only: exported_volume(name).1,
        multi_conn: true,
        block_sizes: BlockSizes::new(1, BLOCK_BYTES as u32, PAYLOAD_BYTES_MAX)
            .expect("sizes that fit each other"),
        attachment,
    }
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
    socket: &'a ClientSocket,
    transmission: Transmission,
    outbox: Outbox<ClientSocket>,
    account: Rc<Account>,
    closed: &'a CancellationToken,
    /// A request for whose answer there was no room.
    postponed: Option<Request>,
    /// The payload of a large write, of which nothing is in the input.
    arriving: Option<Chunk>,
    under_way: Rc<Cell<usize>>,
    answered: Rc<Notify>,
}

/// Receives more: of the payload that arrives outside of the input, or else into that.
async fn receive(
    socket: &ClientSocket,
    arriving: Option<&mut Chunk>,
    input: &mut BytesMut,
    missing: usize,
) -> io::Result<usize> {
    let Some(payload) = arriving else { return socket.fill(input, missing.max(READ_BYTES)).await };
    let read = socket.fill_into(payload.unfilled()).await?;
    payload.advance(read);
    Ok(read)
}

impl Session<'_> {
    async fn run(&mut self, input: &mut BytesMut) -> Result<(), ClientError> {
        loop {
            if self.closed.is_cancelled() {
                // What a successor has sent again must not be carried out once more, and later.
                return Err(ClientError::Fenced);
            }
            let leaving = self.take_requests(input)?;
            if leaving || self.shell.shutdown.is_cancelled() {
                return self.leave().await;
            }
            if let Some(postponed) = &self.postponed {
                self.wait_for_room(answer::bytes(&postponed.operation)).await;
                continue;
            }
            if !self.may_take() {
                self.wait_for_room(answer::BYTES_MIN).await;
                continue;
            }
            let missing = self.transmission.missing(input);
            if missing == 0 || self.arriving.as_ref().is_some_and(Chunk::is_full) {
                // There was no room for it a moment ago, and now there is.
                continue;
            }
            self.make_room_for(input.len() + missing).await;
            self.begin_landing(input);
            tokio::select! {
                read = receive(self.socket, self.arriving.as_mut(), input, missing) => match read? {
                    0 => return Ok(()),
                    bytes => self.account.moved(bytes),
                },
                () = self.shell.shutdown.cancelled() => {}
            }
        }
    }

    /// From here on, the payload of a large write arrives where storage nodes of this machine can read it.
    fn begin_landing(&mut self, input: &mut BytesMut) {
        let Some(bytes) = self.transmission.awaited_write() else { return };
        let may_land = (LARGE_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&bytes) && !self.socket.is_encrypted();
        if self.arriving.is_some() || !may_land {
            return;
        }
        if let Some(mut chunk) = self.shell.routes.memory.landing().take_shared(bytes) {
            chunk.fill_from(input);
            self.arriving = Some(chunk);
        }
    }

    /// Gives the core the whole requests that have come, as one batch, as long as there is room for their answers. `true`: the
    /// client says good-bye.
    fn take_requests(&mut self, input: &mut BytesMut) -> Result<bool, ClientError> {
        let shell = self.shell;
        let result = shell.event(|core, _| {
            while let Some(received) = self.next_request(input)? {
                match received {
                    Received::Request(request) if !self.may_begin(&request) => {
                        self.postponed = Some(request);
                        break;
                    }
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
        self.account.unsent(self.outbox.len());
        result
    }

    fn begin(&self, request: Request) -> (ClientOperation, Waiting) {
        self.under_way.set(self.under_way.get() + 1);
        let is_read = matches!(request.operation, Operation::Read { .. });
        let promised_bytes = answer::bytes(&request.operation);
        self.account.promise(promised_bytes);
        let (mut operation, asked) = answer::begin(request.operation);
        if let ClientOperation::Write { data, .. } = &mut operation
            && data.len() <= COPY_BYTES_MAX
        {
            // A slice keeps the whole read buffer alive as long as the write is retained (W2): a small one is copied.
            *data = Bytes::copy_from_slice(data);
        }
        let (client, cookie, encoder) = (self.id, request.cookie, self.transmission.replies());
        let begun = clock::now();
        (operation, Waiting { client, cookie, encoder, asked, promised_bytes, begun, is_read })
    }

    /// Backpressure: a client with much under way, or that does not fetch its answers, is not read from.
    fn has_room(&self, bytes: usize) -> bool {
        self.under_way.get() < self.shell.config.limits.client_requests_max && self.account.has_room(bytes)
    }

    /// The next request, if one may be taken: first the one that was postponed.
    fn next_request(&mut self, input: &mut BytesMut) -> Result<Option<Received>, ProtocolError> {
        if let Some(request) = self.postponed.take() {
            return Ok(Some(Received::Request(request)));
        }
        if !self.may_take() {
            return Ok(None);
        }
        let received = match self.arriving.take_if(|payload| payload.is_full()) {
            Some(payload) => Some(self.transmission.payload_arrived(payload.freeze())),
            None => self.transmission.next_request(input)?,
        };
        if received.is_some() {
            self.account.unread(0);
        }
        Ok(received)
    }

    /// Whether there is room for the answer. Only that of a read is large: other requests, once taken, begin.
    fn may_begin(&self, request: &Request) -> bool {
        let bytes = answer::bytes(&request.operation);
        bytes <= answer::BYTES_MIN || self.has_room(bytes)
    }

    /// Whether another request may be taken. One that has been given room is taken in any case: it could not come whole else.
    fn may_take(&self) -> bool {
        self.account.held_unread() > 0 || self.has_room(answer::BYTES_MIN)
    }

    async fn wait_for_room(&self, bytes: usize) {
        while !self.has_room(bytes) {
            tokio::select! {
                () = self.answered.notified() => {}
                () = self.account.freed(bytes) => {}
                () = self.shell.shutdown.cancelled() => return,
            }
        }
    }

    /// Waits until a request of this size may be held until it has come whole. Small ones always may.
    async fn make_room_for(&self, bytes: usize) {
        while self.under_way.get() > 0
            && self.shell.core.borrow().in_flight_bytes(self.volume) > self.shell.config.in_flight_bytes_max
        {
            self.answered.notified().await;
        }
        let held = self.account.held_unread();
        if bytes > READ_BYTES && bytes > held {
            self.wait_for_room(bytes - held).await;
            self.account.unread(bytes);
        }
    }

    /// Answers what is under way, then ends. Who does not fetch his answers does not hold up the others' next gateway.
    async fn leave(&self) -> Result<(), ClientError> {
        while self.under_way.get() > 0 {
            self.answered.notified().await;
        }
        match tokio::time::timeout(LEAVE_MAX, self.outbox.drain()).await {
            Ok(sent) => Ok(sent?),
            Err(_) => Err(ClientError::Unfetched),
        }
    }
}
