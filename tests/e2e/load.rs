//! Clients from outside, what is seen of them, and the judgement.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use callplane::core::ids::Install;
use callplane::store::Limits;
use callplane::store::redis::{Address, RedisBus, Settings};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::client::{Client, Common, Figures, Phase, Standing, settle};
use super::history::{self, Fault, History, Time, What};
use super::lost;
use super::node::inside::state;
use super::pods::Pods;
use super::proxies::{clear, given, watch_phones};
use super::random::Random;
use super::record::Recorder;
use super::redis_server::connect;
use super::site::Site;
use super::told::{self, Reader};

/// Before anything begins, proxies are as old as this: they tell their age in whole seconds.
const YOUNG: Duration = Duration::from_millis(2500);

/// How often is looked whether the machine has time, and what is too long for a look, in ms: a process
/// waits half a second for Redis.
const TICK: Duration = Duration::from_millis(50);
const STALLED: u64 = 300;

/// Between two things that one client does.
const PAUSE: Duration = Duration::from_millis(900);

pub struct Load {
    pub recorder: Arc<Recorder>,
    common: Arc<Common>,
    phase: watch::Sender<Phase>,
    standings: Vec<watch::Receiver<Standing>>,
    running: Vec<JoinHandle<()>>,
    reading: JoinHandle<()>,
    stop_reading: oneshot::Sender<()>,
    watching: [JoinHandle<()>; 2],
    bus: RedisBus,
}

impl Load {
    pub async fn start(site: &Site<'_>, clients: usize, random: &mut Random) -> Self {
        sleep(YOUNG).await;
        let recorder = Arc::new(Recorder::new());
        let redis =
            Settings::of(Address { host: site.redis.ip().to_string(), port: site.redis.port() });
        let (store, bus) = connect(redis, Install::parse("e2e").unwrap(), Limits::default()).await;
        let given = given(&site.stacks, &recorder, random).await;
        let (phase, phases) = watch::channel(Phase::Busy);
        let common = Arc::new(Common {
            pods: Arc::new(Pods { service: site.service }),
            recorder: Arc::clone(&recorder),
            phase: phases,
            given,
            figures: Mutex::default(),
            pause: PAUSE,
        });
        let clients = (0..clients).map(|number| Client::new(&common, number, random.fork()));
        let (standings, running) =
            clients.map(|client| (client.standing(), tokio::spawn(client.run()))).unzip();
        let (stop_reading, stopped) = oneshot::channel();
        let reading = tokio::spawn(Reader::new(store).follow(Arc::clone(&recorder), stopped));
        let watching = [
            tokio::spawn(watch_phones(Arc::clone(&site.stacks), Arc::clone(&recorder))),
            tokio::spawn(watch_machine(site.redis, Arc::clone(&recorder))),
        ];
        Self { recorder, common, phase, standings, running, reading, stop_reading, watching, bus }
    }

    /// Notes that something was wrong since then.
    pub fn was(&self, kind: Fault, since: Time) {
        let until = self.recorder.now();
        self.recorder.note_at(since, What::Fault { kind, until });
    }

    /// Nothing goes wrong any more: waits until all is told, and judges it.
    pub async fn end(self, site: &Site<'_>) -> Judged {
        let calm = self.recorder.now();
        self.phase.send_replace(Phase::Calm);
        let open = settle(&self.standings).await;
        let settled = self.recorder.now();
        clear(&site.stacks).await;
        self.phase.send_replace(Phase::Over);
        for client in self.running {
            client.await.unwrap();
        }
        drop(self.stop_reading);
        self.reading.await.unwrap();
        drop(self.bus);
        self.watching.iter().for_each(JoinHandle::abort);
        for stack in site.stacks.iter() {
            stack.note_seen(&self.recorder).await;
            for call in stack.calls_of_phones().await {
                let setup = call.starts_with("cp-");
                self.recorder.note(What::Left { stack: stack.number, call, setup });
            }
        }
        let mut history = self.recorder.take();
        history.calm = calm;
        history.told = true;
        told::complete(&mut history);
        std::fs::write(state("history.txt"), history.text()).unwrap();
        let figures = std::mem::take(&mut *self.common.figures.lock().unwrap());
        Judged::of(&history, &figures, open, settled - calm)
    }
}

