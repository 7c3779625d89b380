//! A client of the server: one WebSocket, several commands at a time, every frame kept.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use crate::story::Story;

/// The longest that a command of these rows takes.
const DEADLINE: Duration = Duration::from_secs(40);

#[derive(Default)]
struct Inbox {
    frames: Mutex<Vec<Value>>,
    changed: Condvar,
}

pub struct Client {
    inbox: Arc<Inbox>,
    outbox: UnboundedSender<String>,
    next: AtomicU64,
    /// Reads and writes.
    tasks: [JoinHandle<()>; 2],
}

/// A command that was answered `Started`.
#[derive(Clone)]
pub struct Run {
    inbox: Arc<Inbox>,
    pub id: String,
}

impl Client {
    pub fn connect(runtime: &Handle, server: SocketAddr) -> Client {
        let url = format!("ws://{server}/call-api");
        let (socket, _) = runtime.block_on(connect_async(url)).unwrap();
        let (mut write, mut read) = socket.split();
        let (outbox, mut waiting) = unbounded_channel::<String>();
        let writer = runtime.spawn(async move {
            while let Some(text) = waiting.recv().await {
                if write.send(Message::text(text)).await.is_err() {
                    return;
                }
            }
        });
        let inbox = Arc::new(Inbox::default());
        let keep = Arc::clone(&inbox);
        let reader = runtime.spawn(async move {
            while let Some(Ok(message)) = read.next().await {
                if let Message::Text(text) = message {
                    let frame = serde_json::from_str(&text).unwrap();
                    keep.frames.lock().unwrap().push(frame);
                    keep.changed.notify_all();
                }
            }
        });
        Client { inbox, outbox, next: 1.into(), tasks: [reader, writer] }
    }

    /// Sends a request and waits for its answer.
    pub fn request(&self, method: &str, params: &Value) -> Value {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let request = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.outbox.send(request.to_string()).unwrap();
        self.inbox.wait(&format!("the answer to {method}"), |frames| {
            frames.iter().find(|frame| frame["id"] == id).cloned()
        })
    }

    /// Begins a command; it must be answered `Started`.
    pub fn begin(&self, method: &str, mut params: Value) -> Run {
        let number = self.next.load(Ordering::Relaxed);
        let id = format!("row-{number}");
        params["cmd_id"] = json!(id);
        let answer = self.request(method, &params);
        assert_eq!(answer["result"]["event"], "Started", "{answer}");
        Run { inbox: Arc::clone(&self.inbox), id }
    }

    /// Asks to give a command up.
    pub fn cancel(&self, run: &Run) {
        let answer = self.request("CommandCancel", &json!({"cmd_id": run.id}));
        assert!(answer.get("result").is_some(), "{answer}");
    }

    /// All that came, one line each.
    pub fn log(&self) -> String {
        let frames = self.inbox.frames.lock().unwrap();
        frames.iter().map(|frame| format!("{frame}\n")).collect()
    }

    /// The client is gone.
    pub fn leave(&self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }

    /// Nothing came of any command after its `Ended`.
    pub fn check_nothing_after_ended(&self) {
        let frames = self.inbox.frames.lock().unwrap();
        let mut ended: Vec<&str> = Vec::new();
        for frame in frames.iter().filter(|frame| frame.get("method").is_some()) {
            let id = frame["params"]["cmd_id"].as_str().unwrap();
            assert!(!ended.contains(&id), "after its end: {frame}");
            if frame["params"]["event"] == "Ended" {
                ended.push(id);
            }
        }
    }
}

impl Run {
    /// Waits for the first event of this name; its params.
    pub fn wait(&self, event: &str) -> Value {
        self.inbox.wait(&format!("{event} of {}", self.id), |frames| {
            of_command(frames, &self.id).find(|params| params["event"] == event).cloned()
        })
    }

    /// Waits for the end; all that was told.
    pub fn end(&self) -> Story {
        self.wait("Ended");
        let frames = self.inbox.frames.lock().unwrap();
        Story::new(of_command(&frames, &self.id).cloned().collect())
    }
}

/// What was told of a command: `Started`'s result, then the notifications' params.
fn of_command<'a>(frames: &'a [Value], id: &'a str) -> impl Iterator<Item = &'a Value> {
    let told = frames.iter().filter_map(|frame| {
        let started = frame.get("result").filter(|result| result["event"] == "Started");
        started.or_else(|| frame.get("params"))
    });
    told.filter(move |params| params["cmd_id"] == id)
}

impl Inbox {
    fn wait<T>(&self, what: &str, mut probe: impl FnMut(&[Value]) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        let mut frames = self.frames.lock().unwrap();
        loop {
            if let Some(value) = probe(&frames) {
                return value;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(frames);
                panic!("waited in vain: {what}");
            }
            frames = self.changed.wait_timeout(frames, left).unwrap().0;
        }
    }
}
