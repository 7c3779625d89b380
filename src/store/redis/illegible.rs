//! What this version can't read.
//!
//! While processes are replaced one after the other, a later version may write what this one does not
//! know. It must stop nothing: it is passed over, left to those who can read it, and said now and then.

use std::time::Duration;

use super::reach::Seldom;
use super::wire::Unintelligible;

/// How often it is said.
const SAID_AGAIN: Duration = Duration::from_secs(60);

/// Passes over what can't be read.
pub(super) struct Illegible(Seldom);

impl Default for Illegible {
    fn default() -> Self {
        Self(Seldom::every(SAID_AGAIN))
    }
}

impl Illegible {
    /// What was read, if it could be.
    pub(super) fn pass_over<T>(&self, read: Result<T, Unintelligible>) -> Option<T> {
        let error = match read {
            Ok(read) => return Some(read),
            Err(error) => error,
        };
        if self.0.is_due() {
            tracing::warn!(%error, "redis: what a later version wrote is passed over");
        } else {
            tracing::debug!(%error, "redis: what a later version wrote is passed over");
        }
        None
    }
}
