//! One life of a site: three processes, one stack, noise, and leaders that go.
//!
//! A run measured nothing where the machine was too slow for what it is about: a command was not sent to
//! the stack in time before the leader went, another one led before that, most were decided before that,
//! the stack told fewer events a second than wanted, or it did not get what phones reported. All of that
//! is seen without what clients were told. Whatever they were told wrong is [`Played::Broken`], though
//! the machine stood still: how long it did is told with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use callplane::core::ids::Install;
use callplane::stack::simulated::Script;
use callplane::store::Limits;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::PODS;
use super::amount::{self, Report, Ringing, Sent};
use super::client::{Client, Told};
use super::history::{self, History, Time, What};
use super::lease::Lease;
use super::mi::Ledger;
use super::noise::Noise;
use super::phones::EACH;
use super::pods::{Pods, program};
use super::record::Recorder;
use super::redis::Redis;
use super::redis_server::connect;
use super::rounds::Elects;
use super::sockets::{subscribers, thrown_away};
use super::stack::{self, Stack};
use super::told::{self, Reader};
use super::wave::{self, uri};

/// How a leader goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takeover {
    /// By signal 9.
    Killed,
    /// It stands still for longer than its lease, and goes on.
    Stopped,
}

/// Longer than a lease, and than it takes until another one leads.
const STANDS_STILL: Duration = Duration::from_secs(6);

/// Transfers that ring on and on.
const RINGING: usize = 60;

/// Between two requests: all at once are more than a busy machine sends in time.
const APART: Duration = Duration::from_millis(10);

/// What a phone says at once is known within this.
const ANSWERED: Duration = Duration::from_millis(300);

/// Of the rate, in tenths: fewer are another measurement.
const TENTHS: u32 = 9;

/// At most one report in so many may be lost on its way to the stack, where it comes from a phone.
const UNTAKEN: usize = 50;

/// A proxy tells its age in whole seconds, and in doubt it counts as younger.
const OLD_ENOUGH: Duration = Duration::from_millis(2500);

/// What was sent is told within this.
const ON_ITS_WAY: Duration = Duration::from_secs(10);

/// Nothing here takes longer.
const DEADLINE: Duration = Duration::from_secs(40);

/// What a run came to.
pub enum Played {
    Well(String),
    Broken(String),
    /// The machine had no time for it.
    NotMeasured(String),
}

struct Site {
    recorder: Arc<Recorder>,
    stacks: Arc<[Stack; 1]>,
    pods: Arc<Pods>,
}

impl Site {
    fn stack(&self) -> &Stack {
        &self.stacks[0]
    }

