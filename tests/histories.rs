//! Histories that were once told wrongly, step by step. Whatever is lost, doubled or late on the
//! way to a stack and back, a client is told only what is so.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::sync::Arc;
use std::time::Duration;

use callplane::core::act::{
    Act, Dialog, DialogState, Facts, NotSent, Op, ReferMark, Refuser, Reply, Sighting,
};
use callplane::core::command::{Command, Ending, Input};
use callplane::core::failure::{Code, Outcome, SipStatus, Up};
use callplane::core::ids::{
    Boot, CallId, CommandId, DialogId, Install, Nonce, OpId, PodId, StackId,
};
use callplane::core::plan::{Capabilities, HoldBy, Plan, ReferBy, Times};
use callplane::core::request::{Leg, Request, StartRequest};
use callplane::core::sip_address::SipAddress;
use callplane::core::stack_event::{StackEvent, TransferState, Uptime};
use callplane::core::time::{Now, StoreTime};

const BEGUN: StoreTime = StoreTime(1_000_000);

fn call(name: &str) -> CallId {
    CallId::parse(name).unwrap()
}

fn dialog_id(name: &str) -> DialogId {
    DialogId::parse(name).unwrap()
}

/// The reference script, at a stack whose dialogs survive a restart.
fn reference() -> Plan {
    Plan {
        stack: StackId::new("s"),
        capabilities: Capabilities {
            start_is_safe: true,
            referral_tokens: true,
            persists_dialogs: true,
            hold: HoldBy::ReInvite,
            refer: ReferBy::Sequential,
        },
        times: Times::default(),
        install: Install::parse("t").unwrap(),
        partition: 0,
        one_start_per_caller: true,
    }
}

/// A stock script: no tokens, and a restart is the end of every dialog.
fn stock() -> Plan {
    let mut plan = reference();
    plan.capabilities.start_is_safe = false;
    plan.capabilities.referral_tokens = false;
    plan.capabilities.persists_dialogs = false;
    plan
}

fn dialog(of: &CallId, state: DialogState) -> Box<Dialog> {
    Box::new(Dialog {
        call: of.clone(),
        id: dialog_id("d.1"),
        state,
        from: Arc::from("sip:a@x.example"),
        to: Arc::from("sip:b@x.example"),
        last_op: None,
        refer: None,
    })
}

/// The life of the stack in which every command begins.
fn first_life() -> Uptime {
    Uptime { boot: Boot::new("first life"), since: StoreTime(1) }
}

/// A full list without the call that was asked for.
fn nothing() -> Box<Sighting> {
    Box::new(Sighting {
        call: None,
        referred: None,
        full: Some(first_life()),
        named_recently: false,
        sent: None,
    })
}

fn missing(of: &CallId) -> Reply {
    Reply::Missing { call: of.clone(), sighting: nothing() }
}

fn restarted() -> StackEvent {
    let since = BEGUN.after(Duration::from_millis(1));
    StackEvent::Restarted(Uptime { boot: Boot::new("second life"), since })
}

fn taken() -> Reply {
    Reply::Done(Facts::Referred { code: 202, transferee: Arc::from("sip:b@x.example") })
}

/// A command that is led through a history by hand.
struct Run {
    command: Command,
    at: StoreTime,
    drawn: u128,
    /// Who steps it.
    pod: &'static str,
}

impl Run {
    fn begin(request: &Request, plan: Plan) -> Self {
        let now = Now { at: BEGUN, nonce: Nonce(1), pod: PodId::new("p") };
        let command = Command::begin(request, Arc::new(plan), Some(first_life()), &now).state;
        Self { command, at: BEGUN, drawn: 1, pod: "p" }
    }

    fn step(&mut self, input: &Input) {
        self.drawn += 7;
        let nonce = Nonce(self.drawn.wrapping_mul(0x1234_5678_9abc_def1));
        let now = Now { at: self.at, nonce, pod: PodId::new(self.pod) };
        if let Some(step) = self.command.step(input, &now) {
            self.command = step.state;
        }
    }

    /// The one open operation with this verb.
    fn open(&self, verb: &str) -> (OpId, Act) {
        let open: Vec<_> = self.command.open().iter().filter(|op| op.act.verb() == verb).collect();
        assert_eq!(open.len(), 1, "{verb}: {:#?}", self.command);
        (open[0].id.clone(), open[0].act.clone())
    }

    fn asks(&self, verb: &str) -> bool {
        self.command.open().iter().any(|op| op.act.verb() == verb)
    }

    fn answer(&mut self, verb: &str, reply: Reply) {
        let (op, _) = self.open(verb);
        self.step(&Input::Replied { op, reply });
    }

    fn happens(&mut self, event: StackEvent) {
        self.step(&Input::Happened(event));
    }

    fn dialog(&mut self, of: &CallId, state: DialogState) {
        let event = StackEvent::Dialog { call: of.clone(), dialog: dialog_id("d.1"), state };
        self.happens(event);
    }

    /// A second dialog with the same Call-ID.
    fn another_dialog(&mut self, of: &CallId, state: DialogState) {
        let event = StackEvent::Dialog { call: of.clone(), dialog: dialog_id("d.2"), state };
        self.happens(event);
    }

    /// Lets time pass until something is due.
    fn due(&mut self) {
        self.at = self.at.max(self.command.due().expect("it runs"));
        self.step(&Input::Due);
    }

    fn ending(&self) -> &Ending {
        self.command.ending().unwrap_or_else(|| panic!("it runs: {:#?}", self.command.progress))
    }

    #[track_caller]
    fn ended(&self, outcome: Outcome, code: Code, up: Up) {
        let ending = self.ending();
        let error = ending.error.as_ref().unwrap_or_else(|| panic!("no error: {ending:#?}"));
        assert_eq!((ending.outcome, error.code, error.up), (outcome, code, up), "{ending:#?}");
    }
}

mod ending_a_call {
    use super::*;

    fn end() -> Run {
        Run::begin(&Request::End { call: call("A") }, reference())
    }

    /// The first request was lost on its way, and nobody knows such a call.
    #[test]
    fn a_call_that_nobody_knows_was_not_ended() {
        let mut run = end();
        run.answer("end", Reply::Silent);
        run.due();
        run.answer("end", missing(&call("A")));
        run.ended(Outcome::Failed, Code::CallNotFound, Up::No);
    }

    #[test]
    fn a_call_that_the_stack_began_to_end_and_that_is_gone_was_ended() {
        let mut run = end();
        run.answer("end", Reply::Done(Facts::Nothing));
        run.dialog(&call("A"), DialogState::Confirmed);
        assert!(!run.asks("end"), "the end may be on its way: a second BYE is one too many");
        run.due();
        run.answer("end", missing(&call("A")));
        assert_eq!(run.ending().outcome, Outcome::Success);
    }

    /// The stack died after it took the first one.
    #[test]
    fn a_request_that_may_have_been_carried_out_is_not_told_as_never_sent() {
        let mut run = end();
        run.answer("end", Reply::Silent);
        run.due();
        run.answer("end", Reply::NotSent(NotSent::Unreachable));
        let outcome = Outcome::Unknown { up: Up::Unknown };
        run.ended(outcome, Code::StackUnreachable, Up::Unknown);
    }

    #[test]
    fn a_first_request_that_never_left_is_told_as_never_sent() {
        let mut run = end();
        run.answer("end", Reply::NotSent(NotSent::Unreachable));
        run.ended(Outcome::NotStarted, Code::StackUnreachable, Up::Unknown);
    }

