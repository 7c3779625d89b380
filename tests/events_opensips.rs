//! The events of a real OpenSIPS, over UDP and TCP: subscribed, understood, and joined again after
//! a restart. Skipped by name where `OPENSIPS_BIN` is not set.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use callplane::clock::{Clock, SystemClock, TokioTimer};
use callplane::core::act::{Act, DialogState, Facts, Op, ReferTo, Reply};
use callplane::core::ids::{CallId, Nonce, OpId, PodId, StackId};
use callplane::core::request::Leg;
use callplane::core::sip_address::SipAddress;
use callplane::core::stack_event::{StackEvent, TransferState};
use callplane::stack::opensips::keeper::{NoEvents, keep, try_events};
use callplane::stack::opensips::meter::Unmetered;
use callplane::stack::opensips::settings::{EventTransport, StackSettings};
use callplane::stack::opensips::sink::Sink;
use callplane::stack::opensips::{self, RealOpenSips, Surroundings};
use callplane::stack::{Reports, SipStack, StackReport};
use support::opensips::{OpenSips, Script, installation};
use support::wait_until;
use tokio_util::sync::CancellationToken;

/// Keeps what is reported.
#[derive(Default)]
struct Kept(Mutex<Vec<StackReport>>);

impl Reports for Kept {
    fn report(&self, _stack: &StackId, event: StackReport) {
        self.0.lock().unwrap().push(event);
    }
}

impl Kept {
    fn joined(&self) -> usize {
        self.0.lock().unwrap().iter().filter(|report| **report == StackReport::Joined).count()
    }

    fn facts(&self) -> Vec<StackEvent> {
        let fact = |report: &StackReport| match report {
            StackReport::Event(event) => Some(event.clone()),
            StackReport::Joined => None,
        };
        self.0.lock().unwrap().iter().filter_map(fact).collect()
    }

    fn wait<T>(&self, what: &str, found: impl Fn(&StackEvent) -> Option<T>) -> T {
        wait_until(what, || self.facts().iter().find_map(&found))
    }

    fn wait_state(&self, call: &str, wanted: DialogState) {
        self.wait(&format!("{call} {wanted:?}"), |event| match event {
            StackEvent::Dialog { call: of, state, .. } => {
                (of.as_str() == call && *state == wanted).then_some(())
            }
            _ => None,
        });
    }
}

struct Place {
    opensips: OpenSips,
    stack: Arc<RealOpenSips>,
    kept: Arc<Kept>,
    clock: Arc<SystemClock>,
    stop: CancellationToken,
    keeping: tokio::task::JoinHandle<()>,
}

async fn connector(opensips: &OpenSips, transport: EventTransport) -> Arc<RealOpenSips> {
    let mut settings = StackSettings::new(StackId::new("lab"), opensips.mi().to_string());
    settings.events.transport = transport;
    settings.events.check = Duration::from_millis(200);
    settings.next_hop = Some(format!("sip:{}", opensips.sip()));
    let surroundings = Surroundings {
        clock: Arc::new(SystemClock::new()),
        timer: Arc::new(TokioTimer),
        meter: Arc::new(Unmetered),
    };
    Arc::new(opensips::open(settings, surroundings).await.unwrap())
}

async fn sink(stack: &RealOpenSips) -> Sink {
    let from = stack.mi().local_addr().unwrap().ip();
    Sink::open(&stack.settings().events, from).await.unwrap()
}

impl Place {
    async fn new(test: &str, script: Script, transport: EventTransport) -> Option<Self> {
        let opensips = OpenSips::start(installation(test)?, script);
        let stack = connector(&opensips, transport).await;
        let sink = sink(&stack).await;
        let (kept, stop) = (Arc::new(Kept::default()), CancellationToken::new());
        let reports = Arc::clone(&kept) as Arc<dyn Reports>;
        let keeping = tokio::spawn(keep(Arc::clone(&stack), sink, reports, stop.clone()));
        wait_until("joined", || (kept.joined() == 1).then_some(()));
        let clock = Arc::new(SystemClock::new());
        Some(Self { opensips, stack, kept, clock, stop, keeping })
    }

