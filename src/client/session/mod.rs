//! One socket's conversation, as a value: frames, entries and answers go in, messages and asks
//! come out. No socket, no clock, no randomness: the private `socket` brings those.
//!
//! Three rules hold it together.
//!
//! * **Stream order.** Entries are told in the order of the stream. While a batch has collected a
//!   `Started` and its array is not yet complete, all that follows in the stream waits for it.
//! * **A told position covers.** No result names a `seq` above an entry that has not been written,
//!   so that a client may resume from the highest `seq` it saw, whenever its connection dies.
//! * **Once.** An entry is written at most once on a connection. [`Session`] knows from which
//!   position on it has told everything, and which older commands were replayed.
//!
//! The files: `request` (what is asked), `batch` (the first rule), `resume`, `repeat` (entries of
//! before), `deadline` (what became of a command). What they share is here.

mod batch;
mod deadline;
mod repeat;
mod request;
mod resume;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use self::batch::{Batch, Place};
pub use self::repeat::MOST_REPLAYED;
use self::resume::Resuming;
use super::Intake;
use super::close::Close;
use super::commands::{Begun, Page, Summary, Unreadable, Wanted};
use super::outbox::Outbox;
use crate::core::ids::{CommandId, DigestBeginning, Epoch, Nonce, Scope, SessionId, TenantId};
use crate::core::notice::Notice;
use crate::core::record::{Begin, Entry, Key, Position};
use crate::core::request::Method as Commanded;
use crate::rpc::error::{Kind, Refusal};
use crate::rpc::frame::Id;
use crate::rpc::method::Method;
use crate::rpc::wire::{self, Standing, Started};

/// Entries per page of a replay.
const PAGE: usize = 256;

/// What a refused request is counted as that names no method of ours.
pub const NO_METHOD: &str = "none";

/// What one client may do at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most requests in one batch.
    pub batch: usize,
    /// Most commands of a session that run at once, without its `CallEnd`s; and most `CallEnd`s
    /// that wait for their answer.
    pub commands: usize,
}

/// What a session wants to know or to have done. Each is answered by an [`Answer`].
#[derive(Debug)]
pub enum Ask {
    /// Begin a command.
    Begin(Ticket, Box<Begin>),
    /// Look a command up.
    Get(Ticket, Key),
    /// Give a command up.
    Cancel(Ticket, Key),
    /// Read the entries of a repeated command.
    Replay(Ticket, Wanted),
    /// Take the entries of this session from now on, in place of those before, and say so with
    /// [`Session::attached`].
    Attach(SessionId),
}

/// What became of an [`Ask`].
#[derive(Debug)]
pub enum Answer {
    /// Of [`Ask::Begin`].
    Begun(Ticket, Result<Begun, Refusal>),
    /// Of [`Ask::Get`] and [`Ask::Cancel`].
    Known(Ticket, Result<Option<Summary>, Refusal>),
    /// Of [`Ask::Replay`].
    Replayed(Ticket, Result<Page, Unreadable>),
    /// Of [`Session::next_page`].
    Page(Result<Page, Unreadable>),
}

/// Which question an answer belongs to. Counts up on each connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// What a turn of a session may use.
pub struct Turn<'t> {
    /// Where messages go.
    pub out: &'t mut Outbox,
    /// Where questions go, in the order in which they are to be asked.
    pub asks: &'t mut Vec<Ask>,
    /// Milliseconds on a clock that only goes forward.
    pub now: u64,
    /// Draws randomness for ids that the client did not give.
    pub nonce: &'t mut dyn FnMut() -> Nonce,
    /// Is told of every refused request: its method, or [`NO_METHOD`], and why.
    pub refused: &'t mut dyn FnMut(&'static str, Kind),
}

/// What is to be done about entries that were lost on the way to this socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// They are read from the stream again.
    CatchUp,
    /// The client reads too slowly: close.
    Close,
}

