//! Which stack a call is at, as far as events told. A hint that saves asking them all.

use std::collections::{BTreeMap, VecDeque};

use super::Engine;
use crate::core::act::{Act, DialogState, Op, Reply};
use crate::core::command::look::look_at;
use crate::core::ids::{CallId, StackId};
use crate::core::stack_event::StackEvent;
use crate::stack::{SipStack as _, Stacks};
use crate::store::Store;

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

impl<S: Store, K: Stacks> Engine<S, K> {
    /// Whether a stack has a call now.
    pub(super) async fn has_call(&self, stack: &StackId, call: &CallId) -> bool {
        let Some(adapter) = self.stacks.get(stack) else { return false };
        let reply = adapter.perform(&self.op_of_nobody(stack, look_at(call.clone()))).await;
        match reply {
            Reply::Done(crate::core::act::Facts::Looked(sighting)) => sighting.call.is_some(),
            Reply::Done(_)
            | Reply::Refused { .. }
            | Reply::Missing { .. }
            | Reply::NotSent(_)
            | Reply::Silent => false,
        }
    }

    /// A safe operation that belongs to no command.
    pub(super) fn op_of_nobody(&self, stack: &StackId, act: Act) -> Op {
        let now = self.now();
        let times = self.settings.times_at.get(stack).unwrap_or(&self.settings.times);
        let send_before = now.at.after(times.send);
        let reply_by = send_before.after(times.look());
        Op { id: now.op(0), by: now.pod, stack: stack.clone(), act, send_before, reply_by }
    }
}
