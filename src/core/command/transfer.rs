//! `CallBlindTransfer` and `CallAttendedTransfer`: send one party of a call elsewhere.
//!
//! A failed transfer leaves the call up; a successful one leaves only the new call. The two
//! differ in whom the party is to call, and in what ends afterwards.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::absence::{Finding, Search};
use super::closing::Closing;
use super::life::Life;
use super::look::{look_at, seen};
use super::referral::{Abandoned, Progress, Referral, Why};
use super::turn::Turn;
use super::words::{
    REFER_IGNORED, failure, no_answer, not_sent, refer_refused, refused_unsaid, restarted,
    stack_refused, target_failed, with_sip,
};
use super::{Claim, Ending, Fact, Taking};
use crate::core::act::{Act, DialogState, ReferTo, Reply, Sighting};
use crate::core::failure::{Code, Failure, SipStatus, Up};
use crate::core::ids::{CallId, OpId};
use crate::core::notice::{Data, Event};
use crate::core::request::Leg;
use crate::core::sip_address::SipAddress;
use crate::core::stack_event::{StackEvent, Watch};
use crate::core::time::StoreTime;

/// How long the target's phone has to end the replaced call itself (fact F16).
const REPLACED_WITHIN: Duration = Duration::from_secs(2);

/// A running transfer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    call: CallId,
    /// Its dialogs.
    life: Life,
    leg: Leg,
    to: ReferTo,
    kind: Kind,
    /// The REFER was sent anew: a look found a call that the stack had not found at first.
    anew: bool,
    phase: Phase,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    Blind { destination: SipAddress },
    Attended { consult: CallId, consult_life: Life },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    Referring(Referral),
    /// A call that it needs was not found: looks decide whether it is really not there.
    Missing(Search),
    /// The target answered; its phone may end the replaced call itself.
    Replacing {
        until: StoreTime,
    },
    /// It failed. `up`: whether the call is still up, once a look told. `voiding`: the token of a
    /// REFER that may be followed late is made void.
    Checking {
        ending: Box<Ending>,
        up: Option<Up>,
        voiding: Option<Voiding>,
    },
    Closing(Closing),
}

/// A token that is being made void, and the operation that does it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Voiding {
    op: OpId,
    token: OpId,
}

impl Transfer {
    /// Begins a blind transfer. Also says how long it may take at most.
    pub(crate) fn blind(
        call: &CallId,
        leg: Leg,
        destination: &SipAddress,
        turn: &mut Turn<'_>,
    ) -> (Self, Duration) {
        let kind = Kind::Blind { destination: destination.clone() };
        Self::begin(call, leg, ReferTo::Address(destination.clone()), kind, turn)
    }

    /// Begins an attended transfer. Also says how long it may take at most.
    pub(crate) fn attended(
        call: &CallId,
        leg: Leg,
        consult: &CallId,
        consult_leg: Leg,
        turn: &mut Turn<'_>,
    ) -> (Self, Duration) {
        let kind = Kind::Attended { consult: consult.clone(), consult_life: Life::default() };
        let to = ReferTo::Replacing { call: consult.clone(), leg: consult_leg };
        Self::begin(call, leg, to, kind, turn)
    }

    fn begin(
        call: &CallId,
        leg: Leg,
        to: ReferTo,
        kind: Kind,
        turn: &mut Turn<'_>,
    ) -> (Self, Duration) {
        let times = turn.plan().times;
        let referral = Referral::begin(call, leg, to.clone(), times.ring, Life::default(), turn);
        let longest = Referral::asking(turn)
            + times.absent()
            + Referral::longest(turn, times.ring)
            + REPLACED_WITHIN
            + times.within(times.look())
            + times.follow
            + times.ending();
        let call = call.clone();
        let phase = Phase::Referring(referral);
        (Self { call, life: Life::default(), leg, to, kind, anew: false, phase }, longest)
    }

