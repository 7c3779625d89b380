//! `CallBlindTransfer` and `CallAttendedTransfer`: rows 25 to 35.

use std::time::{Duration, Instant};

use crate::stage::{Does, PLAIN, Setup, Stage};
use crate::story::{Bad, CANCELLED, FAILED, Story};

const TAKEN: [&str; 2] = ["Started", "Transferring"];
const PLACED: [&str; 3] = ["Started", "Transferring", "TransferStart"];
const MOVED: [&str; 5] =
    ["Started", "Transferring", "TransferStart", "TransferSuccessful", "Ended"];

/// A transfer as the old server made it: the stack's own `call_transfer`.
const BY_THE_STACK: Setup = Setup { transfer: "call_transfer", ..PLAIN };

/// The old call is up and nothing else is.
const KEPT: Bad = Bad { up: "yes", ..FAILED };

/// The transfer came to be, and only its call is up.
fn only_the_new_call(stage: &Stage, story: &Story) -> String {
    let call = story.data("TransferSuccessful")["callid"].as_str().unwrap().to_owned();
    stage.only_listed(&[&call]);
    stage.wait_only(&[&call]);
    call
}

fn hang_up(stage: &Stage, user: &str, call: &str) {
    stage.hang_up(user, call);
    stage.wait_only(&[]);
}

/// Without a token nobody can refuse a late INVITE.
fn late_call_possible(stage: &Stage) -> &'static str {
    if stage.is_reference() { "{}" } else { r#"{"may_still_ring": true}"# }
}

// ---- blind -----------------------------------------------------------------------------------

row!(everywhere, row_25_a_transfer_of_an_unknown_call_finds_none, PLAIN, |stage| {
    stage.phones(&["carol"]);
    let begun = Instant::now();
    let story = stage.blind("nobody-knows-it", "callee", "carol").end();
    let bad = Bad { text: "404 Dialog not found", code: "call_not_found", ..FAILED };
    story.fails(&["Started"], bad);
    // One list is enough for an id that nobody has named lately.
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
});

row!(everywhere, row_25_a_call_that_was_named_lately_is_gone_after_two_lists, PLAIN, |stage| {
    stage.phones(&["alice", "bob", "carol"]);
    let call = stage.talk("alice", "bob");
    stage.end(&call).end().succeeds(&["Started", "Ended"], "{}");
    let story = stage.blind(&call, "callee", "carol").end();
    let bad = Bad { text: "404 Dialog not found", code: "call_not_found", ..FAILED };
    story.fails(&["Started"], bad);
});

row!(everywhere, row_26_a_party_that_refuses_the_refer_stays_in_its_call, PLAIN, |stage| {
    stage.phones(&["alice", "bob", "carol"]);
    let call = stage.talk("alice", "bob");
    for (status, text, code) in [
        (603, "transfer refused: 603 Decline", "refer_refused"),
        (405, "transfer refused: 405 Method Not Allowed", "refer_unsupported"),
        (401, "transfer refused: 401 Unauthorized", "in_dialog_challenge"),
    ] {
        stage.phone("bob", &[Does::RefuseRefer(status)]);
        let story = stage.blind(&call, "callee", "carol").end();
        story.fails(&["Started"], Bad { text, code, sip: status, ..KEPT });
        stage.wait_only(&[&call]);
    }
    hang_up(stage, "alice", &call);
});

row!(everywhere, row_26_a_party_that_ignores_the_refer_stays_in_its_call, PLAIN, |stage| {
    stage.phones(&["alice", "carol"]);
    stage.phone("bob", &[Does::IgnoreRefer]);
    let call = stage.talk("alice", "bob");
    let story = stage.blind(&call, "callee", "carol").end();
    let bad = Bad { text: "phone did not place the call", code: "refer_ignored", ..KEPT };
    story.fails(&TAKEN, Bad { remarks: late_call_possible(stage), ..bad });
    stage.wait_only(&[&call]);
    hang_up(stage, "alice", &call);
});

row!(everywhere, row_26_a_party_that_never_answers_the_refer_stays_in_its_call, PLAIN, |stage| {
    stage.phones(&["alice", "carol"]);
    stage.phone("bob", &[Does::NeverAnswerRefer]);
    let call = stage.talk("alice", "bob");
    let story = stage.blind(&call, "callee", "carol").end();
    let text = "transfer refused: 408 Request Timeout";
    let bad = Bad { text, code: "refer_timeout", sip: 408, ..KEPT };
    story.fails(&["Started"], Bad { remarks: late_call_possible(stage), ..bad });
    stage.wait_only(&[&call]);
    hang_up(stage, "alice", &call);
});

