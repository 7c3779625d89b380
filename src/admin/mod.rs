//! The operations port: is it alive, is it ready, what does it measure; and, apart from it on
//! loopback, the two things an operator may do: drain it and change what it logs.
//!
//! ```text
//! admin.listen    GET /livez  GET /readyz  GET /metrics
//! admin.control   POST /drain  POST /log-level
//! ```
//!
//! `/livez` fails only if this process no longer turns its event loop; a lost stack or store never
//! makes it fail, since a restart would mend neither. `/readyz` is true when the configuration is
//! loaded, the listeners are up and no drain has begun. `/readyz?verbose` says the same with a line for
//! each part of the server, those too that do not decide.

mod operations;
mod parts;

pub use operations::{AdminState, control, operations, run};
pub use parts::{Part, Parts};

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio_util::sync::CancellationToken;

/// Whether the server takes clients. Cheap to clone; the same for all clones.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    state: Arc<AtomicU8>,
    drain: CancellationToken,
}

/// What [`Readiness`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// Listeners are not up yet.
    Starting,
    /// Clients are welcome.
    Yes,
    /// The server is stopping.
    Draining,
}

impl Ready {
    /// The word that `/readyz` shows.
    pub fn word(self) -> &'static str {
        match self {
            Ready::Starting => "starting",
            Ready::Yes => "ready",
            Ready::Draining => "draining",
        }
    }
}

const READY: u8 = 1;

impl Readiness {
    /// A server that is starting.
    pub fn starting() -> Readiness {
        Readiness::default()
    }

    /// The listeners are up. After a drain has begun this changes nothing.
    pub fn listening(&self) {
        self.state.store(READY, Ordering::Release);
    }

    /// Begins the drain; the second time it changes nothing.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Completes when a drain begins, by signal or by `POST /drain`.
    pub async fn drained(&self) {
        self.drain.cancelled().await;
    }

    /// How it stands now.
    pub fn now(&self) -> Ready {
        if self.drain.is_cancelled() {
            Ready::Draining
        } else if self.state.load(Ordering::Acquire) == READY {
            Ready::Yes
        } else {
            Ready::Starting
        }
    }
}
