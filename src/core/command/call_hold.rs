//! `CallHold` and `CallUnhold`: our own re-INVITEs, one leg after the other.
//!
//! Hold asks the caller first, unhold the callee, as the old server's events had it. A leg that
//! refuses undoes the other; if that can't be done, the outcome is unknown. A leg that answers 491 is asked once more after 2.1 to 4 s (RFC 3261
//! section 14.1). A leg that never answers leaves its state unknown; the call is not ended.
//!
//! The mark on the call says that a leg may be on hold because of us. It is set before the first
//! leg is asked and taken off only when no leg can be held any more: whatever became of a hold,
//! an unhold can undo it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::absence::{Finding, Search};
use super::life::Life;
use super::look::{look_at, seen};
use super::turn::Turn;
use super::words::{failure, not_sent, restarted, with_sip};
use super::{Ending, Fact};
use crate::core::act::{Act, DialogState, NotSent, Offer, Op, Refuser, Reply, Sent, Sighting};
use crate::core::failure::{Code, Failure, Outcome, SipStatus, Up};
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
    /// The call's dialogs.
    life: Life,
    /// It was asked anew: a look found the call, that the stack had not found at first.
    anew: bool,
    phase: Phase,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    /// One leg was sent its offer.
    Asking { leg: Leg, place: Place, glared: bool },
    /// Both sides made an offer at once: ask again then.
    Glaring { leg: Leg, place: Place, at: StoreTime },
    /// The second leg would not: the first is put back. `unsure`: the second may be held.
    Restoring { ending: Box<Ending>, unsure: bool },
    /// The mark on the call is made to say what is true now.
    Marking { ending: Box<Ending> },
    /// The call was not found: looks decide whether it is really not there.
    Missing(Search),
    /// Nobody answered, and what was sent can't be known: looks tell whether there is a call at all.
    Doubtful { search: Search, place: Place },
    /// The stack's own hold: its events decide. `until`: none while its reply is out.
    Stack { legs: StackLegs, until: Option<StoreTime> },
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

/// A no-op hold raises no event (fact F9): none within this, and it was so already.
const NOTHING_TO_CHANGE: Duration = Duration::from_millis(300);

/// A glare is waited out for 2.1 to 4 s by the owner of the Call-ID (RFC 3261 section 14.1).
const GLARE_SHORTEST: Duration = Duration::from_millis(2100);

/// See [`GLARE_SHORTEST`].
const GLARE_LONGEST: Duration = Duration::from_secs(4);

impl Hold {
    /// Begins. Also says how long it may take at most.
    pub(crate) fn begin(call: &CallId, hold: bool, turn: &mut Turn<'_>) -> (Self, Duration) {
        let times = turn.plan().times;
        // Not found and found, each leg, each with a glare, putting one back, the mark, and looks
        // whether an offer was sent, and whether there is a call.
        let longest = times.within(Self::answer(turn)) * 6
            + times.absent() * 2
            + times.within(times.look())
            + GLARE_LONGEST * 2
            + times.within(times.reply);
        let legs = StackLegs::default();
        let phase = Phase::Stack { legs, until: None };
        let life = Life::default();
        let mut state = Self { call: call.clone(), hold, life, anew: false, phase };
        state.ask_first(turn);
        (state, longest)
    }

    /// How long the stack may take for one leg: to find the call, and for the phone's answer.
    fn answer(turn: &Turn<'_>) -> Duration {
        turn.plan().times.reply * 2 + turn.plan().times.silence
    }

    fn ask_first(&mut self, turn: &mut Turn<'_>) {
        match turn.plan().capabilities.hold {
            HoldBy::ReInvite => {
                let leg = if self.hold { Leg::Caller } else { Leg::Callee };
                self.ask(leg, Place::First, false, turn);
            }
            HoldBy::Stack => {
                let offer = offer(self.hold, true, false);
                let act = Act::StackHold { call: self.call.clone(), offer };
                turn.open(act, turn.plan().times.reply);
                self.phase = Phase::Stack { legs: StackLegs::default(), until: None };
            }
        }
    }

