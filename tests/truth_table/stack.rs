//! The stack is silent, restarts, or is away: row 47, in each kind of command.

use std::time::{Duration, Instant};

use crate::stage::{Does, PLAIN, Setup};
use crate::story::{Bad, FAILED};

const RESTARTED: Bad = Bad {
    outcome: "unknown",
    text: "stack restarted",
    code: "stack_restarted",
    up: "unknown",
    ..FAILED
};

const AWAY: Bad =
    Bad { outcome: "not_started", text: "stack unreachable", code: "stack_unreachable", ..FAILED };

/// It rings on until the restart is noticed.
const PATIENT: Setup = Setup { ring: 7, ..PLAIN };

/// A stack that is away refuses at once only where nothing stands between.
const DIRECT: Setup = Setup { wire: false, ..PLAIN };

row!(everywhere, row_47_a_restart_makes_a_ringing_start_unknown, PLAIN, |stage| {
    stage.phone("alice", &[Does::RingForEver]);
    stage.phones(&["bob"]);
    let run = stage.start("alice", "bob", Some(7));
    run.wait("CallerRinging");
    stage.restart();
    run.end().fails(&["Started"], RESTARTED);
});

row!(
    everywhere,
    row_47_a_restart_makes_a_transfer_unknown_and_the_phones_talk_on,
    PATIENT,
    |stage| {
        stage.phones(&["alice", "bob"]);
        stage.phone("carol", &[Does::RingForEver]);
        let call = stage.talk("alice", "bob");
        let run = stage.blind(&call, "callee", "carol");
        run.wait("TransferStart");
        stage.restart();
        run.end().ends(RESTARTED);
        // Nobody was told to hang up.
        assert!(stage.calls_at("alice").contains(&call));
        assert!(stage.calls_at("bob").contains(&call));
    }
);

// A hold is over before a real stack has restarted in a way that it can be noticed.
row!(simulated, row_47_a_restart_makes_a_hold_unknown, PLAIN, |stage| {
    stage.phones(&["alice", "bob"]);
    let call = stage.talk("alice", "bob");
    stage.phone("alice", &[Does::RefuseReinvite(491)]);
    let run = stage.hold(&call);
    stage.wire().wait_answered("dlg_send_sequential", 1);
    stage.restart();
    run.end().ends(RESTARTED);
});

row!(everywhere, row_47_a_stack_that_falls_silent_makes_a_transfer_unknown, PLAIN, |stage| {
    stage.phones(&["alice", "carol"]);
    stage.phone("bob", &[Does::AnswerReferAfter(500)]);
    let call = stage.talk("alice", "bob");
    let run = stage.blind(&call, "callee", "carol");
    stage.wire().wait_asked("dlg_send_sequential", 1);
    stage.freeze();
    let text = "transfer not confirmed";
    let bad = Bad { outcome: "unknown", text, code: "reply_lost", up: "unknown", ..FAILED };
    // Nor does it say whether the token is void.
    run.end().ends(Bad { remarks: r#"{"may_still_ring": true}"#, ..bad });
    stage.thaw();
});

row!(
    everywhere,
    row_47_an_end_whose_reply_is_lost_is_asked_again_and_the_call_is_gone,
    PLAIN,
    |stage| {
        stage.phones(&["alice", "bob"]);
        let call = stage.talk("alice", "bob");
        stage.wire().lose_reply("dlg_end_dlg");
        stage.wire().lose_events(&["E_DLG_STATE_CHANGED"]);
        // Nobody said that it was this end: only that there is no such call.
        let bad = Bad { text: "404 Requested Dialog not found", code: "call_not_found", ..FAILED };
        stage.end(&call).end().fails(&["Started"], bad);
        assert_eq!(stage.wire().asked("dlg_end_dlg"), 2);
        stage.only_listed(&[]);
        stage.wait_only(&[]);
    }
);

row!(everywhere, row_47_a_stack_that_is_away_is_told_within_a_second, DIRECT, |stage| {
    stage.phones(&["alice", "bob"]);
    let call = stage.talk("alice", "bob");
    stage.stop_stack();
    let begun = Instant::now();
    stage.start("alice", "bob", None).end().fails(&["Started"], AWAY);
    let away = Bad { up: "unknown", ..AWAY };
    stage.hold(&call).end().fails(&["Started"], away);
    stage.blind(&call, "callee", "bob").end().fails(&["Started"], away);
    stage.end(&call).end().fails(&["Started"], away);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    stage.start_stack();
    stage.wait_joined();
});

row!(everywhere, row_47_a_stack_that_never_answers_is_soon_left_alone, PLAIN, |stage| {
    stage.phones(&["alice", "bob"]);
    stage.freeze();
    // Unanswered requests in a row open the breaker; then nothing is sent any more.
    let run = stage.end("nobody-knows-it");
    run.end();
    let run = stage.end("nobody-knows-it-either");
    run.end();
    let begun = Instant::now();
    let story = stage.start("alice", "bob", None).end();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    story.fails(&["Started"], AWAY);
    stage.thaw();
});
