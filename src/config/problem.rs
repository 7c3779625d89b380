//! What is wrong with a configuration, and where.

use std::borrow::Cow;
use std::fmt;

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Origin {
    /// Nowhere: the value is a default.
    #[default]
    Unset,
    /// In the file; both count from 1, columns in characters.
    File {
        /// Line.
        line: u64,
        /// Column.
        column: u64,
    },
    /// In this environment variable.
    Env(String),
}

/// One thing that is wrong (or, as a warning, risky) and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where the value was written.
    pub origin: Origin,
    /// The key, `stacks[0].mi`; empty for the file as a whole.
    pub key: String,
    /// What is wrong and what would be right.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Unset => {}
            Origin::File { line, column } => write!(f, "line {line} column {column}: ")?,
            Origin::Env(name) => write!(f, "{name}: ")?,
        }
        if self.key.is_empty() {
            f.write_str(&self.text)
        } else {
            write!(f, "{}: {}", self.key, self.text)
        }
    }
}

/// A text as problems quote it, which go to logs and tickets: what stands before an `@` may be a password.
pub(super) fn shown(text: &str) -> Cow<'_, str> {
    match text.rsplit_once('@') {
        Some((_, host)) => Cow::Owned(format!("***@{host}")),
        None => Cow::Borrowed(text),
    }
}

/// The path of a key, `stacks[0].breaker.failures`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct KeyPath(String);

impl KeyPath {
    /// The key `name` below this one.
    pub(super) fn key(&self, name: &str) -> KeyPath {
        if self.0.is_empty() {
            KeyPath(name.to_owned())
        } else {
            KeyPath(format!("{}.{name}", self.0))
        }
    }

    /// Element `n` of this list.
    pub(super) fn item(&self, n: usize) -> KeyPath {
        KeyPath(format!("{}[{n}]", self.0))
    }

    /// As written in messages.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}
