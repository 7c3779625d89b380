//! Whether a stack's events find their way to this process.
//!
//! A stack can answer every request and send its events into nowhere: another address than ours, a
//! packet filter, a translation of addresses. So where nothing has come in for a while, an event that
//! nobody uses is raised at the stack, and must come in. Any event proves the way, and a stack sends
//! each to all its subscribers: a busy stack is never asked, and of many quiet processes about one asks
//! for all of them.

use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::meter::Meter;
use super::subscription::Taken;
use crate::core::time::StoreTime;
use crate::stack::mi::{MiEvent, MiParams, MiRequest};

/// An event that nobody uses, to try the way of events with.
pub(super) const TRIAL_EVENT: &str = "E_CORE_PROC_AUTO_SCALE";

/// So many trial events in a row that do not come mean that none does. One datagram may be lost.
const IN_A_ROW: u32 = 3;

/// A trial event that takes longer does not come.
const PATIENCE: Duration = Duration::from_secs(1);

/// Hears what comes in.
#[derive(Debug, Default)]
pub(super) struct Ear {
    arrivals: AtomicU64,
    /// The word of the trial event that is under way, and when it was raised.
    waited_for: Mutex<Option<(String, Instant)>>,
}

impl Ear {
    /// An event came in.
    pub(super) fn heard(&self, event: &MiEvent, meter: &dyn Meter) {
        self.arrivals.fetch_add(1, Ordering::Relaxed);
        if event.name != TRIAL_EVENT {
            return;
        }
        let mut waited_for = self.waited_for.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((word, raised)) = &*waited_for
            && carries(&event.params, word)
        {
            meter.trial_took(raised.elapsed());
            *waited_for = None;
        }
    }

    fn arrivals(&self) -> u64 {
        self.arrivals.load(Ordering::Relaxed)
    }

    fn wait_for(&self, word: String) {
        let mut waited_for = self.waited_for.lock().unwrap_or_else(PoisonError::into_inner);
        *waited_for = Some((word, Instant::now()));
    }
}

/// A list of texts comes as a list; over TCP from 4.0 as an object with an empty name (trial runs).
fn carries(params: &MiParams, word: &str) -> bool {
    match params {
        MiParams::None => false,
        MiParams::Positional(values) => values.iter().any(|value| value == word),
        MiParams::Named(members) => members.iter().any(|(_, value)| value == word),
    }
}

/// What is to be done about the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing for now.
    Wait,
    /// A trial event is to be raised.
    Raise,
    /// Nothing comes in: all is to be subscribed to anew, and whatever needs events has to look.
    /// Said again with each period; the number counts.
    Renew(u32),
    /// Something came in again.
    Back,
}

/// What is known of the way.
#[derive(Debug)]
pub(super) struct Way {
    socket: String,
    period: Duration,
    arrivals: u64,
    /// When the next trial is due, where nothing comes in before.
    due: StoreTime,
    raised_at: Option<StoreTime>,
    numbered: u64,
    misses: u32,
    renewed: u32,
    /// It was not tried since it was subscribed to.
    fresh: bool,
    /// The stack takes no trial events.
    refused: bool,
}

impl Way {
    /// The way to this socket; tried where nothing came in for about this long.
    pub(super) fn new(socket: &str, period: Duration) -> Self {
        Self {
            socket: socket.to_owned(),
            period,
            arrivals: 0,
            due: StoreTime::default(),
            raised_at: None,
            numbered: 0,
            misses: 0,
            renewed: 0,
            fresh: false,
            refused: false,
        }
    }

    /// All was subscribed to just now: it is tried at once.
    pub(super) fn subscribed(&mut self, taken: Taken, now: StoreTime) {
        self.refused = !(taken.needed && taken.trial);
        self.raised_at = None;
        self.fresh = true;
        self.due = now;
    }

    /// The stack does not raise events for us.
    pub(super) fn refused(&mut self) {
        self.refused = true;
        self.raised_at = None;
    }

    /// A trial event.
    pub(super) fn trial(&mut self, ear: &Ear) -> MiRequest {
        self.numbered += 1;
        let word = format!("callplane {:016x} {}", self.hash(0), self.numbered);
        ear.wait_for(word.clone());
        MiRequest::new("raise_event").text("event", TRIAL_EVENT).list("params", [word])
    }

