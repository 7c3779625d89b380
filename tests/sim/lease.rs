//! Who leads: a lease for each stack, taken and kept over the network.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use callplane::core::ids::{StackId, Term};
use callplane::leadership::Leadership;

use super::executor::{Answer, Executor, WORLD};
use super::network::{Network, Place};

/// How long a lease holds.
const HOLDS: Duration = Duration::from_secs(3);

/// How often it is asked for.
const EVERY: Duration = Duration::from_millis(800);

/// Who holds what, on one clock.
#[derive(Default)]
pub struct Leases {
    held: Mutex<BTreeMap<StackId, Lease>>,
}

struct Lease {
    holder: u64,
    until: Duration,
    term: Term,
}

impl Leases {
    /// Takes or keeps a lease, for a process's life; the term, if it has it.
    fn ask(&self, stack: &StackId, life: u64, now: Duration) -> Option<Term> {
        let mut held = self.held.lock().unwrap();
        match held.get_mut(stack) {
            Some(lease) if lease.holder == life || lease.until <= now => {
                if lease.holder != life {
                    lease.holder = life;
                    lease.term = Term(lease.term.0 + 1);
                }
                lease.until = now + HOLDS;
                Some(lease.term)
            }
            Some(_) => None,
            None => {
                let lease = Lease { holder: life, until: now + HOLDS, term: Term(1) };
                held.insert(stack.clone(), lease);
                Some(Term(1))
            }
        }
    }

    /// Whoever holds it has lost it, and does not know.
    pub fn take_away(&self, stack: &StackId, now: Duration) {
        if let Some(lease) = self.held.lock().unwrap().get_mut(stack) {
            lease.holder = 0;
            lease.until = now;
        }
    }
}

/// What one process knows of its leases.
pub struct Leading {
    executor: Executor,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    terms: BTreeMap<StackId, (Term, Duration)>,
    wakers: BTreeMap<StackId, Waker>,
}

impl Leading {
    pub fn new(executor: Executor) -> Arc<Self> {
        Arc::new(Self { executor, state: Mutex::default() })
    }

    /// Asks again and again; never ends.
    pub async fn keep(
        self: Arc<Self>,
        leases: Arc<Leases>,
        network: Arc<Network>,
        pod: usize,
        life: u64,
        stack: StackId,
    ) {
        loop {
            let asked_at = self.executor.now();
            let answer = Answer::new();
            if let Some(wait) = network.send(Place::Pod(pod), Place::Lease).first {
                let (leases, network, executor) =
                    (Arc::clone(&leases), Arc::clone(&network), self.executor.clone());
                let (stack, answer) = (stack.clone(), answer.clone());
                self.executor.after(wait, WORLD, move || {
                    let term = leases.ask(&stack, life, executor.now());
                    if let Some(wait) = network.send(Place::Lease, Place::Pod(pod)).first {
                        executor.after(wait, WORLD, move || answer.give(term));
                    }
                });
            }
            let mut patience = self.executor.sleep(EVERY);
            let answered = std::future::poll_fn(|context| {
                if let Poll::Ready(term) = answer.poll_take(context) {
                    return Poll::Ready(Some(term));
                }
                std::pin::Pin::new(&mut patience).poll(context).map(|()| None)
            });
            match answered.await {
                Some(Some(term)) => {
                    self.set(&stack, Some((term, asked_at + HOLDS)));
                    patience.await;
                }
                Some(None) => {
                    self.set(&stack, None);
                    patience.await;
                }
                // It leads on as long as it knows that nobody else can.
                None => self.expire(&stack),
            }
        }
    }

    fn expire(&self, stack: &StackId) {
        let over = self.state.lock().unwrap().terms.get(stack).map(|(_, until)| *until);
        if over.is_some_and(|until| until <= self.executor.now()) {
            self.set(stack, None);
        }
    }

    fn set(&self, stack: &StackId, term: Option<(Term, Duration)>) {
        let mut state = self.state.lock().unwrap();
        let before = match term {
            Some(term) => state.terms.insert(stack.clone(), term),
            None => state.terms.remove(stack),
        };
        if before.map(|(term, _)| term) != term.map(|(term, _)| term) {
            let waker = state.wakers.remove(stack);
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

impl Leadership for Leading {
    fn term(&self, stack: &StackId) -> Option<Term> {
        self.state.lock().unwrap().terms.get(stack).map(|(term, _)| *term)
    }

    async fn changed(&self, stack: &StackId, from: Option<Term>) -> Option<Term> {
        std::future::poll_fn(|context| {
            let mut state = self.state.lock().unwrap();
            let term = state.terms.get(stack).map(|(term, _)| *term);
            if term != from {
                return Poll::Ready(term);
            }
            state.wakers.insert(stack.clone(), context.waker().clone());
            Poll::Pending
        })
        .await
    }
}
