//! The console in a real browser, against a server whose every frame the test decides.
//!
//! The tests say what the page must show for what the server says. They need a Chromium; where there
//! is none they say so by name and pass.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends where it finds a fault"
)]

mod browser;
mod process;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::routing::get;
use browser::{Browser, Page};
use callplane::client::console::{self, Hints};
use process::{ANY_PORTS, Process, SERVES};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Runs a test with a browser, or says that it is skipped.
macro_rules! in_browser {
    ($name:literal, $test:expr) => {
        match browser::chromium() {
            Some(binary) => {
                let _turn = TURNS.read().await;
                let browser = Browser::start(&binary).await;
                $test(&browser).await;
            }
            None => println!("skipped: {} (no chromium)", $name),
        }
    };
}

/// The same with the real binary beside the browser. These run one by one: the server's deadlines
/// are real time, and a row of browsers would starve it.
macro_rules! in_browser_alone {
    ($name:literal, $test:expr) => {
        match browser::chromium() {
            Some(binary) => {
                let _turn = TURNS.write().await;
                let browser = Browser::start(&binary).await;
                $test(&browser).await;
            }
            None => println!("skipped: {} (no chromium)", $name),
        }
    };
}

static TURNS: tokio::sync::RwLock<()> = tokio::sync::RwLock::const_new(());

const ALICE: &str = "sip:alice@demo.callplane";
const BOB: &str = "sip:bob@demo.callplane";
const CAROL: &str = "sip:carol@demo.callplane";

// The server

/// A server with the console and a `/call-api` that says only what the test tells it to.
struct Server {
    address: SocketAddr,
    peers: mpsc::UnboundedReceiver<Peer>,
}

/// The server's end of one WebSocket.
struct Peer {
    requests: mpsc::UnboundedReceiver<Value>,
    out: mpsc::UnboundedSender<Out>,
}

enum Out {
    Text(String),
    Close(u16, String),
    Cut,
}

impl Server {
    async fn start() -> Self {
        let (arrived, peers) = mpsc::unbounded_channel();
        let hints = Hints {
            addresses: ["alice", "bob", "carol", "dave"]
                .map(|name| format!("sip:{name}@demo.callplane"))
                .to_vec(),
            demo: true,
            call_api: None,
        };
        let router = console::router_with(&hints).route(
            "/call-api",
            get(move |upgrade: WebSocketUpgrade| async move {
                upgrade.on_upgrade(move |socket| async move {
                    let (peer, work) = Peer::of(socket);
                    let _ = arrived.send(peer);
                    work.await;
                })
            }),
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, peers }
    }

    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// The next WebSocket that a page opens.
    async fn accept(&mut self) -> Peer {
        timeout(browser::DEADLINE, self.peers.recv())
            .await
            .expect("the page did not connect")
            .unwrap()
    }

    /// A page that shows it is connected.
    async fn connected(&mut self, browser: &Browser) -> (Page, Peer) {
        let page = browser.open(&self.url()).await;
        let peer = self.accept().await;
        page.until("document.querySelector('#link').dataset.state === 'open'").await;
        page.until("document.querySelector('#latency').textContent.endsWith('ms')").await;
        (page, peer)
    }
}

impl Peer {
    fn of(mut socket: WebSocket) -> (Self, impl Future<Output = ()>) {
        let (asked, requests) = mpsc::unbounded_channel();
        let (out, mut outgoing) = mpsc::unbounded_channel();
        let work = async move {
            loop {
                tokio::select! {
                    told = outgoing.recv() => match told {
                        Some(Out::Text(text)) => {
                            let _ = socket.send(Message::Text(text.into())).await;
                        }
                        Some(Out::Close(code, reason)) => {
                            let frame = CloseFrame { code, reason: reason.into() };
                            let _ = socket.send(Message::Close(Some(frame))).await;
                        }
                        Some(Out::Cut) | None => return,
                    },
                    got = socket.recv() => match got {
                        Some(Ok(Message::Text(text))) => {
                            let request: Value = serde_json::from_str(&text).unwrap();
                            match heartbeat(&request) {
                                Some(answer) => {
                                    let _ = socket.send(Message::Text(answer.into())).await;
                                }
                                None => { let _ = asked.send(request); }
                            }
                        }
                        Some(Ok(_)) => {}
                        Some(Err(_)) | None => return,
                    },
                }
            }
        };
        (Self { requests, out }, work)
    }

    /// The next request, which must be this one.
    async fn expect(&mut self, method: &str) -> Value {
        let request = timeout(browser::DEADLINE, self.requests.recv())
            .await
            .unwrap_or_else(|_| panic!("no {method} came"))
            .unwrap_or_else(|| panic!("the page left instead of sending {method}"));
        assert_eq!(request["jsonrpc"], "2.0");
        assert_eq!(request["method"], method, "{request}");
        request
    }

    fn send(&self, frame: Value) {
        self.out.send(Out::Text(frame.to_string())).unwrap_or_else(|_| panic!("the page left"));
    }

    /// Answers a request with `Started` at a position of the stream; gives its command id.
    fn started(&self, request: &Value, seq: u64) -> String {
        let cmd_id = request["params"]["cmd_id"].as_str().unwrap().to_owned();
        self.send(json!({"jsonrpc": "2.0", "id": request["id"], "result": {
            "cmd_id": cmd_id, "event": "Started", "deadline_ms": 61_000, "session": "s-1",
            "epoch": "e-1", "seq": seq,
        }}));
        cmd_id
    }

    fn tell(&self, method: &str, cmd_id: &str, event: &str, seq: u64, more: Value) {
        let mut params = json!({"cmd_id": cmd_id, "event": event, "epoch": "e-1", "seq": seq});
        for (name, value) in more.as_object().unwrap() {
            params[name] = value.clone();
        }
        self.send(json!({"jsonrpc": "2.0", "method": method, "params": params}));
    }

    fn refuse(&self, request: &Value, code: i64, message: &str, data: Value) {
        self.send(json!({"jsonrpc": "2.0", "id": request["id"],
            "error": {"code": code, "message": message, "data": data}}));
    }

    /// Plays a start from `Started` to its end; the new call has this Call-ID.
    fn play_start(&self, request: &Value, callid: &str, first_seq: u64) {
        let params = &request["params"];
        let both = json!({"caller": params["caller"], "callee": params["callee"]});
        let whole =
            json!({"caller": params["caller"], "callee": params["callee"], "callid": callid});
        let id = self.started(request, first_seq);
        let tell = |event: &str, at: u64, more: Value| {
            self.tell("CallStart", &id, event, first_seq + at, more);
        };
        tell("CallerAnswered", 1, json!({"data": both}));
        tell(
            "Transferring",
            2,
            json!({"data": {"caller": params["caller"], "destination": params["callee"]}}),
        );
        tell("TransferStart", 3, json!({"data": whole}));
        let mut ringing = whole.clone();
        ringing["extra"] = json!("180 Ringing");
        tell("TransferPending", 4, json!({"data": ringing}));
        tell("CalleeAnswered", 5, json!({"data": whole}));
        tell("Ended", 6, json!({"outcome": "success"}));
    }

    fn cut(&self) {
        let _ = self.out.send(Out::Cut);
    }

    fn close(&self, code: u16, reason: &str) {
        let _ = self.out.send(Out::Close(code, reason.to_owned()));
    }
}

/// The answer to the page's heartbeat; `None` for any other request.
fn heartbeat(request: &Value) -> Option<String> {
    let id = request["params"]["cmd_id"].as_str()?;
    (request["method"] == "Echo" && id.starts_with("heartbeat-")).then(|| {
        json!({"jsonrpc": "2.0", "id": request["id"], "result": {"cmd_id": id, "event": "Started"}})
            .to_string()
    })
}

/// Fills in the form and presses Enter, as a person would.
async fn start_call(page: &Page, caller: &str, callee: &str) {
    page.fill("#start [data-field=caller] input", caller).await;
    page.fill("#start [data-field=callee] input", callee).await;
    page.key("Enter").await;
}

fn assert_no_complaints(page: &Page) {
    assert_eq!(page.complaints(), Vec::<String>::new());
}

// The page itself

#[tokio::test]
async fn files_are_served_with_a_strict_policy_and_a_tag_for_the_next_visit() {
    let server = Server::start().await;
    let http = Http { address: server.address };
    let (head, body) = http.get("/", None).await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains("content-type: text/html; charset=utf-8"), "{head}");
    assert!(head.contains("x-content-type-options: nosniff"), "{head}");
    assert!(head.contains("cache-control: no-cache"), "{head}");
    assert!(!body.contains("<style") && !body.contains("onclick"), "inline style or script");
    let policy = head.lines().find(|l| l.starts_with("content-security-policy:")).unwrap();
    for forbidden in ["unsafe", "http:", "https:", "data:", "*"] {
        assert!(!policy.contains(forbidden), "{policy}");
    }
    let tag = head.lines().find_map(|l| l.strip_prefix("etag: ")).unwrap().to_owned();
    let (again, empty) = http.get("/", Some(&tag)).await;
    assert!(again.starts_with("http/1.1 304"), "{again}");
    assert_eq!(empty, "");
    let (other, _) = http.get("/", Some("\"else\"")).await;
    assert!(other.starts_with("http/1.1 200"), "{other}");
    let (hints, body) = http.get("/console/hints.json", None).await;
    assert!(hints.contains("content-type: application/json"), "{hints}");
    let hints: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(hints["addresses"][0], ALICE);
    assert_eq!(hints["demo"], true);
}

