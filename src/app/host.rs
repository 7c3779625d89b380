//! The engine's work on tokio, and the one task that wakes it when something is due.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::{Clock, Timer, TokioTimer};
use crate::core::time::StoreTime;
use crate::engine::{Engine, Host};
use crate::stack::Stacks;
use crate::store::Store;

/// Longest sleep between two looks at the timers.
const LONGEST: Duration = Duration::from_secs(1);

/// Runs the engine's work as tokio tasks.
pub struct TokioHost {
    tasks: TaskTracker,
    /// Work may be handed over from where no runtime is entered: what is dropped while it ends.
    runtime: Handle,
    /// The earliest time asked for since the last wake, in milliseconds; `u64::MAX`: none.
    wanted: AtomicU64,
    wake: Notify,
}

impl TokioHost {
    /// A host on the runtime of its caller, whose tasks are counted by this tracker.
    pub fn new(tasks: TaskTracker) -> Arc<Self> {
        let runtime = Handle::current();
        Arc::new(Self { tasks, runtime, wanted: AtomicU64::new(u64::MAX), wake: Notify::new() })
    }

    /// Fires the engine's timers, and has it beat and sweep, until `stop`. One task for the timers of
    /// all commands; a slow store does not keep them waiting.
    pub async fn drive<S: Store, K: Stacks>(
        self: Arc<Self>,
        engine: Arc<Engine<S, K>>,
        clock: Arc<dyn Clock>,
        stop: CancellationToken,
    ) {
        let timer: Arc<dyn Timer> = Arc::new(TokioTimer);
        self.until(&stop, Arc::clone(&engine).keep_beating(Arc::clone(&timer)));
        self.until(&stop, Arc::clone(&engine).keep_sweeping(timer));
        loop {
            self.wanted.store(u64::MAX, Ordering::SeqCst);
            let due = engine.fire();
            let sleep = due.map_or(LONGEST, |due| clock.now().until(due)).min(LONGEST);
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    fn until(&self, stop: &CancellationToken, work: impl Future<Output = ()> + Send + 'static) {
        let stopped = stop.clone().cancelled_owned();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stopped => {}
                () = work => {}
            }
        });
    }
}

impl Host for TokioHost {
    fn spawn(&self, work: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.tasks.spawn_on(work, &self.runtime);
    }

    fn wake_at(&self, at: StoreTime) {
        // Only an earlier time than the one asked for needs another look.
        if self.wanted.fetch_min(at.0, Ordering::SeqCst) > at.0 {
            self.wake.notify_one();
        }
    }
}
