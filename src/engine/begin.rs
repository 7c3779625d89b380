//! A client's command, from its parsed request to its first commit.

use std::sync::Arc;
use std::time::Duration;

use super::carried::Carried;
use super::owed::Owed;
use super::{Engine, lock};
use crate::core::act::{Facts, Reply};
use crate::core::command::look::look_at;
use crate::core::command::{Claim, Command, Ending, Input, Taking};
use crate::core::ids::{CallId, CommandId, Epoch, StackId, TenantId};
use crate::core::partition::Partition;
use crate::core::plan::{Plan, Times};
use crate::core::record::{Begin, FORMAT, Key, Record};
use crate::core::request::Request;
use crate::core::stack_event::Watch;
use crate::stack::{SipStack as _, Stacks};
use crate::store::{Away, Find, Store, Unfound, Verdict};

/// A store that begins more epochs than this under one command can't be worked with.
const MOST_EPOCHS: usize = 3;

/// A command that began, now or before.
#[derive(Debug, Clone, PartialEq)]
pub enum Begun {
    /// It began with this commit.
    New(Arc<Record>),
    /// The same was asked before.
    Repeated(Arc<Record>),
    /// The store is away, so nothing was recorded: the call was ended straight at the stack.
    Straight(Ending),
}

/// A command that did not begin. A refusal records nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another command changes the call.
    #[error("another command is changing this call")]
    CallBusy {
        /// That command.
        by: CommandId,
        /// It has ended, but what it sent may still be on its way to a phone: for so long.
        lingers: Option<Duration>,
    },
    /// Another start of the same caller runs.
    #[error("another start of this caller is running")]
    CallerBusy {
        /// That command.
        by: CommandId,
    },
    /// The id is taken by something else.
    #[error("this id belongs to another command")]
    IdConflict,
    /// Too many commands run.
    #[error("too many commands are running")]
    TooMany {
        /// How many may.
        limit: usize,
    },
    /// No stack of that name.
    #[error("no such stack")]
    UnknownStack,
    /// A command of this id is there, of a later version: this one can't read it.
    #[error("the command of this id can't be read by this version")]
    Illegible,
    /// The store can't be asked; repeat with the same id.
    #[error("the store is not available")]
    StoreUnavailable,
}

impl<S: Store, K: Stacks> Engine<S, K> {
    /// Begins a command, or finds that it began before.
    ///
    /// # Errors
    /// [`Refusal`] says why it does not begin.
    pub fn begin(self: &Arc<Self>, begin: Begin) -> Carried<Result<Begun, Refusal>> {
        let engine = Arc::clone(self);
        Carried::new(&self.host, async move { engine.begun(begin).await })
    }

    async fn begun(self: &Arc<Self>, begin: Begin) -> Result<Begun, Refusal> {
        let stack = self.stack_of(&begin).await?;
        if let (Some(adapter), false) = (self.stacks.get(&stack), begin.request.is_end()) {
            // The plan is made once, of what the stack can. To end a call is the same for all.
            adapter.introduced().await;
        }
        for _ in 0..MOST_EPOCHS {
            match self.try_begin(&begin, &stack).await {
                Ok(Verdict::Applied { record, overtaken, durable, .. }) => {
                    self.observer.begun(&record);
                    self.set_timer(&record);
                    lock(&self.at_hand).put(&record);
                    if !durable {
                        self.leave_unsent(&record);
                    }
                    self.perform_open(&record);
                    self.tell_overtaken(overtaken, &begin.key.id);
                    return Ok(Begun::New(record));
                }
                Ok(Verdict::Exists(record)) if record.digest == begin.digest => {
                    return Ok(Begun::Repeated(record));
                }
                Ok(Verdict::Exists(_)) => return Err(Refusal::IdConflict),
                Ok(Verdict::Illegible) => return Err(Refusal::Illegible),
                Ok(Verdict::Busy { claim: Claim::Call(_), by, until }) => {
                    let lingers = until.map(|until| self.clock.now().until(until));
                    return Err(Refusal::CallBusy { by, lingers });
                }
                Ok(Verdict::Busy { claim: Claim::Caller(_), by, until: _ }) => {
                    return Err(Refusal::CallerBusy { by });
                }
                Ok(Verdict::Over { limit }) => return Err(Refusal::TooMany { limit }),
                // Another epoch has begun; the next try is in it.
                Ok(Verdict::EpochChanged(epoch)) => self.heard_epoch(epoch),
                // The store is away, or slower than what it was to open may wait.
                Err(Away)
                | Ok(Verdict::Stale(_) | Verdict::Late | Verdict::Fenced(_) | Verdict::Gone) => {
                    break;
                }
            }
        }
        self.without_record(&begin.request, &stack).await
    }

    /// The store can't take it. A call is ended all the same.
    async fn without_record(&self, request: &Request, stack: &StackId) -> Result<Begun, Refusal> {
        match request {
            Request::End { call } => Ok(Begun::Straight(self.end_straight(stack, call).await)),
            Request::Start(_)
            | Request::BlindTransfer { .. }
            | Request::AttendedTransfer { .. }
            | Request::Hold { .. }
            | Request::Unhold { .. } => Err(Refusal::StoreUnavailable),
        }
    }

