//! The orphan rule: a setup leg of our own install that no running command knows is ended.
//!
//! Nothing fences the stack itself, so an INVITE of a pod that died, or one that crossed its
//! cancel, may bring up a leg after its command is over. Our Call-IDs are recognisable; another
//! install's legs are never touched. What is noted is in the memory of one process; should that
//! one fall silent, whoever leads the stack finds it in another list.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Engine, lock};
use crate::core::act::{Act, DialogState, Reply};
use crate::core::command::Command;
use crate::core::ids::{CallId, StackId};
use crate::core::stack_event::{StackEvent, Watch};
use crate::core::time::StoreTime;
use crate::stack::Stacks;
use crate::store::{Find, Store};

/// How old a leg must be before it is nobody's: its command's own commit may be on its way.
const OLD_ENOUGH: Duration = Duration::from_secs(10);

/// Most legs that are noted at a time; a list at the next join finds the others.
const MOST: usize = 10_000;

/// Legs of ours that no command watched when they were seen.
#[derive(Default)]
pub struct Orphans {
    seen: BTreeMap<(StackId, CallId), StoreTime>,
}

impl Orphans {
    /// Whether there are legs that only this process is to end.
    pub(super) fn are_noted(&self) -> bool {
        !self.seen.is_empty()
    }
}

impl<S: Store, K: Stacks> Engine<S, K> {
    /// Notes a leg of ours that nobody watches, and forgets one that ended.
    pub(super) fn note_orphan(&self, stack: &StackId, event: &StackEvent, watched: bool) {
        let StackEvent::Dialog { call, state, .. } = event else { return };
        if !call.is_setup_of(&self.settings.install) {
            return;
        }
        if *state == DialogState::Deleted || watched {
            lock(&self.orphans).seen.remove(&(stack.clone(), call.clone()));
            return;
        }
        self.note(stack.clone(), call.clone());
    }

    /// A command ended, and its setup leg may be up: no event may ever say so.
    pub(super) fn note_left_leg(&self, ended: &Command) {
        if let Some(call) = ended.orphan() {
            self.note(ended.plan.stack.clone(), call.clone());
        }
    }

    /// Ends those that are old enough. Returns when the next one will be.
    pub(super) fn end_orphans(self: &Arc<Self>, now: StoreTime) -> Option<StoreTime> {
        let mut orphans = lock(&self.orphans);
        let old: Vec<_> =
            orphans.seen.iter().filter(|(_, at)| **at <= now).map(|(p, _)| p.clone()).collect();
        for place in &old {
            orphans.seen.remove(place);
        }
        let next = orphans.seen.values().min().copied();
        drop(orphans);
        for (stack, call) in old {
            let engine = Arc::clone(self);
            self.host.spawn(Box::pin(async move { engine.end_orphan(stack, call).await }));
        }
        next
    }

    async fn end_orphan(self: &Arc<Self>, stack: StackId, call: CallId) {
        let watch = Find::Watching(stack.clone(), vec![Watch::Call(call.clone())]);
        let watched = self.store.find(watch).await;
        if watched.as_ref().is_ok_and(|by| !by.is_empty()) {
            return;
        }
        let ended = if watched.is_ok() {
            match self.perform_straight(&stack, Act::End { call: call.clone() }).await {
                Reply::Done(_) => {
                    tracing::warn!(%stack, "a setup leg that no command knows was ended");
                    true
                }
                Reply::Refused { .. } | Reply::Missing { .. } => true,
                Reply::NotSent(_) | Reply::Silent => false,
            }
        } else {
            // A store that is away can't say whose leg it is.
            false
        };
        if !ended {
            self.note(stack, call);
        }
    }

    fn note(&self, stack: StackId, call: CallId) {
        let at = self.clock.now().after(OLD_ENOUGH);
        let mut orphans = lock(&self.orphans);
        let place = (stack, call);
        if orphans.seen.len() < MOST && !orphans.seen.contains_key(&place) {
            orphans.seen.insert(place, at);
            drop(orphans);
            self.host.wake_at(at);
        }
    }
}
