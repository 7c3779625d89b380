//! The store of all processes, and each one's way to it.
//!
//! The server is the product's store in memory. Between it and a process, requests and answers are
//! late, lost, doubled and out of order; the server stands still, and loses what it acknowledged.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use callplane::bus::Listener;
use callplane::clock::Clock as _;
use callplane::core::ids::{Epoch, SessionId, StackId, TenantId, Term};
use callplane::core::notice::Notice;
use callplane::core::record::{Entry, Position, Record};
use callplane::store::memory::{Memory, MemoryStore};
use callplane::store::{
    Away, Beat, Commit, Find, Limits, Page, Pulse, Store, Unfound, Unreadable, Verdict,
};
use futures_util::FutureExt as _;

use super::bug::Bug;
use super::bus::Publisher;
use super::executor::{Answer, Executor, WORLD};
use super::history::What;
use super::lease::LEASE;
use super::network::{Network, Place};
use super::record::{Recorder, Watch};

/// No answer within this is none.
const PATIENCE: Duration = Duration::from_secs(1);

/// The store's process.
pub struct Server {
    executor: Executor,
    network: Arc<Network>,
    clock: Arc<Watch>,
    memory: MemoryStore<Arc<Watch>>,
    recorder: Arc<Recorder>,
    bug: Option<Bug>,
    skipped: Arc<Mutex<Vec<(TenantId, Position)>>>,
    publisher: Arc<Publisher>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// It stands still until then.
    frozen: Duration,
    /// Its replica does not keep up until then.
    alone: Duration,
    /// Where the epoch began, by tenant.
    bases: BTreeMap<TenantId, u64>,
    leases: BTreeMap<StackId, (u64, Duration)>,
    /// The newest term that was drawn.
    drawn: BTreeMap<StackId, Term>,
}

/// What the store tells inside a commit.
pub struct Stream {
    pub recorder: Arc<Recorder>,
    pub publisher: Arc<Publisher>,
    /// Where epochs began.
    pub skipped: Arc<Mutex<Vec<(TenantId, Position)>>>,
}

impl Listener for Stream {
    fn entries(&self, tenant: &TenantId, epoch: &Epoch, entries: &[Arc<Entry>]) {
        for entry in entries {
            self.recorder.note(What::Told {
                tenant: tenant.to_string(),
                cmd_id: entry.key.id.to_string(),
                epoch: epoch.to_string(),
                seq: entry.seq,
                event: word(&entry.notice).to_owned(),
            });
        }
        self.publisher.publish(tenant, epoch, entries);
    }

    fn skipped(&self, tenant: &TenantId, to: &Position) {
        self.skipped.lock().unwrap().push((tenant.clone(), to.clone()));
    }
}

fn word(notice: &Notice) -> &'static str {
    match notice {
        Notice::Started { .. } => "Started",
        Notice::Progress { event, .. } => event.as_str(),
        Notice::Error(_) => "Error",
        Notice::Ended { .. } => "Ended",
    }
}

impl Server {
    pub fn new(
        executor: Executor,
        network: Arc<Network>,
        stream: Stream,
        epoch: Epoch,
        bug: Option<Bug>,
    ) -> Arc<Self> {
        let clock = Watch::new(executor, 0);
        let own = Arc::clone(&clock);
        let recorder = Arc::clone(&stream.recorder);
        let skipped = Arc::clone(&stream.skipped);
        let publisher = Arc::clone(&stream.publisher);
        let memory = MemoryStore::new(clock, Arc::new(stream), epoch, Limits::default());
        Arc::new(Self {
            executor,
            network,
            clock: own,
            memory,
            recorder,
            bug,
            skipped,
            publisher,
            state: Mutex::default(),
        })
    }

    pub fn freeze(&self, until: Duration) {
        let mut state = self.state.lock().unwrap();
        state.frozen = until.max(state.frozen);
    }

    fn frozen(&self) -> Option<Duration> {
        let frozen = self.state.lock().unwrap().frozen;
        (frozen > self.executor.now()).then_some(frozen)
    }

