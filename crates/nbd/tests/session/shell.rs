//! A shell in memory around one session: a few exports, one disk, every request carried out at once.

use bytes::BytesMut;
use quoin_nbd::{
    AttachmentInfo, BlockSizes, CloseReason, Context, ContextKind, Cookie, Errno, ExportError,
    ExportErrorKind, ExportInfo, ExportSnapshot, ExportSummary, Handshake, Limits, Negotiated, OpenKind,
    Operation, ProtocolError, Received, ReplyEncoder, Request, StatusExtent, Step, TlsPolicy, Transmission,
    status_flag,
};

pub(crate) const SIZE_BYTES: u64 = 64 << 10;
/// Reads that touch this byte fail.
pub(crate) const BAD_BYTE: u64 = 0xf000;

#[derive(Debug)]
enum Phase {
    Handshake(Box<Handshake>),
    Transmission(Transmission),
}

/// How a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Closed(CloseReason),
    Disconnected,
    Broken(ProtocolError),
}

pub(crate) struct Shell {
    phase: Phase,
    limits: Limits,
    input: BytesMut,
    /// Everything sent.
    pub(crate) output: Vec<u8>,
    /// What the session asked for, a line each.
    pub(crate) asked: Vec<String>,
    pub(crate) disk: Vec<u8>,
    pub(crate) end: Option<End>,
    pub(crate) list_refused: bool,
}

impl Shell {
    /// Starts with the handshake.
    pub(crate) fn new(limits: Limits) -> Self {
        Self::start(Phase::Handshake(Box::new(Handshake::new(limits))), limits)
    }

    /// Starts with a handshake that knows TLS.
    pub(crate) fn with_tls(limits: Limits, policy: TlsPolicy) -> Self {
        Self::start(Phase::Handshake(Box::new(Handshake::with_tls(limits, policy))), limits)
    }

    /// Starts in transmission.
    pub(crate) fn transmitting(export: &str, negotiated: Negotiated, limits: Limits) -> Self {
        let export = open(export).expect("an export of the test");
        Self::start(Phase::Transmission(Transmission::new(&export, negotiated, limits)), limits)
    }

    fn start(phase: Phase, limits: Limits) -> Self {
        Self {
            phase,
            limits,
            input: BytesMut::new(),
            output: Vec::new(),
            asked: Vec::new(),
            disk: (0..SIZE_BYTES).map(pattern).collect(),
            end: None,
            list_refused: false,
        }
    }

    pub(crate) fn begin_shutdown(&mut self) {
        match &mut self.phase {
            Phase::Handshake(handshake) => handshake.begin_shutdown(),
            Phase::Transmission(transmission) => transmission.begin_shutdown(),
        }
    }

