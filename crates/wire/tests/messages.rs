//! Any message survives its frame, however the bytes are cut, and no bytes make the decoder panic.

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use quoin_types::block::{BlockRun, BlockState};
use quoin_types::*;
use quoin_wire::*;
use std::time::Duration;

fn replica() -> impl Strategy<Value = ReplicaId> {
    any::<u64>().prop_map(ReplicaId)
}

fn epoch() -> impl Strategy<Value = Epoch> {
    any::<u64>().prop_map(Epoch)
}

fn seq() -> impl Strategy<Value = Seq> {
    any::<u64>().prop_map(Seq)
}

fn known_version() -> impl Strategy<Value = Option<Version>> {
    proptest::option::of((0..u64::MAX).prop_map(Seq))
}

fn point() -> impl Strategy<Value = Point> {
    (epoch(), seq()).prop_map(|(epoch, seq)| Point { epoch, seq })
}

fn history() -> impl Strategy<Value = Vec<EpochStart>> {
    vec((1_u64..1000, 0_u64..1000), 0..6).prop_map(|steps| {
        let add = |at: &mut (u64, u64), (epoch, first): (u64, u64)| {
            *at = (at.0 + epoch, at.1 + first);
            Some(EpochStart { epoch: Epoch(at.0), first: Seq(at.1) })
        };
        steps.into_iter().scan((0, 0), add).collect()
    })
}

fn holder() -> impl Strategy<Value = LeaseHolder> {
    (any::<[u8; 16]>(), epoch()).prop_map(|(id, epoch)| LeaseHolder { instance: InstanceId(id), epoch })
}

fn source() -> impl Strategy<Value = Source> {
    (any::<u64>(), "[a-z0-9.:é]{0,40}", replica()).prop_map(|(node, address, replica)| Source {
        node: NodeId(node),
        address,
        replica,
    })
}

fn block_run() -> impl Strategy<Value = BlockRun> {
    use BlockState::*;
    let state = prop::sample::select(vec![Data, Zero, Hole, Changed, Unchanged]);
    (1..=u32::MAX, state).prop_map(|(blocks, state)| BlockRun { blocks, state })
}

fn refusal() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        epoch().prop_map(Refusal::HigherEpoch),
        any::<u64>().prop_map(|generation| Refusal::HigherGeneration(Generation(generation))),
        seq().prop_map(Refusal::Gap),
        prop::sample::select(vec![
            Refusal::OtherInstance,
            Refusal::UnknownReplica,
            Refusal::OtherSegment,
            Refusal::StaleSession,
            Refusal::WrongState,
            Refusal::Behind,
            Refusal::NoSpace,
            Refusal::Disk,
            Refusal::PeerDamaged,
            Refusal::LacksSnapshot,
        ]),
    ]
}

fn blocks(most: usize) -> impl Strategy<Value = (Vec<u32>, Bytes)> {
    vec(any::<(u32, u8)>(), 1..=most).prop_map(|blocks| {
        let data: Vec<u8> = blocks.iter().flat_map(|(_, fill)| vec![*fill; BLOCK_BYTES as usize]).collect();
        (blocks.into_iter().map(|(sum, _)| sum).collect(), data.into())
    })
}

fn offset() -> impl Strategy<Value = u64> {
    (0_u64..1 << 40).prop_map(|block| block * BLOCK_BYTES)
}

fn session_messages() -> impl Strategy<Value = Message> {
    let speaker = prop_oneof![
        any::<[u8; 16]>().prop_map(|id| Speaker::Gateway(InstanceId(id))),
        any::<u64>().prop_map(|node| Speaker::Peer(NodeId(node))),
    ];
    let hello = (any::<[u8; 16]>(), speaker, any::<u64>());
    let hello_reply = any::<(u64, [u8; 16], u64, [u8; 16])>();
    let held = || vec((replica(), epoch()), 0..5);
    prop_oneof![
        hello.prop_map(|(cluster, speaker, node)| {
            Message::Hello(Hello { cluster: ClusterId(cluster), speaker, node: NodeId(node) })
        }),
        hello_reply.prop_map(|(node, disk, session, boot)| {
            Message::HelloReply(HelloReply {
                node: NodeId(node),
                disk: DiskId(disk),
                session: SessionId(session),
                boot: BootId(boot),
            })
        }),
        (any::<u64>(), any::<[u8; 16]>(), held()).prop_map(|(stamp, instance, replicas)| {
            Message::Heartbeat(Heartbeat { stamp, instance: InstanceId(instance), replicas })
        }),
        (any::<u64>(), held())
            .prop_map(|(stamp, granted)| Message::HeartbeatReply(HeartbeatReply { stamp, granted })),
        (replica(), holder()).prop_map(|(replica, holder)| Message::Release(Release { replica, holder })),
        Just(Message::Sync),
    ]
}

