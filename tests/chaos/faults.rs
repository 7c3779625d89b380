//! What goes wrong, and when.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::history::{Fault, Time, What};
use super::lease::Lease;
use super::link::Way;
use super::pods::Pods;
use super::random::Random;
use super::record::Recorder;
use super::redis::{Failover, Redis};

/// Which kinds of faults there are beside kills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A process stands still for a while.
    Pause,
    /// The way of a process to Redis is stalled or cut.
    Link,
    /// Redis dies and comes back with all it acknowledged.
    Redis,
    /// Every process is told to stop and started again, one after the other.
    Rolling,
    /// Redis forgets everything.
    Flush,
    /// Sentinels choose another master.
    Failover,
    /// The API server stands still, or is gone and comes back.
    Lease,
    /// The way of a process to the API server is stalled or cut.
    Cut,
}

impl Kind {
    pub const ALL: [Self; 8] = [
        Self::Pause,
        Self::Link,
        Self::Redis,
        Self::Rolling,
        Self::Flush,
        Self::Failover,
        Self::Lease,
        Self::Cut,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Link => "link",
            Self::Redis => "redis",
            Self::Rolling => "rolling",
            Self::Flush => "flush",
            Self::Failover => "failover",
            Self::Lease => "lease",
            Self::Cut => "cut",
        }
    }

    /// The kinds that a text like `pause,link` names.
    pub fn named(text: &str) -> Vec<Self> {
        let named = text.split(',').filter(|name| !name.is_empty());
        let named = named.map(|name| {
            let kind = Self::ALL.into_iter().find(|kind| kind.name() == name);
            kind.unwrap_or_else(|| panic!("no such fault: {name}"))
        });
        named.collect()
    }
}

/// What was done to a process.
#[derive(Debug, Clone)]
pub struct Done {
    pub at: Time,
    pub until: Time,
    /// `None`: to all.
    pub pod: Option<usize>,
    pub what: &'static str,
}

/// How long two builds serve beside each other before the next thing happens.
const SIDE_BY_SIDE: Duration = Duration::from_secs(4);

pub struct Faults {
    pub pods: Arc<Pods>,
    pub redis: Arc<Redis>,
    /// Where an API server elects.
    pub lease: Option<Lease>,
    pub recorder: Arc<Recorder>,
    pub done: Mutex<Vec<Done>>,
    /// Kills: when, which process, and the stacks that it led.
    pub kills: Mutex<Vec<(Time, usize, Vec<usize>)>>,
    /// Who ends and starts a process does so alone.
    places: Vec<tokio::sync::Mutex<()>>,
    /// One failover at a time: the other server has to follow before it can be chosen.
    failover: tokio::sync::Mutex<()>,
    /// One trouble of the API server at a time.
    trouble: tokio::sync::Mutex<()>,
}

impl Faults {
    pub fn new(
        pods: &Arc<Pods>,
        redis: Arc<Redis>,
        lease: Option<Lease>,
        recorder: &Arc<Recorder>,
    ) -> Arc<Self> {
        let (pods, recorder) = (Arc::clone(pods), Arc::clone(recorder));
        let (done, kills) = (Mutex::default(), Mutex::default());
        let places = (0..pods.count()).map(|_| tokio::sync::Mutex::default()).collect();
        let (failover, trouble) = Default::default();
        Arc::new(Self { pods, redis, lease, recorder, done, kills, places, failover, trouble })
    }

    /// So many rolling restarts, and nothing else.
    pub async fn roll(&self, times: usize, random: &mut Random) {
        for _ in 0..times {
            sleep(random.millis(500, 2500)).await;
            self.rolling().await;
        }
    }

    fn now(&self) -> Time {
        self.recorder.now()
    }

    fn done(&self, at: Time, pod: Option<usize>, what: &'static str) {
        let until = self.now();
        self.done.lock().unwrap().push(Done { at, until, pod, what });
    }

