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

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::{BufMut, Bytes};

use super::Intake;
use super::close::Close;
use super::commands::{Begin, Begun, Page, Summary, Unreadable, Wanted};
use super::outbox::Outbox;
use crate::core::failure::{Code, Failure, Outcome, Up};
use crate::core::ids::{CommandId, Epoch, Nonce, Scope, SessionId, TenantId};
use crate::core::notice::{Notice, Remarks};
use crate::core::record::{Entry, Key, Position};
use crate::core::request::Method as Commanded;
use crate::rpc::error::{Kind, Refusal};
use crate::rpc::frame::{self, Frame, Id, Invalid, Item};
use crate::rpc::method::{self, Asked, Call, Method, Resume};
use crate::rpc::wire::{self, Repeated, Standing, Started};

/// How long after a command's stated deadline the store is asked what became of it, in ms.
const PAST_DUE: u64 = 5_000;

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
    replayed: BTreeSet<CommandId>,
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
    Started { command: CommandId, method: Commanded },
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Alone,
    Within { batch: u64, slot: usize },
}

#[derive(Debug)]
struct Batch {
    number: u64,
    slots: Vec<Slot>,
    /// Messages of the batch's own requests that wait for its array.
    after: Vec<Bytes>,
}

#[derive(Debug)]
enum Slot {
    Waiting,
    Ready(Bytes),
    Started { id: Box<str>, taken: Taken },
}

#[derive(Debug)]
struct Resuming {
    /// The raw id, until the answer is written.
    answer_to: Option<Box<str>>,
    answered: bool,
    after: Position,
    head: Option<Position>,
    reading: bool,
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
            replayed: BTreeSet::new(),
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

    // Frames in.

    /// Takes one frame of the client.
    pub fn frame(&mut self, text: &str, turn: &mut Turn<'_>) {
        match frame::parse(text, self.limits.batch) {
            Frame::One(item) => self.item(item, Place::Alone, turn),
            Frame::Refused(refusal) => {
                (turn.refused)(NO_METHOD, refusal.kind);
                turn.out.write(|out| wire::error(out, Id::NULL, &refusal));
            }
            Frame::Batch(items) => self.batch(items, turn),
        }
    }

    fn batch(&mut self, items: Vec<Item<'_>>, turn: &mut Turn<'_>) {
        let number = self.next_ticket().0;
        let slots = items.iter().filter(|item| answered(item)).map(|_| Slot::Waiting).collect();
        self.batches.push(Batch { number, slots, after: Vec::new() });
        let mut slot = 0;
        for item in items {
            let counts = answered(&item);
            self.item(item, Place::Within { batch: number, slot }, turn);
            slot += usize::from(counts);
        }
        self.complete_batches(turn);
    }

    fn item(&mut self, item: Item<'_>, place: Place, turn: &mut Turn<'_>) {
        let request = match item {
            Ok(request) => request,
            Err(Invalid { id, refusal }) => {
                return self.refuse(NO_METHOD, Some(id), place, &refusal, turn);
            }
        };
        let id = request.id;
        match method::parse(&request) {
            Err(refusal) => {
                let method = Method::of(&request.method).map_or(NO_METHOD, Method::as_str);
                self.refuse(method, id, place, &refusal, turn);
            }
            Ok(Call::Command(asked)) => {
                self.commanded = true;
                self.command(id, place, *asked, turn);
            }
            Ok(Call::Echo { cmd_id, data }) => {
                self.commanded = true;
                self.echo(id, place, cmd_id, data, turn);
            }
            Ok(Call::CommandGet(command)) => {
                self.commanded = true;
                let key = self.key(command.clone());
                let ticket = self.wait(id, place, Want::Known { command });
                turn.asks.push(Ask::Get(ticket, key));
            }
            Ok(Call::CommandCancel(command)) => {
                self.commanded = true;
                let key = self.key(command.clone());
                let ticket = self.wait(id, place, Want::Cancelled { command });
                turn.asks.push(Ask::Cancel(ticket, key));
            }
            Ok(Call::Resume(resume)) => self.resume(id, place, resume, turn),
            Ok(Call::Discover) => self.reply(id, place, turn, |out| {
                out.put_slice(crate::rpc::openrpc::DOCUMENT.trim_ascii().as_bytes());
            }),
        }
    }

