//! The commands that this process began and that have not ended, for the metrics.
//!
//! Any process may end a command, so each listens for the ends of its own: a command counts at one
//! process, and all processes together count what runs.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::bus::Listener;
use crate::core::ids::{Epoch, TenantId};
use crate::core::notice::Notice;
use crate::core::record::{Entry, Key, Position};
use crate::core::request::Method;

/// Commands of this process by their keys.
#[derive(Default)]
pub struct Running(Mutex<HashMap<Key, Runs>>);

struct Runs {
    method: Method,
    /// By its deadline it has ended, also where nothing was heard of it.
    until: Instant,
}

impl Running {
    /// This process began a command, which ends before `until`.
    pub fn began(&self, key: Key, method: Method, until: Instant) {
        self.lock().insert(key, Runs { method, until });
    }

    /// How many run of each method.
    pub fn count(&self, now: Instant) -> BTreeMap<Method, usize> {
        let mut counts: BTreeMap<_, _> =
            Method::ALL.into_iter().map(|method| (method, 0)).collect();
        let mut all = self.lock();
        all.retain(|_, runs| runs.until > now);
        for runs in all.values() {
            *counts.entry(runs.method).or_default() += 1;
        }
        counts
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Runs>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener for Running {
    fn entries(&self, _tenant: &TenantId, _epoch: &Epoch, entries: &[Arc<Entry>]) {
        for entry in entries {
            if matches!(entry.notice, Notice::Ended { .. }) {
                self.lock().remove(&entry.key);
            }
        }
    }

    fn skipped(&self, _tenant: &TenantId, _to: &Position) {}
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::core::ids::{CommandId, Nonce, Scope};

    #[test]
    fn what_nobody_told_the_end_of_has_ended_by_its_deadline() {
        let (running, now) = (Running::default(), Instant::now());
        for (id, seconds) in [(1, 5), (2, 9)] {
            let id = CommandId::derive(Nonce(id));
            let key = Key { tenant: TenantId::default(), scope: Scope::OneShot, id };
            running.began(key, Method::CallHold, now + Duration::from_secs(seconds));
        }
        let holds = |after| running.count(now + Duration::from_secs(after))[&Method::CallHold];
        assert_eq!([0, 4, 5, 8, 9].map(holds), [2, 2, 1, 1, 0]);
    }
}
