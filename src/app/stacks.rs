//! The configured stacks: one connector each, and the task that keeps its events flowing.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::meter::StackMeter;
use crate::clock::{Clock, TokioTimer};
use crate::config::{self, Config, Transport};
use crate::core::act::{Op, Reply};
use crate::core::ids::StackId;
use crate::core::plan::Capabilities;
use crate::core::stack_event::Uptime;
use crate::metrics::Metrics;
use crate::stack::opensips::settings::{EventSettings, EventTransport, StackSettings};
use crate::stack::opensips::sink::Sink;
use crate::stack::opensips::{self, RealOpenSips, Surroundings, keeper, udp};
use crate::stack::{Away, Reports, SipStack, Snapshot, Stacks};

/// A stack's sockets could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// Its management interface.
    #[error("stack {stack}: {why}")]
    Open {
        /// The stack's name.
        stack: StackId,
        /// What is wrong.
        why: opensips::OpenError,
    },
    /// Where its events would come in.
    #[error("stack {stack}: cannot listen for events: {why}")]
    Events {
        /// The stack's name.
        stack: StackId,
        /// The system's words.
        why: std::io::Error,
    },
}

/// One configured stack.
pub struct ConfiguredStack(Arc<RealOpenSips>);

impl SipStack for ConfiguredStack {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn fr_timeout(&self) -> Option<Duration> {
        self.0.fr_timeout()
    }

    async fn introduced(&self) {
        self.0.introduced().await;
    }

    async fn perform(&self, op: &Op) -> Reply {
        self.0.perform(op).await
    }

    fn uptime(&self) -> Option<Uptime> {
        self.0.uptime()
    }

    async fn ask_uptime(&self) -> Option<Uptime> {
        self.0.ask_uptime().await
    }

    async fn list(&self) -> Result<Snapshot, Away> {
        self.0.list().await
    }
}

/// All configured stacks.
pub struct ConfiguredStacks {
    names: Vec<StackId>,
    stacks: Vec<ConfiguredStack>,
    domains: Vec<Vec<String>>,
}

impl ConfiguredStacks {
    /// Opens the sockets of every stack and starts listening to its events. The stacks need not
    /// be there yet.
    ///
    /// # Errors
    /// [`StackError`] when a socket can't be opened.
    pub async fn connect(
        config: &Config,
        metrics: &Metrics,
        clock: &Arc<dyn Clock>,
        reports: Arc<dyn Reports>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<Self, StackError> {
        let look_up = |address: String| async move { udp::look_up(&address).await };
        Self::connect_by(look_up, config, metrics, clock, reports, tasks, stop).await
    }

    async fn connect_by<Found: Future<Output = io::Result<SocketAddr>>>(
        look_up: impl Fn(String) -> Found,
        config: &Config,
        metrics: &Metrics,
        clock: &Arc<dyn Clock>,
        reports: Arc<dyn Reports>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<Self, StackError> {
        let mut all = Self { names: Vec::new(), stacks: Vec::new(), domains: Vec::new() };
        // All at once: names that lead nowhere delay the start by one wait, not by one each.
        let opening = config.stacks.iter().map(|stack| {
            let found = look_up(stack.mi.address.to_string());
            open_by(found, config, stack, clock, metrics)
        });
        let opened = try_join_all(opening).await?;
        for (stack, connector) in config.stacks.iter().zip(opened) {
            let connector = Arc::new(connector);
            let (reports, stop) = (Arc::clone(&reports), stop.clone());
            if connector.mi().local_addr().is_ok() {
                let sink = sink_of(&connector).await?;
                tasks.spawn(keeper::keep(Arc::clone(&connector), sink, reports, stop));
            } else {
                tasks.spawn(keep_when_found(Arc::clone(&connector), reports, stop));
            }
            all.names.push(connector.id().clone());
            all.stacks.push(ConfiguredStack(connector));
            all.domains.push(stack.domains.iter().map(|d| d.as_str().to_owned()).collect());
        }
        Ok(all)
    }
}

/// Whether a stack's management interface answers, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// It never has.
    NotYet,
    /// It does.
    Yes,
    /// It did.
    NoMore,
}

impl ConfiguredStack {
    /// Whether it answers.
    pub fn answers(&self) -> Answers {
        match (self.0.uptime(), self.0.is_reachable()) {
            (None, _) => Answers::NotYet,
            (Some(_), true) => Answers::Yes,
            (Some(_), false) => Answers::NoMore,
        }
    }

    /// Waits until its events flow, unless it is away.
    pub async fn joined(&self) {
        self.0.introduced().await;
        if self.0.is_reachable() {
            // A stack that refuses the subscription never joins.
            let _ = tokio::time::timeout(JOINING, self.0.joined()).await;
        }
    }
}

impl Stacks for ConfiguredStacks {
    type Stack = ConfiguredStack;

    fn get(&self, id: &StackId) -> Option<&ConfiguredStack> {
        let at = self.names.iter().position(|name| name == id)?;
        self.stacks.get(at)
    }

    fn names(&self) -> &[StackId] {
        &self.names
    }

