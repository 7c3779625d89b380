//! What a simulated stack must know beyond the recordings: the oddities of OpenSIPS that
//! callplane has to survive, the reference script, and bad networks.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use callplane::stack::mi::{Mi, MiAnswer, MiEvent, MiFailure, MiParams, MiRequest};
use callplane::stack::simulated::faults::{Chance, Delay};
use callplane::stack::simulated::in_process::InProcess;
use callplane::stack::simulated::{
    Asker, Behaviour, Direction, Output, PhoneConfig, Replaces, Script, Version, World, WorldConfig,
};
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);

/// A world on a bench: what comes out is kept.
struct Bench {
    world: World,
    now: Duration,
    tickets: u64,
    answers: Vec<(u64, MiAnswer)>,
    events: Vec<Arc<MiEvent>>,
}

fn config(script: Script) -> WorldConfig {
    WorldConfig {
        script,
        phones: ["alice", "bob", "carol", "dave"]
            .into_iter()
            .zip(5101_u16..)
            .map(|(name, port)| PhoneConfig::new(name, &format!("127.0.0.1:{port}")))
            .collect(),
        ..WorldConfig::default()
    }
}

impl Bench {
    fn new(config: WorldConfig) -> Bench {
        let mut bench = Bench {
            world: World::new(3, config),
            now: Duration::ZERO,
            tickets: 0,
            answers: Vec::new(),
            events: Vec::new(),
        };
        let reference = bench.world.config().script == Script::Reference;
        let mut names = vec!["E_DLG_STATE_CHANGED", "E_CALL_TRANSFER", "E_CALL_HOLD"];
        if reference {
            names.push("E_CALLPLANE");
        }
        for name in names {
            let request = MiRequest::new("event_subscribe")
                .text("event", name)
                .text("socket", "udp:127.0.0.1:9");
            assert_eq!(bench.ask(request), MiAnswer::Result("OK".into()));
        }
        bench
    }

    fn stock() -> Bench {
        Bench::new(config(Script::Stock))
    }

    fn reference() -> Bench {
        Bench::new(config(Script::Reference))
    }

    fn pump(&mut self) {
        while let Some(output) = self.world.take() {
            match output {
                Output::Answer { asker, answer } => self.answers.push((asker.ticket, answer)),
                Output::Event { event, .. } => self.events.push(event),
                Output::Plain { .. } | Output::Down | Output::Up => {}
            }
        }
    }

