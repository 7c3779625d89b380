//! Calls between phones, through the proxy's script: INVITE, ringing, answers, CANCEL, BYE.

use std::sync::Arc;
use std::time::Duration;

use super::dialogs::{
    Call, CallKey, End, Leg, Party, Referral, ReplacesHeader, Setup, Side, State, Uac, Watched,
};
use super::events::{self, Callplane};
use super::phones::{Behaviour, Notify, Replaces};
use super::reference::Redeemed;
use super::sip_text::{self, Direction, bare, host, reason, user};
use super::transfer::Fate;
use super::world::{Task, World};

/// After this many INVITEs answered by two devices at once a stock OpenSIPS is likely dead: one
/// in so many (measured: after 2, 3, 13 and 117 calls on 3.6.8, after 22, 31 and 38 on 4.0.1).
const TWO_ANSWERS_KILL_ONE_IN: u64 = 30;

/// An INVITE about to be sent.
pub(super) struct Invite {
    pub(super) callid: String,
    pub(super) from_uri: String,
    pub(super) to_uri: String,
    pub(super) ruri: String,
    pub(super) caller: Party,
    pub(super) caller_tag: String,
    pub(super) caller_contact: String,
    pub(super) cseq: u32,
    pub(super) sdp: Option<String>,
    pub(super) uac: Option<Uac>,
    pub(super) op: Option<String>,
    pub(super) referral: Option<Referral>,
    pub(super) referred_by: Option<String>,
    pub(super) replaces: Option<ReplacesHeader>,
}

/// Who or what ends a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndedBy {
    /// `dlg_end_dlg`.
    Mi,
    /// A phone's BYE.
    Phone(Side),
    /// The dialog's timeout.
    Timeout,
}

impl EndedBy {
    /// `$DLG_end_reason`.
    fn reason(self) -> &'static str {
        match self {
            EndedBy::Mi => "MI Termination",
            EndedBy::Phone(Side::Caller) => "Downstream BYE",
            EndedBy::Phone(Side::Callee) => "Upstream BYE",
            EndedBy::Timeout => "Lifetime Timeout",
        }
    }
}

impl World {
    /// A phone calls another: `from` and `to` are names of phones, `to` may be a SIP URI.
    /// Returns the Call-ID; `None` if there is no phone `from`.
    pub fn place_call(&mut self, now: Duration, from: &str, to: &str) -> Option<String> {
        self.place_call_as(now, from, to, None)
    }

    /// The same with a given Call-ID.
    pub fn place_call_as(
        &mut self,
        now: Duration,
        from: &str,
        to: &str,
        callid: Option<&str>,
    ) -> Option<String> {
        self.advance(now);
        let phone = self.phone_number(from)?;
        let to = if to.contains(':') { to.to_owned() } else { format!("sip:{to}@{}", self.domain) };
        let callid = match callid {
            Some(given) => given.to_owned(),
            None => format!("{from}-{}", self.random.hex(12)),
        };
        self.phone_invites(phone, callid.clone(), &to, None, None, None);
        Some(callid)
    }

    /// A phone hangs up or gives up the call with this Call-ID. False if it has no such call.
    pub fn hang_up(&mut self, now: Duration, phone: &str, callid: &str) -> bool {
        self.advance(now);
        let Some(number) = self.phone_number(phone) else { return false };
        let found = self.calls.all_by_callid(callid).iter().copied().find_map(|key| {
            let call = self.calls.get(key)?;
            [Side::Caller, Side::Callee]
                .into_iter()
                .find(|side| {
                    let end = call.end(*side);
                    end.party == Party::Phone(number) && matches!(end.leg, Leg::Ringing | Leg::Up)
                })
                .map(|side| (key, side))
        });
        let Some((key, side)) = found else { return false };
        let leg = self.calls.get(key).map(|c| c.end(side).leg);
        match (leg, side) {
            (Some(Leg::Ringing), Side::Caller) => self.cancel(key),
            (Some(Leg::Ringing), Side::Callee) => self.phone_answers(key, 603),
            (Some(_), _) | (None, _) => self.phone_hangs_up(key, side),
        }
        true
    }

