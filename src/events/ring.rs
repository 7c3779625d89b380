//! What was reported lately, for a process that may have to apply it though another one leads now.

use std::collections::VecDeque;
use std::time::Duration;

use crate::core::time::StoreTime;
use crate::engine::happened::Heard;

/// Longer than it takes to notice that a leader is gone, and to take over.
const FOR: Duration = Duration::from_secs(15);

/// Most reports that are kept: 5,000 a second for as long as that.
const MOST: usize = 75_000;

/// A leader's word of how far it was is as old as its last beat, and clocks differ.
const BEFORE: Duration = Duration::from_secs(2);

/// The newest reports of one stack.
#[derive(Debug, Default)]
pub(super) struct Ring {
    heard: VecDeque<Heard>,
}

impl Ring {
    pub(super) fn keep(&mut self, heard: Heard) {
        let old = heard.at.before(FOR);
        while self.heard.len() >= MOST || self.heard.front().is_some_and(|first| first.at < old) {
            self.heard.pop_front();
        }
        self.heard.push_back(heard);
    }

    /// What may not have been applied, when everything up to then was. `None`: nothing is known.
    pub(super) fn since(&self, applied: Option<StoreTime>) -> Vec<Heard> {
        let from = applied.unwrap_or_default().before(BEFORE);
        self.heard.iter().filter(|heard| heard.at >= from).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ids::Boot;
    use crate::core::stack_event::{StackEvent, Uptime};

    fn heard(at: u64) -> Heard {
        let event = StackEvent::Restarted(Uptime { boot: Boot::new("b"), since: StoreTime(at) });
        Heard { event, at: StoreTime(at) }
    }

    #[test]
    fn what_is_older_than_the_ring_is_forgotten() {
        let mut ring = Ring::default();
        for at in [0, 10_000, 20_000] {
            ring.keep(heard(at));
        }
        assert_eq!(ring.since(None), [heard(10_000), heard(20_000)]);
    }

    #[test]
    fn a_little_more_is_replayed_than_was_left() {
        let mut ring = Ring::default();
        for at in [10_000, 17_999, 18_000, 20_500] {
            ring.keep(heard(at));
        }
        assert_eq!(ring.since(Some(StoreTime(20_000))), [heard(18_000), heard(20_500)]);
    }

    #[test]
    fn a_flood_does_not_fill_the_memory() {
        let mut ring = Ring::default();
        (0..MOST + 10).for_each(|_| ring.keep(heard(0)));
        assert_eq!(ring.since(None).len(), MOST);
    }
}