    /// Lets time pass.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.world.due().filter(|due| *due <= end) {
            self.world.advance(due);
            self.pump();
        }
        self.now = end;
        self.world.advance(end);
        self.pump();
    }

    fn send(&mut self, request: MiRequest) -> u64 {
        self.tickets += 1;
        self.world.request(self.now, Asker::process(self.tickets), &request);
        self.pump();
        self.tickets
    }

    fn answered(&self, ticket: u64) -> Option<&MiAnswer> {
        self.answers.iter().find(|(t, _)| *t == ticket).map(|(_, a)| a)
    }

    /// Asks a command that answers at once.
    fn ask(&mut self, request: MiRequest) -> MiAnswer {
        let ticket = self.send(request);
        self.answered(ticket).expect("answered at once").clone()
    }

    /// Asks and lets a tenth of a second pass.
    fn ask_phone(&mut self, request: MiRequest) -> MiAnswer {
        let ticket = self.send(request);
        self.pass(SECOND / 10);
        self.answered(ticket).expect("answered in 100 ms").clone()
    }

    fn behave(&mut self, phone: &str, change: impl FnOnce(&mut Behaviour)) {
        let mut behaviour = self.world.behaviour(phone).unwrap().clone();
        change(&mut behaviour);
        assert!(self.world.set_behaviour(phone, behaviour));
    }

    /// alice talks to bob.
    fn talk(&mut self, from: &str, to: &str) -> String {
        let callid = self.world.place_call(self.now, from, to).unwrap();
        self.pass(SECOND / 10);
        assert_eq!(self.dialog(&callid)["state"], 4);
        callid
    }

    fn by_callid(&mut self, callid: &str) -> MiAnswer {
        self.ask(MiRequest::new("dlg_list").text("callid", callid))
    }

    fn dialog(&mut self, callid: &str) -> Value {
        let answer = self.ask(MiRequest::new("dlg_list_ctx").text("callid", callid));
        answer.result().unwrap_or_else(|| panic!("{callid}: {answer:?}"))["Dialog"].clone()
    }

    fn full_list(&mut self) -> Vec<Value> {
        let answer = self.ask(MiRequest::new("dlg_list"));
        answer.result().unwrap()["Dialogs"].as_array().unwrap().clone()
    }

    /// Events of this kind so far, as one text each; forgets them.
    fn told(&mut self, name: &str, members: &[&str]) -> Vec<String> {
        let (these, rest) =
            std::mem::take(&mut self.events).into_iter().partition(|e| e.name == name);
        self.events = rest;
        let these: Vec<Arc<MiEvent>> = these;
        these
            .iter()
            .map(|e| {
                let value = |m: &&str| match e.params.get(m) {
                    Some(Value::String(text)) => text.clone(),
                    Some(other) => other.to_string(),
                    None => "-".to_owned(),
                };
                members.iter().map(value).collect::<Vec<_>>().join(" ")
            })
            .collect()
    }

    fn states(&mut self) -> Vec<String> {
        self.told("E_DLG_STATE_CHANGED", &["old_state", "new_state"])
    }

    fn transfers(&mut self) -> Vec<String> {
        self.told("E_CALL_TRANSFER", &["state", "status"])
            .into_iter()
            .filter(|t| !t.starts_with("notify"))
            .collect()
    }

    fn start(&mut self, caller: &str, callee: &str, op: &str) -> u64 {
        let callid = format!("cp-{op}");
        self.send(
            MiRequest::new("t_uac_dlg")
                .text("method", "INVITE")
                .text("ruri", format!("sip:{caller}@127.0.0.1:5060"))
                .text("next_hop", "sip:127.0.0.1:5066")
                .text(
                    "headers",
                    format!(
                        "From: \"x\" <sip:{callee}@127.0.0.1:5060>\r\nTo: <sip:{caller}@127.0.0.1:5060>\r\n\
                         Contact: <sip:callplane@127.0.0.1:5066;gr=cp>\r\nContent-Type: application/sdp\r\n\
                         CSeq: 1 INVITE\r\nCall-ID: {callid}\r\nX-CP-Op: {op}\r\n"
                    ),
                )
                .text("body", "v=0\r\n"),
        )
    }

    fn refer(&mut self, callid: &str, target: &str, parameter: &str, op: Option<&str>) -> MiAnswer {
        let op = op.map(|op| format!("X-CP-Op: {op}\r\n")).unwrap_or_default();
        self.ask_phone(
            MiRequest::new("dlg_send_sequential")
                .text("callid", callid)
                .text("method", "REFER")
                .text("mode", "callee")
                .text("body", "none")
                .text(
                    "headers",
                    format!("Refer-To: <sip:{target}@127.0.0.1:5060{parameter}>\r\n{op}"),
                ),
        )
    }

    fn up(&self) -> BTreeSet<(String, String)> {
        self.world
            .calls()
            .into_iter()
            .filter(|c| c.caller_up || c.callee_up)
            .map(|c| (c.from, c.to))
            .collect()
    }
}

fn status(answer: Option<&MiAnswer>) -> &str {
    answer.and_then(MiAnswer::result).and_then(|r| r["Status"].as_str()).unwrap_or_default()
}

fn code(answer: &MiAnswer) -> i64 {
    match answer {
        MiAnswer::Result(value) => value["Code"].as_i64().unwrap_or_default(),
        MiAnswer::Error { code, .. } => *code,
    }
}

fn pair(a: &str, b: &str) -> (String, String) {
    (format!("sip:{a}@127.0.0.1:5060"), format!("sip:{b}@127.0.0.1:5060"))
}

#[test]
fn two_dialogs_with_one_callid_hide_a_live_call_for_some_seconds() {
    let mut b = Bench::stock();
    b.behave("alice", |a| a.challenged = true);
    let callid = b.world.place_call(b.now, "alice", "bob").unwrap();
    b.pass(SECOND);
    assert_eq!(b.states(), ["1 5", "1 2", "2 3", "3 4"]);
    assert_eq!(code(&b.by_callid(&callid)), 404, "a live call, but the dead dialog is found");
    let states: Vec<_> = b.full_list().iter().map(|d| d["state"].clone()).collect();
    assert_eq!(states, [json!(5), json!(4)]);
    b.pass(SECOND * 6);
    assert_eq!(b.dialog(&callid)["state"], 4);
}