    /// Takes a fact.
    pub(crate) fn apply(&mut self, fact: &Fact<'_>, turn: &mut Turn<'_>) {
        if let Fact::Event(StackEvent::Restarted(_)) = fact
            && !turn.plan().capabilities.persists_dialogs
            && !matches!(self.phase, Phase::Closing(_))
        {
            turn.end(restarted());
            return;
        }
        self.note_lives(fact);
        match &mut self.phase {
            Phase::Referring(_) => self.referring(fact, turn),
            Phase::Missing { .. } => self.missing(fact, turn),
            Phase::Replacing { .. } => self.replacing(fact, turn),
            Phase::Checking { .. } => self.checking(fact, turn),
            Phase::Closing(closing) => {
                closing.note_kept_call(&self.life);
                closing.apply(fact, turn);
            }
        }
    }

    /// Remembers whether a call is over, in whatever phase that is seen.
    fn note_lives(&mut self, fact: &Fact<'_>) {
        if let Some((dialog, state)) = fact.shows(&self.call) {
            self.life.see(dialog, state);
        }
        match &mut self.kind {
            Kind::Attended { consult, consult_life } => {
                if let Some((dialog, state)) = fact.shows(consult) {
                    consult_life.see(dialog, state);
                }
            }
            Kind::Blind { .. } => {}
        }
    }

    /// Whether the replaced call is over.
    fn replaced(&self) -> bool {
        match &self.kind {
            Kind::Attended { consult_life, .. } => consult_life.is_over(),
            Kind::Blind { .. } => false,
        }
    }

    fn referring(&mut self, fact: &Fact<'_>, turn: &mut Turn<'_>) {
        let Phase::Referring(referral) = &mut self.phase else { return };
        if let Fact::GiveUp { overtaken } = fact {
            let seen = referral.accepted() || self.life.is_alive();
            let up = match (self.life.is_over(), seen && !overtaken) {
                (true, _) => Up::No,
                (false, true) => Up::Yes,
                // Nothing was seen of it, or a CallEnd ends it.
                (false, false) => Up::Unknown,
            };
            let abandoned = referral.abandon();
            let new = referral.ours();
            let legs = new.clone().into_iter().collect();
            let mut closing = Closing::begin(legs, Ending::cancelled(up), turn);
            if new.is_none() {
                closing = closing.and_stray(abandoned, turn);
            }
            closing.finish_if_done(turn);
            self.phase = Phase::Closing(closing);
            return;
        }
        let told = referral.apply(fact, turn);
        for progress in told {
            self.advance(progress, turn);
        }
    }

    fn advance(&mut self, progress: Progress, turn: &mut Turn<'_>) {
        let Phase::Referring(referral) = &self.phase else { return };
        let new = referral.new.clone();
        let gone = referral.call_gone();
        let data = Data {
            callid: new.as_ref().map(|new| new.call.clone()),
            destination: self.destination(new.as_ref().and_then(|new| new.destination.as_ref())),
            ..Data::default()
        };
        match progress {
            Progress::Accepted => {
                let data = Data { destination: self.destination(None), ..Data::default() };
                turn.tell(Event::Transferring, data);
            }
            Progress::Placed => turn.tell(Event::TransferStart, data),
            Progress::Pending(status) => {
                turn.tell(Event::TransferPending, Data { extra: Some(status), ..data });
            }
            Progress::Answered => {
                turn.tell(Event::TransferSuccessful, data);
                self.succeeded(new.is_none(), turn);
            }
            Progress::Failed(why) => {
                let abandoned = referral.abandon();
                let new = referral.ours();
                self.failed(why, gone, new, abandoned, turn);
            }
        }
    }

    /// What stands in `destination`: the looked-up contact once it is known.
    fn destination(&self, looked_up: Option<&Arc<str>>) -> Option<Arc<str>> {
        match (&self.kind, looked_up) {
            (_, Some(contact)) => Some(Arc::clone(contact)),
            (Kind::Blind { destination }, None) => Some(Arc::from(destination.as_str())),
            (Kind::Attended { .. }, None) => None,
        }
    }

    fn succeeded(&mut self, observed_by_notify: bool, turn: &mut Turn<'_>) {
        match &self.kind {
            Kind::Blind { .. } => {
                let mut ending = Ending::success();
                ending.remarks.observed_by_notify = observed_by_notify;
                self.close(self.old_call(), ending, turn);
            }
            Kind::Attended { .. } if self.replaced() => self.end_both(turn),
            Kind::Attended { .. } => {
                self.phase = Phase::Replacing { until: turn.later(REPLACED_WITHIN) };
            }
        }
    }

