//! Names of things, each a type of its own.
//!
//! Ids that clients or stacks give are checked here once, so that no later layer can paste an
//! unchecked string into SIP (promise P5). Ids that callplane makes derive from a [`Nonce`].

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Why a text is not acceptable as an id. The words are safe to show to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadId {
    /// Nothing was given.
    #[error("must not be empty")]
    Empty,
    /// Longer than this many bytes.
    #[error("must not be longer than {0} bytes")]
    TooLong(usize),
    /// A character that could break out of a SIP header, a URI or a key.
    #[error("has a character that is not allowed")]
    Character,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text of the id.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

/// What is allowed is ASCII, so bytes are looked at.
fn checked(text: &str, longest: usize, allowed: impl Fn(u8) -> bool) -> Result<Arc<str>, BadId> {
    if text.is_empty() {
        return Err(BadId::Empty);
    }
    if text.len() > longest {
        return Err(BadId::TooLong(longest));
    }
    if !text.bytes().all(allowed) {
        return Err(BadId::Character);
    }
    Ok(Arc::from(text))
}

text_id! {
    /// Who owns a command and its stream. Today always [`TenantId::default`].
    TenantId
}

impl Default for TenantId {
    fn default() -> Self {
        Self(Arc::from("default"))
    }
}

text_id! {
    /// A client's name for one command, unique inside its [`Scope`].
    CommandId
}

impl CommandId {
    /// Longest id taken, in bytes.
    pub const LONGEST: usize = 128;

    /// Takes a client's id: 1 to 128 printable ASCII characters.
    ///
    /// # Errors
    /// [`BadId`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        checked(text, Self::LONGEST, |c| c.is_ascii_graphic()).map(Self)
    }

    /// An id for a client that gave none.
    #[must_use]
    pub fn derive(nonce: Nonce) -> Self {
        Self(base36(nonce.0).into())
    }
}

text_id! {
    /// One client's conversation. 128 random bits, so that knowing it is the right to resume it.
    SessionId
}

impl SessionId {
    /// A new session's id.
    #[must_use]
    pub fn derive(nonce: Nonce) -> Self {
        Self(base36(nonce.0).into())
    }

    /// Takes back an id that a client was given.
    ///
    /// # Errors
    /// [`BadId`] when it can't be one of ours.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        checked(text, 26, |c| c.is_ascii_lowercase() || c.is_ascii_digit()).map(Self)
    }
}

text_id! {
    /// One running callplane process.
    PodId
}

impl PodId {
    /// The name of a process: a host or pod name, or anything else short.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(Arc::from(name))
    }
}

text_id! {
    /// A SIP stack's name in the configuration.
    StackId
}

impl StackId {
    /// The name as configured.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(Arc::from(name))
    }
}

text_id! {
    /// A SIP Call-ID (RFC 3261 section 8.1.1.4).
    CallId
}

impl CallId {
    /// Longest Call-ID taken, in bytes.
    pub const LONGEST: usize = 256;

    /// Takes a Call-ID from a client or a stack.
    ///
    /// Refused: white space, control characters, backslash, quotes, angle brackets, and
    /// everything outside ASCII. OpenSIPS unescapes a backslash in headers, so one would be an
    /// injection (trace `inject`). RFC 3261's `word` would allow some of them; no phone measured
    /// uses them.
    ///
    /// # Errors
    /// [`BadId`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        checked(text, Self::LONGEST, |c| {
            c.is_ascii_graphic()
                && !matches!(c, b'\\' | b'"' | b'\'' | b'<' | b'>' | b'`' | b',' | b';')
        })
        .map(Self)
    }

    /// The Call-ID of a setup leg of our own: `cp-<install>-<partition>-<nonce>`.
    #[must_use]
    pub fn of_setup(install: &Install, partition: u8, nonce: Nonce) -> Self {
        Self(format!("cp-{install}-{partition}-{}", base36(nonce.0)).into())
    }

    /// Whether this is a setup leg of the given install, whoever made it.
    #[must_use]
    pub fn is_setup_of(&self, install: &Install) -> bool {
        self.0
            .strip_prefix("cp-")
            .and_then(|rest| rest.strip_prefix(install.as_str()))
            .is_some_and(|rest| rest.starts_with('-'))
    }
}

text_id! {
    /// A stack's own handle of a dialog, opaque to us (OpenSIPS: `d9c.dd9205d6`).
    DialogId
}

impl DialogId {
    /// Takes a handle from a stack. The alphabet is that of [`CallId::parse`].
    ///
    /// # Errors
    /// [`BadId`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        CallId::parse(text).map(|id| Self(id.0))
    }
}

text_id! {
    /// This installation's mark in every Call-ID it makes; 1 to 8 of `[a-z0-9]`.
    Install
}

impl Default for Install {
    fn default() -> Self {
        Self(Arc::from("main"))
    }
}

