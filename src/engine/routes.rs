//! Which stack a call is at, as far as events told. A hint that saves asking them all.

use std::collections::{BTreeMap, VecDeque};

use crate::core::act::DialogState;
use crate::core::ids::{CallId, StackId};
use crate::core::stack_event::StackEvent;

/// Most calls that are remembered; older ones are asked for.
const MOST: usize = 100_000;

/// Calls and their stacks.
#[derive(Default)]
pub struct Routes {
    stack_of: BTreeMap<CallId, StackId>,
    order: VecDeque<CallId>,
}

impl Routes {
    /// Learns from an event.
    pub(super) fn note(&mut self, stack: &StackId, event: &StackEvent) {
        let StackEvent::Dialog { call, state, .. } = event else { return };
        if *state == DialogState::Deleted {
            self.stack_of.remove(call);
            return;
        }
        if self.stack_of.insert(call.clone(), stack.clone()).is_some() {
            return;
        }
        self.order.push_back(call.clone());
        while self.order.len() > MOST {
            if let Some(oldest) = self.order.pop_front() {
                self.stack_of.remove(&oldest);
            }
        }
    }

    /// The stack that reported the call last.
    pub(super) fn of(&self, call: &CallId) -> Option<StackId> {
        self.stack_of.get(call).cloned()
    }
}
