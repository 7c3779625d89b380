//! The processes under test. `PODS_LEADERSHIP` says how they agree on who leads; by its default they
//! do by Redis. What else that takes they get from the environment.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use super::faults::Done;
use super::history::{Fault, Time, What};
use super::lease::Lease;
use super::link::Link;
use super::mi;
use super::random::Random;
use super::record::Recorder;
use super::redis::Redis;
use super::stack::{FR_INV_TIMEOUT, FR_TIMEOUT, RECEIVE_BUFFER, Stack, TIMES, domain};

/// Nothing that a process does by itself takes this long.
const DEADLINE: Duration = Duration::from_secs(30);

/// The build that is under test: the one of these sources, unless the environment names another.
pub fn program() -> PathBuf {
    let built = || env!("CARGO_BIN_EXE_callplane").into();
    std::env::var_os("CHAOS_PROGRAM").unwrap_or_else(built).into()
}

pub struct Pods {
    pods: Vec<Pod>,
    recorder: Arc<Recorder>,
    /// What processes said of leading, in order.
    leads: Arc<Mutex<Vec<Lead>>>,
    said: Arc<Mutex<Vec<String>>>,
    /// When which process said that Redis did not answer it in time.
    troubles: Arc<Mutex<Vec<(Time, usize)>>>,
}

/// A process said that it leads a stack, or does not any more.
#[derive(Debug, Clone)]
pub struct Lead {
    pub at: Time,
    pub pod: usize,
    pub stack: String,
    pub leads: bool,
}

struct Pod {
    /// What runs here when it is started next.
    program: Mutex<PathBuf>,
    config: PathBuf,
    log: PathBuf,
    /// To the one Redis, where there is one.
    link: Option<Link>,
    /// To the API server, where there is one.
    to_lease: Option<Link>,
    /// Where its clients connect while it serves.
    serves: watch::Sender<Option<SocketAddr>>,
    child: Mutex<Option<Child>>,
}

impl Pods {
    /// So many processes of this build.
    pub async fn start(
        (count, program): (usize, &Path),
        folder: &Path,
        redis: &Redis,
        lease: Option<&Lease>,
        stacks: &[Stack],
        ledger: &Arc<mi::Ledger>,
        recorder: &Arc<Recorder>,
    ) -> Arc<Self> {
        let mut pods = Vec::new();
        for number in 0..count {
            let link = match redis.port() {
                Some(port) => Some(Link::to(port).await),
                None => None,
            };
            let through = redis.config(link.as_ref().map(|link| link.port));
            let to_lease = match lease {
                Some(lease) => Some(Link::to(lease.server.port()).await),
                None => None,
            };
            let elects = lease.zip(to_lease.as_ref()).map(|(lease, link)| lease.config(link));
            let elects = elects.unwrap_or_default();
            let mut config = format!(
                "install: chaos\nlisten:\n  address: 127.0.0.1:0\n  console: false\n\
                 admin:\n  listen: 127.0.0.1:0\n  control: 127.0.0.1:0\n\
                 commands:\n  {TIMES}\n\
                 drain:\n  timeout: 5s\n\
                 log:\n  redact: false\n\
                 {through}{elects}stacks:\n"
            );
            for stack in stacks {
                let mi = mi::relay(
                    number,
                    stack.number,
                    stack.mi,
                    Arc::clone(ledger),
                    Arc::clone(recorder),
                );
                let (at, name) = (mi.await, domain(stack.number));
                write!(
                    config,
                    "  - name: stack{}\n    mi: udp:{at}\n    mi_http: http://{}/mi\n    \
                     next_hop: sip:{name}\n    domains: [{}]\n    fr_timeout: {FR_TIMEOUT}s\n    \
                     fr_inv_timeout: {FR_INV_TIMEOUT}s\n    receive_buffer: {RECEIVE_BUFFER}\n",
                    stack.number,
                    stack.mi_http,
                    stack.serves(),
                )
                .unwrap();
            }
            let path = folder.join(format!("pod{number}.yml"));
            std::fs::write(&path, config).unwrap();
            pods.push(Pod {
                program: Mutex::new(program.to_owned()),
                config: path,
                log: folder.join(format!("pod{number}.log")),
                link,
                to_lease,
                serves: watch::Sender::new(None),
                child: Mutex::new(None),
            });
        }
        let (leads, said, troubles) = (Arc::default(), Arc::default(), Arc::default());
        let all = Self { pods, recorder: Arc::clone(recorder), leads, said, troubles };
        for number in 0..count {
            all.run(number);
        }
        for number in 0..count {
            all.serves(number).await;
        }
        Arc::new(all)
    }

    /// How many places there are.
    pub fn count(&self) -> usize {
        self.pods.len()
    }

    /// Whoever is started in this place from now on is of this build.
    pub fn becomes(&self, number: usize, program: &Path) {
        program.clone_into(&mut self.pods[number].program.lock().unwrap());
    }

