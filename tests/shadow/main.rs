//! The hot shadow: a leader dies or stands still while the stack tells two thousand events a second,
//! and nobody can tell by what clients are told.
//!
//! Three real processes over a real Redis, a simulated stack over UDP. Clients are at processes that
//! do not lead, so that a takeover is all that happens to their commands; and all that decides these
//! happens at phones while nobody leads. Most events are about calls that nobody listens to.
//!
//! * `SHADOW_ROUNDS` says how often all of it is done (1), each time with other processes;
//! * `SHADOW_KEEP` names a folder for logs and histories.
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
#[path = "../chaos/faults.rs"]
mod faults;
#[path = "../history/mod.rs"]
mod history;
#[path = "../chaos/lease.rs"]
mod lease;
#[path = "../chaos/link.rs"]
mod link;
#[path = "../chaos/mi.rs"]
mod mi;
mod noise;
mod play;
#[path = "../chaos/pods.rs"]
mod pods;
#[path = "../chaos/random.rs"]
mod random;
#[path = "../chaos/record.rs"]
mod record;
#[path = "../chaos/redis.rs"]
mod redis;
#[path = "../redis_server/mod.rs"]
mod redis_server;
#[path = "../chaos/stack.rs"]
mod simulated;
mod stack;
#[path = "../chaos/told.rs"]
mod told;
mod wave;
#[path = "../chaos/wire.rs"]
mod wire;

use std::sync::{Mutex, PoisonError};

use callplane::stack::simulated::Script;
use play::Played;
use play::Takeover::{self, Killed, Stopped};

/// So many processes.
const PODS: usize = 3;

/// One test at a time: each needs the whole machine.
static ALONE: Mutex<()> = Mutex::new(());

/// So often it is begun anew where the machine had no time for it.
const ATTEMPTS: usize = 4;

fn rounds() -> usize {
    let text = std::env::var("SHADOW_ROUNDS").unwrap_or_else(|_| "1".to_owned());
    text.parse().unwrap_or_else(|_| panic!("SHADOW_ROUNDS={text} is no number"))
}

/// Who elects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Elects {
    Redis,
    ApiServer,
}

fn run(test: &str, script: Script, elects: Elects, takeovers: &[Takeover]) {
    let by_lease = elects == Elects::ApiServer;
    if !redis_server::is_here(test) || by_lease && !api_server::is_here(test) {
        return;
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build();
    let runtime = runtime.unwrap();
    for round in 1..=rounds() {
        let once = || match runtime.block_on(play::play(test, script, elects, takeovers)) {
            Played::Well(report) => Some(report),
            Played::Broken(report) => panic!("{report}"),
            Played::TooSlow(why) => {
                println!("{test}: once more, since {why}");
                None
            }
        };
        let report = (0..ATTEMPTS).find_map(|_| once()).expect("a machine that is fast enough");
        println!("{test}, round {round}: {report}");
    }
}

#[test]
fn a_leader_s_death_costs_no_event_and_no_outcome() {
    let test = "a_leader_s_death_costs_no_event_and_no_outcome";
    run(test, Script::Stock, Elects::Redis, &[Killed, Stopped]);
}

#[test]
fn nor_does_it_before_the_reference_script() {
    let test = "nor_does_it_before_the_reference_script";
    run(test, Script::Reference, Elects::Redis, &[Killed]);
}

#[test]
fn nor_does_it_where_a_lease_elects() {
    let test = "nor_does_it_where_a_lease_elects";
    run(test, Script::Reference, Elects::ApiServer, &[Killed, Stopped]);
}