/// The least of an HTTP client: one GET per connection, headers in lower case.
struct Http {
    address: SocketAddr,
}

impl Http {
    async fn get(&self, path: &str, tag: Option<&str>) -> (String, String) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let tag = tag.map(|t| format!("If-None-Match: {t}\r\n")).unwrap_or_default();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{tag}Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_lowercase(), body.to_owned())
    }
}

#[tokio::test]
async fn the_page_loads_only_from_its_own_server_and_breaks_no_rule() {
    in_browser!(
        "the_page_loads_only_from_its_own_server_and_breaks_no_rule",
        async |browser: &Browser| {
            let mut server = Server::start().await;
            let (page, _peer) = server.connected(browser).await;
            let own = server.address.to_string();
            let requested = page.requested();
            assert!(requested.len() > 10, "{requested:?}");
            for url in &requested {
                let rest = url.split_once("://").map(|(_, rest)| rest).unwrap_or_default();
                assert!(rest.starts_with(&own), "{url} is not of this server");
            }
            assert!(requested.contains(&format!("ws://{own}/call-api")));
            page.until_text("#demo", "simulated phones").await;
            assert_no_complaints(&page);
        }
    );
}

#[tokio::test]
async fn every_control_has_a_name_and_words_have_contrast() {
    in_browser!("every_control_has_a_name_and_words_have_contrast", async |browser: &Browser| {
        let mut server = Server::start().await;
        let (page, mut peer) = server.connected(browser).await;
        start_call(&page, ALICE, BOB).await;
        let request = peer.expect("CallStart").await;
        peer.play_start(&request, "c-1", 1);
        page.until_text(".call .pill", "Talking").await;
        page.click(".call [data-action=transfer]").await;
        page.click("#all-commands summary").await;
        page.click("#open-frames").await;
        let nameless = page.eval(NAMELESS).await;
        assert_eq!(nameless, json!([]));
        for scheme in ["light", "dark"] {
            page.prefer(scheme).await;
            assert_eq!(page.eval(FAINT).await, json!([]), "{scheme}");
        }
    });
}

/// Controls without an accessible name: no label, no text, no `aria-label`.
const NAMELESS: &str = "[...document.querySelectorAll('button, input, select, a, dialog, summary')]
    .filter((e) => !(e.labels?.length || e.innerText?.trim() || e.textContent.trim()
        || e.getAttribute('aria-label') || e.getAttribute('aria-labelledby')))
    .map((e) => e.outerHTML)";

/// Visible words whose contrast with what is behind them is under 4.5 (WCAG 2.2, 1.4.3). Colours that
/// aren't opaque are laid over each other; translucent ancestors and disabled controls are left out.
const FAINT: &str = "(() => {
    const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
    const over = (...colours) => {
        canvas.clearRect(0, 0, 1, 1);
        for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
        return [...canvas.getImageData(0, 0, 1, 1).data.slice(0, 3)];
    };
    const light = (rgb) => {
        const [r, g, b] = rgb.map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const faint = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        const owner = node.parentElement;
        if (!node.data.trim() || !owner.checkVisibility() || owner.closest('option, :disabled, noscript, .unseen')) continue;
        const grounds = [];
        for (let e = owner; e; e = e.parentElement) grounds.unshift(getComputedStyle(e).backgroundColor);
        const back = over(...grounds);
        const front = over(...grounds, getComputedStyle(owner).color);
        const [high, low] = [light(front), light(back)].sort((a, b) => b - a);
        const contrast = (high + 0.05) / (low + 0.05);
        if (contrast < 4.5) faint.push(`${node.data.trim()} ${contrast.toFixed(2)} .${owner.className}`);
    }
    return faint;
})()";

// Commands

#[tokio::test]
async fn a_call_is_started_held_resumed_transferred_and_ended() {
    in_browser!(
        "a_call_is_started_held_resumed_transferred_and_ended",
        async |browser: &Browser| {
            let mut server = Server::start().await;
            let (page, mut peer) = server.connected(browser).await;

            start_call(&page, "alice", BOB).await;
            let start = peer.expect("CallStart").await;
            assert_eq!(start["params"]["caller"], ALICE, "a bare name is completed");
            assert_eq!(start["params"]["callee"], BOB);
            assert!(start["params"].get("ring_timeout").is_none(), "nothing that was not entered");
            page.until_text(".call .pill", "Asking").await;
            let id = peer.started(&start, 1);
            page.until_text(".call .pill", "Calling alice").await;
            page.until_text(".command .word", "running").await;
            page.until_text(".row-deadline", "Ends within").await;
            assert_eq!(start["params"]["ringing"], true, "the page wants to show that it rings");
            let both = json!({"data": {"caller": ALICE, "callee": BOB}});
            peer.tell("CallStart", &id, "CallerRinging", 1, both);
            page.until_text(".call .pill", "alice rings").await;
            peer.tell(
                "CallStart",
                &id,
                "CallerAnswered",
                2,
                json!({"data": {"caller": ALICE, "callee": BOB}}),
            );
            page.until_text(".call .pill", "bob rings").await;
            page.until_text(".event-words", "alice answered").await;
            let whole = json!({"data": {"caller": ALICE, "callee": BOB, "callid": "c-1"}});
            peer.tell("CallStart", &id, "TransferStart", 3, whole.clone());
            peer.tell("CallStart", &id, "CalleeAnswered", 4, whole);
            page.until_text(".call .pill", "Talking").await;
            peer.tell("CallStart", &id, "Ended", 5, json!({"outcome": "success"}));
            page.until_text(".command .word", "success").await;
            page.until_text("#live", "bob answered").await;

            page.click(".call [data-action=hold]").await;
            let hold = peer.expect("CallHold").await;
            assert_eq!(hold["params"]["callid"], "c-1", "the person never saw it");
            let id = peer.started(&hold, 6);
            page.until_text(".call .pill", "Holding").await;
            page.until(
                "document.querySelector('.call [data-action=transfer]').ariaDisabled === 'true'",
            )
            .await;
            for (seq, event, leg) in [
                (7, "CallHoldStart", "caller"),
                (8, "CallHoldSuccessful", "caller"),
                (9, "CallHoldStart", "callee"),
                (10, "CallHoldSuccessful", "callee"),
            ] {
                peer.tell("CallHold", &id, event, seq, json!({"data": {"leg": leg}}));
            }
            page.until_text(".event-words", "bob is on hold").await;
            peer.tell("CallHold", &id, "Ended", 11, json!({"outcome": "success"}));
            page.until_text(".call .pill", "Held").await;

            page.click(".call [data-action=resume]").await;
            let resume = peer.expect("CallUnhold").await;
            let id = peer.started(&resume, 12);
            peer.tell("CallUnhold", &id, "Ended", 13, json!({"outcome": "success"}));
            page.until_text(".call .pill", "Talking").await;

            page.click(".call [data-action=transfer]").await;
            page.fill(".transfer [data-field=destination] input", "carol").await;
            page.until_text(".preview-words", "bob will talk with carol").await;
            page.key("Enter").await;
            let transfer = peer.expect("CallBlindTransfer").await;
            assert_eq!(transfer["params"]["leg"], "callee");
            assert_eq!(transfer["params"]["destination"], CAROL);
            let id = peer.started(&transfer, 14);
            let method = "CallBlindTransfer";
            peer.tell(method, &id, "Transferring", 15, json!({"data": {"destination": CAROL}}));
            let new = json!({"data": {"callid": "c-2", "destination": "sip:carol@127.0.0.1:9"}});
            peer.tell(method, &id, "TransferStart", 16, new.clone());
            page.until_text(".call .pill", "carol rings").await;
            assert_eq!(
                page.eval(
                    "[...document.querySelectorAll('.call:nth-child(2) .actions > :not([hidden], .call-id)')]
                        .map((button) => button.dataset.action)"
                )
                .await,
                json!(["cancel", "end"]),
                "what can be done while it moves"
            );
            peer.tell(method, &id, "TransferSuccessful", 17, new);
            peer.tell(method, &id, "Ended", 18, json!({"outcome": "success"}));
            page.until_text(".call[data-state=ended] .call-note", "Transferred to carol").await;
            page.until_text(".call[data-state=talking] .party-name", "carol").await;
            page.until_text(".call[data-state=talking] .party-name", "bob").await;

            page.click(".call[data-state=talking] [data-action=end]").await;
            let end = peer.expect("CallEnd").await;
            assert_eq!(end["params"]["callid"], "c-2");
            let id = peer.started(&end, 19);
            peer.tell("CallEnd", &id, "Ended", 20, json!({"outcome": "success"}));
            page.until("document.querySelectorAll('.call[data-state=ended]').length === 2").await;
            page.until("!document.querySelector('.call:not([data-state=ended])')").await;
            assert_no_complaints(&page);

            page.click("#forget").await;
            page.until("!document.querySelector('.call, .command')").await;
        }
    );
}

