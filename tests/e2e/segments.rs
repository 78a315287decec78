//! A volume of several segments: thin, and seamless where they meet.

use crate::PATIENCE;
use quoin_e2e::{Dev, pattern, until};

const SEGMENT: u64 = 16 << 30;

#[test]
fn requests_cross_from_one_segment_to_the_next() {
    let mut dev = Dev::start(&["--size", "40GiB"]);
    assert_eq!(dev.json(&["volume", "show", "vol1"])["segments"].as_array().unwrap().len(), 3);
    let content: Vec<u8> = (0..64).flat_map(|n| pattern::block(n, 1)).collect();
    let mut nbd = dev.nbd();
    let places = [SEGMENT - 128 * 1024, 2 * SEGMENT - 4096, 2 * SEGMENT - 100, 0, (40 << 30) - 256 * 1024];
    // The second and third overlap: in order.
    for place in places {
        nbd.write(place, &content).unwrap();
    }
    nbd.flush().unwrap();
    let check = |nbd: &mut quoin_e2e::Nbd| {
        for place in [places[0], places[2], places[3], places[4]] {
            assert!(nbd.read(place, 64 * 4096).unwrap() == content, "at {place}");
        }
        assert_eq!(nbd.read(places[1], 3996).unwrap(), content[..3996]);
    };
    check(&mut nbd);
    nbd.zero(SEGMENT - 4096, 8192).unwrap();
    assert!(nbd.read(SEGMENT - 4096, 8192).unwrap().iter().all(|byte| *byte == 0));
    nbd.write(SEGMENT - 4096, &content[31 * 4096..33 * 4096]).unwrap();
    // A flush on another connection covers all segments.
    drop(nbd);
    let mut nbd = dev.nbd();
    nbd.flush().unwrap();
    let used: u64 = dev.status()["nodes"][0]["used_bytes"].as_u64().unwrap();
    assert!(used < 64 << 20, "thin: {used} bytes used");

    // A fourth segment.
    dev.json(&["volume", "resize", "vol1", "--size", "50GiB"]);
    let mut nbd = until("the export to grow", PATIENCE, || match dev.try_nbd("vol1") {
        Ok(nbd) if nbd.size == 50 << 30 => Ok(nbd),
        Ok(nbd) => Err(format!("{} bytes", nbd.size)),
        Err(error) => Err(error.to_string()),
    });
    nbd.write_fua(3 * SEGMENT - 128 * 1024, &content).unwrap();

    drop(nbd);
    dev.kill_everything();
    dev.start_again(&[]);
    let mut nbd = dev.nbd();
    check(&mut nbd);
    assert!(nbd.read(3 * SEGMENT - 128 * 1024, 64 * 4096).unwrap() == content);
    dev.interrupt().ok();
}
