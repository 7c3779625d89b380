//! Every error that a request can be answered with, in one table.
//!
//! `docs/protocol.md` carries the table; a test holds the two together. What a command that was
//! accepted may run into is no such error: it is an `Error` event, see
//! [`crate::core::failure::Code`].

use std::borrow::Cow;
use std::time::Duration;

use crate::core::ids::CommandId;

/// What a refusal is, by its word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The frame is not JSON.
    ParseError,
    /// JSON, but not a request object; or an empty or too long batch.
    InvalidRequest,
    /// There is no such method.
    MethodNotFound,
    /// A parameter is missing or not acceptable.
    BadParams,
    /// A defect of ours; the detail is in the log only.
    Internal,
    /// Another command is changing the call.
    CallBusy,
    /// Another start of the same caller is running.
    CallerBusy,
    /// The command id was used with other params.
    IdConflict,
    /// No command of that id is known.
    UnknownCommand,
    /// The session has too many commands running.
    TooManyCommands,
    /// `Resume` came after the connection's first command, in a batch or in a one-shot request.
    ResumeRefused,
    /// The command runs, but is of a kind that can't be given up.
    NotCancellable,
    /// There is no such stack.
    UnknownStack,
    /// The store can't be reached, so the command may or may not be recorded.
    StoreUnavailable,
    /// This process is about to stop and takes no new commands.
    Draining,
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The JSON-RPC code.
    pub code: i32,
    /// `error.data.kind`.
    pub word: &'static str,
    /// `error.message`; the standard ones as the specification words them.
    pub message: &'static str,
    /// Whether the same request may succeed later.
    pub temporary: bool,
    /// The HTTP status of a one-shot request that gets this answer.
    pub http: u16,
    /// What a client should do, for the document.
    pub advice: &'static str,
}

impl Kind {
    /// All of them, in the order of the document.
    pub const ALL: [Self; 15] = [
        Self::ParseError,
        Self::InvalidRequest,
        Self::MethodNotFound,
        Self::BadParams,
        Self::Internal,
        Self::CallBusy,
        Self::CallerBusy,
        Self::IdConflict,
        Self::UnknownCommand,
        Self::TooManyCommands,
        Self::ResumeRefused,
        Self::UnknownStack,
        Self::NotCancellable,
        Self::StoreUnavailable,
        Self::Draining,
    ];

    /// The row of this kind.
    #[must_use]
    pub const fn row(self) -> Row {
        match self {
            Self::ParseError => row(
                (-32700, "parse_error", "Parse error", false, 400),
                "Send JSON. `id` is null, since none could be read.",
            ),
            Self::InvalidRequest => row(
                (-32600, "invalid_request", "Invalid Request", false, 400),
                "Mend the request; `reason` says what is wrong. Also for an empty or too long batch.",
            ),
            Self::MethodNotFound => row(
                (-32601, "method_not_found", "Method not found", false, 404),
                "Names are case sensitive; `rpc.discover` lists them.",
            ),
            Self::BadParams => row(
                (-32602, "bad_params", "Invalid params", false, 400),
                "`field` names the parameter, `reason` says what is wrong with it. Nothing was begun.",
            ),
            Self::Internal => row(
                (-32603, "internal_error", "Internal error", true, 500),
                "Ask `CommandGet` whether the command exists before repeating it.",
            ),
            Self::CallBusy => row(
                (-32000, "call_busy", "Another command is changing this call", true, 409),
                "Wait for the `Ended` of the command in `cmd_id`. If that came already, phones may still act on what it sent: repeat after `retry_after_ms`. Or end the call: `CallEnd` is never refused for this.",
            ),
            Self::CallerBusy => row(
                (-32001, "caller_busy", "Another start of this caller is running", true, 409),
                "Wait for the `Ended` of the command in `cmd_id`, or cancel that one.",
            ),
            Self::IdConflict => row(
                (-32002, "id_conflict", "The command id was used with other params", false, 409),
                "Take a new `cmd_id`. The first command goes on untouched.",
            ),
            Self::UnknownCommand => row(
                (-32003, "unknown_command", "No such command", false, 404),
                "Ids belong to their session and are forgotten some time after the end of their command.",
            ),
            Self::TooManyCommands => row(
                (-32004, "too_many_commands", "Too many commands are running", true, 429),
                "Wait for an `Ended`, then repeat. For `CallEnd`: wait for the answer to an earlier one.",
            ),
            Self::ResumeRefused => row(
                (-32005, "resume_refused", "Resume is not possible here", false, 409),
                "`Resume` must be the first request on a WebSocket and stand outside a batch.",
            ),
            Self::NotCancellable => row(
                (-32007, "not_cancellable", "This command can't be given up", false, 409),
                "Only starts and transfers can. A hold or an end is over in seconds: wait for its `Ended`.",
            ),
            Self::UnknownStack => row(
                (-32006, "unknown_stack", "No such SIP stack", false, 404),
                "`stack` must be a name from the configuration.",
            ),
            Self::StoreUnavailable => row(
                (-32010, "store_unavailable", "The store can't be reached", true, 503),
                "Repeat with the same `cmd_id`: if the command was recorded after all, you get that one.",
            ),
            Self::Draining => row(
                (-32012, "draining", "This server is about to stop", true, 503),
                "Connect again; another one answers.",
            ),
        }
    }
}

const fn row(
    (code, word, message, temporary, http): (i32, &'static str, &'static str, bool, u16),
    advice: &'static str,
) -> Row {
    Row { code, word, message, temporary, http, advice }
}

/// Why a request is not carried out. All of it is shown to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The row of the table.
    pub kind: Kind,
    /// The parameter or member that is at fault.
    pub field: Option<Cow<'static, str>>,
    /// What is wrong, in one sentence without internals.
    pub reason: Option<Cow<'static, str>>,
    /// The command that stands in the way, or the one whose fate is not known.
    pub cmd_id: Option<CommandId>,
    /// When to try again.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal that says no more than its kind.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self { kind, field: None, reason: None, cmd_id: None, retry_after: None }
    }

    /// A refusal of one parameter.
    #[must_use]
    pub fn bad(field: &'static str, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::BadParams).at(field).because(reason)
    }

    /// Names the parameter or member.
    #[must_use]
    pub fn at(mut self, field: impl Into<Cow<'static, str>>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Says what is wrong.
    #[must_use]
    pub fn because(mut self, reason: impl Into<Cow<'static, str>>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// Names a command.
    #[must_use]
    pub fn of(mut self, command: CommandId) -> Self {
        self.cmd_id = Some(command);
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_words_are_unique_and_in_their_ranges() {
        let mut codes = std::collections::BTreeSet::new();
        let mut words = std::collections::BTreeSet::new();
        for kind in Kind::ALL {
            let row = kind.row();
            assert!(codes.insert(row.code), "{row:?}");
            assert!(words.insert(row.word), "{row:?}");
            let standard = matches!(row.code, -32700 | -32603..=-32600);
            assert!(standard || (-32099..=-32000).contains(&row.code), "{row:?}");
            assert!((400..600).contains(&row.http), "{row:?}");
        }
    }
}