/// One socket's conversation.
#[derive(Debug)]
pub struct Session {
    tenant: TenantId,
    id: SessionId,
    limits: Limits,
    /// The epoch of the last entry, or of the head at the beginning.
    epoch: Epoch,
    /// The last entry taken from the stream.
    taken: u64,
    /// The highest position told to the client, or taken with nothing before it waiting.
    told: u64,
    /// Everything of this session behind this position was told, or will be without asking.
    from: u64,
    /// Whether that also holds for all of the epochs before.
    older_told: bool,
    /// Whether a result has named the session yet.
    introduced: bool,
    /// Whether a request came after which `Resume` would be too late.
    commanded: bool,
    /// Which new commands are taken: not all, once this process is about to stop.
    intake: Intake,
    /// Counts entries taken, to tell the older of two across epochs.
    arrivals: u64,
    tickets: u64,
    waiting: BTreeMap<Ticket, Waiter>,
    /// Begins whose id is being begun already, in their order.
    deferred: Vec<(Ticket, Box<Begin>)>,
    /// Commands of the session that run, with when to ask after them.
    running: BTreeMap<CommandId, (Commanded, u64)>,
    batches: Vec<Batch>,
    held: VecDeque<Taken>,
    /// Older commands that were told again, each up to this position.
    replayed: BTreeMap<CommandId, Position>,
    /// Commands that a request found begun before, and whose `Started` is still to come: it answers
    /// nobody.
    begun_before: BTreeSet<CommandId>,
    /// The session was taken up from another connection, so commands may run that this one has
    /// not heard of.
    resumed: bool,
    /// The store did not say whether a command began: it may run, and its `Started` be missed.
    doubtful: bool,
    /// Ends of calls that went straight to the stack. Their records, if there are any, tell nothing.
    straight: BTreeSet<CommandId>,
    resuming: Option<Box<Resuming>>,
    /// Set by a finished resume until the first entry came by the inbox.
    fresh: bool,
}

#[derive(Debug, Clone)]
struct Taken {
    arrival: u64,
    epoch: Epoch,
    entry: Arc<Entry>,
}

#[derive(Debug)]
struct Waiter {
    /// The raw id; nothing for a notification.
    id: Option<Box<str>>,
    place: Place,
    want: Want,
}

#[derive(Debug)]
enum Want {
    /// The `Started` of a command that is being begun.
    Started { command: CommandId, method: Commanded, asked: DigestBeginning },
    /// The rest of a repeated command's entries.
    Replay { summary: Box<Summary>, entries: Vec<Arc<Entry>> },
    /// What is known of a command.
    Known { command: CommandId },
    /// Whether the command that is being cancelled runs.
    Cancelled { command: CommandId },
    /// What became of a command whose deadline has passed.
    Overdue { command: CommandId },
}

impl Want {
    /// The name of the method that asked for it.
    fn method(&self) -> &'static str {
        match self {
            Self::Started { method, .. } => method.as_str(),
            Self::Replay { summary, .. } => summary.method.as_str(),
            Self::Known { .. } => Method::CommandGet.as_str(),
            Self::Cancelled { .. } => Method::CommandCancel.as_str(),
            Self::Overdue { .. } => NO_METHOD,
        }
    }
}

impl Session {
    /// A session at the head of its stream. Attach to the feed first, then ask for its head.
    #[must_use]
    pub fn new(tenant: TenantId, id: SessionId, head: Position, limits: Limits) -> Self {
        Self {
            tenant,
            id,
            limits,
            epoch: head.epoch,
            taken: head.seq,
            told: head.seq,
            // A new session has no entries before its first command.
            from: 0,
            older_told: true,
            introduced: false,
            commanded: false,
            intake: Intake::Everything,
            arrivals: 0,
            tickets: 0,
            waiting: BTreeMap::new(),
            deferred: Vec::new(),
            running: BTreeMap::new(),
            batches: Vec::new(),
            held: VecDeque::new(),
            replayed: BTreeMap::new(),
            begun_before: BTreeSet::new(),
            resumed: false,
            doubtful: false,
            straight: BTreeSet::new(),
            resuming: None,
            fresh: false,
        }
    }

    /// The session's id.
    #[must_use]
    pub fn id(&self) -> &SessionId {
        &self.id
    }

    /// Which new commands are taken from now on.
    pub fn take_in(&mut self, intake: Intake) {
        self.intake = intake;
    }

    /// Whether neither frames nor entries may be handed in until a page has come.
    #[must_use]
    pub fn is_resuming(&self) -> bool {
        self.resuming.is_some()
    }

    /// Whether a command of the session runs, so that [`Session::overdue`] may have work.
    #[must_use]
    pub fn has_running(&self) -> bool {
        !self.running.is_empty()
    }

