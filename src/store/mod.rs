//! The store: commands, their claims, and the stream of what was told.
//!
//! One write: [`Store::commit`]. It checks everything at once and applies all or nothing. The
//! stream it writes is the truth; the bus only carries it.

pub mod memory;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::core::command::Claim;
use crate::core::ids::{CommandId, Epoch, Nonce, PodId, StackId, TenantId, Term};
use crate::core::notice::Notice;
use crate::core::record::{Entry, Key, Position, Record};
use crate::core::stack_event::Watch;
use crate::core::time::StoreTime;

/// Where commands live.
pub trait Store: Send + Sync + 'static {
    /// Writes a command's next state together with what is told of it: all or nothing.
    ///
    /// # Errors
    /// [`Away`]: whether it was applied is not known until `not_after` has passed. The same
    /// commit (same nonce) may be repeated and is applied at most once.
    fn commit(&self, commit: Commit) -> impl Future<Output = Result<Verdict, Away>> + Send;

    /// Commands by one of their properties.
    ///
    /// # Errors
    /// [`Away`] when the store can't be asked.
    fn find(&self, by: Find) -> impl Future<Output = Result<Vec<Arc<Record>>, Away>> + Send;

    /// Entries of a tenant's stream behind a position, at most `max`, in order.
    ///
    /// # Errors
    /// [`Unreadable`] when they are not there any more.
    fn read(
        &self,
        tenant: &TenantId,
        after: &Position,
        max: usize,
    ) -> impl Future<Output = Result<Page, Unreadable>> + Send;

    /// The newest position of a tenant's stream.
    ///
    /// # Errors
    /// [`Away`] when the store can't be asked.
    fn head(&self, tenant: &TenantId) -> impl Future<Output = Result<Position, Away>> + Send;

    /// Tells that this process lives.
    ///
    /// # Errors
    /// [`Away`] when the store can't be asked.
    fn beat(&self, pod: &PodId) -> impl Future<Output = Result<(), Away>> + Send;
}

/// One write.
#[derive(Debug, Clone)]
pub struct Commit {
    /// The command's next state. Its `version` is one more than the one that was read; 1 begins.
    /// `first_seq` is filled in by the beginning commit.
    pub record: Record,
    /// Names the write: the same nonce is applied once.
    pub nonce: Nonce,
    /// Not applied later than this.
    pub not_after: StoreTime,
    /// The epoch that the writer believes in.
    pub epoch: Epoch,
    /// The writer's term, where it applies what a stack reported.
    pub term: Option<Term>,
    /// What is told, in order.
    pub notices: Vec<Notice>,
    /// How long the ended record is kept.
    pub keep: Duration,
}

/// What came of a commit.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It is so.
    Applied {
        /// The position of the first notice (or of the next one, if there was none).
        first_seq: u64,
        /// The store's time of the write.
        now: StoreTime,
        /// Commands that lost a claim to this one.
        overtaken: Vec<Key>,
        /// The record as it stands now.
        record: Arc<Record>,
    },
    /// A beginning commit found the id taken.
    Exists(Arc<Record>),
    /// Somebody committed in between.
    Stale(Arc<Record>),
    /// Somebody has what it claims anew. What the version before claimed is not asked for again: it
    /// is still its own, or was overtaken for good.
    Busy {
        /// What.
        claim: Claim,
        /// Who.
        by: CommandId,
    },
    /// Too many commands of this tenant are running.
    Over {
        /// How many may.
        limit: usize,
    },
    /// `not_after` has passed.
    Late,
    /// A newer leader has taken over.
    Fenced(Term),
    /// The store's memory is another one.
    EpochChanged(Epoch),
    /// A step of a record that is not there any more.
    Gone,
}

/// How commands are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Find {
    /// By name; also one that has ended, as long as it is kept.
    Key(Key),
    /// Running ones that listen to this.
    Watching(StackId, Watch),
    /// Running ones at a stack.
    AtStack(StackId),
    /// Running ones that were due by then.
    DueBy(StoreTime),
}

/// Entries of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// In order, without a gap.
    pub entries: Vec<Arc<Entry>>,
    /// The newest position of the stream when it was read.
    pub head: Position,
}

/// Why a stream can't be read from a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The position is of another epoch.
    #[error("the store's memory is another one")]
    EpochChanged,
    /// What follows the position was trimmed.
    #[error("the entries are not kept any more")]
    Trimmed,
    /// The position is ahead of the stream.
    #[error("the position was never reached")]
    Ahead,
    /// The store can't be asked.
    #[error(transparent)]
    Away(#[from] Away),
}

/// The store can't be asked, or did not answer in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store is away")]
pub struct Away;
