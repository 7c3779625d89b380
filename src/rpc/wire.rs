//! Responses and notifications as text, written straight into a buffer that the caller reuses.
//!
//! The shapes are those of the recorded wire of the old server; what is new stands beside what
//! was there.

use std::fmt::Write as _;

use bytes::{BufMut, BytesMut};
use serde::Serialize;

use super::error::{Kind, Refusal};
use super::frame::Id;
use crate::core::failure::{Failure, Outcome};
use crate::core::ids::{CommandId, Epoch, SessionId};
use crate::core::notice::{Notice, Remarks};
use crate::core::record::Entry;
use crate::core::request::Method;

/// Where a client stands, as told in the result that opens a session.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// The session; knowing it is the right to resume it.
    pub session: &'a SessionId,
    /// The epoch of the position.
    pub epoch: &'a Epoch,
    /// The position: everything up to it has been told.
    pub seq: u64,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// The word.
    pub outcome: Outcome,
    /// What stands beside it.
    pub remarks: Remarks,
    /// Why, if it did not succeed.
    pub failure: Option<Failure>,
}

/// The `result` of a command's request.
#[derive(Debug, Clone, Copy)]
pub struct Started<'a> {
    /// The command.
    pub cmd_id: &'a CommandId,
    /// Milliseconds from its begin to `Ended` at the latest. Echo has none.
    pub deadline_ms: Option<u64>,
    /// The client's own reference.
    pub external_id: Option<&'a str>,
    /// Where the client stands.
    pub standing: Option<Standing<'a>>,
    /// Set when the id was known already.
    pub repeated: Option<Repeated<'a>>,
}

/// What a repeated request is told beside the rest.
#[derive(Debug, Clone, Copy)]
pub struct Repeated<'a> {
    /// False when the command's notifications are no longer kept and so can't follow.
    pub replayed: Option<bool>,
    /// How it ended, if it has.
    pub ended: Option<&'a Ending>,
}

/// Writes a response with a `result` that `body` writes.
pub fn result(out: &mut BytesMut, id: Id<'_>, body: impl FnOnce(&mut BytesMut)) {
    out.put_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    out.put_slice(id.as_json().as_bytes());
    out.put_slice(b",\"result\":");
    body(out);
    out.put_u8(b'}');
}

/// Writes an error response.
pub fn error(out: &mut BytesMut, id: Id<'_>, refusal: &Refusal) {
    let row = refusal.kind.row();
    out.put_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    out.put_slice(id.as_json().as_bytes());
    out.put_slice(b",\"error\":{\"code\":");
    number(out, i64::from(row.code));
    out.put_slice(b",\"message\":");
    string(out, row.message);
    out.put_slice(b",\"data\":{\"kind\":");
    string(out, row.word);
    if let Some(field) = &refusal.field {
        member(out, "field");
        string(out, field);
    }
    if let Some(reason) = &refusal.reason {
        member(out, "reason");
        string(out, reason);
    }
    if let Some(command) = &refusal.cmd_id {
        member(out, "cmd_id");
        string(out, command.as_str());
        if refusal.kind == Kind::StoreUnavailable {
            out.put_slice(b",\"repeat\":\"same cmd_id\"");
        }
    }
    if let Some(wait) = refusal.retry_after {
        member(out, "retry_after_ms");
        unsigned(out, u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
    }
    out.put_slice(b"}}}");
}

/// Writes the result object of a command that was begun, or was known already.
pub fn started(out: &mut BytesMut, told: &Started<'_>) {
    out.put_slice(b"{\"cmd_id\":");
    string(out, told.cmd_id.as_str());
    out.put_slice(b",\"event\":\"Started\"");
    if let Some(deadline) = told.deadline_ms {
        member(out, "deadline_ms");
        unsigned(out, deadline);
    }
    if let Some(external_id) = told.external_id {
        member(out, "external_id");
        string(out, external_id);
    }
    if let Some(repeated) = told.repeated {
        out.put_slice(b",\"repeated\":true");
        if let Some(replayed) = repeated.replayed {
            member(out, "replayed");
            switch(out, replayed);
        }
        if let Some(ended) = repeated.ended {
            ending(out, ended);
        }
    }
    if let Some(standing) = told.standing {
        place(out, standing);
    }
    out.put_u8(b'}');
}

/// Writes the result object of a `CallEnd` that went straight to the stack, and how it ended.
pub fn straight(out: &mut BytesMut, cmd_id: &CommandId, event: &str, ended: &Ending) {
    out.put_slice(b"{\"cmd_id\":");
    string(out, cmd_id.as_str());
    member(out, "event");
    string(out, event);
    out.put_slice(b",\"degraded\":true");
    ending(out, ended);
    out.put_u8(b'}');
}

/// What `CommandGet` answers.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The command.
    pub cmd_id: &'a CommandId,
    /// Its method.
    pub method: Method,
    /// What its `Started` said.
    pub deadline_ms: u64,
    /// The client's own reference.
    pub external_id: Option<&'a str>,
    /// How it ended, if it has.
    pub ended: Option<&'a Ending>,
}

