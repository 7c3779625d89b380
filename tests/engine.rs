//! The loop itself, in one thread and virtual time: nothing is asked of a stack before it is
//! committed, and each operation once, whatever the store does.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use callplane::app::TokioHost;
use callplane::bus::MemoryBus;
use callplane::clock::{Clock, Nonces};
use callplane::core::act::{Act, DialogState, Facts, NotSent, Op, Reply};
use callplane::core::command::Input;
use callplane::core::failure::Outcome;
use callplane::core::ids::{
    Boot, CallId, CommandId, DialogId, Digest, Epoch, Install, Nonce, OpId, PodId, Scope,
    SessionId, StackId, TenantId, Term,
};
use callplane::core::plan::{Capabilities, HoldBy, ReferBy, Times};
use callplane::core::record::{Begin, FORMAT, Key, Position, READABLE, Record};
use callplane::core::request::{Leg, Request, StartRequest};
use callplane::core::sip_address::SipAddress;
use callplane::core::stack_event::{StackEvent, Uptime};
use callplane::core::time::StoreTime;
use callplane::engine::begin::{Begun, Refusal};
use callplane::engine::happened::Heard;
use callplane::engine::{Cancelling, Engine, Host, NoList, Observer, Parts, Settings};
use callplane::stack::{self, SipStack, Snapshot, Stacks};
use callplane::store::memory::MemoryStore;
use callplane::store::{
    Away, Beat, Commit, Find, Limits, Page, Pulse, Store, Unfound, Unreadable, Verdict,
};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Time, randomness and tasks of one test.
struct Hands {
    now: AtomicU64,
    drawn: AtomicU64,
    tasks: Mutex<Vec<Work>>,
    begun: AtomicU64,
    ended: Mutex<Vec<Outcome>>,
    took_in: Mutex<Vec<(Vec<Input>, Range<StoreTime>)>>,
}

impl Clock for Hands {
    fn now(&self) -> StoreTime {
        StoreTime(self.now.load(Ordering::SeqCst))
    }
}

impl Nonces for Hands {
    fn nonce(&self) -> Nonce {
        let drawn = u128::from(self.drawn.fetch_add(1, Ordering::SeqCst)) + 1;
        Nonce(drawn.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
    }
}

impl Host for Hands {
    fn spawn(&self, work: Work) {
        self.tasks.lock().unwrap().push(work);
    }

    fn wake_at(&self, _at: StoreTime) {}
}

impl Observer for Hands {
    fn begun(&self, _record: &Record) {
        self.begun.fetch_add(1, Ordering::SeqCst);
    }

    fn ended(&self, record: &Record, _at: StoreTime) {
        self.ended.lock().unwrap().push(*record.state.outcome().unwrap());
    }

    fn performed(&self, _: &Record, _: &Op, _: &Reply, _: Range<StoreTime>) {}

    fn took_in(&self, _: &Record, inputs: &[Input], during: Range<StoreTime>) {
        self.took_in.lock().unwrap().push((inputs.to_vec(), during));
    }
}

/// What happens to a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It is applied and answered.
    Fine,
    /// It is applied, and the answer is lost.
    AnswerLost,
    /// It never arrives.
    Lost,
    /// It arrives too late, and is not applied.
    Late,
    /// It is applied; the answer comes when [`Shaky::go_on`] is called.
    AnswerWaits,
    /// It arrives when [`Shaky::go_on`] is called.
    Waits,
}

/// A store whose next commits go wrong as told.
struct Shaky {
    inner: MemoryStore<Arc<Hands>>,
    epoch: Epoch,
    faults: Mutex<VecDeque<Fault>>,
    /// The reads and the beats fail as well.
    away: Mutex<bool>,
    beats: AtomicU64,
    /// What is stored is of a later version.
    later: Mutex<bool>,
    asked_by_key: AtomicU64,
    waiting: Mutex<bool>,
    committed: Mutex<Vec<OpId>>,
    /// It is another store by now, which knows what this one acknowledged, or some of it.
    newer: Mutex<Option<Epoch>>,
}

impl Shaky {
    fn next(&self, faults: &[Fault]) {
        self.faults.lock().unwrap().extend(faults);
    }

    fn go_on(&self) {
        *self.waiting.lock().unwrap() = false;
    }

    async fn wait(&self) {
        *self.waiting.lock().unwrap() = true;
        let waits = |_: &mut Context<'_>| {
            if *self.waiting.lock().unwrap() { Poll::Pending } else { Poll::Ready(()) }
        };
        std::future::poll_fn(waits).await;
    }
}

impl Store for Shaky {
    async fn commit(&self, mut commit: Commit) -> Result<Verdict, Away> {
        let newer = self.newer.lock().unwrap().clone();
        if let Some(newer) = newer {
            if commit.epoch != newer {
                return Ok(Verdict::EpochChanged(newer));
            }
            commit.epoch = self.epoch.clone();
        }
        let fault = self.faults.lock().unwrap().pop_front().unwrap_or(Fault::Fine);
        let stored = self.inner.find(Find::Key(commit.record.key.clone())).await;
        if *self.later.lock().unwrap() && stored.is_ok_and(|stored| !stored.is_empty()) {
            return Ok(Verdict::Illegible);
        }
        match fault {
            Fault::Lost => return Err(Away),
            Fault::Late => return Ok(Verdict::Late),
            Fault::Waits => self.wait().await,
            Fault::Fine | Fault::AnswerLost | Fault::AnswerWaits => {}
        }
        let ops: Vec<OpId> = commit.record.state.open().iter().map(|op| op.id.clone()).collect();
        let verdict = self.inner.commit(commit).await;
        if matches!(verdict, Ok(Verdict::Applied { .. })) {
            self.committed.lock().unwrap().extend(ops);
        }
        match fault {
            Fault::AnswerLost => return Err(Away),
            Fault::AnswerWaits => self.wait().await,
            Fault::Fine | Fault::Lost | Fault::Late | Fault::Waits => {}
        }
        verdict
    }

