//! What passes between the kernel's client and a gateway on one connection, and what of it is unanswered.
//!
//! Requests and replies pass unchanged, byte for byte. Each request is kept until it is answered; when the gateway's
//! connection breaks, all that are kept are sent again on the next one, in their order. That is safe: what is
//! unanswered may have happened or not, for the kernel as for any client of a disk.
//!
//! A kernel that has lost patience closes its end and asks again elsewhere. What it had asked here is disowned then: it
//! still counts as unanswered, because it may yet happen, but its answers are not passed on.

use crate::spec::{command, magic};
use bytes::{Buf, Bytes, BytesMut};
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

const REQUEST_BYTES: usize = 28;
const REPLY_BYTES: usize = 16;
/// The longest request of the kernel's client: 65,535 sectors and a few, never this much.
const LENGTH_BYTES_MAX: usize = 64 << 20;
const ESHUTDOWN: u32 = 108;

/// The other side said what it must not. The connection is of no use any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RelayError {
    /// Not the start of a request.
    #[error("{0:#x} is not the start of a request")]
    RequestMagic(u32),
    /// A request longer than a kernel sends.
    #[error("a request of {0} bytes")]
    RequestTooLong(usize),
    /// Two unanswered requests of the same name.
    #[error("cookie {0:#x} is in use by an unanswered request")]
    CookieInUse(u64),
    /// Not the start of a simple reply.
    #[error("{0:#x} is not the start of a simple reply")]
    ReplyMagic(u32),
    /// The answer to nothing.
    #[error("cookie {0:#x} names no unanswered request")]
    CookieUnknown(u64),
}

/// Requests to pass on.
#[derive(PartialEq, Eq, Debug)]
pub struct Requests {
    /// The bytes, perhaps none.
    pub bytes: Bytes,
    /// The client says good-bye (`NBD_CMD_DISC`, which is not in `bytes`).
    pub is_leaving: bool,
    /// How many more bytes make the next request whole, if it has begun.
    pub missing: usize,
}

/// Replies to pass on.
#[derive(PartialEq, Eq, Debug)]
pub struct Replies {
    /// The bytes, perhaps none.
    pub bytes: Bytes,
    /// The gateway says that it stops, or that the volume is its no more. What it said so of counts as unanswered, and is not
    /// in `bytes`: it may have happened or not, as with a connection that broke.
    pub is_shut_down: bool,
    /// How many more bytes make the next reply whole, if it has begun.
    pub missing: usize,
}

#[derive(Debug)]
struct Unanswered {
    order: u64,
    request: Bytes,
    /// Data that comes with the reply if that is no error.
    read_bytes: usize,
    changes_data: bool,
    taken_at: Duration,
    is_disowned: bool,
}

/// What is unanswered on one connection. Moments are given as the time since any fixed one.
#[derive(Debug, Default)]
pub struct Relay {
    unanswered: BTreeMap<u64, Unanswered>,
    next_order: u64,
}

impl Relay {
    /// Takes whole requests off what came from the kernel. With `hold_changes` it stops before the first one that changes
    /// data.
    ///
    /// # Errors
    ///
    /// [`RelayError`] if the input is no sequence of requests.
    pub fn take_requests(
        &mut self,
        input: &mut BytesMut,
        hold_changes: bool,
        now: Duration,
    ) -> Result<Requests, RelayError> {
        let (mut end, mut is_leaving, mut missing) = (0, false, 0);
        let mut taken = Vec::new();
        while let Some(header) = input[end..].first_chunk::<REQUEST_BYTES>() {
            let request = Header::read(header)?;
            if request.kind == command::DISC {
                is_leaving = true;
                break;
            }
            if hold_changes && request.changes_data() {
                break;
            }
            let all = REQUEST_BYTES + request.data_bytes();
            if input.len() - end < all {
                missing = all - (input.len() - end);
                break;
            }
            taken.push((request, end..end + all));
            end += all;
        }
        let bytes = input.split_to(end).freeze();
        for (request, range) in taken {
            let unanswered = Unanswered {
                order: self.next_order,
                request: bytes.slice(range),
                read_bytes: request.read_bytes(),
                changes_data: request.changes_data(),
                taken_at: now,
                is_disowned: false,
            };
            self.next_order += 1;
            if self.unanswered.insert(request.cookie, unanswered).is_some() {
                return Err(RelayError::CookieInUse(request.cookie));
            }
        }
        Ok(Requests { bytes, is_leaving, missing })
    }

