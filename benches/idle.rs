//! What an idle session costs the server: resident bytes and descriptors.
//!
//!     cargo bench --bench idle
//!
//! `callplane serve` with its defaults; this process opens sockets in steps of a thousand, as
//! far as 20,000 descriptors a process go. Each has opened a session with one Echo and been quiet
//! since. A flat column says that the next thousand costs what the thousand before did.

#![allow(clippy::cast_precision_loss, clippy::unwrap_used)]

mod load;

use std::time::Duration;

use load::process::{pin_client, serve};
use load::rounds::{Wanted, echo};
use load::socket::{Socket, scratch};

const STEP: usize = 1_000;
const SOCKETS: usize = 15_000;
const PATIENCE: Duration = Duration::from_secs(20);

fn main() {
    pin_client();
    let server = serve(&[("STACKS__0__MI", "udp:127.0.0.1:9".to_owned())]);
    let (mut scratch, mut text) = (scratch(), String::new());
    let mut sockets: Vec<Socket> = Vec::with_capacity(SOCKETS);
    let empty = server.resident();
    let mut before = (empty, server.descriptors());
    let mut first = before;
    println!("before the first socket: {} KB, {} descriptors", empty / 1024, before.1);
    println!("sockets  resident KB  bytes each of the last {STEP}  descriptors each");
    while sockets.len() < SOCKETS {
        for n in sockets.len()..sockets.len() + STEP {
            let mut socket = Socket::connect(server.clients);
            text.clear();
            echo(&mut text, &Wanted { number: n as u64, slot: 0, round: 0 });
            socket.queue(&text);
            socket.send();
            let mut ended = false;
            while !ended {
                socket.wait(&mut scratch, PATIENCE, |message| {
                    ended |= message.ends_with(br#""outcome":"success"}}"#);
                });
            }
            sockets.push(socket);
        }
        let now = (server.resident(), server.descriptors());
        println!(
            "{:>7}  {:>11}  {:>27.0}  {:>16.3}",
            sockets.len(),
            now.0 / 1024,
            (now.0 as f64 - before.0 as f64) / STEP as f64,
            (now.1 - before.1) as f64 / STEP as f64
        );
        before = now;
        if sockets.len() == STEP {
            first = now;
        }
    }
    let more = (SOCKETS - STEP) as f64;
    println!(
        "slope from {STEP} to {SOCKETS}: {:.0} bytes and {:.3} descriptors each (target 8192 and 1)",
        (before.0 as f64 - first.0 as f64) / more,
        (before.1 - first.1) as f64 / more
    );
    drop(sockets);
}