    /// Whether nothing is under way that the client waits for.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty() && self.resuming.is_none()
    }

    // Entries in.

    /// Takes an entry that came by the inbox.
    pub fn live(&mut self, epoch: &Epoch, entry: &Arc<Entry>, turn: &mut Turn<'_>) {
        self.fresh = false;
        self.entry(epoch, entry, turn);
    }

    fn entry(&mut self, epoch: &Epoch, entry: &Arc<Entry>, turn: &mut Turn<'_>) {
        if entry.session != self.id || self.straight.contains(&entry.key.id) {
            return;
        }
        if *epoch == self.epoch {
            if entry.seq <= self.taken {
                return;
            }
        } else {
            self.older_told &= self.from == 0;
            self.epoch = epoch.clone();
            self.from = 0;
        }
        self.taken = entry.seq;
        self.arrivals += 1;
        let taken =
            Taken { arrival: self.arrivals, epoch: epoch.clone(), entry: Arc::clone(entry) };
        self.count(entry, turn.now);
        if self.was_replayed(epoch, entry) {
            return;
        }
        if matches!(entry.notice, Notice::Started { .. })
            && let Some(ticket) = self.answered_by(entry)
            && let Some(Waiter { id: Some(_), place: Place::Within { .. }, .. }) =
                self.waiting.get(&ticket)
        {
            self.collect(ticket, taken, turn);
            return;
        }
        if self.held.is_empty() && self.barrier(None).is_none() {
            self.tell(&taken, turn);
        } else {
            self.held.push_back(taken);
        }
    }

    /// Writes an entry: as the response if a request waits for it, else as a notification.
    fn tell(&mut self, taken: &Taken, turn: &mut Turn<'_>) {
        let Taken { epoch, entry, .. } = taken;
        self.told = entry.seq;
        if let Notice::Started { deadline_ms } = entry.notice
            && let Some(ticket) = self.answered_by(entry)
        {
            let waiter = self.waiting.remove(&ticket);
            self.undefer(ticket, turn);
            if let Some(Waiter { id: Some(id), .. }) = waiter {
                self.introduced = true;
                let started = Started {
                    cmd_id: &entry.key.id,
                    deadline_ms: Some(deadline_ms),
                    external_id: entry.external_id.as_deref(),
                    standing: Some(Standing { session: &self.id, epoch, seq: entry.seq }),
                    repeated: None,
                };
                if let Some(id) = Id::of(&id) {
                    turn.out.write(|out| wire::result(out, id, |out| wire::started(out, &started)));
                }
                return;
            }
        }
        if matches!(entry.notice, Notice::Started { .. }) {
            self.begun_before.remove(&entry.key.id);
        }
        turn.out.write(|out| wire::notification(out, epoch, entry));
    }

    // Answers in.

    /// Takes an answer. A reason to close may come out.
    pub fn answer(&mut self, answer: Answer, turn: &mut Turn<'_>) -> Option<Close> {
        match answer {
            Answer::Page(page) => return self.page(page, turn),
            Answer::Begun(ticket, begun) => self.begun(ticket, begun, turn),
            Answer::Known(ticket, known) => return self.known(ticket, known, turn),
            Answer::Replayed(ticket, page) => return self.replay(ticket, page, turn),
        }
        None
    }

    // Small pieces.

    fn key(&self, id: CommandId) -> Key {
        Key { tenant: self.tenant.clone(), scope: Scope::Session(self.id.clone()), id }
    }

    fn next_ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    fn wait(&mut self, id: Option<Id<'_>>, place: Place, want: Want) -> Ticket {
        let ticket = self.next_ticket();
        let id = id.map(|id| id.as_json().into());
        self.waiting.insert(ticket, Waiter { id, place, want });
        ticket
    }

    /// The first request that waits for the command's `Started`.
    fn waits_for(&self, id: &CommandId) -> Option<Ticket> {
        self.waiting
            .iter()
            .find(|(_, w)| matches!(&w.want, Want::Started { command, .. } if command == id))
            .map(|(ticket, _)| *ticket)
    }

    /// The request that this `Started` answers: another connection may ask something else under
    /// the same id at the same time, and only one of the two begins.
    fn answered_by(&self, entry: &Entry) -> Option<Ticket> {
        if self.begun_before.contains(&entry.key.id) {
            return None;
        }
        let ticket = self.waits_for(&entry.key.id)?;
        let is_it = match (&self.waiting.get(&ticket)?.want, entry.asked) {
            (Want::Started { asked, .. }, Some(begun)) => *asked == begun,
            _ => true,
        };
        is_it.then_some(ticket)
    }

    /// Writes a result, alone or into its batch. A notification gets none.
    fn reply(
        &mut self,
        id: Option<Id<'_>>,
        place: Place,
        turn: &mut Turn<'_>,
        body: impl FnOnce(&mut bytes::BytesMut),
    ) {
        let Some(id) = id else { return };
        self.respond(place, turn, |out| wire::result(out, id, body));
    }

    /// Writes an error, alone or into its batch. A notification gets none.
    fn refuse(
        &mut self,
        method: &'static str,
        id: Option<Id<'_>>,
        place: Place,
        refusal: &Refusal,
        turn: &mut Turn<'_>,
    ) {
        (turn.refused)(method, refusal.kind);
        let Some(id) = id else { return };
        self.respond(place, turn, |out| wire::error(out, id, refusal));
    }

    fn refuse_waiter(&mut self, ticket: Ticket, refusal: &Refusal, turn: &mut Turn<'_>) {
        if let Some(Waiter { id, place, want }) = self.waiting.remove(&ticket) {
            let id = id.as_deref().and_then(Id::of);
            self.refuse(want.method(), id, place, refusal, turn);
            self.complete_batches(turn);
        }
    }
}
