//! What a command is told at its beginning and keeps: where it runs, what the stack can, and
//! how long each phase may take.
//!
//! The plan is stored with the command, so that every pod steps it alike, whatever its own
//! configuration says by then.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ids::{Install, StackId};

/// How a command is to be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The stack that it runs at.
    pub stack: StackId,
    /// What that stack can.
    pub capabilities: Capabilities,
    /// How long things may take.
    pub times: Times,
    /// Whose Call-IDs the setup legs carry.
    pub install: Install,
    /// The store's partition of the tenant; part of every setup leg's Call-ID.
    pub partition: u8,
    /// Refuse a second start of a caller while one runs: double clicks place one call.
    pub one_start_per_caller: bool,
}

/// What a stack's script makes possible. Told by the connector at connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// The proxy refuses the second INVITE of one operation and marks what it sent, so that a
    /// start may be repeated until it is answered.
    pub start_is_safe: bool,
    /// A REFER carries a one-use token that can be revoked, and the referred call proves itself
    /// by it. Without: a cancelled transfer may still ring somewhere.
    pub referral_tokens: bool,
    /// Dialogs survive a restart of the stack.
    pub persists_dialogs: bool,
    /// Who makes a hold.
    pub hold: HoldBy,
    /// Who sends a REFER.
    pub refer: ReferBy,
}

/// Who makes a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldBy {
    /// Our own re-INVITEs, one leg after the other (the default).
    ReInvite,
    /// The stack's own `call_hold`: no SIP code, no one-leg truth (fact F9).
    Stack,
}

/// Who sends a REFER.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReferBy {
    /// `dlg_send_sequential`: answers with the phone's own code (the default).
    Sequential,
    /// The stack's own `call_transfer`: says only that it was sent.
    Stack,
}

/// How long each phase may take. The letters are those of `docs/outcomes.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// R: how long a phone may ring.
    pub ring: Duration,
    /// F: the stack's `fr_timeout` + 1 s: a phone that says nothing has been given up by then.
    pub silence: Duration,
    /// W: from the 2xx to a REFER until the referred INVITE must have been seen.
    pub follow: Duration,
    /// G: how long a failure may still be overruled by a success or refined by a NOTIFY.
    pub grace: Duration,
    /// M: a synchronous reply of the stack.
    pub reply: Duration,
    /// How far apart two full lists must be for an absence to count.
    pub absence: Duration,
    /// How long an act may wait for its turn before it must not be sent any more.
    pub send: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            ring: Duration::from_secs(45),
            silence: Duration::from_secs(6),
            follow: Duration::from_secs(10),
            grace: Duration::from_millis(1500),
            reply: Duration::from_secs(1),
            absence: Duration::from_secs(7),
            send: Duration::from_millis(500),
        }
    }
}

/// How far past its `reply_by` an operation is in doubt. Its performer answers at `reply_by`
/// itself, so only a dead or paused performer lets this pass.
pub const OVERDUE: Duration = Duration::from_millis(500);

impl Times {
    /// F of a stack that gives a phone up after this long (`fr_timeout`): its word has to reach us.
    #[must_use]
    pub fn silence_of(fr_timeout: Duration) -> Duration {
        fr_timeout + Duration::from_secs(1)
    }

    /// The longest that an operation can stay open, when the stack may take `answer` once it was
    /// sent.
    #[must_use]
    pub fn within(&self, answer: Duration) -> Duration {
        self.send + answer + OVERDUE
    }

    /// How long ending a leg may take: a BYE and its timeout (again when it was lost, and when a
    /// 200 crossed it), then the proof that the leg is gone.
    #[must_use]
    pub fn ending(&self) -> Duration {
        self.silence * 4 + self.absent()
    }

    /// How long the stack may take for a look, full list included.
    #[must_use]
    pub fn look(&self) -> Duration {
        self.send + self.reply * 2
    }

    /// How long it may take to prove that a call is not there: two full lists.
    #[must_use]
    pub fn absent(&self) -> Duration {
        self.within(self.look()) * 2 + self.absence
    }
}
