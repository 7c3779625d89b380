//! What happened between clients, callplane, stacks and phones, and whether the promises were kept.
//!
//! A [`History`] is what can be seen from outside: frames of clients, what phones saw, which faults
//! there were. What the store told is in it only where somebody could look. [`judge`] is written from
//! the promises P1 to P6, and knows nothing of how they are kept.

mod calls;
mod conversation;
mod ends;
mod identity;
mod stream;
mod truth;

use std::fmt::{self, Write as _};

/// Milliseconds since the beginning.
pub type Time = u64;

/// One thing that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub at: Time,
    pub what: What,
}

impl Event {
    pub fn is_fault(&self) -> bool {
        matches!(self.what, What::Fault { .. })
    }
}

/// What is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A client has a new connection.
    Connected { client: usize, connection: usize },
    /// It sent a frame.
    Sent { connection: usize, text: String },
    /// It received one.
    Received { connection: usize, text: String },
    /// The connection is gone; the close code, if one came.
    Closed { connection: usize, code: Option<u16> },
    /// An INVITE reached a phone. `from` and `asked` carry the command's mark.
    Invite {
        stack: usize,
        call: String,
        phone: String,
        from: String,
        asked: String,
        by_proxy: bool,
    },
    /// A REFER reached a phone.
    Refer { stack: usize, call: String, phone: String, to: String },
    /// A call was answered.
    Up { stack: usize, call: String },
    /// The proxy ended a call because it was told to.
    EndedByProxy { stack: usize, call: String },
    /// A phone ended a call.
    EndedByPhone { stack: usize, call: String },
    /// A call that clients know of from elsewhere.
    Given { stack: usize, call: String },
    /// At the end this call is up at a phone, or rings there.
    Left { stack: usize, call: String, setup: bool },
    /// The store committed an entry.
    Told { tenant: String, cmd_id: String, epoch: String, seq: u64, event: String },
    /// The store applied what a leader of this term reported.
    Applied { stack: String, epoch: String, term: u64 },
    /// Something went wrong from now until then.
    Fault { kind: Fault, until: Time },
}

/// What can go wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A process died.
    Crash,
    /// A process stood still.
    Pause,
    /// Messages between callplane and the store are lost, or the store does not answer.
    Store,
    /// The store lost what it had acknowledged.
    StoreLost,
    /// Published entries get lost, doubled, or out of order.
    Bus,
    /// Messages between callplane and a stack are lost or late.
    Stack { stack: usize },
    /// A stack restarted.
    Restart { stack: usize },
    /// A client's connection broke.
    Client,
    /// The leader was taken its lease.
    Lease,
}

impl Fault {
    /// Whether no process or no store was there: time that does not count.
    fn stops_time(&self) -> bool {
        match self {
            Self::Crash | Self::Pause | Self::Store | Self::StoreLost => true,
            Self::Bus | Self::Stack { .. } | Self::Restart { .. } | Self::Client | Self::Lease => {
                false
            }
        }
    }
}

/// All that was seen, in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    pub events: Vec<Event>,
    /// From then on nothing goes wrong any more.
    pub calm: Time,
    /// Until then it was watched.
    pub end: Time,
    /// Whether [`What::Told`] is in it.
    pub told: bool,
}

impl History {
    pub fn note(&mut self, at: Time, what: What) {
        self.events.push(Event { at, what });
    }

    /// The same history is the same text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for event in &self.events {
            writeln!(text, "{:>7} {:?}", event.at, event.what).unwrap();
        }
        text
    }
}

/// What was seen beside the frames, which are read once: the rest is gone through for each command.
struct Seen<'h> {
    events: Vec<&'h Event>,
    /// Since when and until when something went wrong.
    faults: Vec<(Time, Time, &'h Fault)>,
    end: Time,
    told: bool,
}

impl<'h> Seen<'h> {
    fn of(history: &'h History) -> Self {
        let (mut events, mut faults) = (Vec::new(), Vec::new());
        for event in &history.events {
            match &event.what {
                What::Connected { .. }
                | What::Sent { .. }
                | What::Received { .. }
                | What::Closed { .. } => {}
                What::Fault { kind, until } => faults.push((event.at, *until, kind)),
                What::Invite { .. }
                | What::Refer { .. }
                | What::Up { .. }
                | What::EndedByProxy { .. }
                | What::EndedByPhone { .. }
                | What::Given { .. }
                | What::Left { .. }
                | What::Told { .. }
                | What::Applied { .. } => events.push(event),
            }
        }
        Self { events, faults, end: history.end, told: history.told }
    }

    fn faults(&self) -> impl Iterator<Item = (Time, Time, &Fault)> {
        self.faults.iter().copied()
    }
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Which: P1 to P6.
    pub promise: &'static str,
    /// How.
    pub how: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise, self.how)
    }
}

/// Every broken promise of a history.
pub fn judge(history: &History) -> Vec<Broken> {
    let clients = conversation::of(history);
    let history = &Seen::of(history);
    let mut broken = Vec::new();
    for client in &clients {
        ends::judge(history, client, &mut broken);
        stream::judge(history, client, &mut broken);
        identity::judge_answers(history, client, &mut broken);
        truth::judge(history, client, &mut broken);
    }
    identity::judge_phones(history, &clients, &mut broken);
    calls::judge(history, &clients, &mut broken);
    stream::judge_terms(history, &mut broken);
    broken
}
