//! The store of all processes, and each one's way to it.
//!
//! The server is the product's store in memory. Between it and a process, requests and answers are
//! late, lost, doubled and out of order; the server stands still, and loses what it acknowledged.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use callplane::bus::Listener;
use callplane::core::ids::{Epoch, PodId, TenantId};
use callplane::core::notice::Notice;
use callplane::core::record::{Entry, Position, Record};
use callplane::store::memory::MemoryStore;
use callplane::store::{Away, Commit, Find, Limits, Page, Store, Unreadable, Verdict};
use futures_util::FutureExt as _;

use super::bug::Bug;
use super::bus::Publisher;
use super::executor::{Answer, Executor, WORLD};
use super::history::What;
use super::network::{Network, Place};
use super::record::{Recorder, Watch};

/// No answer within this is none.
const PATIENCE: Duration = Duration::from_secs(1);

/// The store's process.
pub struct Server {
    executor: Executor,
    memory: MemoryStore<Arc<Watch>>,
    recorder: Arc<Recorder>,
    bug: Option<Bug>,
    /// It stands still until then.
    frozen: Mutex<Duration>,
}

/// What the store tells inside a commit.
pub struct Stream {
    pub recorder: Arc<Recorder>,
    pub publisher: Arc<Publisher>,
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
    pub fn new(executor: Executor, stream: Stream, epoch: Epoch, bug: Option<Bug>) -> Arc<Self> {
        let clock = Watch::new(executor.clone(), 0);
        let recorder = Arc::clone(&stream.recorder);
        let memory = MemoryStore::new(clock, Arc::new(stream), epoch, Limits::default());
        Arc::new(Self { executor, memory, recorder, bug, frozen: Mutex::default() })
    }

    pub fn freeze(&self, until: Duration) {
        let mut frozen = self.frozen.lock().unwrap();
        *frozen = until.max(*frozen);
    }

    fn frozen(&self) -> Option<Duration> {
        let frozen = *self.frozen.lock().unwrap();
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
            Some(Bug::EndsTwice) => {
                if let Some(last @ Notice::Ended { .. }) = commit.notices.last().cloned() {
                    commit.notices.push(last);
                }
            }
            Some(_) | None => {}
        }
        let stack = commit.record.state.plan.stack.clone();
        let epoch = commit.epoch.clone();
        let verdict = self.memory.commit(commit).now_or_never().unwrap();
        if let (Some(term), Ok(Verdict::Applied { .. })) = (term, &verdict) {
            self.recorder.note(What::Applied {
                stack: stack.to_string(),
                epoch: epoch.to_string(),
                term: term.0,
            });
        }
        verdict
    }

    fn stored(&self, record: &Record) -> Option<Arc<Record>> {
        self.memory.find(Find::Key(record.key.clone())).now_or_never().unwrap().ok()?.pop()
    }
}

/// One process's way to the store.
#[derive(Clone)]
pub struct Client {
    pub executor: Executor,
    pub network: Arc<Network>,
    pub server: Arc<Server>,
    pub pod: usize,
}

impl Client {
    async fn ask<T: Send + 'static>(
        &self,
        work: impl Fn(&Server) -> T + Send + Sync + 'static,
    ) -> Result<T, Away> {
        let answer = Answer::new();
        let here = Place::Pod(self.pod);
        let fate = self.network.send(here, Place::Store);
        let work = Arc::new(work);
        for wait in fate.first.into_iter().chain(fate.double) {
            self.deliver(wait, Arc::clone(&work), answer.clone());
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

    fn deliver<T: Send + 'static>(
        &self,
        wait: Duration,
        work: Arc<impl Fn(&Server) -> T + Send + Sync + 'static>,
        answer: Answer<T>,
    ) {
        let this = self.clone();
        self.executor.after(wait, WORLD, move || {
            if let Some(until) = this.server.frozen() {
                let wait = until - this.executor.now();
                return this.deliver(wait, work, answer);
            }
            let done = work(&this.server);
            let back = this.network.send(Place::Store, Place::Pod(this.pod));
            if let Some(wait) = back.first {
                this.executor.after(wait, WORLD, move || answer.give(done));
            }
        });
    }
}

impl Store for Client {
    async fn commit(&self, commit: Commit) -> Result<Verdict, Away> {
        self.ask(move |server| server.commit(commit.clone())).await?
    }

    async fn find(&self, by: Find) -> Result<Vec<Arc<Record>>, Away> {
        self.ask(move |server| server.memory.find(by.clone()).now_or_never().unwrap()).await?
    }

    async fn read(
        &self,
        tenant: &TenantId,
        after: &Position,
        max: usize,
    ) -> Result<Page, Unreadable> {
        let (tenant, after) = (tenant.clone(), after.clone());
        self.ask(move |server| server.memory.read(&tenant, &after, max).now_or_never().unwrap())
            .await?
    }

    async fn head(&self, tenant: &TenantId) -> Result<Position, Away> {
        let tenant = tenant.clone();
        self.ask(move |server| server.memory.head(&tenant).now_or_never().unwrap()).await?
    }

    async fn beat(&self, pod: &PodId) -> Result<(), Away> {
        let pod = pod.clone();
        self.ask(move |server| server.memory.beat(&pod).now_or_never().unwrap()).await?
    }
}
