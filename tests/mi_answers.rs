//! Whatever a stack answers, an act ends with a reply and nothing unchecked is sent.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use callplane::clock::{Clock, SystemClock, TokioTimer};
use callplane::core::act::{Act, Offer, Op, ReferTo, Reply, Sent};
use callplane::core::ids::{CallId, Nonce, OpId, PodId, StackId};
use callplane::core::plan::{HoldBy, ReferBy};
use callplane::core::request::{Display, Leg};
use callplane::core::sip_address::SipAddress;
use callplane::core::time::StoreTime;
use callplane::stack::SipStack;
use callplane::stack::mi::{Mi, MiAnswer, MiFailure, MiReply, MiRequest};
use callplane::stack::opensips::meter::Unmetered;
use callplane::stack::opensips::settings::StackSettings;
use callplane::stack::opensips::{OpenSips, Surroundings};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Gives the same answers over and over, in turn.
#[derive(Clone)]
struct Parrot {
    answers: Arc<Vec<Result<MiAnswer, MiFailure>>>,
    asked: Arc<Mutex<Vec<MiRequest>>>,
}

impl Mi for Parrot {
    async fn call(&self, request: MiRequest, _timeout: Duration) -> Result<MiAnswer, MiFailure> {
        let mut asked = self.asked.lock().unwrap();
        asked.push(request.clone());
        if request.method == "uptime" {
            return Ok(MiAnswer::Result(json!({"Up since": "then"})));
        }
        self.answers[asked.len() % self.answers.len()].clone()
    }
}

fn call() -> CallId {
    CallId::parse("call@here").unwrap()
}

fn address(user: &str) -> SipAddress {
    SipAddress::parse(&format!("sip:{user}@here.example:5070;transport=udp")).unwrap()
}

fn token() -> OpId {
    OpId::derive(Nonce(7), 1)
}

fn acts() -> Vec<Act> {
    let replacing = ReferTo::Replacing { call: CallId::parse("other").unwrap(), leg: Leg::Caller };
    let sent = Sent { op: token(), since: StoreTime(0) };
    let refer = |leg, to| Act::Refer { call: call(), leg, to };
    let reinvite = |leg, offer| Act::ReInvite { call: call(), leg, offer };
    let invite = |display: Option<&str>| Act::Invite {
        call: call(),
        caller: address("alice"),
        callee: address("bob"),
        display: display.map(|text| Display::parse(text).unwrap()),
        auto_answer: false,
    };
    vec![
        invite(None),
        invite(Some("Bob's büro; 1")),
        Act::CancelInvite { call: call() },
        refer(Leg::Callee, ReferTo::Address(address("carol"))),
        refer(Leg::Caller, replacing),
        reinvite(Leg::Caller, Offer::Hold { first: true }),
        reinvite(Leg::Callee, Offer::Resume { first: false, last: true }),
        Act::StackHold { call: call(), offer: Offer::Hold { first: true } },
        Act::Mark { call: call(), held: true },
        Act::End { call: call() },
        Act::Revoke { token: token() },
        Act::Look { call: call(), referred_by: Some(token()), sent: Some(sent) },
    ]
}

/// Performs every act; gives what was asked.
async fn perform_all(answers: Vec<Result<MiAnswer, MiFailure>>, by_stack: bool) -> Vec<MiRequest> {
    let parrot = Parrot { answers: Arc::new(answers), asked: Arc::default() };
    let clock = Arc::new(SystemClock::new());
    let surroundings = Surroundings {
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        timer: Arc::new(TokioTimer),
        meter: Arc::new(Unmetered),
    };
    let mut settings = StackSettings::new(StackId::new("s"), "127.0.0.1:1");
    settings.next_hop = Some("sip:127.0.0.1:5060".to_owned());
    settings.breaker_failures = u32::MAX;
    if by_stack {
        settings.hold = HoldBy::Stack;
        settings.refer = ReferBy::Stack;
    }
    let stack = OpenSips::new(settings, parrot.clone(), parrot.clone(), surroundings);
    for act in acts() {
        let now = clock.now();
        let op = Op {
            id: token(),
            by: PodId::new("p"),
            stack: StackId::new("s"),
            act,
            send_before: now.after(Duration::from_secs(5)),
            // A full list waits its second; it need not here.
            reply_by: now.after(Duration::from_millis(30)),
        };
        match stack.perform(&op).await {
            Reply::Refused { code, .. } => assert!(code > 0),
            Reply::Done(_) | Reply::Missing { .. } | Reply::NotSent(_) | Reply::Silent => {}
        }
    }
    let asked = parrot.asked.lock().unwrap();
    asked.clone()
}

