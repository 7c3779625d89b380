//! What every store promises.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use callplane::core::act::{Act, Repeat};
use callplane::core::command::Claim;
use callplane::core::ids::{Epoch, PodId, SessionId, StackId, Term};
use callplane::core::notice::Notice;
use callplane::core::record::{Entry, Key, Record};
use callplane::core::request::{Leg, Request};
use callplane::core::stack_event::Watch;
use callplane::core::time::StoreTime;
use callplane::store::{ALIVE, Beat, Commit, Find, Life, Store as _, Unreadable, Verdict};

use crate::commits::{
    Bounds, ENTRIES_FOR, KEEP, Memory, Pen, Stand, WITHIN, attended, call, end, hold, key, key_of,
    nonce, ours, sip, stack, start, tenant,
};
use crate::redis::{Encrypted, Plain, Redis};
use crate::redis_server::is_here;
use crate::redis_server::sentinels::Guarded;

instances!(
    memory: Memory,
    redis: Redis<Plain> where is_here,
    redis_encrypted: Redis<Encrypted> where is_here,
    redis_guarded: Redis<Guarded> where is_here => {
    a_beginning_commit_records_the_command
    a_command_that_never_began_is_not_found
    first_seq_is_where_the_first_notice_is_or_the_next_will_be
    sequence_numbers_are_dense_over_all_commands_of_a_tenant
    an_entry_says_whose_it_is_and_what_is_told
    applied_tells_the_stores_time
    a_repeated_beginning_is_applied_once
    a_repeated_step_gets_its_first_verdict_whatever_came_after
    what_must_outlive_its_server_is_said_to_be_kept
    a_repeat_of_a_command_that_is_kept_for_less_is_recognised
    an_id_is_taken_as_long_as_its_command_runs_or_is_kept
    an_ended_command_is_forgotten_after_its_time
    only_the_next_version_is_taken
    a_commit_that_comes_too_late_is_not_applied
    a_step_of_what_is_not_there_is_gone
    a_writer_that_believes_in_another_epoch_is_told_the_true_one
    older_terms_of_a_stack_are_fenced
    more_commands_than_may_run_are_refused
    what_has_no_quota_is_never_one_too_many
    more_ended_commands_than_are_kept_are_forgotten_holds_first
    a_claimed_call_is_refused_with_whom_and_what
    claims_are_taken_all_or_none
    claims_end_with_their_command
    claims_are_those_of_the_newest_version
    an_overtaker_gets_the_claim_and_is_told_who_lost_it
    who_was_overtaken_goes_on_without_its_claim
    claims_of_an_ended_command_linger_until_its_last_once_only_operation
    a_lingering_claim_can_be_overtaken_and_nobody_is_told
    a_lingering_claim_outlasts_its_record
    a_caller_is_claimed_by_one_start_until_that_ends
    running_commands_are_found_by_what_they_watch
    running_commands_are_found_at_their_stack
    running_commands_are_found_when_they_are_due
    running_commands_are_found_by_who_performs_for_them
    who_beats_lives_and_who_stops_is_silent
    who_says_that_it_ends_is_not_waited_for
    what_leaders_have_applied_is_told_to_all
    a_drawn_term_fences_all_before
    tenants_share_nothing
    a_stream_is_read_in_pages
    a_session_s_part_of_a_stream_is_read
    a_position_that_was_never_reached_is_ahead
    positions_of_another_epoch_are_refused
    old_entries_are_trimmed_and_that_is_said
    more_entries_than_there_is_room_for_are_trimmed
    the_head_is_the_newest_position
    of_racing_writers_exactly_one_is_applied
    of_racing_beginnings_exactly_one_is_applied
    of_racing_claims_exactly_one_is_taken
    racing_beginnings_stay_within_the_limit
    racing_commits_leave_dense_numbers
});

const A_MOMENT: Duration = Duration::from_millis(1);

async fn pen<S: Stand>() -> Pen<S> {
    Pen::fresh(Bounds::default()).await
}

/// All that can be seen of a store that holds these keys, to tell that nothing changed.
async fn seen<S: Stand>(pen: &Pen<S>, keys: &[&str]) -> impl PartialEq + std::fmt::Debug {
    let mut records = Vec::new();
    for id in keys {
        records.push(pen.find_key(&key(id)).await);
    }
    let due = pen.ids(Find::DueBy(StoreTime(u64::MAX))).await;
    (records, due, pen.stream(&ours()).await, pen.head(&ours()).await.unwrap())
}

/// A commit that must not be applied, and must leave nothing behind.
async fn refused<S: Stand>(pen: &Pen<S>, commit: Commit, keys: &[&str]) -> Verdict {
    let before = seen(pen, keys).await;
    let verdict = pen.commit(commit).await;
    assert!(!matches!(verdict, Verdict::Applied { .. }), "{verdict:?}");
    assert_eq!(before, seen(pen, keys).await, "{verdict:?}");
    verdict
}

fn busy(name: &str, by: &str) -> Verdict {
    let by = callplane::core::ids::CommandId::parse(by).unwrap();
    Verdict::Busy { claim: Claim::Call(call(name)), by, until: None }
}

/// Busy for as long as the claims of this ended command linger.
fn lingers(name: &str, ended: &Record) -> Verdict {
    let (claim, by) = (Claim::Call(call(name)), ended.key.id.clone());
    let until = ended.state.claims_linger();
    assert!(until.is_some(), "{ended:?}");
    Verdict::Busy { claim, by, until }
}

fn seqs(entries: &[Arc<Entry>]) -> Vec<u64> {
    entries.iter().map(|entry| entry.seq).collect()
}

fn upto(newest: u64) -> Vec<u64> {
    (1..=newest).collect()
}

async fn a_beginning_commit_records_the_command<S: Stand>() {
    let pen = pen::<S>().await;
    let commit = pen.beginning(key("a"), hold("A")).await;
    let written = commit.record.clone();
    let Verdict::Applied { first_seq, overtaken, record, .. } = pen.commit(commit).await else {
        panic!("not applied");
    };
    assert_eq!((first_seq, overtaken), (1, Vec::<Key>::new()));
    assert_eq!(*record, Record { first_seq: 1, ..written });
    assert_eq!(pen.find_key(&key("a")).await, Some(record));
}

async fn a_command_that_never_began_is_not_found<S: Stand>() {
    let pen = pen::<S>().await;
    pen.begin("a", hold("A")).await;
    assert_eq!(pen.find_key(&key("b")).await, None);
}

