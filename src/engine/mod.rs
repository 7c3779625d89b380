//! The one loop: load, step, commit, act.
//!
//! Whoever holds an input (a stack's reply or event, a timer, a cancel) loads the command, steps
//! it, and commits with the version it saw; on [`Verdict::Stale`] it steps again on the newer
//! one. What the new state opens is performed by the pod it names, once. The engine awaits only
//! our own traits and has no clock, randomness or tasks of its own: a simulator can run it in one
//! thread and virtual time.
//!
//! The files: [`begin`] (a client's command), [`performing`] (each operation once), [`owed`] (what
//! could not be committed yet), [`timers`] (what is due), [`orphans`] (legs of ours that nobody
//! remembers), [`routes`] (which stack a call is at).

pub mod begin;
pub mod orphans;
pub mod owed;
pub mod performing;
pub mod routes;
pub mod timers;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use self::orphans::Orphans;
use self::owed::{Debts, Owed};
use self::performing::Performing;
use self::routes::Routes;
use self::timers::Timers;
use crate::clock::{Clock, Nonces};
use crate::core::act::{Dialog, DialogState, NotSent, Op, Repeat, Reply};
use crate::core::command::Input;
use crate::core::failure::Outcome;
use crate::core::ids::{CallId, Epoch, Install, PodId, StackId, Term};
use crate::core::notice::Notice;
use crate::core::plan::Times;
use crate::core::record::{Key, Record};
use crate::core::request::Method;
use crate::core::stack_event::StackEvent;
use crate::core::time::Now;
use crate::stack::{SipStack, Stacks};
use crate::store::{Away, Commit, Find, Quota, Store, Verdict};

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
    fn wake_at(&self, at: crate::core::time::StoreTime);
}

