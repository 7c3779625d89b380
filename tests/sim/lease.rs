//! Who leads: a lease for each stack in the store, taken and kept as the product's lease in Redis is.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use callplane::core::ids::{Epoch, StackId, Term};
use callplane::leadership::Leadership;
use callplane::store::Store as _;
use futures_util::future::{Either, select};

use super::executor::Executor;
use super::store::Client;

/// How long a lease holds.
pub const LEASE: Duration = Duration::from_secs(3);

/// Without a renewal for this long a leader gives its lead up.
const TRUSTED: Duration = Duration::from_millis(2_500);

/// How often a leader renews.
const RENEW: Duration = Duration::from_millis(700);

/// How often the others try; half as often as in the product, for speed.
const TRY: Duration = Duration::from_millis(500);

/// What one process knows of its leads.
#[derive(Default)]
pub struct Leading {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    leads: Vec<Lead>,
}

/// One stack's.
struct Lead {
    stack: StackId,
    term: Option<Term>,
    waker: Option<Waker>,
}

impl State {
    fn of(&mut self, stack: &StackId) -> &mut Lead {
        let at = self.leads.iter().position(|lead| lead.stack == *stack);
        let at = at.unwrap_or_else(|| {
            self.leads.push(Lead { stack: stack.clone(), term: None, waker: None });
            self.leads.len() - 1
        });
        &mut self.leads[at]
    }
}

impl Leading {
    fn set(&self, stack: &StackId, term: Option<Term>) {
        let mut state = self.state.lock().unwrap();
        let lead = state.of(stack);
        let before = std::mem::replace(&mut lead.term, term);
        let waker = if before == term { None } else { lead.waker.take() };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Leadership for Leading {
    fn term(&self, stack: &StackId) -> Option<Term> {
        self.state.lock().unwrap().of(stack).term
    }

    async fn changed(&self, stack: &StackId, from: Option<Term>) -> Option<Term> {
        std::future::poll_fn(|context| {
            let mut state = self.state.lock().unwrap();
            let lead = state.of(stack);
            if lead.term != from {
                return Poll::Ready(lead.term);
            }
            match &mut lead.waker {
                Some(waker) => waker.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            }
            Poll::Pending
        })
        .await
    }
}

/// One process and the lease of one stack.
pub struct Contender {
    pub executor: Executor,
    pub store: Client,
    pub leading: Arc<Leading>,
    pub stack: StackId,
    /// The life of the process.
    pub holder: u64,
    pub held: Option<Held>,
}

/// A lease that is held.
pub struct Held {
    epoch: Epoch,
    renewed: Duration,
}

impl Contender {
    /// Contends; never ends.
    pub async fn run(mut self) {
        loop {
            let asked = self.executor.now();
            let until = self.held.as_ref().map_or(asked + LEASE, |held| held.renewed + TRUSTED);
            let left = until.saturating_sub(asked);
            let answer = {
                let lease = pin!(self.store.lease(&self.stack, self.holder));
                match select(lease, self.executor.sleep(left)).await {
                    Either::Left((answer, _)) => answer.ok(),
                    Either::Right(((), _)) => None,
                }
            };
            let kept = match answer {
                Some((epoch, true)) => self.lead(epoch, asked).await,
                Some((_, false)) => {
                    self.step_down();
                    false
                }
                None => false,
            };
            let now = self.executor.now();
            if self.held.as_ref().is_some_and(|held| now - held.renewed >= TRUSTED) {
                self.step_down();
            }
            self.executor.sleep(if kept { RENEW } else { TRY }).await;
        }
    }

    async fn lead(&mut self, epoch: Epoch, asked: Duration) -> bool {
        if let Some(held) = &mut self.held
            && held.epoch == epoch
        {
            held.renewed = asked;
            return true;
        }
        match self.store.lead(&self.stack).await {
            Ok(term) if self.executor.now() - asked < TRUSTED => {
                self.held = Some(Held { epoch, renewed: asked });
                self.leading.set(&self.stack, Some(term));
                true
            }
            Ok(_) | Err(_) => false,
        }
    }

    fn step_down(&mut self) {
        if self.held.take().is_some() {
            self.leading.set(&self.stack, None);
        }
    }
}
