//! What the stacks report, carried to the engine while this process leads.
//!
//! Reports are applied in order, stack by stack, those at hand together. A stack's queue is bounded:
//! what does not fit is counted and made good by looking at a list again. A restart is told once, and
//! no list shows it: the newest one is kept aside when it does not fit.
//!
//! A process that does not lead hears them too, and keeps them for a while (`ring.rs`). When it comes to
//! lead, it applies what its predecessor may not have, and then looks at a list. To apply something
//! twice does no harm.

mod inbox;
mod ring;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{OptionFuture, select};
use tokio::sync::Notify;
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;

use self::inbox::{Came, Gap};
pub use self::inbox::{Inbox, Outlet, inbox};
use self::ring::Ring;
use crate::clock::{Clock, Timer};
use crate::core::ids::{StackId, Term};
use crate::core::time::StoreTime;
use crate::engine::Engine;
use crate::engine::happened::Heard;
use crate::leadership::Leadership;
use crate::stack::{StackReport, Stacks};
use crate::store::{Away, Store};

/// So many reports are applied together.
const AT_ONCE: usize = 256;

/// How long until a store that was away is asked again.
const STORE_AGAIN: Duration = Duration::from_millis(100);

/// How often it is noted how far this process is.
const IDLE: Duration = Duration::from_secs(1);

/// How long until a list that could not be had is asked for again; doubled each time.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_AT_MOST: Duration = Duration::from_secs(60);

/// Applies reports until `stop`, or until every connector is gone.
pub async fn run<S: Store, K: Stacks, L: Leadership>(
    engine: Arc<Engine<S, K>>,
    leadership: Arc<L>,
    clock: Arc<dyn Clock>,
    timer: Arc<dyn Timer>,
    outlet: Outlet,
    stop: CancellationToken,
) {
    let queues = outlet.queues.into_iter().map(|(stack, reports, gap)| {
        let applying = Applying {
            engine: Arc::clone(&engine),
            leadership: Arc::clone(&leadership),
            clock: Arc::clone(&clock),
            timer: Arc::clone(&timer),
            stack,
            gap,
            ring: Ring::default(),
            turns: Default::default(),
        };
        applying.run(reports)
    });
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        _ = futures_util::future::join_all(queues) => {}
    }
}

/// One stack's reports.
struct Applying<S, K, L> {
    engine: Arc<Engine<S, K>>,
    leadership: Arc<L>,
    clock: Arc<dyn Clock>,
    timer: Arc<dyn Timer>,
    stack: StackId,
    gap: Arc<Gap>,
    ring: Ring,
    /// When it was noted last how far this process is, and the time before.
    turns: [StoreTime; 2],
}

impl<S: Store, K: Stacks, L: Leadership> Applying<S, K, L> {
    async fn run(mut self, mut reports: Receiver<Came>) {
        let (leadership, engine) = (Arc::clone(&self.leadership), Arc::clone(&self.engine));
        let timer = Arc::clone(&self.timer);
        let stack = self.stack.clone();
        let mut term = leadership.term(&stack);
        // A list takes seconds on a bad day. Reports go on meanwhile: the machines take facts in any
        // order. One list at a time: who asks for one while it is under way gets the next.
        let hurry = Notify::new();
        let (mut epoch, mut silences) = (engine.epoch_heard(), engine.silences());
        let mut listing = None;
        let mut once_more = false;
        let mut idle = timer.sleep(IDLE);
        let mut came = Vec::with_capacity(AT_ONCE);
        loop {
            let mut wanted = false;
            tokio::select! {
                // A new term comes before any report that is applied in it.
                biased;
                now = leadership.changed(&stack, term) => {
                    term = now;
                    once_more = false;
                    listing = None;
                    if let Some(term) = term {
                        let left = self.ring.since(engine.was_applied(&stack));
                        tracing::info!(%stack, term = term.0, left = left.len(), "leading the stack's events");
                        self.apply(&left, term).await;
                        // What else happened before is only known from a list.
                        listing = Some(Box::pin(list(&engine, &*timer, &stack, term, &hurry)));
                    } else {
                        tracing::info!(%stack, "no longer leading the stack's events");
                    }
                }
                () = OptionFuture::from(listing.as_mut()).map(|_| ()), if listing.is_some() => {
                    listing = None;
                    wanted = std::mem::take(&mut once_more);
                }
                () = &mut idle => {
                    idle = timer.sleep(IDLE);
                    // A store that forgot a command leaves its leg to whoever looks at a list.
                    let now_in = engine.epoch_heard();
                    // So does a process that was to end it, and is gone.
                    let silent = engine.silences();
                    wanted = epoch.is_some() && epoch != now_in || silences != silent;
                    (epoch, silences) = (now_in, silent);
                    self.turns = [self.clock.now(), self.turns[0]];
                    if term.is_some() && reports.is_empty() {
                        self.has_applied(self.turns[0]);
                    }
                }
                count = reports.recv_many(&mut came, AT_ONCE) => {
                    if count == 0 {
                        return;
                    }
                    let mut heard = Vec::with_capacity(count);
                    for (at, report) in came.drain(..) {
                        match report {
                            StackReport::Event(event) => heard.push(Heard { event, at }),
                            StackReport::Joined => wanted = true,
                        }
                    }
                    heard.iter().cloned().for_each(|heard| self.ring.keep(heard));
                    let Some(term) = term else { continue };
                    self.apply(&heard, term).await;
                    // Only once all that did fit has been applied: the list is newer than that.
                    if reports.is_empty() && self.gap.opened() {
                        tracing::warn!(%stack, "reports of the stack were lost: the queue was full");
                        if let Some(event) = self.gap.restart() {
                            let at = self.clock.now();
                            self.apply(&[Heard { event, at }], term).await;
                        }
                        wanted = true;
                    }
                }
            }
            match (wanted, &listing, term) {
                (true, None, Some(term)) => {
                    listing = Some(Box::pin(list(&engine, &*timer, &stack, term, &hurry)));
                }
                (true, Some(_), _) => {
                    once_more = true;
                    hurry.notify_one();
                }
                (true, None, None) | (false, _, _) => {}
            }
        }
    }

    /// Applies these, however long the store is away; until somebody else leads.
    async fn apply(&self, heard: &[Heard], term: Term) {
        for some in heard.chunks(AT_ONCE) {
            while let Err(Away) = self.engine.happened(&self.stack, some, Some(term)).await {
                if self.leadership.term(&self.stack) != Some(term) {
                    return;
                }
                self.timer.sleep(STORE_AGAIN).await;
            }
            if let Some(last) = some.last() {
                self.has_applied(last.at);
            }
        }
    }

    /// Everything up to then was applied, as far as it came in. A process that stood still finds reports
    /// that came in meanwhile only later, and others have known them for long: so nothing is told that is
    /// younger than the turn before the last.
    fn has_applied(&self, until: StoreTime) {
        let [_, before] = self.turns;
        self.engine.has_applied(&self.stack, until.min(before));
    }
}

/// Applies what the stack's list shows, however long it takes to get one. `hurry` ends the wait
/// for the next try.
async fn list<S: Store, K: Stacks>(
    engine: &Arc<Engine<S, K>>,
    timer: &dyn Timer,
    stack: &StackId,
    term: Term,
    hurry: &Notify,
) {
    let mut again = AGAIN;
    while let Err(why) = engine.joined(stack, Some(term)).await {
        tracing::warn!(%stack, %why, again_in = ?again, "running commands were not checked");
        select(pin!(hurry.notified()), timer.sleep(again)).await;
        again = (again * 2).min(AGAIN_AT_MOST);
    }
}