#[tokio::test]
async fn two_calls_are_joined_by_an_attended_transfer() {
    in_browser!("two_calls_are_joined_by_an_attended_transfer", async |browser: &Browser| {
        let mut server = Server::start().await;
        let (page, mut peer) = server.connected(browser).await;
        for (n, callee) in [(1, BOB), (2, CAROL)] {
            start_call(&page, ALICE, callee).await;
            let request = peer.expect("CallStart").await;
            peer.play_start(&request, &format!("c-{n}"), n * 10);
            page.until(&format!(
                "document.querySelectorAll('.call[data-state=talking]').length === {n}"
            ))
            .await;
        }
        // The newest call, alice with carol, stands first.
        page.click(".call [data-action=transfer]").await;
        page.click(".modes .choice:nth-child(2)").await;
        page.until_text(".preview-words", "carol will talk with bob").await;
        page.click(".transfer .primary").await;
        let join = peer.expect("CallAttendedTransfer").await;
        assert_eq!(
            (&join["params"]["callidA"], &join["params"]["legA"]),
            (&json!("c-2"), &json!("callee"))
        );
        assert_eq!(
            (&join["params"]["callidB"], &join["params"]["legB"]),
            (&json!("c-1"), &json!("callee"))
        );
        let id = peer.started(&join, 30);
        let new = json!({"data": {"callid": "c-3", "destination": BOB}});
        peer.tell("CallAttendedTransfer", &id, "Transferring", 31, json!({}));
        peer.tell("CallAttendedTransfer", &id, "TransferStart", 32, new.clone());
        peer.tell("CallAttendedTransfer", &id, "TransferSuccessful", 33, new);
        let ended = json!({"outcome": "success", "replaced": false});
        peer.tell("CallAttendedTransfer", &id, "Ended", 34, ended);
        page.until("document.querySelectorAll('.call[data-state=ended]').length === 2").await;
        let parties = page.text(".call[data-state=talking] .parties").await;
        assert!(parties.contains("carol") && parties.contains("bob"), "{parties}");
        page.until_text(".row-detail", "placed a new call beside the old one").await;
        assert_no_complaints(&page);
    });
}

#[tokio::test]
async fn a_failure_tells_the_words_the_outcome_and_whether_a_call_is_up() {
    in_browser!(
        "a_failure_tells_the_words_the_outcome_and_whether_a_call_is_up",
        async |browser: &Browser| {
            let mut server = Server::start().await;
            let (page, mut peer) = server.connected(browser).await;

            start_call(&page, ALICE, BOB).await;
            let start = peer.expect("CallStart").await;
            let id = peer.started(&start, 1);
            let text = "failed to establish initial call: 486 Busy Here";
            peer.tell(
            "CallStart",
            &id,
            "Error",
            2,
            json!({"data": text, "error": {"code": "caller_busy", "message": "the caller is busy",
                "sip_status": 486, "sip_reason": "Busy Here", "up": "no"}}),
        );
            peer.tell("CallStart", &id, "Ended", 3, json!({"outcome": "failed", "up": "no"}));
            page.until_text(".command .word", "failed").await;
            page.until_text(".row-detail", "486 Busy Here · no call is up").await;
            page.until_text(".call[data-state=ended] .call-note", "486 Busy Here").await;
            page.until_text(".call[data-state=ended] .pill", "Failed").await;
            let colour =
                |of: &str| format!("getComputedStyle(document.querySelector('{of}')).color");
            let bad = page.eval(&colour(".command .word")).await;
            assert_eq!(page.eval(&colour(".call .pill")).await, bad, "one failure, one colour");
            assert_eq!(page.eval(&colour(".event[data-event=Error] .event-words")).await, bad);
            for scheme in ["light", "dark"] {
                page.prefer(scheme).await;
                assert_eq!(page.eval(FAINT).await, json!([]), "{scheme}");
            }
            page.prefer("light").await;

            start_call(&page, ALICE, CAROL).await;
            let start = peer.expect("CallStart").await;
            let id = peer.started(&start, 4);
            peer.tell("CallStart", &id, "Ended", 5, json!({"outcome": "unknown", "up": "unknown"}));
            page.until_text(".command .word", "unknown").await;
            page.until_text(".row-detail", "a call may be up").await;
            page.until_text(".call[data-state=unknown] .pill", "May be up").await;

            for (seq, outcome, words) in
                [(6, "not_started", "not started"), (9, "cancelled", "cancelled")]
            {
                start_call(&page, CAROL, BOB).await;
                let start = peer.expect("CallStart").await;
                let id = peer.started(&start, seq);
                if outcome == "cancelled" {
                    let error = json!({"data": "cancelled", "error":
                        {"code": "cancelled", "message": "cancelled", "up": "no"}});
                    peer.tell("CallStart", &id, "Error", seq + 1, error);
                }
                peer.tell("CallStart", &id, "Ended", seq + 2, json!({"outcome": outcome}));
                page.until_text(".command .word", words).await;
            }
            let step = ".event[data-event=Error] .event-words";
            assert_ne!(page.eval(&colour(step)).await, bad, "what was wished for is no fault");
            page.until_text(".call[data-state=ended] .pill", "Ended").await;
            assert_no_complaints(&page);
        }
    );
}

#[tokio::test]
async fn a_hold_that_one_party_refuses_says_that_the_other_was_taken_back() {
    in_browser!(
        "a_hold_that_one_party_refuses_says_that_the_other_was_taken_back",
        async |browser: &Browser| {
            let mut server = Server::start().await;
            let (page, mut peer) = server.connected(browser).await;
            start_call(&page, ALICE, CAROL).await;
            let request = peer.expect("CallStart").await;
            peer.play_start(&request, "c-1", 1);
            page.until_text(".call .pill", "Talking").await;
            page.click(".call [data-action=hold]").await;
            let hold = peer.expect("CallHold").await;
            let id = peer.started(&hold, 20);
            for (seq, event, leg) in [
                (21, "CallHoldStart", "caller"),
                (22, "CallHoldSuccessful", "caller"),
                (23, "CallHoldStart", "callee"),
            ] {
                peer.tell("CallHold", &id, event, seq, json!({"data": {"leg": leg}}));
            }
            let words = "callee: 488 Not Acceptable Here";
            let error = json!({"data": words, "error": {"code": "leg_refused", "message": words,
                "sip_status": 488, "sip_reason": "Not Acceptable Here", "up": "yes"}});
            peer.tell("CallHold", &id, "Error", 24, error);
            peer.tell("CallHold", &id, "Ended", 25, json!({"outcome": "failed"}));
            page.until_text(".call .pill", "Talking").await;
            let back = "alice was taken off hold again";
            page.until_text(".call .call-note", back).await;
            page.until_text(".command .row-detail", back).await;
            page.until_text(".event[data-event=Ended] .event-words", back).await;
            page.until_text("#live", back).await;
            page.eval("document.activeElement.blur()").await;
            for (scheme, width) in [("light", 1280), ("dark", 1280), ("light", 390)] {
                page.prefer(scheme).await;
                page.size(width, 844, 1.5).await;
                assert_fits(&page, width).await;
                page.eval("document.querySelector('.call').scrollIntoView({block: 'center'})")
                    .await;
                page.picture(&pictures().join(format!("undone-{scheme}-{width}.png"))).await;
            }
            assert_no_complaints(&page);
        }
    );
}

#[tokio::test]
async fn a_hold_that_nobody_knows_of_says_so() {
    in_browser!("a_hold_that_nobody_knows_of_says_so", async |browser: &Browser| {
        let mut server = Server::start().await;
        let (page, mut peer) = server.connected(browser).await;
        start_call(&page, ALICE, BOB).await;
        let request = peer.expect("CallStart").await;
        peer.play_start(&request, "c-1", 1);
        page.until_text(".call .pill", "Talking").await;
        page.click(".call [data-action=hold]").await;
        let hold = peer.expect("CallHold").await;
        let id = peer.started(&hold, 20);
        let error = json!({"data": "the proxy never answered", "error":
            {"code": "reply_lost", "message": "the proxy never answered", "up": "yes"}});
        peer.tell("CallHold", &id, "Error", 21, error);
        peer.tell("CallHold", &id, "Ended", 22, json!({"outcome": "unknown", "up": "yes"}));
        page.until_text(".call .pill", "May be held").await;
        page.eval("document.activeElement.blur()").await;
        for (scheme, width) in [("light", 1280), ("dark", 1280), ("light", 390)] {
            page.prefer(scheme).await;
            page.size(width, 844, 1.5).await;
            assert_fits(&page, width).await;
            page.eval("document.querySelector('.call').scrollIntoView({block: 'center'})").await;
            page.picture(&pictures().join(format!("doubt-{scheme}-{width}.png"))).await;
        }
        // The way out is to let them talk again.
        page.size(1280, 844, 1.5).await;
        page.click(".call [data-action=resume]").await;
        let resume = peer.expect("CallUnhold").await;
        let id = peer.started(&resume, 30);
        peer.tell("CallUnhold", &id, "Ended", 31, json!({"outcome": "success"}));
        page.until_text(".call .pill", "Talking").await;
        assert_no_complaints(&page);
    });
}

