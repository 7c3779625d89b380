//! Proving that a call is not there.
//!
//! A look-up that finds nothing proves nothing: OpenSIPS answered 404 for 136 of 200 calls that
//! were being set up (sip-outcomes F4). A call is absent when two full lists of one life of the
//! stack, 7 s apart, do not show it. A call that nobody has heard of lately needs only one.

use serde::{Deserialize, Serialize};

use super::life::Life;
use super::turn::Turn;
use crate::core::act::{Dialog, DialogState, Sighting};
use crate::core::ids::Boot;
use crate::core::time::StoreTime;

/// How far a proof of absence is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absence {
    /// The first full list without the call: when, and of which life of the stack.
    first: Option<(StoreTime, Boot)>,
}

/// What the looks so far amount to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// It is there.
    Present(Box<Dialog>),
    /// It is not there.
    Absent,
    /// Look again then.
    LookAgain(StoreTime),
    /// The stack restarted between the looks, so what it forgot may still be up.
    Lost,
    /// There is no complete list to be had, or what was found hides the call.
    Unknowable,
}

impl Absence {
    /// Takes one look into account. `known`: the command itself has met the call, so one list is
    /// never enough. `life`: what was seen of its dialogs.
    pub(crate) fn see(
        &mut self,
        sighting: &Sighting,
        known: bool,
        life: &Life,
        turn: &Turn<'_>,
    ) -> Finding {
        if let Some(dialog) = &sighting.call {
            return match dialog.state {
                // A look by Call-ID stops at the dead dialog in front of the live one.
                DialogState::Deleted if life.is_beside(&dialog.id) => Finding::Unknowable,
                DialogState::Deleted => Finding::Absent,
                DialogState::Unconfirmed
                | DialogState::Early
                | DialogState::Answered
                | DialogState::Confirmed => Finding::Present(dialog.clone()),
            };
        }
        if !sighting.full {
            return Finding::Unknowable;
        }
        if !known && !sighting.named_recently {
            return Finding::Absent;
        }
        let apart = turn.plan().times.absence;
        match &self.first {
            None => {
                self.first = Some((turn.at(), sighting.boot.clone()));
                Finding::LookAgain(turn.later(apart))
            }
            Some((_, boot)) if *boot != sighting.boot => Finding::Lost,
            Some((since, _)) if since.after(apart) > turn.at() => {
                Finding::LookAgain(since.after(apart))
            }
            Some(_) => Finding::Absent,
        }
    }
}
