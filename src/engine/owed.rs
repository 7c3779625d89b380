//! What the store could not take yet: commits whose fate is not known, and inputs.
//!
//! A reply that only this process has must not get lost, and what a commit opened must be performed
//! though its answer was lost. So both are kept and tried again with the command's next timer: the
//! same commit under the same nonce, which the store applies once, until its `not_after`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Applied, Engine, lock};
use crate::core::command::Input;
use crate::core::ids::Term;
use crate::core::record::{Key, Record};
use crate::core::time::StoreTime;
use crate::stack::Stacks;
use crate::store::{Away, Commit, Store, Verdict};

/// Most debts to one command. Beyond it the command's own looks and deadline must do.
const MOST: usize = 64;

/// What is owed to commands, in the order in which it came.
#[derive(Default)]
pub struct Debts {
    of: BTreeMap<Key, Vec<Owed>>,
}

/// Something that is owed to a command.
pub(super) enum Owed {
    /// A commit that may have been applied.
    Commit {
        /// The version that was stepped.
        before: Arc<Record>,
        commit: Box<Commit>,
        /// What it was stepped with.
        inputs: Vec<Input>,
        term: Option<Term>,
    },
    /// An input that was not applied.
    Input { input: Input, term: Option<Term> },
    /// That it is counted as begun: its beginning was applied, though nobody said so.
    Beginning,
}

impl Debts {
    pub(super) fn take(&mut self, key: &Key) -> Vec<Owed> {
        self.of.remove(key).unwrap_or_default()
    }

    pub(super) fn is_owed(&self, key: &Key) -> bool {
        self.of.contains_key(key)
    }

    pub(super) fn are_paid(&self) -> bool {
        self.of.is_empty()
    }

    /// What there is no room for comes back.
    fn add(&mut self, key: &Key, owed: Owed) -> Option<Owed> {
        let debts = self.of.entry(key.clone()).or_default();
        let counted = matches!(owed, Owed::Beginning)
            && debts.iter().any(|known| matches!(known, Owed::Beginning));
        if counted {
            return None;
        }
        if debts.len() >= MOST {
            return Some(owed);
        }
        debts.push(owed);
        None
    }
}

impl<S: Store, K: Stacks> Engine<S, K> {
    /// Remembers what is owed, and to look at the command again soon.
    pub(super) fn owe(&self, key: &Key, owed: Owed) {
        let forgiven = lock(&self.debts).add(key, owed);
        self.forgive(forgiven.into_iter().collect());
        self.look_again(key);
    }

    /// Pays what is owed to a command, as far as the store can be asked.
    pub(super) async fn pay(self: &Arc<Self>, record: &Arc<Record>, owed: Vec<Owed>) {
        for one in owed {
            let (inputs, term) = match one {
                Owed::Input { input, term } => (vec![input], term),
                Owed::Beginning => {
                    self.observer.begun(record);
                    continue;
                }
                Owed::Commit { before, commit, inputs, term } => {
                    match self.store.commit(Commit::clone(&commit)).await {
                        Ok(Verdict::Applied { record, durable, .. }) => {
                            self.applied(&commit, &record, durable);
                            let now = self.clock.now();
                            self.observer.took_in(&record, &inputs, now..now);
                            self.note_all_answered(&inputs);
                            self.perform_open(&record);
                            continue;
                        }
                        Err(Away) => {
                            let owed = Owed::Commit { before, commit, inputs, term };
                            self.owe(&record.key, owed);
                            continue;
                        }
                        // It was not applied, or has been overtaken: the input decides anew.
                        Ok(
                            Verdict::Stale(_)
                            | Verdict::Late
                            | Verdict::Exists(_)
                            | Verdict::Busy { .. }
                            | Verdict::Over { .. }
                            | Verdict::Fenced(_)
                            | Verdict::EpochChanged(_)
                            | Verdict::Gone
                            | Verdict::Illegible,
                        ) => (inputs, term),
                    }
                }
            };
            // Each loads anew through `Stale` if the one before changed the record.
            let now = self.clock.now();
            match self.apply(Arc::clone(record), inputs.clone(), now, term).await {
                Applied::Committed(next) => {
                    self.note_all_answered(&inputs);
                    self.perform_open(&next);
                }
                Applied::Settled => self.note_all_answered(&inputs),
                Applied::Owed => {}
            }
        }
    }

    fn note_all_answered(&self, inputs: &[Input]) {
        inputs.iter().for_each(|input| self.note_answered(input));
    }

    /// An operation's reply is in the store now, so it is no longer under way here.
    pub(super) fn note_answered(&self, input: &Input) {
        if let Input::Replied { op, .. } = input {
            lock(&self.performing).done(op);
        }
    }

    /// The command is not there any more: nothing is owed to it.
    pub(super) fn forgive(&self, owed: Vec<Owed>) {
        for one in owed {
            match one {
                Owed::Commit { inputs, .. } => self.note_all_answered(&inputs),
                Owed::Input { input, .. } => self.note_answered(&input),
                Owed::Beginning => {}
            }
        }
    }

    /// A beginning whose fate is not known. The client was told that the store is away, so what
    /// it would have sent is not sent any more: by then it is too late, and that ends it.
    pub(super) fn owe_beginning(&self, key: &Key, not_after: StoreTime) {
        // Counted or not: it is only a count.
        let _ = lock(&self.debts).add(key, Owed::Beginning);
        self.arm(key, 0, not_after.after(Duration::from_millis(1)));
    }
}
