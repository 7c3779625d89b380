//! The scripted phones against each other, without a proxy: what the tests of the stack rest on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::type_complexity,
    reason = "a test fails by panicking"
)]

mod support;

use std::time::Duration;

use support::phone::{EndedBy, HangUp, Notify, Phase, Phone, Replaces, Role};
use support::sip::{Direction, Message, address_uri, destination, parameter, unescape};

/// Two phones that reach each other directly.
fn pair() -> (Phone, Phone) {
    let bob = Phone::start("bob", "127.0.0.1:9".parse().unwrap());
    let alice = Phone::start("alice", bob.address());
    (alice, bob)
}

fn talking() -> (Phone, Phone, String) {
    let (alice, bob) = pair();
    let call = alice.call(&bob.contact());
    alice.wait_phase(&call, Phase::Up);
    bob.wait_phase(&call, Phase::Up);
    (alice, bob, call)
}

#[test]
fn a_call_is_answered_and_hung_up() {
    let (alice, bob, call) = talking();
    assert_eq!(bob.dialog(&call).unwrap().role, Role::Callee);
    bob.hang_up(&call);
    assert_eq!(alice.wait_phase(&call, Phase::Ended).ended_by, Some(EndedBy::Them));
    assert_eq!(bob.wait_phase(&call, Phase::Ended).ended_by, Some(EndedBy::Us));
    assert_eq!(bob.received("INVITE"), 1);
    assert_eq!(alice.violations(), Vec::<String>::new());
    assert_eq!(bob.violations(), Vec::<String>::new());
}

#[test]
fn a_busy_phone_refuses() {
    let (alice, bob) = pair();
    bob.behave(|b| b.answer = Some(486));
    let call = alice.call(&bob.contact());
    let ended = alice.wait_phase(&call, Phase::Ended);
    assert_eq!(ended.ended_by, Some(EndedBy::Refused(486)));
    bob.wait("ACK", |view| (view.received("ACK").len() == 1).then_some(()));
}

#[test]
fn a_ringing_call_is_cancelled_or_picked_up() {
    let (alice, bob) = pair();
    bob.behave(|b| b.answer = None);
    let call = alice.call(&bob.contact());
    alice.wait("180", |view| view.log.iter().any(|e| e.message.status() == 180).then_some(()));
    alice.cancel(&call);
    let ended = alice.wait_phase(&call, Phase::Ended);
    assert_eq!(ended.ended_by, Some(EndedBy::Refused(487)));
    assert_eq!(bob.wait_phase(&call, Phase::Ended).ended_by, Some(EndedBy::Them));

    let second = alice.call(&bob.contact());
    bob.wait_phase(&second, Phase::Early);
    bob.pick_up(&second);
    alice.wait_phase(&second, Phase::Up);
    bob.wait_phase(&second, Phase::Up);
}

#[test]
fn a_200_that_crosses_a_cancel_is_hung_up_by_the_caller() {
    let (alice, bob) = pair();
    bob.behave(|b| {
        b.answer = None;
        b.cancelled = 200;
    });
    let call = alice.call(&bob.contact());
    bob.wait_phase(&call, Phase::Early);
    alice.cancel(&call);
    alice.wait_phase(&call, Phase::Ended);
    assert_eq!(bob.wait_phase(&call, Phase::Ended).ended_by, Some(EndedBy::Them));
    assert_eq!(alice.view().answers("INVITE"), [200]);
}

#[test]
fn a_reinvite_carries_directions_and_versions() {
    let (alice, bob, call) = talking();
    alice.reinvite(&call, Direction::Inactive);
    let held =
        bob.wait("the offer", |view| view.dialog(&call).filter(|d| d.offers.len() == 2).cloned());
    assert_eq!(held.offers[1].direction, Direction::Inactive);
    assert_eq!(held.offers[1].version, held.offers[0].version + 1);
    assert_eq!(held.direction, Direction::Inactive);
    alice.wait("200", |view| (view.answers("INVITE") == [200, 200]).then_some(()));
    bob.behave(|b| b.reinvite = Some(488));
    alice.reinvite(&call, Direction::SendRecv);
    alice.wait("488", |view| (view.answers("INVITE") == [200, 200, 488]).then_some(()));
    alice.hang_up(&call);
    bob.wait_idle();
    assert_eq!(bob.violations(), Vec::<String>::new());
}