fn attach_messages() -> impl Strategy<Value = Message> {
    let open = (replica(), any::<(u64, u32, u64, [u8; 16])>(), epoch(), proptest::option::of(holder()));
    let report =
        (history(), seq(), any::<u64>(), any::<(bool, bool)>()).prop_map(|(history, last, nanos, flags)| {
            let lease_remainder = Duration::from_nanos(nanos);
            ReplicaReport { history, last, lease_remainder, mixed: flags.0, shaken: flags.1 }
        });
    let start = (replica(), epoch(), history(), point(), any::<bool>());
    prop_oneof![
        open.prop_map(|(replica, (volume, index, generation, instance), epoch, void)| {
            let segment = SegmentId { volume: VolumeId(volume), index };
            let (generation, instance) = (Generation(generation), InstanceId(instance));
            Message::Open(Open { replica, segment, epoch, generation, instance, void })
        }),
        (replica(), epoch(), proptest::result::maybe_ok(report, refusal()))
            .prop_map(|(replica, epoch, result)| Message::OpenReply(OpenReply { replica, epoch, result })),
        start.prop_map(|(replica, epoch, history, expect, allow_mixed)| {
            Message::StartEpoch(StartEpoch { replica, epoch, history, expect, allow_mixed })
        }),
        (replica(), epoch(), proptest::result::maybe_ok(Just(()), refusal())).prop_map(
            |(replica, epoch, result)| {
                Message::StartEpochReply(StartEpochReply { replica, epoch, result })
            }
        ),
        (replica(), epoch(), seq()).prop_map(|(replica, epoch, seq)| Message::Settle(Settle {
            replica,
            epoch,
            seq
        })),
    ]
}

fn io_messages() -> impl Strategy<Value = Message> {
    let position = (replica(), epoch(), seq(), seq())
        .prop_map(|(replica, epoch, accepted, durable)| Position { replica, epoch, accepted, durable });
    let read = (any::<u64>(), replica(), epoch(), seq(), offset(), 1_u32..=256);
    let result = prop_oneof![
        blocks(3).prop_map(|(checksums, data)| ReadResult::Data { checksums, data }),
        refusal().prop_map(ReadResult::Refused),
        (any::<u32>(), known_version())
            .prop_map(|(extent, version)| ReadResult::Mismatch { extent: ExtentIndex(extent), version }),
    ];
    prop_oneof![
        (replica(), epoch(), seq(), offset(), blocks(4)).prop_map(
            |(replica, epoch, seq, offset, (checksums, data))| {
                Message::Write(Write { replica, epoch, seq, offset, checksums, data })
            }
        ),
        (replica(), epoch(), seq(), offset(), 1_u64..1 << 20).prop_map(
            |(replica, epoch, seq, offset, blocks)| {
                Message::Zero(Zero { replica, epoch, seq, offset, length: blocks * BLOCK_BYTES })
            }
        ),
        (replica(), epoch(), seq(), any::<u64>()).prop_map(|(replica, epoch, seq, id)| {
            Message::Snapshot(Snapshot { replica, epoch, seq, snapshot: SnapshotId(id) })
        }),
        (any::<u64>(), any::<u64>(), any::<bool>(), vec(position, 0..4)).prop_map(
            |(credit, used, full, replicas)| Message::Positions(Positions { credit, used, full, replicas })
        ),
        (replica(), epoch(), seq(), refusal()).prop_map(|(replica, epoch, seq, reason)| Message::Refused(
            Refused { replica, epoch, seq, reason }
        )),
        read.prop_map(|(id, replica, epoch, after, offset, blocks)| {
            Message::Read(Read { id, replica, epoch, after, offset, length: blocks * BLOCK_BYTES as u32 })
        }),
        (any::<u64>(), replica(), result).prop_map(|(id, replica, result)| Message::ReadReply(ReadReply {
            id,
            replica,
            result
        })),
    ]
}

