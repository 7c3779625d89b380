//! The store: commands, their claims, and the stream of what was told.
//!
//! One write: [`Store::commit`]. It checks everything at once and applies all or nothing. The
//! stream it writes is the truth; the bus only carries it.
//!
//! Tenants are apart: an id, a claim, a limit and a stream are inside one tenant. Events are of a
//! stack, so [`Find`] by what is due or by what happened looks at all of them.
//!
//! `tests/contract/store.rs` states all that is promised here, for every implementation.

pub mod memory;
pub mod redis;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::core::command::Claim;
use crate::core::ids::{CommandId, Epoch, Nonce, PodId, SessionId, StackId, TenantId, Term};
use crate::core::notice::Notice;
use crate::core::record::{Entry, Key, Position, Record};
use crate::core::stack_event::Watch;
use crate::core::time::StoreTime;

/// Where commands live.
pub trait Store: Send + Sync + 'static {
    /// Writes a command's next state together with what is told of it: all or nothing. Of any
    /// verdict but [`Verdict::Applied`] nothing is written and nothing told.
    ///
    /// The same commit (same nonce) may be repeated until `not_after`, whatever was committed in
    /// between. It is applied at most once, and every repeat gets the first verdict's `first_seq`,
    /// `now` and `overtaken`.
    ///
    /// # Errors
    /// [`Away`]: whether it was applied is not known until `not_after` has passed.
    fn commit(&self, commit: Commit) -> impl Future<Output = Result<Verdict, Away>> + Send;

    /// Commands by one of their properties. Of several those are left out that this version can't
    /// read.
    ///
    /// # Errors
    /// [`Unfound`] when that can't be said.
    fn find(&self, by: Find) -> impl Future<Output = Result<Vec<Arc<Record>>, Unfound>> + Send;

    /// Entries of a tenant's stream behind a position, at most `max`, in order; where a session is
    /// named, only its own. At the head that is none, however much was trimmed. What this version
    /// can't read is left out.
    ///
    /// # Errors
    /// [`Unreadable`] when what follows the position is not there any more, or never was.
    fn read(
        &self,
        tenant: &TenantId,
        after: &Position,
        max: usize,
        of: Option<&SessionId>,
    ) -> impl Future<Output = Result<Page, Unreadable>> + Send;

    /// The newest position of a tenant's stream; 0 before its first entry.
    ///
    /// # Errors
    /// [`Away`] when the store can't be asked.
    fn head(&self, tenant: &TenantId) -> impl Future<Output = Result<Position, Away>> + Send;

    /// Tells that this process lives, and learns who else does. A process that has told it once
    /// and not for [`ALIVE`] is silent: dead, paused or cut off.
    ///
    /// # Errors
    /// [`Away`] when the store can't be asked.
    fn beat(&self, beat: &Beat) -> impl Future<Output = Result<Pulse, Away>> + Send;

    /// Draws a leader's term at a stack: higher than every one before, in whatever epoch, and from
    /// now on all older ones are fenced.
    ///
    /// # Errors
    /// [`Away`] when the store can't be asked. A term may have been drawn.
    fn lead(&self, stack: &StackId) -> impl Future<Output = Result<Term, Away>> + Send;
}

/// How long a process counts as alive after a beat. It beats each second.
pub const ALIVE: Duration = Duration::from_secs(3);

/// For so long after its last beat a process is told of as silent. Nothing that it was to perform
/// can still be open then.
pub const SILENT: Duration = Duration::from_secs(600);

/// What a process tells of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// Who it is.
    pub pod: PodId,
    /// Up to when it has applied what the stacks reported, where it leads.
    pub applied: BTreeMap<StackId, StoreTime>,
    /// Whether it goes on.
    pub life: Life,
}

/// Whether a process goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It does.
    Lives,
    /// It ends, and has left nothing: nobody is told of it any more.
    Over,
    /// It ends, and left something that others are to look after: it is silent from now on.
    Left,
}

/// What is known of all processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulse {
    /// The store's epoch.
    pub epoch: Epoch,
    /// The store's time.
    pub now: StoreTime,
    /// Those that live, this one included.
    pub alive: BTreeSet<PodId>,
    /// Those that have not been heard of lately, for up to [`SILENT`].
    pub silent: BTreeSet<PodId>,
    /// Up to when a leader has applied what the stacks reported, as far as was ever told.
    pub applied: BTreeMap<StackId, StoreTime>,
}

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long an entry of a stream is kept.
    pub entries_for: Duration,
    /// How many bytes of entries a tenant may have, as safety.
    pub entries_bytes: usize,
    /// How many records of ended commands a tenant may have, as safety: of more than that, holds
    /// and ends are forgotten before their time, then starts and transfers.
    pub ended: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries_for: Duration::from_secs(900), entries_bytes: 64 << 20, ended: 200_000 }
    }
}

