//! Where events come in, over UDP and TCP, and how they are understood.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use callplane::clock::{Clock as _, SystemClock, TokioTimer};
use callplane::core::act::DialogState;
use callplane::core::failure::SipStatus;
use callplane::core::ids::{CallId, DialogId, OpId, StackId};
use callplane::core::request::Leg;
use callplane::core::stack_event::{HoldState, StackEvent, TransferState, Uptime};
use callplane::stack::mi::{Mi, MiAnswer, MiEvent, MiFailure, MiRequest};
use callplane::stack::opensips::event::{Meaning, meaning};
use callplane::stack::opensips::keeper::keep;
use callplane::stack::opensips::meter::{BreakerState, EventResult, Meter, MiResult};
use callplane::stack::opensips::settings::{EventSettings, EventTransport, StackSettings};
use callplane::stack::opensips::sink::{HandFeed, Sink};
use callplane::stack::opensips::{OpenSips, Surroundings};
use callplane::stack::{Reports, StackReport};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio_util::sync::CancellationToken;

const LONG: Duration = Duration::from_secs(20);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn event(name: &str, params: Value) -> MiEvent {
    let text = json!({"jsonrpc": "2.0", "method": name, "params": params}).to_string();
    MiEvent::decode(text.as_bytes()).unwrap()
}

fn fact(name: &str, params: Value) -> StackEvent {
    match meaning(&event(name, params)) {
        Meaning::Fact(fact) => fact,
        other => panic!("{other:?}"),
    }
}

fn call(text: &str) -> CallId {
    CallId::parse(text).unwrap()
}

const TOKEN: &str = "0123456789abcdefghijklmnop";

#[test]
fn dialog_events_tell_states() {
    let params = json!({"id": "1a.2b", "db_id": "7", "callid": "c@h", "from_tag": "x",
        "to_tag": null, "old_state": 1, "new_state": 5});
    let dialog = DialogId::parse("1a.2b").unwrap();
    let want = StackEvent::Dialog { call: call("c@h"), dialog, state: DialogState::Deleted };
    assert_eq!(fact("E_DLG_STATE_CHANGED", params), want);
}

#[test]
fn transfer_events_tell_how_far_a_transfer_is() {
    let tell = |state: &str, status: &str, new_call: &str, destination: &str| {
        let params = json!({"callid": "old", "leg": "garbage", "transfer_callid": new_call,
            "destination": destination, "state": state, "status": status});
        match fact("E_CALL_TRANSFER", params) {
            StackEvent::Transfer { call: old, new_call, destination, state } => {
                assert_eq!(old, call("old"));
                (new_call.map(|new| new.to_string()), destination, state)
            }
            other => panic!("{other:?}"),
        }
    };
    let new = Some("new".to_owned());
    let (named, destination, state) = tell("start", "", "new", "sip:carol@h:5;osid=1a.2b");
    assert_eq!((named, state), (new.clone(), TransferState::Start));
    assert_eq!(destination.as_deref(), Some("sip:carol@h:5"));
    assert_eq!(tell("ok", "200 OK", "new", "").2, TransferState::Ok);
    let busy = SipStatus::new(486, "Busy Here");
    assert_eq!(tell("fail", "486 Busy Here", "new", "").2, TransferState::Fail(busy.clone()));
    assert_eq!(tell("fail", "", "new", "").2, TransferState::Fail(SipStatus::timeout()));
    let ringing = SipStatus::new(180, "Ringing");
    assert_eq!(tell("notify", "180 Ringing", "", "").2, TransferState::Progress(ringing));
    let (named, _, state) = tell("notify", "486 Busy Here\r\nContact: <sip:x>", "new", "");
    assert_eq!((named, state), (new, TransferState::Notified(busy)));
}

#[test]
fn hold_events_tell_each_leg() {
    let params = json!({"callid": "c", "leg": "callee", "action": "unhold", "state": "fail"});
    let want =
        StackEvent::Hold { call: call("c"), leg: Leg::Callee, hold: false, state: HoldState::Fail };
    assert_eq!(fact("E_CALL_HOLD", params), want);
}

