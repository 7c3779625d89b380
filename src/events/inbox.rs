//! Reports on their way from the connectors to whoever applies them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::clock::Clock;
use crate::core::ids::StackId;
use crate::core::stack_event::StackEvent;
use crate::core::time::StoreTime;
use crate::stack::{Reports, StackReport};

/// So many reports of one stack may wait to be applied.
const QUEUE: usize = 16_384;

/// Where connectors put their reports.
pub struct Inbox {
    queues: BTreeMap<StackId, Queue>,
    clock: Arc<dyn Clock>,
}

/// A report, and when it came in.
pub(super) type Came = (StoreTime, StackReport);

struct Queue {
    reports: Sender<Came>,
    gap: Arc<Gap>,
}

/// Reports that did not fit.
#[derive(Default)]
pub(super) struct Gap {
    open: AtomicBool,
    lost: AtomicU64,
    restart: Mutex<Option<StackEvent>>,
}

impl Gap {
    fn lose(&self, report: StackReport) {
        if let StackReport::Event(restart @ StackEvent::Restarted(_)) = report {
            *self.restart.lock().unwrap_or_else(PoisonError::into_inner) = Some(restart);
        }
        self.lost.fetch_add(1, Ordering::Relaxed);
        self.open.store(true, Ordering::Release);
    }

    /// Whether something was lost since it was asked last.
    pub(super) fn opened(&self) -> bool {
        self.open.swap(false, Ordering::AcqRel)
    }

    /// The newest restart that was lost.
    pub(super) fn restart(&self) -> Option<StackEvent> {
        self.restart.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Takes the reports of every stack out again.
pub struct Outlet {
    pub(super) queues: Vec<(StackId, Receiver<Came>, Arc<Gap>)>,
}

/// An inbox for these stacks, and its other end.
#[must_use]
pub fn inbox(stacks: &[StackId], clock: Arc<dyn Clock>) -> (Inbox, Outlet) {
    let mut inbox = Inbox { queues: BTreeMap::new(), clock };
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
        match queue.reports.try_send((self.clock.now(), event)) {
            Ok(()) => {}
            Err(TrySendError::Full((_, report)) | TrySendError::Closed((_, report))) => {
                queue.gap.lose(report);
            }
        }
    }
}
