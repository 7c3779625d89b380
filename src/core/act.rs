//! What is asked of a stack, and what comes back.
//!
//! An act is one verb of ours. A connector may need several requests for it: it may begin with
//! looks, and its last request is the one that counts as sent.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ids::{CallId, DialogId, OpId, PodId, StackId};
use super::plan::{Capabilities, OVERDUE};
use super::request::{Display, Leg};
use super::sip_address::SipAddress;
use super::stack_event::Uptime;
use super::time::StoreTime;

/// One operation at a stack: committed before it is sent, sent by one performer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Op {
    /// Its name; on the reference script also the token and the mark.
    pub id: OpId,
    /// The pod that performs it. Nobody else ever does.
    pub by: PodId,
    /// Where.
    pub stack: StackId,
    /// What.
    pub act: Act,
    /// Checked directly before the act's last request: not sent by then, never sent.
    pub send_before: StoreTime,
    /// No reply by then is [`Reply::Silent`].
    pub reply_by: StoreTime,
}

impl Op {
    /// When its reply is overdue.
    #[must_use]
    pub fn overdue_at(&self) -> StoreTime {
        self.reply_by.after(OVERDUE)
    }
}

/// What an operation does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Act {
    /// Ring the caller with an INVITE of our own. Replied when the phone has answered or refused.
    Invite {
        /// The Call-ID of the setup leg.
        call: CallId,
        /// Who is rung.
        caller: SipAddress,
        /// Who is shown.
        callee: SipAddress,
        /// The display name shown, if other than the address.
        display: Option<Display>,
        /// Ask the phone to answer by itself.
        auto_answer: bool,
    },
    /// Give up the ringing INVITE of a setup leg. Safe.
    CancelInvite {
        /// The setup leg.
        call: CallId,
    },
    /// Ask one party of a confirmed call to call somebody else. Once.
    Refer {
        /// The call.
        call: CallId,
        /// Who is asked.
        leg: Leg,
        /// Whom to call.
        to: ReferTo,
    },
    /// Send one leg of a confirmed call a new offer. Once.
    ReInvite {
        /// The call.
        call: CallId,
        /// Who gets the offer.
        leg: Leg,
        /// What is offered.
        offer: Offer,
    },
    /// The stack's own hold or unhold of both legs. Once.
    StackHold {
        /// The call.
        call: CallId,
        /// Hold or take back.
        offer: Offer,
    },
    /// Note on the call whether it is held. Safe.
    Mark {
        /// The call.
        call: CallId,
        /// What is true now.
        held: bool,
    },
    /// End a call: BYE to both parties, or CANCEL while it rings. Safe.
    End {
        /// The call.
        call: CallId,
    },
    /// Void the one-use token of a REFER. Safe.
    Revoke {
        /// The operation that sent the REFER.
        token: OpId,
    },
    /// See how a call stands. Safe.
    Look {
        /// The call.
        call: CallId,
        /// Also look for the call that this REFER brought about.
        referred_by: Option<OpId>,
        /// Also ask whether this INVITE left the proxy.
        sent: Option<Sent>,
    },
}

/// An INVITE whose mark is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// The operation that sent it.
    pub op: OpId,
    /// When that was committed. Marks die with the stack, so one that runs only since later can't
    /// say that it was never sent.
    pub since: StoreTime,
}

/// What a media offer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Offer {
    /// Put the leg on hold, whether or not the call is held already.
    Hold {
        /// Refuse with 480 when the call is held by us already, and mark it as held first.
        first: bool,
    },
    /// Take the leg back.
    Resume {
        /// Refuse with 480 when the call is not held by us.
        first: bool,
        /// Mark the call as no longer held first.
        last: bool,
    },
}

/// Whom a party is to call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReferTo {
    /// Somebody new.
    Address(SipAddress),
    /// The party at this leg of another call, in that call's place (RFC 3891).
    Replacing {
        /// The call that is replaced.
        call: CallId,
        /// The party that stays.
        leg: Leg,
    },
}

/// Whether an act may be repeated while its fate is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Repeat until answered.
    Safe,
    /// Sent at most once, ever. In doubt: look, never repeat.
    Once,
}

impl Act {
    /// Whether this act may be repeated at a stack with these capabilities.
    #[must_use]
    pub fn repeat(&self, capabilities: &Capabilities) -> Repeat {
        match self {
            Self::Invite { .. } if capabilities.start_is_safe => Repeat::Safe,
            Self::Invite { .. }
            | Self::Refer { .. }
            | Self::ReInvite { .. }
            | Self::StackHold { .. } => Repeat::Once,
            Self::CancelInvite { .. }
            | Self::Mark { .. }
            | Self::End { .. }
            | Self::Revoke { .. }
            | Self::Look { .. } => Repeat::Safe,
        }
    }

