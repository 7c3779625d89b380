//! The Management Interface over HTTP: for lists that do not fit a datagram, and nothing else.
//!
//! One process of OpenSIPS serves all HTTP, one request at a time, and a ringing `t_uac_dlg`
//! blocks it (trace `http`): calls to phones never go here. A request without id is never
//! answered, and any other content type is not read.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::udp::UdpMi;
use crate::stack::mi::{Mi, MiAnswer, MiFailure, MiReply, MiRequest};

/// The longest list that is read: about 60,000 dialogs.
const LONGEST: usize = 64 << 20;

/// A Management Interface over HTTP.
pub struct HttpMi {
    client: Client<HttpConnector, Full<Bytes>>,
    uri: Uri,
}

impl HttpMi {
    /// Takes a URL such as `http://127.0.0.1:8888/mi`. Nothing is sent.
    ///
    /// # Errors
    /// When it is no such URL.
    pub fn new(url: &str) -> Result<Self, hyper::http::uri::InvalidUri> {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Ok(Self { client, uri: url.parse()? })
    }

    async fn post(&self, request: &MiRequest) -> Result<MiAnswer, MiFailure> {
        let mut text = String::with_capacity(128);
        request.encode(1, &mut text);
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.uri.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(text)))
            .map_err(|_| MiFailure::NotSent { reason: "bad request" })?;
        let response = self.client.request(request).await.map_err(|error| {
            if error.is_connect() {
                MiFailure::NotSent { reason: "refused" }
            } else {
                MiFailure::Silent
            }
        })?;
        if response.status() != StatusCode::OK {
            return Err(MiFailure::Garbled);
        }
        let body = Limited::new(response.into_body(), LONGEST).collect().await;
        let body = body.map_err(|_| MiFailure::Garbled)?.to_bytes();
        match MiReply::decode(&body) {
            MiReply::Answer { answer, .. } => Ok(answer),
            MiReply::Plain(plain) => Err(MiFailure::Plain(plain)),
            MiReply::Garbled => Err(MiFailure::Garbled),
        }
    }
}

impl Mi for HttpMi {
    async fn call(&self, request: MiRequest, timeout: Duration) -> Result<MiAnswer, MiFailure> {
        tokio::time::timeout(timeout, self.post(&request)).await.unwrap_or(Err(MiFailure::Silent))
    }
}

/// The way to large lists: HTTP where there is one, else UDP, which carries about 65 dialogs.
///
/// It has a UDP socket of its own: `500 Internal error`, the answer to a list that is too large,
/// names no request, so it is only understood where it can mean one.
pub struct ListMi {
    http: Option<HttpMi>,
    udp: UdpMi,
}

impl ListMi {
    /// A way over HTTP, if there is one, and a UDP socket of its own.
    #[must_use]
    pub fn new(http: Option<HttpMi>, udp: UdpMi) -> Self {
        Self { http, udp }
    }

    /// Asks once more after a part of the time: a datagram may be lost.
    async fn by_udp(&self, request: MiRequest, timeout: Duration) -> Result<MiAnswer, MiFailure> {
        let first = timeout / 3;
        match self.udp.call(request.clone(), first).await {
            Err(MiFailure::Silent) => self.udp.call(request, timeout.saturating_sub(first)).await,
            asked => asked,
        }
    }
}

impl Mi for ListMi {
    async fn call(&self, request: MiRequest, timeout: Duration) -> Result<MiAnswer, MiFailure> {
        let Some(http) = &self.http else { return self.by_udp(request, timeout).await };
        match http.call(request.clone(), timeout).await {
            Ok(answer) => Ok(answer),
            // Nobody there is known at once, so there is time for the other way.
            Err(MiFailure::NotSent { .. }) => self.by_udp(request, timeout).await,
            Err(failure) => Err(failure),
        }
    }
}
