//! The harness and the phones on a stock script: calls, callops, and what it can't.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::type_complexity,
    reason = "a test fails by panicking"
)]

mod support;

use serde_json::{Value, json};
use support::events::Events;
use support::opensips::{OpenSips, Script, Version, installation};
use support::phone::Phase;

#[test]
fn it_has_no_mark_and_no_event_of_ours() {
    let Some(found) = installation("it_has_no_mark_and_no_event_of_ours") else { return };
    let opensips = OpenSips::start(found, Script::Stock);
    let mut mi = opensips.connect();
    let params = json!({"system": "local", "attr": "cp_cfg_version"});
    assert!(mi.call("cache_fetch", params).is_err());
    let params = json!({"event": "E_CALLPLANE", "socket": "udp:127.0.0.1:9", "expire": 9});
    assert_eq!(mi.call("event_subscribe", params).unwrap_err().code, 400);
    let version = mi.call("version", Value::Null).unwrap().to_string();
    let three = opensips.installation.version == Version::Three;
    assert_eq!(version.contains("(3."), three, "{version}");
}

#[test]
fn a_blind_transfer_by_callops() {
    let Some(found) = installation("a_blind_transfer_by_callops") else { return };
    let opensips = OpenSips::start(found, Script::Stock);
    let mut mi = opensips.connect();
    let events = Events::subscribe(&mut mi, &["E_CALL_TRANSFER", "E_DLG_STATE_CHANGED"]);
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|user| opensips.phone(user));
    let old = alice.talk_to(&bob);
    events.wait_state(&old, 4);
    let params = json!({"callid": old, "leg": "callee", "destination": opensips.uri("carol")});
    assert_eq!(mi.call("call_transfer", params), Ok(json!("Accepted")));
    let ok = events.wait("ok", |event| event.text("state") == "ok");
    let new = ok.text("transfer_callid").to_owned();
    carol.wait_phase(&new, Phase::Up);
    assert_eq!(mi.call("dlg_end_dlg", json!({"dialog_id": old})), Ok(json!("OK")));
    opensips.wait_only(&[&new]);
    carol.hang_up(&new);
    opensips.wait_no_dialog();
    for phone in [&alice, &bob, &carol] {
        phone.wait_idle();
        assert_eq!(phone.violations(), Vec::<String>::new());
    }
}

#[test]
fn several_run_side_by_side_and_only_the_own_is_stopped() {
    let test = "several_run_side_by_side_and_only_the_own_is_stopped";
    let Some(found) = installation(test) else { return };
    let mut one = OpenSips::start(found.clone(), Script::Stock);
    let mut two = OpenSips::start(found, Script::Reference);
    let (alice, bob) = (two.phone("alice"), two.phone("bob"));
    let call = alice.talk_to(&bob);
    one.kill();
    assert!(!one.is_alive());
    assert!(two.is_alive());
    two.wait_only(&[&call]);
    bob.hang_up(&call);
    two.wait_no_dialog();
}