    /// It rang; the phone's 200 crossed our CANCEL, and its event came before the stack's OK.
    #[test]
    fn an_answer_that_crossed_the_end_is_ended_again_though_it_was_told_before_the_reply() {
        let mut run = end();
        run.dialog(&call("A"), DialogState::Answered);
        run.answer("end", Reply::Done(Facts::Nothing));
        run.due();
        assert!(run.asks("end"), "success told with the call up: {:#?}", run.command.progress);
        run.answer("end", Reply::Done(Facts::Nothing));
        run.dialog(&call("A"), DialogState::Deleted);
        assert_eq!(run.ending().outcome, Outcome::Success);
    }

    /// It rang, and no event came: the phone's answer may have crossed our CANCEL.
    #[test]
    fn an_end_of_which_no_event_tells_is_looked_at_before_it_is_told() {
        for (seen, told) in [(None, true), (Some(DialogState::Confirmed), false)] {
            let mut run = end();
            run.answer("end", Reply::Done(Facts::Nothing));
            run.due();
            let call = seen.map(|state| dialog(&call("A"), state));
            let sighting = Box::new(Sighting { call, ..*nothing() });
            run.answer("look", Reply::Done(Facts::Looked(sighting)));
            assert_eq!(run.command.outcome().is_some(), told);
            assert_eq!(run.asks("end"), !told, "what came up is ended");
        }
    }

    #[test]
    fn a_call_that_comes_up_after_every_end_is_not_told_as_ended() {
        let mut run = end();
        for _ in 0..8 {
            if run.command.outcome().is_some() {
                break;
            }
            run.dialog(&call("A"), DialogState::Confirmed);
            if run.asks("end") {
                run.answer("end", Reply::Done(Facts::Nothing));
            } else {
                run.due();
            }
        }
        run.ended(Outcome::Unknown { up: Up::Unknown }, Code::ReplyLost, Up::Unknown);
    }

    /// Its answer may have crossed our CANCEL, and events are lost.
    #[test]
    fn a_call_that_no_list_shows_as_gone_is_not_told_as_ended() {
        for listed in [true, false] {
            let mut run = end();
            run.answer("end", Reply::Done(Facts::Nothing));
            run.due();
            let mut seen = nothing();
            seen.full = seen.full.filter(|_| listed);
            run.answer("look", Reply::Done(Facts::Looked(seen)));
            if listed {
                assert_eq!(run.ending().outcome, Outcome::Success);
            } else {
                assert!(run.asks("end"), "{:#?}", run.command);
                let mut sighting = nothing();
                sighting.full = None;
                run.answer("end", Reply::Missing { call: call("A"), sighting });
                assert_ne!(run.command.outcome(), Some(&Outcome::Success));
            }
        }
    }

    /// The stack did not find it by its Call-ID, and then only its dead dialog.
    #[test]
    fn a_dead_dialog_in_front_of_the_live_one_is_not_the_end_of_the_call() {
        let mut run = end();
        run.another_dialog(&call("A"), DialogState::Confirmed);
        let call_seen = Some(dialog(&call("A"), DialogState::Deleted));
        let sighting = Box::new(Sighting { call: call_seen, ..*nothing() });
        run.answer("end", Reply::Missing { call: call("A"), sighting });
        assert_eq!(run.command.outcome(), None, "it is up");
        run.answer("end", Reply::Done(Facts::Nothing));
        run.another_dialog(&call("A"), DialogState::Deleted);
        assert_eq!(run.ending().outcome, Outcome::Success);
    }

    /// Two dialogs may carry one Call-ID, and the one whose INVITE was challenged dies.
    #[test]
    fn the_end_of_a_dead_dialog_is_not_the_end_of_the_call() {
        let mut run = end();
        run.dialog(&call("A"), DialogState::Early);
        run.another_dialog(&call("A"), DialogState::Deleted);
        assert_eq!(run.command.outcome(), None);
    }
}

mod starting {
    use super::*;

    /// A restart is noticed some seconds late, and a start began in between.
    #[test]
    fn a_restart_ends_only_what_began_before_it() {
        let since = |boot, at| {
            StackEvent::Restarted(Uptime { boot: Boot::new(boot), since: StoreTime(at) })
        };
        let mut run = start(stock());
        run.happens(since("second life", BEGUN.0 - 2_000));
        assert_eq!(run.command.outcome(), None, "it runs in the new life");
        // Whole seconds: asked at another moment, the same life may seem to be younger.
        run.happens(since("second life", BEGUN.0 + 1));
        assert_eq!(run.command.outcome(), None, "that is no news");
        run.happens(since("third life", BEGUN.0 + 1));
        run.ended(Outcome::Unknown { up: Up::Unknown }, Code::StackRestarted, Up::Unknown);
    }

    /// The same, of an operation: it may well be answered by the new life.
    #[test]
    fn a_restart_takes_the_replies_only_of_what_was_asked_before_it() {
        let mut run = start(reference());
        run.at = run.at.after(Duration::from_secs(5));
        run.step(&Input::Cancel);
        let since = BEGUN.after(Duration::from_secs(3));
        run.happens(StackEvent::Restarted(Uptime { boot: Boot::new("second life"), since }));
        assert!(run.asks("cancel_invite"));
        assert!(!run.asks("invite"));
    }

    fn start(plan: Plan) -> Run {
        let sip = |text| SipAddress::parse(text).unwrap();
        let request = StartRequest {
            caller: sip("sip:a@x.example"),
            callee: sip("sip:b@x.example"),
            ring_timeout: None,
            display: None,
            auto_answer: false,
            ringing: false,
        };
        Run::begin(&Request::Start(request), plan)
    }

    fn setup_leg(run: &Run) -> CallId {
        let Act::Invite { call, .. } = run.open("invite").1 else { panic!("not an INVITE") };
        call
    }

    fn never_sent() -> Reply {
        let sighting = Sighting { sent: Some(false), ..*nothing() };
        Reply::Done(Facts::Looked(Box::new(sighting)))
    }

    /// The caller's phone rings on, and the stack's memory of the INVITE is gone.
    #[test]
    fn a_start_is_not_repeated_on_the_word_of_a_stack_that_restarted() {
        let mut run = start(reference());
        run.happens(restarted());
        run.answer("look", never_sent());
        assert!(!run.asks("invite"), "a second INVITE to a ringing phone");
        run.due();
        run.answer("look", never_sent());
        run.ended(Outcome::Unknown { up: Up::Unknown }, Code::StackRestarted, Up::Unknown);
    }

    #[test]
    fn a_start_is_repeated_where_the_proxy_says_that_it_never_sent_it() {
        let mut run = start(reference());
        run.answer("invite", Reply::Silent);
        run.answer("look", never_sent());
        assert!(run.asks("invite"));
    }

    fn refused(code: u16) -> Reply {
        Reply::Refused { by: Refuser::Phone, code, reason: Arc::from("Busy Here") }
    }

    /// The caller has two phones: one answered, the other's refusal is what the stack tells.
    #[test]
    fn a_leg_that_was_seen_answered_is_not_gone_by_a_refusal() {
        let mut run = start(reference());
        let setup = setup_leg(&run);
        run.dialog(&setup, DialogState::Confirmed);
        run.answer("invite", refused(486));
        assert_eq!(run.command.outcome(), None, "a leg is left up");
        run.answer("look", looked(&setup, DialogState::Confirmed));
        assert!(run.asks("refer"));
    }

    #[test]
    fn a_leg_that_came_up_while_it_was_given_up_is_not_gone_by_a_refusal() {
        let mut run = start(reference());
        let setup = setup_leg(&run);
        run.step(&Input::Cancel);
        run.dialog(&setup, DialogState::Confirmed);
        run.answer("invite", refused(486));
        assert!(run.asks("end"), "a leg is left up: {:#?}", run.command.progress);
        run.dialog(&setup, DialogState::Deleted);
        run.ended(Outcome::Cancelled, Code::Cancelled, Up::No);
    }

