//! A server on loopback with a scripted engine, and clients that speak to it.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends where its ground is gone"
)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use callplane::client::close::Close;
use callplane::client::commands::{Begun, Commands, Page, Summary, Unreadable, Wanted};
use callplane::client::feed::Feed;
use callplane::client::{Client, Settings};
use callplane::core::failure::{Failure, Outcome};
use callplane::core::ids::{Digest, Epoch, Nonce};
use callplane::core::notice::{Data, Event, Notice, Remarks};
use callplane::core::record::{Begin, Entry, Key, Position};
use callplane::core::request::Leg;
use callplane::rpc::error::{Kind, Refusal};
use callplane::rpc::wire::Ending;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::sync::CancellationToken;

/// No test waits longer than this for anything.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Looks until it is so; panics with `what` after [`PATIENCE`].
pub async fn until(what: &str, so: impl Fn() -> bool) {
    let wait = async {
        while !so() {
            tokio::task::yield_now().await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, wait).await;
    in_time.unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

/// What the scripted engine does by itself after `Started`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// Nothing: the test emits.
    Silent,
    /// A hold with all its events, in a task of its own.
    Whole,
}

struct Recorded {
    digest: Digest,
    summary: Summary,
}

struct State {
    epoch: Epoch,
    stream: Vec<Arc<Entry>>,
    trimmed: usize,
    records: HashMap<Key, Recorded>,
    refuse: Option<Refusal>,
    begun: usize,
}

/// A store and an engine in one, as far as a client can tell.
pub struct Stub {
    pub feed: Arc<Feed>,
    script: Script,
    state: Mutex<State>,
    keeps_looks: watch::Sender<bool>,
}

pub fn epoch() -> Epoch {
    Epoch::parse("e1").unwrap()
}

impl Stub {
    pub fn new(script: Script) -> Arc<Self> {
        let feed = Feed::new(Position { epoch: epoch(), seq: 0 });
        let state = State {
            epoch: epoch(),
            stream: Vec::new(),
            trimmed: 0,
            records: HashMap::new(),
            refuse: None,
            begun: 0,
        };
        Arc::new(Self {
            feed,
            script,
            state: Mutex::new(state),
            keeps_looks: watch::Sender::new(false),
        })
    }

    /// From now on who looks a command up, or gives one up, waits until this is taken back.
    pub fn keep_looks(&self, keep: bool) {
        self.keeps_looks.send_replace(keep);
    }

    /// Refuses commands from now on.
    pub fn refuse(&self, refusal: Option<Refusal>) {
        self.state.lock().unwrap().refuse = refusal;
    }

    /// How many commands were really begun.
    pub fn begun(&self) -> usize {
        self.state.lock().unwrap().begun
    }

    /// Forgets the oldest entries.
    pub fn trim(&self, entries: usize) {
        self.state.lock().unwrap().trimmed = entries;
    }

    /// Forgets a command's record.
    pub fn forget(&self, id: &str) {
        self.state.lock().unwrap().records.retain(|key, _| key.id.as_str() != id);
    }

    /// The store loses its memory.
    pub fn restart(&self) {
        let mut state = self.state.lock().unwrap();
        state.epoch = Epoch::parse("e2").unwrap();
        state.stream.clear();
        state.records.clear();
    }

    fn append(&self, state: &mut State, key: &Key, notice: Notice) -> u64 {
        let seq = state.stream.len() as u64 + 1;
        let record = state.records.get_mut(key);
        let Some(record) = record else { panic!("{key:?} was not begun") };
        if let Notice::Ended { outcome, remarks } = &notice {
            let failure = state.stream.iter().rev().take(9).find_map(|entry| match &entry.notice {
                Notice::Error(failure) if entry.key == *key => Some(failure.clone()),
                _ => None,
            });
            record.summary.ended =
                Some(Ending { outcome: *outcome, remarks: remarks.clone(), failure });
        }
        let entry = Arc::new(Entry {
            seq,
            session: record.summary.session.clone(),
            key: key.clone(),
            method: record.summary.method,
            external_id: record.summary.external_id.clone(),
            asked: None,
            notice,
        });
        state.stream.push(Arc::clone(&entry));
        self.feed.deliver(&state.epoch, &[entry]);
        seq
    }

    /// Commits a notice of the command that has this id.
    pub fn emit(&self, id: &str, notice: Notice) -> u64 {
        let mut state = self.state.lock().unwrap();
        let key = state.records.keys().find(|key| key.id.as_str() == id).cloned().unwrap();
        self.append(&mut state, &key, notice)
    }

    fn emit_key(&self, key: &Key, notice: Notice) {
        let mut state = self.state.lock().unwrap();
        self.append(&mut state, key, notice);
    }
}

pub fn progress(event: Event) -> Notice {
    Notice::Progress { event, data: Data::default() }
}

pub fn of_leg(event: Event, leg: Leg) -> Notice {
    Notice::Progress { event, data: Data { leg: Some(leg), ..Data::default() } }
}

pub fn failed(failure: Failure) -> Notice {
    Notice::Error(failure)
}

pub fn ended(outcome: Outcome) -> Notice {
    Notice::Ended { outcome, remarks: Remarks::default() }
}

/// The wrapper that a server gets: the stub must be reachable from its own tasks.
#[derive(Clone)]
pub struct Engine(pub Arc<Stub>);

impl Commands for Engine {
    async fn begin(&self, begin: Begin) -> Result<Begun, Refusal> {
        let key = begin.key.clone();
        {
            let mut state = self.0.state.lock().unwrap();
            if let Some(refusal) = &state.refuse {
                return Err(refusal.clone());
            }
            if let Some(known) = state.records.get(&key) {
                if known.digest != begin.digest {
                    return Err(Refusal::new(Kind::IdConflict).of(key.id.clone()));
                }
                return Ok(Begun::Repeated(known.summary.clone()));
            }
            let first = Position { epoch: state.epoch.clone(), seq: state.stream.len() as u64 + 1 };
            let summary = Summary {
                id: key.id.clone(),
                method: begin.request.method(),
                session: begin.session,
                external_id: begin.external_id,
                first,
                deadline_ms: 9_000,
                ended: None,
                degraded: false,
            };
            state.begun += 1;
            state.records.insert(key.clone(), Recorded { digest: begin.digest, summary });
            self.0.append(&mut state, &key, Notice::Started { deadline_ms: 9_000 });
        }
        if self.0.script == Script::Whole {
            let stub = Arc::clone(&self.0);
            tokio::spawn(async move {
                for notice in [
                    of_leg(Event::CallHoldStart, Leg::Caller),
                    progress(Event::CallHolding),
                    of_leg(Event::CallHoldSuccessful, Leg::Caller),
                    ended(Outcome::Success),
                ] {
                    tokio::task::yield_now().await;
                    stub.emit_key(&key, notice);
                }
            });
        }
        Ok(Begun::New)
    }

    async fn get(&self, key: Key) -> Result<Option<Summary>, Refusal> {
        self.0.keeps_looks.subscribe().wait_for(|keeps| !keeps).await.unwrap();
        Ok(self.0.state.lock().unwrap().records.get(&key).map(|r| r.summary.clone()))
    }

    async fn cancel(&self, key: Key) -> Result<Option<Summary>, Refusal> {
        let known = self.get(key.clone()).await?;
        if known.as_ref().is_some_and(|summary| summary.ended.is_none()) {
            self.0.emit_key(&key, ended(Outcome::Cancelled));
        }
        Ok(known)
    }

    async fn read(&self, wanted: Wanted) -> Result<Page, Unreadable> {
        let state = self.0.state.lock().unwrap();
        if wanted.after.epoch != state.epoch {
            return Err(Unreadable::Restarted);
        }
        let after = wanted.after.seq as usize;
        if after > state.stream.len() {
            return Err(Unreadable::Ahead);
        }
        if after < state.trimmed {
            return Err(Unreadable::Trimmed);
        }
        // Small, so that replays take several pages.
        let max = wanted.max.min(7);
        let rest = &state.stream[after..];
        let looked: Vec<_> = rest.iter().take(max).cloned().collect();
        Ok(Page {
            through: (after + looked.len()) as u64,
            more: rest.len() > looked.len(),
            entries: looked.into_iter().filter(|e| e.session == wanted.session).collect(),
        })
    }
}

/// The settings of an empty configuration.
pub fn settings() -> Settings {
    callplane::app::settings::client(&callplane::config::Config::default())
}

/// A listening server.
pub struct Server {
    pub stub: Arc<Stub>,
    pub client: Arc<Client<Engine>>,
    pub address: SocketAddr,
    pub shutdown: CancellationToken,
}

impl Server {
    pub async fn start(script: Script, settings: Settings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Self::quiet(script, settings, address);
        let client = Arc::clone(&server.client);
        tokio::spawn(callplane::client::serve(client, listener, axum::Router::new()));
        server
    }

    /// Sockets that the server closed so far.
    pub fn closed(&self) -> u64 {
        Close::ALL.iter().map(|close| self.client.metrics().closed_with(close.label())).sum()
    }

    /// A server that doesn't listen.
    pub fn quiet(script: Script, settings: Settings, address: SocketAddr) -> Self {
        let stub = Stub::new(script);
        let shutdown = CancellationToken::new();
        let counter = AtomicU64::new(1);
        let nonce = move || {
            let n = u128::from(counter.fetch_add(1, Ordering::Relaxed));
            Nonce(n.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835))
        };
        let client = Client::new(
            Engine(Arc::clone(&stub)),
            Arc::clone(&stub.feed),
            settings,
            Arc::new(nonce),
            callplane::metrics::Metrics::new().sessions,
            shutdown.clone(),
        );
        Self { stub, client, address, shutdown }
    }

    /// A client without a network, for tests in virtual time.
    pub async fn connect_in_memory(&self, room: usize) -> Peer<DuplexStream> {
        let (ours, theirs) = tokio::io::duplex(room);
        tokio::spawn(callplane::client::converse(Arc::clone(&self.client), theirs, Vec::new()));
        let endless = || Arc::new(AtomicU64::new(u64::MAX));
        let cut = Cut { stream: ours, left: endless(), seen: endless() };
        Peer { socket: WebSocketStream::from_raw_socket(cut, Role::Client, None).await }
    }

    pub async fn connect(&self) -> Peer<TcpStream> {
        self.connect_cut(usize::MAX).await.0
    }

    /// Connects and, once the handshake is done, cuts the connection after so many bytes of the
    /// server's output. The counter says how many came.
    pub async fn connect_cut(&self, after: usize) -> (Peer<TcpStream>, Arc<AtomicU64>) {
        let stream = TcpStream::connect(self.address).await.unwrap();
        // Several small messages in a row would else wait for each other's acknowledgement.
        stream.set_nodelay(true).unwrap();
        let url = format!("ws://{}/call-api", self.address);
        let seen = Arc::new(AtomicU64::new(0));
        let left = Arc::new(AtomicU64::new(u64::MAX));
        let cut = Cut { stream, left: Arc::clone(&left), seen: Arc::clone(&seen) };
        let (socket, _) = tokio_tungstenite::client_async(url, cut).await.unwrap();
        seen.store(0, Ordering::Relaxed);
        left.store(after as u64, Ordering::Relaxed);
        (Peer { socket }, seen)
    }

    /// One HTTP request, as it stands, and the answer's status and body.
    pub async fn http(&self, head: &str, body: &str) -> (u16, String) {
        let (status, answer) = self.http_whole(head, body).await;
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap();
        (status, body)
    }

    /// The same with the whole answer, its head included.
    pub async fn http_whole(&self, head: &str, body: &str) -> (u16, String) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let length = body.len();
        let text = format!(
            "{head}\r\nHost: {}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}",
            self.address
        );
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer)
    }

    pub async fn post(&self, query: &str, body: &Value) -> (u16, Value) {
        let head = format!("POST /call-api{query} HTTP/1.1\r\nContent-Type: application/json");
        let (status, text) = self.http(&head, &body.to_string()).await;
        (status, if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() })
    }
}

