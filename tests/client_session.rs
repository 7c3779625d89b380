//! The session as a value: what it writes for what comes in, in orders that sockets rarely show.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::sync::Arc;

use callplane::client::Intake;
use callplane::client::close::Close;
use callplane::client::commands::{Begun, Page, Summary, Unreadable};
use callplane::client::outbox::Outbox;
use callplane::client::session::{Answer, Ask, Limits, Loss, MOST_REPLAYED, Session, Ticket, Turn};
use callplane::core::failure::Outcome;
use callplane::core::ids::{CommandId, DigestBeginning, Epoch, Nonce, Scope, SessionId, TenantId};
use callplane::core::notice::{Data, Event, Notice, Remarks};
use callplane::core::record::{Begin, Entry, Key, Position};
use callplane::core::request::Method;
use callplane::rpc::error::{Kind, Refusal};
use callplane::rpc::wire::Ending;
use serde_json::{Value, json};

struct Desk {
    session: Session,
    out: Outbox,
    asks: Vec<Ask>,
    now: u64,
    drawn: u128,
    refused: Vec<(&'static str, Kind)>,
}

fn epoch() -> Epoch {
    Epoch::parse("e1").unwrap()
}

fn session_id() -> SessionId {
    SessionId::parse("s1").unwrap()
}

fn entry(seq: u64, id: &str, notice: Notice) -> Arc<Entry> {
    entry_of(Method::CallHold, seq, id, notice)
}

fn entry_of(method: Method, seq: u64, id: &str, notice: Notice) -> Arc<Entry> {
    let key = Key {
        tenant: TenantId::default(),
        scope: Scope::Session(session_id()),
        id: CommandId::parse(id).unwrap(),
    };
    Arc::new(Entry {
        seq,
        session: session_id(),
        key,
        method,
        external_id: None,
        asked: None,
        notice,
    })
}

fn started() -> Notice {
    Notice::Started { deadline_ms: 1_000 }
}

fn holding() -> Notice {
    Notice::Progress { event: Event::CallHolding, data: Data::default() }
}

fn ended() -> Notice {
    Notice::Ended { outcome: Outcome::Success, remarks: Remarks::default() }
}

fn hold(id: u64, cmd_id: &str) -> Value {
    let params = json!({"callid": cmd_id, "cmd_id": cmd_id});
    json!({"jsonrpc": "2.0", "id": id, "method": "CallHold", "params": params})
}

impl Desk {
    fn new() -> Self {
        let head = Position { epoch: epoch(), seq: 0 };
        let limits = Limits { batch: 10, commands: 3 };
        let session = Session::new(TenantId::default(), session_id(), head, limits);
        Self {
            session,
            out: Outbox::default(),
            asks: Vec::new(),
            now: 0,
            drawn: 0,
            refused: Vec::new(),
        }
    }

