//! An attached volume, and the process that stays with it.

use crate::Error;
use crate::device::{Attached, Backend, Device, Places};
use crate::link::{Link, Shared, Sockets};
use crate::lock::{self, Lock};
use crate::netlink::Control;
use crate::netlink::message::Connect;
use crate::origin::Origin;
use crate::upstream::Upstream;
use quoin_disk::clock;
use quoin_nbd::ConnectionName;
use quoin_nbd::client::{OpenedExport, Relay};
use std::cell::RefCell;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::{JoinSet, LocalSet, spawn_blocking};
use tokio_util::sync::CancellationToken;

/// The most connections that a device gets where nobody said.
const CONNECTIONS_DEFAULT: u32 = 4;
/// How long a device may take to go after the kernel was told so.
const DETACH_MAX: Duration = Duration::from_secs(10);
/// How long to wait for answers before leaving a device to a successor.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// Between two looks at a condition that has a deadline, and between two tries to give the kernel a socket.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// What the kernel's default for a request is, where it does not say.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// What to attach, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The volume's name.
    pub volume: String,
    /// The gateway, `host:port`.
    pub gateway: String,
    /// Which device, or any.
    pub device: Option<Device>,
    /// How many connections; without a wish, as many as are of use.
    pub connections: Option<u32>,
    /// Whether writes are refused.
    pub read_only: bool,
    /// The logical block size: 512 to 4096, a power of two.
    pub block_bytes: u32,
    /// How long the kernel waits for an answer before it asks again; whole seconds.
    pub timeout: Duration,
    /// How long requests wait while no process attends to the device, before they fail; whole seconds.
    pub dead_timeout: Duration,
}

/// How a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The device is no more.
    Detached,
    /// The device is in use and was left as it is: its requests wait for a process that attends to it.
    LeftInUse,
}

/// An attached volume. While it is [run](Session::run), requests are served; when it is dropped, they wait.
pub struct Session {
    device: Device,
    is_new: bool,
    shared: Rc<Shared>,
    sockets: Rc<Renewal>,
    links: Vec<(Link, Upstream)>,
    _lock: Lock,
}

impl Session {
    /// Attaches a volume, or takes over a device of it to which no process attends.
    ///
    /// # Errors
    ///
    /// Each [`Error`] says what to do about it, or would if asked. Nothing is left behind.
    pub async fn attach(options: &Options) -> Result<Self, Error> {
        let places = Places::default();
        let mut control = Control::open()?;
        let here = || places.find(&options.volume).map_err(Error::io("read /sys/block"));
        let Some(lock) = lock::take(&places.run, &options.volume)? else {
            let pid = lock::holder(&places.run, &options.volume);
            let device = here()?.map(|attached| attached.device);
            return Err(Error::AttachedHere { volume: options.volume.clone(), device, pid });
        };
        let former = here()?;
        // The kernel has kept it for a device that there is.
        let kept = former.as_ref().and_then(|former| former.backend.origin);
        let name = connection_name()?;
        let first = Upstream::open_again(&options.gateway, &options.volume, name, kept).await?;
        let origin = kept.or(first.export.attachment.map(Origin::from));
        let connections = connections(options, former.as_ref(), first.export)?;
        let mut upstreams = vec![first];
        for number in 1..connections {
            let name = ConnectionName { number, ..name };
            upstreams.push(Upstream::open_again(&options.gateway, &options.volume, name, origin).await?);
        }
        let least_bytes = former.as_ref().map_or(0, |former| former.size_bytes);
        if upstreams.iter().any(|upstream| upstream.export.size_bytes < least_bytes) {
            return Err(Error::Interrupted(options.volume.clone()));
        }
        let (kernels, ours) = pairs(upstreams.len())?;
        let export = upstreams[0].export;
        let (device, backend, timeout) = match &former {
            Some(former) => take_over(&mut control, &places, former, options, &kernels)?,
            None => make(&mut control, &places, options, (export, origin), &kernels)?,
        };
        drop(kernels);
        let shared = Rc::new(Shared {
            gateway: options.gateway.clone(),
            volume: options.volume.clone(),
            name,
            export,
            origin,
            timeout,
            relays: upstreams.iter().map(|_| RefCell::new(Relay::default())).collect(),
            answered: Notify::new(),
            fenced: CancellationToken::new(),
            leaving: CancellationToken::new(),
        });
        let numbered = ours.into_iter().zip(upstreams).enumerate();
        let links = numbered
            .map(|(number, (kernel, upstream))| (Link::new(shared.clone(), number, kernel), upstream))
            .collect();
        let sockets = Rc::new(Renewal { control: Arc::new(Mutex::new(control)), device, backend });
        Ok(Self { device, is_new: former.is_none(), shared, sockets, links, _lock: lock })
    }

