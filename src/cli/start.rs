//! What the subcommands start: the one file of the command line that calls [`crate::app`] and the
//! simulated stack.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;

use crate::admin::Readiness;
use crate::app::{self, Server, StartError};
use crate::client::console::Hints;
use crate::clock::{Nonces as _, SystemNonces};
use crate::config::{ByteSize, Config, HostPort, Redis, Stack};
use crate::core::ids::{Epoch, Install};
use crate::stack::simulated::server::{SimulateConfig, Simulated};
use crate::telemetry::LogLevels;

use super::arguments::{Call, Demo, Run, Simulate};
use super::exit::Exit;
use super::{call, pods, signals};

/// Serves until `readiness` is told to drain and the drain is over. `file` is where the
/// configuration was read from.
///
/// # Errors
///
/// One clear line: a busy port, an address for events that can't be used.
pub async fn serve(
    config: Config,
    file: Option<PathBuf>,
    levels: LogLevels,
    readiness: Readiness,
) -> Result<Exit, String> {
    app::raise_descriptors();
    let look = signals::hang_ups().map_err(|error| format!("no signals: {error}"))?;
    let path = config.listen.path.as_str().to_owned();
    let hints = Hints { call_api: Some(path), ..Hints::default() };
    let server = match Server::start(&config, &hints, levels, readiness).await {
        Ok(server) => server,
        Err(StartError::Stopped) => {
            tracing::info!("stopped before it served");
            return Ok(Exit::Success);
        }
        Err(error) => return Err(error.to_string()),
    };
    warn_of_openness(&config);
    let console = config.listen.console.then(|| format!("http://{}/", server.client_address()));
    tracing::info!(
        clients = %server.client_address(),
        console,
        operations = %server.admin_address(),
        control = %server.control_address(),
        "callplane serves"
    );
    match file {
        Some(file) => server.watch(file, config, look),
        None => drop(tokio::spawn(signals::say_that_there_is_no_file(look))),
    }
    // Commands that were cut off are no stop in order.
    Ok(if server.run().await { Exit::Success } else { Exit::Failed })
}

fn warn_of_openness(config: &Config) {
    if config.listen.address.is_loopback() {
        tracing::warn!(
            "no authentication is configured: clients are accepted from this machine only"
        );
    } else {
        tracing::warn!(
            address = %config.listen.address,
            "NO AUTHENTICATION and open to the network (listen.insecure_open): anyone who reaches \
             this port can start, move and end calls"
        );
    }
}

async fn start(
    config: &Config,
    hints: &Hints,
    levels: LogLevels,
    readiness: Readiness,
) -> Result<Server, String> {
    Server::start(config, hints, levels, readiness).await.map_err(|error| error.to_string())
}

/// How many browsers and shells a demo is for: few enough to fit every process's descriptors.
const DEMO_SESSIONS: usize = 100;

/// The domain of the demo's phones.
const DEMO_DOMAIN: &str = "demo.callplane";

/// The simulated stack of a demo, with phones.
pub struct DemoStack(Simulated);

impl DemoStack {
    /// Opens its sockets.
    ///
    /// # Errors
    /// One clear line.
    pub async fn bind() -> Result<Self, String> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut simulate = SimulateConfig {
            mi_udp: any,
            mi_http: Some(any),
            control: Some(any),
            ..Default::default()
        };
        simulate.world.script = crate::stack::simulated::Script::Reference;
        simulate.world.domain = DEMO_DOMAIN.to_owned();
        Simulated::bind(simulate).await.map(Self).map_err(|error| with_cause(&error))
    }

    /// Its management interface.
    #[must_use]
    pub fn mi(&self) -> SocketAddr {
        self.0.addresses().mi_udp
    }

    /// Says who can be called, and where the phones are told what to do.
    pub fn say(&self) {
        if let Some(control) = self.0.addresses().control {
            super::say(&format!("phones        http://{control}/ (docs/simulated-opensips.md)"));
        }
        super::say(&format!("phones: {} at {DEMO_DOMAIN}", phones().join(", ")));
    }

    /// Runs until then.
    pub async fn run(self, until: impl Future<Output = ()> + Send) {
        self.0.run(until).await;
    }
}