/// A stream that ends after a number of bytes, like a connection that dies there.
pub struct Cut<S> {
    stream: S,
    left: Arc<AtomicU64>,
    seen: Arc<AtomicU64>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Cut<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return Poll::Ready(Ok(()));
        }
        let room = buffer.remaining().min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut part = buffer.take(room);
        std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        // `take` shares the memory but not the count of what was filled.
        let bytes = part.filled().to_vec();
        buffer.put_slice(&bytes);
        self.seen.fetch_add(read as u64, Ordering::Relaxed);
        if left != u64::MAX {
            self.left.fetch_sub(read as u64, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Cut<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A client on a WebSocket.
pub struct Peer<S> {
    pub socket: WebSocketStream<Cut<S>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    pub async fn send(&mut self, value: &Value) {
        self.send_text(&value.to_string()).await;
    }

    pub async fn send_text(&mut self, text: &str) {
        // A connection that has been cut does not take it, and the test goes on to see that.
        let _ = self.socket.send(Message::text(text)).await;
    }

    /// The next text message; nothing when the connection has ended.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.socket.next()).await;
            match next.expect("the server said nothing") {
                Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    /// The close code, after whatever else comes.
    pub async fn close_code(&mut self) -> Option<u16> {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.socket.next()).await;
            match next.expect("the server said nothing") {
                Some(Ok(Message::Close(frame))) => return frame.map(|frame| frame.code.into()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    }

    pub async fn call(&mut self, id: u64, method: &str, params: Value) -> Value {
        self.send(&request(id, method, params)).await;
        self.next().await.expect("an answer")
    }

    /// Messages up to and with the `Ended` of a command.
    pub async fn until_ended(&mut self, id: &str) -> Vec<Value> {
        let mut all = Vec::new();
        loop {
            let message = self.next().await.expect("the connection to stay");
            let params = &message["params"];
            let done = params["event"] == "Ended" && params["cmd_id"] == id;
            all.push(message);
            if done {
                return all;
            }
        }
    }
}

pub fn request(id: u64, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

pub fn hold(id: u64, cmd_id: &str) -> Value {
    request(id, "CallHold", json!({"callid": "c1", "cmd_id": cmd_id}))
}
