//! What operators can measure. One struct per area on an owned registry; no global state, so that
//! two servers in one test process don't count each other's calls.
//!
//! Names are `callplane_<area>_<what>_<unit>[_total]`. Label values are [`Label`]s, which only the
//! program's own text can be, and names of configured stacks: nothing a client or a phone sends
//! becomes a label. `tests/metrics_names.txt` pins the list.
//!
//! Counting is a few atomic operations and never waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// A label value: the word of an enum of ours. Being `'static` it can't come from outside.
pub type Label = &'static str;

/// All metrics of one server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    /// Connections of clients.
    pub sessions: SessionMetrics,
    /// Commands.
    pub commands: CommandMetrics,
    /// The store.
    pub store: StoreMetrics,
    /// The Lease at the API server, where there is one.
    pub lease: LeaseMetrics,
    /// Traces.
    pub traces: TraceMetrics,
    /// The configuration.
    pub config: ConfigMetrics,
    stacks: StackFamilies,
    ages: Ages,
    readings: Readings,
}

/// Since when something has not happened, shown whenever somebody reads the metrics.
#[derive(Debug, Clone, Default)]
struct Ages(Arc<Mutex<BTreeMap<Aged, (Gauge, Instant)>>>);

/// A family of metrics, and of whom.
type Aged = (&'static str, String);

impl Ages {
    /// It happened just now.
    fn renew(&self, family: Label, of: &str, gauge: Gauge) {
        let mut ages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ages.insert((family, of.to_owned()), (gauge, Instant::now()));
    }

    fn since(&self, family: &'static str, of: &str) -> Option<Duration> {
        let ages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ages.get(&(family, of.to_owned())).map(|(_, since)| since.elapsed())
    }

    fn show(&self) {
        for (gauge, since) in self.0.lock().unwrap_or_else(PoisonError::into_inner).values() {
            gauge.set(since.elapsed().as_secs_f64());
        }
    }
}

/// What is measured by looking, whenever somebody reads the metrics.
#[derive(Clone, Default)]
struct Readings(Arc<Mutex<Vec<Reading>>>);

type Reading = Box<dyn Fn() + Send + Sync>;

impl std::fmt::Debug for Readings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Readings")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Metrics {
    /// All metrics at zero, on a registry of their own.
    pub fn new() -> Metrics {
        let registry = Registry::new();
        let at = Registrar(&registry);
        let built = at.int_gauge_vec(
            "callplane_process_build_state",
            "Always 1; the label tells the version.",
            &["version"],
        );
        built.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        #[cfg(target_os = "linux")]
        at.add(prometheus::process_collector::ProcessCollector::for_self());
        Metrics {
            sessions: SessionMetrics::new(&at),
            commands: CommandMetrics::new(&at),
            store: StoreMetrics::new(&at),
            lease: LeaseMetrics::new(&at),
            traces: TraceMetrics::new(&at),
            config: ConfigMetrics::new(&at),
            stacks: StackFamilies::new(&at),
            ages: Ages::default(),
            readings: Readings::default(),
            registry,
        }
    }

    /// The metrics of the stack `name` (a configured name).
    pub fn stack(&self, name: &str) -> StackMetrics {
        StackMetrics::new(&self.stacks, name, self.ages.clone())
    }

    /// Events of this stack changed a command, so long after they came in.
    pub fn event_applied(&self, stack: &str, took: Duration) {
        self.stacks.event_seconds.with_label_values(&[stack]).observe(took.as_secs_f64());
    }

    /// Since when the stack `name` has last confirmed the event subscription; nothing before the first
    /// time.
    pub fn subscription_age(&self, name: &str) -> Option<Duration> {
        self.ages.since("subscription", name)
    }

    /// Whether events of the stack `name` come in; nothing before that is known.
    pub fn events_arrive(&self, name: &str) -> Option<bool> {
        let families = self.stacks.arriving.collect();
        let mut known = families.iter().flat_map(|family| family.get_metric());
        let of_stack = known.find(|metric| metric.get_label().iter().any(|l| l.value() == name));
        of_stack.map(|metric| metric.get_gauge().get_value() > 0.0)
    }

    /// Looks with `read` whenever the metrics are read.
    pub fn when_read(&self, read: impl Fn() + Send + Sync + 'static) {
        self.readings.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(read));
    }

    /// The text that Prometheus reads (exposition format 0.0.4).
    ///
    /// # Errors
    ///
    /// A text for the log, if a family can't be encoded.
    pub fn render(&self) -> Result<String, String> {
        self.ages.show();
        // One reader at a time: what is read off must not be counted twice.
        let readings = self.readings.0.lock().unwrap_or_else(PoisonError::into_inner);
        readings.iter().for_each(|read| read());
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).map_err(|e| e.to_string())?;
        String::from_utf8(text).map_err(|e| e.to_string())
    }
}

