//! One writer at a time, proven by the epoch: a second gateway, and a first one that slept.

use crate::PATIENCE;
use quoin_e2e::nbd::{Command, NbdError};
use quoin_e2e::processes::Signal;
use quoin_e2e::{Nbd, Roles, clock, until};
use std::time::Duration;

#[test]
fn a_second_gateway_is_refused_while_the_first_has_clients_and_fences_it_when_it_is_gone() {
    let mut roles = Roles::start();
    roles.quoin(&["volume", "create", "v", "--size", "64MiB"]).ok();
    let first = roles.start_gateway("gateway-a");
    let second = roles.start_gateway("gateway-b");
    let mut old = Nbd::open(first, "v").unwrap();
    old.write(0, &[1; 4096]).unwrap();
    until("the managers to know of the client", PATIENCE, || {
        let status = roles.status();
        let clients = &status["volumes"][0]["attachment"]["clients"];
        if *clients == 1 { Ok(()) } else { Err(clients.to_string()) }
    });
    match Nbd::open(second, "v") {
        Err(NbdError::Refused(_, words)) => {
            println!("refused: {words}");
            assert!(words.contains("gateway-a"), "{words}");
        }
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("two gateways have one volume"),
    }
    old.write(4096, &[2; 4096]).unwrap();

    // The first one hangs. Its managers miss it, and the second one may have the volume.
    roles.signal("gateway-a", Signal::STOP);
    let begun = clock::now();
    let waiting = old.send(Command::Write { fua: false }, 8192, &[3; 4096]).unwrap();
    let mut new = until("the second gateway to get the volume", PATIENCE, || {
        Nbd::open(second, "v").map_err(|error| error.to_string())
    });
    println!("the second gateway got the volume {:?} after the first one hung", begun.elapsed());
    assert_eq!(new.read(0, 4096).unwrap(), [1; 4096]);
    assert_eq!(new.read(4096, 4096).unwrap(), [2; 4096]);
    new.write(8192, &[4; 4096]).unwrap();
    assert_eq!(new.read(8192, 4096).unwrap(), [4; 4096]);

    // It wakes: its client must not be told that its write is done, nor be given anything to read.
    roles.signal("gateway-a", Signal::CONT);
    match old.receive() {
        Ok((cookie, answer)) => {
            assert_eq!(cookie, waiting);
            assert!(answer.is_err(), "a fenced write was acknowledged");
        }
        Err(NbdError::Io(_)) => {}
        Err(error) => panic!("{error}"),
    }
    assert!(old.read(0, 4096).is_err(), "a fenced gateway served a read");
    assert_eq!(new.read(8192, 4096).unwrap(), [4; 4096]);
    new.write_fua(8192, &[5; 4096]).unwrap();
    assert!(Nbd::open(first, "v").is_err(), "now the first one is refused");
    assert_eq!(new.read(8192, 4096).unwrap(), [5; 4096]);

    // The second one dies; the first one gets the volume, with all that was acknowledged.
    let begun = clock::now();
    roles.signal("gateway-b", Signal::KILL);
    let mut again = until("the first gateway to get the volume back", PATIENCE, || {
        Nbd::open(first, "v").map_err(|error| error.to_string())
    });
    assert_eq!(again.read(8192, 4096).unwrap(), [5; 4096]);
    assert_eq!(again.read(4096, 4096).unwrap(), [2; 4096]);
    println!("the first gateway got it back {:?} after the second one was killed", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(15));
}
