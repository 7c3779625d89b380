//! The whole server over its own sockets: a simulated proxy with phones on one side, WebSockets
//! and HTTP on the other.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::net::SocketAddr;
use std::time::Duration;

use callplane::admin::Readiness;
use callplane::app::{Server, StartError};
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
const DEADLINE: Duration = Duration::from_secs(20);

const DOMAIN: &str = "sim.example";

/// A simulated proxy and how to stop it.
struct Proxy {
    mi: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<()>,
}

impl Proxy {
    async fn start(script: Script, mi: SocketAddr) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config =
            SimulateConfig { mi_udp: mi, mi_http: Some(any), control: None, ..Default::default() };
        config.world.script = script;
        config.world.domain = DOMAIN.to_owned();
        for phone in &mut config.world.phones {
            // Quick phones: the characters matter here, not their pauses.
            phone.behaviour.ring_ms = phone.behaviour.ring_ms.min(20);
        }
        let simulated = Simulated::bind(config).await.unwrap();
        let mi = simulated.addresses().mi_udp;
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(simulated.run(async {
            let _ = stopped.await;
        }));
        Self { mi, stop: Some(stop), running }
    }

    async fn stop(mut self) -> SocketAddr {
        drop(self.stop.take());
        timeout(DEADLINE, &mut self.running).await.unwrap().unwrap();
        self.mi
    }
}

/// A server before a proxy.
struct Site {
    clients: SocketAddr,
    operations: SocketAddr,
    readiness: Readiness,
    running: JoinHandle<bool>,
}

