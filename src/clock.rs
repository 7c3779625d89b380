//! Time and randomness, injected: the engine has no hidden source of either.

mod reckoning;

pub use reckoning::Reckoning;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom as _, SystemRandom};

use crate::core::ids::Nonce;
use crate::core::time::StoreTime;

/// Tells the store's time.
pub trait Clock: Send + Sync + 'static {
    /// The store's time now. Never runs backwards inside a process.
    fn now(&self) -> StoreTime;
}

impl<C: Clock + ?Sized> Clock for std::sync::Arc<C> {
    fn now(&self) -> StoreTime {
        C::now(self)
    }
}

/// The store's clock jumped by so much: that is said.
const JUMP: Duration = Duration::from_secs(1);

/// Lets time pass. The application gives it tokio's, a simulator its own.
pub trait Timer: Send + Sync + 'static {
    /// Ready after this long.
    fn sleep(&self, how_long: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// tokio's time.
#[derive(Debug, Clone, Copy, Default)]
pub struct TokioTimer;

impl Timer for TokioTimer {
    fn sleep(&self, how_long: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(tokio::time::sleep(how_long))
    }
}

/// Draws randomness.
pub trait Nonces: Send + Sync + 'static {
    /// 128 fresh random bits.
    fn nonce(&self) -> Nonce;
}

/// The machine's clocks: the wall clock read once, the monotonic clock from then on.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
    offset: u64,
}

impl SystemClock {
    /// Reads the wall clock once.
    #[must_use]
    pub fn new() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let offset = since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or_default());
        Self { started: Instant::now(), offset }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> StoreTime {
        StoreTime(self.offset).after(self.started.elapsed())
    }
}

/// The time of a store that is elsewhere: this machine's clocks, and how far the store's is ahead.
#[derive(Debug, Default)]
pub struct StoreClock {
    local: SystemClock,
    reckoning: Mutex<Reckoning>,
}

impl StoreClock {
    /// A clock that knows only this machine's time.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// This machine's time, for [`Self::learn`].
    #[must_use]
    pub fn local(&self) -> StoreTime {
        self.local.now()
    }

    /// Takes what the store said that it is, asked at this local time and answered now.
    pub fn learn(&self, asked: StoreTime, said: StoreTime) {
        let mut reckoning = self.reckoning();
        let jumped = reckoning.learn(asked, self.local.now(), said);
        drop(reckoning);
        if u128::from(jumped.unsigned_abs()) >= JUMP.as_millis() {
            tracing::warn!(
                milliseconds = jumped,
                "the store's clock jumped: what is due comes early or late for as long"
            );
        }
    }

    fn reckoning(&self) -> std::sync::MutexGuard<'_, Reckoning> {
        self.reckoning.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for StoreClock {
    fn now(&self) -> StoreTime {
        let reckoning = self.reckoning();
        // Read under the lock, so that times are told in their order.
        reckoning.at(self.local.now())
    }
}

/// The operating system's random numbers.
///
/// Seeds of 4 KiB are drawn at once: a system call per step would cost more than the step.
pub struct SystemNonces {
    source: SystemRandom,
    pool: Mutex<Pool>,
}

struct Pool {
    bytes: [u8; 4096],
    used: usize,
}

impl SystemNonces {
    /// A generator with an empty pool.
    #[must_use]
    pub fn new() -> Self {
        let pool = Pool { bytes: [0; 4096], used: 4096 };
        Self { source: SystemRandom::new(), pool: Mutex::new(pool) }
    }
}

impl Default for SystemNonces {
    fn default() -> Self {
        Self::new()
    }
}

impl Nonces for SystemNonces {
    fn nonce(&self) -> Nonce {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if pool.used + 16 > pool.bytes.len() {
            // Without randomness there are no ids; the kernel's generator does not fail once up,
            // so waiting for it is all that can be done.
            while self.source.fill(&mut pool.bytes).is_err() {
                std::thread::yield_now();
            }
            pool.used = 0;
        }
        let at = pool.used;
        pool.used += 16;
        let mut sixteen = [0; 16];
        if let Some(bytes) = pool.bytes.get_mut(at..at + 16) {
            sixteen.copy_from_slice(bytes);
            bytes.fill(0);
        }
        Nonce(u128::from_be_bytes(sixteen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_s_time_is_learnt_and_does_not_go_back() {
        let clock = StoreClock::new();
        let asked = clock.local();
        clock.learn(asked, asked.after(Duration::from_secs(100)));
        let first = clock.now();
        assert!(asked.after(Duration::from_secs(99)) < first, "{first:?}");
        clock.learn(clock.local(), asked);
        assert!(clock.now() >= first);
    }

    #[test]
    fn the_first_answer_puts_a_guess_right() {
        let clock = StoreClock::new();
        let guess = clock.now();
        clock.learn(clock.local(), guess.before(Duration::from_secs(100)));
        assert!(clock.now() < guess);
    }

    #[test]
    fn nonces_do_not_repeat_across_refills() {
        let nonces = SystemNonces::new();
        let drawn: std::collections::BTreeSet<_> = (0..1000).map(|_| nonces.nonce()).collect();
        assert_eq!(drawn.len(), 1000);
    }
}
