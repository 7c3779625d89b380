//! What is told of an end is so; and `unknown` is said only where it could not be known.

use std::collections::BTreeMap;

use super::conversation::{Body, Client, Command};
use super::identity::mark;
use super::{Broken, Fault, History, Time, What};

/// A fault that ended this long before a command began may still be felt.
const AFTERMATH: u64 = 12_000;

fn broken(how: String) -> Broken {
    Broken { promise: "truth", how }
}

/// What phones saw of the calls that a command brought about.
#[derive(Default)]
struct Sights {
    invited: bool,
    referred: bool,
    /// When a marked call was answered, and was ended.
    up: BTreeMap<String, Time>,
    over: BTreeMap<String, Time>,
    left: bool,
}

pub fn judge(history: &History, client: &Client, found: &mut Vec<Broken>) {
    let mut told = BTreeMap::new();
    let mut errors = BTreeMap::new();
    for (at, _, body) in client.told() {
        match body.event.as_str() {
            "Ended" => drop(told.entry(&body.cmd_id).or_insert((at, body))),
            "Error" => drop(errors.insert(&body.cmd_id, body)),
            _ => {}
        }
    }
    for (id, (at, ended)) in told {
        let Some(command) = client.commands.get(id) else { continue };
        let sights = sights(history, id, command);
        if let Some(how) = lie(history, command, at, ended, &sights) {
            found.push(broken(format!("{id} ({}): {how}", command.method)));
        }
        if ended.outcome.as_deref() == Some("unknown") {
            let error = errors.get(id).and_then(|error| error.error.as_ref());
            let (code, message) =
                error.map_or(("", ""), |error| (error.code.as_str(), error.message.as_str()));
            if !could_not_be_known(history, command, at, code, message) {
                let how = format!("{id} ({}): unknown ({code}, {message})", command.method);
                found.push(broken(format!("{how}, though nothing went wrong")));
            }
        }
    }
}

fn sights(history: &History, id: &str, command: &Command) -> Sights {
    let mut seen = Sights::default();
    let mut calls: Vec<&str> = Vec::new();
    for event in &history.events {
        match &event.what {
            What::Invite { from, by_proxy: true, .. } => {
                seen.invited |= from.starts_with(&format!("\"{id}\""));
            }
            What::Invite { call, asked, .. } if mark(asked) == Some(id) => calls.push(call),
            What::Refer { to, .. } => seen.referred |= mark(to) == Some(id),
            What::Up { call, .. } if calls.contains(&call.as_str()) => {
                seen.up.insert(call.clone(), event.at);
            }
            What::EndedByPhone { call, .. } | What::EndedByProxy { call, .. } => {
                seen.over.entry(call.clone()).or_insert(event.at);
            }
            What::Left { call, .. } => {
                seen.left |= calls.contains(&call.as_str());
                seen.left |=
                    command.method == "CallEnd" && command.params["callid"] == call.as_str();
            }
            _ => {}
        }
    }
    seen
}

fn lie(
    history: &History,
    command: &Command,
    at: Time,
    ended: &Body,
    seen: &Sights,
) -> Option<String> {
    let outcome = ended.outcome.as_deref()?;
    let places = matches!(command.method.as_str(), "CallStart" | "CallBlindTransfer");
    let by_notify = ended.observed.is_some();
    match outcome {
        "not_started" if seen.invited || seen.referred => {
            Some("not_started, and a phone was asked".to_owned())
        }
        "success" if places && !by_notify && !seen.up.values().any(|up| *up <= at) => {
            Some("success, and no such call was up".to_owned())
        }
        "success" if command.method == "CallEnd" && seen.left => {
            let lost = history.faults().any(|(_, _, kind)| matches!(kind, Fault::Restart { .. }));
            (!lost).then(|| "success, and the call is up".to_owned())
        }
        "failed" if places => {
            let was_up = |(call, up): (&String, &Time)| {
                let over = seen.over.get(call).copied().unwrap_or(Time::MAX);
                up + 1000 < at && over > at
            };
            let up = seen.up.iter().any(was_up);
            (up && !ended.may_still_ring).then(|| "failed, and the call was up".to_owned())
        }
        _ => None,
    }
}

/// Whether something went wrong that a command of that time felt, or phones were of a kind that
/// tells nothing.
fn could_not_be_known(
    history: &History,
    command: &Command,
    ended: Time,
    code: &str,
    message: &str,
) -> bool {
    let felt = history.faults().any(|(at, until, kind)| {
        let matters = match kind {
            Fault::Bus | Fault::Client => false,
            Fault::Crash
            | Fault::Pause
            | Fault::Store
            | Fault::StoreLost
            | Fault::Stack { .. }
            | Fault::Restart { .. }
            | Fault::Clock
            | Fault::Lease => true,
        };
        matters && at <= ended && until + AFTERMATH >= command.asked_at
    });
    felt || match code {
        // Rows 14 to 16, 29, 37 and 39 of docs/outcomes.md: the phone's own doing.
        "refer_ignored" | "leg_timeout" | "leg_refused" | "caller_hung_up" | "call_ended" => true,
        "reply_lost" => message == "transfer not confirmed",
        _ => false,
    }
}