    /// The stack has raised it.
    pub(super) fn raised(&mut self, now: StoreTime) {
        self.raised_at = Some(now);
        self.fresh = false;
    }

    /// Looks at what came in since it was looked last.
    pub(super) fn look(&mut self, ear: &Ear, now: StoreTime, meter: &dyn Meter) -> Next {
        let arrivals = ear.arrivals();
        if arrivals != self.arrivals {
            self.arrivals = arrivals;
            self.raised_at = None;
            self.misses = 0;
            self.due = now.after(self.period + self.jitter());
            meter.events_arrive(true);
            return match std::mem::take(&mut self.renewed) {
                0 => Next::Wait,
                _ => Next::Back,
            };
        }
        if self.refused {
            return Next::Wait;
        }
        match self.raised_at {
            Some(raised) if raised.until(now) < PATIENCE.min(self.period) => Next::Wait,
            Some(_) => self.missed(now, meter),
            None if now < self.due => Next::Wait,
            None if self.renewed == 0 || self.fresh => Next::Raise,
            None => self.renew(now),
        }
    }

    fn missed(&mut self, now: StoreTime, meter: &dyn Meter) -> Next {
        meter.trial_missed();
        self.raised_at = None;
        self.misses = self.misses.saturating_add(1);
        if self.misses < IN_A_ROW {
            return Next::Raise;
        }
        meter.events_arrive(false);
        if self.renewed == 0 {
            return self.renew(now);
        }
        self.due = now.after(self.period);
        Next::Wait
    }

    fn renew(&mut self, now: StoreTime) -> Next {
        self.renewed = self.renewed.saturating_add(1);
        self.due = now.after(self.period);
        Next::Renew(self.renewed)
    }

    /// Up to a quarter of the period, another for each process: who is first spares the others.
    fn jitter(&self) -> Duration {
        let drawn = self.hash(self.arrivals) % 256;
        self.period / 4 * u32::try_from(drawn).unwrap_or_default() / 256
    }