#[tokio::test]
async fn a_refusal_is_shown_where_it_belongs() {
    in_browser!("a_refusal_is_shown_where_it_belongs", async |browser: &Browser| {
        let mut server = Server::start().await;
        let (page, mut peer) = server.connected(browser).await;

        // What is missing is said without asking the server, all of it at once.
        page.click("#start .primary").await;
        page.until_text("[data-field=caller] .field-error", "Caller is needed").await;
        page.until_text("[data-field=callee] .field-error", "Callee is needed").await;
        page.until("document.activeElement.closest('[data-field=caller]')").await;
        page.fill("#start [data-field=caller] input", ALICE).await;
        page.key("Enter").await;
        page.until_text("[data-field=callee] .field-error", "Callee is needed").await;
        page.until("document.activeElement.closest('[data-field=callee]')").await;

        // A bad value is marked at its field, which gets the focus.
        start_call(&page, ALICE, "sip:b ob@x").await;
        let request = peer.expect("CallStart").await;
        let data =
            json!({"kind": "bad_params", "field": "callee", "reason": "must be a SIP address"});
        peer.refuse(&request, -32602, "Invalid params", data);
        page.until_text("#start [data-field=callee] .field-error", "Must be a SIP address.").await;
        page.until(
            "document.querySelector('#start [data-field=callee] input').ariaInvalid === 'true'",
        )
        .await;
        page.until("document.activeElement.closest('[data-field=callee]')").await;
        page.until("!document.querySelector('.call')").await;
        page.until_text(".command .word", "refused").await;

        page.picture(&pictures().join("refused-light.png")).await;

        // Mending it takes the mark away.
        page.fill("#start [data-field=callee] input", BOB).await;
        page.until("document.querySelector('#start [data-field=callee] .field-error').hidden")
            .await;

        // A field behind "More options" is brought to light.
        page.click("#start .more summary").await;
        page.fill("#start [data-field=ring_timeout] input", "999").await;
        page.click("#start .more summary").await;
        page.click("#start .primary").await;
        let request = peer.expect("CallStart").await;
        assert_eq!(request["params"]["ring_timeout"], 999, "a number, not a string");
        let data =
            json!({"kind": "bad_params", "field": "ring_timeout", "reason": "must be 1 to 60"});
        peer.refuse(&request, -32602, "Invalid params", data);
        page.until_text("[data-field=ring_timeout] .field-error", "Must be 1 to 60.").await;
        page.fill("#start [data-field=ring_timeout] input", "20").await;

        // What has no field stands above the button and leads to the command in the way.
        page.click("#start .primary").await;
        let first = peer.expect("CallStart").await;
        let running = peer.started(&first, 1);
        page.click("#start .primary").await;
        let second = peer.expect("CallStart").await;
        let data = json!({"kind": "caller_busy", "cmd_id": running});
        peer.refuse(&second, -32001, "Another start of this caller is running", data);
        page.until_text("#start .form-alert", "being started already").await;
        page.click("#start .form-alert button").await;
        page.until(&format!("document.activeElement.dataset.command === {} ", json!(running)))
            .await;

        // And it can be cancelled from its row.
        page.click(".row-cancel").await;
        let cancel = peer.expect("CommandCancel").await;
        assert_eq!(cancel["params"]["cmd_id"], json!(running));
        peer.send(json!({"jsonrpc": "2.0", "id": cancel["id"], "result": {"cmd_id": running, "cancelling": true}}));
        peer.tell(
            "CallStart",
            &running,
            "Error",
            2,
            json!({"data": "cancelled", "error": {"code": "cancelled", "up": "no"}}),
        );
        peer.tell("CallStart", &running, "Ended", 3, json!({"outcome": "cancelled", "up": "no"}));
        page.until_text(".command .word", "cancelled").await;

        // On a call's own form too.
        start_call(&page, ALICE, BOB).await;
        let request = peer.expect("CallStart").await;
        peer.play_start(&request, "c-1", 10);
        page.click(".call [data-action=transfer]").await;
        page.fill(".transfer [data-field=destination] input", "sip:x y@z").await;
        page.key("Enter").await;
        let request = peer.expect("CallBlindTransfer").await;
        let data = json!({"kind": "bad_params", "field": "destination", "reason": "must be a SIP address"});
        peer.refuse(&request, -32602, "Invalid params", data);
        page.until_text(".transfer .field-error", "Must be a SIP address.").await;
        assert_no_complaints(&page);
    });
}

#[tokio::test]
async fn every_command_has_a_form() {
    in_browser!("every_command_has_a_form", async |browser: &Browser| {
        let mut server = Server::start().await;
        let (page, mut peer) = server.connected(browser).await;
        start_call(&page, ALICE, BOB).await;
        let request = peer.expect("CallStart").await;
        peer.play_start(&request, "c-1", 1);
        page.until_text(".call .pill", "Talking").await;
        page.click("#all-commands > summary").await;
        let choose = async |method: &str| {
            page.eval(&format!(
                "(() => {{ const s = document.querySelector('#method'); s.value = {};
                   s.dispatchEvent(new Event('change', {{bubbles: true}})); }})()",
                json!(method)
            ))
            .await;
        };

        for method in ["CallHold", "CallUnhold", "CallEnd"] {
            choose(method).await;
            page.until_text("#command select", "alice and bob").await;
            page.click("#command .primary").await;
            let request = peer.expect(method).await;
            assert_eq!(request["params"]["callid"], "c-1");
            peer.refuse(
                &request,
                -32010,
                "The store can't be reached",
                json!({"kind": "store_unavailable", "retry_after_ms": 1500}),
            );
            page.until_text("#command .form-alert", "Try again in 2 s").await;
        }

        choose("CallBlindTransfer").await;
        page.until_text("#command .choices", "bob (callee)").await;
        page.fill("#command [data-field=destination] input", "carol").await;
        page.key("Enter").await;
        let request = peer.expect("CallBlindTransfer").await;
        assert_eq!(request["params"]["leg"], "caller");
        assert_eq!(request["params"]["destination"], CAROL);

        // Any other call by its Call-ID.
        choose("CallAttendedTransfer").await;
        page.eval(
            "(() => { const s = document.querySelector('#command [data-field=callidB] select');
               s.selectedIndex = s.options.length - 1;
               s.dispatchEvent(new Event('change', {bubbles: true})); })()",
        )
        .await;
        page.fill("#command [data-field=callidB] input", "elsewhere@pbx").await;
        page.click("#command .primary").await;
        let request = peer.expect("CallAttendedTransfer").await;
        assert_eq!(request["params"]["callidB"], "elsewhere@pbx");

        page.click("#command .more summary").await;
        page.eval("document.querySelector('#all-commands').scrollIntoView()").await;
        page.picture(&pictures().join("commands-light.png")).await;
        choose("Echo").await;
        page.fill("#command [data-field=message] input", "hello").await;
        page.key("Enter").await;
        let request = peer.expect("Echo").await;
        assert_eq!(request["params"]["message"], "hello");
        let id = peer.started(&request, 9);
        let params = json!({"cmd_id": id, "event": "Echo", "data": {"message": "hello"}});
        peer.send(json!({"jsonrpc": "2.0", "method": "Echo", "params": params}));
        peer.send(
            json!({"jsonrpc": "2.0", "method": "Echo", "params": {"cmd_id": id, "event": "Ended"}}),
        );
        page.until_text(".command[data-method=Echo] .word", "success").await;
        page.until_text(".command[data-method=Echo] .event-words", "Came back").await;

        choose("CommandGet").await;
        page.click("#command .primary").await;
        let request = peer.expect("CommandGet").await;
        let id = request["params"]["cmd_id"].clone();
        peer.send(json!({"jsonrpc": "2.0", "id": request["id"],
            "result": {"cmd_id": id, "method": "Echo", "outcome": "success"}}));
        page.until_text("#command .answer", "\"outcome\": \"success\"").await;
        assert_no_complaints(&page);
    });
}

