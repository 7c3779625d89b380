//! The simulated stack in the same process: MI without sockets and without JSON text.
//!
//! For engine tests, benches and the seeded simulator. Time comes from a function the owner
//! gives; nothing here sleeps, except [`InProcess::drive`], which is for tokio programs.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;

use super::commands::Asker;
use super::world::{Output, World};
use crate::stack::mi::{Mi, MiAnswer, MiEvent, MiFailure, MiRequest, PlainReply};

/// Who gets the events: socket as subscribed, and the event. Called outside any lock, in the
/// order in which the events left, by whoever made the world go on.
pub type EventSink = Box<dyn Fn(&str, &Arc<MiEvent>) + Send + Sync>;

/// What time it is in the world; never goes back.
pub type Now = Box<dyn Fn() -> Duration + Send + Sync>;

/// A world behind the [`Mi`] trait. Clones share it.
#[derive(Clone)]
pub struct InProcess {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    now: Now,
    sink: EventSink,
    /// The next due point came nearer.
    nearer: Notify,
}

struct State {
    world: World,
    next_ticket: u64,
    waiting: HashMap<u64, Waiting>,
    deadlines: BinaryHeap<Reverse<(Duration, u64)>>,
}

enum Waiting {
    Asked(Option<Waker>),
    Told(Result<MiAnswer, MiFailure>),
}

/// What one step of the world brought, to be handed on without the lock.
#[derive(Default)]
struct Brought {
    own: Option<Result<MiAnswer, MiFailure>>,
    events: Vec<(Arc<str>, Arc<MiEvent>)>,
    wake: Vec<Waker>,
}

impl InProcess {
    /// `now` tells the time, `sink` gets every event a subscriber would get.
    pub fn new(world: World, now: Now, sink: EventSink) -> InProcess {
        let state =
            State { world, next_ticket: 0, waiting: HashMap::new(), deadlines: BinaryHeap::new() };
        InProcess {
            shared: Arc::new(Shared { state: Mutex::new(state), now, sink, nearer: Notify::new() }),
        }
    }

    /// Looks at or changes the world (phones, faults, restarts) at the present time.
    pub fn with<R>(&self, change: impl FnOnce(&mut World, Duration) -> R) -> R {
        let mut state = self.lock();
        let now = (self.shared.now)();
        let result = change(&mut state.world, now);
        let brought = state.step(now, None);
        drop(state);
        self.hand_on(brought);
        self.shared.nearer.notify_one();
        result
    }

    /// When something is due: in the world, or the deadline of a call.
    pub fn due(&self) -> Option<Duration> {
        let state = self.lock();
        let deadline = state.deadlines.peek().map(|Reverse((at, _))| *at);
        match (state.world.due(), deadline) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Lets everything happen that is due now, and wakes who waited for it.
    pub fn advance(&self) {
        let mut state = self.lock();
        let now = (self.shared.now)();
        let brought = state.step(now, None);
        drop(state);
        self.hand_on(brought);
    }

    /// Advances whenever something is due; never ends. For tokio programs whose `now` runs with
    /// tokio's clock.
    pub async fn drive(&self) {
        loop {
            let wait = self.due().map(|due| due.saturating_sub((self.shared.now)()));
            match wait {
                Some(wait) if wait.is_zero() => self.advance(),
                Some(wait) => tokio::select! {
                    () = tokio::time::sleep(wait) => self.advance(),
                    () = self.shared.nearer.notified() => {}
                },
                None => self.shared.nearer.notified().await,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hand_on(&self, brought: Brought) -> Option<Result<MiAnswer, MiFailure>> {
        for (socket, event) in &brought.events {
            (self.shared.sink)(socket, event);
        }
        brought.wake.into_iter().for_each(Waker::wake);
        brought.own
    }
}

impl State {
    /// Lets everything happen that is due; answers go to who waits, but that for `own` comes back.
    fn step(&mut self, now: Duration, own: Option<u64>) -> Brought {
        let mut brought = Brought::default();
        self.world.advance(now);
        while let Some(output) = self.world.take() {
            let (ticket, told) = match output {
                Output::Event { socket, event } => {
                    brought.events.push((socket, event));
                    continue;
                }
                Output::Down | Output::Up => continue,
                Output::Answer { asker, answer } => (asker.ticket, Ok(answer)),
                Output::Plain { ticket, text } => {
                    let (code, reason) = text.split_once(' ').unwrap_or(("500", text));
                    let plain =
                        PlainReply { code: code.parse().unwrap_or(500), reason: reason.to_owned() };
                    (ticket, Err(MiFailure::Plain(plain)))
                }
            };
            if own == Some(ticket) {
                brought.own = Some(told);
            } else {
                self.tell(ticket, told, &mut brought.wake);
            }
        }
        while let Some(Reverse((at, ticket))) = self.deadlines.peek().copied() {
            if at > now {
                break;
            }
            self.deadlines.pop();
            self.tell(ticket, Err(MiFailure::Silent), &mut brought.wake);
        }
        brought
    }

    fn tell(&mut self, ticket: u64, told: Result<MiAnswer, MiFailure>, wake: &mut Vec<Waker>) {
        // Nobody waits any more: the answer comes too late.
        let Some(waiting) = self.waiting.get_mut(&ticket) else { return };
        match waiting {
            Waiting::Asked(waker) => {
                wake.extend(waker.take());
                *waiting = Waiting::Told(told);
            }
            Waiting::Told(_) => {}
        }
    }
}

impl Mi for InProcess {
    async fn call(&self, request: MiRequest, timeout: Duration) -> Result<MiAnswer, MiFailure> {
        let (brought, ticket) = {
            let mut state = self.lock();
            let now = (self.shared.now)();
            if !state.world.is_up() {
                return Err(MiFailure::NotSent { reason: "refused" });
            }
            let ticket = state.next_ticket;
            state.next_ticket += 1;
            state.world.request(now, Asker::process(ticket), &request);
            let brought = state.step(now, Some(ticket));
            if brought.own.is_none() {
                state.waiting.insert(ticket, Waiting::Asked(None));
                state.deadlines.push(Reverse((now.saturating_add(timeout), ticket)));
            }
            (brought, ticket)
        };
        match self.hand_on(brought) {
            Some(answer) => answer,
            None => {
                self.shared.nearer.notify_one();
                Reply { of: self, ticket }.await
            }
        }
    }
}

/// Waits for one answer; dropping it gives up waiting.
struct Reply<'a> {
    of: &'a InProcess,
    ticket: u64,
}

impl Future for Reply<'_> {
    type Output = Result<MiAnswer, MiFailure>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.of.lock();
        match state.waiting.remove(&self.ticket) {
            Some(Waiting::Told(told)) => Poll::Ready(told),
            Some(Waiting::Asked(_)) => {
                let waker = Some(context.waker().clone());
                state.waiting.insert(self.ticket, Waiting::Asked(waker));
                Poll::Pending
            }
            None => Poll::Ready(Err(MiFailure::Silent)),
        }
    }
}

impl Drop for Reply<'_> {
    fn drop(&mut self) {
        self.of.lock().waiting.remove(&self.ticket);
    }
}
