//! The examples of the JSON-RPC 2.0 specification (section 7), against a running server.
//!
//! Its methods are stand-ins (`subtract`, `foobar`), so what this server answers to them is
//! `Method not found`; everything else is as printed there. `data` is ours to add.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod client_support;

use client_support::{Script, Server, request, settings};
use serde_json::{Value, json};

/// Removes `error.data`, after checking that it names the kind.
fn without_data(mut answer: Value) -> Value {
    let items = match answer.as_array_mut() {
        Some(items) => items.iter_mut().collect(),
        None => vec![&mut answer],
    };
    for item in items {
        if let Some(error) = item.get_mut("error").and_then(Value::as_object_mut) {
            assert!(error.remove("data").unwrap()["kind"].is_string());
        }
    }
    answer
}

fn error(id: Value, code: i64, message: &str) -> Value {
    json!({"jsonrpc": "2.0", "error": {"code": code, "message": message}, "id": id})
}

#[tokio::test]
async fn the_examples_of_the_specification() {
    let unknown = |id: Value| error(id, -32601, "Method not found");
    let invalid = || error(Value::Null, -32600, "Invalid Request");
    let broken = || error(Value::Null, -32700, "Parse error");
    let examples = [
        (
            r#"{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}"#,
            Some(unknown(json!(1))),
        ),
        (
            r#"{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 3}"#,
            Some(unknown(json!(3))),
        ),
        (r#"{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}"#, None),
        (r#"{"jsonrpc": "2.0", "method": "foobar"}"#, None),
        (r#"{"jsonrpc": "2.0", "method": "foobar", "id": "1"}"#, Some(unknown(json!("1")))),
        (r#"{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]"#, Some(broken())),
        (r#"{"jsonrpc": "2.0", "method": 1, "params": "bar"}"#, Some(invalid())),
        (
            r#"[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"}, {"jsonrpc": "2.0", "method""#,
            Some(broken()),
        ),
        ("[]", Some(invalid())),
        ("[1]", Some(json!([invalid()]))),
        ("[1,2,3]", Some(json!([invalid(), invalid(), invalid()]))),
        (
            r#"[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
                {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},
                {"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},
                {"foo": "boo"},
                {"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},
                {"jsonrpc": "2.0", "method": "get_data", "id": "9"}]"#,
            Some(json!([
                unknown(json!("1")),
                unknown(json!("2")),
                invalid(),
                unknown(json!("5")),
                unknown(json!("9"))
            ])),
        ),
        (
            r#"[{"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},
                {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}]"#,
            None,
        ),
    ];
    let server = Server::start(Script::Silent, settings()).await;
    let mut peer = server.connect().await;
    for (n, (sent, answer)) in (100..).zip(examples) {
        peer.send_text(sent).await;
        if let Some(answer) = answer.clone() {
            assert_eq!(without_data(peer.next().await.unwrap()), answer, "{sent}");
        }
        // Where nothing is to be answered, the next answer is the marker's.
        let marker = peer.call(n, "rpc.discover", json!({})).await;
        assert_eq!(marker["id"], n, "{sent}");

        let (status, body) = server.http("POST /call-api HTTP/1.1", sent).await;
        match answer {
            None => assert_eq!((status, body.as_str()), (204, ""), "{sent}"),
            Some(answer) => {
                assert_eq!(without_data(serde_json::from_str(&body).unwrap()), answer, "{sent}");
            }
        }
    }
}

#[tokio::test]
async fn hostile_frames_are_answered_and_the_connection_stays() {
    let server = Server::start(Script::Silent, settings()).await;
    let mut peer = server.connect().await;
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let wide = format!("[{}1]", "1,".repeat(20_000));
    let inner = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"CallEnd","params":{deep}}}"#);
    let frames: Vec<(String, i64)> = vec![
        (deep, -32600),
        (wide, -32600),
        (inner, -32602),
        ("\u{0}".to_owned(), -32700),
        ("null".to_owned(), -32600),
        (r#"{"jsonrpc":"2.0","id":1.5,"method":"Echo"}"#.to_owned(), -32600),
        (r#"{"jsonrpc":"1.0","id":1,"method":"Echo"}"#.to_owned(), -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"NotifyEnd","params":{}}"#.to_owned(), -32601),
        (r#"{"jsonrpc":"2.0","id":1,"method":"Wait","params":{}}"#.to_owned(), -32601),
        (r#"{"jsonrpc":"2.0","id":1,"method":"CallEnd","params":["c"]}"#.to_owned(), -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"CallEnd","params":"c"}"#.to_owned(), -32600),
        (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"Echo"}"#.to_owned(), -32600),
    ];
    for (frame, code) in frames {
        peer.send_text(&frame).await;
        let answer = peer.next().await.unwrap();
        let first = answer.get(0).unwrap_or(&answer);
        let told = first["error"]["code"].as_i64();
        assert_eq!(told, Some(code), "{}", frame.chars().take(80).collect::<String>());
    }
    assert_eq!(peer.call(9, "Echo", json!({"still": "here"})).await["id"], 9);
}

#[tokio::test]
async fn a_batch_is_one_array_in_its_order_and_its_notifications_follow() {
    let server = Server::start(Script::Whole, settings()).await;
    let mut peer = server.connect().await;
    peer.send(&json!([
        request(1, "CallHold", json!({"callid": "a", "cmd_id": "h1"})),
        request(2, "Echo", json!({"x": 1, "cmd_id": "e"})),
        {"jsonrpc": "2.0", "id": 3, "method": "CallHold", "params": {}},
        {"jsonrpc": "2.0", "method": "CallHold", "params": {"callid": "b", "cmd_id": "h2"}},
        request(4, "CallHold", json!({"callid": "c", "cmd_id": "h3"})),
        request(5, "CommandGet", json!({"cmd_id": "none"})),
    ]))
    .await;
    let array = peer.next().await.unwrap();
    let ids: Vec<_> = array.as_array().unwrap().iter().map(|a| a["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5]);
    assert_eq!(array[0]["result"]["cmd_id"], "h1");
    assert_eq!(array[2]["error"]["data"]["field"], "callid");
    assert_eq!(array[4]["error"]["data"]["kind"], "unknown_command");
    let mut open = vec!["h1", "h2", "h3"];
    let (mut echoed, mut last) = (0, 0);
    while !open.is_empty() {
        let message = peer.next().await.unwrap();
        let params = &message["params"];
        if message["method"] == "Echo" {
            echoed += 1;
            continue;
        }
        let seq = params["seq"].as_u64().unwrap();
        assert!(seq > last, "{message} after {last}");
        last = seq;
        if params["event"] == "Ended" {
            open.retain(|id| params["cmd_id"] != *id);
        }
    }
    assert_eq!(echoed, 2);
}
