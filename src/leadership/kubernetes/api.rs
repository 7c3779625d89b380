//! One Lease at an API server: asked, and watched.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::coordination::v1::Lease as Object;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams, WatchEvent, WatchParams};
use kube::{Client, Error};
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, timeout};

use super::access::Access;
use super::object;
use crate::leadership::contest::{Leases, Meter, Sight};
use crate::leadership::election::{Answer, Ask, Draft};

/// How long an answer is waited for. An API server in trouble may take ten seconds, and what it does
/// then counts.
const PATIENCE: Duration = Duration::from_secs(12);

/// Whoever holds the Lease writes it each second: a watch that shows nothing for this long may be cut
/// off without a word, and is begun again.
const SILENCE: Duration = Duration::from_secs(30);

/// How long one watch lasts, in seconds, as the API server is told.
const WATCH: u32 = 290;

/// So many failures in a row are said to whoever has to put them right.
const FAILED: u32 = 5;

/// Until a watch that failed is begun again; doubled each time.
const AGAIN: Duration = Duration::from_millis(250);
const AGAIN_AT_MOST: Duration = Duration::from_secs(4);

/// One Lease.
pub(super) struct LeaseApi {
    pub access: Access,
    pub namespace: String,
    pub name: String,
    pub lasts: Duration,
    pub meter: Arc<dyn Meter>,
    pub client: Mutex<Client>,
    /// How often in a row there was no answer, or a refusal.
    pub failed: AtomicU32,
    /// As it was seen last, with all that others have written in it.
    pub known: Mutex<Option<Object>>,
}

/// What kind of answer it was: a label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ok,
    Absent,
    Lost,
    Unauthorized,
    Forbidden,
    Throttled,
    Refused,
    Broken,
    Unreachable,
    Late,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Absent => "absent",
            Self::Lost => "conflict",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Throttled => "throttled",
            Self::Refused => "refused",
            Self::Broken => "server_error",
            Self::Unreachable => "unreachable",
            Self::Late => "timeout",
        }
    }

    /// What an operator has to put right, if it goes on.
    fn advice(self) -> Option<&'static str> {
        match self {
            Self::Ok | Self::Absent | Self::Lost => None,
            Self::Unauthorized | Self::Forbidden | Self::Refused => {
                Some("refuses: may this service account get, create, update and watch the Lease?")
            }
            Self::Throttled | Self::Broken | Self::Unreachable | Self::Late => Some(
                "does not answer: nobody new can lead until it does (NetworkPolicy, firewall, \
                 `kubernetes.server`)",
            ),
        }
    }

    fn of(error: &Error) -> Self {
        match error {
            Error::Api(status) => match status.code {
                401 => Self::Unauthorized,
                403 => Self::Forbidden,
                404 => Self::Absent,
                // 422 where it was made by somebody else meanwhile, or is gone (measured, Kubernetes 1.36).
                409 | 422 => Self::Lost,
                429 => Self::Throttled,
                code if code < 500 => Self::Refused,
                _ => Self::Broken,
            },
            _ => Self::Unreachable,
        }
    }
}

