//! `CallStart`: ring the caller, then have the caller's phone call the callee.
//!
//! Phases: calling (our INVITE to the caller), confirming (waiting for state 4: no sleep),
//! referring (REFER and what becomes of it), closing (the setup leg ends, whatever happened).
//! A reply that is lost leads to looking, never to a second call.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::absence::{Finding, Search};
use super::closing::Closing;
use super::life::Life;
use super::look::{look_at, seen};
use super::referral::{Progress, Referral, Why};
use super::turn::Turn;
use super::words::{
    REFER_IGNORED, failure, no_answer, not_sent, refer_refused, refused_unsaid, restarted,
    stack_refused, target_failed, with_sip,
};
use super::{Claim, Ending, Fact, Taking};
use crate::core::act::{Act, DialogState, Facts, ReferTo, Refuser, Reply, Sent};
use crate::core::failure::{Code, Failure, Outcome, SipStatus, Up};
use crate::core::ids::{CallId, OpId};
use crate::core::notice::{Data, Event};
use crate::core::plan::Plan;
use crate::core::request::{Leg, StartRequest};
use crate::core::sip_address::SipAddress;
use crate::core::stack_event::{StackEvent, Watch};
use crate::core::time::StoreTime;

/// A running `CallStart`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    request: StartRequest,
    /// The Call-ID of the setup leg.
    setup: CallId,
    /// Its dialogs.
    life: Life,
    ring: Duration,
    phase: Phase,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    Calling(Calling),
    /// The phone answered; state 4 is awaited. `until`: then a look; none while it is under way.
    Confirming {
        until: Option<StoreTime>,
    },
    Referring(Referral),
    Closing(Closing),
}

/// Our INVITE is out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Calling {
    invite: OpId,
    /// When it was opened.
    opened: StoreTime,
    /// It was sent once more, under the same name.
    resent: bool,
    /// The stack restarted since, so its marks say nothing of what was sent before.
    marks_void: bool,
    /// When the caller's phone has rung long enough.
    ring_until: StoreTime,
    /// The caller's phone rings, and that was told.
    ringing: bool,
    /// State 4 was seen before the reply.
    confirmed: bool,
    step: CallingStep,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum CallingStep {
    /// Until the phone has rung long enough.
    Ringing { until: StoreTime },
    /// A dialog event told the end; the reply with the code is awaited.
    ReplyDue { until: StoreTime },
    /// It was given up.
    GivingUp { why: GivenUp, until: StoreTime, heard: Heard },
    /// The reply was lost: looks decide. `until`: when they have had time enough. `seen`: one of
    /// them saw it ring.
    Looking { search: Search, until: StoreTime, seen: bool },
}

/// What the stack said to the cancelling of an INVITE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Heard {
    /// Nothing yet.
    Nothing,
    /// It does so.
    Cancels,
    /// There is no such INVITE under way: its final answer was lost, or it never got there.
    NothingToCancel,
}

/// Why a ringing INVITE was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum GivenUp {
    RangOut,
    Cancelled,
}

impl Start {
    /// Rings the caller. Also says how long the command may take at most.
    pub(crate) fn begin(request: &StartRequest, turn: &mut Turn<'_>) -> (Self, Duration) {
        let plan = turn.plan();
        let times = plan.times;
        let ring = request.ring_timeout.unwrap_or(times.ring);
        let setup = CallId::of_setup(&plan.install, plan.partition, turn.now().nonce);
        let act = invite(request, &setup);
        let calling = ring + times.silence * 2;
        let invite = turn.open(act, calling);
        let ring_until = turn.later(ring);
        let calling_phase = Calling {
            invite,
            opened: turn.at(),
            resent: false,
            marks_void: false,
            ring_until,
            ringing: false,
            confirmed: false,
            step: CallingStep::Ringing { until: ring_until },
        };
        // The call, the looks when its reply is lost, state 4, and what follows.
        let longest = times.within(calling)
            + times.absent() * 2
            + times.silence
            + times.within(times.look())
            + Referral::longest(turn, ring)
            + times.follow
            + times.ending();
        let state = Self {
            request: request.clone(),
            setup,
            life: Life::default(),
            ring,
            phase: Phase::Calling(calling_phase),
        };
        (state, longest)
    }

    /// The Call-ID of the setup leg.
    pub(crate) fn setup(&self) -> &CallId {
        &self.setup
    }

