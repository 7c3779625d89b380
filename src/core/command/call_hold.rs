//! `CallHold` and `CallUnhold`: our own re-INVITEs, one leg after the other.
//!
//! Hold asks the caller first, unhold the callee, as the old server's events had it. A leg that
//! refuses undoes the other. A leg that answers 491 is asked once more after 2.1 to 4 s (RFC 3261
//! section 14.1). A leg that never answers leaves its state unknown; the call is not ended.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::absence::{Absence, Finding};
use super::call_start::{failure, seen, with_sip};
use super::closing::{look_at, not_sent};
use super::turn::Turn;
use super::{Ending, Fact};
use crate::core::act::{Act, DialogState, Offer, Op, Refuser, Reply, Sighting};
use crate::core::failure::{Code, Failure, SipStatus, Up};
use crate::core::ids::CallId;
use crate::core::notice::{Data, Event};
use crate::core::plan::HoldBy;
use crate::core::request::Leg;
use crate::core::stack_event::{HoldState, StackEvent};
use crate::core::time::StoreTime;

/// A running `CallHold` or `CallUnhold`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The call.
    pub(crate) call: CallId,
    hold: bool,
    phase: Phase,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    /// One leg was sent its offer.
    Asking { leg: Leg, place: Place, glared: bool },
    /// Both sides made an offer at once: ask again then.
    Glaring { leg: Leg, place: Place, at: StoreTime },
    /// The second leg would not: the first is put back.
    Restoring { ending: Box<Ending>, until: StoreTime },
    /// The call was not found: looks decide whether it is really not there.
    Missing { absence: Absence, at: StoreTime },
    /// The stack's own hold: its events decide.
    Stack { legs: StackLegs, until: StoreTime },
}

/// Which of the two legs in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Place {
    First,
    Second,
}

/// What the stack's own hold told of each leg.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct StackLegs {
    answered: bool,
    started: Vec<Leg>,
    done: Vec<Leg>,
    failed: Vec<Leg>,
}

/// A no-op hold raises no event (trace of sip-outcomes F9): none within this, and it was so already.
const NOTHING_TO_CHANGE: Duration = Duration::from_millis(300);

impl Hold {
    /// Begins. Also says how long it may take at most.
    pub(crate) fn begin(call: &CallId, hold: bool, turn: &mut Turn<'_>) -> (Self, Duration) {
        let times = turn.plan().times;
        let one_leg = times.send + times.reply * 2 + times.silence;
        // Each leg, a glare, and putting one back.
        let longest = one_leg * 4 + Duration::from_secs(5) + times.absent();
        let state = |phase| Self { call: call.clone(), hold, phase };
        match turn.plan().capabilities.hold {
            HoldBy::ReInvite => {
                let leg = if hold { Leg::Caller } else { Leg::Callee };
                let mut state = state(Phase::Asking { leg, place: Place::First, glared: false });
                state.ask(leg, Place::First, false, turn);
                (state, longest)
            }
            HoldBy::Stack => {
                let offer = offer(hold, true, false);
                turn.open(Act::StackHold { call: call.clone(), offer }, times.reply);
                let until = turn.later(times.send + times.reply + times.silence);
                (state(Phase::Stack { legs: StackLegs::default(), until }), longest)
            }
        }
    }

    fn ask(&mut self, leg: Leg, place: Place, glared: bool, turn: &mut Turn<'_>) {
        let times = turn.plan().times;
        let first = place == Place::First && !glared;
        let offer = offer(self.hold, first, place == Place::Second);
        let act = Act::ReInvite { call: self.call.clone(), leg, offer };
        turn.open(act, times.reply * 2 + times.silence);
        self.phase = Phase::Asking { leg, place, glared };
    }

