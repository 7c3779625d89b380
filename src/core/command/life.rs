//! Whether a call is alive, by the dialogs that were seen of it.
//!
//! Two dialogs may carry one Call-ID: an INVITE that was challenged leaves a dead one beside the
//! live one (fact F4). The end of the dead one is not the call's.

use serde::{Deserialize, Serialize};

use crate::core::act::DialogState;
use crate::core::ids::DialogId;

/// What was seen of a call's dialogs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// The one that was seen alive last, and that has not ended.
    live: Option<DialogId>,
    /// The one that is alive was answered.
    answered: bool,
    /// The one that ended last.
    ended: Option<DialogId>,
}

impl Life {
    /// Takes a dialog in a state that it was seen in. Says whether the call is over by that: the
    /// dialog that was alive last ended, or one did and none was alive.
    pub(crate) fn see(&mut self, dialog: &DialogId, state: DialogState) -> bool {
        match state {
            DialogState::Deleted => {
                let ends = self.live.as_ref().is_none_or(|live| live == dialog);
                if ends {
                    *self = Self { live: None, answered: false, ended: Some(dialog.clone()) };
                }
                ends
            }
            DialogState::Unconfirmed
            | DialogState::Early
            | DialogState::Answered
            | DialogState::Confirmed => {
                // An event that comes after the end of its dialog is only late.
                if self.ended.as_ref() != Some(dialog) {
                    let answered = matches!(state, DialogState::Answered | DialogState::Confirmed);
                    self.answered = answered || (self.answered && self.is(dialog));
                    self.live = Some(dialog.clone());
                }
                false
            }
        }
    }

    /// Whether this dialog is the one that is alive.
    pub(crate) fn is(&self, dialog: &DialogId) -> bool {
        self.live.as_ref() == Some(dialog)
    }

    /// Whether it was seen alive, and no end since.
    pub(crate) fn is_alive(&self) -> bool {
        self.live.is_some()
    }

    /// Whether another dialog than this one is alive: that this one is dead says nothing then.
    pub(crate) fn is_beside(&self, dialog: &DialogId) -> bool {
        self.is_alive() && !self.is(dialog)
    }

    /// Whether it was seen answered, and no end since.
    pub(crate) fn is_answered(&self) -> bool {
        self.is_alive() && self.answered
    }

    /// Whether it was seen to end, and nothing alive since.
    pub(crate) fn is_over(&self) -> bool {
        self.live.is_none() && self.ended.is_some()
    }
}
