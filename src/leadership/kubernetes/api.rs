//! One Lease at an API server: asked, and watched.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::TryStreamExt as _;
use k8s_openapi::api::coordination::v1::Lease as Object;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams, WatchEvent, WatchParams};
use kube::{Client, Error};
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, timeout};

use super::access::{Access, NoAccess};
use super::object;
use super::trouble::{Failure, Kind, Troubles, Verb};
use crate::leadership::contest::{Leases, Meter, Sight};
use crate::leadership::election::{Answer, Ask, Draft, Version};

/// How long an answer is waited for. An API server in trouble may take ten seconds, and what it does
/// then counts.
const PATIENCE: Duration = Duration::from_secs(12);

/// Whoever holds the Lease writes it each second: a watch that shows nothing for this long may be cut
/// off without a word, and is begun again.
const SILENCE: Duration = Duration::from_secs(30);

/// How long one watch lasts, in seconds, as the API server is told.
const WATCH: u32 = 290;

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
    client: Mutex<Client>,
    /// As it was seen last, with all that others have written in it.
    known: Mutex<Option<Object>>,
    /// Over what a write was lost last.
    lost: Mutex<Option<Option<Version>>>,
    troubles: Mutex<Troubles>,
}

fn open<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The answer, if there is one in time.
async fn within<T>(asked: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
    match timeout(PATIENCE, asked).await {
        Ok(answer) => answer.map_err(|error| Failure::of(&error)),
        Err(_) => Err(Failure { kind: Kind::Late, why: format!("no answer within {PATIENCE:?}") }),
    }
}

impl LeaseApi {
    /// The Lease of this name.
    ///
    /// # Errors
    /// [`NoAccess`] when the API server can't be asked at all.
    pub fn new(
        access: Access,
        namespace: String,
        name: String,
        lasts: Duration,
        meter: Arc<dyn Meter>,
    ) -> Result<Self, NoAccess> {
        let client = Mutex::new(access.client(&namespace, idle(lasts))?);
        let (known, lost, troubles) = (Mutex::default(), Mutex::default(), Mutex::default());
        Ok(Self { access, namespace, name, lasts, meter, client, known, lost, troubles })
    }

    /// Asks the API server.
    pub fn client(&self) -> Client {
        open(&self.client).clone()
    }

    /// Which life of the Lease was seen last.
    pub fn uid(&self) -> Option<String> {
        open(&self.known).as_ref().and_then(|known| known.metadata.uid.clone())
    }

    fn api(&self) -> Api<Object> {
        Api::namespaced(self.client(), &self.namespace)
    }

    /// What has gone wrong for so long that it was said, and goes on.
    pub fn trouble(&self) -> Option<String> {
        open(&self.troubles).said().map(str::to_owned)
    }

    /// A watch may be late: what is older than what is known would cost the labels that others have
    /// written.
    fn watched(&self, object: Object) {
        let version = object::seen(&object).version;
        let known = open(&self.known).as_ref().map(|known| object::seen(known).version);
        if !known.is_some_and(|known| version.is_before(&known)) {
            self.remember(object);
        }
    }

    /// So it stands, whatever was known: an API server that got a backup back has forgotten some of it.
    fn remember(&self, object: Object) {
        let version = object::seen(&object).version;
        let before = open(&self.known).replace(object);
        if before.is_some_and(|before| object::seen(&before).version != version) {
            // Somebody could write it.
            open(&self.troubles).over(Verb::Put);
        }
    }

    /// Counts an answer, and says once what an operator has to put right.
    fn count<T>(&self, verb: Verb, answer: &Result<T, Failure>, took: Option<Duration>) {
        let result = answer.as_ref().map_or_else(|failure| failure.kind.as_str(), |_| "ok");
        self.meter.asked(verb.as_str(), result, took);
        match answer {
            // One that does not last is of no use.
            Ok(_) if verb == Verb::Watch => {}
            Ok(_) => open(&self.troubles).over(verb),
            Err(failure) => self.judge(verb, failure),
        }
    }