    /// A short word for logs and metrics.
    #[must_use]
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Invite { .. } => "invite",
            Self::CancelInvite { .. } => "cancel_invite",
            Self::Refer { .. } => "refer",
            Self::ReInvite { .. } => "reinvite",
            Self::StackHold { .. } => "stack_hold",
            Self::Mark { .. } => "mark",
            Self::End { .. } => "end",
            Self::Revoke { .. } => "revoke",
            Self::Look { .. } => "look",
        }
    }
}

/// What came of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// It was done; here is what was learned.
    Done(Facts),
    /// It was answered with a refusal.
    Refused {
        /// Whose refusal.
        by: Refuser,
        /// The code: a SIP status of the phone, or the stack's own.
        code: u16,
        /// The words that came with it.
        reason: Arc<str>,
    },
    /// The call it is about could not be found; nothing was sent to a phone.
    Missing {
        /// The call that is missing.
        call: CallId,
        /// What the looks saw.
        sighting: Box<Sighting>,
    },
    /// It provably never left us.
    NotSent(NotSent),
    /// Nobody knows: no answer in time.
    Silent,
}

impl Reply {
    /// A short word for logs and metrics.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Done(_) => "done",
            Self::Refused { .. } => "refused",
            Self::Missing { .. } => "missing",
            Self::NotSent(_) => "not_sent",
            Self::Silent => "silent",
        }
    }
}

/// Who refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refuser {
    /// The far end, by a SIP status (or the proxy in its place, such as 408).
    Phone,
    /// The stack, before anything was sent to a phone.
    Stack,
}

/// Why an operation never left us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NotSent {
    /// The stack does not answer, and we know it.
    Unreachable,
    /// Its turn came too late.
    TooLate,
    /// Too many are under way.
    Overloaded,
    /// Its commit is in fewer servers than the configuration asks for, and it is sent at most once.
    NotKept,
}

/// What was learned from an operation that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Facts {
    /// Nothing but that it was done.
    Nothing,
    /// The caller's phone answered our INVITE.
    Answered {
        /// Whether the phone's `Allow` names REFER; `None` without such a header.
        takes_refer: Option<bool>,
    },
    /// The party took the REFER with a 2xx (or the stack merely sent it: `code` 0).
    Referred {
        /// The 2xx.
        code: u16,
        /// The address of the party that was asked, as the stack knows it.
        transferee: Arc<str>,
    },
    /// The stack has this operation's call already: nothing new was sent.
    Adopted,
    /// What a look saw.
    Looked(Box<Sighting>),
}

/// What a look saw. It proves presence; absence needs two of them ([`Sighting::full`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// The call, if it is there.
    pub call: Option<Box<Dialog>>,
    /// The call that the REFER brought about, if it was asked for and is there.
    pub referred: Option<Box<Dialog>>,
    /// A complete list was read, of this life of the stack. Pages prove nothing. Without one, a
    /// referred call that is not shown may be there all the same.
    pub full: Option<Uptime>,
    /// An event of the last 10 s named the call, so one list is not enough to call it absent.
    pub named_recently: bool,
    /// Whether the INVITE asked about left the proxy; `None`: can't be known, also when the stack
    /// started after it was to be sent.
    pub sent: Option<bool>,
}

/// A dialog as a stack lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dialog {
    /// Its Call-ID.
    pub call: CallId,
    /// The stack's handle.
    pub id: DialogId,
    /// How far it is.
    pub state: DialogState,
    /// Who called, as the stack writes it.
    pub from: Arc<str>,
    /// Who was called.
    pub to: Arc<str>,
    /// The last operation of ours that the proxy sent inside it (reference script).
    pub last_op: Option<OpId>,
    /// What the stack's own transfer module noted on it, where that sends the REFER.
    pub refer: Option<ReferMark>,
}

/// What the stack's own `call_transfer` leaves on the call (fact F27).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReferMark {
    /// `call_transfer_leg` names a leg: the REFER is out, or was taken.
    Out,
    /// `call_transfer_leg` is empty and no `call_transfer_callid` stands beside it: the REFER was
    /// refused.
    Refused,
    /// `call_transfer_callid`: the new call.
    Placed(CallId),
}

/// The states of a dialog, numbered as OpenSIPS does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DialogState {
    /// 1: nothing has come back yet.
    Unconfirmed,
    /// 2: it rings.
    Early,
    /// 3: answered, the ACK is missing.
    Answered,
    /// 4: up.
    Confirmed,
    /// 5: over.
    Deleted,
}

impl DialogState {
    /// From the number on the wire.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        match number {
            1 => Some(Self::Unconfirmed),
            2 => Some(Self::Early),
            3 => Some(Self::Answered),
            4 => Some(Self::Confirmed),
            5 => Some(Self::Deleted),
            _ => None,
        }
    }
}
