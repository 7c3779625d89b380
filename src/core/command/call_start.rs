//! `CallStart`: ring the caller, then have the caller's phone call the callee.
//!
//! Phases: calling (our INVITE to the caller), confirming (waiting for state 4: no sleep),
//! referring (REFER and what becomes of it), closing (the setup leg ends, whatever happened).
//! A reply that is lost leads to looking, never to a second call.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::absence::{Absence, Finding};
use super::closing::{Closing, look_at, not_sent};
use super::referral::{Progress, Referral, Why};
use super::turn::Turn;
use super::{Claim, Ending, Fact, Taking};
use crate::core::act::{Act, DialogState, Facts, ReferTo, Refuser, Reply, Sighting};
use crate::core::failure::{Code, Failure, SipStatus, Up};
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
    caller: SipAddress,
    callee: SipAddress,
    /// The Call-ID of the setup leg.
    setup: CallId,
    ring: Duration,
    /// Whether the client wants to know of the ringing.
    tell_ringing: bool,
    phase: Phase,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    Calling(Calling),
    /// The phone answered; state 4 is awaited. `until`: then a look.
    Confirming {
        until: StoreTime,
    },
    Referring(Referral),
    Closing(Closing),
}

/// Our INVITE is out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Calling {
    invite: OpId,
    /// The caller's phone rings, and that was told.
    ringing: bool,
    /// State 4 was seen before the reply.
    confirmed: bool,
    /// State 5 was seen before the reply.
    deleted: bool,
    step: CallingStep,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum CallingStep {
    /// Until the phone has rung long enough.
    Ringing { until: StoreTime },
    /// A dialog event told the end; the reply with the code is awaited.
    ReplyDue { until: StoreTime },
    /// It was given up.
    GivingUp { why: GivenUp, until: StoreTime },
    /// The reply was lost: looks decide. The second time is when the phone has rung long enough.
    Looking { absence: Absence, at: StoreTime, ring_until: StoreTime },
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
        let act = Act::Invite {
            call: setup.clone(),
            caller: request.caller.clone(),
            callee: request.callee.clone(),
            display: request.display.clone(),
            auto_answer: request.auto_answer,
        };
        let calling = ring + times.silence * 2;
        let invite = turn.open(act, calling);
        let step = CallingStep::Ringing { until: turn.later(ring) };
        let calling_phase =
            Calling { invite, ringing: false, confirmed: false, deleted: false, step };
        let longest = times.send
            + calling
            + times.absent()
            + times.silence
            + Referral::longest(turn, ring)
            + times.follow
            + times.ending();
        let state = Self {
            caller: request.caller.clone(),
            callee: request.callee.clone(),
            setup,
            ring,
            tell_ringing: request.ringing,
            phase: Phase::Calling(calling_phase),
        };
        (state, longest)
    }

    /// Takes a fact.
    pub(crate) fn apply(&mut self, fact: &Fact<'_>, turn: &mut Turn<'_>) {
        if let Fact::Event(StackEvent::Restarted { .. }) = fact
            && !turn.plan().capabilities.persists_dialogs
            && !matches!(self.phase, Phase::Closing(_))
        {
            // The phones may talk on; nobody can tell any more.
            turn.end(Ending::unknown(failure(
                Code::StackRestarted,
                "stack restarted",
                Up::Unknown,
            )));
            return;
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
                Act::CancelInvite { .. }
                | Act::Refer { .. }
                | Act::ReInvite { .. }
                | Act::StackHold { .. }
                | Act::Mark { .. }
                | Act::End { .. }
                | Act::Revoke { .. } => {}
            },
            Fact::Event(event) => self.happened_while_calling(event, turn),
            Fact::Due => self.due_while_calling(turn),
            Fact::GiveUp => self.give_up_calling(GivenUp::Cancelled, turn),
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
        let (ringing, confirmed, deleted) = (calling.ringing, calling.confirmed, calling.deleted);
        match (reply, given_up) {
            (Reply::Done(_), Some(why)) => {
                // The 200 crossed our CANCEL.
                let ending = why.ending();
                self.close(vec![self.setup.clone()], ending, turn);
            }
            (Reply::Done(facts), None) => self.answered(facts, confirmed, deleted, turn),
            (Reply::Refused { by: Refuser::Phone, code: 482, .. }, None) => {
                // The proxy has this operation's call already: an earlier send got there.
                self.look_for_the_call(turn);
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
                let text = format!("{code} {reason}");
                turn.end(Ending::failed(failure(Code::StackRefused, &text, Up::No)));
            }
            (Reply::Missing { .. }, None) => {
                let text = "failed to establish initial call";
                turn.end(Ending::failed(failure(Code::StackRefused, text, Up::No)));
            }
            (Reply::NotSent(why), None) => {
                let (code, text) = not_sent(*why);
                turn.end(Ending::not_started(failure(code, text, Up::No)));
            }
            // It was being given up when its fate became unknown: ending it is safe.
            (Reply::Silent, Some(why)) => {
                self.close(vec![self.setup.clone()], why.ending(), turn);
            }
            (Reply::Silent, None) => self.look_for_the_call(turn),
        }
    }

    fn answered(&mut self, facts: &Facts, confirmed: bool, deleted: bool, turn: &mut Turn<'_>) {
        let data = Data {
            callee: Some(text(&self.callee)),
            caller: Some(text(&self.caller)),
            ..Data::default()
        };
        turn.tell(Event::CallerAnswered, data);
        if let Facts::Answered { takes_refer: Some(false) } = facts {
            let failed =
                failure(Code::ReferUnsupported, "transfer refused: phone takes no REFER", Up::No);
            self.close(vec![self.setup.clone()], Ending::failed(failed), turn);
            return;
        }
        if deleted {
            turn.end(Ending::failed(hung_up(None)));
        } else if confirmed {
            self.refer(turn);
        } else {
            self.phase = Phase::Confirming { until: turn.later(turn.plan().times.silence) };
        }
    }

    fn happened_while_calling(&mut self, event: &StackEvent, turn: &mut Turn<'_>) {
        let StackEvent::Dialog { call, state, .. } = event else { return };
        let Phase::Calling(calling) = &mut self.phase else { return };
        if *call != self.setup {
            return;
        }
        let soon = turn.later(turn.plan().times.reply);
        let looking = matches!(calling.step, CallingStep::Looking { .. });
        let given_up = matches!(calling.step, CallingStep::GivingUp { .. });
        match state {
            DialogState::Unconfirmed | DialogState::Answered => {}
            DialogState::Early => {
                if !calling.ringing && self.tell_ringing {
                    let data = Data {
                        callee: Some(text(&self.callee)),
                        caller: Some(text(&self.caller)),
                        ..Data::default()
                    };
                    turn.tell(Event::CallerRinging, data);
                }
                calling.ringing = true;
            }
            DialogState::Confirmed => {
                calling.confirmed = true;
                if looking {
                    self.answered(&Facts::Answered { takes_refer: None }, true, false, turn);
                } else if !given_up {
                    calling.step = CallingStep::ReplyDue { until: soon };
                }
            }
            DialogState::Deleted => {
                calling.deleted = true;
                if looking {
                    turn.end(Ending::failed(not_established(Up::No)));
                } else if !given_up {
                    calling.step = CallingStep::ReplyDue { until: soon };
                }
            }
        }
    }

    fn due_while_calling(&mut self, turn: &mut Turn<'_>) {
        let at = turn.at();
        let times = turn.plan().times;
        let Phase::Calling(calling) = &mut self.phase else { return };
        match &mut calling.step {
            CallingStep::Ringing { until } if *until <= at => {
                self.give_up_calling(GivenUp::RangOut, turn);
            }
            CallingStep::ReplyDue { until } if *until <= at => {
                // The reply was lost, the events were not.
                if calling.deleted && calling.confirmed {
                    turn.end(Ending::failed(hung_up(None)));
                } else if calling.deleted {
                    turn.end(Ending::failed(not_established(Up::No)));
                } else {
                    self.answered(&Facts::Answered { takes_refer: None }, true, false, turn);
                }
            }
            CallingStep::GivingUp { why, until } if *until <= at => {
                let why = *why;
                self.close(vec![self.setup.clone()], why.ending(), turn);
            }
            CallingStep::Looking { at: then, ring_until, .. } if *then <= at => {
                if *ring_until <= at {
                    self.give_up_calling(GivenUp::RangOut, turn);
                    return;
                }
                *then = turn.later(times.look());
                let invite = calling.invite.clone();
                let call = self.setup.clone();
                turn.open(Act::Look { call, referred_by: None, sent: Some(invite) }, times.look());
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
            CallingStep::Looking { .. } => {
                // Nobody knows whether it rings: ending is safe in every state.
                self.close(vec![self.setup.clone()], why.ending(), turn);
            }
            CallingStep::Ringing { .. } | CallingStep::ReplyDue { .. } => {
                calling.step = CallingStep::GivingUp { why, until: turn.later(times.silence) };
                turn.open(Act::CancelInvite { call: self.setup.clone() }, times.reply);
            }
        }
    }

    fn look_for_the_call(&mut self, turn: &mut Turn<'_>) {
        let times = turn.plan().times;
        let Phase::Calling(calling) = &mut self.phase else { return };
        let ring_until = match &calling.step {
            CallingStep::Ringing { until } => (*until).max(turn.later(times.absent())),
            CallingStep::ReplyDue { .. }
            | CallingStep::GivingUp { .. }
            | CallingStep::Looking { .. } => turn.later(times.absent()),
        };
        calling.step = CallingStep::Looking {
            absence: Absence::default(),
            at: turn.later(times.look()),
            ring_until,
        };
        let sent = Some(calling.invite.clone());
        turn.open(Act::Look { call: self.setup.clone(), referred_by: None, sent }, times.look());
    }

    fn looked_while_calling(&mut self, reply: &Reply, turn: &mut Turn<'_>) {
        let times = turn.plan().times;
        let Phase::Calling(calling) = &mut self.phase else { return };
        let CallingStep::Looking { absence, at, .. } = &mut calling.step else { return };
        let Some(sighting) = seen(reply) else { return };
        match absence.see(sighting, true, turn) {
            Finding::Present(dialog) => match dialog.state {
                DialogState::Confirmed => {
                    self.answered(&Facts::Answered { takes_refer: None }, true, false, turn);
                }
                // It rings: events or the next look tell the rest, the ring time bounds it.
                DialogState::Unconfirmed | DialogState::Early | DialogState::Answered => {
                    *at = turn.later(times.look());
                }
                DialogState::Deleted => turn.end(Ending::failed(not_established(Up::No))),
            },
            Finding::Absent => {
                let failed = not_established(Up::No);
                // The proxy's own mark proves that nothing was sent.
                let ending = match sighting.sent {
                    Some(false) => Ending::failed(failed),
                    Some(true) | None => Ending::unknown(failed),
                };
                turn.end(ending);
            }
            Finding::LookAgain(then) => *at = then,
            Finding::Lost | Finding::Unknowable => *at = turn.later(times.look()),
        }
    }

    fn confirming(&mut self, fact: &Fact<'_>, turn: &mut Turn<'_>) {
        let up = || vec![self.setup.clone()];
        match fact {
            Fact::Event(StackEvent::Dialog { call, state, .. }) if *call == self.setup => {
                match state {
                    DialogState::Confirmed => self.refer(turn),
                    DialogState::Deleted => turn.end(Ending::failed(hung_up(None))),
                    DialogState::Unconfirmed | DialogState::Early | DialogState::Answered => {}
                }
            }
            Fact::Event(_) => {}
            Fact::Reply(op, reply) => {
                if !matches!(op.act, Act::Look { .. }) {
                    return;
                }
                let state = seen(reply).and_then(|s| s.call.as_ref()).map(|dialog| dialog.state);
                if state == Some(DialogState::Confirmed) {
                    self.refer(turn);
                } else {
                    let legs = up();
                    self.close(legs, Ending::failed(not_established(Up::No)), turn);
                }
            }
            Fact::Due => {
                let times = turn.plan().times;
                let Phase::Confirming { until } = &mut self.phase else { return };
                if *until > turn.at() {
                    return;
                }
                if turn.has_open(|act| matches!(act, Act::Look { .. })) {
                    let legs = vec![self.setup.clone()];
                    self.close(legs, Ending::failed(not_established(Up::No)), turn);
                    return;
                }
                *until = turn.later(times.look());
                turn.open(look_at(self.setup.clone()), times.look());
            }
            Fact::GiveUp => {
                let legs = up();
                self.close(legs, Ending::cancelled(Up::No), turn);
            }
        }
    }

    fn refer(&mut self, turn: &mut Turn<'_>) {
        let data = Data {
            caller: Some(text(&self.caller)),
            destination: Some(text(&self.callee)),
            ..Data::default()
        };
        turn.tell(Event::Transferring, data);
        // Our INVITE made the caller's phone the dialog's callee.
        let to = ReferTo::Address(self.callee.clone());
        let referral = Referral::begin(&self.setup, Leg::Callee, to, self.ring, turn);
        self.phase = Phase::Referring(referral);
    }

    fn referring(&mut self, fact: &Fact<'_>, turn: &mut Turn<'_>) {
        let Phase::Referring(referral) = &mut self.phase else { return };
        if matches!(fact, Fact::GiveUp) {
            let (token, transferred) = (referral.token.clone(), referral.transferred());
            let new = referral.new.as_ref().map(|new| new.call.clone());
            let mut legs = vec![self.setup.clone()];
            legs.extend(new.clone());
            let mut closing = Closing::begin(legs, Ending::cancelled(Up::No), turn);
            if new.is_none() {
                closing = closing.and_stray(token, transferred, turn);
            }
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
        let new_call = referral.new.as_ref().map(|new| new.call.clone());
        let call_over = referral.call_over;
        let data = Data {
            callee: Some(text(&self.callee)),
            caller: Some(text(&self.caller)),
            callid: new_call.clone(),
            ..Data::default()
        };
        let setup = || self.setup.clone();
        match progress {
            Progress::Accepted => {}
            Progress::Placed => turn.tell(Event::TransferStart, data),
            Progress::Pending(status) => {
                turn.tell(Event::TransferPending, Data { extra: Some(status), ..data });
            }
            Progress::Answered => {
                turn.tell(Event::CalleeAnswered, data);
                let legs = if call_over { Vec::new() } else { vec![setup()] };
                self.close(legs, Ending::success(), turn);
            }
            Progress::Failed(why) => {
                let mut legs = if call_over { Vec::new() } else { vec![setup()] };
                let ending = start_failed(&why, call_over, new_call.as_ref(), turn.plan());
                if matches!(why, Why::NoAnswer | Why::Lost) {
                    legs.extend(new_call);
                }
                let silent = matches!(
                    &why,
                    Why::Refused(SipStatus { code: 408, .. }) | Why::Lost | Why::Ignored
                );
                let (token, transferred) = (referral.token.clone(), referral.transferred());
                let mut closing = Closing::begin(legs, ending, turn);
                if silent && turn.plan().capabilities.referral_tokens {
                    // A late INVITE is refused by the token.
                    closing = closing.and_stray(token, transferred, turn);
                }
                self.phase = Phase::Closing(closing);
                self.finish_closing(turn);
            }
        }
    }

    fn close(&mut self, legs: Vec<CallId>, ending: Ending, turn: &mut Turn<'_>) {
        self.phase = Phase::Closing(Closing::begin(legs, ending, turn));
        self.finish_closing(turn);
    }

    fn finish_closing(&mut self, turn: &mut Turn<'_>) {
        if let Phase::Closing(closing) = &mut self.phase {
            closing.finish_if_done(turn);
        }
    }

    /// When its phase runs out of time.
    pub(crate) fn due(&self) -> Option<StoreTime> {
        match &self.phase {
            Phase::Calling(calling) => Some(match &calling.step {
                CallingStep::Ringing { until }
                | CallingStep::ReplyDue { until }
                | CallingStep::GivingUp { until, .. } => *until,
                CallingStep::Looking { at, ring_until, .. } => (*at).min(*ring_until).max(*at),
            }),
            Phase::Confirming { until } => Some(*until),
            Phase::Referring(referral) => referral.due(),
            Phase::Closing(closing) => closing.due(),
        }
    }

    /// The setup leg (a `CallEnd` of it ends this command), and the caller where that is wanted.
    pub(crate) fn claims(&self, plan: &Plan) -> Vec<(Claim, Taking)> {
        let setup = (Claim::Call(self.setup.clone()), Taking::Ask);
        let caller = (Claim::Caller(self.caller.clone()), Taking::Ask);
        if plan.one_start_per_caller { vec![setup, caller] } else { vec![setup] }
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

fn text(address: &SipAddress) -> Arc<str> {
    Arc::from(address.as_str())
}

/// A failure without a SIP status.
pub(crate) fn failure(code: Code, text: &str, up: Up) -> Failure {
    Failure { code, text: Arc::from(text), sip: None, up }
}

/// A failure that a SIP status decided.
pub(crate) fn with_sip(code: Code, text: &str, sip: SipStatus, up: Up) -> Failure {
    Failure { code, text: Arc::from(text), sip: Some(sip), up }
}

/// What a look saw, if it was one.
pub(crate) fn seen(reply: &Reply) -> Option<&Sighting> {
    match reply {
        Reply::Done(Facts::Looked(sighting)) | Reply::Missing { sighting, .. } => Some(sighting),
        Reply::Done(_) | Reply::Refused { .. } | Reply::NotSent(_) | Reply::Silent => None,
    }
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
fn start_failed(why: &Why, call_over: bool, new_call: Option<&CallId>, plan: &Plan) -> Ending {
    match why {
        // The phone hung up while the REFER was out, or took it and went away.
        Why::Refused(_) | Why::StackRefused { .. } | Why::Missing { .. } | Why::Ignored
            if call_over =>
        {
            Ending::failed(hung_up(None))
        }
        Why::Refused(status) => Ending::failed(refer_refused(status, Up::No)),
        Why::StackRefused { code, reason } => {
            Ending::failed(failure(Code::StackRefused, &format!("{code} {reason}"), Up::No))
        }
        Why::Missing { .. } => Ending::failed(hung_up(None)),
        Why::NotSent(why) => {
            let (code, text) = not_sent(*why);
            Ending::failed(failure(code, text, Up::No))
        }
        Why::Ignored => {
            // Without tokens a list can't show the referred call: its one event may be lost.
            let up = if plan.capabilities.referral_tokens { Up::No } else { Up::Unknown };
            Ending::failed(failure(Code::ReferIgnored, REFER_IGNORED, up))
        }
        // The caller gave up the call to the callee.
        Why::Target(status) if status.code == 487 => Ending::failed(hung_up(Some(status.clone()))),
        Why::Target(status) => Ending::failed(target_failed(status, "callee", Up::No)),
        Why::NoAnswer => Ending::failed(no_answer("callee", Up::No)),
        Why::Lost => {
            let up = if new_call.is_some() { Up::Unknown } else { Up::No };
            Ending::unknown(failure(Code::ReplyLost, "transfer not confirmed", up))
        }
    }
}

/// The old server had no words for it: it never noticed.
pub(crate) const REFER_IGNORED: &str = "phone did not place the call";

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