    async fn until(&self, what: &str, is_so: impl AsyncFn() -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !is_so().await {
            assert!(Instant::now() < deadline, "waited in vain: {what}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn led(&self) -> usize {
        self.until("somebody leads", async || self.pods.leader(0).is_some()).await;
        self.pods.leader(0).unwrap()
    }
}

pub async fn play(test: &str, script: Script, elects: Elects, takeovers: &[Takeover]) -> Played {
    let temporary = tempfile::tempdir().unwrap();
    let keep = std::env::var_os("SHADOW_KEEP").map(|keep| PathBuf::from(keep).join(test));
    let folder = keep.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&folder).unwrap();
    let recorder = Arc::new(Recorder::new());
    let redis = tokio::task::block_in_place(Redis::one);
    let install = Install::parse("chaos").unwrap();
    let (store, _bus) = connect(redis.settings(), install, Limits::default()).await;
    let stacks = [stack::start(script, 1).await];
    let lease = (elects == Elects::ApiServer).then(|| tokio::task::block_in_place(Lease::start));
    let (ours, ledger) = (program(), Arc::new(Ledger::default()));
    let processes = (PODS, ours.as_path());
    let starting =
        Pods::start(processes, &folder, &redis, lease.as_ref(), &stacks[..], &ledger, &recorder);
    let pods = starting.await;
    let site = Site { recorder: Arc::clone(&recorder), stacks: Arc::new(stacks), pods };
    let watching = tokio::spawn(watch(Arc::clone(&site.stacks), Arc::clone(&recorder)));
    site.led().await;
    let mi = site.stack().mi;
    let subscribed = async || subscribers(mi).len();
    site.until("all have subscribed", async || subscribed().await == PODS).await;
    sleep(OLD_ENOUGH).await;

    let (stop_reading, stopped) = oneshot::channel();
    let reading = tokio::spawn(Reader::new(store).follow(Arc::clone(&recorder), stopped));
    let stall = Arc::new(AtomicU64::new(0));
    let ticking = tokio::spawn(tick(Arc::clone(&stall)));
    let mut turns = Vec::new();
    for (number, takeover) in (1..).zip(takeovers) {
        match Turn::play(&site, number, *takeover).await {
            Ok(turn) => turns.push(turn),
            Err(why) => {
                for task in [watching, ticking, reading] {
                    task.abort();
                }
                site.pods.end().await;
                return Played::NotMeasured(why);
            }
        }
    }
    let panics = site.pods.panics();
    watching.abort();
    ticking.abort();
    let history = end(site, stop_reading, reading).await;
    if keep.is_some() {
        std::fs::write(folder.join("history.txt"), history.text()).unwrap();
    }
    judge(script, &turns, &history, panics, stall.load(Ordering::Relaxed))
}

/// Notes the longest time for which the machine had none for anybody.
async fn tick(stall: Arc<AtomicU64>) {
    loop {
        let before = Instant::now();
        sleep(Duration::from_millis(20)).await;
        let took = u64::try_from(before.elapsed().as_millis()).unwrap();
        stall.fetch_max(took, Ordering::Relaxed);
    }
}

/// Notes what phones see, for as long as it runs.
async fn watch(stacks: Arc<[Stack; 1]>, recorder: Arc<Recorder>) {
    loop {
        stacks[0].note_seen(&recorder).await;
        sleep(Duration::from_millis(250)).await;
    }
}

/// One takeover, and what was seen of it.
struct Turn {
    number: usize,
    takeover: Takeover,
    /// Who led, and went.
    leader: usize,
    /// From that to the next one's lead, ms.
    election: Time,
    /// So many events were sent meanwhile.
    meanwhile: u32,
    /// So many commands were undecided when it went.
    undecided: usize,
    /// So many a phone decided while nobody led, where phones keep a log of their own.
    decided: Option<usize>,
    /// What phones saw of the wave and its client was told otherwise.
    wrong: Vec<String>,
    /// The client of the transfers that ring, and that of the wave.
    bell: Client,
    client: Client,
    wishes: Vec<wave::Wish>,
    sent: Sent,
    /// Datagrams that the system threw away at the sockets of processes that were awake.
    dropped: u64,
}

impl Turn {
    async fn play(site: &Site, number: usize, takeover: Takeover) -> Result<Self, String> {
        let before = thrown_away();
        let bell = Client::begin(2 * number, &site.pods, &site.recorder).await;
        let ringing = ring(site, &bell, number).await?;
        let wishes = wave::wishes(2 * number + 1, site.stack(), &site.recorder).await;
        let calls: Vec<String> = wishes.iter().filter_map(wave::Wish::call).collect();
        site.until("the wave's calls are up", async || site.stack().are_up(&calls).await).await;
        let noise = Noise::begin(&site.stacks, ringing);
        let client = Client::begin(2 * number + 1, &site.pods, &site.recorder).await;
        for wish in &wishes {
            wish.ask(&client);
            sleep(APART).await;
        }
        // From then on only phones are waited for.
        let sent = async || {
            wishes.iter().filter(|wish| wish.calls()).all(|wish| {
                let told = client.told(&wish.id);
                let is_sent = |told: &Value| told["event"] == "TransferStart";
                was_not_sent(&told) || told.ended().is_some() || told.events.values().any(is_sent)
            })
        };
        site.until("all has been sent to phones", sent).await;
        sleep(ANSWERED).await;
        let ended: Vec<_> = wishes.iter().map(|wish| client.told(&wish.id)).collect();
        if let Some(told) = ended.iter().find(|told| was_not_sent(told)) {
            return Err(format!("a command was not sent in time: {}", told.outcome()));
        }
        let undecided = ended.iter().filter(|told| told.ended().is_none()).count();
        if undecided * 2 < wishes.len() {
            return Err(format!("only {undecided} of {} commands were undecided", wishes.len()));
        }
        let ports = noise.subscribers();
        let leader = site.led().await;
        if [&bell, &client].map(Client::at).contains(&Some(leader)) {
            return Err("a client's process came to lead".to_owned());
        }
        let events = noise.events();
        let (at, back) = go(site, leader, takeover).await;
        let next = async || site.pods.leader(0).is_some_and(|pod| pod != leader);
        site.until("another one leads", next).await;
        let leads = site.recorder.now();
        let (election, meanwhile) = (leads - at, noise.events() - events);
        let over = async || {
            wishes.iter().all(|wish| {
                let told = client.told(&wish.id);
                told.refused.is_some() || told.ended().is_some()
            })
        };
        site.until("all of the wave have ended", over).await;
        back.await.unwrap();
        if takeover == Takeover::Killed {
            // Its successor has a port of its own.
            site.pods.run(leader);
            site.pods.serves(leader).await;
            let new = async || noise.subscribers().iter().any(|to| !ports.contains(to));
            site.until("its successor has subscribed", new).await;
        }
        let sent = noise.end();
        let decided = site.stack().decided(&wishes, at..leads, site.recorder.now());
        let outcomes = wishes.iter().map(|wish| (wish, client.told(&wish.id).outcome()));
        let wrong = site.stack().told_wrong(&outcomes.collect::<Vec<_>>());
        let mut turn = Self {
            number,
            takeover,
            leader,
            election,
            meanwhile,
            undecided,
            decided,
            wrong,
            bell,
            client,
            wishes,
            sent,
            dropped: 0,
        };
        // What was reported last is on its way. What does not come is judged below.
        let deadline = Instant::now() + ON_ITS_WAY;
        while turn.reports().0.len() < turn.sent.reports.len() && Instant::now() < deadline {
            sleep(Duration::from_millis(10)).await;
        }
        turn.dropped = dropped(&ports, &before, takeover);
        turn.give_up(site).await;
        Ok(turn)
    }