// The reference script knows a transfer by its token, which `call_transfer` does not send.
row!(stock, row_27_call_transfer_tells_a_refusal_by_its_mark_alone, BY_THE_STACK, |stage| {
    stage.phones(&["alice", "carol"]);
    stage.phone("bob", &[Does::RefuseRefer(603)]);
    let call = stage.talk("alice", "bob");
    let story = stage.blind(&call, "callee", "carol").end();
    story.fails(&TAKEN, Bad { text: "transfer refused", code: "refer_refused", ..KEPT });
    assert_eq!(stage.wire().asked("call_transfer"), 1);
    stage.wait_only(&[&call]);
    // After any attempt callops refuses this call's transfers for ever.
    let story = stage.blind(&call, "callee", "carol").end();
    story.fails(&["Started"], Bad { text: "491 Request Pending", code: "stack_refused", ..KEPT });
    hang_up(stage, "alice", &call);
});

row!(stock, row_27_call_transfer_that_is_followed_succeeds, BY_THE_STACK, |stage| {
    stage.phones(&["alice", "bob", "carol"]);
    let call = stage.talk("alice", "bob");
    let story = stage.blind(&call, "callee", "carol").end();
    story.succeeds(&MOVED, "{}");
    assert_eq!(stage.wire().asked("dlg_send_sequential"), 0);
    let new = only_the_new_call(stage, &story);
    hang_up(stage, "bob", &new);
});

row!(stock, row_27_call_transfer_that_is_ignored_is_told_as_such, BY_THE_STACK, |stage| {
    stage.phones(&["alice", "carol"]);
    stage.phone("bob", &[Does::IgnoreRefer]);
    let call = stage.talk("alice", "bob");
    let story = stage.blind(&call, "callee", "carol").end();
    let bad = Bad { text: "phone did not place the call", code: "refer_ignored", ..KEPT };
    story.fails(&TAKEN, Bad { remarks: late_call_possible(stage), ..bad });
    stage.wait_only(&[&call]);
    hang_up(stage, "alice", &call);
});

row!(everywhere, row_28_a_target_that_refuses_leaves_the_old_call_up, PLAIN, |stage| {
    stage.phones(&["alice", "bob"]);
    let call = stage.talk("alice", "bob");
    for (status, text, code) in [
        (486, "target: 486 Busy Here", "target_busy"),
        (603, "target: 603 Decline", "target_declined"),
        (404, "target: 404 Not Found", "target_not_found"),
        (480, "target: 480 Temporarily Unavailable", "target_unavailable"),
    ] {
        stage.phone("carol", &[Does::RingFor(100), Does::Refuse(status)]);
        let story = stage.blind(&call, "callee", "carol").end();
        story.fails(&PLACED, Bad { text, code, sip: status, ..KEPT });
        stage.wait_only(&[&call]);
    }
    hang_up(stage, "alice", &call);
});

row!(everywhere, row_28_a_target_that_is_not_registered_leaves_the_old_call_up, PLAIN, |stage| {
    stage.phones(&["alice", "bob"]);
    let call = stage.talk("alice", "bob");
    let story = stage.blind(&call, "callee", "nobody").end();
    // What a stock script answers itself is told as 408, and its NOTIFYs by nobody.
    let bad = if stage.is_reference() {
        Bad { text: "target: 404 Not Found", code: "target_not_found", sip: 404, ..KEPT }
    } else {
        Bad { text: "target: 408 Request Timeout", code: "target_no_answer", sip: 408, ..KEPT }
    };
    story.fails(&PLACED, bad);
    stage.wait_only(&[&call]);
    hang_up(stage, "alice", &call);
});

row!(
    everywhere,
    row_28_a_target_that_rings_out_leaves_the_old_call_up,
    Setup { ring: 1, ..PLAIN },
    |stage| {
        stage.phones(&["alice", "bob"]);
        stage.phone("carol", &[Does::RingForEver]);
        let call = stage.talk("alice", "bob");
        let story = stage.blind(&call, "callee", "carol").end();
        let text = "target: 408 Request Timeout";
        story.fails(&PLACED, Bad { text, code: "target_no_answer", sip: 408, ..KEPT });
        stage.wait_only(&[&call]);
        hang_up(stage, "alice", &call);
    }
);

row!(
    everywhere,
    row_29_the_other_party_hanging_up_ends_a_transfer_that_leads_nowhere,
    PLAIN,
    |stage| {
        stage.phones(&["alice", "carol"]);
        stage.phone("bob", &[Does::IgnoreRefer]);
        let call = stage.talk("alice", "bob");
        let run = stage.blind(&call, "callee", "carol");
        run.wait("Transferring");
        stage.hang_up("alice", &call);
        let up = if stage.is_reference() { "no" } else { "unknown" };
        let bad = Bad { text: "call ended", code: "call_ended", up, ..FAILED };
        run.end().fails(&TAKEN, Bad { remarks: late_call_possible(stage), ..bad });
        stage.wait_only(&[]);
    }
);

