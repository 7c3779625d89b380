//! What still works while the store is away: to end a call, and to give a command up that this
//! process knows of. Both are safe to repeat, so they go to the stack without a record.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::owed::Owed;
use super::{Engine, lock};
use crate::core::act::{Act, Op, Repeat, Reply};
use crate::core::command::call_end::ended_straight;
use crate::core::command::{Ending, Input};
use crate::core::ids::{CallId, StackId};
use crate::core::record::{Key, Record};
use crate::core::time::StoreTime;
use crate::stack::{SipStack as _, Stacks};
use crate::store::Store;

/// Running commands as this process knew them last. Others may have moved them on.
#[derive(Default)]
pub struct AtHand {
    of: BTreeMap<Key, Arc<Record>>,
}

impl AtHand {
    /// Takes a committed version; two commits of one command may come here in the wrong order.
    pub(super) fn put(&mut self, record: &Arc<Record>) {
        let is_newer =
            |known: &Arc<Record>| known.version < record.version || known.born != record.born;
        if self.of.get(&record.key).is_none_or(is_newer) {
            self.of.insert(record.key.clone(), Arc::clone(record));
        }
    }

    /// Forgets what has ended, and commands whose deadline has passed: another process has ended
    /// them.
    pub(super) fn forget_old(&mut self, now: StoreTime) {
        self.of.retain(|_, record| record.state.outcome().is_none() && record.state.deadline > now);
    }
}

impl<S: Store, K: Stacks> Engine<S, K> {
    /// Ends a call without a record of it.
    pub(super) async fn end_straight(&self, stack: &StackId, call: &CallId) -> Ending {
        let reply = self.perform_straight(stack, Act::End { call: call.clone() }).await;
        ended_straight(&reply)
    }

    /// Gives a command up as far as this process knows it. `None`: it does not know it. The command
    /// learns of it when the store is back.
    pub(super) async fn cancel_straight(self: &Arc<Self>, key: &Key) -> Option<Arc<Record>> {
        let record = lock(&self.at_hand).of.get(key).cloned()?;
        if !record.state.can_cancel() {
            return None;
        }
        let cancelled = record.state.step(&Input::Cancel, &self.now());
        self.owe(key, Owed::Input { input: Input::Cancel, term: None });
        let plan = &record.state.plan;
        let known = record.state.open();
        let opened = cancelled.iter().flat_map(|step| step.state.open());
        // What is sent at most once wants a record.
        let safe = opened
            .filter(|op| !known.contains(op) && op.act.repeat(&plan.capabilities) == Repeat::Safe);
        let acts: Vec<Act> = safe.map(|op| op.act.clone()).collect();
        for act in acts {
            self.perform_straight(&plan.stack, act).await;
        }
        Some(record)
    }

    /// Performs what is safe to repeat and belongs to no record.
    pub(super) async fn perform_straight(&self, stack: &StackId, act: Act) -> Reply {
        let Some(adapter) = self.stacks.get(stack) else { return Reply::Silent };
        let now = self.now();
        let times = self.settings.times_at.get(stack).unwrap_or(&self.settings.times);
        let send_before = now.at.after(times.send);
        let reply_by = send_before.after(times.look());
        let (id, by, stack) = (now.op(0), now.pod, stack.clone());
        adapter.perform(&Op { id, by, stack, act, send_before, reply_by }).await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn of_version(version: u64, ended: bool) -> Arc<Record> {
        let lines = include_str!("../../tests/records/format-1.jsonl").lines();
        let mut records = lines.map(|line| serde_json::from_str::<Record>(line).unwrap());
        let record = records.find(|record| record.state.outcome().is_some() == ended).unwrap();
        Arc::new(Record { version, ..record })
    }

    #[test]
    fn what_has_ended_does_not_run_again_by_an_answer_that_was_overtaken() {
        let mut known = AtHand::default();
        for (version, ended) in [(1, false), (3, true), (2, false)] {
            known.put(&of_version(version, ended));
        }
        let of = &of_version(3, true).key;
        assert_eq!(known.of.get(of).map(|record| record.version), Some(3));
        known.forget_old(StoreTime(0));
        assert!(known.of.is_empty());
    }
}