#[test]
fn the_reference_scripts_events_carry_the_token() {
    let tell = |kind: &str, info: Value| {
        fact(
            "E_CALLPLANE",
            json!({"kind": kind, "callid": "new", "op": TOKEN, "info": info,
            "from": "sip:a@h", "ruri": format!("sip:bob@h;cpt={TOKEN}")}),
        )
    };
    let referral = |state| StackEvent::Referral {
        token: OpId::parse(TOKEN).unwrap(),
        new_call: call("new"),
        destination: Some("sip:bob@h".into()),
        state,
    };
    assert_eq!(tell("referred", json!("old")), referral(TransferState::Start));
    let ringing = TransferState::Progress(SipStatus::new(180, "Ringing"));
    assert_eq!(tell("reply", json!(180)), referral(ringing));
    assert_eq!(tell("reply", json!("200")), referral(TransferState::Ok));
    let unknown = TransferState::Fail(SipStatus::new(404, "Not Found"));
    assert_eq!(tell("failed", json!("404")), referral(unknown));
    let notify = fact(
        "E_CALLPLANE",
        json!({"kind": "notify", "callid": "old", "op": TOKEN,
        "info": "SIP/2.0 486 Busy Here\r\n"}),
    );
    let state = TransferState::Notified(SipStatus::new(486, "Busy Here"));
    let want = StackEvent::Transfer { call: call("old"), new_call: None, destination: None, state };
    assert_eq!(notify, want);
    for nothing in ["sent", "bye"] {
        let params = json!({"kind": nothing, "callid": "c", "op": "", "info": "BYE"});
        assert_eq!(meaning(&event("E_CALLPLANE", params)), Meaning::Nothing);
    }
}

#[test]
fn what_has_not_its_form_is_not_believed() {
    let unreadable = [
        ("E_DLG_STATE_CHANGED", json!({"id": "1.2", "callid": "c", "new_state": 9})),
        ("E_DLG_STATE_CHANGED", json!({"id": "1.2", "callid": "a\r\nb", "new_state": 4})),
        ("E_CALL_TRANSFER", json!({"callid": "c", "state": "start", "transfer_callid": ""})),
        ("E_CALL_TRANSFER", json!({"callid": "c", "state": "maybe", "transfer_callid": "n"})),
        ("E_CALL_HOLD", json!({"callid": "c", "leg": "both", "action": "hold", "state": "ok"})),
        ("E_CALLPLANE", json!({"kind": "referred", "callid": "c", "op": "A TOKEN", "info": ""})),
        ("E_CALLPLANE", json!({"kind": "reply", "callid": "c", "op": TOKEN, "info": 99_999})),
        ("E_CALLPLANE", json!({"kind": 7})),
    ];
    for (name, params) in unreadable {
        assert_eq!(meaning(&event(name, params.clone())), Meaning::Unreadable, "{name} {params}");
    }
    assert_eq!(meaning(&event("E_CORE_THRESHOLD", json!({}))), Meaning::Nothing);
    assert_eq!(meaning(&event("E_CALL_HOLD", json!(["a trial"]))), Meaning::Nothing);
}

/// Keeps what is reported.
#[derive(Default)]
struct Kept(Mutex<Vec<StackReport>>);

impl Reports for Kept {
    fn report(&self, _stack: &StackId, event: StackReport) {
        self.0.lock().unwrap().push(event);
    }
}

impl Kept {
    fn all(&self) -> Vec<StackReport> {
        self.0.lock().unwrap().clone()
    }

    fn joined(&self) -> usize {
        self.all().iter().filter(|report| **report == StackReport::Joined).count()
    }
}

/// Counts what became of events.
#[derive(Default)]
struct Counted(Mutex<Vec<EventResult>>, AtomicUsize);

