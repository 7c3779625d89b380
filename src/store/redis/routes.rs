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
use super::{Unintelligible, milliseconds};
use crate::core::ids::{Epoch, StackId};
use crate::core::partition::Partition;
use crate::core::stack_event::Watch;

/// How long a route lasts: longer than any command.
const LASTS: Duration = Duration::from_secs(1800);

/// A process writes it again when it wrote it this long ago.
const AGAIN: Duration = Duration::from_secs(600);

/// Most routes that are remembered as written; beyond it they are written more often.
const MOST: usize = 100_000;

/// Which routes this process has written lately, in one epoch: the next may have lost them.
#[derive(Default)]
pub(super) struct Routes {
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
pub(super) struct Route {
    pub(super) to: Partition,
    pub(super) epoch: Epoch,
    /// The names of the sets.
    pub(super) names: Vec<String>,
}

impl Routes {
    /// Adds to the pipeline what is not known to be written.
    pub(super) fn lead(&self, pipeline: &mut Pipeline, route: &Route) {
        let now = Instant::now();
        let mut written = self.lock();
        let written = written.in_epoch(&route.epoch);
        for name in &route.names {
            let known = written.get(&mine(name, route.to));
            if known.is_none_or(|at| now.duration_since(*at) >= AGAIN) {
                pipeline.cmd("SADD").arg(name).arg(route.to.number());
                pipeline.cmd("PEXPIRE").arg(name).arg(milliseconds(LASTS));
            }
        }
    }

    /// It was written.
    pub(super) fn led(&self, route: &Route) {
        let now = Instant::now();
        let mut written = self.lock();
        let written = written.in_epoch(&route.epoch);
        if written.len() >= MOST {
            written.clear();
        }
        for name in &route.names {
            let at = written.entry(mine(name, route.to)).or_insert(now);
            if now.duration_since(*at) >= AGAIN {
                *at = now;
            }
        }
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
