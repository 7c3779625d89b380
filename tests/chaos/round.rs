//! One life of a site: a few processes, one Redis, two proxies, many clients, and faults.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use callplane::core::ids::Install;
use callplane::stack::simulated::Script;
use callplane::store::Limits;
use tokio::sync::{oneshot, watch};
use tokio::time::sleep;

use super::client::{Client, Common, Figures, Phase, settle};
use super::faults::{Done, Faults, Kind};
use super::history::{Fault, History, Time, What};
use super::lease::Lease;
use super::mi::{Asked, Ledger};
use super::pods::{Lead, Pods, program};
use super::proxies::{clear, given, watch_phones};
use super::random::Random;
use super::record::Recorder;
use super::redis::Redis;
use super::redis_server::connect;
use super::stack::Stack;
use super::told::{self, Reader};

/// Before anything begins, proxies are as old as this.
const YOUNG: Duration = Duration::from_millis(2500);

/// What a round is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    pub seed: u64,
    /// How many processes there are.
    pub pods: usize,
    pub kills: usize,
    /// Redis is two servers that Sentinels guard.
    pub guarded: bool,
    /// A Lease at an API server elects the leader.
    pub by_lease: bool,
    /// Rolling restarts after that.
    pub rolls: usize,
    /// Another build: all processes begin as this one, are upgraded to ours, and rolled back.
    pub other: Option<PathBuf>,
    pub clients: usize,
    pub pause: Duration,
    pub kinds: Vec<Kind>,
}

/// What came of it.
pub struct Played {
    /// How many processes there were.
    pub pods: usize,
    pub history: History,
    pub figures: Figures,
    pub faults: Vec<Done>,
    pub kills: Vec<(Time, usize, Vec<usize>)>,
    pub leads: Vec<Lead>,
    pub panics: Vec<String>,
    pub asked: Vec<Asked>,
    /// What never ended, by client.
    pub open: Vec<String>,
    /// When faults had ended, all commands had, and no setup leg was up.
    pub calm: Time,
    pub settled: Time,
    pub cleared: Time,
}

impl Played {
    /// Writes down what was seen.
    pub fn keep(&self, folder: &Path) {
        let lines = |lines: Vec<String>| lines.join("\n");
        let faults = lines(self.faults.iter().map(|done| format!("{done:?}")).collect());
        let asked = lines(self.asked.iter().map(|asked| format!("{asked:?}")).collect());
        let history = self.history.text();
        for (name, text) in [("history", history), ("faults", faults), ("asked", asked)] {
            std::fs::write(folder.join(format!("{name}.txt")), text).unwrap();
        }
    }
}