    async fn find(&self, by: Find) -> Result<Vec<Arc<Record>>, Unfound> {
        if *self.away.lock().unwrap() {
            return Err(Away.into());
        }
        let found = self.inner.find(by.clone()).await?;
        match (*self.later.lock().unwrap(), by) {
            (false, _) => Ok(found),
            (true, Find::Key(_)) => {
                self.asked_by_key.fetch_add(1, Ordering::SeqCst);
                if found.is_empty() { Ok(found) } else { Err(Unfound::Illegible) }
            }
            (true, _) => Ok(Vec::new()),
        }
    }

    async fn read(
        &self,
        tenant: &TenantId,
        after: &Position,
        max: usize,
        of: Option<&SessionId>,
    ) -> Result<Page, Unreadable> {
        self.inner.read(tenant, after, max, of).await
    }

    async fn head(&self, tenant: &TenantId) -> Result<Position, Away> {
        self.inner.head(tenant).await
    }

    async fn beat(&self, beat: &Beat) -> Result<Pulse, Away> {
        if *self.away.lock().unwrap() {
            return Err(Away);
        }
        self.beats.fetch_add(1, Ordering::SeqCst);
        self.inner.beat(beat).await
    }

    async fn lead(&self, stack: &StackId) -> Result<Term, Away> {
        self.inner.lead(stack).await
    }
}

/// A stack that notes what it was asked and answers when told; looks find the call gone.
#[derive(Default)]
struct Stack {
    asked: Mutex<Vec<Op>>,
    replies: Mutex<BTreeMap<OpId, Reply>>,
    listed: Mutex<bool>,
    fr_timeout: Mutex<Option<Duration>>,
}

impl SipStack for Stack {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            start_is_safe: false,
            referral_tokens: true,
            persists_dialogs: false,
            hold: HoldBy::ReInvite,
            refer: ReferBy::Sequential,
        }
    }

    fn fr_timeout(&self) -> Option<Duration> {
        *self.fr_timeout.lock().unwrap()
    }

    async fn perform(&self, op: &Op) -> Reply {
        self.asked.lock().unwrap().push(op.clone());
        let wait = |_: &mut Context<'_>| match self.replies.lock().unwrap().remove(&op.id) {
            Some(reply) => Poll::Ready(reply),
            None => Poll::Pending,
        };
        std::future::poll_fn(wait).await
    }

    async fn list(&self) -> Result<Snapshot, stack::Away> {
        if *self.listed.lock().unwrap() {
            let uptime = Uptime { boot: Boot::new("b"), since: StoreTime(1) };
            Ok(Snapshot { uptime, dialogs: Vec::new() })
        } else {
            Err(stack::Away::Incomplete)
        }
    }
}

struct One {
    names: Vec<StackId>,
    stack: Stack,
}

impl Stacks for One {
    type Stack = Stack;

    fn get(&self, id: &StackId) -> Option<&Stack> {
        self.names.contains(id).then_some(&self.stack)
    }

    fn names(&self) -> &[StackId] {
        &self.names
    }

    fn of_domain(&self, _domain: &str) -> Option<StackId> {
        self.names.first().cloned()
    }
}

struct World {
    hands: Arc<Hands>,
    store: Arc<Shaky>,
    stacks: Arc<One>,
    engine: Arc<Engine<Shaky, One>>,
}

impl World {
    fn new() -> Self {
        Self::allowing(100)
    }

    /// The stack reports something now.
    fn happened(&self, event: StackEvent, term: Option<Term>) {
        let heard = [Heard { event, at: self.hands.now() }];
        self.run(self.engine.happened(&StackId::new("s"), &heard, term)).unwrap();
    }

    fn allowing(running: usize) -> Self {
        let hands = Arc::new(Hands {
            now: AtomicU64::new(1_700_000_000_000),
            drawn: AtomicU64::new(0),
            tasks: Mutex::default(),
            begun: AtomicU64::new(0),
            ended: Mutex::default(),
            took_in: Mutex::default(),
        });
        let bus = Arc::new(MemoryBus::default());
        let epoch = Epoch::derive(hands.nonce());
        let inner = MemoryStore::new(Arc::clone(&hands), bus, epoch.clone(), Limits::default());
        let store = Arc::new(Shaky {
            inner,
            epoch,
            faults: Mutex::default(),
            away: Mutex::default(),
            beats: AtomicU64::new(0),
            later: Mutex::default(),
            asked_by_key: AtomicU64::default(),
            waiting: Mutex::default(),
            committed: Mutex::default(),
            newer: Mutex::default(),
        });
        let stacks = Arc::new(One { names: vec![StackId::new("s")], stack: Stack::default() });
        let engine = Self::process("p", running, &hands, &store, &stacks);
        Self { hands, store, stacks, engine }
    }

    /// A process of this name before the same store and stack.
    fn process(
        name: &str,
        running: usize,
        hands: &Arc<Hands>,
        store: &Arc<Shaky>,
        stacks: &Arc<One>,
    ) -> Arc<Engine<Shaky, One>> {
        let parts = Parts {
            store: Arc::clone(store),
            stacks: Arc::clone(stacks),
            clock: Arc::clone(hands) as Arc<dyn Clock>,
            nonces: Arc::clone(hands) as Arc<dyn Nonces>,
            host: Arc::clone(hands) as Arc<dyn Host>,
            observer: Arc::clone(hands) as Arc<dyn Observer>,
        };
        let settings = Settings {
            pod: PodId::new(name),
            install: Install::parse("i").unwrap(),
            times: Times::default(),
            times_at: BTreeMap::new(),
            keep_calls: Duration::from_secs(60),
            keep_others: Duration::from_secs(60),
            one_start_per_caller: true,
            running,
        };
        Engine::new(parts, settings)
    }

    /// Another process before the same store and stack.
    fn another(&self, name: &str) -> Arc<Engine<Shaky, One>> {
        Self::process(name, 100, &self.hands, &self.store, &self.stacks)
    }

