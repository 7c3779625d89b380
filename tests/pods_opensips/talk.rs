//! The client of one command: where its process dies it comes back to another, and resumes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use super::PODS;
use super::history::{Time, What};
use super::pods::Pods;
use super::record::Recorder;

/// What a client has heard, each with its time.
pub type Heard = Arc<Mutex<Vec<(Time, Value)>>>;

pub struct Talk {
    pub id: String,
    number: usize,
    pods: Arc<Pods>,
    recorder: Arc<Recorder>,
    heard: Heard,
    ready: watch::Sender<bool>,
}

/// The `id` of its one request of its own.
const ASK: u64 = 1_000_000_000;

/// What a client is to ask.
#[derive(Debug, Clone)]
pub struct Wish {
    pub method: &'static str,
    pub params: Value,
}

impl Talk {
    pub fn new(number: usize, id: &str, pods: &Arc<Pods>, recorder: &Arc<Recorder>) -> Self {
        Self {
            id: id.to_owned(),
            number,
            pods: Arc::clone(pods),
            recorder: Arc::clone(recorder),
            heard: Heard::default(),
            ready: watch::Sender::new(false),
        }
    }

    pub fn heard(&self) -> Heard {
        Arc::clone(&self.heard)
    }

    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Asks at this process once there is a wish, and listens until all is over.
    pub async fn run(
        self,
        pod: usize,
        mut wish: watch::Receiver<Option<Wish>>,
        mut over: watch::Receiver<bool>,
    ) {
        let mut session: Option<Value> = None;
        let mut asked = false;
        let mut at = Some(pod);
        for connection in 1.. {
            let here = at.take().filter(|pod| self.pods.is_serving(*pod));
            let here = here.or_else(|| (0..PODS).rev().find(|pod| self.pods.is_serving(*pod)));
            let Some(address) = here.and_then(|pod| self.pods.address(pod)) else {
                sleep(Duration::from_millis(10)).await;
                continue;
            };
            let url = format!("ws://{address}/call-api");
            let Ok((mut socket, _)) = connect_async(&url).await else {
                sleep(Duration::from_millis(10)).await;
                continue;
            };
            let connection = self.number * 10_000 + connection;
            self.recorder.note(What::Connected { client: self.number, connection });
            let (method, params) = match &session {
                Some(position) => ("Resume", position.clone()),
                None => ("Echo", json!({})),
            };
            let mut out = vec![json!({
                "jsonrpc": "2.0", "id": connection, "method": method, "params": params,
            })];
            loop {
                for frame in out.drain(..) {
                    let text = Value::to_string(&frame);
                    self.recorder.note(What::Sent { connection, text: text.clone() });
                    // A connection that is gone is noticed below.
                    let _ = socket.send(Message::text(text)).await;
                }
                tokio::select! {
                    message = socket.next() => match message {
                        Some(Ok(Message::Text(text))) => {
                            let text = text.as_str().to_owned();
                            let frame: Value = serde_json::from_str(&text).unwrap();
                            let now = self.recorder.note(What::Received { connection, text });
                            let told = if frame["result"].is_object() { &frame["result"] } else { &frame["params"] };
                            if told["seq"].is_u64() {
                                let same = session.get_or_insert_with(|| json!({}));
                                if told["session"].is_string() {
                                    same["session"] = told["session"].clone();
                                }
                                same["epoch"] = told["epoch"].clone();
                                same["seq"] = told["seq"].clone();
                            }
                            if frame["id"] == connection {
                                self.ready.send_replace(true);
                            }
                            self.heard.lock().unwrap().push((now, frame));
                        }
                        Some(Ok(_)) => {}
                        Some(Err(_)) | None => break,
                    },
                    changed = wish.changed(), if !asked => {
                        let Some(wish) = changed.ok().and_then(|()| wish.borrow().clone()) else { return };
                        asked = true;
                        let mut params = wish.params;
                        params["cmd_id"] = self.id.clone().into();
                        out.push(json!({
                            "jsonrpc": "2.0", "id": ASK, "method": wish.method, "params": params,
                        }));
                    }
                    _ = over.changed() => return,
                }
            }
            self.recorder.note(What::Closed { connection, code: None });
        }
    }
}

/// What was told of a command: its events' names, and its `Ended` with the error before it.
#[derive(Debug, Clone, Default)]
pub struct Told {
    pub started: Option<(Time, u64)>,
    pub refused: Option<String>,
    pub events: Vec<String>,
    pub ended: Vec<(Time, Value)>,
    pub error: Value,
    /// Places in the stream, in the order in which they came.
    pub seqs: Vec<u64>,
}

pub fn told(heard: &Heard, id: &str) -> Told {
    let mut all = Told::default();
    for (at, frame) in heard.lock().unwrap().iter() {
        if frame["id"] == ASK && frame["error"].is_object() {
            all.refused = Some(frame["error"].to_string());
        }
        let told = if frame["result"].is_object() { &frame["result"] } else { &frame["params"] };
        if told["cmd_id"] != id {
            continue;
        }
        let Some(event) = told["event"].as_str() else { continue };
        all.events.push(event.to_owned());
        all.seqs.extend(told["seq"].as_u64());
        match event {
            "Started" => all.started = told["deadline_ms"].as_u64().map(|within| (*at, within)),
            "Error" => all.error = told["error"].clone(),
            "Ended" => all.ended.push((*at, told.clone())),
            _ => {}
        }
    }
    all
}
