//! The routes of both listeners, and how they are served.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

use super::{Parts, Readiness, Ready};
use crate::config::LogFilter;
use crate::metrics::Metrics;
use crate::telemetry::LogLevels;

/// How long the event loop may take for one turn before `/livez` fails. Far above what a loaded
/// machine needs, well below a probe's patience.
const LOOP_TURN: Duration = Duration::from_secs(5);

/// What the routes look at.
#[derive(Debug, Clone)]
pub struct AdminState {
    /// Whether clients are welcome; `POST /drain` changes it.
    pub readiness: Readiness,
    /// What `/readyz?verbose` shows.
    pub parts: Parts,
    /// What `/metrics` shows.
    pub metrics: Metrics,
    /// What `POST /log-level` changes.
    pub levels: LogLevels,
}

/// The routes of `admin.listen`: they show, and change nothing.
pub fn operations(state: AdminState) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(state)
}

/// The routes of `admin.control`: they change things, so they are for loopback.
pub fn control(state: AdminState) -> Router {
    Router::new()
        .route("/drain", post(drain))
        .route("/log-level", get(log_level).post(set_log_level))
        .with_state(state)
}

/// Most connections at a time; one more takes the place of the oldest. Whoever opens many must take
/// neither the descriptors of the whole process nor the places of probes, which are answered at once.
const CONNECTIONS: usize = 64;

/// How long a connection may take for its one request, and for reading the answer.
const REQUEST: Duration = Duration::from_secs(10);

/// After an accept that failed, such as for want of descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Serves `routes` on `listener` until `shutdown` completes; requests under way are finished. A
/// connection is for one request.
pub async fn run(listener: TcpListener, routes: Router, shutdown: impl Future<Output = ()>) {
    let mut shutdown = pin!(shutdown);
    let mut oldest_first = VecDeque::with_capacity(CONNECTIONS);
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let task = tasks.spawn(serve(stream, routes.clone()));
                make_place(&mut oldest_first);
                oldest_first.push_back(task.abort_handle());
            }
            Err(error) => {
                tracing::debug!(%error, "an operations connection was not accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

/// For one more connection.
fn make_place(oldest_first: &mut VecDeque<AbortHandle>) {
    oldest_first.retain(|connection| !connection.is_finished());
    if oldest_first.len() >= CONNECTIONS
        && let Some(oldest) = oldest_first.pop_front()
    {
        tracing::debug!("the oldest of too many operations connections was closed");
        oldest.abort();
    }
}

async fn serve(stream: TcpStream, routes: Router) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(REQUEST).keep_alive(false);
    let served = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    match tokio::time::timeout(REQUEST, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an operations connection broke"),
        Err(_) => tracing::debug!("an operations connection took too long"),
    }
}

/// A task of its own has to be run by the same loop that runs everything else.
async fn livez() -> Response {
    let turn = tokio::spawn(tokio::task::yield_now());
    match tokio::time::timeout(LOOP_TURN, turn).await {
        Ok(Ok(())) => (StatusCode::OK, "alive\n").into_response(),
        Ok(Err(_)) | Err(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, "the event loop is stuck\n").into_response()
        }
    }
}

async fn readyz(State(state): State<AdminState>, RawQuery(query): RawQuery) -> Response {
    let ready = state.readiness.now();
    let status = match ready {
        Ready::Yes => StatusCode::OK,
        Ready::Starting | Ready::Draining => StatusCode::SERVICE_UNAVAILABLE,
    };
    let is_verbose = |pair: &str| pair == "verbose" || pair.starts_with("verbose=");
    let text = if query.is_some_and(|query| query.split('&').any(is_verbose)) {
        state.parts.page(ready)
    } else {
        format!("{}\n", ready.word())
    };
    (status, text).into_response()
}

