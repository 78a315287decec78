//! A connection between a kernel and a gateway that are both played here, byte by byte.

use super::*;
use quoin_nbd::{
    AttachmentInfo, BlockSizes, ConnectionName, ExportError, ExportErrorKind, ExportInfo, Handshake, Limits,
    Step,
};
use std::future::Future;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::LocalSet;

/// Nothing here takes that long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

fn request(kind: u16, cookie: u64, len_bytes: u32, data: &[u8]) -> Vec<u8> {
    let (magic, kind) = (0x2560_9513_u32.to_be_bytes(), kind.to_be_bytes());
    [&magic[..], &[0, 0], &kind, &cookie.to_be_bytes(), &[0; 8], &len_bytes.to_be_bytes(), data].concat()
}

fn reply(errno: u32, cookie: u64, data: &[u8]) -> Vec<u8> {
    let magic = 0x6744_6698_u32.to_be_bytes();
    [&magic[..], &errno.to_be_bytes(), &cookie.to_be_bytes(), data].concat()
}

async fn expect(stream: &mut (impl tokio::io::AsyncRead + Unpin), bytes: &[u8]) {
    let mut read = vec![0; bytes.len()];
    stream.read_exact(&mut read).await.unwrap();
    assert!(read == bytes, "{read:02x?} instead of {bytes:02x?}");
}

/// What the devices here began with.
const FIRST: AttachmentInfo = AttachmentInfo { cluster: [3; 16], volume: 7, epoch: 5, unbroken_since: 2 };

/// A gateway that speaks the handshake by itself, and nothing else.
struct Gateway(TcpListener);

impl Gateway {
    async fn accept(&self) -> TcpStream {
        self.accept_with(64 << 20, Some(FIRST)).await
    }

    async fn accept_under(&self, unbroken_since: u64, epoch: u64) -> TcpStream {
        self.accept_with(64 << 20, Some(AttachmentInfo { epoch, unbroken_since, ..FIRST })).await
    }

    /// The next client that stays for the handshake.
    async fn accept_with(&self, size_bytes: u64, attachment: Option<AttachmentInfo>) -> TcpStream {
        loop {
            let (stream, _) = self.0.accept().await.unwrap();
            let answer = Ok(ExportInfo {
                name: "vol1".into(),
                description: String::new(),
                size_bytes,
                read_only: false,
                multi_conn: true,
                block_sizes: BlockSizes::default(),
                attachment,
            });
            if let Ok(stream) = shake_hands(stream, answer).await {
                return stream;
            }
        }
    }

    /// Refuses the next client that asks, because the volume is attached elsewhere under this attachment.
    async fn refuse(&self, elsewhere: Option<AttachmentInfo>) {
        let refusal = ExportError::new(ExportErrorKind::Policy, "it is another gateway's");
        let refusal = ExportError { elsewhere, ..refusal };
        loop {
            let (stream, _) = self.0.accept().await.unwrap();
            match shake_hands(stream, Err(refusal.clone())).await {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return,
                _ => {}
            }
        }
    }
}

/// Until the client has its answer; a refusal is an error here.
async fn shake_hands(
    mut stream: TcpStream,
    answer: Result<ExportInfo, ExportError>,
) -> io::Result<TcpStream> {
    let mut handshake = Handshake::new(Limits::default());
    let mut input = BytesMut::new();
    let (mut is_refused, refused) = (false, io::ErrorKind::PermissionDenied);
    loop {
        match handshake.advance(&mut input).unwrap() {
            Step::NeedMore { .. } => {
                if stream.read_buf(&mut input).await? == 0 {
                    return Err(if is_refused { refused } else { io::ErrorKind::UnexpectedEof }.into());
                }
            }
            Step::Send(bytes) => stream.write_all(&bytes).await?,
            Step::OpenExport { .. } => {
                is_refused = answer.is_err();
                handshake.answer_open(answer.clone());
            }
            Step::Transmission { .. } => return Ok(stream),
            other => panic!("{other:?}"),
        }
    }
}

