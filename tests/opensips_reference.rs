//! The shipped `opensips.cfg` on a real OpenSIPS, driven by raw requests: what docs/opensips.md promises.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::type_complexity,
    reason = "a test fails by panicking"
)]

mod support;

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use callplane::core::command::Command;
use callplane::core::ids::{Install, Nonce, PodId, StackId};
use callplane::core::plan::{Capabilities, HoldBy, Plan, ReferBy, Times};
use callplane::core::request::{Request, StartRequest};
use callplane::core::sip_address::SipAddress;
use callplane::core::time::{Now, StoreTime};
use serde_json::json;
use support::events::Events;
use support::mi::{Mi, MiError};
use support::opensips::{OpenSips, Options, Script, installation, invite, refer};
use support::phone::{EndedBy, HangUp, Notify, Phase, Phone};
use support::sip::{Direction, Message};
use support::wait_until;

const NAMES: [&str; 3] = ["E_CALLPLANE", "E_CALL_TRANSFER", "E_DLG_STATE_CHANGED"];

/// A running reference OpenSIPS with what every test needs, or `None` where there is none.
struct Lab {
    opensips: OpenSips,
    mi: Mi,
    events: Events,
}

impl Lab {
    fn start(test: &str) -> Option<Lab> {
        Lab::start_with(test, Options::default())
    }

    fn start_with(test: &str, options: Options) -> Option<Lab> {
        let opensips = OpenSips::start_with(installation(test)?, Script::Reference, options);
        let mut mi = opensips.connect();
        let events = Events::subscribe(&mut mi, &NAMES);
        Some(Lab { opensips, mi, events })
    }

    /// The first half of a CallStart: alice answers. State 4 is told while the ACK is still inside
    /// OpenSIPS: a request sent then would change its CSeq, so the phone's word is waited for.
    fn started(&mut self, alice: &Phone, call_id: &str, op: &str) {
        self.placed(call_id, op);
        alice.wait_phase(call_id, Phase::Up);
    }

    fn placed(&mut self, call_id: &str, op: &str) {
        let params = invite(&self.opensips, "alice", "bob", call_id, op);
        let reply = self.mi.call("t_uac_dlg", params).expect("a status");
        assert_eq!(reply["Status"], "200 OK");
        self.events.wait_state(call_id, 4);
    }

    fn refer(&mut self, call_id: &str, leg: &str, user: &str, op: &str) -> Result<u64, MiError> {
        let target = format!("{};cpt={op}", self.opensips.uri(user));
        let params = refer(&self.opensips, call_id, leg, &target, op);
        let reply = self.mi.call("dlg_send_sequential", params)?;
        Ok(reply["Code"].as_u64().unwrap_or(0))
    }

    fn end(&mut self, call_id: &str) {
        let reply = self.mi.call("dlg_end_dlg", json!({"dialog_id": call_id}));
        assert_eq!(reply, Ok(json!("OK")));
    }

    fn fetch(&mut self, key: &str) -> Option<String> {
        let reply = self.mi.call("cache_fetch", json!({"system": "local", "attr": key}));
        reply.ok().and_then(|value| value["value"].as_str().map(str::to_owned))
    }

    /// One process of OpenSIPS may answer before another has run the `startup_route`.
    fn wait_grade(&mut self, expected: &str) {
        let told = wait_until("its grade", || self.fetch("cp_cfg_version"));
        assert_eq!(told, expected);
    }

    /// The names of all marks and tokens that take memory, those that ran out included.
    fn stored(&mut self) -> Vec<String> {
        let reply = self.mi.call("cache_fetch_chunk", json!({"glob": "*"})).expect("the keys");
        let keys = reply["keys"].as_array().expect("an array").iter();
        let names = keys.map(|key| key["name"].as_str().expect("a name").to_owned());
        names.filter(|name| name != "cp_cfg_version").collect()
    }

    /// Nothing is up anywhere and no phone saw anything improper.
    fn all_over(&self, phones: &[&Phone]) {
        self.opensips.wait_no_dialog();
        for phone in phones {
            phone.wait_idle();
            assert_eq!(phone.violations(), Vec::<String>::new());
        }
    }
}

/// An operation id: 26 letters and digits.
fn op(number: u32) -> String {
    format!("Op{number:024}")
}