    fn command(&mut self, id: Option<Id<'_>>, place: Place, asked: Asked, turn: &mut Turn<'_>) {
        let method = asked.request.method();
        if !self.intake.takes(method) {
            let refusal = Refusal::new(Kind::Draining);
            return self.refuse(method.as_str(), id, place, &refusal, turn);
        }
        if let Some(refusal) = self.too_many(method) {
            return self.refuse(method.as_str(), id, place, &refusal, turn);
        }
        let digest = asked.digest();
        let Asked { cmd_id, request, external_id, stack, trace } = asked;
        let command = cmd_id.unwrap_or_else(|| CommandId::derive((turn.nonce)()));
        let begin = Box::new(Begin {
            key: self.key(command.clone()),
            session: self.id.clone(),
            request,
            digest,
            external_id,
            stack,
            trace,
        });
        let begun_already = self.waits_for(&command).is_some();
        let ticket = self.wait(id, place, Want::Started { command, method });
        if begun_already {
            self.deferred.push((ticket, begin));
        } else {
            turn.asks.push(Ask::Begin(ticket, begin));
        }
    }

    /// Whether one more command would be too many. Calls can be ended whatever runs, so only those
    /// `CallEnd`s count against each other that have not been answered yet.
    fn too_many(&self, method: Commanded) -> Option<Refusal> {
        let ends = |other: Commanded| other == Commanded::CallEnd;
        let asked = self.waiting.values().filter_map(|waiter| match &waiter.want {
            Want::Started { method, .. } => Some(*method),
            Want::Replay { summary, .. } => Some(summary.method),
            Want::Known { .. } | Want::Cancelled { .. } | Want::Overdue { .. } => None,
        });
        let most = self.limits.commands;
        let (count, why) = if ends(method) {
            let unanswered = asked.filter(|other| ends(*other)).count();
            (unanswered, format!("at most {most} CallEnds wait for their answer at once"))
        } else {
            let running = self.running.values().filter(|(other, _)| !ends(*other)).count();
            let begun = asked.filter(|other| !ends(*other)).count();
            (running + begun, format!("at most {most} commands run at once"))
        };
        (count >= most).then(|| Refusal::new(Kind::TooManyCommands).because(why))
    }

    fn echo(
        &mut self,
        id: Option<Id<'_>>,
        place: Place,
        cmd_id: Option<CommandId>,
        data: Option<&str>,
        turn: &mut Turn<'_>,
    ) {
        let command = cmd_id.unwrap_or_else(|| CommandId::derive((turn.nonce)()));
        if id.is_some() {
            let introduced = std::mem::replace(&mut self.introduced, true);
            let (session, epoch) = (self.id.clone(), self.epoch.clone());
            let standing = Standing { session: &session, epoch: &epoch, seq: self.told };
            let started = Started {
                cmd_id: &command,
                deadline_ms: None,
                external_id: None,
                standing: (!introduced).then_some(standing),
                repeated: None,
            };
            self.reply(id, place, turn, |out| wire::started(out, &started));
        } else {
            self.message(place, turn, |out| wire::echo(out, &command, "Started", None));
        }
        self.message(place, turn, |out| wire::echo(out, &command, "Reply", data));
        self.message(place, turn, |out| wire::echo(out, &command, "Ended", None));
    }

    // Resuming.