#[tokio::test]
async fn the_whole_page_works_by_keyboard_alone() {
    in_browser!("the_whole_page_works_by_keyboard_alone", async |browser: &Browser| {
        let mut server = Server::start().await;
        let (page, mut peer) = server.connected(browser).await;
        page.key("n").await;
        page.until("document.activeElement.closest('[data-field=caller]')").await;
        page.insert("alice").await;
        for _ in 0..9 {
            // Past the suggestions to the next field.
            page.key("Tab").await;
            if page
                .eval("Boolean(document.activeElement.matches('[data-field=callee] input'))")
                .await
                == json!(true)
            {
                break;
            }
        }
        page.insert("h").await; // a shortcut's letter is a letter in a field
        page.insert("bob").await;
        page.key("Enter").await;
        let request = peer.expect("CallStart").await;
        assert_eq!(request["params"]["callee"], "sip:hbob@demo.callplane");
        peer.play_start(&request, "c-1", 1);
        page.until_text(".call .pill", "Talking").await;
        page.key("Escape").await;
        page.key("j").await;
        page.until("document.activeElement.matches('.call')").await;
        let ring = page.eval("getComputedStyle(document.activeElement).outlineStyle").await;
        assert_eq!(ring, "solid", "the focus is visible");

        page.key("h").await;
        let hold = peer.expect("CallHold").await;
        let id = peer.started(&hold, 10);
        peer.tell("CallHold", &id, "Ended", 11, json!({"outcome": "success"}));
        page.until_text(".call .pill", "Held").await;
        page.key("h").await;
        let resume = peer.expect("CallUnhold").await;
        let id = peer.started(&resume, 12);
        peer.tell("CallUnhold", &id, "Ended", 13, json!({"outcome": "success"}));
        page.until_text(".call .pill", "Talking").await;

        // A button keeps the focus while what it does changes; when it goes, its call takes it.
        page.eval("document.querySelector('[data-action=hold]').focus()").await;
        page.key("Enter").await;
        let hold = peer.expect("CallHold").await;
        let id = peer.started(&hold, 20);
        page.until_text(".call .pill", "Holding").await;
        page.key("Enter").await; // does nothing while the call is busy
        peer.tell("CallHold", &id, "Ended", 21, json!({"outcome": "success"}));
        page.until_text(".call .pill", "Held").await;
        page.until("document.activeElement.dataset.action === 'resume'").await;
        page.key("Enter").await;
        let resume = peer.expect("CallUnhold").await;
        let id = peer.started(&resume, 22);
        peer.tell("CallUnhold", &id, "Ended", 23, json!({"outcome": "success"}));
        page.until_text(".call .pill", "Talking").await;

        page.key("t").await;
        page.until("document.activeElement.closest('.transfer [data-field=destination]')").await;
        page.key("Escape").await;
        page.until("document.querySelector('.transfer').hidden").await;
        page.until("document.activeElement.dataset.action === 'transfer'").await;

        page.key("?").await;
        page.until("document.querySelector('#help').open").await;
        page.until_text("#help-keys", "Hold or resume the call").await;
        page.key("h").await; // rests while the help is open
        page.key("Escape").await;
        page.until("!document.querySelector('#help').open").await;

        page.key("f").await;
        page.until("!document.querySelector('#frames').hidden").await;
        page.key("Escape").await;
        page.until("document.querySelector('#frames').hidden").await;

        page.key("j").await;
        page.key("e").await;
        page.until("document.activeElement.dataset.action === 'end'").await;
        page.key("Enter").await;
        let end = peer.expect("CallEnd").await;
        let id = peer.started(&end, 24);
        peer.tell("CallEnd", &id, "Ended", 25, json!({"outcome": "success"}));
        page.until("!document.querySelector('.call:not([data-state=ended])')").await;
        page.until("document.activeElement.matches('.call')").await;

        // Single keys can be switched off.
        page.key("?").await;
        page.click("#keys-on").await;
        page.key("Escape").await;
        page.until("!document.querySelector('#help').open").await;
        page.key("f").await;
        assert_eq!(page.eval("document.querySelector('#frames').hidden").await, json!(true));
        assert_no_complaints(&page);
    });
}

// The connection

#[tokio::test]
async fn who_took_the_offer_stands_on_its_call() {
    in_browser!("who_took_the_offer_stands_on_its_call", async |browser: &Browser| {
        let mut server = Server::start().await;
        let (page, mut peer) = server.connected(browser).await;
        page.eval("document.querySelector('#try').focus()").await;
        page.key("Enter").await;
        let request = peer.expect("CallStart").await;
        peer.started(&request, 1);
        page.until_text(".call .pill", "Calling alice").await;
        page.until("document.activeElement.matches('.call')").await;
        assert_no_complaints(&page);
    });
}

#[tokio::test]
async fn a_lost_connection_is_taken_up_where_it_was() {
    in_browser!("a_lost_connection_is_taken_up_where_it_was", async |browser: &Browser| {
        let mut server = Server::start().await;
        let (page, mut peer) = server.connected(browser).await;
        start_call(&page, ALICE, BOB).await;
        let request = peer.expect("CallStart").await;
        let id = peer.started(&request, 1);
        page.until_text(".call .pill", "Calling alice").await;
        // A request whose answer is lost is repeated with its id.
        start_call(&page, CAROL, BOB).await;
        let unanswered = peer.expect("CallStart").await;
        peer.cut();

        let mut peer = server.accept().await;
        let resume = peer.expect("Resume").await;
        assert_eq!(resume["params"], json!({"session": "s-1", "epoch": "e-1", "seq": 1}));
        peer.send(json!({"jsonrpc": "2.0", "id": resume["id"], "result":
            {"recovered": true, "session": "s-1", "epoch": "e-1", "seq": 3}}));
        let repeated = peer.expect("CallStart").await;
        assert_eq!(repeated["params"], unanswered["params"], "the same command, the same id");
        let data = json!({"data": {"caller": ALICE, "callee": BOB}});
        peer.tell("CallStart", &id, "CallerAnswered", 2, data.clone());
        peer.tell("CallStart", &id, "CallerAnswered", 2, data);
        page.until_text(".notice", "Nothing was missed").await;
        page.until_text(".call .pill", "bob rings").await;
        page.until_text("#link", "Connected").await;
        assert_eq!(
            page.eval("document.querySelectorAll('[data-event=CallerAnswered]').length").await,
            json!(1),
            "said once"
        );
        let done = json!({"outcome": "success"});
        let whole = json!({"data": {"caller": ALICE, "callee": BOB, "callid": "c-1"}});
        peer.tell("CallStart", &id, "CalleeAnswered", 3, whole);
        peer.tell("CallStart", &id, "Ended", 4, done);
        peer.refuse(&repeated, -32010, "no", json!({"kind": "other"}));
        page.until("document.querySelectorAll('.call').length === 1").await;

        // A reload keeps what was seen and goes on from there.
        page.reload().await;
        let mut peer = server.accept().await;
        let resume = peer.expect("Resume").await;
        assert_eq!(resume["params"], json!({"session": "s-1", "epoch": "e-1", "seq": 4}));
        peer.send(json!({"jsonrpc": "2.0", "id": resume["id"], "result":
            {"recovered": true, "session": "s-1", "epoch": "e-1", "seq": 4}}));
        page.until_text(".call .pill", "Talking").await;
        page.until_text(".command .word", "success").await;
        assert_no_complaints(&page);
    });
}

#[tokio::test]
async fn after_a_refused_resume_nothing_is_repeated() {
    in_browser!("after_a_refused_resume_nothing_is_repeated", async |browser: &Browser| {
        let mut server = Server::start().await;
        let (page, mut peer) = server.connected(browser).await;
        start_call(&page, ALICE, BOB).await;
        let answered = peer.expect("CallStart").await;
        let answered = peer.started(&answered, 1);
        page.until_text(".call .pill", "Calling alice").await;
        start_call(&page, CAROL, BOB).await;
        let unanswered = peer.expect("CallStart").await;
        peer.cut();

        // In another session the id would be a new one, and the repeat a second call.
        let mut peer = server.accept().await;
        let resume = peer.expect("Resume").await;
        peer.refuse(&resume, -32005, "no", json!({"kind": "resume_refused"}));
        for id in [&json!(answered), &unanswered["params"]["cmd_id"]] {
            let get = peer.expect("CommandGet").await;
            assert_eq!(&get["params"]["cmd_id"], id);
            peer.refuse(&get, -32003, "No such command", json!({"kind": "unknown_command"}));
        }
        page.until_text(".notice", "could not be taken up again").await;
        page.until(
            "[...document.querySelectorAll('.command .word')].every(w => w.textContent === 'unknown')",
        )
        .await;
        page.until("document.querySelectorAll('.call[data-state=unknown]').length === 2").await;
        assert_no_complaints(&page);
    });
}

#[tokio::test]
async fn without_a_session_nothing_is_repeated() {
    in_browser!("without_a_session_nothing_is_repeated", async |browser: &Browser| {
        let mut server = Server::start().await;
        let (page, mut peer) = server.connected(browser).await;
        // The stand-in for the heartbeat's answer names no session, as an old server's.
        start_call(&page, ALICE, BOB).await;
        peer.expect("CallStart").await;
        peer.cut();
        let mut peer = server.accept().await;
        let get = peer.expect("CommandGet").await;
        peer.refuse(&get, -32601, "Method not found", json!({"kind": "method_not_found"}));
        page.until_text(".command .word", "unknown").await;
        assert_no_complaints(&page);
    });
}

