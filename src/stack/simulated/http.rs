//! MI over HTTP: `POST /mi`, one request at a time, as OpenSIPS' httpd does it.
//!
//! One process serves everything: while a `t_uac_dlg` rings, every other request waits, also
//! when its client has hung up. A request without `Content-Type: application/json` gets no
//! answer but a closed connection; a notification is never answered.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};

use super::server::Ask;

/// The largest request body.
const MAX_BODY: usize = 1 << 20;

/// A request nobody answers blocks the others at most so long.
const LONGEST_BLOCK: Duration = Duration::from_secs(180);

/// The listener, which closes when the process dies and opens again with it.
pub(super) struct Listening {
    address: Option<SocketAddr>,
    asks: mpsc::Sender<Ask>,
    running: Option<AbortHandle>,
}

impl Listening {
    pub(super) fn new(
        listener: Option<TcpListener>,
        address: Option<SocketAddr>,
        asks: mpsc::Sender<Ask>,
    ) -> Listening {
        let running = listener.map(|l| tokio::spawn(accept(l, asks.clone())).abort_handle());
        Listening { address, asks, running }
    }

    pub(super) fn close(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
        }
    }

    pub(super) async fn open(&mut self) {
        let Some(address) = self.address else { return };
        if let Ok(listener) = TcpListener::bind(address).await {
            self.running = Some(tokio::spawn(accept(listener, self.asks.clone())).abort_handle());
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.close();
    }
}

async fn accept(listener: TcpListener, asks: mpsc::Sender<Ask>) {
    let mut connections = JoinSet::new();
    let one_at_a_time = Arc::new(Mutex::new(()));
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let (asks, turn) = (asks.clone(), one_at_a_time.clone());
                connections.spawn(async move {
                    let service = service_fn(move |r| answer(r, asks.clone(), turn.clone()));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// The connection is closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("closed without an answer")]
struct Closed;

impl From<Infallible> for Closed {
    fn from(never: Infallible) -> Closed {
        match never {}
    }
}

async fn answer(
    request: Request<Incoming>,
    asks: mpsc::Sender<Ask>,
    turn: Arc<Mutex<()>>,
) -> Result<Response<Full<Bytes>>, Closed> {
    if request.method() != Method::POST {
        return Ok(plain(StatusCode::METHOD_NOT_ALLOWED, ""));
    }
    if !matches!(request.uri().path(), "/mi" | "/mi/") {
        let page = "<html><body>Unable to parse URL!</body></html>";
        return Ok(plain(StatusCode::BAD_REQUEST, page));
    }
    let json = request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.starts_with("application/json"));
    if !json {
        return Err(Closed);
    }
    let body = Limited::new(request.into_body(), MAX_BODY).collect().await;
    let body = body.map_err(|_| Closed)?.to_bytes();
    let (tell, told) = oneshot::channel();
    // A task of its own: the process goes on with the request when the client has hung up.
    tokio::spawn(async move {
        let _turn = turn.lock_owned().await;
        let (reply, replied) = oneshot::channel();
        let has_id = serde_json::from_slice::<serde_json::Value>(&body)
            .map_or(true, |v| !v.is_object() || v.get("id").is_some());
        if asks.send(Ask::Mi(body.to_vec(), reply)).await.is_err() {
            return;
        }
        if !has_id {
            // Executed, and never answered: the client waits for nothing.
            drop(_turn);
            tokio::time::sleep(LONGEST_BLOCK).await;
            drop(tell);
            return;
        }
        if let Ok(Ok(text)) = tokio::time::timeout(LONGEST_BLOCK, replied).await {
            let _ = tell.send(text);
        }
    });
    match told.await {
        Ok(text) => {
            let mut response = Response::new(Full::new(Bytes::from(text)));
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, json);
            Ok(response)
        }
        Err(_) => Err(Closed),
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}