    /// The transferred call, unless it is over.
    fn old_call(&self) -> Vec<(CallId, Life)> {
        let call = (self.call.clone(), self.life.clone());
        if self.life.is_over() { Vec::new() } else { vec![call] }
    }

    fn replacing(&mut self, fact: &Fact<'_>, turn: &mut Turn<'_>) {
        let Phase::Replacing { until } = &self.phase else { return };
        let over = self.replaced();
        let waited = matches!(fact, Fact::Due) && *until <= turn.at();
        // Given up too late: the new call is up.
        let hurry = matches!(fact, Fact::GiveUp { .. });
        if over || waited || hurry {
            self.end_both(turn);
        }
    }

    /// The new call is up: the transferred call ends, and the replaced one if its phone let it be.
    fn end_both(&mut self, turn: &mut Turn<'_>) {
        let mut legs = self.old_call();
        let mut ending = Ending::success();
        if let Kind::Attended { consult, consult_life } = &self.kind {
            let replaced = self.replaced();
            ending.remarks.replaced = Some(replaced);
            if !replaced {
                legs.push((consult.clone(), consult_life.clone()));
            }
        }
        self.close(legs, ending, turn);
    }

    fn failed(
        &mut self,
        why: Why,
        gone: bool,
        new: Option<(CallId, Life)>,
        abandoned: Abandoned,
        turn: &mut Turn<'_>,
    ) {
        let up = match (self.life.is_over(), gone) {
            (true, _) => Up::No,
            // One list proves nothing by itself.
            (false, true) => Up::Unknown,
            (false, false) => Up::Yes,
        };
        let may_come = why.may_come() && new.is_none();
        let tokens = turn.plan().capabilities.referral_tokens;
        let left = match &why {
            Why::NoAnswer { ended: false } => new,
            Why::Refused(_)
            | Why::RefusedUnsaid
            | Why::StackRefused { .. }
            | Why::Missing { .. }
            | Why::NotSent(_)
            | Why::Ignored
            | Why::Target(_)
            | Why::NoAnswer { ended: true }
            | Why::Lost => None,
        };
        let ended = |up| failure(Code::CallEnded, "call ended", up);
        let mut ending = match why {
            Why::Missing { call, sighting } => {
                self.prove_missing(&call, &sighting, turn);
                return;
            }
            Why::Refused(_) | Why::RefusedUnsaid | Why::StackRefused { .. } | Why::Ignored
                if gone =>
            {
                // Without tokens nothing names the call of a phone that dials when its old call is
                // over.
                let unnamed = may_come && !tokens;
                Ending::failed(ended(if unnamed { Up::Unknown } else { Up::No }))
            }
            Why::Refused(status) => Ending::failed(refer_refused(&status, up)),
            Why::RefusedUnsaid => Ending::failed(refused_unsaid(up)),
            Why::StackRefused { code, reason } => Ending::failed(stack_refused(code, &reason, up)),
            Why::NotSent(why) => {
                let (code, text) = not_sent(why);
                turn.end(Ending::not_started(failure(code, text, Up::Unknown)));
                return;
            }
            Why::Ignored => Ending::failed(failure(Code::ReferIgnored, REFER_IGNORED, up)),
            Why::Target(status) => Ending::failed(self.target_failed(&status, up)),
            Why::NoAnswer { .. } => Ending::failed(no_answer("target", up)),
            Why::Lost => {
                let lost = failure(Code::ReplyLost, "transfer not confirmed", Up::Unknown);
                Ending::unknown(lost)
            }
        };
        ending.remarks.may_still_ring = may_come && !tokens;
        if let Some(new) = left {
            // It rang too long, and nobody has seen it end.
            self.close(vec![new], ending, turn);
        } else if self.life.is_over() && may_come && tokens {
            // That no call is up is true only once the token is void.
            let mut closing = Closing::begin(Vec::new(), ending, turn).and_stray(abandoned, turn);
            closing.finish_if_done(turn);
            self.phase = Phase::Closing(closing);
        } else if self.life.is_over() {
            turn.end(ending);
        } else {
            // A late INVITE is refused by the token, once that is void.
            let voiding = (may_come && tokens).then(|| {
                let token = abandoned.token;
                let act = Act::Revoke { token: token.clone() };
                Voiding { op: turn.open(act, turn.plan().times.reply), token }
            });
            self.check(ending, voiding, turn);
        }
    }

