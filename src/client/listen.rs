//! The client port: accepting connections, the upgrade to WebSocket, `POST`, and whatever pages
//! stand beside them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use bytes::BytesMut;
use http_body_util::{BodyExt as _, Limited};
use hyper::server::conn::http1;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::commands::Commands;
use super::one_shot::{self, Reply, Wish};
use super::socket::converse;
use super::{BODY_TIMEOUT, Client, HEAD_TIMEOUT, SEND_TIMEOUT};
use crate::core::ids::SessionId;
use crate::rpc::method::traceparent;

/// Seconds after which a place to wait may have become free: most commands end sooner.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

/// Whose span a request belongs to (<https://www.w3.org/TR/trace-context/>).
const TRACEPARENT: header::HeaderName = header::HeaderName::from_static("traceparent");

/// The routes of the protocol at the configured path.
pub fn router<C: Commands>(client: Arc<Client<C>>) -> Router {
    let path = client.settings.path.clone();
    let protocol: MethodRouter = MethodRouter::new()
        .get(upgrade::<C>)
        .post(post::<C>)
        .options(preflight::<C>)
        .with_state(client);
    Router::new().route(&path, protocol)
}

/// Serves connections until the client side is told to shut down. Sockets then close by
/// themselves, each after its share of the drain time; [`Client::drained`] waits for them.
pub async fn serve<C: Commands>(client: Arc<Client<C>>, listener: TcpListener, pages: Router) {
    let router = router(Arc::clone(&client)).merge(pages);
    let places = Arc::new(Semaphore::new(client.settings.requests));
    loop {
        let place = Arc::clone(&places).acquire_owned();
        let accepted = async {
            let place = place.await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = client.shutdown.cancelled() => return,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let router = router.clone();
                let connection = connection(Arc::clone(&client), stream, peer, router);
                client.tasks.spawn(async move {
                    connection.await;
                    // An upgraded socket is a task of its own and counts by itself.
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: to try again at once would only spin.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection<C: Commands>(
    client: Arc<Client<C>>,
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "TCP_NODELAY was refused");
    }
    give_up_on_unread(&stream, SEND_TIMEOUT * 2);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(16 * 1024);
    let served = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut served = std::pin::pin!(served.with_upgrades());
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = client.shutdown.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "a connection broke");
    }
}

/// What is written and not read ends the connection after this time, whatever it carries: HTTP
/// itself would wait for ever. A WebSocket is closed by itself before that, with a code.
fn give_up_on_unread(stream: &TcpStream, after: Duration) {
    #[cfg(target_os = "linux")]
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(after)) {
        tracing::debug!(%error, "TCP_USER_TIMEOUT was refused");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (stream, after);
}

/// Why a request does not become a conversation.
fn refused(status: StatusCode, why: impl Into<Body>) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], why.into()).into_response()
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    // A header that is no text must not pass as one that is absent.
    headers.get(name).map(|value| value.to_str().unwrap_or("\u{0}"))
}

fn origin_allowed<C: Commands>(client: &Client<C>, headers: &HeaderMap) -> bool {
    let one = headers.get_all(header::ORIGIN).iter().count() <= 1;
    let (origin, host) = (text(headers, header::ORIGIN), text(headers, header::HOST));
    let allowed = one && client.settings.origins.allow(origin, host);
    if !allowed {
        client.metrics.refused("origin");
        let origin = origin.unwrap_or_default();
        // Whoever wants to could fill a log with it.
        if client.told_of_origin.swap(true, Ordering::Relaxed) {
            tracing::debug!(?origin, "a page was refused");
        } else {
            tracing::warn!(
                ?origin,
                "a page was refused: `listen.origins` names the pages of other hosts that may connect"
            );
        }
    }
    allowed
}

fn names(headers: &HeaderMap, name: header::HeaderName, word: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(word)))
}

