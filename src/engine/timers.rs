//! What is due: one timer per running command, and a slow sweep for what others forgot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::{Engine, REARM, lock, owed};
use crate::core::command::Input;
use crate::core::record::{Key, Record};
use crate::core::time::{Now, StoreTime};
use crate::stack::Stacks;
use crate::store::{Find, Store};

/// A command that is this much overdue is anybody's: the pod that set its timer may be dead.
const FORGOTTEN: Duration = Duration::from_secs(1);

/// The timers of this process.
#[derive(Default)]
pub struct Timers {
    at: BTreeSet<(StoreTime, Key)>,
    of: BTreeMap<Key, StoreTime>,
}

impl Timers {
    fn set(&mut self, key: &Key, at: Option<StoreTime>) {
        if let Some(old) = self.of.remove(key) {
            self.at.remove(&(old, key.clone()));
        }
        if let Some(at) = at {
            self.of.insert(key.clone(), at);
            self.at.insert((at, key.clone()));
        }
    }

    fn earliest(&self) -> Option<StoreTime> {
        self.at.first().map(|(at, _)| *at)
    }

    fn take_due(&mut self, now: StoreTime) -> Vec<Key> {
        let mut due = Vec::new();
        while let Some((at, key)) = self.at.first().cloned() {
            if at > now {
                break;
            }
            self.set(&key, None);
            due.push(key);
        }
        due
    }
}

impl<S: Store, K: Stacks> Engine<S, K> {
    /// Handles everything that is due. Returns when to come back at the latest.
    pub fn fire(self: &Arc<Self>) -> Option<StoreTime> {
        let now = self.clock.now();
        let due = lock(&self.timers).take_due(now);
        for key in due {
            let engine = Arc::clone(self);
            self.host.spawn(Box::pin(async move { engine.fire_one(key).await }));
        }
        let orphans = self.end_orphans(now);
        lock(&self.timers).earliest().into_iter().chain(orphans).min()
    }

    /// Takes up commands that are overdue though their timer was somebody else's.
    pub async fn sweep(self: &Arc<Self>) {
        let long_ago = StoreTime(
            self.clock
                .now()
                .0
                .saturating_sub(u64::try_from(FORGOTTEN.as_millis()).unwrap_or_default()),
        );
        for record in self.find(Find::DueBy(long_ago)).await {
            self.fire_record(record).await;
        }
    }

    async fn fire_one(self: &Arc<Self>, key: Key) {
        for record in self.find(Find::Key(key)).await {
            self.fire_record(record).await;
        }
    }

    async fn fire_record(self: &Arc<Self>, record: Arc<Record>) {
        for input in owed(&record.state, &self.now()) {
            // Each loads anew through `Stale` if the one before changed the record.
            self.input(Arc::clone(&record), &input, None).await;
        }
    }

    /// Sets the command's timer to its due time.
    pub(super) fn set_timer(&self, record: &Record) {
        let due = record.state.due();
        let mut timers = lock(&self.timers);
        let before = timers.earliest();
        timers.set(&record.key, due);
        drop(timers);
        if let Some(due) = due
            && before.is_none_or(|before| due < before)
        {
            self.host.wake_at(due);
        }
    }

    /// A timer that changed nothing must come back, but not at once.
    pub(super) fn rearm(&self, record: &Record, input: &Input, now: &Now) {
        match input {
            Input::Due | Input::Doubt { .. } => {}
            Input::Replied { .. } | Input::Happened(_) | Input::Cancel | Input::Ending { .. } => {
                return;
            }
        }
        if let Some(due) = record.state.due() {
            self.arm(&record.key, due.max(now.at.after(REARM)));
        }
    }

    /// A commit did not get through: look at the command again soon.
    pub(super) fn retry_later(&self, key: &Key, now: &Now) {
        self.arm(key, now.at.after(REARM));
    }

    fn arm(&self, key: &Key, at: StoreTime) {
        lock(&self.timers).set(key, Some(at));
        self.host.wake_at(at);
    }
}
