//! What a client is told. A notice is committed with the state that it tells of.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::failure::{Failure, Outcome, SipStatus};
use super::ids::CallId;
use super::request::Leg;

/// One entry of a command in the tenant's stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notice {
    /// The command is recorded. Rendered as the response on the connection that asked.
    Started {
        /// Milliseconds until `Ended` at the latest.
        deadline_ms: u64,
    },
    /// Something happened.
    Progress {
        /// What, by its old name.
        event: Event,
        /// The details.
        data: Data,
    },
    /// The command did not succeed. Sent directly before `Ended`.
    Error(Failure),
    /// The one terminal entry.
    Ended {
        /// How.
        outcome: Outcome,
        /// What else is to be said.
        remarks: Remarks,
    },
}

/// The events between `Started` and the end, named as the old server named them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Event {
    /// The caller's phone rings (new; the old server said nothing).
    CallerRinging,
    /// The caller's phone answered.
    CallerAnswered,
    /// The party was asked to call.
    Transferring,
    /// It calls.
    TransferStart,
    /// It reports progress.
    TransferPending,
    /// The callee answered.
    CalleeAnswered,
    /// The target answered.
    TransferSuccessful,
    /// A leg was sent a hold.
    CallHoldStart,
    /// A leg took it.
    CallHoldSuccessful,
    /// The call is being held.
    CallHolding,
    /// A leg was sent its media back.
    CallUnholdStart,
    /// A leg took it.
    CallUnholdSuccessful,
    /// The call is being taken back.
    CallUnholding,
}

impl Event {
    /// All of them, for documents.
    pub const ALL: [Self; 13] = [
        Self::CallerRinging,
        Self::CallerAnswered,
        Self::Transferring,
        Self::TransferStart,
        Self::TransferPending,
        Self::CalleeAnswered,
        Self::TransferSuccessful,
        Self::CallHoldStart,
        Self::CallHoldSuccessful,
        Self::CallHolding,
        Self::CallUnholdStart,
        Self::CallUnholdSuccessful,
        Self::CallUnholding,
    ];

    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CallerRinging => "CallerRinging",
            Self::CallerAnswered => "CallerAnswered",
            Self::Transferring => "Transferring",
            Self::TransferStart => "TransferStart",
            Self::TransferPending => "TransferPending",
            Self::CalleeAnswered => "CalleeAnswered",
            Self::TransferSuccessful => "TransferSuccessful",
            Self::CallHoldStart => "CallHoldStart",
            Self::CallHoldSuccessful => "CallHoldSuccessful",
            Self::CallHolding => "CallHolding",
            Self::CallUnholdStart => "CallUnholdStart",
            Self::CallUnholdSuccessful => "CallUnholdSuccessful",
            Self::CallUnholding => "CallUnholding",
        }
    }
}

/// The details of an event, by the old server's keys. Absent keys are not sent; `data` itself is
/// absent when all are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Data {
    /// The callee's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub callee: Option<Arc<str>>,
    /// The caller's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<Arc<str>>,
    /// The Call-ID of the new call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub callid: Option<CallId>,
    /// Where a transfer goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<Arc<str>>,
    /// A SIP status that was reported, such as `180 Ringing`.
    #[serde(skip_serializing_if = "Option::is_none", with = "status_text")]
    pub extra: Option<SipStatus>,
    /// Which leg.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leg: Option<Leg>,
}

impl Data {
    /// Whether there is nothing to say.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// On the wire and in records a reported status is one text, as the old server wrote it.
mod status_text {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::SipStatus;

    pub fn serialize<S: Serializer>(status: &Option<SipStatus>, s: S) -> Result<S::Ok, S::Error> {
        match status {
            Some(status) => s.collect_str(status),
            None => s.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<SipStatus>, D::Error> {
        Ok(Option::<String>::deserialize(d)?.and_then(|text| SipStatus::parse(&text)))
    }
}

/// Facts that stand beside the outcome in `Ended`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Remarks {
    /// An attended transfer: whether the target's phone ended the replaced call itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaced: Option<bool>,
    /// A call that was asked for may still ring somewhere: it could not be proven ours to end.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub may_still_ring: bool,
    /// There was nothing to change.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub already: bool,
    /// A setup leg of ours could not be ended.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub leg_left_up: bool,
    /// The new call was never seen at the stack: the transferee's NOTIFY is the only witness
    /// (`observed: notify`).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub observed_by_notify: bool,
}