    /// The reply was lost, and the look finds the dead dialog of a challenged INVITE first.
    #[test]
    fn a_dead_dialog_in_front_of_the_live_one_does_not_end_a_start() {
        let mut run = start(reference());
        let setup = setup_leg(&run);
        run.another_dialog(&setup, DialogState::Early);
        run.answer("invite", Reply::Silent);
        run.answer("look", looked(&setup, DialogState::Deleted));
        assert_eq!(run.command.outcome(), None, "its phone rings");
        run.another_dialog(&setup, DialogState::Confirmed);
        assert!(run.asks("refer"));
    }

    fn looked(of: &CallId, state: DialogState) -> Reply {
        let call = Some(dialog(of, state));
        Reply::Done(Facts::Looked(Box::new(Sighting { call, full: None, ..*nothing() })))
    }

    #[test]
    fn a_start_is_not_repeated_where_the_proxy_can_not_say_whether_it_sent_it() {
        let mut run = start(reference());
        run.answer("invite", Reply::Silent);
        run.answer("look", Reply::Done(Facts::Looked(nothing())));
        assert!(!run.asks("invite"));
    }

    /// The callee's phone rings, and nothing of that gets through to us.
    #[test]
    fn a_start_that_can_not_be_followed_does_not_say_that_nothing_is_up() {
        let mut run = start(reference());
        let setup = setup_leg(&run);
        run.answer("invite", Reply::Done(Facts::Answered { takes_refer: None }));
        run.dialog(&setup, DialogState::Confirmed);
        run.answer("refer", taken());
        run.due();
        let call = Some(dialog(&setup, DialogState::Confirmed));
        let unlisted = Sighting { call, full: None, ..*nothing() };
        run.answer("look", Reply::Done(Facts::Looked(Box::new(unlisted))));
        run.answer("revoke", Reply::Done(Facts::Nothing));
        run.answer("end", Reply::Done(Facts::Nothing));
        run.dialog(&setup, DialogState::Deleted);
        run.due();
        run.ended(Outcome::Unknown { up: Up::Unknown }, Code::ReplyLost, Up::Unknown);
    }

    /// A process that was stopped for minutes finds the deadline passed, and the phone answered.
    #[test]
    fn a_start_that_ends_without_seeing_its_setup_leg_end_names_it() {
        let mut run = start(reference());
        let setup = setup_leg(&run);
        run.at = run.command.deadline;
        run.step(&Input::Due);
        let outcome = Outcome::Unknown { up: Up::Unknown };
        run.ended(outcome, Code::DeadlinePassed, Up::Unknown);
        assert_eq!(run.command.orphan(), Some(&setup));
    }

    /// Its caller took the REFER, and so many calls are up that no list can be read.
    fn start_that_is_lost() -> (Run, CallId) {
        let mut run = start(reference());
        let setup = setup_leg(&run);
        run.answer("invite", Reply::Done(Facts::Answered { takes_refer: None }));
        run.dialog(&setup, DialogState::Confirmed);
        run.answer("refer", taken());
        run.due();
        run.answer("look", Reply::Silent);
        run.answer("revoke", Reply::Done(Facts::Nothing));
        (run, setup)
    }

    #[test]
    fn a_start_that_nobody_knows_the_end_of_names_no_setup_leg_that_was_seen_to_end() {
        let (mut run, setup) = start_that_is_lost();
        run.dialog(&setup, DialogState::Deleted);
        run.due();
        run.ended(Outcome::Unknown { up: Up::Unknown }, Code::ReplyLost, Up::Unknown);
        assert_eq!(run.command.orphan(), None);
    }

    #[test]
    fn a_start_whose_deadline_passes_while_its_setup_leg_ends_names_it() {
        let (mut run, setup) = start_that_is_lost();
        run.at = run.command.deadline;
        run.step(&Input::Due);
        let outcome = Outcome::Unknown { up: Up::Unknown };
        run.ended(outcome, Code::DeadlinePassed, Up::Unknown);
        assert_eq!(run.command.orphan(), Some(&setup));
    }

    /// Its end was asked for twice, and no look says that it is gone.
    #[test]
    fn a_start_that_leaves_its_setup_leg_up_names_it() {
        let (mut run, setup) = start_that_is_lost();
        while run.command.outcome().is_none() {
            for verb in ["end", "look"] {
                if run.asks(verb) {
                    run.answer(verb, Reply::Silent);
                }
            }
            if run.command.outcome().is_none() {
                run.due();
            }
        }
        assert!(run.ending().remarks.leg_left_up);
        assert_eq!(run.command.orphan(), Some(&setup));
    }

    #[test]
    fn a_start_that_was_refused_leaves_no_leg() {
        let mut run = start(reference());
        let reason = Arc::from("Busy Here");
        run.answer("invite", Reply::Refused { by: Refuser::Phone, code: 486, reason });
        run.ended(Outcome::Failed, Code::CallerBusy, Up::No);
        assert_eq!(run.command.orphan(), None);
    }

    /// A start was repeated and then given up; that the proxy knows it proves that it rings.
    #[test]
    fn a_repeated_start_that_the_proxy_knows_is_ended_when_it_was_given_up() {
        let known = || Reply::Done(Facts::Adopted);
        for reply in [known(), Reply::NotSent(NotSent::Unreachable)] {
            let mut run = start(reference());
            run.answer("invite", Reply::Silent);
            run.answer("look", never_sent());
            run.step(&Input::Cancel);
            run.answer("invite", reply);
            assert!(run.asks("end"), "{:#?}", run.command.progress);
        }
    }

    /// An INVITE was challenged: its first dialog is dead, and the event of that comes late.
    #[test]
    fn the_end_of_a_dead_dialog_is_not_the_end_of_the_setup_leg() {
        let mut run = start(reference());
        let setup = setup_leg(&run);
        run.dialog(&setup, DialogState::Early);
        run.answer("invite", Reply::Done(Facts::Answered { takes_refer: None }));
        run.another_dialog(&setup, DialogState::Deleted);
        run.dialog(&setup, DialogState::Confirmed);
        run.answer("refer", taken());
        run.another_dialog(&setup, DialogState::Deleted);
        run.step(&Input::Cancel);
        assert!(run.asks("end"), "it is still up");
    }

    #[test]
    fn a_setup_leg_that_ended_before_its_answer_came_is_not_ended_again() {
        let mut run = start(reference());
        let setup = setup_leg(&run);
        run.dialog(&setup, DialogState::Deleted);
        run.answer("invite", Reply::Done(Facts::Answered { takes_refer: Some(false) }));
        assert_eq!(run.ending().outcome, Outcome::Failed);
    }

    /// Presence proves: what the stack says of the request does not undo it.
    #[test]
    fn a_start_whose_phone_was_seen_to_ring_is_not_told_as_never_sent() {
        for reply in [Reply::NotSent(NotSent::TooLate), refused_by_stack()] {
            let mut run = start(stock());
            let setup = setup_leg(&run);
            run.dialog(&setup, DialogState::Early);
            run.answer("invite", reply);
            assert!(run.asks("look"), "{:#?}", run.command.progress);
        }
    }

    fn refused_by_stack() -> Reply {
        Reply::Refused { by: Refuser::Stack, code: 500, reason: Arc::from("No") }
    }