    fn with<T>(&mut self, work: impl FnOnce(&mut Session, &mut Turn<'_>) -> T) -> T {
        let drawn = &mut self.drawn;
        let mut turn = Turn {
            out: &mut self.out,
            asks: &mut self.asks,
            now: self.now,
            nonce: &mut || {
                *drawn += 1;
                Nonce(*drawn)
            },
            refused: &mut |method, kind| self.refused.push((method, kind)),
        };
        work(&mut self.session, &mut turn)
    }

    fn send(&mut self, frame: &Value) {
        self.with(|session, turn| session.frame(&frame.to_string(), turn));
    }

    fn live(&mut self, seq: u64, id: &str, notice: Notice) {
        self.with(|session, turn| session.live(&epoch(), &entry(seq, id, notice), turn));
    }

    fn answer(&mut self, answer: Answer) -> Option<Close> {
        self.with(|session, turn| session.answer(answer, turn))
    }

    /// What was written since.
    fn written(&mut self) -> Vec<Value> {
        std::iter::from_fn(|| self.out.pop())
            .map(|message| serde_json::from_slice(&message).unwrap())
            .collect()
    }

    /// The begins that were asked for since.
    fn begins(&mut self) -> Vec<(Ticket, Begin)> {
        self.asks
            .drain(..)
            .map(|ask| match ask {
                Ask::Begin(ticket, begin) => (ticket, *begin),
                other => panic!("{other:?}"),
            })
            .collect()
    }
}

/// `event seq` of notifications, `id:cmd seq` of responses.
fn sketch(messages: &[Value]) -> Vec<String> {
    let one = |message: &Value| match message.get("params") {
        Some(params) => format!("{}:{} {}", params["cmd_id"], params["event"], params["seq"]),
        None => format!("={} {}", message["id"], message["result"]["seq"]),
    };
    messages
        .iter()
        .map(|message| match message.as_array() {
            Some(items) => items.iter().map(one).collect::<Vec<_>>().join(","),
            None => one(message),
        })
        .map(|line| line.replace('"', ""))
        .collect()
}

#[test]
fn no_result_names_a_position_above_what_is_not_written() {
    let mut desk = Desk::new();
    desk.send(&json!([hold(1, "a"), hold(2, "b")]));
    desk.live(1, "a", started());
    desk.live(2, "a", holding());
    assert!(desk.written().is_empty(), "the array is not complete");
    desk.live(3, "b", started());
    // A client that dies behind the array resumes from 1 and gets 2.
    assert_eq!(sketch(&desk.written()), ["=1 1,=2 1", "a:CallHolding 2"]);
    desk.live(4, "b", ended());
    assert_eq!(sketch(&desk.written()), ["b:Ended 4"]);
}

#[test]
fn all_that_follows_in_the_stream_waits_for_the_array() {
    let mut desk = Desk::new();
    desk.send(&hold(1, "first"));
    desk.live(1, "first", started());
    desk.send(&json!([hold(2, "a"), hold(3, "b")]));
    desk.live(2, "first", holding());
    assert_eq!(sketch(&desk.written()), ["=1 1", "first:CallHolding 2"]);
    desk.live(3, "a", started());
    desk.live(4, "first", ended());
    assert!(desk.written().is_empty());
    let (ticket, _) = desk.begins().pop().unwrap();
    desk.answer(Answer::Begun(ticket, Err(Refusal::new(Kind::CallBusy))));
    let written = desk.written();
    assert_eq!(written[0][1]["error"]["data"]["kind"], "call_busy");
    assert_eq!(sketch(&written), ["=2 3,=3 null", "first:Ended 4"]);
}

#[test]
fn two_open_batches_do_not_lock_each_other() {
    let mut desk = Desk::new();
    desk.send(&json!([hold(1, "a")]));
    desk.send(&json!([hold(2, "b"), {"jsonrpc":"2.0","id":3,"method":"CommandGet","params":{"cmd_id":"x"}}]));
    desk.live(1, "b", started());
    desk.live(2, "a", started());
    // The second array is complete first; b's Started is not told, so 2 may not be claimed.
    assert_eq!(sketch(&desk.written()), ["=1 0"]);
    desk.live(3, "a", ended());
    assert!(desk.written().is_empty());
    let Some(Ask::Get(ticket, _)) = desk.asks.pop() else { panic!() };
    desk.answer(Answer::Known(ticket, Ok(None)));
    assert_eq!(sketch(&desk.written()), ["=2 1,=3 null", "a:Ended 3"]);
}

/// Another connection of the session asks something else under the same id, and begins first.
#[test]
fn what_another_connection_began_is_no_answer_to_another_request() {
    for theirs in [false, true] {
        let mut desk = Desk::new();
        desk.send(&hold(1, "a"));
        let (ticket, begin) = desk.begins().pop().unwrap();
        let mine = begin.digest.beginning();
        let asked = Some(if theirs { DigestBeginning(!mine.0) } else { mine });
        let entry = Arc::new(Entry { asked, ..Entry::clone(&entry(1, "a", started())) });
        desk.with(|session, turn| session.live(&epoch(), &entry, turn));
        if theirs {
            assert_eq!(sketch(&desk.written()), ["a:Started 1"]);
            desk.answer(Answer::Begun(ticket, Err(Refusal::new(Kind::IdConflict))));
            assert_eq!(desk.written()[0]["error"]["data"]["kind"], "id_conflict");
        } else {
            assert_eq!(sketch(&desk.written()), ["=1 1"]);
        }
    }
}

#[test]
fn the_same_id_twice_at_once_is_begun_once() {
    let mut desk = Desk::new();
    desk.send(&hold(1, "a"));
    desk.send(&hold(2, "a"));
    desk.send(&hold(3, "a"));
    let begins = desk.begins();
    assert_eq!(begins.len(), 1);
    desk.answer(Answer::Begun(begins[0].0, Err(Refusal::new(Kind::CallBusy))));
    let second = desk.begins();
    assert_eq!(second.len(), 1, "the refused one left nothing behind");
    desk.live(1, "a", started());
    desk.answer(Answer::Begun(second[0].0, Ok(Begun::New)));
    let third = desk.begins();
    assert_eq!(third.len(), 1);
    let summary = Summary {
        id: CommandId::parse("a").unwrap(),
        method: Method::CallHold,
        session: session_id(),
        external_id: None,
        first: Position { epoch: epoch(), seq: 1 },
        deadline_ms: 1_000,
        ended: None,
        degraded: false,
    };
    desk.answer(Answer::Begun(third[0].0, Ok(Begun::Repeated(summary))));
    let written = desk.written();
    assert_eq!(
        written.iter().map(|m| m["id"].as_u64()).collect::<Vec<_>>(),
        [Some(1), Some(2), Some(3)]
    );
    assert_eq!(written[2]["result"]["repeated"], true);
    assert!(desk.session.has_running());
    desk.live(2, "a", ended());
    assert!(desk.session.is_idle());
}

#[test]
fn running_commands_are_counted_and_an_end_is_never_refused() {
    let mut desk = Desk::new();
    for (seq, id) in [(1, "a"), (2, "b")] {
        desk.send(&hold(seq, id));
        desk.live(seq, id, started());
    }
    desk.send(&hold(3, "c"));
    desk.send(&hold(4, "d"));
    desk.written().into_iter().skip(2).for_each(|refused| {
        assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!(4), &json!(-32004)));
    });
    let end =
        json!({"jsonrpc":"2.0","id":5,"method":"CallEnd","params":{"callid":"x","cmd_id":"e"}});
    desk.send(&end);
    assert_eq!(desk.begins().last().unwrap().1.key.id.as_str(), "e");
    desk.live(3, "a", ended());
    desk.live(4, "b", ended());
    desk.send(&hold(6, "f"));
    assert_eq!(desk.begins().len(), 1);
}

