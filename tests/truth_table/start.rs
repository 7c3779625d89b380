//! `CallStart`: rows 1 to 24.

use crate::stage::{Does, PLAIN, Setup, Stage};
use crate::story::{Bad, CANCELLED, FAILED, Story};

const ANSWERED: [&str; 2] = ["Started", "CallerAnswered"];
const REFERRING: [&str; 3] = ["Started", "CallerAnswered", "Transferring"];
const PLACED: [&str; 4] = ["Started", "CallerAnswered", "Transferring", "TransferStart"];
const UP: [&str; 6] =
    ["Started", "CallerAnswered", "Transferring", "TransferStart", "CalleeAnswered", "Ended"];

/// The Call-ID of the new call.
fn new_call(story: &Story) -> String {
    story.data("CalleeAnswered")["callid"].as_str().unwrap().to_owned()
}

/// The start came to be, and only its call is up.
fn only_the_new_call(stage: &Stage, story: &Story) -> String {
    let call = new_call(story);
    stage.only_listed(&[&call]);
    stage.wait_only(&[&call]);
    call
}

fn hang_up(stage: &Stage, user: &str, call: &str) {
    stage.hang_up(user, call);
    stage.wait_only(&[]);
}

row!(everywhere, row_01_a_caller_who_answers_is_told_and_then_asked_to_call, PLAIN, |stage| {
    stage.phone("alice", &[Does::RingFor(300)]);
    stage.phones(&["bob"]);
    let story = stage.start("alice", "bob", None).end();
    story.succeeds(&UP, "{}");
    let answered = story.data("CallerAnswered");
    assert_eq!(answered["caller"], stage.uri("alice"));
    assert_eq!(answered["callee"], stage.uri("bob"));
    assert!(story.has("CallerRinging"));
    let call = only_the_new_call(stage, &story);
    hang_up(stage, "alice", &call);
});

// Where the caller's address leads to the proxy itself, the INVITE comes in and its script runs.
row!(
    stock,
    row_01_a_start_without_next_hop_goes_where_the_callers_address_leads,
    Setup { next_hop: false, ..PLAIN },
    |stage| {
        stage.phones(&["alice", "bob"]);
        let story = stage.start("alice", "bob", None).end();
        story.succeeds(&UP, "{}");
        let call = only_the_new_call(stage, &story);
        hang_up(stage, "alice", &call);
    }
);

row!(everywhere, row_02_a_caller_who_refuses_is_told_with_the_phones_own_code, PLAIN, |stage| {
    for (status, text, code) in [
        (486, "failed to establish initial call: 486 Busy Here", "caller_busy"),
        (603, "failed to establish initial call: 603 Decline", "caller_declined"),
        (404, "failed to establish initial call: 404 Not Found", "caller_not_found"),
        (
            480,
            "failed to establish initial call: 480 Temporarily Unavailable",
            "caller_unavailable",
        ),
    ] {
        stage.phone("alice", &[Does::RingFor(100), Does::Refuse(status)]);
        stage.phones(&["bob"]);
        let story = stage.start("alice", "bob", None).end();
        story.fails(&["Started"], Bad { text, code, sip: status, ..FAILED });
        stage.wait_only(&[]);
    }
});

row!(everywhere, row_02_a_caller_who_is_not_registered_is_not_found, PLAIN, |stage| {
    stage.phones(&["bob"]);
    let story = stage.start("nobody", "bob", None).end();
    let text = "failed to establish initial call: 404 Not Found";
    story.fails(&["Started"], Bad { text, code: "caller_not_found", sip: 404, ..FAILED });
    stage.wait_only(&[]);
});

row!(everywhere, row_03_a_silent_phone_is_unreachable_not_unanswered, PLAIN, |stage| {
    stage.phone("alice", &[Does::Off]);
    stage.phones(&["bob"]);
    let story = stage.start("alice", "bob", None).end();
    let text = "failed to establish initial call: 408 Request Timeout";
    story.fails(&["Started"], Bad { text, code: "caller_unreachable", sip: 408, ..FAILED });
    stage.wait_only(&[]);
});

row!(everywhere, row_04_a_caller_who_rings_out_is_cancelled_at_the_ring_timeout, PLAIN, |stage| {
    stage.phone("alice", &[Does::RingForEver]);
    stage.phones(&["bob"]);
    let story = stage.start("alice", "bob", Some(1)).end();
    let text = "failed to establish initial call: 408 Request Timeout";
    story.fails(&["Started"], Bad { text, code: "caller_no_answer", sip: 408, ..FAILED });
    assert_eq!(stage.wire().asked("t_uac_cancel"), 1);
    stage.wait_only(&[]);
});

