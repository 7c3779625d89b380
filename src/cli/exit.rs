//! How the program says what happened to whoever started it.

use std::process::ExitCode;

/// The exit codes. `callplane --help` shows the same table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The command was done; the server stopped in order; the configuration is good.
    Success,
    /// The command failed; the server could not start or go on, or a drain was too short for the
    /// commands that ran.
    Failed,
    /// The arguments or the configuration are wrong. Nothing was started.
    Usage,
    /// The command was cancelled.
    Cancelled,
    /// Nobody can say how the command ended: look before you repeat it.
    Unknown,
    /// No connection to the server.
    NotConnected,
    /// The command was taken, but nothing was sent to the stack: repeating it is safe.
    NotStarted,
    /// The server refused the request.
    Refused,
    /// Left by Ctrl-C before the end.
    Interrupted,
    /// Ended by a second SIGTERM before everything was flushed.
    Terminated,
}

impl Exit {
    /// All of them, in the order of their codes.
    pub const ALL: [Exit; 10] = [
        Exit::Success,
        Exit::Failed,
        Exit::Usage,
        Exit::Cancelled,
        Exit::Unknown,
        Exit::NotConnected,
        Exit::NotStarted,
        Exit::Refused,
        Exit::Interrupted,
        Exit::Terminated,
    ];

    /// The number that the shell sees.
    pub const fn code(self) -> u8 {
        match self {
            Exit::Success => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Cancelled => 3,
            Exit::Unknown => 4,
            Exit::NotConnected => 5,
            Exit::NotStarted => 6,
            Exit::Refused => 7,
            Exit::Interrupted => 130,
            Exit::Terminated => 143,
        }
    }

    /// What it means, in a few words.
    pub const fn meaning(self) -> &'static str {
        match self {
            Exit::Success => "success",
            Exit::Failed => {
                "failed; the server could not start, or cut commands off when it stopped"
            }
            Exit::Usage => "wrong arguments or configuration; nothing was started",
            Exit::Cancelled => "cancelled",
            Exit::Unknown => "unknown: look at the call before repeating",
            Exit::NotConnected => "no connection to the server",
            Exit::NotStarted => "nothing was sent to the stack; repeating is safe",
            Exit::Refused => "the server refused the request",
            Exit::Interrupted => "left by Ctrl-C",
            Exit::Terminated => "ended by a second SIGTERM",
        }
    }

    /// The code of a command's `outcome`. A word that this version does not know is unknown.
    pub fn of_outcome(outcome: &str) -> Exit {
        match outcome {
            "success" => Exit::Success,
            "failed" => Exit::Failed,
            "cancelled" => Exit::Cancelled,
            "not_started" => Exit::NotStarted,
            _ => Exit::Unknown,
        }
    }

    /// The table for `--help`.
    pub fn table() -> String {
        let rows = Exit::ALL.map(|exit| format!("  {:>3}  {}", exit.code(), exit.meaning()));
        format!("Exit codes:\n{}", rows.join("\n"))
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}
