//! What an API server says of a Lease to whoever only looks at it.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease as Object;
use k8s_openapi::jiff::Timestamp;
use kube::Error;
use kube::api::Api;
use tokio::time::timeout;

use super::access::NoAccess;
use super::{Settings, object};
use crate::core::ids::StackId;
use crate::core::shown::in_line;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// A Lease, as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Who has it; nobody: it was given back.
    pub holder: Option<String>,
    /// How often it has changed hands.
    pub transitions: u32,
    /// How long ago it was renewed, by its holder's clock and ours.
    pub renewed: Option<Duration>,
}

/// A Lease's name, and how it stands: `None` where there is none; or why that can't be said.
pub type Look = (String, Result<Option<Seen>, String>);

/// Looks at every Lease of these settings; writes nothing.
///
/// # Errors
/// [`NoAccess`] when the API server can't be asked at all.
pub async fn look(settings: &Settings, stacks: &[StackId]) -> Result<Vec<Look>, NoAccess> {
    let (access, namespace) = settings.way()?;
    let client = access.client(&namespace, PATIENCE)?;
    let mut looks = Vec::new();
    for (name, _) in settings.leases(stacks) {
        let api: Api<Object> = Api::namespaced(client.clone(), &namespace);
        let found = match timeout(PATIENCE, api.get_opt(&name)).await {
            Ok(Ok(found)) => Ok(found.map(|lease| seen(&lease))),
            // The server's own words name the account and what it may not do.
            Ok(Err(Error::Api(status))) => Err(in_line(&status.message)),
            Ok(Err(error)) => Err(in_line(&with_causes(&error))),
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        };
        looks.push((name, found));
    }
    Ok(looks)
}

fn seen(lease: &Object) -> Seen {
    let renewed = lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref()).map(|at| at.0);
    let since = renewed.map(|at| Timestamp::now().duration_since(at).unsigned_abs());
    let lease = object::seen(lease);
    let holder = lease.holder.as_deref().map(in_line);
    Seen { holder, transitions: lease.transitions, renewed: since }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(why) = cause {
        let why_text = why.to_string();
        if !text.contains(&why_text) {
            text.push_str(": ");
            text.push_str(&why_text);
        }
        cause = why.source();
    }
    text
}