    fn judge(&self, verb: Verb, failure: &Failure) {
        let kind = failure.kind.as_str();
        tracing::debug!(verb = verb.as_str(), kind, why = failure.why, "the API server");
        let anew = match failure.kind {
            Kind::Unauthorized | Kind::Unreachable => self.begin_anew(),
            Kind::Absent | Kind::Lost | Kind::Expired | Kind::Forbidden | Kind::Throttled => Ok(()),
            Kind::Refused | Kind::Broken | Kind::Late => Ok(()),
        };
        let Some(advice) = open(&self.troubles).add(verb, failure) else { return };
        let why = anew.err().map_or_else(|| failure.why.clone(), |error| error.to_string());
        let (lease, namespace, verb) = (&self.name, &self.namespace, verb.as_str());
        tracing::warn!(verb, lease, namespace, kind, why, "the API server {advice}");
    }

    /// The token may have run out, and the certificates may be others by now: a minute is long until they
    /// are read again.
    fn begin_anew(&self) -> Result<(), NoAccess> {
        let client = self.access.client(&self.namespace, idle(self.lasts))?;
        *open(&self.client) = client;
        Ok(())
    }

    async fn read(&self) -> Answer {
        let (api, began) = (self.api(), Instant::now());
        let answer = within(api.get(&self.name)).await;
        self.count(Verb::Get, &answer, Some(began.elapsed()));
        match answer {
            Ok(object) => {
                let lease = object::seen(&object);
                self.remember(object);
                Answer::Read(Some(lease))
            }
            Err(Failure { kind: Kind::Absent, .. }) => Answer::Read(None),
            Err(_) => Answer::Failed,
        }
    }

    async fn write(&self, draft: &Draft) -> Answer {
        let known = open(&self.known).clone();
        let object = object::written(&self.name, known, draft, self.lasts, Timestamp::now());
        let (api, how, began) = (self.api(), PostParams::default(), Instant::now());
        // Also to create it: a role can name one object for an update only (measured).
        let mut answer = within(api.replace(&self.name, &how, &object)).await;
        let is_lost = matches!(&answer, Err(Failure { kind: Kind::Lost | Kind::Absent, .. }));
        let over = is_lost.then(|| draft.over.clone());
        let before = std::mem::replace(&mut *open(&self.lost), over.clone());
        if let Err(failure) = &mut answer
            && is_lost
            && before == over
        {
            // It was read again, and nobody else was first.
            failure.kind = Kind::Refused;
        }
        self.count(Verb::Put, &answer, Some(began.elapsed()));
        match answer {
            Ok(object) => {
                let lease = object::seen(&object);
                self.remember(object);
                Answer::Written(lease)
            }
            Err(_) if is_lost => Answer::Lost,
            Err(_) => Answer::Failed,
        }
    }

