//! The history that is being made, and the clocks that its parts read.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
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
        let at = self.executor.millis();
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
    told: AtomicBool,
    latest: AtomicU64,
}

impl Watch {
    pub fn new(executor: Executor, wrong: i64) -> Arc<Self> {
        Arc::new(Self {
            executor,
            wrong: AtomicI64::new(wrong),
            told: AtomicBool::new(false),
            latest: AtomicU64::new(0),
        })
    }
}

impl Watch {
    /// Takes what the store said that it is, as the product's clock does: what was long under way
    /// says little.
    pub fn learn(&self, asked: std::time::Duration, said: StoreTime) {
        let passed = self.executor.now() - asked;
        if passed > std::time::Duration::from_millis(20) && self.told.swap(true, Ordering::Relaxed)
        {
            return;
        }
        self.told.store(true, Ordering::Relaxed);
        let half_way = u64::try_from((asked + passed / 2).as_millis()).unwrap();
        let wrong = said.0.cast_signed() - (BEGINNING * 1000 + half_way).cast_signed();
        self.wrong.store(wrong, Ordering::Relaxed);
    }
}

impl Clock for Watch {
    fn now(&self) -> StoreTime {
        let now = BEGINNING * 1000 + self.executor.millis();
        let now = now.saturating_add_signed(self.wrong.load(Ordering::Relaxed));
        // It never goes back.
        let now = now.max(self.latest.load(Ordering::Relaxed));
        self.latest.store(now, Ordering::Relaxed);
        StoreTime(now)
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