    /// Polls everything until nothing moves. A waker would only save polls.
    fn settle(&self) {
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..50 {
            let tasks = std::mem::take(&mut *self.hands.tasks.lock().unwrap());
            let mut waiting: Vec<Work> = tasks
                .into_iter()
                .filter_map(|mut work| {
                    work.as_mut().poll(&mut context).is_pending().then_some(work)
                })
                .collect();
            self.hands.tasks.lock().unwrap().append(&mut waiting);
        }
    }

    /// Runs one piece of work beside the others, to its end.
    fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..50 {
            if let Poll::Ready(done) = work.as_mut().poll(&mut context) {
                self.settle();
                return done;
            }
            self.settle();
        }
        panic!("it does not come to an end");
    }

    /// Begins a piece of work that waits for something.
    fn start<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Arc<Mutex<Option<T>>> {
        let done = Arc::new(Mutex::new(None));
        let put = Arc::clone(&done);
        self.hands.spawn(Box::pin(async move {
            let result = work.await;
            *put.lock().unwrap() = Some(result);
        }));
        self.settle();
        done
    }

    fn pass(&self, by: Duration) {
        let end = self.hands.now().after(by);
        while self.hands.now() < end {
            self.hands.now.fetch_add(50, Ordering::SeqCst);
            self.engine.fire();
            self.settle();
        }
    }

    /// Time passes in which these do what a process does each second, and nobody anything else.
    fn live(&self, engines: &[&Arc<Engine<Shaky, One>>], seconds: u64) {
        for _ in 0..seconds {
            self.hands.now.fetch_add(1000, Ordering::SeqCst);
            for engine in engines {
                let _ = self.run(engine.beat());
                self.run(engine.sweep());
            }
        }
    }

    fn begin(&self, id: &str, request: Request) -> Result<Begun, Refusal> {
        self.run(self.engine.begin(begin(id, request)))
    }

    fn record(&self, id: &str) -> Arc<Record> {
        self.run(self.store.inner.find(Find::Key(key(id)))).unwrap().pop().unwrap()
    }

    fn asked(&self) -> Vec<Op> {
        self.stacks.stack.asked.lock().unwrap().clone()
    }

    fn last_asked(&self) -> Op {
        self.asked().pop().unwrap()
    }

    fn reply(&self, op: &Op, reply: Reply) {
        self.stacks.stack.replies.lock().unwrap().insert(op.id.clone(), reply);
        self.settle();
    }

    /// Laws that hold at any moment.
    fn check(&self) {
        let committed = self.store.committed.lock().unwrap().clone();
        let mut sent = std::collections::BTreeSet::new();
        for op in self.asked() {
            assert!(
                op.by != PodId::new("p")
                    || committed.contains(&op.id)
                    || matches!(op.act, Act::End { .. }),
                "asked before it was committed: {op:?}"
            );
            assert!(sent.insert((op.id.clone(), op.send_before)), "asked twice: {op:?}");
        }
    }
}

fn session() -> SessionId {
    SessionId::derive(Nonce(1))
}

fn key(id: &str) -> Key {
    let id = CommandId::parse(id).unwrap();
    Key { tenant: TenantId::default(), scope: Scope::Session(session()), id }
}

fn begin(id: &str, request: Request) -> Begin {
    Begin {
        key: key(id),
        session: session(),
        digest: Digest([0; 32]),
        request,
        external_id: None,
        trace: None,
        asked_by: None,
        stack: None,
    }
}

fn call(name: &str) -> CallId {
    CallId::parse(name).unwrap()
}

fn sip(user: &str) -> SipAddress {
    SipAddress::parse(&format!("sip:{user}@x.example")).unwrap()
}

fn start() -> Request {
    Request::Start(StartRequest {
        caller: sip("a"),
        callee: sip("b"),
        ring_timeout: None,
        display: None,
        auto_answer: false,
        ringing: false,
    })
}

fn blind() -> Request {
    Request::BlindTransfer { call: call("A"), leg: Leg::Callee, destination: sip("c") }
}

fn end() -> Request {
    Request::End { call: call("A") }
}

fn referred() -> Reply {
    Reply::Done(Facts::Referred { code: 202, transferee: Arc::from("sip:b@x.example") })
}

fn refers(world: &World) -> usize {
    world.asked().iter().filter(|op| matches!(op.act, Act::Refer { .. })).count()
}

fn revokes(world: &World) -> usize {
    world.asked().iter().filter(|op| matches!(op.act, Act::Revoke { .. })).count()
}

/// The store is away for all that is asked of it.
fn away(world: &World) {
    *world.store.away.lock().unwrap() = true;
    world.store.next(&[Fault::Lost; 64]);
}

fn back(world: &World) {
    world.store.faults.lock().unwrap().clear();
    *world.store.away.lock().unwrap() = false;
}

#[test]
fn a_call_is_ended_straight_at_the_stack_while_the_store_is_away() {
    let world = World::new();
    // It knows the epoch, as every process does that has done something.
    world.begin("h", Request::Hold { call: call("A") }).unwrap();
    away(&world);
    let (engine, begin) = (Arc::clone(&world.engine), begin("e", end()));
    let begun = world.start(async move { engine.begin(begin).await });
    let Act::End { call: ended } = world.last_asked().act else { panic!("{:?}", world.asked()) };
    assert_eq!(ended, call("A"));
    world.reply(&world.last_asked(), Reply::Done(Facts::Nothing));
    let Some(Ok(Begun::Straight(ending))) = begun.lock().unwrap().take() else {
        panic!("no answer")
    };
    assert_eq!(ending.outcome, Outcome::Success);
    let refused = world.begin("u", Request::Unhold { call: call("B") });
    assert_eq!(refused, Err(Refusal::StoreUnavailable));
}

