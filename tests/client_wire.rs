//! What clients see on the wire: the shapes of the old server, byte for byte where it matters.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod client_support;

use callplane::core::failure::{Code, Failure, Outcome, SipStatus, Up};
use callplane::core::ids::CallId;
use callplane::core::notice::{Data, Event, Notice, Remarks};
use client_support::{Script, Server, ended, failed, hold, progress, request, settings};
use serde_json::{Value, json};

/// Removes what the old server did not say, after checking that it is there.
fn as_of_old(mut message: Value, new: &[&str]) -> Value {
    for place in ["params", "result"] {
        if let Some(object) = message.get_mut(place).and_then(Value::as_object_mut) {
            for key in new {
                assert!(object.remove(*key).is_some(), "{key} is missing in {object:?}");
            }
        }
    }
    message
}

#[tokio::test]
async fn a_start_looks_as_it_did() {
    let server = Server::start(Script::Silent, settings()).await;
    let mut peer = server.connect().await;
    let params = json!({"caller": "sip:a@x", "callee": "sip:b@x", "cmd_id": "st-1"});
    peer.send(&json!({"jsonrpc": "2.0", "id": "req-1", "method": "CallStart", "params": params}))
        .await;
    let started = peer.next().await.unwrap();
    assert_eq!(
        as_of_old(started, &["deadline_ms", "session", "epoch", "seq"]),
        json!({"jsonrpc":"2.0","id":"req-1","result":{"cmd_id":"st-1","event":"Started"}})
    );
    let both =
        Data { caller: Some("sip:a@x".into()), callee: Some("sip:b@x".into()), ..Data::default() };
    server.stub.emit("st-1", Notice::Progress { event: Event::CallerAnswered, data: both.clone() });
    let data =
        Data { callid: CallId::parse("n1").ok(), extra: SipStatus::parse("180 Ringing"), ..both };
    server.stub.emit("st-1", Notice::Progress { event: Event::TransferPending, data });
    server.stub.emit("st-1", ended(Outcome::Success));
    assert_eq!(
        as_of_old(peer.next().await.unwrap(), &["epoch", "seq"]),
        json!({"jsonrpc":"2.0","method":"CallStart","params":{"cmd_id":"st-1",
            "data":{"callee":"sip:b@x","caller":"sip:a@x"},"event":"CallerAnswered"}})
    );
    assert_eq!(
        as_of_old(peer.next().await.unwrap(), &["epoch", "seq"]),
        json!({"jsonrpc":"2.0","method":"CallStart","params":{"cmd_id":"st-1",
            "data":{"callee":"sip:b@x","caller":"sip:a@x","callid":"n1","extra":"180 Ringing"},
            "event":"TransferPending"}})
    );
    assert_eq!(
        as_of_old(peer.next().await.unwrap(), &["epoch", "seq", "outcome"]),
        json!({"jsonrpc":"2.0","method":"CallStart","params":{"cmd_id":"st-1","event":"Ended"}})
    );
}

#[tokio::test]
async fn an_error_is_one_string_with_the_details_beside_it_and_ended_follows() {
    let server = Server::start(Script::Silent, settings()).await;
    let mut peer = server.connect().await;
    let params =
        json!({"callid": "c", "leg": "callee", "destination": "sip:c@x", "cmd_id": "b-404"});
    peer.call(1, "CallBlindTransfer", params).await;
    server.stub.emit(
        "b-404",
        failed(Failure {
            code: Code::CallNotFound,
            text: "404 Dialog not found".into(),
            sip: SipStatus::parse("404 Dialog not found"),
            up: Up::No,
        }),
    );
    let remarks = Remarks { may_still_ring: true, replaced: Some(false), ..Remarks::default() };
    server.stub.emit("b-404", Notice::Ended { outcome: Outcome::Unknown { up: Up::No }, remarks });
    assert_eq!(
        peer.next().await.unwrap(),
        json!({"jsonrpc":"2.0","method":"CallBlindTransfer","params":{
            "cmd_id":"b-404","data":"404 Dialog not found","event":"Error",
            "error":{"code":"call_not_found","message":"404 Dialog not found","sip_status":404,
                     "sip_reason":"Dialog not found","up":"no"},
            "epoch":"e1","seq":2}})
    );
    assert_eq!(
        peer.next().await.unwrap(),
        json!({"jsonrpc":"2.0","method":"CallBlindTransfer","params":{
            "cmd_id":"b-404","event":"Ended","outcome":"unknown","up":"no","replaced":false,
            "may_still_ring":true,"epoch":"e1","seq":3}})
    );
}

