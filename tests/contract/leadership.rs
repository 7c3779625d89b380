//! What every election promises.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use callplane::core::ids::{Install, PodId, StackId, Term};
use callplane::leadership::contest::Meter;
use callplane::leadership::kubernetes::{KubernetesLeadership, Settings};
use callplane::leadership::{Leadership, Standalone};
use callplane::store::Limits;
use callplane::store::redis::RedisLeadership;
use futures_util::FutureExt as _;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::DEADLINE;
use crate::api_server::{self, ApiServer};
use crate::redis::{Plain, Servers as _, installation};
use crate::redis_server::{RedisServer, connect, is_here};

instances!(alone: Alone, lease: Leases, redis: RedisLeases where is_here,
           kubernetes: KubernetesLeases where are_here => {
    every_stack_comes_to_be_led
    a_term_stays_the_same_as_long_as_it_is_led
    a_wait_ends_at_once_when_the_term_is_another_than_the_one_known
    no_two_processes_lead_in_one_term
});

instances!(leases: Leases, redis_leases: RedisLeases where is_here,
           kubernetes_leases: KubernetesLeases where are_here => {
    a_later_leader_has_a_higher_term
    who_waits_learns_of_the_lead_that_it_lost_and_of_the_one_it_won
    a_change_between_two_waits_is_not_missed
    each_stack_is_led_by_itself
});

/// Processes that contend for some stacks.
trait Stand: Sync + Sized {
    type Leadership: Leadership;

    fn fresh() -> impl Future<Output = Self> + Send;
    /// All of them.
    fn processes(&self) -> &[Arc<Self::Leadership>];
    /// Takes the lead away from whoever has it, for as long as another process wants it.
    fn depose(&self, stack: &StackId) -> impl Future<Output = ()> + Send;
}

/// A process that is alone. Nobody takes its lead.
struct Alone([Arc<Standalone>; 1]);

impl Stand for Alone {
    type Leadership = Standalone;

    async fn fresh() -> Self {
        Self([Arc::new(Standalone)])
    }

    fn processes(&self) -> &[Arc<Standalone>] {
        &self.0
    }

    async fn depose(&self, _stack: &StackId) {
        unreachable!("only one process contends");
    }
}

/// A model of leases, held by nothing but this file: it shows that the suite can be met.
struct Leases {
    processes: Vec<Arc<Lease>>,
    held: Arc<Held>,
}

/// Who leads each stack, and in which term.
type Held = BTreeMap<StackId, watch::Sender<(usize, Term)>>;

struct Lease {
    number: usize,
    held: Arc<Held>,
}

impl Lease {
    fn seen(&self, (holder, term): (usize, Term)) -> Option<Term> {
        (holder == self.number).then_some(term)
    }
}

impl Leadership for Lease {
    fn term(&self, stack: &StackId) -> Option<Term> {
        self.seen(*self.held[stack].borrow())
    }

    async fn changed(&self, stack: &StackId, from: Option<Term>) -> Option<Term> {
        let mut held = self.held[stack].subscribe();
        let now = held.wait_for(|held| self.seen(*held) != from).await.unwrap();
        self.seen(*now)
    }
}

impl Stand for Leases {
    type Leadership = Lease;

    async fn fresh() -> Self {
        let held = stacks().map(|stack| (stack, watch::Sender::new((0, Term(1)))));
        let held = Arc::new(BTreeMap::from(held));
        let lease = |number| Arc::new(Lease { number, held: Arc::clone(&held) });
        Self { processes: (0..3).map(lease).collect(), held: Arc::clone(&held) }
    }

    fn processes(&self) -> &[Arc<Lease>] {
        &self.processes
    }

    async fn depose(&self, stack: &StackId) {
        self.held[stack].send_modify(|(holder, term)| {
            *holder = (*holder + 1) % self.processes.len();
            term.0 += 1;
        });
    }
}

/// Processes that contend for leases in a Redis.
struct RedisLeases {
    processes: Vec<Arc<RedisLeadership>>,
    server: Arc<Plain>,
    install: Install,
}

impl Stand for RedisLeases {
    type Leadership = RedisLeadership;

    async fn fresh() -> Self {
        let (server, install) = installation::<Plain>().await;
        let mut processes = Vec::new();
        for number in 0..3 {
            let (store, _bus) =
                connect(server.settings(), install.clone(), Limits::default()).await;
            let pod = PodId::new(&format!("pod-{number}"));
            processes.push(Arc::new(RedisLeadership::start(&store, &pod, &stacks())));
        }
        Self { processes, server, install }
    }

    fn processes(&self) -> &[Arc<RedisLeadership>] {
        &self.processes
    }

    async fn depose(&self, stack: &StackId) {
        let leads = |process: &Arc<RedisLeadership>| process.term(stack).is_some();
        let leader = self.processes.iter().position(leads).expect("somebody leads");
        let next = format!("pod-{}", (leader + 1) % self.processes.len());
        let lease = format!("cp:{}:lease:{stack}", self.install);
        self.server.0.ask(&["SET", &lease, &next, "PX", "3000"]);
    }
}

