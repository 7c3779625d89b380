//! The door to a stack: deadlines, the breaker and the limit of requests under way.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use callplane::clock::Clock;
use callplane::core::act::{Act, Facts, NotSent, Offer, Op, ReferTo, Reply};
use callplane::core::ids::{CallId, Nonce, OpId, PodId, StackId};
use callplane::core::request::Leg;
use callplane::core::script::Grade;
use callplane::core::sip_address::SipAddress;
use callplane::core::time::StoreTime;
use callplane::stack::SipStack;
use callplane::stack::mi::{Mi, MiAnswer, MiFailure, MiRequest};
use callplane::stack::opensips::meter::Unmetered;
use callplane::stack::opensips::settings::StackSettings;
use callplane::stack::opensips::{OpenSips, Surroundings, Timer};
use serde_json::{Value, json};
use tokio::sync::oneshot;

/// A clock and a timer in one: time passes only when told.
#[derive(Default)]
struct Time {
    now: AtomicU64,
    sleepers: Mutex<Vec<(u64, oneshot::Sender<()>)>>,
}

impl Time {
    fn sleeping(&self) -> usize {
        self.sleepers.lock().unwrap().iter().filter(|(_, wake)| !wake.is_closed()).count()
    }

    fn pass(&self, how_long: Duration) {
        let passed = u64::try_from(how_long.as_millis()).unwrap();
        let now = self.now.fetch_add(passed, Ordering::SeqCst) + passed;
        let mut sleepers = self.sleepers.lock().unwrap();
        let (due, rest) = sleepers.drain(..).partition(|(at, _)| *at <= now);
        *sleepers = rest;
        for (_, wake) in due {
            let _ = wake.send(());
        }
    }
}

impl Clock for Time {
    fn now(&self) -> StoreTime {
        StoreTime(1_000_000 + self.now.load(Ordering::SeqCst))
    }
}

struct SharedTime(Arc<Time>);

impl Timer for SharedTime {
    fn sleep(&self, how_long: Duration) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        let at = self.0.now.load(Ordering::SeqCst) + u64::try_from(how_long.as_millis()).unwrap();
        let (wake, woken) = oneshot::channel();
        self.0.sleepers.lock().unwrap().push((at, wake));
        Box::pin(async move {
            let _ = woken.await;
        })
    }
}

/// What the fake stack does with a request.
enum Does {
    Answers(MiAnswer),
    Fails(MiFailure),
    /// Time passes, then it answers.
    Takes(Duration, MiAnswer),
    Waits(oneshot::Receiver<MiAnswer>),
}

/// By method, in order.
type Script = Vec<(&'static str, VecDeque<Does>)>;

/// A stack whose every answer is written down beforehand, by method.
#[derive(Clone, Default)]
struct Fake {
    script: Arc<Mutex<Script>>,
    asked: Arc<Mutex<Vec<MiRequest>>>,
    time: Arc<Time>,
}

impl Fake {
    fn then(&self, method: &'static str, does: Does) -> &Self {
        let mut script = self.script.lock().unwrap();
        match script.iter_mut().find(|(name, _)| *name == method) {
            Some((_, queue)) => queue.push_back(does),
            None => script.push((method, VecDeque::from([does]))),
        }
        drop(script);
        self
    }

    fn next(&self, method: &str) -> Option<Does> {
        let mut script = self.script.lock().unwrap();
        script.iter_mut().find(|(name, _)| *name == method)?.1.pop_front()
    }

    /// Waits until so much has been asked.
    async fn until_asked(&self, times: usize) {
        until(&format!("{times} requests"), || self.asked().len() >= times).await;
    }

    /// Waits until this has been asked so often.
    async fn until_asked_for(&self, method: &str, times: usize) {
        let asked = || self.asked().iter().filter(|asked| *asked == method).count();
        until(&format!("{times} of {method}"), || asked() >= times).await;
    }

    /// Waits until so many wait for time to pass.
    async fn until_sleeping(&self, many: usize) {
        until(&format!("{many} wait for their time"), || self.time.sleeping() >= many).await;
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|request| request.method.to_string()).collect()
    }
}

impl Mi for Fake {
    async fn call(&self, request: MiRequest, _timeout: Duration) -> Result<MiAnswer, MiFailure> {
        self.asked.lock().unwrap().push(request.clone());
        match self.next(&request.method) {
            Some(Does::Answers(answer)) => Ok(answer),
            Some(Does::Fails(failure)) => Err(failure),
            Some(Does::Takes(how_long, answer)) => {
                self.time.pass(how_long);
                Ok(answer)
            }
            Some(Does::Waits(answer)) => answer.await.map_err(|_| MiFailure::Silent),
            None if request.method == "uptime" => Ok(up("then")),
            None => panic!("not expected: {request:?}"),
        }
    }
}

