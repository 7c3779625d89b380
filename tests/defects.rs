//! What was measured to be wrong with the OpenSIPS Call API, one test for each defect: here it
//! must not happen. The server is the whole one, on its own sockets before a simulated proxy.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod process;
mod site;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use callplane::core::ids::CallId;
use callplane::core::plan::{HoldBy, ReferBy};
use callplane::core::script::Grade;
use callplane::rpc::method::Method;
use callplane::stack::simulated::Script;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::UdpSocket;
use tokio::time::timeout;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};

use process::Process;
use site::wire::{Asked, Wire};
use site::{
    Client, DEADLINE, DOMAIN, Proxy, Site, a_call, any_port, config_for, http_with, names, sip,
    until,
};

/// Panics of the server's tasks. A task's panic ends only that task, so nothing else would tell.
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// A proxy, a server before it, and all that the server asks the proxy.
struct Place {
    proxy: Proxy,
    wire: Wire,
    site: Site,
}

impl Place {
    async fn new(script: Script) -> Self {
        Self::with(script, |_| {}).await
    }

    async fn with(script: Script, change: impl FnOnce(&mut callplane::config::Config)) -> Self {
        static WATCH: Once = Once::new();
        WATCH.call_once(|| {
            let usual = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                if std::thread::current().name().is_some_and(|name| name.starts_with("tokio")) {
                    PANICS.fetch_add(1, Ordering::SeqCst);
                }
                usual(panic);
            }));
        });
        let proxy = Proxy::start(script, any_port()).await;
        let wire = Wire::before(proxy.mi).await;
        let mut config = config_for(wire.mi);
        config.commands.grace = Duration::from_millis(400);
        if script == Script::Stock {
            // One that has just started is asked again for its grade for a while otherwise.
            config.stacks[0].grade = Grade::Stock;
        }
        change(&mut config);
        let site = Site::of(&config).await;
        site.joined().await;
        Self { proxy, wire, site }
    }

    async fn client(&self) -> Client {
        self.site.client().await
    }

    async fn control(&self, method: &str, path: &str, body: Value) -> Value {
        self.proxy.control(method, path, Some(&body)).await
    }

    async fn phone(&self, name: &str, behaviour: Value) {
        self.control("PATCH", &format!("/phones/{name}"), behaviour).await;
    }

    /// A call that two phones make by themselves, once it is up.
    async fn call(&self, from: &str, to: &str) -> String {
        let placed = self.control("POST", "/calls", json!({"from": from, "to": to})).await;
        let call = placed["callid"].as_str().unwrap().to_owned();
        until("the call is up", || async {
            self.calls().await.iter().any(|one| one["callid"] == call && one["state"] == 4)
        })
        .await;
        call
    }

    /// Calls that the proxy knows to be going on.
    async fn calls(&self) -> Vec<Value> {
        let calls = self.control("GET", "/calls", Value::Null).await;
        let going = |call: &&Value| (1..5).contains(&call["state"].as_u64().unwrap());
        calls.as_array().unwrap().iter().filter(going).cloned().collect()
    }

    /// Waits until phones are in so many calls, as they see it. Their BYEs may still be on the way
    /// when the proxy counts a call as over.
    async fn phones_are_in(&self, calls: usize) {
        until("the phones hang up", || async {
            let all = self.control("GET", "/calls", Value::Null).await;
            let up = |call: &&Value| call["caller_up"] == true || call["callee_up"] == true;
            all.as_array().unwrap().iter().filter(up).count() == calls
        })
        .await;
    }

    /// Asks the proxy, beside the server.
    async fn mi(&self, method: &str, params: Value) -> Value {
        let socket = UdpSocket::bind(any_port()).await.unwrap();
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        socket.send_to(request.to_string().as_bytes(), self.proxy.mi).await.unwrap();
        let mut buffer = vec![0; 65_536];
        let length = timeout(DEADLINE, socket.recv(&mut buffer)).await.unwrap().unwrap();
        serde_json::from_slice(&buffer[..length]).unwrap()
    }

    /// Sockets that get this event, with how long they are subscribed.
    async fn subscribers(&self, event: &str) -> Vec<Value> {
        let answer = self.mi("subscribers_list", json!({"event": event})).await;
        let list = &answer["result"]["Event"]["Subscribers"];
        let one = &answer["result"]["Event"]["Subscriber"];
        match (list.as_array(), one.is_object()) {
            (Some(list), _) => list.clone(),
            (None, true) => vec![one.clone()],
            (None, false) => Vec::new(),
        }
    }

    /// The server still works, stops as asked, and none of its tasks has died.
    async fn works_and_stops(self) {
        let mut client = self.client().await;
        let call = self.call("alice", "bob").await;
        let ended = client.run("CallEnd", json!({"callid": call})).await;
        assert_eq!(names(&ended), ["Started", "Ended"]);
        drop(client);
        assert!(self.site.stop().await);
        self.proxy.stop().await;
        assert_eq!(PANICS.load(Ordering::SeqCst), 0, "a task of the server has panicked");
    }
}

