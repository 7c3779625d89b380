//! What the connector counts of itself. All labels are words of this program.

use std::time::Duration;

/// Takes counts. Implemented by the metrics; all methods must be cheap and must not block.
pub trait Meter: Send + Sync + 'static {
    /// A request goes out.
    fn sent(&self, command: &'static str);
    /// It came to an end.
    fn answered(&self, command: &'static str, result: MiResult, took: Duration);
    /// The breaker changed.
    fn breaker(&self, state: BreakerState);
    /// A restart was noticed.
    fn restarted(&self);
    /// An event was taken in.
    fn event(&self, name: &'static str, result: EventResult);
    /// The stack has just confirmed the subscription.
    fn subscribed(&self);
    /// The receive buffer that the kernel gave, in bytes.
    fn event_buffer(&self, bytes: usize);
    /// A trial event came in, so long after it was raised.
    fn trial_took(&self, took: Duration);
    /// A trial event did not come in.
    fn trial_missed(&self);
    /// Events were just seen to come in, or not to.
    fn events_arrive(&self, yes: bool);
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MiResult {
    /// With a result (which may tell of a phone's refusal).
    Ok,
    /// With an error.
    Refused,
    /// With nothing in time, or with something unreadable.
    Silent,
    /// It never left.
    NotSent,
    /// Nobody waited for its end any more.
    Abandoned,
}

impl MiResult {
    /// The word for metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Silent => "timeout",
            Self::NotSent => "not_sent",
            Self::Abandoned => "abandoned",
        }
    }
}

/// What the breaker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Requests pass.
    Closed,
    /// One request is being tried.
    Trying,
    /// Requests are refused at once.
    Open,
}

impl BreakerState {
    /// The number for metrics.
    #[must_use]
    pub fn as_number(self) -> u8 {
        match self {
            Self::Closed => 0,
            Self::Trying => 1,
            Self::Open => 2,
        }
    }
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventResult {
    /// It was handed on.
    Reported,
    /// It says nothing of use.
    Ignored,
    /// It could not be read.
    Malformed,
    /// There was no room for it.
    Lost,
}

impl EventResult {
    /// The word for metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reported => "reported",
            Self::Ignored => "ignored",
            Self::Malformed => "malformed",
            Self::Lost => "overflow",
        }
    }
}

/// Counts nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unmetered;

impl Meter for Unmetered {
    fn sent(&self, _command: &'static str) {}
    fn answered(&self, _command: &'static str, _result: MiResult, _took: Duration) {}
    fn breaker(&self, _state: BreakerState) {}
    fn restarted(&self) {}
    fn event(&self, _name: &'static str, _result: EventResult) {}
    fn subscribed(&self) {}
    fn event_buffer(&self, _bytes: usize) {}
    fn trial_took(&self, _took: Duration) {}
    fn trial_missed(&self) {}
    fn events_arrive(&self, _yes: bool) {}
}
