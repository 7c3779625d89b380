//! From what a stack reports to the partitions of those who listen.
//!
//! An event names a call, not a tenant. So each watch has a set of the partitions in which somebody
//! watches it. It is written before the commit that watches: without one it leads to nobody, and goes
//! by itself.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::{Pipeline, Value};

use super::keys::Keys;
use super::wire::{Unintelligible, milliseconds};
use crate::core::ids::{Epoch, StackId};
use crate::core::partition::Partition;
use crate::core::stack_event::Watch;

/// How long a way lasts beyond the deadline of its command, which another process may tell.
const BEYOND: Duration = Duration::from_secs(120);

/// And how long at least: another command may listen to the same, and have longer.
const AT_LEAST: Duration = Duration::from_secs(600);

/// It is not written again where no more than this would be gained.
const LITTLE: Duration = Duration::from_secs(30);

/// Most ways that are remembered as written; beyond it they are written more often.
const MOST: usize = 100_000;

/// Which ways this process has written lately, in one epoch: the next may have lost them.
#[derive(Default)]
pub(super) struct Ways {
    written: Mutex<Written>,
}

#[derive(Default)]
struct Written {
    epoch: Option<Epoch>,
    until: HashMap<String, Instant>,
}

impl Written {
    fn in_epoch(&mut self, epoch: &Epoch) -> &mut HashMap<String, Instant> {
        if self.epoch.as_ref() != Some(epoch) {
            *self = Self { epoch: Some(epoch.clone()), until: HashMap::new() };
        }
        &mut self.until
    }
}

/// What is to lead to a commit's record.
pub(super) struct Way {
    pub(super) to: Partition,
    pub(super) epoch: Epoch,
    /// The names of the sets.
    pub(super) names: Vec<String>,
    /// How long it is to last.
    lasts: Duration,
}

impl Way {
    /// One for a command that has so much time left.
    pub(super) fn of(left: Duration, to: Partition, epoch: Epoch, names: Vec<String>) -> Self {
        Self { to, epoch, names, lasts: (left + BEYOND).max(AT_LEAST) }
    }

    /// Adds it to what is asked.
    pub(super) fn lead(&self, pipeline: &mut Pipeline) {
        for name in &self.names {
            pipeline.cmd("SADD").arg(name).arg(self.to.number());
            pipeline.cmd("PEXPIRE").arg(name).arg(milliseconds(self.lasts));
        }
    }
}

impl Ways {
    /// What is left of a way where some of it is known to be written.
    pub(super) fn unwritten(&self, mut way: Way, now: Instant) -> Way {
        let mut written = self.lock();
        let written = written.in_epoch(&way.epoch);
        let needed = now + way.lasts - LITTLE;
        way.names.retain(|name| written.get(&mine(name, way.to)).is_none_or(|it| *it < needed));
        way
    }

    /// It was written, then or later.
    pub(super) fn led(&self, way: &Way, at: Instant) {
        let mut written = self.lock();
        let written = written.in_epoch(&way.epoch);
        if written.len() >= MOST {
            written.clear();
        }
        written.extend(way.names.iter().map(|name| (mine(name, way.to), at + way.lasts)));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn mine(name: &str, to: Partition) -> String {
    format!("{}>{name}", to.number())
}

/// Asks where somebody watches each of these.
pub(super) fn ask(keys: &Keys, stack: &StackId, watches: &[Watch]) -> Pipeline {
    let mut pipeline = redis::pipe();
    for watch in watches {
        pipeline.cmd("SMEMBERS").arg(keys.route(stack, watch));
    }
    pipeline
}

/// The answers: what is watched in which partition, as far as is known.
pub(super) fn answered(
    watches: Vec<Watch>,
    answers: Vec<Value>,
) -> Result<BTreeMap<Partition, Vec<Watch>>, Unintelligible> {
    let mut places: BTreeMap<Partition, Vec<Watch>> = BTreeMap::new();
    for (watch, answer) in watches.into_iter().zip(answers) {
        let numbers: Vec<u8> = redis::from_redis_value(answer)?;
        for partition in numbers.into_iter().filter_map(Partition::numbered) {
            places.entry(partition).or_default().push(watch.clone());
        }
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ids::{Nonce, TenantId};

    const LEFT: Duration = Duration::from_secs(1000);

    fn way(names: &[&str], left: Duration) -> Way {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Way::of(left, Partition::of(&TenantId::default()), Epoch::derive(Nonce(1)), names)
    }

    #[test]
    fn a_route_is_written_again_for_a_command_that_has_longer_and_for_no_commit_before() {
        let (ways, begun) = (Ways::default(), Instant::now());
        let commit = |names: &[&str], at: Instant, left: Duration| {
            let unwritten = ways.unwritten(way(names, left), at);
            ways.led(&unwritten, at);
            unwritten.names
        };
        assert_eq!(commit(&["a"], begun, LEFT), ["a"]);
        let later = Duration::from_secs(40);
        assert_eq!(commit(&["a", "b"], begun + later, LEFT.saturating_sub(later)), ["b"]);
        assert_eq!(commit(&["a", "b"], begun + later, LEFT), ["a", "b"]);
        assert!(commit(&["a", "b"], begun + later, LEFT).is_empty());
    }

    #[test]
    fn what_another_epoch_may_not_have_is_written() {
        let (ways, now) = (Ways::default(), Instant::now());
        ways.led(&way(&["a"], LEFT), now);
        assert!(ways.unwritten(way(&["a"], LEFT), now).names.is_empty());
        let next = || Way { epoch: Epoch::derive(Nonce(u128::MAX)), ..way(&["a"], LEFT) };
        assert_eq!(ways.unwritten(next(), now).names, ["a"]);
    }
}
