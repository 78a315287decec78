//! Frames of a connection between processes of Quoin.

use bytes::{Bytes, BytesMut};
use quoin_wire::{Decoder, Message};

/// What has come on a connection and is no whole frame yet.
#[derive(Default)]
pub(super) struct Inbox {
    decoder: Decoder,
    input: BytesMut,
}

impl Inbox {
    /// The frames that are complete with these bytes.
    pub(super) fn take(&mut self, bytes: &Bytes) -> Result<Vec<Message>, quoin_wire::FrameError> {
        self.input.extend_from_slice(bytes);
        let mut messages = Vec::new();
        while let Some(message) = self.decoder.next(&mut self.input)? {
            messages.push(message);
        }
        Ok(messages)
    }
}

/// Frames that leave together.
#[derive(Default)]
pub(super) struct Outbox(BytesMut);

impl Outbox {
    pub(super) fn push(&mut self, message: &Message) {
        let data = quoin_wire::encode(message, &mut self.0);
        self.0.extend_from_slice(&data);
    }

    pub(super) fn take(self) -> Bytes {
        self.0.freeze()
    }
}

pub(super) fn frame(message: &Message) -> Bytes {
    let mut outbox = Outbox::default();
    outbox.push(message);
    outbox.take()
}

/// A message in words, its data left out.
pub(super) fn brief(message: &Message) -> String {
    match message {
        Message::Write(write) => format!(
            "Write {} {}/{} at {} + {}",
            write.replica,
            write.epoch,
            write.seq,
            write.offset,
            write.data.len()
        ),
        Message::ReadReply(reply) => format!("ReadReply {}", reply.replica),
        Message::FetchReply(reply) => format!("FetchReply {}", reply.replica),
        message => format!("{message:?}"),
    }
}