impl Meter for Counted {
    fn sent(&self, _command: &'static str) {}
    fn answered(&self, _command: &'static str, _result: MiResult, _took: Duration) {}
    fn breaker(&self, _state: BreakerState) {}
    fn restarted(&self) {}
    fn event(&self, _name: &'static str, result: EventResult) {
        self.0.lock().unwrap().push(result);
    }
    fn subscribed(&self) {
        self.1.fetch_add(1, Ordering::Relaxed);
    }
    fn event_buffer(&self, _bytes: usize) {}
    fn trial_took(&self, _took: Duration) {}
    fn trial_missed(&self) {}
    fn events_arrive(&self, _yes: bool) {}
}

impl Counted {
    fn confirmed(&self) -> usize {
        self.1.load(Ordering::Relaxed)
    }

    fn number(&self, wanted: EventResult) -> usize {
        self.0.lock().unwrap().iter().filter(|result| **result == wanted).count()
    }
}

/// A stack that answers subscriptions as told.
#[derive(Clone)]
struct Stack(Arc<Mutex<StackState>>);

struct StackState {
    since: &'static str,
    away: bool,
    reference: bool,
    forgets: bool,
    /// Events that it refuses to send.
    refuses: &'static [&'static str],
    refused: usize,
    subscribed: Vec<(String, i64)>,
    verified: usize,
    /// How often it was asked while it was away.
    in_vain: usize,
}

impl Stack {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(StackState {
            since: "first life",
            away: false,
            reference: true,
            forgets: false,
            refuses: &[],
            refused: 0,
            subscribed: Vec::new(),
            verified: 0,
            in_vain: 0,
        })))
    }

    fn with<T>(&self, look: impl FnOnce(&mut StackState) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }
}

impl Mi for Stack {
    async fn call(&self, request: MiRequest, _timeout: Duration) -> Result<MiAnswer, MiFailure> {
        self.with(|state| {
            if state.away {
                state.in_vain += 1;
                return Err(MiFailure::NotSent { reason: "refused" });
            }
            Ok(MiAnswer::Result(match &*request.method {
                "uptime" => json!({"Up since": state.since, "Up time": "99 [sec]"}),
                "version" => json!({"Server": "OpenSIPS (3.6.8 (x86_64/linux))"}),
                "cache_fetch" if state.reference => {
                    json!({"key": "cp_cfg_version", "value": "1 udp:127.0.0.1:5066 5 120"})
                }
                "cache_fetch" => return Ok(MiAnswer::error(400, "Value not found")),
                "event_subscribe" => {
                    let name = request.params.text("event").unwrap().to_owned();
                    if name == "E_CORE_PROC_AUTO_SCALE" {
                        return Ok(MiAnswer::error(400, "Bad parameter value"));
                    }
                    if state.refuses.contains(&name.as_str()) {
                        state.refused += 1;
                        return Ok(MiAnswer::error(400, "Bad parameter value"));
                    }
                    let expire = request.params.get("expire").and_then(Value::as_i64).unwrap();
                    state.subscribed.push((name, expire));
                    json!("OK")
                }
                // Whether events arrive is tried elsewhere.
                "raise_event" => return Ok(MiAnswer::error(404, "Event not published")),
                "subscribers_list" => {
                    state.verified += 1;
                    let ttl = if state.forgets { json!("expired") } else { json!(3) };
                    json!({"Event": {"name": "E", "id": 1, "Subscriber": {"ttl": ttl}}})
                }
                other => panic!("not expected: {other}"),
            }))
        })
    }
}

