//! Who owns the stacks' event subscriptions.
//!
//! `election` has the rules for a Lease, `contest` follows them for one process, `kubernetes` knows how
//! an API server is asked. The lease in Redis belongs to the store (`store/redis/leadership.rs`).

pub mod contest;
pub mod election;
pub mod kubernetes;
mod leads;

use std::future::Future;

pub use self::leads::{Known, Leads};

use crate::core::ids::{StackId, Term};

/// Elects the process that owns a stack's event subscription, each stack by itself.
///
/// Two processes never lead a stack in one term, and a later leader's term is higher. A process that
/// was paused may believe a moment longer that it leads; the store fences its term.
///
/// `tests/contract/leadership.rs` states this, for every implementation.
pub trait Leadership: Send + Sync + 'static {
    /// The term in which this process leads now; `None`: it does not. It stays the same as long as
    /// the process leads without interruption.
    fn term(&self, stack: &StackId) -> Option<Term>;

    /// Who leads now, as far as this process knows. For people: it may be late, and nothing is decided
    /// by it.
    fn leader(&self, stack: &StackId) -> Leader {
        self.term(stack).map_or(Leader::Unknown, Leader::This)
    }

    /// What has long kept this process from asking whoever elects, in that one's own words. For people.
    fn trouble(&self, _stack: &StackId) -> Option<String> {
        None
    }

    /// Waits until [`Leadership::term`] is another one than `from`, and tells it. What changed
    /// before it was asked counts, so that nothing is missed between two waits.
    fn changed(
        &self,
        stack: &StackId,
        from: Option<Term>,
    ) -> impl Future<Output = Option<Term>> + Send;
}

/// Who leads a stack's events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leader {
    /// This process, in this term.
    This(Term),
    /// This process, by the store's word alone: whoever elects says nothing.
    Unconfirmed(Term),
    /// Another process; its name, where the election tells it.
    Another(Option<String>),
    /// Nobody that this process knows of.
    Unknown,
}

/// A process that is alone: always the leader, in term 1.
#[derive(Debug, Clone, Copy, Default)]
pub struct Standalone;

impl Leadership for Standalone {
    fn term(&self, _stack: &StackId) -> Option<Term> {
        Some(Term(1))
    }

    async fn changed(&self, stack: &StackId, from: Option<Term>) -> Option<Term> {
        let term = self.term(stack);
        if term == from { std::future::pending().await } else { term }
    }
}
