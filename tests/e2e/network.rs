//! The network that fails on demand does what it is told, and nothing else: or the tests on it prove nothing.

use crate::PATIENCE;
use quoin_e2e::clock::now;
use quoin_e2e::network::{Link, Network, Way};
use quoin_e2e::until;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

const DELAY: Duration = Duration::from_millis(200);

/// Sends back what it gets, on each connection until that ends.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn is_silent(stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(DELAY)).unwrap();
    let peeked = stream.peek(&mut [0]);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    matches!(peeked, Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

fn take(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn links_pass_delay_limit_hold_and_cut() {
    let network = Network::start();
    network.call("test", std::process::id());
    let target = echo();
    let (address, other) = (network.proxy("echo", target), network.proxy("other", target));
    let mut stream = connect(address);
    stream.write_all(b"one").unwrap();
    assert_eq!(take(&mut stream, 3), b"one");

    // Either direction holds by itself; what was held arrives in order.
    for link in [Link::PARTITION, Link::NO_ANSWERS, Link::NO_REQUESTS] {
        network.set("test", "echo", link);
        stream.write_all(b"two").unwrap();
        assert!(is_silent(&stream), "{link:?}");
        let mut unhurt = connect(other);
        unhurt.write_all(b"x").unwrap();
        assert_eq!(take(&mut unhurt, 1), b"x", "another link");
        stream.write_all(b"three").unwrap();
        network.heal();
        assert_eq!(take(&mut stream, 8), b"twothree", "{link:?}");
    }

    network.set("test", "echo", Link::round_trip(DELAY));
    let begun = now();
    stream.write_all(b"four").unwrap();
    assert_eq!(take(&mut stream, 4), b"four");
    assert!(begun.elapsed() >= DELAY, "{:?}", begun.elapsed());

    network.set("test", "echo", Link { there: Way::Rate(20_000), back: Way::Pass });
    let begun = now();
    stream.write_all(&[7; 4096]).unwrap();
    take(&mut stream, 4096);
    assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
    network.heal();

    network.cut("test", "echo");
    until("the end of a connection that was cut", PATIENCE, || match stream.read(&mut [0]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let mut again = connect(address);
    again.write_all(b"five").unwrap();
    assert_eq!(take(&mut again, 4), b"five");

    // An orderly end is passed on, in its place.
    again.write_all(b"six").unwrap();
    again.shutdown(std::net::Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    again.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"six");

    // And all of it ends with the network.
    let mut last = connect(address);
    last.write_all(b"seven").unwrap();
    assert_eq!(take(&mut last, 5), b"seven");
    drop(network);
    assert!(matches!(last.read(&mut [0]), Ok(0) | Err(_)));
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_caller_without_a_name_gets_nowhere() {
    let network = Network::start();
    let address = network.proxy("echo", echo());
    let mut stream = connect(address);
    stream.write_all(b"one").unwrap();
    assert!(is_silent(&stream));
    network.call("test", std::process::id());
    assert_eq!(take(&mut stream, 3), b"one");
}
