//! The engine's work, counted.

use std::time::Duration;

use crate::core::act::Reply;
use crate::core::failure::Outcome;
use crate::core::request::Method;
use crate::engine::Observer;
use crate::metrics::CommandMetrics;

/// Counts commands. Operations are counted where they are requests, at the stacks.
pub struct EngineMetrics(pub CommandMetrics);

impl Observer for EngineMetrics {
    fn begun(&self, method: Method) {
        self.0.started(method.as_str());
    }

    fn ended(&self, method: Method, outcome: Outcome, took: Duration) {
        self.0.ended(method.as_str(), outcome.as_str(), took);
        tracing::debug!(method = method.as_str(), outcome = outcome.as_str(), "command ended");
    }

    fn performed(&self, verb: &'static str, reply: &Reply, took: Duration) {
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(verb, reply = reply.word(), took_ms = took, "operation answered");
    }
}
