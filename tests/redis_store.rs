//! The store in Redis when Redis fails: every call ends in time, what was lost is said, and it works
//! again by itself.
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
#[path = "support/log.rs"]
mod log;
mod redis_server;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use callplane::bus::{Bus as _, Listener};
use callplane::clock::{Clock as _, SystemClock};
use callplane::core::ids::{Epoch, Install, PodId, Scope, SessionId, TenantId, Term};
use callplane::core::partition::Partition;
use callplane::core::record::{Entry, Position, Record};
use callplane::core::time::StoreTime;
use callplane::store::redis::{RedisBus, RedisStore, Servers, Settings};
use callplane::store::{
    ALIVE, Away, Beat, Commit, Find, Life, Limits, Store as _, Unfound, Unreadable, Verdict,
};

use commits::{Bounds, Pen, Stand, hold, key, nonce, ours};
use log::Log;
use redis_server::patience::{AT_ONCE, DEADLINE, IN_TIME, started, within};
use redis_server::{RedisServer, Setup, connect, is_here};

/// Sooner than all streams are looked at.
const SOON: Duration = Duration::from_millis(2500);

/// After its return, until it is used again.
const BACK: Duration = Duration::from_secs(3);

/// One process, and a server of its own.
struct Site {
    server: Mutex<RedisServer>,
    store: Arc<RedisStore>,
    bus: RedisBus,
}

impl Site {
    fn server<T>(&self, does: impl FnOnce(&mut RedisServer) -> T) -> T {
        does(&mut self.server.lock().unwrap())
    }

    fn settings(&self) -> Settings {
        self.server(|server| server.settings())
    }

    /// Another process of the installation.
    fn another(&self) -> Arc<RedisStore> {
        started(self.settings())
    }
}

impl Stand for Site {
    type Store = RedisStore;
    type Bus = RedisBus;

    async fn fresh(_bounds: Bounds) -> Self {
        let server = RedisServer::start();
        let (store, bus) = server.connect(Install::default(), Limits::default()).await;
        Self { server: Mutex::new(server), store, bus }
    }

    fn store(&self) -> &RedisStore {
        &self.store
    }

    fn bus(&self) -> &RedisBus {
        &self.bus
    }

    async fn now(&self) -> StoreTime {
        // Its machine is this one.
        SystemClock::new().now()
    }

    async fn pass(&self, _time: Duration) {
        unreachable!("time passes by itself")
    }
}

/// A process that waits for a replica, and that replica.
async fn with_a_replica() -> (Pen<Site>, RedisServer) {
    let server = RedisServer::start();
    let replica = RedisServer::start_as(Setup { replica_of: Some(server.port()) });
    let settings = Settings { replicas: 1, ..server.settings() };
    let (store, bus) = connect(settings, Install::default(), Limits::default()).await;
    let site = Site { server: Mutex::new(server), store, bus };
    (Pen::of(site, Bounds::default()).await, replica)
}

/// `None`: there is no Redis here, and the test is skipped by name.
async fn fresh(test: &str) -> Option<Pen<Site>> {
    if !is_here(test) {
        return None;
    }
    Some(Pen::fresh(Bounds::default()).await)
}

/// May be applied for long.
fn for_long(commit: Commit) -> Commit {
    Commit { not_after: commit.not_after.after(DEADLINE), ..commit }
}