    /// Receives bytes and does all that follows from them.
    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        while self.end.is_none() && self.turn() {}
    }

    /// One step; `false` when more bytes are needed.
    fn turn(&mut self) -> bool {
        match &mut self.phase {
            Phase::Handshake(handshake) => match handshake.advance(&mut self.input) {
                Ok(step) => self.step(step),
                Err(error) => self.finish(End::Broken(error)),
            },
            Phase::Transmission(transmission) => match transmission.next_request(&mut self.input) {
                Ok(Some(received)) => self.received(received),
                Ok(None) => {
                    assert!(transmission.missing(&self.input) > 0);
                    false
                }
                Err(error) => self.finish(End::Broken(error)),
            },
        }
    }

    fn step(&mut self, step: Step) -> bool {
        let Phase::Handshake(handshake) = &mut self.phase else { unreachable!() };
        match step {
            Step::NeedMore { missing } => {
                assert!(missing > 0);
                return false;
            }
            Step::Send(bytes) => self.output.extend_from_slice(&bytes),
            Step::StartTls => {
                self.asked.push("start tls".into());
                handshake.tls_started();
            }
            Step::ListExports => {
                self.asked.push("list".into());
                let entries =
                    [summary("disk", "a disk"), summary("read-only", ""), summary("nul\0", "never sent")];
                handshake.answer_list(if self.list_refused {
                    Err(ExportError::new(ExportErrorKind::Policy, "not listed"))
                } else {
                    Ok(&entries)
                });
            }
            Step::OpenExport { name, kind } => {
                let kind = match kind {
                    OpenKind::Info => "info",
                    OpenKind::Go => "go",
                    OpenKind::ExportName => "export-name",
                };
                self.asked.push(format!("{kind} \"{name}\""));
                handshake.answer_open(open(&name));
            }
            Step::MetaContexts { export, with_snapshots } => {
                let and = if with_snapshots { " with snapshots" } else { "" };
                self.asked.push(format!("contexts \"{export}\"{and}"));
                let snapshots = SNAPSHOTS.map(|(name, key)| ExportSnapshot { name: name.into(), key });
                let known = if with_snapshots { &snapshots[..] } else { &[] };
                handshake.answer_contexts(open(&export).map(|_| known));
            }
            Step::Transmission { export, negotiated } => {
                self.phase = Phase::Transmission(Transmission::new(&export, negotiated, self.limits));
            }
            Step::Close(reason) => return self.finish(End::Closed(reason)),
        }
        true
    }

    fn received(&mut self, received: Received) -> bool {
        match received {
            Received::Request(request) => self.carry_out(&request),
            Received::Answered(answered) => self.output.extend_from_slice(&answered.reply),
            Received::Disconnect => return self.finish(End::Disconnected),
        }
        true
    }

    fn carry_out(&mut self, request: &Request) {
        let Phase::Transmission(transmission) = &self.phase else { unreachable!() };
        let replies = transmission.replies();
        let cookie: Cookie = request.cookie;
        let mut out = BytesMut::new();
        self.asked.push(describe(&request.operation));
        match &request.operation {
            &Operation::Read { offset, len, dont_fragment } => {
                let end = offset + u64::from(len);
                if (offset..end).contains(&BAD_BYTE) {
                    replies.error(cookie, Errno::Io, "bad block", &mut out);
                } else {
                    let data = &self.disk[offset as usize..end as usize];
                    read_reply(replies, cookie, offset, data, dont_fragment, &mut out);
                }
            }
            Operation::Write { offset, data, .. } => {
                self.disk[*offset as usize..][..data.len()].copy_from_slice(data);
                replies.ok(cookie, &mut out);
            }
            Operation::Flush | Operation::Cache { .. } => replies.ok(cookie, &mut out),
            Operation::BlockStatus { offset, len, one, contexts } => {
                let of = |context: &Context| (context.id, status(context.kind, *offset, *len, *one));
                replies.block_status(cookie, &contexts.iter().map(of).collect::<Vec<_>>(), &mut out);
            }
            &Operation::Trim { offset, len, .. } | &Operation::WriteZeroes { offset, len, .. } => {
                self.disk[offset as usize..][..len as usize].fill(0);
                replies.ok(cookie, &mut out);
            }
        }
        self.output.extend_from_slice(&out);
    }

    fn finish(&mut self, end: End) -> bool {
        self.end = Some(end);
        false
    }
}

/// What the disk holds at first.
pub(crate) fn pattern(offset: u64) -> u8 {
    (offset % 251) as u8
}

/// The exports of the tests.
pub(crate) fn open(name: &str) -> Result<ExportInfo, ExportError> {
    let mut export = ExportInfo {
        name: "disk".into(),
        description: "a disk".into(),
        size_bytes: SIZE_BYTES,
        read_only: false,
        multi_conn: true,
        block_sizes: BlockSizes::default(),
        attachment: Some(AttachmentInfo { cluster: [0xc1; 16], volume: 7, epoch: 5, unbroken_since: 3 }),
    };
    match name {
        "" | "disk" => {}
        "coarse" => {
            export.name = name.into();
            export.description = String::new();
            export.multi_conn = false;
            export.attachment = None;
            export.block_sizes = BlockSizes::new(512, 4096, 8192).expect("valid sizes");
        }
        "read-only" => {
            export.name = name.into();
            export.read_only = true;
        }
        "closing" => return Err(ExportError::new(ExportErrorKind::Shutdown, "closing")),
        "elsewhere" => {
            let refusal = ExportError::new(ExportErrorKind::Policy, "elsewhere");
            return Err(ExportError { elsewhere: export.attachment, ..refusal });
        }
        "secret" => return Err(ExportError::new(ExportErrorKind::Policy, "not for you")),
        _ => return Err(ExportError::new(ExportErrorKind::Unknown, "no such export")),
    }
    Ok(export)
}

