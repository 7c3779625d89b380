//! Many commands that are taken up together: a dead process leaves thousands, and whoever lives
//! finds them at the same time.

use std::future::Future;
use std::sync::Arc;

use futures_util::future::join_all;

use super::{Engine, lock};
use crate::core::record::Record;
use crate::stack::Stacks;
use crate::store::Store;

/// So many are stepped beside each other.
const AT_ONCE: usize = 64;

impl<S: Store, K: Stacks> Engine<S, K> {
    /// Does this with each of them. Where there are many, each process begins at another place, so
    /// that not all of them ask the store for the same.
    pub(super) async fn with_each<W: Future<Output = ()> + Send>(
        &self,
        mut records: Vec<Arc<Record>>,
        does: impl Fn(Arc<Record>) -> W + Send,
    ) {
        records.retain(|record| self.can_be_taken_up(record));
        if records.len() > AT_ONCE {
            let count = u128::try_from(records.len()).unwrap_or(u128::MAX);
            let first = self.nonces.nonce().0 % count;
            records.rotate_left(usize::try_from(first).unwrap_or_default());
        }
        let mut records = records.into_iter().peekable();
        while records.peek().is_some() {
            join_all(records.by_ref().take(AT_ONCE).map(&does)).await;
        }
    }

    /// Processes may know other stacks while their configuration is changed one by one. What is at a
    /// stack that this one does not know is left to those that do, up to its deadline.
    fn can_be_taken_up(&self, record: &Record) -> bool {
        let state = &record.state;
        let stack = &state.plan.stack;
        let is_known = self.stacks.get(stack).is_some();
        if !is_known && lock(&self.foreign).insert(stack.clone()) {
            tracing::warn!(%stack, "a command runs at a stack that this process does not know");
        }
        is_known || state.deadline <= self.clock.now()
    }
}