/// Processes that contend for Leases at an API server, with the rights of the chart's own account.
struct KubernetesLeases {
    processes: Vec<Arc<KubernetesLeadership>>,
    server: Arc<ApiServer>,
    namespace: String,
    _redis: Arc<Plain>,
}

/// What elects, and what decides.
fn are_here(test: &str) -> bool {
    is_here(test) && api_server::is_here(test)
}

struct Uncounted;

impl Meter for Uncounted {
    fn asked(&self, _verb: &'static str, _result: &'static str, _took: Option<Duration>) {}

    fn unconfirmed(&self, _unconfirmed: bool) {}
}

impl Stand for KubernetesLeases {
    type Leadership = KubernetesLeadership;

    async fn fresh() -> Self {
        let (redis, install) = installation::<Plain>().await;
        let (server, namespace, account) = tokio::task::spawn_blocking(|| {
            let server = ApiServer::shared();
            let namespace = server.namespace("contract");
            let names = stacks().map(|stack| format!("leader-{stack}"));
            server.let_lead(&namespace, "callplane", &names);
            let account = server.service_account_dir(&namespace, "callplane");
            (server, namespace, account)
        })
        .await
        .unwrap();
        let mut processes = Vec::new();
        for number in 0..3_u32 {
            let (store, _bus) = connect(redis.settings(), install.clone(), Limits::default()).await;
            let settings = Settings {
                server: Some(server.url()),
                account: account.clone(),
                namespace: None,
                lease: "leader".to_owned(),
                per_stack: true,
                lasts: Duration::from_secs(4),
                pod: "pod".to_owned(),
                process: number.to_string(),
                jitter: Duration::from_millis(100) * number,
            };
            let meter = Arc::new(Uncounted);
            let one = KubernetesLeadership::start(&settings, store, &stacks(), meter).unwrap();
            processes.push(Arc::new(one));
        }
        Self { processes, server, namespace, _redis: redis }
    }

    fn processes(&self) -> &[Arc<KubernetesLeadership>] {
        &self.processes
    }

