//! The whole server over its own sockets, for tests: a simulated proxy with phones on one side,
//! WebSockets and HTTP on the other.
//!
//! * [`Site`] is the server, [`Client`] one of its clients;
//! * [`Proxy`] is the simulated proxy, steered by its control interface;
//! * [`wire`] may stand between the two, and shows and spoils what passes.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code; every test binary uses a part of it"
)]

mod proxy;
pub mod wire;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use callplane::admin::Readiness;
use callplane::app::Server;
use callplane::client::console::Hints;
use callplane::config::{Config, HostPort, LogFilter};
use callplane::telemetry::LogLevels;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

pub use proxy::Proxy;

/// Nothing here takes this long.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub const DOMAIN: &str = "sim.example";

/// A server before a proxy.
pub struct Site {
    pub clients: SocketAddr,
    pub operations: SocketAddr,
    readiness: Readiness,
    running: JoinHandle<bool>,
}

pub fn config_for(mi: SocketAddr) -> Config {
    let text = format!(
        "stacks:\n  - name: sim\n    mi: udp:{mi}\n    next_hop: sip:{DOMAIN}\n    fr_timeout: 1s\n"
    );
    configured(&text)
}

/// This configuration, on ports of its own.
pub fn configured(text: &str) -> Config {
    let mut config = callplane::config::parse(text, None, []).unwrap().config;
    config.listen.address = HostPort::loopback(0);
    config.admin.listen = HostPort::loopback(0);
    config.admin.control = HostPort::loopback(0);
    config.drain.timeout = Duration::from_secs(5);
    config
}

/// Asks until it is so; panics with `what` after [`DEADLINE`].
pub async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        // Whoever asks without a pause takes the processor from those it waits for.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// One HTTP request, by hand; the status and the body.
pub async fn http(at: SocketAddr, method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
    http_with(at, method, path, "", body).await
}

/// The same with these header fields, each with its line's end.
pub async fn http_with(
    at: SocketAddr,
    method: &str,
    path: &str,
    fields: &str,
    body: Option<&Value>,
) -> (u16, String) {
    let body = body.map(Value::to_string).unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {at}\r\n{fields}Connection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    timeout(DEADLINE, stream.read_to_string(&mut text)).await.unwrap().unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    let body = text.split_once("\r\n\r\n").unwrap().1.to_owned();
    (status, body)
}

impl Site {
    pub async fn start(mi: SocketAddr) -> Self {
        Self::of(&config_for(mi)).await
    }

    pub async fn of(config: &Config) -> Self {
        let readiness = Readiness::starting();
        let levels = LogLevels::detached(LogFilter::info());
        let server =
            Server::start(config, &Hints::default(), levels, readiness.clone()).await.unwrap();
        let (clients, operations) = (server.client_address(), server.admin_address());
        Self { clients, operations, readiness, running: tokio::spawn(server.run()) }
    }

    pub async fn client(&self) -> Client {
        Client::connect(&format!("ws://{}/call-api", self.clients)).await
    }

    pub async fn post(&self, query: &str, body: &Value) -> (u16, Value) {
        let path = format!("/call-api{query}");
        let (status, body) = http(self.clients, "POST", &path, Some(body)).await;
        (status, serde_json::from_str(&body).unwrap())
    }

    pub async fn metrics(&self) -> String {
        http(self.operations, "GET", "/metrics", None).await.1
    }

    /// Waits until the server has subscribed to the proxy's events.
    pub async fn joined(&self) {
        until("the server joins the proxy's events", async || {
            self.metrics().await.contains("callplane_event_subscription_age_seconds{")
        })
        .await;
    }

    /// Asks it to stop, without waiting.
    pub fn begin_to_stop(&self) {
        self.readiness.drain();
    }

    pub async fn stop(self) -> bool {
        self.readiness.drain();
        timeout(DEADLINE, self.running).await.unwrap().unwrap()
    }
}

pub struct Client {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    next: u64,
}

impl Client {
    pub async fn connect(url: &str) -> Self {
        Self { socket: connect_async(url).await.unwrap().0, next: 0 }
    }

    pub async fn send(&mut self, method: &str, params: Value) -> u64 {
        self.next += 1;
        let request =
            json!({"jsonrpc": "2.0", "id": self.next, "method": method, "params": params});
        self.socket.send(Message::text(request.to_string())).await.unwrap();
        self.next
    }

    pub async fn receive(&mut self) -> Value {
        loop {
            let message = timeout(DEADLINE, self.socket.next()).await.unwrap().unwrap().unwrap();
            if let Message::Text(text) = message {
                return serde_json::from_str(&text).unwrap();
            }
        }
    }

    /// Runs a command to its end; the events' params, `Started`'s result first.
    pub async fn run(&mut self, method: &str, params: Value) -> Vec<Value> {
        let id = self.send(method, params).await;
        let first = self.receive().await;
        assert_eq!(first["id"], id, "{first}");
        assert_eq!(first["result"]["event"], "Started", "{first}");
        let mut events = vec![first["result"].clone()];
        while events.last().unwrap()["event"] != "Ended" {
            let next = self.receive().await;
            assert_eq!(next["method"], method);
            assert_eq!(next["params"]["cmd_id"], events[0]["cmd_id"]);
            events.push(next["params"].clone());
        }
        events
    }
}

pub fn names(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event"].as_str().unwrap()).collect()
}

pub fn sip(name: &str) -> String {
    format!("sip:{name}@{DOMAIN}")
}

pub fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub async fn a_call(client: &mut Client) -> String {
    let events =
        client.run("CallStart", json!({"caller": sip("alice"), "callee": sip("bob")})).await;
    assert_eq!(events.last().unwrap()["outcome"], "success", "{events:#?}");
    let start = events.iter().find(|event| event["event"] == "TransferStart").unwrap();
    start["data"]["callid"].as_str().unwrap().to_owned()
}