#[tokio::test]
async fn a_gap_is_said_plainly_and_running_commands_are_looked_up() {
    in_browser!(
        "a_gap_is_said_plainly_and_running_commands_are_looked_up",
        async |browser: &Browser| {
            let mut server = Server::start().await;
            let (page, mut peer) = server.connected(browser).await;
            let mut ids = Vec::new();
            for (seq, caller) in [(1, ALICE), (2, CAROL)] {
                start_call(&page, caller, BOB).await;
                let request = peer.expect("CallStart").await;
                ids.push(peer.started(&request, seq));
                page.until(&format!(
                    "document.querySelectorAll('.call[data-state=ringing]').length === {seq}"
                ))
                .await;
            }
            peer.cut();

            let mut peer = server.accept().await;
            let resume = peer.expect("Resume").await;
            peer.send(json!({"jsonrpc": "2.0", "id": resume["id"], "result":
            {"recovered": false, "reason": "restarted", "session": "s-1", "epoch": "e-2", "seq": 0}}));
            page.until_text(".notice", "restarted").await;
            page.until_text(".notice", "2 commands were still running").await;
            let known = peer.expect("CommandGet").await;
            assert_eq!(known["params"]["cmd_id"], json!(ids[0]));
            peer.send(json!({"jsonrpc": "2.0", "id": known["id"], "result":
            {"cmd_id": ids[0], "outcome": "failed", "up": "no"}}));
            let gone = peer.expect("CommandGet").await;
            assert_eq!(gone["params"]["cmd_id"], json!(ids[1]));
            peer.refuse(&gone, -32003, "No such command", json!({"kind": "unknown_command"}));
            page.until_text(".command .word", "failed").await;
            page.until_text(".command .word", "unknown").await;
            page.until_text(".row-detail", "the server has no record of it any more").await;
            page.until("!document.querySelector('.notice').innerText.includes('looked up')").await;
            page.until_text(".notice", "restarted").await;
            assert_eq!(
                page.eval("document.querySelector('#timeline').innerText.includes('may be up')")
                    .await,
                json!(false),
                "a demo's phones end with it"
            );
            // The simulated phones of a demo end with it.
            page.until("document.querySelectorAll('.call[data-state=ended]').length === 2").await;

            page.picture(&pictures().join("gap-light.png")).await;

            // The new epoch's position is the one to resume from.
            peer.cut();
            let mut peer = server.accept().await;
            let resume = peer.expect("Resume").await;
            assert_eq!(resume["params"], json!({"session": "s-1", "epoch": "e-2", "seq": 0}));
        }
    );
}

#[tokio::test]
async fn one_command_is_spoken_of_as_one() {
    in_browser!("one_command_is_spoken_of_as_one", async |browser: &Browser| {
        let mut server = Server::start().await;
        let (page, mut peer) = server.connected(browser).await;
        start_call(&page, ALICE, BOB).await;
        let request = peer.expect("CallStart").await;
        peer.started(&request, 1);
        page.until_text(".call .pill", "Calling alice").await;
        peer.cut();
        let mut peer = server.accept().await;
        let resume = peer.expect("Resume").await;
        peer.refuse(&resume, -32005, "no", json!({"kind": "resume_refused"}));
        page.until_text(".notice", "1 command was still running; its outcome is being").await;
        let get = peer.expect("CommandGet").await;
        // As long as the server can't say, it stays so.
        let id = request["params"]["cmd_id"].as_str().unwrap();
        peer.refuse(&get, -32010, "no store", json!({"kind": "store_unavailable"}));
        let both = json!({"data": {"caller": ALICE, "callee": BOB}});
        peer.tell("CallStart", id, "CallerAnswered", 2, both);
        page.until_text(".call .pill", "bob rings").await;
        page.until_text(".notice", "its outcome is being looked up").await;
        peer.tell("CallStart", id, "Ended", 3, json!({"outcome": "failed", "up": "no"}));
        page.until("!document.querySelector('.notice').innerText.includes('looked up')").await;
        page.until_text(".notice", "could not be taken up again").await;
        assert_no_complaints(&page);
    });
}

#[tokio::test]
async fn what_was_told_last_is_shown_as_such() {
    in_browser!("what_was_told_last_is_shown_as_such", async |browser: &Browser| {
        let mut server = Server::start().await;
        let (page, mut peer) = server.connected(browser).await;
        start_call(&page, ALICE, BOB).await;
        let request = peer.expect("CallStart").await;
        peer.play_start(&request, "c-1", 1);
        page.until_text(".call .pill", "Talking").await;
        // Phones that hang up by themselves are not told.
        page.until_text("#calls-count", "1 live, as last told").await;
        start_call(&page, CAROL, "erin").await;
        let request = peer.expect("CallStart").await;
        let id = peer.started(&request, 20);
        let both = json!({"data": {"caller": CAROL, "callee": "sip:erin@demo.callplane"}});
        peer.tell("CallStart", &id, "CallerAnswered", 21, both);
        page.until_text(".call .pill", "erin rings").await;
        page.until("/^0:0[1-9]$/.test(document.querySelector('.call .clock').textContent)").await;
        page.eval("document.activeElement.blur()").await;
        let clocks = "[...document.querySelectorAll('.call .clock')].map((c) => c.textContent)";
        let alive = page.eval(clocks).await;
        assert!(!alive.to_string().contains("last told"), "{alive}");
        peer.cut();

        let mut peer = server.accept().await;
        let resume = peer.expect("Resume").await;
        page.until(
            "[...document.querySelectorAll('.call .clock')].every((c) => c.textContent.endsWith('as last told'))",
        )
        .await;
        page.until("document.querySelector('#calls.away')").await;
        let away = page.eval(clocks).await;
        page.eval("globalThis.until = performance.now() + 1300").await;
        page.until("performance.now() > globalThis.until").await;
        assert_eq!(page.eval(clocks).await, away, "the clocks stand");
        for (scheme, width) in [("light", 1280), ("dark", 1280), ("light", 390)] {
            page.prefer(scheme).await;
            page.size(width, 844, 1.5).await;
            assert_fits(&page, width).await;
            assert_eq!(page.eval(FAINT).await, json!([]), "{scheme}");
            page.eval("document.querySelector('.call').scrollIntoView({block: 'center'})").await;
            page.picture(&pictures().join(format!("away-{scheme}-{width}.png"))).await;
        }

        peer.send(json!({"jsonrpc": "2.0", "id": resume["id"], "result":
            {"recovered": true, "session": "s-1", "epoch": "e-1", "seq": 21}}));
        page.until("!document.querySelector('#calls.away')").await;
        page.until(
            "[...document.querySelectorAll('.call .clock')].every((c) => /^\\d+:\\d\\d$/.test(c.textContent))",
        )
        .await;
        assert_no_complaints(&page);
    });
}

#[tokio::test]
async fn a_close_that_says_do_not_come_back_is_obeyed() {
    in_browser!("a_close_that_says_do_not_come_back_is_obeyed", async |browser: &Browser| {
        let mut server = Server::start().await;
        let (page, peer) = server.connected(browser).await;
        peer.close(4500, "not allowed");
        page.until_text(".notice", "not allowed").await;
        page.until_text("#link", "Closed by the server").await;
        start_call(&page, ALICE, BOB).await;
        page.until_text("#start .form-alert", "Nothing was sent").await;
        page.until("!document.querySelector('.call')").await;
        // The person may still ask for it.
        page.click("#retry").await;
        let _peer = server.accept().await;
        page.until_text("#link", "Connected").await;
        assert_no_complaints(&page);
    });
}

// Safety and frames

#[tokio::test]
async fn nothing_from_the_wire_becomes_markup() {
    in_browser!("nothing_from_the_wire_becomes_markup", async |browser: &Browser| {
        const EVIL: &str =
            "<img src=x onerror=\"window.broken=1\"><script>window.broken=1</script>";
        let mut server = Server::start().await;
        let (page, mut peer) = server.connected(browser).await;
        page.click("#open-frames").await;
        start_call(&page, ALICE, BOB).await;
        let request = peer.expect("CallStart").await;
        let id = peer.started(&request, 1);
        let evil = format!("\"{EVIL}\" <sip:{EVIL}@x>");
        let whole =
            json!({"data": {"caller": evil, "callee": evil, "callid": EVIL, "extra": EVIL}});
        for (seq, event) in
            [(2, "CallerAnswered"), (3, "TransferStart"), (4, "TransferPending"), (5, EVIL)]
        {
            peer.tell("CallStart", &id, event, seq, whole.clone());
        }
        peer.tell(
            "CallStart",
            &id,
            "Error",
            6,
            json!({"data": EVIL, "error": {"code": EVIL, "message": EVIL}}),
        );
        peer.tell("CallStart", &id, "Ended", 7, json!({"outcome": EVIL, "up": EVIL}));
        peer.tell(EVIL, EVIL, EVIL, 8, json!({"data": {"caller": EVIL}}));
        start_call(&page, ALICE, BOB).await;
        let request = peer.expect("CallStart").await;
        peer.refuse(
            &request,
            -32602,
            EVIL,
            json!({"kind": EVIL, "field": "caller", "cmd_id": EVIL}),
        );
        page.until_text("#start .field-error", "<img src=x").await;
        page.until_text(".row-detail", "<img src=x").await;
        page.until_text(".frame code", "<script>").await;
        page.until("!document.querySelector('main img, main script, #frames img')").await;
        assert_eq!(page.eval("window.broken === undefined").await, json!(true));

        // Nor does nonsense stop the page.
        for nonsense in [
            json!(null),
            json!(7),
            json!("x"),
            json!([]),
            json!([null, 1, {}]),
            json!({"id": 1}),
            json!({"method": 5}),
            json!({"method": "CallStart"}),
            json!({"method": "CallStart", "params": null}),
            json!({"method": "CallStart", "params": {"cmd_id": "odd", "event": null, "data": 5, "seq": "x"}}),
            json!({"id": 1, "result": null}),
            json!({"id": 1, "error": null}),
            json!({"method": "__proto__", "params": {"cmd_id": "__proto__", "event": "Ended"}}),
        ] {
            peer.send(nonsense);
        }
        peer.out.send(Out::Text("no json at all".to_owned())).unwrap_or_else(|_| panic!("left"));
        page.until_text(".frame code", "no json at all").await;
        start_call(&page, ALICE, BOB).await;
        let request = peer.expect("CallStart").await;
        peer.play_start(&request, "c-9", 20);
        page.until_text(".call .pill", "Talking").await;
        assert_no_complaints(&page);
    });
}

