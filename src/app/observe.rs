//! The engine's and the store's work, counted and traced.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::running::Running;
use crate::core::act::{Op, Reply};
use crate::core::command::Input;
use crate::core::ids::{Epoch, SessionId, StackId, TenantId, Term};
use crate::core::record::{Position, Record};
use crate::core::time::StoreTime;
use crate::engine::Observer;
use crate::leadership::{Leader, Leadership};
use crate::metrics::{Metrics, StoreMetrics};
use crate::store::{Away, Beat, Commit, Find, Page, Pulse, Store, Unfound, Unreadable, Verdict};
use crate::traces::Traces;

/// Counts commands, and has their traces told of. Operations are counted where they are requests, at
/// the stacks.
pub struct Watching {
    metrics: Metrics,
    running: Arc<Running>,
    traces: Option<Traces>,
}

impl Watching {
    /// Counts what begins and ends, and has the commands that run counted whenever the metrics are
    /// read.
    pub fn new(metrics: &Metrics, running: Arc<Running>, traces: Option<Traces>) -> Self {
        let (counted, counts) = (Arc::clone(&running), metrics.commands.clone());
        metrics.when_read(move || {
            for (method, count) in counted.count(Instant::now()) {
                counts.running(method.as_str(), count);
            }
        });
        Self { metrics: metrics.clone(), running, traces }
    }
}

impl Observer for Watching {
    fn begun(&self, record: &Record) {
        let state = &record.state;
        self.metrics.commands.started(state.method.as_str());
        if state.outcome().is_none() {
            let until = Instant::now() + state.begun.until(state.deadline);
            self.running.began(record.key.clone(), state.method, until);
        }
    }

    fn ended(&self, record: &Record, at: StoreTime) {
        let state = &record.state;
        let (method, took) = (state.method.as_str(), state.begun.until(at));
        let outcome = state.outcome().map_or("none", |outcome| outcome.as_str());
        self.metrics.commands.ended(method, outcome, took);
        if let Some(traces) = &self.traces {
            traces.ended(record, at);
        }
        tracing::debug!(trace_id = trace_of(record), method, outcome, "command ended");
    }

    fn performed(&self, record: &Record, op: &Op, reply: &Reply, during: Range<StoreTime>) {
        if let Some(traces) = &self.traces {
            traces.performed(record, op, reply, &during);
        }
        let (verb, reply) = (op.act.verb(), reply.word());
        let took_ms = during.end.0.saturating_sub(during.start.0);
        tracing::debug!(trace_id = trace_of(record), verb, reply, took_ms, "operation answered");
    }

    fn took_in(&self, record: &Record, inputs: &[Input], during: Range<StoreTime>) {
        if inputs.iter().any(|input| matches!(input, Input::Happened(_))) {
            let stack = record.state.plan.stack.as_str();
            self.metrics.event_applied(stack, during.start.until(during.end));
        }
        if let Some(traces) = &self.traces {
            traces.took_in(record, inputs, &during);
        }
    }
}

/// The trace that a command is part of, for the log.
fn trace_of(record: &Record) -> Option<&str> {
    record.trace.as_deref()?.split('-').nth(1)
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

    fn leader(&self, stack: &StackId) -> Leader {
        self.leadership.leader(stack)
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