async fn first_seq_is_where_the_first_notice_is_or_the_next_will_be<S: Stand>() {
    let pen = pen::<S>().await;
    let a = pen.begin("a", hold("A")).await;
    let b = pen.begin("b", hold("B")).await;
    assert_eq!((a.first_seq, b.first_seq), (1, 2));
    let Verdict::Applied { first_seq, record: a, .. } = pen.commit(pen.idle(&a).await).await else {
        panic!("not applied");
    };
    assert_eq!((first_seq, a.first_seq, a.version), (3, 1, 2), "nothing was told");
    let ending = pen.over(&a).await;
    let told = ending.notices.len() as u64;
    let Verdict::Applied { first_seq, record: a, .. } = pen.commit(ending).await else {
        panic!("not applied");
    };
    assert_eq!((first_seq, a.first_seq), (3, 1));
    assert_eq!(pen.begin("c", hold("C")).await.first_seq, 3 + told);
}

async fn sequence_numbers_are_dense_over_all_commands_of_a_tenant<S: Stand>() {
    let pen = pen::<S>().await;
    let mut told = Vec::new();
    for n in 0..5 {
        let commit = pen.beginning(key(&format!("id-{n}")), hold(&format!("call-{n}"))).await;
        told.extend(commit.notices.clone());
        let record = pen.write(commit).await;
        let commit = pen.over(&record).await;
        told.extend(commit.notices.clone());
        pen.write(commit).await;
    }
    let stream = pen.stream(&ours()).await;
    assert_eq!(seqs(&stream), upto(told.len() as u64));
    assert_eq!(stream.iter().map(|entry| entry.notice.clone()).collect::<Vec<_>>(), told);
}

async fn an_entry_says_whose_it_is_and_what_is_told<S: Stand>() {
    let pen = pen::<S>().await;
    let commit = pen.beginning(key("a"), hold("A")).await;
    let notice = commit.notices[0].clone();
    let record = pen.write(commit).await;
    let expected = Entry {
        seq: 1,
        session: record.session.clone(),
        key: key("a"),
        method: record.state.method,
        external_id: record.external_id.clone(),
        asked: Some(record.digest.beginning()),
        notice,
    };
    assert_eq!(*pen.stream(&ours()).await[0], expected);
    assert_eq!(expected.external_id.as_deref(), Some("theirs"));
}

async fn applied_tells_the_stores_time<S: Stand>() {
    let pen = pen::<S>().await;
    pen.stand.pass(Duration::from_millis(100)).await;
    let before = pen.stand.now().await;
    let commit = pen.beginning(key("a"), hold("A")).await;
    let Verdict::Applied { now, .. } = pen.commit(commit).await else { panic!("not applied") };
    assert!(before <= now && now <= pen.stand.now().await, "{before:?} {now:?}");
}

async fn a_repeated_beginning_is_applied_once<S: Stand>() {
    let pen = pen::<S>().await;
    let commit = pen.beginning(key("a"), hold("A")).await;
    let first = pen.commit(commit.clone()).await;
    assert!(matches!(first, Verdict::Applied { first_seq: 1, .. }), "{first:?}");
    let before = seen(&pen, &["a"]).await;
    assert_eq!(pen.commit(commit).await, first);
    assert_eq!(seen(&pen, &["a"]).await, before);
}

async fn a_repeated_step_gets_its_first_verdict_whatever_came_after<S: Stand>() {
    let pen = pen::<S>().await;
    pen.begin("a", hold("A")).await;
    let end_it = pen.beginning(key("b"), end("A")).await;
    let Verdict::Applied { first_seq, now, overtaken, record, durable } =
        pen.commit(end_it.clone()).await
    else {
        panic!("not applied");
    };
    assert_eq!(overtaken, [key("a")]);
    pen.stand.pass(A_MOMENT).await;
    pen.begin("c", hold("C")).await;
    let second = pen.idle(&record).await;
    let record = pen.write(second.clone()).await;
    let record = pen.write(pen.over(&record).await).await;
    let before = seen(&pen, &["a", "b", "c"]).await;
    let record_now = Arc::clone(&record);
    let first = Verdict::Applied { first_seq, now, overtaken, record: record_now, durable };
    assert_eq!(pen.commit(end_it.clone()).await, first);
    let in_another_epoch = Commit { epoch: Epoch::parse("another").unwrap(), ..end_it };
    assert_eq!(pen.commit(in_another_epoch).await, first, "it was applied whatever began since");
    let Verdict::Applied { first_seq: place, record: newest, .. } = pen.commit(second).await else {
        panic!("not applied");
    };
    assert_eq!((place, newest), (first_seq + 2, record));
    assert_eq!(seen(&pen, &["a", "b", "c"]).await, before);
}

async fn what_must_outlive_its_server_is_said_to_be_kept<S: Stand>() {
    let pen = pen::<S>().await;
    let beginning = pen.beginning(key("a"), hold("A")).await;
    let commit = Commit { durable: true, ..beginning };
    for _ in 0..2 {
        let Verdict::Applied { durable, .. } = pen.commit(commit.clone()).await else {
            panic!("not applied");
        };
        assert!(durable);
    }
}

async fn a_repeat_of_a_command_that_is_kept_for_less_is_recognised<S: Stand>() {
    let pen = pen::<S>().await;
    let beginning = pen.beginning(key("a"), hold("A")).await;
    let record = pen.write(beginning.clone()).await;
    let ending = Commit { keep: Duration::from_millis(20), ..pen.over(&record).await };
    pen.write(ending.clone()).await;
    pen.stand.pass(Duration::from_millis(50)).await;
    let told = pen.head(&ours()).await.unwrap();
    for commit in [ending, beginning] {
        let verdict = pen.commit(commit).await;
        assert!(matches!(verdict, Verdict::Applied { .. }), "{verdict:?}");
    }
    assert_eq!(pen.head(&ours()).await.unwrap(), told, "applied twice");
}

async fn an_id_is_taken_as_long_as_its_command_runs_or_is_kept<S: Stand>() {
    let pen = pen::<S>().await;
    let record = pen.begin("a", hold("A")).await;
    let again = pen.beginning(key("a"), hold("B")).await;
    let verdict = refused(&pen, again, &["a"]).await;
    assert_eq!(verdict, Verdict::Exists(Arc::clone(&record)));
    let record = pen.write(pen.over(&record).await).await;
    assert!(record.state.outcome().is_some());
    let again = pen.beginning(key("a"), hold("B")).await;
    assert_eq!(refused(&pen, again, &["a"]).await, Verdict::Exists(record));
}

