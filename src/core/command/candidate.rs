//! A call that a stock script's events name, before it is known whose it is.
//!
//! It is looked at once; what is told of it meanwhile is kept, and applied once it is believed.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::core::act::DialogState;
use crate::core::ids::{CallId, DialogId};
use crate::core::stack_event::TransferState;

/// How many reports and dialogs of one call are kept. A forger gets no more of our memory than this.
const MOST: usize = 8;

/// A call that may be the referred one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Candidate {
    pub call: CallId,
    pub destination: Option<Arc<str>>,
    /// What was reported of it, in order.
    pub reported: Vec<TransferState>,
    /// Which of its dialogs was told of last, and how far it was seen to come.
    last: Option<(DialogId, DialogState)>,
    /// Its other dialogs: an INVITE that was challenged leaves a dead one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    others: Vec<(DialogId, DialogState)>,
    #[serde(default, skip_serializing_if = "Looked::is_not_yet")]
    pub looked: Looked,
}

/// Whether it was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Looked {
    /// The look is under way.
    #[default]
    NotYet,
    /// It was not to be seen, which proves nothing (fact F4).
    Unseen,
    /// It is between these.
    Seen { from: Arc<str>, to: Arc<str> },
}

impl Looked {
    /// Whether the look is under way.
    pub fn is_not_yet(&self) -> bool {
        *self == Self::NotYet
    }
}

impl Candidate {
    /// An event named it, and reports this.
    pub fn named(call: CallId, destination: Option<Arc<str>>, state: TransferState) -> Self {
        Self {
            call,
            destination,
            reported: vec![state],
            last: None,
            others: Vec::new(),
            looked: Looked::NotYet,
        }
    }

    /// An event reports this of it.
    pub fn report(&mut self, state: &TransferState) {
        if self.reported.len() < MOST && !self.reported.contains(state) {
            self.reported.push(state.clone());
        }
    }

    /// One of its dialogs was seen in this state; an event may come after a later one.
    pub fn see(&mut self, dialog: &DialogId, mut state: DialogState) {
        if let Some(at) = self.others.iter().position(|(known, _)| known == dialog) {
            state = state.max(self.others.remove(at).1);
        }
        match self.last.take() {
            Some((known, before)) if known == *dialog => state = state.max(before),
            Some(other) if self.others.len() < MOST => self.others.push(other),
            Some(_) | None => {}
        }
        self.last = Some((dialog.clone(), state));
    }

    /// Each of its dialogs and how far it came, the one told of last at the end.
    pub fn dialogs(&self) -> impl Iterator<Item = &(DialogId, DialogState)> {
        self.others.iter().chain(&self.last)
    }
}