/// The kernel, as far as it gives sockets: the test gets the other ends.
struct Renewals {
    kernels: UnboundedSender<UnixStream>,
    is_detached: std::cell::Cell<bool>,
}

impl Sockets for Renewals {
    async fn renew(&self) -> Option<UnixStream> {
        let (kernel, ours) = UnixStream::pair().unwrap();
        self.kernels.send(kernel).unwrap();
        (!self.is_detached.get()).then_some(ours)
    }
}

struct Bench {
    gateway: Gateway,
    shared: Rc<Shared>,
    sockets: Rc<Renewals>,
    kernels: Mutex<UnboundedReceiver<UnixStream>>,
}

impl Bench {
    async fn new(connections: usize, timeout: Duration) -> Self {
        Self::with_origin(connections, timeout, Some(FIRST.into())).await
    }

    async fn with_origin(connections: usize, timeout: Duration, origin: Option<Origin>) -> Self {
        let gateway = Gateway(TcpListener::bind("127.0.0.1:0").await.unwrap());
        let (sender, kernels) = unbounded_channel();
        let export = OpenedExport {
            size_bytes: 64 << 20,
            flags: 0x16d,
            block_bytes_min: 1,
            payload_bytes_max: 32 << 20,
            attachment: Some(FIRST),
        };
        let shared = Rc::new(Shared {
            gateway: gateway.0.local_addr().unwrap().to_string(),
            volume: "vol1".into(),
            name: ConnectionName { client: [7; 16], process: 1, number: 0 },
            export,
            origin,
            timeout,
            relays: (0..connections).map(|_| RefCell::new(Relay::default())).collect(),
            answered: Notify::new(),
            fenced: CancellationToken::new(),
            leaving: CancellationToken::new(),
        });
        let sockets = Rc::new(Renewals { kernels: sender, is_detached: std::cell::Cell::new(false) });
        Self { gateway, shared, sockets, kernels: Mutex::new(kernels) }
    }

    /// Starts a connection; gives the kernel's end.
    fn link(&self, number: usize) -> (UnixStream, tokio::task::JoinHandle<()>) {
        let (kernel, ours) = UnixStream::pair().unwrap();
        let link = Link::new(self.shared.clone(), number, ours);
        (kernel, tokio::task::spawn_local(link.run(None, self.sockets.clone())))
    }

    /// Starts a connection; gives the kernel's end, and the gateway's.
    async fn connected(&self, number: usize) -> (UnixStream, TcpStream, tokio::task::JoinHandle<()>) {
        let (kernel, link) = self.link(number);
        (kernel, self.gateway.accept().await, link)
    }

    async fn renewed(&self) -> UnixStream {
        self.kernels.lock().await.recv().await.unwrap()
    }
}

fn play(scene: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let scene = async { tokio::time::timeout(PATIENCE, scene).await.expect("nothing hangs") };
    LocalSet::new().block_on(&runtime, scene);
}

#[test]
fn what_a_lost_gateway_left_unanswered_is_asked_again_and_each_answer_comes_once() {
    play(async {
        let bench = Bench::new(1, Duration::from_secs(30)).await;
        let (mut kernel, mut gateway, link) = bench.connected(0).await;
        let (write, read) = (request(1, 1, 4, b"data"), request(0, 2, 3, b""));
        kernel.write_all(&[&write[..], &read].concat()).await.unwrap();
        expect(&mut gateway, &[&write[..], &read].concat()).await;
        // The first is answered, the second only in part.
        let cut = &reply(0, 2, b"abc")[..18];
        gateway.write_all(&[&reply(0, 1, b"")[..], cut].concat()).await.unwrap();
        expect(&mut kernel, &reply(0, 1, b"")).await;
        drop(gateway);
        // Meanwhile the kernel asks on.
        let flush = request(3, 3, 0, b"");
        kernel.write_all(&flush).await.unwrap();
        let mut gateway = bench.gateway.accept().await;
        expect(&mut gateway, &[&read[..], &flush].concat()).await;
        gateway.write_all(&[reply(0, 3, b""), reply(0, 2, b"abc")].concat()).await.unwrap();
        expect(&mut kernel, &[reply(0, 3, b""), reply(0, 2, b"abc")].concat()).await;
        kernel.write_all(&request(2, 0, 0, b"")).await.unwrap();
        link.await.unwrap();
    });
}

