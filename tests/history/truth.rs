//! What is told of an end is so; and `unknown` is said only where it could not be known.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

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
    /// Phones were asked under this id by a command that the store has forgotten.
    forgotten: bool,
    /// Its `CallEnd` and the answer of the phone crossed.
    crossed: bool,
}

pub fn judge(history: &History, client: &Client, found: &mut Vec<Broken>) {
    let mut told = BTreeMap::new();
    let mut errors: BTreeMap<&String, &Body> = BTreeMap::new();
    for (at, _, body) in client.told() {
        match body.event.as_str() {
            "Ended" => {
                let error = errors.get(&body.cmd_id).copied();
                told.entry(&body.cmd_id).or_insert((at, body, error));
            }
            "Error" => drop(errors.insert(&body.cmd_id, body)),
            _ => {}
        }
    }
    for (id, (at, ended, error)) in told {
        let Some(command) = client.commands.get(id) else { continue };
        // Where the store forgot it, the same id began anew.
        let begun = history.events.iter().filter(|event| match &event.what {
            What::Told { cmd_id, event, .. } => cmd_id == id && event == "Started",
            _ => false,
        });
        let before = begun.clone().map(|event| event.at).filter(|begun| *begun <= at);
        let forgotten = history.faults().filter(|(_, _, kind)| **kind == Fault::StoreLost);
        let forgotten: Vec<Time> = forgotten.map(|(lost, _, _)| lost).collect();
        // Or it came to remember the one before.
        let since = match before.clone().max() {
            Some(last) if forgotten.iter().any(|lost| (last..=at).contains(lost)) => before.min(),
            last => last,
        };
        // So it may go on though it was told to be over.
        let anew = begun.map(|event| event.at).chain(forgotten);
        let until = anew.filter(|anew| *anew > at).min().unwrap_or(history.end);
        let sights = sights(history, since.unwrap_or_default()..=until, id, command);
        let error = error.and_then(|error| error.error.as_ref());
        // Who says `up: unknown` does not say that no call came of it.
        let sure = error.is_none_or(|error| error.up != "unknown");
        if let Some(how) = lie(history, command, at, ended, &sights).filter(|_| sure) {
            found.push(broken(format!("{id} ({}): {how}", command.method)));
        }
        if ended.outcome.as_deref() == Some("unknown") {
            let (code, message) =
                error.map_or(("", ""), |error| (error.code.as_str(), error.message.as_str()));
            if !could_not_be_known(history, command, at, code, message) {
                let how = format!("{id} ({}): unknown ({code}, {message})", command.method);
                found.push(broken(format!("{how}, though nothing went wrong")));
            }
        }
    }
}

fn sights(history: &History, during: RangeInclusive<Time>, id: &str, command: &Command) -> Sights {
    let mut seen = Sights::default();
    let mut calls: Vec<&str> = Vec::new();
    seen.forgotten = history.events.iter().any(|event| match &event.what {
        What::Invite { asked, .. } => event.at < *during.start() && mark(asked) == Some(id),
        _ => false,
    });
    for event in history.events.iter().filter(|event| during.contains(&event.at)) {
        match &event.what {
            What::Invite { from, by_proxy: true, .. } => {
                seen.invited |= from.starts_with(&format!("\"{id}\""));
            }
            What::Invite { call, asked, .. } if mark(asked) == Some(id) => calls.push(call),
            What::Refer { to, .. } => seen.referred |= mark(to) == Some(id),
            What::Up { call, .. } => {
                seen.crossed |= command.params["callid"] == call.as_str();
                if calls.contains(&call.as_str()) {
                    seen.up.insert(call.clone(), event.at);
                }
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
            let other = seen.forgotten || is_taken_for_another(history, command);
            (!other).then(|| "success, and no such call was up".to_owned())
        }
        // Open: after a CANCEL that was taken, and without any event, nobody looks whether the phone
        // had answered meanwhile.
        "success" if command.method == "CallEnd" && seen.left && !seen.crossed => {
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

/// Open: a transfer's events name only its call. What another one on the same call brought about a
/// moment before this one began is taken for its own, within the time that clocks may be apart. And
/// where the store forgot the other one, be it of the same id, both run at once.
fn is_taken_for_another(history: &History, command: &Command) -> bool {
    let call = command.params["callid"].as_str().unwrap_or_default();
    let referred = history.events.iter().filter(|event| match &event.what {
        What::Refer { call: referred, .. } => referred == call,
        _ => false,
    });
    if referred.count() > 1 && forgot_anything(history) {
        return true;
    }
    let near = command.asked_at.saturating_sub(300)..=command.asked_at + 300;
    history.events.iter().any(|event| match &event.what {
        What::EndedByProxy { call: ended, .. } => ended == call && near.contains(&event.at),
        _ => false,
    })
}

fn forgot_anything(history: &History) -> bool {
    history.faults().any(|(_, _, kind)| matches!(kind, Fault::StoreLost))
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
