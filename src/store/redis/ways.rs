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

/// How long a way lasts: longer than any command.
const LASTS: Duration = Duration::from_secs(1800);

/// A process writes it again when it wrote it this long ago.
const AGAIN: Duration = Duration::from_secs(600);

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
    at: HashMap<String, Instant>,
}

impl Written {
    fn in_epoch(&mut self, epoch: &Epoch) -> &mut HashMap<String, Instant> {
        if self.epoch.as_ref() != Some(epoch) {
            *self = Self { epoch: Some(epoch.clone()), at: HashMap::new() };
        }
        &mut self.at
    }
}

/// What is to lead to a commit's record.
pub(super) struct Way {
    pub(super) to: Partition,
    pub(super) epoch: Epoch,
    /// The names of the sets.
    pub(super) names: Vec<String>,
}

impl Way {
    /// Adds it to what is asked.
    pub(super) fn lead(&self, pipeline: &mut Pipeline) {
        for name in &self.names {
            pipeline.cmd("SADD").arg(name).arg(self.to.number());
            pipeline.cmd("PEXPIRE").arg(name).arg(milliseconds(LASTS));
        }
    }
}

impl Ways {
    /// What is left of a way where some of it is known to be written.
    pub(super) fn unwritten(&self, mut way: Way, now: Instant) -> Way {
        let mut written = self.lock();
        let written = written.in_epoch(&way.epoch);
        way.names.retain(|name| {
            let known = written.get(&mine(name, way.to));
            known.is_none_or(|at| now.duration_since(*at) >= AGAIN)
        });
        way
    }

    /// It was written, then or later.
    pub(super) fn led(&self, way: &Way, at: Instant) {
        let mut written = self.lock();
        let written = written.in_epoch(&way.epoch);
        if written.len() >= MOST {
            written.clear();
        }
        written.extend(way.names.iter().map(|name| (mine(name, way.to), at)));
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

    fn way(names: &[&str]) -> Way {
        Way {
            to: Partition::of(&TenantId::default()),
            epoch: Epoch::derive(Nonce(1)),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn a_route_is_written_again_though_commits_that_did_not_write_it_came_after() {
        let (ways, begun) = (Ways::default(), Instant::now());
        let commit = |names: &[&str], at: Instant, answered: Instant| {
            let unwritten = ways.unwritten(way(names), at);
            assert!(answered >= at);
            ways.led(&unwritten, at);
            unwritten.names
        };
        assert_eq!(commit(&["a"], begun, begun), ["a"]);
        // Asked before it is old, answered after.
        let (before, after) = (begun + AGAIN - Duration::from_millis(1), begun + AGAIN);
        assert_eq!(commit(&["a", "b"], before, after), ["b"]);
        assert_eq!(commit(&["a", "b"], after, after), ["a"]);
    }

    #[test]
    fn what_another_epoch_may_not_have_is_written() {
        let (ways, now) = (Ways::default(), Instant::now());
        ways.led(&way(&["a"]), now);
        assert!(ways.unwritten(way(&["a"]), now).names.is_empty());
        let next = || Way { epoch: Epoch::derive(Nonce(u128::MAX)), ..way(&["a"]) };
        assert_eq!(ways.unwritten(next(), now).names, ["a"]);
    }
}