#[test]
fn a_phone_that_takes_its_time_holds_once() {
    let (alice, bob, call) = talking();
    let late = Duration::from_millis(300);
    bob.behave(|b| b.reinvite_after = late);
    alice.reinvite(&call, Direction::Inactive);
    alice.wait("100", |view| view.log.iter().any(|e| e.message.status() == 100).then_some(()));
    assert_eq!(bob.dialog(&call).unwrap().direction, Direction::SendRecv);
    alice.wait("200", |view| (view.answers("INVITE") == [200, 200]).then_some(()));
    assert_eq!(bob.dialog(&call).unwrap().direction, Direction::Inactive);
    bob.wait("ACK", |view| view.dialog(&call)?.awaiting_ack.is_none().then_some(()));
    alice.hang_up(&call);
    bob.wait_idle();
    assert_eq!(bob.violations(), Vec::<String>::new());
}

#[test]
fn a_repeated_offer_version_is_noticed() {
    let (alice, bob, call) = talking();
    let offer = "v=0\r\no=alice 7 1 IN IP4 127.0.0.1\r\na=inactive\r\n";
    alice.send_in_dialog(&call, "INVITE", &[("Content-Type", "application/sdp")], offer);
    alice.wait("200", |view| (view.answers("INVITE") == [200, 200]).then_some(()));
    bob.wait("the ACK", |view| (view.received("ACK").len() == 2).then_some(()));
    assert_eq!(bob.violations().len(), 1, "{:?}", bob.violations());
}

/// alice talks to bob, whose calls go to carol, and refers him to her.
fn referred(change: impl FnOnce(&mut support::phone::Behaviour)) -> (Phone, Phone, Phone, String) {
    let carol = Phone::start("carol", "127.0.0.1:9".parse().unwrap());
    let bob = Phone::start("bob", carol.address());
    let alice = Phone::start("alice", bob.address());
    let call = alice.call(&bob.contact());
    alice.wait_phase(&call, Phase::Up);
    bob.wait_phase(&call, Phase::Up);
    bob.behave(change);
    let target = format!("<{};cpt=tok?X-Test=a%3Bb>", carol.contact());
    let by = "<sip:callplane@127.0.0.1;cpt=tok>";
    alice.send_in_dialog(&call, "REFER", &[("Refer-To", &target), ("Referred-By", by)], "");
    (alice, bob, carol, call)
}

#[test]
fn a_refer_is_obeyed_and_reported() {
    let (alice, bob, carol, call) = referred(|_| {});
    let new = carol.wait_new_call(&[], Phase::Up);
    assert_eq!(bob.dialog(&new.call_id).unwrap().referred_by_call, Some(call));
    alice.wait("the last NOTIFY", |view| {
        view.received("NOTIFY").iter().any(|m| m.body == "SIP/2.0 200 OK\r\n").then_some(())
    });
    assert_eq!(alice.received("NOTIFY"), 3);
    let invite = carol.view().received("INVITE")[0].clone();
    assert!(invite.uri().ends_with(";cpt=tok"), "{}", invite.start);
    assert_eq!(invite.header("x-test"), Some("a;b"));
    assert_eq!(invite.header("referred-by"), Some("<sip:callplane@127.0.0.1;cpt=tok>"));
    assert_eq!(alice.view().answers("REFER"), [202]);
}

#[test]
fn a_plain_phone_copies_nothing() {
    let (_alice, _bob, carol, _call) = referred(|b| {
        b.copies_parameters = false;
        b.copies_referred_by = false;
        b.notify = Notify::None;
    });
    carol.wait_new_call(&[], Phase::Up);
    let invite = carol.view().received("INVITE")[0].clone();
    assert!(!invite.uri().contains("cpt"), "{}", invite.start);
    assert_eq!(invite.header("referred-by"), None);
}

#[test]
fn a_refused_refer_starts_nothing() {
    let (alice, bob, carol, call) = referred(|b| b.refer = Some(603));
    alice.wait("603", |view| (view.answers("REFER") == [603]).then_some(()));
    assert_eq!(carol.received("INVITE"), 0);
    assert_eq!(bob.dialog(&call).unwrap().phase, Phase::Up);
}