    /// Takes a fact.
    pub(crate) fn apply(&mut self, fact: &Fact<'_>, turn: &mut Turn<'_>) {
        if let Fact::Event(StackEvent::Restarted(_)) = fact
            && !turn.plan().capabilities.persists_dialogs
            && !matches!(self.phase, Phase::Closing(_))
        {
            // The phones may talk on; nobody can tell any more.
            turn.end(restarted());
            return;
        }
        if let Some((dialog, state)) = fact.shows(&self.setup) {
            self.life.see(dialog, state);
        }
        match &mut self.phase {
            Phase::Calling(_) => self.calling(fact, turn),
            Phase::Confirming { .. } => self.confirming(fact, turn),
            Phase::Referring(_) => self.referring(fact, turn),
            Phase::Closing(closing) => closing.apply(fact, turn),
        }
    }

    fn calling(&mut self, fact: &Fact<'_>, turn: &mut Turn<'_>) {
        match fact {
            Fact::Reply(op, reply) => match &op.act {
                Act::Invite { .. } => self.invite_answered(reply, turn),
                Act::Look { .. } => self.looked_while_calling(reply, turn),
                Act::CancelInvite { .. } => self.cancel_answered(reply, turn),
                Act::Refer { .. }
                | Act::ReInvite { .. }
                | Act::StackHold { .. }
                | Act::Mark { .. }
                | Act::End { .. }
                | Act::Revoke { .. } => {}
            },
            Fact::Event(event) => self.happened_while_calling(event, turn),
            Fact::Due => self.due_while_calling(turn),
            Fact::GiveUp { .. } => self.give_up_calling(GivenUp::Cancelled, turn),
        }
    }

    fn invite_answered(&mut self, reply: &Reply, turn: &mut Turn<'_>) {
        let Phase::Calling(calling) = &mut self.phase else { return };
        let given_up = match &calling.step {
            CallingStep::GivingUp { why, .. } => Some(*why),
            CallingStep::Ringing { .. }
            | CallingStep::ReplyDue { .. }
            | CallingStep::Looking { .. } => None,
        };
        let (ringing, confirmed) = (calling.ringing, calling.confirmed);
        let looking = matches!(calling.step, CallingStep::Looking { .. });
        match (reply, given_up) {
            // Looks have begun already.
            (Reply::Silent, None) if looking => {}
            (Reply::Done(_) | Reply::Silent, Some(why)) => {
                // The 200 crossed our CANCEL, or nobody knows: ending is safe either way.
                self.close(self.setup_leg(), why.ending(), turn);
            }
            // The proxy has this operation's call already: an earlier send got there.
            (Reply::Done(Facts::Adopted), None) => self.look_for_the_call(turn),
            (Reply::Done(facts), None) => self.answered(facts, confirmed, turn),
            // Of a second send nothing follows for the first, and what was seen is there.
            (
                Reply::Refused { by: Refuser::Stack, .. }
                | Reply::Missing { .. }
                | Reply::NotSent(_),
                _,
            ) if calling.resent || self.life.is_alive() => self.look_or_close(given_up, turn),
            // A leg that was seen answered is not gone by that; somebody else refused.
            (Reply::Refused { by: Refuser::Phone, .. }, _) if self.life.is_answered() => {
                self.look_or_close(given_up, turn);
            }
            // A final answer of any kind is the end of a ringing that was given up (F17).
            (Reply::Refused { .. } | Reply::Missing { .. } | Reply::NotSent(_), Some(why)) => {
                turn.end(why.ending());
            }
            (Reply::Refused { by: Refuser::Phone, code, reason }, None) => {
                let status = SipStatus { code: *code, reason: Arc::clone(reason) };
                turn.end(Ending::failed(caller_refused(&status, ringing)));
            }
            (Reply::Refused { by: Refuser::Stack, code, reason }, None) => {
                turn.end(Ending::failed(stack_refused(*code, reason, Up::No)));
            }
            (Reply::Missing { .. }, None) => {
                let text = "failed to establish initial call";
                turn.end(Ending::failed(failure(Code::StackRefused, text, Up::No)));
            }
            (Reply::NotSent(why), None) => {
                let (code, text) = not_sent(*why);
                turn.end(Ending::not_started(failure(code, text, Up::No)));
            }
            (Reply::Silent, None) => self.look_for_the_call(turn),
        }
    }

