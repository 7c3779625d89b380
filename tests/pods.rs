//! Several servers that share a Redis and a proxy: what one of them is told, another knows.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod redis_server;
mod site;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use callplane::config::Config;
use callplane::stack::simulated::Script;
use futures_util::StreamExt as _;
use redis_server::{RedisServer, is_here};
use serde_json::{Value, json};
use site::wire::Wire;
use site::{Client, DEADLINE, Proxy, Site, a_call, any_port, configured, http, names, sip, until};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

/// Servers, the proxy they steer, and what stands between it and each.
struct Pods {
    redis: RedisServer,
    proxy: Proxy,
    wires: Vec<Wire>,
    sites: Vec<Site>,
}

/// None where there is no Redis: the test of this name is skipped then.
async fn pods(test: &str, script: Script, count: usize) -> Option<Pods> {
    if !is_here(test) {
        return None;
    }
    let redis = tokio::task::spawn_blocking(RedisServer::start).await.unwrap();
    let proxy = Proxy::start(script, any_port()).await;
    let mut pods = Pods { redis, proxy, wires: Vec::new(), sites: Vec::new() };
    for _ in 0..count {
        pods.add().await;
    }
    Some(pods)
}

impl Pods {
    fn config(&self, mi: SocketAddr) -> Config {
        let redis = self.redis.port();
        let domain = site::DOMAIN;
        configured(&format!(
            "redis: {{address: \"127.0.0.1:{redis}\"}}\n\
             stacks:\n  - name: sim\n    mi: udp:{mi}\n    next_hop: sip:{domain}\n    fr_timeout: 1s\n"
        ))
    }

    /// One more server, which is subscribed to the proxy. The first of all comes to lead.
    async fn add(&mut self) {
        let wire = Wire::before(self.proxy.mi).await;
        let site = Site::of(&self.config(wire.mi)).await;
        site.joined().await;
        self.sites.push(site);
        self.wires.push(wire);
    }
}

/// The wires between all servers and the proxy: whoever steps a command performs what that opens.
impl Pods {
    fn asked(&self, method: &str) -> usize {
        self.wires.iter().map(|wire| wire.asked(method)).sum()
    }

    /// Begins a command whose first re-INVITE is not answered until [`Pods::release`].
    async fn begin_and_keep(&self, client: &mut Client, method: &str, params: Value) -> Value {
        let before = self.asked(REINVITE);
        self.wires.iter().for_each(|wire| wire.keep_replies(REINVITE));
        let (begun, _) = answer(client, method, params).await;
        assert_eq!(begun["result"]["event"], "Started", "{begun}");
        until("it is under way", async || self.asked(REINVITE) > before).await;
        begun["result"].clone()
    }

    async fn release(&self) {
        for wire in &self.wires {
            wire.release().await;
        }
    }
}

/// What sends a re-INVITE, and a REFER.
const REINVITE: &str = "dlg_send_sequential";

fn ended(events: &[Value]) -> &Value {
    let last = events.last().unwrap();
    assert_eq!(last["event"], "Ended", "{events:#?}");
    last
}

/// The answer to a request of the client's; what else came before.
async fn answer(client: &mut Client, method: &str, params: Value) -> (Value, Vec<Value>) {
    let id = client.send(method, params).await;
    let mut others = Vec::new();
    loop {
        let message = client.receive().await;
        if message["id"] == id {
            return (message, others);
        }
        others.push(message);
    }
}

/// Notifications until this command has ended.
async fn until_ended(client: &mut Client, command: &str) -> Vec<Value> {
    let mut events = Vec::new();
    loop {
        let message = client.receive().await;
        assert_eq!(message["params"]["cmd_id"], command, "{message}");
        events.push(message["params"].clone());
        if message["params"]["event"] == "Ended" {
            return events;
        }
    }
}

/// The close code with which the server ends the connection; what came before.
async fn closed(client: &mut Client) -> (u16, Vec<Value>) {
    let mut before = Vec::new();
    loop {
        let message = timeout(DEADLINE, client.socket.next()).await.expect("it is not closed");
        match message.unwrap().unwrap() {
            Message::Close(Some(frame)) => return (frame.code.into(), before),
            Message::Text(text) => before.push(serde_json::from_str(&text).unwrap()),
            _ => {}
        }
    }
}