fn end(id: u64, cmd_id: &str) -> Value {
    let params = json!({"callid": cmd_id, "cmd_id": cmd_id});
    json!({"jsonrpc": "2.0", "id": id, "method": "CallEnd", "params": params})
}

#[test]
fn ends_that_run_leave_room_for_other_commands() {
    let mut desk = Desk::new();
    for (seq, id) in [(1, "a"), (2, "b"), (3, "c"), (4, "d")] {
        desk.send(&end(seq, id));
        let entry = entry_of(Method::CallEnd, seq, id, started());
        desk.with(|session, turn| session.live(&epoch(), &entry, turn));
    }
    desk.begins();
    desk.send(&hold(5, "e"));
    assert_eq!(desk.begins().len(), 1, "four running ends are none of its three");
}

#[test]
fn ends_that_nobody_answers_are_bounded() {
    let mut desk = Desk::new();
    for id in 1..=5 {
        desk.send(&end(id, &format!("e{id}")));
    }
    let begins = desk.begins();
    assert_eq!(begins.len(), 3);
    let refused = desk.written();
    assert_eq!(refused.iter().map(|m| m["id"].as_u64()).collect::<Vec<_>>(), [Some(4), Some(5)]);
    assert_eq!(refused[0]["error"]["data"]["kind"], "too_many_commands");
    desk.live(1, "e1", started());
    desk.answer(Answer::Begun(begins[1].0, Err(Refusal::new(Kind::UnknownStack))));
    desk.send(&end(6, "e6"));
    desk.send(&end(7, "e7"));
    assert_eq!(desk.begins().len(), 2, "an answered one makes room, whatever the answer");
    desk.send(&hold(8, "h"));
    assert_eq!(desk.begins().len(), 1);
}

