//! A volume as a disk: `quoin attach` and `quoin mount` in a guest whose kernel has an NBD client, with the cluster on this
//! machine.

use crate::PATIENCE;
use quoin_e2e::guest::{Guest, HOST};
use quoin_e2e::processes::Signal;
use quoin_e2e::{Nbd, Roles, clock, until};
use std::net::SocketAddr;
use std::time::Duration;

/// The longest that a request may take beyond the time for which there was no gateway.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long there is none.
const OUTAGE: Duration = Duration::from_millis(1500);

/// How long a majority is missing: long enough for the kernel's time-out of two seconds, which its timer makes up to four, to
/// strike once more after a write that had to wait for it already.
const STALL: Duration = Duration::from_secs(8);

/// What a script may call: `json NAME COMMAND…` says the JSON that the command answers with, on either stream, and its exit
/// code; `hear` waits for a line from the test; `writes FILE` writes blocks until told to end, and says the longest pause.
const WORDS: &str = r#"
json() {
    name=$1; shift; code=0
    "$@" --output json >/tmp/out 2>/tmp/err || code=$?
    echo "$name {\"code\":$code,\"said\":$(cat /tmp/out /tmp/err | grep -v '^[0-9]' | head -1 | grep . || echo null)}"
}
hear() { read -r heard; [ "$heard" = "$1" ]; }
now() { read -r up _ </proc/uptime; now=${up%.*}${up#*.}; }
writes() {
    worst=0; count=0; failed=0; now; last=$now
    while [ ! -e /tmp/enough ]; do
        dd if=/tmp/block of=$1 bs=4k count=1 seek=$((count % 256)) conv=notrunc oflag=direct status=none || failed=$((failed + 1))
        now; pause=$((now - last)); last=$now; count=$((count + 1))
        if [ $pause -gt $worst ]; then worst=$pause; fi
        if [ $count = 20 ]; then echo "WRITING"; fi
    done
    echo "WRITTEN {\"count\":$count,\"failed\":$failed,\"pause_ms\":$((worst * 10))}"
}
dd if=/dev/urandom of=/tmp/block bs=4k count=1 status=none
"#;

fn script(gateway: SocketAddr, body: &str) -> String {
    format!("export QUOIN_GATEWAY={HOST}:{}\n{WORDS}\n{body}", gateway.port())
}

/// Kills the gateway, lets it be gone for a while, and gives how long it was, up to its first answer.
fn outage(roles: &mut Roles, name: &str, gateway: SocketAddr, volume: &str) -> Duration {
    let begun = clock::now();
    roles.kill(name);
    clock::think(OUTAGE);
    roles.start_again("gateway", name);
    until("the gateway to serve the volume again", PATIENCE, || {
        let mut nbd = Nbd::open(gateway, volume).map_err(|error| error.to_string())?;
        nbd.read(0, 4096).map(drop).map_err(|error| error.to_string())
    });
    begun.elapsed()
}

/// Lets the guest go on and checks that no write failed nor waited longer than it had to.
fn check_pause(guest: &mut Guest, gone: Duration) {
    guest.say("enough");
    let written = guest.json("WRITTEN", PATIENCE);
    assert_eq!(written["failed"], 0, "{written}");
    let pause = Duration::from_millis(written["pause_ms"].as_u64().expect("a number"));
    let beyond = pause.saturating_sub(gone);
    println!("no gateway for {gone:?}; the longest write took {pause:?}, {beyond:?} beyond that");
    assert!(pause >= OUTAGE, "the writes were not under way meanwhile: {written}");
    assert!(beyond < PAUSE_MAX, "{beyond:?}");
}

fn failed(answer: &serde_json::Value, code: i64, kind: &str, words: &[&str]) {
    let error = &answer["said"]["error"];
    assert_eq!((&answer["code"], &error["kind"]), (&code.into(), &kind.into()), "{answer}");
    let text = format!("{} {}", error["message"], error["hint"]);
    assert!(words.iter().all(|word| text.contains(word)), "{words:?}: {answer}");
}

const FILESYSTEM: &str = r#"
json NO-MODULE quoin attach v
insmod /modules/nbd.ko
json NO-ROOT /usr/sbin/setpriv --reuid=1000 --clear-groups quoin attach v
json UNKNOWN quoin attach nosuch
json NO-GATEWAY quoin attach v --gateway 10.0.2.2:1
json ELSEWHERE quoin attach taken
json NO-DEVICES quoin devices
mkdir -p /mnt/v
json MOUNT quoin mount v /mnt/v
json DEVICES quoin devices
json TWICE quoin attach v
json IN-USE quoin attach other --device /dev/nbd0
json BUSY quoin detach v
json OTHER-FS quoin mount v /mnt --fs xfs
dd if=/dev/urandom of=/mnt/v/data bs=1M count=8 status=none
sum=$(sha256sum </mnt/v/data)
cp /mnt/v/data /mnt/v/copy & copying=$!
(writes /mnt/v/blocks) & writing=$!
hear enough; touch /tmp/enough
wait $copying; wait $writing; rm /tmp/enough
sync
echo 3 >/proc/sys/vm/drop_caches
[ "$sum" = "$(sha256sum </mnt/v/data)" ] && [ "$sum" = "$(sha256sum </mnt/v/copy)" ]
rm /mnt/v/copy; sync
fstrim -v /mnt/v
json UMOUNT quoin umount /mnt/v
json AGAIN quoin mount v /mnt/v
[ "$sum" = "$(sha256sum </mnt/v/data)" ]
json UMOUNT quoin umount v
json ATTACH quoin attach v --device /dev/nbd5 --connections 2 --read-only
e2fsck -fn /dev/nbd5
json DETACH quoin detach /dev/nbd5
echo "ERRORS $(dmesg | grep -c 'I/O error' || true)"
"#;

#[test]
fn a_mounted_volume_survives_the_loss_of_its_gateway_and_every_mistake_has_words() {
    let mut roles = Roles::start();
    for volume in ["v", "taken", "other"] {
        roles.quoin(&["volume", "create", volume, "--size", "256MiB"]).ok();
    }
    let gateway = roles.start_gateway("gateway-a");
    let elsewhere = roles.start_gateway("gateway-b");
    let _taken = Nbd::open(elsewhere, "taken").unwrap();
    until("the managers to know of the client", PATIENCE, || {
        let status = roles.status();
        let volumes = status["volumes"].as_array().cloned().unwrap_or_default();
        let taken = volumes.iter().find(|volume| volume["name"] == "taken").cloned().unwrap_or_default();
        if taken["attachment"]["clients"] == 1 { Ok(()) } else { Err(taken["attachment"].to_string()) }
    });
    let begun = clock::now();
    let mut guest = Guest::boot(&script(gateway, FILESYSTEM));
    println!("booted in {:?}", begun.elapsed());

    failed(&guest.json("NO-MODULE", PATIENCE), 1, "failed", &["modprobe nbd"]);
    failed(&guest.json("NO-ROOT", PATIENCE), 1, "failed", &["root"]);
    failed(&guest.json("UNKNOWN", PATIENCE), 3, "not_found", &["nosuch", "quoin volume list"]);
    failed(&guest.json("NO-GATEWAY", PATIENCE), 4, "unavailable", &["10.0.2.2:1", "--gateway"]);
    failed(&guest.json("ELSEWHERE", PATIENCE), 1, "failed", &["gateway-b", "quoin volume show taken"]);
    assert_eq!(guest.json("NO-DEVICES", PATIENCE)["said"]["devices"], serde_json::json!([]));

    let mounted = guest.json("MOUNT", PATIENCE);
    assert_eq!(mounted["code"], 0, "{mounted}");
    assert_eq!(mounted["said"]["formatted"], true, "{mounted}");
    assert_eq!(mounted["said"]["filesystem"], "ext4", "{mounted}");
    let devices = guest.json("DEVICES", PATIENCE);
    let device = &devices["said"]["devices"][0];
    assert_eq!((&device["volume"], &device["device"]), (&"v".into(), &"/dev/nbd0".into()), "{devices}");
    assert_eq!(
        (&device["connections"], &device["size_bytes"]),
        (&4.into(), &(256 << 20).into()),
        "{devices}"
    );
    assert_eq!(device["mounted_at"], serde_json::json!(["/mnt/v"]), "{devices}");
    assert!(device["pid"].is_u64(), "{devices}");
    failed(&guest.json("TWICE", PATIENCE), 1, "failed", &["/dev/nbd0", "quoin detach v"]);
    failed(&guest.json("IN-USE", PATIENCE), 1, "failed", &["/dev/nbd0", "--device"]);
    failed(&guest.json("BUSY", PATIENCE), 1, "failed", &["mounted", "quoin umount"]);
    failed(&guest.json("OTHER-FS", PATIENCE), 1, "failed", &["ext4", "xfs"]);

    guest.line("WRITING", PATIENCE);
    let gone = outage(&mut roles, "gateway-a", gateway, "v");
    check_pause(&mut guest, gone);

    println!("fstrim: {}", guest.line("/mnt/v: ", PATIENCE));
    let unmounted = guest.json("UMOUNT", PATIENCE);
    assert_eq!(
        (&unmounted["code"], &unmounted["said"]["detached"]),
        (&0.into(), &true.into()),
        "{unmounted}"
    );
    let again = guest.json("AGAIN", PATIENCE);
    assert_eq!((&again["code"], &again["said"]["formatted"]), (&0.into(), &false.into()), "{again}");
    assert_eq!(guest.json("UMOUNT", PATIENCE)["code"], 0);
    let attached = guest.json("ATTACH", PATIENCE);
    assert_eq!(attached["said"]["device"], "/dev/nbd5", "{attached}");
    assert_eq!((&attached["said"]["connections"], &attached["said"]["read_only"]), (&2.into(), &true.into()));
    assert_eq!(guest.json("DETACH", PATIENCE)["code"], 0);
    assert_eq!(guest.line("ERRORS", PATIENCE), "0");
    guest.finish(PATIENCE);
}

const TAKE_OVER: &str = r#"
insmod /modules/nbd.ko
json ATTACH quoin attach v --connections 4 --timeout 2s
(writes /dev/nbd0) & writing=$!
hear kill
pid=$(sed -n 1p /run/quoin/attach/v.lock)
kill -9 $pid
while kill -0 $pid 2>/dev/null; do :; done
json ALONE quoin devices
json UNATTENDED quoin detach v
json TAKEN-OVER quoin attach v
hear enough; touch /tmp/enough
wait $writing
echo "TIMED-OUT $(dmesg | grep -c 'timed out' || true)"
json DETACH quoin detach v

says() { looks=0; until grep -q "^$1" /tmp/says; do usleep 50000; looks=$((looks + 1)); [ $looks -lt 400 ]; done; }
quoin attach v --foreground --device /dev/nbd1 >/tmp/says 2>/tmp/log & attending=$!
says attached
mkswap /dev/nbd1 >/dev/null; swapon /dev/nbd1
code=0; kill -TERM $attending; wait $attending || code=$?
echo "STOPPED-IN-USE $code"
json LEFT quoin devices
quoin attach v --foreground >/tmp/says 2>/tmp/log & attending=$!
says "took over"
swapoff /dev/nbd1
code=0; kill -TERM $attending; wait $attending || code=$?
echo "STOPPED-FREE $code"
json GONE quoin devices
echo "ERRORS $(dmesg | grep -c 'I/O error' || true)"
"#;

#[test]
fn a_disk_outlives_the_process_that_attends_to_it() {
    let mut roles = Roles::start();
    roles.quoin(&["volume", "create", "v", "--size", "64MiB"]).ok();
    let gateway = roles.start_gateway("gateway-a");
    let mut guest = Guest::boot(&script(gateway, TAKE_OVER));
    let attached = guest.json("ATTACH", PATIENCE);
    assert_eq!((&attached["code"], &attached["said"]["connections"]), (&0.into(), &4.into()), "{attached}");
    guest.line("WRITING", PATIENCE);
    guest.say("kill");
    let alone = guest.json("ALONE", PATIENCE);
    assert!(alone["said"]["devices"][0]["pid"].is_null(), "{alone}");
    failed(&guest.json("UNATTENDED", PATIENCE), 4, "unavailable", &["/dev/nbd0", "quoin attach"]);
    let taken_over = guest.json("TAKEN-OVER", PATIENCE);
    assert_eq!(taken_over["said"]["device"], "/dev/nbd0", "{taken_over}");
    assert!(taken_over["said"]["pid"].is_u64(), "{taken_over}");

    // Without a majority for longer than the kernel waits: it asks again and again, and nobody is told of an error.
    let hung = ["node-1", "node-2"];
    hung.iter().for_each(|node| roles.signal(node, Signal::STOP));
    clock::think(STALL);
    hung.iter().for_each(|node| roles.signal(node, Signal::CONT));
    // The same, and the gateway is upgraded meanwhile: what it cannot answer any more, the next one does.
    hung.iter().for_each(|node| roles.signal(node, Signal::STOP));
    let begun = clock::now();
    roles.end("gateway-a", Signal::TERM);
    println!("the gateway waited {:?} for answers", begun.elapsed());
    hung.iter().for_each(|node| roles.signal(node, Signal::CONT));
    roles.start_again("gateway", "gateway-a");
    guest.say("enough");
    let written = guest.json("WRITTEN", PATIENCE);
    assert_eq!(written["failed"], 0, "{written}");
    println!("the longest write took {} ms", written["pause_ms"]);
    let stall = u64::try_from(STALL.as_millis()).expect("seconds");
    assert!(
        written["pause_ms"].as_u64() >= Some(stall),
        "the writes were not under way meanwhile: {written}"
    );
    assert!(
        guest.line("TIMED-OUT", PATIENCE).parse::<u32>().is_ok_and(|times| times > 0),
        "the kernel was patient"
    );
    assert_eq!(guest.json("DETACH", PATIENCE)["code"], 0);

    // As a service manager stops it: a disk in use stays, and its next process serves it.
    assert_eq!(guest.line("STOPPED-IN-USE", PATIENCE), "1");
    let left = guest.json("LEFT", PATIENCE);
    let device = &left["said"]["devices"][0];
    assert_eq!((&device["device"], device["pid"].is_null()), (&"/dev/nbd1".into(), true), "{left}");
    assert_eq!(guest.line("STOPPED-FREE", PATIENCE), "0");
    assert_eq!(guest.json("GONE", PATIENCE)["said"]["devices"], serde_json::json!([]));
    assert_eq!(guest.line("ERRORS", PATIENCE), "0");
    guest.finish(PATIENCE);
}

const TAKEN: &str = r#"
insmod /modules/nbd.ko
fill() { dd if=/dev/zero bs=4k count=1 status=none | tr '\000' $1 >/tmp/$1; }
fill a; fill x
put() { dd if=/tmp/$1 of=/dev/nbd0 bs=4k seek=$2 oflag=direct conv=notrunc status=none 2>/dev/null && echo "$3 acknowledged" || echo "$3 failed"; }
get() { dd if=/dev/nbd0 bs=4k skip=$1 count=1 iflag=direct status=none 2>/dev/null >/tmp/got && echo "$2 $(head -c 1 /tmp/got)" || echo "$2 failed"; }
json ATTACH quoin attach v --connections 2
for block in 0 1 2; do put a $block FIRST; done
hear cut-off
put x 1 PENDING-WRITE & write=$!
get 0 PENDING-READ & read=$!
hear returned
wait $write; wait $read
put x 1 LATE-WRITE; get 0 LATE-READ
(dd if=/tmp/x of=/dev/nbd0 bs=4k seek=2 conv=notrunc,fsync status=none 2>/dev/null && echo "LATE-FLUSH acknowledged" || echo "LATE-FLUSH failed")
echo "WHY $(grep -c 'was with another gateway meanwhile' /run/quoin/attach.log)"
kill -9 $(sed -n 1p /run/quoin/attach/v.lock)
json RESTARTED quoin attach v
hear given-back
json RESTARTED-LATER quoin attach v
json UNATTENDED quoin devices
json FORCED quoin detach v --force
json ANEW quoin attach v
for block in 0 1 2; do get $block ANEW-READ; done
put x 1 ANEW-WRITE; get 1 ANEW-READ
json DETACH quoin detach v
"#;

/// As when the machine of the first gateway is cut off, and returns: what the kernel has cached, and what it still has to write, is of a
/// disk that is no more.
#[test]
fn a_disk_whose_volume_another_gateway_took_gives_and_takes_nothing_more_and_says_why() {
    let mut roles = Roles::start();
    roles.quoin(&["volume", "create", "v", "--size", "64MiB"]).ok();
    let gateway = roles.start_gateway("gateway-a");
    let elsewhere = roles.start_gateway("gateway-b");
    let mut guest = Guest::boot(&script(gateway, TAKEN));
    assert_eq!(guest.json("ATTACH", PATIENCE)["code"], 0);
    for _ in 0..3 {
        assert_eq!(guest.line("FIRST", PATIENCE), "acknowledged");
    }

    roles.signal("gateway-a", Signal::STOP);
    guest.say("cut-off");
    let mut taken = until("the other gateway to get the volume", PATIENCE, || {
        Nbd::open(elsewhere, "v").map_err(|error| error.to_string())
    });
    assert_eq!(taken.read(0, 12288).unwrap(), [b'a'; 12288], "all that was acknowledged");
    taken.write_fua(0, &[b'b'; 4096]).unwrap();
    roles.signal("gateway-a", Signal::CONT);
    guest.say("returned");
    // While the other one still has it: nobody waits until it is given back.
    let pending = [guest.line("PENDING", PATIENCE), guest.line("PENDING", PATIENCE)];
    assert!(pending.iter().all(|said| said.ends_with("failed")), "{pending:?}");
    for late in ["LATE-WRITE", "LATE-READ", "LATE-FLUSH"] {
        assert_eq!(guest.line(late, PATIENCE), "failed", "{late}");
    }
    assert!(guest.line("WHY", PATIENCE).parse::<u32>().is_ok_and(|times| times > 0), "the log says why");
    // A process that takes the device over knows no less than the one before.
    let words = ["was with another gateway meanwhile", "quoin detach --force v"];
    failed(&guest.json("RESTARTED", PATIENCE), 1, "failed", &words);
    let theirs = [[b'b'; 4096], [b'a'; 4096], [b'a'; 4096]].concat();
    assert_eq!(taken.read(0, 12288).unwrap(), theirs, "what was written late is nowhere");

    drop(taken);
    roles.end("gateway-b", Signal::TERM);
    guest.say("given-back");
    failed(&guest.json("RESTARTED-LATER", PATIENCE), 1, "failed", &words);
    let unattended = guest.json("UNATTENDED", PATIENCE);
    assert!(unattended["said"]["devices"][0]["pid"].is_null(), "{unattended}");
    assert_eq!(guest.json("FORCED", PATIENCE)["code"], 0);
    assert_eq!(guest.json("ANEW", PATIENCE)["code"], 0);
    for expected in ["b", "a", "a"] {
        assert_eq!(guest.line("ANEW-READ", PATIENCE), expected);
    }
    assert_eq!(guest.line("ANEW-WRITE", PATIENCE), "acknowledged");
    assert_eq!(guest.line("ANEW-READ", PATIENCE), "x");
    assert_eq!(guest.json("DETACH", PATIENCE)["code"], 0);
    guest.finish(PATIENCE);
}
