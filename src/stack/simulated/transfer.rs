//! Transfers: REFER and what phones make of it, NOTIFY, `call_transfer`, `E_CALL_TRANSFER`,
//! and the reference script's one-use tokens.

use std::time::Duration;

use serde_json::{Value, json};

use super::commands::{Asker, Params};
use super::dialogs::{
    Call, CallKey, DialogId, Leg, Party, Referral, ReplacesHeader, Side, State, Watched, WatchedLeg,
};
use super::events;
use super::phones::Notify;
use super::sip_text::{self, address_uri, header, parameter, reason};
use super::world::{Task, World};
use crate::core::script::CallopsMode;
use crate::stack::mi::MiAnswer;

/// The dialog values callops keeps (`dlg_list_ctx` shows them).
const LEG: &str = "call_transfer_leg";
const NEW_CALL: &str = "call_transfer_callid";

/// A REFER on its way to a phone.
#[derive(Debug, Clone)]
pub(super) struct Refer {
    pub(super) key: CallKey,
    /// The end that receives it.
    pub(super) side: Side,
    pub(super) refer_to: String,
    pub(super) referred_by: Option<String>,
    /// Who waits for the phone's answer; `None`: `call_transfer`, which answers at once.
    pub(super) asker: Option<Asker>,
}

/// How a referred call ended its setup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Answered,
    Failed(u16),
}

impl World {
    /// `call_transfer`.
    pub(super) fn call_transfer(&mut self, asker: Asker, params: &Params<'_>) {
        let answer = match self.start_call_transfer(params) {
            Ok(()) => MiAnswer::Result("Accepted".into()),
            Err(error) => error,
        };
        self.answer(asker, answer);
    }

    fn start_call_transfer(&mut self, params: &Params<'_>) -> Result<(), MiAnswer> {
        let callid = params.text("callid")?;
        let leg = params.text("leg")?;
        let side = Side::from_text(&leg).ok_or_else(|| params.bad_type("leg"))?;
        let attended = params.optional_text("transfer_callid")?;
        if params.has("transfer_fromtag") {
            // Measured on both versions: this form can't be used.
            return Err(MiAnswer::Error {
                code: -32000,
                message: "Server error".into(),
                data: Some("Failed to handle parameter".into()),
            });
        }
        let not_found = || MiAnswer::error(404, "Dialog not found");
        let key = self.calls.by_callid(&callid).ok_or_else(not_found)?;
        let refer_to = match attended {
            Some(other) => {
                let leg = params.text("transfer_leg")?;
                let target =
                    Side::from_text(&leg).ok_or_else(|| params.bad_type("transfer_leg"))?;
                let other_key = self
                    .calls
                    .by_callid(&other)
                    .ok_or_else(|| MiAnswer::error(404, "Transfer dialog not found"))?;
                self.refuse_second_transfer(key)?;
                let call = self.calls.get_mut(other_key).ok_or_else(not_found)?;
                if let Some(dialog) = call.dialog.as_mut() {
                    dialog.consulted_for = Some(key);
                }
                attended_target(call, target)
            }
            None => {
                let destination = params.text("destination")?;
                self.refuse_second_transfer(key)?;
                match self.osid(key) {
                    Some(osid) => format!("{destination};osid={osid}"),
                    None => destination.into_owned(),
                }
            }
        };
        if let Some(dialog) = self.calls.get_mut(key).and_then(|c| c.dialog.as_mut()) {
            dialog.set(LEG, side.text().into());
            dialog.catches_notify = true;
        }
        // As a header line: what a CR LF in the destination does to it, it does here too.
        let line = format!("Refer-To: <{refer_to}>\r\n");
        let refer_to = header(&line, "Refer-To").map(address_uri).unwrap_or_default().to_owned();
        self.send_refer(Refer { key, side, refer_to, referred_by: None, asker: None });
        Ok(())
    }

    /// After any attempt, also a refused one, callops answers 491 for ever.
    fn refuse_second_transfer(&self, key: CallKey) -> Result<(), MiAnswer> {
        let tried = self
            .calls
            .get(key)
            .and_then(|c| c.dialog.as_ref())
            .is_some_and(|d| d.value(LEG).is_some());
        if tried { Err(MiAnswer::error(491, "Request Pending")) } else { Ok(()) }
    }