/// The configuration.
#[derive(Debug, Clone)]
pub struct ConfigMetrics {
    outdated: IntGauge,
}

impl ConfigMetrics {
    fn new(at: &Registrar<'_>) -> Self {
        Self {
            outdated: at.int_gauge(
                "callplane_config_outdated_state",
                "1 if the configuration's file says something else than what runs (a restart is needed) or can't be used, else 0.",
            ),
        }
    }

    /// Whether the file says something else than what runs.
    pub fn outdated(&self, is_outdated: bool) {
        self.outdated.set(i64::from(is_outdated));
    }
}

/// Connections of clients.
#[derive(Debug, Clone)]
pub struct SessionMetrics {
    open: IntGauge,
    allowed: IntGauge,
    opened: IntCounter,
    closed: IntCounterVec,
    refused: IntCounterVec,
    refused_requests: IntCounterVec,
    messages: IntCounter,
    sent_bytes: IntCounter,
    waiting_bytes: IntGauge,
}

impl SessionMetrics {
    fn new(at: &Registrar<'_>) -> Self {
        Self {
            open: at.int_gauge("callplane_session_open_connections", "WebSocket connections now."),
            allowed: at.int_gauge(
                "callplane_session_allowed_connections",
                "WebSocket connections that are taken at most: what is configured, as far as descriptors allow.",
            ),
            opened: at.int_counter(
                "callplane_session_opened_connections_total",
                "WebSocket connections taken.",
            ),
            closed: at.int_counter_vec(
                "callplane_session_closed_connections_total",
                "WebSocket connections ended, by close code.",
                &["code"],
            ),
            refused: at.int_counter_vec(
                "callplane_session_refused_connections_total",
                "Connections not taken, by reason.",
                &["reason"],
            ),
            refused_requests: at.int_counter_vec(
                "callplane_session_refused_requests_total",
                "Requests answered with an error, by method (none: no known one) and kind of error.",
                &["method", "kind"],
            ),
            messages: at
                .int_counter("callplane_session_received_messages_total", "Messages of clients."),
            sent_bytes: at.int_counter(
                "callplane_session_sent_bytes_total",
                "Bytes of frames and answers written to clients.",
            ),
            waiting_bytes: at.int_gauge(
                "callplane_session_waiting_bytes",
                "Bytes that wait for slow readers now, all sessions together.",
            ),
        }
    }

    /// So many connections are taken at most.
    pub fn allowed(&self, connections: usize) {
        self.allowed.set(i64::try_from(connections).unwrap_or(i64::MAX));
    }

    /// A connection was taken. Dropping the guard without [`OpenSession::closing`] counts as `lost`.
    #[must_use]
    pub fn opened(&self) -> OpenSession {
        self.open.inc();
        self.opened.inc();
        OpenSession { metrics: self.clone(), ended: false, waiting: 0 }
    }

    /// A connection was not taken (`origin`, `limit`, `draining`, `handshake`).
    pub fn refused(&self, reason: Label) {
        self.refused.with_label_values(&[reason]).inc();
    }

    /// A request was refused.
    pub fn refused_request(&self, method: Label, kind: Label) {
        self.refused_requests.with_label_values(&[method, kind]).inc();
    }

    /// A message came.
    pub fn message(&self) {
        self.messages.inc();
    }

    /// Connections that are open now.
    #[must_use]
    pub fn open_now(&self) -> i64 {
        self.open.get()
    }

    /// Connections that ended with this close code so far.
    #[must_use]
    pub fn closed_with(&self, code: Label) -> u64 {
        self.closed.with_label_values(&[code]).get()
    }

    /// Connections that were not taken for this reason so far.
    #[must_use]
    pub fn refused_for(&self, reason: Label) -> u64 {
        self.refused.with_label_values(&[reason]).get()
    }

    /// Connections that ended with this code so far.
    #[must_use]
    pub fn closed_for(&self, code: Label) -> u64 {
        self.closed.with_label_values(&[code]).get()
    }

    /// Messages taken so far.
    #[must_use]
    pub fn messages_taken(&self) -> u64 {
        self.messages.get()
    }