#[test]
fn an_entry_that_comes_twice_is_told_once() {
    let mut desk = Desk::new();
    desk.send(&hold(1, "a"));
    for _ in 0..2 {
        desk.live(1, "a", started());
        desk.live(2, "a", holding());
    }
    assert_eq!(sketch(&desk.written()), ["=1 1", "a:CallHolding 2"]);
}

#[test]
fn a_new_epoch_begins_its_own_count() {
    let mut desk = Desk::new();
    desk.send(&hold(1, "a"));
    desk.live(7, "a", started());
    let next = Epoch::parse("e2").unwrap();
    desk.with(|session, turn| session.live(&next, &entry(1, "a", ended()), turn));
    let written = desk.written();
    assert_eq!(
        (&written[1]["params"]["epoch"], &written[1]["params"]["seq"]),
        (&json!("e2"), &json!(1))
    );
}

#[test]
fn a_command_whose_record_is_gone_ends_unknown() {
    let mut desk = Desk::new();
    desk.send(&hold(1, "a"));
    desk.live(1, "a", started());
    let (ticket, _) = desk.begins().pop().unwrap();
    desk.answer(Answer::Begun(ticket, Ok(Begun::New)));
    desk.written();
    desk.now = 5_999;
    desk.with(Session::overdue);
    assert!(desk.asks.is_empty(), "1 s deadline, 5 s more");
    desk.now = 6_000;
    desk.with(Session::overdue);
    let Some(Ask::Get(ticket, key)) = desk.asks.pop() else { panic!() };
    assert_eq!(key.id.as_str(), "a");
    assert_eq!(desk.answer(Answer::Known(ticket, Ok(None))), None);
    let written = desk.written();
    assert_eq!(written[0]["params"]["error"]["code"], "state_lost");
    assert_eq!(written[1]["params"]["outcome"], "unknown");
    assert_eq!(written[1]["params"]["up"], "unknown");
    assert!(desk.session.is_idle());
}

#[test]
fn entries_lost_during_a_replay_are_read_again_and_later_ones_close_the_socket() {
    let mut desk = Desk::new();
    desk.send(&json!({"jsonrpc":"2.0","id":1,"method":"Resume","params":{"session":"s1","epoch":"e1","seq":1}}));
    assert!(matches!(desk.asks.pop(), Some(Ask::Attach(_))));
    assert!(desk.session.next_page().is_none(), "not attached yet");
    desk.session.attached(Position { epoch: epoch(), seq: 3 });
    assert_eq!(desk.session.next_page().unwrap().after.seq, 1);
    assert!(desk.session.next_page().is_none(), "one page at a time");
    let page = Page { entries: vec![entry(3, "a", holding())], through: 3, more: false };
    desk.answer(Answer::Page(Ok(page)));
    assert_eq!(sketch(&desk.written()), ["=1 1", "a:CallHolding 3"]);
    assert_eq!(desk.session.overflowed(), Loss::CatchUp);
    assert_eq!(desk.session.next_page().unwrap().after.seq, 3);
    let page = Page { entries: vec![entry(5, "a", ended())], through: 9, more: false };
    desk.answer(Answer::Page(Ok(page)));
    assert_eq!(sketch(&desk.written()), ["a:Ended 5"]);
    desk.live(5, "a", ended());
    assert!(desk.written().is_empty());
    desk.live(10, "b", holding());
    assert_eq!(desk.session.overflowed(), Loss::Close);
}

