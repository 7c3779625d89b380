//! SIP stacks: what the engine asks of one, in our own verbs.
//!
//! A connector keeps no state of calls or commands. It turns one [`Op`] into requests and one
//! [`Reply`], and what the stack reports into [`StackEvent`]s. Sockets, request ids, the breaker
//! and the subscription are its own business.

mod address_text;
mod event_text;
pub mod mi;
pub mod opensips;
pub mod simulated;

use std::future::Future;
use std::time::Duration;

use crate::core::act::{Dialog, Op, Reply};
use crate::core::ids::StackId;
use crate::core::plan::Capabilities;
use crate::core::stack_event::{StackEvent, Uptime};

/// One SIP stack.
pub trait SipStack: Send + Sync + 'static {
    /// What it can, as far as is known now. Changes when the stack is first reached.
    fn capabilities(&self) -> Capabilities;

    /// How long its phones may be silent before it gives them up (`fr_timeout`), where it tells.
    /// Otherwise the configuration's word counts.
    fn fr_timeout(&self) -> Option<Duration> {
        None
    }

    /// Waits until [`Self::capabilities`] are those of the stack and not a guess; at most half a
    /// second for a stack that does not answer.
    fn introduced(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Performs one operation and says what came of it. Checks `send_before` directly before the
    /// act's last request; answers [`Reply::Silent`] by `reply_by` at the latest.
    fn perform(&self, op: &Op) -> impl Future<Output = Reply> + Send;

    /// Since when it runs, as was learned last. `None`: it was not reached yet, or does not say.
    fn uptime(&self) -> Option<Uptime> {
        None
    }

    /// The same, asked now.
    fn ask_uptime(&self) -> impl Future<Output = Option<Uptime>> + Send {
        std::future::ready(None)
    }

    /// Every dialog that the stack has, in one complete list.
    ///
    /// # Errors
    /// [`Away`] when no complete list is to be had.
    fn list(&self) -> impl Future<Output = Result<Snapshot, Away>> + Send;
}

/// Where a connector reports what its stack says by itself. Never blocks.
pub trait Reports: Send + Sync + 'static {
    /// Takes one event.
    fn report(&self, stack: &StackId, event: StackReport);
}

/// What a connector reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StackReport {
    /// A fact about a call or an operation.
    Event(StackEvent),
    /// The stack is reached (again): events flow from now on. What happened before may have been
    /// missed, so running commands are to be checked against a list.
    Joined,
}

/// All dialogs of a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Which life of the stack it shows.
    pub uptime: Uptime,
    /// The dialogs, also those that ended a moment ago.
    pub dialogs: Vec<Dialog>,
}

/// The stack can't be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Away {
    /// It does not answer.
    #[error("the stack does not answer")]
    Unreachable,
    /// It answered, but not with a complete list.
    #[error("the stack gives no complete list")]
    Incomplete,
    /// It was not asked: nothing more can leave here just now. That says nothing of the stack.
    #[error("there is no room for another request")]
    NoRoom,
}

/// The configured stacks, by name.
pub trait Stacks: Send + Sync + 'static {
    /// What a stack is.
    type Stack: SipStack;

    /// The stack of this name.
    fn get(&self, id: &StackId) -> Option<&Self::Stack>;

    /// All names, in the order of the configuration.
    fn names(&self) -> &[StackId];

    /// The stack that serves this SIP domain; the first where none names it.
    fn of_domain(&self, domain: &str) -> Option<StackId>;
}
