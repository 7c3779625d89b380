//! Calls and the dialogs OpenSIPS keeps of them.
//!
//! A [`Call`] is what is true between the phones; its [`Dialog`] is what the proxy knows of it.
//! They part when the proxy restarts (the phones talk on, the dialog is gone) and when a call
//! is over (the dialog stays in full lists for some seconds).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::commands::Asker;
use super::phones::Notify;
use super::sip_text::Direction;
use super::time::datetime;

/// A call of this world; never used twice.
pub(super) type CallKey = u64;

/// One of the two ends of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Side {
    Caller,
    Callee,
}

impl Side {
    pub(super) fn other(self) -> Side {
        match self {
            Side::Caller => Side::Callee,
            Side::Callee => Side::Caller,
        }
    }

    pub(super) fn text(self) -> &'static str {
        match self {
            Side::Caller => "caller",
            Side::Callee => "callee",
        }
    }

    pub(super) fn from_text(text: &str) -> Option<Side> {
        match text {
            "caller" => Some(Side::Caller),
            "callee" => Some(Side::Callee),
            _ => None,
        }
    }
}

/// Who sits at an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Party {
    /// A phone of this world, by its number.
    Phone(usize),
    /// The proxy itself, speaking for a `t_uac_dlg`.
    Uac,
    /// Nobody: the address leads nowhere.
    Nobody,
}

/// A phone's own view of its end, which the proxy's dialog does not share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leg {
    Idle,
    Ringing,
    Up,
    Over,
}

/// One end of a call.
#[derive(Debug, Clone)]
pub(super) struct End {
    pub(super) party: Party,
    pub(super) tag: String,
    /// Where in-dialog requests to this end go; empty until it is known.
    pub(super) contact: String,
    /// The socket of the proxy this end is reached through, `host:port`.
    pub(super) bind: Arc<str>,
    /// The last session description this end sent itself; requests the proxy makes up do not
    /// change it (measured).
    pub(super) sdp: Option<Arc<str>>,
    /// The last CSeq number received from this end.
    pub(super) cseq: u32,
    pub(super) leg: Leg,
    /// The direction last offered to this end.
    pub(super) offered: Direction,
}

/// Dialog states by their numbers on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) enum State {
    Unconfirmed = 1,
    Early = 2,
    /// 2xx without ACK.
    Answered = 3,
    Confirmed = 4,
    Deleted = 5,
}

/// A dialog's place in OpenSIPS' hash table; written as both numbers in hexadecimal, lowest
/// digit first (measured: `716.527db811` has the db_id 6696148391717).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DialogId(u64);

impl DialogId {
    pub(super) fn new(callid: &str, random: u32) -> DialogId {
        // Same Call-ID, same hash entry, as in OpenSIPS (4096 entries).
        let entry = callid
            .bytes()
            .fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193))
            & 0xfff;
        DialogId((u64::from(entry) << 32) | u64::from(random))
    }

    pub(super) fn parse(text: &str) -> Option<DialogId> {
        let (entry, id) = text.split_once('.')?;
        Some(DialogId((u64::from(reverse_hex(entry)?) << 32) | u64::from(reverse_hex(id)?)))
    }

    /// The same as one decimal number.
    pub(super) fn db_id(self) -> u64 {
        self.0
    }
}

impl std::fmt::Display for DialogId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = |mut n: u64, text: &mut String| loop {
            let digit = u32::try_from(n & 15).ok().and_then(|n| char::from_digit(n, 16));
            text.push(digit.unwrap_or('0'));
            n >>= 4;
            if n == 0 {
                return;
            }
        };
        let mut text = String::with_capacity(17);
        digits(self.0 >> 32, &mut text);
        text.push('.');
        digits(self.0 & 0xffff_ffff, &mut text);
        f.write_str(&text)
    }
}

fn reverse_hex(text: &str) -> Option<u32> {
    if text.is_empty() || text.len() > 8 {
        return None;
    }
    text.chars().rev().try_fold(0_u32, |n, c| Some((n << 4) | c.to_digit(16)?))
}