#[test]
fn a_challenged_referred_call_fails_and_is_ok_for_one_callid() {
    let mut b = Bench::stock();
    let call = b.talk("alice", "bob");
    b.behave("bob", |p| p.challenged = true);
    let id = b.dialog(&call)["ID"].as_str().unwrap().to_owned();
    assert_eq!(code(&b.refer(&call, "carol", &format!(";osid={id}"), None)), 202);
    b.pass(SECOND);
    assert_eq!(b.transfers(), ["start ", "fail 408 Request Timeout", "start ", "ok 200 OK"]);
}

#[test]
fn bye_then_dial_comes_up_without_a_transfer_event_on_a_stock_script() {
    let mut b = Bench::stock();
    let call = b.talk("alice", "bob");
    b.behave("bob", |p| {
        p.bye_before_follow = true;
        p.follow_ms = 300;
    });
    let id = b.dialog(&call)["ID"].as_str().unwrap().to_owned();
    assert_eq!(code(&b.refer(&call, "carol", &format!(";osid={id}"), None)), 202);
    b.pass(SECOND);
    assert_eq!(b.transfers(), Vec::<String>::new());
    assert_eq!(b.up(), [pair("bob", "carol")].into());
}

#[test]
fn a_200_crosses_the_cancel() {
    let mut b = Bench::stock();
    b.behave("alice", |p| {
        p.ring_ms = 5000;
        p.answers_cancelled = true;
    });
    let start = b.start("alice", "bob", "1");
    b.pass(SECOND);
    let cancel = MiRequest::new("t_uac_cancel").text("callid", "cp-1").text("cseq", "1");
    assert_eq!(b.ask(cancel.clone()), MiAnswer::Result("OK".into()));
    b.pass(SECOND);
    assert_eq!(status(b.answered(start)), "200 OK");
    assert_eq!(b.states(), ["1 2", "2 3", "3 4"]);
    assert_eq!(code(&b.ask(cancel)), 481, "too late");
    // The same by dlg_end_dlg: it has to be ended again.
    b.start("alice", "bob", "2");
    b.pass(SECOND);
    let end = MiRequest::new("dlg_end_dlg").text("dialog_id", "cp-2");
    b.ask(end.clone());
    b.pass(SECOND);
    assert_eq!(b.dialog("cp-2")["state"], 4);
    b.ask(end);
    b.pass(SECOND);
    assert_eq!(code(&b.by_callid("cp-2")), 404);
}

#[test]
fn holding_what_is_inactive_already_is_ok_and_no_event() {
    for version in [Version::V3_6, Version::V4_0] {
        let mut b = Bench::new(WorldConfig { version, ..config(Script::Stock) });
        let call = b.talk("alice", "bob");
        assert!(b.world.phone_reinvites(b.now, "bob", &call, Direction::Inactive));
        let hold = MiRequest::new("call_hold").text("callid", call.as_str());
        for _ in 0..2 {
            assert_eq!(b.ask_phone(hold.clone()), MiAnswer::Result("OK".into()));
        }
        assert_eq!(b.told("E_CALL_HOLD", &["state"]), Vec::<String>::new());
        assert_eq!(b.dialog(&call)["context"], json!({}));
    }
}

#[test]
fn a_silent_leg_is_408_after_fr_timeout_and_kills_3_6_only_by_call_hold() {
    let mut b = Bench::stock();
    let call = b.talk("alice", "bob");
    b.behave("bob", |p| p.reinvite = 0);
    let own = b.send(
        MiRequest::new("dlg_send_sequential")
            .text("callid", call.as_str())
            .text("method", "INVITE")
            .text("mode", "callee")
            .text("body", "custom:application/sdp:v=0\r\na=inactive\r\n"),
    );
    b.pass(SECOND * 4);
    assert_eq!(b.answered(own), None);
    b.pass(SECOND * 2);
    assert_eq!(b.answered(own), Some(&MiAnswer::error(408, "Request Timeout")));
    assert!(b.world.is_up());
    b.ask(MiRequest::new("call_hold").text("callid", call.as_str()));
    b.pass(SECOND * 6);
    assert!(!b.world.is_up(), "3.6.8 dies");
    b.pass(SECOND * 2);
    assert!(b.world.is_up(), "and is started again");
}

