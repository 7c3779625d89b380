//! What lies between the parts: delay, loss, doubling, reordering, and cuts.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use super::random::Random;

/// Where a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Pod(usize),
    Store,
    Bus,
    Stack(usize),
    Client(usize),
}

/// How a way is.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// Microseconds that a message takes.
    pub least: u64,
    pub most: u64,
    /// So many in a million.
    pub lost: u32,
    pub doubled: u32,
    /// Nothing passes.
    pub cut: bool,
}

impl Default for Way {
    fn default() -> Self {
        Self { least: 100, most: 2_000, lost: 0, doubled: 0, cut: false }
    }
}

/// What becomes of a message: after how long it arrives, and its double.
pub struct Fate {
    pub first: Option<Duration>,
    pub double: Option<Duration>,
}

pub struct Network {
    state: Mutex<State>,
}

struct State {
    random: Random,
    ways: BTreeMap<(Place, Place), Way>,
}

impl Network {
    pub fn new(random: Random) -> Self {
        Self { state: Mutex::new(State { random, ways: BTreeMap::new() }) }
    }

    pub fn change(&self, from: Place, to: Place, change: impl FnOnce(&mut Way)) {
        let mut state = self.state.lock().unwrap();
        change(state.ways.entry((from, to)).or_default());
    }

    pub fn send(&self, from: Place, to: Place) -> Fate {
        let mut state = self.state.lock().unwrap();
        let way = state.ways.get(&(from, to)).copied().unwrap_or_default();
        let random = &mut state.random;
        if way.cut || random.ppm(way.lost) {
            return Fate { first: None, double: None };
        }
        let mut delay =
            || Duration::from_micros(way.least + random.below(way.most - way.least + 1));
        let first = Some(delay());
        let double = random.ppm(way.doubled).then_some(());
        let double =
            double.map(|()| Duration::from_micros(way.least + random.below(way.most * 20 + 1)));
        Fate { first, double }
    }

    /// How long a message of a connection takes: those are never lost, only late.
    pub fn late(&self, from: Place, to: Place) -> Duration {
        let mut state = self.state.lock().unwrap();
        let way = state.ways.get(&(from, to)).copied().unwrap_or_default();
        Duration::from_micros(way.least + state.random.below(way.most - way.least + 1))
    }
}
