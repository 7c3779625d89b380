//! What callplane adds to a CallStart.
//!
//!     cargo bench --bench call_start
//!
//! `callplane serve` on one core; client and simulated stack on the other. In the simulated world
//! SIP takes no time: every message arrives, and every phone answers, at once. So all the time from
//! the request to `Ended` is callplane's, its management requests' and the stack's own work. One
//! start at a time; its call is ended, unmeasured, before the next.

#![allow(clippy::cast_precision_loss, clippy::unwrap_used)]

mod load;

use std::time::{Duration, Instant};

use callplane::stack::simulated::Script;

use load::figures::percentile;
use load::process::{Process, pin_client, serve};
use load::proxy::{DOMAIN, Proxy, quick_world, wait_for_events};
use load::socket::{Socket, scratch};

const WARM_UP: usize = 100;
const STARTS: usize = 2_000;
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a command to its `Ended`; all its messages.
fn run(socket: &mut Socket, scratch: &mut [u8], request: &str) -> String {
    let mut told = String::new();
    socket.queue(request);
    socket.send();
    while !told.contains(r#""event":"Ended""#) {
        socket.wait(scratch, PATIENCE, |message| told.push_str(&String::from_utf8_lossy(message)));
    }
    assert!(told.contains(r#""outcome":"success""#), "{told}");
    told
}

fn measure(name: &str, server: &Process) {
    let mut socket = Socket::connect(server.clients);
    let mut scratch = scratch();
    let mut latencies = Vec::new();
    for n in 0..WARM_UP + STARTS {
        let request = format!(
            r#"{{"jsonrpc":"2.0","id":{n},"method":"CallStart","params":{{"caller":"sip:phone0@{DOMAIN}","callee":"sip:phone1@{DOMAIN}"}}}}"#
        );
        let began = Instant::now();
        let told = run(&mut socket, &mut scratch, &request);
        if n >= WARM_UP {
            latencies.push(began.elapsed());
        }
        let call = told.split(r#""callid":""#).nth(1).and_then(|rest| rest.split('"').next());
        let call = call.unwrap_or_default();
        let end = format!(
            r#"{{"jsonrpc":"2.0","id":{n},"method":"CallEnd","params":{{"callid":"{call}"}}}}"#
        );
        run(&mut socket, &mut scratch, &end);
    }
    let [p50, p99] = [0.5, 0.99].map(|share| percentile(&mut latencies, share));
    println!("{name}: {STARTS} starts, p50 {p50:.3} ms, p99 {p99:.3} ms (target: p99 5 ms)");
}

fn main() {
    pin_client();
    for (name, script) in [("stock script", Script::Stock), ("reference script", Script::Reference)]
    {
        let proxy = Proxy::start(quick_world(script, 2));
        let server = serve(&proxy.variables());
        wait_for_events(&server);
        measure(name, &server);
    }
}