    /// The reply does not tell what became of the leg.
    fn look_or_close(&mut self, given_up: Option<GivenUp>, turn: &mut Turn<'_>) {
        match given_up {
            Some(why) => self.close(self.setup_leg(), why.ending(), turn),
            None => self.look_for_the_call(turn),
        }
    }

    /// Nothing to cancel: a final answer is on its way, or it was lost. Then a look decides.
    fn cancel_answered(&mut self, reply: &Reply, turn: &Turn<'_>) {
        let soon = turn.later(turn.plan().times.reply);
        let Phase::Calling(calling) = &mut self.phase else { return };
        let CallingStep::GivingUp { until, heard, .. } = &mut calling.step else { return };
        match reply {
            Reply::Done(_) => *heard = Heard::Cancels,
            Reply::Refused { .. } | Reply::Missing { .. } => {
                *heard = Heard::NothingToCancel;
                *until = (*until).min(soon);
            }
            Reply::NotSent(_) | Reply::Silent => {}
        }
    }

    fn answered(&mut self, facts: &Facts, confirmed: bool, turn: &mut Turn<'_>) {
        let data = Data {
            callee: Some(text(&self.request.callee)),
            caller: Some(text(&self.request.caller)),
            ..Data::default()
        };
        turn.tell(Event::CallerAnswered, data);
        if let Facts::Answered { takes_refer: Some(false) } = facts {
            let failed =
                failure(Code::ReferUnsupported, "transfer refused: phone takes no REFER", Up::No);
            self.close(self.setup_leg(), Ending::failed(failed), turn);
            return;
        }
        if self.life.is_over() {
            turn.end(Ending::failed(hung_up(None)));
        } else if confirmed {
            self.refer(turn);
        } else {
            let until = Some(turn.later(turn.plan().times.silence));
            self.phase = Phase::Confirming { until };
        }
    }

    fn happened_while_calling(&mut self, event: &StackEvent, turn: &mut Turn<'_>) {
        let Phase::Calling(calling) = &mut self.phase else { return };
        let (call, state) = match event {
            StackEvent::Dialog { call, state, .. } => (call, state),
            StackEvent::Restarted(_) => {
                calling.marks_void = true;
                return;
            }
            StackEvent::Transfer { .. } | StackEvent::Referral { .. } | StackEvent::Hold { .. } => {
                return;
            }
        };
        if *call != self.setup {
            return;
        }
        let over = self.life.is_over();
        let soon = turn.later(turn.plan().times.reply);
        match state {
            DialogState::Unconfirmed | DialogState::Answered => {}
            DialogState::Early => {
                if !calling.ringing && self.request.ringing {
                    let data = Data {
                        callee: Some(text(&self.request.callee)),
                        caller: Some(text(&self.request.caller)),
                        ..Data::default()
                    };
                    turn.tell(Event::CallerRinging, data);
                }
                calling.ringing = true;
            }
            DialogState::Confirmed => {
                calling.confirmed = true;
                match &calling.step {
                    CallingStep::Ringing { .. } => {
                        calling.step = CallingStep::ReplyDue { until: soon };
                    }
                    CallingStep::ReplyDue { .. } | CallingStep::GivingUp { .. } => {}
                    CallingStep::Looking { .. } => {
                        self.answered(&Facts::Answered { takes_refer: None }, true, turn);
                    }
                }
            }
            // Another dialog of that Call-ID, long dead (F4).
            DialogState::Deleted if !over => {}
            DialogState::Deleted => match &calling.step {
                CallingStep::Ringing { .. } => {
                    calling.step = CallingStep::ReplyDue { until: soon };
                }
                CallingStep::ReplyDue { .. } => {}
                CallingStep::GivingUp { why, .. } => turn.end(why.ending()),
                CallingStep::Looking { .. } => {
                    turn.end(Ending::failed(not_established(Up::No)));
                }
            },
        }
    }

