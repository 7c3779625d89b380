//! Requests inside a call that the proxy makes up: `call_hold` and `call_unhold`,
//! `dlg_send_sequential`, and the re-INVITEs of phones themselves.

use std::time::Duration;

use serde_json::Value;

use super::commands::{Asker, Params};
use super::config::Version;
use super::dialogs::{Call, CallKey, Leg, Party, Side, State};
use super::events;
use super::sip_text::{Direction, address_uri, header, reason, unescape};
use super::transfer::{Refer, sequential_answer};
use super::world::{Task, World};
use crate::stack::mi::MiAnswer;

/// A request without an answer is sent again after this time (RFC 3261 T1).
const RETRANSMITTED_AFTER: Duration = Duration::from_millis(500);

/// Dialog values of callops on 4.0, per leg: what it was last offered. 3.6 keeps `hold` or ``.
const OFFERED_SENDONLY: u64 = 8;
const OFFERED_RECVONLY: u64 = 4;

/// A request on its way to a phone in a call.
#[derive(Debug, Clone)]
pub(super) struct InCall {
    pub(super) key: CallKey,
    pub(super) side: Side,
    pub(super) kind: InCallKind,
}

/// What the request is and who waits for its answer.
#[derive(Debug, Clone)]
pub(super) enum InCallKind {
    /// A re-INVITE of `call_hold` or `call_unhold`; `before` is the leg's old dialog value.
    Hold { action: Action, offer: Direction, before: Option<Value> },
    /// A re-INVITE by `dlg_send_sequential`.
    ReInvite { offer: Direction, asker: Asker },
    /// Any other request by `dlg_send_sequential`.
    Other { asker: Asker },
}

/// What callops does to the legs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Hold,
    Unhold,
}

impl Action {
    fn text(self) -> &'static str {
        match self {
            Action::Hold => "hold",
            Action::Unhold => "unhold",
        }
    }

    /// Hold begins with the caller, unhold with the callee.
    fn order(self) -> [Side; 2] {
        match self {
            Action::Hold => [Side::Caller, Side::Callee],
            Action::Unhold => [Side::Callee, Side::Caller],
        }
    }

    fn nothing_to_do(self) -> MiAnswer {
        match self {
            Action::Hold => MiAnswer::error(480, "Both dialog legs are on hold"),
            Action::Unhold => MiAnswer::error(480, "No dialog legs on hold"),
        }
    }
}

fn value_name(side: Side) -> &'static str {
    match side {
        Side::Caller => "call_hold_caller",
        Side::Callee => "call_hold_callee",
    }
}

impl World {
    /// `call_hold` and `call_unhold`.
    pub(super) fn call_hold(&mut self, asker: Asker, params: &Params<'_>, action: Action) {
        let answer = self.change_hold(params, action).unwrap_or_else(|error| error);
        self.answer(asker, answer);
    }

    fn change_hold(&mut self, params: &Params<'_>, action: Action) -> Result<MiAnswer, MiAnswer> {
        let callid = params.text("callid")?;
        let legs = match params.optional_text("leg")?.as_deref() {
            None | Some("both") => vec![Side::Caller, Side::Callee],
            Some(leg) => match Side::from_text(leg) {
                Some(side) => vec![side],
                None => return Err(MiAnswer::error(420, "Bad leg")),
            },
        };
        let not_found = || MiAnswer::error(404, "Dialog not found");
        let key = self.calls.by_callid(&callid).ok_or_else(not_found)?;
        let call = self.calls.get(key).ok_or_else(not_found)?;
        if call.state() != Some(State::Confirmed) {
            return Err(MiAnswer::error(410, "Dialog not ready"));
        }
        let changes: Vec<(Side, Value, Direction)> = action
            .order()
            .into_iter()
            .filter_map(|side| {
                let (value, offer) = match self.config.version {
                    Version::V3_6 => target_3_6(call, side, action)?,
                    Version::V4_0 => target_4_0(call, side, action, &legs)?,
                };
                Some((side, value, offer))
            })
            .collect();
        if changes.is_empty() {
            return Err(action.nothing_to_do());
        }
        for (side, value, offer) in changes {
            let Some(call) = self.calls.get(key) else { continue };
            // Offered is what the other side last sent, with another direction; if it has that
            // direction already there is nothing to send, and no event (measured).
            let last = call.end(side.other()).sdp.as_deref().map(Direction::of);
            if action == Action::Hold && last == Some(offer) {
                continue;
            }
            let before = call.dialog.as_ref().and_then(|d| d.value(value_name(side))).cloned();
            let event = events::hold(&call.callid, side, action.text(), "start");
            self.set_value(key, value_name(side), value);
            self.raise(event);
            let kind = InCallKind::Hold { action, offer, before };
            self.later(self.hop(), Task::RequestArrives(Box::new(InCall { key, side, kind })));
        }
        Ok(MiAnswer::Result("OK".into()))
    }

