//! Who leads, by a Lease at the API server: for pods in Kubernetes.
//!
//! The Lease elects; the term that is drawn in the store decides. [`super::election`] has the rules.

mod access;
mod announce;
mod api;
mod look;
mod object;

use std::path::PathBuf;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::channel;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use self::access::{ACCOUNT, Access, NoAccess};
use self::api::LeaseApi;
pub use self::look::{Look, Seen, look};
use super::contest::{Contest, Meter, Terms};
use super::election::Timing;
use super::{Leader, Leadership, Leads};
use crate::clock::{SystemClock, TokioTimer};
use crate::core::ids::{StackId, Term};

/// What is seen and not yet looked at.
const SIGHTS: usize = 16;

/// How far apart those who wait for a Lease try.
pub const JITTER: Duration = Duration::from_millis(250);

/// Which Lease, and whose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The API server; `None`: the one that a pod's variables name.
    pub server: Option<String>,
    /// The folder of the account's files.
    pub account: PathBuf,
    /// The Lease's namespace; `None`: the account's.
    pub namespace: Option<String>,
    /// The Lease's name.
    pub lease: String,
    /// There is one for each stack, and the name of each ends with the stack's.
    pub per_stack: bool,
    /// How long it lasts.
    pub lasts: Duration,
    /// The pod's name, which operators know.
    pub pod: String,
    /// What tells this process from every other one, also in the same pod.
    pub process: String,
    /// How much longer than others this process waits, up to [`JITTER`].
    pub jitter: Duration,
}

/// Contends for a Lease whose holder leads every stack, or for one of each stack.
pub struct KubernetesLeadership {
    leads: Arc<Leads>,
    stop: CancellationToken,
    contests: Mutex<Vec<JoinHandle<()>>>,
    others: Vec<JoinHandle<()>>,
    lasts: Duration,
}

impl KubernetesLeadership {
    /// Contends from now on. Must be called inside a tokio runtime. The API server need not answer.
    ///
    /// # Errors
    /// [`NoAccess`] when it can't be asked at all.
    pub fn start(
        settings: &Settings,
        terms: Arc<impl Terms>,
        stacks: &[StackId],
        meter: Arc<dyn Meter>,
    ) -> Result<Self, NoAccess> {
        let (access, namespace) = settings.way()?;
        let client = access.client(&namespace)?;
        let (leads, stop) = (Arc::new(Leads::of(stacks)), CancellationToken::new());
        let (mut contests, mut others) = (Vec::new(), Vec::new());
        for (lease, stacks) in settings.leases(stacks) {
            let api = Arc::new(LeaseApi {
                access: access.clone(),
                namespace: namespace.clone(),
                name: lease,
                lasts: settings.lasts,
                meter: Arc::clone(&meter),
                client: Mutex::new(client.clone()),
                failed: AtomicU32::new(0),
                known: Mutex::default(),
            });
            let (sender, sights) = channel(SIGHTS);
            others.push(tokio::spawn(announce::takeovers(
                Arc::clone(&api),
                Arc::clone(&leads),
                stacks.clone(),
                settings.pod.clone(),
            )));
            let contest = Contest {
                me: format!("{}_{}", settings.pod, settings.process),
                timing: Timing { lease: settings.lasts, jitter: settings.jitter },
                leases: Arc::clone(&api),
                sights,
                terms: Arc::clone(&terms),
                stacks,
                leads: Arc::clone(&leads),
                meter: Arc::clone(&meter),
                clock: Arc::new(SystemClock::new()),
                timer: Arc::new(TokioTimer),
                stop: stop.clone(),
            };
            contests.push(tokio::spawn(contest.run()));
            others.push(tokio::spawn(async move { api.watch(sender).await }));
        }
        let (contests, lasts) = (Mutex::new(contests), settings.lasts);
        Ok(Self { leads, stop, contests, others, lasts })
    }

    /// Gives every Lease back, so that another process has it at once, and contends no more. Ends when
    /// the API server has said that it is so, or when they have run out.
    pub async fn resign(&self) {
        self.stop.cancel();
        let contests = std::mem::take(&mut *self.contests());
        let left = futures_util::future::join_all(contests);
        if timeout(self.lasts, left).await.is_err() {
            tracing::info!("the Lease could not be given back, it runs out by itself");
        }
    }

    fn contests(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.contests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Settings {
    /// The way to the API server, and the namespace of the Leases.
    fn way(&self) -> Result<(Access, String), NoAccess> {
        let access = match &self.server {
            Some(server) => Access { server: server.clone(), account: self.account.clone() },
            None => Access::of_pod(self.account.clone())?,
        };
        let namespace = match &self.namespace {
            Some(namespace) => namespace.clone(),
            None => access.namespace()?,
        };
        Ok((access, namespace))
    }

    /// Each Lease, and whom its holder leads.
    fn leases(&self, stacks: &[StackId]) -> Vec<(String, Vec<StackId>)> {
        if !self.per_stack {
            return vec![(self.lease.clone(), stacks.to_vec())];
        }
        let of = |stack: &StackId| (format!("{}-{stack}", self.lease), vec![stack.clone()]);
        stacks.iter().map(of).collect()
    }
}

impl Drop for KubernetesLeadership {
    fn drop(&mut self) {
        self.others.iter().chain(self.contests().iter()).for_each(JoinHandle::abort);
    }
}

impl Leadership for KubernetesLeadership {
    fn term(&self, stack: &StackId) -> Option<Term> {
        self.leads.term(stack)
    }

    fn leader(&self, stack: &StackId) -> Leader {
        self.leads.leader(stack)
    }

    async fn changed(&self, stack: &StackId, from: Option<Term>) -> Option<Term> {
        self.leads.changed(stack, from).await
    }
}