    fn due_while_calling(&mut self, turn: &mut Turn<'_>) {
        let at = turn.at();
        let Phase::Calling(calling) = &mut self.phase else { return };
        match &mut calling.step {
            CallingStep::Ringing { until } if *until <= at => {
                self.give_up_calling(GivenUp::RangOut, turn);
            }
            CallingStep::ReplyDue { until } if *until <= at => {
                // The reply was lost, the events were not.
                let over = self.life.is_over();
                if over && calling.confirmed {
                    turn.end(Ending::failed(hung_up(None)));
                } else if over {
                    turn.end(Ending::failed(not_established(Up::No)));
                } else {
                    self.answered(&Facts::Answered { takes_refer: None }, true, turn);
                }
            }
            CallingStep::GivingUp { why, until, heard } if *until <= at => {
                let ending = match (*why, *heard) {
                    // Its final answer was lost: it may be that of a phone that answered. The
                    // stack says OK also when there is nothing to cancel any more.
                    (GivenUp::RangOut, Heard::Cancels | Heard::NothingToCancel) => {
                        self.look_for_the_call(turn);
                        return;
                    }
                    // Who says nothing does not say that nobody answered.
                    (GivenUp::RangOut, Heard::Nothing) => {
                        let silent = failure(Code::ReplyLost, "stack unreachable", Up::No);
                        Ending::unknown(silent)
                    }
                    (
                        GivenUp::Cancelled,
                        Heard::Nothing | Heard::Cancels | Heard::NothingToCancel,
                    ) => why.ending(),
                };
                self.close(self.setup_leg(), ending, turn);
            }
            CallingStep::Looking { search, until, .. }
                if search.due().is_some_and(|then| then.min(*until) <= at) =>
            {
                if *until <= at {
                    self.give_up_calling(GivenUp::RangOut, turn);
                } else {
                    self.look_again(turn);
                }
            }
            CallingStep::Ringing { .. }
            | CallingStep::ReplyDue { .. }
            | CallingStep::GivingUp { .. }
            | CallingStep::Looking { .. } => {}
        }
    }

    fn give_up_calling(&mut self, why: GivenUp, turn: &mut Turn<'_>) {
        let times = turn.plan().times;
        let Phase::Calling(calling) = &mut self.phase else { return };
        match &calling.step {
            CallingStep::GivingUp { .. } => {}
            CallingStep::Looking { seen, .. } => {
                // Nobody knows whether it rings: ending is safe in every state.
                let ending = match (why, seen) {
                    (GivenUp::Cancelled, _) | (GivenUp::RangOut, true) => why.ending(),
                    (GivenUp::RangOut, false) => Ending::unknown(not_established(Up::No)),
                };
                self.close(self.setup_leg(), ending, turn);
            }
            CallingStep::ReplyDue { .. } if self.life.is_over() => turn.end(why.ending()),
            CallingStep::ReplyDue { .. } => {
                self.close(self.setup_leg(), why.ending(), turn);
            }
            CallingStep::Ringing { .. } => {
                let until = turn.later(times.silence);
                calling.step = CallingStep::GivingUp { why, until, heard: Heard::Nothing };
                turn.open(Act::CancelInvite { call: self.setup.clone() }, times.reply);
            }
        }
    }

    fn look_for_the_call(&mut self, turn: &mut Turn<'_>) {
        let Phase::Calling(calling) = &mut self.phase else { return };
        let until = calling.ring_until.max(turn.later(turn.plan().times.absent()));
        let search = Search::begin(&self.setup);
        calling.step = CallingStep::Looking { search, until, seen: false };
        self.look_again(turn);
    }

    fn look_again(&mut self, turn: &mut Turn<'_>) {
        let Phase::Calling(calling) = &mut self.phase else { return };
        let CallingStep::Looking { search, .. } = &mut calling.step else { return };
        search.looks();
        let (op, since) = (calling.invite.clone(), calling.opened);
        let sent = Some(Sent { op, since });
        let act = Act::Look { call: self.setup.clone(), referred_by: None, sent };
        turn.open(act, turn.plan().times.look());
    }