#[test]
fn every_refusal_is_counted_by_its_method() {
    let mut desk = Desk::new();
    let get = json!({"jsonrpc":"2.0","id":3,"method":"CommandGet","params":{"cmd_id":"x"}});
    for (frame, method, kind) in [
        (json!([]), "none", Kind::InvalidRequest),
        (json!([7]), "none", Kind::InvalidRequest),
        (json!({"jsonrpc":"2.0","id":1,"method":"Wait"}), "none", Kind::MethodNotFound),
        (json!({"jsonrpc":"2.0","method":"CallEnd"}), "CallEnd", Kind::BadParams),
        (
            json!([{"jsonrpc":"2.0","id":2,"method":"Resume","params":{"session":"s","epoch":"e","seq":0}}]),
            "Resume",
            Kind::ResumeRefused,
        ),
    ] {
        desk.send(&frame);
        assert_eq!(desk.refused.pop(), Some((method, kind)), "{frame}");
    }
    desk.send(&hold(4, "a"));
    let (ticket, _) = desk.begins().pop().unwrap();
    desk.answer(Answer::Begun(ticket, Err(Refusal::new(Kind::CallBusy))));
    assert_eq!(desk.refused.pop(), Some(("CallHold", Kind::CallBusy)));
    desk.send(&get);
    let Some(Ask::Get(ticket, _)) = desk.asks.pop() else { panic!() };
    desk.answer(Answer::Known(ticket, Ok(None)));
    assert_eq!(desk.refused.pop(), Some(("CommandGet", Kind::UnknownCommand)));
    assert_eq!(desk.refused, []);
}

#[test]
fn a_draining_process_takes_no_new_commands() {
    let mut desk = Desk::new();
    let end = json!({"jsonrpc": "2.0", "id": 2, "method": "CallEnd", "params": {"callid": "c"}});
    for (intake, taken) in [(Intake::Ends, 1), (Intake::Nothing, 0)] {
        desk.session.take_in(intake);
        desk.send(&hold(1, "a"));
        assert_eq!(desk.written()[0]["error"]["data"]["kind"], "draining");
        desk.asks.clear();
        desk.send(&end);
        assert_eq!(desk.asks.len(), taken, "{intake:?}");
    }
}

fn summary_of(id: &str, epoch: Epoch, seq: u64) -> Summary {
    Summary {
        id: CommandId::parse(id).unwrap(),
        method: Method::CallHold,
        session: session_id(),
        external_id: None,
        first: Position { epoch, seq },
        deadline_ms: 1_000,
        ended: None,
        degraded: false,
    }
}

impl Desk {
    /// Its session is taken up, at position 1.
    fn resume(&mut self) {
        self.send(&json!({"jsonrpc":"2.0","id":1,"method":"Resume","params":{"session":"s1","epoch":"e1","seq":1}}));
        self.asks.clear();
        self.session.attached(Position { epoch: epoch(), seq: 1 });
        assert!(self.session.next_page().is_some());
        let page = Page { entries: Vec::new(), through: 1, more: false };
        self.answer(Answer::Page(Ok(page)));
        self.written();
    }

    /// Its session is taken up where the store has begun another epoch since; it is at 9 there.
    fn resume_of_an_epoch_that_is_over(&mut self) {
        self.send(&json!({"jsonrpc":"2.0","id":1,"method":"Resume","params":{"session":"s1","epoch":"e0","seq":1}}));
        self.asks.clear();
        self.session.attached(Position { epoch: epoch(), seq: 9 });
        assert!(self.session.next_page().is_some());
        self.answer(Answer::Page(Err(Unreadable::Restarted)));
        self.written();
    }