    /// Starts a process in this place.
    pub fn run(&self, number: usize) {
        let pod = &self.pods[number];
        let mut command = Command::new(&*pod.program.lock().unwrap());
        command.arg("serve").arg("--config").arg(&pod.config).kill_on_drop(true);
        command.env("POD_NAME", format!("pod-{number}"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        tokio::spawn(self.listen(number, out));
        tokio::spawn(self.listen(number, err));
        *pod.child.lock().unwrap() = Some(child);
    }

    /// Reads what a process says, to its end.
    fn listen(
        &self,
        number: usize,
        from: impl AsyncRead + Unpin + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let recorder = Arc::clone(&self.recorder);
        let (leads, said) = (Arc::clone(&self.leads), Arc::clone(&self.said));
        let troubles = Arc::clone(&self.troubles);
        let serves = self.pods[number].serves.clone();
        let log = self.pods[number].log.clone();
        async move {
            let mut log = std::fs::File::options().create(true).append(true).open(log).unwrap();
            let mut lines = BufReader::new(from).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let at = recorder.now();
                let _ = std::io::Write::write_fmt(&mut log, format_args!("{at:>7} {line}\n"));
                if let Some(clients) = address(&line) {
                    serves.send_replace(Some(clients));
                }
                if line.contains(" leading the stack's events") {
                    let leading = !line.contains("no longer leading");
                    let stack = line.split("stack=").nth(1).unwrap_or_default();
                    let stack = stack.split_whitespace().next().unwrap_or_default().to_owned();
                    leads.lock().unwrap().push(Lead { at, pod: number, stack, leads: leading });
                }
                let starved = [" the connection is given up", " no connection error="];
                if starved.iter().any(|starved| line.contains(starved)) {
                    troubles.lock().unwrap().push((at, number));
                }
                if line.contains("panicked at") {
                    said.lock().unwrap().push(format!("pod {number} at {at}: {line}"));
                }
            }
        }
    }

    /// Waits until it serves.
    pub async fn serves(&self, number: usize) {
        let mut serves = self.pods[number].serves.subscribe();
        let serving = timeout(DEADLINE, serves.wait_for(Option::is_some)).await;
        assert!(serving.is_ok(), "pod {number} does not serve, see {:?}", self.pods[number].log);
    }

    /// Where any living process serves.
    pub fn any(&self, random: &mut Random) -> Option<(usize, SocketAddr)> {
        let serving: Vec<_> = (0..self.count())
            .filter_map(|number| Some((number, (*self.pods[number].serves.borrow())?)))
            .collect();
        (!serving.is_empty()).then(|| *random.pick(&serving))
    }

    /// Where this one serves.
    pub fn address(&self, number: usize) -> Option<SocketAddr> {
        *self.pods[number].serves.borrow()
    }

    pub fn is_serving(&self, number: usize) -> bool {
        self.pods[number].serves.borrow().is_some()
    }

    pub fn link(&self, number: usize) -> Option<&Link> {
        self.pods[number].link.as_ref()
    }

    /// The way to the API server.
    pub fn way_to_lease(&self, number: usize) -> Option<&Link> {
        self.pods[number].to_lease.as_ref()
    }

    /// Kills it (signal 9) and waits until it is gone.
    pub async fn kill(&self, number: usize) {
        let child = self.pods[number].child.lock().unwrap().take();
        self.pods[number].serves.send_replace(None);
        if let Some(mut child) = child {
            child.kill().await.unwrap();
        }
    }

    /// Asks it to stop, and waits until it has. Whether it ended in order.
    pub async fn stop(&self, number: usize) -> bool {
        self.signal(number, "-TERM").await;
        let child = self.pods[number].child.lock().unwrap().take();
        let Some(mut child) = child else { return true };
        let ended = timeout(DEADLINE, child.wait()).await;
        self.pods[number].serves.send_replace(None);
        ended.unwrap_or_else(|_| panic!("pod {number} does not stop")).unwrap().success()
    }

    /// Sends a signal to it, if it is there.
    pub async fn signal(&self, number: usize, signal: &str) {
        if let Some(pid) = self.pid(number) {
            send(pid, signal).await;
        }
    }

    /// Lets it stand still for a while.
    pub async fn pause(&self, number: usize, time: Duration) {
        let Some(pid) = self.pid(number) else { return };
        send(pid, "-STOP").await;
        tokio::time::sleep(time).await;
        // By its number: it may have been told to stop meanwhile, and has to live to do that.
        send(pid, "-CONT").await;
    }

    fn pid(&self, number: usize) -> Option<u32> {
        self.pods[number].child.lock().unwrap().as_ref().and_then(Child::id)
    }

    /// Starts it again, and notes that it was away since then.
    pub async fn come_back(&self, number: usize, since: Time) {
        self.run(number);
        self.serves(number).await;
        let until = self.recorder.now();
        self.recorder.note_at(since, What::Fault { kind: Fault::Crash, until });
    }

    /// Who leads a stack, as far as it said so.
    pub fn leader(&self, stack: usize) -> Option<usize> {
        let name = format!("stack{stack}");
        let leads = self.leads.lock().unwrap();
        let of_it = leads.iter().filter(|lead| lead.stack == name);
        // One that stood still says late that it leads no longer.
        of_it.fold(None, |now, lead| match (lead.leads, now) {
            (true, _) => Some(lead.pod),
            (false, Some(pod)) if pod == lead.pod => None,
            (false, now) => now,
        })
    }

    pub fn leads(&self) -> Vec<Lead> {
        self.leads.lock().unwrap().clone()
    }

    /// What processes said of Redis' silence.
    pub fn troubles(&self) -> Vec<Done> {
        let troubles = self.troubles.lock().unwrap();
        let said = troubles.iter().map(|(at, pod)| Done {
            at: at.saturating_sub(1500),
            until: *at,
            pod: Some(*pod),
            what: "had no answer of redis in time",
        });
        said.collect()
    }

    /// Panics of processes.
    pub fn panics(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }

    pub async fn end(&self) {
        for number in 0..self.count() {
            self.kill(number).await;
        }
    }
}

/// To a process that may be gone by now.
async fn send(pid: u32, signal: &str) {
    let _ =
        Command::new("kill").args([signal, &pid.to_string()]).stderr(Stdio::null()).status().await;
}

fn address(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once(" clients=")?;
    rest.split_whitespace().next()?.parse().ok()
}
