//! Processes at a simulated stack: `callplane run`, and how `callplane serve` stops.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use callplane::stack::simulated::Script;
use callplane::stack::simulated::server::{SimulateConfig, Simulated};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::UdpSocket;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Nothing here takes this long.
const DEADLINE: Duration = Duration::from_secs(20);

/// A simulated proxy of the reference grade, until the test is over.
async fn proxy() -> SocketAddr {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config =
        SimulateConfig { mi_udp: any, mi_http: None, control: None, ..Default::default() };
    config.world.script = Script::Reference;
    let simulated = Simulated::bind(config).await.unwrap();
    let mi = simulated.addresses().mi_udp;
    tokio::spawn(simulated.run(std::future::pending()));
    mi
}

fn run(mi: SocketAddr, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_callplane"))
        .arg("run")
        .args(arguments)
        .env_clear()
        .env("CALLPLANE_STACKS__0__MI", format!("udp:{mi}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// All dialogs that the proxy has.
async fn dialogs(mi: SocketAddr) -> Vec<Value> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": "dlg_list_ctx"}).to_string();
    socket.send_to(request.as_bytes(), mi).await.unwrap();
    let mut buffer = vec![0; 65_536];
    let length = socket.recv(&mut buffer).await.unwrap();
    let answer: Value = serde_json::from_slice(&buffer[..length]).unwrap();
    answer["result"]["Dialogs"].as_array().unwrap().clone()
}

#[tokio::test]
async fn two_processes_at_one_stack_never_share_an_install_name() {
    let mi = proxy().await;
    // erin's phone rings for ever: both legs are there at a time.
    let start = ["start", "sip:erin@127.0.0.1:5060", "sip:bob@127.0.0.1:5060"];
    let running = [run(mi, &start), run(mi, &start)];
    let legs = timeout(DEADLINE, async {
        loop {
            let legs = dialogs(mi).await;
            if legs.len() == 2 {
                return legs;
            }
            tokio::task::yield_now().await;
        }
    });
    let legs = legs.await.expect("two legs");
    let install = |leg: &Value| {
        let call = leg["callid"].as_str().unwrap();
        call.strip_prefix("cp-").unwrap().split('-').next().unwrap().to_owned()
    };
    assert_ne!(install(&legs[0]), install(&legs[1]));
    for leg in &legs {
        // The first INVITE already carried what the reference script asks for.
        assert!(leg["context"].to_string().contains("cp_op"), "{leg}");
    }
    drop(running);
}

#[tokio::test]
async fn a_command_runs_to_its_end() {
    let mi = proxy().await;
    let start = ["start", "sip:alice@127.0.0.1:5060", "sip:bob@127.0.0.1:5060"];
    let ended = timeout(DEADLINE, run(mi, &start).wait_with_output()).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert_eq!(ended.status.code(), Some(0), "{text}");
    assert!(text.contains("CalleeAnswered"), "{text}");
    // Nobody but this one command can connect.
    let log = String::from_utf8_lossy(&ended.stderr);
    assert!(!log.contains("authentication"), "{log}");
}

/// The value of `name=` in a line of the log.
fn value<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let rest = line.split_once(&format!("{name}="))?.1;
    rest.split(' ').next()
}

/// Where a server that is starting takes clients, and the task that goes on reading its log.
async fn serving(server: &mut Child) -> (String, JoinHandle<()>) {
    let mut log = BufReader::new(server.stderr.take().unwrap()).lines();
    let clients = timeout(DEADLINE, async {
        loop {
            let line = log.next_line().await.unwrap().expect("it serves");
            if let Some(clients) = value(&line, "clients") {
                return clients.to_owned();
            }
        }
    });
    let clients = clients.await.expect("its address");
    (clients, tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} }))
}