#[test]
fn it_tells_its_grade_and_timers() {
    let Some(mut lab) = Lab::start("it_tells_its_grade_and_timers") else { return };
    let expected = format!("1 udp:{} 2 8", lab.opensips.callplane_socket());
    lab.wait_grade(&expected);
}

#[test]
fn a_start_reaches_the_callee_and_leaves_one_call() {
    let Some(mut lab) = Lab::start("a_start_reaches_the_callee_and_leaves_one_call") else {
        return;
    };
    let (alice, bob) = (lab.opensips.phone("alice"), lab.opensips.phone("bob"));
    lab.started(&alice, "cp-t-0-1", &op(1));
    assert_eq!(lab.fetch(&format!("cps_{}", op(1))), Some("cp-t-0-1".to_owned()));

    let seen = alice.view().received("INVITE")[0].clone();
    assert!(seen.header("from").unwrap().starts_with("\"Callee\" <sip:bob@"));
    assert_eq!(seen.header("x-cp-op"), None);
    assert!(seen.header("via").unwrap().contains(&lab.opensips.sip().to_string()));

    assert_eq!(lab.refer("cp-t-0-1", "callee", "bob", &op(2)), Ok(202));
    let referred = lab.events.wait_kind("referred", &op(2));
    assert_eq!(referred.text("info"), "cp-t-0-1");
    let call = referred.text("callid").to_owned();
    lab.events.wait_state(&call, 4);
    bob.wait_phase(&call, Phase::Up);
    assert!(!bob.view().received("INVITE")[0].uri().contains("cpt"));
    assert_eq!(alice.view().received("REFER")[0].header("x-cp-op"), None);

    lab.end("cp-t-0-1");
    alice.wait_phase("cp-t-0-1", Phase::Ended);
    lab.opensips.wait_only(&[&call]);
    assert_eq!(alice.received("BYE"), 1, "one BYE for the setup leg");
    lab.end(&call);
    lab.all_over(&[&alice, &bob]);
}

#[test]
fn one_operation_is_one_call() {
    let Some(mut lab) = Lab::start("one_operation_is_one_call") else { return };
    let alice = lab.opensips.phone("alice");
    alice.behave(|b| b.answer = None);
    let params = invite(&lab.opensips, "alice", "bob", "cp-t-0-2", &op(1));
    let first = lab.mi.send("t_uac_dlg", params.clone());
    lab.events.wait_state("cp-t-0-2", 2);
    let again = lab.mi.call("t_uac_dlg", params.clone()).unwrap();
    assert_eq!(again["Status"], "482 Command already done");
    alice.pick_up("cp-t-0-2");
    assert_eq!(lab.mi.wait(first).unwrap()["Status"], "200 OK");
    let up = lab.mi.call("t_uac_dlg", params.clone()).unwrap();
    assert_eq!(up["Status"], "482 Command already done");
    lab.events.wait_state("cp-t-0-2", 4);
    lab.end("cp-t-0-2");
    lab.all_over(&[&alice]);
    let over = lab.mi.call("t_uac_dlg", params).unwrap();
    assert_eq!(over["Status"], "482 Command already done");
    assert_eq!(alice.received("INVITE"), 1);
}

#[test]
fn one_phone_of_several_is_rung() {
    let Some(mut lab) = Lab::start("one_phone_of_several_is_rung") else { return };
    let (desk, mobile) = (lab.opensips.phone("alice"), lab.opensips.phone("alice"));
    lab.placed("cp-t-0-3", &op(1));
    assert_eq!(desk.received("INVITE") + mobile.received("INVITE"), 1);
    lab.end("cp-t-0-3");
    lab.all_over(&[&desk, &mobile]);
}

#[test]
fn a_ringing_start_is_cancelled() {
    let Some(mut lab) = Lab::start("a_ringing_start_is_cancelled") else { return };
    let alice = lab.opensips.phone("alice");
    alice.behave(|b| b.answer = None);
    let params = invite(&lab.opensips, "alice", "bob", "cp-t-0-4", &op(1));
    let start = lab.mi.send("t_uac_dlg", params);
    lab.events.wait_state("cp-t-0-4", 2);
    let cancel = json!({"callid": "cp-t-0-4", "cseq": "1"});
    // A lost reply asks a second time; the phone gets one CANCEL.
    let cancels = [(); 2].map(|()| lab.mi.send("t_uac_cancel", cancel.clone()));
    for cancel in cancels {
        assert_eq!(lab.mi.wait(cancel), Ok(json!("OK")));
    }
    assert_eq!(lab.mi.wait(start).unwrap()["Status"], "487 Request Terminated");
    lab.all_over(&[&alice]);
    assert_eq!(alice.received("CANCEL"), 1);
    let nothing = lab.mi.call("t_uac_cancel", json!({"callid": "none", "cseq": "1"}));
    assert_eq!(nothing.unwrap_err().code, 481);
}

