//! One running server: every listener bound, every task started, and how it stops.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::backing::{AnyLeadership, AnyStore, Backing, NoBacking};
use super::delivery::FeedListener;
use super::descriptors;
use super::desk::Desk;
use super::host::TokioHost;
use super::meter::LeaseMeter;
use super::observe::{CountedLeadership, CountedStore, Watching};
use super::parts;
use super::running::Running;
use super::settings;
use super::stacks::{ConfiguredStacks, StackError};
use super::watch::Watched;
use crate::admin::{self, AdminState, Parts as AdminParts, Readiness};
use crate::client::console::{self, Hints};
use crate::client::feed::Feed;
use crate::client::{self, Client};
use crate::clock::{Nonces, SystemNonces, TokioTimer};
use crate::config::{Config, Listen};
use crate::core::ids::{Epoch, PodId, StackId, TenantId};
use crate::engine::{Engine, Parts};
use crate::events::{self, Inbox};
use crate::metrics::{Metrics, SessionMetrics};
use crate::stack::{Reports, Stacks as _};
use crate::telemetry::LogLevels;
use crate::traces::otlp::{self, BadCollector, Sender};
use crate::traces::{Traces, queue};

/// Connections that wait to be accepted. What `TcpListener::bind` asks for, too.
const BACKLOG: u32 = 1024;

/// How long tasks may take to end once they are told to.
const ENDING: Duration = Duration::from_secs(2);

type ServerEngine = Engine<CountedStore<AnyStore>, ConfiguredStacks>;
type ServerClient = Client<Desk<CountedStore<AnyStore>, ConfiguredStacks>>;