/// Sends a command under this id and does not wait for anything.
async fn ask(client: &mut Client, method: &str, id: &str, mut params: Value) {
    params["cmd_id"] = id.into();
    client.send(method, params).await;
}

/// What is told of each command, until all of these have ended. Refusals fail the test.
async fn until_ended(client: &mut Client, ids: &[&str]) -> BTreeMap<String, Vec<Value>> {
    let mut told: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut open: BTreeSet<&str> = ids.iter().copied().collect();
    while !open.is_empty() {
        let frame = client.receive().await;
        assert!(frame.get("error").is_none(), "{frame}");
        let event = frame.get("params").unwrap_or(&frame["result"]);
        let id = event["cmd_id"].as_str().unwrap();
        let events = told.entry(id.to_owned()).or_default();
        events.push(event.clone());
        if event["event"] == "Ended" {
            assert!(open.remove(id), "{id} is none of ours, or ended twice: {events:#?}");
        }
    }
    told
}

fn outcome(events: &[Value]) -> &str {
    events.last().unwrap()["outcome"].as_str().unwrap()
}

/// A failure: `Started`, perhaps something, one `Error`, `Ended`.
fn failed(events: &[Value], code: &str) {
    let [first, .., error, ended] = events else { panic!("{events:#?}") };
    assert_eq!(first["event"], "Started", "{events:#?}");
    assert_eq!(error["event"], "Error", "{events:#?}");
    assert_eq!(error["error"]["code"], code, "{events:#?}");
    assert_eq!((&ended["event"], &ended["outcome"]), (&json!("Ended"), &json!("failed")));
}

fn by_the_stack(config: &mut callplane::config::Config) {
    config.commands.transfer = ReferBy::Stack;
    config.commands.hold = HoldBy::Stack;
}

/// Plays it for each of these at a time: most of it is waiting.
async fn side_by_side<T>(cases: impl IntoIterator<Item = T>, play: impl AsyncFn(T)) {
    futures_util::future::join_all(cases.into_iter().map(|case| play(case))).await;
}