    /// Takes whole replies off what came from the gateway.
    ///
    /// # Errors
    ///
    /// [`RelayError`] if the input is no sequence of answers to what is unanswered.
    pub fn take_replies(&mut self, input: &mut BytesMut) -> Result<Replies, RelayError> {
        let (mut end, mut is_shut_down, mut missing) = (0, false, 0);
        let mut dropped = Vec::new();
        while let Some(header) = input[end..].first_chunk::<REPLY_BYTES>() {
            let (cookie, errno, all) = match self.announced(header) {
                Ok(reply) => reply,
                // What came before nonsense is passed on; the next call says what is wrong.
                Err(_) if end > 0 => break,
                Err(error) => return Err(error),
            };
            if input.len() - end < all {
                missing = all - (input.len() - end);
                break;
            }
            if errno == ESHUTDOWN {
                is_shut_down = true;
                dropped.push(end..end + all);
            } else if self.unanswered.remove(&cookie).is_some_and(|request| request.is_disowned) {
                dropped.push(end..end + all);
            }
            end += all;
        }
        let bytes = without(input.split_to(end), &dropped);
        Ok(Replies { bytes, is_shut_down, missing })
    }

    /// Cookie, error number, and length with all data of the reply that begins so.
    fn announced(&self, mut header: &[u8]) -> Result<(u64, u32, usize), RelayError> {
        let (magic, errno, cookie) = (header.get_u32(), header.get_u32(), header.get_u64());
        if magic != magic::SIMPLE_REPLY {
            return Err(RelayError::ReplyMagic(magic));
        }
        let request = self.unanswered.get(&cookie).ok_or(RelayError::CookieUnknown(cookie))?;
        Ok((cookie, errno, REPLY_BYTES + if errno == 0 { request.read_bytes } else { 0 }))
    }

    /// The kernel has closed its end: nobody waits for the answers any more.
    pub fn disown(&mut self) {
        self.unanswered.values_mut().for_each(|unanswered| unanswered.is_disowned = true);
    }

    /// All that is unanswered, in the order in which it came: for a new connection to the gateway. What is disowned is
    /// forgotten: it ended with the former connection.
    pub fn again(&mut self) -> Vec<Bytes> {
        self.unanswered.retain(|_, unanswered| !unanswered.is_disowned);
        let mut requests: Vec<_> = self.unanswered.values().collect();
        requests.sort_unstable_by_key(|unanswered| unanswered.order);
        requests.into_iter().map(|unanswered| unanswered.request.clone()).collect()
    }

    /// Answers all that is unanswered with `NBD_ESHUTDOWN`, for which a kernel gives its users an I/O error.
    pub fn fail_all(&mut self) -> Bytes {
        let mut out = Vec::new();
        for (cookie, unanswered) in std::mem::take(&mut self.unanswered) {
            if unanswered.is_disowned {
                continue;
            }
            out.extend_from_slice(&magic::SIMPLE_REPLY.to_be_bytes());
            out.extend_from_slice(&ESHUTDOWN.to_be_bytes());
            out.extend_from_slice(&cookie.to_be_bytes());
        }
        out.into()
    }

    /// Whether everything is answered.
    pub fn is_empty(&self) -> bool {
        self.unanswered.is_empty()
    }

    /// When the oldest unanswered request that changes data came; zero if one is disowned, for the kernel has asked again.
    pub fn oldest_change(&self) -> Option<Duration> {
        let changes = self.unanswered.values().filter(|unanswered| unanswered.changes_data);
        changes.map(|change| if change.is_disowned { Duration::ZERO } else { change.taken_at }).min()
    }
}

/// The bytes without these ranges. In the usual case there are none, and nothing is copied.
fn without(bytes: BytesMut, ranges: &[Range<usize>]) -> Bytes {
    if ranges.is_empty() {
        return bytes.freeze();
    }
    let mut kept = BytesMut::new();
    let mut from = 0;
    for range in ranges {
        kept.extend_from_slice(&bytes[from..range.start]);
        from = range.end;
    }
    kept.extend_from_slice(&bytes[from..]);
    kept.freeze()
}

struct Header {
    kind: u16,
    cookie: u64,
    len_bytes: usize,
}