/// What the proxy knows of a call.
#[derive(Debug, Clone)]
pub(super) struct Dialog {
    pub(super) id: DialogId,
    pub(super) state: State,
    /// Seconds since 1970 of the answer; 0 before.
    pub(super) started: u64,
    /// Seconds since 1970 of the dialog's timeout; 0 before the answer and after the end.
    pub(super) times_out: u64,
    /// The same point in virtual time; zero before the answer.
    pub(super) ends_at: Duration,
    /// Dialog values, newest first, as `dlg_list_ctx` shows them.
    values: Vec<(String, Value)>,
    /// callops turns NOTIFYs of this dialog into events (after `call_transfer`).
    pub(super) catches_notify: bool,
    /// An attended `call_transfer` to this call: the call being transferred.
    pub(super) consulted_for: Option<CallKey>,
}

impl Dialog {
    pub(super) fn new(id: DialogId) -> Dialog {
        Dialog {
            id,
            state: State::Unconfirmed,
            started: 0,
            times_out: 0,
            ends_at: Duration::ZERO,
            values: Vec::new(),
            catches_notify: false,
            consulted_for: None,
        }
    }

    pub(super) fn value(&self, name: &str) -> Option<&Value> {
        self.values.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    pub(super) fn text_value(&self, name: &str) -> Option<&str> {
        self.value(name).and_then(Value::as_str)
    }

    pub(super) fn set(&mut self, name: &str, value: Value) {
        match self.values.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value,
            None => self.values.insert(0, (name.to_owned(), value)),
        }
    }
}

/// How far a call's INVITE got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setup {
    Calling,
    Ringing,
    /// A CANCEL is on its way to the callee.
    Cancelling,
    Answered,
    Failed,
}

/// The `t_uac_dlg` behind a call.
#[derive(Debug, Clone)]
pub(super) struct Uac {
    /// Who waits for the final answer.
    pub(super) asker: Option<Asker>,
    /// `From` and `To` as given, for the reply's message.
    pub(super) from: String,
    pub(super) to: String,
    pub(super) cseq: String,
    /// It goes to the proxy itself, so that its script runs and there is a dialog.
    pub(super) through_script: bool,
}

/// The REFER a call obeys.
#[derive(Debug, Clone)]
pub(super) struct Referral {
    /// The call in which the REFER came, and the end that obeyed it.
    pub(super) old: CallKey,
    pub(super) side: Side,
    /// What the phone tells about it, as it behaved when it obeyed.
    pub(super) notify: Notify,
    pub(super) notify_body: Option<String>,
    pub(super) told: bool,
}

/// An older call for which this call's fate is raised as `E_CALL_TRANSFER`.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    pub(super) old: CallKey,
    pub(super) leg: WatchedLeg,
    /// `start` was raised.
    pub(super) started: bool,
}

/// Where the event's `leg` comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WatchedLeg {
    /// Found by `osid`: `start` carries the new Call-ID instead, later states the dialog value.
    Osid,
    /// From the dialog value all along.
    Value,
    /// Always this one (the replaced call of an attended transfer).
    Fixed(Side),
}

/// A `Replaces` header.
#[derive(Debug, Clone)]
pub(super) struct ReplacesHeader {
    pub(super) callid: String,
    pub(super) to_tag: String,
}

/// A call.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) callid: Arc<str>,
    pub(super) from_uri: Arc<str>,
    pub(super) to_uri: Arc<str>,
    /// The request URI as sent.
    pub(super) requested: String,
    /// The request URI after the proxy's lookup.
    pub(super) ruri: String,
    /// Reference script: came in with a good token.
    pub(super) by_token: bool,
    pub(super) caller: End,
    pub(super) callee: End,
    pub(super) setup: Setup,
    pub(super) dialog: Option<Dialog>,
    pub(super) uac: Option<Uac>,
    pub(super) referral: Option<Referral>,
    pub(super) referred_by: Option<String>,
    pub(super) replaces: Option<ReplacesHeader>,
    pub(super) watched: Vec<Watched>,
    /// `X-CP-Op` of the INVITE.
    pub(super) op: Option<String>,
}

impl Call {
    pub(super) fn end(&self, side: Side) -> &End {
        match side {
            Side::Caller => &self.caller,
            Side::Callee => &self.callee,
        }
    }

    pub(super) fn end_mut(&mut self, side: Side) -> &mut End {
        match side {
            Side::Caller => &mut self.caller,
            Side::Callee => &mut self.callee,
        }
    }

