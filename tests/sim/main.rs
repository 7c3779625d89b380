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

/// Plays many seeds, and says which fail and how.
fn play(
    seeds: impl Iterator<Item = u64>,
    bug: Option<bug::Bug>,
) -> Vec<(u64, Vec<history::Broken>)> {
    seeds
        .filter_map(|seed| {
            let broken = history::judge(&run::run(seed, bug));
            (!broken.is_empty()).then_some((seed, broken))
        })
        .collect()
}

#[test]
fn try_one() {
    let Ok(seed) = std::env::var("SEED") else { return };
    let history = run::run(seed.parse().unwrap(), None);
    println!("{}", history.text());
    for broken in history::judge(&history) {
        println!("BROKEN {broken}");
    }
}

#[test]
fn many() {
    let count = std::env::var("SCHEDULES").map_or(100, |count| count.parse().unwrap());
    let began = std::time::Instant::now();
    let failed = play(0..count, None);
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