row!(everywhere, row_05_a_forwarding_or_challenging_caller_is_not_followed, PLAIN, |stage| {
    for (status, text, code) in [
        (302, "failed to establish initial call: 302 Moved Temporarily", "caller_forwarded"),
        (407, "failed to establish initial call: 407 Proxy Authentication Required", "challenged"),
        (401, "failed to establish initial call: 401 Unauthorized", "challenged"),
    ] {
        stage.phone("alice", &[Does::RingFor(100), Does::Refuse(status)]);
        stage.phones(&["bob"]);
        let story = stage.start("alice", "bob", None).end();
        story.fails(&["Started"], Bad { text, code, sip: status, ..FAILED });
        stage.wait_only(&[]);
    }
});

row!(everywhere, row_09_a_start_cancelled_while_the_caller_rings_rings_no_more, PLAIN, |stage| {
    stage.phone("alice", &[Does::RingForEver]);
    stage.phones(&["bob"]);
    let run = stage.start("alice", "bob", None);
    run.wait("CallerRinging");
    stage.cancel(&run);
    run.end().fails(&["Started"], CANCELLED);
    stage.wait_only(&[]);
});

row!(everywhere, row_09_a_200_that_crosses_the_cancel_is_ended, PLAIN, |stage| {
    stage.phone("alice", &[Does::CrossCancel]);
    stage.phones(&["bob"]);
    let run = stage.start("alice", "bob", None);
    run.wait("CallerRinging");
    stage.cancel(&run);
    run.end().fails(&["Started"], CANCELLED);
    stage.only_listed(&[]);
    stage.wait_only(&[]);
});

// The relay answers in the stack's place: no address that callplane takes is refused by OpenSIPS.
row!(everywhere, row_06_a_refusal_by_the_stack_itself_is_told_in_its_words, PLAIN, |stage| {
    stage.phones(&["alice", "bob"]);
    for (code, words, text) in [
        (400, "Invalid ruri", "400 Invalid ruri"),
        (404, "Local socket not found", "404 Local socket not found"),
        (500, "Internal error", "500 Internal error"),
    ] {
        stage.wire().refuse("t_uac_dlg", code, words);
        let story = stage.start("alice", "bob", None).end();
        story.fails(&["Started"], Bad { text, code: "stack_refused", ..FAILED });
        stage.wait_only(&[]);
    }
});

// A stock script places the second call: docs/opensips.md, "What a stock script can't".
row!(reference, row_07_a_start_that_arrives_twice_is_one_call, PLAIN, |stage| {
    stage.phone("alice", &[Does::RingFor(300)]);
    stage.phones(&["bob"]);
    stage.wire().double_request("t_uac_dlg");
    let story = stage.start("alice", "bob", None).end();
    story.succeeds(&UP, "{}");
    assert!(stage.invited("alice").is_none_or(|times| times == 1));
    let call = only_the_new_call(stage, &story);
    hang_up(stage, "alice", &call);
});

row!(
    everywhere,
    row_08_with_the_reply_lost_the_events_tell_that_the_caller_answered,
    PLAIN,
    |stage| {
        stage.phones(&["alice", "bob"]);
        stage.wire().lose_reply("t_uac_dlg");
        let story = stage.start("alice", "bob", None).end();
        story.succeeds(&UP, "{}");
        assert_eq!(stage.wire().asked("t_uac_dlg"), 1);
        let call = only_the_new_call(stage, &story);
        hang_up(stage, "alice", &call);
    }
);

row!(
    everywhere,
    row_08_with_reply_and_events_lost_a_list_shows_the_answered_call,
    PLAIN,
    |stage| {
        stage.phones(&["alice", "bob"]);
        stage.wire().lose_reply("t_uac_dlg");
        stage.wire().lose_events(&["E_"]);
        let run = stage.start("alice", "bob", Some(1));
        stage.wire().wait_asked("t_uac_cancel", 1);
        stage.wire().mend();
        let story = run.end();
        story.succeeds(&UP, "{}");
        assert_eq!(stage.wire().asked("t_uac_dlg"), 1);
        let call = only_the_new_call(stage, &story);
        hang_up(stage, "alice", &call);
    }
);

