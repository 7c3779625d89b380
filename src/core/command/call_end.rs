//! `CallEnd`: end a call. Never refused, safe to repeat, told at state 5 or after F.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::absence::{Absence, Finding};
use super::call_start::{failure, seen};
use super::closing::{look_at, not_sent};
use super::transfer::stack_refused;
use super::turn::Turn;
use super::{Ending, Fact};
use crate::core::act::{Act, DialogState, Reply, Sighting};
use crate::core::failure::{Code, Up};
use crate::core::ids::CallId;
use crate::core::stack_event::StackEvent;
use crate::core::time::StoreTime;

/// A running `CallEnd`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The call.
    pub(crate) call: CallId,
    phase: Phase,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    /// It was asked for; state 5 is awaited. `answered`: the stack said OK.
    Ending { until: StoreTime, answered: bool, tries: u8 },
    /// It was not found: looks decide whether it is really not there. `at`: the next one; none
    /// while one is under way.
    Missing { absence: Absence, at: Option<StoreTime> },
}

/// A 200 that crosses our CANCEL brings the call up once; more than this is no crossing.
const MOST_TRIES: u8 = 4;

impl End {
    /// Begins. Also says how long it may take at most.
    pub(crate) fn begin(call: &CallId, turn: &mut Turn<'_>) -> (Self, Duration) {
        let times = turn.plan().times;
        let state = Self { call: call.clone(), phase: Self::ask(call, 1, turn) };
        // A lost reply, a first look that was wrong, and crossings: each asks once more.
        let one = times.within(times.look()) + times.silence;
        (state, one * u32::from(MOST_TRIES) + times.absent())
    }

    fn ask(call: &CallId, tries: u8, turn: &mut Turn<'_>) -> Phase {
        let times = turn.plan().times;
        turn.open(Act::End { call: call.clone() }, times.look());
        let until = turn.later(times.within(times.look()) + times.silence);
        Phase::Ending { until, answered: false, tries }
    }

    /// Takes a fact.
    pub(crate) fn apply(&mut self, fact: &Fact<'_>, turn: &mut Turn<'_>) {
        match fact {
            Fact::Event(StackEvent::Dialog { call, state, .. }) if *call == self.call => {
                self.dialog_changed(*state, turn);
            }
            Fact::Event(StackEvent::Restarted { .. }) => {
                if !turn.plan().capabilities.persists_dialogs {
                    let text = "stack restarted";
                    turn.end(Ending::unknown(failure(Code::StackRestarted, text, Up::Unknown)));
                }
            }
            Fact::Event(
                StackEvent::Dialog { .. }
                | StackEvent::Transfer { .. }
                | StackEvent::Referral { .. }
                | StackEvent::Hold { .. },
            ) => {}
            Fact::Reply(op, reply) => match &op.act {
                Act::End { .. } => self.end_answered(reply, turn),
                Act::Look { .. } => match seen(reply) {
                    Some(sighting) => self.weigh(sighting, turn),
                    None => self.unfindable(turn),
                },
                Act::Invite { .. }
                | Act::CancelInvite { .. }
                | Act::Refer { .. }
                | Act::ReInvite { .. }
                | Act::StackHold { .. }
                | Act::Mark { .. }
                | Act::Revoke { .. } => {}
            },
            Fact::Due => self.due_now(turn),
            // Two ends of one call want the same.
            Fact::GiveUp => {}
        }
    }

    fn dialog_changed(&mut self, state: DialogState, turn: &mut Turn<'_>) {
        match (state, &self.phase) {
            (DialogState::Deleted, Phase::Ending { .. } | Phase::Missing { .. }) => {
                turn.end(Ending::success());
            }
            (DialogState::Answered | DialogState::Confirmed, phase) => {
                // It rang when we asked; the 200 crossed the CANCEL. Or it was not there yet.
                let again = match phase {
                    Phase::Ending { answered: true, tries, .. } if *tries < MOST_TRIES => {
                        *tries + 1
                    }
                    Phase::Missing { .. } => 2,
                    Phase::Ending { .. } => return,
                };
                self.phase = Self::ask(&self.call, again, turn);
            }
            (DialogState::Unconfirmed | DialogState::Early, _) => {}
        }
    }

    fn end_answered(&mut self, reply: &Reply, turn: &mut Turn<'_>) {
        let times = turn.plan().times;
        let Phase::Ending { until, answered, tries } = &mut self.phase else { return };
        match reply {
            Reply::Done(_) => {
                *answered = true;
                *until = turn.later(times.silence);
            }
            Reply::Missing { sighting, .. } if *tries == 1 => {
                self.phase = Phase::Missing { absence: Absence::default(), at: None };
                self.weigh(sighting, turn);
            }
            // Ended before and gone now.
            Reply::Missing { .. } => turn.end(Ending::success()),
            Reply::Refused { code, reason, .. } => {
                turn.end(Ending::failed(stack_refused(*code, reason, Up::Unknown)));
            }
            Reply::NotSent(why) => {
                let (code, text) = not_sent(*why);
                turn.end(Ending::not_started(failure(code, text, Up::Unknown)));
            }
            // Ending is safe: the timer asks again.
            Reply::Silent => *until = turn.at(),
        }
    }

    fn due_now(&mut self, turn: &mut Turn<'_>) {
        let times = turn.plan().times;
        match &mut self.phase {
            Phase::Ending { until, .. } if *until > turn.at() => {}
            // The stack said OK, the BYEs are out: told at state 5, at the latest now.
            Phase::Ending { answered: true, .. } => turn.end(Ending::success()),
            Phase::Ending { tries, .. } if *tries < 2 => {
                let again = *tries + 1;
                self.phase = Self::ask(&self.call, again, turn);
            }
            Phase::Ending { .. } => {
                let text = "stack unreachable";
                turn.end(Ending::unknown(failure(Code::ReplyLost, text, Up::Unknown)));
            }
            Phase::Missing { at, .. } if at.is_some_and(|at| at <= turn.at()) => {
                *at = None;
                turn.open(look_at(self.call.clone()), times.look());
            }
            Phase::Missing { .. } => {}
        }
    }

    fn weigh(&mut self, sighting: &Sighting, turn: &mut Turn<'_>) {
        let Phase::Missing { absence, at } = &mut self.phase else { return };
        match absence.see(sighting, false, turn) {
            Finding::Absent => {
                let text = "404 Requested Dialog not found";
                turn.end(Ending::failed(failure(Code::CallNotFound, text, Up::No)));
            }
            Finding::LookAgain(then) => *at = Some(then),
            Finding::Present(_) => {
                self.phase = Self::ask(&self.call, 2, turn);
            }
            Finding::Lost | Finding::Unknowable => self.unfindable(turn),
        }
    }

    fn unfindable(&mut self, turn: &mut Turn<'_>) {
        let text = "404 Requested Dialog not found";
        turn.end(Ending::unknown(failure(Code::CallNotFound, text, Up::Unknown)));
    }

    /// When its phase runs out of time.
    pub(crate) fn due(&self) -> Option<StoreTime> {
        match &self.phase {
            Phase::Ending { until, .. } => Some(*until),
            Phase::Missing { at, .. } => *at,
        }
    }
}