#[test]
fn own_re_invites_hold_one_leg_at_a_time() {
    let mut b = Bench::stock();
    let call = b.talk("alice", "bob");
    b.behave("bob", |p| p.reinvite = 488);
    let mut hold = |leg: &str, direction: &str| {
        let answer = b.ask_phone(
            MiRequest::new("dlg_send_sequential")
                .text("callid", call.as_str())
                .text("method", "INVITE")
                .text("mode", leg)
                .text("body", format!("custom:application/sdp:v=0\r\na={direction}\r\n")),
        );
        let offered = b.world.calls()[0].caller_offered;
        (code(&answer), offered)
    };
    assert_eq!(hold("caller", "inactive"), (200, Direction::Inactive));
    assert_eq!(hold("callee", "inactive"), (488, Direction::Inactive));
    assert_eq!(hold("caller", "sendrecv"), (200, Direction::SendRecv));
}

#[test]
fn anybody_can_forge_a_transfer_event_on_a_stock_script() {
    let mut b = Bench::stock();
    let call = b.talk("alice", "bob");
    assert!(b.world.forge_transfer(b.now, "dave", &call, "nobody").is_some());
    b.pass(SECOND);
    assert_eq!(b.transfers(), ["start ", "fail 408 Request Timeout"]);
    let mut b = Bench::reference();
    let call = b.talk("alice", "bob");
    assert!(b.world.forge_transfer(b.now, "dave", &call, "carol").is_some());
    b.pass(SECOND);
    assert_eq!(b.transfers(), Vec::<String>::new());
}

#[test]
fn a_target_without_replaces_leaves_all_three_calls_up() {
    for (replaces, calls) in [(Replaces::Ignored, 3), (Replaces::Supported, 2)] {
        let mut b = Bench::stock();
        b.behave("carol", |p| p.replaces = replaces);
        let a = b.talk("alice", "bob");
        let other = b.talk("alice", "carol");
        b.ask(
            MiRequest::new("call_transfer")
                .text("callid", a.as_str())
                .text("leg", "callee")
                .text("transfer_callid", other.as_str())
                .text("transfer_leg", "callee"),
        );
        b.pass(SECOND);
        assert_eq!(b.transfers(), ["start ", "start ", "ok 200 OK", "ok 200 OK"]);
        assert_eq!(b.up().len(), calls, "{replaces:?}");
    }
}

#[test]
fn a_strict_target_refuses_to_replace_a_call_it_no_longer_has() {
    let mut b = Bench::stock();
    b.behave("carol", |p| p.replaces = Replaces::Strict);
    b.behave("bob", |p| p.follow_ms = 500);
    let a = b.talk("alice", "bob");
    let other = b.talk("alice", "carol");
    b.ask(
        MiRequest::new("call_transfer")
            .text("callid", a.as_str())
            .text("leg", "callee")
            .text("transfer_callid", other.as_str())
            .text("transfer_leg", "callee"),
    );
    assert!(b.world.hang_up(b.now, "carol", &other));
    b.pass(SECOND);
    assert_eq!(b.up(), [pair("alice", "bob")].into());
    // The consultation call is over, so nothing is watched: the phone's NOTIFY is all there is.
    assert_eq!(b.transfers(), Vec::<String>::new());
}

#[test]
fn the_reference_script_marks_counts_and_tells() {
    let mut b = Bench::reference();
    let fetch =
        |name: &str| MiRequest::new("cache_fetch").text("system", "local").text("attr", name);
    assert_eq!(
        b.ask(fetch("cp_cfg_version")),
        MiAnswer::Result(json!({"key": "cp_cfg_version", "value": "1 udp:127.0.0.1:5066 5 60"}))
    );
    assert_eq!(code(&b.ask(fetch("cps_7"))), 400);
    let first = b.start("alice", "bob", "7");
    assert_eq!(b.ask(fetch("cps_7")).result().unwrap()["value"], "cp-7");
    b.pass(SECOND);
    assert_eq!(status(b.answered(first)), "200 OK");
    let second = b.start("alice", "bob", "7");
    b.pass(SECOND);
    assert_eq!(status(b.answered(second)), "482 Command already done");
    assert_eq!(b.full_list().len(), 1);
    // A stock script has neither cache nor mark.
    let mut b = Bench::stock();
    assert_eq!(code(&b.ask(fetch("cp_cfg_version"))), 500);
    for _ in 0..2 {
        b.start("alice", "bob", "7");
    }
    b.pass(SECOND);
    assert_eq!(b.full_list().len(), 2, "the same start twice is two calls");
}

