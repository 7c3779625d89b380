//! Knobs that make the network between us and the simulated stack bad.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::random::Random;

/// How often something goes wrong: the next `next` times for sure, then `ppm` times in a
/// million, as the seed decides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Chance {
    /// So many times for sure; counts down.
    pub next: u32,
    /// Then so many in a million.
    pub ppm: u32,
}

impl Chance {
    fn strikes(&mut self, random: &mut Random) -> bool {
        if self.next > 0 {
            self.next -= 1;
            return true;
        }
        random.chance(self.ppm)
    }
}

/// A delay of `min_ms` to `max_ms` milliseconds, drawn for each message: different delays
/// change the order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Delay {
    /// At least.
    pub min_ms: u64,
    /// At most.
    pub max_ms: u64,
}

impl Delay {
    fn draw(self, random: &mut Random) -> Duration {
        if self.max_ms <= self.min_ms {
            return Duration::from_millis(self.min_ms);
        }
        let micros = (self.max_ms - self.min_ms) * 1000;
        Duration::from_millis(self.min_ms) + Duration::from_micros(random.below(micros + 1))
    }
}

/// What goes wrong between us and the simulated stack.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Requests that never arrive: not executed.
    pub lose_requests: Chance,
    /// Replies that never arrive: executed, but nobody is told.
    pub lose_replies: Chance,
    /// Events that never arrive.
    pub lose_events: Chance,
    /// Events that arrive twice.
    pub double_events: Chance,
    /// Time a reply takes.
    pub delay_replies: Delay,
    /// Time an event takes; different times change the order of events.
    pub delay_events: Delay,
    /// The process hangs: no request is taken, no event leaves, calls go on.
    pub silent: bool,
}

impl Faults {
    pub(super) fn loses_request(&mut self, random: &mut Random) -> bool {
        self.lose_requests.strikes(random)
    }

    pub(super) fn loses_reply(&mut self, random: &mut Random) -> bool {
        self.lose_replies.strikes(random)
    }

    pub(super) fn loses_event(&mut self, random: &mut Random) -> bool {
        self.lose_events.strikes(random)
    }

    pub(super) fn doubles_event(&mut self, random: &mut Random) -> bool {
        self.double_events.strikes(random)
    }

    pub(super) fn reply_delay(&self, random: &mut Random) -> Duration {
        self.delay_replies.draw(random)
    }

    pub(super) fn event_delay(&self, random: &mut Random) -> Duration {
        self.delay_events.draw(random)
    }
}