#[test]
fn a_write_that_is_cut_in_half_by_the_loss_arrives_whole() {
    play(async {
        let bench = Bench::new(1, Duration::from_secs(30)).await;
        let (kernel, mut gateway, _link) = bench.connected(0).await;
        // More than all buffers between the two hold.
        let data: Vec<u8> = (0..32_u32 << 20).map(|n| (n % 251) as u8).collect();
        let write = request(1, 1, data.len() as u32, &data);
        let (mut from_relay, mut to_relay) = kernel.into_split();
        let sent = write.clone();
        let sending =
            tokio::task::spawn_local(async move { to_relay.write_all(&sent).await.map(|()| to_relay) });
        expect(&mut gateway, &write[..1 << 20]).await;
        drop(gateway);
        let mut gateway = bench.gateway.accept().await;
        expect(&mut gateway, &write).await;
        gateway.write_all(&reply(0, 1, b"")).await.unwrap();
        expect(&mut from_relay, &reply(0, 1, b"")).await;
        sending.await.unwrap().unwrap();
    });
}

#[test]
fn a_kernel_that_lost_patience_gets_a_new_socket_and_no_old_answer() {
    play(async {
        let bench = Bench::new(1, Duration::from_secs(30)).await;
        let (mut kernel, mut gateway, link) = bench.connected(0).await;
        let read = request(0, 1, 3, b"");
        kernel.write_all(&read).await.unwrap();
        expect(&mut gateway, &read).await;
        drop(kernel);
        let mut kernel = bench.renewed().await;
        let again = request(0, 7, 3, b"");
        kernel.write_all(&again).await.unwrap();
        expect(&mut gateway, &again).await;
        gateway.write_all(&[reply(0, 1, b"old"), reply(0, 7, b"new")].concat()).await.unwrap();
        expect(&mut kernel, &reply(0, 7, b"new")).await;
        // A device that is detached takes no socket any more.
        bench.sockets.is_detached.set(true);
        drop(kernel);
        link.await.unwrap();
    });
}

#[test]
fn no_connection_passes_a_write_on_while_one_is_unanswered_for_too_long() {
    play(async {
        // From the first moment on: half of nothing.
        let bench = Bench::new(2, Duration::ZERO).await;
        let (mut first, mut gateway_of_first, _one) = bench.connected(0).await;
        let (mut second, mut gateway_of_second, _two) = bench.connected(1).await;
        let old = request(1, 1, 3, b"old");
        first.write_all(&old).await.unwrap();
        expect(&mut gateway_of_first, &old).await;
        // The kernel asks again on the other connection, and reads there as well.
        let (again, read) = (request(1, 5, 3, b"old"), request(0, 6, 1, b""));
        second.write_all(&[&read[..], &again].concat()).await.unwrap();
        expect(&mut gateway_of_second, &read).await;
        gateway_of_second.write_all(&reply(0, 6, b"x")).await.unwrap();
        expect(&mut second, &reply(0, 6, b"x")).await;
        assert!(bench.shared.relays[1].borrow().is_empty(), "the write has not been passed on");
        gateway_of_first.write_all(&reply(0, 1, b"")).await.unwrap();
        expect(&mut gateway_of_second, &again).await;
    });
}

