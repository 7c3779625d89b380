//! The simulated stack on its sockets: MI over UDP and HTTP, events over UDP and TCP, control.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use callplane::stack::simulated::server::{Addresses, SimulateConfig, Simulated};
use callplane::stack::simulated::{Behaviour, PhoneConfig, WorldConfig};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::oneshot;

/// A condition that does not come true in this time never does.
const PATIENCE: Duration = Duration::from_secs(20);

struct Stack {
    at: Addresses,
    mi: UdpSocket,
    _running: oneshot::Sender<()>,
}

async fn stack(phones: &[(&str, Behaviour)]) -> Stack {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let config = SimulateConfig {
        mi_udp: any,
        mi_http: Some(any),
        control: Some(any),
        seed: 1,
        world: WorldConfig {
            hop: Duration::from_micros(100),
            phones: phones
                .iter()
                .zip(5101..)
                .map(|((name, behaviour), port)| PhoneConfig {
                    behaviour: behaviour.clone(),
                    ..PhoneConfig::new(name, &format!("127.0.0.1:{port}"))
                })
                .collect(),
            ..WorldConfig::default()
        },
    };
    let simulated = Simulated::bind(config).await.unwrap();
    let at = simulated.addresses();
    let (running, stop) = oneshot::channel();
    tokio::spawn(simulated.run(async {
        let _ = stop.await;
    }));
    let mi = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    mi.connect(at.mi_udp).await.unwrap();
    Stack { at, mi, _running: running }
}

async fn plain_stack() -> Stack {
    stack(&[("alice", Behaviour::default()), ("bob", Behaviour::default())]).await
}

impl Stack {
    async fn datagram(&self, text: &str) -> String {
        self.mi.send(text.as_bytes()).await.unwrap();
        let mut buffer = vec![0; 65_536];
        let length = tokio::time::timeout(PATIENCE, self.mi.recv(&mut buffer)).await;
        String::from_utf8_lossy(&buffer[..length.expect("no reply").unwrap()]).into_owned()
    }

    async fn mi(&self, method: &str, params: Value) -> Value {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        serde_json::from_str(&self.datagram(&request.to_string()).await).unwrap()
    }

    async fn control(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let body = body.to_string();
        let (status, text) =
            http(self.at.control.unwrap(), method, path, Some("application/json"), &body)
                .await
                .expect("control answers");
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// Waits until the control interface shows what is wanted.
    async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let (_, shown) = self.control("GET", path, Value::Null).await;
            if wanted(&shown) {
                return shown;
            }
            assert!(Instant::now() < end, "{path} still shows {shown}");
            tokio::task::yield_now().await;
        }
    }
}

/// One HTTP exchange; `None` if the connection is closed without an answer.
async fn http(
    to: SocketAddr,
    method: &str,
    path: &str,
    content_type: Option<&str>,
    body: &str,
) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(to).await.ok()?;
    let kind = content_type.map(|t| format!("Content-Type: {t}\r\n")).unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{kind}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer))
        .await
        .expect("HTTP hangs")
        .ok()?;
    let status = answer.get(9..12)?.parse().ok()?;
    Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
}

#[tokio::test]
async fn mi_over_udp() {
    let s = plain_stack().await;
    let text = s.datagram("{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"version\"}").await;
    assert_eq!(
        text,
        "{\"jsonrpc\":\"2.0\",\"result\":{\"Server\":\"OpenSIPS (3.6.8 (x86_64/linux))\"},\"id\":7}"
    );
    assert_eq!(s.datagram("not json").await, "400 Parse_error");
    assert_eq!(s.mi("nonsense", json!({})).await["error"]["code"], json!(-32601));
}

#[tokio::test]
async fn mi_over_http_as_the_http_server_of_opensips() {
    let s = plain_stack().await;
    let at = s.at.mi_http.unwrap();
    let uptime = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"uptime\"}";
    let json = Some("application/json");
    for path in ["/mi", "/mi/"] {
        let (status, text) = http(at, "POST", path, json, uptime).await.unwrap();
        assert_eq!(status, 200);
        assert!(text.contains("\"Up since\""), "{text}");
    }
    assert_eq!(http(at, "POST", "/mi", Some("text/plain"), uptime).await, None);
    assert_eq!(http(at, "POST", "/mi", None, uptime).await, None);
    assert_eq!(http(at, "GET", "/mi", json, "").await.unwrap().0, 405);
    assert_eq!(
        http(at, "POST", "/other", json, uptime).await.unwrap(),
        (400, "<html><body>Unable to parse URL!</body></html>".to_owned())
    );
    let (status, text) = http(at, "POST", "/mi", json, "not json").await.unwrap();
    assert_eq!(
        (status, text.as_str()),
        (
            200,
            "{\"jsonrpc\":\"2.0\",\"error\":{\"code\":-32700,\"message\":\"Parse error\"},\"id\":null}"
        )
    );
}