/// The names of a demo's phones.
fn phones() -> Vec<String> {
    let world = SimulateConfig::default().world;
    world.phones.iter().map(|phone| phone.name.clone()).collect()
}

/// A demo's server. Several share a port.
fn demo_config(port: u16, mi: u16) -> Config {
    let mut config = Config::default();
    config.listen.address = HostPort::loopback(port);
    config.admin.listen = HostPort::loopback(0);
    config.admin.control = HostPort::loopback(0);
    config.drain.timeout = Duration::from_secs(2);
    config.limits.sessions = DEMO_SESSIONS;
    if let Some(first) = config.stacks.first_mut() {
        first.mi = crate::config::StackSocket::udp_loopback(mi);
        // One that is small enough for every kernel, and enough for one visitor.
        first.receive_buffer = crate::config::ByteSize::kib(64);
    }
    config
}

fn demo_hints() -> Hints {
    Hints {
        addresses: phones().iter().map(|name| format!("sip:{name}@{DEMO_DOMAIN}")).collect(),
        demo: true,
        call_api: None,
    }
}

/// Serves a simulated stack with phones, and the console.
///
/// # Errors
///
/// One clear line: a busy port.
pub async fn demo(
    arguments: Demo,
    levels: LogLevels,
    readiness: Readiness,
) -> Result<Exit, String> {
    if let Some(shared) = &arguments.shared {
        return one_of_several(arguments.port, shared, levels, readiness).await;
    }
    if arguments.pods.get() > 1 {
        return pods::demo(arguments, readiness).await;
    }
    let stack = DemoStack::bind().await?;
    let config = demo_config(arguments.port, stack.mi().port());
    let server = start(&config, &demo_hints(), levels, readiness)
        .await
        .map_err(|why| format!("{why}; `--port` takes another one"))?;
    super::say(&format!("console       http://{}/", server.client_address()));
    super::say(&format!("clients       ws://{}/call-api", server.client_address()));
    super::say(&format!("operations    http://{}/metrics", server.admin_address()));
    stack.say();
    super::say("This machine only, without authentication. Ctrl-C ends.");
    // The stack goes last: what still runs is cancelled there.
    let (served, over) = tokio::sync::oneshot::channel::<()>();
    let serve = async move {
        server.run().await;
        drop(served);
    };
    tokio::join!(serve, stack.run(async move { drop(over.await) }));
    Ok(Exit::Success)
}

/// Serves as one of several until the standard input ends. Says a line when it serves, and then how
/// many clients it has, whenever that changes.
async fn one_of_several(
    port: u16,
    shared: &pods::Shared,
    levels: LogLevels,
    readiness: Readiness,
) -> Result<Exit, String> {
    let mut config = demo_config(port, shared.mi);
    config.listen.shared = true;
    config.redis.address = Some(HostPort::loopback(shared.redis));
    let server = start(&config, &demo_hints(), levels, readiness.clone()).await?;
    super::say(&format!("serves on {}", server.client_address()));
    let sessions = server.sessions();
    let clients = async {
        let mut told = 0;
        loop {
            tokio::time::sleep(pods::LOOK).await;
            let open = sessions.open_now();
            if open != told {
                super::say(&open.to_string());
                told = open;
            }
        }
    };
    let parent = async {
        let mut nothing = Vec::new();
        // Whatever it was, it is over.
        let _ = tokio::io::stdin().read_to_end(&mut nothing).await;
        readiness.drain();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = server.run() => {}
        () = parent => {}
        () = clients => {}
    }
    Ok(Exit::Success)
}