    /// A number of this process's own.
    fn hash(&self, number: u64) -> u64 {
        BuildHasherDefault::<DefaultHasher>::default().hash_one((&self.socket, number))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicI64;

    use super::*;
    use crate::stack::opensips::meter::{BreakerState, EventResult, MiResult};

    const ALL: Taken = Taken { needed: true, trial: true };
    const PERIOD: Duration = Duration::from_secs(20);

    /// Round trips, misses, and whether events arrive.
    #[derive(Default)]
    struct Counted {
        took: AtomicU64,
        misses: AtomicU64,
        arrive: AtomicI64,
    }

    impl Meter for Counted {
        fn sent(&self, _command: &'static str) {}
        fn answered(&self, _command: &'static str, _result: MiResult, _took: Duration) {}
        fn breaker(&self, _state: BreakerState) {}
        fn restarted(&self) {}
        fn event(&self, _name: &'static str, _result: EventResult) {}
        fn subscribed(&self) {}
        fn event_buffer(&self, _bytes: usize) {}
        fn trial_took(&self, _took: Duration) {
            self.took.fetch_add(1, Ordering::Relaxed);
        }
        fn trial_missed(&self) {
            self.misses.fetch_add(1, Ordering::Relaxed);
        }
        fn events_arrive(&self, yes: bool) {
            self.arrive.store(if yes { 1 } else { -1 }, Ordering::Relaxed);
        }
    }

    struct Play {
        way: Way,
        ear: Ear,
        counted: Counted,
        now: StoreTime,
        last: Option<MiRequest>,
    }

    impl Play {
        fn begin() -> Self {
            let now = StoreTime(1_000_000);
            let mut way = Way::new("udp:10.0.0.5:5065", PERIOD);
            way.subscribed(ALL, now);
            Self { way, ear: Ear::default(), counted: Counted::default(), now, last: None }
        }

        /// So much later.
        fn look(&mut self, later: Duration) -> Next {
            self.now = self.now.after(later);
            let next = self.way.look(&self.ear, self.now, &self.counted);
            match next {
                Next::Raise => {
                    self.last = Some(self.way.trial(&self.ear));
                    self.way.raised(self.now);
                }
                Next::Renew(_) => self.way.subscribed(ALL, self.now),
                Next::Wait | Next::Back => {}
            }
            next
        }

        fn hear(&self, text: &str) {
            let event = MiEvent::decode(text.as_bytes()).unwrap();
            self.ear.heard(&event, &self.counted);
        }

        /// The trial event that was raised last comes in.
        fn hear_own(&self) {
            let params = self.last.as_ref().unwrap().params.get("params").unwrap();
            self.hear(&format!(r#"{{"method":"{TRIAL_EVENT}","params":{params}}}"#));
        }
    }

    const SECOND: Duration = Duration::from_secs(1);
    const OTHER: &str = r#"{"method":"E_DLG_STATE_CHANGED","params":{}}"#;

    #[test]
    fn the_way_is_tried_at_once_and_then_only_where_nothing_comes() {
        let mut play = Play::begin();
        assert_eq!(play.look(Duration::ZERO), Next::Raise);
        play.hear_own();
        assert_eq!(play.look(2 * SECOND), Next::Wait);
        let Counted { took, arrive, .. } = &play.counted;
        assert_eq!((took.load(Ordering::Relaxed), arrive.load(Ordering::Relaxed)), (1, 1));
        // A stack that has something to say is not asked.
        for _ in 0..60 {
            play.hear(OTHER);
            assert_eq!(play.look(2 * SECOND), Next::Wait);
        }
        let quiet = (1..).find(|_| play.look(SECOND) == Next::Raise).unwrap();
        assert!((20..=25).contains(&quiet), "{quiet} s");
        // Somebody else's word proves the way, too, and is no round trip of ours.
        play.hear(&format!(r#"{{"method":"{TRIAL_EVENT}","params":["callplane another 1"]}}"#));
        assert_eq!(play.look(2 * SECOND), Next::Wait);
        assert_eq!(play.counted.took.load(Ordering::Relaxed), 1);
        assert_eq!(play.counted.misses.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn three_in_a_row_that_do_not_come_mean_that_none_does() {
        let mut play = Play::begin();
        assert_eq!(play.look(Duration::ZERO), Next::Raise);
        assert_eq!(play.look(SECOND / 2), Next::Wait);
        assert_eq!([play.look(2 * SECOND), play.look(2 * SECOND)], [Next::Raise; 2]);
        assert_eq!(play.look(2 * SECOND), Next::Renew(1));
        assert_eq!(play.counted.arrive.load(Ordering::Relaxed), -1);
        // Subscribed anew, it is tried again at once; then with each period.
        assert_eq!([play.look(SECOND), play.look(2 * SECOND)], [Next::Raise, Next::Wait]);
        assert_eq!([play.look(19 * SECOND), play.look(SECOND)], [Next::Wait, Next::Renew(2)]);
        assert_eq!(play.look(SECOND), Next::Raise);
        play.hear_own();
        assert_eq!(play.look(SECOND), Next::Back);
        assert_eq!(play.counted.arrive.load(Ordering::Relaxed), 1);
        assert_eq!(play.look(SECOND), Next::Wait);
        assert_eq!(play.counted.misses.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn one_that_is_lost_means_nothing() {
        let mut play = Play::begin();
        assert_eq!([play.look(Duration::ZERO), play.look(2 * SECOND)], [Next::Raise; 2]);
        play.hear_own();
        assert_eq!(play.look(2 * SECOND), Next::Wait);
        let next = (0..30).find_map(|_| (play.look(SECOND) == Next::Raise).then_some(()));
        assert_eq!(next, Some(()));
        assert_eq!([play.look(2 * SECOND), play.look(2 * SECOND)], [Next::Raise; 2]);
    }

    #[test]
    fn a_stack_that_raises_nothing_for_us_is_not_judged() {
        let mut play = Play::begin();
        play.way.subscribed(Taken { trial: false, ..ALL }, play.now);
        for _ in 0..100 {
            assert_eq!(play.look(2 * SECOND), Next::Wait);
        }
        play.way.subscribed(ALL, play.now);
        assert_eq!(play.look(Duration::ZERO), Next::Raise);
        play.way.refused();
        assert_eq!(play.look(20 * SECOND), Next::Wait);
    }
}
