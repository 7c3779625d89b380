//! The history that is being made, and the clocks that its parts read.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use callplane::clock::{Clock, Nonces};
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
        let at = u64::try_from(self.executor.now().as_millis()).unwrap();
        self.history.lock().unwrap().note(at, what);
    }

    pub fn take(&self) -> History {
        std::mem::take(&mut *self.history.lock().unwrap())
    }
}

/// A clock that is wrong by so many milliseconds.
pub struct Watch {
    executor: Executor,
    wrong: AtomicI64,
}

impl Watch {
    pub fn new(executor: Executor, wrong: i64) -> Arc<Self> {
        Arc::new(Self { executor, wrong: AtomicI64::new(wrong) })
    }
}

impl Clock for Watch {
    fn now(&self) -> StoreTime {
        let passed = u64::try_from(self.executor.now().as_millis()).unwrap();
        let now = BEGINNING * 1000 + passed;
        StoreTime(now.saturating_add_signed(self.wrong.load(Ordering::Relaxed)))
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