    /// Changes how a phone behaves. False if there is no such phone.
    pub fn set_behaviour(&mut self, phone: &str, behaviour: Behaviour) -> bool {
        match self.phone_number(phone).and_then(|i| self.phones.get_mut(i)) {
            Some(phone) => {
                phone.behaviour = behaviour;
                true
            }
            None => false,
        }
    }

    /// How a phone behaves.
    pub fn behaviour(&self, phone: &str) -> Option<&Behaviour> {
        self.phone_number(phone).and_then(|i| self.phones.get(i)).map(|p| &p.behaviour)
    }

    /// Registers a phone or takes its registration away. False if there is no such phone.
    pub fn register(&mut self, now: Duration, phone: &str, registered: bool) -> bool {
        self.advance(now);
        let unix = self.unix();
        match self.phone_number(phone).and_then(|i| self.phones.get_mut(i)) {
            Some(phone) => {
                phone.registered = registered;
                phone.registered_at = unix;
                true
            }
            None => false,
        }
    }

    pub(super) fn phone_invites(
        &mut self,
        phone: usize,
        callid: String,
        target: &str,
        referral: Option<Referral>,
        referred_by: Option<String>,
        replaces: Option<ReplacesHeader>,
    ) {
        let caller_tag = self.random.hex(8);
        let Some(p) = self.phones.get(phone) else { return };
        let invite = Invite {
            callid,
            from_uri: p.aor.clone(),
            to_uri: bare(target).to_owned(),
            ruri: target.to_owned(),
            caller: Party::Phone(phone),
            caller_tag,
            caller_contact: p.contact.clone(),
            cseq: 1,
            sdp: Some(p.sdp(p.behaviour.direction.unwrap_or_default())),
            uac: None,
            op: None,
            referral,
            referred_by,
            replaces,
        };
        self.invite(invite);
    }

    pub(super) fn invite(&mut self, invite: Invite) -> CallKey {
        let socket = match invite.caller {
            Party::Uac if self.reference() => self.callplane_socket.clone(),
            Party::Uac | Party::Phone(_) | Party::Nobody => self.domain.clone(),
        };
        let end = |party, tag, contact, sdp: Option<String>, bind: Arc<str>, cseq, leg| End {
            party,
            tag,
            contact,
            bind,
            offered: Direction::SendRecv,
            sdp: sdp.map(Into::into),
            cseq,
            leg,
        };
        let call = Call {
            callid: invite.callid.as_str().into(),
            from_uri: invite.from_uri.as_str().into(),
            to_uri: invite.to_uri.as_str().into(),
            requested: invite.ruri.clone(),
            ruri: invite.ruri,
            by_token: false,
            caller: end(
                invite.caller,
                invite.caller_tag,
                invite.caller_contact,
                invite.sdp,
                socket,
                invite.cseq,
                Leg::Ringing,
            ),
            callee: end(
                Party::Nobody,
                String::new(),
                String::new(),
                None,
                self.domain.clone(),
                0,
                Leg::Idle,
            ),
            setup: Setup::Calling,
            dialog: None,
            uac: invite.uac,
            referral: invite.referral,
            referred_by: invite.referred_by,
            replaces: invite.replaces,
            watched: Vec::new(),
            op: invite.op,
        };
        let key = self.calls.insert(call);
        self.later(self.hop(), Task::Invite(key));
        key
    }

