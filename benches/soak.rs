//! Whether memory stays flat: ten million Echoes as fast as they go, then a million holds, 6,000 a
//! second, whose records and notifications are kept for 10 s.
//!
//!     make soak
//!     cargo bench --bench soak -- echoes holds
//!
//! `callplane serve` on one core; client and simulated stack on the other. Without a word nothing
//! is run: it takes minutes.
#![allow(clippy::cast_precision_loss, clippy::unwrap_used)]

mod load;

use std::time::Duration;

use callplane::stack::simulated::Script;

use load::process::{Process, pin_client, serve};
use load::proxy::{Proxy, quick_world, wait_for_events};
use load::rounds::{Load, Pace, Until, echo, hold};

const ECHOES: u64 = 10_000_000;

/// A pace, so that the same number of holds is kept all the time.
const HOLDS: Pace = Pace { a_second: 6_000, commands: 1_000_000 };

const SOCKETS: usize = 50;

/// Each is held, or taken back, three times a second.
const CALLS: usize = 2_000;

/// A line for each so many seconds.
const EVERY: Duration = Duration::from_secs(5);

/// Prints a line of the table when it is time.
fn sampler(server: &Process) -> impl FnMut(Duration, u64) {
    println!("seconds  commands  resident KB  descriptors");
    let mut next = Duration::ZERO;
    move |elapsed, done| {
        if elapsed >= next {
            next = elapsed + EVERY;
            println!(
                "{:>7.0}  {done:>8}  {:>11}  {:>11}",
                elapsed.as_secs_f64(),
                server.resident() / 1024,
                server.descriptors()
            );
        }
    }
}

fn main() {
    let wanted = |word: &str| std::env::args().any(|argument| argument == word);
    if !wanted("echoes") && !wanted("holds") {
        println!("not run, it takes minutes: make soak");
        return;
    }
    pin_client();
    let proxy = Proxy::start(quick_world(Script::Stock, 2));
    proxy.place_calls(CALLS);
    let kept = "10s".to_owned();
    let mut variables = proxy.variables();
    variables.push(("STORE__KEEP_OTHERS", kept.clone()));
    variables.push(("STORE__KEEP_NOTICES", kept));
    let server = serve(&variables);
    wait_for_events(&server);
    let mut load = Load::connect(&server, SOCKETS);
    if wanted("echoes") {
        println!("{ECHOES} Echoes");
        let watch = &mut sampler(&server);
        load.closed(4, Until::Done(ECHOES), &mut echo, watch).print("Echo");
    }
    if wanted("holds") {
        println!("{} holds and unholds of {CALLS} calls, kept for 10 s", HOLDS.commands);
        let watch = &mut sampler(&server);
        load.paced(HOLDS, CALLS, &mut hold(0), watch).print("CallHold and CallUnhold");
    }
    println!("resident after the last: {} KB", server.resident() / 1024);
}
