//! The failures that commands share, in words: code, text, SIP status.

use std::sync::Arc;

use super::Ending;
use crate::core::act::NotSent;
use crate::core::failure::{Code, Failure, SipStatus, Up};

/// A failure without a SIP status.
pub(crate) fn failure(code: Code, text: &str, up: Up) -> Failure {
    Failure { code, text: Arc::from(text), sip: None, up }
}

/// A failure that a SIP status decided.
pub(crate) fn with_sip(code: Code, text: &str, sip: SipStatus, up: Up) -> Failure {
    Failure { code, text: Arc::from(text), sip: Some(sip), up }
}

/// What ran there is forgotten; the phones may talk on.
pub(crate) fn restarted() -> Ending {
    Ending::unknown(failure(Code::StackRestarted, "stack restarted", Up::Unknown))
}

/// The old server had no words for it: it never noticed.
pub(crate) const REFER_IGNORED: &str = "phone did not place the call";

/// A refusal of a REFER that the stack keeps to itself (row 27).
pub(crate) fn refused_unsaid(up: Up) -> Failure {
    failure(Code::ReferRefused, "transfer refused", up)
}

/// A phone's refusal of a REFER.
pub(crate) fn refer_refused(status: &SipStatus, up: Up) -> Failure {
    let code = match status.code {
        405 | 501 => Code::ReferUnsupported,
        401 | 407 => Code::InDialogChallenge,
        408 => Code::ReferTimeout,
        _ => Code::ReferRefused,
    };
    with_sip(code, &format!("transfer refused: {status}"), status.clone(), up)
}

/// The referred call failed with this status; `who` is `callee` or `target`.
pub(crate) fn target_failed(status: &SipStatus, who: &str, up: Up) -> Failure {
    let callee = who == "callee";
    let pick = |start: Code, transfer: Code| if callee { start } else { transfer };
    let code = match status.code {
        486 | 600 => pick(Code::CalleeBusy, Code::TargetBusy),
        603 => pick(Code::CalleeDeclined, Code::TargetDeclined),
        404 | 410 | 604 => pick(Code::CalleeNotFound, Code::TargetNotFound),
        480 => pick(Code::CalleeUnavailable, Code::TargetUnavailable),
        408 => pick(Code::CalleeNoAnswer, Code::TargetNoAnswer),
        _ => pick(Code::CalleeFailed, Code::TargetFailed),
    };
    with_sip(code, &format!("{who}: {status}"), status.clone(), up)
}

/// The referred call rang too long and was ended by us.
pub(crate) fn no_answer(who: &str, up: Up) -> Failure {
    target_failed(&SipStatus::timeout(), who, up)
}

/// A refusal by the stack itself, before anything was sent.
pub(crate) fn stack_refused(code: u16, reason: &str, up: Up) -> Failure {
    let word = match code {
        410 => Code::CallNotReady,
        _ => Code::StackRefused,
    };
    failure(word, &format!("{code} {reason}"), up)
}

/// The failure word for an operation that never left us.
pub(crate) fn not_sent(why: NotSent) -> (Code, &'static str) {
    match why {
        NotSent::Unreachable => (Code::StackUnreachable, "stack unreachable"),
        NotSent::TooLate => (Code::StackBusy, "stack too busy: not sent in time"),
        NotSent::Overloaded => (Code::StackBusy, "stack too busy: too many requests under way"),
        NotSent::NotKept => (Code::StoreUnavailable, "store unavailable: not sent"),
    }
}
