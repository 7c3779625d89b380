//! The simulated stack and its phones.

use callplane::stack::simulated::{Behaviour, PhoneConfig, Script};

pub use super::simulated::{Stack, domain};

/// Seconds until it gives up a phone that says nothing: longer than any takes to answer.
pub const FR_TIMEOUT: u32 = 12;

/// Seconds that it lets a phone ring.
pub const FR_INV_TIMEOUT: u32 = 70;

/// Room for a second of events and more: a machine that is busy is not to lose any.
pub const RECEIVE_BUFFER: &str = "4MiB";

/// Holds are the stack's, and told by its events only. Nothing that rings comes to its time.
pub const TIMES: &str = "ring_timeout: 60s\n  refer_follow: 10s\n  grace: 500ms\n  hold: call_hold";

/// Phones of each kind.
pub const EACH: usize = 12;

/// From a call to a phone's answer: before a dead leader is missed, while nobody leads, and when
/// somebody does again.
fn after(at: usize) -> u64 {
    1500 + 350 * at as u64
}

/// Phones that talk, that take a call late, that refuse it late, that take a hold late, and one that
/// rings for ever.
pub async fn start(script: Script, seed: u64) -> Stack {
    let mut phones = Vec::new();
    let mut add = |name: &str, behaviour: Behaviour| {
        let at = format!("127.0.0.1:{}", 5101 + 4 * phones.len());
        phones.push(PhoneConfig { behaviour, ..PhoneConfig::new(name, &at) });
    };
    let plain = Behaviour::default;
    for at in 0..EACH {
        add(&format!("talks{at}"), plain());
        add(&format!("asks{at}"), plain());
        add(&format!("takes{at}"), Behaviour { ring_ms: after(at), ..plain() });
        add(&format!("refuses{at}"), Behaviour { ring_ms: after(at), answer: 486, ..plain() });
        add(&format!("holds{at}"), Behaviour { reinvite_ms: after(at), ..plain() });
    }
    add("rings", Behaviour { answer: 0, ..plain() });
    Stack::with(0, script, phones, [FR_TIMEOUT, FR_INV_TIMEOUT], seed).await
}

pub fn uri(user: &str, id: &str) -> String {
    format!("sip:{user}@{};cmd={id}", domain(0))
}