async fn an_ended_command_is_forgotten_after_its_time<S: Stand>() {
    let pen = pen::<S>().await;
    let (a, b) = (pen.begin("a", hold("A")).await, pen.begin("b", hold("B")).await);
    pen.begin("c", hold("C")).await;
    let a = pen.write(pen.over(&a).await).await;
    let b = pen.write(Commit { keep: KEEP * 20, ..pen.over(&b).await }).await;
    assert_eq!(pen.find_key(&key("a")).await, Some(Arc::clone(&a)), "kept");
    pen.stand.pass(KEEP + A_MOMENT).await;
    assert_eq!(pen.find_key(&key("a")).await, None, "forgotten");
    assert_eq!(pen.find_key(&key("b")).await, Some(b), "each has its own time");
    assert!(pen.find_key(&key("c")).await.is_some(), "it runs");
    assert_eq!(pen.commit(pen.idle(&a).await).await, Verdict::Gone);
    let anew = pen.begin("a", hold("A")).await;
    assert_eq!(anew.version, 1);
    assert!(anew.first_seq > a.first_seq);
}

async fn only_the_next_version_is_taken<S: Stand>() {
    let pen = pen::<S>().await;
    let first = pen.begin("a", hold("A")).await;
    let by_another = pen.over(&first).await;
    let second = pen.write(pen.answered(&first).await).await;
    assert_eq!(refused(&pen, by_another, &["a"]).await, Verdict::Stale(Arc::clone(&second)));
    let mut ahead = pen.over(&second).await;
    ahead.record.version += 1;
    assert_eq!(refused(&pen, ahead, &["a"]).await, Verdict::Stale(Arc::clone(&second)));
    let again = Commit { nonce: nonce(), ..pen.idle(&first).await };
    assert_eq!(refused(&pen, again, &["a"]).await, Verdict::Stale(Arc::clone(&second)));
    pen.write(pen.over(&second).await).await;
}

async fn a_commit_that_comes_too_late_is_not_applied<S: Stand>() {
    let pen = pen::<S>().await;
    let a = pen.begin("a", hold("A")).await;
    let (beginning, step) = (pen.beginning(key("b"), hold("B")).await, pen.over(&a).await);
    pen.stand.pass(WITHIN + A_MOMENT).await;
    assert_eq!(refused(&pen, beginning.clone(), &["a", "b"]).await, Verdict::Late);
    assert_eq!(refused(&pen, step, &["a", "b"]).await, Verdict::Late);
    let in_time = Commit { not_after: pen.stand.now().await.after(WITHIN), ..beginning };
    pen.write(in_time).await;
}

async fn a_step_of_what_is_not_there_is_gone<S: Stand>() {
    let pen = pen::<S>().await;
    let commit = pen.beginning(key("a"), hold("A")).await;
    let step = pen.over(&commit.record).await;
    assert_eq!(refused(&pen, step, &["a"]).await, Verdict::Gone);
}

async fn a_writer_that_believes_in_another_epoch_is_told_the_true_one<S: Stand>() {
    let pen = pen::<S>().await;
    let a = pen.begin("a", hold("A")).await;
    let other = Epoch::parse("another").unwrap();
    for commit in [pen.beginning(key("b"), hold("B")).await, pen.over(&a).await] {
        let commit = Commit { epoch: other.clone(), ..commit };
        let verdict = refused(&pen, commit, &["a", "b"]).await;
        assert_eq!(verdict, Verdict::EpochChanged(pen.epoch.clone()));
    }
}

async fn older_terms_of_a_stack_are_fenced<S: Stand>() {
    let pen = pen::<S>().await;
    let in_term = |term, commit| Commit { term: Some(Term(term)), ..commit };
    let a = pen.begin("a", hold("A")).await;
    let a = pen.write(in_term(1, pen.idle(&a).await)).await;
    let a = pen.write(in_term(3, pen.idle(&a).await)).await;
    let a = pen.write(in_term(3, pen.idle(&a).await)).await;
    let fenced = refused(&pen, in_term(2, pen.over(&a).await), &["a"]).await;
    assert_eq!(fenced, Verdict::Fenced(Term(3)));
    let a = pen.write(pen.idle(&a).await).await;
    // Each stack has its own leader, with its own terms.
    let other = StackId::new("other");
    let b = pen.write(pen.beginning_at(&other, key("b"), hold("B")).await).await;
    pen.write(in_term(1, pen.idle(&b).await)).await;
    let fenced = refused(&pen, in_term(2, pen.over(&a).await), &["a", "b"]).await;
    assert_eq!(fenced, Verdict::Fenced(Term(3)));
}

async fn more_commands_than_may_run_are_refused<S: Stand>() {
    let pen = Pen::<S>::fresh(Bounds { running: 2, ..Bounds::default() }).await;
    let a = pen.begin("a", hold("A")).await;
    pen.begin("b", hold("B")).await;
    let third = pen.beginning(key("c"), hold("C")).await;
    assert_eq!(refused(&pen, third.clone(), &["a", "b", "c"]).await, Verdict::Over { limit: 2 });
    let a = pen.write(pen.idle(&a).await).await;
    let other = key_of(&tenant("other"), "c");
    pen.write(pen.beginning(other, hold("C")).await).await;
    let a = pen.write(pen.over(&a).await).await;
    // A word after the end makes no room a second time.
    pen.write(pen.idle(&a).await).await;
    pen.write(Commit { nonce: nonce(), ..third }).await;
    let fourth = pen.beginning(key("d"), hold("D")).await;
    assert_eq!(refused(&pen, fourth, &["a", "b", "c"]).await, Verdict::Over { limit: 2 });
}

async fn what_has_no_quota_is_never_one_too_many<S: Stand>() {
    let pen = Pen::<S>::fresh(Bounds { running: 1, ..Bounds::default() }).await;
    pen.begin("a", hold("A")).await;
    let free = Commit { quota: None, ..pen.beginning(key("b"), end("B")).await };
    pen.write(free).await;
    let third = pen.beginning(key("c"), hold("C")).await;
    assert_eq!(refused(&pen, third, &["a", "b", "c"]).await, Verdict::Over { limit: 1 });
}

