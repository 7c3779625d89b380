//! Stores to commit to, and commits as the engine makes them: real commands, short times.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use callplane::bus::{Bus, MemoryBus};
use callplane::clock::Clock;
use callplane::core::act::{Facts, Repeat, Reply};
use callplane::core::command::{Command, Ending, Input, Progress, Step};
use callplane::core::failure::Up;
use callplane::core::ids::{
    CallId, CommandId, Digest, Epoch, Install, Nonce, PodId, Scope, SessionId, StackId, TenantId,
};
use callplane::core::notice::Notice;
use callplane::core::plan::{Capabilities, HoldBy, Plan, ReferBy, Times};
use callplane::core::record::{Entry, FORMAT, Key, Position, Record};
use callplane::core::request::{Leg, Request, StartRequest};
use callplane::core::sip_address::SipAddress;
use callplane::core::time::{Now, StoreTime};
use callplane::store::memory::MemoryStore;
use callplane::store::{Away, Commit, Find, Limits, Page, Quota, Store, Unreadable, Verdict};

/// How long entries are kept in every stand.
pub const ENTRIES_FOR: Duration = Duration::from_secs(2);

/// How long ended records are kept, where a test does not say otherwise.
pub const KEEP: Duration = Duration::from_secs(1);

/// How long a commit may be applied and repeated.
pub const WITHIN: Duration = Duration::from_millis(700);

/// How much a fresh store takes.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Commands of a tenant that may run at once.
    pub running: usize,
    /// Bytes of entries of a tenant.
    pub entries_bytes: usize,
    /// Ended commands of a tenant that are kept.
    pub ended: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { running: 1000, entries_bytes: 1 << 20, ended: 1000 }
    }
}

/// A store with its bus, and its time.
pub trait Stand: Send + Sync + Sized + 'static {
    type Store: Store;
    type Bus: Bus;

    /// An empty store of a new epoch.
    fn fresh(bounds: Bounds) -> impl Future<Output = Self> + Send;
    fn store(&self) -> &Self::Store;
    fn bus(&self) -> &Self::Bus;
    /// The store's time.
    fn now(&self) -> impl Future<Output = StoreTime> + Send;
    /// Returns when the store's time is this much later.
    fn pass(&self, time: Duration) -> impl Future<Output = ()> + Send;
}

/// The store of a process that is alone, and its time by hand.
pub struct Memory {
    store: MemoryStore<Hands>,
    bus: Arc<MemoryBus>,
    hands: Hands,
}

#[derive(Clone)]
pub struct Hands(Arc<AtomicU64>);

impl Clock for Hands {
    fn now(&self) -> StoreTime {
        StoreTime(self.0.load(Ordering::SeqCst))
    }
}

impl Stand for Memory {
    type Store = MemoryStore<Hands>;
    type Bus = MemoryBus;

    async fn fresh(bounds: Bounds) -> Self {
        let hands = Hands(Arc::new(AtomicU64::new(1_700_000_000_000)));
        let bus = Arc::new(MemoryBus::default());
        let limits = Limits {
            entries_for: ENTRIES_FOR,
            entries_bytes: bounds.entries_bytes,
            ended: bounds.ended,
        };
        let epoch = Epoch::derive(nonce());
        let store = MemoryStore::new(hands.clone(), Arc::clone(&bus), epoch, limits);
        Self { store, bus, hands }
    }

    fn store(&self) -> &Self::Store {
        &self.store
    }

    fn bus(&self) -> &Self::Bus {
        &self.bus
    }

    async fn now(&self) -> StoreTime {
        self.hands.now()
    }

