//! Three real processes over one real Redis, simulated proxies, many clients that write down all they
//! see, and everything that can go wrong with processes. Then the history is judged.
//!
//! * `CHAOS_SEED` draws phones, clients and faults, as far as real processes allow;
//! * `CHAOS_KILLS` says how many processes are killed (50), in rounds of 50;
//! * `CHAOS_FAULTS` names what goes wrong beside: `pause,link,redis,rolling,flush` (all);
//! * `CHAOS_CLIENTS` says how many clients there are (24);
//! * `CHAOS_KEEP` names a folder for logs and histories.
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

mod client;
mod faults;
#[path = "../history/mod.rs"]
mod history;
mod link;
mod mi;
mod pods;
mod random;
mod record;
#[path = "../redis_server/mod.rs"]
mod redis_server;
mod report;
mod round;
mod stack;
mod told;
mod unknown;
mod wire;

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use faults::Kind;
use random::Random;
use report::Report;
use round::Settings;

/// Kills of one round.
const ROUND: usize = 50;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn of_the_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn no_command_is_without_outcome_and_nothing_is_told_or_done_twice_whatever_dies() {
    if !redis_server::is_here("chaos") {
        return;
    }
    let seed = number("CHAOS_SEED").unwrap_or_else(of_the_clock);
    let kills = usize::try_from(number("CHAOS_KILLS").unwrap_or(50)).unwrap();
    let clients = usize::try_from(number("CHAOS_CLIENTS").unwrap_or(24)).unwrap();
    let kinds = match std::env::var("CHAOS_FAULTS") {
        Ok(named) => Kind::named(&named),
        Err(_) => Kind::ALL.to_vec(),
    };
    println!("CHAOS_SEED={seed} CHAOS_KILLS={kills}");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.unwrap();
    let mut seeds = Random::new(seed);
    let mut left = kills;
    let mut report = Report::default();
    while left > 0 {
        let kills = left.min(ROUND);
        left -= kills;
        let pause = Duration::from_millis(900);
        let settings = Settings { seed: seeds.next(), kills, clients, pause, kinds: kinds.clone() };
        let temporary = tempfile::tempdir().unwrap();
        let folder = match std::env::var_os("CHAOS_KEEP") {
            Some(keep) => PathBuf::from(keep).join(format!("round-{}", report.rounds)),
            None => temporary.path().to_owned(),
        };
        std::fs::create_dir_all(&folder).unwrap();
        let played = runtime.block_on(round::play(&settings, &folder));
        if std::env::var_os("CHAOS_KEEP").is_some() {
            std::fs::write(folder.join("history.txt"), played.history.text()).unwrap();
            let faults: Vec<_> = played.faults.iter().map(|done| format!("{done:?}\n")).collect();
            std::fs::write(folder.join("faults.txt"), faults.concat()).unwrap();
            let asked: Vec<_> = played.asked.iter().map(|asked| format!("{asked:?}\n")).collect();
            std::fs::write(folder.join("asked.txt"), asked.concat()).unwrap();
        }
        report.add(&played);
        println!("{}", report.of_round(&played));
    }
    println!("{report}");
    report.assert(seed);
}