/// Why a server did not start. Each is one clear line for the person who started it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener could not be bound.
    #[error("cannot listen on {address} for {what}: {why}")]
    Listen {
        /// What would have listened there.
        what: &'static str,
        /// Where.
        address: String,
        /// The system's words.
        why: io::Error,
    },
    /// A stack's sockets could not be opened.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// What it would stand on can't be used.
    #[error(transparent)]
    Backing(#[from] NoBacking),
    /// Something that is named for traces can't be used.
    #[error(transparent)]
    Traces(#[from] BadCollector),
    /// It was told to stop before it served.
    #[error("stopped before it served")]
    Stopped,
}

/// A running server.
pub struct Server {
    client_address: SocketAddr,
    admin_address: SocketAddr,
    control_address: SocketAddr,
    client: Arc<ServerClient>,
    engine: Arc<ServerEngine>,
    store: Arc<AnyStore>,
    leadership: Arc<AnyLeadership>,
    /// Carries entries as long as it is kept.
    backing: Backing,
    stacks: Arc<ConfiguredStacks>,
    readiness: Readiness,
    parts: AdminParts,
    metrics: Metrics,
    levels: LogLevels,
    drain: crate::config::Drain,
    stop_clients: CancellationToken,
    stop_rest: CancellationToken,
    tasks: TaskTracker,
}

impl Server {
    /// Binds every listener and starts every task. `hints` is what the console page is told;
    /// `readiness` is told when it serves, and tells when it is to stop.
    ///
    /// # Errors
    /// [`StartError`]: nothing runs.
    pub async fn start(
        config: &Config,
        hints: &Hints,
        levels: LogLevels,
        readiness: Readiness,
    ) -> Result<Self, StartError> {
        let tasks = TaskTracker::new();
        let stop_rest = CancellationToken::new();
        let started = Self::begin(config, hints, levels, readiness, &tasks, &stop_rest).await;
        if started.is_err() {
            stop_rest.cancel();
            tasks.close();
            // The stacks are told that they need not tell us anything.
            let _ = tokio::time::timeout(ENDING, tasks.wait()).await;
        }
        started
    }

    /// Whoever contends for the stacks' events serves: that begins where nothing can fail any more.
    async fn begin(
        config: &Config,
        hints: &Hints,
        levels: LogLevels,
        readiness: Readiness,
        tasks: &TaskTracker,
        stop_rest: &CancellationToken,
    ) -> Result<Self, StartError> {
        let metrics = Metrics::new();
        let Listen { address, shared, .. } = &config.listen;
        let listener = bind("clients (listen.address)", address, *shared).await?;
        let operations = bind("operations (admin.listen)", &config.admin.listen, false).await?;
        let control = bind("control (admin.control)", &config.admin.control, false).await?;

        let stop_clients = CancellationToken::new();
        let client_address = address_of(&listener, &config.listen.address)?;
        let admin_address = address_of(&operations, &config.admin.listen)?;
        let control_address = address_of(&control, &config.admin.control)?;
        // First of all, so that whoever waits for something can be asked what.
        let parts_told = AdminParts::default();
        parts::of_store(&parts_told, &metrics, &readiness, config.redis.is_used());
        let state = AdminState {
            readiness: readiness.clone(),
            parts: parts_told.clone(),
            metrics: metrics.clone(),
            levels: levels.clone(),
        };
        for (listener, routes) in
            [(operations, admin::operations(state.clone())), (control, admin::control(state))]
        {
            let stop = stop_rest.clone();
            tasks.spawn(admin::run(listener, routes, stop.cancelled_owned()));
        }

        let nonces = Arc::new(SystemNonces::new());
        let pod = PodId::new(Epoch::derive(nonces.nonce()).as_str());
        let exporter = match settings::traces(&config.traces) {
            None => None,
            Some(settings) => {
                let kubernetes =
                    (std::env::var("POD_NAME").ok(), std::env::var("POD_NAMESPACE").ok());
                let (pod, install) = (pod.clone(), config.install.clone());
                let sender = Sender { pod, install, kubernetes };
                Some((otlp::exporter(&settings, &sender)?, settings.sample))
            }
        };
        let names: Vec<StackId> =
            config.stacks.iter().map(|stack| StackId::new(stack.name.as_str())).collect();
        let backing = tokio::select! {
            backing = Backing::of(config, settings::store(config)) => backing?,
            () = readiness.drained() => return Err(StartError::Stopped),
        };
        let Backing { store, clock, .. } = &backing;
        let (inbox, outlet) = events::inbox(&names, Arc::clone(clock));
        let inbox = Arc::new(inbox);
        read_off(&metrics, Arc::clone(store), Arc::clone(&inbox), names.clone());
        let reports: Arc<dyn Reports> = inbox;
        let connecting =
            ConfiguredStacks::connect(config, &metrics, clock, reports, tasks, stop_rest);
        let stacks = Arc::new(connecting.await?);
        let host = TokioHost::new(tasks.clone());
        let dyn_nonces: Arc<dyn Nonces> = Arc::clone(&nonces) as _;
        let traces = exporter.map(|(exporter, sample)| {
            let (queue, sending) = queue::queue(exporter, metrics.traces.clone());
            tasks.spawn(sending.run(stop_rest.clone()));
            Traces::new(queue, sample, Arc::clone(clock), Arc::clone(&dyn_nonces))
        });
        let running = Arc::new(Running::default());
        backing.attach(Arc::clone(&running) as _);
        let parts = Parts {
            store: Arc::new(CountedStore::new(Arc::clone(store), metrics.store.clone())),
            stacks: Arc::clone(&stacks),
            clock: Arc::clone(clock),
            nonces: Arc::clone(&dyn_nonces),
            host: Arc::clone(&host) as _,
            observer: Arc::new(Watching::new(&metrics, running, traces.clone())),
        };
        let engine = Engine::new(parts, settings::engine(config, pod.clone()));
        tasks.spawn(host.drive(Arc::clone(&engine), Arc::clone(clock), stop_rest.clone()));
        let feed = listen(&backing, &readiness).await.ok_or(StartError::Stopped)?;
        let meter = Arc::new(LeaseMeter(metrics.lease.clone()));
        let leadership = Arc::new(backing.contend(config, &pod, &names, meter)?);
        parts::of_stacks(&parts_told, &metrics, config, &stacks, &leadership);
        let counted =
            CountedLeadership::new(Arc::clone(&leadership), metrics.clone(), stacks.names());
        tasks.spawn(events::run(
            Arc::clone(&engine),
            Arc::new(counted),
            Arc::clone(clock),
            Arc::new(TokioTimer),
            outlet,
            stop_rest.clone(),
        ));
        let draw: client::Nonces = Arc::new(move || nonces.nonce());
        let desk = Desk::new(Arc::clone(&engine)).watched(metrics.commands.clone(), traces);
        let allowed = settings::client(config);
        let allowed = match descriptors::most() {
            Some(most) => descriptors::within(allowed, most),
            None => allowed,
        };
        metrics.sessions.allowed(allowed.connections);
        for stack in &config.stacks {
            metrics.stack(stack.name.as_str()).allowed(stack.in_flight);
        }
        let client =
            Client::new(desk, feed, allowed, draw, metrics.sessions.clone(), stop_clients.clone());

        let pages =
            if config.listen.console { console::router_with(hints) } else { axum::Router::new() };
        tasks.spawn(client::serve(Arc::clone(&client), listener, pages));
        readiness.listening();
        let store = Arc::clone(store);
        Ok(Self {
            client_address,
            admin_address,
            control_address,
            client,
            engine,
            store,
            leadership,
            backing,
            stacks,
            readiness,
            parts: parts_told,
            metrics,
            levels,
            drain: config.drain.clone(),
            stop_clients,
            stop_rest: stop_rest.clone(),
            tasks: tasks.clone(),
        })
    }

    /// Where clients connect.
    #[must_use]
    pub fn client_address(&self) -> SocketAddr {
        self.client_address
    }

    /// What is counted of its clients; goes on to count.
    #[must_use]
    pub fn sessions(&self) -> SessionMetrics {
        self.metrics.sessions.clone()
    }

    /// Says from now on when this file, from which `running` was read, says something else. It is
    /// looked at now and then, and whenever `look` is notified.
    pub fn watch(&self, file: PathBuf, running: Config, look: Arc<Notify>) {
        let (levels, metrics) = (self.levels.clone(), self.metrics.config.clone());
        let watched = Watched::new(file, running, levels, metrics, &self.parts);
        self.tasks.spawn(watched.watch(look, self.stop_rest.clone()));
    }

    /// Where probes and metrics are.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Where drain and log level are.
    #[must_use]
    pub fn control_address(&self) -> SocketAddr {
        self.control_address
    }

    /// Waits until every stack that answers sends its events here.
    pub async fn joined(&self) {
        for name in self.stacks.names() {
            if let Some(stack) = self.stacks.get(name) {
                stack.joined().await;
            }
        }
    }

    /// Runs until [`Readiness`] is told to drain and the drain is over. Returns whether no command was
    /// cut off; clients that are slow to let go of their sockets cost nobody anything.
    pub async fn run(self) -> bool {
        self.readiness.drained().await;
        self.wind_down().await
    }

    /// Each step is bounded; all together take at most `drain.delay` + `drain.timeout`.
    async fn wind_down(&self) -> bool {
        tracing::info!("draining: no longer ready");
        tokio::time::sleep(self.drain.delay).await;
        let finished = if self.backing.is_shared() {
            self.leave_to_others().await
        } else {
            self.end_commands().await
        };
        self.stop_clients.cancel();
        let closed =
            tokio::time::timeout(self.drain.timeout.mul_f32(0.25), self.client.drained()).await;
        self.stop_rest.cancel();
        self.tasks.close();
        let end = async {
            self.tasks.wait().await;
            if self.engine.part().await.is_err() {
                tracing::debug!("the store is away: nobody hears that this process ends");
            }
        };
        let ended = tokio::time::timeout(ENDING, end).await.is_ok();
        tracing::info!(finished, closed = closed.is_ok(), ended, "stopped");
        finished
    }

    /// Commands of a process that is alone end with it: no new ones, and those that run get most of
    /// the time to end by themselves. Who is still calling then is given up, so that no phone rings
    /// for nobody, and told so. Returns whether all ended by themselves.
    async fn end_commands(&self) -> bool {
        self.client.wind_down();
        let (to_end, to_give_up) =
            (self.drain.timeout.mul_f32(0.6), self.drain.timeout.mul_f32(0.15));
        let by_themselves = tokio::time::timeout(to_end, self.commands_ended()).await.is_ok();
        if !by_themselves {
            tracing::info!(running = self.running(), "giving up what still runs");
            let given_up = async {
                self.engine.cancel_all().await;
                self.commands_ended().await;
            };
            if tokio::time::timeout(to_give_up, given_up).await.is_err() {
                tracing::warn!(running = self.running(), "commands are cut off");
            }
        }
        by_themselves
    }

    /// The commands of one of several processes go on without it: it gives up its lead, sends its
    /// clients away, and stays until what it asked the stacks is answered. Returns whether it was.
    async fn leave_to_others(&self) -> bool {
        self.engine.leave();
        self.stop_clients.cancel();
        let answered = async {
            while self.engine.performing() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let within = self.drain.timeout.mul_f32(0.7);
        let answered = both_within(within, self.leadership.resign(), answered).await;
        if !answered {
            let under_way = self.engine.performing();
            tracing::warn!(under_way, "stacks have not answered: others will look what came of it");
        }
        answered
    }

    fn running(&self) -> usize {
        self.store.size().map_or(0, |size| size.running)
    }

    /// Waits until no command runs. The store is looked at 20 times a second, only while draining.
    async fn commands_ended(&self) {
        while self.running() > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Does both at once, neither longer than this. Returns whether the second came to its end.
async fn both_within(
    within: Duration,
    first: impl Future<Output = ()>,
    second: impl Future<Output = ()>,
) -> bool {
    let bounded = (tokio::time::timeout(within, first), tokio::time::timeout(within, second));
    tokio::join!(bounded.0, bounded.1).1.is_ok()
}

/// Has what is committed told to a feed. Nothing when it is to stop before the store is there.
async fn listen(backing: &Backing, readiness: &Readiness) -> Option<Arc<Feed>> {
    let tenant = TenantId::default();
    let feed = Feed::new(backing.head(&tenant, readiness.drained()).await?);
    backing.attach(Arc::new(FeedListener(Arc::clone(&feed))));
    // What was committed before it was attached is not told to it: the engine works already.
    let head = backing.head(&tenant, readiness.drained()).await?;
    feed.begin(&tenant, head);
    Some(feed)
}

/// What is measured by looking, whenever the metrics are read.
fn read_off(metrics: &Metrics, store: Arc<AnyStore>, inbox: Arc<Inbox>, stacks: Vec<StackId>) {
    let kept = metrics.store.clone();
    metrics.when_read(move || {
        if let Some(size) = store.size() {
            kept.kept(size.kept, size.entry_bytes);
        }
    });
    for stack in stacks {
        let (counts, inbox) = (metrics.stack(stack.as_str()), Arc::clone(&inbox));
        metrics.when_read(move || counts.lost(inbox.lost(&stack)));
    }
}

async fn bind(
    what: &'static str,
    address: &crate::config::HostPort,
    shared: bool,
) -> Result<TcpListener, StartError> {
    let listening = async {
        let place = (address.host(), address.port());
        if !shared {
            return TcpListener::bind(place).await;
        }
        let found = tokio::net::lookup_host(place).await?.next();
        let place = found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let socket = if place.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(true)?;
        socket.bind(place)?;
        socket.listen(BACKLOG)
    };
    listening.await.map_err(|why| StartError::Listen { what, address: address.to_string(), why })
}

fn address_of(
    listener: &TcpListener,
    wanted: &crate::config::HostPort,
) -> Result<SocketAddr, StartError> {
    let what = "a listener";
    listener.local_addr().map_err(|why| StartError::Listen {
        what,
        address: wanted.to_string(),
        why,
    })
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lead_that_cannot_be_given_back_does_not_hold_a_stop_up() {
        let (began, within) = (Instant::now(), Duration::from_secs(7));
        let stops = async {
            assert!(both_within(within, pending(), ready(())).await, "the stacks have answered");
            assert!(!both_within(within, ready(()), pending()).await);
            assert!(!both_within(within, pending(), pending()).await, "both at once");
        };
        tokio::time::timeout(4 * within, stops).await.expect("it waits on");
        assert_eq!(began.elapsed(), 3 * within);
    }
}