row!(everywhere, row_29_a_target_that_answers_wins_over_the_end_of_the_old_call, PLAIN, |stage| {
    stage.phones(&["alice", "carol"]);
    stage.phone("bob", &[Does::DialAfter(500)]);
    let call = stage.talk("alice", "bob");
    let run = stage.blind(&call, "callee", "carol");
    run.wait("Transferring");
    stage.hang_up("alice", &call);
    let story = run.end();
    let new = if stage.is_reference() {
        story.succeeds(&MOVED, "{}");
        only_the_new_call(stage, &story)
    } else {
        // The old dialog is gone by then, so nothing on a stock script names the new call.
        let bad = Bad { text: "call ended", code: "call_ended", up: "unknown", ..FAILED };
        story.fails(&TAKEN, Bad { remarks: late_call_possible(stage), ..bad });
        stage.wait_call_at("carol", &[])
    };
    stage.wait_only(&[&new]);
    hang_up(stage, "bob", &new);
});

row!(everywhere, row_30_a_transfer_that_succeeds_leaves_only_the_new_call, PLAIN, |stage| {
    stage.phones(&["alice", "bob"]);
    stage.phone("carol", &[Does::RingFor(300)]);
    for (leg, moved) in [("callee", "bob"), ("caller", "alice")] {
        let call = stage.talk("alice", "bob");
        let story = stage.blind(&call, leg, "carol").end();
        story.succeeds(&MOVED, "{}");
        assert_eq!(story.data("TransferPending")["extra"], "180 Ringing");
        let new = only_the_new_call(stage, &story);
        assert_eq!(stage.calls_at(moved), [new.as_str()]);
        assert_eq!(stage.calls_at("carol"), [new.as_str()]);
        hang_up(stage, "carol", &new);
    }
});

row!(everywhere, row_30_a_phone_that_ends_the_old_call_itself_is_fine, PLAIN, |stage| {
    stage.phones(&["alice", "carol"]);
    stage.phone("bob", &[Does::HangUpWhenReferred]);
    let call = stage.talk("alice", "bob");
    let story = stage.blind(&call, "callee", "carol").end();
    story.succeeds(&MOVED, "{}");
    let new = only_the_new_call(stage, &story);
    hang_up(stage, "bob", &new);
});

row!(everywhere, finding_08_a_strangers_call_is_not_taken_for_the_transfer, PLAIN, |stage| {
    stage.phones(&["alice", "carol", "dave", "mallory"]);
    stage.phone("bob", &[Does::DialAfter(600)]);
    let call = stage.talk("alice", "bob");
    let run = stage.blind(&call, "callee", "carol");
    run.wait("Transferring");
    let forged = stage.forge_transfer("mallory", &call, "dave");
    let story = run.end();
    story.succeeds(&MOVED, "{}");
    let new = story.data("TransferSuccessful")["callid"].as_str().unwrap().to_owned();
    assert_eq!(stage.calls_at("carol"), [new.as_str()]);
    stage.wait_only(&[&new, &forged]);
    stage.hang_up("mallory", &forged);
    hang_up(stage, "bob", &new);
});

row!(everywhere, finding_10_one_command_at_a_time_changes_a_call, PLAIN, |stage| {
    stage.phones(&["alice", "bob"]);
    stage.phone("carol", &[Does::RingForEver]);
    let call = stage.talk("alice", "bob");
    let run = stage.blind(&call, "callee", "carol");
    run.wait("TransferStart");
    let error = stage.refused("CallHold", &call);
    assert_eq!(error["data"]["kind"], "call_busy", "{error}");
    assert_eq!(error["data"]["cmd_id"], run.id.as_str(), "{error}");
    stage.cancel(&run);
    run.end().fails(&PLACED, Bad { up: "yes", ..CANCELLED });
    stage.wait_only(&[&call]);
    hang_up(stage, "alice", &call);
});

// ---- attended --------------------------------------------------------------------------------

/// alice talks to bob, and to carol about it.
fn consulting(stage: &Stage) -> (String, String) {
    stage.phones(&["alice", "bob", "carol"]);
    (stage.talk("alice", "bob"), stage.talk("alice", "carol"))
}

row!(everywhere, row_31_an_unknown_consultation_call_leaves_the_call_up, PLAIN, |stage| {
    stage.phones(&["alice", "bob"]);
    let a = stage.talk("alice", "bob");
    let story = stage.attended((&a, "callee"), ("nobody-knows-it", "callee")).end();
    let bad = Bad { text: "404 Transfer dialog not found", code: "call_not_found", ..KEPT };
    story.fails(&["Started"], bad);
    stage.wait_only(&[&a]);
    hang_up(stage, "alice", &a);
});