    #[test]
    fn a_cancelled_start_is_not_told_while_its_second_dialog_is_up() {
        let mut run = start(reference());
        let setup = setup_leg(&run);
        run.another_dialog(&setup, DialogState::Early);
        run.answer("invite", Reply::Done(Facts::Answered { takes_refer: None }));
        run.step(&Input::Cancel);
        run.dialog(&setup, DialogState::Deleted);
        assert_eq!(run.command.outcome(), None, "the other one is up");
        run.another_dialog(&setup, DialogState::Deleted);
        run.ended(Outcome::Cancelled, Code::Cancelled, Up::No);
    }

    #[test]
    fn a_look_that_comes_late_tells_a_cancelled_start_that_its_leg_is_over() {
        let mut run = start(stock());
        let setup = setup_leg(&run);
        run.answer("invite", Reply::Silent);
        run.step(&Input::Cancel);
        let call = Some(dialog(&setup, DialogState::Deleted));
        let over = Sighting { call, ..*nothing() };
        run.answer("look", Reply::Done(Facts::Looked(Box::new(over))));
        run.ended(Outcome::Cancelled, Code::Cancelled, Up::No);
    }
}

mod holding {
    use super::*;

    #[test]
    fn the_end_of_a_dead_dialog_is_not_the_end_of_the_held_call() {
        let mut run = Run::begin(&Request::Hold { call: call("A") }, reference());
        run.dialog(&call("A"), DialogState::Confirmed);
        run.another_dialog(&call("A"), DialogState::Deleted);
        assert_eq!(run.command.outcome(), None);
        run.dialog(&call("A"), DialogState::Deleted);
        run.ended(Outcome::Failed, Code::CallEnded, Up::No);
    }

    /// It may be held from before: only who wrote the mark may take it back.
    #[test]
    fn a_hold_that_was_not_sent_leaves_the_mark_of_an_earlier_one() {
        for reply in [
            Reply::NotSent(NotSent::TooLate),
            Reply::Refused { by: Refuser::Stack, code: 500, reason: Arc::from("no memory") },
            Reply::Refused { by: Refuser::Phone, code: 488, reason: Arc::from("Not Here") },
        ] {
            let mut run = Run::begin(&Request::Hold { call: call("A") }, reference());
            run.answer("reinvite", reply);
            assert!(!run.asks("mark"));
            run.ending();
        }
    }

    /// Its performer died. The reference script's mark tells whether it had sent the offer.
    #[test]
    fn an_offer_that_was_never_sent_leaves_no_doubt() {
        for request in [Request::Hold { call: call("A") }, Request::Unhold { call: call("A") }] {
            let hold = matches!(request, Request::Hold { .. });
            let mut run = Run::begin(&request, reference());
            run.answer("reinvite", Reply::Silent);
            run.answer("look", sent(Some(false)));
            if hold {
                // The call may have been marked for it.
                assert_eq!(run.open("mark").1, Act::Mark { call: call("A"), held: false });
                run.answer("mark", Reply::Done(Facts::Nothing));
            }
            run.ended(Outcome::NotStarted, Code::StackUnreachable, Up::Unknown);

            let mut run = Run::begin(&request, reference());
            run.answer("reinvite", Reply::Done(Facts::Nothing));
            run.answer("reinvite", Reply::Silent);
            run.answer("look", sent(Some(false)));
            // The other leg is put back.
            run.answer("reinvite", Reply::Done(Facts::Nothing));
            assert_eq!(run.open("mark").1, Act::Mark { call: call("A"), held: !hold });
            run.answer("mark", Reply::Done(Facts::Nothing));
            run.ended(Outcome::Failed, Code::StackUnreachable, Up::Unknown);
        }
    }

    #[test]
    fn an_offer_that_may_have_been_sent_leaves_a_doubt() {
        let unknown = Outcome::Unknown { up: Up::Unknown };
        for told in [sent(Some(true)), sent(None), Reply::Silent] {
            let mut run = Run::begin(&Request::Hold { call: call("A") }, reference());
            run.answer("reinvite", Reply::Silent);
            run.answer("look", told);
            run.ended(unknown, Code::ReplyLost, Up::Unknown);
        }
        for told in [sent(None), Reply::Silent] {
            let mut run = Run::begin(&Request::Hold { call: call("A") }, stock());
            run.answer("reinvite", Reply::Silent);
            run.answer("look", told);
            run.ended(unknown, Code::ReplyLost, Up::Unknown);
        }
    }

    /// Its performer died while it looked for a call that had ended before.
    #[test]
    fn a_hold_that_nobody_answered_fails_where_there_is_no_call() {
        let gone = || Reply::Done(Facts::Looked(nothing()));
        for plan in [stock(), reference()] {
            let mut run = Run::begin(&Request::Hold { call: call("A") }, plan);
            run.answer("reinvite", Reply::Silent);
            run.answer("look", gone());
            run.ended(Outcome::Failed, Code::CallNotFound, Up::No);
        }

        // Once a leg took its offer the call was there: it takes two lists to say that it is gone.
        let mut run = Run::begin(&Request::Unhold { call: call("A") }, stock());
        run.answer("reinvite", Reply::Done(Facts::Nothing));
        run.answer("reinvite", Reply::Silent);
        run.answer("look", gone());
        run.due();
        run.answer("look", gone());
        run.ended(Outcome::Failed, Code::CallEnded, Up::No);
    }

    #[test]
    fn a_hold_by_the_stack_that_nobody_answered_fails_where_there_is_no_call() {
        let mut plan = stock();
        plan.capabilities.hold = HoldBy::Stack;
        let silent = |told| {
            let mut run = Run::begin(&Request::Hold { call: call("A") }, plan.clone());
            run.answer("stack_hold", Reply::Silent);
            run.due();
            run.answer("look", told);
            run
        };
        silent(Reply::Done(Facts::Looked(nothing()))).ended(
            Outcome::Failed,
            Code::CallNotFound,
            Up::No,
        );
        let unknown = Outcome::Unknown { up: Up::Unknown };
        silent(sent(None)).ended(unknown, Code::ReplyLost, Up::Unknown);
        silent(Reply::Silent).ended(unknown, Code::ReplyLost, Up::Unknown);
    }

    /// The commit that opened it took too long. That tells nothing of the call.
    #[test]
    fn a_look_that_came_too_late_is_made_again() {
        let mut run = Run::begin(&Request::Hold { call: call("A") }, stock());
        run.answer("reinvite", Reply::Silent);
        let (look, _) = run.open("look");
        run.at = run.at.after(Duration::from_secs(1));
        run.answer("look", Reply::NotSent(NotSent::TooLate));
        assert_eq!(run.open("look").0, look);
        assert!(run.command.open()[0].send_before > run.at);
        run.answer("look", Reply::Done(Facts::Looked(nothing())));
        run.ended(Outcome::Failed, Code::CallNotFound, Up::No);
    }

    /// A look changes nothing: whoever notices that its performer died makes it again.
    #[test]
    fn a_look_whose_performer_died_is_made_again() {
        let mut run = Run::begin(&Request::Hold { call: call("A") }, stock());
        run.answer("reinvite", Reply::Silent);
        let (look, _) = run.open("look");
        run.pod = "q";
        run.at = run.at.after(Duration::from_secs(5));
        run.step(&Input::Doubt { op: look.clone() });
        assert_eq!(run.open("look").0, look, "under its old name: a late answer counts too");
        assert_eq!(run.command.open()[0].by, PodId::new("q"));
        run.answer("look", Reply::Done(Facts::Looked(nothing())));
        run.ended(Outcome::Failed, Code::CallNotFound, Up::No);
    }

    fn sent(sent: Option<bool>) -> Reply {
        let call = Some(dialog(&call("A"), DialogState::Confirmed));
        Reply::Done(Facts::Looked(Box::new(Sighting { call, sent, ..*nothing() })))
    }