#[test]
fn the_phone_hanging_up_ends_the_first_leg() {
    let Some(mut lab) = Lab::start("the_phone_hanging_up_ends_the_first_leg") else { return };
    let alice = lab.opensips.phone("alice");
    lab.started(&alice, "cp-t-0-5", &op(1));
    alice.hang_up("cp-t-0-5");
    lab.events.wait_state("cp-t-0-5", 5);
    assert_eq!(lab.events.wait_kind("bye", &op(1)).text("info"), "Upstream BYE");
    alice.wait("200 to BYE", |view| (view.answers("BYE") == [200]).then_some(()));
    assert_eq!(lab.refer("cp-t-0-5", "callee", "bob", &op(2)).unwrap_err().code, 404);
    lab.all_over(&[&alice]);
}

#[test]
fn callplanes_leg_answers_what_a_phone_asks() {
    let Some(mut lab) = Lab::start("callplanes_leg_answers_what_a_phone_asks") else { return };
    let alice = lab.opensips.phone("alice");
    lab.started(&alice, "cp-t-0-6", &op(1));
    alice.reinvite("cp-t-0-6", Direction::SendRecv);
    alice.wait("488", |view| view.answers("INVITE").contains(&488).then_some(()));
    for (method, sdp, status) in
        [("INFO", "", 200), ("OPTIONS", "", 200), ("UPDATE", "", 200), ("UPDATE", "v=0\r\n", 488)]
    {
        let before = alice.view().answers(method).len();
        let headers: &[(&str, &str)] =
            if sdp.is_empty() { &[] } else { &[("Content-Type", "application/sdp")] };
        alice.send_in_dialog("cp-t-0-6", method, headers, sdp);
        let answer = alice.wait(method, |view| view.answers(method).get(before).copied());
        assert_eq!(answer, status, "{method}");
    }
    lab.end("cp-t-0-6");
    lab.all_over(&[&alice]);
}

#[test]
fn a_revoked_token_rings_nobody() {
    let Some(mut lab) = Lab::start("a_revoked_token_rings_nobody") else { return };
    let (alice, bob) = (lab.opensips.phone("alice"), lab.opensips.phone("bob"));
    alice.behave(|b| b.follow_after = Duration::from_millis(500));
    lab.started(&alice, "cp-t-0-7", &op(1));
    assert_eq!(lab.refer("cp-t-0-7", "callee", "bob", &op(2)), Ok(202));
    let key = format!("cpr_{}", op(2));
    let revoke = json!({"system": "local", "attr": key});
    assert_eq!(lab.mi.call("cache_remove", revoke), Ok(json!("OK")));
    lab.end("cp-t-0-7");
    assert_eq!(lab.events.wait_kind("failed", &op(2)).text("info"), "603");
    let tried = alice.wait_new_call(&["cp-t-0-7"], Phase::Ended);
    assert_eq!(tried.ended_by, Some(EndedBy::Refused(603)));
    assert_eq!(bob.received("INVITE"), 0);
    lab.all_over(&[&alice, &bob]);
}

#[test]
fn a_token_works_once_and_only_if_it_was_given() {
    let Some(mut lab) = Lab::start("a_token_works_once_and_only_if_it_was_given") else { return };
    let [alice, bob, mallory] = ["alice", "bob", "mallory"].map(|user| lab.opensips.phone(user));
    lab.started(&alice, "cp-t-0-8", &op(1));
    assert_eq!(lab.refer("cp-t-0-8", "callee", "bob", &op(2)), Ok(202));
    let call = lab.events.wait_kind("referred", &op(2)).text("callid").to_owned();
    lab.events.wait_state(&call, 4);
    let used = mallory.call(&format!("{};cpt={}", lab.opensips.uri("bob"), op(2)));
    let invented = mallory.call(&format!("{};cpt={}", lab.opensips.uri("bob"), op(9)));
    let by = format!("<sip:callplane@127.0.0.1;cpt={}>", op(8));
    let forged = mallory.call_with(&lab.opensips.uri("bob"), &[("Referred-By", &by)]);
    for call in [used, invented, forged] {
        let refused = mallory.wait_phase(&call, Phase::Ended);
        assert_eq!(refused.ended_by, Some(EndedBy::Refused(603)));
    }
    assert_eq!(bob.received("INVITE"), 1);
    let of_mallory = |name: &str| {
        lab.events.all().iter().any(|e| e.name == name && e.text("from").contains("mallory"))
    };
    assert!(!of_mallory("E_CALLPLANE"), "no event for what nobody sent");
    lab.end("cp-t-0-8");
    lab.opensips.wait_only(&[&call]);
    lab.end(&call);
    lab.all_over(&[&alice, &bob, &mallory]);
}