    /// Bytes written so far.
    #[must_use]
    pub fn bytes_sent(&self) -> u64 {
        self.sent_bytes.get()
    }

    /// Bytes that wait for readers now.
    #[must_use]
    pub fn waiting_now(&self) -> i64 {
        self.waiting_bytes.get()
    }

    /// So many bytes were written.
    pub fn sent(&self, bytes: usize) {
        self.sent_bytes.inc_by(bytes as u64);
    }
}

/// A connection that is counted as open until this is dropped.
#[derive(Debug)]
pub struct OpenSession {
    metrics: SessionMetrics,
    ended: bool,
    waiting: i64,
}

impl OpenSession {
    /// So many bytes wait for its client now.
    pub fn waiting(&mut self, bytes: usize) {
        let now = i64::try_from(bytes).unwrap_or(i64::MAX);
        if now != self.waiting {
            self.metrics.waiting_bytes.add(now - self.waiting);
            self.waiting = now;
        }
    }

    /// The connection is being ended; the word of its close code, or `gone` when the client left.
    /// The first word counts.
    pub fn closing(&mut self, code: Label) {
        if !self.ended {
            self.ended = true;
            self.metrics.closed.with_label_values(&[code]).inc();
        }
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.closing("lost");
        self.waiting(0);
        self.metrics.open.dec();
    }
}

/// Commands.
#[derive(Debug, Clone)]
pub struct CommandMetrics {
    running: IntGaugeVec,
    started: IntCounterVec,
    ended: IntCounterVec,
    begin: HistogramVec,
    duration: HistogramVec,
}

impl CommandMetrics {
    fn new(at: &Registrar<'_>) -> Self {
        Self {
            running: at.int_gauge_vec(
                "callplane_command_running_commands",
                "Commands begun by this server and not ended, by method; whichever server ends them.",
                &["method"],
            ),
            started: at.int_counter_vec(
                "callplane_command_started_commands_total",
                "Commands begun, by method.",
                &["method"],
            ),
            ended: at.int_counter_vec(
                "callplane_command_ended_commands_total",
                "Commands ended, by method and outcome.",
                &["method", "outcome"],
            ),
            begin: at.histogram_vec(
                "callplane_command_begin_seconds",
                "From a request for a command until the command is recorded, or refused, by method.",
                &["method"],
                MI_SECONDS,
            ),
            duration: at.histogram_vec(
                "callplane_command_duration_seconds",
                "From a command's begin to its end, by method.",
                &["method"],
                COMMAND_SECONDS,
            ),
        }
    }

    /// So many commands that began here run now.
    pub fn running(&self, method: Label, commands: usize) {
        let commands = i64::try_from(commands).unwrap_or(i64::MAX);
        self.running.with_label_values(&[method]).set(commands);
    }

    /// A command began.
    pub fn started(&self, method: Label) {
        self.started.with_label_values(&[method]).inc();
    }

    /// It is known whether a command begins.
    pub fn answered(&self, method: Label, took: Duration) {
        self.begin.with_label_values(&[method]).observe(took.as_secs_f64());
    }

    /// A command ended, wherever it began.
    pub fn ended(&self, method: Label, outcome: Label, took: Duration) {
        self.ended.with_label_values(&[method, outcome]).inc();
        self.duration.with_label_values(&[method]).observe(took.as_secs_f64());
    }
}

/// Spans on their way to a collector.
#[derive(Debug, Clone)]
pub struct TraceMetrics {
    exported: IntCounter,
    dropped: IntCounterVec,
}

impl TraceMetrics {
    fn new(at: &Registrar<'_>) -> Self {
        Self {
            exported: at.int_counter(
                "callplane_trace_exported_spans_total",
                "Spans that the collector took.",
            ),
            dropped: at.int_counter_vec(
                "callplane_trace_dropped_spans_total",
                "Spans that were lost, by reason: full (the collector does not keep up), refused (or not \
                 answered), stopped (left when the process ended).",
                &["reason"],
            ),
        }
    }

    /// The collector took so many spans.
    pub fn exported(&self, spans: u64) {
        self.exported.inc_by(spans);
    }

    /// So many spans were lost (`full`, `refused`, `stopped`).
    pub fn dropped(&self, reason: Label, spans: u64) {
        self.dropped.with_label_values(&[reason]).inc_by(spans);
    }
}