/// A read of some size is answered in pieces where it may be, and zeroes as a hole.
fn read_reply(
    replies: ReplyEncoder,
    cookie: Cookie,
    offset: u64,
    data: &[u8],
    dont_fragment: bool,
    out: &mut BytesMut,
) {
    if !replies.in_chunks() || dont_fragment || data.len() <= 1024 {
        replies.read_header(cookie, offset, data.len() as u32, out);
        return out.extend_from_slice(data);
    }
    let mut at = offset;
    for piece in data.chunks(700) {
        let last = at + piece.len() as u64 == offset + data.len() as u64;
        if piece.iter().all(|byte| *byte == 0) {
            replies.hole_chunk(cookie, at, piece.len() as u32, last, out);
        } else {
            replies.data_chunk(cookie, at, piece.len() as u32, last, out);
            out.extend_from_slice(piece);
        }
        at += piece.len() as u64;
    }
}

/// The tests' snapshots, with their keys.
const SNAPSHOTS: [(&str, u64); 2] = [("monday", 1), ("tuesday", 2)];

/// What the tests' exports say of themselves: every other KiB is a hole, and the first half has changed.
pub(crate) fn status(kind: ContextKind, offset: u64, len: u64, one: bool) -> Vec<StatusExtent> {
    let unit = match kind {
        ContextKind::Allocation => 1 << 10,
        ContextKind::ChangedSince(_) => SIZE_BYTES / 2,
    };
    let (mut at, end) = (offset, offset + len);
    let mut extents = Vec::new();
    while at < end && !(one && extents.len() == 1) {
        let next = end.min((at / unit + 1) * unit);
        let flags = match kind {
            ContextKind::Allocation if at / unit % 2 == 1 => status_flag::HOLE | status_flag::ZERO,
            ContextKind::ChangedSince(_) if at / unit == 0 => status_flag::CHANGED,
            _ => 0,
        };
        extents.push(StatusExtent { len: next - at, flags });
        at = next;
    }
    extents
}

fn summary(name: &str, description: &str) -> ExportSummary {
    ExportSummary { name: name.into(), description: description.into() }
}

fn describe(operation: &Operation) -> String {
    let flag = |set: bool, name: &str| if set { format!(" {name}") } else { String::new() };
    match operation {
        Operation::Read { offset, len, dont_fragment } => {
            format!("read {offset}+{len}{}", flag(*dont_fragment, "df"))
        }
        Operation::Write { offset, data, fua } => {
            format!("write {offset}+{}{}", data.len(), flag(*fua, "fua"))
        }
        Operation::Flush => "flush".into(),
        Operation::Cache { offset, len } => format!("cache {offset}+{len}"),
        Operation::BlockStatus { offset, len, one, contexts } => {
            let kinds: Vec<String> = contexts.iter().map(|context| format!("{:?}", context.kind)).collect();
            format!("status {offset}+{len}{} {}", flag(*one, "one"), kinds.join(" "))
        }
        Operation::Trim { offset, len, fua } => format!("trim {offset}+{len}{}", flag(*fua, "fua")),
        Operation::WriteZeroes { offset, len, fua, may_trim } => {
            format!("zero {offset}+{len}{}{}", flag(*fua, "fua"), flag(!*may_trim, "no-hole"))
        }
    }
}
