//! Frames as they are on the wire. A change here is a change of format: it needs a new version, not a new expectation.

use bytes::{Bytes, BytesMut};
use quoin_types::limits::SNAPSHOTS_MAX;
use quoin_types::{BLOCK_BYTES, Epoch, ExtentIndex, ReplicaId, Seq, SnapshotId};
use quoin_wire::*;

/// Header and meta in hexadecimal, a line per 16 bytes; and how much data follows.
fn dump(message: &Message) -> (String, usize) {
    let mut bytes = BytesMut::new();
    let data = encode(message, &mut bytes);
    let line = |row: &[u8]| row.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
    (bytes.chunks(16).map(line).collect::<Vec<_>>().join("\n"), data.len())
}

fn block() -> Bytes {
    vec![0x5a; BLOCK_BYTES as usize].into()
}

fn expect(message: &Message, head: &str, data_bytes: usize) {
    let (shown, data) = dump(message);
    assert_eq!(shown, head.trim(), "the format has changed:\n{shown}");
    assert_eq!(data, data_bytes);
}

#[test]
fn a_write() {
    let data = block();
    let write = Write {
        replica: ReplicaId(0x0102),
        epoch: Epoch(3),
        seq: Seq(0x0405),
        offset: 8192,
        checksums: block_checksums(&data),
        data,
    };
    expect(&Message::Write(write), include_str!("golden/write.hex"), 4096);
}

#[test]
fn positions() {
    let position =
        Position { replica: ReplicaId(2), epoch: Epoch(3), accepted: Seq(0x1122), durable: Seq(0x1100) };
    let positions = Positions { credit: 640, used: 633, full: true, replicas: vec![position] };
    expect(&Message::Positions(positions), include_str!("golden/positions.hex"), 0);
}

#[test]
fn a_read() {
    let read = Read {
        id: 0xabcd,
        replica: ReplicaId(2),
        epoch: Epoch(3),
        after: Seq(77),
        offset: 65_536,
        length: 12_288,
    };
    expect(&Message::Read(read), include_str!("golden/read.hex"), 0);
}

#[test]
fn a_read_reply() {
    let data = block();
    let result = ReadResult::Data { checksums: block_checksums(&data), data };
    let reply = ReadReply { id: 0xabcd, replica: ReplicaId(2), result };
    expect(&Message::ReadReply(reply), include_str!("golden/read-reply.hex"), 4096);
    let refused = ReadReply { id: 1, replica: ReplicaId(2), result: ReadResult::Refused(Refusal::Behind) };
    expect(&Message::ReadReply(refused), include_str!("golden/read-refused.hex"), 0);
}

#[test]
fn a_start_of_an_epoch() {
    let history =
        [(1, 1), (4, 12)].map(|(epoch, first)| EpochStart { epoch: Epoch(epoch), first: Seq(first) });
    let expected = Point { epoch: Epoch(1), seq: Seq(11) };
    let (replica, epoch, history) = (ReplicaId(2), Epoch(4), history.to_vec());
    let start = StartEpoch { replica, epoch, history, expect: expected, allow_mixed: false };
    expect(&Message::StartEpoch(start), include_str!("golden/start-epoch.hex"), 0);
}

#[test]
fn damage() {
    let damaged = Damaged {
        replica: ReplicaId(2),
        epoch: Epoch(3),
        extent: ExtentIndex(0x0506),
        version: None,
        tried: vec![ReplicaId(7)],
    };
    expect(&Message::Damaged(damaged), include_str!("golden/damaged.hex"), 0);
}

#[test]
fn a_snapshot() {
    let snapshot =
        Snapshot { replica: ReplicaId(2), epoch: Epoch(3), seq: Seq(0x0405), snapshot: SnapshotId(0x0607) };
    expect(&Message::Snapshot(snapshot), include_str!("golden/snapshot.hex"), 0);
}

#[test]
fn a_list_of_snapshots() {
    let points = [(0x0607, 0x11), (0x0608, 0x22)];
    let points = points.map(|(id, seq)| SnapshotPoint { id: SnapshotId(id), seq: Seq(seq) });
    let list = SnapshotList { replica: ReplicaId(2), result: Ok((Seq(0x33), points.to_vec())) };
    expect(&Message::SnapshotList(list), include_str!("golden/snapshot-list.hex"), 0);
}

#[test]
fn a_fetch_from_a_snapshot() {
    let fetch = Fetch {
        replica: ReplicaId(2),
        epoch: Epoch(3),
        last_epoch: Epoch(3),
        allow_mixed: false,
        after: Seq(77),
        extent: ExtentIndex(0x0506),
        view: Some(SnapshotId(0x0607)),
    };
    expect(&Message::Fetch(fetch), include_str!("golden/fetch.hex"), 0);
}

/// A list that no replica can have: more snapshots than there may be, or seqs that do not rise.
#[test]
fn what_is_no_list_of_snapshots() {
    let decode = |seqs: &[u64]| {
        let point = |seq: &u64| SnapshotPoint { id: SnapshotId(*seq), seq: Seq(*seq) };
        let result = Ok((Seq(9), seqs.iter().map(point).collect()));
        let mut bytes = BytesMut::new();
        encode(&Message::SnapshotList(SnapshotList { replica: ReplicaId(2), result }), &mut bytes);
        Decoder::default().next(&mut bytes)
    };
    let most: Vec<u64> = (1..=SNAPSHOTS_MAX as u64).collect();
    assert!(decode(&most).is_ok());
    let many: Vec<u64> = (1..=SNAPSHOTS_MAX as u64 + 1).collect();
    for impossible in [&many[..], &[5, 5], &[5, 4]] {
        assert_eq!(decode(impossible), Err(FrameError::Value("list of snapshots")));
    }
}

#[test]
fn what_is_no_frame() {
    let mut bytes = BytesMut::new();
    let read = Read { id: 1, replica: ReplicaId(2), epoch: Epoch(3), after: Seq(4), offset: 0, length: 4096 };
    encode(&Message::Read(read), &mut bytes);
    let decode = |change: &dyn Fn(&mut BytesMut)| {
        let mut changed = bytes.clone();
        change(&mut changed);
        Decoder::default().next(&mut changed)
    };
    assert_eq!(decode(&|_| {}), Ok(Some(Message::Read(read))));
    assert_eq!(decode(&|b| b[3] = 1), Err(FrameError::Magic), "another version of the framing");
    assert_eq!(decode(&|b| b[16] ^= 1), Err(FrameError::Checksum));
    assert_eq!(decode(&|b| b[8..12].copy_from_slice(&u32::MAX.to_le_bytes())), Err(FrameError::TooLarge));
    assert_eq!(
        decode(&|b| b[12..16].copy_from_slice(&(2_u32 << 20).to_le_bytes())),
        Err(FrameError::TooLarge)
    );
    assert_eq!(decode(&|b| b.truncate(40)), Ok(None), "more is to come");
    assert_eq!(decode(&|b| b.truncate(3)), Ok(None));
}
