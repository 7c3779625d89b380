//! callplane, installed by its chart: three pods, a Redis of the release, and stacks beside the cluster.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use callplane::stack::simulated::Script;
use serde_json::{Value, json};

use super::node::image::Image;
use super::node::inside::state;
use super::node::pods::Pod;
use super::node::{ADDRESS, Node, of_repository, run, wait_until};
use super::random::Random;
use super::stack::{FR_TIMEOUT, Stack, domain, phone};

pub const NAMESPACE: &str = "calls";

/// The release, and therefore the Deployment, the Service and the Lease.
pub const RELEASE: &str = "callplane";

/// The labels of the pods that serve.
pub const SERVERS: &str = "app.kubernetes.io/component=server";

pub const PODS: usize = 3;

/// The images that the chart names by itself. (A change of its Redis changes this one.)
const IMAGE: &str = concat!("docker.io/callplane/callplane:", env!("CARGO_PKG_VERSION"));
const REDIS: &str = "docker.io/library/redis:7.2-bookworm";

pub struct Site<'n> {
    pub node: &'n Node,
    pub stacks: Arc<[Stack]>,
    /// Where clients connect.
    pub service: SocketAddr,
    pub redis: SocketAddr,
}

impl<'n> Site<'n> {
    pub async fn install(node: &'n Node, random: &mut Random) -> Self {
        let stacks: Arc<[Stack]> = Arc::new([
            Stack::start_at(ADDRESS.into(), 0, Script::Stock, random).await,
            Stack::start_at(ADDRESS.into(), 1, Script::Reference, random).await,
        ]);
        tokio::task::block_in_place(|| Self::install_before(node, stacks))
    }

    fn install_before(node: &'n Node, stacks: Arc<[Stack]>) -> Self {
        let began = Instant::now();
        let callplane = Path::new(env!("CARGO_BIN_EXE_callplane"));
        Image::of(&[IMAGE], callplane, "/callplane", &[]).import();
        let name = std::env::var("REDIS_SERVER_BIN").unwrap_or_else(|_| "redis-server".to_owned());
        let redis = run("sh", &["-c", &format!("command -v {name}")]);
        let redis = Path::new(redis.trim());
        Image::of(&[REDIS], redis, "/usr/bin/redis-server", &[]).import();
        println!("images after {:.1} s", began.elapsed().as_secs_f32());

        std::fs::write(state("values.json"), values(&stacks).to_string()).unwrap();
        node.api.kubectl_said(&["create", "namespace", NAMESPACE]);
        // Whatever the chart makes has to be what this standard of Kubernetes asks for.
        let standard = "pod-security.kubernetes.io/enforce=restricted";
        node.api.kubectl_said(&["label", "namespace", NAMESPACE, standard]);
        let began = Instant::now();
        helm(node, "install", &[]);
        println!("installed, and ready after {:.1} s", began.elapsed().as_secs_f32());
        let address = |service: &str, port: u16| {
            let at = "jsonpath={.spec.clusterIP}";
            let said =
                node.api.kubectl_said(&["-n", NAMESPACE, "get", "service", service, "-o", at]);
            SocketAddr::new(said.parse().unwrap(), port)
        };
        let service = address(RELEASE, 5059);
        let redis = address(&format!("{RELEASE}-redis"), 6379);
        let site = Self { node, stacks, service, redis };
        site.leader();
        site
    }

    /// Changes the release.
    pub fn upgrade(&self, sets: &[&str]) {
        helm(self.node, "upgrade", sets);
    }

    pub fn pods(&self) -> Vec<Pod> {
        self.node.pods(NAMESPACE, SERVERS)
    }

    pub fn ready_pods(&self, count: usize) -> Vec<Pod> {
        self.node.ready_pods(NAMESPACE, SERVERS, count)
    }

