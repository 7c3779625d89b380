//! Work that is carried to its end though whoever asked for it has gone.
//!
//! A client that closes its socket drops what it asked. A commit may be in the store by then, with
//! an operation that only this process performs: dropped with it, nobody would, and the command
//! would end unknown.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::Host;

/// Begins when it is polled, in the order of its asker's polls; what is left of it when it is
/// dropped goes on by itself.
pub struct Carried<T: Send + 'static> {
    host: Arc<dyn Host>,
    /// None once it is done.
    work: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
}

impl<T: Send + 'static> Carried<T> {
    pub(super) fn new(
        host: &Arc<dyn Host>,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Self {
        Self { host: Arc::clone(host), work: Some(Box::pin(work)) }
    }
}

impl<T: Send + 'static> Future for Carried<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let Some(work) = self.work.as_mut() else { return Poll::Pending };
        let polled = work.as_mut().poll(context);
        if polled.is_ready() {
            self.work = None;
        }
        polled
    }
}

impl<T: Send + 'static> Drop for Carried<T> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            self.host.spawn(Box::pin(async move { drop(work.await) }));
        }
    }
}