    /// What callops writes into the Refer-To.
    fn osid(&self, key: CallKey) -> Option<String> {
        let call = self.calls.get(key)?;
        match self.callops_mode() {
            CallopsMode::Param => call.dialog.as_ref().map(|d| d.id.to_string()),
            CallopsMode::CallId => Some(call.callid.to_string()),
            CallopsMode::Manual => None,
        }
    }

    fn callops_mode(&self) -> CallopsMode {
        if self.reference() { CallopsMode::Manual } else { self.config.callops_mode }
    }

    pub(super) fn send_refer(&mut self, refer: Refer) {
        self.later(self.hop(), Task::ReferArrives(Box::new(refer)));
    }

    pub(super) fn refer_arrives(&mut self, refer: Box<Refer>) {
        let Some(call) = self.calls.get(refer.key) else { return self.refer_unanswered(&refer) };
        let end = call.end(refer.side);
        let (over, party) = (end.leg == Leg::Over, end.party);
        self.saw_refer(refer.key, party, &refer.refer_to);
        let Some(call) = self.calls.get(refer.key) else { return self.refer_unanswered(&refer) };
        let end = call.end(refer.side);
        let (answer, wait) = match (self.party_phone(end.party), end.party) {
            (Some(_), _) if over => (481, Duration::ZERO),
            (Some(p), _) => (p.behaviour.refer, Duration::from_millis(p.behaviour.refer_ms)),
            // The reference script answers for callplane's own leg.
            (None, Party::Uac) if self.reference() => (200, Duration::ZERO),
            (None, Party::Uac | Party::Phone(_)) => (481, Duration::ZERO),
            (None, Party::Nobody) => (0, Duration::ZERO),
        };
        let hop = self.hop();
        if answer == 0 {
            self.later(self.config.fr_timeout, Task::ReferUnanswered(refer));
        } else {
            self.later(wait + hop, Task::ReferAnswered(refer, answer));
        }
    }

    pub(super) fn refer_unanswered(&mut self, refer: &Refer) {
        self.refer_is_over(refer, || MiAnswer::error(408, reason(408)));
    }

    pub(super) fn refer_answered(&mut self, refer: Box<Refer>, code: u16) {
        if !(200..300).contains(&code) {
            return self.refer_is_over(&refer, || sequential_answer(code));
        }
        if let Some(asker) = &refer.asker {
            self.answer(asker.clone(), sequential_answer(code));
        }
        let Some(call) = self.calls.get(refer.key) else { return };
        let Some(phone) = self.party_phone(call.end(refer.side).party) else { return };
        let behaviour = &phone.behaviour;
        if !behaviour.follow {
            return;
        }
        let (after, bye) =
            (Duration::from_millis(behaviour.follow_ms), behaviour.bye_before_follow);
        if bye {
            self.later(Duration::ZERO, Task::HangUp(refer.key, refer.side));
        }
        self.later(after, Task::Follow(refer));
    }

    /// The REFER was refused or never answered: only who sent it by `dlg_send_sequential` is
    /// told; `call_transfer` leaves an empty leg behind.
    fn refer_is_over(&mut self, refer: &Refer, answer: impl FnOnce() -> MiAnswer) {
        match &refer.asker {
            Some(asker) => self.answer(asker.clone(), answer()),
            None => self.set_value(refer.key, LEG, "".into()),
        }
    }

