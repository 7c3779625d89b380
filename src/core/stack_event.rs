//! What a stack reports by itself.
//!
//! Events arrive in any order, twice, or not at all (fact W11). Each is a fact about a
//! call or an operation; the machines apply them idempotently.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::act::DialogState;
use super::failure::SipStatus;
use super::ids::{Boot, CallId, DialogId, OpId};
use super::request::Leg;
use super::time::StoreTime;

/// One fact that a stack reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StackEvent {
    /// A dialog changed its state, or a list showed it in this one.
    Dialog {
        /// Which call.
        call: CallId,
        /// The stack's handle: two dialogs can carry one Call-ID (fact F4).
        dialog: DialogId,
        /// Its state now.
        state: DialogState,
    },
    /// A transfer advanced, as the stack's own transfer module saw it.
    Transfer {
        /// The call that is being transferred.
        call: CallId,
        /// The new call, where the event names it.
        new_call: Option<CallId>,
        /// Where the new call goes, after look-up.
        destination: Option<Arc<str>>,
        /// How far.
        state: TransferState,
    },
    /// The referred INVITE advanced, proven by its token (reference script).
    Referral {
        /// The operation that sent the REFER.
        token: OpId,
        /// The new call.
        new_call: CallId,
        /// Where it goes.
        destination: Option<Arc<str>>,
        /// How far.
        state: TransferState,
    },
    /// One leg's hold or unhold by the stack's own module.
    Hold {
        /// The call.
        call: CallId,
        /// The leg.
        leg: Leg,
        /// Hold, or unhold.
        hold: bool,
        /// How far.
        state: HoldState,
    },
    /// The stack runs since another moment than before: its memory is gone.
    Restarted(Uptime),
}

/// Since when a stack runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uptime {
    /// Which life of the stack this is.
    pub boot: Boot,
    /// The latest moment at which it can have begun. What began later runs in it; what began
    /// up to two seconds earlier may do so too.
    pub since: StoreTime,
}

/// How far a transfer is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TransferState {
    /// The new INVITE was seen.
    Start,
    /// The transferee reports progress (a NOTIFY's sipfrag), or the new INVITE got a 1xx.
    Progress(SipStatus),
    /// The new INVITE was answered.
    Ok,
    /// The new INVITE failed. Not final by itself: an ok may follow (fact F6).
    Fail(SipStatus),
    /// The transferee reports the end of the new INVITE by NOTIFY.
    Notified(SipStatus),
}

/// How far a leg's hold is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HoldState {
    /// The re-INVITE was sent.
    Start,
    /// The leg took it.
    Ok,
    /// The leg did not.
    Fail,
}

impl StackEvent {
    /// The calls and the operation by which the event finds its command.
    pub fn names(&self) -> impl Iterator<Item = Watch> + '_ {
        let (first, second, token) = match self {
            Self::Dialog { call, .. } | Self::Hold { call, .. } => (Some(call), None, None),
            Self::Transfer { call, new_call, .. } => (Some(call), new_call.as_ref(), None),
            Self::Referral { token, new_call, .. } => (None, Some(new_call), Some(token)),
            Self::Restarted(_) => (None, None, None),
        };
        first
            .into_iter()
            .chain(second)
            .map(|call| Watch::Call(call.clone()))
            .chain(token.map(|token| Watch::Op(token.clone())))
    }
}

/// What a running command listens to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Watch {
    /// Everything about this call.
    Call(CallId),
    /// Everything that carries this token.
    Op(OpId),
}