    /// Looks whether the call is still up, to tell it together with the failure.
    fn check(&mut self, ending: Ending, voiding: Option<Voiding>, turn: &mut Turn<'_>) {
        if self.life.is_over() {
            turn.end(ending.with_up(Up::No));
            return;
        }
        let look = turn.plan().times.look();
        turn.open(look_at(self.call.clone()), look);
        self.phase = Phase::Checking { ending: Box::new(ending), up: None, voiding };
    }

    fn target_failed(&self, status: &SipStatus, up: Up) -> Failure {
        match (&self.kind, status.code) {
            (Kind::Attended { .. }, 481) => {
                with_sip(Code::ConsultGone, &format!("target: {status}"), status.clone(), up)
            }
            (Kind::Attended { .. } | Kind::Blind { .. }, _) => target_failed(status, "target", up),
        }
    }

    /// Tells the failure together with whether the call is still up.
    fn checking(&mut self, fact: &Fact<'_>, turn: &mut Turn<'_>) {
        let Phase::Checking { ending, up, voiding } = &mut self.phase else { return };
        match fact {
            Fact::Event(StackEvent::Referral { token, .. })
                if voiding.as_ref().is_some_and(|voiding| voiding.token == *token) =>
            {
                // The party has called before its token was void.
                ending.remarks.may_still_ring = true;
            }
            Fact::Event(_) | Fact::GiveUp { .. } | Fact::Due => {}
            Fact::Reply(op, reply) => match &op.act {
                // A look at a call that was taken for the referred one may still be out.
                Act::Look { call, .. } if *call == self.call => {
                    *up = Some(seen(reply).map_or(Up::Unknown, |s| up_of(s, &mut self.life)));
                }
                Act::Revoke { .. } if voiding.as_ref().is_some_and(|known| known.op == op.id) => {
                    ending.remarks.may_still_ring |= !matches!(reply, Reply::Done(_));
                    *voiding = None;
                }
                Act::Look { .. }
                | Act::Revoke { .. }
                | Act::Invite { .. }
                | Act::CancelInvite { .. }
                | Act::Refer { .. }
                | Act::ReInvite { .. }
                | Act::StackHold { .. }
                | Act::Mark { .. }
                | Act::End { .. } => {}
            },
        }
        let up = if self.life.is_over() { Some(Up::No) } else { *up };
        let (Some(up), None) = (up, &voiding) else { return };
        let mut ending = (**ending).clone();
        if let Some(error) = &mut ending.error {
            // A REFER that cost the call: the proxy took its 481 or silence for the phone's end.
            let refused = matches!(error.code, Code::ReferRefused | Code::ReferTimeout);
            if up == Up::No && refused {
                error.code = Code::CallLost;
            }
        }
        turn.end(ending.with_up(up));
    }

    fn prove_missing(&mut self, call: &CallId, sighting: &Sighting, turn: &mut Turn<'_>) {
        self.phase = Phase::Missing(Search::begin(call));
        if self.life.is_over() && !self.consult_missing() {
            turn.end(Ending::failed(self.not_found(Up::No)));
        } else {
            self.weigh(sighting, turn);
        }
    }

    fn missing(&mut self, fact: &Fact<'_>, turn: &mut Turn<'_>) {
        let Phase::Missing(search) = &mut self.phase else { return };
        match fact {
            Fact::Reply(op, reply) if op.act == look_at(search.call().clone()) => match seen(reply)
            {
                Some(sighting) => self.weigh(sighting, turn),
                None => turn.end(Ending::failed(self.not_found(Up::Unknown))),
            },
            Fact::Due => search.look_if_due(turn),
            Fact::GiveUp { .. } => turn.end(Ending::cancelled(Up::Unknown)),
            Fact::Event(_) if self.life.is_over() && !self.consult_missing() => {
                turn.end(Ending::failed(self.not_found(Up::No)));
            }
            Fact::Reply(..) | Fact::Event(_) => {}
        }
    }