    /// `dlg_send_sequential`.
    pub(super) fn send_sequential(&mut self, asker: Asker, params: &Params<'_>) {
        if let Err(error) = self.start_sequential(&asker, params) {
            self.answer(asker, error);
        }
    }

    fn start_sequential(&mut self, asker: &Asker, params: &Params<'_>) -> Result<(), MiAnswer> {
        let callid = params.text("callid")?;
        let key = self
            .calls
            .by_callid(&callid)
            .ok_or_else(|| MiAnswer::error(404, "Dialog Not Found"))?;
        let mode = params.optional_text("mode")?;
        let side = match mode.as_deref() {
            None => Side::Caller,
            Some(mode) => {
                Side::from_text(mode).ok_or_else(|| MiAnswer::error(400, "Invalid mode"))?
            }
        };
        let body = params.optional_text("body")?;
        let offer = match body.as_deref() {
            None | Some("none" | "inbound" | "outbound") => Direction::SendRecv,
            Some(body) => match body.strip_prefix("custom:") {
                Some(custom) => Direction::of(custom),
                None => return Err(MiAnswer::error(400, "Invalid body mode")),
            },
        };
        let method = params.optional_text("method")?.unwrap_or_else(|| "INVITE".into());
        let headers = unescape(&params.optional_text("headers")?.unwrap_or_default());
        let Some(call) = self.calls.get(key) else { return Ok(()) };
        if call.end(side).contact.is_empty() {
            return Err(MiAnswer::error(500, "Internal Error"));
        }
        if let Some(op) = header(&headers, "X-CP-Op").filter(|_| self.reference()) {
            self.request_leaves(key, side, &method, op);
        }
        let asker = asker.clone();
        let kind = match &*method {
            "REFER" => {
                let refer_to = header(&headers, "Refer-To").map(address_uri).unwrap_or_default();
                let referred_by = header(&headers, "Referred-By").map(str::to_owned);
                let refer_to = refer_to.to_owned();
                self.send_refer(Refer { key, side, refer_to, referred_by, asker: Some(asker) });
                return Ok(());
            }
            "INVITE" => InCallKind::ReInvite { offer, asker },
            _ => InCallKind::Other { asker },
        };
        self.later(self.hop(), Task::RequestArrives(Box::new(InCall { key, side, kind })));
        Ok(())
    }

    pub(super) fn request_arrives(&mut self, request: Box<InCall>) {
        let reference = self.reference();
        let Some(call) = self.calls.get(request.key) else {
            return self.request_unanswered(&request);
        };
        let end = call.end(request.side);
        let invite = match request.kind {
            InCallKind::Hold { .. } | InCallKind::ReInvite { .. } => true,
            InCallKind::Other { .. } => false,
        };
        let over = end.leg == Leg::Over;
        let (code, wait) = match (self.party_phone(end.party), end.party) {
            (Some(_), _) if over => (481, 0),
            (Some(p), _) if invite => (p.behaviour.reinvite, p.behaviour.reinvite_ms),
            (Some(p), _) => (p.behaviour.info, 0),
            (None, Party::Uac) if reference => (if invite { 488 } else { 200 }, 0),
            (None, Party::Uac | Party::Phone(_)) => (481, 0),
            (None, Party::Nobody) => (0, 0),
        };
        if code == 0 {
            return self.later(self.config.fr_timeout, Task::RequestUnanswered(request));
        }
        let (wait, hop) = (Duration::from_millis(wait), self.hop());
        let twice = match request.kind {
            // The proxy has sent the re-INVITE again by then; the phone answers that one too.
            InCallKind::Hold { .. } => wait > RETRANSMITTED_AFTER && code < 300,
            InCallKind::ReInvite { .. } | InCallKind::Other { .. } => false,
        };
        if twice {
            let again = Task::RequestAnswered(request.clone(), code);
            self.later(RETRANSMITTED_AFTER + wait + hop, again);
        }
        self.later(wait + hop, Task::RequestAnswered(request, code));
    }

