//! How much the stack tells, and what of it a client is to be told.

use std::time::Duration;

/// Events a second, unless the environment says otherwise.
const RATE: u32 = 2_000;

/// Events a second.
pub fn rate() -> u32 {
    let Ok(text) = std::env::var("SHADOW_RATE") else { return RATE };
    text.parse().unwrap_or_else(|_| panic!("SHADOW_RATE={text} is no number"))
}

/// One in so many is a report.
pub const ONE_IN: u32 = 25;

/// The statuses that each transfer reports, one after the other: each is told once. Phones say 180 of
/// their own.
const STATUSES: [u64; 98] = {
    let mut all = [0; 98];
    let (mut at, mut status) = (0, 101);
    while at < all.len() {
        if status != 180 {
            all[at] = status;
            at += 1;
        }
        status += 1;
    }
    all
};

/// A transfer that rings on and on, and reports.
#[derive(Debug, Clone)]
pub struct Ringing {
    pub call: String,
    /// Whose phone rings somebody.
    pub transferee: String,
}

/// Which transfer, and which status it reported.
pub type Report = (usize, u64);

/// The report of this number, of so many transfers. `None`: all statuses were reported.
pub fn report(number: usize, transfers: usize) -> Option<Report> {
    STATUSES.get(number / transfers).map(|status| (number % transfers, *status))
}

/// How a phone puts it into words. Nothing else is in these.
pub fn words(status: u64) -> String {
    format!("{status} Progress")
}

/// The status that such words are of.
pub fn status_in(words: &str) -> Option<u64> {
    let (status, "Progress") = words.split_once(' ')? else { return None };
    status.parse().ok()
}

/// What was sent.
#[derive(Debug, Default)]
pub struct Sent {
    pub events: u32,
    /// Those that the stack told.
    pub reports: Vec<Report>,
    /// So many it never got.
    pub untaken: usize,
    pub took: Duration,
}