#[tokio::test]
async fn an_event_without_details_has_no_data() {
    let server = Server::start(Script::Silent, settings()).await;
    let mut peer = server.connect().await;
    peer.send(&hold(1, "h")).await;
    peer.next().await.unwrap();
    server.stub.emit("h", progress(Event::CallHolding));
    let message = peer.next().await.unwrap();
    assert_eq!(message["params"]["event"], "CallHolding");
    assert_eq!(message["params"].get("data"), None);
}

#[tokio::test]
async fn an_external_id_comes_with_every_event() {
    let server = Server::start(Script::Whole, settings()).await;
    let mut peer = server.connect().await;
    let params = json!({"callid": "c", "cmd_id": "h", "external_id": "crm \"7\""});
    peer.send(&request(1, "CallHold", params)).await;
    for message in peer.until_ended("h").await {
        let told = message.get("params").unwrap_or(&message["result"]);
        assert_eq!(told["external_id"], "crm \"7\"", "{message}");
    }
}

#[tokio::test]
async fn echo_sends_its_params_back_and_touches_no_stream() {
    let server = Server::start(Script::Silent, settings()).await;
    let mut peer = server.connect().await;
    let params = json!({"test": "echo", "n": [1, {"a": null}], "cmd_id": "e-1"});
    peer.send(&request(1, "Echo", params.clone())).await;
    let first = peer.next().await.unwrap();
    assert_eq!(
        as_of_old(first, &["session", "epoch", "seq"]),
        json!({"jsonrpc":"2.0","id":1,"result":{"cmd_id":"e-1","event":"Started"}})
    );
    assert_eq!(
        peer.next().await.unwrap(),
        json!({"jsonrpc":"2.0","method":"Echo","params":{"cmd_id":"e-1","event":"Reply","data":params}})
    );
    assert_eq!(
        peer.next().await.unwrap(),
        json!({"jsonrpc":"2.0","method":"Echo","params":{"cmd_id":"e-1","event":"Ended","outcome":"success"}})
    );
    let second = peer.call(2, "Echo", json!({})).await;
    assert_eq!(second["result"].get("session"), None, "told once is enough");
    assert_eq!(peer.next().await.unwrap()["params"].get("data"), None);
    assert_eq!(server.stub.begun(), 0);
}

#[tokio::test]
async fn a_request_without_id_gets_no_answer_and_its_events_come() {
    let server = Server::start(Script::Whole, settings()).await;
    let mut peer = server.connect().await;
    peer.send_text(r#"{"jsonrpc":"2.0","method":"NoSuch"}"#).await;
    peer.send_text(r#"{"jsonrpc":"2.0","method":"CallHold","params":{}}"#).await;
    peer.send_text(r#"{"jsonrpc":"2.0","method":"CallHold","params":{"callid":"c","cmd_id":"h"}}"#)
        .await;
    let all = peer.until_ended("h").await;
    assert!(all.iter().all(|message| message.get("id").is_none()), "{all:?}");
    assert_eq!(all[0]["params"]["event"], "Started");
    assert_eq!(all.len(), 5);
}

#[tokio::test]
async fn a_bad_parameter_is_refused_before_anything_begins() {
    let server = Server::start(Script::Silent, settings()).await;
    let mut peer = server.connect().await;
    let answer = peer.call(1, "CallEnd", json!({"callid": "a\r\nX-Evil: 1"})).await;
    assert_eq!(answer["error"]["code"], -32602);
    assert_eq!(answer["error"]["data"]["kind"], "bad_params");
    assert_eq!(answer["error"]["data"]["field"], "callid");
    assert_eq!(server.stub.begun(), 0);
}
