//! `CallHold` and `CallUnhold`: rows 36 to 43.

use std::time::{Duration, Instant};

use crate::stage::{Does, PLAIN, Setup, Stage};
use crate::story::{Bad, FAILED};

const HELD: [&str; 7] = [
    "Started",
    "CallHoldStart",
    "CallHoldSuccessful",
    "CallHolding",
    "CallHoldStart",
    "CallHoldSuccessful",
    "Ended",
];
const TAKEN_BACK: [&str; 7] = [
    "Started",
    "CallUnholdStart",
    "CallUnholdSuccessful",
    "CallUnholding",
    "CallUnholdStart",
    "CallUnholdSuccessful",
    "Ended",
];
const SECOND_LEG_ASKED: [&str; 5] =
    ["Started", "CallHoldStart", "CallHoldSuccessful", "CallHolding", "CallHoldStart"];

/// A hold as the old server made it: the stack's own `call_hold`.
const BY_THE_STACK: Setup = Setup { hold: "call_hold", ..PLAIN };

/// The call is up.
const KEPT: Bad = Bad { up: "yes", ..FAILED };

fn talking(stage: &Stage) -> String {
    stage.phones(&["alice", "bob"]);
    stage.talk("alice", "bob")
}

fn hang_up(stage: &Stage, call: &str) {
    // Nobody hangs up in the middle of a re-INVITE.
    stage.wait_only(&[call]);
    stage.hang_up("alice", call);
    stage.wait_only(&[]);
}

fn offered(stage: &Stage, call: &str, direction: &str) {
    stage.wait_offered("alice", call, direction);
    stage.wait_offered("bob", call, direction);
}

row!(everywhere, row_36_a_call_is_held_leg_by_leg_and_taken_back, PLAIN, |stage| {
    let call = talking(stage);
    for _round in 0..2 {
        let story = stage.hold(&call).end();
        story.succeeds(&HELD, "{}");
        let legs: Vec<&str> = story.legs().iter().map(|(_, leg)| *leg).collect();
        assert_eq!(legs, ["caller", "caller", "callee", "callee"]);
        offered(stage, &call, "inactive");
        let story = stage.unhold(&call).end();
        story.succeeds(&TAKEN_BACK, "{}");
        let legs: Vec<&str> = story.legs().iter().map(|(_, leg)| *leg).collect();
        assert_eq!(legs, ["callee", "callee", "caller", "caller"]);
        offered(stage, &call, "sendrecv");
    }
    hang_up(stage, &call);
});

row!(everywhere, row_37_a_callee_who_refuses_has_the_caller_put_back, PLAIN, |stage| {
    let call = talking(stage);
    stage.phone("bob", &[Does::RefuseReinvite(488)]);
    let story = stage.hold(&call).end();
    let text = "callee: 488 Not Acceptable Here";
    story.fails(&SECOND_LEG_ASKED, Bad { text, code: "leg_refused", sip: 488, ..KEPT });
    stage.wait_offered("alice", &call, "sendrecv");
    // Nothing is held, so there is nothing to take back, and it can be held again.
    let not_held = Bad { text: "480 No dialog legs on hold", code: "not_held", ..KEPT };
    stage.unhold(&call).end().fails(&["Started"], not_held);
    stage.phone("bob", &[]);
    stage.hold(&call).end().succeeds(&HELD, "{}");
    hang_up(stage, &call);
});

row!(everywhere, row_37_a_caller_who_refuses_leaves_the_callee_alone, PLAIN, |stage| {
    let call = talking(stage);
    stage.phone("alice", &[Does::RefuseReinvite(488)]);
    let story = stage.hold(&call).end();
    let text = "caller: 488 Not Acceptable Here";
    let bad = Bad { text, code: "leg_refused", sip: 488, ..KEPT };
    story.fails(&["Started", "CallHoldStart"], bad);
    assert_eq!(stage.wire().asked("dlg_send_sequential"), 1);
    hang_up(stage, &call);
});

row!(everywhere, row_37_a_leg_that_refuses_to_be_taken_back_stays_held, PLAIN, |stage| {
    let call = talking(stage);
    stage.hold(&call).end().succeeds(&HELD, "{}");
    stage.phone("bob", &[Does::RefuseReinvite(488)]);
    let text = "callee: 488 Not Acceptable Here";
    let bad = Bad { text, code: "leg_refused", sip: 488, ..KEPT };
    stage.unhold(&call).end().fails(&["Started", "CallUnholdStart"], bad);
    stage.phone("bob", &[]);
    stage.unhold(&call).end().succeeds(&TAKEN_BACK, "{}");
    offered(stage, &call, "sendrecv");
    hang_up(stage, &call);
});

row!(everywhere, row_38_a_glare_is_waited_out_and_asked_once_more, PLAIN, |stage| {
    let call = talking(stage);
    stage.phone("alice", &[Does::RefuseReinvite(491)]);
    let begun = Instant::now();
    let run = stage.hold(&call);
    stage.wire().wait_answered("dlg_send_sequential", 1);
    stage.phone("alice", &[]);
    run.end().succeeds(&HELD, "{}");
    assert!(begun.elapsed() >= Duration::from_millis(2100), "{:?}", begun.elapsed());
    assert_eq!(stage.wire().asked("dlg_send_sequential"), 3);
    hang_up(stage, &call);
});

