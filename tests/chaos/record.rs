//! Everything that was seen, in one order.

use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use super::history::{Event, History, Time, What};

pub struct Recorder {
    began: Instant,
    history: Mutex<History>,
}

impl Recorder {
    pub fn new() -> Self {
        Self { began: Instant::now(), history: Mutex::default() }
    }

    pub fn now(&self) -> Time {
        u64::try_from(self.began.elapsed().as_millis()).unwrap()
    }

    /// Notes it at the present time, which is told.
    pub fn note(&self, what: What) -> Time {
        let mut history = self.lock();
        let at = self.now();
        history.events.push(Event { at, what });
        at
    }

    pub fn note_at(&self, at: Time, what: What) {
        self.lock().events.push(Event { at, what });
    }

    /// Looks at all so far, in the order in which it was noted.
    pub fn with<R>(&self, look: impl FnOnce(&History) -> R) -> R {
        look(&self.lock())
    }

    /// All of it, by time.
    pub fn take(&self) -> History {
        let mut history = std::mem::take(&mut *self.lock());
        history.events.sort_by_key(|event| event.at);
        history.end = self.now();
        history
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap()
    }
}
