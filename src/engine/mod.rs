//! The one loop: load, step, commit, act.
//!
//! Whoever holds an input (a stack's reply or event, a timer, a cancel) loads the command, steps
//! it, and commits with the version it saw; on [`Verdict::Stale`] it steps again on the newer
//! one. What the new state opens is performed by the pod it names, once. The engine awaits only
//! our own traits and has no clock, randomness or tasks of its own: a simulator can run it in one
//! thread and virtual time.
//!
//! The files: [`begin`] (a client's command), [`timers`] (what is due), [`orphans`] (legs of ours
//! that nobody remembers), [`routes`] (which stack a call is at).

pub mod begin;
pub mod orphans;
pub mod routes;
pub mod timers;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use self::orphans::Orphans;
use self::routes::Routes;
use self::timers::Timers;
use crate::clock::{Clock, Nonces};
use crate::core::act::{Dialog, DialogState, NotSent, Op, Reply};
use crate::core::command::Input;
use crate::core::failure::Outcome;
use crate::core::ids::{CallId, Install, OpId, PodId, StackId, Term};
use crate::core::plan::Times;
use crate::core::record::{Key, Record};
use crate::core::request::Method;
use crate::core::stack_event::StackEvent;
use crate::core::time::Now;
use crate::stack::{SipStack, Stacks};
use crate::store::{Away, Commit, Find, Store, Verdict};

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
    /// Operations that this process is performing.
    performing: Mutex<BTreeSet<OpId>>,
    timers: Mutex<Timers>,
    /// Inputs whose commit did not get through, to be applied again with the command's next timer.
    unapplied: Mutex<BTreeMap<Key, Vec<Unapplied>>>,
    orphans: Mutex<Orphans>,
    routes: Mutex<Routes>,
}

/// An input that is still owed to its command, and the term of whoever held it.
type Unapplied = (Input, Option<Term>);

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
            unapplied: Mutex::default(),
            orphans: Mutex::default(),
            routes: Mutex::default(),
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
        let input = Input::Happened(event);
        for record in concerned {
            self.input(record, &input, term).await;
        }
    }

    /// The stack is reached (again): what its list shows is applied to the commands that run
    /// there, and legs of ours that nobody remembers are noted. Absence proves nothing here.
    pub async fn joined(self: &Arc<Self>, stack: &StackId, term: Option<Term>) {
        let Some(adapter) = self.stacks.get(stack) else { return };
        let Ok(snapshot) = adapter.list().await else { return };
        // Two dialogs may carry one Call-ID, and one of them is long dead (sip-outcomes F4).
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
    }

    async fn find(&self, by: Find) -> Vec<Arc<Record>> {
        // A store that is away leaves the event to the command's own looks and deadline.
        self.store.find(by).await.unwrap_or_default()
    }

    /// Steps a command with an input, starting from the record at hand, until it is applied or
    /// changes nothing.
    async fn input(self: &Arc<Self>, record: Arc<Record>, input: &Input, term: Option<Term>) {
        if let Some(record) = self.apply(record, input, term).await {
            for op in self.to_perform(&record) {
                self.spawn_op(Arc::clone(&record), op);
            }
        }
    }

    async fn apply(
        self: &Arc<Self>,
        mut record: Arc<Record>,
        input: &Input,
        term: Option<Term>,
    ) -> Option<Arc<Record>> {
        loop {
            let now = self.now();
            let Some(step) = record.state.step(input, &now) else {
                self.rearm(&record, input, &now);
                return None;
            };
            let next =
                Record { version: record.version + 1, state: step.state, ..Record::clone(&record) };
            let ended = next.state.outcome().copied();
            let commit = self.commit_of(next, step.notices, &now, term);
            match self.store.commit(commit).await {
                Ok(Verdict::Applied { record, .. }) => {
                    if let Some(outcome) = ended {
                        let took = record.state.begun.until(now.at);
                        self.observer.ended(record.state.method, outcome, took);
                    }
                    self.set_timer(&record);
                    return Some(record);
                }
                Ok(Verdict::Stale(newer)) => record = newer,
                // The command is not there any more, or not ours to step: nothing is owed.
                Ok(
                    Verdict::Gone
                    | Verdict::Exists(_)
                    | Verdict::Fenced(_)
                    | Verdict::EpochChanged(_)
                    | Verdict::Busy { .. }
                    | Verdict::Over { .. },
                ) => {
                    self.retry_later(&record, &now);
                    return None;
                }
                // Whether it was applied is not known. To apply it twice changes nothing, and a
                // reply that only this process has must not get lost.
                Ok(Verdict::Late) | Err(Away) => {
                    self.keep_for_later(&record.key, input, term);
                    self.retry_later(&record, &now);
                    return None;
                }
            }
        }
    }

    fn commit_of(
        &self,
        record: Record,
        notices: Vec<crate::core::notice::Notice>,
        now: &Now,
        term: Option<Term>,
    ) -> Commit {
        let keep = if record.state.method.places_calls() {
            self.settings.keep_calls
        } else {
            self.settings.keep_others
        };
        let (nonce, not_after) = (now.nonce, now.at.after(COMMIT_WITHIN));
        let epoch = record.born.clone();
        Commit { record, nonce, not_after, epoch, term, notices, keep }
    }

    fn now(&self) -> Now {
        Now { at: self.clock.now(), nonce: self.nonces.nonce(), pod: self.settings.pod.clone() }
    }

    /// Operations of a committed state that are ours to perform and are not under way yet.
    fn to_perform(&self, record: &Record) -> Vec<Op> {
        let mut performing = lock(&self.performing);
        let ours = record.state.open().iter().filter(|op| op.by == self.settings.pod);
        ours.filter(|op| performing.insert(op.id.clone())).cloned().collect()
    }

    fn spawn_op(self: &Arc<Self>, record: Arc<Record>, op: Op) {
        let engine = Arc::clone(self);
        self.host.spawn(Box::pin(async move { engine.perform(record, op).await }));
    }

    /// Performs an operation, applies its reply, and goes on with what that opened: the usual
    /// command is one such chain.
    async fn perform(self: Arc<Self>, mut record: Arc<Record>, mut op: Op) {
        loop {
            let reply = self.ask_stack(&op).await;
            let input = Input::Replied { op: op.id.clone(), reply };
            let applied = self.apply(Arc::clone(&record), &input, None).await;
            lock(&self.performing).remove(&op.id);
            let Some(next) = applied else { return };
            let mut ops = self.to_perform(&next);
            let Some(last) = ops.pop() else { return };
            for other in ops {
                self.spawn_op(Arc::clone(&next), other);
            }
            record = next;
            op = last;
        }
    }

    async fn ask_stack(&self, op: &Op) -> Reply {
        let began = self.clock.now();
        let reply = match self.stacks.get(&op.stack) {
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
        self.input(Arc::clone(&record), &Input::Cancel, None).await;
        Ok(Cancelling::Begun(record))
    }
}

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
