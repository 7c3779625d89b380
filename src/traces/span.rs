//! Spans as the exporter takes them, and the names of what stands in them.
//!
//! Names are those of the semantic conventions where there are any, else `callplane.`. Values are
//! words of the program's own, or pass [`redact`]: no user of a SIP address leaves in a trace.

use std::borrow::Cow;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{Link, SpanId, SpanKind, Status, TraceId};
use opentelemetry::{InstrumentationScope, KeyValue, StringValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::context::Context;
use crate::core::time::StoreTime;
use crate::telemetry::redact;

/// What attributes are called.
pub(super) struct Key;

impl Key {
    pub(super) const RPC_SYSTEM: &str = "rpc.system.name";
    pub(super) const RPC_METHOD: &str = "rpc.method";
    pub(super) const RPC_STATUS: &str = "rpc.response.status_code";
    pub(super) const JSONRPC_VERSION: &str = "jsonrpc.protocol.version";
    pub(super) const JSONRPC_ID: &str = "jsonrpc.request.id";
    pub(super) const ERROR: &str = "error.type";
    pub(super) const PEER: &str = "peer.service";
    pub(super) const COMMAND: &str = "callplane.command.id";
    pub(super) const METHOD: &str = "callplane.command.method";
    pub(super) const OUTCOME: &str = "callplane.command.outcome";
    pub(super) const REPEATED: &str = "callplane.command.repeated";
    pub(super) const DEGRADED: &str = "callplane.command.degraded";
    pub(super) const STACK: &str = "callplane.stack";
    pub(super) const OPERATION: &str = "callplane.operation";
    pub(super) const REPLY: &str = "callplane.operation.reply";
    pub(super) const EVENT: &str = "callplane.event";
    pub(super) const STATE: &str = "callplane.event.state";
    pub(super) const CALL: &str = "callplane.call.id";
    pub(super) const SIP: &str = "callplane.sip.status_code";
}

/// One of the program's own words.
pub(super) fn word(key: &'static str, word: &'static str) -> KeyValue {
    KeyValue::new(key, word)
}

/// A text that came from outside.
pub(super) fn text(key: &'static str, text: &str) -> KeyValue {
    KeyValue::new(key, StringValue::from(redact(text).into_owned()))
}

/// It is so.
pub(super) fn flag(key: &'static str) -> KeyValue {
    KeyValue::new(key, true)
}

/// Why something went wrong, in one word.
pub(super) fn error(kind: &'static str) -> KeyValue {
    word(Key::ERROR, kind)
}

/// A phone's answer.
pub(super) fn sip(code: u16) -> KeyValue {
    KeyValue::new(Key::SIP, i64::from(code))
}

/// A span of which only the times are missing.
pub(super) struct Draft {
    pub(super) context: Context,
    pub(super) parent: SpanId,
    pub(super) kind: SpanKind,
    pub(super) name: Cow<'static, str>,
    pub(super) attributes: Vec<KeyValue>,
    /// A span of another trace, or of another branch, that is about the same.
    pub(super) link: Option<Context>,
    pub(super) error: Option<&'static str>,
}

impl Default for Draft {
    fn default() -> Self {
        Self {
            context: Context { trace: TraceId::INVALID, span: SpanId::INVALID, sampled: false },
            parent: SpanId::INVALID,
            kind: SpanKind::Internal,
            name: Cow::Borrowed(""),
            attributes: Vec::new(),
            link: None,
            error: None,
        }
    }
}

impl Draft {
    /// The span, now that it is over.
    pub(super) fn over(self, during: &Range<StoreTime>) -> SpanData {
        let Self { context, parent, kind, name, mut attributes, link, error: kind_of_error } = self;
        attributes.extend(kind_of_error.map(error));
        let mut links = SpanLinks::default();
        links.links.extend(link.map(|context| Link::with_context(context.spoken(true))));
        SpanData {
            span_context: context.spoken(false),
            parent_span_id: parent,
            // Every parent may be of another process; only a request's is for sure.
            parent_span_is_remote: kind == SpanKind::Server && parent != SpanId::INVALID,
            span_kind: kind,
            name,
            start_time: at(during.start),
            // A clock that was set back makes no span end before it began.
            end_time: at(during.end.max(during.start)),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links,
            status: kind_of_error.map_or(Status::Unset, Status::error),
            instrumentation_scope: scope(),
        }
    }
}

fn at(time: StoreTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(time.0)
}

fn scope() -> InstrumentationScope {
    InstrumentationScope::builder("callplane").with_version(env!("CARGO_PKG_VERSION")).build()
}
