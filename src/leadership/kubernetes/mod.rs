//! Who leads, by a Lease at the API server: for pods in Kubernetes.
//!
//! The Lease elects; the term that is drawn in the store decides. [`super::election`] has the rules.

mod access;
mod announce;
mod api;
mod look;
mod object;
mod trouble;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::channel;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

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
    /// Each Lease, and whom its holder leads.
    leases: Vec<(Arc<LeaseApi>, Vec<StackId>)>,
    stop: CancellationToken,
    contests: TaskTracker,
    tasks: Vec<AbortHandle>,
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
        let (leads, stop) = (Arc::new(Leads::of(stacks)), CancellationToken::new());
        let (contests, mut tasks) = (TaskTracker::new(), Vec::new());
        let mut leases = Vec::new();
        for (lease, stacks) in settings.leases(stacks) {
            let (access, namespace) = (access.clone(), namespace.clone());
            let api = LeaseApi::new(access, namespace, lease, settings.lasts, Arc::clone(&meter))?;
            leases.push((Arc::new(api), stacks));
        }
        for (api, stacks) in &leases {
            let (api, stacks) = (Arc::clone(api), stacks.clone());
            let (sender, sights) = channel(SIGHTS);
            let takeovers = announce::takeovers(
                Arc::clone(&api),
                Arc::clone(&leads),
                stacks.clone(),
                settings.pod.clone(),
            );
            tasks.push(tokio::spawn(takeovers).abort_handle());
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
            tasks.push(contests.spawn(contest.run()).abort_handle());
            tasks.push(tokio::spawn(async move { api.watch(sender).await }).abort_handle());
        }
        contests.close();
        Ok(Self { leads, leases, stop, contests, tasks, lasts: settings.lasts })
    }

    /// Gives every Lease back, so that another process has it at once, and contends no more. Ends when
    /// the API server has said that it is so, or when they have run out.
    pub async fn resign(&self) {
        self.stop.cancel();
        if timeout(self.lasts, self.contests.wait()).await.is_err() {
            tracing::info!("the Lease could not be given back, it runs out by itself");
        }
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
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Leadership for KubernetesLeadership {
    fn term(&self, stack: &StackId) -> Option<Term> {
        self.leads.term(stack)
    }

    fn leader(&self, stack: &StackId) -> Leader {
        self.leads.leader(stack)
    }

    fn trouble(&self, stack: &StackId) -> Option<String> {
        let of = self.leases.iter().find(|(_, stacks)| stacks.contains(stack));
        of.and_then(|(api, _)| api.trouble())
    }

    async fn changed(&self, stack: &StackId, from: Option<Term>) -> Option<Term> {
        self.leads.changed(stack, from).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::contest::Unheard;
    use super::*;
    use crate::core::ids::Epoch;

    /// Nobody draws terms, and nobody counts.
    struct Nobody;

    impl Terms for Nobody {
        async fn draw(&self, _stack: &StackId) -> Result<Term, Unheard> {
            Err(Unheard)
        }

        async fn newest(&self, _stack: &StackId) -> Result<(Epoch, Option<Term>), Unheard> {
            Err(Unheard)
        }
    }

    impl Meter for Nobody {
        fn asked(&self, _verb: &'static str, _result: &'static str, _took: Option<Duration>) {}
        fn unconfirmed(&self, _unconfirmed: bool) {}
    }

    #[tokio::test]
    async fn nothing_contends_on_for_a_leadership_that_could_not_be_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let ca = rcgen::generate_simple_self_signed(["server".to_owned()]).unwrap().cert.pem();
        std::fs::write(folder.path().join("ca.crt"), ca).unwrap();
        std::fs::write(folder.path().join("token"), "token").unwrap();
        // It takes connections, and says nothing.
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = Settings {
            server: Some(format!("http://{}", silent.local_addr().unwrap())),
            account: folder.path().to_owned(),
            namespace: Some("here".to_owned()),
            lease: "lease".to_owned(),
            per_stack: false,
            lasts: Duration::from_millis(200),
            pod: "pod".to_owned(),
            process: "process".to_owned(),
            jitter: JITTER,
        };
        let terms = Arc::new(Nobody);
        let kept = Arc::downgrade(&terms);
        let stacks = [StackId::new("main")];
        let leadership =
            KubernetesLeadership::start(&settings, terms, &stacks, Arc::new(Nobody)).unwrap();
        // The contest's, and the watch's.
        let _connections = [silent.accept().await.unwrap(), silent.accept().await.unwrap()];
        timeout(Duration::from_secs(5), leadership.resign()).await.expect("it waits on");
        drop(leadership);
        let ended = async {
            while kept.strong_count() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(5), ended).await.expect("it contends on");
    }
}
