//! The transmission phase (proto.md, "Transmission"): requests out of bytes, and replies into bytes.
//!
//! It refuses by itself what the specification says must be refused, and answers what needs no work; the shell sees
//! valid requests only. It does no I/O, keeps no list of requests in flight, and does not order them: the shell bounds
//! how many it takes before it answers, and a flush covers what was *answered* before it.

mod reply;
mod request;

use crate::error::{Errno, ProtocolError};
use crate::export::ExportInfo;
use crate::limits::Limits;
use crate::spec::{command, magic};
use bytes::{Buf, Bytes, BytesMut};
pub use reply::ReplyEncoder;
pub use request::{Cookie, Operation, Request};
use request::{REQUEST_HEADER_BYTES, Refusal, RequestHeader, Rules, Verdict};
use zerocopy::FromBytes;

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
    /// The header of a valid write has been taken; its payload is kept until it is complete.
    Payload {
        cookie: Cookie,
        offset: u64,
        len: u32,
        fua: bool,
    },
    /// A write has been refused; its payload is thrown away as it comes.
    Discarding {
        remaining: u32,
    },
    Disconnected,
    Failed(ProtocolError),
}

impl Transmission {
    /// Starts transmission with what [`Step::Transmission`](crate::Step::Transmission) gave.
    pub fn new(export: &ExportInfo, structured: bool, limits: Limits) -> Self {
        Self {
            limits,
            rules: Rules::new(export, structured),
            replies: ReplyEncoder::new(structured),
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
                    let Ok((header, _)) = RequestHeader::ref_from_prefix(input) else { return Ok(None) };
                    let header = *header;
                    input.advance(REQUEST_HEADER_BYTES);
                    if let Some(received) = self.take_header(&header)? {
                        return Ok(Some(received));
                    }
                }
                &mut State::Payload { cookie, offset, len, fua } => {
                    if input.len() < len as usize {
                        return Ok(None);
                    }
                    self.state = State::Header;
                    let data = input.split_to(len as usize).freeze();
                    let operation = Operation::Write { offset, data, fua };
                    return Ok(Some(Received::Request(Request { cookie, operation })));
                }
                State::Discarding { remaining } => {
                    let here = input.len().min(*remaining as usize);
                    input.advance(here);
                    *remaining -= here as u32;
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
            State::Header => REQUEST_HEADER_BYTES,
            State::Payload { len, .. } => len as usize,
            State::Discarding { remaining } => {
                DISCARD_HINT_BYTES.min(remaining).min(self.rules.max_payload_bytes()) as usize
            }
            State::Disconnected | State::Failed(_) => 0,
        };
        needed.saturating_sub(input.len())
    }

    /// From now on every request but `NBD_CMD_DISC` is answered with `NBD_ESHUTDOWN` ("Terminating the transmission
    /// phase"). A write whose header was taken before is still given out.
    pub fn begin_shutdown(&mut self) {
        self.shutting_down = true;
    }

    /// Decides about one header. `None` if the payload has to come first.
    fn take_header(&mut self, header: &RequestHeader) -> Result<Option<Received>, ProtocolError> {
        if header.magic.get() != magic::REQUEST {
            return Err(self.fail(ProtocolError::RequestMagic(header.magic.get())));
        }
        let is_write = header.command.get() == command::WRITE;
        let len = header.len.get();
        if is_write && len > self.limits.payload_discard_bytes_max.max(self.rules.max_payload_bytes()) {
            return Err(self.fail(ProtocolError::PayloadTooLong(len)));
        }
        let cookie = Cookie(header.cookie.get());
        let received = match self.judge(header) {
            Verdict::Accept(operation) => Received::Request(Request { cookie, operation }),
            Verdict::AwaitPayload { offset, len, fua } => {
                self.state = State::Payload { cookie, offset, len, fua };
                return Ok(None);
            }
            Verdict::Nothing => self.answer(cookie, None),
            Verdict::Refuse(refusal) => {
                if is_write {
                    self.state = State::Discarding { remaining: len };
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

    fn judge(&self, header: &RequestHeader) -> Verdict {
        if self.shutting_down && header.command.get() != command::DISC {
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