    /// Cancels what rings.
    async fn give_up(&self, site: &Site) {
        let (bell, number) = (&self.bell, self.number);
        for transfer in 0..RINGING {
            bell.ask(&id(number, transfer), "CommandCancel", json!({}));
            sleep(APART).await;
        }
        let over = async || {
            (0..RINGING).all(|transfer| bell.told(&id(number, transfer)).ended().is_some())
        };
        site.until("what rings is given up", over).await;
    }

    /// What was told otherwise than it was.
    fn judge(&self, history: &History, broken: &mut Vec<String>) {
        let (told, twice) = self.reports();
        let sent: BTreeSet<Report> = self.sent.reports.iter().copied().collect();
        let missing: Vec<&Report> = sent.difference(&told).collect();
        if !missing.is_empty() {
            broken.push(format!("{} events were not told: {missing:?}", missing.len()));
        }
        if !twice.is_empty() {
            broken.push(format!("{} events were told twice: {twice:?}", twice.len()));
        }
        let ring = id(self.number, 0);
        let ring = ring.trim_end_matches('0');
        let committed = history.events.iter().filter(|event| {
            matches!(&event.what, What::Told { cmd_id, event, .. }
                if event == "TransferPending" && cmd_id.starts_with(ring))
        });
        // With what phones reported by themselves.
        let heard = (0..RINGING)
            .flat_map(|transfer| self.bell.told(&id(self.number, transfer)).events.into_values());
        let heard = heard.filter(|told| told["event"] == "TransferPending").count();
        let committed = committed.count();
        if committed != heard {
            broken.push(format!("{committed} reports are in the stream, {heard} were told"));
        }
        broken.extend(self.wrong.iter().cloned());
        for wish in &self.wishes {
            let outcome = self.client.told(&wish.id).outcome();
            if outcome != wish.wanted {
                broken.push(format!("{}: {outcome}, wanted {}", wish.id, wish.wanted));
            }
        }
        for transfer in 0..RINGING {
            let id = id(self.number, transfer);
            let outcome = self.bell.told(&id).outcome();
            if !outcome.starts_with("cancelled") {
                broken.push(format!("{id}: {outcome}, wanted cancelled"));
            }
        }
    }