    /// Takes a fact.
    pub(crate) fn apply(&mut self, fact: &Fact<'_>, turn: &mut Turn<'_>) {
        match fact {
            Fact::Event(StackEvent::Dialog { call, state: DialogState::Deleted, .. })
                if *call == self.call =>
            {
                let ended = failure(Code::CallEnded, "call ended", Up::No);
                turn.end(Ending::failed(ended));
            }
            Fact::Event(StackEvent::Restarted { .. }) => {
                if !turn.plan().capabilities.persists_dialogs {
                    let text = "stack restarted";
                    turn.end(Ending::unknown(failure(Code::StackRestarted, text, Up::Unknown)));
                }
            }
            Fact::Event(StackEvent::Hold { call, leg, hold, state }) => {
                if *call == self.call && *hold == self.hold {
                    self.leg_changed(*leg, *state, turn);
                }
            }
            Fact::Event(
                StackEvent::Dialog { .. }
                | StackEvent::Transfer { .. }
                | StackEvent::Referral { .. },
            ) => {}
            Fact::Reply(op, reply) => self.replied(op, reply, turn),
            Fact::Due => self.due_now(turn),
            // A CallEnd overtook it; the call is about to be over.
            Fact::GiveUp => turn.end(Ending::cancelled(Up::Unknown)),
        }
    }

    fn replied(&mut self, op: &Op, reply: &Reply, turn: &mut Turn<'_>) {
        match (&op.act, &self.phase) {
            (Act::ReInvite { .. }, Phase::Asking { leg, place, glared }) => {
                let (leg, place, glared) = (*leg, *place, *glared);
                self.leg_answered(leg, place, glared, reply, turn);
            }
            (Act::Mark { .. }, Phase::Restoring { ending, .. }) => {
                let ending = (**ending).clone();
                turn.end(ending);
            }
            (Act::ReInvite { .. }, Phase::Restoring { .. }) => {
                // Put back or not, the mark follows what the client was told.
                let held = !self.hold;
                let act = Act::Mark { call: self.call.clone(), held };
                turn.open(act, turn.plan().times.reply);
            }
            (Act::Look { .. }, Phase::Missing { .. }) => match seen(reply) {
                Some(sighting) => self.weigh(sighting, turn),
                None => turn.end(Ending::failed(not_found(Up::Unknown))),
            },
            (Act::StackHold { .. }, Phase::Stack { .. }) => self.stack_answered(reply, turn),
            (_, _) => {}
        }
    }

    fn leg_answered(
        &mut self,
        leg: Leg,
        place: Place,
        glared: bool,
        reply: &Reply,
        turn: &mut Turn<'_>,
    ) {
        match reply {
            Reply::Done(_) => self.leg_took_it(leg, place, turn),
            Reply::Refused { by: Refuser::Stack, code, reason } => {
                let code_word = match code {
                    480 if self.hold => Code::AlreadyHeld,
                    480 => Code::NotHeld,
                    410 => Code::CallNotReady,
                    488 => Code::NoMedia,
                    _ => Code::StackRefused,
                };
                let failed = failure(code_word, &format!("{code} {reason}"), Up::Yes);
                self.leg_failed(leg, place, Ending::failed(failed), turn);
            }
            Reply::Refused { by: Refuser::Phone, code: 491, .. } if !glared => {
                // 2.1 to 4 s: the owner of the Call-ID waits that long (RFC 3261 section 14.1).
                let spread = u64::try_from(turn.now().nonce.0 % 1900).unwrap_or_default();
                let at = turn.later(Duration::from_millis(2100 + spread));
                self.phase = Phase::Glaring { leg, place, at };
            }
            Reply::Refused { by: Refuser::Phone, code, reason } => {
                self.tell_start(leg, turn);
                let status = SipStatus::new(*code, reason);
                let ending = leg_refused(leg, &status);
                self.leg_failed(leg, place, ending, turn);
            }
            Reply::Missing { sighting, .. } if place == Place::First => {
                let at = turn.later(turn.plan().times.look());
                self.phase = Phase::Missing { absence: Absence::default(), at };
                self.weigh(sighting, turn);
            }
            Reply::Missing { .. } => {
                let ended = failure(Code::CallEnded, "call ended", Up::No);
                turn.end(Ending::failed(ended));
            }
            Reply::NotSent(why) => {
                let (code, text) = not_sent(*why);
                let ending = match place {
                    Place::First => Ending::not_started(failure(code, text, Up::Unknown)),
                    Place::Second => Ending::failed(failure(code, text, Up::Unknown)),
                };
                self.leg_failed(leg, place, ending, turn);
            }
            Reply::Silent => {
                let lost = failure(Code::ReplyLost, "stack unreachable", Up::Unknown);
                turn.end(Ending::unknown(lost));
            }
        }
    }

