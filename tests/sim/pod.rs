//! One process of callplane: the real engine, connectors, events and sessions, on the executor.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use callplane::app::{Desk, FeedListener};
use callplane::client::feed::Feed;
use callplane::clock::{Clock, Nonces, Timer};
use callplane::core::act::{Act, Op, Reply};
use callplane::core::command::Input;
use callplane::core::ids::{Install, PodId, StackId};
use callplane::core::plan::{Capabilities, Times};
use callplane::core::record::Record;
use callplane::core::stack_event::Uptime;
use callplane::core::time::StoreTime;
use callplane::engine::{Engine, Host, Observer, Parts, Settings};
use callplane::events;
use callplane::leadership::Leads;
use callplane::leadership::contest::Contest;
use callplane::leadership::election::Timing;
use callplane::stack::mi::{Mi as _, MiRequest};
use callplane::stack::opensips::meter::Unmetered;
use callplane::stack::opensips::settings::StackSettings;
use callplane::stack::opensips::sink::Sink;
use callplane::stack::opensips::{OpenSips, Surroundings, keeper};
use callplane::stack::{Away, Reports, SipStack, Snapshot, Stacks};
use callplane::store::Store as _;
use futures_util::future::{Either, select};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::api;
use super::bug::Bug;
use super::bus::Ear;
use super::executor::{Executor, Group};
use super::lease::{Contender, Leading};
use super::proxy::Line;
use super::record::{Dice, Watch};
use super::site::{Site, domain};
use super::store::Client;

/// How long the phases of a command take here.
pub fn times() -> Times {
    Times {
        ring: Duration::from_secs(4),
        silence: Duration::from_secs(2),
        follow: Duration::from_secs(3),
        grace: Duration::from_millis(500),
        ..Times::default()
    }
}

/// Longest sleep between two looks at the timers, as in the product.
const LONGEST: Duration = Duration::from_secs(1);

type Connector = OpenSips<Line, Line>;
pub type Commands = Desk<Client, Proxies>;

/// A stack, as one process reaches it.
pub struct Way {
    connector: Arc<Connector>,
    executor: Executor,
    bug: Option<Bug>,
}

impl SipStack for Way {
    fn capabilities(&self) -> Capabilities {
        self.connector.capabilities()
    }

    fn fr_timeout(&self) -> Option<Duration> {
        self.connector.fr_timeout()
    }

    async fn introduced(&self) {
        self.connector.introduced().await;
    }

    async fn perform(&self, op: &Op) -> Reply {
        let first = pin!(self.connector.perform(op));
        if self.bug != Some(Bug::RepeatsOnceActs) || !matches!(op.act, Act::Refer { .. }) {
            return first.await;
        }
        match select(first, self.executor.sleep(Duration::from_millis(150))).await {
            Either::Left((reply, _)) => reply,
            Either::Right(((), _)) => {
                let send_before = op.reply_by;
                self.connector.perform(&Op { send_before, ..op.clone() }).await
            }
        }
    }

    fn uptime(&self) -> Option<Uptime> {
        self.connector.uptime()
    }

    async fn ask_uptime(&self) -> Option<Uptime> {
        self.connector.ask_uptime().await
    }

    async fn list(&self) -> Result<Snapshot, Away> {
        self.connector.list().await
    }
}

/// All stacks.
pub struct Proxies {
    names: Vec<StackId>,
    ways: Vec<Way>,
}

impl Stacks for Proxies {
    type Stack = Way;

    fn get(&self, id: &StackId) -> Option<&Way> {
        let at = self.names.iter().position(|name| name == id)?;
        self.ways.get(at)
    }

    fn names(&self) -> &[StackId] {
        &self.names
    }

    fn of_domain(&self, wanted: &str) -> Option<StackId> {
        let at = (0..self.names.len()).find(|at| domain(*at).starts_with(wanted));
        self.names.get(at.unwrap_or_default()).cloned()
    }
}

struct Hosting {
    executor: Executor,
    group: Group,
    wanted: AtomicU64,
    wake: Notify,
}

impl Host for Hosting {
    fn spawn(&self, work: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.executor.spawn_boxed(self.group, work);
    }

    fn wake_at(&self, at: StoreTime) {
        if self.wanted.fetch_min(at.0, Ordering::SeqCst) > at.0 {
            self.wake.notify_one();
        }
    }
}