    fn commit(&self, mut commit: Commit) -> Result<Verdict, Away> {
        let term = commit.term;
        match self.bug {
            Some(Bug::NoVersionCheck) => {
                let stored = self.stored(&commit.record);
                if let Some(stored) = stored.filter(|_| commit.record.version > 1) {
                    commit.record.version = stored.version + 1;
                }
            }
            Some(Bug::NoTerms) => commit.term = None,
            Some(Bug::ForgetsIds) => commit.keep = Duration::ZERO,
            Some(Bug::EndsTwice) => {
                if let Some(last @ Notice::Ended { .. }) = commit.notices.last().cloned() {
                    commit.notices.push(last);
                }
            }
            Some(_) | None => {}
        }
        let stack = commit.record.state.plan.stack.clone();
        let alone = commit.durable && self.state.lock().unwrap().alone > self.executor.now();
        let epoch = commit.epoch.clone();
        let mut verdict = self.memory.commit(commit).now_or_never().unwrap();
        if let Ok(Verdict::Applied { durable, .. }) = &mut verdict {
            *durable = !alone;
        }
        // A repeat is answered as it was the first time.
        let now = self.clock.now();
        if let (Some(term), Ok(Verdict::Applied { now: at, .. })) = (term, &verdict)
            && *at == now
        {
            self.recorder.note(What::Applied {
                stack: stack.to_string(),
                epoch: epoch.to_string(),
                term: term.0,
            });
        }
        verdict
    }

    /// Tells what a commit would tell, should it be applied.
    fn tell_before(&self, commit: &Commit) {
        let Commit { record, notices, .. } = commit;
        let tenant = &record.key.tenant;
        let Position { epoch, seq } = self.head(tenant);
        let entry =
            |(notice, seq): (&Notice, u64)| Arc::new(Entry::of(record, seq, notice.clone()));
        let entries: Vec<_> = notices.iter().zip(seq + 1..).map(entry).collect();
        self.publisher.publish(tenant, &epoch, &entries);
    }

    /// Its replica does not acknowledge what is committed until then.
    pub fn leave_alone(&self, until: Duration) {
        let mut state = self.state.lock().unwrap();
        state.alone = until.max(state.alone);
    }

    pub fn remember(&self) -> Memory {
        self.memory.remember()
    }

    /// It has lost what came after that, or everything, and begins another epoch.
    pub fn forget_since(&self, then: Option<Memory>, mut epoch: Epoch) {
        if self.bug == Some(Bug::ForgetsTail) {
            epoch = self.head(&TenantId::default()).epoch;
        }
        let flushed = then.is_none();
        let mut state = self.state.lock().unwrap();
        if flushed {
            state.leases.clear();
        }
        state.bases.clear();
        drop(state);
        self.memory.forget_since(then, epoch);
        let began = std::mem::take(&mut *self.skipped.lock().unwrap());
        let bases = began.into_iter().map(|(tenant, to)| (tenant, to.seq));
        self.state.lock().unwrap().bases.extend(bases);
    }

    /// Whoever has this lease has it no more, and does not know.
    pub fn take_lease(&self, stack: &StackId) {
        self.state.lock().unwrap().leases.remove(stack);
    }

    fn lease(&self, stack: &StackId, holder: u64) -> (Epoch, bool) {
        let now = self.executor.now();
        let mut state = self.state.lock().unwrap();
        let lease = state.leases.entry(stack.clone()).or_insert((holder, now));
        let mine = lease.0 == holder || lease.1 <= now;
        if mine {
            *lease = (holder, now + LEASE);
        }
        drop(state);
        (self.head(&TenantId::default()).epoch, mine)
    }

    fn lead(&self, stack: &StackId) -> Result<Term, Away> {
        let term = self.memory.lead(stack).now_or_never().unwrap()?;
        self.state.lock().unwrap().drawn.insert(stack.clone(), term);
        Ok(term)
    }

    fn newest(&self, stack: &StackId) -> (Epoch, Option<Term>) {
        let newest = self.state.lock().unwrap().drawn.get(stack).copied();
        (self.head(&TenantId::default()).epoch, newest)
    }

    fn head(&self, tenant: &TenantId) -> Position {
        self.memory.head(tenant).now_or_never().unwrap().unwrap()
    }

    /// The epoch, and where in a tenant's stream it began.
    fn base(&self, tenant: &TenantId) -> Position {
        let epoch = self.head(tenant).epoch;
        let seq = self.state.lock().unwrap().bases.get(tenant).copied().unwrap_or_default();
        Position { epoch, seq }
    }

