//! Looking at one call.

use crate::core::act::{Act, Facts, Reply, Sighting};
use crate::core::ids::CallId;

/// A plain look at one call.
pub(crate) fn look_at(call: CallId) -> Act {
    Act::Look { call, referred_by: None, sent: None }
}

/// What a look saw, if it was one.
pub(crate) fn seen(reply: &Reply) -> Option<&Sighting> {
    match reply {
        Reply::Done(Facts::Looked(sighting)) | Reply::Missing { sighting, .. } => Some(sighting),
        Reply::Done(_) | Reply::Refused { .. } | Reply::NotSent(_) | Reply::Silent => None,
    }
}