    pub(super) fn request_answered(&mut self, request: &InCall, code: u16) {
        let ok = (200..300).contains(&code);
        match &request.kind {
            InCallKind::Hold { action, offer, .. } => {
                let Some(call) = self.calls.get_mut(request.key) else { return };
                if ok {
                    call.end_mut(request.side).offered = *offer;
                }
                let state = if ok { "ok" } else { "fail" };
                let event = events::hold(&call.callid, request.side, action.text(), state);
                self.raise(event);
                if !ok {
                    self.hold_failed(request);
                }
            }
            InCallKind::ReInvite { offer, asker } => {
                if ok && let Some(call) = self.calls.get_mut(request.key) {
                    call.end_mut(request.side).offered = *offer;
                }
                self.answer(asker.clone(), sequential_answer(code));
            }
            InCallKind::Other { asker } => self.answer(asker.clone(), sequential_answer(code)),
        }
    }

    pub(super) fn request_unanswered(&mut self, request: &InCall) {
        match &request.kind {
            InCallKind::Hold { action, .. } => match self.config.version {
                // A leg that never answers kills 3.6.8 (measured).
                Version::V3_6 => self.crash(),
                Version::V4_0 => {
                    let Some(call) = self.calls.get(request.key) else { return };
                    let event = events::hold(&call.callid, request.side, action.text(), "fail");
                    self.raise(event);
                    self.hold_failed(request);
                }
            },
            InCallKind::ReInvite { asker, .. } | InCallKind::Other { asker } => {
                self.answer(asker.clone(), MiAnswer::error(408, reason(408)));
            }
        }
    }

    /// 3.6 takes the leg for held all the same; 4.0 goes back to what the leg had.
    fn hold_failed(&mut self, request: &InCall) {
        let InCallKind::Hold { before, .. } = &request.kind else { return };
        match self.config.version {
            Version::V3_6 => {}
            Version::V4_0 => {
                let before = before.clone().unwrap_or_else(|| 0.into());
                self.set_value(request.key, value_name(request.side), before);
            }
        }
    }

    /// A phone changes the direction of its media by a re-INVITE of its own; the other phone
    /// answers. False if the phone has no such call up.
    pub fn phone_reinvites(
        &mut self,
        now: Duration,
        phone: &str,
        callid: &str,
        direction: Direction,
    ) -> bool {
        self.advance(now);
        let Some(number) = self.phone_number(phone) else { return false };
        let Some(key) = self.calls.by_callid(callid) else { return false };
        let Some(call) = self.calls.get(key) else { return false };
        let Some(side) = [Side::Caller, Side::Callee].into_iter().find(|side| {
            call.end(*side).party == Party::Phone(number) && call.end(*side).leg == Leg::Up
        }) else {
            return false;
        };
        let sdp = |party, d: Direction| self.party_phone(party).map(|p| p.sdp(d).into());
        let own = sdp(call.end(side).party, direction);
        let others = sdp(call.end(side.other()).party, direction.answered());
        let Some(call) = self.calls.get_mut(key) else { return false };
        call.end_mut(side).sdp = own;
        call.end_mut(side).cseq += 1;
        call.end_mut(side).offered = direction.answered();
        call.end_mut(side.other()).offered = direction;
        if let Some(sdp) = others {
            call.end_mut(side.other()).sdp = Some(sdp);
        }
        true
    }
}

/// 3.6: a leg is held or not; a value is set before the phone has answered.
fn target_3_6(call: &Call, side: Side, action: Action) -> Option<(Value, Direction)> {
    let held = call.dialog.as_ref()?.text_value(value_name(side)) == Some("hold");
    match (action, held) {
        (Action::Hold, false) => Some(("hold".into(), Direction::Inactive)),
        (Action::Unhold, true) => Some(("".into(), Direction::SendRecv)),
        (Action::Hold, true) | (Action::Unhold, false) => None,
    }
}

/// 4.0: each leg has two bits; holding one leg changes the offers to both.
fn target_4_0(
    call: &Call,
    side: Side,
    action: Action,
    legs: &[Side],
) -> Option<(Value, Direction)> {
    let old =
        call.dialog.as_ref()?.value(value_name(side)).and_then(Value::as_u64).unwrap_or_default();
    let bits = legs
        .iter()
        .fold(0, |bits, leg| bits | if *leg == side { OFFERED_SENDONLY } else { OFFERED_RECVONLY });
    let new = match action {
        Action::Hold => old | bits,
        Action::Unhold => old & !bits,
    };
    let offer = match (new & OFFERED_SENDONLY != 0, new & OFFERED_RECVONLY != 0) {
        (true, true) => Direction::Inactive,
        (true, false) => Direction::SendOnly,
        (false, true) => Direction::RecvOnly,
        (false, false) => Direction::SendRecv,
    };
    (new != old).then(|| (new.into(), offer))
}
