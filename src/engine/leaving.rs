//! A process that is about to end leaves to the others what they can do as well.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::{Engine, lock};
use crate::stack::Stacks;
use crate::store::{Away, Beat, Life, Store};

impl<S: Store, K: Stacks> Engine<S, K> {
    /// From now on what is due, forgotten or in doubt is left to others. What this process has asked
    /// the stacks, and what comes of that, it still carries through; it beats until it ends.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    pub(super) fn leaves(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Tells that this process ends now, so that nobody waits for it: the last that it does.
    ///
    /// # Errors
    /// [`Away`] when the store can't be asked: its silence will tell.
    pub async fn part(&self) -> Result<(), Away> {
        let nothing_left = self.performing() == 0
            && lock(&self.debts).are_paid()
            && !lock(&self.orphans).are_noted();
        let life = if nothing_left { Life::Over } else { Life::Left };
        let beat = Beat { pod: self.settings.pod.clone(), applied: BTreeMap::new(), life };
        self.store.beat(&beat).await.map(|_| ())
    }
}
