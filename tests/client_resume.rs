//! Connections that die anywhere, and clients that come back.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod client_support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use callplane::core::failure::Outcome;
use callplane::core::ids::{Epoch, TenantId};
use callplane::core::notice::Event;
use callplane::core::record::Position;
use client_support::{Script, Server, ended, hold, progress, request, settings, until};
use futures_util::StreamExt as _;
use serde_json::{Value, json};

const IDS: [&str; 4] = ["h1", "h2", "h3", "h4"];

/// What a client remembers across connections.
#[derive(Default)]
struct Memory {
    session: Option<String>,
    position: Option<(String, u64)>,
    /// Notifications, by their seq, with how often they came.
    told: BTreeMap<u64, (Value, usize)>,
    started: BTreeSet<String>,
    ended: BTreeSet<String>,
    /// The seqs of the present connection's notifications.
    order: Vec<u64>,
}

impl Memory {
    fn learn(&mut self, message: &Value) {
        let items = message.as_array().cloned().unwrap_or_else(|| vec![message.clone()]);
        for item in &items {
            let told = item.get("params").or(item.get("result")).unwrap_or(&Value::Null);
            if let Some(session) = told["session"].as_str() {
                self.session = Some(session.to_owned());
            }
            if let (Some(epoch), Some(seq)) = (told["epoch"].as_str(), told["seq"].as_u64()) {
                let highest = self.position.as_ref().map_or(0, |(_, seq)| *seq);
                self.position = Some((epoch.to_owned(), seq.max(highest)));
                if item.get("params").is_some() {
                    self.told.entry(seq).or_insert((item.clone(), 0)).1 += 1;
                    self.order.push(seq);
                }
            }
            let id = told["cmd_id"].as_str().unwrap_or_default().to_owned();
            match told["event"].as_str() {
                Some("Started") => {
                    self.started.insert(id);
                }
                Some("Ended") => {
                    assert!(self.started.contains(&id), "{id} ended before it started");
                    self.ended.insert(id);
                }
                _ => {}
            }
        }
    }

    fn is_complete(&self) -> bool {
        IDS.iter().all(|id| self.ended.contains(*id))
    }
}

fn requests() -> [Value; 3] {
    [hold(2, "h1"), json!([hold(3, "h2"), hold(4, "h3")]), hold(5, "h4")]
}

/// One life of a client whose first connection dies after so many bytes. Returns how many bytes
/// the first connection got, and whether commands were begun.
async fn life(server: &Server, cut: usize) -> (u64, bool) {
    let mut memory = Memory::default();
    let (mut peer, seen) = server.connect_cut(cut).await;
    peer.send(&request(1, "Echo", json!({"cmd_id": "hello"}))).await;
    while memory.session.is_none() {
        let Some(message) = peer.next().await else {
            return (seen.load(Ordering::Relaxed), false);
        };
        memory.learn(&message);
    }
    for request in requests() {
        peer.send(&request).await;
    }
    while !memory.is_complete() {
        match peer.next().await {
            Some(message) => memory.learn(&message),
            None => break,
        }
    }
    assert!(memory.order.is_sorted_by(|a, b| a < b), "{:?}", memory.order);
    let bytes = seen.load(Ordering::Relaxed);
    drop(peer);
    if memory.is_complete() {
        return (bytes, true);
    }
    let mut peer = server.connect().await;
    let (epoch, seq) = memory.position.clone().unwrap();
    let params = json!({"session": memory.session, "epoch": epoch, "seq": seq});
    let answer = peer.call(9, "Resume", params).await;
    assert_eq!(answer["result"]["recovered"], true, "{answer}");
    memory.order.clear();
    memory.learn(&answer);
    // What was not answered may not have arrived, and is asked again under the same ids.
    for request in requests() {
        peer.send(&request).await;
    }
    while !memory.is_complete() {
        memory.learn(&peer.next().await.unwrap());
    }
    assert!(memory.order.is_sorted_by(|a, b| a < b), "{:?}", memory.order);
    for (seq, (message, times)) in &memory.told {
        assert_eq!(*times, 1, "cut at {cut}: seq {seq} came {times} times: {message}");
    }
    let events = |id: &str| {
        memory
            .told
            .values()
            .filter(|(message, _)| message["params"]["cmd_id"] == id)
            .map(|(message, _)| message["params"]["event"].as_str().unwrap().to_owned())
            .filter(|event| event != "Started")
            .collect::<Vec<_>>()
    };
    for id in IDS {
        assert_eq!(
            events(id),
            ["CallHoldStart", "CallHolding", "CallHoldSuccessful", "Ended"],
            "cut at {cut}: {id}"
        );
    }
    (bytes, true)
}