    fn resume(&mut self, id: Option<Id<'_>>, place: Place, resume: Resume, turn: &mut Turn<'_>) {
        let why = if self.commanded {
            "another request came first"
        } else if place != Place::Alone {
            "it stands in a batch"
        } else {
            let Resume { session, epoch, seq } = resume;
            self.commanded = true;
            self.introduced = true;
            self.id = session.clone();
            self.resuming = Some(Box::new(Resuming {
                answer_to: id.map(|id| id.as_json().into()),
                answered: false,
                after: Position { epoch, seq },
                head: None,
                reading: false,
            }));
            turn.asks.push(Ask::Attach(session));
            return;
        };
        let refusal = Refusal::new(Kind::ResumeRefused).because(why);
        self.refuse(Method::Resume.as_str(), id, place, &refusal, turn);
    }

    /// The entries of the session come in from now on; everything up to `head` came before.
    pub fn attached(&mut self, head: Position) {
        if let Some(resuming) = &mut self.resuming {
            resuming.head = Some(head);
        }
    }

    /// The next page that a resuming session needs. Ask for it when there is room for its text,
    /// and answer with [`Answer::Page`].
    #[must_use]
    pub fn next_page(&mut self) -> Option<Wanted> {
        let resuming = self.resuming.as_mut()?;
        if resuming.reading || resuming.head.is_none() {
            return None;
        }
        resuming.reading = true;
        let after = resuming.after.clone();
        Some(Wanted { tenant: self.tenant.clone(), session: self.id.clone(), after, max: PAGE })
    }

    fn page(&mut self, page: Result<Page, Unreadable>, turn: &mut Turn<'_>) -> Option<Close> {
        let mut resuming = self.resuming.take()?;
        resuming.reading = false;
        match page {
            Ok(page) => {
                if !resuming.answered {
                    resuming.answered = true;
                    self.stand_at(resuming.after.clone());
                    self.from = 0;
                    self.older_told = true;
                    self.tell_recovered(resuming.answer_to.take(), None, turn);
                }
                for entry in &page.entries {
                    let epoch = resuming.after.epoch.clone();
                    self.entry(&epoch, entry, turn);
                }
                resuming.after.seq = resuming.after.seq.max(page.through);
                if page.more {
                    self.resuming = Some(resuming);
                    return None;
                }
                if self.epoch == resuming.after.epoch {
                    self.taken = self.taken.max(resuming.after.seq);
                }
                self.fresh = true;
                None
            }
            Err(_) if resuming.answered => Some(Close::StreamLost),
            Err(Unreadable::Away) => {
                // Nothing was answered yet, so the client may simply ask once more.
                self.stand_at_head(resuming.head);
                self.commanded = false;
                let refusal = Refusal::new(Kind::StoreUnavailable);
                let id = resuming.answer_to.as_deref().and_then(Id::of);
                self.refuse(Method::Resume.as_str(), id, Place::Alone, &refusal, turn);
                None
            }
            Err(why @ (Unreadable::Restarted | Unreadable::Trimmed | Unreadable::Ahead)) => {
                self.stand_at_head(resuming.head);
                self.tell_recovered(resuming.answer_to, Some(&why), turn);
                None
            }
        }
    }

    fn stand_at(&mut self, position: Position) {
        self.epoch = position.epoch;
        self.taken = position.seq;
        self.told = position.seq;
    }

    /// Goes on from where the session was attached; what came before was not told.
    fn stand_at_head(&mut self, head: Option<Position>) {
        if let Some(head) = head {
            self.stand_at(head);
        }
        self.from = self.told;
        self.older_told = false;
    }

    fn tell_recovered(
        &mut self,
        id: Option<Box<str>>,
        why_not: Option<&Unreadable>,
        turn: &mut Turn<'_>,
    ) {
        let (session, epoch) = (self.id.clone(), self.epoch.clone());
        let standing = Standing { session: &session, epoch: &epoch, seq: self.told };
        let id = id.as_deref().and_then(Id::of);
        self.reply(id, Place::Alone, turn, |out| {
            out.put_slice(b"{\"recovered\":");
            wire::switch(out, why_not.is_none());
            if let Some(why) = why_not {
                wire::member(out, "reason");
                wire::string(out, why.as_str());
            }
            wire::place(out, standing);
            out.put_u8(b'}');
        });
    }