fn up(since: &str) -> MiAnswer {
    MiAnswer::Result(json!({"Up since": since, "Up time": "60 [sec]"}))
}

fn done() -> MiAnswer {
    MiAnswer::Result(json!("OK"))
}

fn stack(fake: &Fake, change: impl FnOnce(&mut StackSettings)) -> OpenSips<Fake> {
    let mut settings = StackSettings::new(StackId::new("fake"), "127.0.0.1:1");
    // Nothing to ask for.
    settings.grade = Grade::Stock;
    change(&mut settings);
    let surroundings = Surroundings {
        clock: Arc::clone(&fake.time) as Arc<dyn Clock>,
        timer: Arc::new(SharedTime(Arc::clone(&fake.time))),
        meter: Arc::new(Unmetered),
    };
    OpenSips::new(settings, fake.clone(), fake.clone(), surroundings)
}

fn op(fake: &Fake, act: Act) -> Op {
    let now = fake.time.now();
    Op {
        id: OpId::derive(Nonce(7), 0),
        by: PodId::new("test"),
        stack: StackId::new("fake"),
        act,
        send_before: now.after(Duration::from_millis(500)),
        reply_by: now.after(Duration::from_secs(3)),
    }
}

fn end() -> Act {
    Act::End { call: call() }
}

fn call() -> CallId {
    CallId::parse("call@here").unwrap()
}

fn refer() -> Act {
    let to = ReferTo::Address(SipAddress::parse("sip:carol@here.example").unwrap());
    Act::Refer { call: call(), leg: Leg::Callee, to }
}

fn dialog(state: u8) -> Value {
    json!({"Dialog": {
        "ID": "1a.2b", "state": state, "callid": "call@here", "timestart": 0,
        "from_uri": "sip:alice@here.example", "to_uri": "sip:bob@here.example",
        "CALLEES": [], "context": {}
    }})
}

/// An answered call whose caller has offered something to hold.
fn talking() -> Value {
    let mut dialog = dialog(4);
    dialog["Dialog"]["caller_sdp"] =
        json!("v=0\r\no=a 1 1 IN IP4 h\r\ns=-\r\nt=0 0\r\nm=audio 9 RTP/AVP 0\r\n");
    dialog
}

