//! Hold and unhold: re-INVITEs of our own inside the dialog, and the stack's own hold.
//!
//! `dlg_send_sequential` answers with the phone's own code, per leg (fact F9). What a leg
//! was last sent, the version of our last offer and whether the call is held are read first, so
//! that any process can go on where another stopped. The mark is written before the offer is
//! sent: a version is never used twice. Where the offer was provably not taken, the mark says again
//! whether the call was held before; one that can't be put back says "held", which an unhold mends.

use super::OpenSips;
use super::dialog::Listed;
use super::event::bounded_status;
use super::gate::{Answer, Limits};
use super::look::Asked;
use super::{last_failed, preparing_failed, refused_by_stack};
use crate::core::act::{DialogState, Facts, Offer, Op, Refuser, Reply};
use crate::core::failure::SipStatus;
use crate::core::ids::CallId;
use crate::core::request::Leg;
use crate::core::sdp::{self, Direction, HoldMark};
use crate::stack::mi::{Mi, MiAnswer, MiRequest};

impl<M: Mi, L: Mi> OpenSips<M, L> {
    pub(super) async fn reinvite(
        &self,
        op: &Op,
        call: &CallId,
        leg: Leg,
        offer: Offer,
        limits: Limits,
    ) -> Reply {
        let answer = match self.dialog_of(call, limits.preparing()).await {
            Asked::There(answer) => answer,
            Asked::NotFound => return self.missing(call, limits).await,
            Asked::Otherwise(reply) => return reply,
        };
        let Some(dialog) = Listed::only(&answer) else {
            return refused_by_stack(500, "unreadable list");
        };
        if let Some(refusal) = not_ready(dialog) {
            return refusal;
        }
        let (mark, text) = match next_offer(dialog, leg, offer) {
            Ok(next) => next,
            Err(refusal) => return refusal,
        };
        match self.write_mark(dialog, mark, limits.preparing()).await {
            Ok(MiAnswer::Result(_)) => {}
            Ok(MiAnswer::Error { code, message, .. }) => return refused_by_stack(code, &message),
            Err(failed) => return preparing_failed(failed),
        }
        let mut request = MiRequest::new("dlg_send_sequential")
            .text("callid", call.as_str())
            .text("method", "INVITE")
            .text("mode", leg.as_str())
            .text("body", format!("custom:application/sdp:{text}"));
        if self.known().script.is_some() {
            request = request.text("headers", format!("X-CP-Op: {}\r\n", op.id));
        }
        match self.in_dialog(request, call, limits).await {
            Ok(_) => Reply::Done(Facts::Nothing),
            Err(reply) => {
                let HoldMark { held, seen, .. } = dialog.hold_mark();
                let before = HoldMark { held, seen, ..mark };
                if was_not_taken(&reply)
                    && before != mark
                    && self.write_mark(dialog, before, limits.any_time()).await.is_err()
                {
                    tracing::debug!(%call, "the mark of an offer that was not taken stays");
                }
                reply
            }
        }
    }

    /// Sends a request inside a dialog. The code of a 2xx, or the reply that it amounts to.
    pub(super) async fn in_dialog(
        &self,
        request: MiRequest,
        call: &CallId,
        limits: Limits,
    ) -> Result<u16, Reply> {
        match self.gate.ask(request, Answer::Phone, limits).await {
            Ok(MiAnswer::Result(answer)) => {
                let code = answer.get("Code").and_then(serde_json::Value::as_u64);
                let Some(code) = code.and_then(|code| u16::try_from(code).ok()) else {
                    return Err(Reply::Silent);
                };
                if (200..300).contains(&code) {
                    return Ok(code);
                }
                let reason = answer.get("Reason").and_then(serde_json::Value::as_str);
                let status = SipStatus::new(code, reason.unwrap_or_default());
                let SipStatus { code, reason } = bounded_status(status);
                Err(Reply::Refused { by: Refuser::Phone, code, reason })
            }
            Ok(MiAnswer::Error { code: 404, .. }) => {
                Err(self.missing(call, limits.any_time()).await)
            }
            // Before it was sent (source: bad mode, bad body, bad method, no memory).
            Ok(MiAnswer::Error { code: code @ (..=299 | 400 | 406 | 500), message, .. }) => {
                Err(refused_by_stack(code, &message))
            }
            // The proxy in the phone's place: 408 when it never answered.
            Ok(MiAnswer::Error { code, message, .. }) => Err(Reply::Refused {
                by: Refuser::Phone,
                code: u16::try_from(code).unwrap_or(500),
                reason: message.into(),
            }),
            Err(failed) => Err(last_failed(failed)),
        }
    }