row!(everywhere, row_38_a_second_glare_is_the_end_of_it, PLAIN, |stage| {
    let call = talking(stage);
    stage.phone("bob", &[Does::RefuseReinvite(491)]);
    let begun = Instant::now();
    let story = stage.hold(&call).end();
    let bad = Bad { text: "491 Request Pending", code: "glare", sip: 491, ..KEPT };
    story.fails(&SECOND_LEG_ASKED, bad);
    assert!(begun.elapsed() < Duration::from_secs(7), "{:?}", begun.elapsed());
    stage.wait_offered("alice", &call, "sendrecv");
    hang_up(stage, &call);
});

row!(everywhere, row_39_a_leg_that_never_answers_is_unknown_and_the_call_lives, PLAIN, |stage| {
    let call = talking(stage);
    stage.phone("bob", &[Does::NeverAnswerReinvite]);
    let story = stage.hold(&call).end();
    let text = "callee: 408 Request Timeout";
    let bad = Bad { outcome: "unknown", text, code: "leg_timeout", sip: 408, ..FAILED };
    story.fails(&SECOND_LEG_ASKED, Bad { up: "unknown", ..bad });
    // It may be held, so it can be taken back.
    stage.phone("bob", &[]);
    stage.unhold(&call).end().succeeds(&TAKEN_BACK, "{}");
    offered(stage, &call, "sendrecv");
    hang_up(stage, &call);
});

row!(everywhere, row_40_what_is_so_already_is_said_in_the_old_words, PLAIN, |stage| {
    let call = talking(stage);
    let not_held = Bad { text: "480 No dialog legs on hold", code: "not_held", ..KEPT };
    stage.unhold(&call).end().fails(&["Started"], not_held);
    stage.hold(&call).end().succeeds(&HELD, "{}");
    let held = Bad { text: "480 Both dialog legs are on hold", code: "already_held", ..KEPT };
    stage.hold(&call).end().fails(&["Started"], held);
    assert_eq!(stage.wire().asked("dlg_send_sequential"), 2);
    hang_up(stage, &call);
});

row!(everywhere, row_41_call_hold_without_any_event_had_nothing_to_change, BY_THE_STACK, |stage| {
    let call = talking(stage);
    stage.goes_inactive("alice", "bob", &call);
    let begun = Instant::now();
    let story = stage.hold(&call).end();
    story.succeeds(&["Started", "Ended"], r#"{"already": true}"#);
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    hang_up(stage, &call);
});

row!(everywhere, row_41_call_hold_tells_each_leg_by_its_events, BY_THE_STACK, |stage| {
    let call = talking(stage);
    let story = stage.hold(&call).end();
    assert_eq!(stage.wire().asked("call_hold"), 1);
    let mut steps = story.steps();
    steps.sort_unstable();
    let mut wanted = HELD.to_vec();
    wanted.sort_unstable();
    assert_eq!(steps, wanted);
    offered(stage, &call, "inactive");
    let held = Bad { text: "480 Both dialog legs are on hold", code: "already_held", ..KEPT };
    stage.hold(&call).end().fails(&["Started"], held);
    let story = stage.unhold(&call).end();
    let mut steps = story.steps();
    steps.sort_unstable();
    let mut wanted = TAKEN_BACK.to_vec();
    wanted.sort_unstable();
    assert_eq!(steps, wanted);
    offered(stage, &call, "sendrecv");
    let not_held = Bad { text: "480 No dialog legs on hold", code: "not_held", ..KEPT };
    stage.unhold(&call).end().fails(&["Started"], not_held);
    hang_up(stage, &call);
});

row!(everywhere, row_41_call_hold_tells_a_refusal_without_its_code, BY_THE_STACK, |stage| {
    let call = talking(stage);
    stage.phone("bob", &[Does::RefuseReinvite(488)]);
    let story = stage.hold(&call).end();
    story.ends(Bad { text: "callee: refused", code: "leg_refused", ..KEPT });
    hang_up(stage, &call);
});

row!(everywhere, row_42_a_call_that_ends_meanwhile_is_told_at_once, PLAIN, |stage| {
    let call = talking(stage);
    stage.phone("alice", &[Does::NeverAnswerReinvite]);
    let run = stage.hold(&call);
    stage.wire().wait_asked("dlg_send_sequential", 1);
    stage.wait_reinvited("alice", &call);
    stage.hang_up("bob", &call);
    let bad = Bad { text: "call ended", code: "call_ended", ..FAILED };
    run.end().fails(&["Started"], bad);
    stage.wait_only(&[]);
});

row!(everywhere, row_43_a_ringing_call_is_not_ready, PLAIN, |stage| {
    stage.phones(&["alice"]);
    stage.phone("bob", &[Does::RingForEver]);
    let call = stage.call("alice", "bob");
    stage.wait_call_at("bob", &[]);
    let bad = Bad { text: "410 Dialog not ready", code: "call_not_ready", ..KEPT };
    stage.hold(&call).end().fails(&["Started"], bad);
    stage.unhold(&call).end().fails(&["Started"], bad);
    stage.blind(&call, "callee", "alice").end().fails(&["Started"], bad);
    stage.hang_up("alice", &call);
    stage.wait_only(&[]);
});