    /// The store's epoch as last heard of; asked the first time.
    async fn epoch(&self, tenant: &TenantId) -> Result<Epoch, Away> {
        let known = lock(&self.epoch).clone();
        if let Some(known) = known {
            return Ok(known);
        }
        let epoch = self.store.head(tenant).await?.epoch;
        self.heard_epoch(epoch.clone());
        Ok(epoch)
    }

    async fn try_begin(&self, begin: &Begin, stack: &StackId) -> Result<Verdict, Away> {
        let epoch = self.epoch(&begin.key.tenant).await?;
        let adapter = self.stacks.get(stack).ok_or(Away)?;
        let mut times = *self.settings.times_at.get(stack).unwrap_or(&self.settings.times);
        if let Some(fr_timeout) = adapter.fr_timeout() {
            times.silence = Times::silence_of(fr_timeout);
        }
        let plan = Plan {
            stack: stack.clone(),
            capabilities: adapter.capabilities(),
            times,
            install: self.settings.install.clone(),
            partition: Partition::of(&begin.key.tenant).number(),
            one_start_per_caller: self.settings.one_start_per_caller,
        };
        let now = self.now();
        let step = Command::begin(&begin.request, Arc::new(plan), adapter.uptime(), &now);
        let record = Record {
            key: begin.key.clone(),
            digest: begin.digest,
            session: begin.session.clone(),
            format: FORMAT,
            born: epoch,
            version: 1,
            first_seq: 0,
            external_id: begin.external_id.clone(),
            trace: begin.trace.clone(),
            state: step.state,
        };
        let commit = self.commit_of(record, step.notices, &now, None);
        let not_after = commit.not_after;
        let verdict = self.store.commit(commit).await;
        if verdict.is_err() {
            self.owe_beginning(&begin.key, not_after);
        }
        verdict
    }

    /// Commands that lost their call to a `CallEnd` learn of it beside the rest.
    fn tell_overtaken(self: &Arc<Self>, overtaken: Vec<Key>, by: &CommandId) {
        for key in overtaken {
            let engine = Arc::clone(self);
            let input = Input::Ending { by: by.clone() };
            self.host.spawn(Box::pin(async move {
                match engine.get(&key).await {
                    Ok(Some(record)) => engine.input(record, input, None).await,
                    Ok(None) | Err(Unfound::Illegible) => {}
                    Err(Unfound::Away(Away)) => engine.owe(&key, Owed::Input { input, term: None }),
                }
            }));
        }
    }

    /// The same, of a command whose beginning nobody followed up: its process died, or the store's
    /// answer was lost. Who runs on a call that another one ends has lost it to that one.
    pub(super) async fn tell_whom_it_overtook(self: &Arc<Self>, record: &Record) {
        let by = &record.key.id;
        for (claim, taking) in record.state.claims() {
            let (Claim::Call(call), Taking::Overtake) = (&claim, taking) else { continue };
            let on_it =
                Find::Watching(record.state.plan.stack.clone(), vec![Watch::Call(call.clone())]);
            for other in self.find(on_it).await {
                let same_tenant = other.key.tenant == record.key.tenant;
                if same_tenant && other.state.claims().contains(&(claim.clone(), Taking::Ask)) {
                    self.input(other, Input::Ending { by: by.clone() }, None).await;
                }
            }
        }
    }

    /// The stack that the client names, else that of the caller's domain, else the one that has
    /// the call.
    async fn stack_of(&self, begin: &Begin) -> Result<StackId, Refusal> {
        if let Some(named) = &begin.stack {
            return self.stacks.get(named).map(|_| named.clone()).ok_or(Refusal::UnknownStack);
        }
        if let Request::Start(start) = &begin.request {
            return self.stacks.of_domain(start.caller.domain()).ok_or(Refusal::UnknownStack);
        }
        let names = self.stacks.names();
        let first = names.first().ok_or(Refusal::UnknownStack)?;
        let (Some(call), true) = (begin.request.call(), names.len() > 1) else {
            return Ok(first.clone());
        };
        if let Some(known) = lock(&self.routes).of(call) {
            return Ok(known);
        }
        // Nobody has heard of it: ask them all, in order.
        for name in names {
            if self.has_call(name, call).await {
                return Ok(name.clone());
            }
        }
        Ok(first.clone())
    }

    /// Whether a stack has a call now.
    async fn has_call(&self, stack: &StackId, call: &CallId) -> bool {
        match self.perform_straight(stack, look_at(call.clone())).await {
            Reply::Done(Facts::Looked(sighting)) => sighting.call.is_some(),
            Reply::Done(_)
            | Reply::Refused { .. }
            | Reply::Missing { .. }
            | Reply::NotSent(_)
            | Reply::Silent => false,
        }
    }
}