    /// `call_hold` or `call_unhold`, only where it is configured: a leg that never answers it ends
    /// OpenSIPS 3.6 (trace `hold_timeout`).
    pub(super) async fn stack_hold(&self, call: &CallId, offer: Offer, limits: Limits) -> Reply {
        if self.settings.hold != crate::core::plan::HoldBy::Stack {
            return refused_by_stack(501, "call_hold is not configured");
        }
        let command = match offer {
            Offer::Hold { .. } => "call_hold",
            Offer::Resume { .. } => "call_unhold",
        };
        let request = MiRequest::new(command).text("callid", call.as_str());
        match self.gate.ask(request, Answer::Stack, limits).await {
            Ok(MiAnswer::Result(_)) => Reply::Done(Facts::Nothing),
            Ok(MiAnswer::Error { code: 404, .. }) => self.missing(call, limits.any_time()).await,
            Ok(MiAnswer::Error { code, message, .. }) => refused_by_stack(code, &message),
            Err(failed) => last_failed(failed),
        }
    }
}

/// The refusal of a dialog that is not up.
pub(super) fn not_ready(dialog: Listed<'_>) -> Option<Reply> {
    match dialog.state() {
        Some(DialogState::Confirmed) => None,
        Some(
            DialogState::Unconfirmed
            | DialogState::Early
            | DialogState::Answered
            | DialogState::Deleted,
        )
        | None => Some(refused_by_stack(410, "Dialog not ready")),
    }
}

/// Whether a leg is as it was before this offer.
fn was_not_taken(reply: &Reply) -> bool {
    match reply {
        Reply::NotSent(_) | Reply::Refused { by: Refuser::Stack, .. } => true,
        // The proxy's word for a phone that never answered; it may have taken it.
        Reply::Refused { by: Refuser::Phone, code, .. } => *code != 408,
        Reply::Done(_) | Reply::Missing { .. } | Reply::Silent => false,
    }
}