/// The kernel's patience began when it sent the request, not when that was passed on.
#[test]
fn what_a_kernel_asks_again_waits_for_its_first_asking_however_young_that_is() {
    play(async {
        let bench = Bench::new(2, Duration::from_secs(30)).await;
        let (mut first, mut gateway_of_first, _one) = bench.connected(0).await;
        let (mut second, mut gateway_of_second, _two) = bench.connected(1).await;
        let write = request(1, 1, 3, b"old");
        first.write_all(&write).await.unwrap();
        expect(&mut gateway_of_first, &write).await;
        drop(first);
        let _first = bench.renewed().await;
        let (again, read) = (request(1, 5, 3, b"old"), request(0, 6, 1, b""));
        second.write_all(&[&read[..], &again].concat()).await.unwrap();
        expect(&mut gateway_of_second, &read).await;
        gateway_of_second.write_all(&reply(0, 6, b"x")).await.unwrap();
        expect(&mut second, &reply(0, 6, b"x")).await;
        assert!(bench.shared.relays[1].borrow().is_empty(), "the write has been passed on");
        gateway_of_first.write_all(&reply(0, 1, b"")).await.unwrap();
        expect(&mut gateway_of_second, &again).await;
    });
}

/// It is asked about, and not taken for the end: a gateway that stops says the same as one that has lost the volume.
#[test]
fn what_a_gateway_that_shuts_down_refuses_is_asked_of_its_successor() {
    play(async {
        let bench = Bench::new(2, Duration::from_secs(30)).await;
        let (mut first, mut gateway_of_first, _one) = bench.connected(0).await;
        let (mut second, mut gateway_of_second, _two) = bench.connected(1).await;
        let (write, flush, read) = (request(1, 1, 1, b"x"), request(3, 2, 0, b""), request(0, 3, 2, b""));
        first.write_all(&[&write[..], &flush].concat()).await.unwrap();
        second.write_all(&read).await.unwrap();
        expect(&mut gateway_of_first, &[&write[..], &flush].concat()).await;
        expect(&mut gateway_of_second, &read).await;
        gateway_of_first.write_all(&reply(108, 2, b"")).await.unwrap();
        let mut gateway_of_first = bench.gateway.accept_under(2, 6).await;
        expect(&mut gateway_of_first, &[&write[..], &flush].concat()).await;
        gateway_of_first.write_all(&[reply(0, 2, b""), reply(0, 1, b"")].concat()).await.unwrap();
        expect(&mut first, &[reply(0, 2, b""), reply(0, 1, b"")].concat()).await;
        gateway_of_second.write_all(&reply(0, 3, b"ab")).await.unwrap();
        expect(&mut second, &reply(0, 3, b"ab")).await;
    });
}

#[test]
fn a_gateway_that_hangs_up_at_once_is_asked_less_and_less_often() {
    play(async {
        let bench = Bench::new(1, Duration::from_secs(30)).await;
        let begun = since_boot();
        let (_kernel, link) = bench.link(0);
        for _ in 0..7 {
            drop(bench.gateway.accept().await);
        }
        // 5 ms, and twice as long each time.
        assert!(since_boot() - begun >= Duration::from_millis(315));
        link.abort();
    });
}

#[test]
fn a_gateway_that_shuts_down_and_has_lost_the_volume_when_it_is_back_is_the_end() {
    play(async {
        let bench = Bench::new(1, Duration::from_secs(30)).await;
        let (mut kernel, mut gateway, _link) = bench.connected(0).await;
        let write = request(1, 1, 1, b"x");
        kernel.write_all(&write).await.unwrap();
        expect(&mut gateway, &write).await;
        gateway.write_all(&reply(108, 1, b"")).await.unwrap();
        expect_silence(bench.gateway.accept_under(7, 7).await).await;
        expect(&mut kernel, &reply(108, 1, b"")).await;
    });
}

/// While it has it: nobody need wait for the other one to give it back.
#[test]
fn a_volume_that_another_gateway_has_is_the_end_and_one_that_is_refused_otherwise_is_waited_for() {
    play(async {
        let bench = Bench::new(1, Duration::from_secs(30)).await;
        let (mut kernel, _link) = bench.link(0);
        drop(bench.gateway.accept().await);
        let flush = request(3, 1, 0, b"");
        kernel.write_all(&flush).await.unwrap();
        // Refused without a word about who has it, and because a gateway of the same run has it.
        bench.gateway.refuse(None).await;
        bench.gateway.refuse(Some(AttachmentInfo { epoch: 6, ..FIRST })).await;
        let mut gateway = bench.gateway.accept_under(2, 6).await;
        expect(&mut gateway, &flush).await;
        drop(gateway);
        bench.gateway.refuse(Some(AttachmentInfo { epoch: 7, unbroken_since: 7, ..FIRST })).await;
        expect(&mut kernel, &reply(108, 1, b"")).await;
    });
}

