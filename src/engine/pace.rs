//! What each process does each second, by its own clock: the store's may jump or fall behind when
//! another server takes over, and who does not beat counts as dead.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;

use super::Engine;
use crate::clock::Timer;
use crate::stack::Stacks;
use crate::store::{Away, Store};

/// Between two beats, and between two sweeps.
const EACH: Duration = Duration::from_secs(1);

impl<S: Store, K: Stacks> Engine<S, K> {
    /// Beats each second, for ever. A slow store does not get a second beat beside the first.
    pub async fn keep_beating(self: Arc<Self>, timer: Arc<dyn Timer>) {
        loop {
            let (beaten, ()) = join(self.beat(), timer.sleep(EACH)).await;
            if let Err(Away) = beaten {
                tracing::debug!("the store is away: nobody hears that this process lives");
            }
        }
    }

    /// Sweeps each second, for ever. Beats don't wait for it, however long it takes.
    pub async fn keep_sweeping(self: Arc<Self>, timer: Arc<dyn Timer>) {
        timer.sleep(EACH).await;
        loop {
            join(self.sweep(), timer.sleep(EACH)).await;
        }
    }
}