#[test]
fn a_start_is_given_up_straight_at_the_stack_while_the_store_is_away() {
    let world = World::new();
    world.begin("s", start()).unwrap();
    let invite = world.last_asked();
    away(&world);
    let (engine, key) = (Arc::clone(&world.engine), key("s"));
    let cancelled = world.start(async move { engine.cancel(key).await });
    assert!(matches!(world.last_asked().act, Act::CancelInvite { .. }), "{:?}", world.asked());
    world.reply(&world.last_asked(), Reply::Done(Facts::Nothing));
    let answer = cancelled.lock().unwrap().take();
    assert!(matches!(answer, Some(Ok(Cancelling::Straight(_)))), "{answer:?}");
    // Of a command that this process never saw nothing is known.
    let of_others = self::key("other");
    assert!(world.run(world.engine.cancel(of_others)).is_err());
    back(&world);
    world.reply(&invite, Reply::Silent);
    world.pass(Duration::from_secs(30));
    let outcome = world.record("s").state.outcome().copied();
    assert_eq!(outcome, Some(Outcome::Cancelled));
}

#[test]
fn a_commit_whose_answer_was_lost_is_made_good_and_what_it_opened_is_done() {
    let world = World::new();
    world.begin("t", blind()).unwrap();
    // The reply's commit is applied, and nobody hears of it.
    world.store.next(&[Fault::AnswerLost]);
    world.reply(
        &world.last_asked(),
        Reply::Refused {
            by: callplane::core::act::Refuser::Phone,
            code: 603,
            reason: Arc::from("Decline"),
        },
    );
    let open = world.record("t").state.open().to_vec();
    assert!(matches!(open[0].act, Act::Look { .. }), "{open:?}");
    assert_eq!(world.asked().len(), 1, "it has not been set about yet");
    world.pass(Duration::from_millis(300));
    assert_eq!(world.last_asked().act, open[0].act);
    world.check();
}

#[test]
fn a_reply_whose_commit_was_lost_is_applied_later() {
    let world = World::new();
    world.begin("e", end()).unwrap();
    world.store.next(&[Fault::Lost, Fault::Lost]);
    world.reply(&world.last_asked(), Reply::Done(Facts::Nothing));
    assert_eq!(world.record("e").version, 1);
    world.pass(Duration::from_millis(900));
    assert_eq!(world.record("e").version, 2);
    assert_eq!(world.asked().len(), 1, "the reply was known");
    world.check();
}

#[test]
fn an_operation_is_asked_once_though_an_old_version_names_it_again() {
    let world = World::new();
    world.store.next(&[Fault::AnswerWaits]);
    let mut beginning = std::pin::pin!(world.engine.begin(begin("t", blind())));
    let mut context = Context::from_waker(Waker::noop());
    assert!(beginning.as_mut().poll(&mut context).is_pending(), "its answer is on its way");
    // Somebody else steps the same command: the cancel names the REFER as open, too.
    world.run(world.engine.cancel(key("t"))).unwrap();
    let refer = world.asked().into_iter().find(|op| matches!(op.act, Act::Refer { .. })).unwrap();
    world.reply(&refer, referred());
    world.store.go_on();
    assert!(beginning.as_mut().poll(&mut context).is_ready());
    world.settle();
    assert_eq!(refers(&world), 1);
    world.check();
}

/// A socket that closes drops what it asked: the commit of it may be in the store by then.
#[test]
fn what_was_asked_is_done_though_nobody_waits_for_it_any_more() {
    let world = World::new();
    let mut context = Context::from_waker(Waker::noop());
    world.store.next(&[Fault::AnswerWaits]);
    let mut beginning = Box::pin(world.engine.begin(begin("t", blind())));
    assert!(beginning.as_mut().poll(&mut context).is_pending(), "its answer is on its way");
    drop(beginning);
    world.store.go_on();
    world.settle();
    assert_eq!(refers(&world), 1);
    world.reply(&world.last_asked(), referred());

    world.store.next(&[Fault::AnswerWaits]);
    let mut cancelling = Box::pin(world.engine.cancel(key("t")));
    assert!(cancelling.as_mut().poll(&mut context).is_pending(), "its answer is on its way");
    drop(cancelling);
    world.store.go_on();
    world.settle();
    assert!(matches!(world.last_asked().act, Act::Revoke { .. }), "{:?}", world.last_asked());
    world.check();
}

#[test]
fn a_beginning_that_nobody_heard_of_sends_nothing_and_says_so() {
    let world = World::new();
    world.store.next(&[Fault::AnswerLost]);
    assert_eq!(world.begin("s", start()), Err(Refusal::StoreUnavailable));
    assert_eq!(world.record("s").version, 1, "it did begin");
    world.pass(Duration::from_secs(6));
    assert_eq!(world.asked(), [], "the client was told that the store is away");
    assert_eq!(world.record("s").state.outcome(), Some(&Outcome::NotStarted));
    assert_eq!(world.hands.begun.load(Ordering::SeqCst), 1);
    assert_eq!(*world.hands.ended.lock().unwrap(), [Outcome::NotStarted]);
}

#[test]
fn a_beginning_that_never_arrived_leaves_nothing() {
    let world = World::new();
    world.store.next(&[Fault::Lost]);
    assert_eq!(world.begin("s", start()), Err(Refusal::StoreUnavailable));
    world.pass(Duration::from_secs(6));
    assert_eq!(world.asked(), []);
    assert_eq!(world.hands.begun.load(Ordering::SeqCst), 0);
    assert!(matches!(world.begin("s", start()), Ok(Begun::New(_))));
}

#[test]
fn who_was_overtaken_learns_of_it_when_the_store_is_back() {
    let world = World::new();
    world.begin("t", blind()).unwrap();
    world.reply(&world.last_asked(), referred());
    *world.store.away.lock().unwrap() = true;
    world.begin("e", end()).unwrap();
    assert_eq!(world.record("t").state.outcome(), None);
    *world.store.away.lock().unwrap() = false;
    world.pass(Duration::from_millis(500));
    assert_eq!(revokes(&world), 1, "the transfer is being given up");
    world.check();
}

/// Nobody heard that the `CallEnd` began, so nobody told whom it overtook.
#[test]
fn who_was_overtaken_learns_of_it_though_the_answer_was_lost() {
    let world = World::new();
    world.begin("t", blind()).unwrap();
    world.reply(&world.last_asked(), referred());
    world.store.next(&[Fault::AnswerLost]);
    let (engine, begin) = (Arc::clone(&world.engine), begin("e", end()));
    world.start(async move { engine.begin(begin).await });
    assert!(world.record_of("e").is_some(), "it did begin");
    world.pass(Duration::from_secs(1));
    assert_eq!(revokes(&world), 1, "the transfer is being given up: {:?}", world.record("t"));
    world.check();
}

