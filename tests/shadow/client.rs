//! A client with one session: at a process that does not lead, and where that one dies at another.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use super::PODS;
use super::history::What;
use super::pods::Pods;
use super::record::Recorder;

/// The `id` of a connection's first request is above all others.
const FIRST: u64 = 1_000_000_000;

/// What was told of one command, each place of the stream once.
#[derive(Debug, Clone, Default)]
pub struct Told {
    pub refused: Option<Value>,
    /// By place: what came again on another connection is the same.
    pub events: BTreeMap<u64, Value>,
}

impl Told {
    pub fn ended(&self) -> Option<&Value> {
        self.events.values().find(|told| told["event"] == "Ended")
    }

    /// How it ended, with the SIP status of a failure.
    pub fn outcome(&self) -> String {
        if let Some(refused) = &self.refused {
            return format!("refused: {refused}");
        }
        let Some(ended) = self.ended() else { return format!("no end: {:?}", self.events) };
        let outcome = ended["outcome"].as_str().unwrap_or_default();
        match self.events.values().find(|told| told["event"] == "Error") {
            None => outcome.to_owned(),
            Some(told) => {
                let error = &told["error"];
                format!("{outcome} {} {}", error["code"].as_str().unwrap(), error["sip_status"])
            }
        }
    }
}

#[derive(Default)]
struct Heard {
    told: BTreeMap<String, Told>,
    asked: BTreeMap<u64, String>,
}

/// One that runs. Dropped, it leaves.
pub struct Client {
    heard: Arc<Mutex<Heard>>,
    asks: mpsc::UnboundedSender<(String, Value)>,
    /// At which process it is.
    at: watch::Receiver<Option<usize>>,
    move_on: watch::Sender<u64>,
    running: JoinHandle<()>,
}

impl Client {
    /// Begins, and is connected when it returns.
    pub async fn begin(number: usize, pods: &Arc<Pods>, recorder: &Arc<Recorder>) -> Self {
        let heard = Arc::new(Mutex::new(Heard::default()));
        let (asks, asked) = mpsc::unbounded_channel();
        let (place, mut at) = watch::channel(None);
        let (move_on, moves) = watch::channel(0);
        let life = Life {
            number,
            pods: Arc::clone(pods),
            recorder: Arc::clone(recorder),
            heard: Arc::clone(&heard),
            place,
            session: None,
            requests: 0,
        };
        let running = tokio::spawn(life.run(asked, moves));
        at.wait_for(Option::is_some).await.unwrap();
        Self { heard, asks, at, move_on, running }
    }

    pub fn ask(&self, id: &str, method: &str, mut params: Value) {
        params["cmd_id"] = id.into();
        self.asks.send((method.to_owned(), params)).unwrap();
    }

    pub fn told(&self, id: &str) -> Told {
        self.heard.lock().unwrap().told.get(id).cloned().unwrap_or_default()
    }

    /// How many events were told so far.
    pub fn events(&self) -> usize {
        self.heard.lock().unwrap().told.values().map(|told| told.events.len()).sum()
    }

    /// The process where it is.
    pub fn at(&self) -> Option<usize> {
        *self.at.borrow()
    }

    /// Leaves the process where it is, and comes back to one that does not lead.
    pub async fn move_on(&self) {
        self.move_on.send_modify(|times| *times += 1);
        let mut at = self.at.clone();
        at.changed().await.unwrap();
        at.wait_for(Option::is_some).await.unwrap();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.running.abort();
    }
}

struct Life {
    number: usize,
    pods: Arc<Pods>,
    recorder: Arc<Recorder>,
    heard: Arc<Mutex<Heard>>,
    place: watch::Sender<Option<usize>>,
    /// The place in the stream to resume from.
    session: Option<Value>,
    requests: u64,
}

impl Life {
    /// One that serves and does not lead.
    fn choose(&self) -> Option<usize> {
        let leader = self.pods.leader(0);
        let fits = |pod: &usize| self.pods.is_serving(*pod) && Some(*pod) != leader;
        (0..PODS).map(|step| (self.number + step) % PODS).find(fits)
    }

    async fn run(
        mut self,
        mut asked: mpsc::UnboundedReceiver<(String, Value)>,
        mut moves: watch::Receiver<u64>,
    ) {
        for connection in 1.. {
            let pod = self.choose();
            let Some(address) = pod.and_then(|pod| self.pods.address(pod)) else {
                sleep(Duration::from_millis(10)).await;
                continue;
            };
            let Ok((mut socket, _)) = connect_async(&format!("ws://{address}/call-api")).await
            else {
                sleep(Duration::from_millis(10)).await;
                continue;
            };
            let connection = self.number * 10_000 + connection;
            self.recorder.note(What::Connected { client: self.number, connection });
            let (method, params) = match &self.session {
                Some(position) => ("Resume", position.clone()),
                None => ("Echo", json!({})),
            };
            let mut out = vec![(FIRST, method.to_owned(), params)];
            loop {
                for (id, method, params) in out.drain(..) {
                    let frame = json!({
                        "jsonrpc": "2.0", "id": id, "method": method, "params": params,
                    });
                    let text = frame.to_string();
                    self.recorder.note(What::Sent { connection, text: text.clone() });
                    // A connection that is gone is noticed below.
                    let _ = socket.send(Message::text(text)).await;
                }
                tokio::select! {
                    message = socket.next() => match message {
                        Some(Ok(Message::Text(text))) => {
                            let text = text.as_str().to_owned();
                            let frame = serde_json::from_str(&text).unwrap();
                            self.recorder.note(What::Received { connection, text });
                            if self.take(&frame) {
                                self.place.send_replace(pod);
                            }
                        }
                        Some(Ok(_)) => {}
                        Some(Err(_)) | None => break,
                    },
                    Some((method, params)) = asked.recv(), if self.place.borrow().is_some() => {
                        self.requests += 1;
                        let id = params["cmd_id"].as_str().unwrap().to_owned();
                        self.heard.lock().unwrap().asked.insert(self.requests, id);
                        out.push((self.requests, method, params));
                    }
                    _ = moves.changed() => break,
                }
            }
            self.place.send_replace(None);
            self.recorder.note(What::Closed { connection, code: None });
        }
    }

    /// Takes a frame in. Whether it answers the connection's first request.
    fn take(&mut self, frame: &Value) -> bool {
        let answers = frame["result"].is_object();
        let told = if answers { &frame["result"] } else { &frame["params"] };
        if let Some(seq) = told["seq"].as_u64() {
            let same = self.session.get_or_insert_with(|| json!({}));
            if told["session"].is_string() {
                same["session"] = told["session"].clone();
            }
            same["epoch"] = told["epoch"].clone();
            same["seq"] = seq.into();
        }
        let mut heard = self.heard.lock().unwrap();
        let id = frame["id"].as_u64();
        if let Some(id) = id.and_then(|id| heard.asked.get(&id).cloned())
            && frame["error"].is_object()
        {
            heard.told.entry(id).or_default().refused = Some(frame["error"].clone());
        }
        if let (Some(id), Some(seq), true) =
            (told["cmd_id"].as_str(), told["seq"].as_u64(), told["event"].is_string())
        {
            let of_it = heard.told.entry(id.to_owned()).or_default();
            of_it.events.insert(seq, told.clone());
        }
        id == Some(FIRST)
    }
}
