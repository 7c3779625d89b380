//! How commands end badly, in words that stay.
//!
//! The code is part of the protocol: one word per row of the truth table (`docs/outcomes.md`).
//! The text is what the old server put into `data`.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Whether a call is up as far as callplane can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Up {
    /// A call is up.
    Yes,
    /// No call is up.
    No,
    /// It can't be known.
    Unknown,
}

impl Up {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Unknown => "unknown",
        }
    }
}

/// A SIP status: code and reason phrase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SipStatus {
    /// 100 to 699.
    pub code: u16,
    /// The words behind the code; the first line only.
    pub reason: Arc<str>,
}

impl SipStatus {
    /// A status from its parts.
    #[must_use]
    pub fn new(code: u16, reason: &str) -> Self {
        Self { code, reason: Arc::from(reason) }
    }

    /// Parses `486 Busy Here`, also with further lines behind it (trace `blind_no_notify`).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let line = text.lines().next().unwrap_or_default().trim();
        let line = line.strip_prefix("SIP/2.0 ").unwrap_or(line);
        let (code, reason) = line.split_once(' ').unwrap_or((line, ""));
        let code = code.parse().ok().filter(|code| (100..700).contains(code))?;
        Some(Self::new(code, reason.trim()))
    }

    /// `408 Request Timeout`, what a proxy says in place of a silent phone.
    #[must_use]
    pub fn timeout() -> Self {
        Self::new(408, "Request Timeout")
    }
}

impl fmt::Display for SipStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reason.is_empty() {
            return write!(f, "{}", self.code);
        }
        write!(f, "{} {}", self.code, self.reason)
    }
}

/// The word for why a command did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The caller's phone is busy.
    CallerBusy,
    /// The caller declined.
    CallerDeclined,
    /// Nobody of that name, or not registered.
    CallerNotFound,
    /// The caller's phone is temporarily unavailable.
    CallerUnavailable,
    /// The caller's phone never said a word.
    CallerUnreachable,
    /// The caller's phone rang out.
    CallerNoAnswer,
    /// The caller's phone forwards; never followed (toll fraud).
    CallerForwarded,
    /// The caller's phone or a proxy asks for credentials.
    Challenged,
    /// The caller's phone refused in another way.
    CallerFailed,
    /// The caller hung up or cancelled.
    CallerHungUp,
    /// The stack refused the request itself; nothing was sent.
    StackRefused,
    /// The stack can't be reached; nothing was sent.
    StackUnreachable,
    /// Too many operations are under way at the stack; nothing was sent.
    StackBusy,
    /// The stack restarted under the command.
    StackRestarted,
    /// The stack never answered, and looking did not tell either.
    ReplyLost,
    /// The REFER was refused.
    ReferRefused,
    /// The phone knows no REFER.
    ReferUnsupported,
    /// The phone challenged a request inside the call.
    InDialogChallenge,
    /// The phone never answered the REFER.
    ReferTimeout,
    /// The phone took the REFER and then did nothing.
    ReferIgnored,
    /// The callee is busy.
    CalleeBusy,
    /// The callee declined.
    CalleeDeclined,
    /// The callee is unknown or not registered.
    CalleeNotFound,
    /// The callee is temporarily unavailable.
    CalleeUnavailable,
    /// The callee's phone rang out.
    CalleeNoAnswer,
    /// The callee's phone refused in another way.
    CalleeFailed,
    /// The transfer's target is busy.
    TargetBusy,
    /// The transfer's target declined.
    TargetDeclined,
    /// The transfer's target is unknown or not registered.
    TargetNotFound,
    /// The transfer's target is temporarily unavailable.
    TargetUnavailable,
    /// The transfer's target rang out.
    TargetNoAnswer,
    /// The transfer's target refused in another way.
    TargetFailed,
    /// The call to be replaced had ended.
    ConsultGone,
    /// There is no such call.
    CallNotFound,
    /// The call is not up yet.
    CallNotReady,
    /// The call ended under the command.
    CallEnded,
    /// The stack ended the call together with the refused request (fact F12).
    CallLost,
    /// A leg refused the new media offer.
    LegRefused,
    /// A leg never answered the new media offer.
    LegTimeout,
    /// Both sides made an offer at once, twice.
    Glare,
    /// The call is held already.
    AlreadyHeld,
    /// The call is not held by us.
    NotHeld,
    /// The call has no media description to offer.
    NoMedia,
    /// Given up by the client, or by a `CallEnd`.
    Cancelled,
    /// The command's stated deadline passed without a decision.
    DeadlinePassed,
    /// The store could not be trusted to keep that something was to be sent; it was not sent.
    StoreUnavailable,
    /// The command's record is gone from the store, so nobody can say what became of it.
    StateLost,
}

