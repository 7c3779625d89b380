//! Who lives, and what is to be done for who does not.
//!
//! Each process tells that it lives. The operations of one that is silent are in doubt: whoever notices
//! steps their commands, which look at the stack then. Nothing is repeated by that; should the silent
//! process only have been paused, its replies come too late, and change nothing.
//!
//! Where the store was away all were silent. So nobody counts as dead before it has been there for
//! as long as a silence takes, and the replies of who lives are left to him.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Engine, lock};
use crate::core::act::Op;
use crate::core::command::Input;
use crate::core::ids::{PodId, StackId};
use crate::core::record::Record;
use crate::core::time::StoreTime;
use crate::stack::Stacks;
use crate::store::{ALIVE, Away, Beat, Find, Life, Pulse, Store};

/// A longer pause between two of its own beats, and this process does not know whether the store
/// was there in between: another's beat, up to a second before the first, may then be [`ALIVE`] old
/// though it lives.
const UNBROKEN: Duration = Duration::from_secs(2);

/// A living process brings in the replies that it has within this, once the store answers.
const BROUGHT_IN: Duration = Duration::from_secs(6);

/// What this process knows of the others, and tells them.
#[derive(Debug, Default)]
pub struct Heart {
    /// Up to when it has applied what the stacks reported, where it leads.
    applied: BTreeMap<StackId, StoreTime>,
    /// What was told at the last beat that was answered.
    pulse: Option<Pulse>,
    /// Since when the store has answered each of its beats: whoever lives could beat, too.
    unbroken: Option<StoreTime>,
    /// The operations of the silent are being looked for.
    looking: bool,
    /// How often others were found to have fallen silent.
    silences: u64,
}

impl Heart {
    fn heard(&mut self, pulse: Pulse) {
        let goes_on = self.pulse.as_ref().is_some_and(|last| {
            let soon = last.now <= pulse.now && pulse.now < last.now.after(UNBROKEN);
            soon && last.epoch == pulse.epoch
        });
        if !goes_on || self.unbroken.is_none() {
            self.unbroken = Some(pulse.now);
        }
        // Who was silent before a break may have lived in it.
        let before = self.pulse.take().filter(|_| goes_on).map(|last| last.silent);
        if !pulse.silent.is_subset(&before.unwrap_or_default()) {
            self.silences += 1;
        }
        self.pulse = Some(pulse);
    }

    fn missed(&mut self) {
        self.unbroken = None;
    }

    /// The last pulse, where silence proves something by now: whoever lives has had the time to
    /// beat.
    fn proof(&self) -> Option<&Pulse> {
        let since = self.unbroken?;
        self.pulse.as_ref().filter(|pulse| since.after(ALIVE) <= pulse.now)
    }

    /// Whether the performer of an operation may have its reply and bring it in yet.
    fn may_bring(&self, op: &Op) -> bool {
        let Some(pulse) = self.proof() else { return true };
        let since = self.unbroken.unwrap_or_default().max(op.overdue_at());
        pulse.alive.contains(&op.by) && pulse.now < since.after(BROUGHT_IN)
    }
}

/// Operations whose reply is overdue.
pub(super) struct Overdue<'r> {
    /// Their performers live: they have the reply, or may have it, and wait for the store.
    pub left: Vec<&'r Op>,
    /// They will get no reply.
    pub lost: Vec<&'r Op>,
}

impl<S: Store, K: Stacks> Engine<S, K> {
    /// Tells that this process lives, and puts the operations of those that do not in doubt. To be
    /// called each second.
    ///
    /// # Errors
    /// [`Away`] when the store can't be asked.
    pub async fn beat(self: &Arc<Self>) -> Result<Pulse, Away> {
        let applied = lock(&self.heart).applied.clone();
        let beat = Beat { pod: self.settings.pod.clone(), applied, life: Life::Lives };
        let pulse = match self.store.beat(&beat).await {
            Ok(pulse) => pulse,
            Err(Away) => {
                lock(&self.heart).missed();
                return Err(Away);
            }
        };
        self.heard_epoch(pulse.epoch.clone());
        let now = pulse.now;
        let mut heart = lock(&self.heart);
        heart.heard(pulse.clone());
        let silent = heart.proof().map(|pulse| pulse.silent.clone()).unwrap_or_default();
        let looks = !silent.is_empty() && !heart.looking && !self.leaves();
        heart.looking |= looks;
        drop(heart);
        if looks {
            let engine = Arc::clone(self);
            self.host.spawn(Box::pin(async move {
                for pod in silent {
                    engine.doubt(&pod, now).await;
                }
                lock(&engine.heart).looking = false;
            }));
        }
        Ok(pulse)
    }

    /// Who took an operation lived then: one that was cut off commits again before it tells that it
    /// lives. So what is newer than its silence can be is not in doubt yet.
    async fn doubt(self: &Arc<Self>, pod: &PodId, now: StoreTime) {
        let found = self.find(Find::PerformedBy(pod.clone())).await;
        self.with_each(found, |record| async move {
            let old = |op: &&Op| op.by == *pod && op.send_before.after(ALIVE) <= now;
            let theirs = record.state.open().iter().filter(old);
            let doubts: Vec<Input> = theirs.map(|op| Input::Doubt { op: op.id.clone() }).collect();
            self.tell_whom_it_overtook(&record).await;
            self.inputs(record, doubts, now, None).await;
        })
        .await;
    }

    /// The overdue operations of a command.
    pub(super) fn overdue<'r>(&self, record: &'r Record) -> Overdue<'r> {
        let (heart, performing) = (lock(&self.heart), lock(&self.performing));
        let left_to_it = |op: &&Op| {
            if op.by == self.settings.pod {
                performing.has_reply(&op.id)
            } else {
                heart.may_bring(op)
            }
        };
        let (left, lost) = record.state.overdue(self.clock.now()).partition(left_to_it);
        Overdue { left, lost }
    }

    /// What the stack reported up to then is applied: told with the next beat, for whoever leads
    /// next.
    pub fn has_applied(&self, stack: &StackId, until: StoreTime) {
        lock(&self.heart).applied.insert(stack.clone(), until);
    }

    /// Up to when any leader has told that it has applied what the stack reported.
    #[must_use]
    pub fn was_applied(&self, stack: &StackId) -> Option<StoreTime> {
        lock(&self.heart).pulse.as_ref()?.applied.get(stack).copied()
    }

    /// How often other processes were found to have fallen silent. A list tells which legs of ours only they
    /// were to end.
    #[must_use]
    pub fn silences(&self) -> u64 {
        lock(&self.heart).silences
    }

    /// The processes that live, as of the last beat.
    #[must_use]
    pub fn alive(&self) -> usize {
        lock(&self.heart).pulse.as_ref().map_or(0, |pulse| pulse.alive.len())
    }
}
