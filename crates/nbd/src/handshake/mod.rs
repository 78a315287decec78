//! The handshake phase (proto.md, "Handshake"): from the greeting to an open export, or to the end of the session.
//!
//! Fixed newstyle only, with every option that proto.md and its extension `EXTENDED_HEADERS` define; any other option is
//! answered with `NBD_REP_ERR_UNSUP`. It does no I/O, knows no exports and no time: the shell looks exports up when asked,
//! and ends handshakes that take too long.

mod context;
mod option;
mod reply;
mod tls;

use crate::connection::ConnectionName;
use crate::error::ProtocolError;
use crate::export::{ExportError, ExportInfo, ExportSummary};
use crate::limits::{Limits, STRING_BYTES_MAX};
use crate::spec::{self, handshake_flag, option_reply};
use bytes::{Buf, Bytes, BytesMut};
use context::Queries;
pub use context::{Context, ContextKind, ExportSnapshot};
use option::{Announced, InfoRequests, OPTION_HEADER_BYTES};
pub use tls::TlsPolicy;
use tls::{Tls, TlsAnswer};

const CLIENT_FLAGS_BYTES: usize = 4;
/// The hint while data is being thrown away: enough to get on, without growing a buffer for nothing.
const DISCARD_HINT_BYTES: usize = 4096;

/// The server's side of one handshake.
///
/// # Order of calls
///
/// Call [`advance`](Self::advance) with the bytes received so far, in a loop, and do what each [`Step`] says:
///
/// - [`Step::Send`]: send the bytes, all of them, before anything else. The first step is the greeting.
/// - [`Step::NeedMore`]: append bytes from the socket to the input. Only now: so the input never holds more than one
///   option of [`Limits::option_bytes_max`] and what one read brought.
/// - [`Step::ListExports`]: call [`answer_list`](Self::answer_list) before the next `advance`, however long it takes.
/// - [`Step::OpenExport`]: call [`answer_open`](Self::answer_open) likewise.
/// - [`Step::MetaContexts`]: call [`answer_contexts`](Self::answer_contexts) likewise.
/// - [`Step::StartTls`]: all that was sent before has been sent in plain text, and the input is empty. Run the TLS
///   handshake on the connection, as its server, then call [`tls_started`](Self::tls_started) before the next `advance`;
///   from then on all bytes pass through TLS. If TLS fails, close the connection.
/// - [`Step::Transmission`]: the handshake is over. Hand the same input, which may hold requests already, to a
///   [`Transmission`](crate::Transmission), and do not call `advance` again.
/// - [`Step::Close`]: close the connection.
///
/// An `Err` means: close the connection at once. Calls out of this order are the shell's bug and panic; nothing that
/// a client sends does.
#[derive(Debug)]
pub struct Handshake {
    limits: Limits,
    state: State,
    output: BytesMut,
    fixed_newstyle: bool,
    no_zeroes: bool,
    tls: Tls,
    agreed: Agreed,
    options_left: u32,
    shutting_down: bool,
}

/// What options have agreed on. All of it is forgotten when TLS starts ("NBD_OPT_STARTTLS").
#[derive(Debug, Default)]
struct Agreed {
    replies: ReplyStyle,
    /// The selected metadata contexts, and the name of the export that they were selected for.
    contexts: Vec<Context>,
    contexts_of: String,
    connection: Option<ConnectionName>,
}

/// How replies look, and with extended headers requests, too.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum ReplyStyle {
    /// "Simple reply message".
    #[default]
    Simple,
    /// "Structured reply chunk message": `NBD_OPT_STRUCTURED_REPLY`.
    Structured,
    /// "Extended reply chunk message": `NBD_OPT_EXTENDED_HEADERS`.
    Extended,
}