/// What the history shows.
pub struct Judged {
    commands: usize,
    /// By the code that says why.
    unknown: BTreeMap<String, usize>,
    checked: usize,
    figures: String,
    broken: Vec<String>,
    settled: Time,
    /// How often the machine had no time.
    stalls: usize,
}

impl Judged {
    fn of(history: &History, figures: &Figures, open: Vec<String>, settled: Time) -> Self {
        let mut broken: Vec<String> =
            history::judge(history).iter().map(ToString::to_string).collect();
        let (checked, lost) = lost::judge(history);
        broken.extend(lost);
        broken.extend(lost::twice(history));
        broken.extend(open.into_iter().map(|open| format!("P1: without outcome: {open}")));
        let ends = history.events.iter().filter_map(|event| match &event.what {
            What::Told { event: told, cmd_id, .. } if told == "Ended" => Some(cmd_id),
            _ => None,
        });
        let commands = ends.collect::<BTreeSet<_>>().len();
        let unknown = unknown(history);
        let mut homes: Vec<u128> = figures.homes.iter().map(Duration::as_millis).collect();
        homes.sort_unstable();
        let of = |percent: usize| homes.get(homes.len().saturating_sub(1) * percent / 100);
        let figures = format!(
            "{} resumed, not recovered {:?}, refused {:?}; back after ms: median {:?}, most {:?}",
            figures.recovered,
            figures.not_recovered,
            figures.refused,
            of(50),
            of(100),
        );
        let stalls = history
            .events
            .iter()
            .filter(|event| matches!(&event.what, What::Fault { kind: Fault::Store, .. }));
        let stalls = stalls.count();
        Self { commands, unknown, checked, figures, broken, settled, stalls }
    }

    pub fn assert_kept(&self) {
        let (count, broken) = (self.broken.len(), self.broken.join("\n"));
        assert!(self.commands > 0, "no command ended at all");
        assert!(self.broken.is_empty(), "{count} broken promises:\n{broken}");
    }
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} commands ended, of them unknown {:?}", self.commands, self.unknown)?;
        writeln!(f, "{} entries were due; all settled after {} ms", self.checked, self.settled)?;
        writeln!(f, "{}", self.figures)?;
        writeln!(f, "the machine had no time for anybody {} times", self.stalls)?;
        write!(f, "{} broken promises", self.broken.len())
    }
}

/// Notes when the machine had no time for anybody, or Redis none to answer: no process can be sure of
/// anything then.
async fn watch_machine(redis: SocketAddr, recorder: Arc<Recorder>) {
    loop {
        let before = recorder.now();
        let answered = timeout(Duration::from_secs(2), ping(redis)).await;
        sleep(TICK).await;
        let until = recorder.now();
        if until > before + STALLED || !matches!(answered, Ok(Ok(()))) {
            recorder.note_at(before, What::Fault { kind: Fault::Store, until });
        }
    }
}

/// Asks Redis over a connection of its own.
async fn ping(redis: SocketAddr) -> std::io::Result<()> {
    let mut line = TcpStream::connect(redis).await?;
    line.write_all(b"PING\r\n").await?;
    let mut answer = [0; 7];
    line.read_exact(&mut answer).await.map(drop)
}

/// Commands that ended with nobody knowing how, by the code of their error.
fn unknown(history: &History) -> BTreeMap<String, usize> {
    let (mut errors, mut ended) = (BTreeMap::new(), BTreeSet::new());
    for event in &history.events {
        let What::Received { text, .. } = &event.what else { continue };
        if !text.contains("\"Error\"") && !text.contains("\"unknown\"") {
            continue;
        }
        let frame: Value = serde_json::from_str(text).unwrap();
        let said = &frame["params"];
        let id = said["cmd_id"].as_str().unwrap_or_default().to_owned();
        if said["event"] == "Error" {
            errors.insert(id, said["error"]["code"].as_str().unwrap_or_default().to_owned());
        } else if said["event"] == "Ended" && said["outcome"] == "unknown" {
            ended.insert(id);
        }
    }
    let mut by_code = BTreeMap::new();
    for id in ended {
        *by_code.entry(errors.remove(&id).unwrap_or_default()).or_default() += 1;
    }
    by_code
}