#[test]
fn what_was_never_sent_leaves_nothing_in_memory() {
    let Some(mut lab) = Lab::start("what_was_never_sent_leaves_nothing_in_memory") else { return };
    let (bob, mallory) = (lab.opensips.phone("bob"), lab.opensips.phone("mallory"));
    for number in 1..=20 {
        let target = format!("{};cpt={}", lab.opensips.uri("bob"), op(number));
        let call = mallory.call(&target);
        let refused = mallory.wait_phase(&call, Phase::Ended);
        assert_eq!(refused.ended_by, Some(EndedBy::Refused(603)));
    }
    assert_eq!(lab.stored(), Vec::<String>::new());
    assert_eq!(bob.received("INVITE"), 0);
    lab.all_over(&[&bob, &mallory]);
}

#[test]
fn marks_that_ran_out_give_their_memory_back() {
    let options = Options { mark_life: 1, ..Options::default() };
    let Some(mut lab) = Lab::start_with("marks_that_ran_out_give_their_memory_back", options)
    else {
        return;
    };
    let alice = lab.opensips.phone("alice");
    lab.started(&alice, "cp-t-0-10", &op(1));
    lab.end("cp-t-0-10");
    wait_until("no mark is left", || lab.stored().is_empty().then_some(()));
    lab.all_over(&[&alice]);
}

/// callplane concludes from a missing mark that nothing was sent, and relies on the second INVITE of
/// an operation being refused: both must hold as long as a command can run. And no longer: each mark
/// takes shared memory.
#[test]
fn a_mark_outlives_every_command_and_no_more() {
    let lives: Vec<u64> = include_str!("../docs/opensips/opensips.cfg")
        .lines()
        .filter(|line| line.contains("cache_store(") || line.contains("cache_add("))
        .filter(|line| !line.contains("cp_cfg_version"))
        .map(|line| {
            let numbers = line.split([',', ')']).filter_map(|word| word.trim().parse().ok());
            numbers.max().unwrap_or_else(|| panic!("for ever: {line}"))
        })
        .collect();
    let mark = Duration::from_secs(900);
    assert_eq!(lives.len(), 6, "{lives:?}");
    assert!(lives.iter().all(|life| *life <= mark.as_secs()), "{lives:?}");
    // The script's `fr_timeout` and the one that callplane takes for granted.
    for fr_timeout in [5, 30] {
        let longest = longest_start(Duration::from_secs(fr_timeout + 1));
        assert!(longest < mark, "{longest:?}");
    }
}

/// How long a start may run whose phones ring as long as a client may ask for.
fn longest_start(silence: Duration) -> Duration {
    let request = Request::Start(StartRequest {
        caller: SipAddress::parse("sip:alice@127.0.0.1").unwrap(),
        callee: SipAddress::parse("sip:bob@127.0.0.1").unwrap(),
        ring_timeout: Some(Duration::from_secs(60)),
        display: None,
        auto_answer: false,
        ringing: false,
    });
    let plan = Plan {
        stack: StackId::new("a"),
        capabilities: Capabilities {
            start_is_safe: true,
            referral_tokens: true,
            persists_dialogs: false,
            hold: HoldBy::ReInvite,
            refer: ReferBy::Sequential,
        },
        times: Times { silence, ..Times::default() },
        install: Install::default(),
        partition: 0,
        one_start_per_caller: true,
    };
    let now = Now { at: StoreTime(0), nonce: Nonce(7), pod: PodId::new("p") };
    let state = Command::begin(&request, Arc::new(plan), None, &now).state;
    state.begun.until(state.deadline)
}

