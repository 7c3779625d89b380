//! Several real processes over one real Redis, before a real OpenSIPS with scripted phones.
//!
//! * [`phases`]: processes die in every phase of every command; [`table`] says what comes of each.
//! * [`load`]: twenty phones, random commands, and a process killed every two seconds.
//!
//! `PODS_KEEP` names a folder for logs and histories; `PODS_SEED` and `PODS_KILLS` steer the load.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unused_async,
    reason = "a test fails by panicking, and says what it measured"
)]

#[path = "../api_server/mod.rs"]
mod api_server;
#[path = "../chaos/client.rs"]
mod client;
#[path = "../chaos/faults.rs"]
mod faults;
#[path = "../history/mod.rs"]
mod history;
#[path = "../chaos/lease.rs"]
mod lease;
#[path = "../chaos/link.rs"]
mod link;
mod load;
#[path = "../chaos/lost.rs"]
mod lost;
mod mi;
mod phases;
#[path = "../chaos/pods.rs"]
mod pods;
#[path = "../chaos/proxies.rs"]
mod proxies;
#[path = "../chaos/random.rs"]
mod random;
#[path = "../chaos/record.rs"]
mod record;
#[path = "../chaos/redis.rs"]
mod redis;
#[path = "../redis_server/mod.rs"]
mod redis_server;
#[path = "../chaos/report.rs"]
mod report;
#[path = "../chaos/round.rs"]
mod round;
mod stack;
#[path = "../support/mod.rs"]
mod support;
mod table;
mod talk;
#[path = "../chaos/told.rs"]
mod told;
#[path = "../chaos/unknown.rs"]
mod unknown;
#[path = "../chaos/wire.rs"]
mod wire;

use std::sync::atomic::{AtomicUsize, Ordering};

use callplane::stack::simulated::Script;

use phases::{Dies, Played};

/// So many processes.
const PODS: usize = 3;

/// Whether there is all that it takes; says which test is skipped.
fn is_here(test: &str) -> bool {
    support::opensips::installation(test).is_some() && redis_server::is_here(test)
}

fn in_every_phase(test: &str, script: Script, dies: Dies) {
    /// Below 10 are those of the load.
    static NUMBER: AtomicUsize = AtomicUsize::new(10);
    const ATTEMPTS: usize = 8;
    if !is_here(test) {
        return;
    }
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    for _ in 0..ATTEMPTS {
        match runtime().block_on(phases::play(number, script, dies)) {
            Played::Well(report) => return println!("{report}"),
            Played::Broken(report) => panic!("{report}"),
            Played::TooSlow => println!("{test}: this machine is too slow, once more"),
        }
    }
    panic!("this machine is too slow");
}

fn runtime() -> tokio::runtime::Runtime {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build();
    runtime.unwrap()
}

#[test]
fn under_load_no_command_is_without_outcome_and_no_phone_is_asked_twice_whatever_dies() {
    if is_here("under_load_no_command_is_without_outcome_and_no_phone_is_asked_twice_whatever_dies")
    {
        runtime().block_on(load::play());
    }
}

macro_rules! in_every_phase {
    ($($test:ident, $script:ident, $dies:ident;)*) => {
        $(#[test]
        fn $test() {
            in_every_phase(stringify!($test), Script::$script, Dies::$dies);
        })*
    };
}

in_every_phase! {
    stock_whoever_performs_dies_in_every_phase, Stock, Theirs;
    stock_the_leader_dies_in_every_phase, Stock, Leader;
    stock_both_die_in_every_phase, Stock, Both;
    reference_whoever_performs_dies_in_every_phase, Reference, Theirs;
    reference_the_leader_dies_in_every_phase, Reference, Leader;
    reference_both_die_in_every_phase, Reference, Both;
}