fn config_for(mi: SocketAddr) -> Config {
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
    async fn start(mi: SocketAddr) -> Self {
        let readiness = Readiness::starting();
        let levels = LogLevels::detached(LogFilter::info());
        let config = config_for(mi);
        let server =
            Server::start(&config, &Hints::default(), levels, readiness.clone()).await.unwrap();
        let (clients, operations) = (server.client_address(), server.admin_address());
        Self { clients, operations, readiness, running: tokio::spawn(server.run()) }
    }

    async fn client(&self) -> Client {
        let url = format!("ws://{}/call-api", self.clients);
        Client { socket: connect_async(url).await.unwrap().0, next: 0 }
    }

    /// One HTTP request, by hand; the status and the body.
    async fn http(at: SocketAddr, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        timeout(DEADLINE, stream.read_to_string(&mut text)).await.unwrap().unwrap();
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        let body = text.split_once("\r\n\r\n").unwrap().1.to_owned();
        (status, body)
    }

    async fn post(&self, query: &str, body: &Value) -> (u16, Value) {
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

    async fn metrics(&self) -> String {
        let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        Self::http(self.operations, request).await.1
    }

    /// Waits until the server has subscribed to the proxy's events.
    async fn joined(&self) {
        timeout(DEADLINE, async {
            while !self.metrics().await.contains("callplane_event_subscription_age_seconds{") {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
    }

    async fn stop(self) -> bool {
        self.readiness.drain();
        timeout(DEADLINE, self.running).await.unwrap().unwrap()
    }
}

struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    next: u64,
}

impl Client {
    async fn send(&mut self, method: &str, params: Value) -> u64 {
        self.next += 1;
        let request =
            json!({"jsonrpc": "2.0", "id": self.next, "method": method, "params": params});
        self.socket.send(Message::text(request.to_string())).await.unwrap();
        self.next
    }

    async fn receive(&mut self) -> Value {
        loop {
            let message = timeout(DEADLINE, self.socket.next()).await.unwrap().unwrap().unwrap();
            if let Message::Text(text) = message {
                return serde_json::from_str(&text).unwrap();
            }
        }
    }

    /// Runs a command to its end; the events' params, `Started`'s result first.
    async fn run(&mut self, method: &str, params: Value) -> Vec<Value> {
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

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event"].as_str().unwrap()).collect()
}

fn sip(name: &str) -> String {
    format!("sip:{name}@{DOMAIN}")
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

async fn a_call(client: &mut Client) -> String {
    let events =
        client.run("CallStart", json!({"caller": sip("alice"), "callee": sip("bob")})).await;
    assert_eq!(events.last().unwrap()["outcome"], "success", "{events:#?}");
    let start = events.iter().find(|event| event["event"] == "TransferStart").unwrap();
    start["data"]["callid"].as_str().unwrap().to_owned()
}

/// Every command's success, on both grades of script.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_command_succeeds_on_both_grades_of_script() {
    for script in [Script::Stock, Script::Reference] {
        let proxy = Proxy::start(script, any_port()).await;
        let site = Site::start(proxy.mi).await;
        site.joined().await;
        let mut client = site.client().await;
        let call = a_call(&mut client).await;

        let events = client.run("CallHold", json!({"callid": call})).await;
        assert_eq!(
            names(&events),
            [
                "Started",
                "CallHoldStart",
                "CallHoldSuccessful",
                "CallHolding",
                "CallHoldStart",
                "CallHoldSuccessful",
                "Ended"
            ]
        );
        assert_eq!(events[1]["data"]["leg"], "caller");
        assert_eq!(events[4]["data"]["leg"], "callee");
        let again = client.run("CallHold", json!({"callid": call})).await;
        assert_eq!(again[1]["data"], "480 Both dialog legs are on hold");
        let events = client.run("CallUnhold", json!({"callid": call})).await;
        assert_eq!(events.last().unwrap()["outcome"], "success");

        let params = json!({"callid": call, "leg": "callee", "destination": sip("grace")});
        let events = client.run("CallBlindTransfer", params).await;
        assert_eq!(events.last().unwrap()["outcome"], "success", "{events:#?}");
        assert!(names(&events).contains(&"TransferSuccessful"));
        let moved = events.iter().find_map(|event| event["data"]["callid"].as_str()).unwrap();

        let events = client.run("CallEnd", json!({"callid": moved})).await;
        assert_eq!(names(&events), ["Started", "Ended"]);
        let gone = client.run("CallEnd", json!({"callid": call})).await;
        assert_eq!(names(&gone), ["Started", "Error", "Ended"]);
        assert_eq!(gone[1]["error"]["code"], "call_not_found");
        drop(client);
        assert!(site.stop().await);
        proxy.stop().await;
    }
}

/// Every failure is one `Error` directly before one `Ended`, with the old text and the new words.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_failure_is_told_once_and_ends() {
    let proxy = Proxy::start(Script::Reference, any_port()).await;
    let site = Site::start(proxy.mi).await;
    site.joined().await;
    let mut client = site.client().await;
    for (caller, callee, text, code, sip_status) in [
        ("dave", "bob", "failed to establish initial call: 486 Busy Here", "caller_busy", 486),
        (
            "nobody",
            "bob",
            "failed to establish initial call: 404 Not Found",
            "caller_not_found",
            404,
        ),
        (
            "heidi",
            "bob",
            "failed to establish initial call: 408 Request Timeout",
            "caller_unreachable",
            408,
        ),
        ("frank", "bob", "transfer refused: 603 Decline", "refer_refused", 603),
        ("alice", "dave", "callee: 486 Busy Here", "callee_busy", 486),
        ("alice", "nobody", "callee: 404 Not Found", "callee_not_found", 404),
    ] {
        let params = json!({"caller": sip(caller), "callee": sip(callee), "ring_timeout": 8});
        let events = client.run("CallStart", params).await;
        let [.., error, ended] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!(error["event"], "Error", "{caller} -> {callee}: {events:#?}");
        assert_eq!(error["data"], text, "{caller} -> {callee}");
        assert_eq!(error["error"]["code"], code);
        assert_eq!(error["error"]["sip_status"], sip_status);
        assert_eq!(error["error"]["up"], "no");
        assert_eq!(ended["outcome"], "failed");
        let errors = events.iter().filter(|event| event["event"] == "Error").count();
        assert_eq!(errors, 1);
    }
    drop(client);
    assert!(site.stop().await);
    proxy.stop().await;
}

/// A cancelled start rings nowhere; a repeated id is the same command; another's params are not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_is_cancelled_and_its_id_is_idempotent() {
    let proxy = Proxy::start(Script::Reference, any_port()).await;
    let site = Site::start(proxy.mi).await;
    site.joined().await;
    let mut client = site.client().await;
    let params =
        json!({"caller": sip("erin"), "callee": sip("bob"), "cmd_id": "one", "ringing": true});
    client.send("CallStart", params.clone()).await;
    assert_eq!(client.receive().await["result"]["event"], "Started");
    assert_eq!(client.receive().await["params"]["event"], "CallerRinging");

    client.send("CallStart", params.clone()).await;
    let repeated = client.receive().await;
    assert_eq!(repeated["result"]["repeated"], true, "{repeated}");
    let other = json!({"caller": sip("erin"), "callee": sip("carol"), "cmd_id": "one"});
    client.send("CallStart", other).await;
    assert_eq!(client.receive().await["error"]["data"]["kind"], "id_conflict");
    let second = json!({"caller": sip("erin"), "callee": sip("carol"), "cmd_id": "two"});
    client.send("CallStart", second).await;
    let busy = client.receive().await;
    assert_eq!(busy["error"]["data"]["kind"], "caller_busy");
    assert_eq!(busy["error"]["data"]["cmd_id"], "one");

    client.send("CommandCancel", json!({"cmd_id": "one"})).await;
    let mut seen = Vec::new();
    while seen.last().is_none_or(|event: &Value| event["params"]["event"] != "Ended") {
        seen.push(client.receive().await);
    }
    let ended = &seen.last().unwrap()["params"];
    assert_eq!(ended["outcome"], "cancelled");
    client.send("CommandGet", json!({"cmd_id": "one"})).await;
    assert_eq!(client.receive().await["result"]["outcome"], "cancelled");
    drop(client);
    assert!(site.stop().await);
    proxy.stop().await;
}

/// `POST` waits for the end if asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_one_shot_request_waits_for_the_end() {
    let proxy = Proxy::start(Script::Reference, any_port()).await;
    let site = Site::start(proxy.mi).await;
    site.joined().await;
    let params = json!({"caller": sip("alice"), "callee": sip("bob")});
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": "CallStart", "params": params});
    let (status, answer) = site.post("?wait=ended", &request).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["result"]["outcome"], "success", "{answer}");
    let bad = json!({"jsonrpc": "2.0", "id": 2, "method": "CallStart", "params": {"caller": "x"}});
    let (status, answer) = site.post("", &bad).await;
    assert_eq!(status, 400);
    assert_eq!(answer["error"]["code"], -32602);
    assert_eq!(answer["error"]["data"]["field"], "caller");
    assert!(site.stop().await);
    proxy.stop().await;
}

