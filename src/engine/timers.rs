//! What is due: one timer per running command, and a slow sweep for what others forgot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::owed::Owed;
use super::{Engine, REARM, lock};
use crate::core::command::Input;
use crate::core::record::{Key, Record};
use crate::core::time::StoreTime;
use crate::stack::Stacks;
use crate::store::{Away, Find, Store, Unfound};

/// A command that is this much overdue is anybody's: the pod that set its timer may be dead.
const FORGOTTEN: Duration = Duration::from_secs(1);

/// The timers of this process.
#[derive(Default)]
pub struct Timers {
    at: BTreeSet<(StoreTime, Key)>,
    of: BTreeMap<Key, Timer>,
}

struct Timer {
    at: StoreTime,
    /// The version of the command that asked for it.
    version: u64,
}

impl Timers {
    /// Two commits of one command may come here in the wrong order: the newer version's timer
    /// stays.
    fn set(&mut self, key: &Key, version: u64, at: Option<StoreTime>) {
        if self.of.get(key).is_some_and(|timer| timer.version > version) {
            return;
        }
        self.clear(key);
        if let Some(at) = at {
            self.of.insert(key.clone(), Timer { at, version });
            self.at.insert((at, key.clone()));
        }
    }

    fn clear(&mut self, key: &Key) {
        if let Some(timer) = self.of.remove(key) {
            self.at.remove(&(timer.at, key.clone()));
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
            self.clear(&key);
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
            if self.leaves() && !lock(&self.debts).is_owed(&key) {
                // In a second it is anybody's.
                continue;
            }
            let engine = Arc::clone(self);
            self.host.spawn(Box::pin(async move { engine.fire_one(key).await }));
        }
        let orphans = self.end_orphans(now);
        lock(&self.timers).earliest().into_iter().chain(orphans).min()
    }

    /// Takes up commands that are overdue though their timer was somebody else's.
    pub async fn sweep(self: &Arc<Self>) {
        if self.leaves() {
            return;
        }
        let long_ago = StoreTime(
            self.clock
                .now()
                .0
                .saturating_sub(u64::try_from(FORGOTTEN.as_millis()).unwrap_or_default()),
        );
        lock(&self.at_hand).forget_old(long_ago);
        let found = self.find(Find::DueBy(long_ago)).await;
        self.with_each(found, |record| async move {
            let owed = lock(&self.debts).take(&record.key);
            self.come_back(record, owed).await;
        })
        .await;
    }

    async fn fire_one(self: &Arc<Self>, key: Key) {
        let found = match self.store.find(Find::Key(key.clone())).await {
            Ok(mut found) => found.pop(),
            // Whoever can read it finds it when it is overdue.
            Err(Unfound::Illegible) => None,
            // The command is still owed.
            Err(Unfound::Away(Away)) => return self.look_again(&key),
        };
        let owed = lock(&self.debts).take(&key);
        match found {
            Some(record) => self.come_back(record, owed).await,
            None => self.forgive(owed),
        }
    }

    /// Does what is due for a command, after what is owed to it.
    async fn come_back(self: &Arc<Self>, record: Arc<Record>, owed: Vec<Owed>) {
        self.pay(&record, owed).await;
        // What a lost commit opened was never set about, and is not sent any more: that ends it.
        self.perform_late(&record);
        self.tell_whom_it_overtook(&record).await;
        if !self.leaves() {
            self.input(record, Input::Due, None).await;
        }
    }

    /// Sets the command's timer to its due time.
    pub(super) fn set_timer(&self, record: &Record) {
        let due = record.state.due();
        let mut timers = lock(&self.timers);
        let before = timers.earliest();
        timers.set(&record.key, record.version, due);
        drop(timers);
        if let Some(due) = due
            && before.is_none_or(|before| due < before)
        {
            self.host.wake_at(due);
        }
    }

    /// A timer that changed nothing must come back, but not at once. What is left to another process
    /// comes with a sweep.
    pub(super) fn rearm(&self, record: &Record, inputs: &[Input]) {
        if inputs.contains(&Input::Due)
            && self.overdue(record).left.is_empty()
            && let Some(due) = record.state.due()
        {
            self.arm(&record.key, record.version, due.max(self.clock.now().after(REARM)));
        }
    }

    /// Something could not be done for a command: look at it again soon, whatever later versions
    /// ask for.
    pub(super) fn look_again(&self, key: &Key) {
        self.arm(key, u64::MAX, self.clock.now().after(REARM));
    }

    pub(super) fn arm(&self, key: &Key, version: u64, at: StoreTime) {
        lock(&self.timers).set(key, version, Some(at));
        self.host.wake_at(at);
    }
}