/// P2 and P3, with the connection cut at every byte of the server's output: each notification
/// exactly once and in order, none lost, and no command begun twice.
#[tokio::test]
async fn a_connection_may_die_at_every_byte() {
    let server = Server::start(Script::Whole, settings()).await;
    let (whole, _) = life(&server, usize::MAX).await;
    assert!(whole > 1_500, "{whole}");
    // The whole differs by a few digits of a seq from life to life.
    let whole = usize::try_from(whole).unwrap() + 32;
    let lives = futures_util::stream::iter(0..whole).map(|cut| life(&server, cut));
    let begun: Vec<bool> = lives.buffer_unordered(16).map(|(_, begun)| begun).collect().await;
    let lived = begun.iter().filter(|begun| **begun).count();
    assert!(lived > 1_000 && lived < whole, "{lived} of {whole}");
    assert_eq!(server.stub.begun(), 4 * (lived + 1), "four commands in each life, none twice");
}

#[tokio::test]
async fn a_started_that_was_missed_comes_as_a_notification() {
    let server = Server::start(Script::Silent, settings()).await;
    let mut peer = server.connect().await;
    let hello = peer.call(1, "Echo", json!({})).await;
    peer.send(&hold(2, "h")).await;
    // The response is not read.
    until("it has begun", || server.stub.begun() > 0).await;
    drop(peer);
    let mut peer = server.connect().await;
    let params = json!({"session": hello["result"]["session"], "epoch": "e1", "seq": "0"});
    assert_eq!(peer.call(1, "Resume", params).await["result"]["recovered"], true);
    let started = peer.next().await.unwrap();
    assert_eq!(started["method"], "CallHold");
    assert_eq!(started["params"]["event"], "Started");
    assert_eq!(started["params"]["seq"], 1);
    server.stub.emit("h", ended(Outcome::Success));
    assert_eq!(peer.next().await.unwrap()["params"]["event"], "Ended");
}

#[tokio::test]
async fn what_cannot_be_recovered_is_said_with_its_reason() {
    let server = Server::start(Script::Silent, settings()).await;
    let mut peer = server.connect().await;
    let started = {
        peer.send(&hold(1, "h")).await;
        peer.next().await.unwrap()
    };
    let session = started["result"]["session"].clone();
    server.stub.emit("h", progress(Event::CallHolding));
    for (epoch, seq, reason) in [("e9", 1, "restarted"), ("e1", 99, "ahead")] {
        let mut peer = server.connect().await;
        let params = json!({"session": session, "epoch": epoch, "seq": seq});
        let answer = peer.call(1, "Resume", params).await;
        assert_eq!(
            answer["result"],
            json!({"recovered": false, "reason": reason, "session": session, "epoch": "e1", "seq": 2})
        );
    }
    server.stub.trim(2);
    let mut late = server.connect().await;
    let params = json!({"session": session, "epoch": "e1", "seq": 1});
    let answer = late.call(1, "Resume", params).await;
    assert_eq!(answer["result"]["reason"], "trimmed");
    // The session and its ids stay, and what comes now is told.
    late.send(&hold(2, "h")).await;
    let repeat = late.next().await.unwrap();
    assert_eq!(repeat["result"]["repeated"], true);
    assert_eq!(repeat["result"]["replayed"], false);
    server.stub.emit("h", ended(Outcome::Success));
    assert_eq!(late.next().await.unwrap()["params"]["event"], "Ended");
    assert_eq!(server.stub.begun(), 1);
}

/// An earlier connection began what this one waits for.
#[tokio::test]
async fn who_has_resumed_is_told_that_the_store_forgot() {
    let server = Server::start(Script::Silent, settings()).await;
    let mut peer = server.connect().await;
    peer.send(&hold(1, "h")).await;
    let started = peer.next().await.unwrap();
    drop(peer);
    let mut peer = server.connect().await;
    let session = started["result"]["session"].clone();
    let params = json!({"session": session, "epoch": "e1", "seq": 1});
    assert_eq!(peer.call(1, "Resume", params.clone()).await["result"]["recovered"], true);
    let mut idle = server.connect().await;
    assert_eq!(idle.call(1, "Echo", json!({})).await["result"]["epoch"], "e1");
    server.stub.restart();
    let to = Position { epoch: Epoch::parse("e2").unwrap(), seq: 0 };
    server.stub.feed.skip(&TenantId::default(), &to);
    assert_eq!(peer.close_code().await, Some(4003));
    let mut peer = server.connect().await;
    let answer = peer.call(1, "Resume", params).await;
    assert_eq!(answer["result"]["reason"], "restarted", "{answer}");
    while let Some(told) = idle.next().await
        && told["params"]["event"] != "Ended"
    {}
    let started = idle.call(2, "CallHold", json!({"callid": "other"})).await;
    assert_eq!(started["result"]["epoch"], "e2", "nobody waited there: {started}");
}