#[tokio::test]
async fn frames_are_shown_as_they_went_and_can_be_sent_by_hand() {
    in_browser!(
        "frames_are_shown_as_they_went_and_can_be_sent_by_hand",
        async |browser: &Browser| {
            let mut server = Server::start().await;
            let (page, mut peer) = server.connected(browser).await;
            page.click("#open-frames").await;
            page.fill("#raw-text", r#"{"jsonrpc":"2.0","id":"by-hand","method":"rpc.discover"}"#)
                .await;
            page.key("Enter").await;
            let request = peer.expect("rpc.discover").await;
            assert_eq!(request["id"], "by-hand");
            peer.send(json!({"jsonrpc": "2.0", "id": "by-hand", "result": {"openrpc": "1.3.2"}}));
            page.until_text(".frame[data-direction=out] code", "by-hand").await;
            page.until_text(".frame[data-direction=in] code", r#""openrpc":"1.3.2""#).await;
            let seen = page.text("#frame-list").await;
            assert!(!seen.contains("heartbeat-"), "the heartbeat is kept out until asked for");
            page.click("#show-heartbeat").await;
            page.until_text(".frame code", "heartbeat-").await;
            page.click("#show-heartbeat").await;
            page.click("#clear-frames").await;
            page.until("!document.querySelector('.frame')").await;
            assert_no_complaints(&page);
        }
    );
}

// The real thing: the demo of the binary, with its simulated proxy and phones

/// The demo on a port, 0 for any.
fn start_demo(port: u16) -> Process {
    Process::callplane(&["demo", "--port", &port.to_string()], &[], "http://")
}

/// The console of a server that runs, once it is connected.
async fn console_of(server: &Process, browser: &Browser) -> Page {
    let page = browser.open(&format!("http://{}/", server.clients)).await;
    page.until_text("#link", "Connected").await;
    page
}

#[tokio::test]
async fn the_demo_does_all_that_its_readme_tells() {
    in_browser_alone!("the_demo_does_all_that_its_readme_tells", async |browser: &Browser| {
        let demo = start_demo(0);
        let page = console_of(&demo, browser).await;
        page.until_text("#demo", "simulated phones").await;
        page.prefer("light").await;
        page.size(1280, 860, 1.5).await;

        // Alice to bob, by the suggestion of the empty page.
        page.click("#try").await;
        page.until_text(".call .pill", "bob rings").await;
        page.until_text(".call .pill", "Talking").await;
        page.until_text(".command .word", "success").await;

        page.click(".call [data-action=hold]").await;
        page.until_text(".call .pill", "Held").await;
        page.until_text(".event-words", "bob is on hold").await;
        page.click(".call [data-action=resume]").await;
        page.until_text(".call .pill", "Talking").await;

        page.click(".call [data-action=transfer]").await;
        page.fill(".transfer [data-field=destination] input", "carol").await;
        page.key("Enter").await;
        page.until_text(".call[data-state=talking] .party-name", "carol").await;
        page.until_text(".call[data-state=ended] .call-note", "Transferred to carol").await;

        // Carol refuses to be held: it is told, and the call goes on.
        page.click(".call[data-state=talking] [data-action=hold]").await;
        page.until_text(".command .word", "failed").await;
        page.until_text(".row-detail", "488").await;
        page.until_text(".row-detail", "was taken off hold again").await;
        page.until_text(".call[data-state=talking] .pill", "Talking").await;
        page.click(".call[data-state=talking] [data-action=end]").await;
        page.until("!document.querySelector('.call:not([data-state=ended])')").await;

        // Dave is busy, and nobody is left in a half-made call.
        start_call(&page, "alice", "dave").await;
        page.until_text(".command[data-tone=bad] .row-detail", "486 Busy Here").await;

        // A bad address is refused at its field.
        start_call(&page, "alice", "sip:b ob@x").await;
        page.until("document.querySelector('#start [data-field=callee] .field-error').innerText")
            .await;
        assert_no_complaints(&page);
    });
}

#[tokio::test]
async fn the_demo_cancels_what_rings() {
    in_browser_alone!("the_demo_cancels_what_rings", async |browser: &Browser| {
        let demo = start_demo(0);
        let page = console_of(&demo, browser).await;
        start_call(&page, "alice", "erin").await;
        page.until_text(".call .pill", "erin rings").await;
        page.click(".call [data-action=cancel]").await;
        page.until_text(".command .word", "cancelled").await;
        page.until("document.querySelector('.call[data-state=ended]')").await;
        assert_no_complaints(&page);
    });
}

#[tokio::test]
async fn the_demo_takes_a_session_up_after_a_cut_and_says_when_it_was_restarted() {
    in_browser_alone!(
        "the_demo_takes_a_session_up_after_a_cut_and_says_when_it_was_restarted",
        async |browser: &Browser| {
            let demo = start_demo(0);
            let mut wire = Wire::to(demo.clients).await;
            let page = browser.open(&format!("http://{}/", wire.address)).await;
            page.until_text("#link", "Connected").await;
            start_call(&page, "alice", "bob").await;
            page.until_text(".call .pill", "bob rings").await;
            wire.cut();
            page.until_text(".notice", "Nothing was missed").await;
            page.until_text(".call .pill", "Talking").await;
            page.until_text(".command .word", "success").await;
            let answered = "document.querySelectorAll('[data-event=CalleeAnswered]').length";
            assert_eq!(page.eval(answered).await, json!(1), "told once");

            // Killed while erin rings: what ran can't be known, and the page says so.
            start_call(&page, "carol", "erin").await;
            page.until_text(".call .pill", "erin rings").await;
            let address = demo.clients;
            drop(demo);
            page.until("document.querySelector('#link').dataset.state !== 'open'").await;
            let _demo = start_demo(address.port());
            page.until_text(".notice", "restarted").await;
            page.until_text(".command .word", "unknown").await;
            page.until("!document.querySelector('.call:not([data-state=ended])')").await;
            page.until_text("#link", "Connected").await;
            start_call(&page, "alice", "bob").await;
            page.until_text(".call .pill", "Talking").await;
        }
    );
}

#[tokio::test]
async fn the_demo_shows_many_calls_at_once() {
    in_browser_alone!("the_demo_shows_many_calls_at_once", async |browser: &Browser| {
        let demo = start_demo(0);
        let page = console_of(&demo, browser).await;
        start_call(&page, "carol", "dave").await;
        page.until_text(".command .word", "failed").await;
        start_call(&page, "bob", "frank").await;
        page.until_text(".call .pill", "Talking").await;
        page.click(".call [data-action=hold]").await;
        page.until_text(".call .pill", "Held").await;
        start_call(&page, "alice", "carol").await;
        page.until_text(".call .pill", "Talking").await;
        start_call(&page, "grace", "erin").await;
        page.until_text(".call .pill", "erin rings").await;
        let states = "[...document.querySelectorAll('.call')].map((c) => c.dataset.state)";
        assert_eq!(page.eval(states).await, json!(["ringing", "talking", "held", "ended"]));
        page.until_text(".event-words", "180 Ringing").await;

        page.fill("#start [data-field=caller] input", "alice").await;
        page.fill("#start [data-field=callee] input", "bob").await;
        page.eval("document.activeElement.blur()").await;
        // The pictures of the README.
        for (scheme, width, height, name) in [
            ("light", 1280, 860, "console-light.png"),
            ("dark", 1280, 860, "console-dark.png"),
            ("light", 390, 844, "console-narrow.png"),
        ] {
            page.prefer(scheme).await;
            page.size(width, height, if width < 600 { 2.0 } else { 1.5 }).await;
            let top = if width < 600 { "#calls-title" } else { "body" };
            page.eval(&format!("document.querySelector({}).scrollIntoView()", json!(top))).await;
            page.picture(&pictures().join("demo").join(name)).await;
        }
        page.click(".call [data-action=cancel]").await;
        page.until_text(".command .word", "cancelled").await;
        assert_no_complaints(&page);
    });
}

#[tokio::test]
async fn a_server_without_its_stack_says_so_at_once_on_any_path() {
    in_browser_alone!(
        "a_server_without_its_stack_says_so_at_once_on_any_path",
        async |browser: &Browser| {
            let server = Process::callplane(
                &["serve"],
                &[&ANY_PORTS[..], &[("CALLPLANE_LISTEN__PATH", "/calls")]].concat(),
                SERVES,
            );
            let page = console_of(&server, browser).await;
            assert_eq!(page.eval("document.querySelector('#demo').hidden").await, json!(true));
            start_call(&page, "sip:alice@example.com", "sip:bob@example.com").await;
            page.until_text(".command .word", "not started").await;
            page.until_text(".row-detail", "stack").await;
            page.until("document.querySelector('.call[data-state=ended]')").await;
            assert_no_complaints(&page);
        }
    );
}

/// A wire to a server that can be cut: every connection through it ends at once.
struct Wire {
    address: SocketAddr,
    cut: tokio::sync::watch::Sender<u32>,
}

impl Wire {
    async fn to(server: SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, cuts) = tokio::sync::watch::channel(0);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut cuts = cuts.clone();
                cuts.mark_unchanged();
                tokio::spawn(async move {
                    let Ok(mut far) = tokio::net::TcpStream::connect(server).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        Self { address, cut }
    }

    fn cut(&mut self) {
        self.cut.send_modify(|cuts| *cuts += 1);
    }
}

// What is known of the protocol, by itself

#[tokio::test]
async fn the_model_follows_any_transcript_without_a_page() {
    in_browser!("the_model_follows_any_transcript_without_a_page", async |browser: &Browser| {
        let mut server = Server::start().await;
        let (page, _peer) = server.connected(browser).await;
        let failures = page
            .eval(&format!("import('/console/protocol.js').then((p) => ({PROTOCOL_CHECKS})(p))"))
            .await;
        assert_eq!(failures, json!([]));
    });
}

/// Each check gives nothing or a line that says what is wrong.
const PROTOCOL_CHECKS: &str = include_str!("browser/protocol_checks.js");

// Looks

/// Where pictures go: `CONSOLE_PICTURES` (the README's are made so), else below `target`.
fn pictures() -> PathBuf {
    std::env::var_os("CONSOLE_PICTURES")
        .map_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("console"), PathBuf::from)
}

#[tokio::test]
async fn it_fits_a_phone_and_a_wide_screen_in_light_and_dark() {
    in_browser!(
        "it_fits_a_phone_and_a_wide_screen_in_light_and_dark",
        async |browser: &Browser| {
            let mut server = Server::start().await;
            let (page, mut peer) = server.connected(browser).await;
            let folder = pictures();
            page.prefer("light").await;
            page.size(1280, 800, 1.5).await;
            page.picture(&folder.join("empty-light.png")).await;

            // One talks, one is on hold, one rings, one failed.
            start_call(&page, BOB, "dave").await;
            let request = peer.expect("CallStart").await;
            let id = peer.started(&request, 1);
            let busy = json!({"code": "callee_busy", "message": "the callee is busy",
            "sip_status": 486, "sip_reason": "Busy Here", "up": "no"});
            peer.tell(
                "CallStart",
                &id,
                "Error",
                2,
                json!({"data": "callee: 486 Busy Here", "error": busy}),
            );
            peer.tell("CallStart", &id, "Ended", 3, json!({"outcome": "failed", "up": "no"}));
            page.until_text(".command .word", "failed").await;
            start_call(&page, "erin", "frank").await;
            let request = peer.expect("CallStart").await;
            peer.play_start(&request, "cp-demo-2-9f3b61c27d", 10);
            page.until_text(".call .pill", "Talking").await;
            page.click(".call [data-action=hold]").await;
            let hold = peer.expect("CallHold").await;
            let id = peer.started(&hold, 20);
            for (seq, event, leg) in [
                (21, "CallHoldStart", "caller"),
                (22, "CallHoldSuccessful", "caller"),
                (23, "CallHoldStart", "callee"),
                (24, "CallHoldSuccessful", "callee"),
            ] {
                peer.tell("CallHold", &id, event, seq, json!({"data": {"leg": leg}}));
            }
            peer.tell("CallHold", &id, "Ended", 25, json!({"outcome": "success"}));
            page.until_text(".call .pill", "Held").await;
            start_call(&page, ALICE, BOB).await;
            let request = peer.expect("CallStart").await;
            peer.play_start(&request, "cp-demo-1-5c1be90a44", 30);
            page.until_text(".call .pill", "Talking").await;
            start_call(&page, CAROL, "dave").await;
            let request = peer.expect("CallStart").await;
            let id = peer.started(&request, 40);
            let both = json!({"data": {"caller": CAROL, "callee": "sip:dave@demo.callplane"}});
            peer.tell("CallStart", &id, "CallerAnswered", 41, both);
            page.until_text(".call .pill", "dave rings").await;
            if std::env::var_os("CONSOLE_PICTURES").is_some() {
                // Durations look better in a picture when they aren't zero.
                page.until(
                "document.querySelector('.call[data-state=talking] .clock').textContent >= '0:09'",
            )
            .await;
            }
            page.eval("document.activeElement.blur()").await;

            for scheme in ["light", "dark"] {
                page.prefer(scheme).await;
                page.size(1280, 860, 1.5).await;
                page.eval("scrollTo(0, 0)").await;
                assert_fits(&page, 1280).await;
                page.picture(&folder.join(format!("page-{scheme}.png"))).await;
                page.eval("document.querySelector('#timeline').scrollIntoView()").await;
                page.picture(&folder.join(format!("timeline-{scheme}.png"))).await;
                page.eval("scrollTo(0, 0)").await;
                page.size(390, 844, 2.0).await;
                assert_fits(&page, 390).await;
                page.eval("scrollTo(0, document.querySelector('#calls-title').offsetTop - 12)")
                    .await;
                page.picture(&folder.join(format!("narrow-{scheme}.png"))).await;
            }
            page.prefer("light").await;
            page.eval("scrollTo(0, 0)").await;
            page.picture(&folder.join("narrow-top.png")).await;
            page.size(320, 640, 2.0).await;
            assert_fits(&page, 320).await;
            page.picture(&folder.join("narrowest.png")).await;
            page.size(1280, 860, 1.5).await;
            page.click(".call[data-state=talking] [data-action=transfer]").await;
            page.fill(".transfer:not([hidden]) [data-field=destination] input", "carol").await;
            page.picture(&folder.join("transfer-light.png")).await;
            page.key("Escape").await;
            page.click("#open-frames").await;
            page.picture(&folder.join("frames-light.png")).await;
            page.click("#close-frames").await;
            page.key("?").await;
            page.prefer("dark").await;
            page.picture(&folder.join("help-dark.png")).await;
            page.key("Escape").await;

            // The person's choice stands above the system's, and outlives a reload.
            let paper = "getComputedStyle(document.body).backgroundColor";
            let dark = page.eval(paper).await;
            page.click("#open-theme").await;
            let light = page.eval(paper).await;
            assert_ne!(dark, light);
            page.reload().await;
            assert_eq!(page.eval(paper).await, light);
            assert_no_complaints(&page);
        }
    );
}

#[tokio::test]
async fn a_long_name_leaves_room_for_the_other() {
    in_browser!("a_long_name_leaves_room_for_the_other", async |browser: &Browser| {
        let mut server = Server::start().await;
        let (page, mut peer) = server.connected(browser).await;
        let long = "sip:support.second.level.night.shift@demo.callplane";
        start_call(&page, long, "sip:anastasia.featherstone@demo.callplane").await;
        let request = peer.expect("CallStart").await;
        let id = peer.started(&request, 1);
        peer.tell("CallStart", &id, "Ended", 2, json!({"outcome": "failed", "up": "no"}));
        page.until("document.querySelector('.call[data-state=ended]')").await;
        for (scheme, width) in [("light", 1280), ("dark", 390), ("light", 390), ("light", 320)] {
            page.prefer(scheme).await;
            page.size(width, 844, 1.5).await;
            assert_fits(&page, width).await;
            let sizes = page
                .eval(
                    "[...document.querySelectorAll('.call .avatar')]
                        .map((a) => a.getBoundingClientRect()).map(({width, height}) => width === height && width > 25)",
                )
                .await;
            assert_eq!(sizes, json!([true, true]), "round at {width}");
            let names = page
                .eval(
                    "[...document.querySelectorAll('.call .party-name')].map((name) => name.clientWidth)",
                )
                .await;
            for name in names.as_array().unwrap() {
                assert!(name.as_u64() >= Some(60), "{names} at {width}");
            }
            page.eval("document.querySelector('.call').scrollIntoView({block: 'center'})").await;
            page.picture(&pictures().join(format!("long-{scheme}-{width}.png"))).await;
        }
        assert_no_complaints(&page);
    });
}

/// Nothing is wider than the screen: there is nothing to scroll sideways.
async fn assert_fits(page: &Page, width: u32) {
    let wide = page
        .eval(&format!(
            "[...document.querySelectorAll('body *')]
                .filter((e) => e.checkVisibility() && !e.closest('.unseen, .skip')
                    && e.getBoundingClientRect().right > {width} + 0.5)
                .map((e) => e.className || e.tagName)"
        ))
        .await;
    assert_eq!(wide, json!([]), "wider than {width}");
    let scrolls = page.eval("document.documentElement.scrollWidth > innerWidth").await;
    assert_eq!(scrolls, json!(false));
}

/// Tests must not wait longer than this for a browser that hangs.
const _: () = assert!(browser::DEADLINE.as_secs() <= Duration::from_secs(30).as_secs());
