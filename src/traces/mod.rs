//! OpenTelemetry traces: what became of a command, as a tree of spans, whichever processes worked on it.
//!
//! ```text
//! the client's span, by its traceparent
//! └ request          this process took it and answered
//!   └ command        from its begin to its end, sent by the process that ended it
//!     ├ operation    what a stack was asked, sent by the process that asked
//!     └ event        what a stack reported, sent by the process that applied it
//! ```
//!
//! A record carries the context of the request that began its command, and the command's own context
//! derives from that ([`context`]): every process knows under what its spans belong, and nobody holds
//! a span open. Spans are made when what they tell of is over, from times of the store's clock, so
//! that those of different processes fit together.
//!
//! To tell of something is to put it into a bounded queue and never waits ([`queue`]).

pub mod context;
pub mod otlp;
pub mod queue;
mod span;
mod words;

use std::ops::Range;
use std::sync::Arc;

use opentelemetry::trace::{SpanId, SpanKind, TraceId};

use self::context::{Context, Placed};
use self::queue::Queue;
use self::span::{Draft, Key, text, word};
use crate::clock::{Clock, Nonces};
use crate::core::act::{Op, Reply};
use crate::core::command::Input;
use crate::core::failure::Outcome;
use crate::core::record::{Begin, Record};
use crate::core::time::StoreTime;

/// Tells of commands. Cheap to clone.
#[derive(Clone)]
pub struct Traces(Arc<Inner>);

struct Inner {
    queue: Queue,
    /// Of a million commands whose request carries no context, so many are traced.
    sample: u32,
    clock: Arc<dyn Clock>,
    nonces: Arc<dyn Nonces>,
}

impl Traces {
    /// Traces that go into this queue. `sample`: so many of a million commands, where the client
    /// does not say.
    #[must_use]
    pub fn new(queue: Queue, sample: u32, clock: Arc<dyn Clock>, nonces: Arc<dyn Nonces>) -> Self {
        Self(Arc::new(Inner { queue, sample, clock, nonces }))
    }

    /// A client asks for a command. From here on it carries the context of the span that tells of the
    /// request. Nothing where this command is not traced.
    #[must_use]
    pub fn asked(&self, begin: &mut Begin) -> Option<Asked> {
        let of_client = begin.trace.as_deref().and_then(Context::parse);
        let (trace, parent) = match &of_client {
            Some(parent) if parent.sampled => (parent.trace, Some(parent.span)),
            Some(_) => return None,
            None => (self.drawn()?, None),
        };
        let context = Context { trace, span: self.span_id(), sampled: true };
        let method = begin.request.method().as_str();
        let mut attributes = vec![
            word(Key::RPC_SYSTEM, "jsonrpc"),
            word(Key::RPC_METHOD, method),
            word(Key::JSONRPC_VERSION, "2.0"),
            text(Key::COMMAND, begin.key.id.as_str()),
        ];
        let id = begin.asked_by.as_deref().and_then(words::of_request);
        attributes.extend(id.map(|id| text(Key::JSONRPC_ID, &id)));
        begin.trace = Some(Arc::from(context.to_string()));
        Some(Asked {
            traces: self.clone(),
            began: self.0.clock.now(),
            draft: Draft {
                context,
                parent: parent.unwrap_or(SpanId::INVALID),
                kind: SpanKind::Server,
                name: method.into(),
                attributes,
                link: None,
                error: None,
            },
        })
    }

    /// A command ended: this is its last record.
    pub fn ended(&self, record: &Record, at: StoreTime) {
        let Some(Placed { context, parent }) = Placed::of(record) else { return };
        let state = &record.state;
        let Some(ending) = state.ending() else { return };
        let mut attributes = vec![
            word(Key::METHOD, state.method.as_str()),
            text(Key::COMMAND, record.key.id.as_str()),
            text(Key::STACK, state.plan.stack.as_str()),
            word(Key::OUTCOME, ending.outcome.as_str()),
        ];
        let sip = ending.error.as_ref().and_then(|error| error.sip.as_ref());
        attributes.extend(sip.map(|sip| span::sip(sip.code)));
        let error = match ending.outcome {
            Outcome::Success | Outcome::Cancelled => None,
            Outcome::Failed | Outcome::NotStarted | Outcome::Unknown { .. } => {
                Some(ending.error.as_ref().map_or("unknown", |error| error.code.as_str()))
            }
        };
        let draft = Draft {
            context,
            parent,
            kind: SpanKind::Internal,
            name: format!("command {}", state.method.as_str()).into(),
            attributes,
            link: None,
            error,
        };
        self.0.queue.put(draft.over(&(state.begun..at)));
    }