#[tokio::test]
async fn a_ringing_call_over_http_blocks_every_other_http_request() {
    let ringing = Behaviour { answer: 0, ..Behaviour::default() };
    let s = stack(&[("alice", ringing), ("bob", Behaviour::default())]).await;
    let at = s.at.mi_http.unwrap();
    let start = json!({"jsonrpc": "2.0", "id": 1, "method": "t_uac_dlg", "params": uac("alice", "bob", "h-1")});
    let calling = tokio::spawn(async move {
        http(at, "POST", "/mi", Some("application/json"), &start.to_string()).await.unwrap()
    });
    s.until("/calls", |c| c[0]["state"] == 2).await;
    let asking = tokio::spawn(async move {
        let uptime = "{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"uptime\"}";
        http(at, "POST", "/mi", Some("application/json"), uptime).await.unwrap()
    });
    // UDP goes on; when the call is over, so does HTTP.
    for _ in 0..50 {
        assert!(s.mi("uptime", json!({})).await["result"].is_object());
        assert!(!asking.is_finished());
    }
    assert_eq!(s.mi("dlg_end_dlg", json!({"dialog_id": "h-1"})).await["result"], "OK");
    assert!(calling.await.unwrap().1.contains("487 Request Terminated"));
    assert_eq!(asking.await.unwrap().0, 200);
}

fn uac(caller: &str, callee: &str, callid: &str) -> Value {
    json!({
        "method": "INVITE",
        "ruri": format!("sip:{caller}@127.0.0.1:5060"),
        "next_hop": "sip:127.0.0.1:5060",
        "headers": format!(
            "From: <sip:{callee}@127.0.0.1:5060>\r\nTo: <sip:{caller}@127.0.0.1:5060>\r\n\
             Contact: <sip:callplane@127.0.0.1:5060;gr=cp>\r\nContent-Type: application/sdp\r\n\
             CSeq: 1 INVITE\r\nCall-ID: {callid}\r\n"
        ),
        "body": "v=0\r\n",
    })
}

#[tokio::test]
async fn events_over_udp_and_tcp() {
    let s = plain_stack().await;
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sockets = [
        format!("udp:{}", udp.local_addr().unwrap()),
        format!("tcp:{}", tcp.local_addr().unwrap()),
        format!("tcp:{}/renamed", tcp.local_addr().unwrap()),
    ];
    for socket in &sockets {
        let subscribed = s.mi("event_subscribe", json!({"event": "E_CALL_HOLD", "socket": socket}));
        assert_eq!(subscribed.await["result"], "OK");
    }
    s.mi("raise_event", json!({"event": "E_CALL_HOLD", "params": ["x"]})).await;
    let mut buffer = [0; 2048];
    let length = tokio::time::timeout(PATIENCE, udp.recv(&mut buffer)).await.unwrap().unwrap();
    let event = "{\"jsonrpc\":\"2.0\",\"method\":\"E_CALL_HOLD\",\"params\":[\"x\"]}";
    assert_eq!(std::str::from_utf8(&buffer[..length]).unwrap(), event);
    // One connection, two objects, nothing between them; the newest subscription first.
    let both = format!("{}{event}", event.replace("E_CALL_HOLD", "renamed"));
    let mut connection = tokio::time::timeout(PATIENCE, tcp.accept()).await.unwrap().unwrap().0;
    let mut got = vec![0; both.len()];
    tokio::time::timeout(PATIENCE, connection.read_exact(&mut got)).await.unwrap().unwrap();
    assert_eq!(String::from_utf8(got).unwrap(), both);
    // A lost connection: a later event opens a new one.
    drop(connection);
    let accepted = tcp.accept();
    tokio::pin!(accepted);
    let end = Instant::now() + PATIENCE;
    loop {
        s.mi("raise_event", json!({"event": "E_CALL_HOLD", "params": ["y"]})).await;
        if tokio::time::timeout(Duration::from_millis(20), &mut accepted).await.is_ok() {
            break;
        }
        assert!(Instant::now() < end, "no new connection");
    }
}

#[tokio::test]
async fn a_restart_closes_everything_and_forgets_dialogs_but_not_the_phones_calls() {
    let s = plain_stack().await;
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = format!("tcp:{}", tcp.local_addr().unwrap());
    s.mi("event_subscribe", json!({"event": "E_DLG_STATE_CHANGED", "socket": socket})).await;
    let (_, placed) = s.control("POST", "/calls", json!({"from": "alice", "to": "bob"})).await;
    let callid = placed["callid"].as_str().unwrap().to_owned();
    s.until("/calls", |c| c[0]["state"] == 4).await;
    let mut connection = tokio::time::timeout(PATIENCE, tcp.accept()).await.unwrap().unwrap().0;
    let before = s.mi("uptime", json!({})).await["result"]["Up since"].clone();
    assert_eq!(s.control("POST", "/restart", json!({"down_ms": 1200})).await.0, 200);
    let mut rest = Vec::new();
    let read = tokio::time::timeout(PATIENCE, connection.read_to_end(&mut rest)).await.unwrap();
    assert!(read.is_ok(), "the event connection ends");
    // Refused while it is down (ICMP), answered when it is back.
    let end = Instant::now() + PATIENCE;
    let mut refused = false;
    let after = loop {
        let request = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"uptime\"}";
        let sent = s.mi.send(request.as_bytes()).await;
        let mut buffer = [0; 2048];
        let wait = tokio::time::timeout(Duration::from_millis(50), s.mi.recv(&mut buffer)).await;
        match (sent, wait) {
            (Ok(_), Ok(Ok(length))) => {
                let answer: Value = serde_json::from_slice(&buffer[..length]).unwrap();
                break answer["result"]["Up since"].clone();
            }
            (Err(_), _) | (_, Ok(Err(_))) => refused = true,
            (Ok(_), Err(_)) => {}
        }
        assert!(Instant::now() < end, "does not come back");
    };
    assert!(refused, "datagrams were never refused");
    assert_ne!(after, before);
    assert_eq!(s.mi("dlg_list", json!({})).await["result"], json!({"Dialogs": []}));
    assert_eq!(s.mi("subscribers_list", json!({})).await["result"], json!({"Events": []}));
    let (_, calls) = s.control("GET", "/calls", Value::Null).await;
    assert_eq!(calls[0]["callid"], json!(callid));
    assert_eq!((&calls[0]["state"], &calls[0]["caller_up"]), (&json!(0), &json!(true)));
    let (status, _) =
        http(s.at.mi_http.unwrap(), "POST", "/mi", Some("application/json"), "x").await.unwrap();
    assert_eq!(status, 200);
}

