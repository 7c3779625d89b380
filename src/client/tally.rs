//! What the client side counts, for whoever shows it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts since the process began.
#[derive(Debug, Default)]
pub struct Tally {
    /// Open WebSockets.
    pub sessions: Gauge,
    /// Sockets that were closed by us for a reason of [`super::close::Close`].
    pub closed: Count,
    /// Frames that clients sent, by socket or by POST.
    pub messages_in: Count,
    /// Requests that were refused for their Origin.
    pub foreign_origins: Count,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Counts `n` more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// The number.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// How many there are now, and how many there ever were.
#[derive(Debug, Default)]
pub struct Gauge {
    entered: Count,
    left: Count,
}

impl Gauge {
    /// One more.
    pub fn enter(&self) {
        self.entered.add(1);
    }

    /// One less.
    pub fn leave(&self) {
        self.left.add(1);
    }

    /// How many there are.
    #[must_use]
    pub fn get(&self) -> u64 {
        let left = self.left.get();
        self.entered.get().saturating_sub(left)
    }

    /// How many there ever were.
    #[must_use]
    pub fn ever(&self) -> u64 {
        self.entered.get()
    }
}
