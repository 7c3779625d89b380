//! `CallEnd`: end a call. Never refused, safe to repeat, told at state 5, or by a look after F.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::absence::{Finding, Search};
use super::closing::EVENTS_APART;
use super::life::Life;
use super::look::{look_at, seen};
use super::turn::Turn;
use super::words::{failure, not_sent, restarted, stack_refused};
use super::{Ending, Fact};
use crate::core::act::{Act, DialogState, Reply, Sighting};
use crate::core::failure::{Code, Up};
use crate::core::ids::{CallId, DialogId};
use crate::core::stack_event::StackEvent;
use crate::core::time::StoreTime;

/// A running `CallEnd`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The call.
    pub(crate) call: CallId,
    /// How often the stack was asked to end it.
    tries: u8,
    /// What was learned of it so far.
    known: Known,
    phase: Phase,
}

/// What was learned of the call; it outlives a try.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    /// Its dialogs.
    life: Life,
    /// It was seen alive.
    met: bool,
    /// The stack said OK to a try.
    accepted: bool,
    /// A try was never answered: it may have been carried out.
    unsure: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    /// It was asked for; state 5 is awaited. `answered`: the stack said OK to this try.
    /// `crossed`: the call was seen answered after this try began.
    Ending { until: StoreTime, answered: bool, crossed: bool },
    /// The stack said OK, and no event told that it is over: a look tells whether it came up
    /// meanwhile.
    Checking,
    /// It was not found: looks decide whether it is really not there.
    Missing(Search),
}

/// A lost reply, a first look that was wrong, and a 200 that crosses our CANCEL: each asks once
/// more.
const MOST_TRIES: u8 = 4;

/// How many tries may lead to the proof that the call is not there.
const MOST_PROOFS: u8 = 2;

/// How a call ended that was ended without a command: nothing could be recorded. There is one try,
/// and nobody waits for the call's last event.
#[must_use]
pub fn ended_straight(reply: &Reply) -> Ending {
    match reply {
        Reply::Done(_) => Ending::success(),
        // One look, without events, does not prove that it is not there.
        Reply::Missing { .. } => {
            Ending::failed(failure(Code::CallNotFound, "404 Dialog not found", Up::Unknown))
        }
        Reply::Refused { code, reason, .. } => {
            Ending::failed(stack_refused(*code, reason, Up::Unknown))
        }
        Reply::NotSent(why) => {
            let (code, text) = not_sent(*why);
            Ending::not_started(failure(code, text, Up::Unknown))
        }
        Reply::Silent => Ending::unknown(failure(Code::ReplyLost, "call not ended", Up::Unknown)),
    }
}

impl End {
    /// Begins. Also says how long it may take at most.
    pub(crate) fn begin(call: &CallId, turn: &mut Turn<'_>) -> (Self, Duration) {
        let times = turn.plan().times;
        let (call, known) = (call.clone(), Known::default());
        let state = Self { phase: Self::ask(&call, turn), call, tries: 1, known };
        let one = times.within(times.look()) * 2 + times.silence;
        (state, one * u32::from(MOST_TRIES) + times.absent() * u32::from(MOST_PROOFS))
    }

    fn ask(call: &CallId, turn: &mut Turn<'_>) -> Phase {
        let times = turn.plan().times;
        turn.open(Act::End { call: call.clone() }, times.look());
        let until = turn.later(times.within(times.look()) + times.silence);
        Phase::Ending { until, answered: false, crossed: false }
    }

    /// Asks once more, unless that was done often enough.
    fn ask_again(&mut self, turn: &mut Turn<'_>) {
        if self.tries < MOST_TRIES {
            self.tries += 1;
            self.phase = Self::ask(&self.call, turn);
        } else {
            turn.end(Ending::unknown(failure(Code::ReplyLost, "call not ended", Up::Unknown)));
        }
    }