    /// Which device it is.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Whether the device was made by this session, and not taken over.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Its size.
    pub fn size_bytes(&self) -> u64 {
        self.shared.export.size_bytes
    }

    /// How many connections it has.
    pub fn connections(&self) -> usize {
        self.links.len()
    }

    /// Serves requests until the device is detached, by whomever. When told to stop, it detaches a device that nobody uses,
    /// and leaves one that is in use to the next session.
    pub async fn run(self, stop: CancellationToken) -> Ended {
        let Self { device, shared, sockets, links, _lock, .. } = self;
        protect();
        let local = LocalSet::new();
        local
            .run_until(async move {
                let mut tasks = JoinSet::new();
                for (link, upstream) in links {
                    tasks.spawn_local(link.run(Some(upstream), sockets.clone()));
                }
                let all_ended = async { while tasks.join_next().await.is_some() {} };
                tokio::pin!(all_ended);
                tokio::select! {
                    () = &mut all_ended => return Ended::Detached,
                    () = stop.cancelled() => {}
                }
                let detaching = async {
                    if let Err(error) = give_up(device, sockets.control.clone()).await {
                        tracing::warn!(%error, "left to the next session");
                        drain(&shared).await;
                        return Ended::LeftInUse;
                    }
                    std::future::pending().await
                };
                tokio::select! {
                    () = &mut all_ended => Ended::Detached,
                    ended = detaching => ended,
                }
            })
            .await
    }
}

/// When memory is short the kernel writes back to the device, through this process: it must neither be killed for its memory
/// nor wait for memory that this very writing is to free. Where that is not permitted, both stay wishes.
fn protect() {
    let killed_last = fs::write("/proc/self/oom_score_adj", "-900");
    let flusher = rustix::process::configure_io_flusher_behavior(true);
    if killed_last.is_err() || flusher.is_err() {
        tracing::warn!("not protected when memory is short: that takes CAP_SYS_RESOURCE");
    }
}

/// The name of a device's first connection, when this process attends to it.
fn connection_name() -> Result<ConnectionName, Error> {
    let boot = clock::boot_id().map_err(Error::io("read the kernel's boot id"))?;
    // No two processes attend to a volume at once, so none begins at the moment when another one did.
    Ok(ConnectionName { client: *boot.as_bytes(), process: clock::now().as_nanos(), number: 0 })
}

/// The connections that a device gets.
fn connections(options: &Options, former: Option<&Attached>, export: OpenedExport) -> Result<u32, Error> {
    let wanted = former.map(|former| former.connections.max(1)).or(options.connections);
    match wanted {
        Some(wanted) if wanted > 1 && !export.can_multi_conn() => Err(Error::OneConnectionOnly),
        Some(wanted) => Ok(wanted),
        // The kernel sends on no more than it has processors.
        None if export.can_multi_conn() => {
            let processors = std::thread::available_parallelism().map_or(1, usize::from);
            Ok(u32::try_from(processors).unwrap_or(u32::MAX).min(CONNECTIONS_DEFAULT))
        }
        None => Ok(1),
    }
}

/// Socket pairs: the kernel's ends and ours.
fn pairs(count: usize) -> Result<(Vec<StdUnixStream>, Vec<UnixStream>), Error> {
    let pairs: io::Result<Vec<_>> = (0..count).map(|_| pair()).collect();
    Ok(pairs.map_err(Error::io("make a socket pair"))?.into_iter().unzip())
}

fn pair() -> io::Result<(StdUnixStream, UnixStream)> {
    let (kernel, ours) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((kernel, UnixStream::from_std(ours)?))
}

fn make(
    control: &mut Control,
    places: &Places,
    options: &Options,
    (export, origin): (OpenedExport, Option<Origin>),
    kernels: &[StdUnixStream],
) -> Result<(Device, String, Duration), Error> {
    let (gateway, volume) = (options.gateway.clone(), options.volume.clone());
    let backend = Backend { gateway, volume, origin }.to_string();
    let connect = Connect {
        index: options.device.map(|device| device.0),
        size_bytes: export.size_bytes,
        block_bytes: u64::from(options.block_bytes.max(export.block_bytes_min)),
        timeout_s: options.timeout.as_secs(),
        dead_conn_timeout_s: options.dead_timeout.as_secs(),
        server_flags: export.kernel_flags(options.read_only),
        backend: &backend,
    };
    let sockets: Vec<_> = kernels.iter().map(AsFd::as_fd).collect();
    let device = control.connect(&connect, &sockets)?;
    if places.backend(device).as_deref() != Some(&backend) {
        control.disconnect(device)?;
        return Err(Error::OldKernel);
    }
    Ok((device, backend, options.timeout))
}

