//! What can be configured. The same words, with the same defaults, stand in `default.yml`.

use std::time::Duration;

use super::decode::{choice, section, words};
use super::value::{
    ByteSize, CollectorUrl, Domain, HostPort, HttpPath, HttpUrl, LogFilter, ObjectName, Share,
    SipUri, StackName, StackSocket, WebOrigin,
};
use crate::core::ids::Install;
use crate::core::plan::{HoldBy, ReferBy};
use crate::core::script::{CallopsMode, Grade};

section! {
    /// The whole configuration.
    pub struct Config {
        /// The name of this installation, 1 to 8 lower-case letters and digits. It stands in the
        /// Call-ID of every leg set up by callplane; two installations that share a stack must
        /// have different names.
        pub install: Install = Install::default(),
        /// Where clients connect.
        pub listen: Listen = Listen::default(),
        /// What one client may use.
        pub limits: Limits = Limits::default(),
        /// How commands behave.
        pub commands: Commands = Commands::default(),
        /// What the store keeps, and how long.
        pub store: Store = Store::default(),
        /// The Redis that several processes share. Without one this process is alone, and what it
        /// knows ends with it.
        pub redis: Redis = Redis::default(),
        /// Who owns the stacks' event subscriptions: `standalone` (this process, always), `redis` (a
        /// lease; one process at a time) or `kubernetes` (the same, by a Lease at the API server).
        /// Nothing: `redis` where there is one, else `standalone`.
        pub leadership: Option<Leadership> = None,
        /// The Lease that elects the leader, with `leadership: kubernetes`.
        pub kubernetes: Kubernetes = Kubernetes::default(),
        /// The SIP stacks that callplane steers; at least one. The first is where a start goes
        /// whose domain no stack names.
        pub stacks: Vec<Stack> = vec![Stack::default()],
        /// The operations port.
        pub admin: Admin = Admin::default(),
        /// Logging.
        pub log: Log = Log::default(),
        /// OpenTelemetry traces.
        pub traces: Traces = Traces::default(),
        /// How the server stops.
        pub drain: Drain = Drain::default(),
    }
}

section! {
    /// Where clients connect.
    pub struct Listen {
        /// Address and port. Anything but loopback wants `insecure_open`, as long as there is no
        /// authentication.
        pub address: HostPort = HostPort::loopback(5059),
        /// The path of the WebSocket and of one-shot POST requests.
        pub path: HttpPath = HttpPath::call_api(),
        /// Origins of web pages that may connect, beside the server's own and those on loopback
        /// hosts. `null` (files, sandboxed frames) counts only when named here.
        pub origins: Vec<WebOrigin> = Vec::new(),
        /// The explicit word for listening beyond loopback without authentication: anyone who
        /// reaches the port can start and end calls.
        pub insecure_open: bool = false,
        /// Whether the console page is served at `/`.
        pub console: bool = true,
        /// Several processes of this machine listen on `address` together; the system spreads
        /// connections over them (`SO_REUSEPORT`).
        pub shared: bool = false,
    }
}

section! {
    /// What one client may use. Who exceeds a limit is refused or closed, with a code that says so.
    pub struct Limits {
        /// The longest message taken, 1 KiB to 16 MiB.
        pub max_message: ByteSize = ByteSize::kib(64),
        /// The most requests in one batch, 1 to 1000.
        pub max_batch: usize = 50,
        /// The most commands that one session runs at a time, 1 to 10000.
        pub commands_in_flight: usize = 64,
        /// What may wait for a slow reader before its connection is closed, at least 16 KiB.
        pub outbound_bytes: ByteSize = ByteSize::mib(1),
        /// How often an idle connection is pinged, 1 s or more.
        pub ping_interval: Duration = Duration::from_secs(25),
        /// How long a connection may be silent (pongs count) before it is closed; longer than
        /// `ping_interval`.
        pub idle_timeout: Duration = Duration::from_secs(60),
        /// The most connections at a time.
        pub sessions: usize = 100_000,
    }
}

words!(ReferBy {
    Sequential = "sequential",
    Stack = "call_transfer",
});

words!(HoldBy {
    ReInvite = "reinvite",
    Stack = "call_hold",
});