    fn weigh(&mut self, sighting: &Sighting, turn: &mut Turn<'_>) {
        let consult_missing = self.consult_missing();
        let life = match &self.kind {
            Kind::Attended { consult_life, .. } if consult_missing => consult_life,
            Kind::Attended { .. } | Kind::Blind { .. } => &self.life,
        };
        let Phase::Missing(search) = &mut self.phase else { return };
        let Some(finding) = search.weigh(sighting, false, life, turn) else { return };
        match finding {
            // Of the transferred call that says nothing.
            Finding::Absent if consult_missing => {
                let ending = Ending::failed(self.not_found(Up::Unknown));
                self.check(ending, None, turn);
            }
            Finding::Absent => turn.end(Ending::failed(self.not_found(Up::No))),
            // It is there after all, and nothing was sent yet: ask again, once.
            Finding::Present(dialog) if dialog.state == DialogState::Confirmed && !self.anew => {
                self.anew = true;
                let (to, ring, life) = (self.to.clone(), turn.plan().times.ring, self.life.clone());
                let referral = Referral::begin(&self.call, self.leg, to, ring, life, turn);
                self.phase = Phase::Referring(referral);
            }
            Finding::Present(_) => {
                let not_ready = failure(Code::CallNotReady, "410 Dialog not ready", Up::Yes);
                turn.end(Ending::failed(not_ready));
            }
            Finding::Lost | Finding::Unknowable => {
                turn.end(Ending::failed(self.not_found(Up::Unknown)));
            }
        }
    }

    /// Whether it is the call to be replaced that was not found.
    fn consult_missing(&self) -> bool {
        if let Phase::Missing(search) = &self.phase
            && let Kind::Attended { consult, .. } = &self.kind
        {
            return search.call() == consult;
        }
        false
    }

    fn not_found(&self, up: Up) -> Failure {
        let text = if self.consult_missing() {
            "404 Transfer dialog not found"
        } else {
            "404 Dialog not found"
        };
        Failure { code: Code::CallNotFound, text: Arc::from(text), sip: None, up }
    }

    fn close(&mut self, legs: Vec<(CallId, Life)>, ending: Ending, turn: &mut Turn<'_>) {
        let mut closing = Closing::begin(legs, ending, turn);
        closing.finish_if_done(turn);
        self.phase = Phase::Closing(closing);
    }

    /// When its phase runs out of time.
    pub(crate) fn due(&self) -> Option<StoreTime> {
        match &self.phase {
            Phase::Referring(referral) => referral.due(),
            Phase::Missing(search) => search.due(),
            Phase::Replacing { until } => Some(*until),
            Phase::Checking { .. } => None,
            Phase::Closing(closing) => closing.due(),
        }
    }

    /// The call, and the one that is to be replaced.
    pub(crate) fn claims(&self) -> Vec<(Claim, Taking)> {
        let mut claims = vec![(Claim::Call(self.call.clone()), Taking::Ask)];
        match &self.kind {
            Kind::Blind { .. } => {}
            Kind::Attended { consult, .. } => {
                claims.push((Claim::Call(consult.clone()), Taking::Ask));
            }
        }
        claims
    }

    /// The calls and the token that matter.
    pub(crate) fn watches(&self) -> Vec<Watch> {
        let mut watches = vec![Watch::Call(self.call.clone())];
        if let Kind::Attended { consult, .. } = &self.kind {
            watches.push(Watch::Call(consult.clone()));
        }
        match &self.phase {
            Phase::Referring(referral) => watches.extend(referral.watches()),
            Phase::Closing(closing) => watches.extend(closing.watches()),
            Phase::Missing { .. } | Phase::Replacing { .. } | Phase::Checking { .. } => {}
        }
        watches.sort();
        watches.dedup();
        watches
    }
}

/// Whether the call is up by what a look saw. A dead dialog may be found in front of the live one
/// (fact F4).
fn up_of(sighting: &Sighting, life: &mut Life) -> Up {
    match &sighting.call {
        Some(dialog) => {
            life.see(&dialog.id, dialog.state);
            if life.is_alive() { Up::Yes } else { Up::No }
        }
        // One list proves nothing by itself.
        None => Up::Unknown,
    }
}