/// Whose `CallEnd` it was died before it told whom it overtook.
#[test]
fn who_was_overtaken_learns_of_it_though_the_process_died() {
    let world = World::new();
    world.begin("t", blind()).unwrap();
    world.reply(&world.last_asked(), referred());
    let dying = World::process("q", 100, &world.hands, &world.store, &world.stacks);
    world.run(dying.beat()).unwrap();
    world.store.next(&[Fault::AnswerWaits]);
    let mut beginning = Box::pin(dying.begin(begin("e", end())));
    let mut context = Context::from_waker(Waker::noop());
    assert!(beginning.as_mut().poll(&mut context).is_pending(), "its answer is on its way");
    std::mem::forget(beginning);
    world.store.go_on();
    for _ in 0..8 {
        world.pass(Duration::from_millis(500));
        world.run(world.engine.beat()).unwrap();
    }
    assert_eq!(revokes(&world), 1, "the transfer is being given up: {:?}", world.record("t"));
    world.check();
}

/// While a commit waits until enough servers have it, a timer of the version before may find it.
#[test]
fn what_may_not_be_kept_is_not_sent_by_a_timer_in_between() {
    let world = World::new();
    world.begin("s", start()).unwrap();
    let invite = world.last_asked();
    let Act::Invite { call: setup, .. } = &invite.act else { panic!("{invite:?}") };
    let dialog = DialogId::parse("d.1").unwrap();
    let state = DialogState::Confirmed;
    world.happened(StackEvent::Dialog { call: setup.clone(), dialog, state }, None);
    world.pass(Duration::from_millis(800));
    // The first one meets the version that the event made.
    world.store.next(&[Fault::Fine, Fault::AnswerWaits]);
    world.reply(&invite, Reply::Done(Facts::Answered { takes_refer: None }));
    world.pass(Duration::from_millis(400));
    assert_eq!(refers(&world), 0, "nobody has said that it is kept");
    world.store.go_on();
    world.settle();
    assert_eq!(refers(&world), 1);
    world.check();
}

#[test]
fn a_call_is_ended_straight_too_when_the_store_is_too_slow() {
    let world = World::new();
    world.store.next(&[Fault::Late]);
    let (engine, begin) = (Arc::clone(&world.engine), begin("e", end()));
    let begun = world.start(async move { engine.begin(begin).await });
    world.reply(&world.last_asked(), Reply::Done(Facts::Nothing));
    assert!(matches!(*begun.lock().unwrap(), Some(Ok(Begun::Straight(_)))), "{begun:?}");

    world.store.next(&[Fault::Late]);
    let hold = Request::Hold { call: call("A") };
    assert_eq!(world.begin("h", hold), Err(Refusal::StoreUnavailable));
}

#[test]
fn an_end_is_never_one_too_many() {
    let world = World::allowing(1);
    world.begin("t", blind()).unwrap();
    let hold = Request::Hold { call: call("B") };
    assert_eq!(world.begin("h", hold), Err(Refusal::TooMany { limit: 1 }));
    assert!(world.begin("e", Request::End { call: call("B") }).is_ok());
}

#[test]
fn what_a_later_version_has_in_hand_is_left_to_it() {
    let world = World::new();
    world.begin("x", blind()).unwrap();
    *world.store.later.lock().unwrap() = true;
    assert_eq!(world.begin("x", blind()), Err(Refusal::Illegible));
    assert_eq!(world.run(world.engine.get(&key("x"))), Err(Unfound::Illegible));
    assert_eq!(world.run(world.engine.cancel(key("x"))), Err(Unfound::Illegible));
    world.reply(&world.last_asked(), referred());
    let before = world.store.asked_by_key.load(Ordering::SeqCst);
    world.pass(Duration::from_secs(60));
    let asked = world.store.asked_by_key.load(Ordering::SeqCst) - before;
    assert!(asked <= 3, "it is asked for again and again: {asked} times");
    assert_eq!(world.engine.performing(), 0);
}

/// Rewrites a command's record as a build of this layout would.
fn write_as(world: &World, id: &str, format: u16) {
    let record = world.record(id);
    let epoch = record.born.clone();
    let record = Record { version: record.version + 1, format, ..Record::clone(&record) };
    let commit = Commit {
        record,
        nonce: world.hands.nonce(),
        not_after: world.hands.now().after(Duration::from_secs(1)),
        epoch,
        term: None,
        notices: Vec::new(),
        quota: None,
        keep: Duration::from_secs(60),
        durable: false,
    };
    world.run(world.store.inner.commit(commit)).unwrap();
    assert_eq!(world.record(id).format, format);
}

#[test]
fn what_is_written_has_the_layout_of_who_writes_it() {
    let world = World::new();
    world.begin("x", blind()).unwrap();
    write_as(&world, "x", FORMAT - 1);
    world.reply(&world.last_asked(), referred());
    assert_eq!((world.record("x").version, world.record("x").format), (3, FORMAT));
}

#[test]
fn what_has_a_later_layout_than_is_known_is_left_as_it_is() {
    let world = World::new();
    world.begin("x", blind()).unwrap();
    write_as(&world, "x", READABLE + 1);
    world.reply(&world.last_asked(), referred());
    assert_eq!((world.record("x").version, world.record("x").format), (2, READABLE + 1));
}

#[test]
fn a_once_only_act_of_an_older_epoch_is_looked_at_and_not_sent() {
    let world = World::new();
    world.begin("s", start()).unwrap();
    let invite = world.last_asked();
    let Act::Invite { call: setup, .. } = &invite.act else { panic!("{invite:?}") };
    // Another store took over: what came after this version may be lost.
    *world.store.newer.lock().unwrap() = Some(Epoch::derive(Nonce(99)));
    world.reply(&invite, Reply::Done(Facts::Answered { takes_refer: None }));
    let event = StackEvent::Dialog {
        call: setup.clone(),
        dialog: DialogId::parse("d.1").unwrap(),
        state: DialogState::Confirmed,
    };
    world.happened(event, Some(Term(1)));
    world.pass(Duration::from_millis(300));
    assert_eq!(refers(&world), 0, "{:?}", world.asked());
}

