//! What Redis holds, and what each of it takes.

use callplane::stack::simulated::Script;

use super::load::proxy::quick_world;
use super::load::rounds::{Load, Until, hold};
use super::load::socket::Socket;
use super::site::Site;
use super::{events, redis_server::RedisServer};

/// Holds that end; each makes seven entries.
const HOLDS: u64 = 10_000;
const CALLS: usize = 48;

/// Transfers that run; a connection may have 64 commands under way.
const RUNNING: usize = 480;
const ON_ONE: usize = 48;

/// Keys of a kind whose size is asked.
const SAMPLE: usize = 100;

/// Names of keys that match, a sample of them.
fn keys(redis: &RedisServer, pattern: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut cursor = "0".to_owned();
    loop {
        let told = redis.ask_all(&["SCAN", &cursor, "MATCH", pattern, "COUNT", "100"]);
        let mut words = told.lines().filter(|line| !line.starts_with(['*', '$']));
        cursor = words.next().unwrap_or("0").to_owned();
        found.extend(words.map(str::to_owned));
        if cursor == "0" || found.len() >= SAMPLE {
            return found;
        }
    }
}

/// Bytes of a key with all that hangs on it.
fn size(redis: &RedisServer, key: &str) -> f64 {
    number(redis, &["MEMORY", "USAGE", key, "SAMPLES", "0"])
}

fn mean(redis: &RedisServer, what: &str, pattern: &str) {
    let keys = keys(redis, pattern);
    let sum: f64 = keys.iter().map(|key| size(redis, key)).sum();
    println!("    {what}: {:.0} bytes ({} looked at)", sum / keys.len() as f64, keys.len());
}

/// An answer that is a number, or a text of digits.
fn number(redis: &RedisServer, words: &[&str]) -> f64 {
    let told = redis.ask_all(words);
    let last = told.lines().next_back().unwrap_or_default();
    last.trim_start_matches(':').parse().unwrap_or_default()
}

/// Ended holds with their entries.
fn ended() {
    let site = Site::start(1, quick_world(Script::Stock, 2), CALLS);
    let mut load = Load::spread(&site.all(), CALLS);
    // The scripts, the heads and the buffers of connections are there.
    load.closed(1, Until::Done(200), &mut hold(0), &mut |_, _| ());
    let (before, asked) = (site.memory(), load.asked());
    load.closed(1, Until::Done(HOLDS), &mut hold(0), &mut |_, _| ());
    let holds = (load.asked() - asked) as f64;
    let each = (site.memory() - before) / holds;
    println!("  a hold that has ended, with its seven entries: {each:.0} bytes of Redis; of that:");
    let stream = keys(&site.redis, "cp:*}:e:*").pop().expect("the stream");
    let (bytes, entries) = (size(&site.redis, &stream), number(&site.redis, &["XLEN", &stream]));
    let head = keys(&site.redis, "cp:*}:head").pop().expect("the head");
    let text = number(&site.redis, &["HGET", &head, "bytes:default"]);
    println!(
        "    an entry: {:.0} bytes, its text {:.0} of them ({entries} looked at)",
        bytes / entries,
        text / entries
    );
    mean(&site.redis, "the record", "cp:*}:r:*");
    mean(&site.redis, "a route", "cp:*:route:*");
    let runs = keys(&site.redis, "cp:*}:s:*");
    let bytes: f64 = runs.iter().map(|key| size(&site.redis, key)).sum();
    let count: f64 = runs.iter().map(|key| number(&site.redis, &["ZCARD", key])).sum();
    println!("    where a commit's entries stand, for its session: {:.0} bytes", bytes / count);
}

/// Transfers that ring: running, and listened to.
fn running() {
    let site = Site::start(1, events::ringing_world(), RUNNING + 1);
    let ring = |from: usize, count: usize| {
        let mut socket = Socket::connect(site.pods[0].clients);
        events::ring(&mut socket, from..from + count);
        socket
    };
    let _first = ring(RUNNING, 1);
    let before = site.memory();
    let sockets: Vec<Socket> = (0..RUNNING).step_by(ON_ONE).map(|n| ring(n, ON_ONE)).collect();
    let each = (site.memory() - before) / RUNNING as f64;
    println!("  a transfer that rings, with its four entries: {each:.0} bytes of Redis; of that:");
    mean(&site.redis, "the record", "cp:*}:r:*");
    mean(&site.redis, "a claim", "cp:*}:call:*");
    mean(&site.redis, "a set of who listens", "cp:*}:w?:*");
    mean(&site.redis, "a route", "cp:*:route:*");
    drop(sockets);
}

/// All of it.
pub fn all() {
    ended();
    running();
    let site = Site::start(2, quick_world(Script::Stock, 2), 0);
    let resident: Vec<String> =
        site.pods.iter().map(|pod| format!("{} KB", pod.resident() / 1024)).collect();
    println!("  processes without clients: {}", resident.join(", "));
    println!("  Redis with nothing in it: {:.0} KB", site.memory() / 1024.0);
}
