//! What a client may ask for, parsed and checked.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ids::CallId;
use super::sip_address::SipAddress;
use std::sync::Arc;

/// Which of the two parties of a dialog: who sent its INVITE, or who answered it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Leg {
    /// The party that sent the INVITE.
    Caller,
    /// The party that answered it.
    Callee,
}

impl Leg {
    /// The word on both wires, ours and the stack's.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Callee => "callee",
        }
    }

    /// The other party.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Caller => Self::Callee,
            Self::Callee => Self::Caller,
        }
    }
}

/// A client's command, ready to begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Ring the caller, then have the caller's phone call the callee (click to dial).
    Start(StartRequest),
    /// Send one party of a call elsewhere.
    BlindTransfer {
        /// The call.
        call: CallId,
        /// Who is sent: the party that receives the REFER.
        leg: Leg,
        /// Where to.
        destination: SipAddress,
    },
    /// Join the far ends of two calls.
    AttendedTransfer {
        /// The call whose party receives the REFER.
        call: CallId,
        /// That party.
        leg: Leg,
        /// The call that is replaced.
        consult: CallId,
        /// Its party that stays.
        consult_leg: Leg,
    },
    /// Put both parties of a call on hold.
    Hold {
        /// The call.
        call: CallId,
    },
    /// Take both parties back.
    Unhold {
        /// The call.
        call: CallId,
    },
    /// End a call.
    End {
        /// The call.
        call: CallId,
    },
}

/// The params of `CallStart`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartRequest {
    /// Whose phone rings first.
    pub caller: SipAddress,
    /// Whom that phone then calls.
    pub callee: SipAddress,
    /// How long each of the two may ring; the configured time when absent.
    pub ring_timeout: Option<Duration>,
    /// What the caller's phone shows; the callee's address when absent. Printable text without
    /// quotes and backslashes, at most 64 bytes ([`Display::parse`]).
    pub display: Option<Display>,
    /// Ask the caller's phone to answer by itself.
    pub auto_answer: bool,
    /// Tell when the caller's phone rings. The old server never did, and its example page warns
    /// of events it does not know.
    pub ringing: bool,
}

/// A display name that is safe between quotes in a From header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Display(Arc<str>);

impl Display {
    /// Takes a display name: 1 to 64 bytes, no control characters, quotes or backslashes.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() || text.len() > 64 {
            return Err("must have 1 to 64 bytes");
        }
        if text.chars().any(|c| c.is_control() || matches!(c, '"' | '\\' | '<' | '>')) {
            return Err("has a character that is not allowed in a display name");
        }
        Ok(Self(Arc::from(text)))
    }

    /// The text, without quotes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The methods whose commands the core runs, by their names on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Method {
    /// `CallStart`
    CallStart,
    /// `CallBlindTransfer`
    CallBlindTransfer,
    /// `CallAttendedTransfer`
    CallAttendedTransfer,
    /// `CallHold`
    CallHold,
    /// `CallUnhold`
    CallUnhold,
    /// `CallEnd`
    CallEnd,
}

impl Method {
    /// All of them, for metrics and documents.
    pub const ALL: [Self; 6] = [
        Self::CallStart,
        Self::CallBlindTransfer,
        Self::CallAttendedTransfer,
        Self::CallHold,
        Self::CallUnhold,
        Self::CallEnd,
    ];

    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CallStart => "CallStart",
            Self::CallBlindTransfer => "CallBlindTransfer",
            Self::CallAttendedTransfer => "CallAttendedTransfer",
            Self::CallHold => "CallHold",
            Self::CallUnhold => "CallUnhold",
            Self::CallEnd => "CallEnd",
        }
    }

    /// Whether the command places a call or moves one: its id is kept longer then.
    #[must_use]
    pub fn places_calls(self) -> bool {
        match self {
            Self::CallStart | Self::CallBlindTransfer | Self::CallAttendedTransfer => true,
            Self::CallHold | Self::CallUnhold | Self::CallEnd => false,
        }
    }
}

impl Request {
    /// The method that this is.
    #[must_use]
    pub fn method(&self) -> Method {
        match self {
            Self::Start(_) => Method::CallStart,
            Self::BlindTransfer { .. } => Method::CallBlindTransfer,
            Self::AttendedTransfer { .. } => Method::CallAttendedTransfer,
            Self::Hold { .. } => Method::CallHold,
            Self::Unhold { .. } => Method::CallUnhold,
            Self::End { .. } => Method::CallEnd,
        }
    }

    /// The call that it is about, if it exists already.
    #[must_use]
    pub fn call(&self) -> Option<&CallId> {
        match self {
            Self::Start(_) => None,
            Self::BlindTransfer { call, .. }
            | Self::AttendedTransfer { call, .. }
            | Self::Hold { call }
            | Self::Unhold { call }
            | Self::End { call } => Some(call),
        }
    }

    /// Whether a call is to be ended: the one thing that is never refused, whatever else goes on.
    #[must_use]
    pub fn is_end(&self) -> bool {
        match self {
            Self::End { .. } => true,
            Self::Start(_)
            | Self::BlindTransfer { .. }
            | Self::AttendedTransfer { .. }
            | Self::Hold { .. }
            | Self::Unhold { .. } => false,
        }
    }
}