    pub(super) fn invite_arrives(&mut self, key: CallKey) {
        let reference = self.reference();
        let Some(call) = self.calls.get(key) else { return };
        let bypasses = call.uac.as_ref().is_some_and(|u| !u.through_script);
        if bypasses {
            // Straight to the request URI: no script, no dialog.
            let contact = call.ruri.clone();
            return self.relay(key, &contact);
        }
        let op = call.op.clone().filter(|_| reference && call.uac.is_some());
        if let Some(op) = &op
            && !self.first_use(&format!("cp_{op}"))
        {
            return self.refuse_stateless(key, 482, "Command already done");
        }
        if self.challenges(key) {
            return;
        }
        let token = match if reference { self.redeem(key) } else { Redeemed::NoToken } {
            Redeemed::Refused => return self.refuse_stateless(key, 603, "Not Referred"),
            Redeemed::NoToken => None,
            Redeemed::Good(token) => Some(token),
        };
        let id = self.dialog_number();
        self.calls.create_dialog(key, id);
        if reference {
            self.mark_dialog(key, op.as_deref(), token.as_ref());
        }
        let Some(call) = self.calls.get(key) else { return };
        let ruri = call.ruri.clone();
        if !reference {
            self.watch_osid(key);
        }
        if !self.is_own(&ruri) {
            self.watch_replaced(key);
            self.start_watched(key, &ruri);
            return self.relay(key, &ruri);
        }
        let name = user(&ruri).map(bare).unwrap_or_default().to_owned();
        let contact = self
            .phone_number(&name)
            .and_then(|i| self.phones.get(i))
            .filter(|p| p.registered)
            .map(|p| p.contact.clone());
        match contact {
            Some(contact) => {
                self.watch_replaced(key);
                self.start_watched(key, &contact);
                self.relay(key, &contact);
            }
            None if name.starts_with("sl-") && !reference => {
                // Refused statelessly: callops learns nothing of it.
                self.forget_watched(key);
                self.refuse_in_script(key, 404, reason(404));
            }
            None => {
                self.start_watched(key, bare(&ruri));
                self.script_failed(key, 404);
                self.refuse_in_script(key, 404, reason(404));
            }
        }
    }

    /// The proxy sends the INVITE on to `contact`.
    fn relay(&mut self, key: CallKey, contact: &str) {
        let party = self
            .phones
            .iter()
            .position(|p| host(&p.contact) == host(contact))
            .map_or(Party::Nobody, Party::Phone);
        let tag = self.random.hex(8);
        let busy = self.busy(party);
        self.saw_invite(key, party);
        let devices_answer = self.two_devices_answer(key, party);
        let Some(call) = self.calls.get_mut(key) else { return };
        call.ruri = contact.to_owned();
        call.callee.party = party;
        call.callee.offered = call.caller.sdp.as_deref().map(Direction::of).unwrap_or_default();
        if devices_answer {
            return self.crash();
        }
        let (fr, hop) = (self.config.fr_timeout, self.hop());
        self.later(fr, Task::InviteSilent(key));
        let Some(behaviour) = self.party_phone(party).map(|p| p.behaviour.clone()) else { return };
        let refusal = self.replaces_refusal(key, party, &behaviour);
        if let Some(call) = self.calls.get_mut(key) {
            call.callee.tag = tag;
            if behaviour.ring || behaviour.answer != 0 {
                call.callee.leg = Leg::Ringing;
            }
        }
        let there_and_back = hop + hop;
        if behaviour.ring {
            self.later(there_and_back, Task::Ring(key));
        }
        let code = match refusal {
            Some(code) => code,
            None if busy => 486,
            None => behaviour.answer,
        };
        if code != 0 {
            let wait = Duration::from_millis(behaviour.ring_ms);
            self.later(there_and_back + wait, Task::Answered(key, code));
        }
    }

    fn busy(&self, party: Party) -> bool {
        let limit = self.party_phone(party).map_or(0, |p| p.behaviour.max_calls);
        limit > 0
            && self
                .calls
                .iter()
                .flat_map(|(_, c)| [&c.caller, &c.callee])
                .filter(|end| end.party == party && end.leg == Leg::Up)
                .count()
                >= limit
    }

    /// On a stock script: `t_uac_dlg` to a user with several devices that answer together.
    fn two_devices_answer(&mut self, key: CallKey, party: Party) -> bool {
        let by_uac = self.calls.get(key).is_some_and(|c| c.uac.is_some());
        let several = self
            .party_phone(party)
            .is_some_and(|p| p.behaviour.devices > 1 && p.behaviour.answer == 200);
        !self.reference() && by_uac && several && self.random.below(TWO_ANSWERS_KILL_ONE_IN) == 0
    }

    /// RFC 3891: a strict phone refuses to replace a call it does not have.
    fn replaces_refusal(&self, key: CallKey, party: Party, b: &Behaviour) -> Option<u16> {
        match b.replaces {
            Replaces::Supported | Replaces::Ignored => None,
            Replaces::Strict => {
                let replaces = self.calls.get(key)?.replaces.as_ref()?;
                let has = self.replaced_leg(&replaces.callid, party).is_some();
                (!has).then_some(481)
            }
        }
    }

