//! Every act of the connector against a real OpenSIPS, on the stock and on the shipped script.
//!
//! Skipped by name where `OPENSIPS_BIN` is not set.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use callplane::clock::{Clock, SystemClock, TokioTimer};
use callplane::core::act::{
    Act, DialogState, Facts, NotSent, Offer, Op, ReferTo, Refuser, Reply, Sent, Sighting,
};
use callplane::core::ids::{CallId, Nonce, OpId, PodId, StackId};
use callplane::core::plan::{HoldBy, ReferBy};
use callplane::core::request::{Display, Leg};
use callplane::core::sip_address::SipAddress;
use callplane::stack::SipStack;
use callplane::stack::opensips::meter::Unmetered;
use callplane::stack::opensips::settings::StackSettings;
use callplane::stack::opensips::{self, RealOpenSips, Surroundings};
use serde_json::json;
use support::opensips::{OpenSips, Script, installation};
use support::phone::{EndedBy, Phase, Phone};
use support::sip::Direction;

const SCRIPTS: [Script; 2] = [Script::Stock, Script::Reference];

/// A connector and the OpenSIPS that it is connected to.
struct Place {
    opensips: OpenSips,
    stack: RealOpenSips,
    clock: Arc<SystemClock>,
}

static NEXT: AtomicU64 = AtomicU64::new(1);

fn fresh() -> Nonce {
    let n = u128::from(NEXT.fetch_add(1, Ordering::Relaxed));
    Nonce(u128::from(std::process::id()) << 64 | n)
}

impl Place {
    async fn new(
        test: &str,
        script: Script,
        change: impl FnOnce(&mut StackSettings),
    ) -> Option<Self> {
        let opensips = OpenSips::start(installation(test)?, script);
        let mut settings = StackSettings::new(StackId::new("lab"), opensips.mi().to_string());
        settings.next_hop = Some(format!("sip:{}", opensips.sip()));
        change(&mut settings);
        let clock = Arc::new(SystemClock::new());
        let surroundings = Surroundings {
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            timer: Arc::new(TokioTimer),
            meter: Arc::new(Unmetered),
        };
        let stack = opensips::open(settings, surroundings).await.unwrap();
        let connected = stack.connect().await.unwrap();
        assert_eq!(connected.script.is_some(), script == Script::Reference);
        assert_eq!(stack.capabilities().start_is_safe, script == Script::Reference);
        Some(Self { opensips, stack, clock })
    }

    fn op(&self, act: Act) -> Op {
        let now = self.clock.now();
        Op {
            id: OpId::derive(fresh(), 0),
            by: PodId::new("test"),
            stack: StackId::new("lab"),
            act,
            send_before: now.after(Duration::from_millis(500)),
            reply_by: now.after(Duration::from_secs(15)),
        }
    }

    async fn act(&self, act: Act) -> Reply {
        self.stack.perform(&self.op(act)).await
    }

    async fn look(&self, call: &CallId) -> Sighting {
        self.look_for(call, None, None).await
    }

    async fn look_for(
        &self,
        call: &CallId,
        referred_by: Option<OpId>,
        sent: Option<Sent>,
    ) -> Sighting {
        match self.act(Act::Look { call: call.clone(), referred_by, sent }).await {
            Reply::Done(Facts::Looked(sighting)) => *sighting,
            other => panic!("{other:?}"),
        }
    }

    fn sent(&self, op: &OpId) -> Sent {
        Sent { op: op.clone(), since: self.clock.now() }
    }

    fn address(&self, user: &str) -> SipAddress {
        SipAddress::parse(&self.opensips.uri(user)).unwrap()
    }

    fn invite(&self, call: &CallId, auto_answer: bool) -> Act {
        Act::Invite {
            call: call.clone(),
            caller: self.address("alice"),
            callee: self.address("bob"),
            display: Some(Display::parse("Bob, Büro").unwrap()),
            auto_answer,
        }
    }
}

fn call_id(text: &str) -> CallId {
    CallId::parse(text).unwrap()
}

fn setup_call() -> CallId {
    let install = callplane::core::ids::Install::parse("test").unwrap();
    CallId::of_setup(&install, 0, fresh())
}

fn phone_refused(reply: &Reply) -> u16 {
    match reply {
        Reply::Refused { by: Refuser::Phone, code, .. } => *code,
        other => panic!("{other:?}"),
    }
}

