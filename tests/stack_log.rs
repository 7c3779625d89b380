//! What the log tells of a stack: each thing once, and nothing that is not so.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use callplane::clock::SystemClock;
use callplane::core::ids::StackId;
use callplane::stack::mi::{Mi, MiAnswer, MiFailure, MiRequest};
use callplane::stack::opensips::meter::Unmetered;
use callplane::stack::opensips::settings::StackSettings;
use callplane::stack::opensips::{OpenSips, Surroundings, TokioTimer};
use serde_json::json;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt::MakeWriter;

/// What this thread has logged since it was made.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn keep(&self) -> DefaultGuard {
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(self.clone());
        tracing::subscriber::set_default(subscriber.finish())
    }

    fn lines(&self, with: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains(with)).map(str::to_owned).collect()
    }
}

impl io::Write for Log {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for Log {
    type Writer = Log;

    fn make_writer(&'w self) -> Log {
        self.clone()
    }
}

/// A stack with the reference script.
#[derive(Clone)]
struct Stack(Arc<Mutex<State>>);

struct State {
    since: &'static str,
}

impl Stack {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(State { since: "then" })))
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }
}

impl Mi for Stack {
    async fn call(&self, request: MiRequest, _timeout: Duration) -> Result<MiAnswer, MiFailure> {
        self.with(|state| {
            Ok(MiAnswer::Result(match &*request.method {
                "uptime" => json!({"Up since": state.since, "Up time": "99 [sec]"}),
                "version" => json!({"Server": "OpenSIPS (3.6.8 (x86_64/linux))"}),
                "cache_fetch" => {
                    json!({"key": "cp_cfg_version", "value": "1 udp:127.0.0.1:5066 5 120"})
                }
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