    /// The end of the call `callid` that this phone has up.
    fn replaced_leg(&self, callid: &str, party: Party) -> Option<(CallKey, Side)> {
        self.calls.all_by_callid(callid).iter().find_map(|key| {
            let call = self.calls.get(*key)?;
            [Side::Caller, Side::Callee]
                .into_iter()
                .find(|s| call.end(*s).party == party && call.end(*s).leg == Leg::Up)
                .map(|side| (*key, side))
        })
    }

    /// The proxy challenges this INVITE after creating a dialog: that dialog dies, and the phone
    /// sends the same INVITE again.
    fn challenges(&mut self, key: CallKey) -> bool {
        let challenged = self.calls.get(key).is_some_and(|c| {
            c.caller.cseq == 1
                && self.party_phone(c.caller.party).is_some_and(|p| p.behaviour.challenged)
        });
        if !challenged {
            return false;
        }
        self.later(self.hop() + self.hop(), Task::InviteAgain(key));
        if self.reference() {
            // Challenges before it creates a dialog: the first INVITE leaves no trace.
            if let Some(call) = self.calls.get_mut(key) {
                call.setup = Setup::Failed;
                call.caller.leg = Leg::Over;
            }
            return true;
        }
        let id = self.dialog_number();
        self.calls.create_dialog(key, id);
        self.watch_osid(key);
        let Some(call) = self.calls.get(key) else { return true };
        let ruri = call.ruri.clone();
        self.start_watched(key, bare(&ruri));
        if let Some(call) = self.calls.get_mut(key) {
            call.setup = Setup::Failed;
            call.caller.leg = Leg::Over;
        }
        self.set_state(key, State::Deleted);
        self.finish_watched(key, Fate::Failed(408), &ruri);
        true
    }

    pub(super) fn invite_again(&mut self, key: CallKey) {
        let Some(first) = self.calls.get_mut(key) else { return };
        let referral = first.referral.take();
        let invite = Invite {
            callid: first.callid.to_string(),
            from_uri: first.from_uri.to_string(),
            to_uri: first.to_uri.to_string(),
            ruri: first.ruri.clone(),
            caller: first.caller.party,
            caller_tag: first.caller.tag.clone(),
            caller_contact: first.caller.contact.clone(),
            cseq: first.caller.cseq + 1,
            sdp: first.caller.sdp.as_deref().map(str::to_owned),
            uac: None,
            op: None,
            referral,
            referred_by: first.referred_by.clone(),
            replaces: first.replaces.clone(),
        };
        self.invite(invite);
        self.calls.drop_if_over(key);
    }

    /// The low half of a dialog id: 24 to 31 bits, as recorded ones.
    fn dialog_number(&mut self) -> u32 {
        u32::try_from(self.random.below(0x7fff_ffff)).unwrap_or_default()
    }

    /// The script refuses before there is a dialog.
    fn refuse_stateless(&mut self, key: CallKey, code: u16, text: &str) {
        if let Some(call) = self.calls.get_mut(key) {
            call.setup = Setup::Failed;
            call.caller.leg = Leg::Over;
        }
        self.uac_refused(key, code, text, true);
        self.tell_referrer(key, code, text, true);
        self.calls.drop_if_over(key);
    }

    /// The script refuses: no answer of any phone, so callops calls it 408.
    fn refuse_in_script(&mut self, key: CallKey, code: u16, text: &str) {
        if let Some(call) = self.calls.get_mut(key) {
            call.setup = Setup::Failed;
            call.caller.leg = Leg::Over;
            // No phone, no to-tag: the events say null.
            call.callee.tag.clear();
        }
        self.set_state(key, State::Deleted);
        let ruri = self.calls.get(key).map(|c| c.ruri.clone()).unwrap_or_default();
        self.finish_watched(key, Fate::Failed(408), &ruri);
        self.uac_refused(key, code, text, true);
        self.tell_referrer(key, code, text, true);
    }