async fn more_ended_commands_than_are_kept_are_forgotten_holds_first<S: Stand>() {
    let pen = Pen::<S>::fresh(Bounds { ended: 3, ..Bounds::default() }).await;
    let placed = pen.begin("placed", start("caller")).await;
    pen.write(pen.over(&placed).await).await;
    for name in ["h1", "h2", "h3", "h4"] {
        let begun = pen.begin(name, hold(name)).await;
        pen.write(Commit { keep: KEEP * 20, ..pen.over(&begun).await }).await;
    }
    let running = pen.begin("running", hold("R")).await;
    pen.write(pen.idle(&running).await).await;
    let mut known = Vec::new();
    for name in ["placed", "h1", "h2", "h3", "h4", "running"] {
        if pen.find_key(&key(name)).await.is_some() {
            known.push(name);
        }
    }
    assert_eq!(known, ["placed", "h3", "h4", "running"], "a start's id is worth more");
}

async fn a_claimed_call_is_refused_with_whom_and_what<S: Stand>() {
    let pen = pen::<S>().await;
    pen.begin("a", hold("A")).await;
    let again = pen.beginning(key("b"), hold("A")).await;
    assert_eq!(refused(&pen, again, &["a", "b"]).await, busy("A", "a"));
    pen.begin("c", hold("C")).await;
    let elsewhere = StackId::new("other");
    pen.write(pen.beginning_at(&elsewhere, key("d"), hold("A")).await).await;
}

async fn claims_are_taken_all_or_none<S: Stand>() {
    let pen = pen::<S>().await;
    pen.begin("b", hold("B")).await;
    let both = pen.beginning(key("both"), attended("A", "B")).await;
    assert_eq!(refused(&pen, both, &["b", "both"]).await, busy("B", "b"));
    pen.begin("a", hold("A")).await;
    let both = pen.beginning(key("both"), attended("C", "D")).await;
    pen.write(both).await;
    for name in ["C", "D"] {
        let one = pen.beginning(key("one"), hold(name)).await;
        assert_eq!(refused(&pen, one, &["one", "both"]).await, busy(name, "both"));
    }
}

async fn claims_end_with_their_command<S: Stand>() {
    let pen = pen::<S>().await;
    let a = pen.begin("a", attended("A", "B")).await;
    let a = pen.write(pen.idle(&a).await).await;
    let early = pen.beginning(key("b"), hold("B")).await;
    assert_eq!(refused(&pen, early, &["a", "b"]).await, busy("B", "a"));
    pen.write(pen.over(&a).await).await;
    pen.begin("c", hold("A")).await;
    pen.begin("d", hold("B")).await;
    // What is forgotten takes nothing along that is another's by now.
    pen.stand.pass(KEEP + A_MOMENT).await;
    let late = pen.beginning(key("e"), hold("A")).await;
    assert_eq!(refused(&pen, late, &["a", "c", "e"]).await, busy("A", "c"));
}

async fn claims_are_those_of_the_newest_version<S: Stand>() {
    let pen = pen::<S>().await;
    let a = pen.begin("a", hold("A")).await;
    pen.begin("c", hold("C")).await;
    // No command of today changes what it claims; one that does asks like everybody.
    let of_another = |state: &Record, commit: Commit| {
        let record = Record { state: state.state.clone(), ..commit.record };
        Commit { record, ..commit }
    };
    let model = pen.beginning(key("model"), hold("C")).await.record;
    let wrong = of_another(&model, pen.idle(&a).await);
    assert_eq!(refused(&pen, wrong, &["a", "c"]).await, busy("C", "c"));
    let model = pen.beginning(key("model"), attended("A", "B")).await.record;
    let a = pen.write(of_another(&model, pen.idle(&a).await)).await;
    for name in ["A", "B"] {
        let other = pen.beginning(key("d"), hold(name)).await;
        assert_eq!(refused(&pen, other, &["a", "d"]).await, busy(name, "a"));
    }
    let model = pen.beginning(key("model"), hold("B")).await.record;
    pen.write(of_another(&model, pen.idle(&a).await)).await;
    pen.begin("d", hold("A")).await;
    let other = pen.beginning(key("e"), hold("B")).await;
    assert_eq!(refused(&pen, other, &["a", "e"]).await, busy("B", "a"));
}

async fn an_overtaker_gets_the_claim_and_is_told_who_lost_it<S: Stand>() {
    let pen = pen::<S>().await;
    pen.begin("a", hold("A")).await;
    let ending = pen.beginning(key("b"), end("A")).await;
    let Verdict::Applied { overtaken, record: b, .. } = pen.commit(ending).await else {
        panic!("not applied");
    };
    assert_eq!(overtaken, [key("a")]);
    let other = pen.beginning(key("c"), hold("A")).await;
    assert_eq!(refused(&pen, other, &["a", "b", "c"]).await, busy("A", "b"));
    let Verdict::Applied { overtaken, .. } = pen.commit(pen.idle(&b).await).await else {
        panic!("not applied");
    };
    assert_eq!(overtaken, [], "told once");
    let ending = pen.beginning(key("d"), end("A")).await;
    let Verdict::Applied { overtaken, .. } = pen.commit(ending).await else {
        panic!("not applied");
    };
    assert_eq!(overtaken, [key("b")], "who had it last");
    let Verdict::Applied { overtaken, .. } =
        pen.commit(pen.beginning(key("e"), end("E")).await).await
    else {
        panic!("not applied");
    };
    assert_eq!(overtaken, [], "there was nobody");
}

async fn who_was_overtaken_goes_on_without_its_claim<S: Stand>() {
    let pen = pen::<S>().await;
    let a = pen.begin("a", hold("A")).await;
    let b = pen.begin("b", end("A")).await;
    // It still names its claim, and is neither refused for it nor given it back.
    let a = pen.write(pen.answered(&a).await).await;
    let other = pen.beginning(key("c"), hold("A")).await;
    assert_eq!(refused(&pen, other.clone(), &["a", "b", "c"]).await, busy("A", "b"));
    pen.write(pen.over(&b).await).await;
    let a = pen.write(pen.idle(&a).await).await;
    pen.write(Commit { nonce: nonce(), ..other }).await;
    pen.write(pen.given_up(&a).await).await;
    let other = pen.beginning(key("d"), hold("A")).await;
    assert_eq!(refused(&pen, other, &["a", "c", "d"]).await, busy("A", "c"), "not a's to release");
}

