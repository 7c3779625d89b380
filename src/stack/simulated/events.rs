//! The Event Interface: which events exist, who is subscribed, and what an event looks like.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::config::{Script, Version};
use super::dialogs::{Call, Dialog, Side, State};
use crate::stack::mi::{MiAnswer, MiEvent, MiParams};

/// Expiry of a subscription that names none (seconds), also for TCP.
const DEFAULT_EXPIRE: u64 = 3600;

/// One `event_subscribe`.
#[derive(Debug, Clone)]
struct Subscription {
    /// As listed: `udp:127.0.0.1:22200`, `tcp:127.0.0.1:22210/hold`.
    socket: Arc<str>,
    /// The path of a TCP socket replaces the event's name.
    method: Option<String>,
    expire: u64,
    since: u64,
}

impl Subscription {
    /// Seconds left; `None` once it is over. Delivery stops N to N+1 seconds after subscribing
    /// for N, also for 0 (measured: an event in the second of an unsubscription still comes).
    fn left(&self, now: u64) -> Option<u64> {
        (self.since + self.expire).checked_sub(now)
    }

    /// Whether OpenSIPS takes this new socket for that of this subscription: over UDP it compares as
    /// many characters of the addresses as the new one has (fact W12).
    fn is_taken_for(&self, socket: &str) -> bool {
        let udp = |socket: &str| {
            let (host, port) = socket.strip_prefix("udp:")?.split_once(':')?;
            Some((host.to_owned(), port.to_owned()))
        };
        match (udp(&self.socket), udp(socket)) {
            (Some((known, port)), Some((host, same))) => port == same && known.starts_with(&host),
            _ => *self.socket == *socket,
        }
    }

    fn listed(&self, now: u64) -> Value {
        let ttl = match self.left(now).unwrap_or_default() {
            0 => Value::from("expired"),
            left => Value::from(left),
        };
        json!({"socket": *self.socket, "expire": self.expire, "ttl": ttl})
    }
}

/// The registered events and their subscribers.
#[derive(Debug, Clone)]
pub(super) struct Subscriptions {
    names: Vec<&'static str>,
    /// Per event, newest first.
    subscribers: Vec<Vec<Subscription>>,
}

impl Subscriptions {
    pub(super) fn new(version: Version, script: Script) -> Subscriptions {
        let mut names = vec![
            "E_CORE_SR_STATUS_CHANGED",
            "E_CORE_THRESHOLD",
            "E_CORE_SHM_THRESHOLD",
            "E_CORE_PKG_THRESHOLD",
            "E_CORE_PROC_AUTO_SCALE",
            "E_CORE_TCP_DISCONNECT",
        ];
        match version {
            Version::V3_6 => {}
            Version::V4_0 => names.extend(["E_PROFILING_SCRIPT", "E_PROFILING_PROC"]),
        }
        names.extend([
            "E_UL_AOR_INSERT",
            "E_UL_AOR_DELETE",
            "E_UL_CONTACT_INSERT",
            "E_UL_CONTACT_UPDATE",
            "E_UL_CONTACT_DELETE",
            "E_UL_CONTACT_REFRESH",
            "E_UL_LATENCY_UPDATE",
            "E_DLG_STATE_CHANGED",
            "E_CALL_TRANSFER",
            "E_CALL_HOLD",
        ]);
        match script {
            Script::Stock => {}
            Script::Reference => names.push("E_CALLPLANE"),
        }
        names.push("E_CORE_LOG");
        let subscribers = vec![Vec::new(); names.len()];
        Subscriptions { names, subscribers }
    }

    fn id(&self, event: &str) -> Option<usize> {
        self.names.iter().position(|n| *n == event)
    }

    /// `events_list`.
    pub(super) fn events(&self) -> MiAnswer {
        let list: Vec<_> = self
            .names
            .iter()
            .enumerate()
            .map(|(id, name)| json!({"name": name, "id": id}))
            .collect();
        MiAnswer::Result(json!({"Events": list}))
    }