struct Unobserved;

impl Observer for Unobserved {
    fn begun(&self, _record: &Record) {}

    fn ended(&self, _: &Record, _at: StoreTime) {}

    fn performed(&self, _: &Record, _: &Op, _: &Reply, _: Range<StoreTime>) {}

    fn took_in(&self, _: &Record, _: &[Input], _: Range<StoreTime>) {}
}

/// A process that runs.
pub struct Running {
    pub group: Group,
    pub life: u64,
    pub commands: Arc<Commands>,
    pub nonces: Arc<Dice>,
    /// Set once it serves clients.
    pub feed: std::sync::OnceLock<Arc<Feed>>,
    sockets: Vec<String>,
}

impl Running {
    /// Starts a process of this number. It serves once it has reached the store.
    pub fn start(site: &Arc<Site>, pod: usize, life: u64, wrong: i64) -> Arc<Self> {
        let executor = site.executor;
        let group = executor.group();
        let clock = Watch::new(executor, wrong);
        let nonces = Dice::new(site.fork());
        let store =
            Client { executor, server: Arc::clone(&site.server), pod, clock: Arc::clone(&clock) };
        let mut proxies = Proxies { names: Vec::new(), ways: Vec::new() };
        let names: Vec<StackId> = (0..site.proxies.len()).map(stack_id).collect();
        let (inbox, outlet) = events::inbox(&names, Arc::clone(&clock) as Arc<dyn Clock>);
        let reports: Arc<dyn Reports> = Arc::new(inbox);
        let mut sockets = Vec::new();
        for (number, proxy) in site.proxies.iter().enumerate() {
            let line = Line { proxy: Arc::clone(proxy), pod };
            let surroundings = Surroundings {
                clock: Arc::clone(&clock) as Arc<dyn Clock>,
                timer: Arc::new(executor),
                meter: Arc::new(Unmetered),
            };
            let connector = OpenSips::new(settings(number), line.clone(), line, surroundings);
            let connector = Arc::new(connector);
            let socket = format!("udp:10.0.{pod}.{number}:{}", 1000 + life);
            let (sink, feed) = Sink::by_hand(socket.clone());
            proxy.listen(&socket, pod, group, feed);
            sockets.push(socket);
            let (kept, told) = (Arc::clone(&connector), Arc::clone(&reports));
            executor.spawn(group, keeper::keep(kept, sink, told, CancellationToken::new()));
            proxies.names.push(names[number].clone());
            proxies.ways.push(Way { connector, executor, bug: site.bug });
        }
        let host = Arc::new(Hosting {
            executor,
            group,
            wanted: AtomicU64::new(u64::MAX),
            wake: Notify::new(),
        });
        let id = PodId::new(&format!("pod{pod}-{life}"));
        let engine = Engine::new(
            Parts {
                store: Arc::new(store.clone()),
                stacks: Arc::new(proxies),
                clock: Arc::clone(&clock) as Arc<dyn Clock>,
                nonces: Arc::clone(&nonces) as Arc<dyn Nonces>,
                host: Arc::clone(&host) as Arc<dyn Host>,
                observer: Arc::new(Unobserved),
            },
            engine_settings(id, &names),
        );
        let timer: Arc<dyn Timer> = Arc::new(executor);
        executor.spawn(group, Arc::clone(&engine).keep_beating(Arc::clone(&timer)));
        executor.spawn(group, Arc::clone(&engine).keep_sweeping(timer));
        executor.spawn(group, fire(Arc::clone(&engine), host, Arc::clone(&clock)));
        let running = Arc::new(Self {
            group,
            life,
            commands: Arc::new(Desk::new(Arc::clone(&engine))),
            nonces,
            feed: std::sync::OnceLock::new(),
            sockets,
        });
        let (events_timer, stop) = (Arc::new(executor), CancellationToken::new());
        if let Some(api) = &site.api {
            let leads = Arc::new(Leads::of(&names));
            let contest = Contest {
                me: format!("pod{pod}_{life}"),
                timing: Timing {
                    lease: api::LEASE,
                    jitter: site.draw(|random| random.millis(0, 250)),
                },
                leases: Arc::new(api::Way { api: Arc::clone(api), pod }),
                sights: api.watch(pod),
                terms: Arc::new(store.clone()),
                stacks: names.clone(),
                leads: Arc::clone(&leads),
                meter: Arc::new(api::Uncounted),
                clock: Watch::new(executor, 0),
                timer: Arc::new(executor),
                stop: CancellationToken::new(),
            };
            executor.spawn(group, contest.run());
            let clock = Arc::clone(&clock) as Arc<dyn Clock>;
            let applying = events::run(engine, leads, clock, events_timer, outlet, stop);
            executor.spawn(group, applying);
        } else {
            let leading = Arc::new(Leading::default());
            for name in &names {
                let contender = Contender {
                    executor,
                    store: store.clone(),
                    leading: Arc::clone(&leading),
                    stack: name.clone(),
                    // Each life of each process has a number of its own.
                    holder: life * 100 + pod as u64,
                    held: None,
                };
                executor.spawn(group, contender.run());
            }
            let clock: Arc<dyn Clock> = clock;
            executor.spawn(group, events::run(engine, leading, clock, events_timer, outlet, stop));
        }
        if site.bug == Some(Bug::EndsCalls) && life > 1 {
            executor.spawn(group, end_calls(Arc::clone(site), pod));
        }
        executor.spawn(group, serve(Arc::clone(site), Arc::clone(&running), store));
        running
    }

