//! Reports of the stacks on their way to the engine: only while leading, in order, none missed
//! without being made good.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use callplane::bus::MemoryBus;
use callplane::clock::{Clock, Nonces as _, SystemClock, SystemNonces, TokioTimer};
use callplane::core::act::{DialogState, Op, Reply};
use callplane::core::command::Input;
use callplane::core::failure::{Outcome, Up};
use callplane::core::ids::{
    Boot, CallId, CommandId, DialogId, Digest, Epoch, Install, Nonce, PodId, Scope, SessionId,
    StackId, TenantId, Term,
};
use callplane::core::plan::{Capabilities, HoldBy, ReferBy, Times};
use callplane::core::record::Record;
use callplane::core::record::{Begin, Key};
use callplane::core::request::Request;
use callplane::core::stack_event::{StackEvent, Uptime};
use callplane::core::time::StoreTime;
use callplane::engine::{Engine, Host, Observer, Parts, Settings};
use callplane::events::{Inbox, inbox, run};
use callplane::leadership::Leadership;
use callplane::stack::{Away, Reports, SipStack, Snapshot, StackReport, Stacks};
use callplane::store::memory::MemoryStore;
use callplane::store::{Beat, Life, Limits, Store as _};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

const LONG: Duration = Duration::from_secs(20);

/// A stack that counts how often its list is read, and can keep the reader waiting.
#[derive(Default)]
struct Stack {
    lists: AtomicUsize,
    holds: AtomicBool,
    go_on: Notify,
}

impl SipStack for Stack {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            start_is_safe: false,
            referral_tokens: false,
            persists_dialogs: false,
            hold: HoldBy::ReInvite,
            refer: ReferBy::Sequential,
        }
    }

    async fn perform(&self, _op: &Op) -> Reply {
        std::future::pending().await
    }

    async fn list(&self) -> Result<Snapshot, Away> {
        self.lists.fetch_add(1, Ordering::SeqCst);
        if self.holds.load(Ordering::SeqCst) {
            self.go_on.notified().await;
        }
        Ok(Snapshot {
            uptime: Uptime { boot: Boot::new("b"), since: StoreTime(1) },
            dialogs: Vec::new(),
        })
    }
}

struct One {
    names: Vec<StackId>,
    stack: Stack,
}

struct Shared(Arc<One>);

impl Stacks for Shared {
    type Stack = Stack;

    fn get(&self, id: &StackId) -> Option<&Stack> {
        self.0.names.contains(id).then_some(&self.0.stack)
    }

    fn names(&self) -> &[StackId] {
        &self.0.names
    }

    fn of_domain(&self, _domain: &str) -> Option<StackId> {
        self.0.names.first().cloned()
    }
}

/// A process that leads when told.
struct Told(watch::Sender<Option<Term>>);

impl Leadership for Told {
    fn term(&self, _stack: &StackId) -> Option<Term> {
        *self.0.borrow()
    }

    async fn changed(&self, _stack: &StackId, from: Option<Term>) -> Option<Term> {
        *self.0.subscribe().wait_for(|term| *term != from).await.unwrap()
    }
}

#[derive(Default)]
struct Quiet {
    woken: AtomicUsize,
    ended: Mutex<Vec<Outcome>>,
}

impl Host for Quiet {
    fn spawn(&self, work: Pin<Box<dyn Future<Output = ()> + Send>>) {
        tokio::spawn(work);
    }

    fn wake_at(&self, _at: StoreTime) {
        self.woken.fetch_add(1, Ordering::SeqCst);
    }
}

impl Observer for Quiet {
    fn begun(&self, _record: &Record) {}
    fn ended(&self, record: &Record, _at: StoreTime) {
        self.ended.lock().unwrap().push(*record.state.outcome().unwrap());
    }
    fn performed(&self, _: &Record, _: &Op, _: &Reply, _: Range<StoreTime>) {}
    fn took_in(&self, _: &Record, _: &[Input], _: Range<StoreTime>) {}
}

