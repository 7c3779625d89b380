//! The hot shadow before a real OpenSIPS: as `shadow` has it, with two thousand events a second of the
//! proxy's own ([`noise`]), phones that decide, and a leader that is killed or stands still.
//!
//! All outcomes are held against what phones themselves did. Where `OPENSIPS_BIN` is not set, each says
//! by its name that it is skipped. `SHADOW_ROUNDS` and `SHADOW_KEEP` are as there.
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

#[path = "../shadow/amount.rs"]
mod amount;
#[path = "../api_server/mod.rs"]
mod api_server;
#[path = "../shadow/client.rs"]
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
#[path = "../shadow/phones.rs"]
mod phones;
#[path = "../shadow/play.rs"]
mod play;
#[path = "../chaos/pods.rs"]
mod pods;
#[path = "../chaos/random.rs"]
mod random;
#[path = "../pods_opensips/stack.rs"]
mod real;
#[path = "../chaos/record.rs"]
mod record;
#[path = "../chaos/redis.rs"]
mod redis;
#[path = "../redis_server/mod.rs"]
mod redis_server;
#[path = "../shadow/rounds.rs"]
mod rounds;
#[path = "../shadow/sockets.rs"]
mod sockets;
mod stack;
#[path = "../support/mod.rs"]
mod support;
#[path = "../chaos/told.rs"]
mod told;
#[path = "../shadow/wave.rs"]
mod wave;
#[path = "../chaos/wire.rs"]
mod wire;
mod witness;

use callplane::stack::simulated::Script;
use play::Takeover::{Killed, Stopped};
use rounds::{Elects, run};
use support::opensips::installation;

/// So many processes.
const PODS: usize = 3;

#[test]
fn before_the_shipped_script_a_leader_s_death_costs_no_event_and_no_outcome() {
    let test = "before_the_shipped_script_a_leader_s_death_costs_no_event_and_no_outcome";
    if installation(test).is_some() {
        run(test, Script::Reference, Elects::Redis, &[Killed, Stopped]);
    }
}

#[test]
fn nor_does_it_before_a_stock_script() {
    let test = "nor_does_it_before_a_stock_script";
    if installation(test).is_some() {
        run(test, Script::Stock, Elects::Redis, &[Killed, Stopped]);
    }
}
