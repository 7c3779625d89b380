//! Several processes over one Redis, before one simulated stack, and what they spend.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use callplane::stack::simulated::WorldConfig;

use super::load::process::child::cpu;
use super::load::process::{Process, serve_anywhere};
use super::load::proxy::{Proxy, metrics, wait_for_events};
use super::redis_server::RedisServer;

/// All of them. Nobody has a core of its own.
pub struct Site {
    pub pods: Vec<Process>,
    pub proxy: Proxy,
    pub redis: RedisServer,
    variables: Vec<(&'static str, String)>,
}

impl Site {
    /// So many processes, and so many calls at their stack. The first process leads.
    pub fn start(pods: usize, world: WorldConfig, calls: usize) -> Self {
        let (redis, proxy) = (RedisServer::start(), Proxy::start(world));
        proxy.place_calls(calls);
        let variables = proxy.variables();
        let mut site = Self { pods: Vec::new(), proxy, redis, variables };
        site.variables.push(("REDIS__ADDRESS", site.redis_address()));
        (0..pods).for_each(|_| site.add());
        site
    }

    /// Where its Redis is.
    pub fn redis_address(&self) -> String {
        format!("127.0.0.1:{}", self.redis.port())
    }

    /// One process more.
    pub fn add(&mut self) {
        let pod = serve_anywhere(&self.variables);
        wait_for_events(&pod);
        self.pods.push(pod);
    }

    pub fn all(&self) -> Vec<&Process> {
        self.pods.iter().collect()
    }

    /// What was spent so far.
    pub fn spent(&self) -> Spent {
        let stats = numbers(&self.redis.ask_all(&["INFO", "stats"]));
        let stat = |name: &str| stats.get(name).copied().unwrap_or_default();
        Spent {
            at: Instant::now(),
            pods: self.pods.iter().map(Process::cpu).sum(),
            redis: cpu::spent(&self.redis.pid()),
            here: cpu::spent("self"),
            commits: self.pods.iter().filter(|pod| pod.operations.is_some()).map(commits).sum(),
            calls: calls(&self.redis.ask_all(&["INFO", "commandstats"])),
            read: stat("total_net_input_bytes"),
            written: stat("total_net_output_bytes"),
        }
    }

    /// Bytes that Redis uses for what it holds.
    pub fn memory(&self) -> f64 {
        let memory = numbers(&self.redis.ask_all(&["INFO", "memory"]));
        memory.get("used_memory").copied().unwrap_or_default()
    }
}

/// Sums since the start.
pub struct Spent {
    pub at: Instant,
    /// Processor time of all processes.
    pub pods: Duration,
    /// Processor time of Redis.
    pub redis: Duration,
    /// Processor time of this process: the clients and the stack.
    pub here: Duration,
    /// Commits that processes made, whatever came of them.
    pub commits: f64,
    /// Commands that Redis ran, by name, those inside scripts included.
    pub calls: BTreeMap<String, f64>,
    /// Bytes that came to Redis, and that it sent.
    pub read: f64,
    pub written: f64,
}

impl Spent {
    /// What each of so many API commands cost between two moments; three lines.
    pub fn print(&self, after: &Self, commands: u64) {
        let each = |sum: f64| sum / commands as f64;
        let micros = |before: Duration, after: Duration| each((after - before).as_secs_f64() * 1e6);
        let busy = (after.redis - self.redis).as_secs_f64() / (after.at - self.at).as_secs_f64();
        println!(
            "    processor each: pods {:.0} us, Redis {:.0} us, clients and stack {:.0} us; Redis was busy \
             for {:.0} % of the time",
            micros(self.pods, after.pods),
            micros(self.redis, after.redis),
            micros(self.here, after.here),
            busy * 100.0,
        );
        let calls = |name: &str| {
            let of = |spent: &Self| spent.calls.get(name).copied().unwrap_or_default();
            each(of(after) - of(self))
        };
        let all = each(after.calls.values().sum::<f64>() - self.calls.values().sum::<f64>());
        println!(
            "    each: {:.2} commits, {:.2} scripts, {all:.1} commands inside Redis, {:.0} bytes to \
             Redis, {:.0} from it",
            each(after.commits - self.commits),
            calls("evalsha"),
            each(after.read - self.read),
            each(after.written - self.written),
        );
        let most = after.calls.keys().map(|name| (calls(name), name));
        let mut most: Vec<_> = most.filter(|(calls, _)| *calls >= 0.05).collect();
        most.sort_by(|a, b| b.0.total_cmp(&a.0));
        let most: Vec<_> = most.iter().map(|(calls, name)| format!("{name} {calls:.1}")).collect();
        println!("    of these: {}", most.join(", "));
    }
}

fn commits(pod: &Process) -> f64 {
    let metrics = metrics(pod);
    let counts =
        metrics.lines().filter(|line| line.starts_with("callplane_store_answered_commits"));
    counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// `name:number` lines.
fn numbers(info: &str) -> BTreeMap<String, f64> {
    let lines = info.lines().filter_map(|line| line.split_once(':'));
    lines.filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?))).collect()
}

/// `cmdstat_name:calls=number,...` lines.
fn calls(info: &str) -> BTreeMap<String, f64> {
    let lines =
        info.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(":calls="));
    let calls = lines.filter_map(|(name, rest)| Some((name, rest.split(',').next()?)));
    calls.filter_map(|(name, calls)| Some((name.to_owned(), calls.parse().ok()?))).collect()
}