    /// So many kills, and other faults of these kinds between them. All is well again at the end.
    pub async fn play(self: &Arc<Self>, kills: usize, kinds: &[Kind], random: &mut Random) {
        let mut under_way = JoinSet::new();
        for number in 1..=kills {
            sleep(random.millis(900, 2300)).await;
            let victim = self.victim(random);
            let back = random.millis(50, 1400);
            let faults = Arc::clone(self);
            under_way.spawn(async move { faults.kill(victim, back).await });
            let Some(kind) = self.beside(number, kinds, random) else { continue };
            let (faults, mut own) = (Arc::clone(self), random.fork());
            let start = random.millis(0, 1500);
            under_way.spawn(async move {
                sleep(start).await;
                faults.one(kind, &mut own).await;
            });
            while let Some(ended) = under_way.try_join_next() {
                ended.unwrap();
            }
        }
        while let Some(ended) = under_way.join_next().await {
            ended.unwrap();
        }
    }

    /// What goes wrong beside this kill. Flushes are rare: they make everybody forget.
    fn beside(&self, number: usize, kinds: &[Kind], random: &mut Random) -> Option<Kind> {
        let guarded = self.redis.port().is_none();
        let drawn = match number % 50 {
            // Where it elects, the API server is in trouble half of the time.
            n if self.lease.is_some() && n.is_multiple_of(4) => Kind::Lease,
            n if self.lease.is_some() && n % 4 == 2 => Kind::Cut,
            4 | 13 | 26 | 39 if guarded => Kind::Failover,
            9 | 31 if guarded => Kind::Rolling,
            _ if guarded && number.is_multiple_of(3) => Kind::Pause,
            _ if guarded => return None,
            12 => Kind::Redis,
            21 => Kind::Rolling,
            32 => Kind::Redis,
            40 => Kind::Flush,
            _ if number.is_multiple_of(3) => *random.pick(&[Kind::Pause, Kind::Link]),
            _ => return None,
        };
        kinds.contains(&drawn).then_some(drawn)
    }

    /// A leader, or any.
    fn victim(&self, random: &mut Random) -> usize {
        let count = self.pods.count();
        let any = random.index(count);
        let stack = random.index(2);
        let leader = if random.percent(40) { self.pods.leader(stack) } else { None };
        let serving = |pod: &usize| self.pods.is_serving(*pod);
        let others = (0..count).map(|step| (any + step) % count);
        leader.into_iter().chain(others).find(serving).unwrap_or(any)
    }

    async fn kill(&self, pod: usize, back: Duration) {
        let _alone = self.places[pod].lock().await;
        let led = (0..2).filter(|stack| self.pods.leader(*stack) == Some(pod)).collect();
        let at = self.now();
        self.pods.kill(pod).await;
        self.kills.lock().unwrap().push((at, pod, led));
        sleep(back).await;
        self.pods.come_back(pod, at).await;
        self.done(at, Some(pod), "killed");
    }

    async fn one(&self, kind: Kind, random: &mut Random) {
        match kind {
            Kind::Pause => self.pause(random).await,
            Kind::Link => self.link(random).await,
            Kind::Redis => self.redis(random).await,
            Kind::Rolling => self.rolling().await,
            Kind::Flush => self.flush(),
            Kind::Failover => self.failover(random).await,
            Kind::Lease => self.lease(random).await,
            Kind::Cut => self.cut(random).await,
        }
    }

    async fn pause(&self, random: &mut Random) {
        let pod = random.index(self.pods.count());
        let at = self.now();
        self.pods.pause(pod, random.millis(1000, 8000)).await;
        let until = self.now();
        self.recorder.note_at(at, What::Fault { kind: Fault::Pause, until });
        self.done(at, Some(pod), "paused");
    }

    async fn link(&self, random: &mut Random) {
        let pod = random.index(self.pods.count());
        let at = self.now();
        let (way, what) = *random
            .pick(&[(Way::Stalled, "link to redis stalled"), (Way::Refused, "link to redis cut")]);
        let Some(link) = self.pods.link(pod) else { return };
        link.set(way);
        sleep(random.millis(200, 5000)).await;
        link.set(Way::Open);
        let until = self.now();
        self.recorder.note_at(at, What::Fault { kind: Fault::Store, until });
        self.done(at, Some(pod), what);
    }