    /// Does what a process asks when that has come in, and answers.
    fn deliver<T: Send + 'static>(
        self: &Arc<Self>,
        pod: usize,
        wait: Duration,
        work: Arc<impl Fn(&Server) -> T + Send + Sync + 'static>,
        answer: Answer<T>,
    ) {
        let this = Arc::clone(self);
        self.executor.after(wait, WORLD, move || {
            if let Some(until) = this.frozen() {
                let wait = until - this.executor.now();
                return this.deliver(pod, wait, work, answer);
            }
            let done = work(&this);
            let back = this.network.send(Place::Store, Place::Pod(pod));
            if let Some(wait) = back.first {
                this.executor.after(wait, WORLD, move || answer.give(done));
            }
        });
    }

    fn stored(&self, record: &Record) -> Option<Arc<Record>> {
        self.memory.find(Find::Key(record.key.clone())).now_or_never().unwrap().ok()?.pop()
    }
}

/// One process's way to the store.
#[derive(Clone)]
pub struct Client {
    pub executor: Executor,
    pub server: Arc<Server>,
    pub pod: usize,
    pub clock: Arc<Watch>,
}

impl Client {
    async fn ask<T: Send + 'static>(
        &self,
        work: impl Fn(&Server) -> T + Send + Sync + 'static,
    ) -> Result<T, Away> {
        let answer = Answer::new();
        let here = Place::Pod(self.pod);
        let fate = self.server.network.send(here, Place::Store);
        let work = Arc::new(work);
        for wait in fate.first.into_iter().chain(fate.double) {
            self.server.deliver(self.pod, wait, Arc::clone(&work), answer.clone());
        }
        let mut patience = self.executor.sleep(PATIENCE);
        std::future::poll_fn(|context| {
            if let std::task::Poll::Ready(answer) = answer.poll_take(context) {
                return std::task::Poll::Ready(Ok(answer));
            }
            std::pin::Pin::new(&mut patience).poll(context).map(|()| Err(Away))
        })
        .await
    }

    /// The epoch, and whether this life of a process has the lease of a stack now.
    pub async fn lease(&self, stack: &StackId, holder: u64) -> Result<(Epoch, bool), Away> {
        let stack = stack.clone();
        self.ask(move |server| server.lease(&stack, holder)).await
    }

    /// The epoch, and the newest term that was drawn at a stack.
    pub async fn newest(&self, stack: &StackId) -> Result<(Epoch, Option<Term>), Away> {
        let stack = stack.clone();
        self.ask(move |server| server.newest(&stack)).await
    }

    /// Where the epoch began.
    pub async fn base(&self, tenant: &TenantId) -> Result<Position, Away> {
        let tenant = tenant.clone();
        self.ask(move |server| server.base(&tenant)).await
    }
}

impl Store for Client {
    async fn commit(&self, commit: Commit) -> Result<Verdict, Away> {
        if self.server.bug == Some(Bug::TellsBeforeCommit) {
            self.server.tell_before(&commit);
        }
        self.ask(move |server| server.commit(commit.clone())).await?
    }

    async fn find(&self, by: Find) -> Result<Vec<Arc<Record>>, Unfound> {
        let others = matches!(by, Find::DueBy(_) | Find::PerformedBy(_));
        if others && self.server.bug == Some(Bug::ForgetsTheDead) {
            return Ok(Vec::new());
        }
        self.ask(move |server| server.memory.find(by.clone()).now_or_never().unwrap()).await?
    }

    async fn read(
        &self,
        tenant: &TenantId,
        after: &Position,
        max: usize,
        of: Option<&SessionId>,
    ) -> Result<Page, Unreadable> {
        let (tenant, after, of) = (tenant.clone(), after.clone(), of.cloned());
        self.ask(move |server| {
            server.memory.read(&tenant, &after, max, of.as_ref()).now_or_never().unwrap()
        })
        .await?
    }

    async fn head(&self, tenant: &TenantId) -> Result<Position, Away> {
        let tenant = tenant.clone();
        self.ask(move |server| server.head(&tenant)).await
    }

    async fn beat(&self, beat: &Beat) -> Result<Pulse, Away> {
        let beat = beat.clone();
        let asked = self.executor.now();
        let pulse =
            self.ask(move |server| server.memory.beat(&beat).now_or_never().unwrap()).await??;
        self.clock.learn(asked, pulse.now);
        Ok(pulse)
    }

    async fn lead(&self, stack: &StackId) -> Result<Term, Away> {
        let stack = stack.clone();
        self.ask(move |server| server.lead(&stack)).await?
    }
}