#[test]
fn a_token_lets_one_referred_call_in() {
    let mut b = Bench::reference();
    b.start("alice", "bob", "s");
    b.pass(SECOND);
    b.behave("bob", |p| p.ring_ms = 200);
    assert_eq!(code(&b.refer("cp-s", "bob", ";cpt=r", Some("r"))), 202);
    b.pass(SECOND);
    let of = |b: &mut Bench| b.told("E_CALLPLANE", &["kind", "op", "info"]);
    let told = of(&mut b);
    let kinds: Vec<&str> = told.iter().map(|t| t.split(' ').next().unwrap()).collect();
    assert_eq!(
        kinds,
        ["sent", "notify", "referred", "reply", "notify", "reply", "notify"],
        "{told:?}"
    );
    assert!(told.iter().all(|t| t.split(' ').nth(1) == Some("r")), "{told:?}");
    assert_eq!(b.transfers(), ["start ", "ok 200 OK"]);
    assert_eq!(
        b.dialog("cp-s")["context"]["values"][0],
        json!({"call_transfer_callid": b.world.calls()[1].callid})
    );
    // The same token again: used up.
    let refused = b.world.place_call(b.now, "carol", "sip:bob@127.0.0.1:5060;cpt=r").unwrap();
    b.pass(SECOND);
    assert_eq!(code(&b.by_callid(&refused)), 404);
    assert_eq!(b.transfers(), Vec::<String>::new());
    // Never sent: refused, and nothing is stored for it.
    let invented = b.world.place_call(b.now, "carol", "sip:bob@127.0.0.1:5060;cpt=no").unwrap();
    b.pass(SECOND);
    assert_eq!(code(&b.by_callid(&invented)), 404);
    let stored = MiRequest::new("cache_fetch").text("system", "local").text("attr", "cpu_no");
    assert_eq!(b.ask(stored), MiAnswer::error(400, "Value not found"));
    // Revoked before the phone dials: 603, no call.
    b.start("carol", "dave", "s2");
    b.pass(SECOND);
    b.behave("carol", |p| p.follow_ms = 500);
    assert_eq!(code(&b.refer("cp-s2", "dave", ";cpt=r2", Some("r2"))), 202);
    b.ask(MiRequest::new("cache_remove").text("system", "local").text("attr", "cpr_r2"));
    of(&mut b);
    b.pass(SECOND);
    assert_eq!(
        of(&mut b),
        [
            "notify r2 SIP/2.0 100 Trying\r\n",
            "failed r2 603",
            "notify r2 SIP/2.0 603 Not Referred\r\n"
        ]
    );
    assert!(!b.up().contains(&pair("carol", "dave")));
}

#[test]
fn the_reference_script_says_who_hung_up_and_ends_forgotten_setup_calls() {
    let mut b = Bench::reference();
    let byes = |b: &mut Bench| b.told("E_CALLPLANE", &["kind", "info"]);
    let call = b.talk("alice", "bob");
    b.world.hang_up(b.now, "bob", &call);
    b.pass(SECOND);
    assert_eq!(byes(&mut b), ["bye Upstream BYE"]);
    b.start("alice", "bob", "1");
    b.pass(SECOND);
    b.ask(MiRequest::new("dlg_end_dlg").text("dialog_id", "cp-1"));
    b.pass(SECOND);
    assert_eq!(byes(&mut b), ["bye MI Termination"]);
    b.start("alice", "bob", "2");
    b.pass(SECOND * 170);
    assert_eq!(b.dialog("cp-2")["state"], 4);
    b.pass(SECOND * 20);
    assert_eq!(code(&b.by_callid("cp-2")), 404);
    assert_eq!(byes(&mut b), ["bye Lifetime Timeout"]);
    assert_eq!(b.up(), BTreeSet::new());
}

