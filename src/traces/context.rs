//! Where a span stands: the W3C trace context.
//!
//! A record carries the `traceparent` of the request that began its command. The command's own span
//! has an id that derives from the record, so that each process puts its spans below it, though only
//! the one that ends the command will tell of it.

use std::fmt;

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
use ring::digest::{SHA256, digest};

use crate::core::record::Record;

/// A span's place among all others (<https://www.w3.org/TR/trace-context/>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// The trace that it is part of.
    pub trace: TraceId,
    /// Its own id.
    pub span: SpanId,
    /// Whether anybody is told of it.
    pub sampled: bool,
}

impl Context {
    /// Reads a `traceparent`. Nothing where it names no span.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut groups = text.split('-');
        let (version, trace, span, flags) =
            (groups.next()?, groups.next()?, groups.next()?, groups.next()?);
        let shape = [version.len(), trace.len(), span.len(), flags.len()];
        if shape != [2, 32, 16, 2] || version == "ff" {
            return None;
        }
        let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
        if trace == TraceId::INVALID || span == SpanId::INVALID {
            return None;
        }
        let flags = u8::from_str_radix(flags, 16).ok()?;
        Some(Self { trace, span, sampled: TraceFlags::new(flags).is_sampled() })
    }

    /// The same in the words of the library.
    #[must_use]
    pub(super) fn spoken(&self, remote: bool) -> SpanContext {
        let flags = TraceFlags::default().with_sampled(self.sampled);
        SpanContext::new(self.trace, self.span, flags, remote, TraceState::default())
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = TraceFlags::default().with_sampled(self.sampled);
        write!(f, "00-{}-{}-{:02x}", self.trace, self.span, flags.to_u8())
    }
}

/// A command that is traced, and where.
pub struct Placed {
    /// Its own context.
    pub context: Context,
    /// The span of the request that began it.
    pub parent: SpanId,
}

impl Placed {
    /// The place of a command; nothing where it is not traced.
    #[must_use]
    pub fn of(record: &Record) -> Option<Self> {
        let request = Context::parse(record.trace.as_deref()?).filter(|context| context.sampled)?;
        // Where the process that began it traces nothing, several commands may have one parent.
        let parts: [&[u8]; 4] = [
            &request.trace.to_bytes(),
            &request.span.to_bytes(),
            &record.state.begun.0.to_be_bytes(),
            record.key.id.as_str().as_bytes(),
        ];
        let span = match digest(&SHA256, &parts.concat()).as_ref() {
            [a, b, c, d, e, f, g, h, ..] => [*a, *b, *c, *d, *e, *f, *g, *h | 1],
            _ => return None,
        };
        let context = Context { span: SpanId::from_bytes(span), ..request };
        Some(Self { context, parent: request.span })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_read_and_written_back() {
        for text in [PARENT, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"] {
            let context = Context::parse(text).unwrap();
            assert_eq!(context.to_string(), text);
            assert_eq!(context.sampled, text.ends_with('1'));
        }
        // A later version may say more, and other flags mean nothing to us.
        let later = "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03-more";
        assert_eq!(Context::parse(later), Context::parse(PARENT));
    }

    #[test]
    fn what_names_no_span_is_none() {
        for text in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c8031-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01",
        ] {
            assert_eq!(Context::parse(text), None, "{text}");
        }
    }

    fn record(trace: Option<&str>, n: usize) -> Record {
        let mut lines = include_str!("../../tests/records/format-1.jsonl").lines();
        let record = serde_json::from_str::<Record>(lines.nth(n).unwrap()).unwrap();
        Record { trace: trace.map(Arc::from), ..record }
    }

    #[test]
    fn every_version_of_a_command_has_one_place_below_its_request() {
        let first = record(Some(PARENT), 0);
        let later = Record { version: 9, ..first.clone() };
        let (one, other) = (Placed::of(&first).unwrap(), Placed::of(&later).unwrap());
        assert_eq!(one.context, other.context);
        let request = Context::parse(PARENT).unwrap();
        assert_eq!((one.parent, one.context.trace), (request.span, request.trace));
        assert_ne!(one.context.span, request.span);
        // Two commands of one client's span are two.
        let mut another = first.clone();
        another.key.id = crate::core::ids::CommandId::parse("another").unwrap();
        assert_ne!(Placed::of(&another).unwrap().context.span, one.context.span);
    }

    #[test]
    fn what_is_not_sampled_has_no_place() {
        assert!(Placed::of(&record(None, 0)).is_none());
        assert!(Placed::of(&record(Some(&PARENT.replace("-01", "-00")), 0)).is_none());
    }
}
