//! What the stacks report, applied to the commands that it concerns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::carried::Carried;
use super::{Engine, NoList, lock};
use crate::core::act::{Dialog, DialogState};
use crate::core::command::Input;
use crate::core::ids::{CallId, StackId, Term};
use crate::core::record::{Key, Record};
use crate::core::stack_event::{StackEvent, Watch};
use crate::core::time::StoreTime;
use crate::stack::{SipStack as _, Stacks};
use crate::store::{Away, Find, Store};

/// How far the clocks of two processes may be apart when it is asked what came first.
const CLOCKS: Duration = Duration::from_millis(50);

/// Something that a stack reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// What.
    pub event: StackEvent,
    /// When it came in.
    pub at: StoreTime,
}

/// Commands, and what is told to each.
type Concerned = BTreeMap<Key, (Arc<Record>, Told)>;

/// Inputs of one command, in their order.
#[derive(Default)]
struct Told {
    inputs: Vec<Input>,
    /// When the first of them came in.
    since: Option<StoreTime>,
}

impl Told {
    fn add(&mut self, heard: &Heard) {
        self.inputs.push(Input::Happened(heard.event.clone()));
        self.since = self.since.into_iter().chain([heard.at]).min();
    }
}

impl<S: Store, K: Stacks> Engine<S, K> {
    /// Applies what a stack reported, in this order, to every command that it concerns. What came
    /// in before a command began is about something else on the same call. To apply it again does
    /// no harm.
    ///
    /// # Errors
    /// [`Away`] when the store can't be asked: some of it may have been applied.
    pub async fn happened(
        self: &Arc<Self>,
        stack: &StackId,
        heard: &[Heard],
        term: Option<Term>,
    ) -> Result<(), Away> {
        let is_restart = |heard: &Heard| matches!(heard.event, StackEvent::Restarted(_));
        // A restart concerns everybody, at its place between the others.
        for part in heard.chunk_by(|a, b| !is_restart(a) && !is_restart(b)) {
            let concerned = match part {
                [one] if is_restart(one) => {
                    let running = self.store.find(Find::AtStack(stack.clone())).await?;
                    let told = |record: Arc<Record>| {
                        let mut told = Told::default();
                        told.add(one);
                        (record.key.clone(), (record, told))
                    };
                    running.into_iter().map(told).collect()
                }
                part => self.concerned(stack, part).await?,
            };
            self.take_in(concerned, term).await;
        }
        Ok(())
    }

    async fn concerned(&self, stack: &StackId, heard: &[Heard]) -> Result<Concerned, Away> {
        let names: BTreeSet<Watch> = heard.iter().flat_map(|heard| heard.event.names()).collect();
        let found = self.store.find(Find::Watching(stack.clone(), names.into_iter().collect()));
        let mut concerned: Concerned = BTreeMap::new();
        let mut listeners: BTreeMap<Watch, Vec<Key>> = BTreeMap::new();
        for record in found.await? {
            for watch in record.state.watches() {
                listeners.entry(watch).or_default().push(record.key.clone());
            }
            concerned.insert(record.key.clone(), (record, Told::default()));
        }
        for one in heard {
            let Heard { event, at } = one;
            lock(&self.routes).note(stack, event);
            let listening: BTreeSet<&Key> =
                event.names().filter_map(|name| listeners.get(&name)).flatten().collect();
            self.note_orphan(stack, event, !listening.is_empty());
            for key in listening {
                if let Some((record, told)) = concerned.get_mut(key)
                    && at.after(CLOCKS) >= record.state.begun
                {
                    told.add(one);
                }
            }
        }
        Ok(concerned)
    }

    /// Commands beside each other, each its own inputs in one commit.
    async fn take_in(self: &Arc<Self>, concerned: Concerned, term: Option<Term>) {
        let each = concerned.into_values().filter_map(|(record, Told { inputs, since })| {
            Some(self.inputs(record, inputs, since?, term))
        });
        futures_util::future::join_all(each).await;
    }

    /// The stack is reached (again): what its list shows is applied to the commands that run
    /// there, and legs of ours that nobody remembers are noted. Absence proves nothing here.
    ///
    /// # Errors
    /// [`NoList`]: it is to be tried again.
    pub fn joined(
        self: &Arc<Self>,
        stack: &StackId,
        term: Option<Term>,
    ) -> Carried<Result<(), NoList>> {
        let (engine, stack) = (Arc::clone(self), stack.clone());
        Carried::new(&self.host, async move { engine.look_at_list(&stack, term).await })
    }

    async fn look_at_list(
        self: &Arc<Self>,
        stack: &StackId,
        term: Option<Term>,
    ) -> Result<(), NoList> {
        let Some(adapter) = self.stacks.get(stack) else { return Ok(()) };
        // That it restarted is reported to those who knew it before. Whoever leads now may not have.
        // A command knows the life that it began in.
        if let Some(uptime) = adapter.ask_uptime().await {
            let heard = [Heard { event: StackEvent::Restarted(uptime), at: self.clock.now() }];
            self.happened(stack, &heard, term).await.map_err(|Away| NoList)?;
        }
        let snapshot = adapter.list().await.map_err(|_| NoList)?;
        // Two dialogs may carry one Call-ID, and one of them is long dead (fact F4).
        let living = |dialog: &&Dialog| dialog.state != DialogState::Deleted;
        let living: BTreeSet<CallId> =
            snapshot.dialogs.iter().filter(living).map(|dialog| dialog.call.clone()).collect();
        let at = self.clock.now();
        let shown = snapshot.dialogs.into_iter().filter(|dialog| {
            dialog.state != DialogState::Deleted || !living.contains(&dialog.call)
        });
        let heard: Vec<Heard> = shown
            .map(|dialog| {
                let Dialog { call, id, state, .. } = dialog;
                Heard { event: StackEvent::Dialog { call, dialog: id, state }, at }
            })
            .collect();
        for some in heard.chunks(AT_ONCE) {
            self.happened(stack, some, term).await.map_err(|Away| NoList)?;
        }
        Ok(())
    }
}

/// So many dialogs of a list are looked up at once.
const AT_ONCE: usize = 256;