fn fetched() -> impl Strategy<Value = FetchedExtent> {
    (seq(), seq(), any::<u16>(), any::<[u32; 16]>()).prop_map(|(position, version, zero_mask, checksums)| {
        let data = vec![7; zero_mask.count_zeros() as usize * BLOCK_BYTES as usize].into();
        FetchedExtent { position, version, zero_mask, checksums, data }
    })
}

fn resync_messages() -> impl Strategy<Value = Message> {
    let mode = prop::sample::select(vec![ResyncMode::Join, ResyncMode::Round]);
    let order = (replica(), epoch(), mode, point(), history(), seq(), any::<bool>(), source());
    let state = prop_oneof![
        Just(ResyncState::Running),
        Just(ResyncState::Complete),
        Just(ResyncState::RoundDone),
        refusal().prop_map(ResyncState::Failed),
    ];
    let question = || (replica(), epoch(), epoch(), any::<bool>(), seq());
    let view = || proptest::option::of(any::<u64>().prop_map(SnapshotId));
    let snapshots = || {
        proptest::collection::btree_map(any::<u64>(), any::<u64>(), 0..6).prop_map(|map| -> Vec<_> {
            map.into_iter().map(|(seq, id)| SnapshotPoint { id: SnapshotId(id), seq: Seq(seq) }).collect()
        })
    };
    let extents = || vec(any::<u32>().prop_map(ExtentIndex), 0..9);
    prop_oneof![
        order.prop_map(|(replica, epoch, mode, common, history, join_at, source_mixed, source)| {
            Message::Resync(Resync { replica, epoch, mode, common, history, join_at, source_mixed, source })
        }),
        (replica(), epoch(), any::<(u64, u64)>(), state).prop_map(|(replica, epoch, bytes, state)| {
            Message::ResyncReport(ResyncReport {
                replica,
                epoch,
                done_bytes: bytes.0,
                total_bytes: bytes.1,
                state,
            })
        }),
        (replica(), epoch(), any::<u32>(), known_version(), vec(replica(), 0..4)).prop_map(
            |(replica, epoch, extent, version, tried)| {
                Message::Damaged(Damaged { replica, epoch, extent: ExtentIndex(extent), version, tried })
            }
        ),
        (replica(), epoch(), any::<u32>(), known_version(), source()).prop_map(
            |(replica, epoch, extent, version, source)| {
                Message::Repair(Repair { replica, epoch, extent: ExtentIndex(extent), version, source })
            }
        ),
        question().prop_map(|(replica, epoch, last_epoch, allow_mixed, after)| {
            Message::ListSnapshots(ListSnapshots { replica, epoch, last_epoch, allow_mixed, after })
        }),
        (replica(), proptest::result::maybe_ok((seq(), snapshots()), refusal()))
            .prop_map(|(replica, result)| Message::SnapshotList(SnapshotList { replica, result })),
        (question(), seq(), any::<(u32, u32)>(), view()).prop_map(
            |((replica, epoch, last_epoch, allow_mixed, after), since, b, view)| {
                let (from, max) = (ExtentIndex(b.0), b.1);
                Message::List(List { replica, epoch, last_epoch, allow_mixed, after, since, from, max, view })
            }
        ),
        (replica(), proptest::result::maybe_ok((seq(), extents()), refusal()))
            .prop_map(|(replica, result)| Message::ListReply(ListReply { replica, result })),
        (question(), any::<u32>(), view()).prop_map(
            |((replica, epoch, last_epoch, allow_mixed, after), extent, view)| {
                let extent = ExtentIndex(extent);
                Message::Fetch(Fetch { replica, epoch, last_epoch, allow_mixed, after, extent, view })
            }
        ),
        (replica(), any::<u32>(), proptest::result::maybe_ok(fetched(), refusal())).prop_map(
            |(replica, extent, result)| Message::FetchReply(FetchReply {
                replica,
                extent: ExtentIndex(extent),
                result
            })
        ),
        (any::<u64>(), replica(), epoch(), seq(), any::<(u32, u32)>(), view()).prop_map(
            |(id, replica, epoch, after, (offset, length), since)| {
                let (offset, length) = (u64::from(offset) * 4096, (u64::from(length) + 1) * 4096);
                Message::BlockStatus(BlockStatus { id, replica, epoch, after, offset, length, since })
            }
        ),
        (any::<u64>(), replica(), proptest::result::maybe_ok(vec(block_run(), 1..20), refusal())).prop_map(
            |(id, replica, result)| Message::BlockStatusReply(BlockStatusReply { id, replica, result })
        ),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![session_messages(), attach_messages(), io_messages(), resync_messages()]
}

fn frame(message: &Message) -> BytesMut {
    let mut bytes = BytesMut::new();
    let data = encode(message, &mut bytes);
    bytes.extend_from_slice(&data);
    bytes
}

proptest! {
    #[test]
    fn every_message_survives_its_frame(messages in vec(message(), 1..4), cut in any::<prop::sample::Index>()) {
        let stream: Vec<u8> = messages.iter().flat_map(|message| frame(message).to_vec()).collect();
        let cut = cut.index(stream.len());
        let (mut decoder, mut input, mut seen) = (Decoder::default(), BytesMut::new(), Vec::new());
        for part in [&stream[..cut], &stream[cut..]] {
            input.extend_from_slice(part);
            while let Some(message) = decoder.next(&mut input).unwrap() {
                seen.push(message);
            }
        }
        prop_assert_eq!(seen, messages);
        prop_assert!(input.is_empty());
    }

    /// The heads of large frames come as soon as they are there, wherever the stream is cut, and with their data they are the same.
    #[test]
    fn a_head_and_its_data_are_the_message(
        messages in vec(message(), 1..4), cut in any::<prop::sample::Index>(), large_bytes in 0_usize..20_000,
    ) {
        let stream: Vec<u8> = messages.iter().flat_map(|message| frame(message).to_vec()).collect();
        let cut = cut.index(stream.len());
        let (mut decoder, mut input, mut seen) = (Decoder::default(), BytesMut::new(), Vec::new());
        let mut waiting: Option<Head> = None;
        for part in [&stream[..cut], &stream[cut..]] {
            input.extend_from_slice(part);
            loop {
                if let Some(head) = waiting.take_if(|head| head.data_bytes() <= input.len()) {
                    let data = input.split_to(head.data_bytes()).freeze();
                    seen.push(head.with_data(data).unwrap());
                }
                if waiting.is_some() {
                    break;
                }
                match decoder.next_or_head(&mut input, large_bytes).unwrap() {
                    Some(Frame::Whole(message)) => seen.push(message),
                    Some(Frame::Head(head)) => {
                        prop_assert!(head.data_bytes() >= large_bytes.max(1));
                        prop_assert_eq!(head.lent(), None);
                        waiting = Some(head);
                    }
                    Some(Frame::Returned(_)) => prop_assert!(false, "nobody was lent anything"),
                    None => break,
                }
            }
        }
        prop_assert_eq!(seen, messages);
        prop_assert!(input.is_empty());
    }

    /// Of lent data the frame only says where it is. The receiver has it from there, and gives it back.
    #[test]
    fn lent_data_is_where_the_head_says(
        messages in vec(message(), 1..4), offsets in vec(any::<u64>(), 0..9), large_bytes in 0_usize..20_000,
    ) {
        let (mut lent, mut input) = (Vec::new(), BytesMut::new());
        for message in &messages {
            let rest = encode_lending(message, &mut input, |data| {
                lent.push(data.clone());
                Some(lent.len() as u64 - 1)
            });
            prop_assert!(rest.is_empty());
        }
        encode_returned(&offsets, &mut input);
        let (mut decoder, mut unshared, mut seen) = (Decoder::default(), input.clone(), Vec::new());
        while seen.len() < messages.len() {
            match decoder.next_or_head(&mut input, large_bytes).unwrap() {
                Some(Frame::Whole(message)) => seen.push(message),
                Some(Frame::Head(head)) => {
                    let data = lent[head.lent().unwrap() as usize].clone();
                    seen.push(head.with_data(data).unwrap());
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }
        prop_assert_eq!(seen, messages);
        match decoder.next_or_head(&mut input, large_bytes) {
            Ok(Some(Frame::Returned(told))) => prop_assert_eq!(told, offsets),
            other => prop_assert!(false, "{:?}", other),
        }
        // A connection that shares no memory takes none of it, neither what is lent nor what is given back.
        let mut plain = Decoder::default();
        let end = std::iter::from_fn(|| plain.next(&mut unshared).transpose()).find_map(Result::err);
        prop_assert!(matches!(end, Some(FrameError::Lent | FrameError::Kind(_))), "{:?}", end);
    }

    #[test]
    fn one_byte_at_a_time_is_the_same(message in prop_oneof![session_messages(), attach_messages()]) {
        let bytes = frame(&message);
        let (mut decoder, mut input) = (Decoder::default(), BytesMut::new());
        for (at, byte) in bytes.iter().enumerate() {
            input.extend_from_slice(&[*byte]);
            let next = decoder.next(&mut input).unwrap();
            prop_assert_eq!(next.is_some(), at + 1 == bytes.len(), "at byte {}", at);
        }
    }

    #[test]
    fn a_flipped_bit_of_header_or_meta_is_noticed(message in message(), at in any::<prop::sample::Index>(), bit in 0..8) {
        let mut bytes = BytesMut::new();
        let data = encode(&message, &mut bytes);
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        bytes.extend_from_slice(&data);
        // Too long a length waits for more; everything else is an error.
        prop_assert!(!matches!(Decoder::default().next(&mut bytes), Ok(Some(_))));
    }

    #[test]
    fn garbage_never_panics(bytes in vec(any::<u8>(), 0..300)) {
        let _ = Decoder::default().next(&mut BytesMut::from(bytes.as_slice()));
    }

    /// Past the checksum, which anyone can compute: any kind with any meta and some data.
    #[test]
    fn garbage_with_a_good_checksum_never_panics(
        kind in 0_u8..30, meta in vec(prop_oneof![Just(0_u8), Just(1), any::<u8>()], 0..200), data_blocks in 0_usize..3,
    ) {
        let _ = Decoder::default().next(&mut sealed(kind, &meta, data_blocks * BLOCK_BYTES as usize));
    }

    /// Meta that ends early is an error, wherever it is cut.
    #[test]
    fn a_truncated_message_is_short(message in prop_oneof![session_messages(), attach_messages(), resync_messages()]) {
        let mut bytes = BytesMut::new();
        let data = encode(&message, &mut bytes);
        for length in HEADER_BYTES..bytes.len() {
            let mut cut = sealed(bytes[4], &bytes[HEADER_BYTES..length], data.len());
            prop_assert!(Decoder::default().next(&mut cut).is_err());
        }
    }

    /// Meta may grow at its end.
    #[test]
    fn what_a_later_version_adds_is_ignored(message in message(), more in vec(any::<u8>(), 1..20)) {
        let mut bytes = BytesMut::new();
        let data = encode(&message, &mut bytes);
        let mut meta = bytes[HEADER_BYTES..].to_vec();
        meta.extend_from_slice(&more);
        let mut longer = sealed(bytes[4], &meta, 0);
        longer[12..16].copy_from_slice(&(data.len() as u32).to_le_bytes());
        reseal(&mut longer);
        longer.extend_from_slice(&data);
        prop_assert_eq!(Decoder::default().next(&mut longer), Ok(Some(message)));
    }
}

/// A frame of any kind with any meta and so many bytes of zeros.
fn sealed(kind: u8, meta: &[u8], data_bytes: usize) -> BytesMut {
    let mut bytes = BytesMut::zeroed(HEADER_BYTES);
    bytes[0..4].copy_from_slice(b"QUO\x02");
    bytes[4] = kind;
    bytes[8..12].copy_from_slice(&(meta.len() as u32).to_le_bytes());
    bytes[12..16].copy_from_slice(&(data_bytes as u32).to_le_bytes());
    bytes.extend_from_slice(meta);
    reseal(&mut bytes);
    bytes.resize(bytes.len() + data_bytes, 0);
    bytes
}

/// Computes the checksum of header and meta anew.
fn reseal(head: &mut BytesMut) {
    head[16..20].fill(0);
    let checksum = crc32fast::hash(head);
    head[16..20].copy_from_slice(&checksum.to_le_bytes());
}