/// What transmission needs to know of the handshake.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Negotiated {
    /// How replies look.
    pub replies: ReplyStyle,
    /// The metadata contexts selected for the export.
    pub contexts: Vec<Context>,
    /// Whether the client was told of the export's attachment when it opened it, and may rely on it.
    pub knows_attachment: bool,
    /// Which connection it is, if the client said so: what it takes the place of is to be ended first.
    pub connection: Option<ConnectionName>,
}

/// What the shell must do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Receive more.
    NeedMore {
        /// A hint: how many bytes more make progress possible; never 0.
        missing: usize,
    },
    /// Send these bytes.
    Send(Bytes),
    /// `NBD_OPT_LIST`: which exports are there?
    ListExports,
    /// `NBD_OPT_INFO`, `NBD_OPT_GO` or `NBD_OPT_EXPORT_NAME`: look up this export.
    OpenExport {
        /// Its name. Empty means the default export, if there is one.
        name: String,
        /// Whether the client only wants to know about it, or to use it.
        kind: OpenKind,
    },
    /// `NBD_OPT_LIST_META_CONTEXT` or `NBD_OPT_SET_META_CONTEXT`: is there this export, and which snapshots does it have?
    MetaContexts {
        /// Its name. Empty means the default export, if there is one.
        export: String,
        /// Whether its snapshots matter; if not, the answer may leave them out.
        with_snapshots: bool,
    },
    /// `NBD_OPT_STARTTLS` has been acknowledged: the next bytes in both directions are TLS.
    StartTls,
    /// The client entered transmission with this export: the one that was last answered with `Ok`.
    Transmission {
        /// What the client was told.
        export: ExportInfo,
        /// What else was agreed on.
        negotiated: Negotiated,
    },
    /// Close the connection.
    Close(CloseReason),
}

/// What a client that names an export wants.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum OpenKind {
    /// `NBD_OPT_INFO`: to know about it. The shell need not attach it.
    Info,
    /// `NBD_OPT_GO`: to use it.
    Go,
    /// `NBD_OPT_EXPORT_NAME`: to use it; a refusal can only be expressed by closing the connection.
    ExportName,
}

/// Why a handshake ended without an export.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CloseReason {
    /// The client sent `NBD_OPT_ABORT`.
    Aborted,
    /// The export of an `NBD_OPT_EXPORT_NAME` was refused, or the server is shutting down.
    ExportRefused,
    /// `NBD_OPT_EXPORT_NAME`, which cannot be answered with an error, came before TLS that is required.
    TlsRequired,
}

#[derive(Debug)]
enum State {
    ClientFlags,
    OptionHeader,
    /// The header has been taken; the data is kept until it is complete.
    OptionData(Announced),
    /// The header has been taken; the data is thrown away as it comes, then the verdict is carried out.
    Discarding {
        option: u32,
        remaining: u32,
        then: Verdict,
    },
    AwaitingList,
    AwaitingOpen {
        option: u32,
        kind: OpenKind,
        /// As the client named it.
        name: String,
        requests: InfoRequests,
    },
    AwaitingContexts {
        option: u32,
        queries: Queries,
    },
    /// `NBD_OPT_STARTTLS` is acknowledged; the shell is told once that acknowledgement has been sent.
    StartingTls,
    AwaitingTls,
    Entering(ExportInfo, Negotiated),
    Closing(CloseReason),
    Finished,
    Failed(ProtocolError),
}

/// What becomes of an option whose data does not matter.
#[derive(Clone, Copy, Debug)]
enum Verdict {
    Refuse(u32, &'static str),
    UseReplies(ReplyStyle),
    StartTls,
    List,
    Abort,
}

impl Handshake {
    /// Starts a handshake without TLS; its first step sends the greeting.
    pub fn new(limits: Limits) -> Self {
        Self::with_tls(limits, TlsPolicy::Off)
    }

