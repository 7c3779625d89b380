//! Which dialog of a call is meant: two may carry one Call-ID, and one of them is long dead.
//!
//! An INVITE that was challenged leaves a dead dialog beside the live one (sip-outcomes F4). Its
//! end is not the call's.

use serde::{Deserialize, Serialize};

use crate::core::act::DialogState;
use crate::core::ids::DialogId;

/// The dialog of a call that was seen alive last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Live(Option<DialogId>);

impl Live {
    /// Takes a dialog in a state that it was seen in. Says whether the call is over by that: the
    /// dialog that was alive last ended, or one did and none was ever seen alive.
    pub(crate) fn ends(&mut self, dialog: &DialogId, state: DialogState) -> bool {
        match state {
            DialogState::Deleted => self.0.as_ref().is_none_or(|live| live == dialog),
            DialogState::Unconfirmed
            | DialogState::Early
            | DialogState::Answered
            | DialogState::Confirmed => {
                self.0 = Some(dialog.clone());
                false
            }
        }
    }
}
