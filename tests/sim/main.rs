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

#[test]
fn try_one() {
    let seed = std::env::var("SEED").map_or(1, |seed| seed.parse().unwrap());
    let history = run::run(seed, None);
    println!("{}", history.text());
    for broken in history::judge(&history) {
        println!("BROKEN {broken}");
    }
}
