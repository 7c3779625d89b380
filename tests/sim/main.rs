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

use bug::Bug;
use history::Broken;

/// Plays seeds, and says which broke a promise.
fn play(seeds: impl Iterator<Item = u64>) -> Vec<(u64, Vec<Broken>)> {
    let play = |seed| (seed, history::judge(&run::run(seed, None)));
    seeds.map(play).filter(|(_, broken)| !broken.is_empty()).collect()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|number| number.parse().unwrap())
}

#[test]
fn try_one() {
    let Some(seed) = number("SEED") else { return };
    let history = run::run(seed, None);
    println!("{}", history.text());
    for broken in history::judge(&history) {
        println!("BROKEN {broken}");
    }
}

#[test]
fn many() {
    let count = number("SCHEDULES").unwrap_or(100);
    let began = std::time::Instant::now();
    let failed = play(number("FROM").unwrap_or(0)..count);
    println!("{count} schedules in {:?}", began.elapsed());
    for (seed, broken) in &failed {
        println!("seed {seed}: {}", broken[0]);
    }
    println!("{} failed", failed.len());
}

#[test]
fn the_same_seed_is_the_same_history() {
    for seed in 0..20 {
        let (one, other) = (run::run(seed, None), run::run(seed, None));
        assert_eq!(one.text(), other.text());
    }
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