    /// The callee refuses and the caller can't be put back: nobody may say that nobody is held.
    #[test]
    fn a_hold_that_can_not_be_undone_is_not_told_as_undone() {
        let refused = || {
            let reason = Arc::from("Not Acceptable Here");
            Reply::Refused { by: Refuser::Phone, code: 488, reason }
        };
        for (undone, outcome, up) in [
            (Reply::Done(Facts::Nothing), Outcome::Failed, Up::Yes),
            (refused(), Outcome::Unknown { up: Up::Yes }, Up::Yes),
            (Reply::Silent, Outcome::Unknown { up: Up::Unknown }, Up::Unknown),
        ] {
            let put_back = undone == Reply::Done(Facts::Nothing);
            for request in [Request::Hold { call: call("A") }, Request::Unhold { call: call("A") }]
            {
                let mut run = Run::begin(&request, reference());
                run.answer("reinvite", Reply::Done(Facts::Nothing));
                run.answer("reinvite", refused());
                run.answer("reinvite", undone.clone());
                let held = !put_back || matches!(request, Request::Unhold { .. });
                assert_eq!(run.open("mark").1, Act::Mark { call: call("A"), held });
                run.answer("mark", Reply::Done(Facts::Nothing));
                run.ended(outcome, Code::LegRefused, up);
            }
        }
    }
}

mod transferring {
    use super::*;

    fn blind(plan: Plan) -> Run {
        let destination = SipAddress::parse("sip:c@x.example").unwrap();
        let request = Request::BlindTransfer { call: call("A"), leg: Leg::Callee, destination };
        Run::begin(&request, plan)
    }

    fn attended(plan: Plan) -> Run {
        let (call, consult) = (call("A"), call("B"));
        let (leg, consult_leg) = (Leg::Callee, Leg::Callee);
        Run::begin(&Request::AttendedTransfer { call, leg, consult, consult_leg }, plan)
    }

    /// A `CallEnd` overtakes the transfer; the call is seen to end before that is told.
    #[test]
    fn an_overtaken_transfer_says_what_became_of_its_call() {
        let mut run = blind(reference());
        run.answer("refer", taken());
        run.step(&Input::Ending { by: CommandId::parse("end").unwrap() });
        run.dialog(&call("A"), DialogState::Deleted);
        run.answer("revoke", Reply::Done(Facts::Nothing));
        run.due();
        run.ended(Outcome::Cancelled, Code::Cancelled, Up::No);
    }

    #[test]
    fn an_overtaken_transfer_does_not_say_that_its_call_is_up() {
        let mut run = blind(reference());
        run.answer("refer", taken());
        run.step(&Input::Ending { by: CommandId::parse("end").unwrap() });
        run.answer("revoke", Reply::Done(Facts::Nothing));
        run.due();
        run.ended(Outcome::Cancelled, Code::Cancelled, Up::Unknown);
    }

    #[test]
    fn a_cancelled_transfer_leaves_its_call_up() {
        let mut run = blind(reference());
        run.answer("refer", taken());
        run.step(&Input::Cancel);
        run.answer("revoke", Reply::Done(Facts::Nothing));
        run.due();
        run.ended(Outcome::Cancelled, Code::Cancelled, Up::Yes);
    }

    #[test]
    fn a_transfer_cancelled_before_its_call_was_found_does_not_say_that_it_is_up() {
        let mut run = blind(reference());
        run.step(&Input::Cancel);
        run.answer("refer", missing(&call("A")));
        run.ended(Outcome::Cancelled, Code::Cancelled, Up::Unknown);
    }

    /// Anybody can raise a transfer event with an invented call; it is looked at, and the answer may
    /// come late.
    #[test]
    fn a_look_at_another_call_does_not_tell_whether_the_call_is_up() {
        let mut run = blind(stock());
        let forged = StackEvent::Transfer {
            call: call("A"),
            new_call: Some(call("forged")),
            destination: None,
            state: TransferState::Start,
        };
        run.happens(forged);
        let (late, _) = run.open("look");
        let refused = Reply::Refused { by: Refuser::Phone, code: 603, reason: Arc::from("No") };
        run.answer("refer", refused);
        let dead =
            Sighting { call: Some(dialog(&call("forged"), DialogState::Deleted)), ..*nothing() };
        run.step(&Input::Replied { op: late, reply: Reply::Done(Facts::Looked(Box::new(dead))) });
        assert_eq!(run.command.outcome(), None, "that was another call");
        run.answer("look", unmarked());
        run.ended(Outcome::Failed, Code::ReferRefused, Up::Yes);
    }

    /// The REFER was never answered, and the phone may follow it late.
    #[test]
    fn a_late_call_is_ruled_out_only_once_the_token_is_void() {
        let silent = Reply::Refused { by: Refuser::Phone, code: 408, reason: Arc::from("Timeout") };
        let void = Reply::Done(Facts::Nothing);
        for (answer, called, may_still_ring) in
            [(&void, false, false), (&Reply::Silent, false, true), (&void, true, true)]
        {
            let mut run = blind(reference());
            let (token, _) = run.open("refer");
            run.answer("refer", silent.clone());
            run.answer("look", unmarked());
            assert_eq!(run.command.outcome(), None, "the token is not known to be void");
            if called {
                let (new_call, state) = (call("late"), TransferState::Start);
                run.happens(StackEvent::Referral { token, new_call, destination: None, state });
            }
            run.answer("revoke", answer.clone());
            run.ended(Outcome::Failed, Code::ReferTimeout, Up::Yes);
            assert_eq!(run.ending().remarks.may_still_ring, may_still_ring);
        }
    }

    /// Nothing was asked of a phone, so nothing was begun.
    #[test]
    fn a_transfer_whose_call_can_not_be_found_out_about_has_failed() {
        let mut run = blind(reference());
        let sighting = Box::new(Sighting { named_recently: true, ..*nothing() });
        run.answer("refer", Reply::Missing { call: call("A"), sighting });
        run.due();
        run.answer("look", Reply::Silent);
        run.ended(Outcome::Failed, Code::CallNotFound, Up::Unknown);
    }

    /// That the consultation is not there says nothing of the call itself.
    #[test]
    fn a_transfer_without_its_consultation_looks_whether_the_call_is_up() {
        let mut run = attended(reference());
        run.answer("refer", missing(&call("B")));
        let sighting =
            Sighting { call: Some(dialog(&call("A"), DialogState::Confirmed)), ..*nothing() };
        run.answer("look", Reply::Done(Facts::Looked(Box::new(sighting))));
        run.ended(Outcome::Failed, Code::CallNotFound, Up::Yes);
    }

    /// A REFER's mark on its call may be gone after a restart, so its absence proves nothing.
    #[test]
    fn a_refer_is_not_told_as_never_sent_on_the_word_of_a_stack_that_restarted() {
        for restarts in [false, true] {
            let mut run = blind(reference());
            run.answer("refer", Reply::Silent);
            if restarts {
                run.happens(restarted());
                let looks: Vec<OpId> = run.command.open().iter().map(|op| op.id.clone()).collect();
                for op in looks {
                    run.step(&Input::Replied { op, reply: unmarked() });
                }
                run.due();
            }
            run.answer("look", unmarked());
            if restarts {
                run.answer("look", unmarked());
                run.answer("revoke", Reply::Done(Facts::Nothing));
                run.ended(Outcome::Unknown { up: Up::Yes }, Code::ReplyLost, Up::Yes);
            } else {
                run.ended(Outcome::NotStarted, Code::StackUnreachable, Up::Unknown);
            }
        }
    }

