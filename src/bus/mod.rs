//! From a commit to the processes that hold the sockets.
//!
//! The bus hands committed entries to whoever listens: those of a tenant in order, without a gap,
//! each once, and only when they can be read from the store. (What a later version wrote may not be
//! readable here, and is left out.) What carries them between processes
//! may lose some (Redis pub/sub does); then the bus notices the gap by the positions and reads
//! the store, which is the truth. What can't be read any more is said to be skipped. A new epoch of the
//! store is a new stream.
//!
//! `tests/contract/bus.rs` states all that is promised here, for every implementation.

use std::sync::{Arc, Mutex, PoisonError};

use crate::core::ids::{Epoch, TenantId};
use crate::core::record::{Entry, Position};

/// Takes committed entries in stream order. Called by the bus; must never block.
pub trait Listener: Send + Sync + 'static {
    /// Entries of one tenant, in order, without a gap between them or to the call before, but for
    /// those that this version can't read.
    fn entries(&self, tenant: &TenantId, epoch: &Epoch, entries: &[Arc<Entry>]);

    /// The tenant's stream goes on behind this position. What stood before it and was not told will
    /// not be: this process was cut off for longer than entries are kept, or the store began
    /// another epoch.
    fn skipped(&self, tenant: &TenantId, to: &Position);
}

/// Carries committed entries.
pub trait Bus: Send + Sync + 'static {
    /// Everything committed from now on goes to this listener as well, and nothing from before.
    fn attach(&self, listener: Arc<dyn Listener>);
}

/// The bus of a process that is alone: hands entries over inside the commit.
#[derive(Default)]
pub struct MemoryBus {
    listeners: Mutex<Vec<Arc<dyn Listener>>>,
}

/// The store tells it, in commit order; it tells everybody.
impl Listener for MemoryBus {
    fn entries(&self, tenant: &TenantId, epoch: &Epoch, entries: &[Arc<Entry>]) {
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        for listener in listeners.iter() {
            listener.entries(tenant, epoch, entries);
        }
    }

    fn skipped(&self, tenant: &TenantId, to: &Position) {
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        for listener in listeners.iter() {
            listener.skipped(tenant, to);
        }
    }
}

impl Bus for MemoryBus {
    fn attach(&self, listener: Arc<dyn Listener>) {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(listener);
    }
}
