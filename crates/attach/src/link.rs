//! One connection of a device: the kernel's end of a socket pair on one side, the gateway on the other.
//!
//! When the gateway breaks, it connects again and sends what is unanswered again, for as long as it takes. When the kernel
//! breaks, which it does after its own time-out, it is given a new socket.
//!
//! **No stale cache.** It goes on only if nobody else can have changed the volume meanwhile, and nothing that was accepted is
//! lost ([`Origin`]): what the kernel has cached would be wrong, and what it writes back would overwrite what it has not seen.
//! Otherwise nothing is sent again, and all requests fail. `NBD_ESHUTDOWN` decides nothing: a gateway that stops says it as well
//! as one whose volume is another's. It is a reason to connect again and look.
//!
//! **No stale write.** A kernel that lost patience sends the request again, perhaps on another connection, and takes its
//! answer for the end of it. Were the first one carried out after that, it could undo a later write. So nothing that
//! changes data is passed on, on any connection of the device, while such a request is unanswered for half the kernel's
//! time-out: the second sending always finds the first one answered, or its gateway gone. And a gateway may still have to read
//! what came on a connection that is taken for broken here: it is told which connection a new one takes the place of
//! ([`ConnectionName`]), and takes nothing more from that.

use crate::Error;
use crate::origin::Origin;
use crate::upstream::Upstream;
use bytes::BytesMut;
use quoin_disk::clock;
use quoin_nbd::ConnectionName;
use quoin_nbd::client::{OpenError, OpenedExport, Relay, RelayError};
use quoin_transport::Queue;
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What is read at once where no more is known to come.
const READ_BYTES: usize = 128 * 1024;
/// The pauses between two tries to reach the gateway grow between these.
const RETRY_MIN: Duration = Duration::from_millis(5);
const RETRY_MAX: Duration = Duration::from_millis(250);
/// How long a gateway is away before that is logged again.
const LOG_AGAIN: Duration = Duration::from_secs(60);
/// The header of a reply.
const REPLY_BYTES: usize = 16;

/// What all connections of a device share.
pub(crate) struct Shared {
    pub(crate) gateway: String,
    pub(crate) volume: String,
    pub(crate) export: OpenedExport,
    /// The name of its first connection: the others have it with their own numbers.
    pub(crate) name: ConnectionName,
    /// What the device began with, if the gateway said so.
    pub(crate) origin: Option<Origin>,
    /// The kernel's time-out for a request.
    pub(crate) timeout: Duration,
    /// What is unanswered, one for each connection.
    pub(crate) relays: Vec<RefCell<Relay>>,
    /// Something was answered, or given up.
    pub(crate) answered: Notify,
    /// The volume belongs to another gateway now, or did in between: all requests fail.
    pub(crate) fenced: CancellationToken,
    /// This process is about to leave: nothing more is read from the kernel.
    pub(crate) leaving: CancellationToken,
}

/// Why a connection ended.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The kernel closed its end, or said what it must not.
    Kernel,
    /// The kernel said good-bye: the device is being detached.
    Detached,
    /// The gateway is gone.
    Gateway(io::Error),
    /// The gateway says that it stops, or that the volume is its no more.
    ShutDown,
    /// The volume is not this device's any more.
    Fenced,
}

/// Where a connection gets a new socket of the kernel's; `None`: the device is no more.
pub(crate) trait Sockets {
    async fn renew(&self) -> Option<UnixStream>;
}

/// What came from the kernel, and was not taken yet.
#[derive(Default)]
struct Arrived {
    bytes: BytesMut,
    /// When the first of it came, and the last. The kernel's time-out counts from there, not from when it is taken.
    first: Duration,
    last: Duration,
}

/// One connection.
pub(crate) struct Link {
    shared: Rc<Shared>,
    number: usize,
    kernel: UnixStream,
    from_kernel: Arrived,
    /// Answers that the kernel has not got yet, the first perhaps in part.
    to_kernel: Queue,
    /// How long to wait before the gateway is asked again.
    pause: Duration,
    /// When it was reached last, since the machine's boot.
    opened_at: Duration,
}

impl Link {
    pub(crate) fn new(shared: Rc<Shared>, number: usize, kernel: UnixStream) -> Self {
        let (from_kernel, to_kernel) = (Arrived::default(), Queue::default());
        let (pause, opened_at) = (Duration::ZERO, since_boot());
        Self { shared, number, kernel, from_kernel, to_kernel, pause, opened_at }
    }

