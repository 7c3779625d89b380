//! What one step collects: operations to open, notices to tell, and the end.

use std::time::Duration;

use super::Ending;
use crate::core::act::{Act, Op};
use crate::core::ids::OpId;
use crate::core::notice::{Data, Event, Notice};
use crate::core::plan::Plan;
use crate::core::time::{Now, StoreTime};

/// The hands of a machine during one step.
pub(crate) struct Turn<'a> {
    now: &'a Now,
    plan: &'a Plan,
    ops: &'a mut Vec<Op>,
    notices: Vec<Notice>,
    drawn: u64,
    ending: Option<Ending>,
}

/// What a step has to tell.
pub(crate) struct Told {
    pub notices: Vec<Notice>,
    pub ending: Option<Ending>,
}

impl<'a> Turn<'a> {
    pub fn new(now: &'a Now, plan: &'a Plan, ops: &'a mut Vec<Op>) -> Self {
        Self { now, plan, ops, notices: Vec::new(), drawn: 0, ending: None }
    }

    pub fn now(&self) -> &'a Now {
        self.now
    }

    pub fn at(&self) -> StoreTime {
        self.now.at
    }

    pub fn plan(&self) -> &'a Plan {
        self.plan
    }

    /// The moment that is this far away.
    pub fn later(&self, by: Duration) -> StoreTime {
        self.now.at.after(by)
    }

    /// Opens an operation. `answer` is how long the stack may take once it has been sent.
    pub fn open(&mut self, act: Act, answer: Duration) -> OpId {
        let id = self.now.op(self.drawn);
        self.drawn += 1;
        let reply_by = self.later(self.plan.times.send).after(answer);
        self.reopen(id.clone(), act, reply_by);
        id
    }

    /// Opens an operation under a name that it had before: the far end knows it by that name and
    /// refuses the second.
    pub fn reopen(&mut self, id: OpId, act: Act, reply_by: StoreTime) {
        let send_before = self.later(self.plan.times.send);
        let (by, stack) = (self.now.pod.clone(), self.plan.stack.clone());
        self.ops.push(Op { id, by, stack, act, send_before, reply_by });
    }

    /// Takes an open operation out: it has been answered.
    pub fn take(&mut self, id: &OpId) -> Option<Op> {
        let at = self.ops.iter().position(|op| op.id == *id)?;
        Some(self.ops.remove(at))
    }

    /// Takes out every open operation that this holds for.
    pub fn take_all(&mut self, which: impl Fn(&Op) -> bool) -> Vec<Op> {
        self.ops.extract_if(.., |op| which(op)).collect()
    }

    /// Whether the command has ended in this step.
    pub fn ended(&self) -> bool {
        self.ending.is_some()
    }

    pub fn tell(&mut self, event: Event, data: Data) {
        self.notices.push(Notice::Progress { event, data });
    }

    /// Ends the command. The first end counts.
    pub fn end(&mut self, ending: Ending) {
        if self.ending.is_some() {
            return;
        }
        self.notices.extend(ending.error.clone().map(Notice::Error));
        let (outcome, remarks) = (ending.outcome, ending.remarks.clone());
        self.notices.push(Notice::Ended { outcome, remarks });
        self.ending = Some(ending);
    }

    pub fn finish(self) -> Told {
        Told { notices: self.notices, ending: self.ending }
    }
}
