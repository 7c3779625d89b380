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

/// A watch that ended sooner than this did not last.
const SHORT: Duration = Duration::from_secs(1);

/// Until a watch that failed or did not last is begun again; doubled each time.
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

    /// A watch may be late: what is older than what is known would cost the labels that others have
    /// written.
    fn remember(&self, object: Object) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let version = object::seen(&object).version;
        if !known.as_ref().is_some_and(|known| version.is_before(&object::seen(known).version)) {
            *known = Some(object);
        }
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
        if matches!(kind, Kind::Unauthorized | Kind::Unreachable | Kind::Late) {
            self.begin_anew();
        }
        // One that has only just started does not know the roles yet.
        if self.failed.fetch_add(1, Ordering::Relaxed) + 1 == FAILED {
            let (lease, namespace, kind) = (&self.name, &self.namespace, kind.as_str());
            tracing::warn!(verb, lease, namespace, kind, why, "the API server {advice}");
        }
    }

    /// The token may have run out, and the certificates may be others by now.
    fn begin_anew(&self) {
        match self.access.client(&self.namespace) {
            Ok(client) => {
                *self.client.lock().unwrap_or_else(PoisonError::into_inner) = client;
            }
            Err(error) => tracing::warn!(%error, "the API server"),
        }
    }

    async fn read(&self) -> Answer {
        let api = self.api();
        match self.counted("get", api.get(&self.name)).await {
            Ok(object) => {
                let lease = object::seen(&object);
                self.remember(object);
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
                self.remember(object);
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
            let began = Instant::now();
            let watched = self.watch_once(&sights).await;
            if watched.is_err() {
                let _ = sights.send(Sight::Blind).await;
            }
            if sights.is_closed() {
                return;
            }
            if began.elapsed() >= SHORT {
                again = AGAIN;
                if watched.is_ok() {
                    continue;
                }
            }
            // Whoever ends each watch as soon as it has shown what is there is not asked without a pause.
            tokio::time::sleep(again).await;
            again = (again * 2).min(AGAIN_AT_MOST);
        }
    }

    /// One watch, to its end.
    async fn watch_once(&self, sights: &Sender<Sight>) -> Result<(), Kind> {
        let api = self.api();
        let only = WatchParams::default().fields(&format!("metadata.name={}", self.name));
        let only = only.timeout(WATCH);
        // From `0`: what is there now is told first.
        let stream = self.counted("watch", api.watch(&only, "0")).await?;
        let mut stream = std::pin::pin!(stream.map_err(|error| Kind::of(&error)).boxed());
        while let Ok(next) = timeout(SILENCE, stream.try_next()).await {
            let lease = match next? {
                None => break,
                Some(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                    let lease = object::seen(&object);
                    self.remember(object);
                    Some(lease)
                }
                Some(WatchEvent::Deleted(_)) => None,
                Some(WatchEvent::Bookmark(_)) => continue,
                Some(WatchEvent::Error(status)) => {
                    return Err(Kind::of(&Error::Api(status)));
                }
            };
            if sights.send(Sight::Seen(lease)).await.is_err() {
                break;
            }
        }
        Ok(())
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
    use std::path::Path;

    use axum::Router;
    use axum::http::StatusCode;
    use axum::response::IntoResponse as _;

    use super::*;

    struct Uncounted;

    impl Meter for Uncounted {
        fn asked(&self, _verb: &'static str, _result: &'static str, _took: Duration) {}
        fn unconfirmed(&self, _unconfirmed: bool) {}
    }

    /// An API server that always answers this, and how often it was asked.
    async fn server(status: StatusCode, text: &'static str) -> (String, Arc<AtomicU32>) {
        let asked = Arc::new(AtomicU32::new(0));
        let counts = Arc::clone(&asked);
        let answer = move || {
            counts.fetch_add(1, Ordering::Relaxed);
            async move { (status, text).into_response() }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("http://{}", listener.local_addr().unwrap());
        let routes = Router::new().fallback(answer);
        tokio::spawn(async move { axum::serve(listener, routes).await });
        (at, asked)
    }

    /// With an account of its own in `folder`.
    fn lease_at(server: String, folder: &Path) -> LeaseApi {
        let ca = rcgen::generate_simple_self_signed(["server".to_owned()]).unwrap().cert.pem();
        std::fs::write(folder.join("ca.crt"), ca).unwrap();
        std::fs::write(folder.join("token"), "token").unwrap();
        let access = Access { server, account: folder.to_owned() };
        let client = Mutex::new(access.client("here").unwrap());
        LeaseApi {
            access,
            namespace: "here".to_owned(),
            name: "lease".to_owned(),
            lasts: Duration::from_secs(4),
            meter: Arc::new(Uncounted),
            client,
            failed: AtomicU32::new(0),
            known: Mutex::default(),
        }
    }

    #[tokio::test]
    async fn a_watch_that_ends_as_soon_as_it_has_shown_something_is_not_begun_again_at_once() {
        let shown = concat!(
            r#"{"type":"ADDED","object":{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","#,
            r#""metadata":{"name":"lease","uid":"u","resourceVersion":"7"}}}"#,
            "\n"
        );
        let (at, asked) = server(StatusCode::OK, shown).await;
        let folder = tempfile::tempdir().unwrap();
        let api = lease_at(at, folder.path());
        let (sender, mut sights) = tokio::sync::mpsc::channel(1);
        let see = async {
            let mut seen = 0;
            while let Some(sight) = sights.recv().await {
                assert!(matches!(sight, Sight::Seen(Some(_))), "{sight:?}");
                seen += 1;
                if seen == 3 {
                    return;
                }
            }
        };
        let began = Instant::now();
        tokio::select! {
            () = api.watch(sender) => {}
            seen = timeout(Duration::from_secs(20), see) => seen.unwrap(),
        }
        assert!(began.elapsed() >= AGAIN * 3, "three watches within {:?}", began.elapsed());
        assert_eq!(asked.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn what_goes_on_is_said_once_with_its_kind() {
        for (status, words, kind) in [
            (StatusCode::UNAUTHORIZED, "the API server refuses", "unauthorized"),
            (StatusCode::INTERNAL_SERVER_ERROR, "the API server does not answer", "server_error"),
        ] {
            let (at, asked) = server(status, "no").await;
            let folder = tempfile::tempdir().unwrap();
            let api = lease_at(at, folder.path());
            let log = Log::default();
            let to = log.clone();
            let writer = tracing_subscriber::fmt().with_writer(move || to.clone()).finish();
            let kept = tracing::subscriber::set_default(writer);
            for _ in 0..2 * FAILED {
                assert_eq!(api.ask(Ask::Read).await, Answer::Failed);
            }
            drop(kept);
            assert_eq!(asked.load(Ordering::Relaxed), 2 * FAILED);
            let said = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
            assert_eq!(said.matches(words).count(), 1, "{said}");
            assert!(said.contains(kind), "{said}");
        }
    }

    #[tokio::test]
    async fn what_others_wrote_is_not_forgotten_for_a_watch_that_is_late() {
        let folder = tempfile::tempdir().unwrap();
        let api = lease_at("http://127.0.0.1:9".to_owned(), folder.path());
        let object = |uid: &str, revision: &str| {
            let mut object = Object::default();
            object.metadata.uid = Some(uid.to_owned());
            object.metadata.resource_version = Some(revision.to_owned());
            object
        };
        let known = || {
            let known = api.known.lock().unwrap().clone();
            known.map(|known| object::seen(&known).version.revision)
        };
        api.remember(object("u", "10"));
        api.remember(object("u", "9"));
        assert_eq!(known().as_deref(), Some("10"));
        api.remember(object("u", "11"));
        assert_eq!(known().as_deref(), Some("11"));
        api.remember(object("another", "3"));
        assert_eq!(known().as_deref(), Some("3"));
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(line)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

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
