//! Clients that do everything there is to do, over and over, wherever a process takes them.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::installation::Places;
use crate::site::{http_with, sip};

pub const CLIENTS: usize = 5;

/// Between two things that one client does, so that a small machine has time for all.
const PAUSE: Duration = Duration::from_millis(40);

/// What takes longer is given up; the client goes elsewhere.
const PATIENCE: Duration = Duration::from_secs(5);

/// Clients at work. Dropped, they stop.
pub struct Load(JoinSet<()>);

impl Load {
    pub fn start(places: &Places) -> Self {
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let places = places.clone();
            clients.spawn(async move {
                for turn in number.. {
                    let place = {
                        let places = places.lock().unwrap();
                        (!places.is_empty()).then(|| places[turn % places.len()])
                    };
                    if let Some(place) = place {
                        // What goes wrong is counted by the processes.
                        let _ = one_turn(place, number).await;
                    }
                    sleep(PAUSE).await;
                }
            });
        }
        Self(clients)
    }
}

/// Everything once. `None`: it was given up on the way.
async fn one_turn(place: SocketAddr, number: usize) -> Option<()> {
    let phone = |kind: &str| sip(&format!("{kind}{number}"));
    let mut client = Client::connect(place).await?;
    client.run("Echo", json!({"said": "hello"})).await?;
    client.run("CallHold", json!({})).await?;
    client.run("NoSuchMethod", json!({})).await?;

    let start = |callee: &str| json!({"caller": phone("a"), "callee": phone(callee)});
    let first = call_of(&client.run("CallStart", start("b")).await?)?;
    client.run("CallHold", json!({"callid": first})).await?;
    client.run("CallHold", json!({"callid": first})).await?;
    client.run("CallUnhold", json!({"callid": first})).await?;
    let second = call_of(&client.run("CallStart", start("c")).await?)?;
    let both = json!({"callidA": first, "legA": "callee", "callidB": second, "legB": "callee"});
    let joined = call_of(&client.run("CallAttendedTransfer", both).await?)?;
    client.run("CallEnd", json!({"callid": joined})).await?;

    let third = call_of(&client.run("CallStart", start("b")).await?)?;
    let away = json!({"callid": third, "leg": "callee", "destination": phone("c")});
    let moved = call_of(&client.run("CallBlindTransfer", away).await?)?;
    client.run("CallEnd", json!({"callid": moved})).await?;

    client.run("CallStart", start("busy")).await?;
    let begun = json!({"caller": phone("ringing"), "callee": phone("b")});
    let begun = client.ask("CallStart", begun).await?;
    client.ask("CommandCancel", json!({"cmd_id": begun["result"]["cmd_id"]})).await?;
    // Not all say good-bye.
    if number == 0 { Some(()) } else { client.socket.close(None).await.ok() }
}

/// A phone that the load does not use rings, and the client is gone.
pub async fn ring(place: SocketAddr) {
    let mut client = Client::connect(place).await.expect("it takes a client");
    let phone = |kind: &str| sip(&format!("{kind}{CLIENTS}"));
    let start = json!({"caller": phone("ringing"), "callee": phone("b"), "ring_timeout": 20});
    let begun = client.ask("CallStart", start).await.expect("it answers");
    assert_eq!(begun["result"]["event"], "Started", "{begun}");
}

/// A page of a foreign site is turned away.
pub async fn come_from_a_foreign_page(place: SocketAddr) {
    let foreign = "Connection: Upgrade\r\nUpgrade: websocket\r\nOrigin: https://evil.example\r\n";
    assert_eq!(http_with(place, "GET", "/call-api", foreign, None).await.0, 403);
}

/// Connects until it is turned away; `most` have to be enough for that.
pub async fn crowd(place: SocketAddr, most: usize) -> Vec<impl Drop> {
    let mut clients = Vec::new();
    while let Some(client) = Client::connect(place).await {
        clients.push(Box::new(client));
        assert!(clients.len() <= most, "nobody is turned away");
    }
    clients
}

/// The Call-ID of the call that the command has led to.
fn call_of(told: &[Value]) -> Option<String> {
    let start = told.iter().rev().find_map(|event| event["data"]["callid"].as_str())?;
    Some(start.to_owned())
}

struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    next: u64,
}

impl Client {
    async fn connect(place: SocketAddr) -> Option<Self> {
        let url = format!("ws://{place}/call-api");
        let connected = timeout(PATIENCE, connect_async(url)).await.ok()?.ok()?;
        Some(Self { socket: connected.0, next: 0 })
    }

    async fn receive(&mut self) -> Option<Value> {
        loop {
            let message = timeout(PATIENCE, self.socket.next()).await.ok()??.ok()?;
            if let Message::Text(text) = message {
                return serde_json::from_str(&text).ok();
            }
        }
    }

    /// The answer; what is told meanwhile is passed over.
    async fn ask(&mut self, method: &str, params: Value) -> Option<Value> {
        sleep(PAUSE).await;
        self.next += 1;
        let request =
            json!({"jsonrpc": "2.0", "id": self.next, "method": method, "params": params});
        self.socket.send(Message::text(request.to_string())).await.ok()?;
        loop {
            let message = self.receive().await?;
            if message["id"] == self.next {
                return Some(message);
            }
        }
    }

    /// What is told of a command, to its end; nothing of one that is refused.
    async fn run(&mut self, method: &str, params: Value) -> Option<Vec<Value>> {
        let answer = self.ask(method, params).await?;
        let mut told = vec![answer["result"].clone()];
        if answer["result"]["event"] != "Started" {
            return Some(told);
        }
        while told.last()?["event"] != "Ended" {
            let message = self.receive().await?;
            if message["params"]["cmd_id"] == told[0]["cmd_id"] {
                told.push(message["params"].clone());
            }
        }
        Some(told)
    }
}