    fn looked_while_calling(&mut self, reply: &Reply, turn: &mut Turn<'_>) {
        let pace = turn.later(turn.plan().times.absence);
        let Phase::Calling(calling) = &mut self.phase else { return };
        let marks_void = calling.marks_void;
        let rung_out = turn.at() >= calling.ring_until;
        let early_enough = !calling.resent && !rung_out;
        let CallingStep::Looking { search, seen: rang, .. } = &mut calling.step else { return };
        let Some(sighting) = seen(reply) else {
            search.again(pace);
            return;
        };
        let never_sent = sighting.sent == Some(false) && !marks_void;
        if sighting.call.is_none()
            && never_sent
            && early_enough
            && turn.plan().capabilities.start_is_safe
        {
            self.resend(turn);
            return;
        }
        let over = self.life.is_over();
        let Some(finding) = search.weigh(sighting, true, &self.life, turn) else { return };
        match finding {
            Finding::Present(dialog) => match dialog.state {
                DialogState::Confirmed => {
                    self.answered(&Facts::Answered { takes_refer: None }, true, turn);
                }
                // It rings: events or the next look tell the rest, the ring time bounds it.
                DialogState::Unconfirmed | DialogState::Early if rung_out => {
                    *rang = true;
                    self.give_up_calling(GivenUp::RangOut, turn);
                }
                DialogState::Unconfirmed
                | DialogState::Early
                | DialogState::Answered
                | DialogState::Deleted => {
                    *rang = true;
                    search.again(pace);
                }
            },
            // A call that was not answered yet is in no memory that survives; its phone may ring on.
            Finding::Absent if marks_void && !over => turn.end(restarted()),
            Finding::Absent => {
                let failed = not_established(Up::No);
                // The proxy's own mark proves that nothing was sent.
                let known = over || never_sent;
                turn.end(if known { Ending::failed(failed) } else { Ending::unknown(failed) });
            }
            Finding::Lost => turn.end(restarted()),
            Finding::Unknowable => search.again(pace),
        }
    }

    /// The proxy's mark says that the INVITE never left it, the phone could still be ringing, and
    /// the proxy refuses the second INVITE of one operation: then a start is repeated. Later, or on a stock script, it
    /// is not: nobody wants a phone to ring that was given up, and a second call would be one.
    fn resend(&mut self, turn: &mut Turn<'_>) {
        let Phase::Calling(calling) = &mut self.phase else { return };
        calling.resent = true;
        calling.step = CallingStep::Ringing { until: calling.ring_until };
        let reply_by = calling.ring_until.after(turn.plan().times.silence * 2);
        turn.reopen(calling.invite.clone(), invite(&self.request, &self.setup), reply_by);
    }

    fn confirming(&mut self, fact: &Fact<'_>, turn: &mut Turn<'_>) {
        match fact {
            Fact::Event(StackEvent::Dialog { call, state, .. }) if *call == self.setup => {
                match state {
                    DialogState::Confirmed => self.refer(turn),
                    DialogState::Deleted if self.life.is_over() => {
                        turn.end(Ending::failed(hung_up(None)));
                    }
                    DialogState::Deleted
                    | DialogState::Unconfirmed
                    | DialogState::Early
                    | DialogState::Answered => {}
                }
            }
            Fact::Event(StackEvent::Restarted(_)) => self.look_for_state_4(turn),
            Fact::Event(_) => {}
            Fact::Reply(op, reply) => {
                if !matches!(op.act, Act::Look { .. }) {
                    return;
                }
                let state = seen(reply).and_then(|s| s.call.as_ref()).map(|dialog| dialog.state);
                match state {
                    Some(DialogState::Confirmed) => self.refer(turn),
                    Some(DialogState::Deleted) if self.life.is_over() => {
                        turn.end(Ending::failed(hung_up(None)));
                    }
                    Some(
                        DialogState::Unconfirmed
                        | DialogState::Early
                        | DialogState::Answered
                        | DialogState::Deleted,
                    )
                    | None => {
                        let failed = Ending::failed(not_established(Up::No));
                        self.close(self.setup_leg(), failed, turn);
                    }
                }
            }
            Fact::Due => {
                if matches!(self.phase, Phase::Confirming { until: Some(until) } if until <= turn.at())
                {
                    self.look_for_state_4(turn);
                }
            }
            Fact::GiveUp { .. } => {
                self.close(self.setup_leg(), Ending::cancelled(Up::No), turn);
            }
        }
    }

    fn look_for_state_4(&mut self, turn: &mut Turn<'_>) {
        self.phase = Phase::Confirming { until: None };
        turn.open(look_at(self.setup.clone()), turn.plan().times.look());
    }

    fn refer(&mut self, turn: &mut Turn<'_>) {
        let data = Data {
            caller: Some(text(&self.request.caller)),
            destination: Some(text(&self.request.callee)),
            ..Data::default()
        };
        turn.tell(Event::Transferring, data);
        // Our INVITE made the caller's phone the dialog's callee.
        let to = ReferTo::Address(self.request.callee.clone());
        let life = self.life.clone();
        let referral = Referral::begin(&self.setup, Leg::Callee, to, self.ring, life, turn);
        self.phase = Phase::Referring(referral);
    }