#[test]
fn hanging_up_around_a_refer() {
    let (alice, _bob, carol, call) = referred(|b| {
        b.hang_up = HangUp::AfterTheAnswer;
        b.follow_after = Duration::from_millis(50);
    });
    assert_eq!(alice.wait_phase(&call, Phase::Ended).ended_by, Some(EndedBy::Them));
    carol.wait_new_call(&[], Phase::Up);
    let (alice, _bob, _carol, call) = referred(|b| b.hang_up = HangUp::BeforeTheAnswer);
    alice.wait_phase(&call, Phase::Ended);
    let (alice, _bob, carol, call) = referred(|b| b.hang_up = HangUp::WhenReferredIsUp);
    alice.wait_phase(&call, Phase::Ended);
    carol.wait_new_call(&[], Phase::Up);
}

#[test]
fn a_referred_call_is_given_up() {
    let (alice, bob, carol, call) = referred(|b| {
        b.give_up_after = Some(Duration::from_millis(50));
        b.follow_after = Duration::from_millis(200);
    });
    carol.behave(|b| b.answer = None);
    let ended = bob.wait_new_call(&[&call], Phase::Ended);
    assert_eq!(ended.ended_by, Some(EndedBy::Refused(487)));
    alice.wait("the last NOTIFY", |view| {
        view.received("NOTIFY").iter().any(|m| m.body.contains("487")).then_some(())
    });
}

#[test]
fn replaces_takes_the_place_of_a_call() {
    let (_alice, bob, call) = talking();
    let seen = bob.dialog(&call).unwrap();
    let value =
        format!("{call};to-tag={};from-tag={}", seen.local_tag, seen.remote_tag.clone().unwrap());
    let carol = Phone::start("carol", bob.address());
    let new = carol.call_with(&bob.contact(), &[("Replaces", &value)]);
    carol.wait_phase(&new, Phase::Up);
    assert_eq!(bob.wait_phase(&call, Phase::Ended).ended_by, Some(EndedBy::Us));

    let again = carol.call_with(&bob.contact(), &[("Replaces", &value)]);
    let refused = carol.wait_phase(&again, Phase::Ended);
    assert_eq!(refused.ended_by, Some(EndedBy::Refused(481)));
    bob.behave(|b| b.replaces = Replaces::Lenient);
    let third = carol.call_with(&bob.contact(), &[("Replaces", &value)]);
    carol.wait_phase(&third, Phase::Up);
}

#[test]
fn a_200_is_repeated_until_its_ack() {
    let bob = Phone::start("bob", "127.0.0.1:9".parse().unwrap());
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let me = socket.local_addr().unwrap();
    let invite = Message {
        start: format!("INVITE {} SIP/2.0", bob.contact()),
        headers: [
            ("Via", format!("SIP/2.0/UDP {me};branch=z9hG4bKx")),
            ("From", "<sip:x@127.0.0.1>;tag=x".to_owned()),
            ("To", format!("<{}>", bob.contact())),
            ("Call-ID", "no-ack".to_owned()),
            ("CSeq", "7 INVITE".to_owned()),
            ("Contact", format!("<sip:x@{me}>")),
        ]
        .map(|(n, v)| (n.to_owned(), v))
        .to_vec(),
        body: String::new(),
    };
    socket.send_to(&invite.to_bytes(), bob.address()).unwrap();
    bob.wait("the second 200", |view| {
        (view.log.iter().filter(|e| e.message.status() == 200).count() >= 2).then_some(())
    });
    assert_eq!(bob.violations(), ["no-ack: the 2xx of INVITE 7 was never ACKed"]);
    assert_eq!(bob.dialog("no-ack").unwrap().phase, Phase::Early);
}

#[test]
fn pieces_of_sip() {
    assert_eq!(address_uri("\"B\" <sip:b@x;p=1?Replaces=z>;tag=4"), "sip:b@x;p=1?Replaces=z");
    assert_eq!(address_uri("sip:b@x;tag=4"), "sip:b@x");
    assert_eq!(destination("sip:b@127.0.0.1;lr"), "127.0.0.1:5060".parse().ok());
    assert_eq!(destination("sip:127.0.0.1:77;lr"), "127.0.0.1:77".parse().ok());
    assert_eq!(parameter("a;b=1;Tag=two", "tag"), Some("two"));
    assert_eq!(unescape("a%3Bto-tag%3d1%"), "a;to-tag=1%");
    assert!(Message::parse(b"\r\n\r\n").is_none());
    assert!(Message::parse(b"wake").is_none());
    let folded = b"OPTIONS sip:x SIP/2.0\r\nv: a\r\n b\r\ni: 1\r\n\r\n";
    let message = Message::parse(folded).unwrap();
    assert_eq!((message.header("Via"), message.call_id()), (Some("a b"), "1"));
}