    /// Serves the connection until the device is detached.
    pub(crate) async fn run(mut self, mut upstream: Option<Upstream>, sockets: Rc<impl Sockets>) {
        let shared = self.shared.clone();
        loop {
            let broken = match &mut upstream {
                _ if shared.fenced.is_cancelled() => self.refuse().await,
                Some(upstream) => self.pump(upstream).await,
                None => match self.reconnect().await {
                    Ok(open) => {
                        upstream = Some(open);
                        continue;
                    }
                    Err(broken) => broken,
                },
            };
            match broken {
                Broken::Gateway(error) => {
                    tracing::warn!(connection = self.number, %error, "the gateway is gone; connecting again");
                    // One that hangs up as soon as it is reached is not to be asked without a pause.
                    let was_there = since_boot().saturating_sub(self.opened_at) >= RETRY_MAX;
                    let longer = (self.pause * 2).clamp(RETRY_MIN, RETRY_MAX);
                    self.pause = if was_there { Duration::ZERO } else { longer };
                    upstream = None;
                }
                Broken::ShutDown => {
                    tracing::warn!(
                        connection = self.number,
                        "the gateway stops, or has the volume no more; connecting again to see which"
                    );
                    // Nor one that says so again and again.
                    self.pause = RETRY_MAX;
                    upstream = None;
                }
                Broken::Fenced => {
                    tracing::error!(
                        volume = shared.volume,
                        "all requests fail until the volume is detached here: `quoin detach --force`, then attach it again"
                    );
                    shared.fenced.cancel();
                    upstream = None;
                }
                Broken::Kernel => {
                    tracing::warn!(
                        connection = self.number,
                        "the kernel closed the connection; giving it another"
                    );
                    self.from_kernel.bytes.clear();
                    self.to_kernel = Queue::default();
                    shared.relays[self.number].borrow_mut().disown();
                    match sockets.renew().await {
                        Some(kernel) => self.kernel = kernel,
                        None => return,
                    }
                }
                Broken::Detached => return,
            }
        }
    }

    /// Both directions until one breaks. What is half sent is kept in queues and goes on from there, in either direction.
    async fn pump(&mut self, upstream: &mut Upstream) -> Broken {
        let Self { shared, number, kernel, from_kernel, to_kernel, .. } = self;
        let Upstream { stream, input, unsent, .. } = upstream;
        tokio::select! {
            broken = shared.requests(*number, kernel, from_kernel, stream, unsent) => broken,
            broken = shared.replies(*number, stream, input, kernel, to_kernel) => broken,
            () = shared.fenced.cancelled() => Broken::Fenced,
        }
    }

    /// Tries until the gateway is back, and has what is unanswered sent again. Meanwhile the kernel's end is watched.
    async fn reconnect(&mut self) -> Result<Upstream, Broken> {
        let Self { shared, kernel, from_kernel, pause, .. } = self;
        let watch = async { while shared.read(kernel, from_kernel, 0).await.is_ok() {} };
        let open = async {
            tokio::time::sleep(*pause).await;
            shared.open(self.number).await
        };
        let mut upstream = tokio::select! {
            upstream = open => upstream?,
            () = watch => return Err(Broken::Kernel),
            () = shared.fenced.cancelled() => return Err(Broken::Fenced),
        };
        self.opened_at = since_boot();
        let again = shared.relays[self.number].borrow_mut().again();
        let requests = again.len();
        again.into_iter().for_each(|request| upstream.unsent.push_payload(request));
        // What was disowned ended with the former connection, and may have held others back.
        shared.answered.notify_waiters();
        tracing::info!(connection = self.number, again = requests, "connected to the gateway again");
        Ok(upstream)
    }

    /// Answers everything with an error until the kernel leaves.
    async fn refuse(&mut self) -> Broken {
        loop {
            let taken = {
                let mut relay = self.shared.relays[self.number].borrow_mut();
                let taken = relay.take_requests(&mut self.from_kernel.bytes, false, since_boot());
                self.to_kernel.push_payload(relay.fail_all());
                taken
            };
            let taken = match taken {
                Ok(taken) => taken,
                Err(error) => return kernel_broke(&error),
            };
            if self.to_kernel.send_all(&self.kernel).await.is_err() {
                return Broken::Kernel;
            }
            if taken.is_leaving {
                return Broken::Detached;
            }
            if self.shared.read(&self.kernel, &mut self.from_kernel, taken.missing).await.is_err() {
                return Broken::Kernel;
            }
        }
    }
}

impl Shared {
    async fn requests(
        &self,
        number: usize,
        kernel: &UnixStream,
        input: &mut Arrived,
        gateway: &TcpStream,
        unsent: &mut Queue,
    ) -> Broken {
        loop {
            let answered = self.answered.notified();
            tokio::pin!(answered);
            answered.as_mut().enable();
            let hold = self.holds_changes();
            let taken = self.relays[number].borrow_mut().take_requests(&mut input.bytes, hold, input.first);
            if !hold {
                // What is left is a part of one request.
                input.first = input.last;
            }
            let taken = match taken {
                Ok(taken) => taken,
                Err(error) => return kernel_broke(&error),
            };
            unsent.push_payload(taken.bytes);
            if let Err(error) = unsent.send_all(gateway).await {
                return Broken::Gateway(error);
            }
            if taken.is_leaving {
                return Broken::Detached;
            }
            tokio::select! {
                read = self.read(kernel, input, taken.missing) => if read.is_err() { return Broken::Kernel },
                () = answered, if hold => {}
            }
        }
    }