    async fn pass(&self, time: Duration) {
        self.hands.0.fetch_add(u64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

/// Never the same twice.
pub fn nonce() -> Nonce {
    static DRAWN: AtomicU64 = AtomicU64::new(1);
    let drawn = u128::from(DRAWN.fetch_add(1, Ordering::SeqCst));
    Nonce(drawn.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835))
}

pub fn tenant(name: &str) -> TenantId {
    serde_json::from_value(serde_json::Value::from(name)).unwrap()
}

pub fn ours() -> TenantId {
    TenantId::default()
}

pub fn call(name: &str) -> CallId {
    CallId::parse(name).unwrap()
}

pub fn sip(name: &str) -> SipAddress {
    SipAddress::parse(&format!("sip:{name}@x.example")).unwrap()
}

pub fn stack() -> StackId {
    StackId::new("s")
}

pub fn key_of(tenant: &TenantId, id: &str) -> Key {
    let scope = Scope::OneShot;
    Key { tenant: tenant.clone(), scope, id: CommandId::parse(id).unwrap() }
}

pub fn key(id: &str) -> Key {
    key_of(&ours(), id)
}

pub fn hold(name: &str) -> Request {
    Request::Hold { call: call(name) }
}

pub fn end(name: &str) -> Request {
    Request::End { call: call(name) }
}

pub fn start(caller: &str) -> Request {
    Request::Start(StartRequest {
        caller: sip(caller),
        callee: sip("callee"),
        ring_timeout: None,
        display: None,
        auto_answer: false,
        ringing: false,
    })
}

pub fn attended(first: &str, second: &str) -> Request {
    let (leg, consult_leg) = (Leg::Caller, Leg::Callee);
    Request::AttendedTransfer { call: call(first), leg, consult: call(second), consult_leg }
}

/// Phases of tenths of a second: whole commands pass in little time.
fn plan(stack: &StackId) -> Arc<Plan> {
    let tenths = |n: u64| Duration::from_millis(n * 100);
    Arc::new(Plan {
        stack: stack.clone(),
        capabilities: Capabilities {
            start_is_safe: false,
            referral_tokens: true,
            persists_dialogs: false,
            hold: HoldBy::ReInvite,
            refer: ReferBy::Sequential,
        },
        times: Times {
            ring: tenths(5),
            silence: tenths(3),
            follow: tenths(2),
            grace: tenths(1),
            reply: tenths(1),
            absence: tenths(2),
            send: tenths(1),
        },
        install: Install::parse("t").unwrap(),
        partition: 0,
        one_start_per_caller: true,
    })
}

/// Writes commits against a stand, as an engine would.
pub struct Pen<S> {
    pub stand: Arc<S>,
    pub epoch: Epoch,
    /// What an engine would perform is performed by nobody.
    pod: PodId,
    quota: Quota,
}

impl<S: Stand> Pen<S> {
    pub async fn fresh(bounds: Bounds) -> Self {
        Self::of(S::fresh(bounds).await, bounds).await
    }

    /// One against a stand that is there.
    pub async fn of(stand: S, bounds: Bounds) -> Self {
        let epoch = stand.store().head(&ours()).await.unwrap().epoch;
        let quota = Quota { running: bounds.running };
        Self { stand: Arc::new(stand), epoch, pod: PodId::new("p"), quota }
    }

    async fn now(&self) -> Now {
        Now { at: self.stand.now().await, nonce: nonce(), pod: self.pod.clone() }
    }

    fn commit_of(&self, record: Record, step: Step, now: &Now) -> Commit {
        Commit {
            record: Record { state: step.state, ..record },
            nonce: now.nonce,
            not_after: now.at.after(WITHIN),
            epoch: self.epoch.clone(),
            term: None,
            notices: step.notices,
            quota: Some(self.quota),
            keep: KEEP,
            durable: false,
        }
    }

    /// The beginning of a command.
    pub async fn beginning(&self, key: Key, request: Request) -> Commit {
        self.beginning_at(&stack(), key, request).await
    }

    pub async fn beginning_at(&self, stack: &StackId, key: Key, request: Request) -> Commit {
        let now = self.now().await;
        let step = Command::begin(&request, plan(stack), None, &now);
        let record = Record {
            session: SessionId::parse("session").unwrap(),
            digest: Digest([7; 32]),
            format: FORMAT,
            born: self.epoch.clone(),
            version: 1,
            first_seq: 0,
            external_id: Some(Arc::from("theirs")),
            trace: None,
            state: step.state.clone(),
            key,
        };
        self.commit_of(record, step, &now)
    }

    /// The next version of a record, after an input that must mean something to it.
    pub async fn next(&self, record: &Record, input: &Input) -> Commit {
        let now = self.now().await;
        let step = record.state.step(input, &now).expect("an input that changes something");
        let version = record.version + 1;
        self.commit_of(Record { version, ..record.clone() }, step, &now)
    }

    /// A next version that changes nothing but the count, and tells nothing.
    pub async fn idle(&self, record: &Record) -> Commit {
        let now = self.now().await;
        let step = Step { state: record.state.clone(), notices: Vec::new() };
        let version = record.version + 1;
        self.commit_of(Record { version, ..record.clone() }, step, &now)
    }

    /// The reply that its first open operation waits for.
    pub async fn answered(&self, record: &Record) -> Commit {
        let op = record.state.open()[0].id.clone();
        self.next(record, &Input::Replied { op, reply: Reply::Done(Facts::Nothing) }).await
    }

    /// Its end, as the core ends commands: once-only operations are still out.
    pub async fn given_up(&self, record: &Record) -> Commit {
        let mut commit = self.idle(record).await;
        let ending = Ending::cancelled(Up::Unknown);
        commit.notices.extend(ending.error.clone().map(Notice::Error));
        let (outcome, remarks) = (ending.outcome, ending.remarks.clone());
        commit.notices.push(Notice::Ended { outcome, remarks });
        let state = &mut commit.record.state;
        let capabilities = state.plan.capabilities;
        state.ops.retain(|op| op.act.repeat(&capabilities) == Repeat::Once);
        state.progress = Progress::Over(Box::new(ending));
        commit
    }

    /// Its end with nothing of it still under way.
    pub async fn over(&self, record: &Record) -> Commit {
        let mut commit = self.given_up(record).await;
        commit.record.state.ops.clear();
        commit
    }

    pub async fn commit(&self, commit: Commit) -> Verdict {
        self.stand.store().commit(commit).await.unwrap()
    }

    /// Commits what must be applied.
    pub async fn write(&self, commit: Commit) -> Arc<Record> {
        match self.commit(commit).await {
            Verdict::Applied { record, .. } => record,
            verdict => panic!("not applied: {verdict:?}"),
        }
    }

    pub async fn begin(&self, id: &str, request: Request) -> Arc<Record> {
        self.write(self.beginning(key(id), request).await).await
    }

    pub async fn find(&self, by: Find) -> Vec<Arc<Record>> {
        self.stand.store().find(by).await.unwrap()
    }

    pub async fn find_key(&self, key: &Key) -> Option<Arc<Record>> {
        let mut found = self.find(Find::Key(key.clone())).await;
        assert!(found.len() < 2, "one key, one record: {found:?}");
        found.pop()
    }

    /// The ids of what is found, in order.
    pub async fn ids(&self, by: Find) -> Vec<String> {
        let found = self.find(by).await;
        let mut ids: Vec<_> = found.iter().map(|record| record.key.id.to_string()).collect();
        ids.sort();
        ids
    }

    pub fn at(&self, seq: u64) -> Position {
        Position { epoch: self.epoch.clone(), seq }
    }

    pub async fn read(
        &self,
        tenant: &TenantId,
        after: u64,
        max: usize,
    ) -> Result<Page, Unreadable> {
        self.stand.store().read(tenant, &self.at(after), max, None).await
    }

    /// The whole stream of a tenant.
    pub async fn stream(&self, tenant: &TenantId) -> Vec<Arc<Entry>> {
        self.read(tenant, 0, usize::MAX).await.unwrap().entries
    }

    pub async fn head(&self, tenant: &TenantId) -> Result<Position, Away> {
        self.stand.store().head(tenant).await
    }
}
