//! The phones of a site, whoever plays them, and how long the stack waits for them.

use std::time::Duration;

/// Seconds until the stack gives up a phone that says nothing: longer than any takes to answer.
pub const FR_TIMEOUT: u32 = 12;

/// Seconds that it lets a phone ring.
pub const FR_INV_TIMEOUT: u32 = 70;

/// Room for a second of events and more: a machine that is busy is not to lose any.
pub const RECEIVE_BUFFER: &str = "4MiB";

/// Phones of each kind.
pub const EACH: usize = 12;

/// What a phone does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Character {
    /// All at once.
    Plain,
    /// It takes a call late.
    Takes(Duration),
    /// It refuses it late.
    Refuses(Duration),
    /// It takes a hold late.
    Holds(Duration),
    /// It rings for ever.
    Rings,
}

/// From a call to a phone's answer: before a dead leader is missed, while nobody leads, and when
/// somebody does again.
fn after(at: usize) -> Duration {
    Duration::from_millis(1500 + 350 * at as u64)
}

/// All, by their users' names.
pub fn all() -> Vec<(String, Character)> {
    let mut all = vec![("rings".to_owned(), Character::Rings)];
    for at in 0..EACH {
        let late = after(at);
        all.extend([
            (format!("talks{at}"), Character::Plain),
            (format!("asks{at}"), Character::Plain),
            (format!("reports{at}"), Character::Plain),
            (format!("takes{at}"), Character::Takes(late)),
            (format!("refuses{at}"), Character::Refuses(late)),
            (format!("holds{at}"), Character::Holds(late)),
        ]);
    }
    all
}
