//! Proving that a call is not there.
//!
//! A look-up that finds nothing proves nothing: OpenSIPS answered 404 for 136 of 200 calls that
//! were being set up (fact F4). A call is absent when two full lists of one life of the
//! stack, 7 s apart, do not show it. A call that nobody has heard of lately needs only one.

use serde::{Deserialize, Serialize};

use super::life::Life;
use super::look::look_at;
use super::turn::Turn;
use crate::core::act::{Dialog, DialogState, Sighting};
use crate::core::ids::{Boot, CallId};
use crate::core::stack_event::Uptime;
use crate::core::time::StoreTime;

/// The search for a call that was not found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Search {
    call: CallId,
    /// The first full list without the call: when, and of which life of the stack.
    first: Option<(StoreTime, Boot)>,
    /// The next look; none while one is under way.
    at: Option<StoreTime>,
}

/// What the looks so far amount to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// It is there.
    Present(Box<Dialog>),
    /// It is not there.
    Absent,
    /// The stack restarted between the looks, so what it forgot may still be up.
    Lost,
    /// There is no complete list to be had, or what was found hides the call.
    Unknowable,
}

impl Search {
    /// Begins, with a look under way or just made.
    pub(crate) fn begin(call: &CallId) -> Self {
        Self { call: call.clone(), first: None, at: None }
    }

    /// The call.
    pub(crate) fn call(&self) -> &CallId {
        &self.call
    }

    /// When the next look is due; while one is under way, its operation's time counts.
    pub(crate) fn due(&self) -> Option<StoreTime> {
        self.at
    }

    /// Looks again then.
    pub(crate) fn again(&mut self, at: StoreTime) {
        self.at = Some(at);
    }

    /// A look is under way.
    pub(crate) fn looks(&mut self) {
        self.at = None;
    }

    /// Looks.
    pub(crate) fn look(&mut self, turn: &mut Turn<'_>) {
        self.looks();
        turn.open(look_at(self.call.clone()), turn.plan().times.look());
    }

    /// Looks if it is time.
    pub(crate) fn look_if_due(&mut self, turn: &mut Turn<'_>) {
        if self.at.is_some_and(|at| at <= turn.at()) {
            self.look(turn);
        }
    }

    /// Takes one look into account. `known`: the command itself has met the call, so one list is
    /// never enough. `life`: what was seen of its dialogs. `None`: it looks again.
    pub(crate) fn weigh(
        &mut self,
        sighting: &Sighting,
        known: bool,
        life: &Life,
        turn: &Turn<'_>,
    ) -> Option<Finding> {
        if let Some(dialog) = &sighting.call {
            return Some(match dialog.state {
                // A look by Call-ID stops at the dead dialog in front of the live one.
                DialogState::Deleted if life.is_beside(&dialog.id) => Finding::Unknowable,
                DialogState::Deleted => Finding::Absent,
                DialogState::Unconfirmed
                | DialogState::Early
                | DialogState::Answered
                | DialogState::Confirmed => Finding::Present(dialog.clone()),
            });
        }
        let Some(Uptime { boot: seen, .. }) = &sighting.full else {
            return Some(Finding::Unknowable);
        };
        if !known && !sighting.named_recently {
            return Some(Finding::Absent);
        }
        let apart = turn.plan().times.absence;
        let (since, boot) = self.first.get_or_insert_with(|| (turn.at(), seen.clone()));
        if boot != seen {
            return Some(Finding::Lost);
        }
        let second = since.after(apart);
        if second <= turn.at() {
            return Some(Finding::Absent);
        }
        self.at = Some(second);
        None
    }
}