/// What the engine tells of its work, for metrics.
pub trait Observer: Send + Sync + 'static {
    /// A command began.
    fn begun(&self, method: Method);
    /// A command ended.
    fn ended(&self, method: Method, outcome: Outcome, took: Duration);
    /// An operation was answered.
    fn performed(&self, verb: &'static str, reply: &Reply, took: Duration);
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
    /// The store's epoch, as last heard of.
    epoch: Mutex<Option<Epoch>>,
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
            epoch: Mutex::default(),
        })
    }

    /// The store that the engine commits to.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// The command of this name, also an ended one that is still kept.
    ///
    /// # Errors
    /// [`Away`] when the store can't be asked.
    pub async fn get(&self, key: &Key) -> Result<Option<Arc<Record>>, Away> {
        Ok(self.store.find(Find::Key(key.clone())).await?.pop())
    }

    /// Applies what a stack reported to every command that it concerns.
    pub async fn happened(
        self: &Arc<Self>,
        stack: &StackId,
        event: StackEvent,
        term: Option<Term>,
    ) {
        lock(&self.routes).note(stack, &event);
        let concerned = match &event {
            StackEvent::Restarted { .. } => self.find(Find::AtStack(stack.clone())).await,
            StackEvent::Dialog { .. }
            | StackEvent::Transfer { .. }
            | StackEvent::Referral { .. }
            | StackEvent::Hold { .. } => {
                let mut found: Vec<Arc<Record>> = Vec::new();
                for watch in event.names() {
                    for record in self.find(Find::Watching(stack.clone(), watch)).await {
                        if !found.iter().any(|known| known.key == record.key) {
                            found.push(record);
                        }
                    }
                }
                found
            }
        };
        self.note_orphan(stack, &event, !concerned.is_empty());
        for record in concerned {
            self.input(record, Input::Happened(event.clone()), term).await;
        }
    }

    /// The stack is reached (again): what its list shows is applied to the commands that run
    /// there, and legs of ours that nobody remembers are noted. Absence proves nothing here.
    ///
    /// # Errors
    /// [`NoList`]: nothing was applied, so it is to be tried again.
    pub async fn joined(
        self: &Arc<Self>,
        stack: &StackId,
        term: Option<Term>,
    ) -> Result<(), NoList> {
        let Some(adapter) = self.stacks.get(stack) else { return Ok(()) };
        let snapshot = adapter.list().await.map_err(|_| NoList)?;
        // Two dialogs may carry one Call-ID, and one of them is long dead (fact F4).
        let living = |dialog: &&Dialog| dialog.state != DialogState::Deleted;
        let living: BTreeSet<CallId> =
            snapshot.dialogs.iter().filter(living).map(|dialog| dialog.call.clone()).collect();
        for dialog in snapshot.dialogs {
            if dialog.state == DialogState::Deleted && living.contains(&dialog.call) {
                continue;
            }
            let (call, state) = (dialog.call.clone(), dialog.state);
            let event = StackEvent::Dialog { call, dialog: dialog.id, state };
            self.happened(stack, event, term).await;
        }
        Ok(())
    }

    async fn find(&self, by: Find) -> Vec<Arc<Record>> {
        // A store that is away leaves the event to the command's own looks and deadline.
        self.store.find(by).await.unwrap_or_default()
    }

    /// Steps a command with an input, and sets about what that opened.
    async fn input(self: &Arc<Self>, record: Arc<Record>, input: Input, term: Option<Term>) {
        if let Applied::Committed(record) = self.apply(record, input, term).await {
            self.perform_open(&record);
        }
    }

    /// Steps a command with an input, starting from the record at hand, until it is committed or
    /// changes nothing.
    async fn apply(
        self: &Arc<Self>,
        mut record: Arc<Record>,
        input: Input,
        term: Option<Term>,
    ) -> Applied {
        loop {
            let now = self.now();
            let Some(step) = record.state.step(&input, &now) else {
                self.rearm(&record, &input, &now);
                return Applied::Settled;
            };
            let next =
                Record { version: record.version + 1, state: step.state, ..Record::clone(&record) };
            let commit = self.commit_of(next, step.notices, &now, term);
            match self.store.commit(commit.clone()).await {
                Ok(Verdict::Applied { record: committed, .. }) => {
                    self.note_end(&commit);
                    self.set_timer(&committed);
                    return Applied::Committed(committed);
                }
                Ok(Verdict::Stale(newer)) => record = newer,
                Ok(Verdict::EpochChanged(epoch)) => *lock(&self.epoch) = Some(epoch),
                // The command is not there any more, or a newer leader tells it this event.
                Ok(Verdict::Gone | Verdict::Exists(_) | Verdict::Fenced(_)) => {
                    return Applied::Settled;
                }
                // It was not applied. The input is not lost: it comes back with the timer.
                Ok(Verdict::Late | Verdict::Busy { .. } | Verdict::Over { .. }) => {
                    self.owe(&record.key, Owed::Input { input, term });
                    return Applied::Owed;
                }
                // Whether it was applied is not known. The same commit is made again.
                Err(Away) => {
                    let before = Arc::clone(&record);
                    let commit = Box::new(commit);
                    self.owe(&record.key, Owed::Commit { before, commit, input, term });
                    return Applied::Owed;
                }
            }
        }
    }

    /// What is to be noted of a commit that was applied, if it ended the command.
    fn note_end(&self, commit: &Commit) {
        let ended = &commit.record.state;
        let Some(ending) = ended.ending() else { return };
        self.observer.ended(ended.method, ending.outcome, ended.begun.until(self.clock.now()));
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
        let (nonce, not_after) = (now.nonce, now.at.after(COMMIT_WITHIN));
        let epoch = lock(&self.epoch).clone().unwrap_or_else(|| record.born.clone());
        Commit { record, nonce, not_after, epoch, term, notices, quota, keep }
    }

    fn now(&self) -> Now {
        Now { at: self.clock.now(), nonce: self.nonces.nonce(), pod: self.settings.pod.clone() }
    }

    /// Operations of a committed state that are ours to perform and that nobody has taken.
    fn to_perform(&self, record: &Record) -> Vec<Op> {
        let now = self.clock.now();
        let mut performing = lock(&self.performing);
        let ours = record.state.open().iter().filter(|op| op.by == self.settings.pod);
        ours.filter(|op| performing.take(op, now)).cloned().collect()
    }

    fn perform_open(self: &Arc<Self>, record: &Arc<Record>) {
        for op in self.to_perform(record) {
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
            let input = Input::Replied { op: op.id.clone(), reply };
            let next = match self.apply(Arc::clone(&record), input, None).await {
                Applied::Committed(next) => next,
                Applied::Settled => return lock(&self.performing).done(&op.id),
                // It stays taken until its reply is in the store.
                Applied::Owed => return,
            };
            lock(&self.performing).done(&op.id);
            let mut ops = self.to_perform(&next);
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
        let forgotten = lock(&self.epoch).as_ref().is_some_and(|epoch| *epoch != record.born);
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
        self.observer.performed(op.act.verb(), &reply, began.until(self.clock.now()));
        reply
    }

    /// Gives a running command up.
    ///
    /// # Errors
    /// [`Away`] when the store can't be asked.
    pub async fn cancel(self: &Arc<Self>, key: &Key) -> Result<Cancelling, Away> {
        let Some(record) = self.get(key).await? else { return Ok(Cancelling::Unknown) };
        if record.state.outcome().is_some() {
            return Ok(Cancelling::Ended(record));
        }
        if !record.state.can_cancel() {
            return Ok(Cancelling::NotPossible(record));
        }
        self.input(Arc::clone(&record), Input::Cancel, None).await;
        Ok(Cancelling::Begun(record))
    }

    /// Gives up everything that runs here and can be given up: whoever is to end does not leave
    /// phones ringing for commands that nobody steps any more.
    pub async fn cancel_all(self: &Arc<Self>) {
        for stack in self.stacks.names() {
            for record in self.find(Find::AtStack(stack.clone())).await {
                self.input(record, Input::Cancel, None).await;
            }
        }
    }
}

/// What became of an input.
enum Applied {
    /// It was committed.
    Committed(Arc<Record>),
    /// It changes nothing, and never will.
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
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
