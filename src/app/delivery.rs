//! From the bus to the sockets of this process.

use std::sync::Arc;

use crate::bus::Listener;
use crate::client::feed::Feed;
use crate::core::ids::{Epoch, TenantId};
use crate::core::record::{Entry, Position};

/// Takes what the bus carries to the sockets of this process.
pub struct FeedListener(pub Arc<Feed>);

impl Listener for FeedListener {
    fn entries(&self, _tenant: &TenantId, epoch: &Epoch, entries: &[Arc<Entry>]) {
        self.0.deliver(epoch, entries);
    }

    fn skipped(&self, tenant: &TenantId, to: &Position) {
        self.0.skip(tenant, to);
    }
}
