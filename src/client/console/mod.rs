//! The console: one page for people, served beside the WebSocket on the client port.
//!
//! Everything it needs is inside the binary and is plain HTML, CSS and JavaScript modules: nothing
//! is built and nothing is loaded from elsewhere. What the page knows of the protocol stands in
//! `page/protocol.js`; the other scripts only show it.
//!
//! The page opens a WebSocket at `call-api` relative to its own address, as any other client does,
//! so it has no powers of its own.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use axum::routing::get;
use bytes::Bytes;
use serde::Serialize;

/// What the server tells the page before it connects; served as `/console/hints.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Hints {
    /// SIP addresses offered as suggestions, for example the simulated phones of a demo.
    pub addresses: Vec<String>,
    /// Whether the phones behind this server are simulated. The page says so.
    pub demo: bool,
    /// Path of the WebSocket; without it `call-api` beside the page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call_api: Option<String>,
}

/// A file of the page: its path on the server, its media type and its bytes.
struct Asset {
    path: &'static str,
    media_type: &'static str,
    bytes: &'static [u8],
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
const JSON: &str = "application/json";

macro_rules! asset {
    ($path:literal, $media_type:expr, $file:literal) => {
        Asset { path: $path, media_type: $media_type, bytes: include_bytes!($file) }
    };
}

/// Every file of the page. `tests/console.rs` checks that the page asks for nothing else.
const ASSETS: &[Asset] = &[
    asset!("/", HTML, "page/index.html"),
    asset!("/console/console.css", CSS, "page/console.css"),
    asset!("/console/icon.svg", SVG, "page/icon.svg"),
    asset!("/console/theme.js", SCRIPT, "page/theme.js"),
    asset!("/console/main.js", SCRIPT, "page/main.js"),
    asset!("/console/protocol.js", SCRIPT, "page/protocol.js"),
    asset!("/console/connection.js", SCRIPT, "page/connection.js"),
    asset!("/console/element.js", SCRIPT, "page/element.js"),
    asset!("/console/addresses.js", SCRIPT, "page/addresses.js"),
    asset!("/console/forms.js", SCRIPT, "page/forms.js"),
    asset!("/console/calls.js", SCRIPT, "page/calls.js"),
    asset!("/console/timeline.js", SCRIPT, "page/timeline.js"),
    asset!("/console/frames.js", SCRIPT, "page/frames.js"),
    asset!("/console/shortcuts.js", SCRIPT, "page/shortcuts.js"),
];

/// What the page may do, as strictly as it can work: scripts and styles only from this server, no
/// inline ones, connections only to this server, and no string may become markup or code.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// The console without hints from the server: nothing to suggest, no demo.
pub fn router() -> Router {
    router_with(&Hints::default())
}

/// The console with what this server wants to suggest.
///
/// Serves `GET /` and files below `/console/`; merge it into the router of the client port.
pub fn router_with(hints: &Hints) -> Router {
    let hints = serde_json::to_vec(hints).unwrap_or_else(|_| b"{}".to_vec());
    let mut router = Router::new();
    for asset in ASSETS {
        let content = Content::new(asset.media_type, Bytes::from_static(asset.bytes));
        router = router.route(asset.path, serve(content));
    }
    router.route("/console/hints.json", serve(Content::new(JSON, hints.into())))
}

fn serve<S: Clone + Send + Sync + 'static>(content: Content) -> axum::routing::MethodRouter<S> {
    let content = Arc::new(content);
    get(move |headers: HeaderMap| {
        let content = Arc::clone(&content);
        async move { content.response(&headers) }
    })
}

/// Bytes ready to be served, with the tag browsers compare on their next visit.
struct Content {
    media_type: &'static str,
    bytes: Bytes,
    /// A strong entity tag (RFC 9110 section 8.8.3); `None` never happens for hexadecimal digits.
    etag: Option<HeaderValue>,
}

impl Content {
    fn new(media_type: &'static str, bytes: Bytes) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
        let hex: String = digest.as_ref().iter().take(12).map(|b| format!("{b:02x}")).collect();
        let etag = HeaderValue::from_str(&format!("\"{hex}\"")).ok();
        Self { media_type, bytes, etag }
    }

    fn response(&self, request: &HeaderMap) -> Response<Body> {
        let known = self.etag.as_ref().is_some_and(|etag| names_tag(request, etag));
        let mut response = if known {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        } else {
            Response::new(Body::from(self.bytes.clone()))
        };
        let headers = response.headers_mut();
        if !known {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.media_type));
        }
        if let Some(etag) = &self.etag {
            headers.insert(header::ETAG, etag.clone());
        }
        for (name, value) in FIXED_HEADERS {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

/// `no-cache` lets a browser keep the files but ask each time, so that a page and its scripts are
/// never of two versions for long; the answer is an empty 304.
const FIXED_HEADERS: [(HeaderName, &str); 6] = [
    (header::CACHE_CONTROL, "no-cache"),
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Whether `If-None-Match` (RFC 9110 section 13.1.2) names this tag. Proxies may have weakened it.
fn names_tag(request: &HeaderMap, etag: &HeaderValue) -> bool {
    request
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.trim_start_matches("W/").as_bytes() == etag.as_bytes())
}