    fn referring(&mut self, fact: &Fact<'_>, turn: &mut Turn<'_>) {
        let Phase::Referring(referral) = &mut self.phase else { return };
        if matches!(fact, Fact::GiveUp { .. }) {
            let abandoned = referral.abandon();
            let new = referral.ours();
            let legs = self.setup_leg().into_iter().chain(new.clone()).collect();
            let mut closing = Closing::begin(legs, Ending::cancelled(Up::No), turn);
            if new.is_none() {
                closing = closing.and_stray(abandoned, turn);
            }
            self.phase = Phase::Closing(closing);
            self.finish_closing(turn);
            return;
        }
        let told = referral.apply(fact, turn);
        for progress in told {
            self.advance(progress, turn);
        }
    }

    fn advance(&mut self, progress: Progress, turn: &mut Turn<'_>) {
        let Phase::Referring(referral) = &self.phase else { return };
        let new_call = referral.new.as_ref().map(|new| new.call.clone());
        let call_gone = referral.call_gone();
        let data = Data {
            callee: Some(text(&self.request.callee)),
            caller: Some(text(&self.request.caller)),
            callid: new_call.clone(),
            ..Data::default()
        };
        match progress {
            Progress::Accepted => {}
            Progress::Placed => turn.tell(Event::TransferStart, data),
            Progress::Pending(status) => {
                turn.tell(Event::TransferPending, Data { extra: Some(status), ..data });
            }
            Progress::Answered => {
                turn.tell(Event::CalleeAnswered, data);
                let mut ending = Ending::success();
                ending.remarks.observed_by_notify = new_call.is_none();
                self.close(self.setup_leg(), ending, turn);
            }
            Progress::Failed(why) => {
                let mut legs = self.setup_leg();
                let mut ending = start_failed(&why, call_gone, turn.plan());
                let ours = referral.ours();
                let abandoned = referral.abandon();
                let may_come = why.may_come() && ours.is_none();
                if matches!(why, Why::NoAnswer { ended: false } | Why::Lost) {
                    legs.extend(ours);
                }
                let tokens = turn.plan().capabilities.referral_tokens;
                ending.remarks.may_still_ring = may_come && !tokens;
                let mut closing = Closing::begin(legs, ending, turn);
                if may_come && tokens {
                    // A late INVITE is refused by the token.
                    closing = closing.and_stray(abandoned, turn);
                }
                self.phase = Phase::Closing(closing);
                self.finish_closing(turn);
            }
        }
    }

    /// The setup leg, unless it is over.
    fn setup_leg(&self) -> Vec<(CallId, Life)> {
        let leg = (self.setup.clone(), self.life.clone());
        if self.life.is_over() { Vec::new() } else { vec![leg] }
    }

    fn close(&mut self, legs: Vec<(CallId, Life)>, ending: Ending, turn: &mut Turn<'_>) {
        self.phase = Phase::Closing(Closing::begin(legs, ending, turn));
        self.finish_closing(turn);
    }

    fn finish_closing(&mut self, turn: &mut Turn<'_>) {
        if let Phase::Closing(closing) = &mut self.phase {
            closing.finish_if_done(turn);
        }
    }

    /// Whether this ending leaves, or may leave, the setup leg up.
    pub(crate) fn leaves_setup_up(&self, ending: &Ending) -> bool {
        match &self.phase {
            Phase::Closing(closing) => closing.leaves_up(&self.setup),
            Phase::Calling(_) | Phase::Confirming { .. } | Phase::Referring(_) => {
                matches!(ending.outcome, Outcome::Unknown { .. })
            }
        }
    }

    /// When its phase runs out of time.
    pub(crate) fn due(&self) -> Option<StoreTime> {
        match &self.phase {
            Phase::Calling(calling) => Some(match &calling.step {
                CallingStep::Ringing { until }
                | CallingStep::ReplyDue { until }
                | CallingStep::GivingUp { until, .. } => *until,
                CallingStep::Looking { search, until, .. } => {
                    return search.due().map(|at| at.min(*until));
                }
            }),
            Phase::Confirming { until } => *until,
            Phase::Referring(referral) => referral.due(),
            Phase::Closing(closing) => closing.due(),
        }
    }

    /// The setup leg (a `CallEnd` of it ends this command), and the caller where that is wanted.
    pub(crate) fn claims(&self, plan: &Plan) -> Vec<(Claim, Taking)> {
        let setup = (Claim::Call(self.setup.clone()), Taking::Ask);
        if !plan.one_start_per_caller {
            return vec![setup];
        }
        let caller = (Claim::Caller(self.request.caller.normal()), Taking::Ask);
        vec![setup, caller]
    }