    /// Starts a handshake; its first step sends the greeting. The policy stays the same for the whole connection, as
    /// the specification demands.
    pub fn with_tls(limits: Limits, policy: TlsPolicy) -> Self {
        let mut output = BytesMut::with_capacity(64);
        reply::greeting(&mut output);
        Self {
            limits,
            state: State::ClientFlags,
            output,
            fixed_newstyle: false,
            no_zeroes: false,
            tls: Tls::new(policy),
            agreed: Agreed::default(),
            options_left: limits.options_max,
            shutting_down: false,
        }
    }

    /// Takes what it can from `input` and says what to do next. See the order of calls on the type.
    ///
    /// # Errors
    ///
    /// The client broke the protocol beyond answering: close the connection.
    ///
    /// # Panics
    ///
    /// If a question was not answered, or after [`Step::Transmission`].
    pub fn advance(&mut self, input: &mut BytesMut) -> Result<Step, ProtocolError> {
        let step = self.run(input);
        if let Err(error) = step {
            self.state = State::Failed(error);
        }
        step
    }

    /// Answers [`Step::ListExports`]. Entries are sent in the order given; the shell bounds their number.
    ///
    /// # Panics
    ///
    /// If that was not asked.
    pub fn answer_list(&mut self, answer: Result<&[ExportSummary], ExportError>) {
        assert!(matches!(self.state, State::AwaitingList), "answer_list without Step::ListExports");
        self.state = State::OptionHeader;
        match answer {
            Ok(exports) => {
                for export in exports {
                    reply::server(spec::option::LIST, export, &mut self.output);
                }
                reply::ack(spec::option::LIST, &mut self.output);
            }
            Err(error) => self.refuse(spec::option::LIST, error.kind.reply_type(), &error.message),
        }
    }

    /// Answers [`Step::OpenExport`].
    ///
    /// # Panics
    ///
    /// If that was not asked.
    pub fn answer_open(&mut self, answer: Result<ExportInfo, ExportError>) {
        let state = std::mem::replace(&mut self.state, State::OptionHeader);
        let State::AwaitingOpen { option, kind, name, requests } = state else {
            panic!("answer_open without Step::OpenExport");
        };
        let negotiated = self.agreed.negotiated(&name);
        let output = &mut self.output;
        self.state = match (answer, kind) {
            (Ok(export), OpenKind::ExportName) => {
                let flags = export.transmission_flags(&negotiated);
                reply::export_name(export.size_bytes, flags, self.no_zeroes, output);
                State::Entering(export, negotiated)
            }
            (Ok(export), OpenKind::Info | OpenKind::Go) => {
                reply::infos(option, &export, export.transmission_flags(&negotiated), requests, output);
                reply::ack(option, output);
                let knows_attachment = requests.attachment && export.attachment.is_some();
                let negotiated = Negotiated { knows_attachment, ..negotiated };
                if kind == OpenKind::Go { State::Entering(export, negotiated) } else { State::OptionHeader }
            }
            (Err(_), OpenKind::ExportName) => State::Closing(CloseReason::ExportRefused),
            (Err(error), OpenKind::Info | OpenKind::Go) => {
                // Information may come before an error, too ("as few as zero in an error case").
                if let Some(elsewhere) = error.elsewhere.filter(|_| requests.attachment) {
                    reply::attachment(option, elsewhere, output);
                }
                reply::error(option, error.kind.reply_type(), &error.message, output);
                State::OptionHeader
            }
        };
    }

    /// Answers [`Step::MetaContexts`] with the snapshots of the export.
    ///
    /// # Panics
    ///
    /// If that was not asked.
    pub fn answer_contexts(&mut self, answer: Result<&[ExportSnapshot], ExportError>) {
        let state = std::mem::replace(&mut self.state, State::OptionHeader);
        let State::AwaitingContexts { option, queries } = state else {
            panic!("answer_contexts without Step::MetaContexts");
        };
        let found = match answer {
            Ok(snapshots) => queries.matching(snapshots),
            Err(error) => return self.refuse(option, error.kind.reply_type(), &error.message),
        };
        if queries.selects && found.len() > context::CONTEXTS_MAX {
            return self.refuse(option, option_reply::ERR_TOO_BIG, "too many metadata contexts at once");
        }
        for (id, (name, kind)) in (1..).zip(found) {
            // "The metadata context ID in these replies is reserved and SHOULD be set to zero": when they are listed.
            reply::context(option, if queries.selects { id } else { 0 }, &name, &mut self.output);
            if queries.selects {
                self.agreed.contexts.push(Context { id, kind });
            }
        }
        if queries.selects {
            self.agreed.contexts_of = queries.export;
        }
        reply::ack(option, &mut self.output);
    }