#[test]
fn what_a_forgetful_store_shows_as_unsent_may_have_been_sent() {
    let world = World::new();
    world.begin("s", start()).unwrap();
    let invite = world.last_asked();
    // Another store took over, which knows the command's first version only. Its process asks when
    // it is too late for the INVITE that it sent long ago.
    *world.store.newer.lock().unwrap() = Some(Epoch::derive(Nonce(99)));
    world.reply(&invite, Reply::NotSent(NotSent::TooLate));
    let record = world.record("s");
    assert_ne!(record.state.outcome(), Some(&Outcome::NotStarted));
    assert!(record.state.outcome().is_none(), "it is looked for: {record:?}");
    // Nothing of it is there any more.
    for _ in 0..400 {
        world.pass(Duration::from_millis(500));
        if world.record("s").state.outcome().is_some() {
            break;
        }
    }
    let outcome = world.record("s").state.outcome().copied();
    assert!(matches!(outcome, Some(Outcome::Unknown { .. })), "{outcome:?}");
}

#[test]
fn what_a_forgetful_store_lost_is_not_gone_on_with_under_the_same_version() {
    let world = World::new();
    world.begin("t", blind()).unwrap();
    let then = world.store.inner.remember();
    world.run(world.engine.cancel(key("t"))).unwrap();
    world.reply(&world.asked()[0], referred());
    let lost = world.last_asked();
    let version = world.record("t").version;
    world.store.inner.forget_since(Some(then), Epoch::derive(Nonce(99)));
    // Another way to as many versions.
    while world.record("t").version < version {
        world.pass(Duration::from_millis(250));
    }
    let now = world.record("t");
    assert!(now.state.open().iter().all(|op| op.id != lost.id), "{now:?}");
    world.reply(&lost, Reply::Done(Facts::Nothing));
    assert_eq!(world.record("t"), now, "the reply is to something that the store knows nothing of");
}

#[test]
fn a_start_that_ends_in_doubt_leaves_its_leg_to_the_orphan_rule() {
    let world = World::new();
    world.begin("s", start()).unwrap();
    let invite = world.last_asked();
    // The stack says nothing any more, to nothing.
    for _ in 0..2000 {
        world.pass(Duration::from_millis(500));
        if world.record_of("s").is_none_or(|record| record.state.outcome().is_some()) {
            break;
        }
        for op in world.asked() {
            if op.id != invite.id {
                world.reply(&op, Reply::Silent);
            }
        }
    }
    let ending = world.record("s").state.ending().unwrap().clone();
    let doubt = matches!(ending.outcome, Outcome::Unknown { .. }) || ending.remarks.leg_left_up;
    assert!(doubt, "{ending:?}");
    let before = world.asked().len();
    world.pass(Duration::from_secs(11));
    let Act::Invite { call: setup, .. } = &invite.act else { panic!("{invite:?}") };
    let last = &world.asked()[before..];
    assert!(last.iter().any(|op| op.act == Act::End { call: setup.clone() }), "{last:?}");
}

#[test]
fn a_list_that_could_not_be_had_is_said() {
    let world = World::new();
    let joined = |world: &World| world.run(world.engine.joined(&StackId::new("s"), Some(Term(1))));
    assert_eq!(joined(&world), Err(NoList));
    *world.stacks.stack.listed.lock().unwrap() = true;
    assert_eq!(joined(&world), Ok(()));
}

impl World {
    fn record_of(&self, id: &str) -> Option<Arc<Record>> {
        self.run(self.store.inner.find(Find::Key(key(id)))).unwrap().pop()
    }
}

/// A command has ended, and its REFER may still be acted on: whoever is refused for that is told for
/// how long.
#[test]
fn who_is_refused_for_an_ended_command_is_told_when_to_come_back() {
    let world = World::new();
    world.begin("t", blind()).unwrap();
    let refer = world.last_asked();
    let hold = || Request::Hold { call: call("A") };
    let by = CommandId::parse("t").unwrap();
    let running = Refusal::CallBusy { by: by.clone(), lingers: None };
    assert_eq!(world.begin("h", hold()), Err(running), "nobody knows how long it runs");
    world.pass(Duration::from_secs(1));
    let (boot, since) = (Boot::new("another life"), world.hands.now());
    let restarted = StackEvent::Restarted(Uptime { boot, since });
    world.happened(restarted, None);
    assert!(world.record("t").state.outcome().is_some());
    let wait = world.hands.now().until(refer.reply_by);
    let refused = world.begin("h", hold());
    assert_eq!(refused, Err(Refusal::CallBusy { by, lingers: Some(wait) }));
    world.pass(wait);
    assert!(world.begin("h", hold()).is_ok());
}

/// The script knows when it gives a phone up, and the configuration only believes to.
#[test]
fn a_plan_waits_for_a_silent_phone_as_long_as_the_stacks_script_does() {
    let world = World::new();
    for (id, script, silence) in [("1", None, 6), ("2", Some(9), 10)] {
        *world.stacks.stack.fr_timeout.lock().unwrap() = script.map(Duration::from_secs);
        let call = CallId::parse(&format!("call-{id}")).unwrap();
        world.begin(id, Request::End { call }).unwrap();
        let plan = &world.record(id).state.plan;
        assert_eq!(plan.times.silence, Duration::from_secs(silence));
    }
}