/// The store.
#[derive(Debug, Clone)]
pub struct StoreMetrics {
    commits: IntCounterVec,
    commit_seconds: Histogram,
    records: IntGauge,
    notice_bytes: IntGauge,
    up: IntGauge,
    epochs: IntCounter,
    alive: IntGauge,
}

impl StoreMetrics {
    fn new(at: &Registrar<'_>) -> Self {
        Self {
            commits: at.int_counter_vec(
                "callplane_store_answered_commits_total",
                "Commits, by the store's verdict.",
                &["verdict"],
            ),
            commit_seconds: at.histogram(
                "callplane_store_commit_seconds",
                "How long a commit took.",
                MI_SECONDS,
            ),
            records: at.int_gauge("callplane_store_kept_records", "Records of commands kept now."),
            notice_bytes: at
                .int_gauge("callplane_store_notices_bytes", "Bytes of notifications kept now."),
            up: at.int_gauge("callplane_store_up_state", "1 if the store answered the last beat, else 0."),
            epochs: at.int_counter(
                "callplane_store_seen_epochs_total",
                "Epochs of the store that were seen; more than one: it may have lost what came last.",
            ),
            alive: at.int_gauge(
                "callplane_store_alive_processes",
                "Processes that share the store and live.",
            ),
        }
    }

    /// The store answered a beat: so many processes live.
    pub fn beat(&self, alive: usize) {
        self.up.set(1);
        self.alive.set(i64::try_from(alive).unwrap_or(i64::MAX));
    }

    /// Whether the store answered the last beat.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up.get() == 1
    }

    /// Processes that lived when the store answered last.
    #[must_use]
    pub fn alive_now(&self) -> i64 {
        self.alive.get()
    }

    /// The store did not answer a beat.
    pub fn away(&self) {
        self.up.set(0);
    }

    /// The store has an epoch that was not known.
    pub fn epoch(&self) {
        self.epochs.inc();
    }

    /// A commit was answered.
    pub fn commit(&self, verdict: Label, took: Duration) {
        self.commits.with_label_values(&[verdict]).inc();
        self.commit_seconds.observe(took.as_secs_f64());
    }

    /// What the store keeps now.
    pub fn kept(&self, records: usize, notice_bytes: usize) {
        self.records.set(i64::try_from(records).unwrap_or(i64::MAX));
        self.notice_bytes.set(i64::try_from(notice_bytes).unwrap_or(i64::MAX));
    }
}

#[derive(Debug, Clone)]
struct StackFamilies {
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    in_flight: IntGaugeVec,
    allowed: IntGaugeVec,
    health: IntGaugeVec,
    breaker: IntGaugeVec,
    restarts: IntCounterVec,
    events: IntCounterVec,
    lost: IntCounterVec,
    event_seconds: HistogramVec,
    subscription_age: GaugeVec,
    subscription_life: GaugeVec,
    event_buffer: IntGaugeVec,
    trial_latency: GaugeVec,
    arrival_age: GaugeVec,
    trials_missed: IntCounterVec,
    arriving: IntGaugeVec,
    leads: IntGaugeVec,
    terms: IntCounterVec,
}

