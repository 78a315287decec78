//! Real data, written while a storage node is killed, and the node's return.

use crate::PATIENCE;
use quoin_e2e::dev::healths;
use quoin_e2e::image::Image;
use quoin_e2e::{Background, Dev, image, program, run, until};
use std::fs;
use std::time::Duration;

const MIB: f64 = 1048576.0;

fn compare(image: &Image, uri: &str) {
    let path = image.path.display().to_string();
    run(&mut program("qemu-img", &["compare", "-f", "raw", "-F", "raw", &path, uri]), PATIENCE).ok();
}

fn written(dev: &Dev, n: u32) -> f64 {
    dev.node_metric(n, "write_bytes_total").unwrap()
}

#[test]
fn an_ext4_image_survives_the_loss_of_any_node_and_a_returning_node_pulls_what_changed() {
    let mut dev = Dev::start(&["--size", "256MiB"]);
    let dir = dev.beside("data");
    fs::create_dir(&dir).unwrap();
    let image = image::ext4(&dir);
    let (uri, path) = (dev.uri(), image.path.display().to_string());
    println!("image: {:.0} MiB of files", image.files_bytes as f64 / MIB);

    // With little memory for what a node misses, so that it has to pull from a peer.
    configure(&dev, "gateway-1", "retained_max = \"4MiB\"");
    dev.control("kill", "gateway-1").ok();
    until("the gateway to be back", PATIENCE, || dev.try_nbd("vol1").map_err(|error| error.to_string()));

    // Written at a bounded rate, so that the kill surely falls in the middle.
    let convert = ["convert", "-n", "-f", "raw", "-O", "raw", "-r", "32M", &path, &uri];
    let mut convert = Background::start(&mut program("qemu-img", &convert));
    until("a third to be written", PATIENCE, || {
        let bytes = dev.node_metric(2, "write_bytes_total")?;
        if bytes > image.files_bytes as f64 / 3.0 { Ok(()) } else { Err(format!("{bytes} bytes")) }
    });
    assert!(convert.is_running(), "the kill must fall into the writing");
    let before_kill = written(&dev, 1);
    dev.kill("storage-node-2");
    let after_kill = written(&dev, 1);
    convert.finish(PATIENCE).ok();
    compare(&image, &uri);
    let back = dev.beside("back.ext4");
    run(&mut program("nbdcopy", &[&uri, &back.display().to_string()]), PATIENCE).ok();
    run(&mut program("e2fsck", &["-fn", &back.display().to_string()]), PATIENCE).ok();

    // It comes back, slowly enough to be watched.
    let status = dev.status();
    assert_eq!(status["healthy"], false, "{status}");
    configure(&dev, "storage-node-2", "resync_rate = \"16MiB\"");
    let total = written(&dev, 1);
    // What was written while it was being killed, it may have or not.
    let (missed_min, missed_max) = (total - after_kill, total - before_kill);
    dev.control("start", "storage-node-2").ok();
    let (mut shown, mut said) = (false, false);
    until("the status to show node-2 catching up, and to say so in words", PATIENCE, || {
        let (seen, words) = (healths(&dev.status()), dev.quoin(&["status"]).ok().stdout);
        shown |= seen.iter().any(|(_, _, health)| health == "catching_up");
        said |= words.contains("catching up");
        if shown && said { Ok(()) } else { Err(format!("{seen:?} {words}")) }
    });
    dev.until_healthy(PATIENCE);
    let pulled = dev.node_metric(2, "resync_pulled_bytes_total").unwrap();
    println!(
        "node-2 missed {:.1} to {:.1} of {:.1} MiB written and pulled {:.1} MiB",
        missed_min / MIB,
        missed_max / MIB,
        total / MIB,
        pulled / MIB
    );
    assert!(pulled >= missed_min * 0.5, "it must have pulled what it missed");
    assert!(pulled <= missed_max * 1.1 + 4.0 * MIB, "it pulled more than what changed");

    // A small change while another node is away: the extents that changed, not the volume.
    const CHANGED: u32 = 192;
    dev.kill_node(1);
    let mut nbd = dev.nbd();
    for n in 0..u64::from(CHANGED) {
        let content = nbd.read(n * 11 * 65_536, 65_536).unwrap();
        nbd.write(n * 11 * 65_536, &content).unwrap();
    }
    nbd.flush().unwrap();
    drop(nbd);
    dev.control("start", "storage-node-1").ok();
    dev.until_healthy(PATIENCE);
    let (pulled, changed) =
        (dev.node_metric(1, "resync_pulled_bytes_total").unwrap(), f64::from(CHANGED) / 16.0);
    println!("node-1 missed {changed} MiB in {CHANGED} extents and pulled {:.1} MiB", pulled / MIB);
    assert!(pulled >= changed * 0.5 * MIB, "it pulled {pulled} bytes");
    assert!(pulled <= (changed * 1.1 + 2.0) * MIB, "it pulled {pulled} bytes");

    // The copy that came back is good: each other node away in turn, until it has served the whole image. A gateway reads
    // from whoever was quick lately, so that takes some rounds where node-2 was slow once.
    let mut served = 0.0;
    for other in [1, 3].into_iter().cycle().take(16) {
        dev.kill_node(other);
        let before = dev.node_metric(2, "read_bytes_total").unwrap();
        compare(&image, &uri);
        let read = dev.node_metric(2, "read_bytes_total").unwrap() - before;
        println!("without node-{other}, node-2 served {:.1} MiB", read / MIB);
        dev.control("start", &format!("storage-node-{other}")).ok();
        dev.until_healthy(PATIENCE);
        served += read;
        if served >= image.files_bytes as f64 && other == 3 {
            break;
        }
    }
    assert!(served >= image.files_bytes as f64, "node-2 was hardly asked, which proves nothing");
    dev.interrupt().ok();
}

/// Adds a line to a process's configuration. `quoin dev` writes it only at its own start, so this holds from the process's
/// next start on.
fn configure(dev: &Dev, process: &str, line: &str) {
    let path = dev.dir().join(format!("config/{process}.toml"));
    let config = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{config}{line}\n")).unwrap();
}

#[test]
fn one_of_three_nodes_may_be_missing_at_the_start() {
    let mut dev = Dev::start(&["--size", "64MiB", "--respawn", "none"]);
    let mut nbd = dev.nbd();
    nbd.write_fua(0, &[9; 4096]).unwrap();
    drop(nbd);
    dev.control("stop", "storage-node-3").ok();
    dev.kill("gateway-1");
    until("the gateway's pid file to go", PATIENCE, || match dev.pid("gateway-1") {
        Some(pid) => Err(format!("{pid}")),
        None => Ok(()),
    });
    dev.control("start", "gateway-1").ok();
    let mut nbd = until("an attach with two of three", Duration::from_secs(20), || {
        dev.try_nbd("vol1").map_err(|error| error.to_string())
    });
    assert_eq!(nbd.read(0, 4096).unwrap(), [9; 4096]);
    nbd.write_fua(4096, &[8; 4096]).unwrap();
    drop(nbd);
    dev.control("start", "storage-node-3").ok();
    dev.until_healthy(PATIENCE);
    dev.interrupt().ok();
}