#[test]
fn the_token_travels_in_referred_by_too() {
    let Some(mut lab) = Lab::start("the_token_travels_in_referred_by_too") else { return };
    let (alice, bob) = (lab.opensips.phone("alice"), lab.opensips.phone("bob"));
    alice.behave(|b| b.copies_parameters = false);
    lab.started(&alice, "cp-t-0-9", &op(1));
    assert_eq!(lab.refer("cp-t-0-9", "callee", "bob", &op(2)), Ok(202));
    let call = lab.events.wait_kind("referred", &op(2)).text("callid").to_owned();
    bob.wait_phase(&call, Phase::Up);
    lab.end("cp-t-0-9");
    lab.end(&call);
    lab.all_over(&[&alice, &bob]);
}

#[test]
fn true_codes_of_a_failed_target() {
    let Some(mut lab) = Lab::start("true_codes_of_a_failed_target") else { return };
    let (alice, bob) = (lab.opensips.phone("alice"), lab.opensips.phone("bob"));
    for (number, (user, answer, code)) in
        [("bob", 486, "486"), ("bob", 404, "404"), ("bob", 603, "603"), ("nobody", 200, "404")]
            .into_iter()
            .enumerate()
    {
        bob.behave(|b| b.answer = Some(answer));
        let (call_id, number) = (format!("cp-t-1-{number}"), number as u32 * 2 + 1);
        lab.started(&alice, &call_id, &op(number));
        assert_eq!(lab.refer(&call_id, "callee", user, &op(number + 1)), Ok(202));
        assert_eq!(lab.events.wait_kind("failed", &op(number + 1)).text("info"), code);
        lab.end(&call_id);
    }
    lab.all_over(&[&alice, &bob]);
}

#[test]
fn a_silent_phone_and_a_target_that_is_gone_time_out() {
    let Some(mut lab) = Lab::start("a_silent_phone_and_a_target_that_is_gone_time_out") else {
        return;
    };
    let (alice, bob) = (lab.opensips.phone("alice"), lab.opensips.phone("bob"));
    bob.behave(|b| b.dead = true);
    lab.started(&alice, "cp-t-2-1", &op(1));
    assert_eq!(lab.refer("cp-t-2-1", "callee", "bob", &op(2)), Ok(202));
    assert_eq!(lab.events.wait_kind("failed", &op(2)).text("info"), "408");
    alice.behave(|b| b.refer = None);
    assert_eq!(lab.refer("cp-t-2-1", "callee", "bob", &op(3)).unwrap_err().code, 408);
    lab.end("cp-t-2-1");
    lab.all_over(&[&alice]);
}

#[test]
fn a_phone_may_hang_up_and_still_dial() {
    let Some(mut lab) = Lab::start("a_phone_may_hang_up_and_still_dial") else { return };
    let (alice, bob) = (lab.opensips.phone("alice"), lab.opensips.phone("bob"));
    alice.behave(|b| {
        b.hang_up = HangUp::AfterTheAnswer;
        b.follow_after = Duration::from_millis(300);
    });
    lab.started(&alice, "cp-t-3-1", &op(1));
    assert_eq!(lab.refer("cp-t-3-1", "callee", "bob", &op(2)), Ok(202));
    let call = lab.events.wait_kind("referred", &op(2)).text("callid").to_owned();
    bob.wait_phase(&call, Phase::Up);
    lab.opensips.wait_only(&[&call]);
    lab.end(&call);
    lab.all_over(&[&alice, &bob]);
}

#[test]
fn blind_transfers_name_the_leg() {
    let Some(mut lab) = Lab::start("blind_transfers_name_the_leg") else { return };
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|user| lab.opensips.phone(user));
    for (number, leg) in [(1, "callee"), (2, "caller")] {
        let old = alice.talk_to(&bob);
        lab.events.wait_state(&old, 4);
        assert_eq!(lab.refer(&old, leg, "carol", &op(number)), Ok(202));
        let call = lab.events.wait_kind("referred", &op(number)).text("callid").to_owned();
        carol.wait_phase(&call, Phase::Up);
        let told = lab.events.wait("E_CALL_TRANSFER ok", |event| {
            event.name == "E_CALL_TRANSFER"
                && event.text("state") == "ok"
                && event.text("transfer_callid") == call
        });
        assert_eq!((told.text("leg"), told.text("callid")), (leg, old.as_str()));
        lab.end(&old);
        lab.opensips.wait_only(&[&call]);
        lab.end(&call);
        lab.opensips.wait_no_dialog();
    }
    lab.all_over(&[&alice, &bob, &carol]);
}