/// What is at the bottom of it: those above say only that something was.
fn cause(error: &Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

impl LeaseApi {
    fn api(&self) -> Api<Object> {
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Api::namespaced(client, &self.namespace)
    }

    fn remember(&self, object: Option<Object>) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = object;
    }

    /// Counts an answer, and says once what an operator has to put right.
    async fn counted<T>(
        &self,
        verb: &'static str,
        asked: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Kind> {
        let began = Instant::now();
        let (answer, kind, why) = match timeout(PATIENCE, asked).await {
            Ok(Ok(answer)) => (Ok(answer), Kind::Ok, String::new()),
            Ok(Err(error)) => {
                let kind = Kind::of(&error);
                tracing::debug!(verb, kind = kind.as_str(), %error, "the API server");
                (Err(kind), kind, cause(&error))
            }
            Err(_) => (Err(Kind::Late), Kind::Late, format!("no answer within {PATIENCE:?}")),
        };
        self.meter.asked(verb, kind.as_str(), began.elapsed());
        self.judge(verb, kind, &why);
        answer
    }

    fn judge(&self, verb: &'static str, kind: Kind, why: &str) {
        let Some(advice) = kind.advice() else {
            self.failed.store(0, Ordering::Relaxed);
            return;
        };
        if matches!(kind, Kind::Unauthorized | Kind::Unreachable) {
            // The token may have run out, and the certificates may be others by now.
            match self.access.client(&self.namespace) {
                Ok(client) => {
                    *self.client.lock().unwrap_or_else(PoisonError::into_inner) = client;
                }
                Err(error) => tracing::warn!(%error, "the API server"),
            }
        }
        // One that has only just started does not know the roles yet.
        if self.failed.fetch_add(1, Ordering::Relaxed) + 1 == FAILED {
            let (lease, namespace, kind) = (&self.name, &self.namespace, kind.as_str());
            tracing::warn!(verb, lease, namespace, kind, why, "the API server {advice}");
        }
    }

    async fn read(&self) -> Answer {
        let api = self.api();
        match self.counted("get", api.get(&self.name)).await {
            Ok(object) => {
                let lease = object::seen(&object);
                self.remember(Some(object));
                Answer::Read(Some(lease))
            }
            Err(Kind::Absent) => Answer::Read(None),
            Err(_) => Answer::Failed,
        }
    }

    async fn write(&self, draft: &Draft) -> Answer {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let object = object::written(&self.name, known, draft, self.lasts, Timestamp::now());
        let (api, how) = (self.api(), PostParams::default());
        // Also to create it: a role can name one object for an update only (measured).
        match self.counted("put", api.replace(&self.name, &how, &object)).await {
            Ok(object) => {
                let lease = object::seen(&object);
                self.remember(Some(object));
                Answer::Written(lease)
            }
            Err(Kind::Lost | Kind::Absent) => Answer::Lost,
            Err(_) => Answer::Failed,
        }
    }

    /// Watches until nobody wants to see any more.
    pub async fn watch(&self, sights: Sender<Sight>) {
        let mut again = AGAIN;
        loop {
            match self.watch_once(&sights).await {
                Ok(true) => again = AGAIN,
                // Nothing was there to see, or it ended at once.
                Ok(false) => tokio::time::sleep(AGAIN).await,
                Err(_) => {
                    let _ = sights.send(Sight::Blind).await;
                    tokio::time::sleep(again).await;
                    again = (again * 2).min(AGAIN_AT_MOST);
                }
            }
            if sights.is_closed() {
                return;
            }
        }
    }

    /// One watch, to its end. Says whether it showed anything.
    async fn watch_once(&self, sights: &Sender<Sight>) -> Result<bool, Kind> {
        let api = self.api();
        let only = WatchParams::default().fields(&format!("metadata.name={}", self.name));
        let only = only.timeout(WATCH);
        // From `0`: what is there now is told first.
        let stream = self.counted("watch", api.watch(&only, "0")).await?;
        let mut stream = std::pin::pin!(stream.map_err(|error| Kind::of(&error)).boxed());
        let mut showed = false;
        while let Ok(next) = timeout(SILENCE, stream.try_next()).await {
            let lease = match next? {
                None => break,
                Some(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                    let lease = object::seen(&object);
                    self.remember(Some(object));
                    Some(lease)
                }
                Some(WatchEvent::Deleted(_)) => None,
                Some(WatchEvent::Bookmark(_)) => continue,
                Some(WatchEvent::Error(status)) => {
                    return Err(Kind::of(&Error::Api(status)));
                }
            };
            showed = true;
            if sights.send(Sight::Seen(lease)).await.is_err() {
                break;
            }
        }
        Ok(showed)
    }
}

impl Leases for LeaseApi {
    async fn ask(&self, ask: Ask) -> Answer {
        match ask {
            Ask::Read => self.read().await,
            Ask::Write(draft) => self.write(&draft).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_wrong_is_told_with_its_cause_and_what_is_usual_is_not() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let error = Error::ReadEvents(std::io::Error::other(refused));
        assert_eq!(cause(&error), "connection refused");
        let advice = Kind::of(&error).advice().unwrap();
        assert!(advice.contains("does not answer"), "{advice}");
        assert!(Kind::Forbidden.advice().unwrap().contains("refuses"));
        assert_eq!([Kind::Ok, Kind::Absent, Kind::Lost].map(Kind::advice), [None; 3]);
    }
}
