//! The demultiplexer of the Management Interface over UDP, against a peer that answers as told.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use callplane::stack::mi::{MAX_ID, Mi, MiAnswer, MiFailure, MiRequest, PlainReply};
use callplane::stack::opensips::udp::UdpMi;
use serde_json::{Value, json};
use tokio::net::UdpSocket;

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(50);

/// A peer that is told what to send.
struct Peer {
    socket: UdpSocket,
}

impl Peer {
    async fn new() -> (Self, Arc<UdpMi>) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        (Self { socket }, Arc::new(UdpMi::open(&address).await.unwrap()))
    }

    async fn receive(&self) -> (Value, SocketAddr) {
        let mut buffer = vec![0; 65_536];
        let received = tokio::time::timeout(LONG, self.socket.recv_from(&mut buffer)).await;
        let (length, from) = received.expect("a request in time").unwrap();
        (serde_json::from_slice(&buffer[..length]).unwrap(), from)
    }

    async fn send(&self, text: &str, to: SocketAddr) {
        self.socket.send_to(text.as_bytes(), to).await.unwrap();
    }

    async fn answer(&self, request: &Value, result: &Value, to: SocketAddr) {
        let reply = json!({"jsonrpc": "2.0", "result": result, "id": request["id"]});
        self.send(&reply.to_string(), to).await;
    }
}

fn ask(
    mi: &Arc<UdpMi>,
    name: &str,
    timeout: Duration,
) -> tokio::task::JoinHandle<Result<MiAnswer, MiFailure>> {
    let (mi, request) = (Arc::clone(mi), MiRequest::new("echo").text("name", name));
    tokio::spawn(async move { mi.call(request, timeout).await })
}

fn ok(text: &str) -> Result<MiAnswer, MiFailure> {
    Ok(MiAnswer::Result(json!(text)))
}

/// 128 lists of one call, as large as they are, are more than the system's usual buffer holds.
#[tokio::test]
async fn replies_to_many_calls_wait_until_they_are_read() {
    let (peer, mi) = Peer::new().await;
    let calls: Vec<_> = (0..128).map(|n| ask(&mi, &n.to_string(), LONG)).collect();
    let mut requests = Vec::new();
    for _ in 0..128 {
        requests.push(peer.receive().await);
    }
    let list = json!("x".repeat(1500));
    for (request, to) in &requests {
        let reply = json!({"jsonrpc": "2.0", "result": list, "id": request["id"]}).to_string();
        // Without a wait: nothing else runs in this thread, so nobody reads meanwhile.
        peer.socket.try_send_to(reply.as_bytes(), *to).unwrap();
    }
    for call in calls {
        let answer = tokio::time::timeout(LONG / 2, call).await.expect("a reply was lost");
        assert_eq!(answer.unwrap(), Ok(MiAnswer::Result(list.clone())));
    }
}

#[tokio::test]
async fn replies_in_any_order_find_their_calls() {
    let (peer, mi) = Peer::new().await;
    let calls: Vec<_> = (0..50).map(|n| ask(&mi, &n.to_string(), LONG)).collect();
    let mut requests = Vec::new();
    for _ in 0..50 {
        requests.push(peer.receive().await);
    }
    let ids: std::collections::BTreeSet<u64> =
        requests.iter().map(|(request, _)| request["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), 50);
    assert!(ids.iter().all(|id| *id <= u64::from(MAX_ID)));
    for (request, from) in requests.iter().rev() {
        peer.answer(request, &request["params"]["name"], *from).await;
    }
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap(), ok(&n.to_string()));
    }
    assert_eq!(mi.waiting(), 0);
}

#[tokio::test]
async fn a_late_reply_answers_nobody() {
    let (peer, mi) = Peer::new().await;
    assert_eq!(ask(&mi, "late", SHORT).await.unwrap(), Err(MiFailure::Silent));
    let (late, from) = peer.receive().await;
    let next = ask(&mi, "next", LONG);
    let (request, _) = peer.receive().await;
    assert_ne!(late["id"], request["id"]);
    peer.answer(&late, &json!("too late"), from).await;
    // Twice, and once for an id that never was.
    peer.answer(&late, &json!("too late"), from).await;
    peer.answer(&json!({"id": 4_294_967_296_u64}), &json!("clamped"), from).await;
    peer.answer(&request, &json!("in time"), from).await;
    assert_eq!(next.await.unwrap(), ok("in time"));
    assert_eq!(mi.waiting(), 0);
}

