//! The transmission phase (proto.md, "Transmission"): requests out of bytes, and replies into bytes.
//!
//! It refuses by itself what the specification says must be refused, and answers what needs no work; the shell sees
//! valid requests only. It does no I/O, keeps no list of requests in flight, and does not order them: the shell bounds
//! how many it takes before it answers, and a flush covers what was *answered* before it.

mod reply;
mod request;

use crate::error::{Errno, ProtocolError};
use crate::export::ExportInfo;
use crate::handshake::{Negotiated, ReplyStyle};
use crate::limits::Limits;
use crate::spec::command;
use bytes::{Buf, Bytes, BytesMut};
pub use reply::{ReplyEncoder, StatusExtent, status_flag};
use request::{Awaited, Refusal, RequestHeader, Rules, Verdict};
pub use request::{Cookie, Operation, Request};

/// The hint while a payload is being thrown away: enough to get on, without growing a buffer for nothing.
const DISCARD_HINT_BYTES: u32 = 64 << 10;

/// The server's side of one connection in transmission.
///
/// # Order of calls
///
/// 1. Call [`next_request`](Self::next_request) until it returns `None`, and act on each [`Received`].
/// 2. Then reserve [`missing`](Self::missing) bytes (or more, to take several requests with one system call), append
///    bytes from the socket to the input, and go back to 1. Reading only when `None` came keeps the input below one
///    request of the export's maximum payload and what one read brought.
///
/// Replies are written by the [`ReplyEncoder`] from [`replies`](Self::replies), at any time and in any order.
///
/// # Costs
///
/// The payload of a write is cut out of the input without a copy. It keeps the allocation it lies in alive, so a shell
/// that holds payloads for long chooses read buffers of about the size of its requests, or copies small payloads out
/// of large buffers.
#[derive(Debug)]
pub struct Transmission {
    limits: Limits,
    rules: Rules,
    replies: ReplyEncoder,
    state: State,
    shutting_down: bool,
}

/// What came from the client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Received {
    /// A valid request: carry it out and reply.
    Request(Request),
    /// A request that needed no work: send this reply.
    Answered(Answered),
    /// `NBD_CMD_DISC`: finish what is in flight and close the connection. Whatever follows is ignored.
    Disconnect,
}

/// The reply to a request that was refused, or that was empty and so had succeeded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answered {
    /// The request's cookie.
    pub cookie: Cookie,
    /// Why it was refused; `None` for the success of an empty request.
    pub errno: Option<Errno>,
    /// The complete reply, to be sent as it is.
    pub reply: Bytes,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Header,
    /// The header of a valid request has been taken; its payload is kept until it is complete.
    Payload {
        cookie: Cookie,
        awaited: Awaited,
    },
    /// A request has been refused; its payload is thrown away as it comes.
    Discarding {
        remaining: u64,
    },
    Disconnected,
    Failed(ProtocolError),
}

impl Transmission {
    /// Starts transmission with what [`Step::Transmission`](crate::Step::Transmission) gave.
    pub fn new(export: &ExportInfo, negotiated: Negotiated, limits: Limits) -> Self {
        Self {
            limits,
            replies: ReplyEncoder::new(negotiated.replies),
            rules: Rules::new(export, negotiated),
            state: State::Header,
            shutting_down: false,
        }
    }

    /// The writer of this session's replies.
    pub fn replies(&self) -> ReplyEncoder {
        self.replies
    }

    /// Takes the next request off the input; `None` if it is not complete. See the order of calls on the type.
    ///
    /// Refused requests are answered as soon as their header is there, before their payload has passed. Requests of
    /// length 0, whose effect the specification leaves open, succeed without effect if they are otherwise valid.
    ///
    /// # Errors
    ///
    /// The client broke the protocol beyond answering: close the connection.
    pub fn next_request(&mut self, input: &mut BytesMut) -> Result<Option<Received>, ProtocolError> {
        loop {
            match &mut self.state {
                State::Header => {
                    let header = request::take_header(input, self.rules.style())
                        .map_err(|magic| self.fail(ProtocolError::RequestMagic(magic)))?;
                    let Some(header) = header else { return Ok(None) };
                    if let Some(received) = self.take_header(&header)? {
                        return Ok(Some(received));
                    }
                }
                &mut State::Payload { cookie, awaited } => {
                    if input.len() < awaited.payload_bytes() {
                        return Ok(None);
                    }
                    self.state = State::Header;
                    let data = input.split_to(awaited.payload_bytes()).freeze();
                    return Ok(Some(self.complete(cookie, awaited, data)));
                }
                State::Discarding { remaining } => {
                    let here = (input.len() as u64).min(*remaining);
                    input.advance(here as usize);
                    *remaining -= here;
                    if *remaining > 0 {
                        return Ok(None);
                    }
                    self.state = State::Header;
                }
                State::Disconnected => return Ok(Some(Received::Disconnect)),
                State::Failed(error) => return Err(*error),
            }
        }
    }