    /// Repeats a hold that began elsewhere, and gets what was told of it so far.
    fn repeat(&mut self, id: u64, summary: Summary, entries: Vec<Arc<Entry>>) -> Option<Close> {
        self.send(&hold(id, summary.id.as_str()));
        let (ticket, _) = self.begins().pop().unwrap();
        self.answer(Answer::Begun(ticket, Ok(Begun::Repeated(summary))));
        let Some(Ask::Replay(ticket, _)) = self.asks.pop() else { return None };
        let through = entries.last().map_or(0, |entry| entry.seq);
        self.answer(Answer::Replayed(ticket, Ok(Page { entries, through, more: false })))
    }
}

#[test]
fn a_repeat_does_not_move_a_client_into_an_epoch_that_its_stream_has_not_reached() {
    let mut desk = Desk::new();
    desk.resume_of_an_epoch_that_is_over();
    let next = Epoch::parse("e2").unwrap();
    let told = vec![entry(4, "a", started()), entry(5, "a", holding())];
    // The store is in another epoch already, and this process has not heard of it. To tell seq 5
    // would say that 1 to 3 were told.
    let close = desk.repeat(2, summary_of("a", next, 4), told);
    assert_eq!(close, Some(Close::StreamLost));
    assert!(desk.written().is_empty());
}

#[test]
fn what_two_repeats_ask_for_at_once_is_told_once() {
    let mut desk = Desk::new();
    desk.resume_of_an_epoch_that_is_over();
    let mut replays = Vec::new();
    for id in [2, 3] {
        desk.send(&hold(id, "a"));
        let (ticket, _) = desk.begins().pop().unwrap();
        desk.answer(Answer::Begun(ticket, Ok(Begun::Repeated(summary_of("a", epoch(), 4)))));
        let Some(Ask::Replay(ticket, _)) = desk.asks.pop() else { panic!() };
        replays.push(ticket);
    }
    for ticket in replays {
        let entries = vec![entry(4, "a", started()), entry(5, "a", holding())];
        desk.answer(Answer::Replayed(ticket, Ok(Page { entries, through: 5, more: false })));
    }
    assert_eq!(sketch(&desk.written()), ["=2 4", "a:CallHolding 5", "=3 4"]);
}

#[test]
fn commands_that_a_connection_is_told_again_are_bounded() {
    let mut desk = Desk::new();
    desk.resume_of_an_epoch_that_is_over();
    let mut repeat = |id: &str| {
        let told = vec![entry(4, id, started()), entry(5, id, ended())];
        let ending =
            Ending { outcome: Outcome::Success, remarks: Remarks::default(), failure: None };
        let summary = Summary { ended: Some(ending), ..summary_of(id, epoch(), 4) };
        assert_eq!(desk.repeat(2, summary, told), None);
        desk.written()
    };
    for n in 0..MOST_REPLAYED {
        let written = repeat(&format!("a{n}"));
        assert_eq!(written[0]["result"]["replayed"], true, "{n}");
        assert_eq!(written[1]["params"]["event"], "Ended");
    }
    let one_more = repeat("b");
    assert_eq!((one_more.len(), &one_more[0]["result"]["replayed"]), (1, &json!(false)));
    let again = repeat("a0");
    assert_eq!(
        (again.len(), again[0]["result"].get("replayed")),
        (1, None),
        "what was told is known"
    );
}

#[test]
fn a_command_that_a_repeat_takes_up_is_asked_after() {
    let mut desk = Desk::new();
    desk.resume();
    let summary = summary_of("a", epoch(), 1);
    assert_eq!(desk.repeat(2, summary, vec![entry(1, "a", started())]), None);
    assert!(!desk.session.is_idle());
    desk.now = 6_000;
    desk.with(Session::overdue);
    assert!(matches!(desk.asks.pop(), Some(Ask::Get(..))));
    desk.live(2, "a", ended());
    assert!(!desk.session.has_running());
}

