//! Time and randomness, injected: the engine has no hidden source of either.

use std::sync::Mutex;
use std::time::Instant;

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
        let mut pool = self.pool.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
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
    fn nonces_do_not_repeat_across_refills() {
        let nonces = SystemNonces::new();
        let drawn: std::collections::BTreeSet<_> = (0..1000).map(|_| nonces.nonce()).collect();
        assert_eq!(drawn.len(), 1000);
    }
}
