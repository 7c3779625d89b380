//! Who owns the stacks' event subscriptions.

use std::future::Future;

use crate::core::ids::{StackId, Term};

/// Elects the process that owns a stack's event subscription.
pub trait Leadership: Send + Sync + 'static {
    /// The term in which this process leads now; `None`: it does not.
    fn term(&self, stack: &StackId) -> Option<Term>;

    /// Waits until [`Leadership::term`] may have changed since it was last read.
    fn changed(&self, stack: &StackId) -> impl Future<Output = ()> + Send;
}

/// A process that is alone: always the leader, in term 1.
#[derive(Debug, Clone, Copy, Default)]
pub struct Standalone;

impl Leadership for Standalone {
    fn term(&self, _stack: &StackId) -> Option<Term> {
        Some(Term(1))
    }

    async fn changed(&self, _stack: &StackId) {
        std::future::pending().await
    }
}