    /// A hint, right after [`next_request`](Self::next_request) returned `None`: how many bytes more make the next
    /// step, which is a header, the rest of a payload, or a piece of one to be thrown away. 0 if it should be called
    /// again first. At most the export's maximum payload.
    pub fn missing(&self, input: &BytesMut) -> usize {
        let needed = match self.state {
            State::Header => request::header_bytes(self.rules.style()),
            State::Payload { awaited, .. } => awaited.payload_bytes(),
            State::Discarding { remaining } => {
                u64::from(DISCARD_HINT_BYTES.min(self.rules.max_payload_bytes())).min(remaining) as usize
            }
            State::Disconnected | State::Failed(_) => 0,
        };
        needed.saturating_sub(input.len())
    }

    /// How long the payload of a write is whose header has been taken: right after [`next_request`](Self::next_request) returned
    /// `None`, a shell may receive it where it likes, from the input's first byte on, and give it to
    /// [`payload_arrived`](Self::payload_arrived). `None`: no write is waited for.
    pub fn awaited_write(&self) -> Option<usize> {
        match self.state {
            State::Payload { awaited: Awaited::Write { len, .. }, .. } => Some(len as usize),
            _ => None,
        }
    }

    /// The payload that [`awaited_write`](Self::awaited_write) told the length of has arrived outside of the input. Panics if it has
    /// another length, or none is waited for.
    pub fn payload_arrived(&mut self, data: Bytes) -> Received {
        assert_eq!(self.awaited_write(), Some(data.len()), "a payload that is not waited for");
        let State::Payload { cookie, awaited } = std::mem::replace(&mut self.state, State::Header) else {
            unreachable!("it is waited for")
        };
        self.complete(cookie, awaited, data)
    }

    /// From now on every request but `NBD_CMD_DISC` is answered with `NBD_ESHUTDOWN` ("Terminating the transmission
    /// phase"). A write whose header was taken before is still given out.
    pub fn begin_shutdown(&mut self) {
        self.shutting_down = true;
    }

    /// Decides about one header. `None` if the payload has to come first.
    fn take_header(&mut self, header: &RequestHeader) -> Result<Option<Received>, ProtocolError> {
        let (cookie, payload_bytes) = (header.cookie, self.rules.payload_bytes(header));
        let max_payload_bytes = self.rules.max_payload_bytes();
        // With extended headers the specification bids the server disconnect beyond the maximum payload.
        let borne_bytes_max = match self.rules.style() {
            ReplyStyle::Extended => max_payload_bytes,
            _ => max_payload_bytes.max(self.limits.payload_discard_bytes_max),
        };
        if payload_bytes > u64::from(borne_bytes_max) {
            return Err(self.fail(ProtocolError::PayloadTooLong(payload_bytes)));
        }
        let received = match self.judge(header) {
            Verdict::Accept(operation) => Received::Request(Request { cookie, operation }),
            Verdict::AwaitPayload(awaited) => {
                self.state = State::Payload { cookie, awaited };
                return Ok(None);
            }
            Verdict::Nothing => self.answer(cookie, None),
            Verdict::Refuse(refusal) => {
                if payload_bytes > 0 {
                    self.state = State::Discarding { remaining: payload_bytes };
                }
                self.answer(cookie, Some(refusal))
            }
            Verdict::Disconnect => {
                self.state = State::Disconnected;
                Received::Disconnect
            }
        };
        Ok(Some(received))
    }

    /// The payload of a valid request is there.
    fn complete(&self, cookie: Cookie, awaited: Awaited, data: Bytes) -> Received {
        let operation = match awaited {
            Awaited::Write { fua, .. } => Operation::Write { offset: cookie.offset, data, fua },
            Awaited::Status { one, .. } => match self.rules.judge_status(cookie.offset, one, &data) {
                Ok(operation) => operation,
                Err(refusal) => return self.answer(cookie, Some(refusal)),
            },
        };
        Received::Request(Request { cookie, operation })
    }

    fn judge(&self, header: &RequestHeader) -> Verdict {
        if self.shutting_down && header.command != command::DISC {
            return Verdict::Refuse(Refusal {
                errno: Errno::Shutdown,
                message: "the server is shutting down",
            });
        }
        self.rules.judge(header)
    }

    fn answer(&self, cookie: Cookie, refusal: Option<Refusal>) -> Received {
        let mut reply = BytesMut::new();
        match refusal {
            Some(Refusal { errno, message }) => self.replies.error(cookie, errno, message, &mut reply),
            None => self.replies.ok(cookie, &mut reply),
        }
        let errno = refusal.map(|refusal| refusal.errno);
        Received::Answered(Answered { cookie, errno, reply: reply.freeze() })
    }

    fn fail(&mut self, error: ProtocolError) -> ProtocolError {
        self.state = State::Failed(error);
        error
    }
}
