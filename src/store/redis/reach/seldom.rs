//! What is worth a line of the log, though not each time.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Says of what happens again and again when it is to be told of.
pub(in crate::store::redis) struct Seldom {
    every: Duration,
    last: Mutex<Option<Instant>>,
}

impl Seldom {
    pub(in crate::store::redis) fn every(every: Duration) -> Self {
        Self { every, last: Mutex::default() }
    }

    /// The first time, and once this long after it was told of last.
    pub(in crate::store::redis) fn is_due(&self) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let due = last.is_none_or(|last| now.saturating_duration_since(last) >= self.every);
        if due {
            *last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_told_of_at_first_and_then_now_and_then() {
        let seldom = Seldom::every(Duration::from_secs(10));
        assert!(seldom.is_due());
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(!seldom.is_due());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(seldom.is_due());
        assert!(!seldom.is_due());
    }
}