async fn metrics(State(state): State<AdminState>) -> Response {
    match state.metrics.render() {
        Ok(text) => {
            let kind = (header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");
            ([kind], text).into_response()
        }
        Err(error) => {
            tracing::error!(error, "metrics can't be rendered");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// A web page can send a plain POST to loopback, but not without an `Origin` header: no page may
/// stop the server of the person who looks at it.
fn is_from_a_page(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ORIGIN)
}

async fn drain(State(state): State<AdminState>, headers: HeaderMap) -> Response {
    if is_from_a_page(&headers) {
        return StatusCode::FORBIDDEN.into_response();
    }
    state.readiness.drain();
    tracing::info!("drain asked for on the control port");
    (StatusCode::ACCEPTED, "draining\n").into_response()
}

async fn log_level(State(state): State<AdminState>) -> String {
    format!("{}\n", state.levels.current().as_str())
}

async fn set_log_level(
    State(state): State<AdminState>,
    headers: HeaderMap,
    body: String,
) -> Response {
    if is_from_a_page(&headers) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let filter: LogFilter = match body.trim().parse() {
        Ok(filter) => filter,
        Err(text) => return (StatusCode::BAD_REQUEST, format!("{text}\n")).into_response(),
    };
    let text = format!("{}\n", filter.as_str());
    if state.levels.set(filter) {
        tracing::info!(level = text.trim(), "log level changed on the control port");
        (StatusCode::OK, text).into_response()
    } else {
        (StatusCode::INTERNAL_SERVER_ERROR, "logging is gone\n").into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Full};
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_util::sync::CancellationToken;

    struct Server {
        state: AdminState,
        operations: String,
        control: String,
        stop: CancellationToken,
        tasks: Vec<tokio::task::JoinHandle<()>>,
    }

    async fn server() -> Server {
        let state = AdminState {
            readiness: Readiness::starting(),
            parts: Parts::default(),
            metrics: Metrics::new(),
            levels: LogLevels::detached(LogFilter::info()),
        };
        let stop = CancellationToken::new();
        let mut addresses = Vec::new();
        let mut tasks = Vec::new();
        for routes in [operations(state.clone()), control(state.clone())] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.push(format!("http://{}", listener.local_addr().unwrap()));
            tasks.push(tokio::spawn(run(listener, routes, stop.clone().cancelled_owned())));
        }
        let control = addresses.pop().unwrap();
        Server { state, operations: addresses.pop().unwrap(), control, stop, tasks }
    }

    async fn send(method: &str, url: String, origin: Option<&str>, body: &str) -> (u16, String) {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let mut request = axum::http::Request::builder().method(method).uri(url);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        let request = request.body(Full::new(bytes::Bytes::from(body.to_owned()))).unwrap();
        let response = client.request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn get(url: String) -> (u16, String) {
        send("GET", url, None, "").await
    }

    /// Whoever opens many and says nothing takes neither the descriptors of the process nor the places
    /// of probes.
    #[tokio::test]
    async fn connections_are_few_and_a_probe_finds_a_place() {
        let server = server().await;
        let address = server.operations.strip_prefix("http://").unwrap().to_owned();
        let mut idle = VecDeque::new();
        for _ in 0..CONNECTIONS {
            idle.push_back(TcpStream::connect(&address).await.unwrap());
        }
        assert_eq!(get(format!("{}/livez", server.operations)).await.0, 200);
        let mut oldest = idle.pop_front().unwrap();
        let closed = tokio::time::timeout(REQUEST / 2, oldest.read(&mut [0; 1])).await;
        assert!(matches!(closed, Ok(Ok(0) | Err(_))), "{closed:?}");
        // The others keep theirs.
        let mut next = idle.pop_front().unwrap();
        next.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        let read = tokio::time::timeout(REQUEST / 2, next.read_to_string(&mut answer));
        read.await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    #[tokio::test]
    async fn ready_from_listening_to_drain() {
        let server = server().await;
        let readyz = || get(format!("{}/readyz", server.operations));
        assert_eq!(readyz().await, (503, "starting\n".to_owned()));
        server.state.readiness.listening();
        assert_eq!(readyz().await, (200, "ready\n".to_owned()));
        assert_eq!(get(format!("{}/livez", server.operations)).await, (200, "alive\n".to_owned()));
        let asked = send("POST", format!("{}/drain", server.control), None, "").await;
        assert_eq!(asked, (202, "draining\n".to_owned()));
        server.state.readiness.drained().await;
        assert_eq!(readyz().await, (503, "draining\n".to_owned()));
        // A draining server lives: a restart would only lose what is being flushed.
        assert_eq!(get(format!("{}/livez", server.operations)).await.0, 200);
        server.state.readiness.listening();
        assert_eq!(readyz().await, (503, "draining\n".to_owned()), "a drain can't be taken back");
    }

    #[tokio::test]
    async fn each_part_is_told_to_whoever_wants_them() {
        let server = server().await;
        server.state.parts.look_with(|| vec![crate::admin::Part::ill("store", "away")]);
        let page = |query: &str| get(format!("{}/readyz{query}", server.operations));
        assert_eq!(page("?verbose").await.0, 503);
        server.state.readiness.listening();
        for query in ["?verbose", "?verbose=", "?a=b&verbose=1"] {
            let (status, text) = page(query).await;
            assert_eq!(status, 200, "a store that is away does not make it unready");
            assert!(text.contains("[-]store failed: away (does not make it unready)\n"), "{text}");
            assert!(text.ends_with("readyz check passed\n"), "{text}");
        }
        assert_eq!(page("?other").await, (200, "ready\n".to_owned()));
    }

    #[tokio::test]
    async fn nothing_can_be_changed_on_the_operations_listener() {
        let server = server().await;
        for path in ["drain", "log-level"] {
            let url = format!("{}/{path}", server.operations);
            assert_eq!(send("POST", url, None, "debug").await.0, 404);
        }
        let url = format!("{}/metrics", server.control);
        assert_eq!(get(url).await.0, 404);
        assert_ne!(server.state.readiness.now(), Ready::Draining);
    }

    #[tokio::test]
    async fn a_web_page_can_change_nothing() {
        let server = server().await;
        for path in ["drain", "log-level"] {
            let url = format!("{}/{path}", server.control);
            assert_eq!(send("POST", url, Some("https://evil.example"), "debug").await.0, 403);
        }
        assert_ne!(server.state.readiness.now(), Ready::Draining);
        assert_eq!(server.state.levels.current().as_str(), "info");
    }

    #[tokio::test]
    async fn the_log_level_is_shown_changed_and_checked() {
        let server = server().await;
        let url = format!("{}/log-level", server.control);
        assert_eq!(get(url.clone()).await, (200, "info\n".to_owned()));
        let changed = send("POST", url.clone(), None, "warn,callplane::stack=debug\n").await;
        assert_eq!(changed, (200, "warn,callplane::stack=debug\n".to_owned()));
        let (status, text) = send("POST", url.clone(), None, "loud").await;
        assert_eq!(status, 400);
        assert!(text.contains("`loud` is none of"), "{text}");
        assert_eq!(get(url).await.1, "warn,callplane::stack=debug\n");
    }

    #[tokio::test]
    async fn metrics_are_text_and_the_server_stops_when_told() {
        let server = server().await;
        server.state.metrics.sessions.message();
        let (status, text) = get(format!("{}/metrics", server.operations)).await;
        assert_eq!(status, 200);
        assert!(text.contains("callplane_session_received_messages_total 1\n"));
        server.stop.cancel();
        for task in server.tasks {
            task.await.unwrap();
        }
    }
}