    fn of_domain(&self, domain: &str) -> Option<StackId> {
        let serves = |domains: &Vec<String>| domains.iter().any(|d| d.eq_ignore_ascii_case(domain));
        let at = self.domains.iter().position(serves).unwrap_or_default();
        self.names.get(at).cloned()
    }
}

/// For a stack whose name leads nowhere yet: which address of ours its events can come to is known
/// only when it does.
async fn keep_when_found(
    connector: Arc<RealOpenSips>,
    reports: Arc<dyn Reports>,
    stop: CancellationToken,
) {
    let sink = async {
        connector.mi().found().await;
        loop {
            match sink_of(&connector).await {
                Ok(sink) => return sink,
                Err(error) => tracing::error!(%error, "no events"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let sink = tokio::select! {
        () = stop.cancelled() => return,
        sink = sink => sink,
    };
    keeper::keep(Arc::clone(&connector), sink, reports, stop).await;
}

/// A connector to one stack.
///
/// # Errors
/// [`StackError`] when its sockets can't be opened.
pub async fn open(
    config: &Config,
    stack: &config::Stack,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
) -> Result<RealOpenSips, StackError> {
    let address = stack.mi.address.to_string();
    open_by(udp::look_up(&address), config, stack, clock, metrics).await
}

async fn open_by(
    look_up: impl Future<Output = io::Result<SocketAddr>>,
    config: &Config,
    stack: &config::Stack,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
) -> Result<RealOpenSips, StackError> {
    let settings = settings_of(config, stack);
    let id = settings.id.clone();
    let counts = metrics.stack(id.as_str());
    counts.subscription_lasts(stack.subscription);
    let surroundings = Surroundings {
        clock: Arc::clone(clock),
        timer: Arc::new(TokioTimer),
        meter: Arc::new(StackMeter(counts)),
    };
    let opened = opensips::open_by(settings, surroundings, look_up).await;
    opened.map_err(|why| StackError::Open { stack: id, why })
}

/// Where a stack's events come in.
///
/// # Errors
/// [`StackError::Events`] when it can't be bound.
pub async fn sink_of(connector: &RealOpenSips) -> Result<Sink, StackError> {
    let local = connector.mi().local_addr().map(|address| address.ip());
    let from = local.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let opened = Sink::open(&connector.settings().events, from).await;
    opened.map_err(|why| StackError::Events { stack: connector.id().clone(), why })
}

/// How long a stack that answers may take to have our subscription.
const JOINING: Duration = Duration::from_secs(2);

/// How often a stack is asked since when it has been up.
const CHECK: Duration = Duration::from_secs(2);

fn settings_of(config: &Config, stack: &config::Stack) -> StackSettings {
    let commands = &config.commands;
    let transport = match stack.events.as_ref().map(|socket| socket.transport) {
        Some(Transport::Tcp) => EventTransport::Tcp,
        Some(Transport::Udp) | None => EventTransport::Udp,
    };
    let address = |socket: &config::StackSocket| socket.address.to_string();
    StackSettings {
        mi_http: stack.mi_http.as_ref().map(ToString::to_string),
        events: EventSettings {
            transport,
            listen: stack.events.as_ref().map(address),
            advertise: stack.advertise.as_ref().map(address),
            expiry: stack.subscription,
            receive_buffer: stack.receive_buffer.bytes(),
            check: CHECK,
        },
        next_hop: stack.next_hop.as_ref().map(|uri| uri.as_str().to_owned()),
        grade: stack.grade,
        callops: stack.callops_mode,
        refer: commands.transfer,
        hold: commands.hold,
        persists_dialogs: stack.persists_dialogs,
        fr_timeout: stack.fr_timeout,
        fr_inv_timeout: stack.fr_inv_timeout,
        ring_timeout: commands.ring_timeout,
        setup_sdp: commands.setup_sdp.clone(),
        reply: commands.mi_reply,
        in_flight: stack.in_flight,
        breaker_failures: stack.breaker.failures,
        breaker_open: stack.breaker.open,
        ..StackSettings::new(StackId::new(stack.name.as_str()), stack.mi.address.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::time::Instant;

    use super::*;
    use crate::clock::SystemClock;
    use crate::events;

    #[tokio::test(start_paused = true)]
    async fn names_that_lead_nowhere_delay_the_start_by_one_wait() {
        let mut config = Config::default();
        let stack = config.stacks.pop().unwrap();
        config.stacks = (1..=3)
            .map(|port| config::Stack {
                mi: config::StackSocket::udp_loopback(port),
                ..stack.clone()
            })
            .collect();
        let looked_up = RefCell::new(Vec::new());
        let never = |address: String| {
            looked_up.borrow_mut().push(address);
            std::future::pending()
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let (inbox, _outlet) = events::inbox(&[], Arc::clone(&clock));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (metrics, began) = (Metrics::new(), Instant::now());
        let connecting = ConfiguredStacks::connect_by(
            never,
            &config,
            &metrics,
            &clock,
            Arc::new(inbox),
            &tasks,
            &stop,
        );
        let all = connecting.await.unwrap();
        assert!(began.elapsed() < Duration::from_millis(1_500), "{:?}", began.elapsed());
        assert_eq!(all.names().len(), 3);
        let each_once = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"];
        assert_eq!(*looked_up.borrow(), each_once);
        stop.cancel();
    }
}