/// Writes the result object of `CommandGet`.
pub fn known(out: &mut BytesMut, known: &Known<'_>) {
    out.put_slice(b"{\"cmd_id\":");
    string(out, known.cmd_id.as_str());
    member(out, "method");
    string(out, known.method.as_str());
    member(out, "state");
    string(out, if known.ended.is_some() { "ended" } else { "running" });
    member(out, "deadline_ms");
    unsigned(out, known.deadline_ms);
    if let Some(external_id) = known.external_id {
        member(out, "external_id");
        string(out, external_id);
    }
    if let Some(ended) = known.ended {
        ending(out, ended);
    }
    out.put_u8(b'}');
}

/// Writes the result object of `CommandCancel`; `ended` if the command had ended before.
///
/// `degraded`: it went straight to the stack.
pub fn cancelling(out: &mut BytesMut, cmd_id: &CommandId, ended: Option<&Ending>, degraded: bool) {
    out.put_slice(b"{\"cmd_id\":");
    string(out, cmd_id.as_str());
    member(out, "cancelling");
    switch(out, ended.is_none());
    if degraded {
        out.put_slice(b",\"degraded\":true");
    }
    if let Some(ended) = ended {
        ending(out, ended);
    }
    out.put_u8(b'}');
}

/// Writes `,"session":..,"epoch":..,"seq":..`.
pub fn place(out: &mut BytesMut, standing: Standing<'_>) {
    member(out, "session");
    string(out, standing.session.as_str());
    position(out, standing.epoch, standing.seq);
}

fn position(out: &mut BytesMut, epoch: &Epoch, seq: u64) {
    member(out, "epoch");
    string(out, epoch.as_str());
    member(out, "seq");
    unsigned(out, seq);
}

/// Writes `,"outcome":..` with all that stands beside it, the error included.
pub fn ending(out: &mut BytesMut, ended: &Ending) {
    outcome(out, ended.outcome, &ended.remarks);
    if let Some(failure) = &ended.failure {
        member(out, "error");
        failed(out, failure);
    }
}

fn outcome(out: &mut BytesMut, outcome: Outcome, remarks: &Remarks) {
    member(out, "outcome");
    string(out, outcome.as_str());
    if let Outcome::Unknown { up } = outcome {
        member(out, "up");
        string(out, up.as_str());
    }
    let Remarks { replaced, may_still_ring, already, leg_left_up, observed_by_notify } = *remarks;
    for (name, value) in [
        ("replaced", replaced),
        ("may_still_ring", may_still_ring.then_some(true)),
        ("already", already.then_some(true)),
        ("leg_left_up", leg_left_up.then_some(true)),
    ] {
        if let Some(value) = value {
            member(out, name);
            switch(out, value);
        }
    }
    if observed_by_notify {
        member(out, "observed");
        string(out, "notify");
    }
}

fn failed(out: &mut BytesMut, failure: &Failure) {
    out.put_slice(b"{\"code\":");
    string(out, failure.code.as_str());
    member(out, "message");
    string(out, &failure.text);
    if let Some(sip) = &failure.sip {
        member(out, "sip_status");
        unsigned(out, u64::from(sip.code));
        member(out, "sip_reason");
        string(out, &sip.reason);
    }
    member(out, "up");
    string(out, failure.up.as_str());
    out.put_u8(b'}');
}

/// Writes one entry of the stream as a notification.
pub fn notification(out: &mut BytesMut, epoch: &Epoch, entry: &Entry) {
    envelope(out, entry.method.as_str());
    params(out, epoch, entry);
    out.put_u8(b'}');
}

