//! Processes that share a Redis and a simulated stack, and are read by Prometheus.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use callplane::stack::simulated::server::SimulateConfig;
use callplane::stack::simulated::{Behaviour, PhoneConfig, Script};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::api_server::{self, ApiServer};
use crate::load::CLIENTS;
use crate::process::{ANY_PORTS, Process, SERVES};
use crate::prometheus::Prometheus;
use crate::redis_server::RedisServer;
use crate::site::{DEADLINE, DOMAIN, Proxy, any_port};

/// Where clients connect, now.
pub type Places = Arc<Mutex<Vec<SocketAddr>>>;

/// How many clients the small process takes.
pub const FEW: usize = 8;

pub struct Installation {
    pub redis: RedisServer,
    pub proxy: Proxy,
    pub prometheus: Prometheus,
    pub places: Places,
    /// Who elects the leader; without it Redis does.
    pub api_server: Option<ApiServer>,
    processes: BTreeMap<String, Process>,
    started: usize,
    folder: TempDir,
}

/// The namespace of the Lease, and the account that may have it.
const LEASE: (&str, &str) = ("calls", "callplane");

impl Installation {
    pub fn of(
        redis: RedisServer,
        proxy: Proxy,
        prometheus: Prometheus,
        api_server: Option<ApiServer>,
    ) -> Self {
        let (processes, places) = Default::default();
        let folder = tempfile::tempdir().unwrap();
        Self { redis, proxy, prometheus, places, api_server, processes, started: 0, folder }
    }

    /// One more process. Its name.
    pub fn add(&mut self) -> String {
        self.add_with("", "").0
    }

    /// One whose collector is away: a port on which nobody listens.
    pub fn add_with_traces(&mut self) {
        self.add_with("traces: {otlp: \"http://127.0.0.1:9\"}\n", "");
    }

    /// One that takes few clients, and whose events go to a port on which nobody listens. The load does
    /// not know it. Its name, and where clients connect.
    pub fn add_small_and_deaf(&mut self) -> (String, SocketAddr) {
        let more = format!("limits: {{sessions: {FEW}}}\n");
        let (name, clients) = self.add_with(&more, "    advertise: udp:127.0.0.1:9\n");
        self.places.lock().unwrap().retain(|place| *place != clients);
        (name, clients)
    }

    fn add_with(&mut self, more: &str, of_stack: &str) -> (String, SocketAddr) {
        let name = self.new_name();
        let process = self.process(&name, more, of_stack);
        let clients = process.clients;
        self.processes.insert(name.clone(), process);
        self.tell();
        (name, clients)
    }

    /// Ends one, and Prometheus knows it.
    pub fn remove(&mut self, name: &str) {
        self.kill(name);
        self.tell();
    }

    fn new_name(&mut self) -> String {
        self.started += 1;
        format!("callplane-{}", self.started)
    }

    fn process(&self, name: &str, more: &str, of_stack: &str) -> Process {
        let (redis, mi) = (self.redis.port(), self.proxy.mi);
        let election = self.api_server.as_ref().map(|server| {
            let account = server.service_account_dir(LEASE.0, LEASE.1);
            let (port, account) = (server.port(), account.display());
            format!(
                "leadership: kubernetes\n\
                 kubernetes: {{server: \"127.0.0.1:{port}\", account: {account}}}\n"
            )
        });
        let election = election.unwrap_or_default();
        let config = format!(
            "redis: {{address: \"127.0.0.1:{redis}\"}}\n{election}{more}\
             commands: {{mi_reply: 500ms}}\n\
             stacks:\n  - name: sim\n    mi: udp:{mi}\n    next_hop: sip:{DOMAIN}\n    fr_timeout: 1s\n    \
             breaker: {{failures: 2}}\n{of_stack}"
        );
        let path = self.folder.path().join(format!("{name}.yml"));
        std::fs::write(&path, config).unwrap();
        let arguments = ["serve", "--config", path.to_str().unwrap()];
        let mut variables = ANY_PORTS.to_vec();
        variables.push(("POD_NAME", name));
        Process::callplane(&arguments, &variables, SERVES)
    }

    /// Kills one. Prometheus goes on trying to read it until another one is added.
    pub fn kill(&mut self, name: &str) {
        let process = self.processes.remove(name).unwrap();
        self.places.lock().unwrap().retain(|place| *place != process.clients);
    }

    /// Tells Prometheus and the load which processes there are.
    pub fn tell(&self) {
        let targets = self.processes.iter();
        let targets: Vec<_> =
            targets.map(|(name, process)| (name.clone(), process.operations.unwrap())).collect();
        self.prometheus.read(&targets);
        let places = self.processes.values().map(|process| process.clients);
        *self.places.lock().unwrap() = places.collect();
    }

    /// Sends to each process, where it listens for events, what is no event.
    pub async fn send_rubbish(&self) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let ask = json!({"jsonrpc": "2.0", "id": "1", "method": "subscribers_list"}).to_string();
        socket.send_to(ask.as_bytes(), self.proxy.mi).await.unwrap();
        let mut answer = vec![0; 65_536];
        let length = timeout(DEADLINE, socket.recv(&mut answer)).await.unwrap().unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        let sinks = answer.split("udp:127.0.0.1:").skip(1).map(|rest| {
            let port = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap();
            port.parse::<u16>().unwrap()
        });
        let mut sent = 0;
        for port in sinks {
            socket.send_to(b"{no event", ("127.0.0.1", port)).await.unwrap();
            sent += 1;
        }
        assert!(sent > 0, "nobody is subscribed: {answer}");
    }
}

/// An API server that lets processes of ours lead; `None` where its programs are missing.
pub fn api_server(test: &str) -> Option<ApiServer> {
    api_server::is_here(test).then(|| {
        let server = ApiServer::start();
        server.kubectl_said(&["create", "namespace", LEASE.0]);
        server.let_lead(LEASE.0, LEASE.1, &["callplane".to_owned()]);
        server
    })
}

/// The stack, with phones for each client of the load.
pub async fn stack() -> Proxy {
    let mut config = SimulateConfig { mi_udp: any_port(), ..SimulateConfig::default() };
    config.world.script = Script::Reference;
    config.world.fr_timeout = Duration::from_secs(1);
    let quick = Behaviour { ring_ms: 30, ..Behaviour::default() };
    let kinds = [
        ("a", quick.clone()),
        ("b", quick.clone()),
        ("c", quick.clone()),
        ("busy", Behaviour { answer: 486, ..quick.clone() }),
        ("ringing", Behaviour { answer: 0, ..quick }),
    ];
    config.world.phones.clear();
    for client in 0..=CLIENTS {
        for (kind, behaviour) in &kinds {
            let port = 5101 + 4 * config.world.phones.len();
            let phone = PhoneConfig::new(&format!("{kind}{client}"), &format!("127.0.0.1:{port}"));
            config.world.phones.push(PhoneConfig { behaviour: behaviour.clone(), ..phone });
        }
    }
    Proxy::of(config).await
}
