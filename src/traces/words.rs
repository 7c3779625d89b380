//! Operations, replies and inputs in the words of spans.

use opentelemetry::KeyValue;
use opentelemetry::trace::SpanKind;

use super::span::{Key, sip, text, word};
use crate::core::act::{Act, DialogState, NotSent, Refuser, Reply};
use crate::core::command::Input;
use crate::core::ids::CallId;
use crate::core::stack_event::{HoldState, StackEvent, TransferState};

/// A request's id as text: a string without its quotes, a number as it is written.
pub(super) fn of_request(json: &str) -> Option<String> {
    match serde_json::from_str(json).ok()? {
        serde_json::Value::String(text) => Some(text),
        serde_json::Value::Number(number) => Some(number.to_string()),
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Array(_)
        | serde_json::Value::Object(_) => None,
    }
}

/// The call that an operation is about.
pub(super) fn call_of(act: &Act) -> Option<&CallId> {
    match act {
        Act::Invite { call, .. }
        | Act::CancelInvite { call }
        | Act::Refer { call, .. }
        | Act::ReInvite { call, .. }
        | Act::StackHold { call, .. }
        | Act::Mark { call, .. }
        | Act::End { call }
        | Act::Look { call, .. } => Some(call),
        Act::Revoke { .. } => None,
    }
}

/// The SIP status with which a phone refused.
pub(super) fn refused_by_phone(reply: &Reply) -> Option<u16> {
    match reply {
        Reply::Refused { by: Refuser::Phone, code, .. } => Some(*code),
        Reply::Refused { by: Refuser::Stack, .. }
        | Reply::Done(_)
        | Reply::Missing { .. }
        | Reply::NotSent(_)
        | Reply::Silent => None,
    }
}

/// What went wrong with an operation, if something did.
pub(super) fn error_of(reply: &Reply) -> Option<&'static str> {
    match reply {
        Reply::Done(_) => None,
        Reply::Refused { by: Refuser::Phone, .. } => Some("refused_by_phone"),
        Reply::Refused { by: Refuser::Stack, .. } => Some("refused_by_stack"),
        Reply::Missing { .. } => Some("missing"),
        Reply::NotSent(NotSent::Unreachable) => Some("unreachable"),
        Reply::NotSent(NotSent::TooLate) => Some("too_late"),
        Reply::NotSent(NotSent::Overloaded) => Some("overloaded"),
        Reply::NotSent(NotSent::NotKept) => Some("not_kept"),
        Reply::Silent => Some("silent"),
    }
}

/// What a span says of an input.
pub(super) struct Words<'i> {
    pub(super) name: &'static str,
    pub(super) kind: SpanKind,
    event: Option<(&'static str, Option<&'static str>)>,
    call: Option<&'i CallId>,
    sip: Option<u16>,
}

impl Words<'_> {
    pub(super) fn attributes(&self) -> impl Iterator<Item = KeyValue> {
        let event = self.event.map(|(event, _)| word(Key::EVENT, event));
        let state = self.event.and_then(|(_, state)| state).map(|state| word(Key::STATE, state));
        let call = self.call.map(|call| text(Key::CALL, call.as_str()));
        event.into_iter().chain(state).chain(call).chain(self.sip.map(sip))
    }
}

/// The words for an input. None for a reply: its operation has a span of its own.
pub(super) fn of_input(input: &Input) -> Option<Words<'_>> {
    let ours = |name| {
        let kind = SpanKind::Internal;
        Some(Words { name, kind, event: None, call: None, sip: None })
    };
    match input {
        Input::Replied { .. } => None,
        Input::Happened(event) => Some(of_event(event)),
        Input::Due => ours("timer"),
        Input::Cancel => ours("cancel"),
        Input::Ending { .. } => ours("overtaken"),
        Input::Doubt { .. } => ours("doubt"),
    }
}

fn of_event(event: &StackEvent) -> Words<'_> {
    let (name, word, state, call, sip) = match event {
        StackEvent::Dialog { call, state, .. } => {
            ("event dialog", "dialog", Some(of_dialog(*state)), Some(call), None)
        }
        StackEvent::Transfer { call, state, .. } => {
            let (state, sip) = of_transfer(state);
            ("event transfer", "transfer", Some(state), Some(call), sip)
        }
        StackEvent::Referral { new_call, state, .. } => {
            let (state, sip) = of_transfer(state);
            ("event referral", "referral", Some(state), Some(new_call), sip)
        }
        StackEvent::Hold { call, state, .. } => {
            ("event hold", "hold", Some(of_hold(*state)), Some(call), None)
        }
        StackEvent::Restarted(_) => ("event restarted", "restarted", None, None, None),
    };
    Words { name, kind: SpanKind::Consumer, event: Some((word, state)), call, sip }
}

fn of_dialog(state: DialogState) -> &'static str {
    match state {
        DialogState::Unconfirmed => "unconfirmed",
        DialogState::Early => "early",
        DialogState::Answered => "answered",
        DialogState::Confirmed => "confirmed",
        DialogState::Deleted => "deleted",
    }
}

fn of_transfer(state: &TransferState) -> (&'static str, Option<u16>) {
    match state {
        TransferState::Start => ("start", None),
        TransferState::Progress(status) => ("progress", Some(status.code)),
        TransferState::Ok => ("ok", None),
        TransferState::Fail(status) => ("fail", Some(status.code)),
        TransferState::Notified(status) => ("notified", Some(status.code)),
    }
}

fn of_hold(state: HoldState) -> &'static str {
    match state {
        HoldState::Start => "start",
        HoldState::Ok => "ok",
        HoldState::Fail => "fail",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requests_id_is_text() {
        assert_eq!(of_request("17").as_deref(), Some("17"));
        assert_eq!(of_request(r#""a\"b""#).as_deref(), Some("a\"b"));
        assert_eq!(of_request("null"), None);
    }
}