#[tokio::test]
async fn a_lost_reply_is_silence_and_leaves_nothing_behind() {
    let (_peer, mi) = Peer::new().await;
    let began = Instant::now();
    let calls: Vec<_> = (0..10).map(|_| ask(&mi, "lost", SHORT)).collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), Err(MiFailure::Silent));
    }
    assert!(began.elapsed() >= SHORT);
    assert_eq!(mi.waiting(), 0);
    let dropped = ask(&mi, "dropped", LONG);
    let asked = async {
        while mi.waiting() == 0 {
            tokio::task::yield_now().await
        }
    };
    tokio::time::timeout(LONG, asked).await.expect("it is asked");
    dropped.abort();
    assert!(dropped.await.unwrap_err().is_cancelled());
    assert_eq!(mi.waiting(), 0);
}

#[tokio::test]
async fn plain_text_is_given_to_a_call_that_is_alone() {
    let (peer, mi) = Peer::new().await;
    let alone = ask(&mi, "alone", LONG);
    let (_, from) = peer.receive().await;
    peer.send("500 Internal error", from).await;
    let plain = PlainReply { code: 500, reason: "Internal error".to_owned() };
    assert_eq!(alone.await.unwrap(), Err(MiFailure::Plain(plain)));

    let garbled = ask(&mi, "garbled", LONG);
    peer.receive().await;
    peer.send("\u{1}nonsense", from).await;
    assert_eq!(garbled.await.unwrap(), Err(MiFailure::Garbled));
}

#[tokio::test]
async fn plain_text_for_one_of_several_is_given_to_none() {
    let (peer, mi) = Peer::new().await;
    let one = ask(&mi, "one", LONG);
    let two = ask(&mi, "two", SHORT);
    let (first, from) = peer.receive().await;
    let (second, _) = peer.receive().await;
    peer.send("400 Parse_error", from).await;
    let one_asked = if first["params"]["name"] == "one" { &first } else { &second };
    peer.answer(one_asked, &json!("one"), from).await;
    assert_eq!(one.await.unwrap(), ok("one"));
    assert_eq!(two.await.unwrap(), Err(MiFailure::Silent));
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_not_sent() {
    let (peer, mi) = Peer::new().await;
    let address = peer.socket.local_addr().unwrap();
    drop(peer);
    let began = Instant::now();
    for _ in 0..20 {
        let asked = ask(&mi, "refused", LONG).await.unwrap();
        assert_eq!(asked, Err(MiFailure::NotSent { reason: "refused" }));
    }
    assert!(began.elapsed() < LONG / 2, "known at once");

    let socket = UdpSocket::bind(address).await.unwrap();
    let peer = Peer { socket };
    let back = ask(&mi, "back", LONG);
    let (request, from) = peer.receive().await;
    peer.answer(&request, &json!("back"), from).await;
    assert_eq!(back.await.unwrap(), ok("back"));
}

#[tokio::test]
async fn a_call_that_was_taken_is_not_called_refused_when_the_peer_dies() {
    let (peer, mi) = Peer::new().await;
    let taken = ask(&mi, "taken", Duration::from_millis(300));
    peer.receive().await;
    drop(peer);
    // The next one finds nobody; that says nothing about the first.
    let refused = ask(&mi, "refused", LONG).await.unwrap();
    assert_eq!(refused, Err(MiFailure::NotSent { reason: "refused" }));
    assert_eq!(taken.await.unwrap(), Err(MiFailure::Silent));
}

#[tokio::test]
async fn a_request_that_the_stack_could_not_read_is_not_sent() {
    let (_peer, mi) = Peer::new().await;
    let asked = ask(&mi, &"x".repeat(65_000), LONG).await.unwrap();
    assert_eq!(asked, Err(MiFailure::TooLong));
}

/// Not a measurement to hold anybody to; printed so that a slow machine or a slow change is seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_under_way_all_come_back() {
    const CALLS: u32 = 20_000;
    const AT_A_TIME: usize = 64;
    let (peer, mi) = Peer::new().await;
    let echo = tokio::spawn(async move {
        loop {
            let (request, from) = peer.receive().await;
            peer.answer(&request, &request["params"]["name"], from).await;
        }
    });
    let places = Arc::new(tokio::sync::Semaphore::new(AT_A_TIME));
    let began = Instant::now();
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..CALLS {
        let place = Arc::clone(&places).acquire_owned().await.unwrap();
        let mi = Arc::clone(&mi);
        calls.spawn(async move {
            let request = MiRequest::new("echo").text("name", n.to_string());
            let answer = mi.call(request, LONG).await;
            drop(place);
            (n, answer)
        });
    }
    while let Some(done) = calls.join_next().await {
        let (n, answer) = done.unwrap();
        assert_eq!(answer, ok(&n.to_string()));
    }
    let took = began.elapsed();
    println!(
        "{CALLS} calls over UDP loopback in {took:?}: {:.0}/s",
        f64::from(CALLS) / took.as_secs_f64()
    );
    echo.abort();
}