#[test]
fn a_persistent_stack_keeps_its_dialogs_over_a_restart() {
    for persist_dialogs in [false, true] {
        let mut b = Bench::new(WorldConfig { persist_dialogs, ..config(Script::Stock) });
        let call = b.talk("alice", "bob");
        b.world.place_call(b.now, "carol", "dave").unwrap();
        b.world.restart(b.now, Some(SECOND));
        let lost = b.send(MiRequest::new("uptime"));
        b.pass(SECOND * 2);
        assert_eq!(b.answered(lost), None);
        assert_eq!(b.full_list().len(), usize::from(persist_dialogs));
        assert_eq!(b.up(), [pair("alice", "bob")].into(), "the phones talk on");
        b.events.clear();
        assert!(b.world.hang_up(b.now, "bob", &call));
        b.pass(SECOND);
        assert_eq!(b.up(), BTreeSet::new());
        assert_eq!(b.events.len(), 0, "subscriptions are gone");
    }
}

#[test]
fn a_bad_network_loses_doubles_and_reorders() {
    let mut b = Bench::stock();
    b.world.faults().lose_requests = Chance { next: 1, ppm: 0 };
    let lost = b.send(MiRequest::new("raise_event").text("event", "E_CALL_HOLD"));
    b.world.faults().lose_replies = Chance { next: 1, ppm: 0 };
    let unheard = b.send(MiRequest::new("raise_event").text("event", "E_CALL_HOLD"));
    assert_eq!((b.answered(lost), b.answered(unheard)), (None, None));
    assert_eq!(b.events.len(), 1, "the second was executed");
    b.world.faults().lose_events = Chance { next: 2, ppm: 0 };
    b.world.faults().double_events = Chance { next: 1, ppm: 0 };
    b.events.clear();
    b.world.place_call(b.now, "alice", "bob").unwrap();
    b.pass(SECOND);
    assert_eq!(b.states(), ["3 4", "3 4"]);
    b.world.faults().delay_events = Delay { min_ms: 0, max_ms: 500 };
    let mut orders = BTreeSet::new();
    for _ in 0..20 {
        b.world.place_call(b.now, "carol", "dave").unwrap();
        b.pass(SECOND);
        orders.insert(b.states());
    }
    assert!(orders.len() > 1, "never in another order: {orders:?}");
    for mut order in orders {
        order.sort();
        assert_eq!(order, ["1 2", "2 3", "3 4"], "none is lost");
    }
    b.world.faults().silent = true;
    let hung = b.send(MiRequest::new("uptime"));
    b.pass(SECOND * 10);
    assert_eq!(b.answered(hung), None);
}

#[test]
fn phones_hang_up_by_themselves_and_refuse_what_is_too_much() {
    let mut b = Bench::stock();
    b.behave("bob", |p| {
        p.hang_up_ms = Some(3000);
        p.max_calls = 1;
    });
    let call = b.talk("alice", "bob");
    b.states();
    b.world.place_call(b.now, "carol", "bob").unwrap();
    b.pass(SECOND);
    assert_eq!(b.states(), ["1 2", "2 5"]);
    b.pass(SECOND * 3);
    assert_eq!(code(&b.by_callid(&call)), 404);
    // A phone that is off: nothing rings, 408 after fr_timeout; a CANCEL changes nothing.
    b.behave("dave", |p| {
        p.ring = false;
        p.answer = 0;
    });
    b.states();
    let start = b.start("dave", "bob", "off");
    b.pass(SECOND);
    b.ask(MiRequest::new("t_uac_cancel").text("callid", "cp-off").text("cseq", "1"));
    b.pass(SECOND * 6);
    assert_eq!(b.states(), ["1 5"]);
    assert_eq!(status(b.answered(start)), "408 Request Timeout");
}

/// An in-process stack whose time the test sets.
/// The events that came, in order.
type Seen = Arc<Mutex<Vec<Arc<MiEvent>>>>;

fn in_process(world: World) -> (InProcess, Arc<Mutex<Duration>>, Seen) {
    let now = Arc::new(Mutex::new(Duration::ZERO));
    let events: Arc<Mutex<Vec<Arc<MiEvent>>>> = Arc::default();
    let (clock, sink) = (now.clone(), events.clone());
    let stack = InProcess::new(
        world,
        Box::new(move || *clock.lock().unwrap()),
        Box::new(move |_, event| sink.lock().unwrap().push(event.clone())),
    );
    (stack, now, events)
}