    /// The pod of the Lease's holder, as it stands there: it may be dead.
    pub fn holder(&self) -> String {
        let holder = "jsonpath={.spec.holderIdentity}";
        let told = self.node.api.kubectl(&["-n", NAMESPACE, "get", "lease", RELEASE, "-o", holder]);
        let told = String::from_utf8_lossy(&told.stdout);
        // A pod's next process is another holder: `POD_PROCESS`.
        told.split('_').next().unwrap_or_default().to_owned()
    }

    /// The ready pod that leads. Waits until there is one.
    pub fn leader(&self) -> Pod {
        let mut leader = None;
        wait_until("a ready pod leads", Duration::from_secs(60), || {
            let holder = self.holder();
            leader = self.pods().into_iter().find(|pod| pod.ready && pod.name == holder);
            leader.is_some()
        });
        leader.unwrap()
    }

    /// Waits until another one leads, and says how long that took.
    pub fn led_by_another(&self, than: &str, within: Duration) {
        let began = Instant::now();
        wait_until(&format!("another pod leads than {than}"), within, || {
            let holder = self.holder();
            !holder.is_empty() && holder != than
        });
        println!("  another pod leads after {:.1} s", began.elapsed().as_secs_f32());
    }

    /// The takeovers stand where an operator looks for the leader.
    pub fn tells_of_takeovers(&self) {
        let told = self.node.api.kubectl_said(&["-n", NAMESPACE, "describe", "lease", RELEASE]);
        assert!(told.contains("LeaderElected"), "{told}");
    }

    /// What the chart itself tries: readiness, and a call through the Service.
    pub fn test(&self) {
        self.node.helm(&["-n", NAMESPACE, "test", RELEASE, "--logs", "--timeout", "1m"]);
    }

    /// Takes the release away.
    pub fn uninstall(&self) {
        self.node.helm(&["-n", NAMESPACE, "uninstall", RELEASE, "--wait", "--timeout", "1m"]);
    }
}

fn helm(node: &Node, what: &str, sets: &[&str]) {
    let (chart, values) = (chart(), state("values.json").display().to_string());
    let mut arguments = vec!["-n", NAMESPACE, what, RELEASE, &chart, "-f", &values];
    for set in sets {
        arguments.extend(["--set", set]);
    }
    arguments.extend(["--wait", "--timeout", "2m"]);
    node.helm(&arguments);
}

/// Where the chart is.
pub fn chart() -> String {
    of_repository("charts/callplane").display().to_string()
}

/// A phone of the first stack, which answers when it is called.
fn of_phone(at: usize) -> String {
    format!("sip:{}@{}", phone(0, at), domain(0))
}

/// What an installation for these stacks says.
pub fn values(stacks: &[Stack]) -> Value {
    let stacks: Vec<Value> = stacks
        .iter()
        .map(|stack| {
            json!({
                "name": format!("stack{}", stack.number),
                "mi": format!("udp:{}", stack.mi),
                "mi_http": format!("http://{}/mi", stack.mi_http),
                "next_hop": format!("sip:{}", domain(stack.number)),
                "domains": [stack.serves()],
                "fr_timeout": format!("{FR_TIMEOUT}s"),
                "fr_inv_timeout": "20s",
                "receive_buffer": "256KiB",
            })
        })
        .collect();
    // What else this machine does has to leave them time; and seven of them have to fit.
    let resources = json!({"requests": {"cpu": "200m"}});
    json!({
        "replicas": PODS,
        "resources": resources,
        "redis": {"embedded": {"enabled": true, "resources": resources}},
        "test": {"caller": of_phone(0), "callee": of_phone(1)},
        "config": {
            "install": "e2e",
            // As in `TIMES`, of which clients know.
            "commands": {"ring_timeout": "4s", "refer_follow": "2s", "grace": "500ms"},
            "drain": {"delay": "2s", "timeout": "10s"},
            "log": {"redact": false, "format": "text"},
            "stacks": stacks,
        },
    })
}