    fn leg_took_it(&mut self, leg: Leg, place: Place, turn: &mut Turn<'_>) {
        let [_, done, holding] = self.names();
        self.tell_start(leg, turn);
        turn.tell(done, of_leg(leg));
        match place {
            Place::First => {
                turn.tell(holding, Data::default());
                self.ask(leg.other(), Place::Second, false, turn);
            }
            Place::Second => turn.end(Ending::success()),
        }
    }

    fn tell_start(&self, leg: Leg, turn: &mut Turn<'_>) {
        let [start, _, _] = self.names();
        turn.tell(start, of_leg(leg));
    }

    fn leg_failed(&mut self, leg: Leg, place: Place, ending: Ending, turn: &mut Turn<'_>) {
        let times = turn.plan().times;
        let nothing_sent = ending.error.as_ref().is_some_and(|error| {
            matches!(error.code, Code::AlreadyHeld | Code::NotHeld | Code::CallNotReady)
        });
        match place {
            Place::First if nothing_sent || !self.hold => turn.end(ending),
            Place::First => {
                // The call was marked as held before the leg was asked; it is not.
                turn.open(Act::Mark { call: self.call.clone(), held: false }, times.reply);
                let until = turn.later(times.send + times.reply);
                self.phase = Phase::Restoring { ending: Box::new(ending), until };
            }
            Place::Second => {
                let offer = offer(!self.hold, false, false);
                let first = leg.other();
                let act = Act::ReInvite { call: self.call.clone(), leg: first, offer };
                turn.open(act, times.reply * 2 + times.silence);
                let wait = times.send * 2 + times.reply * 3 + times.silence;
                let until = turn.later(wait);
                self.phase = Phase::Restoring { ending: Box::new(ending), until };
            }
        }
    }

    fn due_now(&mut self, turn: &mut Turn<'_>) {
        let times = turn.plan().times;
        let at = turn.at();
        match &mut self.phase {
            Phase::Glaring { leg, place, at: then } if *then <= at => {
                let (leg, place) = (*leg, *place);
                self.ask(leg, place, true, turn);
            }
            Phase::Restoring { ending, until } if *until <= at => {
                let ending = (**ending).clone();
                turn.end(ending);
            }
            Phase::Missing { at: then, .. } if *then <= at => {
                *then = turn.later(times.look());
                turn.open(look_at(self.call.clone()), times.look());
            }
            Phase::Stack { legs, until } if *until <= at => {
                let ending = if legs.answered && legs.started.is_empty() {
                    let mut ending = Ending::success();
                    ending.remarks.already = true;
                    ending
                } else {
                    let lost = failure(Code::LegTimeout, "hold not confirmed", Up::Unknown);
                    Ending::unknown(lost)
                };
                turn.end(ending);
            }
            Phase::Asking { .. }
            | Phase::Glaring { .. }
            | Phase::Restoring { .. }
            | Phase::Missing { .. }
            | Phase::Stack { .. } => {}
        }
    }

    fn stack_answered(&mut self, reply: &Reply, turn: &mut Turn<'_>) {
        let times = turn.plan().times;
        let Phase::Stack { legs, until } = &mut self.phase else { return };
        match reply {
            Reply::Done(_) => {
                legs.answered = true;
                if legs.started.is_empty() {
                    *until = turn.later(NOTHING_TO_CHANGE);
                } else {
                    *until = turn.later(times.silence);
                }
            }
            Reply::Refused { code, reason, .. } => {
                let word = match code {
                    480 if self.hold => Code::AlreadyHeld,
                    480 => Code::NotHeld,
                    410 => Code::CallNotReady,
                    _ => Code::StackRefused,
                };
                turn.end(Ending::failed(failure(word, &format!("{code} {reason}"), Up::Yes)));
            }
            Reply::Missing { sighting, .. } => {
                let at = turn.later(times.look());
                self.phase = Phase::Missing { absence: Absence::default(), at };
                self.weigh(sighting, turn);
            }
            Reply::NotSent(why) => {
                let (code, text) = not_sent(*why);
                turn.end(Ending::not_started(failure(code, text, Up::Unknown)));
            }
            Reply::Silent => *until = turn.later(times.silence),
        }
    }