fn position(of: &Value) -> Value {
    json!({"session": of["session"], "epoch": of["epoch"], "seq": of["seq"]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_of_any_server_s_client_is_everybody_s() {
    let test = "a_command_of_any_server_s_client_is_everybody_s";
    let Some(pods) = pods(test, Script::Reference, 2).await else { return };
    let [leader, other] = pods.sites.as_slice() else { unreachable!() };
    let (mut one, mut two) = (leader.client().await, other.client().await);
    // Events of the proxy are applied by the leader, whoever began the command.
    let call = a_call(&mut two).await;
    assert_eq!(ended(&one.run("CallHold", json!({"callid": call})).await)["outcome"], "success");

    // One changing command per call, wherever it was asked.
    let unhold = json!({"callid": call, "cmd_id": "u"});
    let begun = pods.begin_and_keep(&mut one, "CallUnhold", unhold).await;
    let refused = answer(&mut two, "CallHold", json!({"callid": call})).await.0;
    assert_eq!(refused["error"]["data"]["kind"], "call_busy", "{refused}");
    assert_eq!(refused["error"]["data"]["cmd_id"], "u");

    // The same session on the other server: what came meanwhile, then the rest.
    let mut moved = other.client().await;
    let (resumed, _) = answer(&mut moved, "Resume", position(&begun)).await;
    assert_eq!(resumed["result"]["recovered"], true, "{resumed}");
    let again = json!({"callid": call, "cmd_id": "u"});
    let repeated = answer(&mut moved, "CallUnhold", again).await.0;
    assert_eq!(repeated["result"]["repeated"], true, "{repeated}");
    let other_params = json!({"callid": "another", "cmd_id": "u"});
    let conflict = answer(&mut moved, "CallUnhold", other_params).await.0;
    assert_eq!(conflict["error"]["data"]["kind"], "id_conflict", "{conflict}");
    pods.release().await;
    let here = until_ended(&mut moved, "u").await;
    let there = until_ended(&mut one, "u").await;
    assert_eq!(ended(&here)["outcome"], "success");
    let seqs =
        |events: &[Value]| -> Vec<_> { events.iter().map(|event| event["seq"].clone()).collect() };
    assert!(seqs(&there).ends_with(&seqs(&here)), "{here:#?} {there:#?}");

    // A start of the same caller, too.
    // Erin's phone rings for ever.
    let start = |id: &str| json!({"caller": sip("erin"), "callee": sip("bob"), "cmd_id": id});
    let begun = answer(&mut one, "CallStart", start("s")).await.0;
    assert_eq!(begun["result"]["event"], "Started");
    let refused = answer(&mut two, "CallStart", start("t")).await.0;
    assert_eq!(refused["error"]["data"]["kind"], "caller_busy", "{refused}");
    assert_eq!(
        answer(&mut moved, "CommandCancel", json!({"cmd_id": "s"})).await.0["result"]["cancelling"],
        true
    );
    assert_eq!(ended(&until_ended(&mut one, "s").await)["outcome"], "cancelled");
}

/// How many commands of its own this server says to run.
async fn running(site: &Site) -> i64 {
    let metrics = site.metrics().await;
    let counts =
        metrics.lines().filter_map(|line| line.strip_prefix("callplane_command_running_commands{"));
    counts.map(|line| line.rsplit(' ').next().unwrap().parse::<i64>().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_counts_as_running_where_it_began_whoever_ends_it() {
    let test = "a_command_counts_as_running_where_it_began_whoever_ends_it";
    let Some(pods) = pods(test, Script::Reference, 2).await else { return };
    let [leader, other] = pods.sites.as_slice() else { unreachable!() };
    let mut client = other.client().await;
    let all = async || (running(leader).await, running(other).await);
    // The leader hears that the callee answered.
    a_call(&mut client).await;
    until("what has ended counts nowhere", async || all().await == (0, 0)).await;
    let start = json!({"caller": sip("erin"), "callee": sip("bob"), "cmd_id": "s"});
    let begun = answer(&mut client, "CallStart", start).await.0;
    assert_eq!(begun["result"]["event"], "Started", "{begun}");
    // It is told by Redis to both at once, and counted when the commit's answer is there.
    until("what runs counts where it began", async || all().await == (0, 1)).await;
    answer(&mut client, "CommandCancel", json!({"cmd_id": "s"})).await;
    until("what was given up counts nowhere", async || all().await == (0, 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_leaves_its_commands_and_its_clients_to_the_others() {
    let test = "a_server_that_stops_leaves_its_commands_and_its_clients_to_the_others";
    let Some(mut pods) = pods(test, Script::Stock, 2).await else { return };
    let leader = pods.sites.remove(0);
    let other = &pods.sites[0];
    let mut client = leader.client().await;
    let params = json!({"caller": sip("alice"), "callee": sip("bob"), "cmd_id": "s"});
    pods.proxy.control("PATCH", "/phones/bob", Some(&json!({"ring_ms": 1500}))).await;
    let begun = answer(&mut client, "CallStart", params).await.0["result"].clone();
    let mut last = begun.clone();
    while last["event"] != "TransferPending" {
        last = client.receive().await["params"].clone();
        assert_ne!(last["event"], "Ended", "{last}");
    }
    let began = Instant::now();
    let stopping = tokio::spawn(leader.stop());
    let (code, before) = closed(&mut client).await;
    assert_eq!((code, before.len()), (4000, 0), "{before:#?}");
    drop(client);
    assert!(stopping.await.unwrap(), "nothing was cut off");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    // It said that it ends, and that it has left nothing.
    assert_eq!(pods.redis.ask(&["ZCARD", "cp:main:pods"]), ":1");
    let mut client = other.client().await;
    let from = json!({"session": begun["session"], "epoch": last["epoch"], "seq": last["seq"]});
    let (resumed, _) = answer(&mut client, "Resume", from).await;
    assert_eq!(resumed["result"]["recovered"], true, "{resumed}");
    let rest = until_ended(&mut client, "s").await;
    assert_eq!(names(&rest), ["CalleeAnswered", "Ended"]);
    assert_eq!(ended(&rest)["outcome"], "success");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_clients_stay_calls_can_be_ended_and_all_is_well_when_it_is_back() {
    let test = "without_redis_clients_stay_calls_can_be_ended_and_all_is_well_when_it_is_back";
    let Some(pods) = pods(test, Script::Reference, 2).await else { return };
    let (mut one, mut two) = (pods.sites[0].client().await, pods.sites[1].client().await);
    let (first, second) = (a_call(&mut one).await, a_call(&mut two).await);
    let hold = json!({"callid": second, "cmd_id": "h"});
    pods.begin_and_keep(&mut two, "CallHold", hold).await;

    pods.redis.pause();
    pods.release().await;
    // Whoever asks first finds that it is silent; from then on it is known.
    let refused = answer(&mut one, "CallHold", json!({"callid": first})).await.0;
    assert_eq!(refused["error"]["data"]["kind"], "store_unavailable", "{refused}");
    for _ in 0..20 {
        let asked = Instant::now();
        let refused = answer(&mut one, "CallHold", json!({"callid": first})).await.0;
        assert_eq!(refused["error"]["data"]["kind"], "store_unavailable", "{refused}");
        assert!(refused["error"]["data"]["retry_after_ms"].as_u64().unwrap() > 0);
        assert!(asked.elapsed() < Duration::from_millis(100), "{:?}", asked.elapsed());
    }
    assert_eq!(names(&one.run("Echo", json!({"data": 1})).await), ["Started", "Reply", "Ended"]);
    let ending = one.run("CallEnd", json!({"callid": first})).await;
    assert_eq!(
        (&ending[0]["degraded"], &ended(&ending)["outcome"]),
        (&json!(true), &json!("success"))
    );
    for (path, wanted) in [("/livez", 200), ("/readyz", 200)] {
        let (status, body) = http(pods.sites[0].operations, "GET", path, None).await;
        assert_eq!(status, wanted, "{path}: {body}");
    }

    pods.redis.go_on();
    let back = Instant::now();
    let settled = until_ended(&mut two, "h").await;
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
    // What the phones had said is not lost.
    assert_eq!(ended(&settled)["outcome"], "success", "{settled:#?}");
    let unhold = one.run("CallUnhold", json!({"callid": second})).await;
    assert_eq!(ended(&unhold)["outcome"], "success");
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_forgot_everything_is_told_to_who_waits() {
    let test = "a_redis_that_forgot_everything_is_told_to_who_waits";
    let Some(pods) = pods(test, Script::Reference, 2).await else { return };
    let mut client = pods.sites[0].client().await;
    let call = a_call(&mut client).await;
    let mut idle = pods.sites[1].client().await;
    idle.run("Echo", json!({"data": 1})).await;
    let hold = json!({"callid": call, "cmd_id": "h"});
    let begun = pods.begin_and_keep(&mut client, "CallHold", hold).await;
    pods.redis.ask(&["FLUSHALL"]);
    let (code, _) = closed(&mut client).await;
    assert_eq!(code, 4003);
    let mut client = pods.sites[1].client().await;
    let (resumed, _) = answer(&mut client, "Resume", position(&begun)).await;
    assert_eq!(resumed["result"]["recovered"], false, "{resumed}");
    assert_eq!(resumed["result"]["reason"], "restarted");
    let gone = answer(&mut client, "CommandGet", json!({"cmd_id": "h"})).await.0;
    assert_eq!(gone["error"]["data"]["kind"], "unknown_command", "{gone}");
    // Whoever waits for nothing stays, and goes on in the new epoch.
    pods.release().await;
    until("the other server knows of the new epoch", async || {
        let mut new = pods.sites[1].client().await;
        new.run("Echo", json!({"data": 1})).await[0]["epoch"] == resumed["result"]["epoch"]
    })
    .await;
    let unhold = idle.run("CallUnhold", json!({"callid": call})).await;
    assert_eq!(unhold[0]["epoch"], resumed["result"]["epoch"]);
}