    /// What callops notes on a call stays there: it may be the call that an earlier REFER brought about.
    #[test]
    fn a_call_that_an_earlier_refer_brought_about_is_not_told_as_placed() {
        let mut run = blind(stock());
        run.answer("refer", taken());
        run.due();
        let refer = Some(ReferMark::Placed(call("older")));
        let call = Some(Box::new(Dialog { refer, ..*dialog(&call("A"), DialogState::Confirmed) }));
        let over = Sighting { call, full: None, ..*nothing() };
        run.answer("look", Reply::Done(Facts::Looked(Box::new(over))));
        run.answer("look", unmarked());
        run.ended(Outcome::Unknown { up: Up::Yes }, Code::ReplyLost, Up::Yes);
    }

    fn unmarked() -> Reply {
        let call = Some(dialog(&call("A"), DialogState::Confirmed));
        Reply::Done(Facts::Looked(Box::new(Sighting { call, ..*nothing() })))
    }

    fn no_list() -> Box<Sighting> {
        let call = Some(dialog(&call("A"), DialogState::Confirmed));
        Box::new(Sighting { call, full: None, ..*nothing() })
    }

    /// The token's events were lost, and so many calls are up that no list can be read.
    #[test]
    fn a_phone_is_not_said_to_ignore_a_refer_where_no_list_was_read() {
        let mut run = blind(reference());
        run.answer("refer", taken());
        run.due();
        run.answer("look", Reply::Done(Facts::Looked(no_list())));
        run.answer("look", Reply::Done(Facts::Looked(no_list())));
        run.answer("revoke", Reply::Done(Facts::Nothing));
        run.ended(Outcome::Unknown { up: Up::Yes }, Code::ReplyLost, Up::Yes);
    }

    #[test]
    fn a_phone_ignored_a_refer_where_a_complete_list_shows_no_call() {
        let mut run = blind(reference());
        run.answer("refer", taken());
        run.due();
        run.answer("look", unmarked());
        run.answer("look", unmarked());
        run.answer("revoke", Reply::Done(Facts::Nothing));
        run.ended(Outcome::Failed, Code::ReferIgnored, Up::Yes);
    }

    /// The phone hangs up, and may dial all the same while its token lives.
    fn hung_up_with_its_refer_out(plan: Plan) -> Run {
        let mut run = blind(plan);
        run.answer("refer", taken());
        run.dialog(&call("A"), DialogState::Deleted);
        run.due();
        run
    }

    #[test]
    fn no_call_is_said_to_be_up_only_once_the_token_of_an_ended_call_is_void() {
        let mut run = hung_up_with_its_refer_out(reference());
        run.answer("look", unseen());
        assert_eq!(run.command.outcome(), None, "its phone may dial until the token is void");
        run.answer("revoke", Reply::Done(Facts::Nothing));
        run.due();
        run.ended(Outcome::Failed, Code::CallEnded, Up::No);
        assert!(!run.ending().remarks.may_still_ring);
    }

    /// It dialled just before the token was void.
    #[test]
    fn a_call_that_comes_up_after_its_call_ended_is_ended() {
        let mut run = hung_up_with_its_refer_out(reference());
        run.answer("look", unseen());
        let Act::Revoke { token } = run.open("revoke").1 else { panic!() };
        let (new_call, state) = (call("new"), TransferState::Start);
        run.happens(StackEvent::Referral { token, new_call, destination: None, state });
        run.answer("revoke", Reply::Done(Facts::Nothing));
        let Act::End { call: ended } = run.open("end").1 else { panic!() };
        assert_eq!(ended, call("new"));
        run.answer("end", Reply::Done(Facts::Nothing));
        run.dialog(&call("new"), DialogState::Deleted);
        run.due();
        run.ended(Outcome::Failed, Code::CallEnded, Up::No);
    }

    /// No list was read: whether the phone calls by another way can't be known.
    #[test]
    fn the_token_of_an_ended_call_is_voided_where_nobody_knows_what_came_of_it() {
        let mut run = hung_up_with_its_refer_out(reference());
        run.answer("look", Reply::Silent);
        run.answer("revoke", Reply::Done(Facts::Nothing));
        run.due();
        let outcome = Outcome::Unknown { up: Up::Unknown };
        run.ended(outcome, Code::ReplyLost, Up::Unknown);
    }

    fn timed_out() -> Reply {
        let reason = Arc::from("Request Timeout");
        Reply::Refused { by: Refuser::Phone, code: 408, reason }
    }

    /// Its answer to the REFER was lost, so it may have taken it.
    #[test]
    fn the_token_of_an_ended_call_is_voided_where_its_refer_timed_out() {
        let mut run = blind(reference());
        run.dialog(&call("A"), DialogState::Deleted);
        run.answer("refer", timed_out());
        run.answer("revoke", Reply::Done(Facts::Nothing));
        run.due();
        run.ended(Outcome::Failed, Code::CallEnded, Up::No);
    }

    #[test]
    fn without_tokens_a_phone_may_still_dial_after_its_call_ended() {
        let mut run = hung_up_with_its_refer_out(stock());
        run.answer("look", unseen());
        run.ended(Outcome::Failed, Code::CallEnded, Up::Unknown);
        assert!(run.ending().remarks.may_still_ring);
        let mut run = blind(stock());
        run.dialog(&call("A"), DialogState::Deleted);
        run.answer("refer", timed_out());
        run.ended(Outcome::Failed, Code::CallEnded, Up::Unknown);
        assert!(run.ending().remarks.may_still_ring);
    }

    /// A stock script's event of a call that is being transferred: anybody can raise one.
    fn transfer(new_call: &str, state: TransferState) -> StackEvent {
        let (call, new_call) = (call("A"), Some(call(new_call)));
        StackEvent::Transfer { call, new_call, destination: None, state }
    }

    /// What a look at a call says that is between these.
    fn between(of: &str, from: &str, to: &str) -> Reply {
        let (from, to) = (Arc::from(from), Arc::from(to));
        let dialog = Dialog { from, to, ..*dialog(&call(of), DialogState::Confirmed) };
        let call = Some(Box::new(dialog));
        Reply::Done(Facts::Looked(Box::new(Sighting { call, ..*nothing() })))
    }

    fn unseen() -> Reply {
        Reply::Done(Facts::Looked(nothing()))
    }

    /// Somebody's INVITE carries the call's dialog id, is answered and hangs up at once.
    #[test]
    fn a_call_that_was_never_seen_is_no_success() {
        let mut run = blind(stock());
        run.answer("refer", taken());
        run.happens(transfer("forged", TransferState::Start));
        run.answer("look", unseen());
        run.happens(transfer("forged", TransferState::Ok));
        for _ in 0..40 {
            if run.asks("look") {
                run.answer("look", unseen());
            } else if run.command.outcome().is_none() {
                run.due();
            }
            assert!(!run.asks("end"), "somebody's call is ended");
        }
        run.ended(Outcome::Unknown { up: Up::Unknown }, Code::ReplyLost, Up::Unknown);
        assert!(run.ending().remarks.may_still_ring);
    }

    #[test]
    fn a_call_that_a_look_finds_late_is_a_success() {
        let mut run = blind(stock());
        run.answer("refer", taken());
        run.happens(transfer("new", TransferState::Start));
        run.answer("look", unseen());
        run.happens(transfer("new", TransferState::Ok));
        run.answer("look", Reply::Silent);
        run.due();
        run.answer("look", between("new", "sip:b@x.example", "sip:c@x.example"));
        assert!(run.asks("end"), "the old call ends: {:#?}", run.command.progress);
    }

