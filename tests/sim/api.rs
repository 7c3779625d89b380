//! An API server of Kubernetes with one Lease, and each process's way to it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use callplane::core::ids::{Epoch, StackId, Term};
use callplane::leadership::contest::{Leases, Meter, Sight, Terms, Unheard};
use callplane::leadership::election::{Answer as Answered, Ask, Draft, Lease, Version};
use callplane::store::Store as _;
use futures_util::future::{Either, select};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::executor::{Answer, Executor, WORLD};
use super::network::{Network, Place};
use super::store::Client;

/// How long a Lease lasts.
pub const LEASE: Duration = Duration::from_secs(4);

/// No answer within this is none.
const PATIENCE: Duration = Duration::from_secs(12);

/// A watch that is cut off is tried again.
const AGAIN: Duration = Duration::from_millis(250);

pub struct ApiServer {
    executor: Executor,
    network: Arc<Network>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lease: Option<Lease>,
    revision: u64,
    /// It stands still until then.
    frozen: Duration,
    watches: Vec<Watching>,
}

/// A process that watches.
struct Watching {
    pod: usize,
    sights: Sender<Sight>,
    /// A sight is under way.
    told: bool,
}

impl State {
    fn write(&mut self, draft: &Draft) -> Answered {
        let known = self.lease.as_ref().map(|lease| &lease.version);
        if known != draft.over.as_ref() {
            return Answered::Lost;
        }
        self.revision += 1;
        let uid = known.map_or_else(|| self.revision.to_string(), |version| version.uid.clone());
        let lease = Lease {
            holder: draft.holder.clone(),
            lasts: LEASE,
            transitions: draft.transitions,
            version: Version { uid, revision: self.revision.to_string() },
        };
        self.lease = Some(lease.clone());
        Answered::Written(lease)
    }
}

impl ApiServer {
    pub fn new(executor: Executor, network: Arc<Network>) -> Arc<Self> {
        Arc::new(Self { executor, network, state: Mutex::default() })
    }

    pub fn freeze(&self, until: Duration) {
        let mut state = self.state.lock().unwrap();
        state.frozen = until.max(state.frozen);
    }

    /// Somebody deletes the Lease, or writes something of their own into it.
    pub fn meddle(self: &Arc<Self>, holder: Option<&str>) {
        let mut state = self.state.lock().unwrap();
        state.revision += 1;
        let revision = state.revision.to_string();
        state.lease = state.lease.take().zip(holder).map(|(lease, holder)| Lease {
            holder: (!holder.is_empty()).then(|| holder.to_owned()),
            version: Version { revision, ..lease.version },
            ..lease
        });
        drop(state);
        self.changed();
    }

    /// It restarts: every watch ends, and is begun again.
    pub fn hang_up(self: &Arc<Self>) {
        for watching in &self.state.lock().unwrap().watches {
            let _ = watching.sights.try_send(Sight::Blind);
        }
        self.changed();
    }

    pub fn watch(self: &Arc<Self>, pod: usize) -> Receiver<Sight> {
        let (sights, seen) = channel(16);
        let mut state = self.state.lock().unwrap();
        state.watches.retain(|watching| !watching.sights.is_closed());
        state.watches.push(Watching { pod, sights, told: false });
        seen
    }

    /// Tells everybody how it stands now.
    fn changed(self: &Arc<Self>) {
        let mut state = self.state.lock().unwrap();
        let mut untold = Vec::new();
        for (at, watching) in state.watches.iter_mut().enumerate() {
            if !std::mem::replace(&mut watching.told, true) {
                untold.push((at, watching.pod, watching.sights.clone()));
            }
        }
        drop(state);
        for (_, pod, sights) in untold {
            self.tell(pod, sights);
        }
    }

    fn tell(self: &Arc<Self>, pod: usize, sights: Sender<Sight>) {
        let fate = self.network.send(Place::Api, Place::Pod(pod)).first;
        let this = Arc::clone(self);
        self.executor.after(fate.unwrap_or(AGAIN), WORLD, move || {
            let mut state = this.state.lock().unwrap();
            let now = this.executor.now();
            if fate.is_none() || state.frozen > now {
                drop(state);
                return this.tell(pod, sights);
            }
            let same = |watching: &&mut Watching| watching.sights.same_channel(&sights);
            if let Some(watching) = state.watches.iter_mut().find(same) {
                watching.told = false;
            }
            let _ = sights.try_send(Sight::Seen(state.lease.clone()));
        });
    }

    fn deliver(self: &Arc<Self>, pod: usize, wait: Duration, ask: Ask, answer: Answer<Answered>) {
        let this = Arc::clone(self);
        self.executor.after(wait, WORLD, move || {
            let now = this.executor.now();
            let mut state = this.state.lock().unwrap();
            if state.frozen > now {
                let wait = state.frozen - now;
                drop(state);
                return this.deliver(pod, wait, ask, answer);
            }
            let answered = match &ask {
                Ask::Read => Answered::Read(state.lease.clone()),
                Ask::Write(draft) => state.write(draft),
            };
            drop(state);
            if matches!(answered, Answered::Written(_)) {
                this.changed();
            }
            if let Some(wait) = this.network.send(Place::Api, Place::Pod(pod)).first {
                this.executor.after(wait, WORLD, move || answer.give(answered));
            }
        });
    }
}

/// One process's way to the API server.
pub struct Way {
    pub api: Arc<ApiServer>,
    pub pod: usize,
}

impl Leases for Way {
    async fn ask(&self, ask: Ask) -> Answered {
        let executor = self.api.executor;
        let answer = Answer::new();
        if let Some(wait) = self.api.network.send(Place::Pod(self.pod), Place::Api).first {
            self.api.deliver(self.pod, wait, ask, answer.clone());
        }
        let answered = std::future::poll_fn(|context| answer.poll_take(context));
        match select(answered, executor.sleep(PATIENCE)).await {
            Either::Left((answered, _)) => answered,
            Either::Right(((), _)) => Answered::Failed,
        }
    }
}

impl Terms for Client {
    async fn draw(&self, stack: &StackId) -> Result<Term, Unheard> {
        self.lead(stack).await.map_err(|_| Unheard)
    }

    async fn newest(&self, stack: &StackId) -> Result<(Epoch, Option<Term>), Unheard> {
        Client::newest(self, stack).await.map_err(|_| Unheard)
    }
}

pub struct Uncounted;

impl Meter for Uncounted {
    fn asked(&self, _verb: &'static str, _result: &'static str, _took: Option<Duration>) {}

    fn unconfirmed(&self, _unconfirmed: bool) {}
}
