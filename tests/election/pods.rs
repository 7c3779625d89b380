//! Processes that contend for one Lease, and what they say of it.

use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::api_server::ApiServer;
use super::link::Link;
use super::redis_server::RedisServer;
use super::site::{Proxy, any_port, http};

/// Nothing here takes this long.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How long a Lease lasts: the default.
pub const LEASE: Duration = Duration::from_secs(4);

/// Everything that processes of one installation share.
pub struct Field {
    pub server: ApiServer,
    pub redis: RedisServer,
    pub namespace: String,
    account: PathBuf,
    proxy: Proxy,
    folder: TempDir,
    said: Arc<Mutex<Vec<Said>>>,
    pub pods: Vec<Pod>,
}

/// A process said that it leads from now on, or that it does not any more.
#[derive(Debug, Clone, Copy)]
pub struct Said {
    pub at: Instant,
    pub pod: usize,
    /// In which term.
    pub leads: Option<u64>,
}

pub struct Pod {
    number: usize,
    config: PathBuf,
    /// To the API server.
    pub link: Link,
    /// To Redis.
    pub to_redis: Link,
    running: Option<(Child, SocketAddr)>,
}

impl Field {
    /// So many processes, one of which leads.
    pub async fn start(count: usize) -> Self {
        let (server, redis) = tokio::task::spawn_blocking(|| {
            let server = ApiServer::start();
            let namespace = server.namespace("election");
            server.let_lead(&namespace, "callplane", &["callplane".to_owned()]);
            let account = server.service_account_dir(&namespace, "callplane");
            ((server, namespace, account), RedisServer::start())
        })
        .await
        .unwrap();
        let (server, namespace, account) = server;
        let proxy = Proxy::start(callplane::stack::simulated::Script::Reference, any_port()).await;
        let folder = tempfile::tempdir().unwrap();
        let said = Arc::default();
        let pods = Vec::new();
        let mut field = Self { server, redis, namespace, account, proxy, folder, said, pods };
        for number in 0..count {
            field.add(number).await;
        }
        field.leader_since(Instant::now() - DEADLINE).await;
        field
    }

    async fn add(&mut self, number: usize) {
        let link = Link::to(self.server.port()).await;
        let config = self.folder.path().join(format!("pod{number}.yml"));
        let to_redis = Link::to(self.redis.port()).await;
        let (redis, mi) = (to_redis.port, self.proxy.mi);
        let (api, account) = (link.port, self.account.display());
        let text = format!(
            "install: election\n\
             listen: {{address: \"127.0.0.1:0\", console: false}}\n\
             admin: {{listen: \"127.0.0.1:0\", control: \"127.0.0.1:0\"}}\n\
             redis: {{address: \"127.0.0.1:{redis}\"}}\n\
             leadership: kubernetes\n\
             kubernetes: {{server: \"127.0.0.1:{api}\", account: \"{account}\"}}\n\
             drain: {{timeout: 5s}}\n\
             stacks: [{{name: sim, mi: \"udp:{mi}\"}}]\n"
        );
        std::fs::write(&config, text).unwrap();
        self.pods.push(Pod { number, config, link, to_redis, running: None });
        self.run(number).await;
    }

    /// Starts a process in this place, and waits until it serves.
    pub async fn run(&mut self, number: usize) {
        let said = Arc::clone(&self.said);
        let pod = &mut self.pods[number];
        let mut command = Command::new(env!("CARGO_BIN_EXE_callplane"));
        command.arg("serve").arg("--config").arg(&pod.config);
        command.env("POD_NAME", format!("callplane-{number}")).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (serves, serving) = tokio::sync::oneshot::channel();
        let serves = Arc::new(Mutex::new(Some(serves)));
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for stream in streams {
            let (said, serves) = (Arc::clone(&said), Arc::clone(&serves));
            let number = pod.number;
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    listen(number, &line, &said);
                    if let Some(operations) = address(&line)
                        && let Some(serves) = serves.lock().unwrap().take()
                    {
                        let _ = serves.send(operations);
                    }
                }
            });
        }
        let operations = tokio::time::timeout(DEADLINE, serving).await;
        let operations = operations.expect("it serves in time").expect("it says where it serves");
        pod.running = Some((child, operations));
    }

    /// What was said since then, in order.
    pub fn said_since(&self, then: Instant) -> Vec<Said> {
        let said = self.said.lock().unwrap();
        said.iter().filter(|said| said.at >= then).copied().collect()
    }

    /// Who leads now, as far as was said.
    pub fn leader(&self) -> Option<(usize, u64)> {
        let said = self.said.lock().unwrap();
        let of = |pod: &Pod| {
            let last = said.iter().rev().find(|said| said.pod == pod.number)?;
            pod.running.as_ref().and(last.leads.map(|term| (pod.number, term)))
        };
        self.pods.iter().filter_map(of).max_by_key(|(_, term)| *term)
    }

    /// Waits until somebody says that it leads, not earlier than then.
    pub async fn leader_since(&self, then: Instant) -> Said {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            let leads = self.said_since(then).into_iter().find(|said| said.leads.is_some());
            if let Some(said) = leads {
                return said;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("nobody leads in {DEADLINE:?}: {:?}", self.said.lock().unwrap());
    }

    pub fn kill(&mut self, number: usize) {
        let (mut child, _) = self.pods[number].running.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Sends a signal to a process.
    pub fn signal(&self, number: usize, signal: &str) {
        let (child, _) = self.pods[number].running.as_ref().expect("it runs");
        let pid = child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Waits until a process that was told to stop has ended; whether in order.
    pub async fn ended(&mut self, number: usize) -> bool {
        let (mut child, _) = self.pods[number].running.take().expect("it runs");
        tokio::task::spawn_blocking(move || child.wait().unwrap().success()).await.unwrap()
    }

    /// The sum of a metric over all labels that contain these words.
    pub async fn metric(&self, number: usize, name: &str, labels: &[&str]) -> f64 {
        let (_, operations) = self.pods[number].running.as_ref().expect("it runs");
        let (_, text) = http(*operations, "GET", "/metrics", None).await;
        let lines = text.lines().filter(|line| {
            line.starts_with(name) && labels.iter().all(|label| line.contains(label))
        });
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// What the Lease holds at this path.
    pub fn lease(&self, path: &str) -> String {
        let path = format!("jsonpath={{{path}}}");
        self.server.kubectl_said(&["-n", &self.namespace, "get", "lease", "callplane", "-o", &path])
    }

    /// What stands in place of the service account's token.
    pub fn write_token(&self, token: &str) {
        std::fs::write(self.account.join("token"), token).unwrap();
    }

    pub fn token(&self) -> String {
        std::fs::read_to_string(self.account.join("token")).unwrap()
    }
}

impl Drop for Field {
    fn drop(&mut self) {
        for pod in &mut self.pods {
            if let Some((mut child, _)) = pod.running.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

fn listen(pod: usize, line: &str, said: &Mutex<Vec<Said>>) {
    let at = Instant::now();
    let leads = if line.contains("no longer leading the stack's events") {
        None
    } else if line.contains(" leading the stack's events") {
        let term = line.split(" term=").nth(1).and_then(|rest| rest.split(' ').next());
        Some(term.and_then(|term| term.parse().ok()).expect("it says its term"))
    } else {
        return;
    };
    said.lock().unwrap().push(Said { at, pod, leads });
}

fn address(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once(" operations=")?;
    rest.split_whitespace().next()?.parse().ok()
}
