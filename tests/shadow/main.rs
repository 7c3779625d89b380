//! The hot shadow: a leader dies or stands still while the stack tells two thousand events a second,
//! and nobody can tell by what clients are told.
//!
//! Three real processes over a real Redis, a simulated stack over UDP. Clients are at processes that
//! do not lead, so that a takeover is all that happens to their commands; and all that decides these
//! happens at phones while nobody leads. Most events are about calls that nobody listens to.
//!
//! What is told wrong is told wrong, however busy the machine was. Only a run that did not measure what
//! it was to measure ([`play`] says which that is) is played once more, a few times at most, and says so.
//!
//! * `SHADOW_ROUNDS` says how often all of it is done (1), each time with other processes;
//! * `SHADOW_RATE` says how many events a second are told (2000);
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

mod amount;
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
mod phones;
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
mod rounds;
#[path = "../chaos/stack.rs"]
mod simulated;
mod sockets;
mod stack;
#[path = "../chaos/told.rs"]
mod told;
mod wave;
#[path = "../chaos/wire.rs"]
mod wire;

use callplane::stack::simulated::Script;
use play::Takeover::{Killed, Stopped};
use rounds::{Elects, run};

/// So many processes.
const PODS: usize = 3;

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