    fn op(&self, act: Act) -> Op {
        let now = self.clock.now();
        Op {
            id: OpId::derive(Nonce(u128::from(std::process::id()) << 32 | u128::from(now.0)), 0),
            by: PodId::new("test"),
            stack: StackId::new("lab"),
            act,
            send_before: now.after(Duration::from_millis(500)),
            reply_by: now.after(Duration::from_secs(15)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_calls_life_is_told_over_udp_and_tcp() {
    for transport in [EventTransport::Udp, EventTransport::Tcp] {
        let test = "a_calls_life_is_told_over_udp_and_tcp";
        let Some(place) = Place::new(test, Script::Reference, transport).await else { return };
        let (alice, bob) = (place.opensips.phone("alice"), place.opensips.phone("bob"));
        // A 200 that follows its 180 at once can overtake it between OpenSIPS' workers.
        bob.behave(|b| b.ring_for = Duration::from_millis(200));
        let call = alice.talk_to(&bob);
        for state in [DialogState::Early, DialogState::Answered, DialogState::Confirmed] {
            place.kept.wait_state(&call, state);
        }
        alice.hang_up(&call);
        place.kept.wait_state(&call, DialogState::Deleted);
        place.stop.cancel();
        place.keeping.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_is_noticed_and_joined_again() {
    let test = "a_restart_is_noticed_and_joined_again";
    for transport in [EventTransport::Udp, EventTransport::Tcp] {
        let place = Place::new(test, Script::Reference, transport).await;
        let Some(mut place) = place else { return };
        // Its word for when it started has whole seconds.
        let mut mi = place.opensips.connect();
        wait_until("up for a second", || {
            let up = mi.call("uptime", serde_json::Value::Null).ok()?;
            (!up["Up time"].as_str()?.starts_with("0 ")).then_some(())
        });
        place.opensips.restart();
        place.kept.wait("the restart", |event| match event {
            StackEvent::Restarted { .. } => Some(()),
            _ => None,
        });
        wait_until("joined again", || (place.kept.joined() >= 2).then_some(()));
        assert!(place.stack.capabilities().start_is_safe, "the grade is known again");
        let (alice, bob) = (place.opensips.phone("alice"), place.opensips.phone("bob"));
        let call = alice.talk_to(&bob);
        place.kept.wait_state(&call, DialogState::Confirmed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_is_told_by_token_or_by_the_stacks_own_event() {
    for script in [Script::Stock, Script::Reference] {
        let test = "a_transfer_is_told_by_token_or_by_the_stacks_own_event";
        let Some(place) = Place::new(test, script, EventTransport::Udp).await else { return };
        let phones = ["alice", "bob", "carol"].map(|user| place.opensips.phone(user));
        let [alice, bob, carol] = &phones;
        let refer = |call: &str| {
            let target = SipAddress::parse(&place.opensips.uri("carol")).unwrap();
            place.op(Act::Refer {
                call: CallId::parse(call).unwrap(),
                leg: Leg::Callee,
                to: ReferTo::Address(target),
            })
        };
        let call = alice.talk_to(bob);
        let op = refer(&call);
        let reply = place.stack.perform(&op).await;
        assert!(matches!(reply, Reply::Done(Facts::Referred { code: 202, .. })), "{reply:?}");
        let state_of = |event: &StackEvent| match (script, event) {
            (Script::Reference, StackEvent::Referral { token, state, .. }) => {
                (*token == op.id).then(|| state.clone())
            }
            (Script::Stock, StackEvent::Transfer { call: of, state, .. }) => {
                (of.as_str() == call).then(|| state.clone())
            }
            _ => None,
        };
        for wanted in [TransferState::Start, TransferState::Ok] {
            place
                .kept
                .wait(&format!("{wanted:?}"), |event| (state_of(event)? == wanted).then_some(()));
        }
        place.stack.perform(&place.op(Act::End { call: CallId::parse(&call).unwrap() })).await;
        place.kept.wait_state(&call, DialogState::Deleted);

        carol.behave(|b| b.answer = Some(486));
        let second = alice.talk_to(bob);
        let op = refer(&second);
        place.stack.perform(&op).await;
        let failure = place.kept.wait("the failure", |event| match (script, event) {
            (Script::Reference, StackEvent::Referral { token, state, .. }) if *token == op.id => {
                Some(state.clone()).filter(|state| matches!(state, TransferState::Fail(_)))
            }
            (Script::Stock, StackEvent::Transfer { call, state, .. })
                if call.as_str() == second =>
            {
                Some(state.clone()).filter(|state| matches!(state, TransferState::Fail(_)))
            }
            _ => None,
        });
        match failure {
            TransferState::Fail(status) => assert_eq!(status.to_string(), "486 Busy Here"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_of_events_can_be_tried() {
    let test = "the_way_of_events_can_be_tried";
    let Some(installation) = installation(test) else { return };
    // The stock script of these tests has no event_stream.
    let opensips = OpenSips::start(installation, Script::Reference);
    for transport in [EventTransport::Udp, EventTransport::Tcp] {
        let stack = connector(&opensips, transport).await;
        let took = try_events(&stack, sink(&stack).await).await.unwrap();
        println!("an event took {took:?} over {transport:?}");
    }
    // Told to send elsewhere: raised, and never seen.
    let stack = connector(&opensips, EventTransport::Udp).await;
    let mut elsewhere = stack.settings().events.clone();
    let nobody = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    elsewhere.advertise = Some(nobody.local_addr().unwrap().to_string());
    let from = stack.mi().local_addr().unwrap().ip();
    let lost = try_events(&stack, Sink::open(&elsewhere, from).await.unwrap()).await;
    assert_eq!(lost, Err(NoEvents::Lost));
}

/// A socket that events of this stack go to, told in these words.
async fn subscriber(
    opensips: &OpenSips,
    bind: &str,
    told: impl Fn(u16) -> String,
) -> tokio::net::UdpSocket {
    let socket = tokio::net::UdpSocket::bind(bind).await.unwrap();
    let told = told(socket.local_addr().unwrap().port());
    subscribe(opensips, &told, 60).unwrap();
    socket
}

/// An event that nobody uses.
const TRIAL: &str = "E_CORE_PROC_AUTO_SCALE";

fn subscribe(
    opensips: &OpenSips,
    socket: &str,
    expire: u32,
) -> Result<serde_json::Value, support::mi::MiError> {
    let params = serde_json::json!({"event": TRIAL, "socket": socket, "expire": expire});
    opensips.connect().call("event_subscribe", params)
}

fn raise(opensips: &OpenSips, word: &str) {
    let params = serde_json::json!({"event": TRIAL, "params": [word]});
    opensips.connect().call("raise_event", params).unwrap();
}

fn listed(opensips: &OpenSips) -> Vec<String> {
    let params = serde_json::json!({"event": TRIAL});
    let listed = opensips.connect().call("subscribers_list", params).unwrap();
    let all = listed["Event"]["Subscribers"].as_array().cloned().unwrap_or_default();
    let alive = all.iter().filter(|one| one["ttl"].is_number());
    alive.map(|one| one["socket"].as_str().unwrap().to_owned()).collect()
}

async fn hears(socket: &tokio::net::UdpSocket, word: &str) -> bool {
    let mut text = vec![0; 2000];
    let wait = Duration::from_millis(500);
    while let Ok(Ok(length)) = tokio::time::timeout(wait, socket.recv(&mut text)).await {
        if String::from_utf8_lossy(&text[..length]).contains(word) {
            return true;
        }
    }
    false
}

/// Facts W12 and W13.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_begins_another_is_taken_for_it_unless_all_are_equally_long() {
    let test = "an_address_that_begins_another_is_taken_for_it_unless_all_are_equally_long";
    let Some(installation) = installation(test) else { return };
    let opensips = OpenSips::start(installation, Script::Reference);
    let long = subscriber(&opensips, "127.0.0.12:0", |port| format!("udp:127.0.0.12:{port}")).await;
    let port = long.local_addr().unwrap().port();
    let short =
        subscriber(&opensips, &format!("127.0.0.1:{port}"), |port| format!("udp:127.0.0.1:{port}"))
            .await;
    raise(&opensips, "alike");
    assert!(hears(&long, "alike").await);
    assert!(!hears(&short, "alike").await, "OpenSIPS compares whole addresses by now");
    assert_eq!(listed(&opensips), [format!("udp:127.0.0.12:{port}")]);

    // What callplane tells.
    for (socket, told) in [(&long, "0177.0000.0000.0014"), (&short, "0177.0000.0000.0001")] {
        let told = format!("udp:{told}:{port}");
        subscribe(&opensips, &told, 60).unwrap();
        assert!(listed(&opensips).contains(&told));
        raise(&opensips, &told);
        assert!(hears(socket, &told).await, "{told}");
    }
    for refused in ["udp:[::1]:5065", "tcp:[::1]:5065"] {
        assert_eq!(subscribe(&opensips, refused, 60).unwrap_err().code, 400, "{refused}");
    }
    // A name is taken, and looked up.
    let named = subscriber(&opensips, "127.0.0.1:0", |port| format!("udp:localhost:{port}")).await;
    raise(&opensips, "by name");
    assert!(hears(&named, "by name").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_subscriber_does_others_no_harm_and_is_forgotten() {
    let test = "a_dead_subscriber_does_others_no_harm_and_is_forgotten";
    let Some(installation) = installation(test) else { return };
    let opensips = OpenSips::start(installation, Script::Reference);
    let dead = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for socket in [format!("udp:{dead}"), format!("tcp:{gone}")] {
        subscribe(&opensips, &socket, 2).unwrap();
    }
    let alive = subscriber(&opensips, "127.0.0.1:0", |port| format!("udp:127.0.0.1:{port}")).await;
    for number in 0..200 {
        let word = format!("number {number}");
        raise(&opensips, &word);
        assert!(hears(&alive, &word).await, "{word}");
    }
    wait_until("the dead are forgotten", || (listed(&opensips).len() == 1).then_some(()));
}

/// A keeper that is told to advertise an address of nobody's.
#[tokio::test(flavor = "multi_thread")]
async fn events_that_go_elsewhere_are_noticed_by_a_running_keeper() {
    let test = "events_that_go_elsewhere_are_noticed_by_a_running_keeper";
    let Some(installation) = installation(test) else { return };
    let opensips = OpenSips::start(installation, Script::Reference);
    let stack = connector(&opensips, EventTransport::Udp).await;
    let nobody = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut elsewhere = stack.settings().events.clone();
    elsewhere.advertise = Some(nobody.local_addr().unwrap().to_string());
    let from = stack.mi().local_addr().unwrap().ip();
    let sink = Sink::open(&elsewhere, from).await.unwrap();
    let (kept, stop) = (Arc::new(Kept::default()), CancellationToken::new());
    let reports = Arc::clone(&kept) as Arc<dyn Reports>;
    let keeping = tokio::spawn(keep(Arc::clone(&stack), sink, reports, stop.clone()));
    // Once when it subscribed, and once more since nothing came.
    wait_until("everybody has to look", || (kept.joined() >= 2).then_some(()));
    // It was told where it is, and trials were raised there.
    assert!(hears(&nobody, "callplane ").await);
    stop.cancel();
    keeping.await.unwrap();
}