    /// `event_subscribe`.
    pub(super) fn subscribe(
        &mut self,
        event: &str,
        socket: &str,
        expire: Option<u64>,
        now: u64,
    ) -> MiAnswer {
        let Some((list, (socket, method))) = self
            .id(event)
            .and_then(|id| self.subscribers.get_mut(id))
            .and_then(|list| Some((list, parse_socket(socket)?)))
        else {
            return MiAnswer::error(400, "Bad parameter value");
        };
        let expire = expire.unwrap_or(DEFAULT_EXPIRE);
        match list.iter_mut().find(|s| s.is_taken_for(&socket)) {
            Some(known) => {
                known.expire = expire;
                known.since = now;
            }
            None => {
                list.insert(0, Subscription { socket: socket.into(), method, expire, since: now })
            }
        }
        MiAnswer::Result("OK".into())
    }

    /// `subscribers_list`; forgets what is over.
    pub(super) fn list(&mut self, event: Option<&str>, socket: Option<&str>, now: u64) -> MiAnswer {
        for list in &mut self.subscribers {
            list.retain(|s| s.left(now).is_some());
        }
        let Some(event) = event else {
            let all: Vec<_> = self
                .names
                .iter()
                .zip(&self.subscribers)
                .enumerate()
                .filter(|(_, (_, list))| !list.is_empty())
                .map(|(id, (name, list))| listed(name, id, list, now))
                .collect();
            return MiAnswer::Result(json!({"Events": all}));
        };
        let Some(id) = self.id(event) else {
            return MiAnswer::error(404, "Event not published");
        };
        let list = self.subscribers.get(id).map(Vec::as_slice).unwrap_or_default();
        match socket {
            None if list.is_empty() => MiAnswer::Result(json!({"Event": {}})),
            None => MiAnswer::Result(json!({"Event": listed(event, id, list, now)})),
            Some(socket) => match list.iter().find(|s| s.is_taken_for(socket)) {
                None => MiAnswer::error(404, "Subscriber does not exist"),
                Some(one) => MiAnswer::Result(json!({
                    "Event": {"name": event, "id": id, "Subscriber": one.listed(now)}
                })),
            },
        }
    }

    /// True if the event exists.
    pub(super) fn knows(&self, event: &str) -> bool {
        self.id(event).is_some()
    }

    /// Who gets this event now: socket and, if the socket has a path, the name to use instead.
    pub(super) fn receivers(
        &mut self,
        event: &str,
        now: u64,
    ) -> impl Iterator<Item = (&Arc<str>, Option<&String>)> {
        let list = self.id(event).and_then(|id| self.subscribers.get_mut(id));
        list.into_iter().flat_map(move |list| {
            list.retain(|s| s.left(now).is_some());
            list.iter().map(|s| (&s.socket, s.method.as_ref()))
        })
    }

    /// A restart forgets them all.
    pub(super) fn clear(&mut self) {
        self.subscribers.iter_mut().for_each(Vec::clear);
    }
}

fn listed(name: &str, id: usize, list: &[Subscription], now: u64) -> Value {
    let list: Vec<_> = list.iter().map(|s| s.listed(now)).collect();
    json!({"name": name, "id": id, "Subscribers": list})
}

/// Socket as listed, and the method a TCP path names.
fn parse_socket(socket: &str) -> Option<(String, Option<String>)> {
    let (kind, rest) = socket.split_once(':')?;
    // The first colon: no IPv6 address has the form.
    let (host, port) = rest.split_once(':')?;
    let (port, method) = match (kind, port.split_once('/')) {
        ("udp", None) => (port, None),
        ("tcp", None) => (port, None),
        ("tcp", Some((port, method))) => (port, Some(method)),
        _ => return None,
    };
    // OpenSIPS keeps 16 bits of the port, without a word (measured: 70000 is listed as 4464).
    let port = port.parse::<u32>().ok()? & 0xffff;
    if host.is_empty() {
        return None;
    }
    let path = method.map(|m| format!("/{m}")).unwrap_or_default();
    Some((format!("{kind}:{host}:{port}{path}"), method.map(str::to_owned)))
}

