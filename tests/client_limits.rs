//! Clients that want too much, say too little, read too slowly or come from elsewhere.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod client_support;

use std::time::Duration;

use callplane::client::Settings;
use callplane::client::close::Close;
use callplane::client::origin::Origins;
use callplane::core::failure::Outcome;
use callplane::core::notice::{Data, Event, Notice};
use client_support::{PATIENCE, Script, Server, ended, hold, progress, request, settings, until};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

fn in_memory(script: Script, settings: Settings) -> Server {
    Server::quiet(script, settings, "127.0.0.1:1".parse().unwrap())
}

#[tokio::test]
async fn a_message_may_have_64_kib_and_no_more() {
    let server = Server::start(Script::Silent, settings()).await;
    let mut peer = server.connect().await;
    let frame = |bytes: usize| {
        let empty = request(1, "Echo", json!({"x": ""})).to_string().len();
        request(1, "Echo", json!({"x": "y".repeat(bytes - empty)})).to_string()
    };
    peer.send_text(&frame(64 * 1024)).await;
    assert_eq!(peer.next().await.unwrap()["id"], 1);
    peer.send_text(&frame(64 * 1024 + 1)).await;
    assert_eq!(peer.close_code().await, Some(Close::MessageTooLong.row().code));
}

#[tokio::test]
async fn a_body_that_is_too_long_is_told_the_limit_that_is_configured() {
    let settings = Settings { message_bytes: 2_000, ..settings() };
    let server = Server::start(Script::Silent, settings).await;
    let (status, text) = server.http("POST /call-api HTTP/1.1", &"x".repeat(2_001)).await;
    assert_eq!((status, text.as_str()), (413, "a frame has at most 2000 bytes\n"));
}

#[tokio::test]
async fn a_very_long_message_is_told_its_code_too() {
    let server = Server::start(Script::Silent, settings()).await;
    let mut peer = server.connect().await;
    peer.send_text(&"x".repeat(2 * 1024 * 1024)).await;
    let code = peer.close_code().await;
    assert_eq!(code, Some(Close::MessageTooLong.row().code));
}

#[tokio::test]
async fn bytes_that_are_no_frames_are_told_so() {
    let server = Server::start(Script::Silent, settings()).await;
    let mut peer = server.connect().await;
    // An unmasked text frame, which only a server may send (RFC 6455 section 5.1).
    peer.socket.get_mut().write_all(&[0x81, 0x02, b'{', b'}']).await.unwrap();
    assert_eq!(peer.close_code().await, Some(Close::Protocol.row().code));
}

#[tokio::test]
async fn binary_frames_are_read_as_text() {
    let server = Server::start(Script::Silent, settings()).await;
    let mut peer = server.connect().await;
    let text = request(1, "Echo", json!({})).to_string();
    peer.socket.send(Message::binary(text.into_bytes())).await.unwrap();
    assert_eq!(peer.next().await.unwrap()["id"], 1);
    let _ = (peer.next().await, peer.next().await);
    peer.socket.send(Message::binary(vec![0xff, 0xfe])).await.unwrap();
    assert_eq!(peer.next().await.unwrap()["error"]["code"], -32700);
}