    pub(super) fn rings(&mut self, key: CallKey) {
        let Some(call) = self.calls.get_mut(key) else { return };
        match call.setup {
            Setup::Calling => call.setup = Setup::Ringing,
            Setup::Ringing | Setup::Cancelling | Setup::Answered | Setup::Failed => return,
        }
        self.reply_passes(key, 180);
        self.set_state(key, State::Early);
        self.later(self.config.fr_inv_timeout, Task::InviteTooLong(key));
        self.tell_referrer(key, 180, reason(180), false);
    }

    pub(super) fn phone_answers(&mut self, key: CallKey, code: u16) {
        let Some(call) = self.calls.get(key) else { return };
        match call.setup {
            Setup::Calling | Setup::Ringing => self.final_answer(key, code),
            Setup::Cancelling | Setup::Answered | Setup::Failed => {}
        }
    }

    /// The callee's final answer passes the proxy.
    fn final_answer(&mut self, key: CallKey, code: u16) {
        if (200..300).contains(&code) { self.answered(key) } else { self.refused(key, code) }
    }

    fn answered(&mut self, key: CallKey) {
        let Some(call) = self.calls.get(key) else { return };
        let party = call.callee.party;
        let offer = call.caller.sdp.as_deref().map(Direction::of).unwrap_or_default();
        let Some(phone) = self.party_phone(party) else { return };
        let answer = phone.behaviour.direction.unwrap_or_else(|| offer.answered());
        let (contact, sdp) = (phone.contact.clone(), phone.sdp(answer));
        let hang_up = phone.behaviour.hang_up_ms;
        let Some(call) = self.calls.get_mut(key) else { return };
        call.setup = Setup::Answered;
        call.callee.contact = contact;
        call.callee.sdp = Some(sdp.into());
        call.callee.leg = Leg::Up;
        call.caller.leg = Leg::Up;
        call.caller.offered = answer;
        let (destination, by_uac) = (call.ruri.clone(), call.uac.is_some());
        let replaces = call.replaces.clone();
        self.saw_up(key);
        self.reply_passes(key, 200);
        self.set_state(key, State::Answered);
        self.finish_watched(key, Fate::Answered, &destination);
        let hop = self.hop();
        self.later(if by_uac { hop } else { hop + hop }, Task::Ack(key));
        self.uac_answered(key);
        self.tell_referrer(key, 200, reason(200), true);
        if let Some(after) = hang_up {
            self.later(Duration::from_millis(after), Task::HangUp(key, Side::Callee));
        }
        if let Some(replaces) = replaces {
            let supports =
                self.party_phone(party).is_some_and(|p| p.behaviour.replaces != Replaces::Ignored);
            if supports && let Some((old, side)) = self.replaced_leg(&replaces.callid, party) {
                self.later(Duration::from_millis(50), Task::HangUp(old, side));
            }
        }
    }

    pub(super) fn acked(&mut self, key: CallKey) {
        if self.calls.get(key).and_then(Call::state) == Some(State::Answered) {
            self.set_state(key, State::Confirmed);
        }
    }

    /// A phone refused, or gave up after a CANCEL.
    fn refused(&mut self, key: CallKey, code: u16) {
        let Some(call) = self.calls.get_mut(key) else { return };
        call.setup = Setup::Failed;
        call.callee.leg = Leg::Over;
        call.caller.leg = Leg::Over;
        let destination = call.ruri.clone();
        self.invite_failed(key, code);
        self.set_state(key, State::Deleted);
        self.finish_watched(key, Fate::Failed(code), &destination);
        self.uac_refused(key, code, reason(code), false);
        self.tell_referrer(key, code, reason(code), true);
        self.calls.drop_if_over(key);
    }

    pub(super) fn invite_silent(&mut self, key: CallKey) {
        let Some(call) = self.calls.get(key) else { return };
        let nobody_rang = call.dialog.as_ref().is_none_or(|d| d.state == State::Unconfirmed);
        match call.setup {
            Setup::Calling => self.timed_out(key, false),
            Setup::Cancelling if nobody_rang => self.timed_out(key, false),
            Setup::Ringing | Setup::Cancelling | Setup::Answered | Setup::Failed => {}
        }
    }

    pub(super) fn invite_too_long(&mut self, key: CallKey) {
        let Some(call) = self.calls.get(key) else { return };
        match call.setup {
            Setup::Ringing => self.timed_out(key, true),
            Setup::Calling | Setup::Cancelling | Setup::Answered | Setup::Failed => {}
        }
    }