    /// By hand, as an operator might.
    async fn depose(&self, stack: &StackId) {
        let leads = |process: &Arc<KubernetesLeadership>| process.term(stack).is_some();
        let leader = self.processes.iter().position(leads).expect("somebody leads");
        let next = format!("pod_{}", (leader + 1) % self.processes.len());
        let patch = format!("{{\"spec\":{{\"holderIdentity\":\"{next}\"}}}}");
        let (server, namespace) = (Arc::clone(&self.server), self.namespace.clone());
        let lease = format!("lease/leader-{stack}");
        tokio::task::spawn_blocking(move || {
            server.kubectl_said(&["-n", &namespace, "patch", &lease, "--type=merge", "-p", &patch]);
        })
        .await
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_resigns_is_followed_at_once() {
    if !is_here("leadership::who_resigns_is_followed_at_once") {
        return;
    }
    let stand = RedisLeases::fresh().await;
    let [stack, _] = stacks();
    let (number, term) = leader(&stand, &stack).await;
    stand.processes[number].resign().await;
    assert_eq!(stand.processes[number].term(&stack), None);
    let followed = timeout(Duration::from_millis(500), leader(&stand, &stack)).await;
    assert!(followed.expect("the lease is free").1 > term);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_death_whoever_has_heard_the_stacks_for_long_leads() {
    if !is_here("leadership::after_a_death_whoever_has_heard_the_stacks_for_long_leads") {
        return;
    }
    let (server, install) = installation::<Plain>().await;
    let [stack, _] = stacks();
    let start = async |number: u32| {
        let (store, _bus) = connect(server.settings(), install.clone(), Limits::default()).await;
        RedisLeadership::start(
            &store,
            &PodId::new(&format!("pod-{number}")),
            std::slice::from_ref(&stack),
        )
    };
    let dies = start(0).await;
    assert!(timeout(DEADLINE, dies.changed(&stack, None)).await.expect("it is alone").is_some());
    let old = start(1).await;
    // Nothing but time makes one old.
    tokio::time::sleep(Duration::from_millis(12_500)).await;
    let mut all = vec![old];
    for number in 2..10 {
        all.push(start(number).await);
    }
    drop(dies);
    let leads = all.iter().map(|one| one.changed(&stack, None).boxed());
    let leads = futures_util::future::select_all(leads);
    let (_, number, _) = timeout(DEADLINE, leads).await.expect("nobody leads");
    assert_eq!(number, 0, "one that has only begun leads");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_can_not_reach_redis_gives_up_before_its_lease_ends() {
    if !is_here("leadership::a_leader_that_can_not_reach_redis_gives_up_before_its_lease_ends") {
        return;
    }
    let server = tokio::task::spawn_blocking(RedisServer::start).await.unwrap();
    let (store, _bus) = server.connect(Install::default(), Limits::default()).await;
    let [stack, other] = stacks();
    let alone = RedisLeadership::start(&store, &PodId::new("p"), &[stack.clone(), other]);
    let term = timeout(DEADLINE, alone.changed(&stack, None)).await.unwrap();
    server.pause();
    let began = std::time::Instant::now();
    assert_eq!(timeout(DEADLINE, alone.changed(&stack, term)).await.expect("it still leads"), None);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    server.go_on();
    let again = timeout(DEADLINE, alone.changed(&stack, None)).await.expect("nobody leads again");
    assert!(again > term);
}

fn stacks() -> [StackId; 2] {
    [StackId::new("one"), StackId::new("two")]
}

/// The process that leads a stack, once one does, and its term.
async fn leader<S: Stand>(stand: &S, stack: &StackId) -> (usize, Term) {
    let any = stand.processes().iter().enumerate().map(|(number, process)| {
        async move {
            let mut term = process.term(stack);
            while term.is_none() {
                term = process.changed(stack, None).await;
            }
            (number, term.unwrap())
        }
        .boxed()
    });
    timeout(DEADLINE, futures_util::future::select_all(any)).await.expect("nobody leads").0
}

/// The process that leads after another was made to stop.
async fn next_leader<S: Stand>(stand: &S, stack: &StackId) -> ((usize, Term), (usize, Term)) {
    let before = leader(stand, stack).await;
    stand.depose(stack).await;
    let lost = stand.processes()[before.0].changed(stack, Some(before.1));
    assert_eq!(timeout(DEADLINE, lost).await.expect("it still leads"), None);
    (before, leader(stand, stack).await)
}

async fn every_stack_comes_to_be_led<S: Stand>() {
    let stand = S::fresh().await;
    for stack in stacks() {
        leader(&stand, &stack).await;
    }
}

async fn a_term_stays_the_same_as_long_as_it_is_led<S: Stand>() {
    let stand = S::fresh().await;
    let [stack, _] = stacks();
    let (number, term) = leader(&stand, &stack).await;
    let process = &stand.processes()[number];
    let changed = process.changed(&stack, Some(term));
    // A lease is renewed several times meanwhile.
    assert!(timeout(Duration::from_millis(100), changed).await.is_err(), "nothing has changed");
    assert_eq!(process.term(&stack), Some(term));
}

async fn a_wait_ends_at_once_when_the_term_is_another_than_the_one_known<S: Stand>() {
    let stand = S::fresh().await;
    let [stack, _] = stacks();
    let (number, term) = leader(&stand, &stack).await;
    let process = &stand.processes()[number];
    for known in [None, Some(Term(term.0 + 1)), Some(Term(0))] {
        let changed = timeout(DEADLINE, process.changed(&stack, known)).await;
        assert_eq!(changed.expect("it is another"), Some(term));
    }
}

async fn no_two_processes_lead_in_one_term<S: Stand>() {
    let stand = S::fresh().await;
    for stack in stacks() {
        leader(&stand, &stack).await;
        let terms: Vec<_> = stand.processes().iter().filter_map(|one| one.term(&stack)).collect();
        assert_eq!(terms.iter().collect::<BTreeSet<_>>().len(), terms.len(), "{terms:?}");
    }
}

async fn a_later_leader_has_a_higher_term<S: Stand>() {
    let stand = S::fresh().await;
    let [stack, _] = stacks();
    for _ in 0..5 {
        let (before, after) = next_leader(&stand, &stack).await;
        assert!(after.0 != before.0 && after.1 > before.1, "{before:?} {after:?}");
    }
}

async fn who_waits_learns_of_the_lead_that_it_lost_and_of_the_one_it_won<S: Stand>() {
    let stand = S::fresh().await;
    let [stack, _] = stacks();
    let (number, term) = leader(&stand, &stack).await;
    let waiting = stand.processes().iter().map(|process| {
        let (process, stack) = (Arc::clone(process), stack.clone());
        let from = process.term(&stack);
        tokio::spawn(async move { process.changed(&stack, from).await })
    });
    let mut waiting: Vec<_> = waiting.collect();
    stand.depose(&stack).await;
    let loser = waiting.swap_remove(number);
    assert_eq!(timeout(DEADLINE, loser).await.expect("it still leads").unwrap(), None);
    let winner = timeout(DEADLINE, futures_util::future::select_all(waiting)).await;
    assert!(winner.expect("nobody won").0.unwrap().unwrap() > term);
}

async fn a_change_between_two_waits_is_not_missed<S: Stand>() {
    let stand = S::fresh().await;
    let [stack, _] = stacks();
    let (number, term) = leader(&stand, &stack).await;
    // It is busy with something else while it loses the lead.
    let (_, after) = next_leader(&stand, &stack).await;
    for (process, from, to) in [(number, Some(term), None), (after.0, None, Some(after.1))] {
        let changed = stand.processes()[process].changed(&stack, from);
        assert_eq!(timeout(DEADLINE, changed).await.expect("it was missed"), to);
    }
}

async fn each_stack_is_led_by_itself<S: Stand>() {
    let stand = S::fresh().await;
    let [one, two] = stacks();
    leader(&stand, &one).await;
    let other = leader(&stand, &two).await;
    next_leader(&stand, &one).await;
    assert_eq!(leader(&stand, &two).await, other);
}