    /// From now on every option but `NBD_OPT_ABORT` is answered with `NBD_REP_ERR_SHUTDOWN` ("Termination of the
    /// session during option haggling"). An open question must still be answered.
    pub fn begin_shutdown(&mut self) {
        self.shutting_down = true;
    }

    /// Says that [`Step::StartTls`] is done: from now on bytes come and go encrypted. What was negotiated before is
    /// forgotten, except for the handshake's flags.
    ///
    /// # Panics
    ///
    /// If that was not asked.
    pub fn tls_started(&mut self) {
        assert!(matches!(self.state, State::AwaitingTls), "tls_started without Step::StartTls");
        self.tls.started();
        self.agreed = Agreed::default();
        self.state = State::OptionHeader;
    }

    fn run(&mut self, input: &mut BytesMut) -> Result<Step, ProtocolError> {
        loop {
            if !self.output.is_empty() {
                return Ok(Step::Send(self.output.split().freeze()));
            }
            let step = match &self.state {
                State::ClientFlags => self.take_client_flags(input)?,
                State::OptionHeader => self.take_option_header(input)?,
                &State::OptionData(announced) => self.take_option_data(announced, input)?,
                State::Discarding { .. } => self.discard(input),
                State::AwaitingList => panic!("Step::ListExports was not answered"),
                State::AwaitingOpen { .. } => panic!("Step::OpenExport was not answered"),
                State::AwaitingContexts { .. } => panic!("Step::MetaContexts was not answered"),
                State::StartingTls => Some(self.start_tls(input)?),
                State::AwaitingTls => panic!("Step::StartTls was not done"),
                State::Entering(..) => Some(self.enter()),
                State::Closing(reason) => Some(Step::Close(*reason)),
                State::Finished => panic!("the handshake is over"),
                State::Failed(error) => return Err(*error),
            };
            if let Some(step) = step {
                return Ok(step);
            }
        }
    }

    fn take_client_flags(&mut self, input: &mut BytesMut) -> Result<Option<Step>, ProtocolError> {
        if input.len() < CLIENT_FLAGS_BYTES {
            return Ok(need(CLIENT_FLAGS_BYTES - input.len()));
        }
        let flags = input.get_u32();
        let (fixed_newstyle, no_zeroes) =
            (u32::from(handshake_flag::FIXED_NEWSTYLE), u32::from(handshake_flag::NO_ZEROES));
        if flags & !(fixed_newstyle | no_zeroes) != 0 {
            return Err(ProtocolError::UnknownClientFlags(flags));
        }
        self.fixed_newstyle = flags & fixed_newstyle != 0;
        self.no_zeroes = flags & no_zeroes != 0;
        self.state = State::OptionHeader;
        Ok(None)
    }

    fn take_option_header(&mut self, input: &mut BytesMut) -> Result<Option<Step>, ProtocolError> {
        let Some(announced) = option::take_header(input)? else {
            return Ok(need(OPTION_HEADER_BYTES - input.len()));
        };
        self.options_left =
            self.options_left.checked_sub(1).ok_or(ProtocolError::TooManyOptions(self.limits.options_max))?;
        if announced.option == spec::option::SET_META_CONTEXT {
            // It replaces what was selected before, "including when this command fails".
            self.agreed.contexts.clear();
        }
        self.state = self.plan(announced)?;
        Ok(None)
    }