    /// An operation of a command was answered.
    pub fn performed(&self, record: &Record, op: &Op, reply: &Reply, during: &Range<StoreTime>) {
        let Some(placed) = Placed::of(record) else { return };
        let mut attributes = vec![
            text(Key::STACK, op.stack.as_str()),
            text(Key::PEER, op.stack.as_str()),
            word(Key::OPERATION, op.act.verb()),
            word(Key::REPLY, reply.word()),
        ];
        attributes.extend(words::call_of(&op.act).map(|call| text(Key::CALL, call.as_str())));
        attributes.extend(words::refused_by_phone(reply).map(span::sip));
        let draft = Draft {
            kind: SpanKind::Client,
            name: op.act.verb().into(),
            attributes,
            error: words::error_of(reply),
            ..self.below(&placed)
        };
        self.0.queue.put(draft.over(during));
    }

    /// Inputs changed a command.
    pub fn took_in(&self, record: &Record, inputs: &[Input], during: &Range<StoreTime>) {
        let told = |input: &&Input| words::of_input(input).is_some();
        if !inputs.iter().any(|input| told(&input)) {
            return;
        }
        let Some(placed) = Placed::of(record) else { return };
        for words in inputs.iter().filter_map(words::of_input) {
            let stack = text(Key::STACK, record.state.plan.stack.as_str());
            let draft = Draft {
                kind: words.kind.clone(),
                attributes: [stack].into_iter().chain(words.attributes()).collect(),
                name: words.name.into(),
                ..self.below(&placed)
            };
            self.0.queue.put(draft.over(during));
        }
    }

    /// A span below a command.
    fn below(&self, command: &Placed) -> Draft {
        Draft {
            context: Context { span: self.span_id(), ..command.context },
            parent: command.context.span,
            kind: SpanKind::Internal,
            name: "".into(),
            attributes: Vec::new(),
            link: None,
            error: None,
        }
    }

    /// The id of a new trace, unless the dice are against one.
    fn drawn(&self) -> Option<TraceId> {
        let drawn = self.0.nonces.nonce().0;
        let dice = u32::try_from(drawn % 1_000_000).unwrap_or_default();
        (dice < self.0.sample).then(|| TraceId::from(self.0.nonces.nonce().0 | 1))
    }

    fn span_id(&self) -> SpanId {
        let [.., a, b, c, d, e, f, g, h] = self.0.nonces.nonce().0.to_be_bytes();
        // Zero is no id.
        SpanId::from_bytes([a, b, c, d, e, f, g, h | 1])
    }
}

/// A request that is being answered. Its span is told of when this is dropped, also because the
/// client went away.
pub struct Asked {
    traces: Traces,
    began: StoreTime,
    draft: Draft,
}

impl Asked {
    /// The same command was asked for before.
    pub fn repeats(&mut self, record: &Record) {
        self.draft.attributes.push(span::flag(Key::REPEATED));
        self.draft.link = Placed::of(record).map(|placed| placed.context);
    }

    /// The store is away, so the call was ended straight at the stack.
    pub fn went_straight(&mut self) {
        self.draft.attributes.push(span::flag(Key::DEGRADED));
    }

    /// It was answered with this error.
    pub fn refused(&mut self, kind: &'static str, code: i32) {
        self.draft.attributes.push(text(Key::RPC_STATUS, &code.to_string()));
        self.draft.error = Some(kind);
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let during = self.began..self.traces.0.clock.now();
        self.traces.0.queue.put(std::mem::take(&mut self.draft).over(&during));
    }
}
