//! Messages from other members, checked before raft-rs sees them: its getters panic on values they do not know, and it
//! trusts local messages.

use super::InboundMessage;
use prost::Message as _;
use raft::eraftpb::{EntryType, Message, MessageType};

/// Why a message is dropped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("no raft message: {0}")]
    Damaged(#[from] prost::DecodeError),
    #[error("a raft message or entry of unknown type {0}")]
    UnknownType(i32),
    #[error("a raft message that members do not send each other")]
    Local,
    #[error("a raft message from {from} to {to}, on a stream from {sender} to {this}")]
    Misaddressed { from: u64, to: u64, sender: u64, this: u64 },
    #[error("a raft message with entries out of order")]
    Disordered,
}

/// Reads a message that `sender` sent to `this` member.
pub(crate) fn parse(bytes: &[u8], sender: u64, this: u64) -> Result<InboundMessage, Unfit> {
    let message = Message::decode(bytes)?;
    let kind = MessageType::try_from(message.msg_type).map_err(|_| Unfit::UnknownType(message.msg_type))?;
    // Proposals are made at the leader itself, so none travels; a transfer is asked of the own leader alone.
    let local = matches!(kind, MessageType::MsgPropose | MessageType::MsgTransferLeader);
    if raft::raw_node::is_local_msg(kind) || local {
        return Err(Unfit::Local);
    }
    if message.from != sender || message.to != this {
        return Err(Unfit::Misaddressed { from: message.from, to: message.to, sender, this });
    }
    for entry in &message.entries {
        EntryType::try_from(entry.entry_type).map_err(|_| Unfit::UnknownType(entry.entry_type))?;
    }
    let follows = |pair: &[raft::eraftpb::Entry]| pair[0].index.checked_add(1) == Some(pair[1].index);
    let indexed = kind == MessageType::MsgAppend;
    if indexed && !message.entries.windows(2).all(follows) {
        return Err(Unfit::Disordered);
    }
    if kind == MessageType::MsgReadIndex && message.entries.is_empty() {
        return Err(Unfit::Disordered);
    }
    Ok(InboundMessage(message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::eraftpb::Entry;

    fn message(kind: MessageType) -> Message {
        Message { msg_type: kind as i32, from: 2, to: 1, ..Message::default() }
    }

    #[test]
    fn what_raft_would_choke_on_is_dropped() {
        let parse_message = |message: &Message| parse(&message.encode_to_vec(), 2, 1);
        assert!(parse_message(&message(MessageType::MsgHeartbeat)).is_ok());
        assert!(matches!(parse_message(&message(MessageType::MsgHup)), Err(Unfit::Local)));
        let unknown = Message { msg_type: 77, ..message(MessageType::MsgAppend) };
        assert!(matches!(parse_message(&unknown), Err(Unfit::UnknownType(77))));
        let entry = Entry { entry_type: 9, ..Entry::default() };
        let unknown = Message { entries: vec![entry], ..message(MessageType::MsgAppend) };
        assert!(matches!(parse_message(&unknown), Err(Unfit::UnknownType(9))));
        let other = Message { from: 3, ..message(MessageType::MsgHeartbeat) };
        assert!(matches!(parse_message(&other), Err(Unfit::Misaddressed { .. })));
        assert!(matches!(parse(&[0xff; 9], 2, 1), Err(Unfit::Damaged(_))));
        assert!(matches!(parse_message(&message(MessageType::MsgReadIndex)), Err(Unfit::Disordered)));
    }
}