    pub(super) fn state(&self) -> Option<State> {
        self.dialog.as_ref().map(|d| d.state)
    }

    /// The URI of a side's user.
    pub(super) fn uri(&self, side: Side) -> &Arc<str> {
        match side {
            Side::Caller => &self.from_uri,
            Side::Callee => &self.to_uri,
        }
    }

    /// As `dlg_list` (and, with `context`, `dlg_list_ctx`) shows it.
    pub(super) fn listed(&self, dialog: &Dialog, context: bool) -> Value {
        // In alphabetical order, as the map keeps them: nothing is to be sorted then.
        let mut listed = Members::new();
        let mut callees = Vec::new();
        if dialog.state != State::Unconfirmed && !self.callee.tag.is_empty() {
            let mut callee = Members::new();
            callee.put("callee_bind_addr", bound(&self.callee));
            callee.put("callee_contact", self.callee.contact.as_str());
            callee.put("callee_route_set", "");
            if let Some(sdp) = &self.callee.sdp {
                callee.put("callee_sdp", &**sdp);
            }
            callee.put("callee_tag", self.callee.tag.as_str());
            callee.put("caller_cseq", self.caller.cseq.to_string());
            callees.push(callee.into_value());
        }
        listed.put("CALLEES", callees);
        listed.put("ID", dialog.id.to_string());
        listed.put("callee_cseq", self.callee.cseq.to_string());
        listed.put("caller_bind_addr", bound(&self.caller));
        listed.put("caller_contact", self.caller.contact.as_str());
        listed.put("caller_route_set", "");
        if let Some(sdp) = &self.caller.sdp {
            listed.put("caller_sdp", &**sdp);
        }
        listed.put("caller_tag", self.caller.tag.as_str());
        listed.put("callid", &*self.callid);
        if context {
            let mut inner = Map::new();
            if !dialog.values.is_empty() {
                let values = dialog.values.iter().map(|(n, v)| {
                    let mut one = Map::new();
                    one.insert(n.clone(), v.clone());
                    Value::Object(one)
                });
                inner.insert("values".to_owned(), Value::Array(values.collect()));
            }
            listed.put("context", Value::Object(inner));
        }
        if dialog.times_out > 0 {
            listed.put("dateout", datetime(dialog.times_out));
        }
        if dialog.started > 0 {
            listed.put("datestart", datetime(dialog.started));
        }
        listed.put("db_id", dialog.id.db_id().to_string());
        listed.put("from_uri", &*self.from_uri);
        listed.put("state", dialog.state as u8);
        listed.put("timeout", dialog.times_out);
        listed.put("timestart", dialog.started);
        listed.put("to_uri", &*self.to_uri);
        listed.put("user_flags", "");
        listed.into_value()
    }
}

/// The socket that an end is reached through, as lists show it.
fn bound(end: &End) -> String {
    ["udp:", &*end.bind].concat()
}

/// Members of an object that is made at once.
struct Members(Vec<(String, Value)>);

impl Members {
    fn new() -> Self {
        Self(Vec::with_capacity(24))
    }

    fn put(&mut self, name: &str, value: impl Into<Value>) {
        self.0.push((name.to_owned(), value.into()));
    }

    fn into_value(self) -> Value {
        Value::Object(self.0.into_iter().collect())
    }
}

/// All calls, findable as OpenSIPS finds dialogs.
#[derive(Debug, Clone, Default)]
pub(super) struct Calls {
    next: CallKey,
    calls: BTreeMap<CallKey, Call>,
    by_callid: HashMap<Arc<str>, Vec<CallKey>>,
    by_dialog: HashMap<u64, CallKey>,
}

impl Calls {
    pub(super) fn insert(&mut self, call: Call) -> CallKey {
        let key = self.next;
        self.next += 1;
        self.by_callid.entry(call.callid.clone()).or_default().push(key);
        self.calls.insert(key, call);
        key
    }

    pub(super) fn get(&self, key: CallKey) -> Option<&Call> {
        self.calls.get(&key)
    }

    pub(super) fn get_mut(&mut self, key: CallKey) -> Option<&mut Call> {
        self.calls.get_mut(&key)
    }

    /// In the order the calls were placed.
    pub(super) fn iter(&self) -> impl Iterator<Item = (CallKey, &Call)> {
        self.calls.iter().map(|(k, c)| (*k, c))
    }

