//! What adapters count, in the metrics.

use std::time::Duration;

use crate::leadership::contest;
use crate::metrics::{LeaseMetrics, StackMetrics};
use crate::stack::opensips::meter::{BreakerState, EventResult, Meter, MiResult};

/// Counts one stack.
pub struct StackMeter(pub StackMetrics);

impl Meter for StackMeter {
    fn sent(&self, command: &'static str) {
        self.0.sent(command);
    }

    fn answered(&self, command: &'static str, result: MiResult, took: Duration) {
        self.0.answered(command, result.as_str(), took);
    }

    fn breaker(&self, state: BreakerState) {
        self.0.healthy(state == BreakerState::Closed);
        self.0.breaker(state.as_number());
    }

    fn restarted(&self) {
        self.0.restarted();
    }

    fn event(&self, name: &'static str, result: EventResult) {
        self.0.event(name, result.as_str());
    }

    fn subscribed(&self) {
        self.0.healthy(true);
        self.0.subscription_confirmed();
    }

    fn event_buffer(&self, bytes: usize) {
        self.0.event_buffer(bytes);
    }

    fn trial_took(&self, took: Duration) {
        self.0.trial_took(took);
    }

    fn trial_missed(&self) {
        self.0.trial_missed();
    }

    fn events_arrive(&self, yes: bool) {
        self.0.events_arrive(yes);
    }
}

/// Counts one election.
pub struct LeaseMeter(pub LeaseMetrics);

impl contest::Meter for LeaseMeter {
    fn asked(&self, verb: &'static str, result: &'static str, took: Option<Duration>) {
        self.0.asked(verb, result, took);
    }

    fn unconfirmed(&self, unconfirmed: bool) {
        self.0.unconfirmed(unconfirmed);
    }
}