    /// The setup leg, and what the referral needs.
    pub(crate) fn watches(&self) -> Vec<Watch> {
        let mut watches = vec![Watch::Call(self.setup.clone())];
        match &self.phase {
            Phase::Calling(_) | Phase::Confirming { .. } => {}
            Phase::Referring(referral) => watches.extend(referral.watches()),
            Phase::Closing(closing) => watches.extend(closing.watches()),
        }
        watches.sort();
        watches.dedup();
        watches
    }
}

impl GivenUp {
    fn ending(self) -> Ending {
        match self {
            Self::Cancelled => Ending::cancelled(Up::No),
            Self::RangOut => {
                let status = SipStatus::timeout();
                let text = format!("failed to establish initial call: {status}");
                Ending::failed(with_sip(Code::CallerNoAnswer, &text, status, Up::No))
            }
        }
    }
}

fn invite(request: &StartRequest, setup: &CallId) -> Act {
    Act::Invite {
        call: setup.clone(),
        caller: request.caller.clone(),
        callee: request.callee.clone(),
        display: request.display.clone(),
        auto_answer: request.auto_answer,
    }
}

fn text(address: &SipAddress) -> Arc<str> {
    Arc::from(address.as_str())
}

fn not_established(up: Up) -> Failure {
    failure(Code::ReplyLost, "call not established", up)
}

fn hung_up(sip: Option<SipStatus>) -> Failure {
    Failure { code: Code::CallerHungUp, text: Arc::from("caller hung up"), sip, up: Up::No }
}

fn caller_refused(status: &SipStatus, ringing: bool) -> Failure {
    let code = match status.code {
        300..=399 => Code::CallerForwarded,
        401 | 407 => Code::Challenged,
        404 | 410 | 604 => Code::CallerNotFound,
        // A silent phone never brought the dialog to state 2.
        408 if ringing => Code::CallerNoAnswer,
        408 => Code::CallerUnreachable,
        480 => Code::CallerUnavailable,
        486 | 600 => Code::CallerBusy,
        603 => Code::CallerDeclined,
        _ => Code::CallerFailed,
    };
    let text = format!("failed to establish initial call: {status}");
    with_sip(code, &text, status.clone(), Up::No)
}

/// The end of a start whose caller was up and whose callee never came to be.
fn start_failed(why: &Why, call_gone: bool, plan: &Plan) -> Ending {
    match why {
        // The phone hung up while the REFER was out, or took it and went away.
        Why::Refused(_) | Why::RefusedUnsaid | Why::StackRefused { .. } if call_gone => {
            Ending::failed(hung_up(None))
        }
        // The phone knows no such call any more; its BYE is on its way.
        Why::Refused(SipStatus { code: 481, .. }) | Why::Missing { .. } => {
            Ending::failed(hung_up(None))
        }
        Why::Refused(status) => Ending::failed(refer_refused(status, Up::No)),
        Why::RefusedUnsaid => Ending::failed(refused_unsaid(Up::No)),
        Why::StackRefused { code, reason } => Ending::failed(stack_refused(*code, reason, Up::No)),
        Why::NotSent(why) => {
            let (code, text) = not_sent(*why);
            Ending::failed(failure(code, text, Up::No))
        }
        Why::Ignored => {
            // Without tokens a list can't show the referred call: its one event may be lost, and a
            // phone that hangs up and dials all the same raises none (F7).
            let up = if plan.capabilities.referral_tokens { Up::No } else { Up::Unknown };
            Ending::failed(if call_gone {
                Failure { up, ..hung_up(None) }
            } else {
                failure(Code::ReferIgnored, REFER_IGNORED, up)
            })
        }
        // The caller gave up the call to the callee.
        Why::Target(status) if status.code == 487 => Ending::failed(hung_up(Some(status.clone()))),
        Why::Target(status) => Ending::failed(target_failed(status, "callee", Up::No)),
        Why::NoAnswer { .. } => Ending::failed(no_answer("callee", Up::No)),
        // The caller may be up with the callee where no list shows it.
        Why::Lost => {
            Ending::unknown(failure(Code::ReplyLost, "transfer not confirmed", Up::Unknown))
        }
    }
}