#[tokio::test]
async fn resume_comes_first_and_alone_or_not_at_all() {
    let server = Server::start(Script::Silent, settings()).await;
    let mut peer = server.connect().await;
    peer.send(&hold(1, "h")).await;
    let session = peer.next().await.unwrap()["result"]["session"].clone();
    let resume = request(2, "Resume", json!({"session": session, "epoch": "e1", "seq": 0}));
    peer.send(&resume).await;
    assert_eq!(peer.next().await.unwrap()["error"]["data"]["kind"], "resume_refused");
    let mut other = server.connect().await;
    other.send(&json!([resume])).await;
    assert_eq!(other.next().await.unwrap()[0]["error"]["data"]["kind"], "resume_refused");
    let (status, answer) = server.post("", &resume).await;
    assert_eq!((status, &answer["error"]["data"]["kind"]), (409, &json!("resume_refused")));
}

#[tokio::test]
async fn a_repeat_on_the_same_connection_is_the_same_command_and_is_not_told_again() {
    let server = Server::start(Script::Silent, settings()).await;
    let mut peer = server.connect().await;
    peer.send(&hold(1, "h")).await;
    peer.send(&hold(2, "h")).await;
    let (first, second) = (peer.next().await.unwrap(), peer.next().await.unwrap());
    assert_eq!((&first["id"], first["result"].get("repeated")), (&json!(1), None));
    assert_eq!((&second["id"], &second["result"]["repeated"]), (&json!(2), &json!(true)));
    assert_eq!(second["result"].get("replayed"), None);
    server.stub.emit("h", ended(Outcome::Success));
    assert_eq!(peer.next().await.unwrap()["params"]["event"], "Ended");
    peer.send(&hold(3, "h")).await;
    let third = peer.next().await.unwrap();
    assert_eq!(third["result"]["outcome"], "success");
    let other = peer.call(4, "CallHold", json!({"callid": "other", "cmd_id": "h"})).await;
    assert_eq!(other["error"]["data"], json!({"kind": "id_conflict", "cmd_id": "h"}));
    assert_eq!(server.stub.begun(), 1);
}

#[tokio::test]
async fn a_connection_that_did_not_have_a_command_gets_it_from_its_first_entry_on() {
    let server = Server::start(Script::Silent, settings()).await;
    let mut peer = server.connect().await;
    peer.send(&hold(1, "h")).await;
    let session = peer.next().await.unwrap()["result"]["session"].clone();
    for _ in 0..5 {
        server.stub.emit("h", progress(Event::CallHolding));
    }
    let mut other = server.connect().await;
    let params = json!({"session": session, "epoch": "gone", "seq": 1});
    assert_eq!(other.call(1, "Resume", params).await["result"]["recovered"], false);
    server.stub.emit("h", progress(Event::CallHolding));
    assert_eq!(other.next().await.unwrap()["params"]["seq"], 7);
    other.send(&hold(2, "h")).await;
    let answer = other.next().await.unwrap();
    assert_eq!(answer["result"]["repeated"], true);
    assert_eq!(answer["result"]["replayed"], true);
    for seq in 2..=6 {
        assert_eq!(other.next().await.unwrap()["params"]["seq"], seq);
    }
    server.stub.emit("h", ended(Outcome::Success));
    assert_eq!(other.next().await.unwrap()["params"]["seq"], 8, "7 was told as it came");
}

#[tokio::test]
async fn two_sockets_may_hold_one_session() {
    let server = Server::start(Script::Silent, settings()).await;
    let mut one = server.connect().await;
    let hello = one.call(1, "Echo", json!({})).await;
    let (_, _) = (one.next().await, one.next().await);
    let mut two = server.connect().await;
    let params = json!({"session": hello["result"]["session"], "epoch": "e1", "seq": 0});
    two.call(1, "Resume", params).await;
    one.send(&hold(2, "h")).await;
    assert_eq!(one.next().await.unwrap()["result"]["event"], "Started");
    assert_eq!(two.next().await.unwrap()["params"]["event"], "Started");
    server.stub.emit("h", ended(Outcome::Success));
    for peer in [&mut one, &mut two] {
        assert_eq!(peer.next().await.unwrap()["params"]["event"], "Ended");
    }
}