row!(everywhere, row_31_an_unknown_call_is_told_as_such, PLAIN, |stage| {
    stage.phones(&["alice", "carol"]);
    let b = stage.talk("alice", "carol");
    let story = stage.attended(("nobody-knows-it", "callee"), (&b, "callee")).end();
    let bad = Bad { text: "404 Dialog not found", code: "call_not_found", ..FAILED };
    story.fails(&["Started"], bad);
    stage.wait_only(&[&b]);
    hang_up(stage, "alice", &b);
});

row!(everywhere, row_32_a_target_that_replaces_leaves_only_the_new_call, PLAIN, |stage| {
    let (a, b) = consulting(stage);
    let story = stage.attended((&a, "callee"), (&b, "callee")).end();
    story.succeeds(&MOVED, r#"{"replaced": true}"#);
    let new = only_the_new_call(stage, &story);
    assert_eq!(stage.calls_at("bob"), [new.as_str()]);
    assert_eq!(stage.calls_at("carol"), [new.as_str()]);
    assert_eq!(stage.calls_at("alice"), Vec::<String>::new());
    hang_up(stage, "bob", &new);
});

row!(everywhere, row_32_the_consulting_party_may_have_been_called, PLAIN, |stage| {
    stage.phones(&["alice", "bob", "carol"]);
    let a = stage.talk("bob", "alice");
    let b = stage.talk("carol", "alice");
    let story = stage.attended((&a, "caller"), (&b, "caller")).end();
    story.succeeds(&MOVED, r#"{"replaced": true}"#);
    let new = only_the_new_call(stage, &story);
    assert_eq!(stage.calls_at("bob"), [new.as_str()]);
    assert_eq!(stage.calls_at("carol"), [new.as_str()]);
    hang_up(stage, "bob", &new);
});

row!(everywhere, row_33_a_target_that_knows_no_replaces_has_both_old_calls_ended, PLAIN, |stage| {
    let (a, b) = consulting(stage);
    stage.phone("carol", &[Does::IgnoreReplaces]);
    let story = stage.attended((&a, "callee"), (&b, "callee")).end();
    story.succeeds(&MOVED, r#"{"replaced": false}"#);
    let new = only_the_new_call(stage, &story);
    assert_eq!(stage.calls_at("carol"), [new.as_str()]);
    hang_up(stage, "bob", &new);
});

row!(everywhere, row_34_a_consultation_that_ended_first_fails_at_a_strict_phone, PLAIN, |stage| {
    let (a, b) = consulting(stage);
    stage.phone("bob", &[Does::DialAfter(500)]);
    let run = stage.attended((&a, "callee"), (&b, "callee"));
    run.wait("Transferring");
    stage.hang_up("carol", &b);
    let story = run.end();
    if stage.is_reference() {
        let text = "target: 481 Call/Transaction Does Not Exist";
        story.fails(&PLACED, Bad { text, code: "consult_gone", sip: 481, ..KEPT });
    } else {
        // Nothing on a stock script names a call that replaces one which is gone.
        let bad = Bad { text: "phone did not place the call", code: "refer_ignored", ..KEPT };
        story.fails(&TAKEN, Bad { remarks: late_call_possible(stage), ..bad });
    }
    stage.wait_only(&[&a]);
    hang_up(stage, "alice", &a);
});

row!(
    everywhere,
    row_34_a_consultation_that_ended_first_is_no_matter_to_a_lenient_phone,
    PLAIN,
    |stage| {
        let (a, b) = consulting(stage);
        stage.phone("bob", &[Does::DialAfter(500)]);
        stage.phone("carol", &[Does::LenientReplaces]);
        let run = stage.attended((&a, "callee"), (&b, "callee"));
        run.wait("Transferring");
        stage.hang_up("carol", &b);
        let story = run.end();
        if stage.is_reference() {
            story.succeeds(&MOVED, r#"{"replaced": true}"#);
            let new = only_the_new_call(stage, &story);
            hang_up(stage, "bob", &new);
        } else {
            let bad = Bad { text: "phone did not place the call", code: "refer_ignored", ..KEPT };
            story.fails(&TAKEN, Bad { remarks: late_call_possible(stage), ..bad });
            let new = stage.wait_call_at("carol", &[]);
            stage.wait_only(&[&a, &new]);
            stage.hang_up("alice", &a);
            hang_up(stage, "carol", &new);
        }
    }
);

row!(everywhere, row_35_a_target_that_refuses_leaves_both_calls_up, PLAIN, |stage| {
    let (a, b) = consulting(stage);
    stage.phone("carol", &[Does::RingFor(100), Does::Refuse(486)]);
    let story = stage.attended((&a, "callee"), (&b, "callee")).end();
    let text = "target: 486 Busy Here";
    story.fails(&PLACED, Bad { text, code: "target_busy", sip: 486, ..KEPT });
    stage.wait_only(&[&a, &b]);
    stage.hang_up("alice", &a);
    hang_up(stage, "alice", &b);
});
