//! `CallEnd`: rows 44 to 46.

use std::time::{Duration, Instant};

use crate::stage::{Does, PLAIN};
use crate::story::{Bad, CANCELLED, FAILED};

const DONE: [&str; 2] = ["Started", "Ended"];

row!(everywhere, row_44_a_call_that_is_up_has_ended_when_that_is_told, PLAIN, |stage| {
    stage.phones(&["alice", "bob"]);
    let call = stage.talk("alice", "bob");
    stage.end(&call).end().succeeds(&DONE, "{}");
    stage.only_listed(&[]);
    stage.wait_only(&[]);
});

row!(everywhere, row_44_with_the_event_lost_the_end_is_told_all_the_same, PLAIN, |stage| {
    stage.phones(&["alice", "bob"]);
    let call = stage.talk("alice", "bob");
    stage.wire().lose_events(&["E_DLG_STATE_CHANGED"]);
    stage.end(&call).end().succeeds(&DONE, "{}");
    stage.only_listed(&[]);
    stage.wait_only(&[]);
});

row!(everywhere, row_44_an_end_overtakes_what_runs_on_the_call, PLAIN, |stage| {
    stage.phones(&["alice", "carol"]);
    stage.phone("bob", &[Does::IgnoreRefer]);
    let call = stage.talk("alice", "bob");
    let transfer = stage.blind(&call, "callee", "carol");
    transfer.wait("Transferring");
    stage.end(&call).end().succeeds(&DONE, "{}");
    let remarks = if stage.is_reference() { "{}" } else { r#"{"may_still_ring": true}"# };
    transfer.end().ends(Bad { remarks, ..CANCELLED });
    stage.wait_only(&[]);
});

row!(everywhere, row_45_a_ringing_call_is_cancelled, PLAIN, |stage| {
    stage.phones(&["alice"]);
    stage.phone("bob", &[Does::RingForEver]);
    let call = stage.call("alice", "bob");
    stage.wait_call_at("bob", &[]);
    stage.end(&call).end().succeeds(&DONE, "{}");
    stage.only_listed(&[]);
    stage.wait_only(&[]);
});

row!(everywhere, row_45_a_200_that_crosses_the_cancel_is_ended_again, PLAIN, |stage| {
    stage.phones(&["alice"]);
    stage.phone("bob", &[Does::CrossCancel]);
    let call = stage.call("alice", "bob");
    stage.wait_call_at("bob", &[]);
    stage.end(&call).end().succeeds(&DONE, "{}");
    stage.only_listed(&[]);
    stage.wait_only(&[]);
    assert!(stage.wire().asked("dlg_end_dlg") >= 2);
});

const NOT_FOUND: Bad =
    Bad { text: "404 Requested Dialog not found", code: "call_not_found", ..FAILED };

row!(everywhere, row_46_an_unknown_call_is_not_found, PLAIN, |stage| {
    let begun = Instant::now();
    stage.end("nobody-knows-it").end().fails(&["Started"], NOT_FOUND);
    // One list is enough for an id that nobody has named lately.
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
});

row!(everywhere, row_46_a_call_that_was_named_lately_is_gone_after_two_lists, PLAIN, |stage| {
    stage.phones(&["alice", "bob"]);
    let call = stage.talk("alice", "bob");
    stage.hang_up("bob", &call);
    stage.wait_only(&[]);
    stage.end(&call).end().fails(&["Started"], NOT_FOUND);
});

// The scripted phones of a real OpenSIPS can't answer a challenge.
row!(simulated, finding_04_a_call_behind_a_dead_dialog_of_its_id_is_ended, PLAIN, |stage| {
    stage.phone("alice", &[Does::Challenged]);
    stage.phones(&["bob"]);
    let call = stage.talk("alice", "bob");
    stage.end(&call).end().succeeds(&DONE, "{}");
    stage.only_listed(&[]);
    stage.wait_only(&[]);
});
