//! The one loop: load, step, commit, act.
//!
//! Whoever holds an input (a stack's reply or event, a timer, a cancel) loads the command, steps
//! it, and commits with the version it saw; on [`Verdict::Stale`] it steps again on the newer
//! one. What the new state opens is performed by the pod it names, once. The engine awaits only
//! our own traits and has no clock, randomness or tasks of its own: a simulator can run it in one
//! thread and virtual time.
//!
//! The files: [`begin`] (a client's command), [`carried`] (work that outlives its asker), [`performing`]
//! (each operation once), [`owed`] (what could not be committed yet), [`timers`] (what is due), [`happened`] (what stacks report), [`heart`]
//! (who lives, and the operations of who does not), [`pace`] (what is done each second), `many` (commands that are taken up together), `leaving` (what is left to others at the end), [`orphans`] (legs of ours that nobody remembers),
//! [`routes`] (which stack a call is at), [`straight`] (what works without the store).

pub mod begin;
pub mod carried;
pub mod happened;
pub mod heart;
mod leaving;
mod many;
pub mod orphans;
pub mod owed;
pub mod pace;
pub mod performing;
pub mod routes;
pub mod straight;
pub mod timers;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use self::carried::Carried;
use self::heart::{Heart, Overdue};
use self::orphans::Orphans;
use self::owed::{Debts, Owed};
use self::performing::Performing;
use self::routes::Routes;
use self::straight::AtHand;
use self::timers::Timers;
use crate::clock::{Clock, Nonces};
use crate::core::act::{NotSent, Op, Repeat, Reply};
use crate::core::command::{Input, Step};
use crate::core::ids::{Epoch, Install, PodId, StackId, Term};
use crate::core::notice::Notice;
use crate::core::plan::Times;
use crate::core::record::{FORMAT, Key, READABLE, Record};
use crate::core::request::Method;
use crate::core::time::{Now, StoreTime};
use crate::stack::{SipStack, Stacks};
use crate::store::{Away, Commit, Find, Quota, Store, Unfound, Verdict};

/// How many commands of a tenant may run at once. Sessions have a limit of their own; this one
/// bounds what many of them can do together.
pub const RUNNING: usize = 10_000;

/// How long a commit may wait at the store before it must not be applied any more.
const COMMIT_WITHIN: Duration = Duration::from_secs(5);

/// A timer whose step changed nothing is tried again after this, not at once.
const REARM: Duration = Duration::from_millis(250);

/// Where the engine's work runs. The application gives it tokio, the simulator its own executor.
pub trait Host: Send + Sync + 'static {
    /// Runs a piece of work to its end, beside everything else.
    fn spawn(&self, work: Pin<Box<dyn Future<Output = ()> + Send>>);

    /// [`Engine::fire`] wants to be called then; earlier than the time set before.
    fn wake_at(&self, at: StoreTime);
}

/// What the engine tells of its work, for metrics and traces.
pub trait Observer: Send + Sync + 'static {
    /// A command began here: this is its first record, or what became of it where that it began was
    /// learned later.
    fn begun(&self, record: &Record);
    /// A command ended: this is its last record.
    fn ended(&self, record: &Record, at: StoreTime);
    /// An operation of a command was answered.
    fn performed(&self, record: &Record, op: &Op, reply: &Reply, during: Range<StoreTime>);
    /// Inputs changed a command, and that is committed: from when they came in until now.
    fn took_in(&self, record: &Record, inputs: &[Input], during: Range<StoreTime>);
}

/// What the engine is told by the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This process.
    pub pod: PodId,
    /// This installation.
    pub install: Install,
    /// Times of phases, where a stack has none of its own.
    pub times: Times,
    /// Times of phases, by stack.
    pub times_at: BTreeMap<StackId, Times>,
    /// How long an ended start or transfer is remembered.
    pub keep_calls: Duration,
    /// How long any other ended command is remembered.
    pub keep_others: Duration,
    /// Refuse a second start of a caller while one runs.
    pub one_start_per_caller: bool,
    /// How many commands of a tenant may run at once. A `CallEnd` is never refused.
    pub running: usize,
}

