//! What the store keeps of a command, and what it keeps of the stream.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::command::Command;
use super::ids::{CommandId, Digest, DigestBeginning, Epoch, Scope, SessionId, StackId, TenantId};
use super::notice::Notice;
use super::request::{Method, Request};

/// A place in a tenant's stream. Sequence numbers are dense inside the stream and start at 1;
/// positions of different epochs can't be compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Which life of the store.
    pub epoch: Epoch,
    /// Which entry; 0 is before the first.
    pub seq: u64,
}

/// The version of the record's layout that this build writes. It follows [`READABLE`] a release later:
/// who goes back by one release then finds nothing that can't be read any more.
pub const FORMAT: u16 = 1;

/// The latest layout that this build reads.
pub const READABLE: u16 = 1;

const _: () = assert!(FORMAT <= READABLE && READABLE <= FORMAT + 1);

/// A command as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its name in the store.
    pub key: Key,
    /// The client's digest of what it asked.
    pub digest: Digest,
    /// The session that asked; entries go to its sockets.
    pub session: SessionId,
    /// The layout it was written in.
    pub format: u16,
    /// The epoch in which it began.
    pub born: Epoch,
    /// Counts commits, from 1. The store refuses a commit on any but the newest.
    pub version: u64,
    /// The position of its `Started`.
    pub first_seq: u64,
    /// A client's own reference, echoed in every event.
    pub external_id: Option<Arc<str>>,
    /// W3C `traceparent` of the request that began it.
    pub trace: Option<Arc<str>>,
    /// What it is and how far.
    pub state: Command,
}

/// A command as a client asks for it: from its session to its first record.
#[derive(Debug, Clone)]
pub struct Begin {
    /// Its name in the store.
    pub key: Key,
    /// The session that asks; entries go to its sockets.
    pub session: SessionId,
    /// What tells a repeat from another command under the same name.
    pub digest: Digest,
    /// What is asked.
    pub request: Request,
    /// The client's own reference, for every entry.
    pub external_id: Option<Arc<str>>,
    /// W3C `traceparent`.
    pub trace: Option<Arc<str>>,
    /// The id of the client's request, as it is written in JSON; none of a notification.
    pub asked_by: Option<Box<str>>,
    /// The stack that the client names.
    pub stack: Option<StackId>,
}

/// What names a command in the store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// Whose.
    pub tenant: TenantId,
    /// Where its id is unique.
    pub scope: Scope,
    /// Its id.
    pub id: CommandId,
}

/// One committed notice, as it travels from the store to the sockets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its position in the tenant's stream.
    pub seq: u64,
    /// The session that the command belongs to.
    pub session: SessionId,
    /// The command.
    pub key: Key,
    /// Its method.
    pub method: Method,
    /// The client's own reference.
    pub external_id: Option<Arc<str>>,
    /// Of a `Started`: what was asked. Two connections may ask different things under one id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<DigestBeginning>,
    /// What is told.
    pub notice: Notice,
}

impl Entry {
    /// What is told of a command, at a position in the tenant's stream.
    #[must_use]
    pub fn of(record: &Record, seq: u64, notice: Notice) -> Self {
        let begins = matches!(notice, Notice::Started { .. });
        Self {
            seq,
            session: record.session.clone(),
            key: record.key.clone(),
            method: record.state.method,
            external_id: record.external_id.clone(),
            asked: begins.then(|| record.digest.beginning()),
            notice,
        }
    }
}
