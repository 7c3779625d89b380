//! The whole server over its own sockets, for tests: a simulated proxy with phones on one side,
//! WebSockets and HTTP on the other.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code; every test binary uses a part of it"
)]

use std::net::SocketAddr;
use std::time::Duration;

use callplane::admin::Readiness;
use callplane::app::Server;
use callplane::client::console::Hints;
use callplane::config::{Config, HostPort, LogFilter};
use callplane::stack::simulated::Script;
use callplane::stack::simulated::server::{SimulateConfig, Simulated};
use callplane::telemetry::LogLevels;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// Nothing here takes this long.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub const DOMAIN: &str = "sim.example";

/// A simulated proxy and how to stop it.
pub struct Proxy {
    pub mi: SocketAddr,
    control: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<()>,
}

impl Proxy {
    pub async fn start(script: Script, mi: SocketAddr) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = SimulateConfig {
            mi_udp: mi,
            mi_http: Some(any),
            control: Some(any),
            ..Default::default()
        };
        config.world.script = script;
        config.world.domain = DOMAIN.to_owned();
        for phone in &mut config.world.phones {
            // Quick phones: the characters matter here, not their pauses.
            phone.behaviour.ring_ms = phone.behaviour.ring_ms.min(20);
        }
        let simulated = Simulated::bind(config).await.unwrap();
        let at = simulated.addresses();
        let (mi, control) = (at.mi_udp, at.control.unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(simulated.run(async {
            let _ = stopped.await;
        }));
        Self { mi, control, stop: Some(stop), running }
    }

    /// Makes the network to it bad (docs/simulated-opensips.md).
    pub async fn faults(&self, faults: Value) {
        self.control("PATCH", "/faults", &faults).await;
    }

    /// Asks its control interface; what that answers.
    pub async fn control(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.control,
            body.len()
        );
        let (status, answer) = Site::http(self.control, &request).await;
        assert_eq!(status, 200, "{method} {path}: {answer}");
        serde_json::from_str(&answer).unwrap()
    }

    pub async fn stop(mut self) -> SocketAddr {
        drop(self.stop.take());
        timeout(DEADLINE, &mut self.running).await.unwrap().unwrap();
        self.mi
    }
}

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
    let mut config = callplane::config::parse(&text, None, []).unwrap().config;
    config.listen.address = HostPort::loopback(0);
    config.admin.listen = HostPort::loopback(0);
    config.admin.control = HostPort::loopback(0);
    config.drain.timeout = Duration::from_secs(5);
    config
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

    /// One HTTP request, by hand; the status and the body.
    pub async fn http(at: SocketAddr, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        timeout(DEADLINE, stream.read_to_string(&mut text)).await.unwrap().unwrap();
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        let body = text.split_once("\r\n\r\n").unwrap().1.to_owned();
        (status, body)
    }

    pub async fn post(&self, query: &str, body: &Value) -> (u16, Value) {
        let body = body.to_string();
        let request = format!(
            "POST /call-api{query} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.clients,
            body.len()
        );
        let (status, body) = Self::http(self.clients, &request).await;
        (status, serde_json::from_str(&body).unwrap())
    }

    pub async fn metrics(&self) -> String {
        let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        Self::http(self.operations, request).await.1
    }

    /// Waits until the server has subscribed to the proxy's events.
    pub async fn joined(&self) {
        timeout(DEADLINE, async {
            while !self.metrics().await.contains("callplane_event_subscription_age_seconds{") {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
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