row!(everywhere, row_08_a_request_that_was_lost_is_told_as_such_after_two_lists, PLAIN, |stage| {
    stage.phones(&["alice", "bob"]);
    // A mark counts only in the life that made it.
    stage.wait_up_for(2);
    stage.wire().lose_request("t_uac_dlg");
    let story = stage.start("alice", "bob", Some(1)).end();
    // The mark of the reference script proves that nothing was sent.
    let outcome = if stage.is_reference() { "failed" } else { "unknown" };
    let bad = Bad { outcome, text: "call not established", code: "reply_lost", ..FAILED };
    story.fails(&["Started"], bad);
    assert_eq!(stage.wire().asked("t_uac_dlg"), 1);
    stage.wait_only(&[]);
});

row!(
    everywhere,
    row_08_with_the_stack_gone_nobody_knows_whether_the_caller_is_up,
    PLAIN,
    |stage| {
        stage.phone("alice", &[Does::RingForEver]);
        stage.phones(&["bob"]);
        let run = stage.start("alice", "bob", Some(1));
        run.wait("CallerRinging");
        stage.freeze();
        let bad =
            Bad { outcome: "unknown", text: "stack unreachable", code: "reply_lost", ..FAILED };
        let remarks = r#"{"leg_left_up": true}"#;
        run.end().fails(&["Started"], Bad { up: "unknown", remarks, ..bad });
        stage.thaw();
    }
);

row!(everywhere, row_10_a_caller_who_hangs_up_before_the_refer_hung_up, PLAIN, |stage| {
    stage.phones(&["alice", "bob"]);
    // The REFER waits for state 4.
    stage.wire().lose_events(&["\"new_state\":4"]);
    let run = stage.start("alice", "bob", None);
    run.wait("CallerAnswered");
    let setup = stage.wait_call_at("alice", &[]);
    stage.wait_up(&setup);
    stage.hang_up("alice", &setup);
    let bad = Bad { text: "caller hung up", code: "caller_hung_up", ..FAILED };
    run.end().fails(&ANSWERED, bad);
    assert_eq!(stage.wire().asked("dlg_send_sequential"), 0);
    stage.wait_only(&[]);
});

row!(everywhere, row_11_a_refused_refer_is_told_with_the_phones_own_code, PLAIN, |stage| {
    stage.phones(&["bob"]);
    for (status, text, code) in [
        (603, "transfer refused: 603 Decline", "refer_refused"),
        (405, "transfer refused: 405 Method Not Allowed", "refer_unsupported"),
        (501, "transfer refused: 501 Not Implemented", "refer_unsupported"),
        (401, "transfer refused: 401 Unauthorized", "in_dialog_challenge"),
        (407, "transfer refused: 407 Proxy Authentication Required", "in_dialog_challenge"),
    ] {
        stage.phone("alice", &[Does::RefuseRefer(status)]);
        let story = stage.start("alice", "bob", None).end();
        story.fails(&REFERRING, Bad { text, code, sip: status, ..FAILED });
        stage.only_listed(&[]);
        stage.wait_only(&[]);
    }
});

row!(everywhere, row_11_a_phone_whose_allow_names_no_refer_is_not_asked, PLAIN, |stage| {
    stage.phone("alice", &[Does::AllowNoRefer]);
    stage.phones(&["bob"]);
    let story = stage.start("alice", "bob", None).end();
    let text = "transfer refused: phone takes no REFER";
    story.fails(&ANSWERED, Bad { text, code: "refer_unsupported", ..FAILED });
    assert_eq!(stage.wire().asked("dlg_send_sequential"), 0);
    stage.only_listed(&[]);
    stage.wait_only(&[]);
});

/// Without a token nobody can refuse a late INVITE.
fn late_call_possible(stage: &Stage) -> &'static str {
    if stage.is_reference() { "{}" } else { r#"{"may_still_ring": true}"# }
}

row!(everywhere, row_12_a_refer_that_is_never_answered_times_out, PLAIN, |stage| {
    stage.phone("alice", &[Does::NeverAnswerRefer]);
    stage.phones(&["bob"]);
    let story = stage.start("alice", "bob", None).end();
    let text = "transfer refused: 408 Request Timeout";
    let bad = Bad { text, code: "refer_timeout", sip: 408, ..FAILED };
    story.fails(&REFERRING, Bad { remarks: late_call_possible(stage), ..bad });
    stage.only_listed(&[]);
    stage.wait_only(&[]);
});