#[test]
fn an_attended_transfer_replaces_the_consultation() {
    let Some(mut lab) = Lab::start("an_attended_transfer_replaces_the_consultation") else {
        return;
    };
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|user| lab.opensips.phone(user));
    let a = alice.talk_to(&bob);
    let b = alice.talk_to(&carol);
    lab.events.wait_state(&a, 4);
    lab.events.wait_state(&b, 4);
    let listed = lab.mi.call("dlg_list", json!({"callid": b})).unwrap()["Dialog"].clone();
    let target = format!(
        "{};cpt={}?Replaces={b}%3Bto-tag%3D{}%3Bfrom-tag%3D{}",
        lab.opensips.uri("carol"),
        op(1),
        listed["CALLEES"][0]["callee_tag"].as_str().unwrap(),
        listed["caller_tag"].as_str().unwrap()
    );
    let params = refer(&lab.opensips, &a, "callee", &target, &op(1));
    assert_eq!(lab.mi.call("dlg_send_sequential", params).unwrap()["Code"], 202);
    let call = lab.events.wait_kind("referred", &op(1)).text("callid").to_owned();
    bob.wait_phase(&call, Phase::Up);
    carol.wait_phase(&b, Phase::Ended);
    lab.end(&a);
    lab.opensips.wait_only(&[&call]);
    alice.wait_idle();
    assert_eq!(carol.live().len(), 1);
    lab.end(&call);
    lab.all_over(&[&alice, &bob, &carol]);
}

#[test]
fn phones_transfer_each_other_undisturbed() {
    let Some(lab) = Lab::start("phones_transfer_each_other_undisturbed") else { return };
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|user| lab.opensips.phone(user));
    let old = alice.talk_to(&bob);
    let target = format!("<{}>", lab.opensips.uri("carol"));
    alice.send_in_dialog(&old, "REFER", &[("Refer-To", &target)], "");
    let new = carol.wait_new_call(&[], Phase::Up);
    alice.wait("the last NOTIFY", |view| {
        view.received("NOTIFY").iter().any(|m| m.body.contains("200 OK")).then_some(())
    });
    alice.hang_up(&old);
    bob.wait_phase(&old, Phase::Ended);
    bob.hang_up(&new.call_id);
    let told = lab.events.wait("bye of the caller", |event| {
        event.text("kind") == "bye" && event.text("callid") == new.call_id
    });
    assert_eq!(told.text("info"), "Downstream BYE");
    lab.all_over(&[&alice, &bob, &carol]);
}

#[test]
fn holding_by_reinvites_and_its_mark() {
    let Some(mut lab) = Lab::start("holding_by_reinvites_and_its_mark") else { return };
    let (alice, bob) = (lab.opensips.phone("alice"), lab.opensips.phone("bob"));
    let call = alice.talk_to(&bob);
    lab.events.wait_state(&call, 4);
    let offer = |lab: &mut Lab, leg: &str, user: &str, version: u32, direction: &str| {
        let body = format!(
            "custom:application/sdp:v=0\r\no={user} 7 {version} IN IP4 127.0.0.1\r\ns=-\r\n\
             c=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\na={direction}\r\n"
        );
        let headers = format!("X-CP-Op: {}\r\n", op(version));
        let params = json!({"callid": call, "method": "INVITE", "mode": leg, "body": body,
            "headers": headers});
        lab.mi.call("dlg_send_sequential", params)
    };
    for (leg, user) in [("caller", "bob"), ("callee", "alice")] {
        assert_eq!(offer(&mut lab, leg, user, 2, "inactive").unwrap()["Code"], 200);
    }
    for phone in [&alice, &bob] {
        assert_eq!(phone.dialog(&call).unwrap().direction, Direction::Inactive);
    }
    let id = lab.opensips.dialogs()[0].id.clone();
    let mark = json!({"dlg_val_name": "cp_hold", "dlg_val_value": "text", "DID": [id]});
    assert_eq!(lab.mi.call("dlg_push_var", mark), Ok(json!("OK")));
    let listed = lab.mi.call("dlg_list_ctx", json!({"callid": call})).unwrap();
    let values = &listed["Dialog"]["context"]["values"];
    assert_eq!(values[0], json!({"cp_hold": "text"}), "{values}");

    bob.behave(|b| b.reinvite = Some(488));
    assert_eq!(offer(&mut lab, "callee", "alice", 3, "sendrecv").unwrap()["Code"], 488);
    bob.behave(|b| b.reinvite = None);
    assert_eq!(offer(&mut lab, "callee", "alice", 4, "sendrecv").unwrap_err().code, 408);
    assert!(lab.opensips.is_alive(), "a silent leg must not kill OpenSIPS");
    bob.behave(|b| b.reinvite = Some(200));
    for (leg, user) in [("caller", "bob"), ("callee", "alice")] {
        assert_eq!(offer(&mut lab, leg, user, 5, "sendrecv").unwrap()["Code"], 200);
    }
    for phone in [&alice, &bob] {
        assert_eq!(phone.dialog(&call).unwrap().direction, Direction::SendRecv);
    }
    lab.end(&call);
    lab.all_over(&[&alice, &bob]);
}