/// The loop. Cheap to share; holds no lock across an await.
pub struct Engine<S, K> {
    store: Arc<S>,
    stacks: Arc<K>,
    clock: Arc<dyn Clock>,
    nonces: Arc<dyn Nonces>,
    host: Arc<dyn Host>,
    observer: Arc<dyn Observer>,
    settings: Settings,
    performing: Mutex<Performing>,
    timers: Mutex<Timers>,
    debts: Mutex<Debts>,
    orphans: Mutex<Orphans>,
    routes: Mutex<Routes>,
    at_hand: Mutex<AtHand>,
    /// The store's epoch, as last heard of.
    epoch: Mutex<Option<Epoch>>,
    heart: Mutex<Heart>,
    /// Stacks that only other processes know, once said.
    foreign: Mutex<BTreeSet<StackId>>,
    /// This process is about to end.
    leaving: AtomicBool,
}

/// What the engine runs on.
pub struct Parts<S, K> {
    /// Where commands live.
    pub store: Arc<S>,
    /// The SIP stacks.
    pub stacks: Arc<K>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The randomness.
    pub nonces: Arc<dyn Nonces>,
    /// Where work runs.
    pub host: Arc<dyn Host>,
    /// Who counts.
    pub observer: Arc<dyn Observer>,
}