struct Place {
    engine: Arc<Engine<MemoryStore<Arc<SystemClock>>, Shared>>,
    stacks: Arc<One>,
    told: Arc<Told>,
    host: Arc<Quiet>,
    inbox: Inbox,
    clock: Arc<SystemClock>,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

fn name() -> StackId {
    StackId::new("s")
}

fn place(leads: bool) -> Place {
    let stacks = Arc::new(One { names: vec![name()], stack: Stack::default() });
    let clock = Arc::new(SystemClock::new());
    let nonces = SystemNonces::new();
    let epoch = Epoch::derive(nonces.nonce());
    let bus = Arc::new(MemoryBus::default());
    let store = MemoryStore::new(Arc::clone(&clock), bus, epoch, Limits::default());
    let host = Arc::new(Quiet::default());
    let parts = Parts {
        store: Arc::new(store),
        stacks: Arc::new(Shared(Arc::clone(&stacks))),
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        nonces: Arc::new(nonces),
        host: Arc::clone(&host) as Arc<dyn Host>,
        observer: Arc::clone(&host) as Arc<dyn Observer>,
    };
    let settings = Settings {
        pod: PodId::new("p"),
        install: Install::parse("i").unwrap(),
        times: Times::default(),
        times_at: BTreeMap::new(),
        keep_calls: LONG,
        keep_others: LONG,
        one_start_per_caller: true,
        running: 100,
    };
    let engine = Engine::new(parts, settings);
    let told = Arc::new(Told(watch::Sender::new(leads.then_some(Term(1)))));
    let own = Arc::clone(&clock);
    let clock: Arc<dyn Clock> = clock;
    let (inbox, outlet) = inbox(&[name()], Arc::clone(&clock));
    let stop = CancellationToken::new();
    let timer = Arc::new(TokioTimer);
    let applying = run(Arc::clone(&engine), Arc::clone(&told), clock, timer, outlet, stop.clone());
    let running = tokio::spawn(applying);
    Place { engine, stacks, told, host, inbox, clock: own, stop, running }
}

impl Place {
    async fn begin_a_hold(&self) {
        let session = SessionId::derive(Nonce(1));
        let key = Key {
            tenant: TenantId::default(),
            scope: Scope::Session(session.clone()),
            id: CommandId::parse("h").unwrap(),
        };
        let request = Request::Hold { call: CallId::parse("held").unwrap() };
        let begin = Begin {
            key,
            session,
            digest: Digest([0; 32]),
            request,
            external_id: None,
            trace: None,
            asked_by: None,
            stack: None,
        };
        self.engine.begin(begin).await.unwrap();
    }

