//! The engine's and the store's work, counted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::running::Running;
use crate::core::act::Reply;
use crate::core::failure::Outcome;
use crate::core::ids::{Epoch, SessionId, StackId, TenantId, Term};
use crate::core::record::{Position, Record};
use crate::core::request::Method;
use crate::engine::Observer;
use crate::leadership::Leadership;
use crate::metrics::{CommandMetrics, Metrics, StoreMetrics};
use crate::store::{Away, Beat, Commit, Find, Page, Pulse, Store, Unfound, Unreadable, Verdict};

/// Counts commands. Operations are counted where they are requests, at the stacks.
pub struct EngineMetrics {
    metrics: CommandMetrics,
    running: Arc<Running>,
}

impl EngineMetrics {
    /// Counts what begins and ends, and has the commands that run counted whenever the metrics are
    /// read.
    pub fn new(metrics: &Metrics, running: Arc<Running>) -> Self {
        let (counted, counts) = (Arc::clone(&running), metrics.commands.clone());
        metrics.when_read(move || {
            for (method, count) in counted.count(Instant::now()) {
                counts.running(method.as_str(), count);
            }
        });
        Self { metrics: metrics.commands.clone(), running }
    }
}

impl Observer for EngineMetrics {
    fn begun(&self, record: &Record) {
        let state = &record.state;
        self.metrics.started(state.method.as_str());
        if state.outcome().is_none() {
            let until = Instant::now() + state.begun.until(state.deadline);
            self.running.began(record.key.clone(), state.method, until);
        }
    }

    fn ended(&self, method: Method, outcome: Outcome, took: Duration) {
        self.metrics.ended(method.as_str(), outcome.as_str(), took);
        tracing::debug!(method = method.as_str(), outcome = outcome.as_str(), "command ended");
    }

    fn performed(&self, verb: &'static str, reply: &Reply, took: Duration) {
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(verb, reply = reply.word(), took_ms = took, "operation answered");
    }
}

/// A store whose commits are counted.
pub struct CountedStore<S> {
    store: Arc<S>,
    metrics: StoreMetrics,
    epoch: Mutex<Option<Epoch>>,
}

/// An election whose changes are counted.
pub struct CountedLeadership<L> {
    leadership: Arc<L>,
    metrics: Metrics,
}

impl<L> CountedLeadership<L> {
    /// Counts the terms of this election.
    pub fn new(leadership: Arc<L>, metrics: Metrics, stacks: &[StackId]) -> Self
    where
        L: Leadership,
    {
        for stack in stacks {
            metrics.stack(stack.as_str()).leads(leadership.term(stack).is_some());
        }
        Self { leadership, metrics }
    }
}

impl<L: Leadership> Leadership for CountedLeadership<L> {
    fn term(&self, stack: &StackId) -> Option<Term> {
        self.leadership.term(stack)
    }

    async fn changed(&self, stack: &StackId, from: Option<Term>) -> Option<Term> {
        let term = self.leadership.changed(stack, from).await;
        self.metrics.stack(stack.as_str()).leads(term.is_some());
        term
    }
}

impl<S> CountedStore<S> {
    /// Counts the commits of this store.
    pub fn new(store: Arc<S>, metrics: StoreMetrics) -> Self {
        Self { store, metrics, epoch: Mutex::default() }
    }
}

impl<S: Store> Store for CountedStore<S> {
    async fn commit(&self, commit: Commit) -> Result<Verdict, Away> {
        let begin = Instant::now();
        let answer = self.store.commit(commit).await;
        self.metrics.commit(word_of(&answer), begin.elapsed());
        answer
    }

    async fn find(&self, by: Find) -> Result<Vec<Arc<Record>>, Unfound> {
        self.store.find(by).await
    }

    async fn read(
        &self,
        tenant: &TenantId,
        after: &Position,
        max: usize,
        of: Option<&SessionId>,
    ) -> Result<Page, Unreadable> {
        self.store.read(tenant, after, max, of).await
    }

    async fn head(&self, tenant: &TenantId) -> Result<Position, Away> {
        self.store.head(tenant).await
    }

    async fn beat(&self, beat: &Beat) -> Result<Pulse, Away> {
        let answer = self.store.beat(beat).await;
        match &answer {
            Ok(pulse) => {
                self.metrics.beat(pulse.alive.len());
                let mut epoch = self.epoch.lock().unwrap_or_else(PoisonError::into_inner);
                if epoch.as_ref() != Some(&pulse.epoch) {
                    *epoch = Some(pulse.epoch.clone());
                    self.metrics.epoch();
                }
            }
            Err(Away) => self.metrics.away(),
        }
        answer
    }

    async fn lead(&self, stack: &StackId) -> Result<Term, Away> {
        self.store.lead(stack).await
    }
}

fn word_of(answer: &Result<Verdict, Away>) -> &'static str {
    match answer {
        Ok(Verdict::Applied { .. }) => "applied",
        Ok(Verdict::Exists(_)) => "exists",
        Ok(Verdict::Stale(_)) => "stale",
        Ok(Verdict::Busy { .. }) => "busy",
        Ok(Verdict::Over { .. }) => "over",
        Ok(Verdict::Late) => "late",
        Ok(Verdict::Fenced(_)) => "fenced",
        Ok(Verdict::EpochChanged(_)) => "epoch_changed",
        Ok(Verdict::Gone) => "gone",
        Ok(Verdict::Illegible) => "illegible",
        Err(Away) => "away",
    }
}