/// Polls a future once.
fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

#[test]
fn in_process_calls_need_no_runtime_and_no_real_time() {
    let (stack, now, events) = in_process(World::new(1, config(Script::Stock)));
    let call = |request: MiRequest| stack.call(request, SECOND * 30);
    let subscribe = MiRequest::new("event_subscribe")
        .text("event", "E_DLG_STATE_CHANGED")
        .text("socket", "udp:127.0.0.1:9");
    let mut at_once = std::pin::pin!(call(subscribe));
    assert_eq!(poll_once(at_once.as_mut()), Some(Ok(MiAnswer::Result("OK".into()))));
    // A start is answered when the phone answers.
    stack.with(|world, _| {
        world.set_behaviour("alice", Behaviour { ring_ms: 2000, ..Behaviour::default() })
    });
    let start = MiRequest {
        method: "t_uac_dlg".into(),
        params: MiParams::Named(vec![
            ("method".into(), "INVITE".into()),
            ("ruri".into(), "sip:alice@127.0.0.1:5060".into()),
            ("next_hop".into(), "sip:127.0.0.1:5060".into()),
            ("headers".into(), "From: <sip:b@x>\r\nTo: <sip:a@x>\r\nCall-ID: s\r\n".into()),
        ]),
    };
    let mut slow = std::pin::pin!(call(start));
    assert_eq!(poll_once(slow.as_mut()), None);
    while let Some(due) = stack.due().filter(|due| *due < SECOND * 3) {
        *now.lock().unwrap() = due;
        stack.advance();
    }
    let answer = poll_once(slow.as_mut()).expect("answered").unwrap();
    assert_eq!(answer.result().unwrap()["Status"], "200 OK");
    assert_eq!(events.lock().unwrap().len(), 3);
    // Nothing comes back: silent at the deadline. Down: provably not sent.
    stack.with(|world, _| world.faults().lose_replies = Chance { next: 1, ppm: 0 });
    let mut lost = std::pin::pin!(stack.call(MiRequest::new("uptime"), SECOND));
    assert_eq!(poll_once(lost.as_mut()), None);
    *now.lock().unwrap() += SECOND;
    stack.advance();
    assert_eq!(poll_once(lost.as_mut()), Some(Err(MiFailure::Silent)));
    stack.with(|world, now| world.restart(now, None));
    let mut down = std::pin::pin!(call(MiRequest::new("uptime")));
    assert_eq!(poll_once(down.as_mut()), Some(Err(MiFailure::NotSent { reason: "refused" })));
}

#[tokio::test(start_paused = true)]
async fn in_process_with_tokio_drives_itself() {
    let origin = tokio::time::Instant::now();
    let stack = InProcess::new(
        World::new(1, config(Script::Stock)),
        Box::new(move || origin.elapsed()),
        Box::new(|_, _| {}),
    );
    let driver = stack.clone();
    let driven = tokio::spawn(async move { driver.drive().await });
    stack.with(|world, now| {
        world.set_behaviour("bob", Behaviour { refer: 0, ..Behaviour::default() });
        world.place_call_as(now, "alice", "bob", Some("c")).unwrap();
    });
    tokio::time::sleep(SECOND).await;
    let refer = MiRequest::new("dlg_send_sequential")
        .text("callid", "c")
        .text("method", "REFER")
        .text("mode", "callee");
    let answer = stack.call(refer, SECOND * 10).await;
    assert_eq!(answer, Ok(MiAnswer::error(408, "Request Timeout")));
    assert!(origin.elapsed() >= SECOND * 6);
    driven.abort();
}

#[test]
fn nothing_is_left_of_calls_that_are_over() {
    let mut b = Bench::reference();
    for n in 0..500 {
        let callid = b.world.place_call(b.now, "alice", "bob").unwrap();
        b.start("carol", "dave", &format!("n{n}"));
        b.pass(SECOND / 10);
        assert!(b.world.hang_up(b.now, "bob", &callid));
        b.ask(MiRequest::new("dlg_end_dlg").text("dialog_id", format!("cp-n{n}")));
        b.pass(SECOND / 10);
    }
    // Longer than any ringing, so that no timer of a call is left either.
    b.pass(SECOND * 70);
    assert_eq!(b.world.calls(), Vec::new());
    assert_eq!(b.world.due(), None);
}