/// A request written by hand, from a socket of its own; the final answer's code.
fn by_hand(lab: &Lab, method: &str, uri: &str, headers: &[(&str, &str)]) -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let me = socket.local_addr().unwrap();
    let mut text = format!(
        "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {me};branch=z9hG4bK{}\r\n\
         Max-Forwards: 70\r\nCall-ID: by-hand-{}\r\nCSeq: 1 {method}\r\n",
        me.port(),
        me.port()
    );
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("Content-Length: 0\r\n\r\n");
    socket.send_to(text.as_bytes(), lab.opensips.sip()).unwrap();
    let mut buffer = [0; 8192];
    loop {
        let length = socket.recv(&mut buffer).expect("a final answer");
        let answer = Message::parse(&buffer[..length]).unwrap();
        if answer.status() >= 200 {
            return answer.status();
        }
    }
}

#[test]
fn a_phone_cannot_lead_calls_to_callplanes_door() {
    let Some(lab) = Lab::start("a_phone_cannot_lead_calls_to_callplanes_door") else { return };
    let (alice, bob) = (lab.opensips.phone("alice"), lab.opensips.phone("bob"));
    // mallory says that her phone is where callplane's INVITEs come in, and bob beyond it.
    let aor = format!("<{}>", lab.opensips.uri("mallory"));
    let headers = [
        ("From", format!("{aor};tag=m")),
        ("To", aor.clone()),
        ("Contact", format!("<sip:bob@{}>", lab.opensips.callplane_socket())),
        ("Expires", "600".to_owned()),
    ];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    let registrar = format!("sip:{}", lab.opensips.sip());
    assert_eq!(by_hand(&lab, "REGISTER", &registrar, &headers), 200);
    for spelling in ["X-CP-Op", "x-cp-op ", "X-Cp-OP"] {
        let call = alice.call_with(&lab.opensips.uri("mallory"), &[(spelling, "forged")]);
        let refused = alice.wait_phase(&call, Phase::Ended);
        assert_eq!(refused.ended_by, Some(EndedBy::Refused(403)), "{spelling}");
    }
    let call = format!("<{}>", lab.opensips.uri("mallory"));
    let headers = [("From", "<sip:x@127.0.0.1>;tag=x"), ("To", call.as_str())];
    assert_eq!(by_hand(&lab, "MESSAGE", &lab.opensips.uri("mallory"), &headers), 403);
    assert_eq!(bob.received("INVITE") + bob.received("MESSAGE"), 0);
    lab.all_over(&[&alice, &bob]);
}

#[test]
fn a_made_up_route_and_tag_are_no_call() {
    let Some(lab) = Lab::start("a_made_up_route_and_tag_are_no_call") else { return };
    let bob = lab.opensips.phone("bob");
    let route = format!("<sip:{};lr>", lab.opensips.sip());
    let to = format!("<{}>;tag=made-up", bob.contact());
    let headers = [
        ("Route", route.as_str()),
        ("From", "<sip:x@127.0.0.1>;tag=x"),
        ("To", &to),
        ("Contact", "<sip:x@127.0.0.1:9>"),
    ];
    for method in ["INVITE", "BYE", "MESSAGE", "NOTIFY", "REFER"] {
        assert_eq!(by_hand(&lab, method, &bob.contact(), &headers), 481, "{method}");
    }
    for method in ["INVITE", "BYE", "MESSAGE", "NOTIFY", "REFER"] {
        assert_eq!(bob.received(method), 0, "{method}");
    }
    // Nobody is told of the end of a call that never was.
    assert!(lab.events.all().iter().all(|event| event.name != "E_CALLPLANE"));
    lab.all_over(&[&bob]);
}