impl<S: Store, K: Stacks> Engine<S, K> {
    /// An engine that has nothing to do yet.
    pub fn new(parts: Parts<S, K>, settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            store: parts.store,
            stacks: parts.stacks,
            clock: parts.clock,
            nonces: parts.nonces,
            host: parts.host,
            observer: parts.observer,
            settings,
            performing: Mutex::default(),
            timers: Mutex::default(),
            debts: Mutex::default(),
            orphans: Mutex::default(),
            routes: Mutex::default(),
            at_hand: Mutex::default(),
            epoch: Mutex::default(),
            heart: Mutex::default(),
            foreign: Mutex::default(),
            leaving: AtomicBool::new(false),
        })
    }

    /// The store that the engine commits to.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// The command of this name, also an ended one that is still kept.
    ///
    /// # Errors
    /// [`Unfound`] when that can't be said.
    pub async fn get(&self, key: &Key) -> Result<Option<Arc<Record>>, Unfound> {
        Ok(self.store.find(Find::Key(key.clone())).await?.pop())
    }

    async fn find(&self, by: Find) -> Vec<Arc<Record>> {
        // A store that is away leaves the event to the command's own looks and deadline.
        self.store.find(by).await.unwrap_or_default()
    }

    /// Steps a command with an input, and sets about what that opened.
    async fn input(self: &Arc<Self>, record: Arc<Record>, input: Input, term: Option<Term>) {
        self.inputs(record, vec![input], self.clock.now(), term).await;
    }

    /// The same with several inputs that came in since then, in one commit.
    async fn inputs(
        self: &Arc<Self>,
        record: Arc<Record>,
        inputs: Vec<Input>,
        since: StoreTime,
        term: Option<Term>,
    ) {
        if let Applied::Committed(record) = self.apply(record, inputs, since, term).await {
            self.perform_open(&record);
        }
    }

    /// Steps a command with inputs, starting from the record at hand, until they are committed or
    /// change nothing.
    async fn apply(
        self: &Arc<Self>,
        mut record: Arc<Record>,
        inputs: Vec<Input>,
        since: StoreTime,
        term: Option<Term>,
    ) -> Applied {
        let mut read_in = None;
        loop {
            // Where the store forgot, versions of before and after may have the same number, and
            // the one at hand may be of before.
            let epoch = lock(&self.epoch).clone();
            if !self.has_forgotten(&record) {
                // It began in this epoch, so it is of this epoch.
                read_in = None;
            } else if read_in != epoch {
                match self.get(&record.key).await {
                    Ok(Some(stored)) => (record, read_in) = (stored, epoch),
                    Ok(None) | Err(Unfound::Illegible) => return Applied::Settled,
                    Err(Unfound::Away(Away)) => return self.owe_all(&record.key, inputs, term),
                }
                continue;
            }
            let Some((step, now)) = self.fold(&record, &inputs) else {
                self.rearm(&record, &inputs);
                return Applied::Settled;
            };
            let next = Record {
                version: record.version + 1,
                // What only a later layout can say stays in it.
                format: record.format.max(FORMAT),
                state: step.state,
                ..Record::clone(&record)
            };
            let mut commit = self.commit_of(next, step.notices, &now, term);
            if let Some(epoch) = &read_in {
                commit.epoch = epoch.clone();
            }
            match self.store.commit(commit.clone()).await {
                Ok(Verdict::Applied { record: committed, durable, .. }) => {
                    self.applied(&commit, &committed, durable);
                    self.observer.took_in(&committed, &inputs, since..self.clock.now());
                    return Applied::Committed(committed);
                }
                Ok(Verdict::Stale(newer)) => record = newer,
                Ok(Verdict::EpochChanged(epoch)) => self.heard_epoch(epoch),
                // The command is not there any more, a newer leader tells it this event, or a later
                // version has it in hand.
                Ok(
                    Verdict::Gone | Verdict::Exists(_) | Verdict::Fenced(_) | Verdict::Illegible,
                ) => return Applied::Settled,
                // It was not applied. The inputs are not lost: they come back with the timer.
                Ok(Verdict::Late | Verdict::Busy { .. } | Verdict::Over { .. }) => {
                    return self.owe_all(&record.key, inputs, term);
                }
                // Whether it was applied is not known. The same commit is made again.
                Err(Away) => {
                    let before = Arc::clone(&record);
                    let commit = Box::new(commit);
                    self.owe(&record.key, Owed::Commit { before, commit, inputs, term });
                    return Applied::Owed;
                }
            }
        }
    }

    fn owe_all(&self, key: &Key, inputs: Vec<Input>, term: Option<Term>) -> Applied {
        for input in inputs {
            self.owe(key, Owed::Input { input, term });
        }
        Applied::Owed
    }

    /// What the inputs make of a command, one after the other. `None`: they change nothing.
    fn fold(&self, record: &Record, inputs: &[Input]) -> Option<(Step, Now)> {
        if record.format > READABLE {
            // A later build wrote what this one does not know. It is in the store for those that do:
            // what is due they find, and what is doubtful they look at.
            return None;
        }
        let mut folded: Option<(Step, Now)> = None;
        for input in inputs.iter().flat_map(|input| self.meant(record, input)) {
            // Each step has a nonce of its own: the ids that it makes derive from it.
            let now = self.now();
            let state = folded.as_ref().map_or(&record.state, |(step, _)| &step.state);
            let step = state.step(&input, &now);
            let step = if self.has_forgotten(record) { step.map(Step::in_doubt) } else { step };
            if let Some(Step { state, notices }) = step {
                let mut told = folded.map_or_else(Vec::new, |(step, _)| step.notices);
                told.extend(notices);
                folded = Some((Step { state, notices: told }, now));
            }
        }
        folded
    }

    /// What an input says of this version, by what is known here.
    fn meant<'i>(&self, record: &Record, input: &'i Input) -> Vec<Cow<'i, Input>> {
        match input {
            // That its turn came too late says that an operation was not sent now. Where the store
            // lost what came after this version, it may have been sent before.
            Input::Replied { op, reply: Reply::NotSent(NotSent::TooLate) }
                if self.has_forgotten(record) =>
            {
                vec![Cow::Owned(Input::Replied { op: op.clone(), reply: Reply::Silent })]
            }
            Input::Due => {
                let Overdue { left, lost } = self.overdue(record);
                if left.is_empty() {
                    return vec![Cow::Borrowed(input)];
                }
                // The rest of what is due waits for what those who live have to say.
                let lost = lost.into_iter().map(|op| Input::Doubt { op: op.id.clone() });
                lost.map(Cow::Owned).collect()
            }
            input => vec![Cow::Borrowed(input)],
        }
    }

    /// Whether the store may lack what came after this version, as far as is known here.
    fn has_forgotten(&self, record: &Record) -> bool {
        lock(&self.epoch).as_ref().is_some_and(|epoch| *epoch != record.born)
    }

    /// A commit is in the store.
    fn applied(self: &Arc<Self>, commit: &Commit, committed: &Arc<Record>, durable: bool) {
        self.note_end(commit);
        self.set_timer(committed);
        lock(&self.at_hand).put(committed);
        if !durable {
            self.leave_unsent(committed);
        }
    }

    /// Too few servers have it that these were to be sent. After a failover they might be sent
    /// again, so they are not sent at all.
    fn leave_unsent(self: &Arc<Self>, record: &Arc<Record>) {
        let now = self.clock.now();
        for op in record.state.open() {
            let once = op.act.repeat(&record.state.plan.capabilities) == Repeat::Once;
            if once && op.by == self.settings.pod && lock(&self.performing).take(op, now) {
                let (engine, record) = (Arc::clone(self), Arc::clone(record));
                lock(&self.performing).replied(&op.id);
                let reply = Reply::NotSent(NotSent::NotKept);
                let input = Input::Replied { op: op.id.clone(), reply };
                self.host.spawn(Box::pin(async move {
                    match engine.apply(record, vec![input.clone()], now, None).await {
                        Applied::Committed(next) => {
                            engine.note_answered(&input);
                            engine.perform_open(&next);
                        }
                        Applied::Settled => engine.note_answered(&input),
                        Applied::Owed => {}
                    }
                }));
            }
        }
    }

    /// The store's epoch, as this process heard of it last.
    #[must_use]
    pub fn epoch_heard(&self) -> Option<Epoch> {
        lock(&self.epoch).clone()
    }

    /// The store's epoch, as it is now.
    fn heard_epoch(&self, epoch: Epoch) {
        let mut known = lock(&self.epoch);
        if known.as_ref().is_some_and(|known| *known != epoch) {
            tracing::warn!(%epoch, "the store began another epoch: its memory may lack what came last");
        }
        *known = Some(epoch);
    }

    /// What is to be noted of a commit that was applied, if it ended the command.
    fn note_end(&self, commit: &Commit) {
        let ended = &commit.record.state;
        if ended.ending().is_none() {
            return;
        }
        self.observer.ended(&commit.record, self.clock.now());
        self.note_left_leg(ended);
    }

    fn commit_of(
        &self,
        record: Record,
        notices: Vec<Notice>,
        now: &Now,
        term: Option<Term>,
    ) -> Commit {
        let method = record.state.method;
        let keep = if method.places_calls() {
            self.settings.keep_calls
        } else {
            self.settings.keep_others
        };
        let quota = match method {
            Method::CallEnd => None,
            Method::CallStart
            | Method::CallBlindTransfer
            | Method::CallAttendedTransfer
            | Method::CallHold
            | Method::CallUnhold => Some(Quota { running: self.settings.running }),
        };
        // What it opens must be sent soon. Applied later than that it would open it in vain.
        let ours = record.state.open().iter().filter(|op| op.by == self.settings.pod);
        let soon = ours.map(|op| op.send_before).filter(|at| *at > now.at).min();
        let latest = now.at.after(COMMIT_WITHIN);
        let (nonce, not_after) = (now.nonce, soon.map_or(latest, |soon| soon.min(latest)));
        let epoch = lock(&self.epoch).clone().unwrap_or_else(|| record.born.clone());
        let durable = record.state.open().iter().any(|op| {
            let once = op.act.repeat(&record.state.plan.capabilities) == Repeat::Once;
            once && op.by == self.settings.pod && op.send_before > now.at
        });
        Commit { record, nonce, not_after, epoch, term, notices, quota, keep, durable }
    }

    fn now(&self) -> Now {
        Now { at: self.clock.now(), nonce: self.nonces.nonce(), pod: self.settings.pod.clone() }
    }

    /// Operations of a committed state that are ours to perform and that nobody has taken.
    fn to_perform(&self, record: &Record, which: impl Fn(&Op) -> bool) -> Vec<Op> {
        let now = self.clock.now();
        let mut performing = lock(&self.performing);
        let ours = record.state.open().iter().filter(|op| op.by == self.settings.pod);
        ours.filter(|op| which(op) && performing.take(op, now)).cloned().collect()
    }

    /// The same of what can't be sent any more: that it was not is its reply.
    fn perform_late(self: &Arc<Self>, record: &Arc<Record>) {
        let now = self.clock.now();
        for op in self.to_perform(record, |op| op.send_before <= now) {
            self.spawn_op(Arc::clone(record), op);
        }
    }

    fn perform_open(self: &Arc<Self>, record: &Arc<Record>) {
        for op in self.to_perform(record, |_| true) {
            self.spawn_op(Arc::clone(record), op);
        }
    }

    fn spawn_op(self: &Arc<Self>, record: Arc<Record>, op: Op) {
        let engine = Arc::clone(self);
        self.host.spawn(Box::pin(async move { engine.perform(record, op).await }));
    }

    /// Performs an operation, applies its reply, and goes on with what that opened: the usual
    /// command is one such chain.
    async fn perform(self: Arc<Self>, mut record: Arc<Record>, mut op: Op) {
        loop {
            let reply = self.ask_stack(&record, &op).await;
            lock(&self.performing).replied(&op.id);
            let input = Input::Replied { op: op.id.clone(), reply };
            let now = self.clock.now();
            let next = match self.apply(Arc::clone(&record), vec![input], now, None).await {
                Applied::Committed(next) => next,
                Applied::Settled => return lock(&self.performing).done(&op.id),
                // It stays taken until its reply is in the store.
                Applied::Owed => return,
            };
            lock(&self.performing).done(&op.id);
            let mut ops = self.to_perform(&next, |_| true);
            let Some(last) = ops.pop() else { return };
            for other in ops {
                self.spawn_op(Arc::clone(&next), other);
            }
            record = next;
            op = last;
        }
    }

    async fn ask_stack(&self, record: &Record, op: &Op) -> Reply {
        let began = self.clock.now();
        let forgotten = self.has_forgotten(record);
        let once = op.act.repeat(&record.state.plan.capabilities) == Repeat::Once;
        let reply = match self.stacks.get(&op.stack) {
            // The store lost what came after this version, so it may have been sent before.
            Some(_) if forgotten && once => Reply::Silent,
            // The commit took too long, or this process was paused. The stack's adapter checks
            // once more, directly before sending.
            Some(_) if began >= op.send_before => Reply::NotSent(NotSent::TooLate),
            Some(stack) => stack.perform(op).await,
            None => Reply::NotSent(NotSent::Unreachable),
        };
        self.observer.performed(record, op, &reply, began..self.clock.now());
        reply
    }

    /// Gives a running command up.
    ///
    /// # Errors
    /// [`Unfound`] when the store can't be asked and this process does not know the command, or can't
    /// read it.
    pub fn cancel(self: &Arc<Self>, key: Key) -> Carried<Result<Cancelling, Unfound>> {
        let engine = Arc::clone(self);
        Carried::new(&self.host, async move { engine.give_up(&key).await })
    }

    async fn give_up(self: &Arc<Self>, key: &Key) -> Result<Cancelling, Unfound> {
        let record = match self.get(key).await {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(Cancelling::Unknown),
            Err(Unfound::Away(Away)) => {
                let known = self.cancel_straight(key).await;
                return known.map(Cancelling::Straight).ok_or(Away.into());
            }
            Err(Unfound::Illegible) => return Err(Unfound::Illegible),
        };
        if record.state.outcome().is_some() {
            return Ok(Cancelling::Ended(record));
        }
        if !record.state.can_cancel() {
            return Ok(Cancelling::NotPossible(record));
        }
        self.input(Arc::clone(&record), Input::Cancel, None).await;
        Ok(Cancelling::Begun(record))
    }

    /// Gives up everything that runs and can be given up: whoever is alone and is to end does not
    /// leave phones ringing for commands that nobody steps any more.
    pub async fn cancel_all(self: &Arc<Self>) {
        for stack in self.stacks.names() {
            for record in self.find(Find::AtStack(stack.clone())).await {
                self.input(record, Input::Cancel, None).await;
            }
        }
    }

    /// How many operations are under way here, their replies not yet in the store.
    #[must_use]
    pub fn performing(&self) -> usize {
        lock(&self.performing).under_way()
    }
}

/// What became of an input.
enum Applied {
    /// It was committed.
    Committed(Arc<Record>),
    /// It changes nothing here: the command needs it no more or is gone, a newer leader tells it, or
    /// only a later build knows how to step it.
    Settled,
    /// The store could not take it yet; the engine comes back to it.
    Owed,
}

/// A stack gave no complete list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stack gives no complete list")]
pub struct NoList;

/// What came of [`Engine::cancel`].
#[derive(Debug, Clone, PartialEq)]
pub enum Cancelling {
    /// There is no such command.
    Unknown,
    /// It had ended before.
    Ended(Arc<Record>),
    /// A command of this kind can't be given up.
    NotPossible(Arc<Record>),
    /// It is being given up; its `Ended` tells how that went.
    Begun(Arc<Record>),
    /// The same, but the store is away: the stack was told at once, the command will be.
    Straight(Arc<Record>),
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