    fn ask(&mut self, leg: Leg, place: Place, glared: bool, turn: &mut Turn<'_>) {
        let first = place == Place::First && !glared;
        let offer = offer(self.hold, first, place == Place::Second);
        let act = Act::ReInvite { call: self.call.clone(), leg, offer };
        turn.open(act, Self::answer(turn));
        self.phase = Phase::Asking { leg, place, glared };
    }

    /// Takes a fact.
    pub(crate) fn apply(&mut self, fact: &Fact<'_>, turn: &mut Turn<'_>) {
        match fact {
            Fact::Event(StackEvent::Dialog { call, dialog, state }) => {
                if *call == self.call && self.life.see(dialog, *state) {
                    let ended = failure(Code::CallEnded, "call ended", Up::No);
                    turn.end(Ending::failed(ended));
                }
            }
            Fact::Event(StackEvent::Restarted(_)) => {
                if !turn.plan().capabilities.persists_dialogs {
                    turn.end(restarted());
                }
            }
            Fact::Event(StackEvent::Hold { call, leg, hold, state }) => {
                if *call == self.call && *hold == self.hold {
                    self.leg_changed(*leg, *state, turn);
                }
            }
            Fact::Event(StackEvent::Transfer { .. } | StackEvent::Referral { .. }) => {}
            Fact::Reply(op, reply) => self.replied(op, reply, turn),
            Fact::Due => self.due_now(turn),
            // A CallEnd overtook it; the call is about to be over.
            Fact::GiveUp { .. } => turn.end(Ending::cancelled(Up::Unknown)),
        }
    }

    fn replied(&mut self, op: &Op, reply: &Reply, turn: &mut Turn<'_>) {
        // A late word on something that was decided meanwhile finds another phase.
        match &op.act {
            Act::ReInvite { .. } => match &self.phase {
                Phase::Asking { .. } if *reply == Reply::Silent => {
                    self.look_whether_sent(op, turn);
                }
                Phase::Asking { leg, place, glared } => {
                    let (leg, place, glared) = (*leg, *place, *glared);
                    self.leg_answered(leg, place, glared, reply, turn);
                }
                Phase::Restoring { ending, unsure } => {
                    let put_back = matches!(reply, Reply::Done(_));
                    let held = *unsure || !put_back || !self.hold;
                    let ending = (**ending).clone();
                    let ending = if put_back { ending } else { left_halfway(ending, reply) };
                    self.mark(held, ending, turn);
                }
                Phase::Glaring { .. }
                | Phase::Marking { .. }
                | Phase::Missing { .. }
                | Phase::Doubtful { .. }
                | Phase::Stack { .. } => {}
            },
            Act::Mark { .. } => {
                if let Phase::Marking { ending } = &self.phase {
                    let ending = (**ending).clone();
                    turn.end(ending);
                }
            }
            Act::Look { .. } => match &self.phase {
                Phase::Missing { .. } => match seen(reply) {
                    Some(sighting) => self.weigh(sighting, turn),
                    None => turn.end(Ending::failed(not_found(Up::Unknown))),
                },
                Phase::Asking { leg, place, glared } => {
                    let (leg, place, glared) = (*leg, *place, *glared);
                    match seen(reply) {
                        Some(sighting) if sighting.sent == Some(false) => {
                            self.never_sent(leg, place, turn);
                        }
                        Some(sighting) => {
                            let search = Search::begin(&self.call);
                            self.phase = Phase::Doubtful { search, place };
                            self.weigh_doubt(sighting, turn);
                        }
                        None => self.leg_answered(leg, place, glared, &Reply::Silent, turn),
                    }
                }
                Phase::Doubtful { place, .. } => match seen(reply) {
                    Some(sighting) => self.weigh_doubt(sighting, turn),
                    None => self.lost(*place, turn),
                },
                Phase::Glaring { .. }
                | Phase::Restoring { .. }
                | Phase::Marking { .. }
                | Phase::Stack { .. } => {}
            },
            Act::StackHold { .. } => self.stack_answered(reply, turn),
            Act::Invite { .. }
            | Act::CancelInvite { .. }
            | Act::Refer { .. }
            | Act::End { .. }
            | Act::Revoke { .. } => {}
        }
    }