fn named<const N: usize>(name: &'static str, members: [(&'static str, Value); N]) -> MiEvent {
    MiEvent {
        name: Cow::Borrowed(name),
        params: MiParams::Named(members.into_iter().map(|(n, v)| (Cow::Borrowed(n), v)).collect()),
    }
}

/// `E_DLG_STATE_CHANGED`; states are numbers, `to_tag` is null if there never was one.
pub(super) fn state_changed(call: &Call, dialog: &Dialog, old: State) -> MiEvent {
    let to_tag = match call.callee.tag.as_str() {
        "" => Value::Null,
        tag => tag.into(),
    };
    named(
        "E_DLG_STATE_CHANGED",
        [
            ("id", dialog.id.to_string().into()),
            ("db_id", dialog.id.db_id().to_string().into()),
            ("callid", (*call.callid).into()),
            ("from_tag", call.caller.tag.as_str().into()),
            ("to_tag", to_tag),
            ("old_state", (old as u8).into()),
            ("new_state", (dialog.state as u8).into()),
        ],
    )
}

/// `E_CALL_TRANSFER`.
pub(super) fn transfer(
    callid: &str,
    leg: &str,
    transfer_callid: &str,
    destination: &str,
    state: &str,
    status: &str,
) -> MiEvent {
    named(
        "E_CALL_TRANSFER",
        [
            ("callid", callid.into()),
            ("leg", leg.into()),
            ("transfer_callid", transfer_callid.into()),
            ("destination", destination.into()),
            ("state", state.into()),
            ("status", status.into()),
        ],
    )
}

/// `E_CALL_HOLD`; `hold` or `unhold` as `action`; `start`, `ok` or `fail` as `state`.
pub(super) fn hold(callid: &str, leg: Side, action: &'static str, state: &'static str) -> MiEvent {
    named(
        "E_CALL_HOLD",
        [
            ("callid", callid.into()),
            ("leg", leg.text().into()),
            ("action", action.into()),
            ("state", state.into()),
        ],
    )
}