/// A process that was cut off works again before it tells that it lives.
#[test]
fn what_a_silent_process_took_lately_is_not_in_doubt() {
    let world = World::new();
    let other = world.another("o");
    world.run(world.engine.beat()).unwrap();
    world.live(&[&other], 10);
    world.begin("t", blind()).unwrap();
    let refer = world.last_asked();
    let is_open = || world.record("t").state.open().iter().any(|op| op.id == refer.id);
    for (wait, doubted) in [(1000, false), (1500, false), (900, false), (200, true)] {
        world.pass(Duration::from_millis(wait));
        let pulse = world.run(other.beat()).unwrap();
        assert!(pulse.silent.contains(&PodId::new("p")), "{pulse:?}");
        assert_eq!(is_open(), !doubted, "{wait} ms later");
    }
}

/// While the store is away nobody can tell it that he lives, and replies wait.
#[test]
fn who_lives_is_left_his_replies_after_the_store_was_away() {
    for seconds in [4, 15] {
        let world = World::new();
        let other = world.another("o");
        world.live(&[&world.engine, &other], 4);
        world.begin("e", end()).unwrap();
        away(&world);
        world.reply(&world.last_asked(), Reply::Done(Facts::Nothing));
        world.live(&[&other], seconds);
        back(&world);
        let pulse = world.run(other.beat()).unwrap();
        assert!(pulse.silent.contains(&PodId::new("p")), "it was not away for long: {pulse:?}");
        world.run(other.sweep());
        world.live(&[&other], 1);
        assert_eq!(world.record("e").version, 1, "{seconds} s away");
        world.pass(Duration::from_millis(300));
        assert_eq!(ended_once(&world), Some(Outcome::Success));
    }
}

/// The stack was asked once to end the call; how that ends when the call is gone.
fn ended_once(world: &World) -> Option<Outcome> {
    let record = world.record("e");
    assert_eq!((record.version, record.state.open()), (2, [].as_slice()), "{record:?}");
    let dialog = DialogId::parse("d.1").unwrap();
    let gone = StackEvent::Dialog { call: call("A"), dialog, state: DialogState::Deleted };
    world.happened(gone, None);
    assert_eq!(world.asked().len(), 1);
    world.record("e").state.outcome().copied()
}

#[test]
fn who_died_is_missed_in_time() {
    for outage in [0, 10] {
        let world = World::new();
        let other = world.another("o");
        world.live(&[&world.engine, &other], 4);
        world.begin("t", blind()).unwrap();
        let refer = world.last_asked();
        let is_open = || world.record("t").state.open().iter().any(|op| op.id == refer.id);
        if outage > 0 {
            away(&world);
            world.live(&[&other], outage);
            back(&world);
        }
        world.live(&[&other], 3);
        assert!(is_open(), "it has not had the time to beat");
        world.live(&[&other], 1);
        assert!(!is_open(), "after {outage} s without the store");
    }
}

/// Configurations are changed one process after the other.
#[test]
fn what_runs_at_a_stack_that_a_process_does_not_know_is_left_to_those_that_do() {
    let world = World::new();
    let none = Arc::new(One { names: vec![StackId::new("another")], stack: Stack::default() });
    let without = World::process("without", 100, &world.hands, &world.store, &none);
    let with = world.another("with");
    world.live(&[&world.engine, &without, &with], 4);
    world.begin("t", blind()).unwrap();
    // Who began it is dead, and who knows its stack is not there yet.
    world.live(&[&without], 10);
    world.run(without.sweep());
    let state = &world.record("t").state;
    assert!(state.open().iter().all(|op| op.by != PodId::new("without")), "{state:?}");
    assert_eq!(state.outcome(), None);
    world.live(&[&without, &with], 4);
    let state = &world.record("t").state;
    assert!(state.open().iter().any(|op| op.by == PodId::new("with")), "{state:?}");
    // Nobody knows it any more.
    let left = world.hands.now().until(state.deadline);
    world.live(&[&without], left.as_secs() + 5);
    assert_ne!(world.record("t").state.outcome(), None);
}

/// The reply of a stack that is never silent comes, and nothing of a process that lives is lost for
/// good because it does not know what to do with it.
#[test]
fn a_reply_that_who_lives_does_not_bring_in_counts_as_lost() {
    let world = World::new();
    let other = world.another("o");
    world.live(&[&world.engine, &other], 4);
    world.begin("e", end()).unwrap();
    let asked = world.last_asked();
    let is_open = || world.record("e").state.open().iter().any(|op| op.id == asked.id);
    let lives = || {
        let _ = world.run(world.engine.beat());
        world.live(&[&other], 1);
    };
    while world.hands.now() < asked.overdue_at().after(Duration::from_secs(5)) {
        lives();
        assert!(is_open(), "its performer lives");
    }
    (0..3).for_each(|_| lives());
    assert!(!is_open());
}

#[test]
fn a_reply_on_its_way_to_the_store_is_not_lost_to_its_own_timer() {
    let world = World::new();
    world.begin("e", end()).unwrap();
    let asked = world.last_asked();
    world.pass(world.hands.now().until(asked.reply_by));
    world.store.next(&[Fault::Waits]);
    world.reply(&asked, Reply::Done(Facts::Nothing));
    world.pass(Duration::from_millis(1000));
    world.store.go_on();
    world.settle();
    assert_eq!(ended_once(&world), Some(Outcome::Success));
}

/// What an observer was told of events, and since when they waited.
fn events_told(world: &World) -> Vec<(Vec<Input>, Range<StoreTime>)> {
    let mut told = world.hands.took_in.lock().unwrap().clone();
    told.retain(|(inputs, _)| inputs.iter().any(|input| matches!(input, Input::Happened(_))));
    told
}

#[test]
fn an_observer_is_told_once_of_an_event_that_changed_a_command_and_since_when_it_waited() {
    for fault in [Fault::Fine, Fault::AnswerLost, Fault::Lost, Fault::Late] {
        let world = World::new();
        world.begin("e", end()).unwrap();
        let dialog = DialogId::parse("1.2").unwrap();
        let event = StackEvent::Dialog { call: call("A"), dialog, state: DialogState::Deleted };
        let came = world.hands.now();
        world.hands.now.fetch_add(300, Ordering::SeqCst);
        let heard = [Heard { event: event.clone(), at: came }];
        world.store.next(&[fault]);
        let stack = StackId::new("s");
        let happens = || world.engine.happened(&stack, &heard, None);
        world.run(happens()).unwrap();
        world.pass(Duration::from_secs(1));
        // Told again, it changes nothing.
        world.run(happens()).unwrap();
        let told = events_told(&world);
        let [(inputs, during)] = told.as_slice() else { panic!("{fault:?}: {told:#?}") };
        assert_eq!(inputs, &[Input::Happened(event)]);
        if fault == Fault::Fine {
            assert_eq!(*during, came..came.after(Duration::from_millis(300)));
        } else {
            assert!(during.start > came, "{fault:?}: the store took it later");
        }
    }
}

