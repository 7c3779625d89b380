//! The history that is being made, and the clocks that its parts read.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use callplane::clock::{Clock, Nonces, Reckoning};
use callplane::core::ids::Nonce;
use callplane::core::time::StoreTime;

use super::executor::Executor;
use super::history::{History, What};
use super::random::Random;

/// The wall clock, in seconds, when time begins.
pub const BEGINNING: u64 = 1_700_000_000;

/// Notes what happens.
pub struct Recorder {
    executor: Executor,
    history: Mutex<History>,
}

impl Recorder {
    pub fn new(executor: Executor) -> Arc<Self> {
        let history = History { told: true, ..History::default() };
        Arc::new(Self { executor, history: Mutex::new(history) })
    }

    pub fn note(&self, what: What) {
        let at = self.executor.millis();
        self.history.lock().unwrap().note(at, what);
    }

    pub fn take(&self) -> History {
        std::mem::take(&mut *self.history.lock().unwrap())
    }
}

/// A clock that is wrong by so many milliseconds, until it is told better.
pub struct Watch {
    executor: Executor,
    wrong: i64,
    reckoning: Mutex<Reckoning>,
}

impl Watch {
    pub fn new(executor: Executor, wrong: i64) -> Arc<Self> {
        Arc::new(Self { executor, wrong, reckoning: Mutex::default() })
    }

    fn own(&self, at: Duration) -> StoreTime {
        let passed = u64::try_from(at.as_millis()).unwrap();
        StoreTime((BEGINNING * 1000 + passed).saturating_add_signed(self.wrong))
    }

    /// Takes what the store said that it is, as the product's clock does.
    pub fn learn(&self, asked: Duration, said: StoreTime) {
        let (asked, answered) = (self.own(asked), self.own(self.executor.now()));
        self.reckoning.lock().unwrap().learn(asked, answered, said);
    }
}

impl Clock for Watch {
    fn now(&self) -> StoreTime {
        self.reckoning.lock().unwrap().at(self.own(self.executor.now()))
    }
}

/// Randomness of the seed.
pub struct Dice(Mutex<Random>);

impl Dice {
    pub fn new(random: Random) -> Arc<Self> {
        Arc::new(Self(Mutex::new(random)))
    }
}

impl Nonces for Dice {
    fn nonce(&self) -> Nonce {
        let mut random = self.0.lock().unwrap();
        Nonce(u128::from(random.next()) << 64 | u128::from(random.next()))
    }
}