/// Nothing tells it from a gateway that has lost the volume: there is no origin to compare with.
#[test]
fn without_an_origin_a_gateway_that_shuts_down_is_taken_at_its_word() {
    play(async {
        let bench = Bench::with_origin(2, Duration::from_secs(30), None).await;
        let (mut first, mut gateway_of_first, one) = bench.connected(0).await;
        let (mut second, mut gateway_of_second, two) = bench.connected(1).await;
        first.write_all(&request(1, 1, 1, b"x")).await.unwrap();
        second.write_all(&request(3, 2, 0, b"")).await.unwrap();
        expect(&mut gateway_of_first, &request(1, 1, 1, b"x")).await;
        expect(&mut gateway_of_second, &request(3, 2, 0, b"")).await;
        gateway_of_first.write_all(&reply(108, 1, b"")).await.unwrap();
        expect(&mut first, &reply(108, 1, b"")).await;
        expect(&mut second, &reply(108, 2, b"")).await;
        second.write_all(&request(0, 3, 4096, b"")).await.unwrap();
        expect(&mut second, &reply(108, 3, b"")).await;
        for (mut kernel, link) in [(first, one), (second, two)] {
            kernel.write_all(&request(2, 0, 0, b"")).await.unwrap();
            link.await.unwrap();
        }
    });
}

#[test]
fn what_a_kernel_left_behind_is_not_passed_on_but_its_good_bye_is_heard() {
    play(async {
        let bench = Bench::new(1, Duration::from_secs(30)).await;
        // Before the connection looks at it: a request, and the end.
        let (mut kernel, link) = bench.link(0);
        kernel.write_all(&request(1, 1, 1, b"x")).await.unwrap();
        drop(kernel);
        let mut gateway = bench.gateway.accept().await;
        let mut kernel = bench.renewed().await;
        let flush = request(3, 2, 0, b"");
        kernel.write_all(&flush).await.unwrap();
        expect(&mut gateway, &flush).await;
        gateway.write_all(&reply(0, 2, b"")).await.unwrap();
        expect(&mut kernel, &reply(0, 2, b"")).await;
        kernel.write_all(&request(2, 0, 0, b"")).await.unwrap();
        drop(kernel);
        link.await.unwrap();
        assert!(bench.kernels.lock().await.try_recv().is_err(), "no socket was asked for");
    });
}

#[test]
fn a_volume_that_has_shrunk_is_another_one() {
    play(async {
        let bench = Bench::new(1, Duration::from_secs(30)).await;
        let (mut kernel, _link) = bench.link(0);
        drop(bench.gateway.accept().await);
        kernel.write_all(&request(3, 1, 0, b"")).await.unwrap();
        bench.gateway.accept_with(32 << 20, Some(FIRST)).await;
        expect(&mut kernel, &reply(108, 1, b"")).await;
    });
}

/// Until the other side has left, without a word.
async fn expect_silence(mut gateway: TcpStream) {
    let mut said = Vec::new();
    gateway.read_to_end(&mut said).await.unwrap();
    assert!(said.is_empty(), "{said:02x?}");
}

#[test]
fn within_a_run_a_device_goes_on_through_any_number_of_attachments() {
    play(async {
        let bench = Bench::new(1, Duration::from_secs(30)).await;
        let (mut kernel, _link) = bench.link(0);
        let mut gateway = bench.gateway.accept_under(5, 5).await;
        let write = request(1, 1, 1, b"x");
        kernel.write_all(&write).await.unwrap();
        for (unbroken_since, epoch) in [(2, 6), (5, 9), (2, 40)] {
            expect(&mut gateway, &write).await;
            drop(gateway);
            gateway = bench.gateway.accept_under(unbroken_since, epoch).await;
        }
        expect(&mut gateway, &write).await;
        gateway.write_all(&reply(0, 1, b"")).await.unwrap();
        expect(&mut kernel, &reply(0, 1, b"")).await;
    });
}