fn take_over(
    control: &mut Control,
    places: &Places,
    former: &Attached,
    options: &Options,
    kernels: &[StdUnixStream],
) -> Result<(Device, String, Duration), Error> {
    let device = former.device;
    if let Some(asked) = options.device.filter(|asked| *asked != device) {
        return Err(Error::OtherDevice { volume: options.volume.clone(), device, asked });
    }
    let backend = former.backend.to_string();
    let sockets: Vec<_> = kernels.iter().map(AsFd::as_fd).collect();
    control.reconnect(device, &backend, &sockets)?;
    Ok((device, backend, places.timeout(device).unwrap_or(TIMEOUT_DEFAULT)))
}

/// Detaches a device that nobody uses, beside the session that serves it.
async fn give_up(device: Device, control: Arc<Mutex<Control>>) -> Result<(), Error> {
    let ended = spawn_blocking(move || {
        end(device, &mut control.lock().unwrap_or_else(PoisonError::into_inner), false)
    });
    ended.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// Waits until what the gateway has been asked is answered, for a while.
async fn drain(shared: &Shared) {
    shared.leaving.cancel();
    let is_idle = || shared.relays.iter().all(|relay| relay.borrow().is_empty());
    let drained = async {
        while !is_idle() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    if tokio::time::timeout(DRAIN_MAX, drained).await.is_err() {
        tracing::warn!("left with requests that are unanswered; the kernel will ask again");
    }
}

fn end(device: Device, control: &mut Control, force: bool) -> Result<(), Error> {
    if !force {
        if !device.is_free().map_err(Error::io(format!("open {device}")))? {
            return Err(Error::Busy(device));
        }
        device.sync().map_err(Error::io(format!("write back what is cached of {device}")))?;
    }
    control.disconnect(device)
}

/// Detaches a device, and waits until it is gone. With `force` whoever uses it, and with the loss of what is cached and not
/// written yet.
///
/// # Errors
///
/// [`Error::Busy`], [`Error::Unattended`], [`Error::NotPermitted`], [`Error::Stuck`], or what else the kernel says.
pub async fn detach(attached: Attached, force: bool) -> Result<(), Error> {
    let (device, backend) = (attached.device, attached.backend.to_string());
    if attached.pid.is_none() && !force {
        return Err(Error::Unattended(device));
    }
    let ended = spawn_blocking(move || end(device, &mut Control::open()?, force));
    ended.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    let places = Places::default();
    let gone = async {
        while places.backend(device).as_deref() == Some(&backend)
            || lock::holder(&places.run, &attached.backend.volume).is_some()
        {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    let waited = tokio::time::timeout(DETACH_MAX, gone).await;
    waited.map_err(|_| Error::Stuck(device, DETACH_MAX.as_secs()))
}

/// Gives the kernel a socket in place of one that it has closed.
struct Renewal {
    control: Arc<Mutex<Control>>,
    device: Device,
    backend: String,
}

impl Sockets for Renewal {
    async fn renew(&self) -> Option<UnixStream> {
        loop {
            // The kernel may not have marked its socket as dead yet, and then closes this one at once; so the pause.
            tokio::time::sleep(LOOK_AGAIN).await;
            let (kernel, ours) = match pair() {
                Ok(pair) => pair,
                Err(error) => {
                    tracing::warn!(%error, "no socket pair");
                    continue;
                }
            };
            let (control, device, backend) = (self.control.clone(), self.device, self.backend.clone());
            let told = spawn_blocking(move || {
                let mut control = control.lock().unwrap_or_else(PoisonError::into_inner);
                control.reconnect(device, &backend, &[kernel.as_fd()])
            });
            match told.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())) {
                Ok(()) => return Some(ours),
                // It is detached, or something else by now.
                Err(Error::Kernel { error, .. }) if error.kind() == io::ErrorKind::InvalidInput => {
                    return None;
                }
                Err(error) => tracing::warn!(%error, "the kernel takes no new connection; trying again"),
            }
        }
    }
}
