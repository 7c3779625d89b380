//! From a commit to the processes that hold the sockets.
//!
//! The bus carries committed entries with their positions, in order per tenant. It may lose
//! some (Redis pub/sub does); whoever listens notices a gap by the positions and reads the
//! store, which is the truth.

use std::sync::{Arc, Mutex, PoisonError};

use crate::core::ids::{Epoch, TenantId};
use crate::core::record::Entry;

/// Takes committed entries in stream order. Called by the bus; must never block.
pub trait Listener: Send + Sync + 'static {
    /// Entries of one tenant, in order, without a gap between them.
    fn entries(&self, tenant: &TenantId, epoch: &Epoch, entries: &[Arc<Entry>]);
}

/// Carries committed entries.
pub trait Bus: Send + Sync + 'static {
    /// Everything committed from now on goes to this listener as well.
    fn attach(&self, listener: Arc<dyn Listener>);
}

/// The bus of a process that is alone: hands entries over inside the commit.
#[derive(Default)]
pub struct MemoryBus {
    listeners: Mutex<Vec<Arc<dyn Listener>>>,
}

impl MemoryBus {
    /// Hands entries to every listener. The store calls it in commit order.
    pub fn publish(&self, tenant: &TenantId, epoch: &Epoch, entries: &[Arc<Entry>]) {
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        for listener in listeners.iter() {
            listener.entries(tenant, epoch, entries);
        }
    }
}

impl Bus for MemoryBus {
    fn attach(&self, listener: Arc<dyn Listener>) {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(listener);
    }
}