#[test]
fn a_session_that_was_taken_up_does_not_skip_entries_in_silence() {
    let mut desk = Desk::new();
    desk.resume();
    // A command that began before may run, though this connection has heard nothing of it.
    let to = Position { epoch: Epoch::parse("e2").unwrap(), seq: 0 };
    assert_eq!(desk.session.skipped(to), Some(Close::StreamLost));
}

/// It was refused for want of the store, and may have begun all the same: its entries would come
/// without its `Started`.
#[test]
fn a_command_that_may_have_begun_is_not_skipped_in_silence() {
    for (kind, close) in [(Kind::StoreUnavailable, Some(Close::StreamLost)), (Kind::CallBusy, None)]
    {
        let mut desk = Desk::new();
        let params = json!({"callid": "A", "cmd_id": "a"});
        desk.send(&json!({"jsonrpc": "2.0", "id": 1, "method": "CallHold", "params": params}));
        let (ticket, _) = desk.begins().pop().unwrap();
        desk.answer(Answer::Begun(ticket, Err(Refusal::new(kind))));
        let to = Position { epoch: Epoch::parse("e2").unwrap(), seq: 0 };
        assert_eq!(desk.session.skipped(to), close, "{kind:?}");
    }
}

#[test]
fn entries_that_a_repeat_was_promised_are_not_skipped_in_silence() {
    let mut desk = Desk::new();
    let mut over = summary_of("a", epoch(), 5);
    over.ended =
        Some(Ending { outcome: Outcome::Success, remarks: Remarks::default(), failure: None });
    // Its entries were to come without being asked for.
    assert_eq!(desk.repeat(1, over, Vec::new()), None);
    let to = Position { epoch: Epoch::parse("e2").unwrap(), seq: 0 };
    assert_eq!(desk.session.skipped(to), Some(Close::StreamLost));
}

#[test]
fn a_late_started_does_not_answer_a_request_with_other_params() {
    let mut desk = Desk::new();
    // It began, and the answer was lost; its `Started` is still under way to this process.
    desk.repeat(1, summary_of("a", epoch(), 5), Vec::new());
    assert_eq!(desk.written()[0]["result"]["repeated"], true);
    let other = json!({"callid": "other", "cmd_id": "a"});
    desk.send(&json!({"jsonrpc": "2.0", "id": 2, "method": "CallHold", "params": other}));
    let (ticket, _) = desk.begins().pop().unwrap();
    desk.live(5, "a", started());
    desk.answer(Answer::Begun(ticket, Err(Refusal::new(Kind::IdConflict))));
    let written = desk.written();
    assert_eq!(written[0]["params"]["event"], "Started");
    assert_eq!((&written[1]["id"], &written[1]["error"]["code"]), (&json!(2), &json!(-32002)));
}

#[test]
fn after_a_resume_that_failed_nothing_is_told_until_the_next_try() {
    let mut desk = Desk::new();
    let resume = json!({"jsonrpc":"2.0","id":1,"method":"Resume","params":{"session":"s2","epoch":"e1","seq":1}});
    desk.send(&resume);
    assert!(matches!(desk.asks.pop(), Some(Ask::Attach(id)) if id.as_str() == "s2"));
    desk.session.attached(Position { epoch: epoch(), seq: 9 });
    assert!(desk.session.next_page().is_some());
    desk.answer(Answer::Page(Err(Unreadable::Away)));
    assert_eq!(desk.written()[0]["error"]["data"]["kind"], "store_unavailable");
    assert!(matches!(desk.asks.pop(), Some(Ask::Attach(id)) if id == session_id()));
    assert_eq!(desk.session.id(), &session_id());
    desk.send(&resume);
    assert!(matches!(desk.asks.pop(), Some(Ask::Attach(id)) if id.as_str() == "s2"));
}
