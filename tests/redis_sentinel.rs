//! Masters that change: commits go on with the new one, in one new epoch, and what was acknowledged
//! as kept by the replica is there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[allow(dead_code, reason = "the suites use the rest")]
#[path = "contract/commits.rs"]
mod commits;
mod redis_server;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use callplane::bus::{Bus as _, Listener};
use callplane::clock::{Clock as _, SystemClock};
use callplane::core::ids::{Epoch, Install, TenantId};
use callplane::core::record::{Entry, Position};
use callplane::core::time::StoreTime;
use callplane::store::redis::{RedisBus, RedisStore, Settings};
use callplane::store::{Away, Commit, Limits, Store, Verdict};

use commits::{Bounds, Pen, Stand, hold, key, nonce};
use redis_server::sentinels::Guarded;
use redis_server::{connect, is_here};

const DEADLINE: Duration = Duration::from_secs(20);

/// Until commits are acknowledged again after a master died or stands still: the Sentinels notice it
/// after one second, and elect; the rest is for a busy machine.
const DEAD: Duration = Duration::from_secs(6);

/// The same where they change it themselves: they do not need to notice anything.
const ORDERED: Duration = Duration::from_secs(4);

/// How long a master that was replaced and lives is watched: the Sentinels leave it alone for eight
/// seconds, in which it takes writes.
const WATCHED: Duration = Duration::from_secs(2);

/// Processes that share servers.
struct Site {
    servers: Arc<Guarded>,
    store: Arc<RedisStore>,
    bus: RedisBus,
}

impl Site {
    async fn at(servers: Arc<Guarded>) -> Self {
        let settings = Settings { replicas: 1, ..servers.settings() };
        let (store, bus) = connect(settings, Install::default(), Limits::default()).await;
        Self { servers, store, bus }
    }
}

impl Stand for Site {
    type Store = RedisStore;
    type Bus = RedisBus;

    async fn fresh(_bounds: Bounds) -> Self {
        let servers = tokio::task::spawn_blocking(Guarded::start).await.unwrap();
        Self::at(Arc::new(servers)).await
    }

    fn store(&self) -> &RedisStore {
        &self.store
    }

    fn bus(&self) -> &RedisBus {
        &self.bus
    }

    async fn now(&self) -> StoreTime {
        SystemClock::new().now()
    }

    async fn pass(&self, _time: Duration) {
        unreachable!("time passes by itself")
    }
}

/// A commit that was answered.
#[derive(Debug, Clone)]
struct Acknowledged {
    id: String,
    epoch: Epoch,
    /// The replica has it.
    durable: bool,
}

/// Commits one after the other, as fast as a busy process, whatever happens.
struct Writer {
    pen: Arc<Pen<Site>>,
    acknowledged: Arc<Mutex<Vec<Acknowledged>>>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Writer {
    fn start(name: &'static str, pen: Pen<Site>) -> Self {
        let pen = Arc::new(pen);
        let acknowledged = Arc::<Mutex<Vec<Acknowledged>>>::default();
        let stop = Arc::new(AtomicBool::new(false));
        let task = {
            let (pen, acknowledged, stop) =
                (Arc::clone(&pen), Arc::clone(&acknowledged), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut epoch = pen.epoch.clone();
                for n in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let id = format!("{name}-{n}");
                    let written = write(&pen, &id, n % 2 == 0, &mut epoch).await;
                    acknowledged.lock().unwrap().push(written);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            })
        };
        Self { pen, acknowledged, stop, task }
    }

    fn so_far(&self) -> Vec<Acknowledged> {
        self.acknowledged.lock().unwrap().clone()
    }