#[tokio::test]
async fn the_old_servers_file_and_a_simulated_proxy_need_nothing_more() {
    // Their own addresses, but for ports that are free here.
    let mut proxy = Command::new(env!("CARGO_BIN_EXE_callplane"))
        .arg("simulate-opensips")
        .args(["--mi", "127.0.0.1:0", "--mi-http", "127.0.0.1:0", "--control", "127.0.0.1:0"])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut told = BufReader::new(proxy.stdout.take().unwrap()).lines();
    let line = timeout(DEADLINE, told.next_line()).await.expect("its address").unwrap().unwrap();
    let mi = line.rsplit(' ').next().unwrap();
    // It names no next hop: the line stands there as a comment.
    let mut server = Command::new(env!("CARGO_BIN_EXE_callplane"))
        .args(["serve", "--config", "tests/config/old-sample.yml"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_clear()
        .env("CALLPLANE_STACKS__0__MI", mi)
        .env("CALLPLANE_LISTEN__ADDRESS", "127.0.0.1:0")
        .env("CALLPLANE_ADMIN__LISTEN", "127.0.0.1:0")
        .env("CALLPLANE_ADMIN__CONTROL", "127.0.0.1:0")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (clients, _reading) = serving(&mut server).await;
    let (alice, bob) = ("sip:alice@127.0.0.1:5060", "sip:bob@127.0.0.1:5060");
    let start = starting(&format!("ws://{clients}/call-api"), &[], alice, bob).output();
    let ended = timeout(DEADLINE, start).await.expect("an end").unwrap();
    let text = String::from_utf8_lossy(&ended.stdout);
    assert_eq!(ended.status.code(), Some(0), "{text}");
    assert!(text.contains("CalleeAnswered"), "{text}");
}

/// A demo, and where its clients connect.
async fn demo() -> (Child, String) {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_callplane"))
        .args(["demo", "--port", "0"])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut told = BufReader::new(demo.stdout.take().unwrap()).lines();
    let clients = timeout(DEADLINE, async {
        loop {
            let line = told.next_line().await.unwrap().expect("it greets");
            if let Some(url) = line.strip_prefix("clients ") {
                return url.trim().to_owned();
            }
        }
    });
    let clients = clients.await.expect("its address");
    (demo, clients)
}

/// A start through a server, whose events are read.
fn starting(server: &str, arguments: &[&str], caller: &str, callee: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_callplane"));
    command
        .args(["call", "--server", server])
        .args(arguments)
        .args(["start", caller, callee])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// A start through the demo: its exit code, and what it printed.
async fn start(server: &str, caller: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let start = starting(server, arguments, caller, "sip:bob@demo.callplane").output();
    let ended = timeout(DEADLINE, start).await.expect("an end").unwrap();
    (ended.status.code(), String::from_utf8_lossy(&ended.stdout).into_owned())
}

async fn terminate(process: &Child) {
    let pid = process.id().unwrap().to_string();
    assert!(Command::new("kill").arg(&pid).status().await.unwrap().success());
}

#[tokio::test]
async fn a_command_that_is_repeated_in_its_session_is_the_same_one() {
    let (_demo, server) = demo().await;
    let (alice, id) = ("sip:alice@demo.callplane", ["--cmd-id", "once", "--json"]);
    let (code, told) = start(&server, alice, &id).await;
    assert_eq!(code, Some(0), "{told}");
    let messages = |told: &str| -> Vec<Value> {
        told.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let first = messages(&told);
    let started = &first[0]["result"];
    let place = ["epoch", "session"].map(|name| started[name].as_str().unwrap()).join("/");
    let again = ["--session", &place];
    let (code, told) = start(&server, alice, &[&id[..], &again[..]].concat()).await;
    assert_eq!(code, Some(0), "{told}");
    let call = |messages: &[Value]| -> Value {
        let answered = messages.iter().find(|m| m["params"]["event"] == "CalleeAnswered");
        answered.expect("an answer")["params"]["data"]["callid"].clone()
    };
    assert_eq!(call(&messages(&told)), call(&first));
}

#[tokio::test]
async fn a_demo_that_stops_cancels_what_rings() {
    let (demo, server) = demo().await;
    // Nobody answers there.
    let erin = "sip:erin@demo.callplane";
    let mut start = starting(&server, &[], erin, "sip:bob@demo.callplane").spawn().unwrap();
    let mut told = BufReader::new(start.stdout.take().unwrap()).lines();
    let started = timeout(DEADLINE, told.next_line()).await.unwrap().unwrap().unwrap();
    assert!(started.contains("Started"), "{started}");
    terminate(&demo).await;
    let ended = timeout(DEADLINE, start.wait()).await.expect("an end").unwrap();
    assert_eq!(ended.code(), Some(3), "cancelled");
    let stopped = timeout(DEADLINE, demo.wait_with_output()).await.expect("its end").unwrap();
    assert_eq!(String::from_utf8_lossy(&stopped.stderr), "");
}

#[tokio::test]
async fn the_demo_greets_without_a_warning_about_itself() {
    let (demo, clients) = demo().await;
    // Once a start has succeeded everybody has been introduced.
    let (code, told) = start(&clients, "sip:alice@demo.callplane", &[]).await;
    assert_eq!(code, Some(0), "{told}");
    terminate(&demo).await;
    let stopped = timeout(DEADLINE, demo.wait_with_output()).await.expect("its end").unwrap();
    assert_eq!(String::from_utf8_lossy(&stopped.stderr), "");
    assert_eq!(stopped.status.code(), Some(0));
}

#[tokio::test]
async fn a_drain_that_cuts_commands_off_fails() {
    let mi = proxy().await;
    let mut server = Command::new(env!("CARGO_BIN_EXE_callplane"))
        .arg("serve")
        .env_clear()
        .env("CALLPLANE_STACKS__0__MI", format!("udp:{mi}"))
        .env("CALLPLANE_LISTEN__ADDRESS", "127.0.0.1:0")
        .env("CALLPLANE_ADMIN__LISTEN", "127.0.0.1:0")
        .env("CALLPLANE_ADMIN__CONTROL", "127.0.0.1:0")
        .env("CALLPLANE_DRAIN__TIMEOUT", "1s")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (clients, reading) = serving(&mut server).await;
    // erin's phone rings longer than the drain may take.
    let (erin, bob) = ("sip:erin@127.0.0.1:5060", "sip:bob@127.0.0.1:5060");
    let server_at = format!("ws://{clients}/call-api");
    let mut start = starting(&server_at, &[], erin, bob).spawn().unwrap();
    let mut told = BufReader::new(start.stdout.take().unwrap()).lines();
    let started = timeout(DEADLINE, told.next_line()).await.unwrap().unwrap().unwrap();
    assert!(started.contains("Started"), "{started}");
    terminate(&server).await;
    let stopped = timeout(DEADLINE, server.wait()).await.unwrap().unwrap();
    assert_eq!(stopped.code(), Some(1));
    reading.await.unwrap();
}

/// As of a pod that is taken away again: there is nothing that it did not do.
#[tokio::test]
async fn who_is_told_to_stop_before_it_serves_stops_in_order() {
    // Nobody listens there: it is waited for.
    let redis = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut server = Command::new(env!("CARGO_BIN_EXE_callplane"))
        .arg("serve")
        .env_clear()
        .env("CALLPLANE_REDIS__ADDRESS", redis.to_string())
        .env("CALLPLANE_LISTEN__ADDRESS", "127.0.0.1:0")
        .env("CALLPLANE_ADMIN__LISTEN", "127.0.0.1:0")
        .env("CALLPLANE_ADMIN__CONTROL", "127.0.0.1:0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut log = BufReader::new(server.stderr.take().unwrap()).lines();
    let mut said = String::new();
    while !said.contains("redis") {
        said = timeout(DEADLINE, log.next_line()).await.expect("a line").unwrap().expect("a line");
    }
    terminate(&server).await;
    let mut rest = String::new();
    while let Some(line) = timeout(DEADLINE, log.next_line()).await.unwrap().unwrap() {
        rest.push_str(&line);
    }
    let stopped = timeout(DEADLINE, server.wait()).await.expect("its end").unwrap();
    assert!(rest.contains("stopped before it served"), "{rest}");
    assert_eq!(stopped.code(), Some(0));
}
