//! The terms of leaders that are elected elsewhere.

use super::script::Script;
use super::store::RedisStore;
use super::wire::{self, away, one};
use crate::core::ids::{Epoch, StackId, TenantId, Term};
use crate::core::partition::Partition;
use crate::leadership::contest::{Terms, Unheard};
use crate::store::{Away, Store as _};

impl From<Away> for Unheard {
    fn from(_: Away) -> Self {
        Self
    }
}

impl Terms for RedisStore {
    async fn draw(&self, stack: &StackId) -> Result<Term, Unheard> {
        Ok(self.lead(stack).await?)
    }

    async fn newest(&self, stack: &StackId) -> Result<(Epoch, Option<Term>), Unheard> {
        let keys = [self.keys().terms(), self.keys().epoch()];
        let (_, answer) = self
            .answer_of_epoch(Partition::of(&TenantId::default()), |live| {
                let mut newest = Script::Newest.over(live);
                newest.arg(keys.len()).arg(&keys).arg(&*live.run_id).arg(stack.as_str());
                one(newest)
            })
            .await?;
        let (epoch, newest) = wire::in_epoch(answer).map_err(|error| away(&error))?;
        Ok((epoch, (newest > 0).then_some(Term(newest))))
    }
}