    /// Watches until nobody wants to see any more.
    pub async fn watch(&self, sights: Sender<Sight>) {
        let mut again = AGAIN;
        loop {
            let began = Instant::now();
            let watched = self.watch_once(&sights, began).await;
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
    async fn watch_once(&self, sights: &Sender<Sight>, began: Instant) -> Result<(), Failure> {
        let api = self.api();
        let only = WatchParams::default().fields(&format!("metadata.name={}", self.name));
        let only = only.timeout(WATCH);
        // From `0`: what is there now is told first.
        let stream = within(api.watch(&only, "0")).await;
        self.count(Verb::Watch, &stream, Some(began.elapsed()));
        let mut stream = std::pin::pin!(stream?);
        while let Ok(next) = timeout(SILENCE, stream.try_next()).await {
            if began.elapsed() >= SHORT {
                open(&self.troubles).over(Verb::Watch);
            }
            let next = match next {
                Ok(Some(WatchEvent::Error(status))) => Err(Error::Api(status)),
                next => next,
            };
            let next = next.map_err(|error| Failure::of(&error));
            if next.is_err() {
                self.count(Verb::Watch, &next, None);
            }
            let lease = match next? {
                Some(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                    let lease = object::seen(&object);
                    self.watched(object);
                    Some(lease)
                }
                Some(WatchEvent::Deleted(_)) => None,
                Some(WatchEvent::Bookmark(_)) => continue,
                Some(WatchEvent::Error(_)) | None => break,
            };
            if sights.send(Sight::Seen(lease)).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// A connection that a holder uses is not used for a quarter of the Lease; whoever asks because it has run
/// out needs a new one.
fn idle(lasts: Duration) -> Duration {
    lasts / 2
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
    use std::sync::atomic::{AtomicU32, Ordering};

    use axum::Router;
    use axum::http::{Method, StatusCode};
    use axum::response::IntoResponse as _;
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::access::LONGEST;
    use super::super::trouble::FAILED;
    use super::*;

    /// What was counted.
    #[derive(Default)]
    struct Counted(Mutex<Vec<String>>);

    impl Meter for Counted {
        fn asked(&self, verb: &'static str, result: &'static str, _took: Option<Duration>) {
            open(&self.0).push(format!("{verb} {result}"));
        }

        fn unconfirmed(&self, _unconfirmed: bool) {}
    }

    impl Counted {
        fn count(&self, what: &str) -> usize {
            open(&self.0).iter().filter(|counted| *counted == what).count()
        }
    }

    /// An API server that answers so, and how often it was asked.
    async fn server(
        answer: impl Fn(Method) -> (StatusCode, String) + Clone + Send + Sync + 'static,
    ) -> (String, Arc<AtomicU32>) {
        let asked = Arc::new(AtomicU32::new(0));
        let counts = Arc::clone(&asked);
        let answer = move |method: Method| {
            counts.fetch_add(1, Ordering::Relaxed);
            let answer = answer(method);
            async move { answer.into_response() }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("http://{}", listener.local_addr().unwrap());
        let routes = Router::new().fallback(answer);
        tokio::spawn(async move { axum::serve(listener, routes).await });
        (at, asked)
    }

    /// With an account of its own in `folder`.
    fn lease_at(server: String, folder: &Path, lasts: Duration) -> (LeaseApi, Arc<Counted>) {
        let ca = rcgen::generate_simple_self_signed(["server".to_owned()]).unwrap().cert.pem();
        std::fs::write(folder.join("ca.crt"), ca).unwrap();
        std::fs::write(folder.join("token"), "token").unwrap();
        let access = Access { server, account: folder.to_owned() };
        let counted = Arc::new(Counted::default());
        let meter = Arc::clone(&counted) as _;
        let names = ("here".to_owned(), "lease".to_owned());
        (LeaseApi::new(access, names.0, names.1, lasts, meter).unwrap(), counted)
    }

    const LASTS: Duration = Duration::from_secs(4);

    fn lease_text(revision: u32) -> String {
        let metadata =
            json!({"name": "lease", "uid": "u", "resourceVersion": revision.to_string()});
        let (version, kind) = ("coordination.k8s.io/v1", "Lease");
        json!({"apiVersion": version, "kind": kind, "metadata": metadata}).to_string()
    }

    fn status_text(code: StatusCode, message: &str) -> String {
        json!({"kind": "Status", "status": "Failure", "message": message, "reason": "Because",
               "code": code.as_u16()})
        .to_string()
    }

    /// Takes the Lease as it was read.
    async fn read_and_write(api: &LeaseApi) -> Answer {
        let Answer::Read(lease) = api.ask(Ask::Read).await else { panic!("it can't be read") };
        let over = lease.map(|lease| lease.version);
        let draft = Draft { holder: Some("me".to_owned()), transitions: 0, taken: true, over };
        api.ask(Ask::Write(draft)).await
    }

    #[tokio::test]
    async fn a_watch_that_ends_as_soon_as_it_has_shown_something_is_not_begun_again_at_once() {
        let shown = format!("{{\"type\":\"ADDED\",\"object\":{}}}\n", lease_text(7));
        let (at, asked) = server(move |_| (StatusCode::OK, shown.clone())).await;
        let folder = tempfile::tempdir().unwrap();
        let (api, _) = lease_at(at, folder.path(), LASTS);
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
    async fn what_breaks_a_watch_off_is_counted_and_said_where_it_always_does() {
        let status = status_text(StatusCode::TOO_MANY_REQUESTS, "too many");
        let shown = format!("{{\"type\":\"ERROR\",\"object\":{status}}}\n");
        let (at, _) = server(move |_| (StatusCode::OK, shown.clone())).await;
        let folder = tempfile::tempdir().unwrap();
        let (api, counted) = lease_at(at, folder.path(), LASTS);
        let (sender, _sights) = tokio::sync::mpsc::channel(1);
        for _ in 0..FAILED {
            let watched = api.watch_once(&sender, Instant::now()).await;
            assert_eq!(watched.unwrap_err().kind, Kind::Throttled);
        }
        assert_eq!(counted.count("watch throttled"), usize::try_from(FAILED).unwrap());
        assert!(api.trouble().unwrap().contains("too many"), "{:?}", api.trouble());
    }

    #[tokio::test]
    async fn what_goes_on_is_said_once_with_its_kind() {
        for (status, words, kind) in [
            (StatusCode::UNAUTHORIZED, "the API server refuses", "unauthorized"),
            (StatusCode::INTERNAL_SERVER_ERROR, "the API server does not answer", "server_error"),
        ] {
            let (at, asked) = server(move |_| (status, "no".to_owned())).await;
            let folder = tempfile::tempdir().unwrap();
            let (api, _) = lease_at(at, folder.path(), LASTS);
            let log = Log::default();
            let kept = log.keep();
            for _ in 0..2 * FAILED {
                assert_eq!(api.ask(Ask::Read).await, Answer::Failed);
            }
            drop(kept);
            assert_eq!(asked.load(Ordering::Relaxed), 2 * FAILED);
            let said = log.text();
            assert_eq!(said.matches(words).count(), 1, "{said}");
            assert!(said.contains(kind), "{said}");
        }
    }

    #[tokio::test]
    async fn a_lease_that_can_never_be_written_is_said_once_in_the_api_server_s_own_words() {
        let absent = (StatusCode::NOT_FOUND, status_text(StatusCode::NOT_FOUND, "no such lease"));
        let there = (StatusCode::OK, lease_text(7));
        for (read, code, answered, counted_as) in [
            (absent, StatusCode::NOT_FOUND, Answer::Lost, "put refused"),
            (there.clone(), StatusCode::UNPROCESSABLE_ENTITY, Answer::Lost, "put refused"),
            (there, StatusCode::FORBIDDEN, Answer::Failed, "put forbidden"),
        ] {
            let words = "denied by a policy called nobody";
            let refused = (code, status_text(code, words));
            let answer = move |method: Method| {
                if method == Method::PUT { refused.clone() } else { read.clone() }
            };
            let (at, _) = server(answer).await;
            let folder = tempfile::tempdir().unwrap();
            let (api, counted) = lease_at(at, folder.path(), LASTS);
            let log = Log::default();
            let kept = log.keep();
            for _ in 0..2 * FAILED {
                assert_eq!(read_and_write(&api).await, answered);
            }
            drop(kept);
            let said = log.text();
            assert_eq!(said.matches(words).count(), 1, "{said}");
            assert!(said.contains("the API server"), "{said}");
            assert!(api.trouble().unwrap().contains(words), "{:?}", api.trouble());
            assert!(counted.count(counted_as) >= usize::try_from(FAILED).unwrap());
        }
    }

    #[tokio::test]
    async fn who_loses_to_others_again_and_again_has_nothing_to_put_right() {
        let revision = AtomicU32::new(1);
        let revision = Arc::new(revision);
        let (at, _) = server(move |method| match method {
            Method::PUT => (StatusCode::CONFLICT, status_text(StatusCode::CONFLICT, "lost")),
            _ => (StatusCode::OK, lease_text(revision.fetch_add(1, Ordering::Relaxed))),
        })
        .await;
        let folder = tempfile::tempdir().unwrap();
        let (api, counted) = lease_at(at, folder.path(), LASTS);
        for _ in 0..2 * FAILED {
            assert_eq!(read_and_write(&api).await, Answer::Lost);
        }
        assert_eq!(api.trouble(), None);
        assert_eq!(counted.count("put conflict"), usize::try_from(2 * FAILED).unwrap());
    }

    #[tokio::test]
    async fn what_is_read_counts_also_where_the_api_server_has_forgotten_the_newest() {
        let revisions = Arc::new(AtomicU32::new(9));
        let answered = Arc::clone(&revisions);
        let read = move |_| (StatusCode::OK, lease_text(answered.load(Ordering::Relaxed)));
        let (at, _) = server(read).await;
        let folder = tempfile::tempdir().unwrap();
        let (api, _) = lease_at(at, folder.path(), LASTS);
        let known = || open(&api.known).as_ref().map(|known| object::seen(known).version.revision);
        api.ask(Ask::Read).await;
        assert_eq!(known().as_deref(), Some("9"));
        revisions.store(3, Ordering::Relaxed);
        api.ask(Ask::Read).await;
        assert_eq!(known().as_deref(), Some("3"));
    }

    #[tokio::test]
    async fn an_answer_that_does_not_end_is_not_kept() {
        let endless = |length: usize| {
            let mut lease: serde_json::Value = serde_json::from_str(&lease_text(7)).unwrap();
            lease["metadata"]["annotations"] = json!({"a": "x".repeat(length)});
            lease.to_string()
        };
        for (length, is_read) in [(LONGEST / 2, true), (LONGEST, false)] {
            let text = endless(length);
            let (at, _) = server(move |_| (StatusCode::OK, text.clone())).await;
            let folder = tempfile::tempdir().unwrap();
            let (api, _) = lease_at(at, folder.path(), LASTS);
            let answer = api.ask(Ask::Read).await;
            assert_eq!(matches!(answer, Answer::Read(_)), is_read, "{length}");
        }
    }

    /// An API server whose machine is gone without a word as soon as it has answered a connection's first
    /// request; whoever connects anew reaches another one.
    async fn vanishing() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let mut gone = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4_096];
                let read = stream.read(&mut request).await.unwrap();
                assert!(read > 0);
                let text = lease_text(7);
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length:";
                let answer = format!("{head} {}\r\n\r\n{text}", text.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
                // The answer has arrived before nothing does any more.
                tokio::time::sleep(Duration::from_millis(50)).await;
                let drop_all = [socket2::SockFilter::new(0x06, 0, 0, 0)];
                socket2::SockRef::from(&stream).attach_filter(&drop_all).unwrap();
                gone.push(stream);
            }
        });
        at
    }

    #[tokio::test]
    async fn a_connection_that_may_lead_nowhere_by_now_is_not_asked_over() {
        let folder = tempfile::tempdir().unwrap();
        let lasts = Duration::from_millis(400);
        let (api, _) = lease_at(vanishing().await, folder.path(), lasts);
        assert!(matches!(api.ask(Ask::Read).await, Answer::Read(Some(_))));
        tokio::time::sleep(lasts).await;
        let began = Instant::now();
        assert!(matches!(api.ask(Ask::Read).await, Answer::Read(Some(_))));
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_connection_whose_other_end_is_gone_is_given_up_in_time_to_renew() {
        let folder = tempfile::tempdir().unwrap();
        let (api, counted) = lease_at(vanishing().await, folder.path(), LASTS);
        assert!(matches!(api.ask(Ask::Read).await, Answer::Read(Some(_))));
        tokio::time::sleep(LASTS / 4).await;
        let began = Instant::now();
        assert_eq!(api.ask(Ask::Read).await, Answer::Failed);
        assert!(began.elapsed() < LASTS / 2, "{:?}", began.elapsed());
        assert_eq!(counted.count("get unreachable"), 1);
        assert!(matches!(api.ask(Ask::Read).await, Answer::Read(Some(_))));
    }

    #[tokio::test]
    async fn what_others_wrote_is_not_forgotten_for_a_watch_that_is_late() {
        let folder = tempfile::tempdir().unwrap();
        let (api, _) = lease_at("http://127.0.0.1:9".to_owned(), folder.path(), LASTS);
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
        api.watched(object("u", "10"));
        api.watched(object("u", "9"));
        assert_eq!(known().as_deref(), Some("10"));
        api.watched(object("u", "11"));
        assert_eq!(known().as_deref(), Some("11"));
        api.watched(object("a former life", "3"));
        assert_eq!(known().as_deref(), Some("11"));
        api.watched(object("another", "12"));
        assert_eq!(known().as_deref(), Some("12"));
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Log {
        /// What this thread says from now on.
        fn keep(&self) -> tracing::subscriber::DefaultGuard {
            let to = self.clone();
            let writer = tracing_subscriber::fmt().with_writer(move || to.clone()).finish();
            tracing::subscriber::set_default(writer)
        }

        fn text(&self) -> String {
            String::from_utf8(open(&self.0).clone()).unwrap()
        }
    }

    impl std::io::Write for Log {
        fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
            std::io::Write::write(&mut *open(&self.0), line)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
}