/// Is a simulated OpenSIPS until `readiness` is told to drain.
///
/// # Errors
///
/// One clear line: an address that is none, a busy port.
pub async fn simulate(arguments: Simulate, readiness: Readiness) -> Result<Exit, String> {
    let address = |text: &str| {
        text.parse::<SocketAddr>()
            .map_err(|_| format!("`{text}` is not an address like 127.0.0.1:8080"))
    };
    let mut config = SimulateConfig {
        mi_udp: address(&arguments.mi)?,
        mi_http: Some(address(&arguments.mi_http)?),
        control: Some(address(&arguments.control)?),
        ..Default::default()
    };
    // It has no authentication, and phones that dial.
    if config.control.is_some_and(|control| !control.ip().is_loopback()) {
        return Err(format!("control: `{}` is not on loopback", arguments.control));
    }
    if arguments.reference {
        config.world.script = crate::stack::simulated::Script::Reference;
    }
    let stack = Simulated::bind(config).await.map_err(|error| with_cause(&error))?;
    let at = stack.addresses();
    super::say(&format!("management interface  udp:{}", at.mi_udp));
    if let (Some(http), Some(control)) = (at.mi_http, at.control) {
        super::say(&format!("                      http://{http}/mi"));
        super::say(&format!("control               http://{control}/"));
    }
    stack.run(async move { readiness.drained().await }).await;
    Ok(Exit::Success)
}

/// Runs one command straight at a stack: a server of its own, for this one command, on a free
/// loopback port, under an install name of its own: it ends no other process's legs, and nobody ends
/// its. A leg that it leaves behind when it is killed is ended by the reference script after its
/// dead man's timeout, on a stock script by the phone.
///
/// # Errors
///
/// One clear line: an address for events that can't be used.
pub async fn run(arguments: Run, mut config: Config, levels: LogLevels) -> Result<Exit, String> {
    config.install = Install::of_run(Epoch::derive(SystemNonces::new().nonce()).as_str());
    config.redis = Redis::default();
    config.leadership = None;
    config.listen.address = HostPort::loopback(0);
    config.listen.console = false;
    config.admin.listen = HostPort::loopback(0);
    config.admin.control = HostPort::loopback(0);
    config.drain.delay = Duration::ZERO;
    config.drain.timeout = Duration::from_secs(1);
    // The events of one command need no room for bursts.
    for stack in &mut config.stacks {
        stack.receive_buffer = ByteSize::kib(64);
    }
    let path = config.listen.path.as_str().to_owned();
    let readiness = Readiness::starting();
    let server = start(&config, &Hints::default(), levels, readiness.clone()).await?;
    // A command that begins before would miss its first events.
    server.joined().await;
    let url = format!("ws://{}{path}", server.client_address());
    let command = async {
        let Run { asking, command, .. } = arguments;
        let exit = call::call(Call { server: url, asking, command }).await;
        readiness.drain();
        exit
    };
    let (_, exit) = tokio::join!(server.run(), command);
    Ok(exit)
}

/// Asks every stack whether its management interface answers and its events arrive: a line each,
/// and whether all is well.
///
/// # Errors
///
/// One clear line: an address for events that can't be used.
pub async fn probe(config: Config) -> Result<bool, String> {
    let findings = app::probe(&config).await.map_err(|error| error.to_string())?;
    for finding in &findings {
        super::say(&finding.to_string());
    }
    Ok(findings.iter().all(app::Finding::is_good))
}

pub use crate::app::Finding;
pub use crate::leadership::kubernetes::{Look, Seen};

/// Asks the Redis, where one is configured.
///
/// # Errors
///
/// One clear line: a file that can't be used.
pub async fn probe_redis(config: &Config) -> Result<Option<Finding>, String> {
    app::probe_redis(config).await.map_err(|error| error.to_string())
}

/// Looks at the Leases, where they elect.
///
/// # Errors
///
/// One clear line: no way to an API server.
pub async fn look_at_leases(config: &Config) -> Result<Vec<Look>, String> {
    app::look_at_leases(config).await.map_err(|error| error.to_string())
}

/// Asks one stack.
///
/// # Errors
///
/// One clear line: an address for events that can't be used.
pub async fn probe_stack(config: &Config, stack: &Stack) -> Result<Finding, String> {
    app::probe_stack(config, stack).await.map_err(|error| error.to_string())
}

fn with_cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}