async fn claims_of_an_ended_command_linger_until_its_last_once_only_operation<S: Stand>() {
    let pen = pen::<S>().await;
    let mut begun = pen.beginning(key("a"), attended("A", "B")).await;
    // A second REFER, that takes longer.
    let mut later = begun.record.state.ops[0].clone();
    assert!(matches!(later.act, Act::Refer { .. }));
    assert_eq!(later.act.repeat(&begun.record.state.plan.capabilities), Repeat::Once);
    let first_by = later.reply_by;
    let last_by = first_by.after(Duration::from_millis(500));
    later.reply_by = last_by;
    begun.record.state.ops.insert(0, later);
    let a = pen.write(begun).await;
    // Its record is kept for longer than that.
    let a = pen.write(Commit { keep: KEEP * 20, ..pen.given_up(&a).await }).await;
    assert_eq!(a.state.claims_linger(), Some(last_by));
    for name in ["A", "B"] {
        let other = pen.beginning(key("b"), hold(name)).await;
        assert_eq!(refused(&pen, other, &["a", "b"]).await, lingers(name, &a));
    }
    pen.stand.pass(pen.stand.now().await.until(first_by) + A_MOMENT).await;
    let other = pen.beginning(key("b"), hold("A")).await;
    assert_eq!(refused(&pen, other, &["a", "b"]).await, lingers("A", &a), "the last one counts");
    pen.stand.pass(pen.stand.now().await.until(last_by) + A_MOMENT).await;
    pen.begin("b", hold("A")).await;
    pen.begin("c", hold("B")).await;
}

async fn a_lingering_claim_can_be_overtaken_and_nobody_is_told<S: Stand>() {
    let pen = pen::<S>().await;
    let a = pen.begin("a", hold("A")).await;
    let a = pen.write(pen.given_up(&a).await).await;
    assert!(a.state.claims_linger().is_some());
    let ending = pen.beginning(key("b"), end("A")).await;
    let Verdict::Applied { overtaken, record: b, .. } = pen.commit(ending).await else {
        panic!("not applied");
    };
    assert_eq!(overtaken, [], "it has ended");
    // Nor does it take the claim back when its own time is over.
    pen.stand.pass(Duration::from_millis(1) + linger(&a, pen.stand.now().await)).await;
    let other = pen.beginning(key("c"), hold("A")).await;
    assert_eq!(refused(&pen, other.clone(), &["a", "b", "c"]).await, busy("A", "b"));
    pen.write(pen.over(&b).await).await;
    pen.write(Commit { nonce: nonce(), ..other }).await;
}

fn linger(record: &Record, now: StoreTime) -> Duration {
    now.until(record.state.claims_linger().unwrap())
}

async fn a_lingering_claim_outlasts_its_record<S: Stand>() {
    let pen = pen::<S>().await;
    let mut begun = pen.beginning(key("a"), hold("A")).await;
    begun.record.state.ops[0].reply_by = begun.not_after.after(KEEP);
    let a = pen.write(begun).await;
    let a = pen.write(Commit { keep: A_MOMENT, ..pen.given_up(&a).await }).await;
    // Longer than it is kept, and than its last commit may be repeated.
    pen.stand.pass(WITHIN + Duration::from_millis(50)).await;
    let other = pen.beginning(key("b"), hold("A")).await;
    assert_eq!(pen.commit(other).await, lingers("A", &a));
    pen.stand.pass(linger(&a, pen.stand.now().await) + A_MOMENT).await;
    pen.begin("b", hold("A")).await;
    assert_eq!(pen.find_key(&key("a")).await, None);
}

async fn a_caller_is_claimed_by_one_start_until_that_ends<S: Stand>() {
    let pen = pen::<S>().await;
    let a = pen.begin("a", start("alice")).await;
    let again = pen.beginning(key("b"), start("alice")).await;
    let by = key("a").id;
    let expected = Verdict::Busy { claim: Claim::Caller(sip("alice")), by, until: None };
    assert_eq!(refused(&pen, again.clone(), &["a", "b"]).await, expected);
    pen.begin("c", start("carol")).await;
    // Its INVITE is still out, so the call's claim lingers; the caller's does not.
    let a = pen.write(pen.given_up(&a).await).await;
    assert!(a.state.claims_linger().is_some());
    pen.write(Commit { nonce: nonce(), ..again }).await;
    let setup = a.state.ops.iter().find_map(|op| match &op.act {
        Act::Invite { call, .. } => Some(call.as_str().to_owned()),
        _ => None,
    });
    let of_setup = setup.unwrap();
    let other = pen.beginning(key("d"), hold(&of_setup)).await;
    assert_eq!(refused(&pen, other, &["a", "d"]).await, lingers(&of_setup, &a));
}

async fn running_commands_are_found_by_what_they_watch<S: Stand>() {
    let pen = pen::<S>().await;
    let watching = |watch: Watch| Find::Watching(stack(), vec![watch]);
    let of_call = |name: &str| watching(Watch::Call(call(name)));
    let a = pen.begin("a", attended("A", "B")).await;
    let b = pen.begin("b", end("B")).await;
    pen.begin("c", start("carol")).await;
    let any = ["A", "B", "C"].map(|name| Watch::Call(call(name)));
    assert_eq!(pen.ids(Find::Watching(stack(), any.to_vec())).await, ["a", "b"], "each once");
    assert_eq!(pen.ids(of_call("A")).await, ["a"]);
    assert_eq!(pen.ids(of_call("B")).await, ["a", "b"], "also who lost its claim");
    assert_eq!(pen.ids(of_call("C")).await, [""; 0]);
    let elsewhere = Find::Watching(StackId::new("other"), vec![Watch::Call(call("A"))]);
    assert_eq!(pen.ids(elsewhere).await, [""; 0]);
    let to = sip("dave");
    let transfer = Request::BlindTransfer { call: call("D"), leg: Leg::Callee, destination: to };
    let d = pen.begin("d", transfer).await;
    let watches = d.state.watches();
    assert!(watches.iter().any(|watch| matches!(watch, Watch::Op(_))), "{watches:?}");
    for watch in &watches {
        assert_eq!(pen.find(watching(watch.clone())).await, [Arc::clone(&d)]);
    }
    // What it watches is what its newest version watches.
    let mut next = pen.idle(&d).await;
    next.record.state = pen.beginning(key("model"), hold("E")).await.record.state;
    let d = pen.write(next).await;
    for watch in watches {
        assert_eq!(pen.ids(watching(watch)).await, [""; 0]);
    }
    assert_eq!(pen.find(of_call("E")).await, [d]);
    let b = pen.write(pen.idle(&b).await).await;
    assert_eq!(pen.find(of_call("B")).await.len(), 2);
    pen.write(pen.over(&b).await).await;
    assert_eq!(pen.find(of_call("B")).await, [a], "an ended one listens no more");
}

