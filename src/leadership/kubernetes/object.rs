//! A Lease as the API server writes it, and as the election sees it.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease as Object, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;

use crate::leadership::election::{Draft, Lease, Version};

/// What matters of it. Anybody may have written anything.
pub(super) fn seen(object: &Object) -> Lease {
    let spec = object.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.and_then(|n| u64::try_from(n).ok());
    Lease {
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        lasts: Duration::from_secs(seconds.unwrap_or_default()),
        transitions: spec.lease_transitions.and_then(|n| u32::try_from(n).ok()).unwrap_or_default(),
        version: Version {
            uid: object.metadata.uid.clone().unwrap_or_default(),
            revision: object.metadata.resource_version.clone().unwrap_or_default(),
        },
    }
}

/// What is to be written over `known`, whose labels and notes stay.
pub(super) fn written(
    name: &str,
    known: Option<Object>,
    draft: &Draft,
    lasts: Duration,
    now: Timestamp,
) -> Object {
    let same = known.filter(|known| Some(&seen(known).version) == draft.over.as_ref());
    let mut object = same.unwrap_or_default();
    object.metadata.name = Some(name.to_owned());
    object.metadata.uid = draft.over.as_ref().map(|over| over.uid.clone());
    object.metadata.resource_version = draft.over.as_ref().map(|over| over.revision.clone());
    object.metadata.managed_fields = None;
    let before = object.spec.take().unwrap_or_default();
    let acquired = if draft.taken { Some(MicroTime(now)) } else { before.acquire_time };
    // One that is given back is free at once, also for those who go by the time written in it.
    let lasts = if draft.holder.is_some() { lasts } else { Duration::from_secs(1) };
    object.spec = Some(LeaseSpec {
        holder_identity: Some(draft.holder.clone().unwrap_or_default()),
        lease_duration_seconds: i32::try_from(lasts.as_secs()).ok(),
        acquire_time: acquired,
        renew_time: Some(MicroTime(now)),
        lease_transitions: i32::try_from(draft.transitions).ok(),
        ..LeaseSpec::default()
    });
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(over: Option<Version>) -> Draft {
        Draft { holder: Some("me".to_owned()), transitions: 3, taken: false, over }
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_700_000_000).unwrap()
    }

    #[test]
    fn what_is_written_is_seen() {
        let version = Version { uid: "u".to_owned(), revision: "7".to_owned() };
        let object =
            written("name", None, &draft(Some(version.clone())), Duration::from_secs(4), now());
        let lease = seen(&object);
        assert_eq!(lease.holder.as_deref(), Some("me"));
        assert_eq!(lease.lasts, Duration::from_secs(4));
        assert_eq!((lease.transitions, lease.version), (3, version));
    }

    #[test]
    fn what_others_wrote_beside_it_stays() {
        let mut known = written("name", None, &draft(None), Duration::from_secs(4), now());
        known.metadata.labels = Some([("team".to_owned(), "voice".to_owned())].into());
        known.metadata.uid = Some("u".to_owned());
        known.metadata.resource_version = Some("7".to_owned());
        let over = seen(&known).version;
        let later = Timestamp::from_second(1_700_000_009).unwrap();
        let object =
            written("name", Some(known.clone()), &draft(Some(over)), Duration::from_secs(4), later);
        assert_eq!(object.metadata.labels, known.metadata.labels);
        let spec = object.spec.unwrap();
        assert_eq!(spec.acquire_time, None, "it was not taken");
        assert_eq!(spec.renew_time, Some(MicroTime(later)));
    }

    #[test]
    fn anything_that_a_hand_may_have_written_can_be_read() {
        let spec = LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(-5),
            lease_transitions: Some(-1),
            ..LeaseSpec::default()
        };
        for object in [Object::default(), Object { spec: Some(spec), ..Object::default() }] {
            let lease = seen(&object);
            assert_eq!((lease.holder, lease.lasts, lease.transitions), (None, Duration::ZERO, 0));
        }
    }
}