    /// A challenged INVITE leaves a dead dialog; both were told of before it was known whose call it is.
    #[test]
    fn a_dead_dialog_does_not_hide_the_answered_one_of_a_call_not_looked_at_yet() {
        let mut run = blind(stock());
        run.answer("refer", taken());
        run.happens(transfer("new", TransferState::Start));
        for (id, state) in [
            ("d.2", DialogState::Confirmed),
            ("d.2", DialogState::Answered),
            ("d.1", DialogState::Deleted),
        ] {
            let (call, dialog) = (call("new"), dialog_id(id));
            run.happens(StackEvent::Dialog { call, dialog, state });
        }
        run.answer("look", unseen());
        run.answer("look", between("new", "sip:b@x.example", "sip:c@x.example"));
        assert!(run.asks("end"), "the old call ends: {:#?}", run.command.progress);
    }

    /// Without tokens, another transfer of the same call may have brought it about.
    #[test]
    fn a_fitting_call_counts_once_the_refer_may_have_been_taken() {
        let declined = Arc::from("Decline");
        let declined = Reply::Refused { by: Refuser::Phone, code: 603, reason: declined };
        for (answer, ours) in
            [(taken(), true), (Reply::Silent, true), (timed_out(), true), (declined, false)]
        {
            let mut run = blind(stock());
            run.happens(transfer("new", TransferState::Start));
            run.answer("look", between("new", "sip:b@x.example", "sip:c@x.example"));
            assert_eq!(run.command.outcome(), None);
            assert!(!run.asks("end"), "{answer:?}");
            run.answer("refer", answer.clone());
            if run.asks("look") {
                run.answer("look", between("A", "sip:a@x.example", "sip:b@x.example"));
            }
            assert_eq!(run.asks("end"), ours, "{answer:?}: {:#?}", run.command);
            if !ours {
                assert_eq!(run.ending().outcome, Outcome::Failed);
            }
        }
    }

    /// Another transfer of the same call asked its other party.
    #[test]
    fn a_call_from_a_party_that_was_not_asked_is_not_ours() {
        for lost in [false, true] {
            for (from, ours) in [("sip:b@x.example", true), ("sip:a@x.example", false)] {
                let mut run = blind(stock());
                run.happens(transfer("new", TransferState::Start));
                run.happens(transfer("new", TransferState::Ok));
                run.answer("look", between("new", from, "sip:c@x.example"));
                if lost {
                    run.answer("refer", Reply::Silent);
                    run.answer("look", between("A", "sip:a@x.example", "sip:b@x.example"));
                } else {
                    run.answer("refer", taken());
                }
                assert_eq!(run.asks("end"), ours, "{lost} {from}: {:#?}", run.command);
            }
        }
    }

    /// The call is over and gone from the list, and with the answer to our REFER who was asked is lost.
    #[test]
    fn a_call_is_not_ours_where_nobody_knows_who_was_asked() {
        let mut run = blind(stock());
        run.happens(transfer("new", TransferState::Ok));
        run.answer("look", between("new", "sip:a@x.example", "sip:c@x.example"));
        run.answer("refer", Reply::Silent);
        for _ in 0..8 {
            if run.asks("look") {
                run.answer("look", unseen());
            } else if run.command.outcome().is_none() {
                run.due();
            }
        }
        run.ended(Outcome::Unknown { up: Up::Unknown }, Code::ReplyLost, Up::Unknown);
        assert!(run.ending().remarks.may_still_ring);
    }

    /// The first look at the call got no answer.
    #[test]
    fn who_was_asked_is_looked_up_once_more_before_it_is_given_up() {
        for (from, ours) in [("sip:b@x.example", true), ("sip:a@x.example", false)] {
            let mut run = blind(stock());
            run.happens(transfer("new", TransferState::Ok));
            run.answer("look", between("new", from, "sip:c@x.example"));
            run.answer("refer", Reply::Silent);
            run.answer("look", Reply::Silent);
            run.due();
            run.answer("look", between("A", "sip:a@x.example", "sip:b@x.example"));
            assert_eq!(run.asks("end"), ours, "{from}: {:#?}", run.command);
        }
    }

    /// A challenged INVITE's dialog ended, and nothing came of the live one's: events were lost.
    #[test]
    fn a_dead_dialog_is_a_failure_only_where_a_list_shows_no_live_one_or_its_phone_says_so() {
        for (listed, said, outcome) in [
            (true, false, Outcome::Failed),
            (false, true, Outcome::Failed),
            (false, false, Outcome::Unknown { up: Up::Yes }),
        ] {
            let mut run = blind(stock());
            run.answer("refer", taken());
            run.happens(transfer("new", TransferState::Start));
            run.answer("look", unseen());
            if said {
                run.happens(transfer("new", TransferState::Fail(SipStatus::new(486, "Busy"))));
            }
            run.another_dialog(&call("new"), DialogState::Deleted);
            run.dialog(&call("new"), DialogState::Deleted);
            run.due();
            let mut seen = nothing();
            seen.full = seen.full.filter(|_| listed);
            run.answer("look", Reply::Done(Facts::Looked(seen)));
            if run.asks("look") {
                run.answer("look", between("A", "sip:a@x.example", "sip:b@x.example"));
            }
            assert_eq!(run.ending().outcome, outcome, "{listed} {said}");
        }
    }

    /// A stock script says 408 of an INVITE that was challenged; the event of state 4 was lost.
    #[test]
    fn a_call_with_an_answered_dialog_has_not_failed() {
        let mut run = blind(stock());
        run.answer("refer", taken());
        run.happens(transfer("new", TransferState::Start));
        run.happens(transfer("new", TransferState::Fail(SipStatus::timeout())));
        run.dialog(&call("new"), DialogState::Deleted);
        run.another_dialog(&call("new"), DialogState::Answered);
        run.answer("look", Reply::Silent);
        run.due();
        let unlisted = Sighting { full: None, ..*nothing() };
        run.answer("look", Reply::Done(Facts::Looked(Box::new(unlisted))));
        if run.asks("look") {
            run.answer("look", between("A", "sip:a@x.example", "sip:b@x.example"));
        }
        assert_eq!(run.ending().outcome, Outcome::Unknown { up: Up::Yes });
    }

    /// An event of a dialog that has ended is only late.
    #[test]
    fn a_dialog_that_is_over_does_not_ring_again() {
        let mut run = blind(stock());
        run.answer("refer", taken());
        run.happens(transfer("new", TransferState::Start));
        run.answer("look", unseen());
        run.dialog(&call("new"), DialogState::Deleted);
        run.dialog(&call("new"), DialogState::Early);
        run.due();
        run.answer("look", unseen());
        if run.asks("look") {
            run.answer("look", between("A", "sip:a@x.example", "sip:b@x.example"));
        }
        assert_eq!(run.ending().outcome, Outcome::Failed);
    }

    #[test]
    fn a_call_that_was_never_seen_does_not_hide_the_right_one() {
        let mut run = blind(stock());
        run.answer("refer", taken());
        run.happens(transfer("forged", TransferState::Start));
        run.answer("look", unseen());
        run.happens(transfer("new", TransferState::Start));
        run.answer("look", between("new", "sip:b@x.example", "sip:c@x.example"));
        run.happens(transfer("new", TransferState::Ok));
        let Act::End { call: ended } = run.open("end").1 else { panic!() };
        assert_eq!(ended, call("A"));
    }