    /// Nothing of it may be seen by clients: whoever leads goes on, and who is killed meanwhile leaves
    /// its events to whoever leads afterwards.
    async fn lease(&self, random: &mut Random) {
        let Some(lease) = &self.lease else { return };
        // One that is in trouble already comes to rest before it is again.
        let Ok(_alone) = self.trouble.try_lock() else { return };
        let at = self.now();
        let away = random.millis(1000, 8000);
        let what = if random.percent(50) {
            lease.server.pause();
            sleep(away).await;
            lease.server.go_on();
            "the API server stood still"
        } else {
            tokio::task::block_in_place(|| lease.server.stop());
            sleep(away).await;
            tokio::task::block_in_place(|| lease.server.start_again());
            "the API server was gone"
        };
        let until = self.now();
        self.recorder.note_at(at, What::Fault { kind: Fault::Lease, until });
        self.done(at, None, what);
    }

    async fn cut(&self, random: &mut Random) {
        let pod = random.index(self.pods.count());
        let at = self.now();
        let Some(way) = self.pods.way_to_lease(pod) else { return };
        way.set(*random.pick(&[Way::Stalled, Way::Refused]));
        sleep(random.millis(1000, 8000)).await;
        way.set(Way::Open);
        let until = self.now();
        self.recorder.note_at(at, What::Fault { kind: Fault::Lease, until });
        self.done(at, Some(pod), "cut off from the API server");
    }

    async fn redis(&self, random: &mut Random) {
        let at = self.now();
        let down = random.millis(100, 2500);
        tokio::task::block_in_place(|| self.redis.kill());
        sleep(down).await;
        tokio::task::block_in_place(|| self.redis.restart());
        let until = self.now();
        self.recorder.note_at(at, What::Fault { kind: Fault::Store, until });
        self.done(at, None, "redis restarted");
    }

    async fn rolling(&self) {
        let at = self.now();
        for pod in 0..self.pods.count() {
            self.replace(pod).await;
        }
        self.done(at, None, "rolling restart");
    }

    async fn replace(&self, pod: usize) {
        let _alone = self.places[pod].lock().await;
        let stopped = self.now();
        // Whether it waited for all that it had asked: a phone may ring for longer than that.
        let _ = self.pods.stop(pod).await;
        self.pods.run(pod);
        self.pods.serves(pod).await;
        self.done(stopped, Some(pod), "told to stop");
    }

    /// Every process gives way to one of this build, one after the other. Halfway both builds serve
    /// side by side for a while, and one of each dies.
    async fn change_to(&self, build: &Path, random: &mut Random) {
        let half = self.pods.count() / 2;
        for pod in 0..self.pods.count() {
            if pod == half {
                for victim in [random.index(half), half + random.index(half)] {
                    sleep(SIDE_BY_SIDE).await;
                    self.kill(victim, random.millis(50, 1400)).await;
                }
                sleep(SIDE_BY_SIDE).await;
            }
            self.pods.becomes(pod, build);
            self.replace(pod).await;
        }
        sleep(SIDE_BY_SIDE).await;
    }

    /// An upgrade to `new`, and back to the build that ran before.
    pub async fn upgrade_and_roll_back(&self, old: &Path, new: &Path, random: &mut Random) {
        sleep(SIDE_BY_SIDE).await;
        self.change_to(new, random).await;
        self.change_to(old, random).await;
    }

    fn flush(&self) {
        let at = self.now();
        tokio::task::block_in_place(|| self.redis.flush());
        self.recorder.note_at(at, What::Fault { kind: Fault::StoreLost, until: self.now() });
        self.done(at, None, "redis forgot everything");
    }

    /// What the old master had acknowledged last may be lost.
    async fn failover(&self, random: &mut Random) {
        let _alone = self.failover.lock().await;
        let at = self.now();
        let ways = [Failover::Killed, Failover::Paused, Failover::Ordered];
        let (how, pause) = (*random.pick(&ways), random.millis(0, 3000));
        let lost = tokio::task::block_in_place(|| self.redis.lose_master(how));
        let until = self.now();
        for (at, kind) in [(at, Fault::Store), (at, Fault::StoreLost), (until, Fault::StoreLost)] {
            self.recorder.note_at(at, What::Fault { kind, until });
        }
        let what = match how {
            Failover::Killed => "failover: the master of redis died",
            Failover::Paused => "failover: the master of redis stood still",
            Failover::Ordered => "failover: another master of redis was asked for",
        };
        self.done(at, None, what);
        sleep(pause).await;
        tokio::task::block_in_place(|| self.redis.mend(how, lost));
    }
}