    /// Takes a fact.
    pub(crate) fn apply(&mut self, fact: &Fact<'_>, turn: &mut Turn<'_>) {
        match fact {
            Fact::Event(StackEvent::Dialog { call, dialog, state }) if *call == self.call => {
                self.dialog_changed(dialog, *state, turn);
            }
            Fact::Event(StackEvent::Restarted(_)) => {
                if !turn.plan().capabilities.persists_dialogs {
                    turn.end(restarted());
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
                    _ if self.phase == Phase::Checking => self.checked(seen(reply), turn),
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
            Fact::GiveUp { .. } => {}
        }
    }

    fn dialog_changed(&mut self, dialog: &DialogId, state: DialogState, turn: &mut Turn<'_>) {
        if self.known.life.see(dialog, state) {
            turn.end(Ending::success());
            return;
        }
        match state {
            // Another dialog of that Call-ID, long dead.
            DialogState::Deleted => {}
            DialogState::Unconfirmed | DialogState::Early => self.known.met = true,
            DialogState::Answered | DialogState::Confirmed => {
                self.known.met = true;
                match &mut self.phase {
                    // Whether that was before the stack took our request is not known: if it does
                    // not end soon, what was sent was a CANCEL, and it is asked again.
                    Phase::Ending { until, answered, crossed } => {
                        *crossed = true;
                        if *answered {
                            *until = (*until).min(turn.later(EVENTS_APART));
                        }
                    }
                    Phase::Missing { .. } | Phase::Checking => self.ask_again(turn),
                }
            }
        }
    }

    fn end_answered(&mut self, reply: &Reply, turn: &mut Turn<'_>) {
        let times = turn.plan().times;
        let Phase::Ending { until, answered, crossed } = &mut self.phase else { return };
        let may_have_been_sent = self.known.accepted || self.known.unsure;
        match reply {
            Reply::Done(_) => {
                (*answered, self.known.accepted) = (true, true);
                *until = turn.later(if *crossed { EVENTS_APART } else { times.silence });
            }
            // Ended before and gone now.
            Reply::Missing { sighting, .. }
                if self.known.accepted && !*crossed && sighting.full.is_some() =>
            {
                turn.end(Ending::success());
            }
            Reply::Missing { .. } if self.tries > MOST_PROOFS => self.unfindable(turn),
            Reply::Missing { sighting, .. } => {
                self.phase = Phase::Missing(Search::begin(&self.call));
                self.weigh(sighting, turn);
            }
            Reply::Refused { code, reason, .. } => {
                let refused = stack_refused(*code, reason, Up::Unknown);
                turn.end(if may_have_been_sent {
                    Ending::unknown(refused)
                } else {
                    Ending::failed(refused)
                });
            }
            Reply::NotSent(why) => {
                let (code, text) = not_sent(*why);
                let unsent = failure(code, text, Up::Unknown);
                turn.end(if may_have_been_sent {
                    Ending::unknown(unsent)
                } else {
                    Ending::not_started(unsent)
                });
            }
            // Ending is safe: the timer asks again.
            Reply::Silent => *until = turn.at(),
        }
    }

    fn due_now(&mut self, turn: &mut Turn<'_>) {
        match &mut self.phase {
            Phase::Ending { until, .. } if *until > turn.at() => {}
            // The BYEs are out, and are given up by now. What was sent was a CANCEL, though, if it
            // still rang, and its answer may have crossed that.
            Phase::Ending { answered: true, crossed: false, .. } => {
                turn.open(look_at(self.call.clone()), turn.plan().times.look());
                self.phase = Phase::Checking;
            }
            Phase::Ending { answered: true, crossed: true, .. } => self.ask_again(turn),
            Phase::Ending { answered: false, .. } if self.known.unsure => {
                let text = "stack unreachable";
                turn.end(Ending::unknown(failure(Code::ReplyLost, text, Up::Unknown)));
            }
            Phase::Ending { answered: false, .. } => {
                self.known.unsure = true;
                self.ask_again(turn);
            }
            Phase::Checking => {}
            Phase::Missing(search) => search.look_if_due(turn),
        }
    }

    fn checked(&mut self, seen: Option<&Sighting>, turn: &mut Turn<'_>) {
        let is_listed = seen.is_some_and(|sighting| sighting.full.is_some());
        match seen.map(|sighting| sighting.call.as_ref()) {
            Some(None) if is_listed => turn.end(Ending::success()),
            // Nobody could say: a 404 without a list is a hint (F4).
            None | Some(None) => self.ask_again(turn),
            // A look by Call-ID stops at the dead dialog in front of the live one.
            Some(Some(dialog)) if dialog.state == DialogState::Deleted => {
                if self.known.life.is_beside(&dialog.id) {
                    self.ask_again(turn);
                } else {
                    turn.end(Ending::success());
                }
            }
            Some(Some(dialog)) => {
                self.known.met = true;
                self.known.life.see(&dialog.id, dialog.state);
                self.ask_again(turn);
            }
        }
    }

    fn weigh(&mut self, sighting: &Sighting, turn: &mut Turn<'_>) {
        let Phase::Missing(search) = &mut self.phase else {
            // An event brought the call back before this look did: what it saw is news all the same.
            if let Some(dialog) = &sighting.call {
                self.dialog_changed(&dialog.id, dialog.state, turn);
            }
            return;
        };
        let known = &self.known;
        let Some(finding) = search.weigh(sighting, known.met, &known.life, turn) else { return };
        match finding {
            // It was there, or the stack took it for one that is; now it is over.
            Finding::Absent if self.known.met || self.known.accepted => {
                turn.end(Ending::success());
            }
            Finding::Absent => {
                let text = "404 Requested Dialog not found";
                turn.end(Ending::failed(failure(Code::CallNotFound, text, Up::No)));
            }
            Finding::Present(dialog) => {
                self.known.met = true;
                self.known.life.see(&dialog.id, dialog.state);
                self.ask_again(turn);
            }
            Finding::Unknowable if self.known.life.is_alive() => self.ask_again(turn),
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
            Phase::Checking => None,
            Phase::Missing(search) => search.due(),
        }
    }
}