row!(everywhere, row_13_a_bye_while_the_refer_is_out_is_the_caller_hanging_up, PLAIN, |stage| {
    stage.phone("alice", &[Does::AnswerReferAfter(400), Does::RefuseRefer(481)]);
    stage.phones(&["bob"]);
    let run = stage.start("alice", "bob", None);
    run.wait("Transferring");
    let setup = stage.wait_call_at("alice", &[]);
    stage.wire().wait_asked("dlg_send_sequential", 1);
    stage.hang_up("alice", &setup);
    let bad = Bad { text: "caller hung up", code: "caller_hung_up", ..FAILED };
    run.end().fails(&REFERRING, bad);
    stage.wait_only(&[]);
});

row!(everywhere, row_14_a_bye_after_the_202_and_no_call_is_the_caller_hanging_up, PLAIN, |stage| {
    stage.phone("alice", &[Does::HangUpInstead]);
    stage.phones(&["bob"]);
    let story = stage.start("alice", "bob", None).end();
    let bad = Bad { text: "caller hung up", code: "caller_hung_up", ..FAILED };
    let up = if stage.is_reference() { "no" } else { "unknown" };
    story.fails(&REFERRING, Bad { up, remarks: late_call_possible(stage), ..bad });
    stage.wait_only(&[]);
});

row!(everywhere, row_14_a_phone_that_hangs_up_and_dials_all_the_same, PLAIN, |stage| {
    stage.phone("alice", &[Does::HangUpThenDial(300)]);
    stage.phones(&["bob"]);
    let story = stage.start("alice", "bob", None).end();
    let call = if stage.is_reference() {
        story.succeeds(&UP, "{}");
        only_the_new_call(stage, &story)
    } else {
        // Nothing names the call on a stock script: it is left up, and that is said.
        let bad = Bad { text: "caller hung up", code: "caller_hung_up", up: "unknown", ..FAILED };
        story.fails(&REFERRING, Bad { remarks: late_call_possible(stage), ..bad });
        stage.wait_call_at("bob", &[])
    };
    stage.wait_only(&[&call]);
    hang_up(stage, "alice", &call);
});

row!(everywhere, row_15_a_phone_that_takes_the_refer_and_does_nothing_ignored_it, PLAIN, |stage| {
    stage.phone("alice", &[Does::IgnoreRefer]);
    stage.phones(&["bob"]);
    let story = stage.start("alice", "bob", None).end();
    let text = "phone did not place the call";
    let up = if stage.is_reference() { "no" } else { "unknown" };
    let bad = Bad { text, code: "refer_ignored", up, ..FAILED };
    story.fails(&REFERRING, Bad { remarks: late_call_possible(stage), ..bad });
    stage.only_listed(&[]);
    stage.wait_only(&[]);
});

