//! The store's time, and what a step may know of the world.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ids::{Nonce, OpId, PodId};

/// Milliseconds since 1970 on the store's clock. Pods reckon it from their own monotonic clock, so it
/// never goes back inside a process. It jumps ahead where the store's clock does, and goes at half
/// speed while that is behind what it was: where another server took over, or somebody set it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct StoreTime(pub u64);

impl StoreTime {
    /// This much later.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }

    /// This much earlier.
    #[must_use]
    pub fn before(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long until `later`; zero if it has passed.
    #[must_use]
    pub fn until(self, later: Self) -> Duration {
        Duration::from_millis(later.0.saturating_sub(self.0))
    }
}

/// All that a step may know beside its state and its input.
#[derive(Debug, Clone)]
pub struct Now {
    /// When the step is taken.
    pub at: StoreTime,
    /// Fresh randomness; every id of the step derives from it.
    pub nonce: Nonce,
    /// Who takes the step and will perform what it opens.
    pub pod: PodId,
}

impl Now {
    /// The id of the `n`-th operation that this step opens.
    #[must_use]
    pub fn op(&self, n: u64) -> OpId {
        OpId::derive(self.nonce, n)
    }
}