fn stack_refused(reply: &Reply) -> (u16, String) {
    match reply {
        Reply::Refused { by: Refuser::Stack, code, reason } => (*code, reason.to_string()),
        other => panic!("{other:?}"),
    }
}

const HOLD_FIRST: Offer = Offer::Hold { first: true };
const HOLD_SECOND: Offer = Offer::Hold { first: false };
const RESUME_FIRST: Offer = Offer::Resume { first: true, last: false };
const RESUME_LAST: Offer = Offer::Resume { first: false, last: true };

fn last_offer(phone: &Phone, call: &CallId) -> (u64, Direction) {
    let dialog = phone.dialog(call.as_str()).unwrap();
    let sdp = dialog.offers.last().unwrap();
    (sdp.version, sdp.direction)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_held_and_taken_back() {
    for script in SCRIPTS {
        let Some(place) = Place::new("a_call_is_held_and_taken_back", script, |_| ()).await else {
            return;
        };
        let (alice, bob) = (place.opensips.phone("alice"), place.opensips.phone("bob"));
        let call = call_id(&alice.talk_to(&bob));
        let ask = |leg, offer| place.act(Act::ReInvite { call: call.clone(), leg, offer });

        let not_held = stack_refused(&ask(Leg::Callee, RESUME_FIRST).await);
        assert_eq!(not_held, (480, "No dialog legs on hold".to_owned()));

        for round in 0..2_u64 {
            assert_eq!(ask(Leg::Caller, HOLD_FIRST).await, Reply::Done(Facts::Nothing));
            assert_eq!(ask(Leg::Callee, HOLD_SECOND).await, Reply::Done(Facts::Nothing));
            let first = 2 + round * 2;
            assert_eq!(last_offer(&alice, &call), (first, Direction::Inactive));
            assert_eq!(last_offer(&bob, &call), (first, Direction::Inactive));

            let held = stack_refused(&ask(Leg::Caller, HOLD_FIRST).await);
            assert_eq!(held, (480, "Both dialog legs are on hold".to_owned()));

            assert_eq!(ask(Leg::Callee, RESUME_FIRST).await, Reply::Done(Facts::Nothing));
            assert_eq!(ask(Leg::Caller, RESUME_LAST).await, Reply::Done(Facts::Nothing));
            assert_eq!(last_offer(&alice, &call), (first + 1, Direction::SendRecv));
            assert_eq!(last_offer(&bob, &call), (first + 1, Direction::SendRecv));
        }

        // A partial hold is put back by whoever finds it: the mark is on the call.
        bob.behave(|b| b.reinvite = Some(488));
        assert_eq!(ask(Leg::Caller, HOLD_FIRST).await, Reply::Done(Facts::Nothing));
        assert_eq!(phone_refused(&ask(Leg::Callee, HOLD_SECOND).await), 488);
        let back = Offer::Resume { first: false, last: false };
        assert_eq!(ask(Leg::Caller, back).await, Reply::Done(Facts::Nothing));
        let mark = place.act(Act::Mark { call: call.clone(), held: false }).await;
        assert_eq!(mark, Reply::Done(Facts::Nothing));
        let not_held = stack_refused(&ask(Leg::Callee, RESUME_FIRST).await);
        assert_eq!(not_held.0, 480);

        // A phone that never answers: OpenSIPS says 408 in its place, and lives.
        bob.behave(|b| b.reinvite = None);
        assert_eq!(phone_refused(&ask(Leg::Callee, HOLD_FIRST).await), 408);
        assert!(place.look(&call).await.call.is_some());

        assert_eq!(place.act(Act::End { call: call.clone() }).await, Reply::Done(Facts::Nothing));
        alice.wait_phase(call.as_str(), Phase::Ended);
        bob.wait_phase(call.as_str(), Phase::Ended);
        for phone in [&alice, &bob] {
            assert_eq!(phone.violations(), Vec::<String>::new());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_took_itself_back_can_be_held_again() {
    let test = "a_phone_that_took_itself_back_can_be_held_again";
    let Some(place) = Place::new(test, Script::Stock, |_| ()).await else { return };
    let (alice, bob) = (place.opensips.phone("alice"), place.opensips.phone("bob"));
    let call = call_id(&alice.talk_to(&bob));
    let hold = |leg, offer| place.act(Act::ReInvite { call: call.clone(), leg, offer });
    assert_eq!(hold(Leg::Caller, HOLD_FIRST).await, Reply::Done(Facts::Nothing));
    assert_eq!(hold(Leg::Callee, HOLD_SECOND).await, Reply::Done(Facts::Nothing));
    assert_eq!(stack_refused(&hold(Leg::Caller, HOLD_FIRST).await).0, 480);
    let seen = alice.dialog(call.as_str()).unwrap().offers.len();
    bob.reinvite(call.as_str(), Direction::SendRecv);
    alice.wait("bob's offer and his ACK", |view| {
        let dialog = view.dialog(call.as_str())?;
        (dialog.offers.len() > seen && dialog.awaiting_ack.is_none()).then_some(())
    });
    // OpenSIPS writes down what bob said once it has sent alice's answer on.
    let mut mi = place.opensips.connect();
    support::wait_until("bob's offer in the dialog", || {
        let listed = mi.call("dlg_list_ctx", json!({"callid": call.as_str()})).unwrap();
        let sdp = listed["Dialog"]["CALLEES"][0]["callee_sdp"].as_str()?.to_owned();
        sdp.contains("a=sendrecv").then_some(())
    });
    assert_eq!(hold(Leg::Caller, HOLD_FIRST).await, Reply::Done(Facts::Nothing));
    assert_eq!(last_offer(&alice, &call).1, Direction::Inactive);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_or_not_ready_is_said() {
    for script in SCRIPTS {
        let test = "what_is_not_there_or_not_ready_is_said";
        let Some(place) = Place::new(test, script, |_| ()).await else { return };
        let (alice, bob) = (place.opensips.phone("alice"), place.opensips.phone("bob"));
        let nobody = call_id("nobody@nowhere");
        let acts = [
            Act::End { call: nobody.clone() },
            Act::ReInvite { call: nobody.clone(), leg: Leg::Caller, offer: HOLD_FIRST },
            Act::Refer {
                call: nobody.clone(),
                leg: Leg::Callee,
                to: ReferTo::Address(place.address("bob")),
            },
            Act::Mark { call: nobody.clone(), held: true },
        ];
        for act in acts {
            match place.act(act).await {
                Reply::Missing { call, sighting } => {
                    assert_eq!(call, nobody);
                    assert!(sighting.full.is_some() && sighting.call.is_none());
                    assert!(!sighting.named_recently);
                }
                other => panic!("{other:?}"),
            }
        }
        let sighting = place.look(&nobody).await;
        assert!(sighting.full.is_some() && sighting.call.is_none() && sighting.sent.is_none());

        bob.behave(|b| b.answer = None);
        let ringing = call_id(&alice.call(&bob.aor()));
        bob.wait_phase(ringing.as_str(), Phase::Early);
        let hold = Act::ReInvite { call: ringing.clone(), leg: Leg::Caller, offer: HOLD_FIRST };
        assert_eq!(stack_refused(&place.act(hold).await), (410, "Dialog not ready".to_owned()));
        let refer = Act::Refer {
            call: ringing.clone(),
            leg: Leg::Callee,
            to: ReferTo::Address(place.address("bob")),
        };
        assert_eq!(stack_refused(&place.act(refer).await).0, 410);
        assert_eq!(bob.received("REFER") + alice.received("REFER"), 0);
        let seen = place.look(&ringing).await.call.unwrap();
        assert_eq!(seen.state, DialogState::Early);
        assert_eq!(
            place.act(Act::End { call: ringing.clone() }).await,
            Reply::Done(Facts::Nothing)
        );
        place.opensips.wait_no_dialog();

        let ended = place.look(&ringing).await;
        assert!(ended.named_recently, "an operation met it a moment ago");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_rings_refers_and_ends() {
    for script in SCRIPTS {
        let Some(place) = Place::new("a_start_rings_refers_and_ends", script, |_| ()).await else {
            return;
        };
        let (alice, bob) = (place.opensips.phone("alice"), place.opensips.phone("bob"));
        let setup = setup_call();
        let op = place.op(place.invite(&setup, false));
        let reply = place.stack.perform(&op).await;
        assert_eq!(reply, Reply::Done(Facts::Answered { takes_refer: Some(true) }));
        let first = alice.dialog(setup.as_str()).unwrap();
        assert_eq!(first.remote_uri, bob.aor(), "the phone shows who will be called");

        let sighting = place.look_for(&setup, None, Some(place.sent(&op.id))).await;
        let reference = script == Script::Reference;
        assert_eq!(sighting.sent, reference.then_some(true));
        support::wait_until("the setup leg in state 4", || {
            place.opensips.dialogs().iter().any(|d| d.state == 4).then_some(())
        });

        // The same operation again: one call on the reference script.
        if reference {
            let again = place.stack.perform(&place.again(&op)).await;
            assert_eq!(again, Reply::Done(Facts::Adopted));
            let never = OpId::derive(fresh(), 0);
            // Only a stack that was up when it was to be sent can tell, by its whole seconds.
            tokio::time::timeout(Duration::from_secs(5), async {
                while place.look_for(&setup, None, Some(place.sent(&never))).await.sent
                    != Some(false)
                {}
            })
            .await
            .expect("a mark that is not there");
        }

        let to = ReferTo::Address(place.address("bob"));
        let refer = place.op(Act::Refer { call: setup.clone(), leg: Leg::Callee, to });
        match place.stack.perform(&refer).await {
            Reply::Done(Facts::Referred { code, transferee }) => {
                assert_eq!(code, 202);
                assert_eq!(*transferee, *alice.aor());
            }
            other => panic!("{other:?}"),
        }
        let referred = support::wait_until("the referred call", || {
            let live = bob.live();
            live.into_iter().find(|d| d.phase == Phase::Up)
        });
        let sighting = place.look_for(&setup, Some(refer.id.clone()), None).await;
        let new = sighting.referred.unwrap();
        assert_eq!(new.call.as_str(), referred.call_id);
        assert_eq!(sighting.call.unwrap().last_op, reference.then_some(refer.id));

        assert_eq!(place.act(Act::End { call: setup.clone() }).await, Reply::Done(Facts::Nothing));
        alice.wait_phase(setup.as_str(), Phase::Ended);
        place.opensips.wait_only(&[&referred.call_id]);
        assert_eq!(alice.received("BYE"), 1, "one BYE, to one phone");
        for phone in [&alice, &bob] {
            assert_eq!(phone.violations(), Vec::<String>::new());
        }
    }
}

impl Place {
    /// The same operation, with fresh times.
    fn again(&self, op: &Op) -> Op {
        Op { id: op.id.clone(), ..self.op(op.act.clone()) }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_in_which_a_caller_does_not_answer() {
    for script in SCRIPTS {
        let test = "every_way_in_which_a_caller_does_not_answer";
        let Some(place) = Place::new(test, script, |_| ()).await else { return };
        let nobody = setup_call();
        let unknown = place.act(place.invite(&nobody, false)).await;
        assert_eq!(phone_refused(&unknown), 404);

        let alice = place.opensips.phone("alice");
        for code in [486, 480, 603, 302] {
            alice.behave(|b| b.answer = Some(code));
            let call = setup_call();
            assert_eq!(phone_refused(&place.act(place.invite(&call, false)).await), code);
        }
        alice.behave(|b| b.dead = true);
        let silent = place.act(place.invite(&setup_call(), false)).await;
        assert_eq!(phone_refused(&silent), 408);
        alice.behave(|b| {
            b.dead = false;
            b.answer = None;
        });
        let call = setup_call();
        let cancel = async {
            support::wait_until("alice rings", || alice.dialog(call.as_str()).map(|_| ()));
            place.act(Act::CancelInvite { call: call.clone() }).await
        };
        let (rang, cancelled) = tokio::join!(place.act(place.invite(&call, false)), cancel);
        assert_eq!(cancelled, Reply::Done(Facts::Nothing));
        assert_eq!(phone_refused(&rang), 487);
        let again = place.act(Act::CancelInvite { call: call_id("nobody@nowhere") }).await;
        assert_eq!(stack_refused(&again).0, 481);

        alice.behave(|b| b.answer = Some(200));
        let auto = place.act(place.invite(&setup_call(), true)).await;
        match script {
            Script::Stock => assert_eq!(stack_refused(&auto).0, 501),
            Script::Reference => {
                assert!(matches!(auto, Reply::Done(Facts::Answered { .. })), "{auto:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refer_is_refused_ignored_or_revoked() {
    for script in SCRIPTS {
        let test = "a_refer_is_refused_ignored_or_revoked";
        let Some(place) = Place::new(test, script, |_| ()).await else { return };
        let phones = ["alice", "bob", "carol"].map(|user| place.opensips.phone(user));
        let [alice, bob, carol] = &phones;
        let call = call_id(&alice.talk_to(bob));
        let refer = || {
            let to = ReferTo::Address(place.address("carol"));
            place.op(Act::Refer { call: call.clone(), leg: Leg::Callee, to })
        };
        for code in [603, 405] {
            bob.behave(|b| b.refer = Some(code));
            assert_eq!(phone_refused(&place.stack.perform(&refer()).await), code);
        }
        bob.behave(|b| b.refer = None);
        assert_eq!(phone_refused(&place.stack.perform(&refer()).await), 408);

        bob.behave(|b| {
            b.refer = Some(202);
            b.follow_after = Duration::from_secs(1);
        });
        let op = refer();
        assert!(matches!(place.stack.perform(&op).await, Reply::Done(Facts::Referred { .. })));
        let revoked = place.act(Act::Revoke { token: op.id.clone() }).await;
        match script {
            Script::Stock => assert_eq!(stack_refused(&revoked).0, 501),
            Script::Reference => {
                assert_eq!(revoked, Reply::Done(Facts::Nothing));
                let refused = support::wait_until("bob's INVITE is refused", || {
                    let dialogs = bob.view().dialogs;
                    let new = dialogs.into_iter().find(|d| d.call_id != call.as_str())?;
                    new.ended_by
                });
                assert_eq!(refused, EndedBy::Refused(603));
                assert_eq!(carol.received("INVITE"), 0);
            }
        }
        let known = SipAddress::parse("sip:x@h.example;cpt=forged").unwrap();
        let to = ReferTo::Address(known);
        let forged = place.act(Act::Refer { call, leg: Leg::Callee, to }).await;
        assert_eq!(stack_refused(&forged).0, 400);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attended_transfer_joins_the_far_ends() {
    for script in SCRIPTS {
        for by in [ReferBy::Sequential, ReferBy::Stack] {
            if script == Script::Reference && by == ReferBy::Stack {
                continue;
            }
            let test = "an_attended_transfer_joins_the_far_ends";
            let Some(place) = Place::new(test, script, |s| s.refer = by).await else { return };
            let phones = ["alice", "bob", "carol"].map(|user| place.opensips.phone(user));
            let [alice, bob, carol] = &phones;
            let first = call_id(&alice.talk_to(bob));
            let consult = call_id(&alice.talk_to(carol));

            let gone = ReferTo::Replacing { call: call_id("gone@nowhere"), leg: Leg::Callee };
            let act = Act::Refer { call: first.clone(), leg: Leg::Callee, to: gone };
            match place.act(act).await {
                Reply::Missing { call, sighting } => {
                    assert_eq!(call.as_str(), "gone@nowhere");
                    assert!(sighting.full.is_some());
                }
                other => panic!("{other:?}"),
            }

            let to = ReferTo::Replacing { call: consult.clone(), leg: Leg::Callee };
            let op = place.op(Act::Refer { call: first.clone(), leg: Leg::Callee, to });
            match place.stack.perform(&op).await {
                Reply::Done(Facts::Referred { code, transferee }) => {
                    let expected = if by == ReferBy::Stack { 0 } else { 202 };
                    assert_eq!((code, &*transferee), (expected, &*bob.aor()));
                }
                other => panic!("{other:?}"),
            }
            carol.wait_phase(consult.as_str(), Phase::Ended);
            let joined = support::wait_until("bob and carol", || {
                carol.live().into_iter().find(|d| d.phase == Phase::Up)
            });
            assert_eq!(joined.remote_uri, bob.aor());
            let sighting = place.look_for(&first, Some(op.id.clone()), None).await;
            match (script, by) {
                // Nothing on the call names the new one when the REFER was ours (F11).
                (Script::Stock, ReferBy::Sequential) => {}
                (Script::Reference, _) | (Script::Stock, ReferBy::Stack) => {
                    assert_eq!(sighting.referred.unwrap().call.as_str(), joined.call_id);
                }
            }
            place.act(Act::End { call: first }).await;
            place.opensips.wait_only(&[&joined.call_id]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stacks_own_hold_is_only_used_where_configured() {
    let test = "the_stacks_own_hold_is_only_used_where_configured";
    let Some(place) = Place::new(test, Script::Stock, |_| ()).await else { return };
    let act = |call: &CallId, offer| Act::StackHold { call: call.clone(), offer };
    let call = call_id("x@y");
    assert_eq!(stack_refused(&place.act(act(&call, HOLD_FIRST)).await).0, 501);

    let Some(place) = Place::new(test, Script::Stock, |s| s.hold = HoldBy::Stack).await else {
        return;
    };
    let (alice, bob) = (place.opensips.phone("alice"), place.opensips.phone("bob"));
    let call = call_id(&alice.talk_to(&bob));
    assert_eq!(place.act(act(&call, HOLD_FIRST)).await, Reply::Done(Facts::Nothing));
    support::wait_until("both legs on hold", || {
        // The caller was offered nothing before.
        let held = |phone: &Phone| {
            let dialog = phone.dialog(call.as_str())?;
            Some(dialog.offers.last()?.direction == Direction::Inactive)
        };
        (held(&alice)? && held(&bob)?).then_some(())
    });
    assert_eq!(stack_refused(&place.act(act(&call, HOLD_FIRST)).await).0, 480);
    let nobody = place.act(act(&call_id("n@n"), RESUME_FIRST)).await;
    assert!(matches!(nobody, Reply::Missing { .. }), "{nobody:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stack_that_is_not_there_is_known_within_a_second() {
    let test = "a_stack_that_is_not_there_is_known_within_a_second";
    let Some(mut place) = Place::new(test, Script::Stock, |s| {
        s.breaker_open = Duration::from_millis(100);
    })
    .await
    else {
        return;
    };
    let call = call_id("x@y");
    let end = || Act::End { call: call.clone() };
    let unreachable = Reply::NotSent(NotSent::Unreachable);

    // Silent: reachable, and nobody reads. After a few requests the breaker knows.
    place.opensips.freeze();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        assert!(Instant::now() < deadline, "the breaker never opened");
        if place.act(end()).await == unreachable {
            break;
        }
    }
    let began = Instant::now();
    assert_eq!(place.act(end()).await, unreachable);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    place.opensips.thaw();
    assert!(matches!(back(&place, end()).await, Reply::Missing { .. }));

    // Refused: the port is closed.
    place.opensips.stop();
    let began = Instant::now();
    assert_eq!(place.act(end()).await, unreachable);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    place.opensips.start_again();
    assert!(matches!(back(&place, end()).await, Reply::Missing { .. }));
}

/// Repeats an act until the stack is reached again.
async fn back(place: &Place, act: Act) -> Reply {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let reply = place.act(act.clone()).await;
        if !matches!(reply, Reply::NotSent(_) | Reply::Silent) {
            return reply;
        }
        assert!(Instant::now() < deadline, "the stack never came back: {reply:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_does_not_fit_a_datagram_comes_over_http() {
    let test = "a_list_that_does_not_fit_a_datagram_comes_over_http";
    let Some(place) = Place::new(test, Script::Stock, |_| ()).await else { return };
    let (alice, bob) = (place.opensips.phone("alice"), place.opensips.phone("bob"));
    for _ in 0..80 {
        alice.talk_to(&bob);
    }
    let away = place.stack.list().await.unwrap_err();
    assert_eq!(away, callplane::stack::Away::Incomplete);
    let sighting = place.look(&call_id("nobody@nowhere")).await;
    assert!(sighting.full.is_none(), "no complete list, no proof");

    let mut settings = place.stack.settings().clone();
    settings.mi_http = Some(place.opensips.http());
    let surroundings = Surroundings {
        clock: Arc::clone(&place.clock) as Arc<dyn Clock>,
        timer: Arc::new(TokioTimer),
        meter: Arc::new(Unmetered),
    };
    let stack = opensips::open(settings, surroundings).await.unwrap();
    let list = stack.list().await.unwrap();
    assert_eq!(list.dialogs.len(), 80);
    assert!(list.dialogs.iter().all(|dialog| dialog.state == DialogState::Confirmed));
    drop((alice, bob));
}