/// The attachment was found to be lossy when the device had gone on with it: it is not the one that the device began with.
#[test]
fn a_device_that_has_gone_on_with_a_lossy_attachment_ends_when_that_is_known() {
    play(async {
        let bench = Bench::new(1, Duration::from_secs(30)).await;
        let (mut kernel, _link) = bench.link(0);
        drop(bench.gateway.accept().await);
        let mut gateway = bench.gateway.accept_under(2, 6).await;
        let flush = request(3, 1, 0, b"");
        kernel.write_all(&flush).await.unwrap();
        expect(&mut gateway, &flush).await;
        drop(gateway);
        expect_silence(bench.gateway.accept_under(6, 6).await).await;
        expect(&mut kernel, &reply(108, 1, b"")).await;
    });
}

#[test]
fn nothing_is_sent_again_to_a_gateway_that_another_one_came_between() {
    play(async {
        let bench = Bench::new(2, Duration::from_secs(30)).await;
        let (mut first, mut gateway_of_first, one) = bench.connected(0).await;
        let (mut second, mut gateway_of_second, two) = bench.connected(1).await;
        let (write, flush) = (request(1, 1, 1, b"x"), request(3, 2, 0, b""));
        first.write_all(&write).await.unwrap();
        second.write_all(&flush).await.unwrap();
        expect(&mut gateway_of_first, &write).await;
        expect(&mut gateway_of_second, &flush).await;
        // One comes back within the run, and the other one later, when somebody else had the volume.
        drop(gateway_of_first);
        let mut gateway_of_first = bench.gateway.accept_under(2, 6).await;
        expect(&mut gateway_of_first, &write).await;
        drop(gateway_of_second);
        expect_silence(bench.gateway.accept_under(8, 8).await).await;
        expect(&mut second, &reply(108, 2, b"")).await;
        expect(&mut first, &reply(108, 1, b"")).await;
        expect_silence(gateway_of_first).await;
        for (mut kernel, link) in [(first, one), (second, two)] {
            kernel.write_all(&[request(0, 3, 4096, b""), request(2, 0, 0, b"")].concat()).await.unwrap();
            expect(&mut kernel, &reply(108, 3, b"")).await;
            link.await.unwrap();
        }
    });
}

#[test]
fn another_volume_of_the_same_name_is_another_one() {
    play(async {
        let bench = Bench::new(1, Duration::from_secs(30)).await;
        let (mut kernel, _link) = bench.link(0);
        drop(bench.gateway.accept().await);
        kernel.write_all(&request(3, 1, 0, b"")).await.unwrap();
        let other = AttachmentInfo { volume: 8, epoch: 5, unbroken_since: 1, ..FIRST };
        expect_silence(bench.gateway.accept_with(64 << 20, Some(other)).await).await;
        expect(&mut kernel, &reply(108, 1, b"")).await;
    });
}

/// It is of an older version. What it does not say may still be said later.
#[test]
fn requests_wait_while_the_gateway_does_not_say_whether_they_may_go_on() {
    play(async {
        let bench = Bench::new(1, Duration::from_secs(30)).await;
        let (mut kernel, _link) = bench.link(0);
        drop(bench.gateway.accept().await);
        let flush = request(3, 1, 0, b"");
        kernel.write_all(&flush).await.unwrap();
        for _ in 0..2 {
            expect_silence(bench.gateway.accept_with(64 << 20, None).await).await;
        }
        let mut gateway = bench.gateway.accept_under(2, 6).await;
        expect(&mut gateway, &flush).await;
        gateway.write_all(&reply(0, 1, b"")).await.unwrap();
        expect(&mut kernel, &reply(0, 1, b"")).await;
    });
}
