//! What a process that contends knows of its leads.

use std::collections::BTreeMap;

use tokio::sync::watch;

use super::Leadership;
use crate::core::ids::{StackId, Term};

/// The term of each stack, while it leads there. Whoever contends writes it.
#[derive(Debug)]
pub struct Leads(BTreeMap<StackId, watch::Sender<Option<Term>>>);

impl Leads {
    /// None yet, at these stacks.
    #[must_use]
    pub fn of(stacks: &[StackId]) -> Self {
        Self(stacks.iter().map(|stack| (stack.clone(), watch::Sender::new(None))).collect())
    }

    /// At which stacks.
    pub fn stacks(&self) -> impl Iterator<Item = &StackId> {
        self.0.keys()
    }

    /// It leads in this term from now on, or no more.
    pub fn set(&self, stack: &StackId, term: Option<Term>) {
        if let Some(lead) = self.0.get(stack) {
            lead.send_if_modified(|now| std::mem::replace(now, term) != term);
        }
    }
}

impl Leadership for Leads {
    fn term(&self, stack: &StackId) -> Option<Term> {
        self.0.get(stack).and_then(|term| *term.borrow())
    }

    async fn changed(&self, stack: &StackId, from: Option<Term>) -> Option<Term> {
        let Some(term) = self.0.get(stack) else { return std::future::pending().await };
        let mut term = term.subscribe();
        let changed = term.wait_for(|term| *term != from).await.map(|term| *term);
        match changed {
            Ok(term) => term,
            Err(_) => std::future::pending().await,
        }
    }
}