/// One write.
#[derive(Debug, Clone)]
pub struct Commit {
    /// The command's next state. Its `version` is one more than the one that was read; 1 begins.
    /// `first_seq` is filled in by the beginning commit.
    pub record: Record,
    /// Names the write: the same nonce is applied once.
    pub nonce: Nonce,
    /// Not applied later than this, on the store's clock.
    pub not_after: StoreTime,
    /// The epoch that the writer believes in.
    pub epoch: Epoch,
    /// The writer's term at the record's stack, where it applies what that stack reported. From
    /// then on older terms of that stack are fenced.
    pub term: Option<Term>,
    /// What is told, in order.
    pub notices: Vec<Notice>,
    /// What a beginning commit must keep to. `None`: it is never refused for being one too many.
    pub quota: Option<Quota>,
    /// How long the ended record is kept: until then its id is taken, afterwards it is free. It is
    /// kept longer only while its claims linger or its last commit may be repeated, and shorter only
    /// where a tenant has more ended commands than the store keeps: then holds and ends go first,
    /// for to repeat one of those places no call.
    pub keep: Duration,
    /// Something is opened that is sent at most once, so the commit must outlive its server.
    pub durable: bool,
}

/// How much a tenant may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Commands that run at once.
    pub running: usize,
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
        /// Running commands that lost a claim to this one, each time they did.
        overtaken: Vec<Key>,
        /// The record as it stands now; of a repeat perhaps newer than what was written.
        record: Arc<Record>,
        /// As many servers have it as the configuration asks for. Told only where
        /// [`Commit::durable`] asks; true else.
        durable: bool,
    },
    /// A beginning commit found the id taken, by a running command or one that is kept.
    Exists(Arc<Record>),
    /// The version is not one more than the stored one: somebody committed in between. This is
    /// what is stored.
    Stale(Arc<Record>),
    /// Somebody of the tenant has what it claims anew at the stack. What the version before claimed
    /// is not asked for again: it is still its own, or was overtaken for good. A claim ends with the
    /// version that does not name it any more; those of an ended command linger until
    /// [`crate::core::command::Command::claims_linger`].
    Busy {
        /// What.
        claim: Claim,
        /// Who.
        by: CommandId,
        /// When it is free again, where its command has ended and it only lingers.
        until: Option<StoreTime>,
    },
    /// A beginning commit found as many commands of this tenant running as its quota allows.
    Over {
        /// How many may.
        limit: usize,
    },
    /// `not_after` has passed.
    Late,
    /// A newer leader of the stack has taken over.
    Fenced(Term),
    /// The store's memory is another one than the writer believes in.
    EpochChanged(Epoch),
    /// A step of a record that is not there any more.
    Gone,
    /// What is stored under this name is of a later version, and this one can't read it. Whoever can
    /// does what is to be done.
    Illegible,
}

/// How commands are found, in no particular order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Find {
    /// By name; also one that has ended, as long as it is kept.
    Key(Key),
    /// Running ones that listen to any of these.
    Watching(StackId, Vec<Watch>),
    /// Running ones at a stack.
    AtStack(StackId),
    /// Running ones with an open operation of this process.
    PerformedBy(PodId),
    /// Running ones that are due then or earlier.
    DueBy(StoreTime),
}

/// Entries of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// In order, without a gap but for those that this version can't read (and other sessions', where
    /// one is named).
    pub entries: Vec<Arc<Entry>>,
    /// The last position that was looked at: go on from here.
    pub through: u64,
    /// The newest position of the stream when it was read.
    pub head: Position,
}

/// Why it can't be said which commands there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfound {
    /// The store can't be asked.
    #[error(transparent)]
    Away(#[from] Away),
    /// There is one of the name that is asked for, but it is of a later version, and this one can't
    /// read it.
    #[error("the command's record is of a later version")]
    Illegible,
}

/// Where several are asked for, that is the only reason.
impl From<Unfound> for Away {
    fn from(_: Unfound) -> Self {
        Self
    }
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