    /// Decides, from the header alone, whether an option's data is worth keeping.
    fn plan(&self, announced: Announced) -> Result<State, ProtocolError> {
        let Announced { option, len_bytes } = announced;
        if !self.fixed_newstyle && option != spec::option::EXPORT_NAME {
            return Err(ProtocolError::OptionNeedsFixedNewstyle(option));
        }
        let name_bytes_max = self.limits.option_bytes_max.min(STRING_BYTES_MAX as u32);
        let name_too_long = option == spec::option::EXPORT_NAME && len_bytes > name_bytes_max;
        if name_too_long || len_bytes > self.limits.option_discard_bytes_max {
            return Err(ProtocolError::OptionTooLong { option, len_bytes });
        }
        let then = match option {
            spec::option::ABORT => Verdict::Abort,
            spec::option::EXPORT_NAME if self.shutting_down => {
                return Ok(State::Closing(CloseReason::ExportRefused));
            }
            _ if self.shutting_down => {
                Verdict::Refuse(option_reply::ERR_SHUTDOWN, "the server is shutting down")
            }
            spec::option::STARTTLS => match self.tls.answer(len_bytes) {
                TlsAnswer::Start => Verdict::StartTls,
                TlsAnswer::Refuse(reply_type, message) => Verdict::Refuse(reply_type, message),
            },
            spec::option::EXPORT_NAME if self.tls.is_missing() => {
                return Ok(State::Closing(CloseReason::TlsRequired));
            }
            _ if self.tls.is_missing() => {
                Verdict::Refuse(option_reply::ERR_TLS_REQD, "this server serves nothing without TLS")
            }
            spec::option::EXPORT_NAME if self.agreed.replies == ReplyStyle::Extended => {
                return Err(ProtocolError::ExportNameWithExtendedHeaders);
            }
            spec::option::EXPORT_NAME => return Ok(State::OptionData(announced)),
            spec::option::LIST_META_CONTEXT | spec::option::SET_META_CONTEXT
                if self.agreed.replies == ReplyStyle::Simple =>
            {
                Verdict::Refuse(option_reply::ERR_INVALID, "metadata contexts need structured replies first")
            }
            _ if option::is_kept(option) && len_bytes <= self.limits.option_bytes_max => {
                return Ok(State::OptionData(announced));
            }
            _ if option::is_kept(option) => {
                Verdict::Refuse(option_reply::ERR_TOO_BIG, "the option's data is too long")
            }
            spec::option::LIST | spec::option::STRUCTURED_REPLY | spec::option::EXTENDED_HEADERS
                if len_bytes > 0 =>
            {
                Verdict::Refuse(option_reply::ERR_INVALID, "this option takes no data")
            }
            spec::option::LIST => Verdict::List,
            spec::option::STRUCTURED_REPLY if self.agreed.replies == ReplyStyle::Extended => {
                Verdict::Refuse(option_reply::ERR_EXT_HEADER_REQD, "extended headers are in use already")
            }
            spec::option::STRUCTURED_REPLY => Verdict::UseReplies(ReplyStyle::Structured),
            spec::option::EXTENDED_HEADERS => Verdict::UseReplies(ReplyStyle::Extended),
            _ => Verdict::Refuse(option_reply::ERR_UNSUP, "this server does not know the option"),
        };
        Ok(State::Discarding { option, remaining: len_bytes, then })
    }