    pub(super) fn keys(&self) -> Vec<CallKey> {
        self.calls.keys().copied().collect()
    }

    pub(super) fn create_dialog(&mut self, key: CallKey, random: u32) {
        if let Some(call) = self.calls.get_mut(&key) {
            let id = DialogId::new(&call.callid, random);
            self.by_dialog.insert(id.db_id(), key);
            call.dialog = Some(Dialog::new(id));
        }
    }

    /// Forgets the dialog; the call goes with it once both phones have hung up.
    pub(super) fn drop_dialog(&mut self, key: CallKey) {
        if let Some(call) = self.calls.get_mut(&key)
            && let Some(dialog) = call.dialog.take()
        {
            self.by_dialog.remove(&dialog.id.db_id());
        }
        self.drop_if_over(key);
    }

    /// Forgets a call nobody and nothing knows any more.
    pub(super) fn drop_if_over(&mut self, key: CallKey) {
        let over = |end: &End| !matches!(end.leg, Leg::Ringing | Leg::Up);
        let gone = self.calls.get(&key).is_some_and(|c| {
            c.dialog.is_none()
                && over(&c.caller)
                && over(&c.callee)
                && matches!(c.setup, Setup::Answered | Setup::Failed)
        });
        if gone
            && let Some(call) = self.calls.remove(&key)
            && let Some(keys) = self.by_callid.get_mut(&call.callid)
        {
            keys.retain(|k| *k != key);
            if keys.is_empty() {
                self.by_callid.remove(&call.callid);
            }
        }
    }

    /// The dialog OpenSIPS finds by Call-ID: the oldest with that Call-ID, and only if that one
    /// is not over (measured: a dead dialog hides a live one with the same Call-ID).
    pub(super) fn by_callid(&self, callid: &str) -> Option<CallKey> {
        self.any_by_callid(callid)
            .filter(|k| self.get(*k).is_some_and(|c| c.state() != Some(State::Deleted)))
    }

    /// The same, over or not.
    pub(super) fn any_by_callid(&self, callid: &str) -> Option<CallKey> {
        let keys = self.by_callid.get(callid)?;
        keys.iter().copied().find(|k| self.get(*k).is_some_and(|c| c.dialog.is_some()))
    }

    /// Every call with this Call-ID, oldest first.
    pub(super) fn all_by_callid(&self, callid: &str) -> &[CallKey] {
        self.by_callid.get(callid).map_or(&[], Vec::as_slice)
    }

    /// The dialog with this id that is not over.
    pub(super) fn by_id(&self, id: DialogId) -> Option<CallKey> {
        let key = *self.by_dialog.get(&id.db_id())?;
        self.get(key).is_some_and(|c| c.state() != Some(State::Deleted)).then_some(key)
    }

    /// By dialog id or Call-ID, as `dlg_end_dlg` and `dlg_push_var` take them.
    pub(super) fn by_either(&self, text: &str) -> Option<CallKey> {
        DialogId::parse(text).and_then(|id| self.by_id(id)).or_else(|| self.by_callid(text))
    }

    /// Every dialog in the order of OpenSIPS' hash table.
    pub(super) fn listed(&self) -> Vec<(CallKey, &Call, &Dialog)> {
        let mut all: Vec<_> =
            self.calls.iter().filter_map(|(k, c)| c.dialog.as_ref().map(|d| (*k, c, d))).collect();
        all.sort_by_key(|(key, _, dialog)| (dialog.id.db_id() >> 32, *key));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dialog_ids_are_written_as_recorded() {
        for (text, db_id) in [
            ("fcf.e84ad295", 17_383_228_810_382_u64),
            ("716.527db811", 6_696_148_391_717),
            ("0ea.d015faa1", 11_957_636_649_229),
            ("9e.de0f9015", (0xe9_u64 << 32) | 0x5109_f0ed),
        ] {
            let id = DialogId::parse(text).unwrap();
            assert_eq!(id.db_id(), db_id, "{text}");
            assert_eq!(id.to_string(), text);
        }
        for bad in ["", ".", "a", "g.1", "1.", "123456789.1"] {
            assert_eq!(DialogId::parse(bad), None, "{bad}");
        }
    }
}