impl StackFamilies {
    fn new(at: &Registrar<'_>) -> Self {
        Self {
            requests: at.int_counter_vec("callplane_mi_answered_requests_total", "Management requests, by stack, command and result.", &["stack", "command", "result"]),
            request_seconds: at.histogram_vec("callplane_mi_latency_seconds", "How long a management request took, by stack and command.", &["stack", "command"], MI_SECONDS),
            in_flight: at.int_gauge_vec("callplane_mi_in_flight_requests", "Management requests under way now, by stack.", &["stack"]),
            allowed: at.int_gauge_vec("callplane_mi_allowed_requests", "Management requests that may be under way at a time, by stack.", &["stack"]),
            leads: at.int_gauge_vec("callplane_leader_held_state", "1 if this process leads the stack's events, else 0.", &["stack"]),
            terms: at.int_counter_vec("callplane_leader_taken_terms_total", "Terms in which this process has led the stack's events.", &["stack"]),
            health: at.int_gauge_vec("callplane_stack_health_state", "1 if the stack answers, else 0.", &["stack"]),
            breaker: at.int_gauge_vec("callplane_stack_breaker_state", "The circuit breaker: 0 closed, 1 trying, 2 open.", &["stack"]),
            restarts: at.int_counter_vec("callplane_stack_seen_restarts_total", "Restarts of the stack that were noticed.", &["stack"]),
            events: at.int_counter_vec("callplane_event_received_events_total", "Events of the stack, by name and result.", &["stack", "event", "result"]),
            lost: at.int_counter_vec("callplane_event_lost_events_total", "Events of the stack that the commands were not told of, since too many waited; a list was looked at instead, which shows calls only.", &["stack"]),
            event_seconds: at.histogram_vec("callplane_event_apply_seconds", "How long an event that changed a command took from coming in until the store had that, by stack.", &["stack"], MI_SECONDS),
            subscription_age: at.gauge_vec("callplane_event_subscription_age_seconds", "Since the stack last confirmed the event subscription; missing before the first time.", &["stack"]),
            subscription_life: at.gauge_vec("callplane_event_subscription_life_seconds", "How long an event subscription lasts that is not confirmed again.", &["stack"]),
            event_buffer: at.int_gauge_vec("callplane_event_buffer_bytes", "The receive buffer that the kernel gave the event socket.", &["stack"]),
            trial_latency: at.gauge_vec("callplane_event_probe_latency_seconds", "How long the last trial event took that this process raised, from asking for it to its coming in.", &["stack"]),
            arrival_age: at.gauge_vec("callplane_event_probe_age_seconds", "Since an event of the stack, a trial event or another, was last seen to have come in; missing before the first one.", &["stack"]),
            trials_missed: at.int_counter_vec("callplane_event_probe_missed_events_total", "Trial events that were raised and did not come in.", &["stack"]),
            arriving: at.int_gauge_vec("callplane_event_probe_arriving_state", "1 if events of the stack reach this process, 0 if three trial events in a row did not; missing before that is known.", &["stack"]),
        }
    }
}

/// The Lease that elects the leader in Kubernetes. Nothing is counted elsewhere.
#[derive(Debug, Clone)]
pub struct LeaseMetrics {
    requests: IntCounterVec,
    seconds: HistogramVec,
    unconfirmed: IntGauge,
}

impl LeaseMetrics {
    #[rustfmt::skip]
    fn new(at: &Registrar<'_>) -> LeaseMetrics {
        LeaseMetrics {
            requests: at.int_counter_vec("callplane_leader_lease_requests_total", "Requests to the API server about the Lease, by verb and result.", &["verb", "result"]),
            seconds: at.histogram_vec("callplane_leader_lease_request_seconds", "How long the API server took to answer, by verb.", &["verb"], MI_SECONDS),
            unconfirmed: at.int_gauge("callplane_leader_unconfirmed_state", "1 if this process leads although the API server does not renew its Lease, else 0; with kubernetes.per_stack of how many it is so."),
        }
    }

    /// The API server answered, or did not; or what had answered broke off.
    pub fn asked(&self, verb: Label, result: Label, took: Option<Duration>) {
        self.requests.with_label_values(&[verb, result]).inc();
        if let Some(took) = took {
            self.seconds.with_label_values(&[verb]).observe(took.as_secs_f64());
        }
    }

    /// The store's word alone makes it lead from now on, or does so no more; of each Lease by itself.
    pub fn unconfirmed(&self, unconfirmed: bool) {
        self.unconfirmed.add(if unconfirmed { 1 } else { -1 });
    }
}

/// One stack: its management interface, health and events. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StackMetrics {
    name: Arc<str>,
    families: StackFamilies,
    in_flight: IntGauge,
    health: IntGauge,
    breaker: IntGauge,
    restarts: IntCounter,
    lost: IntCounter,
    event_buffer: IntGauge,
    leads: IntGauge,
    terms: IntCounter,
    trials_missed: IntCounter,
    ages: Ages,
}

impl StackMetrics {
    fn new(families: &StackFamilies, name: &str, ages: Ages) -> Self {
        let of = &[name];
        Self {
            name: name.into(),
            in_flight: families.in_flight.with_label_values(of),
            health: families.health.with_label_values(of),
            breaker: families.breaker.with_label_values(of),
            restarts: families.restarts.with_label_values(of),
            lost: families.lost.with_label_values(of),
            event_buffer: families.event_buffer.with_label_values(of),
            leads: families.leads.with_label_values(of),
            terms: families.terms.with_label_values(of),
            trials_missed: families.trials_missed.with_label_values(of),
            families: families.clone(),
            ages,
        }
    }

    /// This process leads the stack's events from now on, in a new term, or does no longer.
    pub fn leads(&self, leads: bool) {
        self.leads.set(i64::from(leads));
        if leads {
            self.terms.inc();
        }
    }

