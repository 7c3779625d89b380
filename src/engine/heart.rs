//! Who lives, and what is to be done for who does not.
//!
//! Each process tells that it lives. The operations of one that is silent are in doubt: whoever notices
//! steps their commands, which look at the stack then. Nothing is repeated by that; should the silent
//! process only have been paused, its replies come too late, and change nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Engine, lock};
use crate::core::act::Op;
use crate::core::command::Input;
use crate::core::ids::{PodId, StackId};
use crate::core::time::StoreTime;
use crate::stack::Stacks;
use crate::store::{ALIVE, Away, Beat, Find, Pulse, Store};

/// What this process knows of the others, and tells them.
#[derive(Debug, Default)]
pub struct Heart {
    /// Up to when it has applied what the stacks reported, where it leads.
    applied: BTreeMap<StackId, StoreTime>,
    /// What was told at the last beat.
    pulse: Option<Pulse>,
    /// The operations of the silent are being looked for.
    looking: bool,
}

impl<S: Store, K: Stacks> Engine<S, K> {
    /// Tells that this process lives, and puts the operations of those that do not in doubt. To be
    /// called each second.
    ///
    /// # Errors
    /// [`Away`] when the store can't be asked.
    pub async fn beat(self: &Arc<Self>) -> Result<Pulse, Away> {
        let applied = lock(&self.pulse).applied.clone();
        let beat = Beat { pod: self.settings.pod.clone(), applied };
        let pulse = self.store.beat(&beat).await?;
        self.heard_epoch(pulse.epoch.clone());
        let (silent, now): (Vec<PodId>, _) = (pulse.silent.iter().cloned().collect(), pulse.now);
        let mut heart = lock(&self.pulse);
        heart.pulse = Some(pulse.clone());
        let looks = !silent.is_empty() && !heart.looking;
        heart.looking |= looks;
        drop(heart);
        if looks {
            let engine = Arc::clone(self);
            self.host.spawn(Box::pin(async move {
                for pod in silent {
                    engine.doubt(&pod, now).await;
                }
                lock(&engine.pulse).looking = false;
            }));
        }
        Ok(pulse)
    }

    /// Who took an operation lived then: one that was cut off commits again before it tells that it
    /// lives. So what is newer than its silence can be is not in doubt yet.
    async fn doubt(self: &Arc<Self>, pod: &PodId, now: StoreTime) {
        for record in self.find(Find::PerformedBy(pod.clone())).await {
            let old = |op: &&Op| op.by == *pod && op.send_before.after(ALIVE) <= now;
            let theirs = record.state.open().iter().filter(old);
            let doubts: Vec<Input> = theirs.map(|op| Input::Doubt { op: op.id.clone() }).collect();
            self.tell_whom_it_overtook(&record).await;
            self.inputs(record, doubts, None).await;
        }
    }

    /// What the stack reported up to then is applied: told with the next beat, for whoever leads
    /// next.
    pub fn has_applied(&self, stack: &StackId, until: StoreTime) {
        lock(&self.pulse).applied.insert(stack.clone(), until);
    }

    /// Up to when any leader has told that it has applied what the stack reported.
    #[must_use]
    pub fn was_applied(&self, stack: &StackId) -> Option<StoreTime> {
        lock(&self.pulse).pulse.as_ref()?.applied.get(stack).copied()
    }

    /// The processes that live, as of the last beat.
    #[must_use]
    pub fn alive(&self) -> usize {
        lock(&self.pulse).pulse.as_ref().map_or(0, |pulse| pulse.alive.len())
    }
}