async fn running_commands_are_found_at_their_stack<S: Stand>() {
    let pen = pen::<S>().await;
    let other = StackId::new("other");
    let a = pen.begin("a", hold("A")).await;
    pen.begin("b", start("bob")).await;
    let c = pen.write(pen.beginning_at(&other, key("c"), hold("C")).await).await;
    assert_eq!(pen.ids(Find::AtStack(stack())).await, ["a", "b"]);
    assert_eq!(pen.find(Find::AtStack(other)).await, [c]);
    assert_eq!(pen.ids(Find::AtStack(StackId::new("none"))).await, [""; 0]);
    let a = pen.write(pen.answered(&a).await).await;
    assert!(pen.find(Find::AtStack(stack())).await.contains(&a), "in its newest version");
    pen.write(pen.over(&a).await).await;
    assert_eq!(pen.ids(Find::AtStack(stack())).await, ["b"]);
}

async fn running_commands_are_found_when_they_are_due<S: Stand>() {
    let pen = pen::<S>().await;
    let a = pen.begin("a", hold("A")).await;
    pen.stand.pass(Duration::from_millis(50)).await;
    let b = pen.begin("b", end("B")).await;
    let (first, second) = (a.state.due().unwrap(), b.state.due().unwrap());
    assert!(first != second);
    let all = first.max(second);
    assert_eq!(pen.ids(Find::DueBy(all)).await, ["a", "b"]);
    assert_eq!(pen.ids(Find::DueBy(StoreTime(first.min(second).0 - 1))).await, [""; 0]);
    let earlier = if first < second { "a" } else { "b" };
    assert_eq!(pen.ids(Find::DueBy(first.min(second))).await, [earlier]);
    // The newest version's due time counts, once.
    let mut next = pen.idle(&a).await;
    next.record.state.ops[0].reply_by = all.after(KEEP);
    next.record.state.deadline = all.after(KEEP * 2);
    let a = pen.write(next).await;
    let moved = a.state.due().unwrap();
    assert!(moved > all);
    assert_eq!(pen.ids(Find::DueBy(StoreTime(moved.0 - 1))).await, ["b"]);
    assert_eq!(pen.ids(Find::DueBy(moved)).await, ["a", "b"]);
    pen.write(pen.over(&a).await).await;
    assert_eq!(pen.ids(Find::DueBy(StoreTime(u64::MAX))).await, ["b"]);
}

async fn running_commands_are_found_by_who_performs_for_them<S: Stand>() {
    let pen = pen::<S>().await;
    let a = pen.begin("a", hold("A")).await;
    let pods = a.state.performers();
    let [pod] = pods.as_slice() else { panic!("{pods:?}") };
    let of = |pod: &PodId| Find::PerformedBy(pod.clone());
    assert_eq!(pen.find(of(pod)).await, [Arc::clone(&a)]);
    assert_eq!(pen.ids(of(&PodId::new("nobody"))).await, [""; 0]);
    let mut moved = pen.idle(&a).await;
    let other = PodId::new("another");
    moved.record.state.ops.iter_mut().for_each(|op| op.by = other.clone());
    let a = pen.write(moved).await;
    assert_eq!((pen.ids(of(pod)).await.len(), pen.ids(of(&other)).await.len()), (0, 1));
    pen.write(pen.over(&a).await).await;
    assert_eq!(pen.ids(of(&other)).await, [""; 0]);
}

fn beat(pod: &str) -> Beat {
    Beat { pod: PodId::new(pod), applied: BTreeMap::new(), life: Life::Lives }
}

async fn who_beats_lives_and_who_stops_is_silent<S: Stand>() {
    let pen = pen::<S>().await;
    let store = pen.stand.store();
    let (one, two) = (PodId::new("one"), PodId::new("two"));
    store.beat(&beat("one")).await.unwrap();
    let pulse = store.beat(&beat("two")).await.unwrap();
    assert_eq!(pulse.alive, [one.clone(), two.clone()].into());
    assert_eq!((pulse.silent.len(), &pulse.epoch), (0, &pen.epoch));
    assert!(pulse.now <= pen.stand.now().await);
    pen.stand.pass(ALIVE + A_MOMENT).await;
    let pulse = store.beat(&beat("two")).await.unwrap();
    assert_eq!((pulse.alive, pulse.silent), ([two.clone()].into(), [one.clone()].into()));
    let pulse = store.beat(&beat("one")).await.unwrap();
    assert_eq!((pulse.alive, pulse.silent), ([one, two].into(), [].into()), "it was only paused");
}

async fn who_says_that_it_ends_is_not_waited_for<S: Stand>() {
    let pen = pen::<S>().await;
    let store = pen.stand.store();
    for pod in ["one", "two", "three"] {
        store.beat(&beat(pod)).await.unwrap();
    }
    store.beat(&Beat { life: Life::Over, ..beat("one") }).await.unwrap();
    store.beat(&Beat { life: Life::Left, ..beat("two") }).await.unwrap();
    let pulse = store.beat(&beat("three")).await.unwrap();
    let (alive, silent) = ([PodId::new("three")].into(), [PodId::new("two")].into());
    assert_eq!((pulse.alive, pulse.silent), (alive, silent));
}

async fn what_leaders_have_applied_is_told_to_all<S: Stand>() {
    let pen = pen::<S>().await;
    let store = pen.stand.store();
    let told = |stack: &str, at| (StackId::new(stack), StoreTime(at));
    let lead = |applied: &[(StackId, StoreTime)]| Beat {
        applied: applied.iter().cloned().collect(),
        ..beat("one")
    };
    store.beat(&lead(&[told("a", 70), told("b", 50)])).await.unwrap();
    // An old leader that wakes up does not take it back.
    store.beat(&lead(&[told("a", 60), told("b", 51)])).await.unwrap();
    let pulse = store.beat(&beat("two")).await.unwrap();
    assert_eq!(pulse.applied, [told("a", 70), told("b", 51)].into());
}

async fn a_drawn_term_fences_all_before<S: Stand>() {
    let pen = pen::<S>().await;
    let store = pen.stand.store();
    let a = pen.begin("a", hold("A")).await;
    let first = store.lead(&stack()).await.unwrap();
    let in_term = |term, commit| Commit { term: Some(term), ..commit };
    let a = pen.write(in_term(first, pen.idle(&a).await)).await;
    let other = store.lead(&StackId::new("other")).await.unwrap();
    let a = pen.write(in_term(first, pen.idle(&a).await)).await;
    let second = store.lead(&stack()).await.unwrap();
    assert!(second > first && other > Term::default(), "{first:?} {second:?} {other:?}");
    let fenced = refused(&pen, in_term(first, pen.over(&a).await), &["a"]).await;
    assert_eq!(fenced, Verdict::Fenced(second), "though the new leader has written nothing yet");
    pen.write(in_term(second, pen.over(&a).await)).await;
}