#[tokio::test]
async fn a_slow_reader_is_closed_and_told_to_resume() {
    let settings = Settings { outbound_bytes: 64 * 1024, ..settings() };
    let server = in_memory(Script::Silent, settings);
    let mut peer = server.connect_in_memory(1024).await;
    peer.send(&hold(1, "h")).await;
    peer.next().await.unwrap();
    until("it is closed", || {
        server.stub.emit("h", progress(Event::CallHolding));
        server.closed() > 0
    })
    .await;
    assert_eq!(peer.close_code().await, Some(Close::Slow.row().code));
    drop(peer);
    until("the connection is over", || server.client.metrics().open_now() == 0).await;
    assert_eq!(server.client.metrics().waiting_now(), 0, "what it did not read is forgotten");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_has_stopped_is_closed_after_the_send_timeout() {
    let server = in_memory(Script::Silent, settings());
    let mut peer = server.connect_in_memory(256).await;
    peer.send(&hold(1, "h")).await;
    peer.next().await.unwrap();
    for _ in 0..20 {
        server.stub.emit("h", progress(Event::CallHolding));
    }
    let begin = Instant::now();
    while server.closed() == 0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(begin.elapsed() < Duration::from_secs(60));
    }
    assert!(begin.elapsed() >= callplane::client::SEND_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn pings_of_a_client_that_does_not_read_are_not_hoarded() {
    let server = in_memory(Script::Silent, settings());
    let mut peer = server.connect_in_memory(4096).await;
    // The longest control frame, masked with zeros.
    let mut ping = vec![0x89, 0x80 | 125, 0, 0, 0, 0];
    ping.resize(ping.len() + 125, b'p');
    let mut taken = 0;
    while taken < 10_000 && peer.socket.get_mut().write_all(&ping).await.is_ok() {
        taken += 1;
    }
    assert!(taken < 500, "{taken} pings were taken");
    assert_eq!(server.closed(), 1);
}

#[tokio::test]
async fn a_flood_without_reading_is_held_back_and_answered_whole() {
    let settings = Settings { outbound_bytes: 16 * 1024, ..settings() };
    let server = Server::start(Script::Silent, settings).await;
    let peer = server.connect().await;
    let (mut sink, mut stream) = peer.socket.split();
    let flood = 20_000_u64;
    let send = async {
        for id in 0..flood {
            let text = request(id, "Echo", json!({"pad": "x".repeat(500)})).to_string();
            sink.feed(Message::text(text)).await.unwrap();
        }
        sink.flush().await.unwrap();
    };
    let read = async {
        // Not before the server has had its chance to drown: it waits for us, and takes no more.
        let metrics = server.client.metrics();
        let (mut taken, mut at_rest) = (0, 0);
        let stopped = async {
            while at_rest < 10_000 {
                tokio::task::yield_now().await;
                let now = metrics.messages_taken();
                at_rest = if now == taken && metrics.waiting_now() > 0 { at_rest + 1 } else { 0 };
                taken = now;
            }
        };
        tokio::time::timeout(PATIENCE, stopped).await.expect("it is held back");
        assert!(taken < flood, "all {flood} were taken while nobody read");
        let mut answers = 0;
        while answers < flood {
            let message = stream.next().await.unwrap().unwrap().into_text().unwrap();
            if message.contains("\"result\"") {
                assert!(message.contains(&format!("\"id\":{answers},")), "{message}");
                answers += 1;
            }
        }
    };
    tokio::time::timeout(PATIENCE * 3, async { tokio::join!(send, read) }).await.unwrap();
    assert_eq!(server.closed(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_the_store_is_bounded_and_the_rest_waits_unread() {
    let server = in_memory(Script::Silent, settings());
    let peer = server.connect_in_memory(4096).await;
    let (mut sink, mut stream) = peer.socket.split();
    server.stub.keep_looks(true);
    let flood = 1_000;
    let send = async {
        for id in 0..flood {
            let method = if id % 2 == 0 { "CommandGet" } else { "CommandCancel" };
            let text = request(id, method, json!({"cmd_id": "x"})).to_string();
            sink.feed(Message::text(text)).await.unwrap();
        }
        sink.flush().await.unwrap();
    };
    let read = async {
        // In virtual time a second is over when nobody has anything more to do.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let taken = server.client.metrics().messages_taken();
        assert_eq!(taken, settings().in_flight() as u64);
        server.stub.keep_looks(false);
        for _ in 0..flood {
            let answer = tokio::time::timeout(PATIENCE, stream.next()).await.expect("an answer");
            let answer = answer.unwrap().unwrap().into_text().unwrap();
            assert!(answer.contains("unknown_command"), "{answer}");
        }
    };
    tokio::join!(send, read);
    assert_eq!(server.closed(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_pinged_and_stays_while_it_answers() {
    let server = in_memory(Script::Silent, settings());
    let mut peer = server.connect_in_memory(64 * 1024).await;
    let begin = Instant::now();
    let mut pings = 0;
    while begin.elapsed() < Duration::from_secs(600) {
        let next = tokio::time::timeout(Duration::from_secs(30), peer.socket.next()).await;
        match next.expect("a ping every 25 s").unwrap().unwrap() {
            Message::Ping(_) => pings += 1,
            other => panic!("{other:?}"),
        }
        // Reading on sends the pong.
    }
    assert!((23..=25).contains(&pings), "{pings}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_no_ping_is_closed() {
    let server = in_memory(Script::Silent, settings());
    let mut peer = server.connect_in_memory(64 * 1024).await;
    let begin = Instant::now();
    while server.closed() == 0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(begin.elapsed() < Duration::from_secs(90));
    }
    assert!(begin.elapsed() >= Duration::from_secs(60), "{:?}", begin.elapsed());
    assert_eq!(peer.close_code().await, Some(Close::Silent.row().code));
}

#[tokio::test]
async fn draining_closes_sockets_with_going_away_and_refuses_new_ones() {
    let settings = Settings { drain_spread: Duration::from_millis(50), ..settings() };
    let server = Server::start(Script::Silent, settings).await;
    let mut peers = Vec::new();
    for _ in 0..5 {
        let mut peer = server.connect().await;
        peer.call(1, "Echo", json!({})).await;
        peers.push(peer);
    }
    server.shutdown.cancel();
    for peer in &mut peers {
        assert_eq!(peer.close_code().await, Some(Close::GoingAway.row().code));
    }
    drop(peers);
    tokio::time::timeout(PATIENCE, server.client.drained()).await.unwrap();
    assert_eq!(server.client.metrics().open_now(), 0);
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn a_client_that_vanishes_leaves_its_command_running() {
    let server = Server::start(Script::Silent, settings()).await;
    let mut peer = server.connect().await;
    peer.send(&hold(1, "h")).await;
    let session = peer.next().await.unwrap()["result"]["session"].clone();
    drop(peer);
    until("the connection is over", || server.client.metrics().open_now() == 0).await;
    let closed = |code| server.client.metrics().closed_for(code);
    assert_eq!((closed("gone"), closed("protocol")), (1, 0), "it was cut off, and broke no rule");
    server.stub.emit("h", ended(Outcome::Success));
    let mut again = server.connect().await;
    let params = json!({"session": session, "epoch": "e1", "seq": 1});
    assert_eq!(again.call(1, "Resume", params).await["result"]["recovered"], true);
    assert_eq!(again.next().await.unwrap()["params"]["event"], "Ended");
}

async fn opened_from(server: &Server, origin: Option<&str>) -> u16 {
    let mut request = format!("ws://{}/call-api", server.address).into_client_request().unwrap();
    if let Some(origin) = origin {
        request.headers_mut().insert("Origin", origin.parse().unwrap());
    }
    match tokio_tungstenite::connect_async(request).await {
        Ok((_, response)) => response.status().as_u16(),
        Err(tokio_tungstenite::tungstenite::Error::Http(response)) => response.status().as_u16(),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_foreign_page_is_refused_on_both_ways_in() {
    let named = vec!["https://crm.example".to_owned()];
    let origins = Origins { named, authenticated: false };
    let server = Server::start(Script::Silent, Settings { origins, ..settings() }).await;
    let own = format!("http://{}", server.address);
    for (origin, status) in [
        (None, 101),
        (Some(own.as_str()), 101),
        (Some("http://localhost:8080"), 101),
        (Some("https://crm.example"), 101),
        (Some("https://evil.example"), 403),
        (Some("null"), 403),
    ] {
        assert_eq!(opened_from(&server, origin).await, status, "{origin:?}");
        let header = origin.map(|o| format!("\r\nOrigin: {o}")).unwrap_or_default();
        let echo = request(1, "Echo", json!({})).to_string();
        let posted = server.http(&format!("POST /call-api HTTP/1.1{header}"), &echo).await;
        assert_eq!(posted.0, if status == 101 { 200 } else { 403 }, "{origin:?}");
        let asked = server.http(&format!("OPTIONS /call-api HTTP/1.1{header}"), "").await;
        assert_eq!(asked.0, if status == 101 { 204 } else { 403 }, "{origin:?}");
    }
    assert_eq!(server.client.metrics().refused_for("origin"), 6);
}

#[tokio::test]
async fn sockets_that_are_not_taken_are_counted_by_their_reason() {
    let server = Server::start(Script::Silent, Settings { connections: 1, ..settings() }).await;
    let refused = |reason| server.client.metrics().refused_for(reason);
    let upgrade = "GET /call-api HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket";
    let key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==";
    let version = "Sec-WebSocket-Version: 13";
    assert_eq!(server.http(&format!("{upgrade}\r\n{key}"), "").await.0, 400);
    assert_eq!(server.http(&format!("{upgrade}\r\n{version}"), "").await.0, 400);
    assert_eq!(refused("handshake"), 2);
    let _held = server.connect().await;
    assert_eq!(opened_from(&server, None).await, 503);
    assert_eq!(refused("limit"), 1);
    // Our own listener takes no connection any more by then, but one that it had may still ask.
    server.shutdown.cancel();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let late = Server { address: listener.local_addr().unwrap(), ..server };
    let router = callplane::client::router(std::sync::Arc::clone(&late.client));
    tokio::spawn(async move { axum::serve(listener, router).await });
    assert_eq!(opened_from(&late, None).await, 503);
    assert_eq!(late.client.metrics().refused_for("draining"), 1);
}

#[tokio::test]
async fn bytes_that_are_written_and_that_wait_are_counted() {
    let server = in_memory(Script::Silent, settings());
    let mut peer = server.connect_in_memory(256).await;
    // More than the WebSocket's own buffer takes.
    for id in 1..=3 {
        peer.send(&request(id, "Echo", json!({"pad": "x".repeat(20_000)}))).await;
    }
    until("something waits", || server.client.metrics().waiting_now() > 0).await;
    let mut read = 0;
    for _ in 0..9 {
        read += peer.next().await.unwrap().to_string().len() as u64;
    }
    until("nothing waits", || server.client.metrics().waiting_now() == 0).await;
    assert_eq!(server.client.metrics().bytes_sent(), read);
}

#[tokio::test]
async fn requests_that_are_no_websocket_are_told_so() {
    let server = Server::start(Script::Silent, settings()).await;
    assert_eq!(server.http("GET /call-api HTTP/1.1", "").await.0, 426);
    let upgrade = "GET /call-api HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket";
    // `Connection` also says close here, which is a list of two words.
    assert_eq!(server.http(upgrade, "").await.0, 400);
    assert_eq!(server.http("GET /other HTTP/1.1", "").await.0, 404);
    let long = "x".repeat(64 * 1024 + 1);
    assert_eq!(server.http("POST /call-api HTTP/1.1", &long).await.0, 413);
    assert_eq!(server.http("POST /call-api?wait=forever HTTP/1.1", "{}").await.0, 400);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_never_ends_is_given_up() {
    let server = Server::start(Script::Silent, settings()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET /call-api HTTP/1.1\r\nHost: x\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/1.1 2"), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_given_up() {
    let server = Server::start(Script::Silent, settings()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /call-api HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer));
    assert!(read.await.is_ok(), "the connection stays open");
    assert!(answer.starts_with(b"HTTP/1.1 408"), "{answer:?}");
}

#[tokio::test]
async fn a_post_answers_when_started_or_when_ended() {
    let server = Server::start(Script::Whole, settings()).await;
    let (status, answer) = server.post("", &hold(7, "one")).await;
    assert_eq!((status, &answer["result"]["event"]), (200, &json!("Started")));
    assert_eq!(answer["result"]["seq"], 1);
    let (status, answer) = server.post("?wait=ended", &hold(8, "two")).await;
    assert_eq!((status, &answer["id"]), (200, &json!(8)));
    let result = &answer["result"];
    assert_eq!((&result["event"], &result["outcome"]), (&json!("Ended"), &json!("success")));
    let events: Vec<_> =
        result["events"].as_array().unwrap().iter().map(|e| e["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["CallHoldStart", "CallHolding", "CallHoldSuccessful"]);
    let (_, again) = server.post("?wait=ended", &hold(9, "two")).await;
    assert_eq!(again["result"]["events"], result["events"], "a repeat is the same command");
    let (_, again) = server.post("", &hold(9, "two")).await;
    assert_eq!(
        (&again["result"]["repeated"], &again["result"]["outcome"]),
        (&json!(true), &json!("success"))
    );
    assert_eq!(server.stub.begun(), 2);
    let get = request(1, "CommandGet", json!({"cmd_id": "two"}));
    assert_eq!(server.post("", &get).await.1["result"]["state"], "ended");
    let batch = json!([hold(1, "b1"), request(2, "Echo", json!({"a": 1})), hold(3, "b2")]);
    let (_, answers) = server.post("?wait=ended", &batch).await;
    assert_eq!(answers[0]["result"]["outcome"], "success");
    assert_eq!(answers[1]["result"]["events"][0]["data"], json!({"a": 1}));
    assert_eq!(answers[2]["result"]["cmd_id"], "b2");
}

#[tokio::test]
async fn a_post_that_repeats_a_running_command_waits_for_its_end() {
    let server = Server::start(Script::Silent, settings()).await;
    server.post("", &hold(1, "h")).await;
    server.stub.emit("h", progress(Event::CallHolding));
    let hold = hold(2, "h");
    let (waited, ()) = tokio::join!(server.post("?wait=ended", &hold), async {
        until("the second is taken", || server.client.metrics().messages_taken() >= 2).await;
        server.stub.emit("h", ended(Outcome::Failed));
    });
    assert_eq!(waited.1["result"]["outcome"], "failed");
    assert_eq!(waited.1["result"]["events"][0]["event"], "CallHolding");
}

#[tokio::test(start_paused = true)]
async fn a_post_waits_for_the_end_of_a_command_whose_beginning_is_no_longer_kept() {
    let server = Server::start(Script::Silent, settings()).await;
    server.post("", &hold(1, "h")).await;
    server.stub.trim(1);
    let hold = hold(2, "h");
    let ((status, answer), ()) = tokio::join!(server.post("?wait=ended", &hold), async {
        until("the second is taken", || server.client.metrics().messages_taken() >= 2).await;
        // Its deadline is 9 s.
        tokio::time::sleep(Duration::from_secs(8)).await;
        server.stub.emit("h", ended(Outcome::Success));
    });
    assert_eq!((status, &answer["result"]["outcome"]), (200, &json!("success")), "{answer}");
}

#[tokio::test]
async fn posts_that_wait_leave_room_for_everybody_else() {
    let server = Server::start(Script::Silent, Settings { requests: 4, ..settings() }).await;
    let (one, two) = (hold(1, "one"), hold(2, "two"));
    let waiting =
        async { tokio::join!(server.post("?wait=ended", &one), server.post("?wait=ended", &two)) };
    let others = async {
        until("two have begun", || server.stub.begun() == 2).await;
        let third = hold(3, "three").to_string();
        let head = "POST /call-api?wait=ended HTTP/1.1";
        let (status, answer) = server.http_whole(head, &third).await;
        assert_eq!(status, 503, "{answer}");
        assert!(answer.to_lowercase().contains("\r\nretry-after: 5\r\n"), "{answer}");
        assert_eq!(server.client.metrics().refused_for("limit"), 1);
        assert_eq!(server.stub.begun(), 2, "what is refused has not begun");
        assert_eq!(server.post("", &hold(4, "four")).await.0, 200);
        assert_eq!(server.connect().await.call(5, "Echo", json!({})).await["id"], 5);
        for id in ["one", "two"] {
            server.stub.emit(id, ended(Outcome::Success));
        }
    };
    let ((one, two), ()) = tokio::join!(waiting, others);
    assert_eq!((one.0, two.0), (200, 200));
    let five = hold(6, "five");
    let (five, ()) = tokio::join!(server.post("?wait=ended", &five), async {
        until("four have begun", || server.stub.begun() == 4).await;
        server.stub.emit("five", ended(Outcome::Success));
    });
    assert_eq!(five.0, 200, "their places are free again");
}

#[tokio::test]
async fn a_post_may_name_the_session_of_a_socket() {
    let server = Server::start(Script::Silent, settings()).await;
    let mut peer = server.connect().await;
    let session = peer.call(1, "Echo", json!({})).await["result"]["session"].clone();
    let (_, _) = (peer.next().await, peer.next().await);
    let query = format!("?session={}", session.as_str().unwrap());
    let (_, answer) = server.post(&query, &hold(1, "h")).await;
    assert_eq!(answer["result"]["session"], session);
    assert_eq!(peer.next().await.unwrap()["params"]["event"], "Started");
    let known = peer.call(2, "CommandGet", json!({"cmd_id": "h"})).await;
    assert_eq!(known["result"]["state"], "running");
    let cancelled = peer.call(3, "CommandCancel", json!({"cmd_id": "h"})).await;
    let (answer, event) = match cancelled.get("params") {
        None => (cancelled, peer.next().await.unwrap()),
        Some(_) => (peer.next().await.unwrap(), cancelled),
    };
    assert_eq!(answer["result"]["cancelling"], true);
    assert_eq!(event["params"]["outcome"], "cancelled");
}

#[tokio::test]
async fn one_clients_flood_does_not_reach_another() {
    let server = Server::start(Script::Silent, settings()).await;
    let (mut one, mut two) = (server.connect().await, server.connect().await);
    one.send(&hold(1, "h")).await;
    one.next().await.unwrap();
    let data = Data { destination: Some("sip:x@y".into()), ..Data::default() };
    server.stub.emit("h", Notice::Progress { event: Event::Transferring, data });
    assert_eq!(one.next().await.unwrap()["params"]["event"], "Transferring");
    assert_eq!(
        two.call(9, "Echo", json!({})).await["id"],
        9,
        "the first thing that comes is its own"
    );
}
