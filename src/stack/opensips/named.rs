//! Which calls were named a moment ago, by an event or by an operation that met them.
//!
//! A call that was heard of lately is called absent only after a second list (fact F4);
//! for any other id one list is enough, or every made-up id would cost two.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::core::ids::CallId;
use crate::core::time::StoreTime;

/// How long a name counts, at least; at most twice as long.
const LATELY: Duration = Duration::from_secs(10);

/// Most names in one generation. Beyond, every call counts as named: that costs a second list,
/// and is never wrong.
const MOST: usize = 100_000;

/// Names in two generations of 10 s.
#[derive(Default)]
pub(super) struct Named {
    generations: Mutex<Generations>,
}

#[derive(Default)]
struct Generations {
    since: StoreTime,
    young: HashSet<CallId>,
    old: HashSet<CallId>,
    /// The young, and the old generation has names that it had no room for.
    full: (bool, bool),
}

impl Named {
    /// This call is there.
    pub fn note(&self, call: &CallId, now: StoreTime) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.turn(now);
        if generations.young.contains(call) {
            return;
        }
        if generations.young.len() < MOST {
            generations.young.insert(call.clone());
        } else {
            generations.full.0 = true;
        }
    }

    /// Whether it was there a moment ago.
    pub fn lately(&self, call: &CallId, now: StoreTime) -> bool {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.turn(now);
        generations.full.0
            || generations.full.1
            || generations.young.contains(call)
            || generations.old.contains(call)
    }
}

impl Generations {
    fn turn(&mut self, now: StoreTime) {
        if now < self.since.after(LATELY) {
            return;
        }
        let forgotten = now >= self.since.after(LATELY * 2);
        self.since = now;
        self.old = std::mem::take(&mut self.young);
        self.full = (false, self.full.0);
        if forgotten {
            self.old.clear();
            self.full = (false, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_counts_for_ten_to_twenty_seconds() {
        let named = Named::default();
        let call = CallId::parse("a").unwrap();
        let other = CallId::parse("b").unwrap();
        named.note(&call, StoreTime(100_000));
        assert!(named.lately(&call, StoreTime(109_999)));
        assert!(named.lately(&call, StoreTime(110_000)));
        assert!(!named.lately(&other, StoreTime(110_000)));
        assert!(!named.lately(&call, StoreTime(120_000)));
    }

    #[test]
    fn with_more_names_than_room_everything_counts_as_named() {
        let named = Named::default();
        for n in 0..=MOST {
            named.note(&CallId::parse(&n.to_string()).unwrap(), StoreTime(50_000));
        }
        let stranger = CallId::parse("stranger").unwrap();
        assert!(named.lately(&stranger, StoreTime(50_000)));
        assert!(named.lately(&stranger, StoreTime(60_000)));
        assert!(!named.lately(&stranger, StoreTime(80_000)));
    }
}