async fn tenants_share_nothing<S: Stand>() {
    let pen = pen::<S>().await;
    let theirs = tenant("other");
    pen.begin("a", hold("A")).await;
    let same = pen.beginning(key_of(&theirs, "a"), hold("A")).await;
    let Verdict::Applied { first_seq, overtaken, record, .. } = pen.commit(same).await else {
        panic!("an id or a claim of another tenant is in the way");
    };
    assert_eq!((first_seq, record.first_seq), (1, 1), "each stream has its own numbers");
    assert_eq!(overtaken, []);
    let ending = pen.beginning(key_of(&theirs, "b"), end("A")).await;
    let Verdict::Applied { overtaken, .. } = pen.commit(ending).await else {
        panic!("not applied");
    };
    assert_eq!(overtaken, [key_of(&theirs, "a")], "only its own");
    let busy_here = pen.beginning(key("c"), hold("A")).await;
    assert_eq!(pen.commit(busy_here).await, busy("A", "a"));
    pen.begin("d", hold("D")).await;
    for (whose, newest) in [(&theirs, 2), (&ours(), 2)] {
        let stream = pen.stream(whose).await;
        assert!(stream.iter().all(|entry| entry.key.tenant == *whose), "{stream:?}");
        assert_eq!(seqs(&stream), upto(newest));
        assert_eq!(pen.head(whose).await.unwrap(), pen.at(newest));
    }
    assert_eq!(pen.find_key(&key("a")).await.unwrap().key, key("a"));
    assert_eq!(pen.find_key(&key_of(&theirs, "d")).await, None);
    // An event is the stack's, and concerns them both.
    let watching = Find::Watching(stack(), vec![Watch::Call(call("A"))]);
    assert_eq!(pen.ids(watching).await, ["a", "a", "b"]);
}

async fn a_stream_is_read_in_pages<S: Stand>() {
    let pen = pen::<S>().await;
    for n in 0..7 {
        pen.begin(&format!("id-{n}"), hold(&format!("call-{n}"))).await;
    }
    let mut after = 0;
    let mut all = Vec::new();
    let mut sizes = Vec::new();
    loop {
        let page = pen.read(&ours(), after, 3).await.unwrap();
        assert_eq!(page.head, pen.at(7));
        sizes.push(page.entries.len());
        let Some(last) = page.entries.last() else { break };
        after = last.seq;
        all.extend(page.entries);
    }
    assert_eq!(sizes, [3, 3, 1, 0]);
    assert_eq!(seqs(&all), upto(7));
    let ids: Vec<_> = all.iter().map(|entry| entry.key.id.to_string()).collect();
    assert_eq!(ids, (0..7).map(|n| format!("id-{n}")).collect::<Vec<_>>());
    let none = pen.read(&ours(), 3, 0).await.unwrap();
    assert_eq!((none.entries.len(), none.head.seq), (0, 7));
}

async fn a_session_s_part_of_a_stream_is_read<S: Stand>() {
    let pen = pen::<S>().await;
    let mine = pen.begin("a", hold("A")).await;
    let theirs = SessionId::derive(nonce());
    for n in 0..5 {
        let mut other = pen.beginning(key(&format!("b{n}")), hold(&format!("B{n}"))).await;
        other.record.session = theirs.clone();
        pen.write(other).await;
    }
    pen.write(pen.over(&mine).await).await;
    let head = pen.head(&ours()).await.unwrap().seq;
    let read = async |after, max, of: &SessionId| {
        let page = pen.stand.store().read(&ours(), &pen.at(after), max, Some(of)).await.unwrap();
        assert_eq!(page.head.seq, head);
        (seqs(&page.entries), page.through)
    };
    let ours_alone: Vec<u64> = [1].into_iter().chain(7..=head).collect();
    assert_eq!(read(0, 9, &mine.session).await, (ours_alone, head));
    assert_eq!(read(0, 1, &mine.session).await.0, [1]);
    assert_eq!(read(1, 3, &theirs).await, (vec![2, 3, 4], 4), "no further than was asked for");
    assert_eq!(read(4, 9, &theirs).await, (vec![5, 6], head), "all was looked at");
    assert_eq!(read(0, 9, &SessionId::derive(nonce())).await, (vec![], head));
}

async fn a_position_that_was_never_reached_is_ahead<S: Stand>() {
    let pen = pen::<S>().await;
    assert_eq!(pen.read(&ours(), 0, 9).await.unwrap().entries.len(), 0);
    assert_eq!(pen.read(&ours(), 1, 9).await, Err(Unreadable::Ahead));
    pen.begin("a", hold("A")).await;
    assert_eq!(pen.read(&ours(), 1, 9).await.unwrap().entries.len(), 0);
    assert_eq!(pen.read(&ours(), 2, 9).await, Err(Unreadable::Ahead));
    assert_eq!(pen.read(&ours(), u64::MAX, 9).await, Err(Unreadable::Ahead));
    assert_eq!(pen.read(&tenant("other"), 1, 9).await, Err(Unreadable::Ahead));
}

async fn positions_of_another_epoch_are_refused<S: Stand>() {
    let pen = pen::<S>().await;
    pen.begin("a", hold("A")).await;
    for seq in [0, 1, 9] {
        let mut position = pen.at(seq);
        position.epoch = Epoch::parse("another").unwrap();
        let read = pen.stand.store().read(&ours(), &position, 9, None).await;
        assert_eq!(read, Err(Unreadable::EpochChanged));
    }
}

async fn old_entries_are_trimmed_and_that_is_said<S: Stand>() {
    let pen = pen::<S>().await;
    pen.begin("a", hold("A")).await;
    pen.begin("b", hold("B")).await;
    assert_eq!(seqs(&pen.stream(&ours()).await), upto(2), "kept");
    pen.stand.pass(ENTRIES_FOR / 2).await;
    pen.begin("c", hold("C")).await;
    pen.stand.pass(ENTRIES_FOR / 2 + A_MOMENT).await;
    assert_eq!(pen.read(&ours(), 0, 9).await, Err(Unreadable::Trimmed));
    assert_eq!(pen.read(&ours(), 1, 9).await, Err(Unreadable::Trimmed));
    assert_eq!(seqs(&pen.read(&ours(), 2, 9).await.unwrap().entries), [3]);
    pen.stand.pass(ENTRIES_FOR).await;
    assert_eq!(pen.read(&ours(), 2, 9).await, Err(Unreadable::Trimmed));
    let at_head = pen.read(&ours(), 3, 9).await.unwrap();
    assert_eq!((at_head.entries.len(), at_head.head), (0, pen.at(3)));
    assert_eq!(pen.begin("d", hold("D")).await.first_seq, 4, "numbers go on");
    assert_eq!(seqs(&pen.read(&ours(), 3, 9).await.unwrap().entries), [4]);
}

