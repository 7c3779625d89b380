//! What the stacks report, carried to the engine while this process leads.
//!
//! Reports are applied in order, stack by stack. A stack's queue is bounded: what does not fit is
//! counted and made good by looking at a list again. A restart is told once, and no list shows it: the
//! newest one is kept aside when it does not fit.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::OptionFuture;
use tokio::sync::Notify;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio_util::sync::CancellationToken;

use crate::core::ids::{StackId, Term};
use crate::core::stack_event::StackEvent;
use crate::engine::Engine;
use crate::leadership::Leadership;
use crate::stack::{Reports, StackReport, Stacks};
use crate::store::Store;

/// So many reports of one stack may wait to be applied.
const QUEUE: usize = 16_384;

/// Where connectors put their reports.
pub struct Inbox {
    queues: BTreeMap<StackId, Queue>,
}

struct Queue {
    reports: Sender<StackReport>,
    gap: Arc<Gap>,
}

/// Reports that did not fit.
#[derive(Default)]
struct Gap {
    open: AtomicBool,
    lost: AtomicU64,
    restart: Mutex<Option<StackEvent>>,
}

impl Gap {
    fn lose(&self, report: StackReport) {
        if let StackReport::Event(restart @ StackEvent::Restarted { .. }) = report {
            *self.restart.lock().unwrap_or_else(PoisonError::into_inner) = Some(restart);
        }
        self.lost.fetch_add(1, Ordering::Relaxed);
        self.open.store(true, Ordering::Release);
    }

    fn restart(&self) -> Option<StackEvent> {
        self.restart.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Takes the reports of every stack out again.
pub struct Outlet {
    queues: Vec<(StackId, Receiver<StackReport>, Arc<Gap>)>,
}

/// An inbox for these stacks, and its other end.
#[must_use]
pub fn inbox(stacks: &[StackId]) -> (Inbox, Outlet) {
    let mut inbox = Inbox { queues: BTreeMap::new() };
    let mut outlet = Outlet { queues: Vec::new() };
    for stack in stacks {
        let (reports, receiver) = channel(QUEUE);
        let gap = Arc::new(Gap::default());
        outlet.queues.push((stack.clone(), receiver, Arc::clone(&gap)));
        inbox.queues.insert(stack.clone(), Queue { reports, gap });
    }
    (inbox, outlet)
}

impl Inbox {
    /// How many reports of this stack did not fit, since the start.
    #[must_use]
    pub fn lost(&self, stack: &StackId) -> u64 {
        self.queues.get(stack).map_or(0, |queue| queue.gap.lost.load(Ordering::Relaxed))
    }
}

impl Reports for Inbox {
    fn report(&self, stack: &StackId, event: StackReport) {
        let Some(queue) = self.queues.get(stack) else { return };
        match queue.reports.try_send(event) {
            Ok(()) => {}
            Err(TrySendError::Full(report) | TrySendError::Closed(report)) => {
                queue.gap.lose(report);
            }
        }
    }
}

/// Applies reports until `stop`, or until every connector is gone.
pub async fn run<S: Store, K: Stacks, L: Leadership>(
    engine: Arc<Engine<S, K>>,
    leadership: Arc<L>,
    outlet: Outlet,
    stop: CancellationToken,
) {
    let queues = outlet.queues.into_iter().map(|(stack, reports, gap)| {
        apply_all(Arc::clone(&engine), Arc::clone(&leadership), stack, reports, gap)
    });
    tokio::select! {
        _ = futures_util::future::join_all(queues) => {}
        () = stop.cancelled() => {}
    }
}

/// How long until a list that could not be had is asked for again; doubled each time.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_AT_MOST: Duration = Duration::from_secs(60);

async fn apply_all<S: Store, K: Stacks, L: Leadership>(
    engine: Arc<Engine<S, K>>,
    leadership: Arc<L>,
    stack: StackId,
    mut reports: Receiver<StackReport>,
    gap: Arc<Gap>,
) {
    let mut term = leadership.term(&stack);
    // A list takes seconds on a bad day. Reports go on meanwhile: the machines take facts in any
    // order. One list at a time: who asks for one while it is under way gets the next.
    let hurry = Notify::new();
    let mut listing = None;
    let mut once_more = false;
    loop {
        let mut wanted = false;
        tokio::select! {
            // A new term comes before any report that is applied in it.
            biased;
            now = leadership.changed(&stack, term) => {
                term = now;
                // What happened before is only known from a list.
                listing = term.map(|term| Box::pin(list(&engine, &stack, term, &hurry)));
                once_more = false;
            }
            () = OptionFuture::from(listing.as_mut()).map(|_| ()), if listing.is_some() => {
                listing = None;
                wanted = std::mem::take(&mut once_more);
            }
            report = reports.recv() => {
                let Some(report) = report else { return };
                let Some(term) = term else { continue };
                match report {
                    StackReport::Event(event) => engine.happened(&stack, event, Some(term)).await,
                    StackReport::Joined => wanted = true,
                }
                // Only once all that did fit has been applied: the list is newer than that.
                if reports.is_empty() && gap.open.swap(false, Ordering::AcqRel) {
                    tracing::warn!(%stack, "reports of the stack were lost: the queue was full");
                    if let Some(restart) = gap.restart() {
                        engine.happened(&stack, restart, Some(term)).await;
                    }
                    wanted = true;
                }
            }
        }
        match (wanted, &listing, term) {
            (true, None, Some(term)) => {
                listing = Some(Box::pin(list(&engine, &stack, term, &hurry)));
            }
            (true, Some(_), _) => {
                once_more = true;
                hurry.notify_one();
            }
            (true, None, None) | (false, _, _) => {}
        }
    }
}

/// Applies what the stack's list shows, however long it takes to get one. `hurry` ends the wait
/// for the next try.
async fn list<S: Store, K: Stacks>(
    engine: &Arc<Engine<S, K>>,
    stack: &StackId,
    term: Term,
    hurry: &Notify,
) {
    let mut again = AGAIN;
    while let Err(why) = engine.joined(stack, Some(term)).await {
        tracing::warn!(%stack, %why, again_in = ?again, "running commands were not checked");
        let _ = tokio::time::timeout(again, hurry.notified()).await;
        again = (again * 2).min(AGAIN_AT_MOST);
    }
}