impl Install {
    /// A name for one process that runs one command, from the plain characters of what was drawn at
    /// random: two of one name would end each other's legs as nobody's.
    #[must_use]
    pub fn of_run(drawn: &str) -> Self {
        let plain = drawn.chars().rev().filter(|c| is_plain(*c)).take(7);
        Self(std::iter::once('r').chain(plain).collect::<String>().into())
    }

    /// Takes the configured name.
    ///
    /// # Errors
    /// [`BadId`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        checked(text, 8, |c| is_plain(char::from(c))).map(Self)
    }
}

fn is_plain(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

text_id! {
    /// One operation at a stack; also the one-use token of a REFER. 26 of `[a-z0-9]`.
    OpId
}

impl OpId {
    /// The `n`-th operation of the step that drew this nonce.
    #[must_use]
    pub fn derive(nonce: Nonce, n: u64) -> Self {
        // One nonce may have to name several operations. The odd constants keep them distinct
        // and give no arithmetic neighbourhood between tokens that phones get to see.
        let mixed = (nonce.0 ^ (u128::from(n) << 64 | u128::from(n)))
            .wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)
            .rotate_left(61);
        Self(base36(mixed).into())
    }

    /// Takes back an operation's id that a stack reported.
    ///
    /// # Errors
    /// [`BadId`] when it can't be one of ours.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        checked(text, 26, |c| c.is_ascii_lowercase() || c.is_ascii_digit()).map(Self)
    }
}

text_id! {
    /// One life of a stack: changes when it restarts, never otherwise (OpenSIPS: `Up since`).
    Boot
}

impl Boot {
    /// The stack's own words for when it started.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(Arc::from(text))
    }
}

text_id! {
    /// One life of the store's memory. Positions of different epochs can't be compared.
    Epoch
}

impl Epoch {
    /// A new epoch.
    #[must_use]
    pub fn derive(nonce: Nonce) -> Self {
        Self(base36(nonce.0).get(..13).unwrap_or_default().into())
    }

    /// Takes back an epoch that a client was given.
    ///
    /// # Errors
    /// [`BadId`] when it can't be one.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        checked(text, 64, |c| c.is_ascii_alphanumeric()).map(Self)
    }
}

/// 128 random bits, drawn by the engine for each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Nonce(pub u128);

/// Where a command id is unique: without authentication a session, with it the whole tenant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// Old clients count 1, 2, 3 on every page.
    Session(SessionId),
    /// One-shot requests that name no session share one.
    OneShot,
}

/// A number that grows with each leader. Commits of older leaders are fenced.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Term(pub u64);

/// SHA-256 of a method and its parsed params, without `cmd_id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Its beginning, which is enough to tell the requests of one id apart.
    #[must_use]
    pub fn beginning(&self) -> DigestBeginning {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        DigestBeginning(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

/// The first eight bytes of a [`Digest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DigestBeginning(pub u64);

/// 26 digits of `[0-9a-z]`: all 128 bits, fixed width.
fn base36(mut value: u128) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut text = [b'0'; 26];
    for place in text.iter_mut().rev() {
        let digit = usize::try_from(value % 36).unwrap_or_default();
        *place = DIGITS.get(digit).copied().unwrap_or(b'0');
        value /= 36;
    }
    text.iter().map(|byte| char::from(*byte)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_id_that_could_inject_a_header_is_refused() {
        for bad in ["a\r\nX-Evil: 1", "a\\r\\nX", "a b", "", "<a>", "a\"b", "ä", "a\0"] {
            assert!(CallId::parse(bad).is_err(), "{bad:?}");
        }
        assert!(CallId::parse("alice-1a113eb7ec2b@10.0.0.1").is_ok());
    }

    #[test]
    fn the_name_of_one_run_is_a_name() {
        for run in [Install::of_run("0a9zz3kq71x"), Install::of_run("AB-")] {
            assert_eq!(Install::parse(run.as_str()), Ok(run));
        }
    }

    #[test]
    fn operation_ids_are_26_alphanumerics_and_distinct_within_a_step() {
        let nonce = Nonce(42);
        let ids: std::collections::BTreeSet<_> = (0..100).map(|n| OpId::derive(nonce, n)).collect();
        assert_eq!(ids.len(), 100);
        assert!(ids.iter().all(|id| id.as_str().len() == 26 && OpId::parse(id.as_str()).is_ok()));
    }

    #[test]
    fn a_setup_leg_is_recognised_by_its_own_install_only() {
        let ours = Install::parse("a1").unwrap();
        let call = CallId::of_setup(&ours, 7, Nonce(9));
        assert!(call.is_setup_of(&ours));
        assert!(!call.is_setup_of(&Install::parse("a").unwrap()));
        assert!(!call.is_setup_of(&Install::parse("b1").unwrap()));
    }
}