    /// The phone obeys a REFER: NOTIFYs and a new call.
    pub(super) fn follow(&mut self, refer: &Refer) {
        let Some(call) = self.calls.get(refer.key) else { return };
        let Party::Phone(number) = call.end(refer.side).party else { return };
        let Some(phone) = self.phones.get(number) else { return };
        let behaviour = &phone.behaviour;
        let trying =
            behaviour.notify_body.clone().unwrap_or_else(|| "SIP/2.0 100 Trying\r\n".to_owned());
        let (all, early) = (behaviour.notify == Notify::All, behaviour.notify_early);
        let copies_marks = behaviour.copies_marks;
        let referral = Referral {
            old: refer.key,
            side: refer.side,
            notify: behaviour.notify,
            notify_body: behaviour.notify_body.clone(),
            told: false,
        };
        let name = phone.name.clone();
        let hop = self.hop();
        let notify = Task::Notify(refer.key, refer.side, trying);
        if all && early {
            self.later(hop, notify.clone());
        }
        let asked = refer.refer_to.split('?').next().unwrap_or_default();
        let target = if copies_marks { asked } else { sip_text::bare(asked) }.to_owned();
        let replaces = sip_text::uri_header(&refer.refer_to, "Replaces").map(|value| {
            let mut parts = value.split(';');
            ReplacesHeader {
                callid: parts.next().unwrap_or_default().to_owned(),
                to_tag: parts
                    .find_map(|p| p.strip_prefix("to-tag="))
                    .unwrap_or_default()
                    .to_owned(),
            }
        });
        if sip_text::is_sip(&target) {
            let callid = format!("{name}-{}", self.random.hex(12));
            let referred_by = refer.referred_by.clone().filter(|_| copies_marks);
            self.phone_invites(number, callid, &target, Some(referral), referred_by, replaces);
        }
        if all && !early {
            self.later(hop + Duration::from_millis(100), notify);
        }
    }

    /// A phone's NOTIFY about a REFER passes the proxy.
    pub(super) fn notified(&mut self, key: CallKey, side: Side, body: &str) {
        let Some(call) = self.calls.get_mut(key) else { return };
        let Some(state) = call.state() else { return };
        if state == State::Early {
            return;
        }
        if state != State::Deleted {
            call.end_mut(side).cseq += 1;
        }
        if self.reference() {
            return self.notify_passes(key, side, body);
        }
        let Some(call) = self.calls.get(key) else { return };
        let Some(dialog) = call.dialog.as_ref() else { return };
        let (Some(new_call), Some(status)) =
            (dialog.text_value(NEW_CALL), body.strip_prefix("SIP/2.0 "))
        else {
            return;
        };
        if dialog.catches_notify && state != State::Deleted {
            let leg = dialog.text_value(LEG).unwrap_or_default();
            let status = status.trim_end_matches(['\r', '\n']);
            let event = events::transfer(&call.callid, leg, new_call, "", "notify", status);
            self.raise(event);
        }
    }

    /// Stock script: an INVITE with `;osid=` is taken for a transfer of that call, whoever sent
    /// it: forgeable (measured).
    pub(super) fn watch_osid(&mut self, key: CallKey) {
        let Some(call) = self.calls.get(key) else { return };
        let Some(osid) = parameter(&call.requested, "osid") else { return };
        let old = match self.callops_mode() {
            CallopsMode::Param => DialogId::parse(osid).and_then(|id| self.calls.by_id(id)),
            CallopsMode::CallId => self.calls.by_callid(osid),
            CallopsMode::Manual => None,
        };
        if let Some(old) = old {
            self.watch(key, old, WatchedLeg::Osid);
        }
    }

    /// An INVITE with `Replaces`: events for the replaced call and, after an attended
    /// `call_transfer`, for the transferred one.
    pub(super) fn watch_replaced(&mut self, key: CallKey) {
        let Some(replaces) = self.calls.get(key).and_then(|c| c.replaces.clone()) else { return };
        let Some(other_key) = self.calls.by_callid(&replaces.callid) else { return };
        let Some(other) = self.calls.get(other_key) else { return };
        let leg = if other.callee.tag == replaces.to_tag { Side::Callee } else { Side::Caller };
        let transferred = other.dialog.as_ref().and_then(|d| d.consulted_for);
        if let Some(old) = transferred {
            self.watch(key, old, WatchedLeg::Value);
        }
        self.watch(key, other_key, WatchedLeg::Fixed(leg));
    }

    fn watch(&mut self, key: CallKey, old: CallKey, leg: WatchedLeg) {
        if let Some(call) = self.calls.get_mut(key)
            && !call.watched.iter().any(|w| w.old == old)
        {
            call.watched.push(Watched { old, leg, started: false });
        }
    }

    pub(super) fn forget_watched(&mut self, key: CallKey) {
        if let Some(call) = self.calls.get_mut(key) {
            call.watched.clear();
        }
    }

