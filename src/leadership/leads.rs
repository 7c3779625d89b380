//! What a process that contends knows of its leads.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use super::{Leader, Leadership};
use crate::core::ids::{StackId, Term};

/// The term of each stack, while it leads there. Whoever contends writes it.
#[derive(Debug)]
pub struct Leads {
    terms: BTreeMap<StackId, watch::Sender<Option<Term>>>,
    known: Mutex<BTreeMap<StackId, Known>>,
}

/// What was seen last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Who leads, should this process not.
    pub other: Leader,
    /// This process leads by the store's word alone.
    pub unconfirmed: bool,
}

impl Leads {
    /// None yet, at these stacks.
    #[must_use]
    pub fn of(stacks: &[StackId]) -> Self {
        let terms = stacks.iter().map(|stack| (stack.clone(), watch::Sender::new(None)));
        Self { terms: terms.collect(), known: Mutex::default() }
    }

    /// At which stacks.
    pub fn stacks(&self) -> impl Iterator<Item = &StackId> {
        self.terms.keys()
    }

    /// It leads in this term from now on, or no more.
    pub fn set(&self, stack: &StackId, term: Option<Term>) {
        if let Some(lead) = self.terms.get(stack) {
            lead.send_if_modified(|now| std::mem::replace(now, term) != term);
        }
    }

    /// So it was seen who leads there.
    pub fn seen(&self, stack: &StackId, seen: Known) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(stack.clone(), seen);
    }
}

impl Leadership for Leads {
    fn term(&self, stack: &StackId) -> Option<Term> {
        self.terms.get(stack).and_then(|term| *term.borrow())
    }

    fn leader(&self, stack: &StackId) -> Leader {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match (self.term(stack), known.get(stack)) {
            (Some(term), Some(Known { unconfirmed: true, .. })) => Leader::Unconfirmed(term),
            (Some(term), _) => Leader::This(term),
            (None, Some(known)) => known.other.clone(),
            (None, None) => Leader::Unknown,
        }
    }

    async fn changed(&self, stack: &StackId, from: Option<Term>) -> Option<Term> {
        let Some(term) = self.terms.get(stack) else { return std::future::pending().await };
        let mut term = term.subscribe();
        let changed = term.wait_for(|term| *term != from).await.map(|term| *term);
        match changed {
            Ok(term) => term,
            Err(_) => std::future::pending().await,
        }
    }
}