#[test]
fn after_our_transfer_phones_transfer_each_other_undisturbed() {
    let Some(mut lab) = Lab::start("after_our_transfer_phones_transfer_each_other_undisturbed")
    else {
        return;
    };
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|user| lab.opensips.phone(user));
    for (number, notify) in [(1, Notify::All), (2, Notify::None)] {
        let old = alice.talk_to(&bob);
        lab.events.wait_state(&old, 4);
        bob.behave(|b| b.notify = notify);
        carol.behave(|b| b.answer = Some(486));
        assert_eq!(lab.refer(&old, "callee", "carol", &op(number)), Ok(202));
        lab.events.wait_kind("failed", &op(number));
        if notify == Notify::All {
            lab.events.wait("the last NOTIFY", |event| {
                event.text("kind") == "notify" && event.text("info").contains("486")
            });
        }
        // Now alice transfers bob herself, and wants to know what becomes of it.
        bob.behave(|b| b.notify = Notify::All);
        carol.behave(|b| b.answer = Some(200));
        let before = alice.received("NOTIFY");
        let target = format!("<{}>", lab.opensips.uri("carol"));
        alice.send_in_dialog(&old, "REFER", &[("Refer-To", &target)], "");
        alice.wait("the last NOTIFY of her own transfer", |view| {
            let told = &view.received("NOTIFY")[before..];
            told.iter().any(|m| m.body.contains("200 OK")).then_some(())
        });
        let new = carol.wait_new_call(&[], Phase::Up);
        alice.hang_up(&old);
        bob.wait_phase(&old, Phase::Ended);
        bob.hang_up(&new.call_id);
        lab.opensips.wait_no_dialog();
    }
    lab.all_over(&[&alice, &bob, &carol]);
}

#[test]
fn outsiders_cannot_speak_for_callplane() {
    let Some(lab) = Lab::start("outsiders_cannot_speak_for_callplane") else { return };
    let (alice, mallory) = (lab.opensips.phone("alice"), lab.opensips.phone("mallory"));
    let headers =
        [("X-CP-Op", "forged"), ("X-CP-Other", "x"), ("P-Asserted-Identity", "<sip:boss@x>")];
    let call = mallory.call_with(&lab.opensips.uri("alice"), &headers);
    alice.wait_phase(&call, Phase::Up);
    let seen = alice.view().received("INVITE")[0].clone();
    for (name, _) in headers {
        assert_eq!(seen.header(name), None, "{name}");
    }
    let listed = lab.opensips.connect().call("dlg_list_ctx", json!({"callid": call})).unwrap();
    assert!(!listed.to_string().contains("cp_op"), "{listed}");
    mallory.hang_up(&call);
    lab.all_over(&[&alice, &mallory]);
}

#[test]
fn without_callplane_the_first_leg_ends_by_itself() {
    let options = Options { dead_man: 2, ..Options::default() };
    let Some(mut lab) = Lab::start_with("without_callplane_the_first_leg_ends_by_itself", options)
    else {
        return;
    };
    let (alice, bob) = (lab.opensips.phone("alice"), lab.opensips.phone("bob"));
    let call = bob.talk_to(&alice);
    lab.started(&alice, "cp-t-4-1", &op(1));
    assert_eq!(alice.wait_phase("cp-t-4-1", Phase::Ended).ended_by, Some(EndedBy::Them));
    lab.opensips.wait_only(&[&call]);
    lab.end(&call);
    lab.all_over(&[&alice, &bob]);
}

#[test]
fn a_restart_forgets_the_call_that_goes_on() {
    let Some(mut lab) = Lab::start("a_restart_forgets_the_call_that_goes_on") else { return };
    let (alice, bob) = (lab.opensips.phone("alice"), lab.opensips.phone("bob"));
    let call = alice.talk_to(&bob);
    lab.opensips.restart();
    assert!(lab.opensips.dialogs().is_empty());
    assert_eq!(alice.dialog(&call).unwrap().phase, Phase::Up);
    let expected = format!("1 udp:{} 2 8", lab.opensips.callplane_socket());
    lab.wait_grade(&expected);
}