/// The opening handshake of RFC 6455 section 4.2. Done here rather than by axum, since only so
/// the plain TCP stream can be had, without the buffers and boxes of HTTP around it.
async fn upgrade<C: Commands>(State(client): State<Arc<Client<C>>>, request: Request) -> Response {
    let headers = request.headers();
    if !names(headers, header::CONNECTION, "upgrade")
        || !names(headers, header::UPGRADE, "websocket")
    {
        let mut response = refused(
            StatusCode::UPGRADE_REQUIRED,
            "this is a WebSocket; one-shot requests are POSTed\n",
        );
        response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        return response;
    }
    if !origin_allowed(&client, headers) {
        return refused(StatusCode::FORBIDDEN, "this Origin is not allowed\n");
    }
    if client.shutdown.is_cancelled() {
        client.metrics.refused("draining");
        return refused(StatusCode::SERVICE_UNAVAILABLE, "this server is about to stop\n");
    }
    if text(headers, header::SEC_WEBSOCKET_VERSION) != Some("13") {
        client.metrics.refused("handshake");
        let mut response = refused(StatusCode::BAD_REQUEST, "WebSocket version 13 is needed\n");
        response
            .headers_mut()
            .insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return response;
    }
    let Some(accept) = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .map(|key| derive_accept_key(key.as_bytes()))
        .and_then(|accept| HeaderValue::try_from(accept).ok())
    else {
        client.metrics.refused("handshake");
        return refused(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing\n");
    };
    let Ok(place) = Arc::clone(&client.places).try_acquire_owned() else {
        client.metrics.refused("limit");
        return refused(StatusCode::SERVICE_UNAVAILABLE, "too many sessions\n");
    };
    let upgraded = hyper::upgrade::on(request);
    let tasks = client.tasks.clone();
    tasks.spawn(async move {
        begin(client, upgraded).await;
        drop(place);
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    response
}

async fn begin<C: Commands>(client: Arc<Client<C>>, upgraded: OnUpgrade) {
    let upgraded: Upgraded = match upgraded.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            tracing::debug!(%error, "a connection broke during its upgrade");
            return;
        }
    };
    match upgraded.downcast::<TokioIo<TcpStream>>() {
        Ok(parts) => {
            let (stream, early) = (parts.io.into_inner(), parts.read_buf.to_vec());
            // The buffer of HTTP, 16 KiB, would live as long as the session (measured).
            drop(parts.read_buf);
            converse(client, stream, early).await;
        }
        Err(upgraded) => converse(client, TokioIo::new(upgraded), Vec::new()).await,
    }
}

/// `?wait=ended&session=...` of a POST.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Line {
    wait: Option<String>,
    session: Option<String>,
}

async fn post<C: Commands>(
    State(client): State<Arc<Client<C>>>,
    Query(line): Query<Line>,
    request: Request,
) -> Response {
    if !origin_allowed(&client, request.headers()) {
        return refused(StatusCode::FORBIDDEN, "this Origin is not allowed\n");
    }
    let origin = request.headers().get(header::ORIGIN).cloned();
    // One that is none is nobody's mistake in the command.
    let trace = text(request.headers(), TRACEPARENT).and_then(|text| traceparent(text).ok());
    let until_ended = match line.wait.as_deref() {
        None | Some("started") => false,
        Some("ended") => true,
        Some(_) => return refused(StatusCode::BAD_REQUEST, "wait must be started or ended\n"),
    };
    let session = match line.session.as_deref().map(SessionId::parse) {
        None => None,
        Some(Ok(session)) => Some(session),
        Some(Err(_)) => return refused(StatusCode::BAD_REQUEST, "this is no session\n"),
    };
    let body = Limited::new(request.into_body(), client.settings.message_bytes);
    let body: Bytes = match tokio::time::timeout(BODY_TIMEOUT, body.collect()).await {
        Err(_) => return refused(StatusCode::REQUEST_TIMEOUT, "the body did not come\n"),
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            let most = client.settings.message_bytes;
            let why = format!("a frame has at most {most} bytes\n");
            return refused(StatusCode::PAYLOAD_TOO_LARGE, why);
        }
        Ok(Err(_)) => return refused(StatusCode::BAD_REQUEST, "the body broke off\n"),
    };
    // Given back with the answer, also when the client goes away first.
    let _waiting = match until_ended.then(|| client.waiting.try_acquire()) {
        None => None,
        Some(Ok(place)) => Some(place),
        Some(Err(_)) => {
            client.metrics.refused("limit");
            let mut response = refused(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many requests wait for the end of their commands; wait=started has room\n",
            );
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
            return response;
        }
    };
    client.metrics.message();
    // What is not UTF-8 is not JSON either, and is answered as such.
    let frame = std::str::from_utf8(&body).unwrap_or("\u{0}");
    let wish = Wish { until_ended, session, trace };
    let Reply { status, body } = one_shot::answer(&client, frame, wish).await;
    client.metrics.sent(body.as_ref().map_or(0, BytesMut::len));
    let mut response =
        Response::new(body.map_or_else(Body::empty, |body| Body::from(body.freeze())));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    if status != 204 {
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
    }
    allow_origin(&mut response, origin);
    response
}

/// Lets an allowed page of another origin read the answer.
fn allow_origin(response: &mut Response, origin: Option<HeaderValue>) {
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    }
}

/// A browser asks before a page of another origin may POST JSON.
async fn preflight<C: Commands>(
    State(client): State<Arc<Client<C>>>,
    headers: HeaderMap,
) -> Result<Response, Infallible> {
    if !origin_allowed(&client, &headers) {
        return Ok(refused(StatusCode::FORBIDDEN, "this Origin is not allowed\n"));
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    allow_origin(&mut response, headers.get(header::ORIGIN).cloned());
    let headers = response.headers_mut();
    let methods = HeaderValue::from_static("POST");
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("content-type"));
    Ok(response)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// The kernel's clock decides, so this takes its time: half a second, measured.
    #[tokio::test]
    async fn what_nobody_reads_ends_the_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let reader = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        give_up_on_unread(&stream, Duration::from_millis(100));
        let flood = async { while stream.write_all(&[0; 4096]).await.is_ok() {} };
        let ended = tokio::time::timeout(Duration::from_secs(20), flood).await;
        assert!(ended.is_ok(), "the connection stays open");
        drop(reader);
    }
}
