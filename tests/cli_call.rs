//! `callplane call` against servers that follow a script: what it asks, prints and exits with.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::process::{Output, Stdio};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// Far above what any step needs; only a defect gets there.
const PATIENCE: Duration = Duration::from_secs(30);

struct Server {
    listener: TcpListener,
    url: String,
}

impl Server {
    async fn new() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/call-api", listener.local_addr().unwrap());
        Server { listener, url }
    }

    async fn accept(&self) -> Client {
        let (stream, _) = soon(self.listener.accept()).await.unwrap();
        Client(soon(tokio_tungstenite::accept_async(stream)).await.unwrap())
    }

    /// Accepts and answers the greeting with a session.
    async fn welcome(&self) -> Client {
        let mut client = self.accept().await;
        let hello = client.asked("Echo").await;
        client
            .answer(
                &hello,
                json!({"cmd_id":"1","event":"Started","session":"s1","epoch":"e1","seq":0}),
            )
            .await;
        client
    }
}

struct Client(WebSocketStream<TcpStream>);

impl Client {
    /// The next request, which must be one for `method`.
    async fn asked(&mut self, method: &str) -> Value {
        loop {
            match soon(self.0.next()).await.unwrap().unwrap() {
                Message::Text(text) => {
                    let request: Value = serde_json::from_str(&text).unwrap();
                    assert_eq!(request["jsonrpc"], "2.0");
                    assert_eq!(request["method"], method, "{request}");
                    return request;
                }
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn send(&mut self, message: Value) {
        self.0.send(Message::text(message.to_string())).await.unwrap();
    }

    async fn answer(&mut self, request: &Value, result: Value) {
        self.send(json!({"jsonrpc":"2.0","id":request["id"],"result":result})).await;
    }

    async fn event(&mut self, request: &Value, seq: u64, mut params: Value) {
        params["cmd_id"] = request["params"]["cmd_id"].clone();
        params["epoch"] = "e1".into();
        params["seq"] = seq.into();
        self.send(json!({"jsonrpc":"2.0","method":request["method"],"params":params})).await;
    }

    async fn start(&mut self, request: &Value) {
        let cmd_id = request["params"]["cmd_id"].clone();
        self.answer(request, json!({"cmd_id":cmd_id,"event":"Started","deadline_ms":60000})).await;
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("within the time any step needs")
}

fn call(server: &str, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_callplane"))
        .args(["call", "--server", server])
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

async fn end(child: Child) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = soon(child.wait_with_output()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[tokio::test]
async fn events_are_printed_as_they_come_and_the_outcome_is_the_exit_code() {
    for (outcome, code) in
        [("success", 0), ("failed", 1), ("cancelled", 3), ("unknown", 4), ("not_started", 6)]
    {
        let server = Server::new().await;
        let mut child = call(&server.url, &["start", "sip:a@x", "sip:b@x", "--ring-timeout", "30"]);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut client = server.welcome().await;
        let asked = client.asked("CallStart").await;
        assert_eq!(asked["params"]["caller"], "sip:a@x");
        assert_eq!(asked["params"]["ring_timeout"], 30);
        client.start(&asked).await;
        // Each line is there before the next event is sent.
        let line = soon(lines.next_line()).await.unwrap().unwrap();
        assert!(line.contains("Started") && line.contains("ends within 60 s"), "{line}");
        client
            .event(&asked, 1, json!({"event":"CallerAnswered","data":{"caller":"sip:a@x"}}))
            .await;
        let line = soon(lines.next_line()).await.unwrap().unwrap();
        assert!(line.contains("CallerAnswered") && line.contains("caller=sip:a@x"), "{line}");
        client.event(&asked, 2, json!({"event":"Ended","outcome":outcome})).await;
        let line = soon(lines.next_line()).await.unwrap().unwrap();
        assert!(line.contains("Ended") && line.ends_with(outcome), "{line}");
        let (exit, _, stderr) = end(child).await;
        assert_eq!((exit, stderr.as_str()), (Some(code), ""));
    }
}

#[tokio::test]
async fn json_prints_each_message_as_one_line() {
    let server = Server::new().await;
    let child = call(&server.url, &["end", "some-call", "--json", "--cmd-id", "mine"]);
    let mut client = server.welcome().await;
    let asked = client.asked("CallEnd").await;
    assert_eq!(asked["params"], json!({"callid":"some-call","cmd_id":"mine"}));
    client.start(&asked).await;
    client.event(&asked, 1, json!({"event":"Error","data":"404 Requested Dialog not found"})).await;
    client.event(&asked, 2, json!({"event":"Ended","outcome":"failed"})).await;
    let (exit, stdout, _) = end(child).await;
    assert_eq!(exit, Some(1));
    let lines: Vec<Value> =
        stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0]["result"]["cmd_id"], "mine");
    assert_eq!(lines[1]["params"]["data"], "404 Requested Dialog not found");
    assert_eq!(lines[2]["params"]["outcome"], "failed");
}

#[tokio::test]
async fn a_lost_connection_is_resumed() {
    let server = Server::new().await;
    let child = call(&server.url, &["hold", "some-call"]);
    let mut client = server.welcome().await;
    let asked = client.asked("CallHold").await;
    client.start(&asked).await;
    client.event(&asked, 5, json!({"event":"CallHoldStart","data":{"leg":"caller"}})).await;
    drop(client);

    let mut client = server.accept().await;
    let resume = client.asked("Resume").await;
    assert_eq!(resume["params"], json!({"session":"s1","epoch":"e1","seq":5}));
    client.answer(&resume, json!({"recovered":true,"session":"s1","epoch":"e1","seq":5})).await;
    client.event(&asked, 6, json!({"event":"Ended","outcome":"success"})).await;
    let (exit, stdout, stderr) = end(child).await;
    assert_eq!(exit, Some(0), "{stderr}");
    assert_eq!(stdout.lines().count(), 3, "{stdout}");
    assert!(stderr.contains("connected again, nothing was missed"), "{stderr}");
}

#[tokio::test]
async fn a_command_that_the_server_forgot_is_never_repeated() {
    let server = Server::new().await;
    let child = call(&server.url, &["start", "sip:a@x", "sip:b@x"]);
    let mut client = server.welcome().await;
    client.asked("CallStart").await;
    drop(client);

    let mut client = server.accept().await;
    let resume = client.asked("Resume").await;
    let forgot =
        json!({"recovered":false,"reason":"restarted","session":"s1","epoch":"e2","seq":0});
    client.answer(&resume, forgot).await;
    let get = client.asked("CommandGet").await;
    let error = json!({"code":-32001,"message":"no such command"});
    client.send(json!({"jsonrpc":"2.0","id":get["id"],"error":error})).await;
    let (exit, _, stderr) = end(child).await;
    assert_eq!(exit, Some(4), "{stderr}");
    assert!(stderr.contains("events were missed (restarted)"), "{stderr}");
}

#[tokio::test]
async fn a_refusal_names_the_field() {
    let server = Server::new().await;
    let child = call(&server.url, &["start", "nonsense", "sip:b@x"]);
    let mut client = server.welcome().await;
    let asked = client.asked("CallStart").await;
    let error =
        json!({"code":-32602,"message":"bad params","data":{"kind":"bad_params","field":"caller"}});
    client.send(json!({"jsonrpc":"2.0","id":asked["id"],"error":error})).await;
    let (exit, stdout, _) = end(child).await;
    assert_eq!(exit, Some(7));
    assert!(stdout.contains("Refused") && stdout.contains("field=caller"), "{stdout}");
}

#[tokio::test]
async fn the_old_servers_shapes_are_understood() {
    for (failed, code) in [(false, 0), (true, 1)] {
        let server = Server::new().await;
        let child = call(&server.url, &["end", "some-call"]);
        let mut client = server.accept().await;
        let hello = client.asked("Echo").await;
        client.answer(&hello, json!({"cmd_id":"1","event":"Started"})).await;
        let asked = client.asked("CallEnd").await;
        let cmd_id = asked["params"]["cmd_id"].clone();
        client.answer(&asked, json!({"cmd_id":cmd_id,"event":"Started"})).await;
        let event = |params| json!({"jsonrpc":"2.0","method":"CallEnd","params":params});
        if failed {
            let data = "404 Requested Dialog not found";
            client.send(event(json!({"cmd_id":cmd_id,"data":data,"event":"Error"}))).await;
        }
        client.send(event(json!({"cmd_id":cmd_id,"event":"Ended"}))).await;
        let (exit, _, stderr) = end(child).await;
        assert_eq!(exit, Some(code), "{stderr}");
    }
}

#[tokio::test]
async fn ctrl_c_cancels_the_command_first() {
    let server = Server::new().await;
    let child = call(&server.url, &["start", "sip:a@x", "sip:b@x"]);
    let mut client = server.welcome().await;
    let asked = client.asked("CallStart").await;
    client.start(&asked).await;
    interrupt(&child).await;
    let cancel = client.asked("CommandCancel").await;
    assert_eq!(cancel["params"]["cmd_id"], asked["params"]["cmd_id"]);
    client.answer(&cancel, json!({"cancelling":true})).await;
    client.event(&asked, 2, json!({"event":"Ended","outcome":"cancelled"})).await;
    let (exit, stdout, stderr) = end(child).await;
    assert_eq!(exit, Some(3), "{stdout}{stderr}");
    assert!(stderr.contains("cancelling; once more to leave"), "{stderr}");
}

#[tokio::test]
async fn a_second_ctrl_c_leaves() {
    let server = Server::new().await;
    let child = call(&server.url, &["start", "sip:a@x", "sip:b@x"]);
    let mut client = server.welcome().await;
    let asked = client.asked("CallStart").await;
    client.start(&asked).await;
    interrupt(&child).await;
    client.asked("CommandCancel").await;
    interrupt(&child).await;
    assert_eq!(end(child).await.0, Some(130));
}

async fn interrupt(child: &Child) {
    // The shell's own `kill`: the program of that name is a package of its own.
    let kill = format!("kill -INT {}", child.id().unwrap());
    assert!(soon(Command::new("sh").args(["-c", &kill]).status()).await.unwrap().success());
}

#[tokio::test]
async fn a_server_that_is_not_there_is_one_clear_line() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let url = format!("ws://{address}/call-api");
    let (exit, stdout, stderr) = end(call(&url, &["end", "some-call"])).await;
    assert_eq!((exit, stdout.as_str()), (Some(5), ""));
    let hint = "`--server` or CALLPLANE_SERVER names another one";
    assert_eq!(
        stderr,
        format!("{url}: can't connect: Connection refused (os error 111); {hint}\n")
    );
}

#[tokio::test]
async fn what_cannot_be_a_server_is_a_wrong_argument() {
    for url in [
        "wss://127.0.0.1:1/call-api",
        "nonsense",
        "http://127.0.0.1:1/",
        "127.0.0.1:5959",
        "ws://",
        "ws://a b/",
        "",
    ] {
        let (exit, _, stderr) = end(call(url, &["end", "some-call"])).await;
        assert_eq!(exit, Some(2), "{stderr}");
        assert!(stderr.starts_with(&format!("{url}: ")), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}