/// What is offered to a leg next, and the mark that says so.
fn next_offer(dialog: Listed<'_>, leg: Leg, offer: Offer) -> Result<(HoldMark, String), Reply> {
    let mark = dialog.hold_mark();
    let parties = [Leg::Caller, Leg::Callee].map(|leg| dialog.sdp(leg).unwrap_or_default());
    let seen = sdp::fingerprint(parties);
    match offer {
        // A phone that has made an offer of its own since then has taken itself back.
        Offer::Hold { first: true } if mark.held && mark.seen == seen => {
            return Err(refused_by_stack(480, "Both dialog legs are on hold"));
        }
        Offer::Resume { first: true, .. } if !mark.held => {
            return Err(refused_by_stack(480, "No dialog legs on hold"));
        }
        Offer::Hold { .. } | Offer::Resume { .. } => {}
    }
    let no_media = || refused_by_stack(488, "no session description to change");
    let last_sent = dialog.sdp_sent_to(leg).ok_or_else(no_media)?;
    let known = sdp::version(last_sent).ok_or_else(no_media)?;
    let ours = match leg {
        Leg::Caller => mark.caller,
        Leg::Callee => mark.callee,
    };
    let version = known.max(ours).checked_add(1).ok_or_else(no_media)?;
    let (held, direction) = match offer {
        Offer::Hold { .. } => (true, Direction::Inactive),
        Offer::Resume { last: true, .. } => (false, Direction::SendRecv),
        Offer::Resume { last: false, .. } => (mark.held, Direction::SendRecv),
    };
    let text = sdp::offer(last_sent, version, direction).ok_or_else(no_media)?;
    let seen = if matches!(offer, Offer::Hold { first: true }) { seen } else { mark.seen };
    let next = match leg {
        Leg::Caller => HoldMark { held, caller: version, seen, ..mark },
        Leg::Callee => HoldMark { held, callee: version, seen, ..mark },
    };
    Ok((next, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn sdp_of(user: &str, version: u64, direction: &str) -> String {
        format!(
            "v=0\r\no={user} 1 {version} IN IP4 h\r\ns=-\r\nt=0 0\r\nm=audio 4 RTP/AVP 0\r\na={direction}\r\n"
        )
    }

    fn call(mark: &str, bob: &str) -> Value {
        json!({"Dialog": {
            "ID": "1.2", "state": 4, "callid": "c", "caller_sdp": sdp_of("alice", 1, "sendrecv"),
            "CALLEES": [{"callee_contact": "sip:b@c", "callee_sdp": bob}],
            "context": {"values": [{"cp_hold": mark}]}
        }})
    }

    fn offered(mark: &str, bob: &str, leg: Leg, offer: Offer) -> Result<(HoldMark, String), u16> {
        let value = call(mark, bob);
        next_offer(Listed::only(&value).unwrap(), leg, offer).map_err(|reply| match reply {
            Reply::Refused { by: Refuser::Stack, code, .. } => code,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn versions_rise_by_one_over_a_whole_hold_and_unhold() {
        let bob = sdp_of("bob", 5, "sendrecv");
        let hold = Offer::Hold { first: true };
        let (mark, text) = offered("", &bob, Leg::Caller, hold).unwrap();
        assert_eq!(text, sdp_of("bob", 6, "inactive"));
        assert!(mark.held);
        let second = Offer::Hold { first: false };
        let (mark, text) = offered(&mark.to_text(), &bob, Leg::Callee, second).unwrap();
        assert_eq!(text, sdp_of("alice", 2, "inactive"));
        assert_eq!(offered(&mark.to_text(), &bob, Leg::Caller, hold), Err(480));
        let resume = Offer::Resume { first: true, last: false };
        let (mark, text) = offered(&mark.to_text(), &bob, Leg::Callee, resume).unwrap();
        assert_eq!(text, sdp_of("alice", 3, "sendrecv"));
        assert!(mark.held);
        let last = Offer::Resume { first: false, last: true };
        let (mark, text) = offered(&mark.to_text(), &bob, Leg::Caller, last).unwrap();
        assert_eq!(text, sdp_of("bob", 7, "sendrecv"));
        assert!(!mark.held);
        assert_eq!(offered(&mark.to_text(), &bob, Leg::Callee, resume), Err(480));
    }

    #[test]
    fn a_phone_that_took_itself_back_can_be_held_again() {
        let bob = sdp_of("bob", 1, "sendrecv");
        let hold = Offer::Hold { first: true };
        let (mark, _) = offered("", &bob, Leg::Caller, hold).unwrap();
        let renewed = sdp_of("bob", 2, "sendrecv");
        let (again, text) = offered(&mark.to_text(), &renewed, Leg::Caller, hold).unwrap();
        assert_eq!(again.caller, 3);
        assert_eq!(text, sdp_of("bob", 3, "inactive"));
    }

    #[test]
    fn a_call_without_media_is_not_held() {
        assert_eq!(offered("", "", Leg::Caller, Offer::Hold { first: true }), Err(488));
        assert_eq!(offered("", "hello", Leg::Caller, Offer::Hold { first: true }), Err(488));
    }
}