pub async fn play(settings: &Settings, folder: &Path) -> Played {
    let mut random = Random::new(settings.seed);
    let recorder = Arc::new(Recorder::new());
    let start = if settings.guarded { Redis::guarded } else { Redis::one };
    let redis = Arc::new(tokio::task::block_in_place(start));
    let install = Install::parse("chaos").unwrap();
    let (store, bus) = connect(redis.settings(), install, Limits::default()).await;
    let stacks = [
        Stack::start(0, Script::Stock, &mut random).await,
        Stack::start(1, Script::Reference, &mut random).await,
    ];
    let ledger = Arc::new(Ledger::default());
    let lease = settings.by_lease.then(|| tokio::task::block_in_place(Lease::start));
    let ours = program();
    let first = settings.other.as_ref().unwrap_or(&ours);
    let processes = (settings.pods, first.as_path());
    let pods =
        Pods::start(processes, folder, &redis, lease.as_ref(), &stacks, &ledger, &recorder).await;
    led(&pods).await;
    // A proxy tells its age in whole seconds: who comes to lead can't tell what began in its first from
    // what was before.
    sleep(YOUNG).await;
    let given = given(&stacks, &recorder, &mut random).await;

    let (phase, phases) = watch::channel(Phase::Busy);
    let common = Arc::new(Common {
        pods: Arc::clone(&pods),
        recorder: Arc::clone(&recorder),
        phase: phases,
        given,
        figures: Mutex::default(),
        pause: settings.pause,
    });
    let clients = (0..settings.clients).map(|number| Client::new(&common, number, random.fork()));
    let (standings, running): (Vec<_>, Vec<_>) =
        clients.map(|client| (client.standing(), tokio::spawn(client.run()))).unzip();
    let (stop_reading, stopped) = oneshot::channel();
    let reading = tokio::spawn(Reader::new(store).follow(Arc::clone(&recorder), stopped));
    let stacks: Arc<[Stack]> = Arc::new(stacks);
    let stalls = Arc::new(Mutex::new(Vec::new()));
    let ticking = tokio::spawn(watch_machine(Arc::clone(&stalls), Arc::clone(&recorder)));
    let watching = tokio::spawn(watch_phones(Arc::clone(&stacks), Arc::clone(&recorder)));

    let masters = tokio::spawn(watch_masters(Arc::clone(&redis), Arc::clone(&recorder)));

    let faults = Faults::new(&pods, redis, lease, &recorder);
    faults.play(settings.kills, &settings.kinds, &mut random).await;
    faults.roll(settings.rolls, &mut random).await;
    if let Some(other) = &settings.other {
        faults.upgrade_and_roll_back(other, &ours, &mut random).await;
    }
    let calm = recorder.now();
    phase.send_replace(Phase::Calm);
    let open = settle(&standings).await;
    let settled = recorder.now();
    clear(&stacks).await;
    let cleared = recorder.now();
    phase.send_replace(Phase::Over);
    for client in running {
        client.await.unwrap();
    }
    drop(stop_reading);
    reading.await.unwrap();
    drop(bus);
    watching.abort();
    ticking.abort();
    masters.abort();
    for stack in stacks.iter() {
        stack.note_seen(&recorder).await;
        for call in stack.calls_of_phones().await {
            let setup = call.starts_with("cp-");
            recorder.note(What::Left { stack: stack.number, call, setup });
        }
    }
    pods.end().await;
    let mut history = recorder.take();
    history.calm = calm;
    history.told = true;
    told::complete(&mut history);
    let figures = std::mem::take(&mut *common.figures.lock().unwrap());
    let mut done = faults.done.lock().unwrap().clone();
    done.extend(pods.troubles());
    done.extend(stalls.lock().unwrap().drain(..));
    let kills = faults.kills.lock().unwrap().clone();
    Played {
        pods: pods.count(),
        history,
        figures,
        faults: done,
        kills,
        leads: pods.leads(),
        panics: pods.panics(),
        asked: ledger.all(),
        open,
        calm,
        settled,
        cleared,
    }
}

/// Waits until processes say that they lead the stacks; not for ever, since one that leads from its very
/// start has nothing to say.
async fn led(pods: &Pods) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while (0..2).any(|stack| pods.leader(stack).is_none()) && Instant::now() < deadline {
        sleep(Duration::from_millis(5)).await;
    }
}

/// Notes when another server became the master, whoever wanted it: the old one may have acknowledged
/// what this one never got.
async fn watch_masters(redis: Arc<Redis>, recorder: Arc<Recorder>) {
    let tick = Duration::from_millis(50);
    let (mut before, mut master) = (recorder.now(), redis.named());
    while master.is_some() {
        sleep(tick).await;
        let named = tokio::task::block_in_place(|| redis.named());
        let now = recorder.now();
        if named != master {
            for (at, kind) in
                [(before, Fault::Store), (before, Fault::StoreLost), (now, Fault::StoreLost)]
            {
                recorder.note_at(at, What::Fault { kind, until: now });
            }
            master = named;
        }
        before = now;
    }
}

/// Notes when the machine had no time for anybody.
async fn watch_machine(stalls: Arc<Mutex<Vec<Done>>>, recorder: Arc<Recorder>) {
    let tick = Duration::from_millis(50);
    let mut before = recorder.now();
    loop {
        sleep(tick).await;
        let now = recorder.now();
        if now > before + 350 {
            let what = "the machine stood still";
            stalls.lock().unwrap().push(Done { at: before, until: now, pod: None, what });
        }
        before = now;
    }
}
