//! What is told of an end is so; and `unknown` is said only where it could not be known.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::calls::user;
use super::conversation::{Body, Client, Command};
use super::identity::{displayed, mark};
use super::{Broken, Event, Fault, Seen, Time, What};

/// A fault that ended this long before a command began may still be felt.
const AFTERMATH: u64 = 12_000;

fn broken(how: String) -> Broken {
    Broken { promise: "truth", how }
}

/// What phones saw of the calls that a command brought about.
#[derive(Default)]
struct Sights {
    asked: bool,
    /// When a marked call was answered, and was ended.
    up: BTreeMap<String, Time>,
    over: BTreeMap<String, Time>,
    /// Calls that came of what a forgotten life of the id asked for.
    of_before: BTreeSet<String>,
    /// The call that it was to end is left at a phone, and was answered before that was told.
    left: bool,
}

pub fn judge(history: &Seen<'_>, client: &Client, found: &mut Vec<Broken>) {
    let mut told: BTreeMap<(&String, Option<(&str, u64)>), _> = BTreeMap::new();
    let mut errors: BTreeMap<&String, &Body> = BTreeMap::new();
    for (at, _, body) in client.told() {
        match body.event.as_str() {
            "Ended" => {
                // An id that began anew ends anew, and each end has an error of its own.
                let error = errors.remove(&body.cmd_id);
                told.entry((&body.cmd_id, body.position())).or_insert((at, body, error));
            }
            "Error" => drop(errors.insert(&body.cmd_id, body)),
            _ => {}
        }
    }
    for ((id, position), (heard, ended, error)) in told {
        let Some(command) = client.commands.get(id) else { continue };
        // What is told must have been so when it was committed; it may be heard much later.
        let at = committed(history, id, position).unwrap_or(heard);
        let life = Life::of(history, id, at, position);
        let sights = sights(history, &life, id, command, at);
        let error = error.and_then(|error| error.error.as_ref());
        // A start that says `up: unknown` does not say that no call came of it. A transfer says by
        // that word how the call stands that was transferred.
        let sure = command.method != "CallStart" || error.is_none_or(|error| error.up != "unknown");
        if let Some(how) = lie(history, command, at, ended, &sights, sure) {
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

/// When an entry was committed, where that can be seen.
fn committed(history: &Seen<'_>, id: &str, position: Option<(&str, u64)>) -> Option<Time> {
    let position = position?;
    history.events.iter().find_map(|event| match &event.what {
        What::Told { cmd_id, epoch, seq, .. } => {
            (cmd_id == id && (epoch.as_str(), *seq) == position).then_some(event.at)
        }
        _ => None,
    })
}

/// From one beginning of an id to the next: where the store forgot it, the same id begins anew.
struct Life {
    during: RangeInclusive<Time>,
    /// So often it began before, and was forgotten.
    before: usize,
}

impl Life {
    /// The one that ended then.
    fn of(history: &Seen<'_>, id: &str, ended: Time, position: Option<(&str, u64)>) -> Self {
        let begun = history.events.iter().filter_map(|seen| match &seen.what {
            What::Told { cmd_id, event, epoch, .. } => {
                (cmd_id == id && event == "Started").then_some((seen.at, epoch.as_str()))
            }
            _ => None,
        });
        // What begins and ends in one stream is one life.
        let whole = begun.clone().rfind(|(at, _)| *at <= ended).map(|(_, epoch)| epoch)
            == position.map(|(epoch, _)| epoch);
        let begun = begun.map(|(at, _)| at);
        let before = begun.clone().filter(|begun| *begun <= ended);
        let forgotten = history.faults().filter(|(_, _, kind)| **kind == Fault::StoreLost);
        let forgotten: Vec<Time> = forgotten.map(|(lost, _, _)| lost).collect();
        // Or it came to remember the one before.
        let since = match before.clone().max() {
            Some(last) if !whole && forgotten.iter().any(|lost| (last..=ended).contains(lost)) => {
                before.clone().min()
            }
            last => last,
        };
        let since = since.unwrap_or_default();
        // So it may go on though it was told to be over.
        let anew = begun.chain(forgotten);
        let until = anew.filter(|anew| *anew > ended).min().unwrap_or(history.end);
        Self { during: since..=until, before: before.filter(|begun| *begun < since).count() }
    }
}

fn sights(history: &Seen<'_>, life: &Life, id: &str, command: &Command, ended: Time) -> Sights {
    let during = &life.during;
    let mut seen = Sights::default();
    let mut calls: Vec<&str> = Vec::new();
    // What a life before it sent may be under way still, when nobody remembers that life.
    let asks = |event: &Event| asks_a_phone(&event.what, id, &command.method);
    let asked_before = history.events.iter().filter(|event| event.at < *during.start());
    let mut late = life.before.saturating_sub(asked_before.filter(|event| asks(event)).count());
    // So may a REFER on a leg of it, and a call that a REFER of it asked for.
    let mut legs_before: BTreeSet<&str> = BTreeSet::new();
    let mut to_come: Vec<&str> = Vec::new();
    let before = history.events.iter().filter(|event| event.at < *during.start());
    for event in before.filter(|_| life.before > 0) {
        match &event.what {
            What::Refer { to, .. } if mark(to) == Some(id) => to_come.push(to),
            What::Invite { asked, by_proxy: false, .. } if mark(asked) == Some(id) => {
                came(&mut to_come, asked);
            }
            What::Invite { call, from, by_proxy: true, .. } if displayed(from) == Some(id) => {
                legs_before.insert(call);
            }
            _ => {}
        }
    }
    for event in history.events.iter().filter(|event| during.contains(&event.at)) {
        if asks(event) {
            seen.asked |= late == 0;
            late = late.saturating_sub(1);
        }
        match &event.what {
            What::Invite { call, asked, by_proxy: false, .. } if mark(asked) == Some(id) => {
                calls.push(call);
                if came(&mut to_come, asked) {
                    seen.of_before.insert(call.clone());
                }
            }
            What::Refer { call, to, .. } if legs_before.contains(call.as_str()) => to_come.push(to),
            What::Up { call, .. } if calls.contains(&call.as_str()) => {
                seen.up.insert(call.clone(), event.at);
            }
            What::EndedByPhone { call, .. } | What::EndedByProxy { call, .. } => {
                seen.over.entry(call.clone()).or_insert(event.at);
            }
            _ => {}
        }
    }
    seen.left = command.method == "CallEnd" && is_left(history, command, ended);
    seen
}

/// Whether a call to this address is one that a REFER asked for; it is not to come any more then.
fn came(to_come: &mut Vec<&str>, asked: &str) -> bool {
    let at = to_come.iter().position(|to| asked.starts_with(to));
    at.map(|at| to_come.remove(at)).is_some()
}

/// Whether the call that was to be ended is at a phone at last, though it was up by then. A phone may
/// answer what was taken back a moment ago, and who was told by then that it is over can't know. While
/// the store is away, that the stack took it is all that is told.
fn is_left(history: &Seen<'_>, command: &Command, ended: Time) -> bool {
    let call = command.params["callid"].as_str().unwrap_or_default();
    let is_left = history.events.iter().any(|event| match &event.what {
        What::Left { call: left, .. } => left == call,
        _ => false,
    });
    let is_up = history.events.iter().any(|event| match &event.what {
        What::Up { call: up, .. } => {
            up == call && (event.at < command.asked_at || event.at <= ended && !command.degraded)
        }
        _ => false,
    });
    is_left && is_up
}

/// Whether a phone was asked under this id: by a setup leg for a start, by a REFER for a transfer.
fn asks_a_phone(what: &What, id: &str, method: &str) -> bool {
    match what {
        What::Invite { from, by_proxy: true, .. } if method == "CallStart" => {
            displayed(from) == Some(id)
        }
        What::Refer { to, .. } if method != "CallStart" => mark(to) == Some(id),
        _ => false,
    }
}

fn lie(
    history: &Seen<'_>,
    command: &Command,
    at: Time,
    ended: &Body,
    seen: &Sights,
    sure: bool,
) -> Option<String> {
    let outcome = ended.outcome.as_deref()?;
    let places = matches!(command.method.as_str(), "CallStart" | "CallBlindTransfer");
    let by_notify = ended.observed.is_some();
    match outcome {
        "not_started" if seen.asked => Some("not_started, and a phone was asked".to_owned()),
        "success" if places && !by_notify && !seen.up.values().any(|up| *up <= at) => {
            let is_like_it = is_indistinguishable(history, command, at);
            (!is_like_it).then(|| "success, and no such call was up".to_owned())
        }
        "success" if seen.left => {
            let lost = history.faults().any(|(from, _, kind)| {
                // What its stack has forgotten, nobody there can end.
                matches!(kind, Fault::Restart { stack } if from <= at && is_at(history, command, *stack))
            });
            (!lost).then(|| "success, and the call is up".to_owned())
        }
        "failed" if places && sure => {
            let was_up = |(call, up): (&String, &Time)| {
                let over = seen.over.get(call).copied().unwrap_or(Time::MAX);
                up + 1000 < at && over > at && !seen.of_before.contains(call)
            };
            let up = seen.up.iter().any(was_up);
            (up && !ended.may_still_ring).then(|| "failed, and the call was up".to_owned())
        }
        _ => None,
    }
}

/// Whether its call is at this stack.
fn is_at(history: &Seen<'_>, command: &Command, stack: usize) -> bool {
    history.events.iter().any(|event| match &event.what {
        What::Invite { stack: at, call, .. } => *at == stack && command.params["callid"] == **call,
        _ => false,
    })
}

/// Whether another REFER on the same call brought about a call between the very parties that this
/// one wants, and nothing at the proxy tells whose it is. A token would.
fn is_indistinguishable(history: &Seen<'_>, command: &Command, at: Time) -> bool {
    let param = |name: &str| command.params[name].as_str().unwrap_or_default();
    let (call, target) = (param("callid"), user(param("destination")));
    let invites = || {
        history.events.iter().filter_map(|event| match &event.what {
            What::Invite { call, from, asked, .. } => Some((call, user(from), asked)),
            _ => None,
        })
    };
    let Some((_, caller, callee)) = invites().find(|(known, ..)| *known == call) else {
        return false;
    };
    let transferee = if param("leg") == "caller" { caller } else { user(callee) };
    let was_referred = history.events.iter().any(|event| match &event.what {
        What::Refer { call: referred, phone, to, .. } => {
            event.at <= at && referred == call && phone == transferee && !carries_token(to)
        }
        _ => false,
    });
    let is_up = |new: &String| {
        history.events.iter().any(|event| match &event.what {
            What::Up { call, .. } => event.at <= at && call == new,
            _ => false,
        })
    };
    was_referred
        && invites().any(|(new, from, asked)| {
            new != call && from == transferee && user(asked) == target && is_up(new)
        })
}

/// Whether an address carries a token that a call can be told by.
fn carries_token(address: &str) -> bool {
    address.contains(";cpt=")
}

/// Whether something went wrong that a command of that time felt, or phones were of a kind that
/// tells nothing.
fn could_not_be_known(
    history: &Seen<'_>,
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