    fn leg_changed(&mut self, leg: Leg, state: HoldState, turn: &mut Turn<'_>) {
        let [start, done, holding] = self.names();
        let silence = turn.plan().times.silence;
        let Phase::Stack { legs, until } = &mut self.phase else { return };
        let known = |list: &Vec<Leg>| list.contains(&leg);
        if !known(&legs.started) {
            if legs.started.is_empty() {
                turn.tell(holding, Data::default());
            }
            legs.started.push(leg);
            turn.tell(start, of_leg(leg));
            *until = turn.later(silence);
        }
        match state {
            HoldState::Start => {}
            // A retransmitted 200 raises a second ok.
            HoldState::Ok if known(&legs.done) || known(&legs.failed) => {}
            HoldState::Ok => {
                legs.done.push(leg);
                turn.tell(done, of_leg(leg));
            }
            HoldState::Fail => legs.failed.push(leg),
        }
        if legs.done.len() + legs.failed.len() < 2 {
            return;
        }
        match legs.failed.first() {
            None => turn.end(Ending::success()),
            Some(leg) => {
                let text = format!("{}: refused", leg.as_str());
                turn.end(Ending::failed(failure(Code::LegRefused, &text, Up::Yes)));
            }
        }
    }

    fn weigh(&mut self, sighting: &Sighting, turn: &mut Turn<'_>) {
        let Phase::Missing { absence, at } = &mut self.phase else { return };
        match absence.see(sighting, false, turn) {
            Finding::Absent => turn.end(Ending::failed(not_found(Up::No))),
            Finding::LookAgain(then) => *at = then,
            // It is there after all: ask it.
            Finding::Present(_) => {
                let leg = if self.hold { Leg::Caller } else { Leg::Callee };
                self.ask(leg, Place::First, false, turn);
            }
            Finding::Lost | Finding::Unknowable => {
                turn.end(Ending::failed(not_found(Up::Unknown)));
            }
        }
    }

    fn names(&self) -> [Event; 3] {
        if self.hold {
            [Event::CallHoldStart, Event::CallHoldSuccessful, Event::CallHolding]
        } else {
            [Event::CallUnholdStart, Event::CallUnholdSuccessful, Event::CallUnholding]
        }
    }

    /// When its phase runs out of time; while a leg is asked, the operation's time counts.
    pub(crate) fn due(&self) -> Option<StoreTime> {
        match &self.phase {
            Phase::Asking { .. } => None,
            Phase::Glaring { at, .. } | Phase::Missing { at, .. } => Some(*at),
            Phase::Restoring { until, .. } | Phase::Stack { until, .. } => Some(*until),
        }
    }
}

fn offer(hold: bool, first: bool, last: bool) -> Offer {
    if hold { Offer::Hold { first } } else { Offer::Resume { first, last } }
}

fn of_leg(leg: Leg) -> Data {
    Data { leg: Some(leg), ..Data::default() }
}

fn not_found(up: Up) -> Failure {
    failure(Code::CallNotFound, "404 Dialog not found", up)
}

fn leg_refused(leg: Leg, status: &SipStatus) -> Ending {
    let text = format!("{}: {status}", leg.as_str());
    match status.code {
        491 => {
            Ending::failed(with_sip(Code::Glare, "491 Request Pending", status.clone(), Up::Yes))
        }
        // Whether the phone took the offer before it fell silent can't be known.
        408 => Ending::unknown(with_sip(Code::LegTimeout, &text, status.clone(), Up::Unknown)),
        401 | 407 => {
            Ending::failed(with_sip(Code::InDialogChallenge, &text, status.clone(), Up::Yes))
        }
        _ => Ending::failed(with_sip(Code::LegRefused, &text, status.clone(), Up::Yes)),
    }
}
