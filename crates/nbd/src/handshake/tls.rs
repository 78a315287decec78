//! Whether a session is, may be, or must be encrypted (proto.md, "TLS"). Encrypts nothing itself.

use crate::spec::option_reply;

/// What the server makes of TLS, for the whole life of one connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum TlsPolicy {
    /// "NOTLS": there is none; `NBD_OPT_STARTTLS` is answered with `NBD_REP_ERR_POLICY`.
    #[default]
    Off,
    /// "SELECTIVETLS" without an export that demands it: a client may encrypt, or not.
    Available,
    /// "FORCEDTLS": before TLS every option but `NBD_OPT_STARTTLS` and `NBD_OPT_ABORT` is answered with
    /// `NBD_REP_ERR_TLS_REQD`, and `NBD_OPT_EXPORT_NAME`, which cannot be answered with an error, ends the session.
    Required,
}

/// What to do about `NBD_OPT_STARTTLS`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TlsAnswer {
    Start,
    Refuse(u32, &'static str),
}

#[derive(Debug)]
pub(crate) struct Tls {
    policy: TlsPolicy,
    encrypted: bool,
}

impl Tls {
    pub(crate) fn new(policy: TlsPolicy) -> Self {
        Self { policy, encrypted: false }
    }

    /// Whether nothing may be told before TLS has started.
    pub(crate) fn is_missing(&self) -> bool {
        self.policy == TlsPolicy::Required && !self.encrypted
    }

    pub(crate) fn started(&mut self) {
        self.encrypted = true;
    }

    /// The answer to an `NBD_OPT_STARTTLS` with so much data, of which there must be none.
    pub(crate) fn answer(&self, len_bytes: u32) -> TlsAnswer {
        let refuse = TlsAnswer::Refuse;
        match self.policy {
            TlsPolicy::Off => refuse(option_reply::ERR_POLICY, "TLS is not set up on this server"),
            _ if self.encrypted => refuse(option_reply::ERR_INVALID, "the session is encrypted already"),
            _ if len_bytes > 0 => refuse(option_reply::ERR_INVALID, "this option takes no data"),
            TlsPolicy::Available | TlsPolicy::Required => TlsAnswer::Start,
        }
    }
}