    fn take_option_data(
        &mut self,
        announced: Announced,
        input: &mut BytesMut,
    ) -> Result<Option<Step>, ProtocolError> {
        let Announced { option, len_bytes } = announced;
        let len_bytes = len_bytes as usize;
        if input.len() < len_bytes {
            return Ok(need(len_bytes - input.len()));
        }
        let data = input.split_to(len_bytes);
        let asked = match option {
            spec::option::CONNECTION => ConnectionName::read(&data).map(|name| {
                self.agreed.connection = Some(name);
                reply::ack(option, &mut self.output);
                self.state = State::OptionHeader;
                None
            }),
            spec::option::EXPORT_NAME => {
                let name = option::read_name(&data).map_err(|_| ProtocolError::ExportName)?;
                Ok(Some(self.ask_open(option, OpenKind::ExportName, name, InfoRequests::default())))
            }
            spec::option::LIST_META_CONTEXT | spec::option::SET_META_CONTEXT => {
                let selects = option == spec::option::SET_META_CONTEXT;
                Queries::read(&data, selects).map(|queries| Some(self.ask_contexts(option, queries)))
            }
            _ => option::read_open(&data).map(|open| {
                let kind = if option == spec::option::GO { OpenKind::Go } else { OpenKind::Info };
                Some(self.ask_open(option, kind, open.name, open.requests))
            }),
        };
        Ok(match asked {
            Ok(step) => step,
            Err(message) => {
                self.state = State::OptionHeader;
                self.refuse(option, option_reply::ERR_INVALID, message);
                None
            }
        })
    }

    fn ask_open(&mut self, option: u32, kind: OpenKind, name: String, requests: InfoRequests) -> Step {
        self.state = State::AwaitingOpen { option, kind, name: name.clone(), requests };
        Step::OpenExport { name, kind }
    }

    fn ask_contexts(&mut self, option: u32, queries: Queries) -> Step {
        let step = Step::MetaContexts {
            export: queries.export.clone(),
            with_snapshots: queries.concern_snapshots(),
        };
        self.state = State::AwaitingContexts { option, queries };
        step
    }

    fn discard(&mut self, input: &mut BytesMut) -> Option<Step> {
        let State::Discarding { option, remaining, then } = &mut self.state else {
            unreachable!("called for this state only");
        };
        let here = input.len().min(*remaining as usize);
        input.advance(here);
        *remaining -= here as u32;
        if *remaining > 0 {
            return need(DISCARD_HINT_BYTES.min(*remaining as usize));
        }
        let (option, then) = (*option, *then);
        self.state = State::OptionHeader;
        match then {
            Verdict::Refuse(reply_type, message) => self.refuse(option, reply_type, message),
            Verdict::UseReplies(style) => {
                self.agreed.replies = style;
                reply::ack(option, &mut self.output);
            }
            Verdict::StartTls => {
                self.state = State::StartingTls;
                reply::ack(option, &mut self.output);
            }
            Verdict::List => {
                self.state = State::AwaitingList;
                return Some(Step::ListExports);
            }
            Verdict::Abort => {
                self.state = State::Closing(CloseReason::Aborted);
                reply::ack(option, &mut self.output);
            }
        }
        None
    }

    fn refuse(&mut self, option: u32, reply_type: u32, message: &str) {
        reply::error(option, reply_type, message, &mut self.output);
    }

    /// Once the acknowledgement has been sent. Bytes that came before it cannot be the start of TLS, which a client
    /// begins when it has the acknowledgement: an attacker may have put them there.
    fn start_tls(&mut self, input: &BytesMut) -> Result<Step, ProtocolError> {
        if !input.is_empty() {
            return Err(ProtocolError::PlainTextBeforeTls(input.len()));
        }
        self.state = State::AwaitingTls;
        Ok(Step::StartTls)
    }

    fn enter(&mut self) -> Step {
        let State::Entering(export, negotiated) = std::mem::replace(&mut self.state, State::Finished) else {
            unreachable!("called for this state only");
        };
        Step::Transmission { export, negotiated }
    }
}

impl Agreed {
    /// What holds for an export. Contexts that were selected for another one do not.
    fn negotiated(&self, export: &str) -> Negotiated {
        let contexts = if self.contexts_of == export { self.contexts.clone() } else { Vec::new() };
        Negotiated { replies: self.replies, contexts, knows_attachment: false, connection: self.connection }
    }
}

fn need(missing: usize) -> Option<Step> {
    Some(Step::NeedMore { missing })
}
