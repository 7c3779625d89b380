//! What lies between the parts: delay, loss, doubling, reordering, and cuts.

use std::sync::Mutex;
use std::time::Duration;

use super::random::Random;

/// Where a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Pod(usize),
    Store,
    Bus,
    Stack(usize),
    Client(usize),
    Api,
}

/// So many of one kind there are at most.
const MOST: usize = 4;

const PLACES: usize = 3 + 3 * MOST;

impl Place {
    fn number(self) -> usize {
        let (kind, number) = match self {
            Self::Store => return 0,
            Self::Bus => return 1,
            Self::Api => return 2,
            Self::Pod(number) => (0, number),
            Self::Stack(number) => (1, number),
            Self::Client(number) => (2, number),
        };
        assert!(number < MOST);
        3 + kind * MOST + number
    }
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
    /// From each place to each.
    ways: Vec<Way>,
}

impl State {
    fn way(&mut self, from: Place, to: Place) -> &mut Way {
        &mut self.ways[from.number() * PLACES + to.number()]
    }
}

impl Network {
    pub fn new(random: Random) -> Self {
        Self { state: Mutex::new(State { random, ways: vec![Way::default(); PLACES * PLACES] }) }
    }

    pub fn change(&self, from: Place, to: Place, change: impl FnOnce(&mut Way)) {
        let mut state = self.state.lock().unwrap();
        change(state.way(from, to));
    }

    pub fn send(&self, from: Place, to: Place) -> Fate {
        let mut state = self.state.lock().unwrap();
        let way = *state.way(from, to);
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
        let way = *state.way(from, to);
        Duration::from_micros(way.least + state.random.below(way.most - way.least + 1))
    }
}
