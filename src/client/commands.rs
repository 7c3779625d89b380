//! What the client side asks of the engine.

use std::future::Future;
use std::sync::Arc;

use crate::core::ids::{CommandId, SessionId, TenantId};
use crate::core::record::{Begin, Entry, Key, Position};
use crate::core::request::Method;
use crate::rpc::error::Refusal;
use crate::rpc::wire::{Ending, Known};

/// How a command was begun.
#[derive(Debug, Clone)]
pub enum Begun {
    /// It is recorded. Its `Started` comes through the [`super::feed::Feed`], or has come.
    New,
    /// The same id with the same digest is known: nothing was begun.
    Repeated(Summary),
    /// The store is away: the call was ended at the stack, and no command records it.
    Straight(Ending),
}

/// What is known of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Its id.
    pub id: CommandId,
    /// Its method.
    pub method: Method,
    /// The session that its entries go to.
    pub session: SessionId,
    /// The client's own reference.
    pub external_id: Option<Arc<str>>,
    /// Where its `Started` stands in the stream.
    pub first: Position,
    /// What its `Started` said: milliseconds from the begin to `Ended` at the latest.
    pub deadline_ms: u64,
    /// How it ended, if it has.
    pub ended: Option<Ending>,
    /// The store is away: what was asked went straight to the stack.
    pub degraded: bool,
}

impl Summary {
    /// What a client is told of it.
    #[must_use]
    pub fn known(&self) -> Known<'_> {
        Known {
            cmd_id: &self.id,
            method: self.method,
            deadline_ms: self.deadline_ms,
            external_id: self.external_id.as_deref(),
            ended: self.ended.as_ref(),
        }
    }
}

/// Which part of a session's stream is wanted.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Whose stream.
    pub tenant: TenantId,
    /// Only entries of this session.
    pub session: SessionId,
    /// Only entries behind this position.
    pub after: Position,
    /// At most so many entries.
    pub max: usize,
}

/// A part of a session's stream, in its order.
#[derive(Debug, Clone)]
pub struct Page {
    /// The entries of the session.
    pub entries: Vec<Arc<Entry>>,
    /// The last position looked at: go on from here. Other sessions' entries may stand between.
    pub through: u64,
    /// Whether there was more at the time.
    pub more: bool,
}

/// Why a position can't be read from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The store's memory is another one than the position's.
    #[error("the epoch is over")]
    Restarted,
    /// What follows the position is no longer kept.
    #[error("the entries are no longer kept")]
    Trimmed,
    /// The position has not been reached: no server of this epoch gave it.
    #[error("the position is ahead of the stream")]
    Ahead,
    /// The store can't be asked now.
    #[error("the store can't be reached")]
    Away,
}

impl Unreadable {
    /// The word for a client.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Restarted => "restarted",
            Self::Trimmed => "trimmed",
            Self::Ahead => "ahead",
            Self::Away => "store_unavailable",
        }
    }
}

/// The engine, as the client side sees it.
///
/// Calls are made in the order of a client's requests, each polled once before the next is made:
/// an implementation that records in the order of first polls keeps a client's order.
pub trait Commands: Send + Sync + 'static {
    /// Records and starts a command.
    fn begin(&self, begin: Begin) -> impl Future<Output = Result<Begun, Refusal>> + Send;

    /// Looks a command up; nothing when no such id is known.
    fn get(&self, key: Key) -> impl Future<Output = Result<Option<Summary>, Refusal>> + Send;

    /// Gives a command up, if it runs: asking is enough, the outcome comes with `Ended`.
    /// Answers what was known when it was asked.
    fn cancel(&self, key: Key) -> impl Future<Output = Result<Option<Summary>, Refusal>> + Send;

    /// Reads a session's part of the stream.
    fn read(&self, wanted: Wanted) -> impl Future<Output = Result<Page, Unreadable>> + Send;
}

impl<T: Commands> Commands for Arc<T> {
    fn begin(&self, begin: Begin) -> impl Future<Output = Result<Begun, Refusal>> + Send {
        T::begin(self, begin)
    }

    fn get(&self, key: Key) -> impl Future<Output = Result<Option<Summary>, Refusal>> + Send {
        T::get(self, key)
    }

    fn cancel(&self, key: Key) -> impl Future<Output = Result<Option<Summary>, Refusal>> + Send {
        T::cancel(self, key)
    }

    fn read(&self, wanted: Wanted) -> impl Future<Output = Result<Page, Unreadable>> + Send {
        T::read(self, wanted)
    }
}