    fn mark(&mut self, held: bool, ending: Ending, turn: &mut Turn<'_>) {
        turn.open(Act::Mark { call: self.call.clone(), held }, turn.plan().times.reply);
        self.phase = Phase::Marking { ending: Box::new(ending) };
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
                let ending = refused_by_stack(self.hold, *code, reason);
                self.leg_failed(leg, place, ending, turn);
            }
            Reply::Refused { by: Refuser::Phone, code: 491, .. } if !glared => {
                let spread = (GLARE_LONGEST - GLARE_SHORTEST).as_millis();
                let part = u64::try_from(turn.now().nonce.0 % spread).unwrap_or_default();
                let at = turn.later(GLARE_SHORTEST + Duration::from_millis(part));
                self.phase = Phase::Glaring { leg, place, at };
            }
            Reply::Refused { by: Refuser::Phone, code, reason } => {
                self.tell_start(leg, turn);
                let status = SipStatus::new(*code, reason);
                let ending = leg_refused(leg, &status);
                self.leg_failed(leg, place, ending, turn);
            }
            Reply::Missing { sighting, .. } if place == Place::First => {
                self.phase = Phase::Missing(Search::begin(&self.call));
                self.weigh(sighting, turn);
            }
            Reply::Missing { sighting, .. } => {
                // It was there a moment ago. Only its state 5 says more than that.
                let over = sighting.call.as_ref().is_some_and(|d| d.state == DialogState::Deleted);
                let up = if over { Up::No } else { Up::Unknown };
                turn.end(Ending::failed(failure(Code::CallEnded, "call ended", up)));
            }
            Reply::NotSent(why) => {
                let (code, text) = not_sent(*why);
                let ending = match place {
                    Place::First => Ending::not_started(failure(code, text, Up::Unknown)),
                    Place::Second => Ending::failed(failure(code, text, Up::Unknown)),
                };
                self.leg_failed(leg, place, ending, turn);
            }
            Reply::Silent => self.lost(place, turn),
        }
    }

    /// Nobody knows whether the leg took its offer.
    fn lost(&mut self, place: Place, turn: &mut Turn<'_>) {
        let ending = Ending::unknown(reply_lost());
        // The last offer of an unhold took the mark off.
        if place == Place::Second && !self.hold {
            self.mark(true, ending, turn);
        } else {
            turn.end(ending);
        }
    }

    /// Nobody answered: its performer may have died before it was sent. The reference script's mark
    /// tells; on every script a call that is not there says what became of the hold.
    fn look_whether_sent(&self, op: &Op, turn: &mut Turn<'_>) {
        let times = turn.plan().times;
        if !turn.plan().capabilities.referral_tokens {
            turn.open(look_at(self.call.clone()), times.look());
            return;
        }
        let waits = u64::try_from(times.send.as_millis()).unwrap_or(u64::MAX);
        let since = StoreTime(op.send_before.0.saturating_sub(waits));
        let sent = Some(Sent { op: op.id.clone(), since });
        let act = Act::Look { call: self.call.clone(), referred_by: None, sent };
        turn.open(act, times.look());
    }

    /// The proxy never sent the offer. Its performer may have marked the call for it before it died.
    fn never_sent(&mut self, leg: Leg, place: Place, turn: &mut Turn<'_>) {
        let (code, text) = not_sent(NotSent::Unreachable);
        let failed = failure(code, text, Up::Unknown);
        match place {
            Place::First if self.hold => self.mark(false, Ending::not_started(failed), turn),
            Place::First => turn.end(Ending::not_started(failed)),
            Place::Second => self.leg_failed(leg, place, Ending::failed(failed), turn),
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
        let unsure = matches!(ending.outcome, Outcome::Unknown { .. });
        match place {
            // An offer that is not taken leaves the mark as it was.
            Place::First => turn.end(ending),
            Place::Second => {
                let offer = offer(!self.hold, false, false);
                let act = Act::ReInvite { call: self.call.clone(), leg: leg.other(), offer };
                turn.open(act, Self::answer(turn));
                self.phase = Phase::Restoring { ending: Box::new(ending), unsure };
            }
        }
    }

    fn due_now(&mut self, turn: &mut Turn<'_>) {
        let at = turn.at();
        match &mut self.phase {
            Phase::Glaring { leg, place, at: then } if *then <= at => {
                let (leg, place) = (*leg, *place);
                self.ask(leg, place, true, turn);
            }
            Phase::Missing(search) | Phase::Doubtful { search, .. } => search.look_if_due(turn),
            Phase::Stack { legs, until } if until.is_some_and(|until| until <= at) => {
                if legs.silent() {
                    let mut search = Search::begin(&self.call);
                    search.look(turn);
                    self.phase = Phase::Doubtful { search, place: Place::First };
                } else {
                    let ending = legs.verdict();
                    turn.end(ending);
                }
            }
            Phase::Asking { .. }
            | Phase::Glaring { .. }
            | Phase::Restoring { .. }
            | Phase::Marking { .. }
            | Phase::Stack { .. } => {}
        }
    }

    fn stack_answered(&mut self, reply: &Reply, turn: &mut Turn<'_>) {
        let times = turn.plan().times;
        let Phase::Stack { legs, until } = &mut self.phase else { return };
        if legs.both_settled() {
            // The events came first, and they are what it was about.
            turn.end(legs.verdict());
            return;
        }
        match reply {
            Reply::Done(_) => {
                legs.answered = true;
                *until = Some(turn.later(legs.wait(times.silence)));
            }
            Reply::Refused { code, reason, .. } => {
                turn.end(refused_by_stack(self.hold, *code, reason));
            }
            Reply::Missing { sighting, .. } => {
                self.phase = Phase::Missing(Search::begin(&self.call));
                self.weigh(sighting, turn);
            }
            Reply::NotSent(why) => {
                let (code, text) = not_sent(*why);
                turn.end(Ending::not_started(failure(code, text, Up::Unknown)));
            }
            Reply::Silent => *until = Some(turn.later(times.silence)),
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
        }
        match state {
            HoldState::Start => {}
            // A retransmitted 200 raises a second ok.
            HoldState::Ok if known(&legs.done) || known(&legs.failed) => {}
            HoldState::Ok => {
                legs.done.push(leg);
                turn.tell(done, of_leg(leg));
            }
            HoldState::Fail if known(&legs.done) || known(&legs.failed) => {}
            HoldState::Fail => legs.failed.push(leg),
        }
        if until.is_none() {
            // The reply is still out. To end before it would leave the call claimed after the end.
            return;
        }
        if legs.both_settled() {
            turn.end(legs.verdict());
        } else {
            *until = Some(turn.later(legs.wait(silence)));
        }
    }

    fn weigh_doubt(&mut self, sighting: &Sighting, turn: &mut Turn<'_>) {
        let Phase::Doubtful { search, place } = &mut self.phase else { return };
        let (place, known) = (*place, *place == Place::Second);
        match search.weigh(sighting, known, &self.life, turn) {
            None => {}
            Some(Finding::Absent) => turn.end(Ending::failed(match place {
                Place::First => not_found(Up::No),
                Place::Second => failure(Code::CallEnded, "call ended", Up::No),
            })),
            Some(Finding::Present(_) | Finding::Lost | Finding::Unknowable) => {
                self.lost(place, turn);
            }
        }
    }

    fn weigh(&mut self, sighting: &Sighting, turn: &mut Turn<'_>) {
        let Phase::Missing(search) = &mut self.phase else { return };
        let Some(finding) = search.weigh(sighting, false, &self.life, turn) else { return };
        match finding {
            Finding::Absent => turn.end(Ending::failed(not_found(Up::No))),
            // It is there after all: ask it, once.
            Finding::Present(_) if !self.anew => {
                self.anew = true;
                self.ask_first(turn);
            }
            Finding::Present(_) => turn.end(Ending::failed(not_found(Up::Unknown))),
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

    /// When its phase runs out of time; while the stack is asked, the operation's time counts.
    pub(crate) fn due(&self) -> Option<StoreTime> {
        match &self.phase {
            Phase::Asking { .. } | Phase::Restoring { .. } | Phase::Marking { .. } => None,
            Phase::Glaring { at, .. } => Some(*at),
            Phase::Missing(search) | Phase::Doubtful { search, .. } => search.due(),
            Phase::Stack { until, .. } => *until,
        }
    }
}

impl StackLegs {
    fn both_settled(&self) -> bool {
        self.done.len() + self.failed.len() == 2
    }

    /// Neither a reply nor an event tells that it was asked at all.
    fn silent(&self) -> bool {
        !self.answered && self.started.is_empty()
    }

    /// How long more events may come: a leg that has nothing to change raises none (fact W5).
    fn wait(&self, silence: Duration) -> Duration {
        let settled = self.done.len() + self.failed.len() == self.started.len();
        if settled { NOTHING_TO_CHANGE } else { silence }
    }

    /// What the events and the reply amount to.
    fn verdict(&self) -> Ending {
        let unsettled = |leg: &&Leg| !self.done.contains(leg) && !self.failed.contains(leg);
        if let Some(leg) = self.failed.first() {
            let text = format!("{}: refused", leg.as_str());
            return Ending::failed(failure(Code::LegRefused, &text, Up::Yes));
        }
        if let Some(leg) = self.started.iter().find(unsettled) {
            let text = format!("{}: {}", leg.as_str(), SipStatus::timeout());
            return Ending::unknown(failure(Code::LegTimeout, &text, Up::Unknown));
        }
        if self.silent() {
            return Ending::unknown(reply_lost());
        }
        let mut ending = Ending::success();
        ending.remarks.already = self.started.is_empty();
        ending
    }
}

fn offer(hold: bool, first: bool, last: bool) -> Offer {
    if hold { Offer::Hold { first } } else { Offer::Resume { first, last } }
}

fn of_leg(leg: Leg) -> Data {
    Data { leg: Some(leg), ..Data::default() }
}

fn reply_lost() -> Failure {
    failure(Code::ReplyLost, "stack unreachable", Up::Unknown)
}

fn not_found(up: Up) -> Failure {
    failure(Code::CallNotFound, "404 Dialog not found", up)
}

/// One leg took it, the other did not, and the first could not be put back: a leg may be held.
fn left_halfway(ending: Ending, reply: &Reply) -> Ending {
    let ending = match ending.error {
        Some(error) => Ending::unknown(error),
        None => ending,
    };
    match reply {
        Reply::Refused { by: Refuser::Phone, .. } | Reply::Done(_) => ending,
        // Nothing was heard of the call since.
        Reply::Refused { by: Refuser::Stack, .. }
        | Reply::Missing { .. }
        | Reply::NotSent(_)
        | Reply::Silent => ending.with_up(Up::Unknown),
    }
}

/// A refusal by the stack itself, before anything was sent.
fn refused_by_stack(hold: bool, code: u16, reason: &str) -> Ending {
    let word = match code {
        480 if hold => Code::AlreadyHeld,
        480 => Code::NotHeld,
        410 => Code::CallNotReady,
        488 => Code::NoMedia,
        _ => Code::StackRefused,
    };
    Ending::failed(failure(word, &format!("{code} {reason}"), Up::Yes))
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