impl Header {
    fn read(mut bytes: &[u8]) -> Result<Self, RelayError> {
        let magic = bytes.get_u32();
        if magic != magic::REQUEST {
            return Err(RelayError::RequestMagic(magic));
        }
        let _flags = bytes.get_u16();
        let (kind, cookie, _offset) = (bytes.get_u16(), bytes.get_u64(), bytes.get_u64());
        let header = Self { kind, cookie, len_bytes: bytes.get_u32() as usize };
        if header.data_bytes().max(header.read_bytes()) > LENGTH_BYTES_MAX {
            return Err(RelayError::RequestTooLong(header.len_bytes));
        }
        Ok(header)
    }

    fn data_bytes(&self) -> usize {
        if self.kind == command::WRITE { self.len_bytes } else { 0 }
    }

    fn read_bytes(&self) -> usize {
        if self.kind == command::READ { self.len_bytes } else { 0 }
    }

    fn changes_data(&self) -> bool {
        !matches!(self.kind, command::READ | command::FLUSH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(kind: u16, cookie: u64, len_bytes: u32, data: &[u8]) -> Vec<u8> {
        let (magic, flags) = (0x2560_9513_u32.to_be_bytes(), [0, 0]);
        let (kind, cookie, offset) = (kind.to_be_bytes(), cookie.to_be_bytes(), [0; 8]);
        [&magic[..], &flags, &kind, &cookie, &offset, &len_bytes.to_be_bytes(), data].concat()
    }

    fn reply(errno: u32, cookie: u64, data: &[u8]) -> Vec<u8> {
        let magic = 0x6744_6698_u32.to_be_bytes();
        [&magic[..], &errno.to_be_bytes(), &cookie.to_be_bytes(), data].concat()
    }

    fn take(relay: &mut Relay, bytes: &[u8]) -> Result<Requests, RelayError> {
        relay.take_requests(&mut BytesMut::from(bytes), false, Duration::ZERO)
    }

    #[test]
    fn what_is_unanswered_is_sent_again_in_its_order() {
        let mut relay = Relay::default();
        let (write, read, flush) = (request(1, 9, 4, b"data"), request(0, 3, 2, b""), request(3, 7, 0, b""));
        let all = [&write[..], &read, &flush].concat();
        let mut input = BytesMut::from(&all[..all.len() - 1]);
        let taken = relay.take_requests(&mut input, false, Duration::ZERO).unwrap();
        assert_eq!((taken.bytes.to_vec(), taken.is_leaving), ([&write[..], &read].concat(), false));
        input.extend_from_slice(&all[all.len() - 1..]);
        assert_eq!(relay.take_requests(&mut input, false, Duration::ZERO).unwrap().bytes[..], flush[..]);
        assert_eq!(relay.again().concat(), all);

        let answers = [reply(0, 3, b"ab"), reply(0, 9, b"")].concat();
        let mut input = BytesMut::from(&answers[..17]);
        let cut = relay.take_replies(&mut input).unwrap();
        assert_eq!((cut.bytes.len(), cut.missing), (0, 1), "a reply is passed on when it is whole");
        input.extend_from_slice(&answers[17..]);
        assert_eq!(relay.take_replies(&mut input).unwrap().bytes[..], answers[..]);
        assert_eq!(relay.again().concat(), flush);
    }

    #[test]
    fn a_long_write_says_what_is_missing_and_an_error_has_no_data() {
        let mut relay = Relay::default();
        let taken = take(&mut relay, &request(1, 1, 1 << 20, b"ab")).unwrap();
        assert_eq!((taken.bytes.len(), taken.missing), (0, (1 << 20) - 2));
        take(&mut relay, &request(0, 1, 4096, b"")).unwrap();
        let mut input = BytesMut::from(&reply(5, 1, b"")[..]);
        assert_eq!(relay.take_replies(&mut input).unwrap().bytes[..], reply(5, 1, b"")[..]);
        assert!(relay.is_empty());
    }

    #[test]
    fn changes_are_held_back_and_reads_before_them_are_not() {
        let mut relay = Relay::default();
        let (read, write) = (request(0, 1, 512, b""), request(1, 2, 1, b"x"));
        let mut input = BytesMut::from(&[&read[..], &write, &read].concat()[..]);
        let moment = Duration::from_secs(7);
        let taken = relay.take_requests(&mut input, true, moment).unwrap();
        assert_eq!((&taken.bytes[..], relay.oldest_change()), (&read[..], None));
        input.truncate(write.len());
        let taken = relay.take_requests(&mut input, false, moment).unwrap();
        assert_eq!((&taken.bytes[..], relay.oldest_change()), (&write[..], Some(moment)));
    }

    #[test]
    fn answers_that_nobody_waits_for_any_more_are_dropped() {
        let mut relay = Relay::default();
        take(&mut relay, &[request(0, 1, 2, b""), request(1, 2, 1, b"x"), request(3, 3, 0, b"")].concat())
            .unwrap();
        let mut input = BytesMut::from(&reply(0, 3, b"")[..]);
        assert_eq!(relay.take_replies(&mut input).unwrap().bytes.len(), REPLY_BYTES);
        relay.disown();
        take(&mut relay, &request(0, 4, 2, b"")).unwrap();
        assert!(relay.oldest_change().is_some(), "a disowned write may yet happen");
        let answers = [reply(0, 1, b"no"), reply(0, 4, b"ab"), reply(5, 2, b"")].concat();
        let passed_on = relay.take_replies(&mut BytesMut::from(&answers[..])).unwrap();
        assert_eq!(passed_on.bytes[..], reply(0, 4, b"ab")[..]);
        take(&mut relay, &request(3, 5, 0, b"")).unwrap();
        relay.disown();
        assert!(relay.again().is_empty() && relay.is_empty(), "and ends with the gateway's connection");
    }

    #[test]
    fn the_end_and_a_shutdown_are_seen() {
        let mut relay = Relay::default();
        let taken = take(&mut relay, &[request(3, 1, 0, b""), request(2, 0, 0, b"")].concat()).unwrap();
        assert_eq!((taken.bytes.len(), taken.is_leaving), (REQUEST_BYTES, true));
        take(&mut relay, &request(3, 2, 0, b"")).unwrap();
        let mut input = BytesMut::from(&reply(108, 1, b"")[..]);
        assert!(relay.take_replies(&mut input).unwrap().is_shut_down);
        assert_eq!(relay.fail_all()[..], [reply(108, 1, b""), reply(108, 2, b"")].concat());
        assert!(relay.is_empty());
    }

    #[test]
    fn a_server_that_is_shutting_down_has_answered_nothing_by_saying_so() {
        let mut relay = Relay::default();
        let (write, read, flush) = (request(1, 1, 1, b"x"), request(0, 2, 2, b""), request(3, 3, 0, b""));
        take(&mut relay, &[&write[..], &read, &flush].concat()).unwrap();
        let said = [reply(108, 1, b""), reply(0, 3, b""), reply(108, 2, b"")].concat();
        let replies = relay.take_replies(&mut BytesMut::from(&said[..])).unwrap();
        assert_eq!((&replies.bytes[..], replies.is_shut_down), (&reply(0, 3, b"")[..], true));
        assert_eq!(relay.again().concat(), [&write[..], &read].concat());
    }

    #[test]
    fn what_neither_side_may_say_is_refused() {
        let mut relay = Relay::default();
        assert_eq!(take(&mut relay, &[0; 28]), Err(RelayError::RequestMagic(0)));
        let long = request(1, 1, u32::MAX, b"");
        assert_eq!(take(&mut relay, &long), Err(RelayError::RequestTooLong(u32::MAX as usize)));
        take(&mut relay, &request(3, 1, 0, b"")).unwrap();
        assert_eq!(take(&mut relay, &request(3, 1, 0, b"")), Err(RelayError::CookieInUse(1)));
        let unknown = &reply(0, 5, b"")[..];
        assert_eq!(relay.take_replies(&mut unknown.into()), Err(RelayError::CookieUnknown(5)));
        assert_eq!(relay.take_replies(&mut (&[0; 16][..]).into()), Err(RelayError::ReplyMagic(0)));
        let mut late = BytesMut::from(&[&reply(0, 1, b"")[..], &[0; 16]].concat()[..]);
        assert_eq!(
            relay.take_replies(&mut late).unwrap().bytes[..],
            reply(0, 1, b"")[..],
            "what came before counts"
        );
        assert_eq!(relay.take_replies(&mut late), Err(RelayError::ReplyMagic(0)));
        // A trim may be longer than any data.
        assert!(take(&mut relay, &request(4, 8, u32::MAX, b"")).is_ok());
    }
}
