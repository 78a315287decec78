//! A network that fails on demand: TCP proxies between processes, with each direction of each link by itself.
//!
//! What TCP promises is kept: bytes arrive in order and whole, late, or never. A link that *holds* is what a silent partition
//! looks like to both ends: nothing arrives, nobody is told, and when it heals everything that was sent meanwhile arrives
//! after all, however late, also on connections that one end has given up since.
//!
//! A link is named by who connects and to whom. The callers of a proxy are told apart by their pids: `/proc` says whose a connection is.

mod caller;
mod pump;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle};
use tokio::sync::{oneshot, watch};

/// What one direction of a link does with bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Way {
    /// Lets them through.
    #[default]
    Pass,
    /// Lets them through so much later.
    Delay(Duration),
    /// Lets through so many per second.
    Rate(u32),
    /// Keeps them, without a word, until it changes.
    Hold,
}

/// What a link does.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Link {
    /// From the one that connected.
    pub there: Way,
    /// From the one that was connected to.
    pub back: Way,
}

impl Link {
    /// Nothing gets through, in either direction.
    pub const PARTITION: Link = Link { there: Way::Hold, back: Way::Hold };
    /// Requests arrive, answers vanish.
    pub const NO_ANSWERS: Link = Link { there: Way::Pass, back: Way::Hold };
    /// Requests vanish, answers arrive.
    pub const NO_REQUESTS: Link = Link { there: Way::Hold, back: Way::Pass };

    /// Half of this time in each direction.
    pub fn round_trip(time: Duration) -> Link {
        Link { there: Way::Delay(time / 2), back: Way::Delay(time / 2) }
    }
}

/// From whom, to whom.
type Ends = (String, String);

/// What all links do, and whose the callers are.
#[derive(Clone, Default, Debug)]
struct Rules {
    links: BTreeMap<Ends, Link>,
    /// How often the connections of a link were cut.
    cuts: BTreeMap<Ends, u64>,
    /// The callers, by pid.
    callers: BTreeMap<u32, String>,
}

/// The proxies, in a thread of their own. Dropping it closes all connections.
pub struct Network {
    rules: Arc<watch::Sender<Rules>>,
    runtime: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Network {
    /// Starts without a proxy.
    pub fn start() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (stop, stopped) = oneshot::channel();
        let handle = runtime.handle().clone();
        let thread = std::thread::spawn(move || {
            // Also when the sender is gone. What still runs ends with the runtime.
            let _ = runtime.block_on(stopped);
        });
        let rules = Arc::new(watch::Sender::new(Rules::default()));
        Self { rules, runtime: handle, stop: Some(stop), thread: Some(thread) }
    }

    /// Starts a proxy in front of a process that serves at an address; gives its own address.
    #[track_caller]
    pub fn proxy(&self, name: &str, target: SocketAddr) -> SocketAddr {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("bound");
        let (rules, name) = (self.rules.clone(), name.to_owned());
        self.runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a socket");
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, name.clone(), target, rules.clone()));
            }
        });
        address
    }

    /// This process is called so from now on.
    pub fn call(&self, name: &str, pid: u32) {
        self.rules.send_modify(|rules| {
            rules.callers.insert(pid, name.to_owned());
        });
    }

    /// What a link does from now on, with what is under way on it, too.
    pub fn set(&self, from: &str, to: &str, link: Link) {
        self.rules.send_modify(|rules| {
            rules.links.insert((from.to_owned(), to.to_owned()), link);
        });
    }

    /// All links let everything through again.
    pub fn heal(&self) {
        self.rules.send_modify(|rules| rules.links.clear());
    }

    /// Resets all connections of a link. New ones may be made.
    pub fn cut(&self, from: &str, to: &str) {
        self.rules.send_modify(|rules| {
            *rules.cuts.entry((from.to_owned(), to.to_owned())).or_default() += 1;
        });
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in it has been shown; the test that used it sees broken connections.
            let _ = thread.join();
        }
    }
}

/// One connection, to its end.
async fn serve(near: TcpStream, to: String, target: SocketAddr, rules: Arc<watch::Sender<Rules>>) {
    let Some(from) = caller::of(&near, &rules).await else { return };
    let ends = (from, to);
    let mut watched = rules.subscribe();
    let cuts = |rules: &Rules| rules.cuts.get(&ends).copied().unwrap_or_default();
    let cuts_before = cuts(&watched.borrow());
    let cut = async { watched.wait_for(|rules| cuts(rules) > cuts_before).await.is_ok() };
    let is_broken = tokio::select! {
        result = carry(&near, &ends, target, &rules) => result.is_err(),
        cut = cut => cut,
    };
    // An orderly end has been passed on in its place; everything else is a reset.
    if is_broken {
        let _ = near.set_zero_linger();
    }
}

async fn carry(
    near: &TcpStream,
    ends: &Ends,
    target: SocketAddr,
    rules: &watch::Sender<Rules>,
) -> io::Result<()> {
    let link = |rules: &Rules| rules.links.get(ends).copied().unwrap_or_default();
    // A connection is not made through a partition.
    let through = |rules: &Rules| link(rules).there != Way::Hold && link(rules).back != Way::Hold;
    rules.subscribe().wait_for(|rules| through(rules)).await.map_err(io::Error::other)?;
    let far = TcpStream::connect(target).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let there = pump::run(near, &far, rules.subscribe(), |rules| link(rules).there);
    let back = pump::run(&far, near, rules.subscribe(), |rules| link(rules).back);
    tokio::try_join!(there, back).map(drop)
}