/// Without a proxy the server starts and answers within a second; when the proxy comes, it works;
/// when the proxy restarts, what ran is told to be unknown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxy_may_come_late_and_restart() {
    let proxy = Proxy::start(Script::Stock, any_port()).await;
    let mi = proxy.stop().await;
    let site = Site::start(mi).await;
    let mut client = site.client().await;
    let params = json!({"caller": sip("alice"), "callee": sip("bob")});
    let begun = std::time::Instant::now();
    let events = client.run("CallStart", params.clone()).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(names(&events), ["Started", "Error", "Ended"]);
    assert_eq!(events[1]["error"]["code"], "stack_unreachable");
    assert_eq!(events[2]["outcome"], "not_started");

    let proxy = Proxy::start(Script::Stock, mi).await;
    site.joined().await;
    a_call(&mut client).await;

    client.send("CallStart", json!({"caller": sip("erin"), "callee": sip("bob")})).await;
    assert_eq!(client.receive().await["result"]["event"], "Started");
    let mi = proxy.stop().await;
    let proxy = Proxy::start(Script::Stock, mi).await;
    let mut last = client.receive().await;
    while last["params"]["event"] != "Ended" {
        last = client.receive().await;
    }
    assert_eq!(last["params"]["outcome"], "unknown", "{last}");
    assert_eq!(last["params"]["up"], "unknown");
    drop(client);
    site.stop().await;
    proxy.stop().await;
}

/// A busy port is one clear line that names the address.
#[tokio::test]
async fn a_busy_port_is_named() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut config = config_for(SocketAddr::from(([127, 0, 0, 1], 9)));
    config.listen.address = HostPort::loopback(port);
    let levels = LogLevels::detached(LogFilter::info());
    let started = Server::start(&config, &Hints::default(), levels, Readiness::starting()).await;
    let Err(error @ StartError::Listen { .. }) = started else { panic!("it started") };
    let text = error.to_string();
    assert!(text.contains(&format!("127.0.0.1:{port}")) && text.contains("clients"), "{text}");
}