/// Writes the `params` of an entry's notification.
pub fn params(out: &mut BytesMut, epoch: &Epoch, entry: &Entry) {
    out.put_slice(b"{\"cmd_id\":");
    string(out, entry.key.id.as_str());
    told(out, &entry.notice);
    if let Some(external_id) = &entry.external_id {
        member(out, "external_id");
        string(out, external_id);
    }
    position(out, epoch, entry.seq);
    out.put_u8(b'}');
}

/// Writes a notice that stands in no stream: what a socket has to say of a command whose record
/// is gone.
pub fn unplaced(out: &mut BytesMut, method: Method, cmd_id: &CommandId, notice: &Notice) {
    envelope(out, method.as_str());
    out.put_slice(b"{\"cmd_id\":");
    string(out, cmd_id.as_str());
    told(out, notice);
    out.put_slice(b"}}");
}

/// Writes an event of Echo. `data` is raw JSON.
pub fn echo(out: &mut BytesMut, cmd_id: &CommandId, event: &str, data: Option<&str>) {
    out.put_slice(b"{\"jsonrpc\":\"2.0\",\"method\":\"Echo\",\"params\":");
    echo_params(out, cmd_id, event, data);
    out.put_u8(b'}');
}

/// Writes the `params` of an event of Echo.
pub fn echo_params(out: &mut BytesMut, cmd_id: &CommandId, event: &str, data: Option<&str>) {
    out.put_slice(b"{\"cmd_id\":");
    string(out, cmd_id.as_str());
    out.put_slice(b",\"event\":\"");
    out.put_slice(event.as_bytes());
    out.put_u8(b'"');
    if let Some(data) = data {
        out.put_slice(b",\"data\":");
        out.put_slice(data.as_bytes());
    }
    if event == "Ended" {
        out.put_slice(b",\"outcome\":\"success\"");
    }
    out.put_u8(b'}');
}

fn envelope(out: &mut BytesMut, method: &str) {
    out.put_slice(b"{\"jsonrpc\":\"2.0\",\"method\":\"");
    out.put_slice(method.as_bytes());
    out.put_slice(b"\",\"params\":");
}

/// Writes `,"event":..` and what belongs to it.
fn told(out: &mut BytesMut, notice: &Notice) {
    match notice {
        Notice::Started { deadline_ms } => {
            out.put_slice(b",\"event\":\"Started\"");
            member(out, "deadline_ms");
            unsigned(out, *deadline_ms);
        }
        Notice::Progress { event, data } => {
            member(out, "event");
            string(out, event.as_str());
            if !data.is_empty() {
                member(out, "data");
                json(out, data);
            }
        }
        Notice::Error(failure) => {
            out.put_slice(b",\"event\":\"Error\",\"data\":");
            string(out, &failure.text);
            member(out, "error");
            failed(out, failure);
        }
        Notice::Ended { outcome: how, remarks } => {
            out.put_slice(b",\"event\":\"Ended\"");
            outcome(out, *how, remarks);
        }
    }
}

/// Writes `,"name":`. The name is one of ours and needs no escaping.
pub fn member(out: &mut BytesMut, name: &'static str) {
    out.put_slice(b",\"");
    out.put_slice(name.as_bytes());
    out.put_slice(b"\":");
}

/// Writes a JSON string.
pub fn string(out: &mut BytesMut, text: &str) {
    if text.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        json(out, text);
        return;
    }
    out.put_u8(b'"');
    out.put_slice(text.as_bytes());
    out.put_u8(b'"');
}

/// Writes a number.
pub fn unsigned(out: &mut BytesMut, value: u64) {
    // Writing to a growing buffer can't fail.
    let _ = write!(out, "{value}");
}

fn number(out: &mut BytesMut, value: i64) {
    let _ = write!(out, "{value}");
}

/// Writes `true` or `false`.
pub fn switch(out: &mut BytesMut, value: bool) {
    out.put_slice(if value { b"true" } else { b"false" });
}

fn json<T: Serialize + ?Sized>(out: &mut BytesMut, value: &T) {
    // Our own types into memory: neither can fail.
    let _ = serde_json::to_writer(out.writer(), value);
}