    fn timed_out(&mut self, key: CallKey, rang: bool) {
        let reference = self.reference();
        let Some(call) = self.calls.get_mut(key) else { return };
        call.setup = Setup::Failed;
        call.callee.leg = Leg::Over;
        call.caller.leg = Leg::Over;
        if !rang {
            call.callee.tag.clear();
        }
        let destination = call.ruri.clone();
        self.invite_failed(key, 408);
        self.set_state(key, State::Deleted);
        self.finish_watched(key, Fate::Failed(408), &destination);
        if reference {
            // The script's own branch is the one that times out; it answers us.
            self.uac_refused(key, 408, reason(408), true);
        } else {
            self.uac_timed_out(key);
        }
        self.tell_referrer(key, 408, reason(408), true);
        self.calls.drop_if_over(key);
    }

    /// A CANCEL sets out: by `t_uac_cancel`, by `dlg_end_dlg` on a ringing call, by the caller's
    /// phone.
    pub(super) fn cancel(&mut self, key: CallKey) {
        let Some(call) = self.calls.get_mut(key) else { return };
        match call.setup {
            Setup::Calling | Setup::Ringing => call.setup = Setup::Cancelling,
            Setup::Cancelling | Setup::Answered | Setup::Failed => return,
        }
        self.later(self.hop() + self.hop(), Task::Cancelled(key));
    }

    pub(super) fn cancelled(&mut self, key: CallKey) {
        let Some(call) = self.calls.get(key) else { return };
        let reaction = self
            .party_phone(call.callee.party)
            .map(|p| (p.behaviour.ring || p.behaviour.answer != 0, p.behaviour.answers_cancelled));
        match (call.setup, reaction) {
            (Setup::Cancelling, Some((_, true))) => self.final_answer(key, 200),
            (Setup::Cancelling, Some((true, false))) => self.refused(key, 487),
            // A phone that is off does not answer a CANCEL either: the INVITE times out.
            (Setup::Cancelling, Some((false, false)) | None) => {}
            (Setup::Calling | Setup::Ringing | Setup::Answered | Setup::Failed, _) => {}
        }
    }

    /// A phone says BYE.
    pub(super) fn phone_hangs_up(&mut self, key: CallKey, side: Side) {
        let up = self.is_up();
        let Some(call) = self.calls.get_mut(key) else { return };
        if call.end(side).leg != Leg::Up {
            return;
        }
        call.end_mut(side).leg = Leg::Over;
        if !up {
            // The BYE is lost with the proxy; the other phone keeps its end.
            return self.calls.drop_if_over(key);
        }
        let live = call.state().is_some_and(|s| s != State::Deleted);
        if live {
            self.end_call(key, EndedBy::Phone(side));
        } else {
            self.later(self.hop(), Task::Bye(key, side.other()));
        }
    }

    /// The proxy ends or sees the end of an answered call.
    pub(super) fn end_call(&mut self, key: CallKey, by: EndedBy) {
        self.saw_end(key, by);
        self.set_state(key, State::Deleted);
        self.bye_passes(key, by);
        let hop = self.hop();
        match by {
            EndedBy::Mi | EndedBy::Timeout => {
                self.later(hop, Task::Bye(key, Side::Caller));
                self.later(hop, Task::Bye(key, Side::Callee));
            }
            EndedBy::Phone(side) => self.later(hop, Task::Bye(key, side.other())),
        }
    }

    pub(super) fn bye_arrives(&mut self, key: CallKey, side: Side) {
        if let Some(call) = self.calls.get_mut(key) {
            call.end_mut(side).leg = Leg::Over;
        }
        self.calls.drop_if_over(key);
    }

    pub(super) fn dialog_expires(&mut self, key: CallKey) {
        match self.calls.get(key).and_then(Call::state) {
            Some(State::Answered | State::Confirmed) => self.end_call(key, EndedBy::Timeout),
            Some(State::Unconfirmed | State::Early | State::Deleted) | None => {}
        }
    }

