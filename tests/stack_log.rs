//! What the log tells of a stack: each thing once, and nothing that is not so.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "support/log.rs"]
mod log;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use callplane::clock::{SystemClock, TokioTimer};
use callplane::core::ids::StackId;
use callplane::stack::mi::{Mi, MiAnswer, MiFailure, MiRequest};
use callplane::stack::opensips::keeper::keep;
use callplane::stack::opensips::meter::Unmetered;
use callplane::stack::opensips::settings::StackSettings;
use callplane::stack::opensips::sink::Sink;
use callplane::stack::opensips::{OpenSips, Surroundings};
use callplane::stack::{Reports, StackReport};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use log::Log;

/// A stack with the reference script.
#[derive(Clone)]
struct Stack(Arc<Mutex<State>>);

struct State {
    since: &'static str,
    /// Requests leave.
    room: bool,
    /// So many did not.
    stayed: usize,
    subscribed: usize,
}

impl Stack {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(State { since: "then", room: true, stayed: 0, subscribed: 0 })))
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }
}

impl Mi for Stack {
    async fn call(&self, request: MiRequest, _timeout: Duration) -> Result<MiAnswer, MiFailure> {
        self.with(|state| {
            if !state.room {
                state.stayed += 1;
                return Err(MiFailure::NoRoom);
            }
            Ok(MiAnswer::Result(match &*request.method {
                "uptime" => json!({"Up since": state.since, "Up time": "99 [sec]"}),
                "version" => json!({"Server": "OpenSIPS (3.6.8 (x86_64/linux))"}),
                "cache_fetch" => {
                    json!({"key": "cp_cfg_version", "value": "1 udp:127.0.0.1:5066 5 120"})
                }
                "event_subscribe" => {
                    state.subscribed += 1;
                    json!("OK")
                }
                "subscribers_list" => json!({"Event": {"Subscriber": {"ttl": 3}}}),
                "raise_event" => return Ok(MiAnswer::error(404, "Event not published")),
                other => panic!("not expected: {other}"),
            }))
        })
    }
}

fn connector(stack: &Stack, change: impl FnOnce(&mut StackSettings)) -> OpenSips<Stack> {
    let mut settings = StackSettings::new(StackId::new("s"), "127.0.0.1:1");
    change(&mut settings);
    let surroundings = Surroundings {
        clock: Arc::new(SystemClock::new()),
        timer: Arc::new(TokioTimer),
        meter: Arc::new(Unmetered),
    };
    OpenSips::new(settings, stack.clone(), stack.clone(), surroundings)
}

#[tokio::test]
async fn a_timer_that_differs_from_the_scripts_is_told_once() {
    let (log, stack) = (Log::default(), Stack::new());
    let _keeping = log.keep();
    let connector = connector(&stack, |s| s.fr_timeout = Some(Duration::from_secs(30)));
    for since in ["then", "then", "now"] {
        stack.with(|state| state.since = since);
        connector.connect().await.unwrap();
    }
    let told = log.lines("WARN");
    let [only] = &*told else { panic!("{told:#?}") };
    assert!(only.contains("`fr_timeout` is 30 s in the configuration and 5 s in the script"));
}

#[tokio::test]
async fn timers_that_only_the_script_tells_are_no_news() {
    let (log, stack) = (Log::default(), Stack::new());
    let _keeping = log.keep();
    connector(&stack, |_| ()).connect().await.unwrap();
    assert_eq!(log.lines(""), Vec::<String>::new());
}

/// Counts how often everybody was told to look again.
#[derive(Default)]
struct Joins(AtomicUsize);

impl Reports for Joins {
    fn report(&self, _stack: &StackId, report: StackReport) {
        assert_eq!(report, StackReport::Joined);
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_stack_that_could_not_be_asked_is_not_called_away() {
    let (log, stack, joins) = (Log::default(), Stack::new(), Arc::new(Joins::default()));
    let _keeping = log.keep();
    let connector = connector(&stack, |s| {
        s.events.check = Duration::from_millis(10);
        s.events.expiry = Duration::from_millis(90);
    });
    stack.with(|state| state.room = false);
    let (sink, _feed) = Sink::by_hand("udp:127.0.0.1:9");
    let stop = CancellationToken::new();
    let reports = Arc::clone(&joins) as Arc<dyn Reports>;
    let keeping = tokio::spawn(keep(Arc::new(connector), sink, reports, stop.clone()));
    until("three tries to connect", || stack.with(|state| state.stayed >= 3)).await;
    stack.with(|state| state.room = true);
    until("joined", || joins.0.load(Ordering::Relaxed) == 1).await;
    // Long enough that the subscription is to be refreshed meanwhile.
    let stayed = stack.with(|state| {
        state.room = false;
        state.stayed
    });
    until("checks and a refresh", || stack.with(|state| state.stayed >= stayed + 12)).await;
    let subscribed = stack.with(|state| {
        state.room = true;
        state.subscribed
    });
    until("refreshed", || stack.with(|state| state.subscribed >= subscribed + 4)).await;
    assert_eq!(log.lines("WARN"), Vec::<String>::new());
    assert_eq!(joins.0.load(Ordering::Relaxed), 1, "joined again");
    stop.cancel();
    keeping.await.unwrap();
}
