//! Which operations this process performs or has performed: each is performed once.
//!
//! A task may hold an old version of a command, in which an operation is open that another task has
//! performed since. So an operation is remembered until its reply is in the store, and past its
//! `send_before` too: from then on nobody can send it any more.

use std::collections::BTreeSet;

use crate::core::act::Op;
use crate::core::ids::OpId;
use crate::core::time::StoreTime;

/// An operation's name and the time before which it is sent. A start that is safe to repeat is
/// opened again under its old name, with a new time.
type Once = (OpId, StoreTime);

/// Operations that are taken.
#[derive(Debug, Default)]
pub struct Performing {
    /// No reply of theirs is in the store yet.
    open: BTreeSet<Once>,
    /// Those of them whose reply is here, on its way to the store.
    replied: BTreeSet<OpId>,
    /// Done, by the time before which they could have been sent.
    done: BTreeSet<(StoreTime, OpId)>,
}

impl Performing {
    /// Takes an operation. False: somebody has.
    pub(super) fn take(&mut self, op: &Op, now: StoreTime) -> bool {
        while self.done.first().is_some_and(|(send_before, _)| *send_before <= now) {
            self.done.pop_first();
        }
        if self.done.contains(&(op.send_before, op.id.clone())) {
            return false;
        }
        self.open.insert((op.id.clone(), op.send_before))
    }

    /// The operation's reply is here.
    pub(super) fn replied(&mut self, op: &OpId) {
        self.replied.insert(op.clone());
    }

    /// Whether the operation's reply is here, and not yet in the store.
    pub(super) fn has_reply(&self, op: &OpId) -> bool {
        self.replied.contains(op)
    }

    /// How many are taken whose reply is not in the store.
    pub(super) fn under_way(&self) -> usize {
        self.open.len()
    }

    /// The operation's reply is in the store, or nobody waits for it any more.
    pub(super) fn done(&mut self, op: &OpId) {
        self.replied.remove(op);
        let first = (op.clone(), StoreTime::default());
        while let Some(taken) = self.open.range(&first..).next().filter(|(id, _)| id == op).cloned()
        {
            self.open.remove(&taken);
            let (op, send_before) = taken;
            self.done.insert((send_before, op));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::act::Act;
    use crate::core::ids::{CallId, Nonce, PodId, StackId};
    use crate::core::time::Now;
    use std::time::Duration;

    fn op(send_before: StoreTime) -> Op {
        let now = Now { at: StoreTime(0), nonce: Nonce(7), pod: PodId::new("p") };
        Op {
            id: now.op(0),
            by: now.pod,
            stack: StackId::new("s"),
            act: Act::End { call: CallId::parse("a").unwrap() },
            send_before,
            reply_by: send_before.after(Duration::from_secs(1)),
        }
    }

    #[test]
    fn an_operation_is_taken_once_however_old_the_version_that_names_it() {
        let mut performing = Performing::default();
        let op = op(StoreTime(500));
        assert!(performing.take(&op, StoreTime(0)));
        assert!(!performing.take(&op, StoreTime(1)), "it is under way");
        performing.done(&op.id);
        assert!(!performing.take(&op, StoreTime(499)), "an old version could still send it");
    }

    #[test]
    fn what_is_under_way_stays_taken_for_as_long_as_it_takes() {
        let mut performing = Performing::default();
        let op = op(StoreTime(500));
        assert!(performing.take(&op, StoreTime(0)));
        assert!(!performing.take(&op, StoreTime(60_000)));
    }

    #[test]
    fn a_new_time_makes_it_another() {
        let mut performing = Performing::default();
        assert!(performing.take(&op(StoreTime(500)), StoreTime(0)));
        performing.done(&op(StoreTime(500)).id);
        assert!(performing.take(&op(StoreTime(900)), StoreTime(400)));
    }

    #[test]
    fn what_can_not_be_sent_any_more_is_forgotten() {
        let mut performing = Performing::default();
        for at in 0..1000_u64 {
            let op = op(StoreTime(at + 500));
            assert!(performing.take(&op, StoreTime(at)));
            performing.done(&op.id);
            assert!(performing.done.len() <= 500);
        }
    }
}
