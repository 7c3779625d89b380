//! The clients' side: sockets, one-shot requests, sessions, limits, close codes.
//!
//! In: frames of clients, and the committed entries of the stream through [`feed::Feed`]. Out:
//! commands to the engine through [`commands::Commands`], and text to the sockets. What a
//! conversation *is* stands in [`session`], without a socket; `socket` is its task. A client
//! that reads too slowly, says nothing or speaks something else is closed with a code that says
//! what to do ([`close`]); nothing that a client does reaches another one.

pub mod close;
pub mod commands;
pub mod console;
pub mod feed;
mod listen;
mod one_shot;
pub mod origin;
pub mod outbox;
pub mod session;
mod socket;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::listen::{router, serve};
pub use self::socket::converse;

use self::commands::Commands;
use self::feed::Feed;
use self::origin::Origins;
use self::session::Limits;
use crate::core::ids::Nonce;
use crate::core::request::Method;
use crate::metrics::SessionMetrics;

/// How long a client may leave written bytes unread.
pub const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection may take to send its request's head.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the body of a `POST` may take.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Draws fresh randomness for ids.
pub type Nonces = Arc<dyn Fn() -> Nonce + Send + Sync>;

/// What the client port allows. The configuration says it, and has the defaults.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The path of the protocol.
    pub path: String,
    /// Most WebSockets at once.
    pub connections: usize,
    /// Most other connections at once, those that are not yet a WebSocket included.
    pub requests: usize,
    /// Longest message, in bytes.
    pub message_bytes: usize,
    /// Most requests in one batch.
    pub batch: usize,
    /// Most commands of one session that run at once.
    pub commands: usize,
    /// Most bytes that wait for one client to read them.
    pub outbound_bytes: usize,
    /// A client that was silent for so long is pinged.
    pub ping_every: Duration,
    /// A client that was silent for so long, pings notwithstanding, is closed.
    pub idle_timeout: Duration,
    /// Sockets are closed spread over this time when the process stops.
    pub drain_spread: Duration,
    /// Which pages may speak to us.
    pub origins: Origins,
}

impl Settings {
    /// Most `POST`s at once that wait for the end of their commands. They may wait for minutes, and
    /// the other half of [`Self::requests`] is for whoever is served at once.
    #[must_use]
    pub fn waiting(&self) -> usize {
        (self.requests / 2).max(1)
    }

    /// Most questions of one session, to the store or to a stack, that are under way at once. Its
    /// commands and `CallEnd`s have limits of their own, which leave half of it to what looks a
    /// command up or gives it up.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.commands.saturating_mul(4)
    }

    fn limits(&self) -> Limits {
        Limits { batch: self.batch, commands: self.commands }
    }
}

/// The clients' side of one process.
pub struct Client<C> {
    commands: C,
    feed: Arc<Feed>,
    settings: Settings,
    nonce: Nonces,
    metrics: SessionMetrics,
    shutdown: CancellationToken,
    /// Set while running commands are waited for, before `shutdown`.
    winding_down: AtomicBool,
    /// That a page was refused for its origin was logged.
    told_of_origin: AtomicBool,
    tasks: TaskTracker,
    places: Arc<Semaphore>,
    /// Of `POST`s that wait for the end of their commands.
    waiting: Semaphore,
    start: Instant,
}

/// Which new commands are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intake {
    /// All of them.
    Everything,
    /// Only those that end calls: the process is about to stop, and a new command might outlive it.
    Ends,
    /// None.
    Nothing,
}

impl Intake {
    /// Whether a command of this kind may begin.
    #[must_use]
    pub fn takes(self, method: Method) -> bool {
        match self {
            Self::Everything => true,
            Self::Ends => method == Method::CallEnd,
            Self::Nothing => false,
        }
    }
}

impl<C: Commands> Client<C> {
    /// The clients' side, not yet listening. Cancelling `shutdown` stops the listener, refuses
    /// new commands and closes the sockets, spread over [`Settings::drain_spread`].
    #[must_use]
    pub fn new(
        commands: C,
        feed: Arc<Feed>,
        settings: Settings,
        nonce: Nonces,
        metrics: SessionMetrics,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(settings.connections));
        let waiting = Semaphore::new(settings.waiting());
        Arc::new(Self {
            commands,
            feed,
            settings,
            nonce,
            metrics,
            shutdown,
            winding_down: AtomicBool::new(false),
            told_of_origin: AtomicBool::new(false),
            tasks: TaskTracker::new(),
            places,
            waiting,
            start: Instant::now(),
        })
    }

    /// What was counted.
    #[must_use]
    pub fn metrics(&self) -> &SessionMetrics {
        &self.metrics
    }

    /// From now on only commands that end calls are taken: the process is about to stop.
    pub fn wind_down(&self) {
        self.winding_down.store(true, Ordering::Relaxed);
    }

    fn intake(&self) -> Intake {
        if self.shutdown.is_cancelled() {
            Intake::Nothing
        } else if self.winding_down.load(Ordering::Relaxed) {
            Intake::Ends
        } else {
            Intake::Everything
        }
    }

    /// Waits until every connection and socket has ended. Bound it with a timeout.
    pub async fn drained(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Milliseconds since this side began.
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// One socket's share of the time over which sockets are closed.
    fn drain_delay(&self) -> Duration {
        let spread = self.settings.drain_spread.as_millis().max(1);
        Duration::from_millis(u64::try_from((self.nonce)().0 % spread).unwrap_or_default())
    }
}