    /// `E_CALLPLANE bye`: phones' BYEs pass the reference script; the proxy's own BYEs only if
    /// they come back to it, at the end that is callplane itself.
    fn bye_passes(&mut self, key: CallKey, by: EndedBy) {
        let Some(call) = self.calls.get(key) else { return };
        let from = match by {
            EndedBy::Phone(side) => side,
            EndedBy::Mi | EndedBy::Timeout if call.uac.is_some() => Side::Callee,
            EndedBy::Mi | EndedBy::Timeout => return,
        };
        self.report(key, from, &Callplane::Bye { reason: by.reason() });
    }

    /// Reference script: an event about this call, as a request from `from` to the other side.
    pub(super) fn report(&mut self, key: CallKey, from: Side, what: &Callplane<'_>) {
        if !self.reference() {
            return;
        }
        let Some(call) = self.calls.get(key) else { return };
        let op = call.dialog.as_ref().and_then(|d| d.text_value("cp_op")).unwrap_or_default();
        let ruri = match call.end(from.other()).contact.as_str() {
            "" => call.ruri.as_str(),
            contact => contact,
        };
        let event = events::callplane(what, &call.callid, op, call.uri(from), ruri);
        self.raise(event);
    }

    /// A reply to a referred INVITE passes the reference script, which tells 180 to 299.
    fn reply_passes(&mut self, key: CallKey, code: u16) {
        if self.was_referred_by_token(key) && (180..300).contains(&code) {
            self.report(key, Side::Caller, &Callplane::Reply { code });
        }
    }

    /// The failure route of a referred INVITE.
    fn invite_failed(&mut self, key: CallKey, code: u16) {
        if self.was_referred_by_token(key) {
            let ruri = self.requested_uri(key);
            self.report_at(key, &Callplane::Failed { code }, &ruri);
        }
    }

    fn script_failed(&mut self, key: CallKey, code: u16) {
        if self.was_referred_by_token(key) {
            let ruri = sip_text::without_parameter(&self.requested_uri(key), "cpt");
            self.report_at(key, &Callplane::Failed { code }, &ruri);
        }
    }

    /// Reference script: an event about this call's INVITE with this request URI.
    pub(super) fn report_at(&mut self, key: CallKey, what: &Callplane<'_>, ruri: &str) {
        let Some(call) = self.calls.get(key) else { return };
        let op = call.dialog.as_ref().and_then(|d| d.text_value("cp_op")).unwrap_or_default();
        let event = events::callplane(what, &call.callid, op, &call.from_uri, ruri);
        self.raise(event);
    }

    /// Tells the phone that referred this call, if a REFER did, how it goes.
    fn tell_referrer(&mut self, key: CallKey, code: u16, text: &str, last: bool) {
        let Some(call) = self.calls.get_mut(key) else { return };
        let Some(referral) = call.referral.as_mut() else { return };
        if referral.told {
            return;
        }
        referral.told = last;
        let (old, side, caller) = (referral.old, referral.side, call.caller.party);
        let wanted = match referral.notify {
            Notify::All => true,
            Notify::Final => last,
            Notify::None => false,
        };
        let body = referral.notify_body.clone();
        let bye = self.party_phone(caller).is_some_and(|p| p.behaviour.bye_after_refer);
        let hop = self.hop();
        if wanted {
            let body = body.unwrap_or_else(|| format!("SIP/2.0 {code} {text}\r\n"));
            self.later(hop + hop, Task::Notify(old, side, body));
        }
        if last && bye && (200..300).contains(&code) {
            self.later(hop + Duration::from_millis(100), Task::HangUp(old, side));
        }
    }

    pub(super) fn set_value(&mut self, key: CallKey, name: &str, value: serde_json::Value) {
        if let Some(dialog) = self.calls.get_mut(key).and_then(|c| c.dialog.as_mut()) {
            dialog.set(name, value);
        }
    }

    /// The request URI as the phone sent it.
    fn requested_uri(&self, key: CallKey) -> String {
        self.calls.get(key).map(|c| c.requested.clone()).unwrap_or_default()
    }

    fn was_referred_by_token(&self, key: CallKey) -> bool {
        self.calls.get(key).is_some_and(|c| c.by_token)
    }

    pub(super) fn watched_of(&self, key: CallKey) -> Vec<Watched> {
        self.calls.get(key).map(|c| c.watched.clone()).unwrap_or_default()
    }
}