    /// So many management requests may be under way at a time.
    pub fn allowed(&self, requests: usize) {
        let requests = i64::try_from(requests).unwrap_or(i64::MAX);
        self.families.allowed.with_label_values(&[&self.name]).set(requests);
    }

    /// A management request goes out.
    pub fn sent(&self, _command: Label) {
        self.in_flight.inc();
    }

    /// A management request that [`Self::sent`] came to an end (`ok`, `refused`, `timeout`,
    /// `not_sent`, `abandoned`).
    pub fn answered(&self, command: Label, result: Label, took: Duration) {
        self.in_flight.dec();
        self.families.requests.with_label_values(&[&self.name, command, result]).inc();
        let seconds = self.families.request_seconds.with_label_values(&[&self.name, command]);
        seconds.observe(took.as_secs_f64());
    }

    /// Whether the stack answers.
    pub fn healthy(&self, yes: bool) {
        self.health.set(i64::from(yes));
    }

    /// What the circuit breaker does: 0 closed, 1 trying, 2 open.
    pub fn breaker(&self, state: u8) {
        self.breaker.set(i64::from(state));
    }

    /// A restart was noticed.
    pub fn restarted(&self) {
        self.restarts.inc();
    }

    /// An event came (result: `reported`, `ignored`, `malformed`, `overflow`).
    pub fn event(&self, event: Label, result: Label) {
        self.families.events.with_label_values(&[&self.name, event, result]).inc();
    }

    /// So many events were lost on the way to the commands, since the start.
    pub fn lost(&self, since_start: u64) {
        self.lost.inc_by(since_start.saturating_sub(self.lost.get()));
    }

    /// The stack confirmed the subscription just now.
    pub fn subscription_confirmed(&self) {
        let gauge = self.families.subscription_age.with_label_values(&[&self.name]);
        self.ages.renew("subscription", &self.name, gauge);
    }

    /// A subscription that is not confirmed lasts so long.
    pub fn subscription_lasts(&self, life: Duration) {
        let gauge = self.families.subscription_life.with_label_values(&[&self.name]);
        gauge.set(life.as_secs_f64());
    }

    /// A trial event came in, so long after it was raised.
    pub fn trial_took(&self, took: Duration) {
        let latency = self.families.trial_latency.with_label_values(&[&self.name]);
        latency.set(took.as_secs_f64());
    }

    /// A trial event did not come in.
    pub fn trial_missed(&self) {
        self.trials_missed.inc();
    }

    /// Events were just seen to come in, or not to.
    pub fn events_arrive(&self, yes: bool) {
        self.families.arriving.with_label_values(&[&self.name]).set(i64::from(yes));
        if yes {
            let gauge = self.families.arrival_age.with_label_values(&[&self.name]);
            self.ages.renew("arrival", &self.name, gauge);
        }
    }

    /// The receive buffer that the kernel gave.
    pub fn event_buffer(&self, bytes: usize) {
        self.event_buffer.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

/// From an Echo in a fraction of a millisecond to a start that rings for a minute.
const COMMAND_SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0,
    45.0, 90.0, 180.0,
];

/// From a loopback datagram to a request that times out.
const MI_SECONDS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 30.0,
];

/// Makes metrics and registers them.
///
/// Names, labels and buckets are constants of this file. A malformed one is unreachable once the
/// test that pins the list has passed.
struct Registrar<'a>(&'a Registry);

impl Registrar<'_> {
    fn add(&self, collector: impl Collector + 'static) {
        if let Err(error) = self.0.register(Box::new(collector)) {
            tracing::error!(%error, "a metric is not exported");
        }
    }

    fn made<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>, name: &str) -> C {
        match made {
            Ok(metric) => {
                self.add(metric.clone());
                metric
            }
            Err(error) => unreachable!("metric {name}: {error}"),
        }
    }

    fn int_gauge(&self, name: &str, help: &str) -> IntGauge {
        self.made(IntGauge::new(name, help), name)
    }

    fn int_counter(&self, name: &str, help: &str) -> IntCounter {
        self.made(IntCounter::new(name, help), name)
    }

    fn int_gauge_vec(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.made(IntGaugeVec::new(Opts::new(name, help), labels), name)
    }

    fn gauge_vec(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.made(GaugeVec::new(Opts::new(name, help), labels), name)
    }

    fn int_counter_vec(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.made(IntCounterVec::new(Opts::new(name, help), labels), name)
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.made(Histogram::with_opts(options), name)
    }

    fn histogram_vec(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.made(HistogramVec::new(options, labels), name)
    }
}
