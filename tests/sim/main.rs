//! Schedules of a whole installation in one thread and virtual time. One seed decides what clients
//! ask for, what goes wrong, and in which order everything happens.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking"
)]

/// Most of a schedule is small pieces of memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod api;
mod bug;
mod bus;
mod client;
mod executor;
mod faults;
#[path = "../history/mod.rs"]
mod history;
mod lease;
mod network;
mod pod;
mod proxy;
mod random;
mod record;
mod run;
mod site;
mod socket;
mod store;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bug::Bug;
use history::Broken;

/// So many schedules are played unless `SCHEDULES` says otherwise.
const SCHEDULES: u64 = 2_000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|number| number.parse().unwrap())
}

/// The first of seeds that nobody has played, unless `FROM` names one.
fn unplayed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_micros()).unwrap()
}

/// Plays seeds on all cores, and says which broke a promise.
fn play(seeds: &[u64]) -> Vec<(u64, Vec<Broken>)> {
    let (next, failed) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                let next = || usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap();
                while let Some(seed) = seeds.get(next()) {
                    let broken = history::judge(&run::run(*seed, None));
                    if !broken.is_empty() {
                        say(*seed, &broken);
                        failed.lock().unwrap().push((*seed, broken));
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap()
}

fn say(seed: u64, broken: &[Broken]) {
    println!("seed {seed} breaks {} promises, first:", broken.len());
    println!("    {}", broken[0]);
    println!("    replay: SEED={seed} cargo test --test sim -- --exact one_seed --nocapture");
}

#[test]
fn schedules_keep_the_promises() {
    let count = number("SCHEDULES").unwrap_or(SCHEDULES);
    let from = number("FROM").unwrap_or_else(unplayed);
    println!("{count} schedules, seeds from {from}");
    let began = Instant::now();
    let seeds = from..from + count;
    let seeds = seeds.map(|seed| if seed % 2 == 0 { seed } else { seed | run::KUBERNETES });
    let failed = play(&seeds.collect::<Vec<_>>());
    println!("{count} schedules in {:.1} s", began.elapsed().as_secs_f32());
    let seeds: Vec<u64> = failed.iter().map(|(seed, _)| *seed).collect();
    assert!(failed.is_empty(), "seeds that break promises: {seeds:?}");
}

/// Each line of `seeds.txt`: a seed, and what it showed.
#[test]
fn seeds_that_once_failed_keep_the_promises() {
    let lines = include_str!("seeds.txt").lines().filter(|line| !line.starts_with('#'));
    let seeds: Vec<u64> =
        lines.filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect();
    assert!(!seeds.is_empty());
    assert_eq!(play(&seeds), []);
}

/// Replays the seed in `SEED`, and prints all that was seen.
#[test]
fn one_seed() {
    let Some(seed) = number("SEED") else { return };
    let history = run::run(seed, None);
    println!("{}", history.text());
    let broken = history::judge(&history);
    for broken in &broken {
        println!("BROKEN {broken}");
    }
    assert!(broken.is_empty(), "seed {seed} breaks {} promises", broken.len());
}

#[test]
fn the_same_seed_is_the_same_history() {
    for seed in (0..20).chain(run::KUBERNETES..run::KUBERNETES + 20) {
        let (one, other) = (run::run(seed, None), run::run(seed, None));
        assert_eq!(one.text(), other.text());
    }
}

/// What a schedule is said to be: so many commands, and so many faults.
#[test]
fn schedules_are_full() {
    let (mut commands, mut faults) = (0, 0);
    for seed in 0..50 {
        let history = run::run(seed, None);
        let began = |event: &&history::Event| match &event.what {
            history::What::Told { event, .. } => event == "Started",
            _ => false,
        };
        commands += history.events.iter().filter(began).count();
        faults += history.events.iter().filter(|event| event.is_fault()).count();
    }
    assert!(commands >= 20 * 50 * 9 / 10, "{commands} commands in 50 schedules");
    assert!(faults >= 5 * 50, "{faults} faults in 50 schedules");
}

/// A bug is found within this many schedules, by a promise that it breaks.
fn is_found(bug: Bug, within: u64) {
    for seed in 0..within {
        let broken = history::judge(&run::run(seed, Some(bug)));
        if let Some(first) = broken.first() {
            println!("{bug:?}: found with seed {seed}: {first}");
            return;
        }
    }
    panic!("{bug:?} was not found in {within} schedules");
}

macro_rules! found {
    ($($name:ident: $bug:ident within $within:literal,)*) => {
        $(
            #[test]
            fn $name() {
                is_found(Bug::$bug, $within);
            }
        )*
    };
}

mod a_checker_finds {
    use super::{Bug, is_found};

    found! {
        a_store_without_versions: NoVersionCheck within 50,
        what_is_told_before_it_is_committed: TellsBeforeCommit within 50,
        a_once_act_that_is_repeated: RepeatsOnceActs within 300,
        a_second_refer: SecondRefer within 50,
        a_second_invite: SecondInvite within 50,
        a_store_that_forgets_and_does_not_say_so: ForgetsTail within 50,
        leaders_that_are_not_fenced: NoTerms within 2000,
        a_notification_told_twice: TellsTwice within 50,
        a_notification_that_is_lost: TellsNever within 50,
        notifications_out_of_order: OutOfOrder within 50,
        a_command_that_ends_twice: EndsTwice within 50,
        the_dead_that_nobody_takes_up: ForgetsTheDead within 200,
        another_tenants_entry: OtherTenant within 50,
        a_forgotten_id: ForgetsIds within 300,
        an_unknown_that_was_not_so: DeafToAnswers within 100,
        a_leg_that_is_left: LeavesLegs within 100,
        a_call_that_was_ended_unasked: EndsCalls within 100,
        a_sending_that_is_denied: DeniesSending within 300,
    }
}
