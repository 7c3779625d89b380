//! The engine, as the client side asks for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::client::commands::{Begun, Commands, Page, Summary, Unreadable, Wanted};
use crate::core::command;
use crate::core::record::{Begin, Key, Position, Record};
use crate::engine::begin::{self, Refusal as NotBegun};
use crate::engine::{Cancelling, Engine};
use crate::metrics::CommandMetrics;
use crate::rpc::error::{Kind, Refusal};
use crate::rpc::wire::Ending;
use crate::stack::Stacks;
use crate::store::{self, Away, Store, Unfound};
use crate::traces::{Asked, Traces};

/// When a client is told to try again after the store was away.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// Hands clients' commands to the engine and tells them how it stands.
pub struct Desk<S, K> {
    engine: Arc<Engine<S, K>>,
    traces: Option<Traces>,
    metrics: Option<CommandMetrics>,
}

impl<S: Store, K: Stacks> Desk<S, K> {
    /// A desk before this engine.
    pub fn new(engine: Arc<Engine<S, K>>) -> Self {
        Self { engine, traces: None, metrics: None }
    }

    /// The same, which has the requests counted and traced that ask for commands.
    #[must_use]
    pub fn watched(self, metrics: CommandMetrics, traces: Option<Traces>) -> Self {
        Self { metrics: Some(metrics), traces, ..self }
    }
}

impl<S: Store, K: Stacks> Commands for Desk<S, K> {
    async fn begin(&self, mut begin: Begin) -> Result<Begun, Refusal> {
        let key = begin.key.clone();
        let (method, began) = (begin.request.method().as_str(), Instant::now());
        let mut asked = self.traces.as_ref().and_then(|traces| traces.asked(&mut begin));
        let begun = self.engine.begin(begin).await;
        if let Some(metrics) = &self.metrics {
            metrics.answered(method, began.elapsed());
        }
        match begun {
            Ok(begin::Begun::New(_)) => Ok(Begun::New),
            Ok(begin::Begun::Repeated(record)) => {
                asked.iter_mut().for_each(|asked| asked.repeats(&record));
                Ok(Begun::Repeated(summary(&record)))
            }
            Ok(begin::Begun::Straight(ending)) => {
                asked.iter_mut().for_each(Asked::went_straight);
                Ok(Begun::Straight(told(&ending)))
            }
            Err(refusal) => {
                let refusal = refused(refusal, &key);
                let row = refusal.kind.row();
                asked.iter_mut().for_each(|asked| asked.refused(row.word, row.code));
                Err(refusal)
            }
        }
    }

    async fn get(&self, key: Key) -> Result<Option<Summary>, Refusal> {
        match self.engine.get(&key).await {
            Ok(record) => Ok(record.map(|record| summary(&record))),
            Err(unfound) => Err(not_found(unfound, &key)),
        }
    }

    async fn cancel(&self, key: Key) -> Result<Option<Summary>, Refusal> {
        match self.engine.cancel(key.clone()).await {
            Ok(Cancelling::Unknown) => Ok(None),
            Ok(Cancelling::Ended(record) | Cancelling::Begun(record)) => Ok(Some(summary(&record))),
            Ok(Cancelling::Straight(record)) => {
                Ok(Some(Summary { degraded: true, ..summary(&record) }))
            }
            Ok(Cancelling::NotPossible(_)) => {
                Err(Refusal::new(Kind::NotCancellable).of(key.id.clone()))
            }
            Err(unfound) => Err(not_found(unfound, &key)),
        }
    }

    async fn read(&self, wanted: Wanted) -> Result<Page, Unreadable> {
        let Wanted { tenant, session, after, max } = wanted;
        let page = self.engine.store().read(&tenant, &after, max, Some(&session)).await;
        let page = page.map_err(|why| match why {
            store::Unreadable::EpochChanged => Unreadable::Restarted,
            store::Unreadable::Trimmed => Unreadable::Trimmed,
            store::Unreadable::Ahead => Unreadable::Ahead,
            store::Unreadable::Away(Away) => Unreadable::Away,
        })?;
        let more = page.through < page.head.seq;
        Ok(Page { entries: page.entries, through: page.through, more })
    }
}

fn summary(record: &Record) -> Summary {
    let ended = record.state.ending().map(told);
    let within = record.state.begun.until(record.state.deadline);
    Summary {
        id: record.key.id.clone(),
        method: record.state.method,
        session: record.session.clone(),
        external_id: record.external_id.clone(),
        first: Position { epoch: record.born.clone(), seq: record.first_seq },
        deadline_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
        ended,
        degraded: false,
    }
}

fn told(ending: &command::Ending) -> Ending {
    Ending {
        outcome: ending.outcome,
        remarks: ending.remarks.clone(),
        failure: ending.error.clone(),
    }
}

fn refused(refusal: NotBegun, key: &Key) -> Refusal {
    match refusal {
        NotBegun::CallBusy { by, lingers } => {
            let busy = Refusal::new(Kind::CallBusy).of(by);
            match lingers {
                Some(wait) => busy.retry_after(wait),
                None => busy,
            }
        }
        NotBegun::CallerBusy { by } => Refusal::new(Kind::CallerBusy).of(by),
        NotBegun::IdConflict => Refusal::new(Kind::IdConflict).of(key.id.clone()),
        NotBegun::TooMany { .. } => Refusal::new(Kind::TooManyCommands),
        NotBegun::UnknownStack => Refusal::new(Kind::UnknownStack),
        NotBegun::StoreUnavailable => away(key),
        NotBegun::Illegible => illegible(key),
    }
}

fn not_found(unfound: Unfound, key: &Key) -> Refusal {
    match unfound {
        Unfound::Away(Away) => away(key),
        Unfound::Illegible => illegible(key),
    }
}

/// It runs, or has ended: another process can say it.
fn illegible(key: &Key) -> Refusal {
    Refusal::new(Kind::Internal).of(key.id.clone())
}

fn away(key: &Key) -> Refusal {
    Refusal::new(Kind::StoreUnavailable).of(key.id.clone()).retry_after(STORE_RETRY)
}