/// Header text of ours: every line is one of those that we write, and nothing in it can be
/// unescaped into another. How many REFERs there were.
fn check_requests(requests: &[MiRequest]) -> usize {
    let mut checked = 0;
    const OURS: [&str; 9] = [
        "From: ",
        "To: ",
        "Contact: ",
        "Content-Type: ",
        "CSeq: ",
        "Call-ID: ",
        "Refer-To: ",
        "Referred-By: ",
        "X-CP-Op: ",
    ];
    for request in requests {
        assert_ne!(request.method, "", "an empty method ends OpenSIPS 4.0");
        let Some(headers) = request.params.text("headers") else { continue };
        assert!(!headers.contains('\\'), "{headers:?}");
        let lines: Vec<&str> = headers.split("\r\n").collect();
        let (last, lines) = lines.split_last().unwrap();
        assert_eq!(*last, "");
        for line in lines {
            assert!(OURS.iter().any(|name| line.starts_with(name)), "{line:?}");
            assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
        }
        checked += usize::from(headers.starts_with("Refer-To: "));
    }
    checked
}

/// A dialog that a hostile phone had a hand in.
fn hostile(text: &str) -> MiAnswer {
    let sdp =
        format!("v=0\r\no=- 1 {text} IN IP4 h\r\ns={text}\r\nt=0 0\r\nm=audio 9 RTP/AVP 0\r\n");
    MiAnswer::Result(json!({"Dialog": {
        "ID": text, "state": 4, "callid": text, "timestart": text,
        "from_uri": text, "to_uri": format!("sip:x@h{text}"), "caller_tag": text,
        "caller_sdp": sdp, "caller_contact": text,
        "CALLEES": [{"callee_tag": text, "callee_contact": text, "callee_sdp": text}],
        "context": {"values": [{"cp_hold": text}, {"cp_op": text}, {"call_transfer_callid": text}]}
    }}))
}

#[tokio::test]
async fn no_text_of_a_phone_becomes_a_header() {
    let texts = [
        "\r\nX-Evil: 1",
        "\\r\\nX-Evil: 1",
        "\"><sip:evil@h>",
        "\0",
        ">",
        "",
        "1",
        "ä",
        "18446744073709551615",
        "a?Subject=x",
    ];
    for text in texts {
        for by_stack in [false, true] {
            let sdp = "v=0\r\no=- 1 1 IN IP4 h\r\ns=-\r\nt=0 0\r\nm=audio 9 RTP/AVP 0\r\n";
            let mut usable = hostile(text);
            if let MiAnswer::Result(value) = &mut usable {
                value["Dialog"]["ID"] = json!("1a.2b");
                value["Dialog"]["caller_sdp"] = json!(sdp);
                value["Dialog"]["to_uri"] = json!("sip:carol@h.example");
                value["Dialog"]["from_uri"] = json!("sip:bob@h.example");
            }
            check_requests(&perform_all(vec![Ok(hostile(text))], by_stack).await);
            let referred = check_requests(&perform_all(vec![Ok(usable)], by_stack).await);
            assert_eq!(referred > 0, !by_stack, "{text:?}");
        }
    }
}

#[tokio::test]
async fn every_known_answer_is_survived_by_every_act() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/mi_reply");
    let mut replayed = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read(entry.unwrap().path()).unwrap();
        let answer = match MiReply::decode(&text) {
            MiReply::Answer { answer, .. } => Ok(answer),
            MiReply::Plain(plain) => Err(MiFailure::Plain(plain)),
            MiReply::Garbled => Err(MiFailure::Garbled),
        };
        check_requests(&perform_all(vec![answer], false).await);
        replayed += 1;
    }
    assert!(replayed > 10);
    for failure in [MiFailure::Silent, MiFailure::NotSent { reason: "refused" }] {
        perform_all(vec![Err(failure)], true).await;
    }
}

fn arbitrary_json() -> impl Strategy<Value = Value> {
    let names = prop::sample::select(vec![
        "Dialog",
        "Dialogs",
        "ID",
        "state",
        "callid",
        "CALLEES",
        "context",
        "values",
        "Code",
        "Reason",
        "Status",
        "Message",
        "cp_hold",
        "cp_op",
        "caller_sdp",
        "callee_contact",
        "count",
        "value",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0..6_u64).prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        Just(json!("486 Busy Here")),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(names.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_answer_is_survived_by_every_act(
        results in prop::collection::vec(arbitrary_json(), 1..4),
        code in any::<i64>(),
        by_stack in any::<bool>(),
    ) {
        let mut answers: Vec<_> =
            results.into_iter().map(|result| Ok(MiAnswer::Result(result))).collect();
        answers.push(Ok(MiAnswer::error(code, "?")));
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        let requests = runtime.unwrap().block_on(perform_all(answers, by_stack));
        check_requests(&requests);
    }
}