impl Code {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CallerBusy => "caller_busy",
            Self::CallerDeclined => "caller_declined",
            Self::CallerNotFound => "caller_not_found",
            Self::CallerUnavailable => "caller_unavailable",
            Self::CallerUnreachable => "caller_unreachable",
            Self::CallerNoAnswer => "caller_no_answer",
            Self::CallerForwarded => "caller_forwarded",
            Self::Challenged => "challenged",
            Self::CallerFailed => "caller_failed",
            Self::CallerHungUp => "caller_hung_up",
            Self::StackRefused => "stack_refused",
            Self::StackUnreachable => "stack_unreachable",
            Self::StackBusy => "stack_busy",
            Self::StackRestarted => "stack_restarted",
            Self::ReplyLost => "reply_lost",
            Self::ReferRefused => "refer_refused",
            Self::ReferUnsupported => "refer_unsupported",
            Self::InDialogChallenge => "in_dialog_challenge",
            Self::ReferTimeout => "refer_timeout",
            Self::ReferIgnored => "refer_ignored",
            Self::CalleeBusy => "callee_busy",
            Self::CalleeDeclined => "callee_declined",
            Self::CalleeNotFound => "callee_not_found",
            Self::CalleeUnavailable => "callee_unavailable",
            Self::CalleeNoAnswer => "callee_no_answer",
            Self::CalleeFailed => "callee_failed",
            Self::TargetBusy => "target_busy",
            Self::TargetDeclined => "target_declined",
            Self::TargetNotFound => "target_not_found",
            Self::TargetUnavailable => "target_unavailable",
            Self::TargetNoAnswer => "target_no_answer",
            Self::TargetFailed => "target_failed",
            Self::ConsultGone => "consult_gone",
            Self::CallNotFound => "call_not_found",
            Self::CallNotReady => "call_not_ready",
            Self::CallEnded => "call_ended",
            Self::CallLost => "call_lost",
            Self::LegRefused => "leg_refused",
            Self::LegTimeout => "leg_timeout",
            Self::Glare => "glare",
            Self::AlreadyHeld => "already_held",
            Self::NotHeld => "not_held",
            Self::NoMedia => "no_media",
            Self::Cancelled => "cancelled",
            Self::DeadlinePassed => "deadline_passed",
            Self::StoreUnavailable => "store_unavailable",
            Self::StateLost => "state_lost",
        }
    }
}

/// Why a command did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The word.
    pub code: Code,
    /// The old server's text.
    pub text: Arc<str>,
    /// The SIP status that decided it, if one did.
    pub sip: Option<SipStatus>,
    /// Whether a call is up now.
    pub up: Up,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// What was asked for is so.
    Success,
    /// It is not so, and that is known.
    Failed,
    /// It was given up.
    Cancelled,
    /// Nothing was ever sent.
    NotStarted,
    /// It can't be known.
    Unknown {
        /// Whether a call is up.
        up: Up,
    },
}

impl Outcome {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::NotStarted => "not_started",
            Self::Unknown { .. } => "unknown",
        }
    }
}
