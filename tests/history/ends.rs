//! P1: what was answered `Started` reaches exactly one `Ended`, in time.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::conversation::{Body, Client, Line};
use super::{Broken, Fault, Seen, Time};

/// After the return of what was away, this much is left.
const BACK: u64 = 10_000;

/// What lies between an entry and its client.
const WAY: u64 = 5_000;

fn broken(how: String) -> Broken {
    Broken { promise: "P1", how }
}

/// Whether the store lost what it had acknowledged between these.
pub fn forgot(history: &Seen<'_>, from: Time, until: Time) -> bool {
    history.faults().any(|(at, _, kind)| *kind == Fault::StoreLost && at >= from && at <= until)
}

#[derive(Default)]
struct Ending<'a> {
    /// Where `Ended` stood.
    places: BTreeSet<(String, u64)>,
    unplaced: bool,
    /// When the end was first known.
    known: Option<Time>,
    /// There is no such command any more.
    gone: Option<Time>,
    outcomes: BTreeMap<String, &'a Body>,
    last: Option<&'a Body>,
}

pub fn judge(history: &Seen<'_>, client: &Client, found: &mut Vec<Broken>) {
    let mut endings: BTreeMap<&str, Ending<'_>> = BTreeMap::new();
    let mut connected = 0;
    let mut reached = BTreeMap::new();
    for said in &client.said {
        let (told, answered) = match &said.what {
            Line::Connected => {
                connected = said.at;
                continue;
            }
            Line::Told(told) => (told, false),
            Line::Answered { to, result } if !to.cmd_id.is_empty() => (result, true),
            Line::Refused { to, kind } if kind == "unknown_command" => {
                // Before it began it was rightly unknown.
                let command = client.commands.get(&to.cmd_id);
                let started = command.and_then(|command| command.started);
                if started.is_some_and(|(started, _)| started <= to.at) {
                    endings.entry(&to.cmd_id).or_default().gone.get_or_insert(said.at);
                }
                continue;
            }
            Line::Asked(_) | Line::Answered { .. } | Line::Refused { .. } | Line::Closed => {
                continue;
            }
        };
        let ending = endings.entry(&told.cmd_id).or_default();
        if let Some(outcome) = &told.outcome {
            ending.known.get_or_insert_with(|| {
                reached.insert(&told.cmd_id, connected);
                said.at
            });
            ending.outcomes.entry(outcome.clone()).or_insert(told);
        }
        if answered {
            continue;
        }
        if told.event == "Ended" {
            match told.position() {
                Some((epoch, seq)) => drop(ending.places.insert((epoch.to_owned(), seq))),
                None => ending.unplaced = true,
            }
            let error = ending.last.is_some_and(|last| last.event == "Error");
            let fails = told.outcome.as_deref() != Some("success");
            if fails && !error && ending.last.is_some() {
                found.push(broken(format!("{}: no Error before Ended", told.cmd_id)));
            }
        }
        ending.last = Some(told);
    }
    for (id, command) in &client.commands {
        let Some((started, within)) = command.started else { continue };
        if command.degraded {
            continue;
        }
        let nothing = Ending::default();
        let ending = endings.get(id.as_str()).unwrap_or(&nothing);
        // It began after it was asked for, and perhaps long before its client heard of it.
        let forgot = |until| forgot(history, command.asked_at, until);
        let mut per_epoch: BTreeMap<&str, usize> = BTreeMap::new();
        for (epoch, _) in &ending.places {
            *per_epoch.entry(epoch).or_default() += 1;
        }
        let lost = forgot(history.end);
        // A store that kept its memory goes on under the same numbers in another epoch.
        let places: BTreeSet<u64> = ending.places.iter().map(|(_, seq)| *seq).collect();
        if per_epoch.values().any(|count| *count > 1) || (places.len() > 1 && !lost) {
            found.push(broken(format!("{id} ended more than once: {:?}", ending.places)));
        }
        if ending.unplaced && !lost {
            found.push(broken(format!("{id}: its record was lost, though the store lost nothing")));
        }
        if ending.outcomes.len() > 1 && !lost {
            let outcomes: Vec<_> = ending.outcomes.keys().collect();
            found.push(broken(format!("{id} ended in two ways: {outcomes:?}")));
        }
        let due = started + within + away(history, started..Time::MAX) + BACK;
        match (ending.known, ending.gone) {
            (Some(known), _) => {
                let reached = reached.get(id).copied().unwrap_or_default();
                if known > due.max(reached + WAY) {
                    found.push(broken(format!("{id} ended at {known}, due at {due}")));
                }
            }
            (None, Some(gone)) if forgot(gone) => {}
            (None, Some(gone)) => {
                found.push(broken(format!("{id} is unknown at {gone}, and was never ended")));
            }
            (None, None) if history.end < due => {}
            (None, None) => found.push(broken(format!("{id} never ended, due at {due}"))),
        }
    }
}

/// How long something was away without which no command can go on, during that time.
pub fn away(history: &Seen<'_>, during: Range<Time>) -> u64 {
    let of = |(at, until): (Time, Time)| until.min(during.end).saturating_sub(at.max(during.start));
    let stops = history.faults().filter(|(_, _, kind)| kind.stops_time());
    stops.map(|(at, until, _)| of((at, until))).sum()
}
