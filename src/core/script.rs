//! What is said of a stack's script where it can't be asked.

use serde::{Deserialize, Serialize};

/// What the script of a stack can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grade {
    /// It is asked when connecting.
    Auto,
    /// What users of the old server have, whatever it says.
    Stock,
    /// The one that comes with callplane; a warning if it does not say so.
    Reference,
}

/// How the stack's callops module finds the call that an INVITE was referred from: its `mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallopsMode {
    /// By a URI parameter with the dialog's id (the module's default).
    #[default]
    Param,
    /// By a URI parameter with the Call-ID.
    CallId,
    /// The script says it.
    Manual,
}
