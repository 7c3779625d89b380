//! The whole server over its own sockets: a simulated proxy with phones on one side, WebSockets
//! and HTTP on the other.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod site;

use std::net::SocketAddr;
use std::time::Duration;

use callplane::admin::Readiness;
use callplane::app::{Server, StartError};
use callplane::client::console::Hints;
use callplane::config::{HostPort, LogFilter};
use callplane::stack::simulated::Script;
use callplane::telemetry::LogLevels;
use serde_json::{Value, json};

use site::wire::Wire;
use site::{Proxy, Site, a_call, any_port, config_for, names, sip, until};

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

/// A client that is faster than the first words with the proxy: its command is of the proxy's grade
/// all the same (at a stock one a phone is not asked to answer by itself).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_at_the_first_moment_is_of_the_proxys_grade() {
    let proxy = Proxy::start(Script::Reference, any_port()).await;
    let wire = Wire::before(proxy.mi).await;
    wire.keep_replies("cache_fetch");
    let mut config = config_for(wire.mi);
    config.commands.mi_reply = site::DEADLINE;
    let site = Site::of(&config).await;
    let mut client = site.client().await;
    until("the proxy is asked for its grade", async || wire.asked("cache_fetch") > 0).await;
    let params = json!({"caller": sip("alice"), "callee": sip("bob"), "auto_answer": true});
    client.send("CallStart", params).await;
    until("the command is there", async || {
        let metrics = site.metrics().await;
        metrics.lines().any(|line| line == "callplane_session_received_messages_total 1")
    })
    .await;
    assert_eq!(wire.asked("t_uac_dlg"), 0);
    wire.release().await;
    let mut last = client.receive().await;
    while last["params"]["event"] != "Ended" {
        last = client.receive().await;
    }
    assert_eq!(last["params"]["outcome"], "success", "{last}");
    drop(client);
    assert!(site.stop().await);
    proxy.stop().await;
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
    let spelled = format!("SIP:%65rin@{};transport=udp", site::DOMAIN.to_uppercase());
    let second = json!({"caller": spelled, "callee": sip("carol"), "cmd_id": "two"});
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

/// A server that is about to stop lets commands end and takes no new ones, but for ends of calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_server_takes_no_new_commands_while_it_waits_for_those_that_run() {
    let proxy = Proxy::start(Script::Reference, any_port()).await;
    let site = Site::start(proxy.mi).await;
    site.joined().await;
    let mut client = site.client().await;
    client.send("CallStart", json!({"caller": sip("erin"), "callee": sip("bob")})).await;
    let running = client.receive().await["result"]["cmd_id"].clone();
    site.begin_to_stop();
    // That is another task's work: until it has begun, commands are taken.
    let refused = loop {
        client.send("CallHold", json!({"callid": "nope"})).await;
        let answer = client.receive().await;
        if answer.get("error").is_some() {
            break answer;
        }
        while client.receive().await["params"]["event"] != "Ended" {}
    };
    assert_eq!(refused["error"]["data"]["kind"], "draining");
    let request =
        json!({"jsonrpc": "2.0", "id": 1, "method": "CallHold", "params": {"callid": "x"}});
    assert_eq!(site.post("", &request).await.0, 503);
    client.send("CallEnd", json!({"callid": "nope"})).await;
    assert_eq!(client.receive().await["result"]["event"], "Started");
    client.send("CommandCancel", json!({"cmd_id": running})).await;
    let mut left = 2;
    while left > 0 {
        left -= u32::from(client.receive().await["params"]["event"] == "Ended");
    }
    drop(client);
    assert!(site.stop().await);
    proxy.stop().await;
}

/// What is still ringing when a server stops is given up, and told: no phone rings for nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_leaves_no_phone_ringing() {
    let proxy = Proxy::start(Script::Reference, any_port()).await;
    let mut config = config_for(proxy.mi);
    config.drain.timeout = Duration::from_secs(2);
    let site = Site::of(&config).await;
    site.joined().await;
    let mut client = site.client().await;
    // One rings its caller, the other has the callee rung.
    let ringing = [("erin", "bob"), ("alice", "erin")];
    for (caller, callee) in ringing {
        let params = json!({"caller": sip(caller), "callee": sip(callee), "ringing": true});
        client.send("CallStart", params).await;
    }
    let with_a_call = async || {
        let phones = proxy.control("GET", "/phones", None).await;
        let calls = |phone: &&Value| !phone["calls"].as_array().unwrap().is_empty();
        phones.as_array().unwrap().iter().filter(calls).count()
    };
    let mut rung = 0;
    while rung < ringing.len() {
        let event = &client.receive().await["params"];
        rung += usize::from(event["event"] == "TransferPending");
        rung += usize::from(
            event["event"] == "CallerRinging" && event["data"]["caller"] == sip("erin"),
        );
    }
    assert_eq!(with_a_call().await, 2, "erin and alice");
    site.begin_to_stop();
    let mut ended = Vec::new();
    while ended.len() < ringing.len() {
        let event = client.receive().await["params"].clone();
        if event["event"] == "Ended" {
            ended.push(event["outcome"].clone());
        }
    }
    assert_eq!(ended, ["cancelled", "cancelled"]);
    // The proxy tells the end of a call before its phones have put down.
    until("the phones have put down", async || with_a_call().await == 0).await;
    drop(client);
    assert!(!site.stop().await, "commands were cut off");
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

    let params = json!({"caller": sip("erin"), "callee": sip("bob"), "ringing": true});
    client.send("CallStart", params).await;
    assert_eq!(client.receive().await["result"]["event"], "Started");
    assert_eq!(client.receive().await["params"]["event"], "CallerRinging");
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

/// A proxy that hangs is known within a second, before anybody's phone could have rung.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_at_a_proxy_that_hangs_is_told_at_once() {
    let proxy = Proxy::start(Script::Reference, any_port()).await;
    let site = Site::start(proxy.mi).await;
    site.joined().await;
    let mut client = site.client().await;
    proxy.faults(json!({"silent": true})).await;
    // The server's own question to it has stayed unanswered for a second.
    let silent = |line: &str| {
        line.starts_with("callplane_mi_answered_requests_total{")
            && line.contains("\"uptime\"")
            && line.contains("\"timeout\"")
    };
    until("its silence is noticed", async || site.metrics().await.lines().any(silent)).await;
    let begun = std::time::Instant::now();
    let params = json!({"caller": sip("alice"), "callee": sip("bob"), "ring_timeout": 5});
    let events = client.run("CallStart", params).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(names(&events), ["Started", "Error", "Ended"]);
    assert_eq!(events[2]["outcome"], "not_started");
    drop(client);
    site.stop().await;
    proxy.stop().await;
}

/// A proxy whose name nobody knows yet (a container that comes up later) is one that is away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_whose_name_leads_nowhere_yet_is_away() {
    let mut config = config_for(SocketAddr::from(([127, 0, 0, 1], 9)));
    let text = "stacks:\n  - name: sim\n    mi: udp:no-such-proxy.invalid:8080\n";
    config.stacks = callplane::config::parse(text, None, []).unwrap().config.stacks;
    let levels = LogLevels::detached(LogFilter::info());
    let readiness = Readiness::starting();
    let started = Server::start(&config, &Hints::default(), levels, readiness.clone()).await;
    let running = tokio::spawn(started.unwrap().run());
    readiness.drain();
    assert!(tokio::time::timeout(site::DEADLINE, running).await.unwrap().unwrap());
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