section! {
    /// How commands behave. Their deadlines are sums of these times and those of the stack.
    pub struct Commands {
        /// How long a phone may ring when the client does not say, in whole seconds: 1 s to 60 s,
        /// and less than `fr_inv_timeout` of every stack.
        pub ring_timeout: Duration = Duration::from_secs(45),
        /// How long a phone may take from accepting a REFER to placing the new call, 1 s to 60 s.
        pub refer_follow: Duration = Duration::from_secs(10),
        /// How long a failure waits for a better one (a stack's own 408 may hide the true code),
        /// up to 10 s.
        pub grace: Duration = Duration::from_millis(1500),
        /// How long a stack may take to answer a management request, 50 ms to 30 s.
        pub mi_reply: Duration = Duration::from_secs(1),
        /// Refuses a start while another start of the same caller runs (double clicks).
        pub caller_busy: bool = true,
        /// How a REFER is sent. `sequential`: as a request inside the dialog
        /// (`dlg_send_sequential`), so that the phone's answer is seen. `call_transfer`: as the old
        /// server did, where a refusal is seen late, by polling.
        pub transfer: ReferBy = ReferBy::Sequential,
        /// How a call is held. `reinvite`: by re-INVITEs of our own, so that a leg's answer is seen
        /// and a half done hold is undone. `call_hold`: as the old server did; a leg that never
        /// answers it crashes OpenSIPS 3.6.8 (measured).
        pub hold: HoldBy = HoldBy::ReInvite,
        /// The session description offered to the caller's phone. Nothing: a built-in one (PCMU,
        /// PCMA, telephone-event, inactive).
        pub setup_sdp: Option<String> = None,
    }
}

section! {
    /// What the store keeps, and how long.
    pub struct Store {
        /// How long the id of an ended start or transfer is remembered: repeated within this time
        /// it gives the same command, later it would place a second call.
        pub keep_starts: Duration = Duration::from_secs(24 * 60 * 60),
        /// The same for all other commands.
        pub keep_others: Duration = Duration::from_secs(15 * 60),
        /// How long notifications can be had again by a client that was away.
        pub keep_notices: Duration = Duration::from_secs(15 * 60),
        /// The most bytes of notifications kept per tenant; the oldest go first.
        pub notices_bytes: ByteSize = ByteSize::mib(64),
    }
}

choice! {
    /// Who owns the stacks' event subscriptions.
    pub enum Leadership {
        /// This process, always.
        Standalone = "standalone",
        /// Whoever has the lease in Redis.
        Redis = "redis",
        /// Whoever has the Lease at the API server of Kubernetes.
        Kubernetes = "kubernetes",
    }
}

section! {
    /// The Lease that elects the leader.
    pub struct Kubernetes {
        /// Its namespace. Nothing: the pod's own.
        pub namespace: Option<ObjectName> = None,
        /// Its name. Whoever has it leads all stacks.
        pub lease: ObjectName = ObjectName::callplane(),
        /// A Lease for each stack, called `<lease>-<stack>`, so that stacks may have different leaders.
        pub per_stack: bool = false,
        /// Without a renewal for this long it is free, 2 s to 60 s, in whole seconds. A leader renews
        /// it four times as often, which is all that the API server is asked.
        pub lease_duration: Duration = Duration::from_secs(4),
        /// The API server, `host:port`. Nothing: the one that a pod finds.
        pub server: Option<HostPort> = None,
        /// The folder of the service account's `token`, `ca.crt` and `namespace`.
        pub account: String = "/var/run/secrets/kubernetes.io/serviceaccount".to_owned(),
    }
}

section! {
    /// The Redis that several processes share.
    pub struct Redis {
        /// Its address, `host:port`.
        pub address: Option<HostPort> = None,
        /// The Sentinels that know the address, in place of `address`.
        pub sentinels: Vec<HostPort> = Vec::new(),
        /// What the Sentinels call it.
        pub master: String = "callplane".to_owned(),
        /// The number of its database, 0 to 15.
        pub database: u16 = 0,
        /// The ACL user. Nothing: the default one.
        pub username: Option<String> = None,
        /// The file that holds the password. Read again at each connect.
        pub password_file: Option<String> = None,
        /// The Sentinels' ACL user, where it is another one. `default` without a password: they want
        /// none. Nothing: as the servers'.
        pub sentinel_username: Option<String> = None,
        /// The file that holds its password.
        pub sentinel_password_file: Option<String> = None,
        /// The file of certificates of those who may sign the server's. Nothing: no TLS.
        pub tls_ca_file: Option<String> = None,
        /// Our own certificate, where the server asks for one.
        pub tls_cert_file: Option<String> = None,
        /// Its key.
        pub tls_key_file: Option<String> = None,
        /// So many replicas must have it that something is to be sent that is sent at most once,
        /// before it is sent; 0 to 5. With 0 a failover may lose it, and the command ends `unknown`.
        pub replicas: usize = 0,
    }
}

impl Redis {
    /// Whether there is one.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.address.is_some() || !self.sentinels.is_empty()
    }
}

words!(Grade {
    Auto = "auto",
    Stock = "stock",
    Reference = "reference",
});

words!(CallopsMode {
    Param = "param",
    Manual = "manual",
    CallId = "callid",
});