    /// Waits for one that holds.
    async fn until(&self, what: &str, within: Duration, holds: impl Fn(&Acknowledged) -> bool) {
        let begun = Instant::now();
        while !self.so_far().iter().any(&holds) {
            let last = self.so_far().pop();
            assert!(begun.elapsed() < within, "{what}: not within {within:?}, last {last:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What it was acknowledged, and what of that is not there.
    async fn ended(&mut self) -> (Vec<Acknowledged>, Vec<Acknowledged>) {
        self.stop.store(true, Ordering::SeqCst);
        tokio::time::timeout(DEADLINE, &mut self.task).await.expect("it stops").unwrap();
        let all = self.acknowledged.lock().unwrap().clone();
        let mut lost = Vec::new();
        for one in &all {
            if self.pen.find_key(&key(&one.id)).await.is_none() {
                lost.push(one.clone());
            }
        }
        (all, lost)
    }
}

async fn write(pen: &Pen<Site>, id: &str, durable: bool, epoch: &mut Epoch) -> Acknowledged {
    let mut commit = pen.beginning(key(id), hold(id)).await;
    commit.not_after = commit.not_after.after(DEADLINE);
    commit.quota = None;
    commit.durable = durable;
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < DEADLINE, "{id} is never acknowledged");
        commit = Commit { epoch: epoch.clone(), ..commit };
        match pen.stand.store.commit(commit.clone()).await {
            Ok(Verdict::Applied { durable: kept, .. }) => {
                let durable = durable && kept;
                let (id, epoch) = (id.to_owned(), epoch.clone());
                return Acknowledged { id, epoch, durable };
            }
            Ok(Verdict::EpochChanged(changed)) => {
                *epoch = changed;
                commit.nonce = nonce();
            }
            Ok(verdict) => panic!("{verdict:?}"),
            Err(Away) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// What was told.
#[derive(Default)]
struct Ear {
    entries: Mutex<Vec<(Epoch, u64)>>,
    skipped: Mutex<Vec<Position>>,
}

impl Listener for Ear {
    fn entries(&self, _tenant: &TenantId, epoch: &Epoch, entries: &[Arc<Entry>]) {
        let entries = entries.iter().map(|entry| (epoch.clone(), entry.seq));
        self.entries.lock().unwrap().extend(entries);
    }

    fn skipped(&self, _tenant: &TenantId, to: &Position) {
        self.skipped.lock().unwrap().push(to.clone());
    }
}

/// Two processes that write all the time, through whatever happens to the masters.
struct Busy {
    servers: Arc<Guarded>,
    writers: [Writer; 2],
    ear: Arc<Ear>,
}

impl Busy {
    async fn start() -> Self {
        let pen = Pen::<Site>::fresh(Bounds::default()).await;
        let servers = Arc::clone(&pen.stand.servers);
        let ear = Arc::new(Ear::default());
        pen.stand.bus.attach(ear.clone());
        let another = Pen::of(Site::at(Arc::clone(&servers)).await, Bounds::default()).await;
        let writers = [Writer::start("a", pen), Writer::start("b", another)];
        for writer in &writers {
            let nth = |one: &Acknowledged| one.durable && one.id.ends_with("-100");
            writer.until("a hundred commits", DEADLINE, nth).await;
        }
        Self { servers, writers, ear }
    }

    /// Both commit in a new epoch within this time.
    async fn go_on(&self, within: Duration) {
        let begun = Instant::now();
        let old = self.writers[0].so_far()[0].epoch.clone();
        for writer in &self.writers {
            writer.until("to commit again", within, |one| one.epoch != old).await;
        }
        println!("commits again after {:?}", begun.elapsed());
        for writer in &self.writers {
            let before = writer.so_far().len();
            let more = |_: &Acknowledged| writer.so_far().len() > before + 10;
            writer.until("ten more commits", DEADLINE, more).await;
        }
    }

    /// The old master, which lives, is not written to any more.
    async fn leave_the_old_one_alone(&self) {
        let before = scripts_run(&self.servers);
        tokio::time::sleep(WATCHED).await;
        assert_eq!(scripts_run(&self.servers), before, "the old master is written to");
    }

    /// What must be so whatever happened.
    async fn check(mut self) {
        let mut epochs = BTreeSet::new();
        let mut newest = None;
        let mut told = 0;
        for writer in &mut self.writers {
            let (all, lost) = writer.ended().await;
            let (first, last) = (&all[0].epoch, &all[all.len() - 1].epoch);
            epochs.extend(all.iter().map(|one| one.epoch.as_str().to_owned()));
            let since = all.iter().position(|one| one.epoch == *last).unwrap();
            for (place, one) in all.iter().enumerate() {
                let expected = if place < since { first } else { last };
                assert_eq!(one.epoch, *expected, "an old master acknowledged {one:?}");
            }
            for one in &lost {
                assert_eq!(one.epoch, *first, "acknowledged by the new master, and lost: {one:?}");
                assert!(!one.durable, "kept by the replica, and lost: {one:?}");
            }
            println!(
                "{} commits, {} in the new epoch, {} of the old one lost",
                all.len(),
                all.len() - since,
                lost.len()
            );
            told += all.len() - since;
            newest = Some(last.clone());
        }
        assert_eq!(epochs.len(), 2, "one new epoch: {epochs:?}");
        self.all_told(newest.unwrap(), told).await;
    }

    /// Everything of this epoch was told, in order, once.
    async fn all_told(&self, epoch: Epoch, count: usize) {
        let begun = Instant::now();
        let seqs = loop {
            let all = self.ear.entries.lock().unwrap().clone();
            let of_it = all.iter().filter(|(of, _)| *of == epoch).map(|(_, seq)| *seq);
            let of_it: Vec<_> = of_it.collect();
            if of_it.len() == count {
                break of_it;
            }
            assert!(begun.elapsed() < DEADLINE, "{} of {count} are told", of_it.len());
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        assert!(seqs.is_sorted_by(|a, b| a + 1 == *b), "{seqs:?}");
        let begins = Position { epoch, seq: seqs[0] - 1 };
        assert_eq!(*self.ear.skipped.lock().unwrap(), [begins]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_died_is_left_for_the_one_that_the_sentinels_choose() {
    if !is_here("a_master_that_died_is_left_for_the_one_that_the_sentinels_choose") {
        return;
    }
    let busy = Busy::start().await;
    busy.servers.server(0).kill();
    busy.go_on(DEAD).await;
    busy.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_replaced_while_it_lives_is_left_at_once() {
    if !is_here("a_master_that_is_replaced_while_it_lives_is_left_at_once") {
        return;
    }
    let busy = Busy::start().await;
    busy.servers.fail_over();
    busy.go_on(ORDERED).await;
    busy.leave_the_old_one_alone().await;
    busy.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_wakes_up_after_it_was_replaced_gets_nothing_any_more() {
    if !is_here("a_master_that_wakes_up_after_it_was_replaced_gets_nothing_any_more") {
        return;
    }
    let busy = Busy::start().await;
    busy.servers.server(0).pause();
    busy.go_on(DEAD).await;
    busy.servers.server(0).go_on();
    let told = busy.servers.server(0).ask_all(&["INFO", "replication"]);
    assert!(told.contains("role:master"), "it takes itself for the master: {told}");
    busy.leave_the_old_one_alone().await;
    busy.check().await;
}

/// How many scripts the first server has run for clients. (It takes the new master's writes as such.)
fn scripts_run(servers: &Guarded) -> String {
    let counts = servers.server(0).ask_all(&["INFO", "commandstats"]);
    let count = counts.lines().find(|line| line.starts_with("cmdstat_evalsha:"));
    count.unwrap().split(',').next().unwrap().to_owned()
}
