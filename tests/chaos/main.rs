//! Three real processes over one real Redis, simulated proxies, many clients that write down all they
//! see, and everything that can go wrong with processes. Then the history is judged.
//!
//! * `CHAOS_SEED` draws phones, clients and faults, as far as real processes allow;
//! * `CHAOS_KILLS` says how many processes are killed (50), in rounds;
//! * `CHAOS_FAULTS` names what goes wrong beside:
//!   `pause,link,redis,rolling,flush,failover,lease,cut` (all);
//! * `CHAOS_CLIENTS` says how many clients there are (40);
//! * `CHAOS_KEEP` names a folder for logs and histories;
//! * `CHAOS_PROGRAM` names another build of callplane;
//! * `CHAOS_OTHER_PROGRAM` names one that is upgraded to that, and rolled back.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it measured"
)]

#[path = "../api_server/mod.rs"]
mod api_server;
mod client;
mod faults;
#[path = "../history/mod.rs"]
mod history;
mod lease;
mod link;
mod lost;
mod mi;
mod pods;
mod proxies;
mod random;
mod record;
mod redis;
#[path = "../redis_server/mod.rs"]
mod redis_server;
mod report;
mod round;
mod stack;
mod told;
mod unknown;
mod wire;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use faults::Kind;
use random::Random;
use report::Report;
use round::Settings;

/// Kills of one round: before one Redis, and before two that Sentinels guard.
const ROUNDS: [(usize, bool); 2] = [(30, false), (20, true)];

/// Between two things that one client does.
const PAUSE: Duration = Duration::from_millis(900);

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn of_the_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// One test at a time: each needs the whole machine.
static ALONE: Mutex<()> = Mutex::new(());

/// What happens to processes.
#[derive(Default)]
struct Plan {
    pods: usize,
    kills: usize,
    rolls: usize,
    by_lease: bool,
    other: Option<PathBuf>,
}

/// Plays rounds until all kills are done, each with its own site.
fn run(name: &str, plan: Plan) -> Option<Report> {
    if !redis_server::is_here(name) || plan.by_lease && !api_server::is_here(name) {
        return None;
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let seed = number("CHAOS_SEED").unwrap_or_else(of_the_clock);
    let clients = usize::try_from(number("CHAOS_CLIENTS").unwrap_or(40)).unwrap();
    let kinds = match std::env::var("CHAOS_FAULTS") {
        Ok(named) => Kind::named(&named),
        Err(_) => Kind::ALL.to_vec(),
    };
    println!("{name}: CHAOS_SEED={seed}");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.unwrap();
    let mut seeds = Random::new(seed);
    let mut report = Report::new(seed);
    let Plan { pods, kills, rolls, by_lease, other } = plan;
    let mut left = kills;
    let may_fail_over = kinds.contains(&Kind::Failover);
    let rounds = ROUNDS.iter().filter(|(_, guarded)| may_fail_over || !guarded).cycle();
    for (most, guarded) in rounds {
        if left == 0 && report.rounds > 0 {
            break;
        }
        let kills = left.min(*most);
        left -= kills;
        let settings = Settings {
            seed: seeds.next(),
            pods,
            kills,
            guarded: *guarded,
            by_lease,
            rolls,
            other: other.clone(),
            clients,
            pause: PAUSE,
            kinds: kinds.clone(),
        };
        let temporary = tempfile::tempdir().unwrap();
        let kept = std::env::var_os("CHAOS_KEEP").map(PathBuf::from);
        let folder = match &kept {
            Some(kept) => kept.join(format!("{name}-{}", report.rounds)),
            None => temporary.path().to_owned(),
        };
        std::fs::create_dir_all(&folder).unwrap();
        let played = runtime.block_on(round::play(&settings, &folder));
        if kept.is_some() {
            played.keep(&folder);
        }
        report.add(&played);
        println!("{}", report.of_round(&played));
    }
    println!("{report}");
    Some(report)
}

#[test]
fn no_command_is_without_outcome_and_nothing_is_told_or_done_twice_whatever_dies() {
    let kills = usize::try_from(number("CHAOS_KILLS").unwrap_or(50)).unwrap();
    if let Some(report) = run("kills", Plan { pods: 3, kills, ..Plan::default() }) {
        report.assert_kept();
    }
}

/// The same where a Lease elects, and the API server is in trouble as often as not.
#[test]
fn a_lease_at_an_api_server_elects_as_well() {
    let kills = usize::try_from(number("CHAOS_LEASE_KILLS").unwrap_or(16)).unwrap();
    let plan = Plan { pods: 3, kills, rolls: 2, by_lease: true, ..Plan::default() };
    if let Some(report) = run("lease", plan) {
        report.assert_kept();
    }
}

/// Who is told to stop finishes what it has sent, and leaves the rest to others: nobody can tell.
#[test]
fn a_rolling_restart_leaves_no_outcome_unknown() {
    if let Some(report) = run("rolling", Plan { pods: 3, rolls: 4, ..Plan::default() }) {
        report.assert_kept();
        report.assert_known();
    }
}

/// Four processes of another build are upgraded to this one, and rolled back. Halfway two of each serve
/// together, on one Redis, and one of each is killed.
#[test]
fn an_upgrade_and_a_rollback_lose_and_double_nothing() {
    let name = "an_upgrade_and_a_rollback_lose_and_double_nothing";
    let Some(other) = std::env::var_os("CHAOS_OTHER_PROGRAM").map(PathBuf::from) else {
        println!("skipped: {name} (CHAOS_OTHER_PROGRAM names no other build)");
        return;
    };
    let both = [&other, &pods::program()].map(|build| std::fs::read(build).unwrap());
    assert!(both[0] != both[1], "{} is this very build", other.display());
    if let Some(report) = run(name, Plan { pods: 4, other: Some(other), ..Plan::default() }) {
        report.assert_kept();
    }
}