/// A keeper at work on a stack.
struct Work {
    stack: Stack,
    kept: Arc<Kept>,
    counted: Arc<Counted>,
    feed: HandFeed,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Work {
    fn begin(stack: Stack) -> Self {
        let mut settings = StackSettings::new(StackId::new("s"), "127.0.0.1:1");
        settings.events.check = Duration::from_millis(10);
        settings.events.expiry = Duration::from_millis(90);
        let counted = Arc::new(Counted::default());
        let surroundings = Surroundings {
            clock: Arc::new(SystemClock::new()),
            timer: Arc::new(TokioTimer),
            meter: Arc::clone(&counted) as Arc<dyn Meter>,
        };
        let connector = OpenSips::new(settings, stack.clone(), stack.clone(), surroundings);
        let (sink, feed) = Sink::by_hand("udp:127.0.0.1:9");
        let (kept, stop) = (Arc::new(Kept::default()), CancellationToken::new());
        let reports = Arc::clone(&kept) as Arc<dyn Reports>;
        let task = tokio::spawn(keep(Arc::new(connector), sink, reports, stop.clone()));
        Self { stack, kept, counted, feed, stop, task }
    }

    async fn until(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + LONG;
        while !is_so(self) {
            assert!(Instant::now() < deadline, "waited in vain: {what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

const DIALOG: &str = r#"{"jsonrpc":"2.0","method":"E_DLG_STATE_CHANGED","params":{"id":"1.2","callid":"c","new_state":4}}"#;

#[tokio::test]
async fn a_subscription_is_made_refreshed_verified_and_given_back() {
    let work = Work::begin(Stack::new());
    work.until("joined", |work| work.kept.joined() == 1).await;
    let mut names: Vec<_> = work.stack.with(|s| s.subscribed.clone());
    names.sort();
    let wanted = ["E_CALLPLANE", "E_CALL_HOLD", "E_CALL_TRANSFER", "E_DLG_STATE_CHANGED"];
    assert_eq!(names.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), wanted);
    work.feed.feed(DIALOG);
    work.feed.feed("nonsense");
    work.feed.feed(r#"{"method":"E_CALL_HOLD","params":{}}"#);
    work.feed.feed(r#"{"method":"E_CORE_THRESHOLD","params":{}}"#);
    work.until("events understood", |w| w.counted.0.lock().unwrap().len() == 4).await;
    assert_eq!(work.counted.number(EventResult::Reported), 1);
    assert_eq!(work.counted.number(EventResult::Malformed), 2);
    assert_eq!(work.counted.number(EventResult::Ignored), 1);
    work.until("refreshed twice", |w| w.stack.with(|s| s.subscribed.len() >= 12)).await;
    assert!(work.stack.with(|s| s.verified >= 8));
    assert_eq!(work.kept.joined(), 1, "nothing was missed");
    work.stop.cancel();
    work.task.await.unwrap();
    let last: Vec<_> = work.stack.with(|s| s.subscribed.iter().rev().take(4).cloned().collect());
    assert!(last.iter().all(|(_, expire)| *expire == 0), "{last:?}");
}

#[tokio::test]
async fn a_subscription_that_was_gone_makes_everybody_look_again() {
    let work = Work::begin(Stack::new());
    work.until("joined", |work| work.kept.joined() == 1).await;
    work.stack.with(|s| s.forgets = true);
    work.until("joined again", |work| work.kept.joined() == 2).await;
}

#[tokio::test]
async fn a_refused_subscription_is_not_joined_and_is_tried_again() {
    for refuses in [&["E_CALLPLANE"], &["E_DLG_STATE_CHANGED"]] {
        let stack = Stack::new();
        stack.with(|s| s.refuses = refuses);
        let work = Work::begin(stack);
        work.until("tried again", |work| work.stack.with(|s| s.refused > 2)).await;
        assert_eq!((work.kept.all(), work.counted.confirmed()), (vec![], 0));
        work.stack.with(|s| s.refuses = &[]);
        work.until("joined", |work| work.kept.joined() == 1).await;
        // Refused later on: it is no longer confirmed, until it is there again.
        work.stack.with(|s| s.refuses = refuses);
        let refused = work.stack.with(|s| s.refused);
        work.until("refused again", |work| work.stack.with(|s| s.refused > refused + 1)).await;
        let confirmed = work.counted.confirmed();
        work.until("refused again", |work| work.stack.with(|s| s.refused > refused + 3)).await;
        assert_eq!((work.kept.joined(), work.counted.confirmed()), (1, confirmed));
        work.stack.with(|s| s.refuses = &[]);
        work.until("joined again", |work| work.kept.joined() == 2).await;
    }
    // Without these, commands come to their end all the same.
    let stack = Stack::new();
    stack.with(|s| s.refuses = &["E_CALL_HOLD", "E_CALL_TRANSFER"]);
    let work = Work::begin(stack);
    work.until("joined", |work| work.kept.joined() == 1).await;
}

#[tokio::test]
async fn a_restart_is_reported_before_everybody_looks_again() {
    let work = Work::begin(Stack::new());
    work.until("joined", |work| work.kept.joined() == 1).await;
    work.stack.with(|s| {
        s.since = "second life";
        // Another script, too.
        s.reference = false;
        s.subscribed.clear();
    });
    work.until("joined again", |work| work.kept.joined() == 2).await;
    let reports = work.kept.all();
    assert_eq!(reports.len(), 3);
    let StackReport::Event(StackEvent::Restarted(Uptime { boot, since })) = &reports[1] else {
        panic!("{reports:?}");
    };
    assert_eq!(boot.as_str(), "second life");
    // It says that it has been up for 99 s: more than 98.
    let up = since.until(SystemClock::new().now()).as_secs();
    assert!((98..150).contains(&up), "{up}");
    assert!(work.stack.with(|s| s.subscribed.iter().all(|(name, _)| name != "E_CALLPLANE")));
}

#[tokio::test]
async fn a_stack_that_comes_later_or_goes_away_is_waited_for() {
    let stack = Stack::new();
    stack.with(|s| s.away = true);
    let work = Work::begin(stack);
    work.until("asked in vain", |work| work.stack.with(|s| s.in_vain > 2)).await;
    assert_eq!(work.kept.all(), []);
    work.stack.with(|s| s.away = false);
    work.until("joined", |work| work.kept.joined() == 1).await;
    work.stack.with(|s| {
        s.away = true;
        s.in_vain = 0;
        s.subscribed.clear();
    });
    work.until("asked in vain", |work| work.stack.with(|s| s.in_vain > 2)).await;
    work.stack.with(|s| s.away = false);
    work.until("joined again", |work| work.kept.joined() == 2).await;
    assert!(work.kept.all().iter().all(|report| *report == StackReport::Joined));
}

#[tokio::test]
async fn events_that_find_no_room_are_counted_and_made_good() {
    let work = Work::begin(Stack::new());
    work.until("joined", |work| work.kept.joined() == 1).await;
    // One thread: nobody reads while we feed.
    for _ in 0..40_000 {
        work.feed.feed(DIALOG);
    }
    work.until("joined again", |work| work.kept.joined() == 2).await;
    work.until("all read", |w| w.counted.0.lock().unwrap().len() == 40_000).await;
    assert_eq!(work.counted.number(EventResult::Lost), 40_000 - 32_768);
}

async fn open(transport: EventTransport) -> Sink {
    let settings = EventSettings { transport, ..EventSettings::default() };
    Sink::open(&settings, LOOPBACK).await.unwrap()
}

/// Runs a keeper on a real sink.
fn keep_on(sink: Sink) -> (Arc<Kept>, CancellationToken) {
    let (kept, _, stop) = keep_and_count(sink);
    (kept, stop)
}

fn keep_and_count(sink: Sink) -> (Arc<Kept>, Arc<Counted>, CancellationToken) {
    let counted = Arc::new(Counted::default());
    let settings = StackSettings::new(StackId::new("s"), "127.0.0.1:1");
    let surroundings = Surroundings {
        clock: Arc::new(SystemClock::new()),
        timer: Arc::new(TokioTimer),
        meter: Arc::clone(&counted) as Arc<dyn Meter>,
    };
    let stack = Stack::new();
    let connector = OpenSips::new(settings, stack.clone(), stack, surroundings);
    let (kept, stop) = (Arc::new(Kept::default()), CancellationToken::new());
    let reports = Arc::clone(&kept) as Arc<dyn Reports>;
    tokio::spawn(keep(Arc::new(connector), sink, reports, stop.clone()));
    (kept, counted, stop)
}

fn numbered(n: usize) -> String {
    DIALOG.replace("\"c\"", &format!("\"call-{n}\""))
}

fn calls(kept: &Kept) -> Vec<String> {
    let name = |report: StackReport| match report {
        StackReport::Event(StackEvent::Dialog { call, .. }) => Some(call.to_string()),
        StackReport::Event(_) | StackReport::Joined => None,
    };
    kept.all().into_iter().filter_map(name).collect()
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_arrive_in_a_burst_as_large_as_the_buffer_given() {
    let sink = open(EventTransport::Udp).await;
    let to = sink.local_addr();
    assert_eq!(sink.socket(), format!("udp:{to}"));
    let given = sink.buffer().unwrap();
    assert!(given > 0);
    let (kept, _stop) = keep_on(sink);
    let sender = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    // What the kernel charges for a small datagram is below 1 kB and above its text.
    let burst = (given / 1024).min(5_000);
    for n in 0..burst {
        sender.send_to(numbered(n).as_bytes(), to).await.unwrap();
    }
    until("every datagram", || calls(&kept).len() == burst).await;
    let wanted: Vec<_> = (0..burst).map(|n| format!("call-{n}")).collect();
    assert_eq!(calls(&kept), wanted, "in the order sent by one sender");
    println!("{burst} datagrams of a burst, receive buffer {given} bytes");
}

#[tokio::test]
async fn a_stream_is_cut_into_events_wherever_it_breaks() {
    let sink = open(EventTransport::Tcp).await;
    let to = sink.local_addr();
    assert_eq!(sink.socket(), format!("tcp:{to}"));
    let (kept, _stop) = keep_on(sink);
    let mut stream = TcpStream::connect(to).await.unwrap();
    let text: String = (0..20).map(numbered).collect();
    for piece in text.as_bytes().chunks(7) {
        stream.write_all(piece).await.unwrap();
        stream.flush().await.unwrap();
    }
    until("every event", || calls(&kept).len() == 20).await;

    // Reliable mode: the id is answered, whatever it is.
    let reliable = DIALOG.replace("{\"jsonrpc\"", "{\"id\":4242424242,\"jsonrpc\"");
    stream.write_all(reliable.as_bytes()).await.unwrap();
    let mut answer = vec![0; 200];
    let length = tokio::time::timeout(LONG, stream.read(&mut answer)).await.unwrap().unwrap();
    let answer: Value = serde_json::from_slice(&answer[..length]).unwrap();
    assert_eq!(answer, json!({"jsonrpc": "2.0", "result": "ok", "id": 4_242_424_242_u64}));

    // It ends: something may have been missed.
    until("joined", || kept.joined() == 1).await;
    drop(stream);
    until("joined again", || kept.joined() == 2).await;
}

#[tokio::test]
async fn an_event_that_is_too_long_is_not_kept() {
    let long = |length: usize| {
        let padded = format!("\"long\",\"pad\":\"{}\"", "x".repeat(length));
        DIALOG.replace("\"c\"", &padded)
    };
    for transport in [EventTransport::Udp, EventTransport::Tcp] {
        let sink = open(transport).await;
        let to = sink.local_addr();
        let (kept, counted, _stop) = keep_and_count(sink);
        match transport {
            EventTransport::Udp => {
                let sender = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                sender.send_to(long(17_000).as_bytes(), to).await.unwrap();
                sender.send_to(DIALOG.as_bytes(), to).await.unwrap();
            }
            EventTransport::Tcp => {
                let mut stream = TcpStream::connect(to).await.unwrap();
                stream.write_all(format!("{}{DIALOG}", long(17_000)).as_bytes()).await.unwrap();
            }
        }
        until("the short one", || calls(&kept) == ["c"]).await;
        assert_eq!(counted.number(EventResult::Malformed), 1);
    }
}

#[tokio::test]
async fn a_stream_of_nonsense_is_closed_and_the_next_one_works() {
    let sink = open(EventTransport::Tcp).await;
    let to = sink.local_addr();
    let (kept, _stop) = keep_on(sink);
    let mut endless = TcpStream::connect(to).await.unwrap();
    let piece = "{\"a\":\"".repeat(10_000);
    let closed = async { while endless.write_all(piece.as_bytes()).await.is_ok() {} };
    tokio::time::timeout(LONG, closed).await.expect("closed by the sink");
    let mut next = TcpStream::connect(to).await.unwrap();
    next.write_all(DIALOG.as_bytes()).await.unwrap();
    until("the event", || calls(&kept) == ["c"]).await;
}