async fn until(what: &str, so: impl Fn() -> bool) {
    let wait = async {
        while !so() {
            tokio::task::yield_now().await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(20), wait).await;
    in_time.unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

/// How long a REFER waits before it is sent.
const ACK_LEAVES: Duration = Duration::from_millis(1);

const UNREACHABLE: Reply = Reply::NotSent(NotSent::Unreachable);

#[tokio::test]
async fn the_first_request_tries_whether_the_stack_is_there() {
    let fake = Fake::default();
    fake.then("uptime", Does::Fails(MiFailure::Silent));
    let stack = stack(&fake, |_| ());
    assert!(!stack.is_reachable());
    assert_eq!(stack.perform(&op(&fake, end())).await, UNREACHABLE);
    assert_eq!(fake.asked(), ["uptime"], "the act itself never left");
    // Until it is tried again nothing is asked at all.
    assert_eq!(stack.perform(&op(&fake, end())).await, UNREACHABLE);
    assert_eq!(fake.asked().len(), 1);
    fake.time.pass(Duration::from_secs(2));
    fake.then("dlg_end_dlg", Does::Answers(done()));
    assert_eq!(stack.perform(&op(&fake, end())).await, Reply::Done(Facts::Nothing));
    assert_eq!(fake.asked(), ["uptime", "uptime", "dlg_end_dlg"]);
    assert!(stack.is_reachable());
}

/// It tells the difference of two times in whole seconds. What began before must never look like
/// what began in this life, or the silence of a stack that has lost its calls would end it.
#[tokio::test]
async fn a_life_of_the_stack_is_never_taken_for_older_than_it_is() {
    for began in (1_000_000..1_002_000_u64).step_by(130) {
        for age in (0..4_000).step_by(170) {
            let fake = Fake::default();
            let now = began + age;
            fake.time.pass(Duration::from_millis(now - 1_000_000));
            let up = now / 1_000 - began / 1_000;
            let uptime = json!({"Up since": "then", "Up time": format!("{up} [sec]")});
            fake.then("uptime", Does::Answers(MiAnswer::Result(uptime)));
            fake.then("version", Does::Answers(MiAnswer::Result(json!({"Server": "OpenSIPS"}))));
            let connected = stack(&fake, |_| ()).connect().await.unwrap();
            let since = connected.uptime.since.0;
            assert!((began..=now).contains(&since), "began {began}, is {now}, told {since}");
            assert!(since < began + 2_000, "began {began}, is {now}, told {since}");
        }
    }
}

#[tokio::test]
async fn unanswered_requests_in_a_row_open_the_breaker() {
    let fake = Fake::default();
    let stack = stack(&fake, |s| s.breaker_failures = 3);
    for _ in 0..2 {
        fake.then("dlg_end_dlg", Does::Fails(MiFailure::Silent));
        assert_eq!(stack.perform(&op(&fake, end())).await, Reply::Silent);
    }
    // An answer in between, also a refusal, starts the count again.
    fake.then("dlg_end_dlg", Does::Answers(MiAnswer::error(403, "no")));
    assert!(matches!(stack.perform(&op(&fake, end())).await, Reply::Refused { .. }));
    for _ in 0..3 {
        assert!(stack.is_reachable());
        fake.then("dlg_end_dlg", Does::Fails(MiFailure::Silent));
        assert_eq!(stack.perform(&op(&fake, end())).await, Reply::Silent);
    }
    assert!(!stack.is_reachable());
    assert_eq!(stack.perform(&op(&fake, end())).await, UNREACHABLE);
    fake.time.pass(Duration::from_secs(2));
    fake.then("dlg_end_dlg", Does::Answers(done()));
    assert_eq!(stack.perform(&op(&fake, end())).await, Reply::Done(Facts::Nothing));
}

#[tokio::test]
async fn what_stays_here_for_a_reason_of_ours_says_nothing_of_the_stack() {
    let overloaded = Reply::NotSent(NotSent::Overloaded);
    let fake = Fake::default();
    let stack = stack(&fake, |s| s.breaker_failures = 2);
    // The one that tries is refused for itself, and the next one tries again.
    fake.then("uptime", Does::Fails(MiFailure::NoRoom));
    assert_eq!(stack.perform(&op(&fake, end())).await, overloaded);
    fake.then("dlg_end_dlg", Does::Fails(MiFailure::Silent));
    assert_eq!(stack.perform(&op(&fake, end())).await, Reply::Silent);
    for _ in 0..5 {
        fake.then("dlg_end_dlg", Does::Fails(MiFailure::NoRoom));
        assert_eq!(stack.perform(&op(&fake, end())).await, overloaded);
        fake.then("dlg_end_dlg", Does::Fails(MiFailure::TooLong));
        let refused = stack.perform(&op(&fake, end())).await;
        assert!(matches!(refused, Reply::Refused { code: 400, .. }), "{refused:?}");
        assert!(stack.is_reachable());
    }
    // Nor is it an answer: the silence before it still counts.
    fake.then("dlg_end_dlg", Does::Fails(MiFailure::Silent));
    assert_eq!(stack.perform(&op(&fake, end())).await, Reply::Silent);
    assert!(!stack.is_reachable());
}

#[tokio::test]
async fn only_one_request_tries_and_one_that_is_given_up_leaves_the_door_as_it_was() {
    let fake = Fake::default();
    let (_never, waits) = oneshot::channel();
    fake.then("uptime", Does::Waits(waits));
    let stack = Arc::new(stack(&fake, |_| ()));
    let trying = {
        let (stack, op) = (Arc::clone(&stack), op(&fake, end()));
        tokio::spawn(async move { stack.perform(&op).await })
    };
    fake.until_asked(1).await;
    assert_eq!(stack.perform(&op(&fake, end())).await, UNREACHABLE);
    trying.abort();
    assert!(trying.await.unwrap_err().is_cancelled());
    fake.then("dlg_end_dlg", Does::Answers(done()));
    assert_eq!(stack.perform(&op(&fake, end())).await, Reply::Done(Facts::Nothing));
}

#[tokio::test]
async fn a_phones_silence_does_not_open_the_breaker() {
    let fake = Fake::default();
    let stack = stack(&fake, |s| s.breaker_failures = 1);
    for _ in 0..3 {
        fake.then("dlg_list_ctx", Does::Takes(ACK_LEAVES, MiAnswer::Result(dialog(4))));
        fake.then("dlg_send_sequential", Does::Fails(MiFailure::Silent));
        assert_eq!(stack.perform(&op(&fake, refer())).await, Reply::Silent);
    }
    assert!(stack.is_reachable());
}

/// The mark on a call: whether it says that the call is held.
fn marks(fake: &Fake) -> Vec<bool> {
    let asked = fake.asked.lock().unwrap();
    let marks = asked.iter().filter(|request| request.method == "dlg_push_var");
    marks.map(|mark| format!("{mark:?}").contains("held")).collect()
}

#[tokio::test]
async fn an_offer_that_was_not_taken_leaves_the_mark_as_it_was() {
    let refused = || Does::Answers(MiAnswer::Result(json!({"Code": 488, "Reason": "Not Here"})));
    let silent =
        || Does::Answers(MiAnswer::Error { code: 408, message: "Timeout".into(), data: None });
    for (sent, taken_back) in [
        (refused(), true),
        (Does::Fails(MiFailure::NotSent { reason: "refused" }), true),
        (silent(), false),
        (Does::Fails(MiFailure::Silent), false),
    ] {
        let fake = Fake::default();
        let stack = stack(&fake, |_| ());
        let dialog = talking();
        fake.then("dlg_list_ctx", Does::Answers(MiAnswer::Result(dialog)));
        fake.then("dlg_push_var", Does::Answers(done()));
        fake.then("dlg_send_sequential", sent);
        fake.then("dlg_push_var", Does::Answers(done()));
        let offer = Offer::Hold { first: true };
        let act = Act::ReInvite { call: call(), leg: Leg::Callee, offer };
        stack.perform(&op(&fake, act)).await;
        let marks = marks(&fake);
        assert_eq!(marks, if taken_back { vec![true, false] } else { vec![true] });
    }
}

/// A phone took itself back and refuses to be held again: the next hold must be sent all the same.
#[tokio::test]
async fn a_refused_offer_leaves_also_who_was_seen_last() {
    let fake = Fake::default();
    let stack = stack(&fake, |_| ());
    let mut dialog = talking();
    dialog["Dialog"]["context"] = json!({"values": [{"cp_hold": "held:2:2:abc"}]});
    fake.then("dlg_list_ctx", Does::Answers(MiAnswer::Result(dialog)));
    fake.then("dlg_push_var", Does::Answers(done()));
    let refused = json!({"Code": 488, "Reason": "Not Here"});
    fake.then("dlg_send_sequential", Does::Answers(MiAnswer::Result(refused)));
    fake.then("dlg_push_var", Does::Answers(done()));
    let act = Act::ReInvite { call: call(), leg: Leg::Callee, offer: Offer::Hold { first: true } };
    stack.perform(&op(&fake, act)).await;
    let asked = fake.asked.lock().unwrap();
    let last = asked.iter().rfind(|request| request.method == "dlg_push_var").unwrap();
    let last = format!("{last:?}");
    assert!(last.contains("held:2:3:abc"), "{last}");
}

#[tokio::test]
async fn a_once_act_is_not_sent_after_its_time() {
    let fake = Fake::default();
    let stack = stack(&fake, |_| ());
    // The look that comes first takes too long.
    let listed = MiAnswer::Result(dialog(4));
    fake.then("dlg_list_ctx", Does::Takes(Duration::from_millis(500), listed));
    let reply = stack.perform(&op(&fake, refer())).await;
    assert_eq!(reply, Reply::NotSent(NotSent::TooLate));
    assert_eq!(fake.asked(), ["uptime", "dlg_list_ctx"]);
}

#[tokio::test]
async fn a_once_act_whose_preparation_failed_was_not_sent() {
    for failure in [MiFailure::Silent, MiFailure::NotSent { reason: "refused" }] {
        let fake = Fake::default();
        let stack = stack(&fake, |_| ());
        fake.then("dlg_list_ctx", Does::Fails(failure.clone()));
        assert_eq!(stack.perform(&op(&fake, refer())).await, UNREACHABLE, "{failure:?}");

        // The mark's write is lost: nothing was sent to a phone.
        let held = talking();
        let act =
            Act::ReInvite { call: call(), leg: Leg::Callee, offer: Offer::Hold { first: true } };
        fake.then("dlg_list_ctx", Does::Answers(MiAnswer::Result(held)));
        fake.then("dlg_push_var", Does::Fails(failure));
        assert_eq!(stack.perform(&op(&fake, act)).await, UNREACHABLE);
    }
}

/// Lets a request be lost: `n` have been asked when it is, and time passes until it is asked again.
async fn lose_one(fake: &Fake, n: usize) {
    // The operation's last moment and the request's own patience.
    fake.until_asked(n).await;
    fake.until_sleeping(2).await;
    fake.time.pass(Duration::from_millis(125));
}

#[tokio::test]
async fn one_lost_reply_to_a_look_costs_no_act() {
    let fake = Fake::default();
    let stack = Arc::new(stack(&fake, |_| ()));
    let (_never, waits) = oneshot::channel();
    fake.then("dlg_list_ctx", Does::Waits(waits));
    fake.then("dlg_list_ctx", Does::Answers(MiAnswer::Result(dialog(4))));
    fake.then("dlg_send_sequential", Does::Answers(MiAnswer::Result(json!({"Code": 202}))));
    let referring = {
        let (stack, op) = (Arc::clone(&stack), op(&fake, refer()));
        tokio::spawn(async move { stack.perform(&op).await })
    };
    lose_one(&fake, 2).await;
    let reply = referring.await.unwrap();
    assert!(matches!(reply, Reply::Done(Facts::Referred { code: 202, .. })), "{reply:?}");
    assert_eq!(fake.asked(), ["uptime", "dlg_list_ctx", "dlg_list_ctx", "dlg_send_sequential"]);
}

#[tokio::test]
async fn of_two_answers_to_one_look_the_first_counts() {
    let fake = Fake::default();
    let stack = Arc::new(stack(&fake, |_| ()));
    let (answer, slow) = oneshot::channel();
    let (_never, lost) = oneshot::channel();
    fake.then("dlg_list_ctx", Does::Waits(slow));
    fake.then("dlg_list_ctx", Does::Waits(lost));
    fake.then("dlg_send_sequential", Does::Answers(MiAnswer::Result(json!({"Code": 202}))));
    let referring = {
        let (stack, op) = (Arc::clone(&stack), op(&fake, refer()));
        tokio::spawn(async move { stack.perform(&op).await })
    };
    lose_one(&fake, 2).await;
    fake.until_asked(3).await;
    answer.send(MiAnswer::Result(dialog(4))).unwrap();
    assert!(matches!(referring.await.unwrap(), Reply::Done(Facts::Referred { .. })));
}

#[tokio::test]
async fn a_busy_stack_is_not_asked_twice() {
    let fake = Fake::default();
    let stack = Arc::new(stack(&fake, |s| s.in_flight = 1));
    let (answer, slow) = oneshot::channel();
    fake.then("dlg_list_ctx", Does::Waits(slow));
    let looking = {
        let look = Act::Look { call: call(), referred_by: None, sent: None };
        let (stack, op) = (Arc::clone(&stack), op(&fake, look));
        tokio::spawn(async move { stack.perform(&op).await })
    };
    lose_one(&fake, 2).await;
    fake.time.pass(Duration::from_millis(500));
    answer.send(MiAnswer::Result(dialog(4))).unwrap();
    assert!(matches!(looking.await.unwrap(), Reply::Done(Facts::Looked(_))));
    assert_eq!(fake.asked(), ["uptime", "dlg_list_ctx"]);
}

fn invite() -> Act {
    let address = |user: &str| SipAddress::parse(&format!("sip:{user}@here.example")).unwrap();
    Act::Invite {
        call: call(),
        caller: address("alice"),
        callee: address("bob"),
        display: None,
        auto_answer: false,
    }
}

#[tokio::test]
async fn an_invite_does_not_leave_for_a_stack_that_has_fallen_silent() {
    let fake = Fake::default();
    let stack = stack(&fake, |_| ());
    let busy = || Does::Answers(MiAnswer::Result(json!({"Status": "486 Busy Here"})));
    fake.then("t_uac_dlg", busy());
    stack.perform(&op(&fake, invite())).await;
    assert_eq!(fake.asked(), ["uptime", "t_uac_dlg"]);
    // It has just answered, so nothing is asked.
    fake.time.pass(Duration::from_millis(999));
    fake.then("t_uac_dlg", busy());
    stack.perform(&op(&fake, invite())).await;
    assert_eq!(fake.asked()[2..], ["t_uac_dlg"]);
    fake.time.pass(Duration::from_secs(1));
    fake.then("uptime", Does::Fails(MiFailure::Silent));
    assert_eq!(stack.perform(&op(&fake, invite())).await, UNREACHABLE);
    assert_eq!(fake.asked()[3..], ["uptime"], "no phone was rung");
    fake.then("t_uac_dlg", busy());
    stack.perform(&op(&fake, invite())).await;
    assert_eq!(fake.asked()[4..], ["uptime", "t_uac_dlg"]);
}

fn graded(value: &str) -> MiAnswer {
    MiAnswer::Result(json!({"key": "cp_cfg_version", "value": value}))
}

#[tokio::test]
async fn an_invite_waits_until_the_grade_is_known() {
    let fake = Fake::default();
    let stack = Arc::new(stack(&fake, |s| s.grade = Grade::Auto));
    fake.then("version", Does::Answers(done()));
    let (grade, waits) = oneshot::channel();
    fake.then("cache_fetch", Does::Waits(waits));
    fake.then("t_uac_dlg", Does::Answers(MiAnswer::Result(json!({"Status": "486 Busy Here"}))));
    let connecting = {
        let stack = Arc::clone(&stack);
        tokio::spawn(async move { stack.connect().await })
    };
    fake.until_asked_for("cache_fetch", 1).await;
    assert!(stack.is_reachable(), "requests pass already");
    let inviting = {
        let (stack, op) = (Arc::clone(&stack), op(&fake, invite()));
        tokio::spawn(async move { stack.perform(&op).await })
    };
    // Its last moments: the reply's and the INVITE's.
    fake.until_sleeping(2).await;
    grade.send(graded("1 udp:127.0.0.1:5066 5 120")).unwrap();
    assert!(matches!(inviting.await.unwrap(), Reply::Refused { code: 486, .. }));
    assert!(connecting.await.unwrap().unwrap().script.is_some());
    let asked = fake.asked.lock().unwrap().last().unwrap().clone();
    assert_eq!(asked.params.text("socket"), Some("udp:127.0.0.1:5066"));
    assert_eq!(fake.asked(), ["uptime", "version", "cache_fetch", "t_uac_dlg"], "asked once");
}

#[tokio::test]
async fn an_invite_asks_for_the_grade_itself_and_never_leaves_without() {
    let fake = Fake::default();
    let stack = Arc::new(stack(&fake, |s| s.grade = Grade::Reference));
    assert!(!stack.capabilities().start_is_safe, "what nobody has confirmed is not promised");
    let (_never, waits) = oneshot::channel();
    let (_nor_then, waits_again) = oneshot::channel();
    fake.then("version", Does::Answers(done()));
    fake.then("cache_fetch", Does::Waits(waits));
    fake.then("cache_fetch", Does::Waits(waits_again));
    let inviting = {
        let (stack, op) = (Arc::clone(&stack), op(&fake, invite()));
        tokio::spawn(async move { stack.perform(&op).await })
    };
    fake.until_asked_for("cache_fetch", 1).await;
    fake.time.pass(Duration::from_millis(500));
    assert_eq!(inviting.await.unwrap(), UNREACHABLE);
    assert!(!fake.asked().contains(&"t_uac_dlg".to_owned()));
    // A call can be ended meanwhile.
    fake.then("dlg_end_dlg", Does::Answers(done()));
    assert_eq!(stack.perform(&op(&fake, end())).await, Reply::Done(Facts::Nothing));

    fake.then("version", Does::Answers(done()));
    fake.then("cache_fetch", Does::Answers(graded("1 udp:127.0.0.1:5066 5 120")));
    stack.introduced().await;
    assert!(stack.capabilities().start_is_safe);
}

#[tokio::test]
async fn another_life_of_the_stack_is_asked_for_its_grade_again() {
    let fake = Fake::default();
    let stack = stack(&fake, |s| s.grade = Grade::Auto);
    fake.then("version", Does::Answers(done()));
    fake.then("cache_fetch", Does::Answers(MiAnswer::error(400, "Value not found")));
    assert!(stack.connect().await.unwrap().script.is_none());
    fake.then("uptime", Does::Answers(up("later")));
    fake.then("version", Does::Fails(MiFailure::Silent));
    assert!(stack.connect().await.is_err(), "it went away again");
    fake.then("version", Does::Answers(done()));
    fake.then("cache_fetch", Does::Answers(graded("1 udp:127.0.0.1:5066 5 120")));
    fake.then("t_uac_dlg", Does::Answers(MiAnswer::Result(json!({"Status": "486 Busy Here"}))));
    stack.perform(&op(&fake, invite())).await;
    let asked = fake.asked.lock().unwrap().last().unwrap().clone();
    assert_eq!(asked.params.text("socket"), Some("udp:127.0.0.1:5066"));
}

#[tokio::test]
async fn beyond_the_limit_requests_wait_for_their_turn_and_no_longer_than_they_may() {
    let fake = Fake::default();
    let stack = Arc::new(stack(&fake, |s| s.in_flight = 1));
    let (answer, waits) = oneshot::channel();
    fake.then("dlg_end_dlg", Does::Waits(waits));
    let spawn = || {
        let (stack, op) = (Arc::clone(&stack), op(&fake, end()));
        tokio::spawn(async move { stack.perform(&op).await })
    };
    let first = spawn();
    fake.until_asked(2).await;
    let second = spawn();
    let third = spawn();
    tokio::task::yield_now().await;
    assert_eq!(fake.asked().len(), 2, "only one under way");
    fake.then("dlg_end_dlg", Does::Answers(done()));
    fake.then("dlg_end_dlg", Does::Answers(done()));
    answer.send(done()).unwrap();
    for call in [first, second, third] {
        assert_eq!(call.await.unwrap(), Reply::Done(Facts::Nothing));
    }

    let (_answer, waits) = oneshot::channel();
    fake.then("dlg_end_dlg", Does::Waits(waits));
    let asked = fake.asked().len();
    let holding = spawn();
    fake.until_asked(asked + 1).await;
    let waiting = spawn();
    // Each has its last moment in view; the one that waits, its turn's as well.
    fake.until_sleeping(3).await;
    fake.time.pass(Duration::from_millis(500));
    assert_eq!(waiting.await.unwrap(), Reply::NotSent(NotSent::Overloaded));
    assert_eq!(fake.asked().len(), asked + 1, "it was never asked");
    // Nothing keeps an operation longer than it may take.
    fake.time.pass(Duration::from_millis(2500));
    assert_eq!(holding.await.unwrap(), Reply::Silent);
}

#[tokio::test]
async fn a_busy_stack_is_still_asked_who_it_is_and_calls_are_ended() {
    let fake = Fake::default();
    let stack = Arc::new(stack(&fake, |s| s.in_flight = 1));
    let spawn = |act: Act| {
        let (stack, op) = (Arc::clone(&stack), op(&fake, act));
        tokio::spawn(async move { stack.perform(&op).await })
    };
    let look = || Act::Look { call: call(), referred_by: None, sent: None };
    let (answer, waits) = oneshot::channel();
    fake.then("dlg_list_ctx", Does::Waits(waits));
    let holding = spawn(look());
    fake.until_asked(2).await;
    let line: Vec<_> = (0..16).map(|_| spawn(look())).collect();
    // Each has its last moment in view, and when it asks again or those in the line their turn's.
    fake.until_sleeping(17 * 2).await;
    let overloaded = Reply::NotSent(NotSent::Overloaded);
    assert_eq!(stack.perform(&op(&fake, look())).await, overloaded, "the line has an end");
    let ending = [spawn(end()), spawn(Act::CancelInvite { call: call() })];
    fake.until_sleeping(19 * 2).await;
    fake.then("version", Does::Answers(done()));
    assert!(stack.connect().await.is_ok(), "it is not away");
    for _ in 0..16 {
        fake.then("dlg_list_ctx", Does::Answers(MiAnswer::Result(dialog(4))));
    }
    fake.then("dlg_end_dlg", Does::Answers(done()));
    fake.then("t_uac_cancel", Does::Answers(done()));
    answer.send(MiAnswer::Result(dialog(4))).unwrap();
    for looking in line.into_iter().chain([holding]) {
        assert!(matches!(looking.await.unwrap(), Reply::Done(Facts::Looked(_))));
    }
    for ending in ending {
        assert_eq!(ending.await.unwrap(), Reply::Done(Facts::Nothing));
    }
}

#[tokio::test]
async fn a_flood_of_ends_is_bounded_and_takes_nobody_elses_place_in_line() {
    let fake = Fake::default();
    let stack = Arc::new(stack(&fake, |s| s.in_flight = 1));
    let spawn = |act: Act| {
        let (stack, op) = (Arc::clone(&stack), op(&fake, act));
        tokio::spawn(async move { stack.perform(&op).await })
    };
    let (answer, waits) = oneshot::channel();
    fake.then("dlg_end_dlg", Does::Waits(waits));
    let mut ending = vec![spawn(end())];
    fake.until_asked(2).await;
    ending.extend((0..64).map(|_| spawn(end())));
    // Each has its last moment in view, those that wait their turn's as well.
    fake.until_sleeping(64 * 2 + 1).await;
    let overloaded = Reply::NotSent(NotSent::Overloaded);
    let one_more = spawn(end());
    until("it is refused", || one_more.is_finished()).await;
    assert_eq!(one_more.await.unwrap(), overloaded, "ends are not without end");
    let looking = spawn(Act::Look { call: call(), referred_by: None, sent: None });
    until("the look waits", || fake.time.sleeping() > 65 * 2 || looking.is_finished()).await;
    for _ in 0..64 {
        fake.then("dlg_end_dlg", Does::Answers(done()));
    }
    fake.then("dlg_list_ctx", Does::Answers(MiAnswer::Result(dialog(4))));
    answer.send(done()).unwrap();
    assert!(matches!(looking.await.unwrap(), Reply::Done(Facts::Looked(_))));
    for ending in ending {
        assert_eq!(ending.await.unwrap(), Reply::Done(Facts::Nothing));
    }
}

#[tokio::test]
async fn one_full_list_serves_all_who_wait_for_it() {
    let fake = Fake::default();
    let stack = Arc::new(stack(&fake, |_| ()));
    let (answer, waits) = oneshot::channel();
    let empty = || MiAnswer::Result(json!({"Dialogs": []}));
    let not_found = || MiAnswer::error(404, "No such dialog");
    // By Call-ID first, each; then the lists.
    fake.then("dlg_list_ctx", Does::Answers(not_found()));
    fake.then("dlg_list_ctx", Does::Waits(waits));
    let look = || Act::Look { call: call(), referred_by: None, sent: None };
    let spawn = || {
        let (stack, op) = (Arc::clone(&stack), op(&fake, look()));
        tokio::spawn(async move { stack.perform(&op).await })
    };
    let first = spawn();
    fake.until_asked_for("dlg_list_ctx", 2).await;
    // These come while the first list is under way: it is too old for them.
    for _ in 0..20 {
        fake.then("dlg_list_ctx", Does::Answers(not_found()));
    }
    fake.time.pass(Duration::from_millis(1));
    let others: Vec<_> = (0..20).map(|_| spawn()).collect();
    fake.until_asked_for("dlg_list_ctx", 22).await;
    fake.then("dlg_list_ctx", Does::Answers(empty()));
    answer.send(empty()).unwrap();
    let seen = |reply: Reply| match reply {
        Reply::Done(Facts::Looked(sighting)) => {
            assert!(sighting.full.is_some() && sighting.call.is_none())
        }
        other => panic!("{other:?}"),
    };
    seen(first.await.unwrap());
    // The next list is begun a second after the first, not sooner.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    fake.until_asked_for("dlg_list_ctx", 22).await;
    assert_eq!(fake.asked().iter().filter(|m| *m == "dlg_list_ctx").count(), 22);
    fake.time.pass(Duration::from_secs(1));
    for other in others {
        seen(other.await.unwrap());
    }
    assert_eq!(fake.asked().iter().filter(|m| *m == "dlg_list_ctx").count(), 23);
}

#[tokio::test]
async fn a_list_that_spans_a_restart_proves_nothing() {
    let fake = Fake::default();
    let stack = stack(&fake, |_| ());
    fake.then("uptime", Does::Answers(up("first life")));
    fake.then("uptime", Does::Answers(up("first life")));
    fake.then("uptime", Does::Answers(up("second life")));
    fake.then("dlg_list_ctx", Does::Answers(MiAnswer::error(404, "No such dialog")));
    fake.then("dlg_list_ctx", Does::Answers(MiAnswer::Result(json!({"Dialogs": []}))));
    let look = Act::Look { call: call(), referred_by: None, sent: None };
    match stack.perform(&op(&fake, look)).await {
        Reply::Done(Facts::Looked(sighting)) => assert!(sighting.full.is_none()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_call_whose_id_reads_as_another_dialogs_is_ended_by_its_own() {
    let fake = Fake::default();
    let stack = stack(&fake, |_| ());
    // Somebody named a call like the stack's handle of another one.
    let trap = CallId::parse("1a.2b").unwrap();
    let mut mine = dialog(4)["Dialog"].clone();
    mine["callid"] = json!("1a.2b");
    mine["ID"] = json!("9f.9f");
    let mut other = dialog(4)["Dialog"].clone();
    other["ID"] = json!("1a.2b");
    let list = MiAnswer::Result(json!({"Dialogs": [other, mine]}));
    fake.then("dlg_list_ctx", Does::Answers(list));
    fake.then("dlg_end_dlg", Does::Answers(done()));
    let reply = stack.perform(&op(&fake, Act::End { call: trap })).await;
    assert_eq!(reply, Reply::Done(Facts::Nothing));
    let ended = fake.asked.lock().unwrap().last().unwrap().clone();
    assert_eq!(ended.params.text("dialog_id"), Some("9f.9f"));
}