    /// Events a second, in all and while nobody led.
    fn rates(&self) -> [f64; 2] {
        let all = f64::from(self.sent.events) / self.sent.took.as_secs_f64();
        let election = Duration::from_millis(self.election).as_secs_f64();
        [all, f64::from(self.meanwhile) / election]
    }

    /// What was told of the transfers that ring, and what of it more than once.
    fn reports(&self) -> (BTreeSet<Report>, Vec<Report>) {
        let (mut told, mut twice) = (BTreeSet::new(), Vec::new());
        for transfer in 0..RINGING {
            for event in self.bell.told(&id(self.number, transfer)).events.values() {
                let extra = event["data"]["extra"].as_str().unwrap_or_default();
                let Some(status) = amount::status_in(extra) else { continue };
                let report = (transfer, status);
                if !told.insert(report) {
                    twice.push(report);
                }
            }
        }
        (told, twice)
    }
}

fn id(number: usize, transfer: usize) -> String {
    format!("c{}-ring{transfer}", 2 * number)
}

/// Whether nobody had the time to send it: the stack never saw it.
fn was_not_sent(told: &Told) -> bool {
    let refused = told.refused.as_ref();
    let away = refused.is_some_and(|refused| refused["data"]["kind"] == "store_unavailable");
    away || told.ended().is_some_and(|ended| ended["outcome"] == "not_started")
}

/// Transfers that ring. An error says why not all were asked in time.
async fn ring(site: &Site, bell: &Client, number: usize) -> Result<Vec<Ringing>, String> {
    let mut ringing = Vec::new();
    for transfer in 0..RINGING {
        let transferee = format!("reports{}", transfer % EACH);
        let call = site.stack().talk("talks0", &transferee).await;
        site.recorder.note(What::Given { stack: 0, call: call.clone() });
        ringing.push(Ringing { call, transferee });
    }
    let calls: Vec<String> = ringing.iter().map(|ringing| ringing.call.clone()).collect();
    site.until("all are up", async || site.stack().are_up(&calls).await).await;
    for (transfer, call) in calls.iter().enumerate() {
        let id = id(number, transfer);
        let params = json!({"callid": call, "leg": "callee", "destination": uri("rings", &id)});
        bell.ask(&id, "CallBlindTransfer", params);
        sleep(APART).await;
    }
    let rings = |transfer| {
        let told = bell.told(&id(number, transfer));
        told.events.values().any(|told| told["event"] == "TransferStart")
    };
    let deadline = Instant::now() + DEADLINE;
    while let Some(transfer) = (0..RINGING).find(|transfer| !rings(*transfer)) {
        let told = bell.told(&id(number, transfer));
        let outcome = told.outcome();
        if was_not_sent(&told) {
            return Err(format!("transfer {transfer} was not sent in time: {outcome}"));
        }
        let waits = told.ended().is_none() && Instant::now() < deadline;
        assert!(waits, "transfer {transfer} does not ring: {outcome}, {told:?}");
        sleep(Duration::from_millis(10)).await;
    }
    Ok(ringing)
}

/// Datagrams that were thrown away since then, at the sockets of those that were awake: one that stands
/// still loses what does not fit its buffer, and that is part of it.
fn dropped(sockets: &[String], before: &BTreeMap<u16, u64>, takeover: Takeover) -> u64 {
    let now = thrown_away();
    let port = |to: &String| to.rsplit_once(':')?.1.parse::<u16>().ok();
    let of = |all: &BTreeMap<u16, u64>, port| all.get(&port).copied().unwrap_or_default();
    let ports = sockets.iter().filter_map(port);
    let each = ports.map(|port| of(&now, port).saturating_sub(of(before, port)));
    let each: Vec<u64> = each.collect();
    let asleep = match takeover {
        Takeover::Killed => 0,
        Takeover::Stopped => each.iter().copied().max().unwrap_or_default(),
    };
    each.iter().sum::<u64>() - asleep
}

/// The leader goes. When, and what ends when it is there again (or can be started again).
async fn go(site: &Site, leader: usize, how: Takeover) -> (Time, tokio::task::JoinHandle<()>) {
    let at = site.recorder.now();
    match how {
        Takeover::Killed => {
            site.pods.kill(leader).await;
            (at, tokio::spawn(async {}))
        }
        Takeover::Stopped => {
            let pods = Arc::clone(&site.pods);
            (at, tokio::spawn(async move { pods.pause(leader, STANDS_STILL).await }))
        }
    }
}

/// Ends all of it, once no leg of ours is left; the history.
async fn end(
    site: Site,
    stop_reading: oneshot::Sender<()>,
    reading: tokio::task::JoinHandle<()>,
) -> History {
    let clear = async || {
        let calls = site.stack().calls_of_phones().await;
        !calls.iter().any(|call| call.starts_with("cp-"))
    };
    site.until("no setup leg is up", clear).await;
    let calm = site.recorder.now();
    drop(stop_reading);
    reading.await.unwrap();
    site.stack().note_seen(&site.recorder).await;
    for call in site.stack().calls_of_phones().await {
        let setup = call.starts_with("cp-");
        site.recorder.note(What::Left { stack: 0, call, setup });
    }
    site.pods.end().await;
    let mut history = site.recorder.take();
    history.calm = calm;
    history.told = true;
    told::complete(&mut history);
    history
}

fn judge(
    script: Script,
    turns: &[Turn],
    history: &History,
    panics: Vec<String>,
    stall: u64,
) -> Played {
    let mut broken = panics;
    for turn in turns {
        turn.judge(history, &mut broken);
    }
    // No fault is noted, so nothing excuses anything.
    broken.extend(history::judge(history).iter().map(ToString::to_string));
    let mut report = format!("{script:?} script, the machine stood still for {stall} ms at most");
    for turn in turns {
        let Turn { takeover, leader, election, sent, undecided, decided, dropped, .. } = turn;
        let ([all, meanwhile], reports) = (turn.rates(), sent.reports.len());
        let decided = decided.map(|decided| format!(" ({decided} by phones while nobody led)"));
        write!(
            report,
            "\n  leader {leader} {takeover:?}, the next one led after {election} ms; {all:.0} events/s, \
             {meanwhile:.0} meanwhile, {} in all, {reports} of them told to a client ({} never reached \
             the stack); {undecided} of {} commands were undecided then{}; {dropped} datagrams thrown \
             away",
            sent.events,
            sent.untaken,
            turn.wishes.len(),
            decided.unwrap_or_default(),
        )
        .unwrap();
    }
    if !broken.is_empty() {
        let list = broken.join("\n  ");
        return Played::Broken(format!("{report}\n{} broken:\n  {list}", broken.len()));
    }
    if turns.iter().any(|turn| turn.sent.untaken * UNTAKEN > turn.sent.reports.len()) {
        return Played::NotMeasured(format!("the stack did not get all reports: {report}"));
    }
    let least = f64::from(amount::rate() * TENTHS / 10);
    if turns.iter().flat_map(Turn::rates).any(|rate| rate < least) {
        return Played::NotMeasured(format!("fewer than {least:.0} events/s: {report}"));
    }
    Played::Well(report)
}
