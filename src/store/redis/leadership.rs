//! Who leads, by a lease in Redis: for several processes without Kubernetes.
//!
//! The lease says who may try; the term that the store draws is what counts. A process that was paused
//! or cut off gives its lead up by its own clock, before anybody else can have the lease; should it be
//! late, its commits are fenced.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::script::Script;
use super::store::RedisStore;
use super::wire::{self, away, milliseconds, one};
use crate::core::ids::{Epoch, PodId, StackId, TenantId, Term};
use crate::core::partition::Partition;
use crate::leadership::{Known, Leader, Leadership, Leads};
use crate::store::{Away, Store as _};

/// How long a lease holds.
const LEASE: Duration = Duration::from_secs(3);

/// Without a renewal for this long a leader gives its lead up: the lease may end half a second later.
const TRUSTED: Duration = Duration::from_millis(2_500);

/// How often a leader renews.
const RENEW: Duration = Duration::from_millis(700);

/// How often the others try.
const TRY: Duration = Duration::from_millis(250);

/// Whoever began so lately has not heard all that its predecessor may have left.
const YOUNG: Duration = Duration::from_secs(12);

/// For so long the young ones leave a lease that nobody has to all others.
const DEFERENCE: Duration = Duration::from_millis(400);

/// Contends for a lease of each stack.
pub struct RedisLeadership {
    store: Arc<RedisStore>,
    pod: PodId,
    leads: Arc<Leads>,
    contenders: Vec<tokio::task::JoinHandle<()>>,
}

impl RedisLeadership {
    /// Contends from now on. Must be called inside a tokio runtime.
    #[must_use]
    pub fn start(store: &Arc<RedisStore>, pod: &PodId, stacks: &[StackId]) -> Self {
        let leads = Arc::new(Leads::of(stacks));
        let contenders = stacks.iter().map(|stack| {
            let contender = Contender {
                store: Arc::clone(store),
                pod: pod.clone(),
                stack: stack.clone(),
                leads: Arc::clone(&leads),
                held: None,
                began: Instant::now(),
                free: None,
            };
            tokio::spawn(contender.run())
        });
        let contenders = contenders.collect();
        Self { store: Arc::clone(store), pod: pod.clone(), leads, contenders }
    }

    /// Gives every lead up, so that another process has it at once, and contends no more.
    pub async fn resign(&self) {
        self.contenders.iter().for_each(tokio::task::JoinHandle::abort);
        for stack in self.leads.stacks() {
            self.leads.set(stack, None);
            let lease = self.store.keys().lease(stack);
            let resign = self.store.ask::<u64>(|live| {
                let mut resign = Script::Resign.over(live);
                resign.arg(1).arg(&lease).arg(self.pod.as_str());
                one(resign)
            });
            if let Err(Away) = resign.await {
                tracing::info!(%stack, "the lead could not be given back, it ends by itself");
            }
        }
    }
}

impl Drop for RedisLeadership {
    fn drop(&mut self) {
        self.contenders.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Leadership for RedisLeadership {
    fn term(&self, stack: &StackId) -> Option<Term> {
        self.leads.term(stack)
    }

    fn leader(&self, stack: &StackId) -> Leader {
        self.leads.leader(stack)
    }

    async fn changed(&self, stack: &StackId, from: Option<Term>) -> Option<Term> {
        self.leads.changed(stack, from).await
    }
}

/// One process and the lease of one stack.
struct Contender {
    store: Arc<RedisStore>,
    pod: PodId,
    stack: StackId,
    leads: Arc<Leads>,
    held: Option<Held>,
    began: Instant,
    /// Since when nobody has it, as far as was seen.
    free: Option<Instant>,
}

/// Who has a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    This,
    Another,
    Nobody,
}

/// A lease that is held.
struct Held {
    /// The term belongs to it.
    epoch: Epoch,
    /// When it was asked for the last time that it was given.
    renewed: Instant,
}

impl Contender {
    async fn run(mut self) {
        loop {
            let asked = Instant::now();
            let until = self.held.as_ref().map_or(asked + LEASE, |held| held.renewed + TRUSTED);
            let answer = timeout_at(until, self.lease()).await;
            let holder = answer.as_ref().ok().and_then(|answer| answer.as_ref().ok());
            let holder = holder.map(|(_, holder)| *holder);
            let other = match holder {
                Some(Holder::Another) => Leader::Another(None),
                Some(Holder::This | Holder::Nobody) | None => Leader::Unknown,
            };
            self.free = match holder {
                Some(Holder::Nobody) => Some(self.free.unwrap_or(asked)),
                Some(Holder::This | Holder::Another) | None => None,
            };
            self.leads.seen(&self.stack, Known { other, unconfirmed: false });
            let kept = match answer {
                Ok(Ok((epoch, Holder::This))) => self.lead(epoch, asked).await,
                Ok(Ok((_, Holder::Another))) => {
                    self.step_down("another process has the lease");
                    false
                }
                Ok(Ok((_, Holder::Nobody))) => false,
                Ok(Err(Away)) | Err(_) => false,
            };
            if self.held.as_ref().is_some_and(|held| held.renewed.elapsed() >= TRUSTED) {
                self.step_down("the lease could not be renewed");
            }
            let pause = if kept { RENEW } else { TRY };
            // Those that wait do not ask all at once.
            let part = u32::try_from(self.store.nonce().0 % 64).unwrap_or_default();
            sleep(pause - pause * part / 256).await;
        }
    }

    /// It has the lease. A term is drawn for a new one, and anew when the store's memory is another.
    async fn lead(&mut self, epoch: Epoch, asked: Instant) -> bool {
        if let Some(held) = &mut self.held
            && held.epoch == epoch
        {
            held.renewed = asked;
            return true;
        }
        match self.store.lead(&self.stack).await {
            Ok(term) if asked.elapsed() < TRUSTED => {
                self.held = Some(Held { epoch, renewed: asked });
                self.leads.set(&self.stack, Some(term));
                true
            }
            // The lease may be over by now: it is asked for again.
            Ok(_) | Err(Away) => false,
        }
    }

    fn step_down(&mut self, why: &str) {
        if self.held.take().is_some() {
            tracing::warn!(stack = %self.stack, why, "no longer leading");
            self.leads.set(&self.stack, None);
        }
    }

    /// Whether it may take a lease that nobody has. After a leader's death whoever has heard the stacks
    /// for long goes first, since it knows what was not applied any more.
    fn may_take(&self) -> bool {
        self.held.is_some()
            || self.began.elapsed() >= YOUNG
            || self.free.is_some_and(|since| since.elapsed() >= DEFERENCE)
    }

    /// Takes the lease or keeps it.
    async fn lease(&self) -> Result<(Epoch, Holder), Away> {
        let keys = [self.store.keys().lease(&self.stack), self.store.keys().epoch()];
        let (_, answer) = self
            .store
            .answer_of_epoch(Partition::of(&TenantId::default()), |live| {
                let mut lease = Script::Lease.over(live);
                lease.arg(keys.len()).arg(&keys).arg(&*live.run_id);
                lease.arg(self.pod.as_str()).arg(milliseconds(LEASE));
                lease.arg(u8::from(self.may_take()));
                one(lease)
            })
            .await?;
        let (epoch, holder) = wire::in_epoch(answer).map_err(|error| away(&error))?;
        let holder = match holder {
            1 => Holder::This,
            2 => Holder::Nobody,
            _ => Holder::Another,
        };
        Ok((epoch, holder))
    }
}