    async fn replies(
        &self,
        number: usize,
        gateway: &TcpStream,
        input: &mut BytesMut,
        kernel: &UnixStream,
        to_kernel: &mut Queue,
    ) -> Broken {
        loop {
            let taken = self.relays[number].borrow_mut().take_replies(input);
            let taken = match taken {
                Ok(taken) => taken,
                Err(error) => return Broken::Gateway(io::Error::new(io::ErrorKind::InvalidData, error)),
            };
            to_kernel.push_payload(taken.bytes);
            self.answered.notify_waiters();
            if to_kernel.send_all(kernel).await.is_err() {
                return Broken::Kernel;
            }
            if taken.is_shut_down {
                if self.origin.is_some() {
                    return Broken::ShutDown;
                }
                tracing::error!(volume = self.volume, "the volume belongs to another gateway now");
                return Broken::Fenced;
            }
            if taken.missing == 0 && input.len() >= REPLY_BYTES {
                // Not a reply: the next look says what it is.
                continue;
            }
            if let Err(error) = fill_from_gateway(gateway, input, taken.missing).await {
                return Broken::Gateway(error);
            }
        }
    }

    /// Whether something that changes data is unanswered for so long that the kernel may soon ask again.
    fn holds_changes(&self) -> bool {
        let oldest = self.relays.iter().filter_map(|relay| relay.borrow().oldest_change()).min();
        oldest.is_some_and(|taken_at| since_boot().saturating_sub(taken_at) >= self.timeout / 2)
    }

    async fn open(&self, number: usize) -> Result<Upstream, Broken> {
        let name = ConnectionName { number: number as u32, ..self.name };
        let mut pause = RETRY_MIN;
        let mut logged_at = since_boot();
        loop {
            let error = match Upstream::open_again(&self.gateway, &self.volume, name, self.origin).await {
                Ok(upstream) if upstream.export.size_bytes >= self.export.size_bytes => return Ok(upstream),
                Ok(_) => {
                    tracing::error!(volume = self.volume, "it is smaller than it was: it is another volume");
                    return Err(Broken::Fenced);
                }
                Err(error @ Error::Interrupted(_)) => {
                    tracing::error!(%error, "going on would mix it with what is there now");
                    return Err(Broken::Fenced);
                }
                Err(error @ Error::Open { error: OpenError::Unknown(_), .. }) => {
                    tracing::error!(%error, "the volume is gone");
                    return Err(Broken::Fenced);
                }
                Err(error) => error,
            };
            if since_boot().saturating_sub(logged_at) >= LOG_AGAIN {
                logged_at = since_boot();
                tracing::warn!(%error, "still without the gateway; requests wait");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// Reads from the kernel. What a kernel that has closed its end left unread is not wanted, but for its good-bye: it asks
    /// again elsewhere.
    async fn read(&self, kernel: &UnixStream, input: &mut Arrived, missing: usize) -> io::Result<()> {
        loop {
            if self.leaving.is_cancelled() {
                std::future::pending::<()>().await;
            }
            let ready = tokio::select! {
                ready = kernel.ready(Interest::READABLE) => ready?,
                () = self.leaving.cancelled() => continue,
            };
            let is_closed = ready.is_read_closed();
            let Arrived { bytes, first, last } = &mut *input;
            let is_between_requests = bytes.is_empty();
            bytes.reserve(missing.max(READ_BYTES));
            let read = kernel.try_read_buf(bytes);
            *last = since_boot();
            if is_between_requests {
                *first = *last;
            }
            match read {
                Ok(1..) if is_closed && !(is_between_requests && is_good_bye(bytes)) => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => return Ok(()),
            }
        }
    }
}

/// `NBD_CMD_DISC`, and nothing else: what the kernel says just before it closes a device.
fn is_good_bye(input: &[u8]) -> bool {
    input.len() == 28 && input[..4] == [0x25, 0x60, 0x95, 0x13] && input[6..8] == [0, 2]
}

fn kernel_broke(error: &RelayError) -> Broken {
    tracing::error!(%error, "the kernel sent what is no request");
    Broken::Kernel
}

async fn fill_from_gateway(gateway: &TcpStream, input: &mut BytesMut, missing: usize) -> io::Result<()> {
    loop {
        gateway.readable().await?;
        input.reserve(missing.max(READ_BYTES));
        match gateway.try_read_buf(input) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => return Ok(()),
        }
    }
}

/// Time that goes on while the machine sleeps counts as well: it only makes changes be held back earlier.
fn since_boot() -> Duration {
    Duration::from_nanos(clock::now().as_nanos())
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
