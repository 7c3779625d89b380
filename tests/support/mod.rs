//! What the tests against SIP and OpenSIPS share: scripted phones, a real OpenSIPS, its
//! Management Interface and its events.
//!
//! * [`sip`] reads and writes SIP messages;
//! * [`phone`] is a SIP user agent whose every reaction can be chosen, with a complete log;
//! * [`mi`] and [`events`] talk to OpenSIPS as callplane does;
//! * [`opensips`] starts and stops a real OpenSIPS on free loopback ports.
//!
//! Nothing sleeps: tests wait for conditions, with a deadline.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code; every test binary uses a part of it"
)]

pub mod events;
pub mod mi;
pub mod opensips;
pub mod phone;
pub mod sip;

use std::time::{Duration, Instant};

/// How long a test waits for something that must happen. Generous: only a failing test waits it out.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Asks `probe` until it gives a value; panics with `what` after [`DEADLINE`].
pub fn wait_until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