row!(everywhere, row_16_where_only_a_notify_tells_of_the_call_it_is_believed, PLAIN, |stage| {
    stage.phone("alice", &[Does::DropMarks]);
    stage.phone("bob", &[Does::RingFor(300)]);
    let story = stage.start("alice", "bob", None).end();
    if stage.is_reference() {
        let steps: Vec<&str> = UP.into_iter().filter(|step| *step != "TransferStart").collect();
        story.succeeds(&steps, r#"{"observed": "notify"}"#);
        assert_eq!(story.data("CalleeAnswered").get("callid"), None);
    } else {
        // A stock script tells nobody of the NOTIFYs of a REFER that it did not make itself.
        let text = "phone did not place the call";
        let bad = Bad { text, code: "refer_ignored", up: "unknown", ..FAILED };
        story.fails(&REFERRING, Bad { remarks: late_call_possible(stage), ..bad });
    }
    let call = stage.wait_call_at("bob", &[]);
    stage.wait_only(&[&call]);
    hang_up(stage, "alice", &call);
});

row!(reference, row_16_a_refusal_that_only_a_notify_tells_of_is_believed, PLAIN, |stage| {
    stage.phone("alice", &[Does::DropMarks]);
    stage.phone("bob", &[Does::RingFor(100), Does::Refuse(486)]);
    let story = stage.start("alice", "bob", None).end();
    let text = "callee: 486 Busy Here";
    story.fails(&REFERRING, Bad { text, code: "callee_busy", sip: 486, ..FAILED });
    stage.wait_only(&[]);
});

row!(reference, row_16_a_call_whose_last_word_never_comes_is_unknown, PLAIN, |stage| {
    stage.phone("alice", &[Does::DropMarks, Does::NotifyText("180 Ringing")]);
    stage.phones(&["bob"]);
    let story = stage.start("alice", "bob", Some(1)).end();
    let text = "transfer not confirmed";
    let bad = Bad { outcome: "unknown", text, code: "reply_lost", up: "unknown", ..FAILED };
    story.fails(&REFERRING, bad);
    let call = stage.wait_call_at("bob", &[]);
    stage.wait_only(&[&call]);
    hang_up(stage, "alice", &call);
});

row!(everywhere, row_17_a_caller_who_gives_the_new_call_up_hung_up, PLAIN, |stage| {
    stage.phones(&["alice"]);
    stage.phone("bob", &[Does::RingForEver]);
    let run = stage.start("alice", "bob", None);
    run.wait("TransferPending");
    let call = stage.wait_call_at("bob", &[]);
    stage.hang_up("alice", &call);
    let bad = Bad { text: "caller hung up", code: "caller_hung_up", sip: 487, ..FAILED };
    run.end().fails(&PLACED, bad);
    stage.only_listed(&[]);
    stage.wait_only(&[]);
});

row!(everywhere, row_18_a_callee_who_refuses_is_told_with_the_phones_own_code, PLAIN, |stage| {
    stage.phones(&["alice"]);
    for (status, text, code) in [
        (486, "callee: 486 Busy Here", "callee_busy"),
        (603, "callee: 603 Decline", "callee_declined"),
        (404, "callee: 404 Not Found", "callee_not_found"),
        (480, "callee: 480 Temporarily Unavailable", "callee_unavailable"),
    ] {
        stage.phone("bob", &[Does::RingFor(100), Does::Refuse(status)]);
        let story = stage.start("alice", "bob", None).end();
        story.fails(&PLACED, Bad { text, code, sip: status, ..FAILED });
        stage.only_listed(&[]);
        stage.wait_only(&[]);
    }
});

row!(everywhere, row_18_a_callee_who_is_not_registered_is_not_found, PLAIN, |stage| {
    stage.phones(&["alice"]);
    let story = stage.start("alice", "nobody", None).end();
    // What a stock script answers itself is told as 408, and its NOTIFYs by nobody.
    let bad = if stage.is_reference() {
        Bad { text: "callee: 404 Not Found", code: "callee_not_found", sip: 404, ..FAILED }
    } else {
        Bad { text: "callee: 408 Request Timeout", code: "callee_no_answer", sip: 408, ..FAILED }
    };
    story.fails(&PLACED, bad);
    stage.only_listed(&[]);
    stage.wait_only(&[]);
});

row!(everywhere, row_19_a_callee_who_rings_out_is_given_up_at_the_ring_timeout, PLAIN, |stage| {
    stage.phones(&["alice"]);
    stage.phone("bob", &[Does::RingForEver]);
    let story = stage.start("alice", "bob", Some(1)).end();
    let text = "callee: 408 Request Timeout";
    story.fails(&PLACED, Bad { text, code: "callee_no_answer", sip: 408, ..FAILED });
    stage.only_listed(&[]);
    stage.wait_only(&[]);
});

row!(
    everywhere,
    row_20_the_end_of_the_setup_leg_while_the_callee_rings_ends_nothing,
    PLAIN,
    |stage| {
        stage.phones(&["alice"]);
        stage.phone("bob", &[Does::RingFor(800)]);
        let run = stage.start("alice", "bob", None);
        run.wait("TransferPending");
        let ringing = stage.wait_call_at("bob", &[]);
        let setup = stage.wait_call_at("alice", &[&ringing]);
        stage.hang_up("alice", &setup);
        let story = run.end();
        story.succeeds(&UP, "{}");
        let call = only_the_new_call(stage, &story);
        hang_up(stage, "alice", &call);
    }
);

row!(
    everywhere,
    row_21_a_start_cancelled_while_the_callee_rings_leaves_nothing_up,
    PLAIN,
    |stage| {
        stage.phones(&["alice"]);
        stage.phone("bob", &[Does::RingForEver]);
        let run = stage.start("alice", "bob", None);
        run.wait("TransferPending");
        stage.cancel(&run);
        let story = run.end();
        story.fails(&PLACED, CANCELLED);
        stage.only_listed(&[]);
        stage.wait_only(&[]);
    }
);

row!(everywhere, row_22_a_start_cancelled_before_the_new_invite_rings_nobody, PLAIN, |stage| {
    stage.phone("alice", &[Does::DialAfter(500)]);
    stage.phone("bob", &[Does::RingForEver]);
    let run = stage.start("alice", "bob", None);
    run.wait("Transferring");
    stage.wire().wait_answered("dlg_send_sequential", 1);
    stage.cancel(&run);
    let story = run.end();
    if stage.is_reference() {
        story.fails(&REFERRING, CANCELLED);
        stage.wait_only(&[]);
        assert!(stage.invited("bob").is_none_or(|times| times == 0));
    } else {
        // The setup dialog is gone by then, so nothing names the call: it rings, and that is said.
        let remarks = r#"{"may_still_ring": true}"#;
        story.fails(&REFERRING, Bad { remarks, ..CANCELLED });
        let call = stage.wait_call_at("bob", &[]);
        stage.hang_up("alice", &call);
        stage.wait_only(&[]);
    }
});

row!(everywhere, row_23_the_callees_answer_names_the_new_call, PLAIN, |stage| {
    stage.phones(&["alice"]);
    stage.phone("bob", &[Does::RingFor(300)]);
    let story = stage.start("alice", "bob", None).end();
    story.succeeds(&UP, "{}");
    assert_eq!(story.data("TransferPending")["extra"], "180 Ringing");
    let answered = story.data("CalleeAnswered");
    assert_eq!(answered["caller"], stage.uri("alice"));
    assert_eq!(answered["callee"], stage.uri("bob"));
    assert_eq!(story.data("TransferStart")["callid"], answered["callid"]);
    let call = only_the_new_call(stage, &story);
    let listed = stage.listed();
    assert_eq!(
        (listed[0].from.as_str(), listed[0].to.as_str()),
        (&*stage.uri("alice"), &*stage.uri("bob"))
    );
    assert_eq!(stage.calls_at("bob"), [call.as_str()]);
    hang_up(stage, "bob", &call);
});

row!(everywhere, row_23_with_all_transfer_events_lost_a_list_shows_the_new_call, PLAIN, |stage| {
    stage.phones(&["alice", "bob"]);
    stage.wire().lose_events(&["E_CALL_TRANSFER", "E_CALLPLANE"]);
    let story = stage.start("alice", "bob", None).end();
    story.succeeds(&UP, "{}");
    let call = only_the_new_call(stage, &story);
    hang_up(stage, "bob", &call);
});

row!(everywhere, row_24_a_phone_that_ends_the_setup_leg_itself_is_fine, PLAIN, |stage| {
    stage.phone("alice", &[Does::HangUpWhenReferred]);
    stage.phones(&["bob"]);
    let story = stage.start("alice", "bob", None).end();
    story.succeeds(&UP, "{}");
    let call = only_the_new_call(stage, &story);
    hang_up(stage, "alice", &call);
});

row!(everywhere, finding_08_a_strangers_call_is_not_taken_for_the_referred_one, PLAIN, |stage| {
    stage.phone("alice", &[Does::IgnoreRefer]);
    stage.phones(&["bob", "dave", "mallory"]);
    let run = stage.start("alice", "bob", None);
    run.wait("Transferring");
    let setup = stage.wait_call_at("alice", &[]);
    let forged = stage.forge_transfer("mallory", &setup, "dave");
    stage.wait_up(&forged);
    let story = run.end();
    let up = if stage.is_reference() { "no" } else { "unknown" };
    let text = "phone did not place the call";
    let bad = Bad { text, code: "refer_ignored", up, ..FAILED };
    story.fails(&REFERRING, Bad { remarks: late_call_possible(stage), ..bad });
    stage.wait_only(&[&forged]);
    hang_up(stage, "mallory", &forged);
});

// The scripted phones of a real OpenSIPS can't answer a challenge.
row!(simulated, finding_06_a_challenged_new_call_fails_once_and_is_answered, PLAIN, |stage| {
    stage.phone("alice", &[Does::Challenged]);
    stage.phones(&["bob"]);
    let story = stage.start("alice", "bob", None).end();
    story.succeeds(&UP, "{}");
    let call = only_the_new_call(stage, &story);
    hang_up(stage, "bob", &call);
});