async fn more_entries_than_there_is_room_for_are_trimmed<S: Stand>() {
    let pen = Pen::<S>::fresh(Bounds { entries_bytes: 40_000, ..Bounds::default() }).await;
    let mut record = pen.begin("a", hold("A")).await;
    for _ in 0..20 {
        let mut commit = pen.idle(&record).await;
        let long = callplane::core::failure::Failure {
            code: callplane::core::failure::Code::CallEnded,
            text: Arc::from("x".repeat(10_000)),
            sip: None,
            up: callplane::core::failure::Up::No,
        };
        commit.notices = vec![Notice::Error(long)];
        record = pen.write(commit).await;
    }
    assert_eq!(pen.read(&ours(), 0, 9).await, Err(Unreadable::Trimmed));
    let newest = pen.read(&ours(), 19, 9).await.unwrap();
    assert_eq!((seqs(&newest.entries), newest.head.seq), (vec![20, 21], 21));
}

async fn the_head_is_the_newest_position<S: Stand>() {
    let pen = pen::<S>().await;
    assert_eq!(pen.head(&ours()).await.unwrap(), pen.at(0));
    let a = pen.begin("a", hold("A")).await;
    assert_eq!(pen.head(&ours()).await.unwrap(), pen.at(1));
    pen.write(pen.idle(&a).await).await;
    assert_eq!(pen.head(&ours()).await.unwrap(), pen.at(1));
    assert_eq!(pen.head(&tenant("other")).await.unwrap(), pen.at(0));
}

const RACERS: usize = 16;

/// Commits all of these at once, as far as the machine can.
async fn race<S: Stand>(pen: &Pen<S>, commits: Vec<Commit>) -> Vec<Verdict> {
    let start = Arc::new(tokio::sync::Barrier::new(commits.len()));
    let racers = commits.into_iter().map(|commit| {
        let (stand, start) = (Arc::clone(&pen.stand), Arc::clone(&start));
        tokio::spawn(async move {
            start.wait().await;
            stand.store().commit(commit).await.unwrap()
        })
    });
    let racers: Vec<_> = racers.collect();
    let mut verdicts = Vec::new();
    for racer in racers {
        verdicts.push(tokio::time::timeout(crate::DEADLINE, racer).await.unwrap().unwrap());
    }
    verdicts
}

/// The one record that was applied, and the verdicts of all others.
fn winner(verdicts: Vec<Verdict>) -> (Arc<Record>, Vec<Verdict>) {
    let (mut applied, others): (Vec<_>, Vec<_>) =
        verdicts.into_iter().partition(|verdict| matches!(verdict, Verdict::Applied { .. }));
    let Some(Verdict::Applied { record, .. }) = applied.pop() else { panic!("{others:?}") };
    assert!(applied.is_empty(), "{applied:?}");
    (record, others)
}

async fn of_racing_writers_exactly_one_is_applied<S: Stand>() {
    let pen = pen::<S>().await;
    let mut record = pen.begin("a", hold("A")).await;
    for _ in 0..20 {
        let mut commits = Vec::new();
        for _ in 0..RACERS {
            commits.push(pen.idle(&record).await);
        }
        let (newest, others) = winner(race(&pen, commits).await);
        assert!(others.iter().all(|verdict| *verdict == Verdict::Stale(Arc::clone(&newest))));
        assert_eq!(newest.version, record.version + 1);
        record = newest;
    }
    assert_eq!(pen.find_key(&key("a")).await, Some(record));
}

async fn of_racing_beginnings_exactly_one_is_applied<S: Stand>() {
    let pen = pen::<S>().await;
    let mut commits = Vec::new();
    for n in 0..RACERS {
        commits.push(pen.beginning(key("a"), hold(&format!("call-{n}"))).await);
    }
    let (record, others) = winner(race(&pen, commits).await);
    assert!(others.iter().all(|verdict| *verdict == Verdict::Exists(Arc::clone(&record))));
    assert_eq!(pen.head(&ours()).await.unwrap(), pen.at(1));
    assert_eq!(pen.ids(Find::DueBy(StoreTime(u64::MAX))).await, ["a"]);
}

async fn of_racing_claims_exactly_one_is_taken<S: Stand>() {
    let pen = pen::<S>().await;
    let mut commits = Vec::new();
    for n in 0..RACERS {
        commits.push(pen.beginning(key(&format!("id-{n}")), hold("A")).await);
    }
    let (record, others) = winner(race(&pen, commits).await);
    assert!(others.iter().all(|verdict| *verdict == busy("A", record.key.id.as_str())));
    assert_eq!(pen.head(&ours()).await.unwrap(), pen.at(1));
}

async fn racing_beginnings_stay_within_the_limit<S: Stand>() {
    let pen = Pen::<S>::fresh(Bounds { running: 5, ..Bounds::default() }).await;
    let mut commits = Vec::new();
    for n in 0..RACERS {
        let request = hold(&format!("call-{n}"));
        commits.push(pen.beginning(key(&format!("id-{n}")), request).await);
    }
    let verdicts = race(&pen, commits).await;
    let over = verdicts.iter().filter(|verdict| **verdict == Verdict::Over { limit: 5 }).count();
    assert_eq!(over, RACERS - 5, "{verdicts:?}");
    assert_eq!(pen.ids(Find::DueBy(StoreTime(u64::MAX))).await.len(), 5);
}

async fn racing_commits_leave_dense_numbers<S: Stand>() {
    let pen = pen::<S>().await;
    let mut commits = Vec::new();
    for n in 0..200 {
        let request = hold(&format!("call-{n}"));
        commits.push(pen.beginning(key(&format!("id-{n}")), request).await);
    }
    let mut places = Vec::new();
    for verdict in race(&pen, commits).await {
        let Verdict::Applied { first_seq, record, .. } = verdict else { panic!("{verdict:?}") };
        places.push((first_seq, record.key.clone()));
    }
    places.sort();
    let stream = pen.stream(&ours()).await;
    let told: Vec<_> = stream.iter().map(|entry| (entry.seq, entry.key.clone())).collect();
    assert_eq!(told, places);
    assert_eq!(seqs(&stream), upto(200));
}