    /// Entries were lost on the way to this socket.
    pub fn overflowed(&mut self) -> Loss {
        if !self.fresh {
            return Loss::Close;
        }
        // They came while a replay was written: the stream still has them.
        self.resuming = Some(Box::new(Resuming {
            answer_to: None,
            answered: true,
            after: Position { epoch: self.epoch.clone(), seq: self.taken },
            head: Some(Position { epoch: self.epoch.clone(), seq: self.taken }),
            reading: false,
        }));
        Loss::CatchUp
    }

    // Entries in.

    /// Takes an entry that came by the inbox.
    pub fn live(&mut self, epoch: &Epoch, entry: &Arc<Entry>, turn: &mut Turn<'_>) {
        self.fresh = false;
        self.entry(epoch, entry, turn);
    }

    fn entry(&mut self, epoch: &Epoch, entry: &Arc<Entry>, turn: &mut Turn<'_>) {
        if entry.session != self.id {
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
        if matches!(entry.notice, Notice::Started { .. })
            && let Some(ticket) = self.waits_for(&entry.key.id)
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

    /// Keeps the count of running commands.
    fn count(&mut self, entry: &Entry, now: u64) {
        match &entry.notice {
            Notice::Started { deadline_ms } => {
                let due = now.saturating_add(*deadline_ms).saturating_add(PAST_DUE);
                self.running.insert(entry.key.id.clone(), (entry.method, due));
            }
            Notice::Ended { .. } => {
                self.running.remove(&entry.key.id);
            }
            Notice::Progress { .. } | Notice::Error(_) => {}
        }
    }

    /// Puts a `Started` into its place in a batch's array.
    fn collect(&mut self, ticket: Ticket, taken: Taken, turn: &mut Turn<'_>) {
        let Some(Waiter { id: Some(id), place: Place::Within { batch, slot }, .. }) =
            self.waiting.remove(&ticket)
        else {
            return;
        };
        self.put(batch, slot, Slot::Started { id, taken });
        self.undefer(ticket, turn);
        self.complete_batches(turn);
    }

    /// Writes an entry: as the response if a request waits for it, else as a notification.
    fn tell(&mut self, taken: &Taken, turn: &mut Turn<'_>) {
        let Taken { epoch, entry, .. } = taken;
        self.told = entry.seq;
        if let Notice::Started { deadline_ms } = entry.notice
            && let Some(ticket) = self.waits_for(&entry.key.id)
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
        turn.out.write(|out| wire::notification(out, epoch, entry));
    }

    /// The oldest `Started` that was collected by a batch other than `but` and is not written.
    fn barrier(&self, but: Option<u64>) -> Option<&Taken> {
        self.batches
            .iter()
            .filter(|batch| Some(batch.number) != but)
            .flat_map(|batch| &batch.slots)
            .filter_map(|slot| match slot {
                Slot::Started { taken, .. } => Some(taken),
                Slot::Waiting | Slot::Ready(_) => None,
            })
            .min_by_key(|taken| taken.arrival)
    }

    /// Writes the arrays that are complete and what waited for them.
    fn complete_batches(&mut self, turn: &mut Turn<'_>) {
        while let Some(place) = self
            .batches
            .iter()
            .position(|batch| !batch.slots.iter().any(|slot| matches!(slot, Slot::Waiting)))
        {
            let batch = self.batches.remove(place);
            self.write_array(&batch, turn);
            for message in batch.after {
                turn.out.push(message);
            }
        }
        while let Some(first) = self.held.front() {
            if self.barrier(None).is_some_and(|barrier| barrier.arrival < first.arrival) {
                return;
            }
            if let Some(taken) = self.held.pop_front() {
                self.tell(&taken, turn);
            }
        }
    }

    fn write_array(&mut self, batch: &Batch, turn: &mut Turn<'_>) {
        if batch.slots.is_empty() {
            return;
        }
        // The second rule: stay below everything that is not written yet.
        let unwritten = [self.held.front(), self.barrier(Some(batch.number))];
        let session = &self.id;
        let mut told = self.told;
        turn.out.write(|out| {
            let mut separator = b'[';
            for slot in &batch.slots {
                out.put_u8(separator);
                separator = b',';
                match slot {
                    Slot::Waiting => {}
                    Slot::Ready(text) => out.put_slice(text),
                    Slot::Started { id, taken } => {
                        let Taken { epoch, entry, .. } = taken;
                        let seq = unwritten
                            .iter()
                            .flatten()
                            .filter(|other| other.epoch == *epoch)
                            .map(|other| other.entry.seq.saturating_sub(1))
                            .fold(entry.seq, u64::min);
                        told = told.max(seq);
                        let started = Started {
                            cmd_id: &entry.key.id,
                            deadline_ms: match entry.notice {
                                Notice::Started { deadline_ms } => Some(deadline_ms),
                                Notice::Progress { .. }
                                | Notice::Error(_)
                                | Notice::Ended { .. } => None,
                            },
                            external_id: entry.external_id.as_deref(),
                            standing: Some(Standing { session, epoch, seq }),
                            repeated: None,
                        };
                        if let Some(id) = Id::of(id) {
                            wire::result(out, id, |out| wire::started(out, &started));
                        }
                    }
                }
            }
            out.put_u8(b']');
        });
        self.told = told;
        self.introduced = true;
    }

    // Answers in.

    /// Takes an answer. A reason to close may come out.
    pub fn answer(&mut self, answer: Answer, turn: &mut Turn<'_>) -> Option<Close> {
        match answer {
            Answer::Page(page) => return self.page(page, turn),
            Answer::Begun(ticket, begun) => self.begun(ticket, begun, turn),
            Answer::Known(ticket, known) => return self.known(ticket, known, turn),
            Answer::Replayed(ticket, page) => self.replay(ticket, page, turn),
        }
        None
    }

    fn begun(&mut self, ticket: Ticket, begun: Result<Begun, Refusal>, turn: &mut Turn<'_>) {
        match begun {
            // The response is written when the entry comes, or has been.
            Ok(Begun::New) => {}
            Ok(Begun::Repeated(summary)) => {
                self.undefer(ticket, turn);
                self.repeated(ticket, summary, turn);
            }
            Err(refusal) => {
                self.undefer(ticket, turn);
                self.refuse_waiter(ticket, &refusal, turn);
            }
        }
    }

    /// Asks for what waited for this begin: the next one of the same id.
    fn undefer(&mut self, ticket: Ticket, turn: &mut Turn<'_>) {
        if self.deferred.is_empty() {
            return;
        }
        // The next of an id waits for the one before it, whichever is in the table first.
        let free = self.deferred.iter().position(|(own, begin)| {
            !self.waiting.iter().any(|(other, waiter)| {
                other != own
                    && *other != ticket
                    && other < own
                    && matches!(&waiter.want, Want::Started { command, .. } if *command == begin.key.id)
            })
        });
        if let Some(place) = free {
            let (ticket, begin) = self.deferred.remove(place);
            turn.asks.push(Ask::Begin(ticket, begin));
        }
    }

    fn repeated(&mut self, ticket: Ticket, summary: Summary, turn: &mut Turn<'_>) {
        if self.has_told(&summary) {
            self.tell_repeated(ticket, &summary, None, turn);
            return;
        }
        let wanted = self.replay_wanted(&summary, summary.first.seq.saturating_sub(1));
        if let Some(waiter) = self.waiting.get_mut(&ticket) {
            waiter.want = Want::Replay { summary: Box::new(summary), entries: Vec::new() };
            turn.asks.push(Ask::Replay(ticket, wanted));
        }
    }

    fn replay_wanted(&self, summary: &Summary, after: u64) -> Wanted {
        Wanted {
            tenant: self.tenant.clone(),
            session: summary.session.clone(),
            after: Position { epoch: summary.first.epoch.clone(), seq: after },
            max: PAGE,
        }
    }

    /// Whether this connection has written the command's entries, or will without being asked.
    fn has_told(&self, summary: &Summary) -> bool {
        if self.replayed.contains(&summary.id) {
            return true;
        }
        summary.session == self.id
            && if summary.first.epoch == self.epoch {
                summary.first.seq > self.from
            } else {
                self.older_told
            }
    }

    fn replay(&mut self, ticket: Ticket, page: Result<Page, Unreadable>, turn: &mut Turn<'_>) {
        let Some(Waiter { want: Want::Replay { summary, entries }, .. }) =
            self.waiting.get_mut(&ticket)
        else {
            return;
        };
        let Ok(page) = page else {
            let summary = summary.clone();
            self.tell_repeated(ticket, &summary, Some(Vec::new()), turn);
            return;
        };
        // What stands behind `from` was told as it came.
        let until = if summary.first.epoch == self.epoch { self.from } else { u64::MAX };
        entries.extend(
            page.entries
                .into_iter()
                .filter(|entry| entry.key.id == summary.id && entry.seq <= until),
        );
        let ended = entries.last().is_some_and(|e| matches!(e.notice, Notice::Ended { .. }));
        let (summary, entries) = (summary.clone(), std::mem::take(entries));
        if page.more && !ended && page.through < until {
            let wanted = self.replay_wanted(&summary, page.through);
            if let Some(Waiter { want: Want::Replay { entries: kept, .. }, .. }) =
                self.waiting.get_mut(&ticket)
            {
                *kept = entries;
            }
            turn.asks.push(Ask::Replay(ticket, wanted));
            return;
        }
        self.tell_repeated(ticket, &summary, Some(entries), turn);
    }

    /// Answers a repeated request; `entries` are those of a replay, from `Started` on.
    fn tell_repeated(
        &mut self,
        ticket: Ticket,
        summary: &Summary,
        entries: Option<Vec<Arc<Entry>>>,
        turn: &mut Turn<'_>,
    ) {
        let Some(Waiter { id, place, .. }) = self.waiting.remove(&ticket) else {
            return;
        };
        self.introduced = true;
        let whole = entries
            .as_ref()
            .map(|entries| entries.first().is_some_and(|first| first.seq == summary.first.seq));
        let seq = if summary.first.epoch == self.epoch {
            summary.first.seq.min(self.told)
        } else {
            self.told
        };
        let (session, epoch) = (self.id.clone(), self.epoch.clone());
        let started = Started {
            cmd_id: &summary.id,
            deadline_ms: Some(summary.deadline_ms),
            external_id: summary.external_id.as_deref(),
            standing: Some(Standing { session: &session, epoch: &epoch, seq }),
            repeated: Some(Repeated { replayed: whole, ended: summary.ended.as_ref() }),
        };
        let id = id.as_deref().and_then(Id::of);
        self.reply(id, place, turn, |out| wire::started(out, &started));
        if whole == Some(true) {
            self.replayed.insert(summary.id.clone());
            // The first entry is what the response says.
            for entry in entries.iter().flatten().skip(usize::from(id.is_some())) {
                self.message(place, turn, |out| {
                    wire::notification(out, &summary.first.epoch, entry);
                });
            }
        }
        self.complete_batches(turn);
    }

    fn known(
        &mut self,
        ticket: Ticket,
        known: Result<Option<Summary>, Refusal>,
        turn: &mut Turn<'_>,
    ) -> Option<Close> {
        let Waiter { id, place, want } = self.waiting.remove(&ticket)?;
        let id = id.as_deref().and_then(Id::of);
        let method = want.method();
        match (want, known) {
            (Want::Overdue { command }, known) => return self.overdue_known(command, known, turn),
            (_, Err(refusal)) => self.refuse(method, id, place, &refusal, turn),
            (Want::Known { command } | Want::Cancelled { command }, Ok(None)) => {
                let refusal = Refusal::new(Kind::UnknownCommand).of(command);
                self.refuse(method, id, place, &refusal, turn);
            }
            (Want::Known { .. }, Ok(Some(summary))) => {
                self.reply(id, place, turn, |out| wire::known(out, &summary.known()));
            }
            (Want::Cancelled { .. }, Ok(Some(summary))) => {
                self.reply(id, place, turn, |out| {
                    wire::cancelling(out, &summary.id, summary.ended.as_ref());
                });
            }
            (Want::Started { .. } | Want::Replay { .. }, Ok(_)) => {}
        }
        self.complete_batches(turn);
        None
    }

    // Deadlines.

    /// Asks after commands whose stated deadline passed a while ago without an `Ended`.
    pub fn overdue(&mut self, turn: &mut Turn<'_>) {
        let late: Vec<_> = self
            .running
            .iter()
            .filter(|(_, (_, due))| *due <= turn.now)
            .map(|(command, _)| command.clone())
            .collect();
        for command in late {
            self.postpone(&command, turn.now);
            let key = self.key(command.clone());
            let ticket = self.wait(None, Place::Alone, Want::Overdue { command });
            turn.asks.push(Ask::Get(ticket, key));
        }
    }

    fn postpone(&mut self, command: &CommandId, now: u64) {
        if let Some((_, due)) = self.running.get_mut(command) {
            *due = now.saturating_add(PAST_DUE);
        }
    }

    fn overdue_known(
        &mut self,
        command: CommandId,
        known: Result<Option<Summary>, Refusal>,
        turn: &mut Turn<'_>,
    ) -> Option<Close> {
        match known {
            Err(_) => None,
            Ok(Some(summary)) if summary.ended.is_none() => None,
            // It has ended and this socket was not told, although it may be on its way still.
            Ok(Some(_)) => self.running.contains_key(&command).then_some(Close::StreamLost),
            Ok(None) => {
                let (method, _) = self.running.remove(&command)?;
                let failure = Failure {
                    code: Code::StateLost,
                    text: Arc::from("the command's record is gone"),
                    sip: None,
                    up: Up::Unknown,
                };
                let ended = Notice::Ended {
                    outcome: Outcome::Unknown { up: Up::Unknown },
                    remarks: Remarks::default(),
                };
                for notice in [Notice::Error(failure), ended] {
                    turn.out.write(|out| wire::unplaced(out, method, &command, &notice));
                }
                None
            }
        }
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

    fn respond(
        &mut self,
        place: Place,
        turn: &mut Turn<'_>,
        write: impl FnOnce(&mut bytes::BytesMut),
    ) {
        match place {
            Place::Alone => turn.out.write(write),
            Place::Within { batch, slot } => {
                let text = turn.out.render(write);
                self.put(batch, slot, Slot::Ready(text));
            }
        }
    }

    /// Writes a message that belongs to a request: at once, or behind its batch's array.
    fn message(
        &mut self,
        place: Place,
        turn: &mut Turn<'_>,
        write: impl FnOnce(&mut bytes::BytesMut),
    ) {
        let batch = match place {
            Place::Alone => None,
            Place::Within { batch: number, .. } => {
                self.batches.iter_mut().find(|batch| batch.number == number)
            }
        };
        match batch {
            None => turn.out.write(write),
            Some(batch) => batch.after.push(turn.out.render(write)),
        }
    }

    fn put(&mut self, number: u64, slot: usize, filled: Slot) {
        let batch = self.batches.iter_mut().find(|batch| batch.number == number);
        if let Some(place) = batch.and_then(|batch| batch.slots.get_mut(slot)) {
            *place = filled;
        }
    }
}

/// Whether an item of a batch has a place in its array.
fn answered(item: &Item<'_>) -> bool {
    match item {
        Ok(request) => request.id.is_some(),
        Err(_) => true,
    }
}