    /// Rung out or cancelled: a call is ended only once it is seen to be between our parties.
    #[test]
    fn somebody_elses_call_is_not_ended_with_a_transfer() {
        for cancelled in [false, true] {
            for ours in [false, true] {
                let mut run = blind(stock());
                run.answer("refer", taken());
                run.happens(transfer("other", TransferState::Start));
                run.answer("look", unseen());
                if cancelled {
                    run.step(&Input::Cancel);
                } else {
                    run.due();
                }
                let from = if ours { "sip:b@x.example" } else { "sip:x@x.example" };
                run.answer("look", between("other", from, "sip:c@x.example"));
                assert_eq!(run.asks("end"), ours, "{cancelled} {ours}");
            }
        }
    }

    /// Given up while the REFER has no answer: whose call it is, is known with that.
    #[test]
    fn somebody_elses_call_is_not_ended_before_it_is_known_who_was_asked() {
        for (from, ours) in [("sip:b@x.example", true), ("sip:a@x.example", false)] {
            let mut run = blind(stock());
            run.happens(transfer("other", TransferState::Start));
            run.answer("look", unseen());
            run.step(&Input::Cancel);
            run.answer("look", between("other", from, "sip:c@x.example"));
            assert!(!run.asks("end"), "{from}");
            run.answer("refer", taken());
            run.due();
            run.answer("look", between("other", from, "sip:c@x.example"));
            assert_eq!(run.asks("end"), ours, "{from}: {:#?}", run.command);
        }
    }

    /// Its answer did not reach us: while the store was away nothing did.
    #[test]
    fn a_call_that_was_answered_unheard_is_not_ended_when_its_ringing_time_is_over() {
        for (state, ended) in [(DialogState::Confirmed, false), (DialogState::Early, true)] {
            let mut run = blind(reference());
            let (token, _) = run.open("refer");
            run.answer("refer", taken());
            let (new_call, placed) = (call("new"), TransferState::Start);
            run.happens(StackEvent::Referral { token, new_call, destination: None, state: placed });
            run.due();
            let mut seen = between("new", "sip:b@x.example", "sip:c@x.example");
            if let Reply::Done(Facts::Looked(sighting)) = &mut seen {
                sighting.call.as_mut().unwrap().state = state;
            }
            run.answer("look", seen);
            let ends = |op: &Op| op.act == Act::End { call: call("new") };
            assert_eq!(run.command.open().iter().any(ends), ended, "{:#?}", run.command);
        }
    }

    /// Without tokens, its phone's answer may have been lost on the way.
    #[test]
    fn a_cancelled_refer_that_timed_out_may_still_bring_a_call() {
        let mut run = blind(stock());
        run.step(&Input::Cancel);
        run.answer("refer", timed_out());
        run.due();
        assert_eq!(run.ending().outcome, Outcome::Cancelled);
        assert!(run.ending().remarks.may_still_ring);
    }

    #[test]
    fn a_cancelled_refer_that_was_refused_brings_no_call() {
        let mut run = blind(stock());
        run.step(&Input::Cancel);
        let reason = Arc::from("Decline");
        run.answer("refer", Reply::Refused { by: Refuser::Phone, code: 603, reason });
        assert_eq!(run.ending().outcome, Outcome::Cancelled);
        assert!(!run.ending().remarks.may_still_ring);
    }

    /// The token is armed when the REFER is sent, and that was still to come when it was voided.
    #[test]
    fn a_token_counts_as_void_only_once_its_refer_is_out() {
        for answer in [taken(), Reply::Silent, timed_out()] {
            let mut run = blind(reference());
            run.step(&Input::Cancel);
            let (early, _) = run.open("revoke");
            run.answer("refer", answer);
            let again =
                |op: &&callplane::core::act::Op| op.act.verb() == "revoke" && op.id != early;
            let again = run.command.open().iter().find(again).expect("voided again").id.clone();
            run.step(&Input::Replied { op: early, reply: Reply::Done(Facts::Nothing) });
            run.at = run.at.after(Duration::from_millis(1600));
            run.step(&Input::Due);
            assert_eq!(run.command.outcome(), None, "its phone may dial until it is void");
            run.step(&Input::Replied { op: again, reply: Reply::Done(Facts::Nothing) });
            run.due();
            assert_eq!(run.ending().outcome, Outcome::Cancelled);
            assert!(!run.ending().remarks.may_still_ring);
        }
    }

    #[test]
    fn a_call_that_was_seen_to_end_needs_no_second_list_to_be_gone() {
        let mut run = blind(reference());
        run.dialog(&call("A"), DialogState::Deleted);
        let sighting = Box::new(Sighting { named_recently: true, ..*nothing() });
        run.answer("refer", Reply::Missing { call: call("A"), sighting });
        run.ended(Outcome::Failed, Code::CallNotFound, Up::No);
    }

    #[test]
    fn a_cancelled_transfer_does_not_say_that_nothing_is_up_when_its_call_came_up_again() {
        let mut run = blind(reference());
        run.answer("refer", taken());
        run.dialog(&call("A"), DialogState::Deleted);
        run.step(&Input::Cancel);
        run.another_dialog(&call("A"), DialogState::Confirmed);
        run.answer("revoke", Reply::Done(Facts::Nothing));
        run.due();
        run.ended(Outcome::Cancelled, Code::Cancelled, Up::Unknown);
    }

    #[test]
    fn a_cancelled_transfer_heeds_a_look_that_comes_late() {
        let mut run = blind(reference());
        run.answer("refer", taken());
        run.due();
        run.step(&Input::Cancel);
        let call = Some(dialog(&call("A"), DialogState::Deleted));
        let over = Sighting { call, ..*nothing() };
        run.answer("look", Reply::Done(Facts::Looked(Box::new(over))));
        run.answer("revoke", Reply::Done(Facts::Nothing));
        run.due();
        run.ended(Outcome::Cancelled, Code::Cancelled, Up::No);
    }

    /// A look was under way when the new call came, and failed.
    #[test]
    fn a_look_that_finds_the_new_call_does_not_undo_its_failure() {
        let mut run = blind(reference());
        let (token, _) = run.open("refer");
        run.answer("refer", taken());
        run.due();
        let busy = SipStatus::new(486, "Busy Here");
        for state in [TransferState::Start, TransferState::Fail(busy)] {
            let (token, new_call) = (token.clone(), call("new"));
            run.happens(StackEvent::Referral { token, new_call, destination: None, state });
        }
        let of = call("A");
        let refer = Some(ReferMark::Placed(call("new")));
        let marked = Dialog { refer, ..*dialog(&of, DialogState::Confirmed) };
        let sighting = Sighting { call: Some(Box::new(marked)), ..*nothing() };
        run.answer("look", Reply::Done(Facts::Looked(Box::new(sighting))));
        run.due();
        run.answer("look", unseen());
        run.answer("look", unmarked());
        run.ended(Outcome::Failed, Code::TargetBusy, Up::Yes);
    }

    /// The phone's NOTIFY told it, and the look finds only that there was a call.
    #[test]
    fn a_look_that_finds_the_new_call_does_not_undo_its_phones_word() {
        let mut run = blind(stock());
        run.answer("refer", taken());
        run.due();
        let (of, busy) = (call("A"), SipStatus::new(486, "Busy Here"));
        let state = TransferState::Notified(busy);
        let notify =
            StackEvent::Transfer { call: of.clone(), new_call: None, destination: None, state };
        run.happens(notify);
        let refer = Some(ReferMark::Placed(call("new")));
        let marked = Dialog { refer, ..*dialog(&of, DialogState::Confirmed) };
        let sighting = Sighting { call: Some(Box::new(marked)), ..*nothing() };
        run.answer("look", Reply::Done(Facts::Looked(Box::new(sighting))));
        run.due();
        run.answer("look", unmarked());
        run.ended(Outcome::Failed, Code::TargetBusy, Up::Yes);
    }
}