#[tokio::test]
async fn the_control_interface() {
    let s = plain_stack().await;
    let busy = s.control("PATCH", "/phones/bob", json!({"answer": 486, "ring_ms": 1})).await;
    assert_eq!((busy.0, &busy.1["answer"], &busy.1["refer"]), (200, &json!(486), &json!(202)));
    for (method, path, body, status) in [
        ("PATCH", "/phones/bob", json!({"anwser": 1}), 400),
        ("PATCH", "/phones/nobody", json!({}), 404),
        ("POST", "/calls", json!({"from": "nobody", "to": "bob"}), 404),
        ("POST", "/calls", json!({"from": "alice"}), 400),
        ("POST", "/calls/none/hang_up", json!({"phone": "bob"}), 404),
        ("PATCH", "/faults", json!({"lose_events": {"often": 1}}), 400),
    ] {
        let (got, answer) = s.control(method, path, body.clone()).await;
        assert_eq!(got, status, "{method} {path} {body}");
        assert!(answer["error"].is_string(), "{answer}");
    }
    let (_, placed) = s.control("POST", "/calls", json!({"from": "alice", "to": "bob"})).await;
    s.until("/calls", |c| c[0]["state"] == 5).await;
    assert_eq!(s.control("DELETE", "/phones/bob/behaviour", Value::Null).await.1["answer"], 200);
    let (_, second) = s.control("POST", "/calls", json!({"from": "alice", "to": "bob"})).await;
    assert_ne!(placed["callid"], second["callid"]);
    let callid = second["callid"].as_str().unwrap();
    s.until("/phones", |p| p[1]["calls"] == json!([callid])).await;
    let path = format!("/calls/{callid}/hang_up");
    assert_eq!(s.control("POST", &path, json!({"phone": "bob"})).await.0, 200);
    s.until("/phones", |p| p[0]["calls"] == json!([]) && p[1]["calls"] == json!([])).await;
    let lost = s.control("PATCH", "/faults", json!({"lose_requests": {"next": 1}})).await;
    assert_eq!(lost.1["lose_requests"], json!({"next": 1, "ppm": 0}));
    s.mi.send(b"{\"jsonrpc\":\"2.0\",\"id\":5,\"method\":\"uptime\"}").await.unwrap();
    // The first is lost, so the next reply is the second's.
    let answer = s.datagram("{\"jsonrpc\":\"2.0\",\"id\":6,\"method\":\"uptime\"}").await;
    assert!(answer.ends_with("\"id\":6}"), "{answer}");
    assert_eq!(s.control("PUT", "/phones/bob/registered", json!(false)).await.0, 200);
    let start = s.mi("t_uac_dlg", uac("bob", "alice", "unreg")).await;
    assert_eq!(start["result"]["Status"], "404 Not Found");
}

#[tokio::test]
async fn what_phones_saw_is_shown_once() {
    let s = plain_stack().await;
    let nothing = s.control("GET", "/seen", Value::Null).await.1;
    assert_eq!(nothing["seen"], json!([]));
    let (_, placed) = s.control("POST", "/calls", json!({"from": "alice", "to": "bob"})).await;
    let call = placed["callid"].clone();
    s.until("/calls", |calls| calls.to_string().contains("\"callee_up\":true")).await;
    let seen = s.control("GET", "/seen", Value::Null).await.1;
    let what: Vec<_> = seen["seen"].as_array().unwrap().iter().map(|saw| &saw["what"]).collect();
    assert_eq!(what, ["invite", "up"], "{seen}");
    let invite = &seen["seen"][0];
    assert_eq!((&invite["call"], &invite["phone"]), (&call, &json!("bob")));
    assert!(invite["at_ms"].as_u64() <= seen["now_ms"].as_u64(), "{seen}");
    assert_eq!(s.control("GET", "/seen", Value::Null).await.1["seen"], json!([]));
}