/// What the reference script reports of its own (`E_CALLPLANE`).
pub(super) enum Callplane<'a> {
    /// A request of ours with `X-CP-Op` left: `info` is its method.
    Sent { method: &'a str },
    /// A NOTIFY for a REFER: `info` is its body.
    Notify { body: &'a str },
    /// The referred INVITE came in with a good token: `info` is the old call's Call-ID.
    Referred { old: &'a str },
    /// A provisional or positive reply to it: `info` is the code, as text.
    Reply { code: u16 },
    /// It failed: the code as text.
    Failed { code: u16 },
    /// A BYE passed: `info` tells who hung up.
    Bye { reason: &'a str },
}

/// `E_CALLPLANE`. The order of members is the recorded one. `op` is empty if the call has none.
pub(super) fn callplane(
    what: &Callplane<'_>,
    callid: &str,
    op: &str,
    from: &str,
    ruri: &str,
) -> MiEvent {
    let (kind, info, with_ruri): (&str, Value, bool) = match what {
        Callplane::Sent { method } => ("sent", (*method).into(), true),
        Callplane::Notify { body } => ("notify", (*body).into(), true),
        Callplane::Referred { old } => ("referred", (*old).into(), true),
        Callplane::Reply { code } => ("reply", code.to_string().into(), false),
        Callplane::Failed { code } => ("failed", code.to_string().into(), true),
        Callplane::Bye { reason } => ("bye", (*reason).into(), true),
    };
    let mut members: Vec<(Cow<'static, str>, Value)> = Vec::with_capacity(6);
    if with_ruri {
        members.push((Cow::Borrowed("ruri"), ruri.into()));
    }
    members.push((Cow::Borrowed("from"), from.into()));
    members.push((Cow::Borrowed("info"), info));
    members.push((Cow::Borrowed("op"), op.into()));
    members.push((Cow::Borrowed("callid"), callid.into()));
    members.push((Cow::Borrowed("kind"), kind.into()));
    MiEvent { name: Cow::Borrowed("E_CALLPLANE"), params: MiParams::Named(members) }
}

/// `raise_event`: the params must be an array, or absent.
pub(super) fn raised(event: &str, params: Option<&Value>) -> Result<MiEvent, MiAnswer> {
    let params = match params {
        None => MiParams::None,
        Some(Value::Array(list)) => MiParams::Positional(list.clone()),
        Some(_) => return Err(MiAnswer::error(400, "No Params")),
    };
    Ok(MiEvent { name: Cow::Owned(event.to_owned()), params })
}

/// Counters of the proxy's statistics that exist here, by name.
pub(super) fn statistics(active: usize, early: usize) -> Value {
    let mut map = Map::new();
    map.insert("dialog:active_dialogs".into(), active.into());
    map.insert("dialog:early_dialogs".into(), early.into());
    Value::Object(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(answer: MiAnswer) -> Value {
        match answer {
            MiAnswer::Result(value) => value,
            MiAnswer::Error { code, message, .. } => json!({"code": code, "message": message}),
        }
    }

    #[test]
    fn a_subscription_stops_silently_after_its_expiry() {
        let mut s = Subscriptions::new(Version::V3_6, Script::Stock);
        let hold = "E_CALL_HOLD";
        assert_eq!(result(s.subscribe(hold, "udp:127.0.0.1:1", Some(2), 100)), json!("OK"));
        for (now, count) in [(100, 1), (102, 1), (103, 0)] {
            assert_eq!(s.receivers(hold, now).count(), count, "{now}");
        }
        assert_eq!(
            result(s.list(Some(hold), Some("udp:127.0.0.1:1"), 103)),
            json!({"code": 404, "message": "Subscriber does not exist"})
        );
        assert_eq!(result(s.list(Some(hold), None, 103)), json!({"Event": {}}));
    }

    #[test]
    fn an_address_that_begins_another_one_of_the_same_port_is_taken_for_it() {
        let mut s = Subscriptions::new(Version::V3_6, Script::Stock);
        let hold = "E_CALL_HOLD";
        for socket in ["udp:10.0.0.12:5", "udp:10.0.0.1:5", "udp:10.0.0.1:6", "tcp:10.0.0.1:5"] {
            assert_eq!(result(s.subscribe(hold, socket, Some(60), 100)), json!("OK"), "{socket}");
        }
        let receivers: Vec<_> =
            s.receivers(hold, 100).map(|(socket, _)| socket.to_string()).collect();
        assert_eq!(receivers, ["tcp:10.0.0.1:5", "udp:10.0.0.1:6", "udp:10.0.0.12:5"]);
        let found = result(s.list(Some(hold), Some("udp:10.0.0.1:5"), 100));
        assert_eq!(found["Event"]["Subscriber"]["socket"], "udp:10.0.0.12:5");
        let refused = json!({"code": 400, "message": "Bad parameter value"});
        for socket in ["udp:[::1]:5", "udp:::1:5", "tcp:[2001:db8::1]:5"] {
            assert_eq!(result(s.subscribe(hold, socket, Some(60), 100)), refused, "{socket}");
        }
    }

    #[test]
    fn subscribing_again_refreshes_and_a_tcp_path_renames() {
        let mut s = Subscriptions::new(Version::V4_0, Script::Reference);
        for expire in [Some(60), None] {
            s.subscribe("E_CALLPLANE", "tcp:127.0.0.1:9/x", expire, 10);
        }
        let got: Vec<_> = s
            .receivers("E_CALLPLANE", 10)
            .map(|(socket, method)| (socket.to_string(), method.cloned()))
            .collect();
        assert_eq!(got, [("tcp:127.0.0.1:9/x".to_owned(), Some("x".to_owned()))]);
        assert_eq!(
            result(s.list(None, None, 20)),
            json!({"Events": [{"name": "E_CALLPLANE", "id": 18, "Subscribers":
                [{"socket": "tcp:127.0.0.1:9/x", "expire": 3600, "ttl": 3590}]}]})
        );
        for bad in ["bogus:1:2", "udp:127.0.0.1", "udp:127.0.0.1:x", "udp::1", "udp:h:1/x"] {
            assert_eq!(
                result(s.subscribe("E_CALLPLANE", bad, None, 10))["code"],
                json!(400),
                "{bad}"
            );
        }
    }
}
