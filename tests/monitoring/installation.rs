//! Processes that share a Redis and a simulated stack, and are read by Prometheus.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use callplane::stack::simulated::server::SimulateConfig;
use callplane::stack::simulated::{Behaviour, PhoneConfig, Script};
use serde_json::json;
use tokio::net::UdpSocket;
use tokio::time::timeout;

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
    processes: BTreeMap<String, Process>,
    started: usize,
}

impl Installation {
    pub fn of(redis: RedisServer, proxy: Proxy, prometheus: Prometheus) -> Self {
        let (processes, places) = Default::default();
        Self { redis, proxy, prometheus, places, processes, started: 0 }
    }

    /// One more process. Its name.
    pub fn add(&mut self) -> String {
        let name = self.new_name();
        let process = self.process(&[]);
        self.processes.insert(name.clone(), process);
        self.tell();
        name
    }

    /// One that takes few clients, and that the load does not know. Where they connect.
    pub fn add_small(&mut self) -> SocketAddr {
        let name = self.new_name();
        let few = FEW.to_string();
        let process = self.process(&[("CALLPLANE_LIMITS__SESSIONS", &few)]);
        let clients = process.clients;
        self.processes.insert(name, process);
        self.tell();
        self.places.lock().unwrap().retain(|place| *place != clients);
        clients
    }

    fn new_name(&mut self) -> String {
        self.started += 1;
        format!("callplane-{}", self.started)
    }

    fn process(&self, more: &[(&str, &str)]) -> Process {
        let redis = format!("127.0.0.1:{}", self.redis.port());
        let mi = format!("udp:{}", self.proxy.mi);
        let next_hop = format!("sip:{DOMAIN}");
        let mut variables = ANY_PORTS.to_vec();
        variables.extend([
            ("CALLPLANE_REDIS__ADDRESS", redis.as_str()),
            ("CALLPLANE_STACKS__0__NAME", "sim"),
            ("CALLPLANE_STACKS__0__MI", &mi),
            ("CALLPLANE_STACKS__0__NEXT_HOP", &next_hop),
            ("CALLPLANE_STACKS__0__FR_TIMEOUT", "1s"),
            ("CALLPLANE_STACKS__0__BREAKER__FAILURES", "2"),
            ("CALLPLANE_COMMANDS__MI_REPLY", "500ms"),
        ]);
        variables.extend(more);
        Process::callplane(&["serve"], &variables, SERVES)
    }

    /// Kills one. Prometheus goes on trying to read it until [`Self::forget`].
    pub fn kill(&mut self, name: &str) -> SocketAddr {
        let process = self.processes.remove(name).unwrap();
        self.places.lock().unwrap().retain(|place| *place != process.clients);
        process.operations.unwrap()
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
    for client in 0..CLIENTS {
        for (kind, behaviour) in &kinds {
            let port = 5101 + 4 * config.world.phones.len();
            let phone = PhoneConfig::new(&format!("{kind}{client}"), &format!("127.0.0.1:{port}"));
            config.world.phones.push(PhoneConfig { behaviour: behaviour.clone(), ..phone });
        }
    }
    Proxy::of(config).await
}