    /// It is gone from one moment to the next.
    pub fn kill(&self, site: &Site, pod: usize) {
        site.executor.end(self.group);
        site.publisher.forget(pod);
        for (proxy, socket) in site.proxies.iter().zip(&self.sockets) {
            proxy.forget(socket);
        }
    }
}

pub fn stack_id(number: usize) -> StackId {
    StackId::new(["stock", "reference"][number % 2])
}

fn settings(number: usize) -> StackSettings {
    let mut settings = StackSettings::new(stack_id(number), "simulated");
    settings.next_hop = Some(format!("sip:{}", domain(number)));
    settings.fr_timeout = Some(Duration::from_secs(1));
    settings.ring_timeout = times().ring;
    settings
}

fn engine_settings(pod: PodId, names: &[StackId]) -> Settings {
    let times_at: BTreeMap<_, _> = names.iter().map(|name| (name.clone(), times())).collect();
    Settings {
        pod,
        install: Install::parse("sim").unwrap(),
        times: times(),
        times_at,
        keep_calls: Duration::from_secs(24 * 60 * 60),
        keep_others: Duration::from_secs(15 * 60),
        one_start_per_caller: true,
        running: 1000,
    }
}

/// Fires what is due, as the product's host does.
async fn fire(engine: Arc<Engine<Client, Proxies>>, host: Arc<Hosting>, clock: Arc<Watch>) {
    loop {
        host.wanted.store(u64::MAX, Ordering::SeqCst);
        let due = engine.fire();
        let sleep = due.map_or(LONGEST, |due| clock.now().until(due)).min(LONGEST);
        select(pin!(host.wake.notified()), host.executor.sleep(sleep)).await;
    }
}

/// Ends a call that nobody named.
async fn end_calls(site: Arc<Site>, pod: usize) {
    for proxy in &site.proxies {
        let calls = proxy.with(|world, _| world.calls());
        if let Some(call) = calls.iter().find(|call| call.callid.starts_with("call-")) {
            let line = Line { proxy: Arc::clone(proxy), pod };
            let request = MiRequest::new("dlg_end_dlg").text("dialog_id", call.dialog.as_str());
            let _ = line.call(request, Duration::from_secs(1)).await;
        }
    }
}

/// Clients are served once what is committed is heard of.
async fn serve(site: Arc<Site>, running: Arc<Running>, store: Client) {
    let executor = site.executor;
    loop {
        let Ok(head) = store.head(&site.tenants[0]).await else {
            executor.sleep(Duration::from_millis(300)).await;
            continue;
        };
        let feed = Feed::new(head);
        let listener = Arc::new(FeedListener(Arc::clone(&feed)));
        let open = Ear::open(
            executor,
            running.group,
            store.clone(),
            &site.tenants,
            listener,
            &site.publisher,
        );
        if open.await.is_ok() {
            let _ = running.feed.set(feed);
            return;
        }
        executor.sleep(Duration::from_millis(300)).await;
    }
}