    /// `call_blind_replace(callid, leg)` in a script: this INVITE transfers that call. Whatever
    /// it replaces starts with it, before the lookup (recorded).
    pub(super) fn blind_replace(&mut self, key: CallKey, old_callid: &str, leg: &str) {
        if let Some(old) = self.calls.any_by_callid(old_callid) {
            self.set_value(old, LEG, leg.into());
            self.watch(key, old, WatchedLeg::Value);
            self.watch_replaced(key);
            let requested = self.calls.get(key).map(|c| c.requested.clone()).unwrap_or_default();
            self.start_watched(key, &requested);
        }
    }

    /// `E_CALL_TRANSFER start` for every watched call that has not had it.
    pub(super) fn start_watched(&mut self, key: CallKey, destination: &str) {
        let Some(call) = self.calls.get(key) else { return };
        let new_call = call.callid.clone();
        let pending = self.watched_of(key);
        if let Some(call) = self.calls.get_mut(key) {
            call.watched.iter_mut().for_each(|w| w.started = true);
        }
        for watched in pending.iter().filter(|w| !w.started) {
            let Some(old) = self.calls.get(watched.old) else { continue };
            let Some(dialog) = old.dialog.as_ref() else { continue };
            let leg = match watched.leg {
                WatchedLeg::Osid => &*new_call,
                WatchedLeg::Value => dialog.text_value(LEG).unwrap_or("unknown"),
                WatchedLeg::Fixed(side) => side.text(),
            };
            let event = events::transfer(&old.callid, leg, &new_call, destination, "start", "");
            self.raise(event);
            match watched.leg {
                WatchedLeg::Osid | WatchedLeg::Value => {
                    self.set_value(watched.old, NEW_CALL, Value::from(&*new_call));
                }
                WatchedLeg::Fixed(_) => {}
            }
        }
    }

    /// `E_CALL_TRANSFER ok` or `fail` for every watched call.
    pub(super) fn finish_watched(&mut self, key: CallKey, fate: Fate, destination: &str) {
        let Some(call) = self.calls.get(key) else { return };
        if call.watched.is_empty() {
            return;
        }
        let new_call = call.callid.clone();
        let (state, code) = match fate {
            Fate::Answered => ("ok", 200),
            Fate::Failed(code) => ("fail", code),
        };
        let status = format!("{code} {}", reason(code));
        for watched in self.watched_of(key) {
            let Some(old) = self.calls.get(watched.old) else { continue };
            let value = old.dialog.as_ref().and_then(|d| d.text_value(LEG));
            let leg = match watched.leg {
                WatchedLeg::Osid | WatchedLeg::Value => value.unwrap_or("unknown"),
                WatchedLeg::Fixed(side) => side.text(),
            };
            let event = events::transfer(&old.callid, leg, &new_call, destination, state, &status);
            self.raise(event);
            match watched.leg {
                WatchedLeg::Osid | WatchedLeg::Value => {
                    self.set_value(watched.old, LEG, "".into());
                }
                WatchedLeg::Fixed(_) => {}
            }
        }
    }

    /// Anybody's INVITE with the `osid` of somebody else's call. `target` is a phone's name.
    /// Returns the Call-ID of the forged call; `None` without such a phone or dialog.
    pub fn forge_transfer(
        &mut self,
        now: Duration,
        forger: &str,
        callid: &str,
        target: &str,
    ) -> Option<String> {
        self.advance(now);
        let id = self.calls.get(self.calls.by_callid(callid)?)?.dialog.as_ref()?.id;
        let to = format!("sip:{target}@{};osid={id}", self.domain);
        self.place_call(now, forger, &to)
    }
}

/// What `dlg_send_sequential` answers once the phone has.
pub(super) fn sequential_answer(code: u16) -> MiAnswer {
    MiAnswer::Result(json!({"Code": code, "Reason": reason(code)}))
}

/// The Refer-To of an attended transfer: the user at `target` of the consultation call.
fn attended_target(call: &Call, target: Side) -> String {
    format!(
        "{}?Replaces={}%3Bto-tag%3D{}%3Bfrom-tag%3D{}",
        call.uri(target),
        call.callid,
        call.end(target).tag,
        call.end(target.other()).tag,
    )
}