    fn lists(&self) -> usize {
        self.stacks.stack.lists.load(Ordering::SeqCst)
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + LONG;
        while !is_so(self) {
            assert!(Instant::now() < deadline, "waited in vain: {what}");
            tokio::task::yield_now().await;
        }
    }
}

fn event(n: usize) -> StackReport {
    StackReport::Event(StackEvent::Dialog {
        call: CallId::parse(&format!("call-{n}")).unwrap(),
        dialog: DialogId::parse("1.2").unwrap(),
        state: DialogState::Confirmed,
    })
}

/// A setup leg that no command knows: to end it later the host is asked to wake the engine.
fn leg_of_nobody(n: usize) -> StackReport {
    StackReport::Event(StackEvent::Dialog {
        call: CallId::parse(&format!("cp-i-0-{n}")).unwrap(),
        dialog: DialogId::parse("1.2").unwrap(),
        state: DialogState::Confirmed,
    })
}

#[tokio::test]
async fn a_stack_that_is_joined_is_listed_once() {
    let place = place(true);
    place.inbox.report(&name(), event(1));
    place.inbox.report(&name(), StackReport::Joined);
    place.inbox.report(&StackId::new("unknown"), StackReport::Joined);
    place.until("the list", |place| place.lists() == 1).await;
    place.stop.cancel();
    place.running.await.unwrap();
    assert_eq!(place.stacks.stack.lists.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn who_does_not_lead_applies_nothing_and_lists_when_it_does() {
    let place = place(false);
    place.inbox.report(&name(), StackReport::Joined);
    place.inbox.report(&name(), event(1));
    tokio::task::yield_now().await;
    place.told.0.send_replace(Some(Term(1)));
    place.until("the list", |place| place.lists() == 1).await;
    place.inbox.report(&name(), StackReport::Joined);
    place.until("another list", |place| place.lists() == 2).await;
}

#[tokio::test]
async fn a_term_that_came_while_a_list_was_read_is_not_missed() {
    let place = place(true);
    place.stacks.stack.holds.store(true, Ordering::SeqCst);
    place.inbox.report(&name(), StackReport::Joined);
    place.until("busy with a list", |place| place.lists() == 1).await;
    place.told.0.send_replace(None);
    place.told.0.send_replace(Some(Term(2)));
    place.stacks.stack.holds.store(false, Ordering::SeqCst);
    place.stacks.stack.go_on.notify_one();
    place.until("the list of the new term", |place| place.lists() == 2).await;
}

#[tokio::test]
async fn one_list_is_read_at_a_time_and_who_asked_meanwhile_gets_the_next() {
    let place = place(true);
    place.stacks.stack.holds.store(true, Ordering::SeqCst);
    place.inbox.report(&name(), StackReport::Joined);
    place.until("busy with a list", |place| place.lists() == 1).await;
    for n in 0..100 {
        place.inbox.report(&name(), StackReport::Joined);
        place.inbox.report(&name(), leg_of_nobody(n));
    }
    let taken = |place: &Place| place.host.woken.load(Ordering::SeqCst) == 100;
    place.until("all reports are taken", taken).await;
    assert_eq!(place.lists(), 1, "the first is not given up");
    place.stacks.stack.holds.store(false, Ordering::SeqCst);
    place.stacks.stack.go_on.notify_one();
    place.until("the next list", |place| place.lists() == 2).await;
    place.stop.cancel();
    place.running.await.unwrap();
    assert_eq!(place.stacks.stack.lists.load(Ordering::SeqCst), 2);
}

/// A process that was to end a leg that nobody else knows of is gone, and no event shows the leg.
#[tokio::test]
async fn who_falls_silent_may_have_known_of_a_leg_that_only_a_list_shows() {
    let place = place(true);
    place.inbox.report(&name(), StackReport::Joined);
    place.until("the first list", |place| place.lists() == 1).await;
    let (pod, applied) = (PodId::new("another"), BTreeMap::new());
    place.engine.store().beat(&Beat { pod, applied, life: Life::Left }).await.unwrap();
    place.engine.beat().await.unwrap();
    place.until("the list after its death", |place| place.lists() == 2).await;
}

/// A process that stood still has reports before it that others have had for long. What it says to have
/// applied is what they leave out when they come to lead, so it says nothing of its last moments.
#[tokio::test]
async fn what_is_told_to_be_applied_is_a_turn_old() {
    let place = place(true);
    let began = Instant::now();
    let mut told = BTreeSet::new();
    while told.len() < 3 {
        assert!(began.elapsed() < LONG, "nothing is told: {told:?}");
        place.inbox.report(&name(), leg_of_nobody(told.len()));
        place.engine.beat().await.unwrap();
        let applied = place.engine.was_applied(&name());
        if let Some(applied) = applied.filter(|applied| *applied > StoreTime::default()) {
            let young = applied.after(Duration::from_millis(950));
            assert!(young <= place.clock.now(), "told at once: {applied:?}");
            told.insert(applied);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A restart is told once, and no list shows it.
#[tokio::test]
async fn a_restart_that_finds_no_room_is_applied_all_the_same() {
    let place = place(true);
    place.stacks.stack.holds.store(true, Ordering::SeqCst);
    place.inbox.report(&name(), StackReport::Joined);
    place.until("busy with a list", |place| place.lists() == 1).await;
    place.begin_a_hold().await;
    for n in 0..20_000 {
        place.inbox.report(&name(), event(n));
    }
    let since = SystemClock::new().now().after(LONG);
    let restart = StackEvent::Restarted(Uptime { boot: Boot::new("second life"), since });
    place.inbox.report(&name(), StackReport::Event(restart));
    place.stacks.stack.holds.store(false, Ordering::SeqCst);
    place.stacks.stack.go_on.notify_one();
    let ended = |place: &Place| place.host.ended.lock().unwrap().clone();
    place.until("the end of what ran", |place| !ended(place).is_empty()).await;
    assert_eq!(ended(&place), [Outcome::Unknown { up: Up::Unknown }]);
}

#[tokio::test]
async fn reports_that_find_no_room_are_made_good_by_a_list() {
    let place = place(true);
    place.stacks.stack.holds.store(true, Ordering::SeqCst);
    place.inbox.report(&name(), StackReport::Joined);
    place.until("busy with a list", |place| place.lists() == 1).await;
    for n in 0..20_000 {
        place.inbox.report(&name(), event(n));
    }
    assert_eq!(place.inbox.lost(&name()), 20_000 - 16_384);
    place.stacks.stack.holds.store(false, Ordering::SeqCst);
    place.stacks.stack.go_on.notify_one();
    place.until("a list that makes it good", |place| place.lists() == 2).await;
    // Everything that fits is applied, and nothing more is owed.
    place.inbox.report(&name(), StackReport::Joined);
    place.until("the next list", |place| place.lists() == 3).await;
    assert_eq!(place.inbox.lost(&name()), 20_000 - 16_384);
}