section! {
    /// One SIP stack.
    pub struct Stack {
        /// Its name, 1 to 32 lower-case letters, digits and hyphens; each stack its own.
        pub name: StackName = StackName::opensips(),
        /// The management interface over UDP (`mi_datagram`).
        pub mi: StackSocket = StackSocket::udp_loopback(8080),
        /// The management interface over HTTP (`mi_http`), for lists that don't fit a datagram.
        /// Without it nobody can be told that a call is gone once the list is longer than that.
        pub mi_http: Option<HttpUrl> = None,
        /// Where callplane listens for this stack's events. Nothing: UDP on the address from which
        /// `mi` is reached, a port chosen by the system. On all addresses, the stack is told that
        /// one.
        pub events: Option<StackSocket> = None,
        /// Where the stack sends its events, if it does not reach the address in `events` (address
        /// translation, a Service).
        pub advertise: Option<StackSocket> = None,
        /// Where the stack sends INVITEs of ours: usually itself, so that its script sees them.
        /// Nothing: where the caller's address points.
        pub next_hop: Option<SipUri> = None,
        /// The SIP domains of this stack: a start goes to the stack that has the caller's.
        pub domains: Vec<Domain> = Vec::new(),
        /// The stack's `fr_timeout` (tm): how long it waits for any answer. Nothing: what the
        /// reference script tells, and [`Stack::FR_TIMEOUT`] on a stock one.
        pub fr_timeout: Option<Duration> = None,
        /// The stack's `fr_inv_timeout` (tm): how long it lets a phone ring. Nothing: what the
        /// reference script tells, and [`Stack::FR_INV_TIMEOUT`] on a stock one.
        pub fr_inv_timeout: Option<Duration> = None,
        /// The most management requests under way at a time, 1 to 10000.
        pub in_flight: usize = 256,
        /// When a stack that does not answer is left alone.
        pub breaker: Breaker = Breaker::default(),
        /// How long an event subscription lasts; refreshed at a third of it. 15 s or more.
        pub subscription: Duration = Duration::from_secs(60),
        /// The receive buffer asked for on the event socket: events that find it full are lost.
        pub receive_buffer: ByteSize = ByteSize::mib(8),
        /// What the stack's script can do: `auto`, `stock` or `reference`.
        pub grade: Grade = Grade::Auto,
        /// Its dialogs survive a restart (`db_mode` 1 of the dialog module).
        pub persists_dialogs: bool = false,
        /// The `mode` of its callops module: `param`, `manual` or `callid`.
        pub callops_mode: CallopsMode = CallopsMode::Param,
    }
}

impl Stack {
    /// `fr_timeout` of an OpenSIPS whose script does not set it.
    pub const FR_TIMEOUT: Duration = Duration::from_secs(30);
    /// `fr_inv_timeout` of an OpenSIPS whose script does not set it.
    pub const FR_INV_TIMEOUT: Duration = Duration::from_secs(120);
}

section! {
    /// When a stack that does not answer is left alone.
    pub struct Breaker {
        /// So many unanswered requests in a row open it, 1 to 1000.
        pub failures: u32 = 5,
        /// How long it stays open before one request is tried, 100 ms or more.
        pub open: Duration = Duration::from_secs(2),
    }
}

section! {
    /// The operations port.
    pub struct Admin {
        /// `/livez`, `/readyz`, `/metrics`.
        pub listen: HostPort = HostPort::loopback(9090),
        /// `POST /drain`, `POST /log-level`; loopback only.
        pub control: HostPort = HostPort::loopback(9091),
    }
}

choice! {
    /// The form of log lines.
    pub enum LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object per line.
        Json = "json",
    }
}

section! {
    /// Logging.
    pub struct Log {
        /// off, error, warn, info, debug or trace; `info,callplane::stack=debug` for one module.
        pub level: LogFilter = LogFilter::info(),
        /// `text` or `json`.
        pub format: LogFormat = LogFormat::Text,
        /// The file to append to. Nothing: standard error.
        pub file: Option<String> = None,
        /// Hides the users of SIP addresses: `sip:a***@example.org`.
        pub redact: bool = true,
    }
}

section! {
    /// OpenTelemetry traces, sent to a collector.
    pub struct Traces {
        /// The collector, which speaks OTLP over gRPC: `http://host:4317`, or `https://` with TLS.
        /// Nothing: no traces.
        pub otlp: Option<CollectorUrl> = None,
        /// The file of certificates of those who may sign the collector's, read when the server starts.
        /// Nothing: the system's.
        pub ca_file: Option<String> = None,
        /// The share of commands that are traced, 0 to 1, where the client's request carries no
        /// `traceparent`. Where it does, that says whether.
        pub sample: Share = Share::ALL,
    }
}

section! {
    /// How the server stops.
    pub struct Drain {
        /// How long it goes on accepting after it has stopped being ready, so that load balancers
        /// notice.
        pub delay: Duration = Duration::ZERO,
        /// How long everything after that may take, 1 s to 10 m.
        pub timeout: Duration = Duration::from_secs(20),
    }
}
