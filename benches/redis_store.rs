//! What a commit to Redis costs: here, at the server, and on the wire.
//!
//!     cargo bench --bench redis_store
//!
//! Holds of three commits each (begun, answered, over) against a `redis-server` on loopback that
//! writes an append-only file, everything on the machine's cores. The bus listens in the same
//! process, so what is published is parsed too. Not in it: stepping and everything else of the engine.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench ends by panicking where it can't go on"
)]

#[allow(dead_code, reason = "the suites use the rest")]
#[path = "../tests/contract/commits.rs"]
mod commits;
#[path = "../tests/process/cpu.rs"]
mod cpu;
#[path = "../tests/redis_server/mod.rs"]
mod redis_server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use callplane::clock::{Clock as _, SystemClock};
use callplane::core::ids::Install;
use callplane::core::record::Record;
use callplane::core::stack_event::Watch;
use callplane::core::time::StoreTime;
use callplane::store::redis::{RedisBus, RedisStore};
use callplane::store::{Commit, Find, Limits, Verdict};

use commits::{Bounds, KEEP, Pen, Stand, WITHIN, call, hold, key, key_of, stack, tenant};
use redis_server::{RedisServer, is_here};

/// As the product's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const COMMANDS: usize = 20_000;

struct Site {
    server: RedisServer,
    store: Arc<RedisStore>,
    bus: RedisBus,
    clock: SystemClock,
}

impl Stand for Site {
    type Store = RedisStore;
    type Bus = RedisBus;

    async fn fresh(_bounds: Bounds) -> Self {
        let server = RedisServer::start();
        let (store, bus) = server.connect(Install::default(), Limits::default()).await;
        Self { server, store, bus, clock: SystemClock::new() }
    }

    fn store(&self) -> &RedisStore {
        &self.store
    }

    fn bus(&self) -> &RedisBus {
        &self.bus
    }

    async fn now(&self) -> StoreTime {
        self.clock.now()
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

async fn timed(pen: &Pen<Site>, commit: Commit, took: &mut Vec<Duration>) -> Arc<Record> {
    // A busy machine must not make it late.
    let commit = Commit { not_after: commit.not_after.after(Duration::from_secs(30)), ..commit };
    let begun = Instant::now();
    let verdict = pen.commit(commit).await;
    took.push(begun.elapsed());
    match verdict {
        Verdict::Applied { record, .. } => record,
        verdict => panic!("{verdict:?}"),
    }
}

fn stat(server: &RedisServer, section: &str, name: &str) -> f64 {
    let info = server.ask_all(&["INFO", section]);
    let line = info.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').trim().parse().unwrap()
}

async fn round(pen: &Arc<Pen<Site>>, name: &str, tasks: usize) {
    let server = &pen.stand.server;
    let before = (cpu::spent(&server.pid()), cpu::spent("self"), Instant::now());
    let (read, written) = (
        stat(server, "stats", "total_net_input_bytes"),
        stat(server, "stats", "total_net_output_bytes"),
    );
    let working = (0..tasks).map(|task| {
        let (pen, name) = (Arc::clone(pen), name.to_owned());
        tokio::spawn(async move {
            let mut took = Vec::new();
            for n in 0..COMMANDS / tasks {
                let id = format!("{name}-{task}-{n}");
                let begun = timed(&pen, pen.beginning(key(&id), hold(&id)).await, &mut took).await;
                let next = timed(&pen, pen.answered(&begun).await, &mut took).await;
                timed(&pen, pen.over(&next).await, &mut took).await;
            }
            took
        })
    });
    let working: Vec<_> = working.collect();
    let mut took = Vec::new();
    for one in working {
        took.extend(one.await.unwrap());
    }
    let count = took.len() as f64;
    let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / count;
    let bytes = |name: &str, before: f64| (stat(server, "stats", name) - before) / count;
    let second = count / before.2.elapsed().as_secs_f64();
    took.sort();
    let at = |part: f64| took[(count * part) as usize].as_secs_f64() * 1e3;
    println!(
        "{tasks:4} tasks: {second:8.0} commits/s, p50 {:.3} ms, p99 {:.3} ms, here {:.1} us, server {:.1} us, {:.0} bytes in, {:.0} out",
        at(0.5),
        at(0.99),
        each(cpu::spent("self") - before.1),
        each(cpu::spent(&server.pid()) - before.0),
        bytes("total_net_input_bytes", read),
        bytes("total_net_output_bytes", written),
    );
}

/// What is left of a tenant whose only command has ended and is forgotten: numbers and entries.
async fn tenants() {
    const TENANTS: usize = 1_000;
    let pen = &Pen::<Site>::fresh(Bounds::default()).await;
    // The scripts and the first head are there.
    timed(pen, pen.beginning(key("first"), hold("first")).await, &mut Vec::new()).await;
    let memory = || stat(&pen.stand.server, "memory", "used_memory:");
    let (before, mut took) = (memory(), Vec::new());
    for n in 0..TENANTS {
        let key = key_of(&tenant(&format!("tenant-{n}")), "one");
        let begun = timed(pen, pen.beginning(key, hold("call")).await, &mut took).await;
        let next = timed(pen, pen.answered(&begun).await, &mut took).await;
        timed(pen, pen.over(&next).await, &mut took).await;
    }
    let with_command = memory();
    pen.stand.pass(KEEP + WITHIN + Duration::from_secs(35)).await;
    let each = |bytes: f64| (bytes - before) / TENANTS as f64;
    println!(
        "a tenant: {:.0} bytes of memory, {:.0} once its only command is forgotten",
        each(with_command),
        each(memory())
    );
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    if !is_here("redis_store") {
        return;
    }
    let pen = Arc::new(Pen::<Site>::fresh(Bounds { running: 100_000, ..Bounds::default() }).await);
    for tasks in [1, 16, 256] {
        round(&pen, &format!("t{tasks}"), tasks).await;
    }
    tenants().await;
    let memory = stat(&pen.stand.server, "memory", "used_memory:");
    let mut took = Vec::new();
    for n in 0..5_000 {
        let id = format!("run-{n}");
        timed(&pen, pen.beginning(key(&id), hold(&id)).await, &mut took).await;
    }
    let each = (stat(&pen.stand.server, "memory", "used_memory:") - memory) / 5000.0;
    println!("a running hold: {each:.0} bytes of memory");
    for (what, times, find) in [
        ("what watches a call", 5_000, Find::Watching(stack(), vec![Watch::Call(call("run-7"))])),
        ("5,000 that are due", 10, Find::DueBy(StoreTime(u64::MAX))),
    ] {
        let before = (cpu::spent(&pen.stand.server.pid()), Instant::now());
        for _ in 0..times {
            assert!(!pen.find(find.clone()).await.is_empty());
        }
        let (all, server) = (before.1.elapsed(), cpu::spent(&pen.stand.server.pid()) - before.0);
        println!("find {what}: {:?}, server {:?}", all / times, server / times);
    }
}