/// Another server of the store takes over, and its clock is behind.
#[tokio::test(start_paused = true)]
async fn a_process_beats_at_its_own_pace_though_the_stores_clock_stands_still() {
    let world = World::new();
    let (host, stop) = (TokioHost::new(TaskTracker::new()), CancellationToken::new());
    let clock = Arc::clone(&world.hands) as Arc<dyn Clock>;
    tokio::spawn(host.drive(Arc::clone(&world.engine), clock, stop.clone()));
    tokio::time::sleep(Duration::from_millis(9_500)).await;
    stop.cancel();
    assert_eq!(world.store.beats.load(Ordering::SeqCst), 10);
}

/// A dead process may leave thousands.
#[test]
fn what_the_dead_left_is_taken_up_side_by_side_and_not_by_all_in_the_same_order() {
    let world = World::new();
    let others = [world.another("o"), world.another("q")];
    world.live(&[&world.engine, &others[0], &others[1]], 4);
    let ids: Vec<String> = (0..90).map(|number| format!("e{number}")).collect();
    for id in &ids {
        let call = CallId::parse(id).unwrap();
        world.begin(id, Request::End { call }).unwrap();
    }
    world.live(&[&others[0], &others[1]], 3);
    let taken_up = || ids.iter().filter(|id| world.record(id).version > 1).count();
    assert_eq!(taken_up(), 0);
    // No commit is answered for now.
    world.store.next(&[Fault::AnswerWaits; 1000]);
    world.hands.now.fetch_add(1000, Ordering::SeqCst);
    world.run(others[0].beat()).unwrap();
    assert_eq!(taken_up(), 64);
    world.run(others[1].beat()).unwrap();
    assert!(taken_up() > 64, "{}", taken_up());
    world.store.faults.lock().unwrap().clear();
    for _ in 0..5 {
        world.store.go_on();
        world.settle();
    }
    assert_eq!(taken_up(), ids.len());
}

/// Another server of the store takes over, and its clock is behind.
#[test]
fn who_died_is_missed_in_time_though_the_stores_clock_goes_back() {
    let world = World::new();
    let other = world.another("o");
    world.live(&[&world.engine, &other], 4);
    world.hands.now.fetch_sub(60_000, Ordering::SeqCst);
    world.live(&[&other], 4);
    let pulse = world.run(other.beat()).unwrap();
    assert!(pulse.silent.contains(&PodId::new("p")), "{pulse:?}");
}

#[test]
fn who_is_about_to_end_takes_nothing_up_and_finishes_what_it_began() {
    let world = World::new();
    let (dead, other) = (world.another("o"), world.another("q"));
    world.live(&[&world.engine, &dead, &other], 4);
    world.begin("e", end()).unwrap();
    let ours = world.last_asked();
    let begins = dead.begin(begin(
        "t",
        Request::BlindTransfer { call: call("B"), leg: Leg::Callee, destination: sip("c") },
    ));
    world.run(begins).unwrap();
    let theirs = world.record("t").state.open()[0].id.clone();
    let is_open = || world.record("t").state.open().iter().any(|op| op.id == theirs);
    world.engine.leave();
    // The other hears of nobody's death for now: it has only begun.
    world.live(&[&world.engine], 15);
    world.pass(Duration::from_millis(500));
    assert!(is_open(), "it is left to the others");
    // What it asked it carries through, though the store is away for a moment.
    world.store.next(&[Fault::Lost]);
    world.reply(&ours, Reply::Done(Facts::Nothing));
    assert_eq!((world.record("e").version, world.engine.performing()), (1, 1));
    world.pass(Duration::from_millis(300));
    assert_eq!((world.record("e").version, world.engine.performing()), (2, 0));
    world.run(world.engine.part()).unwrap();
    let pulse = world.run(other.beat()).unwrap();
    let known: Vec<_> = pulse.alive.union(&pulse.silent).cloned().collect();
    assert!(!known.contains(&PodId::new("p")), "{pulse:?}");
    world.live(&[&other], 4);
    assert!(!is_open());
}

/// What it asked the stacks is not answered yet: others look at once.
#[test]
fn who_ends_before_the_stacks_have_answered_says_so() {
    let world = World::new();
    let other = world.another("o");
    world.live(&[&world.engine, &other], 4);
    world.begin("t", blind()).unwrap();
    let refer = world.last_asked();
    world.live(&[&world.engine, &other], 4);
    world.engine.leave();
    world.run(world.engine.part()).unwrap();
    world.run(other.beat()).unwrap();
    assert!(world.record("t").state.open().iter().all(|op| op.id != refer.id));
}

/// Only it knows of a leg that is to be ended soon: whoever leads is to look at a list.
#[test]
fn who_ends_with_a_leg_of_ours_to_end_says_so() {
    for noted in [false, true] {
        let world = World::new();
        let other = world.another("o");
        world.live(&[&world.engine, &other], 4);
        if noted {
            world.happened(
                StackEvent::Dialog {
                    call: call("cp-i-0-1"),
                    dialog: DialogId::parse("1.2").unwrap(),
                    state: DialogState::Confirmed,
                },
                Some(Term(1)),
            );
        }
        world.engine.leave();
        world.run(world.engine.part()).unwrap();
        world.run(other.beat()).unwrap();
        assert_eq!(other.silences(), u64::from(noted), "of the first that is silent");
        world.live(&[&other], 4);
        assert_eq!(other.silences(), u64::from(noted), "it is told once");
    }
}