/// The same with callplane's own requests and with those of the old server.
const WAYS: [fn(&mut callplane::config::Config); 2] = [|_| {}, by_the_stack];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_01_words_after_a_successful_attended_transfer_harm_nobody() {
    side_by_side(WAYS, async |way| {
        let place = Place::with(Script::Stock, way).await;
        let mut client = place.client().await;
        let first = place.call("alice", "bob").await;
        let second = place.call("alice", "grace").await;
        let params = json!({
            "callidA": first, "legA": "callee", "callidB": second, "legB": "callee",
        });
        let events = client.run("CallAttendedTransfer", params).await;
        assert_eq!(outcome(&events), "success", "{events:#?}");
        // The transferee's last NOTIFY, and once more everything else that can still come.
        for state in ["notify", "ok", "fail", "start"] {
            let params = json!([first, "callee", "x-1", "", state, "200 OK"]);
            let raised = json!({"event": "E_CALL_TRANSFER", "params": params});
            let answer = place.mi("raise_event", raised).await;
            assert_eq!(answer["result"], "OK", "{answer}");
        }
        let call = a_call(&mut client).await;
        let events = client.run("CallEnd", json!({"callid": call})).await;
        assert_eq!(names(&events), ["Started", "Ended"], "nothing of the transfer in between");
        drop(client);
        place.works_and_stops().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_02_a_client_that_disconnects_during_a_command_harms_nobody() {
    let place = Place::new(Script::Stock).await;
    place.phone("alice", json!({"ring_ms": 300})).await;
    let mut client = place.client().await;
    let params = json!({"caller": sip("alice"), "callee": sip("bob"), "cmd_id": "gone"});
    client.send("CallStart", params).await;
    let started = client.receive().await["result"].clone();
    assert_eq!(started["event"], "Started");
    // No closing handshake: the connection is just not there any more.
    drop(client);
    let mut again = place.client().await;
    let position =
        json!({"session": started["session"], "epoch": started["epoch"], "seq": started["seq"]});
    again.send("Resume", position).await;
    assert_eq!(again.receive().await["result"]["recovered"], true);
    let told = until_ended(&mut again, &["gone"]).await;
    assert_eq!(outcome(&told["gone"]), "success", "{told:#?}");
    assert!(names(&told["gone"]).contains(&"CallerAnswered"), "the command went on");
    let going = place.calls().await;
    assert_eq!(going.len(), 1, "the call goes on: {going:#?}");
    drop(again);
    place.works_and_stops().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_03_internal_method_names_are_unknown_methods() {
    let place = Place::new(Script::Stock).await;
    let mut client = place.client().await;
    for name in [
        "NotifyEnd",
        "Wait",
        "Notify",
        "NotifyError",
        "NotifyStart",
        "Run",
        "New",
        "String",
        "callstart",
        "CALLSTART",
        "callStart",
        " CallStart",
        "CallStart ",
        "",
        "__proto__",
    ] {
        for params in [json!({}), json!({"cmd_id": "x"}), json!({"callid": "c"})] {
            client.send(name, params).await;
            let answer = client.receive().await;
            assert_eq!(answer["error"]["code"], -32601, "{name:?}: {answer}");
        }
    }
    let echoed = client.run("Echo", json!({"a": "b"})).await;
    assert_eq!(echoed.last().unwrap()["event"], "Ended");
    drop(client);
    place.works_and_stops().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_04_two_connections_hold_two_calls_at_once() {
    side_by_side(WAYS, async |way| {
        let place = Place::with(Script::Stock, way).await;
        let mut clients = [place.client().await, place.client().await];
        let calls = [place.call("alice", "bob").await, place.call("grace", "bob").await];
        // Events come before the replies that they are the effect of.
        let late = json!({"delay_replies": {"min_ms": 30, "max_ms": 30}});
        place.control("PATCH", "/faults", late).await;
        for _ in 0..5 {
            for method in ["CallHold", "CallUnhold"] {
                let [one, other] = &mut clients;
                let told = tokio::join!(
                    one.run(method, json!({"callid": calls[0]})),
                    other.run(method, json!({"callid": calls[1]})),
                );
                for events in [told.0, told.1] {
                    assert_eq!(outcome(&events), "success", "{method}: {events:#?}");
                }
            }
        }
        drop(clients);
        place.works_and_stops().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_05_many_commands_on_one_connection_write_whole_frames_in_order() {
    const ECHOES: usize = 200;
    let place = Place::new(Script::Stock).await;
    let mut client = place.client().await;
    let mut ids = Vec::new();
    for n in 0..20 {
        let call = place.call("alice", "bob").await;
        ids.push(format!("hold-{n}"));
        ask(&mut client, "CallHold", &ids[n], json!({"callid": call})).await;
    }
    let long = "x".repeat(5_000);
    for n in 0..ECHOES {
        ids.push(format!("echo-{n}"));
        let params = json!({"cmd_id": format!("echo-{n}"), "long": long});
        let request = json!({"jsonrpc": "2.0", "id": n + 1000, "method": "Echo", "params": params});
        client.socket.feed(Message::text(request.to_string())).await.unwrap();
    }
    client.socket.flush().await.unwrap();
    let mut open: BTreeSet<String> = ids.iter().cloned().collect();
    let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut newest = 0;
    while !open.is_empty() {
        // Parses each message: half of one, or two in one, fail here.
        let frame = client.receive().await;
        let event = frame.get("params").unwrap_or(&frame["result"]);
        let id = event["cmd_id"].as_str().unwrap_or_else(|| panic!("{frame}")).to_owned();
        if let Some(seq) = event["seq"].as_u64().filter(|_| id.starts_with("hold")) {
            assert!(seq > newest, "{seq} after {newest}: {frame}");
            newest = seq;
        }
        let name = event["event"].as_str().map_or_else(|| "data".to_owned(), str::to_owned);
        if name == "Ended" {
            open.remove(&id);
        }
        told.entry(id).or_default().push(name);
    }
    assert_eq!(told.len(), 20 + ECHOES);
    for (id, names) in told {
        assert_eq!(names.first().map(String::as_str), Some("Started"), "{id}: {names:?}");
        assert_eq!(names.iter().filter(|name| *name == "Ended").count(), 1, "{id}: {names:?}");
        let least = if id.starts_with("hold") { 7 } else { 2 };
        assert!(names.len() >= least, "{id}: {names:?}");
    }
    drop(client);
    place.works_and_stops().await;
}

/// Counts the descriptors of a process of its own: this one has those of all other tests.
#[tokio::test]
async fn defect_06_short_connections_leave_no_descriptor() {
    let demo = Process::callplane(&["demo", "--port", "0"], &[], "http://");
    let descriptors = || demo.descriptors();
    let one = || async {
        let url = format!("ws://{}/call-api", demo.clients);
        let mut client = Client::connect(&url).await;
        let ended = client.run("CallEnd", json!({"callid": "nobody"})).await;
        assert_eq!(ended.last().unwrap()["event"], "Ended");
        client.socket.close(None).await.unwrap();
        let closed =
            async { while client.socket.next().await.is_some_and(|message| message.is_ok()) {} };
        timeout(DEADLINE, closed).await.expect("the connection is left open");
    };
    // Side by side: the calls that nobody knows share the stack's one list a second.
    let many = |count: usize| futures_util::future::join_all((0..count).map(|_| one()));
    // The first ones may open what stays, such as a connection to the stack's lists.
    many(5).await;
    let settled = |most: usize| async move {
        timeout(DEADLINE, async {
            while descriptors() > most {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{} descriptors, at most {most} wanted", descriptors()));
    };
    let before = descriptors();
    settled(before).await;
    let before = descriptors();
    many(50).await;
    // A closed connection is let go of a moment later.
    settled(before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_07_a_foreign_page_is_refused() {
    let place = Place::new(Script::Stock).await;
    let url = format!("ws://{}/call-api", place.site.clients);
    for (origin, welcome) in [
        ("https://evil.example", false),
        ("http://127.0.0.1.evil.example", false),
        ("null", false),
        ("http://localhost:8080", true),
    ] {
        let mut request = url.as_str().into_client_request().unwrap();
        request.headers_mut().insert("Origin", origin.parse().unwrap());
        let status = match connect_async(request).await {
            Ok(_) => 101,
            Err(Error::Http(response)) => response.status().as_u16(),
            Err(error) => panic!("{origin}: {error}"),
        };
        assert_eq!(status, if welcome { 101 } else { 403 }, "{origin}");
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "Echo", "params": {}});
        let field = format!("Origin: {origin}\r\n");
        let at = place.site.clients;
        let (status, _) = http_with(at, "POST", "/call-api", &field, Some(&body)).await;
        assert_eq!(status, if welcome { 200 } else { 403 }, "{origin}");
    }
    place.works_and_stops().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_08_failed_transfers_and_holds_end() {
    side_by_side(WAYS, async |way| {
        let place = Place::with(Script::Stock, way).await;
        let mut client = place.client().await;
        let start = json!({"caller": sip("alice"), "callee": sip("dave")});
        failed(&client.run("CallStart", start).await, "callee_busy");

        let call = place.call("alice", "bob").await;
        let blind = json!({"callid": call, "leg": "callee", "destination": sip("dave")});
        failed(&client.run("CallBlindTransfer", blind).await, "target_busy");

        place.phone("grace", json!({"answer": 200})).await;
        // Another call: the stack's own transfer still holds on to the first (fact W4).
        let call = place.call("carol", "bob").await;
        let consult = place.call("alice", "grace").await;
        place.phone("grace", json!({"answer": 486})).await;
        let attended = json!({
            "callidA": call, "legA": "callee", "callidB": consult, "legB": "callee",
        });
        let events = client.run("CallAttendedTransfer", attended).await;
        failed(&events, "target_busy");
        assert!(events.iter().all(|event| event["event"] != ""), "{events:#?}");

        let held = place.call("alice", "carol").await;
        let events = client.run("CallHold", json!({"callid": held})).await;
        assert_eq!(events[events.len() - 2]["event"], "Error", "{events:#?}");
        assert_eq!(outcome(&events), "failed", "{events:#?}");
        assert!(events.iter().all(|event| event["event"] != ""), "{events:#?}");
        drop(client);
        place.works_and_stops().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_09_a_refused_or_ignored_refer_ends() {
    side_by_side(WAYS, async |way| {
        let place = Place::with(Script::Stock, |config| {
            way(config);
            config.commands.refer_follow = Duration::from_secs(1);
        })
        .await;
        let mut client = place.client().await;
        for (behaviour, code) in [
            (json!({"refer": 603}), Some("refer_refused")),
            (json!({"refer": 202, "follow": false, "notify": "none"}), Some("refer_ignored")),
            // Never answered: the stack's own transfer does not even say that.
            (json!({"refer": 0}), None),
        ] {
            place.phone("frank", behaviour.clone()).await;
            let call = place.call("alice", "frank").await;
            let blind = json!({"callid": call, "leg": "callee", "destination": sip("bob")});
            let events = client.run("CallBlindTransfer", blind).await;
            match code {
                Some(code) => failed(&events, code),
                None => {
                    assert_eq!(events[events.len() - 2]["event"], "Error", "{events:#?}");
                    assert!(["failed", "unknown"].contains(&outcome(&events)), "{events:#?}");
                }
            }
        }
        drop(client);
        place.works_and_stops().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_10_two_starts_on_one_connection_both_come_to_their_end() {
    let place = Place::new(Script::Stock).await;
    let mut client = place.client().await;
    for (id, caller) in [("one", "alice"), ("two", "grace"), ("three", "carol")] {
        let params = json!({"caller": sip(caller), "callee": sip("bob")});
        ask(&mut client, "CallStart", id, params).await;
    }
    let told = until_ended(&mut client, &["one", "two", "three"]).await;
    for (id, events) in &told {
        assert_eq!(outcome(events), "success", "{id}: {events:#?}");
        for name in ["CallerAnswered", "TransferStart", "CalleeAnswered"] {
            assert!(names(events).contains(&name), "{id}: {events:#?}");
        }
    }
    assert_eq!(place.calls().await.len(), 3, "one call each, and no leg beside");
    place.phones_are_in(3).await;
    drop(client);
    place.works_and_stops().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_11_a_hold_tells_of_its_own_call_only() {
    side_by_side(WAYS, async |way| {
        let place = Place::with(Script::Stock, way).await;
        let mut client = place.client().await;
        for round in 0..3 {
            let good = place.call("alice", "bob").await;
            let bad = place.call("grace", "carol").await;
            let (a, b) = (format!("good-{round}"), format!("bad-{round}"));
            ask(&mut client, "CallHold", &a, json!({"callid": good})).await;
            ask(&mut client, "CallHold", &b, json!({"callid": bad})).await;
            let told = until_ended(&mut client, &[&a, &b]).await;
            let of = |id: &str, name: &str| {
                let all = told[id].iter().filter(|event| event["event"] == name);
                let mut legs: Vec<_> =
                    all.map(|event| event["data"]["leg"].as_str().unwrap().to_owned()).collect();
                legs.sort();
                legs
            };
            assert_eq!(outcome(&told[&a]), "success", "{told:#?}");
            assert_eq!(of(&a, "CallHoldStart"), ["callee", "caller"], "{told:#?}");
            assert_eq!(of(&a, "CallHoldSuccessful"), ["callee", "caller"], "{told:#?}");
            // Carol's phone will not be held, so her leg never is.
            assert_eq!(outcome(&told[&b]), "failed", "{told:#?}");
            assert_eq!(of(&b, "CallHoldSuccessful"), ["caller"], "{told:#?}");
        }
        drop(client);
        place.works_and_stops().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_12_the_event_subscription_is_refreshed() {
    const LIFE: Duration = Duration::from_secs(2);
    let place = Place::with(Script::Stock, |config| {
        by_the_stack(config);
        config.stacks[0].subscription = LIFE;
    })
    .await;
    let event = "E_CALL_TRANSFER";
    let mine = || -> Vec<Asked> {
        let all = place.wire.of("event_subscribe");
        all.into_iter().filter(|asked| asked.text.contains(event)).collect()
    };
    // A command that runs longer than a subscription lives, and needs events to end.
    place.phone("bob", json!({"ring_ms": 5_000})).await;
    let mut client = place.client().await;
    let call = a_call(&mut client).await;
    let first = mine()[0].at;
    assert!(first.elapsed() > LIFE * 2, "it outlived the first subscription");
    assert!(mine().len() > 3, "{:#?}", mine());
    let subscribers = place.subscribers(event).await;
    assert_eq!(subscribers.len(), 1, "{subscribers:?}");
    assert!(subscribers[0]["ttl"].is_number(), "{subscribers:?}");
    // One that vanished is noticed and made anew.
    let socket = subscribers[0]["socket"].as_str().unwrap();
    let gone = json!({"event": event, "socket": socket, "expire": 0});
    assert_eq!(place.mi("event_subscribe", gone).await["result"], "OK");
    let alive = || async {
        let subscribers = place.subscribers(event).await;
        subscribers.iter().any(|one| one["ttl"].is_number())
    };
    until("subscribed anew", alive).await;
    let ended = client.run("CallEnd", json!({"callid": call})).await;
    assert_eq!(names(&ended), ["Started", "Ended"]);
    place.phone("bob", json!({"ring_ms": 0})).await;
    a_call(&mut client).await;
    drop(client);
    place.works_and_stops().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_13_after_a_restart_of_the_stack_old_and_new_commands_end() {
    let place = Place::new(Script::Stock).await;
    let mut client = place.client().await;
    let params = json!({"caller": sip("erin"), "callee": sip("bob"), "ringing": true});
    ask(&mut client, "CallStart", "old", params).await;
    assert_eq!(client.receive().await["result"]["event"], "Started");
    assert_eq!(client.receive().await["params"]["event"], "CallerRinging");
    // A stack tells when it started by whole seconds only. A command that began in the same second
    // counts as one of the new life, and runs until its own times are over.
    let clock = || async { place.mi("uptime", json!({})).await["result"]["Now"].clone() };
    let begun = clock().await;
    let a_second_later = || async { clock().await != begun };
    until("the stack's clock goes on", a_second_later).await;
    place.control("POST", "/restart", json!({"down_ms": 100})).await;
    let told = until_ended(&mut client, &["old"]).await;
    assert_eq!(outcome(&told["old"]), "unknown", "{told:#?}");
    let call = a_call(&mut client).await;
    let ended = client.run("CallEnd", json!({"callid": call})).await;
    assert_eq!(names(&ended), ["Started", "Ended"]);
    drop(client);
    place.works_and_stops().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_14_the_setup_call_is_ended_by_the_proxy() {
    side_by_side([Script::Stock, Script::Reference], async |script| {
        let place = Place::new(script).await;
        let mut client = place.client().await;
        let call = a_call(&mut client).await;
        let invites = place.wire.of("t_uac_dlg");
        assert_eq!(invites.len(), 1, "{invites:#?}");
        let setup = setup_call(&invites[0]);
        let ends = place.wire.of("dlg_end_dlg");
        assert!(ends.iter().any(|end| end.text.contains(&setup)), "{ends:#?}");
        let going = place.calls().await;
        assert_eq!(going.len(), 1, "the setup call is over everywhere: {going:#?}");
        assert_eq!(going[0]["callid"], call);
        place.phones_are_in(1).await;
        drop(client);
        place.works_and_stops().await;
    })
    .await;
}

/// The Call-ID that an INVITE of the server asked for.
fn setup_call(invite: &Asked) -> String {
    let at = invite.text.find("cp-").unwrap_or_else(|| panic!("{invite:?}"));
    let rest = &invite.text[at..];
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).unwrap();
    rest[..end].to_owned()
}

/// Only in the requests themselves can be seen that nobody counts for the proxy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_15_no_request_inside_a_call_carries_a_number_of_ours() {
    side_by_side([Script::Stock, Script::Reference], async |script| {
        let place = Place::new(script).await;
        let mut client = place.client().await;
        let call = a_call(&mut client).await;
        client.run("CallHold", json!({"callid": call})).await;
        client.run("CallUnhold", json!({"callid": call})).await;
        let blind = json!({"callid": call, "leg": "callee", "destination": sip("grace")});
        let events = client.run("CallBlindTransfer", blind).await;
        let moved = events.iter().find_map(|event| event["data"]["callid"].as_str()).unwrap();
        client.run("CallEnd", json!({"callid": moved})).await;
        for invite in place.wire.of("t_uac_dlg") {
            assert!(invite.text.contains("\"INVITE\""), "outside a call: {invite:?}");
        }
        let inside = place.wire.of("dlg_send_sequential");
        assert!(inside.len() >= 5, "REFERs and re-INVITEs: {inside:#?}");
        for asked in place.wire.all() {
            let begins_a_call = asked.method == "t_uac_dlg";
            let counts = asked.text.to_ascii_lowercase().contains("cseq");
            assert!(begins_a_call || !counts, "{asked:?}");
            assert!(!asked.text.contains("\"BYE\""), "{asked:?}");
        }
        drop(client);
        place.works_and_stops().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_16_a_start_that_fails_leaves_no_leg_up() {
    side_by_side([Script::Stock, Script::Reference], async |script| {
        let place = Place::new(script).await;
        let mut client = place.client().await;
        let callee_busy = json!({"caller": sip("alice"), "callee": sip("dave")});
        failed(&client.run("CallStart", callee_busy).await, "callee_busy");
        assert_eq!(place.calls().await, [Value::Null; 0], "told before it was so");
        place.phones_are_in(0).await;

        // The caller hangs up while the callee rings.
        let params = json!({"caller": sip("alice"), "callee": sip("erin")});
        ask(&mut client, "CallStart", "hung-up", params).await;
        let ringing = || async {
            place.calls().await.iter().any(|call| call["to"].as_str().unwrap().contains("erin"))
        };
        until("the callee rings", ringing).await;
        for call in place.calls().await {
            let path = format!("/calls/{}/hang_up", call["callid"].as_str().unwrap());
            place.control("POST", &path, json!({"phone": "alice"})).await;
        }
        let told = until_ended(&mut client, &["hung-up"]).await;
        failed(&told["hung-up"], "caller_hung_up");
        // Its phone has cancelled the second call itself; the callee hears of it a moment later.
        until("all is over", || async { place.calls().await.is_empty() }).await;
        place.phones_are_in(0).await;

        // The client gives up while the callee rings.
        let params = json!({"caller": sip("alice"), "callee": sip("erin")});
        ask(&mut client, "CallStart", "cancelled", params).await;
        until("the callee rings", ringing).await;
        client.send("CommandCancel", json!({"cmd_id": "cancelled"})).await;
        let told = until_ended(&mut client, &["cancelled"]).await;
        assert_eq!(outcome(&told["cancelled"]), "cancelled", "{told:#?}");
        let going = place.calls().await;
        assert!(going.is_empty(), "told before it was so: {script:?} {told:#?} {going:#?}");
        place.phones_are_in(0).await;
        drop(client);
        place.works_and_stops().await;
    })
    .await;
}

/// Values that would put a header of their own into a SIP message if they were pasted there.
const EVIL: [&str; 8] = [
    "\r\nX-Evil: 1\r\n",
    "\nX-Evil: 1",
    "\rX-Evil: 1",
    "\\r\\nX-Evil:1",
    "%0d%0aX-Evil:1",
    ">\r\nX-Evil: 1\r\nX: <sip:a@b",
    "\0X-Evil: 1",
    "\u{2028}X-Evil: 1",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_17_no_parameter_of_any_method_brings_a_header_into_sip() {
    let place = Place::with(Script::Stock, |config| config.commands.caller_busy = false).await;
    let mut client = place.client().await;
    let good = |field: &str| match field {
        // Busy at once, so that what is taken is soon over.
        "caller" | "callee" | "destination" => json!(sip("dave")),
        "callid" | "callidA" => json!("nobody-1"),
        "callidB" => json!("nobody-2"),
        "leg" | "legA" | "legB" => json!("callee"),
        "cmd_id" => json!("an-id"),
        "session" => json!("0123456789abcdefghijklmnop"),
        "epoch" => json!("0123456789abc"),
        "seq" => json!(0),
        other => panic!("a new required field: {other}"),
    };
    let (mut refused, mut shown) = (0, 0);
    for method in Method::ALL {
        for (field, _) in method.fields() {
            for evil in EVIL {
                let base = good_text(field);
                for value in [
                    json!(evil),
                    json!([evil]),
                    json!({"a": evil}),
                    json!(format!("{base}{evil}")),
                    json!(format!("{evil}{base}")),
                ] {
                    let mut params = json!({});
                    for (other, required) in method.fields() {
                        if *required {
                            params[*other] = good(other);
                        }
                    }
                    params[*field] = value.clone();
                    client.send(method.as_str(), params).await;
                    let answer = answer_of(&mut client).await;
                    let error = &answer["error"];
                    if error["code"] == -32602 && error["data"]["field"] == *field {
                        refused += 1;
                        continue;
                    }
                    // Texts that stay with us, names to look a call up by, and one that is quoted.
                    let plain = [
                        "cmd_id",
                        "external_id",
                        "stack",
                        "display",
                        "callid",
                        "callidA",
                        "callidB",
                    ];
                    assert!(plain.contains(field), "{method:?} {field} {value}: {answer}");
                    let text = value.as_str().unwrap_or_else(|| panic!("{answer}"));
                    assert!(!text.contains(['\r', '\n', '\0']), "{method:?} {field}: {value}");
                    if *field == "display" {
                        assert_eq!(answer["result"]["event"], "Started", "{answer}");
                        shown += 1;
                    }
                }
            }
        }
    }
    assert!(refused > 1_000 && shown > 0, "{refused} {shown}");
    // The members around the params, too.
    for evil in EVIL {
        for member in ["method", "id", "jsonrpc"] {
            let mut request = json!({
                "jsonrpc": "2.0", "id": 1, "method": "CallHold", "params": {"callid": "nobody"},
            });
            request[member] = evil.into();
            client.socket.send(Message::text(request.to_string())).await.unwrap();
            answer_of(&mut client).await;
        }
    }
    // Whatever was taken has reached the stack when a later command has gone all its way.
    let start = json!({"caller": sip("dave"), "callee": sip("bob"), "cmd_id": "last"});
    client.send("CallStart", start).await;
    while client.receive().await["params"] != Value::Null {}
    until("all were sent", || async { place.wire.of("t_uac_dlg").len() > shown }).await;
    for asked in place.wire.all() {
        // A backslash that reaches OpenSIPS would be unescaped in a header.
        assert!(!asked.text.contains("\\\\"), "{asked:?}");
        let request: Value = serde_json::from_str(&asked.text).unwrap();
        for (name, value) in request["params"].as_object().into_iter().flatten() {
            let text = value.as_str().unwrap_or_default();
            let mut lines = text.split(['\r', '\n']);
            assert!(!lines.any(|line| line.starts_with("X-Evil")), "{name}: {asked:?}");
            // Inside quotes, or the whole of a call's name: never a part of anything else.
            let harmless = name == "headers" || CallId::parse(text).is_ok();
            assert!(harmless || !text.contains("Evil"), "{name}: {asked:?}");
        }
    }
    drop(client);
    place.works_and_stops().await;
}

/// The beginning of a value that would be taken without what follows.
fn good_text(field: &str) -> &str {
    match field {
        "caller" | "callee" | "destination" => "sip:carol@sim.example",
        "leg" | "legA" | "legB" => "callee",
        "ring_timeout" | "seq" => "5",
        "auto_answer" | "ringing" => "true",
        "stack" => "sim",
        "traceparent" => "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        _ => "abc",
    }
}

/// The next response; events of commands pass by.
async fn answer_of(client: &mut Client) -> Value {
    loop {
        let frame = client.receive().await;
        if frame.get("result").is_some() || frame.get("error").is_some() {
            return frame;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_18_events_come_in_the_order_of_what_happened() {
    const ORDER: [&str; 8] = [
        "Started",
        "CallerAnswered",
        "Transferring",
        "TransferStart",
        "TransferPending",
        "CalleeAnswered",
        "TransferSuccessful",
        "Ended",
    ];
    side_by_side(WAYS, async |way| {
        let place = Place::with(Script::Stock, way).await;
        let mut client = place.client().await;
        // Each event takes its own time, so that they arrive in any order.
        let delay = json!({"delay_events": {"min_ms": 0, "max_ms": 40}});
        place.control("PATCH", "/faults", delay).await;
        for round in 0..6 {
            let start = json!({"caller": sip("alice"), "callee": sip("bob")});
            let events = client.run("CallStart", start).await;
            assert_eq!(outcome(&events), "success", "{events:#?}");
            let call = events.iter().rev().find_map(|event| event["data"]["callid"].as_str());
            let blind = json!({"callid": call, "leg": "callee", "destination": sip("grace")});
            let moved = client.run("CallBlindTransfer", blind).await;
            assert_eq!(outcome(&moved), "success", "{moved:#?}");
            for events in [events, moved] {
                let places: Vec<_> = names(&events)
                    .into_iter()
                    .map(|name| ORDER.iter().position(|one| *one == name).unwrap())
                    .collect();
                assert!(places.is_sorted(), "round {round}: {:?}", names(&events));
                let seqs: Vec<_> =
                    events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
                assert!(seqs.windows(2).all(|two| two[0] < two[1]), "{seqs:?}");
            }
        }
        drop(client);
        place.works_and_stops().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_19_a_transfer_says_first_what_was_asked_then_where_it_goes() {
    side_by_side(WAYS, async |way| {
        let place = Place::with(Script::Stock, way).await;
        let mut client = place.client().await;
        for _ in 0..5 {
            let call = place.call("alice", "bob").await;
            let blind = json!({"callid": call, "leg": "callee", "destination": sip("grace")});
            let events = client.run("CallBlindTransfer", blind).await;
            let destinations = |name: &str| -> Vec<Value> {
                let all = events.iter().filter(|event| event["event"] == name);
                all.map(|event| event["data"]["destination"].clone()).collect()
            };
            assert_eq!(destinations("Transferring"), [json!(sip("grace"))], "{events:#?}");
            let [looked_up] = &destinations("TransferStart")[..] else { panic!("{events:#?}") };
            let text = looked_up.as_str().unwrap();
            assert!(text.contains("grace") && !text.contains(DOMAIN), "{events:#?}");
            assert_eq!(
                destinations("TransferSuccessful"),
                *std::slice::from_ref(looked_up),
                "{events:#?}"
            );
        }
        drop(client);
        place.works_and_stops().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_20_the_call_id_is_ours_and_nothing_sleeps() {
    let place = Place::new(Script::Stock).await;
    let mut client = place.client().await;
    let mut calls = BTreeSet::new();
    let mut pauses = Vec::new();
    for n in 0..5 {
        let id = format!("chosen-by-the-client-{n}");
        let params = json!({"caller": sip("alice"), "callee": sip("bob")});
        ask(&mut client, "CallStart", &id, params.clone()).await;
        let told = until_ended(&mut client, &[&id]).await;
        assert_eq!(outcome(&told[&id]), "success");
        let invite = place.wire.of("t_uac_dlg").pop().unwrap();
        assert!(calls.insert(setup_call(&invite)), "a Call-ID was used twice");
        let refers = place.wire.of("dlg_send_sequential");
        let refer = refers.iter().rfind(|asked| asked.text.contains("REFER")).unwrap();
        pauses.push(refer.at - invite.answered.unwrap());
        // The same id again is the same command, not another call.
        ask(&mut client, "CallStart", &id, params).await;
        let repeated = client.receive().await;
        assert_eq!(repeated["result"]["repeated"], true, "{repeated}");
        assert_eq!(repeated["result"]["outcome"], "success", "{repeated}");
        assert_eq!(place.wire.of("t_uac_dlg").len(), n + 1);
    }
    for asked in place.wire.all() {
        assert!(!asked.text.contains("chosen-by"), "{asked:?}");
    }
    // The old server slept 500 ms here. The quickest of five: a busy machine may be slow at times.
    let quickest = pauses.iter().min().unwrap();
    assert!(*quickest < Duration::from_millis(250), "{pauses:?}");
    drop(client);
    place.works_and_stops().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_21_a_transfer_that_fails_at_once_leaves_no_subscription() {
    side_by_side(WAYS, async |way| {
        let place = Place::with(Script::Stock, way).await;
        let mut client = place.client().await;
        let everybody = || async {
            let mut counts = Vec::new();
            for event in ["E_CALL_TRANSFER", "E_CALL_HOLD", "E_DLG_STATE_CHANGED"] {
                counts.push(place.subscribers(event).await.len());
            }
            counts
        };
        let before = everybody().await;
        assert!(before.contains(&1), "{before:?}");
        let subscribed = place.wire.of("event_subscribe").len();
        for n in 0..5 {
            let params = json!({
                "callid": format!("nobody-{n}"), "leg": "callee", "destination": sip("bob"),
            });
            failed(&client.run("CallBlindTransfer", params).await, "call_not_found");
        }
        assert_eq!(everybody().await, before);
        assert_eq!(
            place.wire.of("event_subscribe").len(),
            subscribed,
            "commands subscribe to nothing"
        );
        drop(client);
        place.works_and_stops().await;
    })
    .await;
}