/// Asks until it is answered.
async fn back<T, F: Future<Output = Result<T, Away>>>(asks: impl Fn() -> F) -> T {
    within(BACK, "to be back", async {
        loop {
            if let Ok(answer) = asks().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

/// Until a call is refused at once.
async fn noticed(pen: &Pen<Site>) {
    let refused = within(IN_TIME, "the first call", pen.head(&ours())).await;
    assert_eq!(refused, Err(Away));
    for _ in 0..20 {
        assert_eq!(within(AT_ONCE, "a later call", pen.head(&ours())).await, Err(Away));
    }
}

async fn head_again(store: &RedisStore) -> Position {
    back(|| async move { store.head(&ours()).await }).await
}

async fn find(pen: &Pen<Site>, id: &str) -> Option<Arc<Record>> {
    let asks = || async { pen.stand.store.find(Find::Key(key(id))).await.map_err(Away::from) };
    back(asks).await.pop()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_died_is_away_in_time_and_its_next_life_is_another_epoch() {
    let Some(pen) =
        fresh("a_server_that_died_is_away_in_time_and_its_next_life_is_another_epoch").await
    else {
        return;
    };
    let a = pen.begin("a", hold("A")).await;
    let step = for_long(pen.idle(&a).await);
    let beginning = for_long(pen.beginning(key("b"), hold("B")).await);
    pen.stand.server(RedisServer::kill);
    let store = pen.stand.store();
    for _ in 0..3 {
        let verdict = within(IN_TIME, "a commit", store.commit(step.clone())).await;
        assert_eq!(verdict, Err(Away));
    }
    noticed(&pen).await;
    let found = within(AT_ONCE, "to find", store.find(Find::DueBy(StoreTime(u64::MAX)))).await;
    assert_eq!(found, Err(Unfound::Away(Away)));
    let read = within(AT_ONCE, "to read", store.read(&ours(), &pen.at(0), 9, None)).await;
    assert_eq!(read, Err(Unreadable::Away(Away)));

    pen.stand.server(RedisServer::restart);
    let verdict = back(|| store.commit(beginning.clone())).await;
    let Verdict::EpochChanged(epoch) = verdict else { panic!("{verdict:?}") };
    assert_ne!(epoch, pen.epoch);
    let head = Position { epoch: epoch.clone(), seq: 1 };
    assert_eq!(pen.head(&ours()).await, Ok(head.clone()), "changed once, and numbers go on");
    assert_eq!(find(&pen, "a").await, Some(a), "what was written down is there");
    assert_eq!(find(&pen, "b").await, None);
    // Pages have a connection of their own, which may be back later.
    let old = async || match store.read(&ours(), &pen.at(1), 9, None).await {
        Err(Unreadable::Away(Away)) => Err(Away),
        other => Ok(other),
    };
    assert_eq!(back(old).await, Err(Unreadable::EpochChanged));
    let verdict = pen.commit(Commit { epoch: epoch.clone(), ..beginning }).await;
    assert!(matches!(verdict, Verdict::Applied { first_seq: 2, .. }), "{verdict:?}");
    assert_eq!(store.read(&ours(), &head, 9, None).await.unwrap().entries.len(), 1);
    // What the dead one claimed is claimed.
    let again = Commit { epoch, ..pen.beginning(key("c"), hold("A")).await };
    let verdict = pen.commit(again).await;
    assert!(matches!(verdict, Verdict::Busy { .. }), "{verdict:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_processes_come_to_one_new_epoch_and_terms_begin_anew() {
    let Some(pen) = fresh("all_processes_come_to_one_new_epoch_and_terms_begin_anew").await else {
        return;
    };
    let a = pen.begin("a", hold("A")).await;
    let a = pen.write(Commit { term: Some(Term(7)), ..pen.idle(&a).await }).await;
    let others: Vec<_> = (0..8).map(|_| pen.stand.another()).collect();
    for other in &others {
        assert_eq!(other.head(&ours()).await.unwrap().epoch, pen.epoch);
    }
    pen.stand.server(|server| {
        server.kill();
        server.restart();
    });
    let heads = others.into_iter().map(|other| {
        tokio::spawn(async move {
            let epoch = head_again(&other).await.epoch;
            (other, epoch)
        })
    });
    let heads: Vec<_> = heads.collect();
    let epoch = head_again(&pen.stand.store).await.epoch;
    assert_ne!(epoch, pen.epoch);
    for head in heads {
        let (other, theirs) = head.await.unwrap();
        assert_eq!((&theirs, &other.head(&ours()).await.unwrap().epoch), (&epoch, &epoch));
        let elsewhere = other.head(&commits::tenant("other")).await.unwrap();
        assert_eq!(elsewhere.epoch, epoch, "in every partition");
    }
    let anew = Commit { term: Some(Term(1)), epoch, ..pen.idle(&a).await };
    let verdict = pen.commit(anew).await;
    assert!(matches!(verdict, Verdict::Applied { .. }), "{verdict:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_was_applied_after_its_time_is_recognised_when_it_is_repeated() {
    let Some(pen) =
        fresh("a_commit_that_was_applied_after_its_time_is_recognised_when_it_is_repeated").await
    else {
        return;
    };
    let a = pen.begin("a", hold("A")).await;
    let step = for_long(pen.over(&a).await);
    let told = step.notices.len() as u64;
    let store = pen.stand.store();
    pen.stand.server(|server| server.pause());
    let verdict = within(IN_TIME, "a commit", store.commit(step.clone())).await;
    assert_eq!(verdict, Err(Away));
    noticed(&pen).await;
    pen.stand.server(|server| server.go_on());
    // The server wakes and does what it was asked to.
    let applied = async {
        loop {
            if head_again(&pen.stand.store).await.seq == 1 + told {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(DEADLINE, "the late script", applied).await;
    for _ in 0..3 {
        let Verdict::Applied { first_seq, record, .. } = pen.commit(step.clone()).await else {
            panic!("not recognised");
        };
        assert_eq!((first_seq, record.version), (2, 2));
    }
    assert_eq!(pen.head(&ours()).await, Ok(pen.at(1 + told)), "applied once, in the same epoch");
}

#[tokio::test]
async fn a_record_of_a_later_version_is_known_as_such_and_keeps_nobody_from_the_others() {
    let test = "a_record_of_a_later_version_is_known_as_such_and_keeps_nobody_from_the_others";
    let Some(pen) = fresh(test).await else { return };
    let a = pen.begin("a", hold("A")).await;
    pen.begin("b", hold("B")).await;
    assert_eq!(a.key.scope, Scope::OneShot);
    let name = format!("cp:main:{{{}}}:r:default:-:a", Partition::of(&ours()).number());
    pen.stand.server(|server| server.ask(&["HSET", &name, "record", "{\"of\":\"tomorrow\"}"]));
    let log = Log::default();
    let _kept = log.keep();
    assert_eq!(pen.ids(Find::DueBy(StoreTime(u64::MAX))).await, ["b"]);
    let found = pen.stand.store().find(Find::Key(key("a"))).await;
    assert_eq!(found, Err(Unfound::Illegible));
    // Nor is it begun anew, or gone on with.
    let again = pen.beginning(key("a"), hold("C")).await;
    assert_eq!(pen.commit(again).await, Verdict::Illegible);
    let idle = pen.idle(&a).await;
    let late = Commit { record: Record { version: 7, ..idle.record.clone() }, ..idle };
    assert_eq!(pen.commit(late).await, Verdict::Illegible);
    let told = log.lines("a later version");
    assert!(told.len() == 1 && told[0].contains("WARN"), "{told:#?}");
}

#[tokio::test]
async fn a_leader_that_is_fenced_is_told_of_now_and_then_with_its_term() {
    let test = "a_leader_that_is_fenced_is_told_of_now_and_then_with_its_term";
    let Some(pen) = fresh(test).await else { return };
    let a = pen.begin("a", hold("A")).await;
    let a = pen.write(Commit { term: Some(Term(7)), ..pen.idle(&a).await }).await;
    let log = Log::default();
    let _kept = log.keep();
    for _ in 0..20 {
        let old = Commit { term: Some(Term(3)), ..pen.idle(&a).await };
        assert_eq!(pen.commit(old).await, Verdict::Fenced(Term(7)));
    }
    let told = log.lines("WARN");
    let says = |what| told[0].contains(what);
    assert!(told.len() == 1 && says("stack=s term=3 newest=7"), "{told:#?}");
}

/// What a later version tells, as its processes write it.
fn of_a_later_version() -> Vec<String> {
    let text = include_str!("records/entries-of-a-later-version.jsonl");
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for line in &lines {
        assert!(serde_json::from_str::<Entry>(line).is_err(), "this version knows {line}");
    }
    lines
}

#[tokio::test]
async fn what_a_later_version_tells_is_passed_over_and_stops_nothing() {
    let test = "what_a_later_version_tells_is_passed_over_and_stops_nothing";
    let Some(pen) = fresh(test).await else { return };
    let ear = Arc::new(Ear::default());
    pen.stand.bus.attach(ear.clone());
    pen.begin("a", hold("A")).await;
    ear.told(1).await;
    let log = Log::default();
    let _kept = log.keep();
    let (later, known) = (of_a_later_version(), an_entry(&pen).await);
    let mut seq = 1;
    let mut tells = async |entries: &[&str]| {
        for (entry, seq) in entries.iter().zip(seq + 1..) {
            stored(&pen, seq, entry).await;
        }
        published(&pen, seq + 1, entries);
        seq += entries.len() as u64;
        seq
    };
    for entry in &later {
        tells(&[entry]).await;
    }
    // Beside what is known, at either end.
    let first = tells(&[&later[0], &known]).await;
    let second = tells(&[&known, &later[0]]).await - 1;
    let mut expected = vec![1, first, second];
    assert_eq!(seqs(within(SOON, "what is known", ear.told(3)).await), expected);
    // What nobody published, and a subscription that is made anew.
    stored(&pen, second + 2, &later[0]).await;
    pen.begin("b", hold("B")).await;
    expected.push(second + 3);
    assert_eq!(seqs(within(SOON, "what comes then", ear.told(4)).await), expected);
    stored(&pen, second + 4, &later[0]).await;
    pen.stand.server(|server| server.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]));
    pen.begin("c", hold("C")).await;
    expected.push(second + 5);
    assert_eq!(seqs(within(SOON, "what comes last", ear.told(5)).await), expected);
    // Whoever resumes gets the same.
    let page = pen.read(&ours(), 0, 99).await.unwrap();
    let read: Vec<u64> = page.entries.iter().map(|entry| entry.seq).collect();
    assert_eq!((read, page.through), (expected, second + 5));
    let told = log.lines("a later version");
    assert!(told.len() == 1 && told[0].contains("WARN"), "{told:#?}");
}

fn seqs(told: Vec<(Epoch, u64)>) -> Vec<u64> {
    told.into_iter().map(|(_, seq)| seq).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flushed_server_is_another_epoch_and_forgot_all() {
    let Some(pen) = fresh("a_flushed_server_is_another_epoch_and_forgot_all").await else { return };
    let a = pen.begin("a", hold("A")).await;
    pen.stand.server(|server| server.ask(&["FLUSHALL"]));
    let verdict = pen.commit(pen.idle(&a).await).await;
    let Verdict::EpochChanged(epoch) = verdict else { panic!("{verdict:?}") };
    assert_ne!(epoch, pen.epoch);
    assert_eq!(find(&pen, "a").await, None);
    let next = Commit { epoch: epoch.clone(), ..pen.idle(&a).await };
    assert_eq!(pen.commit(next).await, Verdict::Gone);
    let anew = Commit { epoch: epoch.clone(), ..pen.beginning(key("a"), hold("A")).await };
    let verdict = pen.commit(anew).await;
    assert!(matches!(verdict, Verdict::Applied { first_seq: 1, .. }), "{verdict:?}");
    assert_eq!(pen.head(&ours()).await.unwrap(), Position { epoch, seq: 1 });
    assert_eq!(pen.ids(Find::DueBy(StoreTime(u64::MAX))).await, ["a"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_the_server_forgot_are_loaded_again() {
    let Some(pen) = fresh("scripts_that_the_server_forgot_are_loaded_again").await else { return };
    for id in ["a", "b"] {
        pen.stand.server(|server| server.ask(&["SCRIPT", "FLUSH"]));
        pen.begin(id, hold(id)).await;
        pen.stand.server(|server| server.ask(&["SCRIPT", "FLUSH"]));
        assert_eq!(pen.ids(Find::AtStack(commits::stack())).await.last().unwrap(), id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_room_takes_nothing_and_is_away() {
    let Some(pen) = fresh("a_server_without_room_takes_nothing_and_is_away").await else { return };
    let a = pen.begin("a", hold("A")).await;
    pen.stand.server(|server| server.ask(&["CONFIG", "SET", "maxmemory", "1"]));
    let store = pen.stand.store();
    let (step, idle) = (for_long(pen.over(&a).await), for_long(pen.idle(&a).await));
    for commit in [step.clone(), idle] {
        assert_eq!(within(IN_TIME, "a commit", store.commit(commit)).await, Err(Away));
    }
    assert_eq!(pen.head(&ours()).await, Ok(pen.at(1)));
    assert_eq!(find(&pen, "a").await, Some(a));
    assert_eq!(pen.stream(&ours()).await.len(), 1);
    pen.stand.server(|server| server.ask(&["CONFIG", "SET", "maxmemory", "0"]));
    pen.write(step).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_no_writes_for_a_while_is_away_in_time() {
    let Some(pen) = fresh("a_server_that_takes_no_writes_for_a_while_is_away_in_time").await else {
        return;
    };
    let a = pen.begin("a", hold("A")).await;
    let step = for_long(pen.over(&a).await);
    let store = pen.stand.store();
    // It connects and answers all the time; only the script hangs.
    pen.stand.server(|server| server.ask(&["CLIENT", "PAUSE", "60000", "WRITE"]));
    for _ in 0..3 {
        let verdict = within(IN_TIME, "a commit", store.commit(step.clone())).await;
        assert_eq!(verdict, Err(Away));
    }
    pen.stand.server(|server| server.ask(&["CLIENT", "UNPAUSE"]));
    let verdict = back(|| store.commit(step.clone())).await;
    assert!(matches!(verdict, Verdict::Applied { first_seq: 2, .. }), "{verdict:?}");
    let told = step.notices.len() as u64;
    assert_eq!(pen.head(&ours()).await, Ok(pen.at(1 + told)), "applied once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_silent_for_a_moment_is_waited_for_however_many_ask() {
    let Some(pen) =
        fresh("a_server_that_is_silent_for_a_moment_is_waited_for_however_many_ask").await
    else {
        return;
    };
    // The bus knows the stream, and reads nothing more.
    let ear = Arc::new(Ear::default());
    pen.stand.bus.attach(ear.clone());
    pen.begin("first", hold("first")).await;
    ear.told(1).await;
    let mut commits = Vec::new();
    for n in 0..16 {
        let id = format!("id-{n}");
        commits.push(for_long(pen.beginning(key(&id), hold(&id)).await));
    }
    // All its clients wait; it counts what it is asked for.
    let moment = Duration::from_millis(400);
    let before = scripts_run(&pen);
    pen.stand
        .server(|server| server.ask(&["CLIENT", "PAUSE", &moment.as_millis().to_string(), "ALL"]));
    let begun = Instant::now();
    let asked = commits.into_iter().map(|commit| {
        let store = Arc::clone(&pen.stand.store);
        tokio::spawn(async move { within(IN_TIME, "a commit", store.commit(commit)).await })
    });
    let asked: Vec<_> = asked.collect();
    let many = asked.len();
    for verdict in asked {
        let verdict = verdict.await.unwrap();
        assert!(matches!(verdict, Ok(Verdict::Applied { .. })), "{verdict:?}");
    }
    assert!(begun.elapsed() >= moment, "it was silent");
    assert_eq!(scripts_run(&pen) - before, many, "one that is slow is asked once");
}

/// How many scripts the server has run.
fn scripts_run(pen: &Pen<Site>) -> usize {
    let counts = pen.stand.server(|server| server.ask_all(&["INFO", "commandstats"]));
    let of_ours = counts.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    of_ours.map_or(0, |counts| counts.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_there_at_first_is_used_when_it_is() {
    if !is_here("a_server_that_is_not_there_at_first_is_used_when_it_is") {
        return;
    }
    let mut server = RedisServer::start();
    server.kill();
    let store = started(server.settings());
    assert_eq!(within(IN_TIME, "the first call", store.head(&ours())).await, Err(Away));
    let bus = within(DEADLINE, "the bus", RedisBus::start(Arc::clone(&store))).await;
    assert!(bus.is_err(), "subscribed to nothing");
    server.restart();
    assert_eq!(head_again(&store).await.seq, 0);
}

/// Must outlive its server.
async fn kept(pen: &Pen<Site>, id: &str) -> bool {
    let beginning = pen.beginning(key(id), hold(id)).await;
    let commit = for_long(Commit { durable: true, ..beginning });
    let verdict = within(IN_TIME, id, pen.commit(commit)).await;
    let Verdict::Applied { durable, .. } = verdict else { panic!("{verdict:?}") };
    durable
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_replica_does_not_take_is_applied_in_time_and_said_not_to_be_kept() {
    if !is_here("what_the_replica_does_not_take_is_applied_in_time_and_said_not_to_be_kept") {
        return;
    }
    let (pen, replica) = with_a_replica().await;
    let begun = Instant::now();
    for n in 0.. {
        if kept(&pen, &format!("follows-{n}")).await {
            break;
        }
        assert!(begun.elapsed() < DEADLINE, "the replica does not follow");
    }
    replica.pause();
    let pen = Arc::new(pen);
    let all = (0..100).map(|n| {
        let pen = Arc::clone(&pen);
        tokio::spawn(async move { kept(&pen, &format!("stopped-{n}")).await })
    });
    for one in all.collect::<Vec<_>>() {
        assert!(!one.await.unwrap(), "the replica stands still");
    }
    // Who needs no replica waits for none.
    within(AT_ONCE, "another commit", pen.begin("plain", hold("plain"))).await;
    replica.go_on();
    let begun = Instant::now();
    for n in 0.. {
        if kept(&pen, &format!("goes-on-{n}")).await {
            break;
        }
        assert!(begun.elapsed() < DEADLINE, "the replica does not take it");
    }
}

#[derive(Default)]
struct Ear(Mutex<Vec<(Epoch, Arc<Entry>)>>, Mutex<Vec<Position>>);

impl Listener for Ear {
    fn entries(&self, _tenant: &TenantId, epoch: &Epoch, entries: &[Arc<Entry>]) {
        let entries = entries.iter().map(|entry| (epoch.clone(), Arc::clone(entry)));
        self.0.lock().unwrap().extend(entries);
    }

    fn skipped(&self, _tenant: &TenantId, to: &Position) {
        self.1.lock().unwrap().push(to.clone());
    }
}

impl Ear {
    /// What was told, once that is this much.
    async fn told(&self, count: usize) -> Vec<(Epoch, u64)> {
        let begun = Instant::now();
        loop {
            let told: Vec<_> = {
                let told = self.0.lock().unwrap();
                told.iter().map(|(epoch, entry)| (epoch.clone(), entry.seq)).collect()
            };
            if told.len() >= count {
                return told;
            }
            assert!(begun.elapsed() < DEADLINE, "only {} of {count} are told", told.len());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_connection_loses_and_doubles_nothing_that_is_told_to_any_process() {
    let Some(pen) =
        fresh("a_cut_connection_loses_and_doubles_nothing_that_is_told_to_any_process").await
    else {
        return;
    };
    let another = pen.stand.another();
    let theirs = RedisBus::start(another).await.unwrap();
    let ears = [Arc::new(Ear::default()), Arc::new(Ear::default())];
    pen.stand.bus.attach(ears[0].clone());
    theirs.attach(ears[1].clone());
    for n in 0..300 {
        pen.begin(&format!("id-{n}"), hold(&format!("call-{n}"))).await;
        if n % 50 == 25 {
            pen.stand.server(|server| server.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]));
        }
    }
    let all: Vec<_> = (1..=300).map(|seq| (pen.epoch.clone(), seq)).collect();
    for ear in &ears {
        assert_eq!(ear.told(300).await, all);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_what_the_new_epoch_commits_is_told() {
    let Some(pen) = fresh("after_a_restart_what_the_new_epoch_commits_is_told").await else {
        return;
    };
    let ear = Arc::new(Ear::default());
    pen.stand.bus.attach(ear.clone());
    pen.begin("a", hold("A")).await;
    ear.told(1).await;
    pen.stand.server(|server| {
        server.kill();
        server.restart();
    });
    let epoch = head_again(&pen.stand.store).await.epoch;
    // At once: the bus may not have subscribed yet.
    for id in ["b", "c", "d"] {
        let begun = pen.beginning(key(id), hold(id)).await;
        pen.write(Commit { epoch: epoch.clone(), nonce: nonce(), ..begun }).await;
    }
    let told = ear.told(4).await;
    let new = (2..=4).map(|seq| (epoch.clone(), seq));
    let expected: Vec<_> = [(pen.epoch.clone(), 1)].into_iter().chain(new).collect();
    assert_eq!(told, expected);
    // Whoever waits for something that may be lost can be told.
    assert_eq!(*ear.1.lock().unwrap(), [Position { epoch: epoch.clone(), seq: 1 }]);
    // What was told before is there for who repeats its command.
    let page = pen.stand.store.read(&ours(), &Position { epoch, seq: 0 }, 9, None).await.unwrap();
    assert_eq!(page.entries.len(), 4);
}

/// An address that leads to the server before again, or a database that is swapped back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_memory_that_comes_back_is_another_epoch_and_nothing_is_told_twice() {
    let test = "a_memory_that_comes_back_is_another_epoch_and_nothing_is_told_twice";
    let Some(pen) = fresh(test).await else { return };
    let other = pen.stand.another();
    let ear = Arc::new(Ear::default());
    pen.stand.bus.attach(ear.clone());
    pen.begin("a", hold("A")).await;
    ear.told(1).await;
    let skipped = async |count: usize| {
        let all = async {
            while ear.1.lock().unwrap().len() < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        within(DEADLINE, "another epoch", all).await;
        ear.1.lock().unwrap()[count - 1].epoch.clone()
    };
    pen.stand.server(|server| server.ask(&["SWAPDB", "0", "1"]));
    let second = head_again(&pen.stand.store).await.epoch;
    begun_in(&pen, &second, "b").await;
    assert_eq!(skipped(1).await, second);
    within(SOON, "what the second commits", ear.told(2)).await;
    pen.stand.server(|server| server.ask(&["SWAPDB", "0", "1"]));
    let third = skipped(2).await;
    assert!(third != second && third != pen.epoch);
    assert_eq!(head_again(&other).await, Position { epoch: third.clone(), seq: 1 });
    begun_in(&pen, &third, "c").await;
    let told = within(SOON, "what the third commits", ear.told(3)).await;
    assert_eq!(told, [(pen.epoch.clone(), 1), (second, 1), (third, 2)]);
}

/// An address that leads to one server, and then to another.
async fn switched(to: &Arc<AtomicU16>) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let to = Arc::clone(to);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let port = to.load(Ordering::SeqCst);
            tokio::spawn(async move {
                let mut far = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_read_where_commits_go() {
    if !is_here("pages_are_read_where_commits_go") {
        return;
    }
    let (first, second) = (RedisServer::start(), RedisServer::start());
    let to = Arc::new(AtomicU16::new(first.port()));
    let mut settings = first.settings();
    let Servers::One(address) = &mut settings.servers else { panic!("one server") };
    address.port = switched(&to).await;
    let store = started(settings);
    let before = head_again(&store).await;
    back(|| async { store.read(&ours(), &before, 9, None).await.map_err(|_| Away) }).await;
    head_again(&store).await;
    to.store(second.port(), Ordering::SeqCst);
    // Only what commits go over breaks: it asked for a head last.
    let clients = first.ask_all(&["CLIENT", "LIST"]);
    let commits = clients.lines().find(|line| line.contains("cmd=hmget")).unwrap();
    let id = commits.split_once("id=").unwrap().1.split(' ').next().unwrap();
    assert_eq!(first.ask(&["CLIENT", "KILL", "ID", id]), ":1");
    let after = async {
        loop {
            let head = head_again(&store).await;
            if head.epoch != before.epoch {
                return head;
            }
        }
    };
    let after = within(DEADLINE, "the other server", after).await;
    let read = || async { store.read(&ours(), &after, 9, None).await.map_err(|_| Away) };
    assert_eq!(back(read).await.head, after);
}

async fn begun_in(pen: &Pen<Site>, epoch: &Epoch, id: &str) {
    let begun = pen.beginning(key(id), hold(id)).await;
    pen.write(Commit { epoch: epoch.clone(), nonce: nonce(), ..begun }).await;
}

/// One as this version writes it.
async fn an_entry(pen: &Pen<Site>) -> String {
    let written = pen.beginning(key("unheard"), hold("unheard")).await;
    let entry = Entry::of(&written.record, 0, written.notices[0].clone());
    serde_json::to_string(&entry).unwrap()
}

/// It stands in our tenant's stream.
async fn stored(pen: &Pen<Site>, seq: u64, entry: &str) {
    let place = Partition::of(&ours()).number();
    let now = pen.stand.now().await.0.to_string();
    let (stream, head) =
        (format!("cp:main:{{{place}}}:e:default"), format!("cp:main:{{{place}}}:head"));
    pen.stand.server(|server| {
        server.ask(&["XADD", &stream, &format!("{seq}-0"), "t", &now, "e", entry, "s", "-"]);
        server.ask(&["HSET", &head, "seq:default", &seq.to_string()]);
    });
}

/// They are told, as by one commit.
fn published(pen: &Pen<Site>, from: u64, entries: &[&str]) {
    let channel = format!("cp:main:{{{}}}:bus", Partition::of(&ours()).number());
    let message = format!("{} {from}\n{}", pen.epoch, entries.join("\n"));
    pen.stand.server(|server| server.ask(&["PUBLISH", &channel, &message]));
}

/// Something that was committed to our tenant, but whose publication nobody got.
async fn unheard(pen: &Pen<Site>, seq: u64) {
    stored(pen, seq, &an_entry(pen).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_is_read_from_the_stream_at_the_next_message() {
    let Some(pen) = fresh("a_gap_is_read_from_the_stream_at_the_next_message").await else {
        return;
    };
    let ear = Arc::new(Ear::default());
    pen.stand.bus.attach(ear.clone());
    pen.begin("a", hold("A")).await;
    ear.told(1).await;
    unheard(&pen, 2).await;
    pen.begin("b", hold("B")).await;
    let told = within(SOON, "the gap", ear.told(3)).await;
    assert_eq!(told, [1, 2, 3].map(|seq| (pen.epoch.clone(), seq)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_missed_is_read_from_the_stream_on_subscribing_again() {
    let Some(pen) = fresh("what_was_missed_is_read_from_the_stream_on_subscribing_again").await
    else {
        return;
    };
    let ear = Arc::new(Ear::default());
    pen.stand.bus.attach(ear.clone());
    pen.begin("a", hold("A")).await;
    ear.told(1).await;
    unheard(&pen, 2).await;
    pen.stand.server(|server| server.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]));
    let told = within(SOON, "what was missed", ear.told(2)).await;
    assert_eq!(told, [1, 2].map(|seq| (pen.epoch.clone(), seq)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_looked_at_where_nothing_happens() {
    let Some(pen) = fresh("streams_are_looked_at_where_nothing_happens").await else { return };
    let ear = Arc::new(Ear::default());
    pen.stand.bus.attach(ear.clone());
    unheard(&pen, 1).await;
    assert_eq!(ear.told(1).await, [(pen.epoch.clone(), 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_looked_at_while_the_bus_is_not_let_in() {
    let test = "streams_are_looked_at_while_the_bus_is_not_let_in";
    let Some(pen) = fresh(test).await else { return };
    let ear = Arc::new(Ear::default());
    pen.stand.bus.attach(ear.clone());
    // The store has its connection, and nobody gets another one.
    pen.stand.server(|server| {
        let no_more: [&[&str]; 2] =
            [&["CONFIG", "SET", "maxclients", "1"], &["CLIENT", "KILL", "TYPE", "pubsub"]];
        server.ask_in_a_row(&no_more);
    });
    for (id, seq) in [("a", 1), ("b", 2), ("c", 3)] {
        pen.begin(id, hold(id)).await;
        let told = within(SOON, id, ear.told(seq)).await;
        assert_eq!(told.last(), Some(&(pen.epoch.clone(), seq as u64)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_turns_out_to_be_another_is_looked_at_again_soon() {
    let test = "a_stream_that_turns_out_to_be_another_is_looked_at_again_soon";
    let Some(pen) = fresh(test).await else { return };
    let ear = Arc::new(Ear::default());
    pen.stand.bus.attach(ear.clone());
    pen.begin("a", hold("A")).await;
    ear.told(1).await;
    let head = named("head");
    let ask = |words: &[&str]| pen.stand.server(|server| server.ask(words));
    unheard(&pen, 2).await;
    ask(&["HSET", &head, "run", "another"]);
    // Another epoch, which this process has heard of; our partition is not part of it yet.
    let next = Epoch::derive(nonce());
    ask(&["HSET", "cp:main:epoch", "epoch", next.as_str()]);
    let beat = Beat { pod: PodId::new("p"), applied: BTreeMap::new(), life: Life::Lives };
    assert_eq!(pen.stand.store.beat(&beat).await.unwrap().epoch, next);
    // Whoever reads it next begins the epoch there.
    let begun = async {
        while !pen
            .stand
            .server(|server| server.ask_all(&["HGET", &head, "epoch"]))
            .contains(next.as_str())
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(DEADLINE, "the epoch", begun).await;
    let told = async {
        while ear.1.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(SOON, "where it begins", told).await;
    assert_eq!(*ear.1.lock().unwrap(), [Position { epoch: next, seq: 2 }]);
}

/// A command of this session begins; one entry.
async fn begun_by(pen: &Pen<Site>, store: &RedisStore, session: &SessionId, id: &str) {
    let mut commit = for_long(pen.beginning(key(id), hold(id)).await);
    commit.record.session = session.clone();
    commit.quota = None;
    let verdict = store.commit(commit).await.unwrap();
    assert!(matches!(verdict, Verdict::Applied { .. }), "{verdict:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_s_entries_are_found_among_any_number_of_others() {
    let Some(pen) = fresh("a_session_s_entries_are_found_among_any_number_of_others").await else {
        return;
    };
    let (mine, theirs) = (SessionId::derive(nonce()), SessionId::derive(nonce()));
    begun_by(&pen, &pen.stand.store, &mine, "first").await;
    for n in 0..42 {
        let ids: Vec<String> = (0..100).map(|m| format!("other-{n}-{m}")).collect();
        let many = ids.iter().map(|id| begun_by(&pen, &pen.stand.store, &theirs, id));
        futures_util::future::join_all(many).await;
    }
    begun_by(&pen, &pen.stand.store, &mine, "last").await;
    let page = pen.stand.store.read(&ours(), &pen.at(0), 9, Some(&mine)).await.unwrap();
    let seqs: Vec<u64> = page.entries.iter().map(|entry| entry.seq).collect();
    assert_eq!((seqs, page.through), (vec![1, 4202], 4202), "in one page");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_session_s_entries_stand_is_forgotten_with_them() {
    let Some(pen) = fresh("where_a_session_s_entries_stand_is_forgotten_with_them").await else {
        return;
    };
    let limits = Limits { entries_bytes: 2_000, ..Limits::default() };
    let settings = pen.stand.settings();
    let narrow = RedisStore::start(settings, Install::default(), limits).unwrap();
    let (gone, busy) = (SessionId::derive(nonce()), SessionId::derive(nonce()));
    begun_by(&pen, &narrow, &gone, "first").await;
    for n in 0..100 {
        begun_by(&pen, &narrow, &busy, &format!("other-{n}")).await;
    }
    let place = Partition::of(&ours()).number();
    let ask = |command: &str, name: String| pen.stand.server(|s| s.ask(&[command, &name]));
    let kept = ask("XLEN", format!("cp:main:{{{place}}}:e:default"));
    assert_ne!(kept, ":101", "some are trimmed");
    assert_eq!(ask("ZCARD", format!("cp:main:{{{place}}}:s:default:{busy}")), kept);
    assert_eq!(ask("EXISTS", format!("cp:main:{{{place}}}:s:default:{gone}")), ":0");
}

/// A key of our tenant's partition.
fn named(rest: &str) -> String {
    format!("cp:main:{{{}}}:{rest}", Partition::of(&ours()).number())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_head_is_another_epoch_that_goes_on_behind_the_stream() {
    let test = "a_lost_head_is_another_epoch_that_goes_on_behind_the_stream";
    let Some(pen) = fresh(test).await else { return };
    let a = pen.begin("a", hold("A")).await;
    pen.begin("b", hold("B")).await;
    pen.stand.server(|server| server.ask(&["DEL", &named("head")]));
    let epoch = head_again(&pen.stand.store).await.epoch;
    assert_ne!(epoch, pen.epoch);
    let step = Commit { epoch: epoch.clone(), ..pen.over(&a).await };
    let told = u64::try_from(step.notices.len()).unwrap();
    let verdict = pen.commit(step).await;
    assert!(matches!(verdict, Verdict::Applied { first_seq: 3, .. }), "{verdict:?}");
    let head = Position { epoch, seq: 2 + told };
    assert_eq!(pen.head(&ours()).await, Ok(head.clone()));
    let behind = Position { seq: 2, ..head };
    let page = pen.stand.store.read(&ours(), &behind, 9, None).await.unwrap();
    assert_eq!(u64::try_from(page.entries.len()).unwrap(), told);
    // A stream that has nothing in it any more knows how far it was.
    pen.stand.server(|server| {
        server.ask(&["DEL", &named("head")]);
        server.ask(&["XTRIM", &named("e:default"), "MAXLEN", "0"]);
    });
    let epoch = head_again(&pen.stand.store).await.epoch;
    begun_in(&pen, &epoch, "c").await;
    let after = Position { epoch, seq: 3 + told };
    assert_eq!(pen.head(&ours()).await, Ok(after));
}

/// Redis takes nothing back of a script that fails. Rights that are taken away, and keys of another
/// type, let it fail in each place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_failed_in_its_middle_is_as_if_it_had_never_been() {
    let test = "a_commit_that_failed_in_its_middle_is_as_if_it_had_never_been";
    let Some(pen) = fresh(test).await else { return };
    let (mine, theirs) = (SessionId::derive(nonce()), SessionId::derive(nonce()));
    let ask = |words: &[&str]| pen.stand.server(|server| server.ask(words));
    begun_by(&pen, &pen.stand.store, &mine, "first").await;
    let rights = ["xadd", "zadd", "sadd", "set", "hset"];
    let keys = [named(&format!("s:default:{theirs}")), named("due")];
    let breaks = rights.iter().map(|right| ["ACL", "SETUSER", "default", right].map(str::to_owned));
    let breaks = breaks.chain(keys.map(|key| ["RENAME", &key, "aside", "x"].map(str::to_owned)));
    for (round, broken) in breaks.enumerate() {
        let is_right = broken[0] == "ACL";
        if is_right {
            ask(&["ACL", "SETUSER", "default", &format!("-{}", broken[3])]);
        } else {
            ask(&["RENAME", &broken[1], "aside"]);
            ask(&["SET", &broken[1], "another type"]);
        }
        let id = format!("torn-{round}");
        let mut torn = for_long(pen.beginning(key(&id), hold(&id)).await);
        torn.record.session = theirs.clone();
        torn.quota = None;
        for _ in 0..2 {
            let verdict = pen.stand.store.commit(torn.clone()).await;
            assert_eq!(verdict, Err(Away), "{broken:?}");
        }
        if is_right {
            ask(&["ACL", "SETUSER", "default", &format!("+{}", broken[3])]);
        } else {
            ask(&["DEL", &broken[1]]);
            ask(&["RENAME", "aside", &broken[1]]);
        }
        begun_by(&pen, &pen.stand.store, &mine, &format!("after-{round}")).await;
        let page = pen.stand.store.read(&ours(), &pen.at(0), 99, Some(&theirs)).await.unwrap();
        let told: Vec<String> = page.entries.iter().map(|e| e.key.id.to_string()).collect();
        assert_eq!(told.len(), round, "{broken:?}: {told:?}");
        // Its call is free, and it can be asked for again.
        begun_by(&pen, &pen.stand.store, &theirs, &id).await;
    }
    let all = pen.stream(&ours()).await;
    let seqs: Vec<u64> = all.iter().map(|entry| entry.seq).collect();
    assert_eq!(seqs, (1..=15).collect::<Vec<u64>>());
}

/// It has ended, and its process is gone before it could be put away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_failed_in_its_middle_is_an_end() {
    let Some(pen) = fresh("an_end_that_failed_in_its_middle_is_an_end").await else { return };
    let ask = |words: &[&str]| pen.stand.server(|server| server.ask(words));
    for (round, right) in ["del", "zrem", "pexpireat", "publish"].into_iter().enumerate() {
        let id = format!("a-{round}");
        let a = pen.begin(&id, hold(&id)).await;
        ask(&["ACL", "SETUSER", "default", &format!("-{right}")]);
        let end = for_long(pen.over(&a).await);
        assert_eq!(pen.stand.store.commit(end).await, Err(Away), "{right}");
        ask(&["ACL", "SETUSER", "default", &format!("+{right}")]);
        let record = find(&pen, &id).await.unwrap();
        assert!(record.state.outcome().is_some(), "{right}");
        let due = back(|| async {
            let all = Find::DueBy(StoreTime(u64::MAX));
            pen.stand.store.find(all).await.map_err(Away::from)
        });
        assert!(due.await.is_empty(), "{right}");
        let left = ask(&["PTTL", &named(&format!("r:default:-:{id}"))]);
        assert!(left.trim_start_matches(':').parse::<i64>().unwrap() > 0, "{right}: {left}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_of_a_record_that_is_gone_is_free() {
    let Some(pen) = fresh("a_claim_of_a_record_that_is_gone_is_free").await else { return };
    pen.begin("a", hold("A")).await;
    let busy = pen.commit(pen.beginning(key("b"), hold("A")).await).await;
    assert!(matches!(busy, Verdict::Busy { .. }), "{busy:?}");
    pen.stand.server(|server| server.ask(&["DEL", &named("r:default:-:a")]));
    pen.begin("b", hold("A")).await;
    let busy = pen.commit(pen.beginning(key("c"), hold("A")).await).await;
    assert!(matches!(busy, Verdict::Busy { .. }), "{busy:?}");
}

/// Told to a server whose clock was ahead of the one's that took over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_died_is_missed_in_time_though_the_servers_clock_was_ahead() {
    let test = "who_died_is_missed_in_time_though_the_servers_clock_was_ahead";
    let Some(pen) = fresh(test).await else { return };
    let store = &pen.stand.store;
    let later = pen.stand.now().await.after(Duration::from_secs(60)).0.to_string();
    pen.stand.server(|server| server.ask(&["ZADD", "cp:main:pods", &later, "dead"]));
    let (dead, begun) = (PodId::new("dead"), Instant::now());
    let beat = Beat { pod: PodId::new("one"), applied: BTreeMap::new(), life: Life::Lives };
    assert!(store.beat(&beat).await.unwrap().alive.contains(&dead));
    while !store.beat(&beat).await.unwrap().silent.contains(&dead) {
        assert!(begun.elapsed() < ALIVE + BACK, "it counts as alive still");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
