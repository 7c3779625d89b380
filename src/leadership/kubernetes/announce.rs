//! Tells operators in Kubernetes' own Events who leads: `kubectl get events` shows takeovers.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::time::timeout;

use super::api::LeaseApi;
use crate::core::ids::{StackId, Term};
use crate::leadership::{Leadership as _, Leads};

/// It is only news: nobody waits longer for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tells each takeover of a Lease, by its first stack: whoever has it leads them all. A term that follows
/// upon one of our own, since the store has forgotten it, is none. Never ends.
pub(super) async fn takeovers(
    api: Arc<LeaseApi>,
    leads: Arc<Leads>,
    stacks: Vec<StackId>,
    pod: String,
) {
    let Some(stack) = stacks.first() else { return };
    let mut term = None;
    loop {
        let before = term;
        term = leads.changed(stack, term).await;
        if let (None, Some(term)) = (before, term) {
            tell(&api, &pod, term).await;
        }
    }
}

async fn tell(api: &LeaseApi, pod: &str, term: Term) {
    let now = Timestamp::now();
    let event = Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:x}", api.name, now.as_nanosecond())),
            namespace: Some(api.namespace.clone()),
            ..ObjectMeta::default()
        },
        action: Some("Lead".to_owned()),
        event_time: Some(MicroTime(now)),
        reason: Some("LeaderElected".to_owned()),
        note: Some(format!("{pod} leads the SIP stacks' events, in term {}", term.0)),
        regarding: Some(ObjectReference {
            api_version: Some("coordination.k8s.io/v1".to_owned()),
            kind: Some("Lease".to_owned()),
            name: Some(api.name.clone()),
            namespace: Some(api.namespace.clone()),
            // `kubectl describe` looks by it.
            uid: api.uid(),
            ..ObjectReference::default()
        }),
        reporting_controller: Some("callplane".to_owned()),
        reporting_instance: Some(pod.to_owned()),
        type_: Some("Normal".to_owned()),
        ..Event::default()
    };
    let events: Api<Event> = Api::namespaced(api.client(), &api.namespace);
    let how = PostParams::default();
    match timeout(PATIENCE, events.create(&how, &event)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(%error, "the takeover is not told in an Event"),
        Err(_) => tracing::debug!("the takeover is not told in an Event: no answer"),
    }
}
