//! P2: notifications in order, each once on a connection, none lost; P4: nobody's but the client's
//! own; and fencing.

use std::collections::{BTreeMap, BTreeSet};

use super::conversation::{Body, Client, Line};
use super::ends::away;
use super::{Broken, Fault, Seen, Time, What};

/// What was committed is told within this, where nothing is away.
const SOON: u64 = 6_000;

/// Where nothing is away, what was committed reaches a client within this.
const ON_ITS_WAY: u64 = 200;

/// One connection's place in the stream.
#[derive(Default)]
struct Reading {
    /// The highest position of each epoch.
    at: BTreeMap<String, u64>,
    had: BTreeSet<(String, u64)>,
    /// Commands whose entries are told again.
    replayed: BTreeSet<String>,
}

fn broken(promise: &'static str, how: String) -> Broken {
    Broken { promise, how }
}

pub fn judge(history: &Seen<'_>, client: &Client, found: &mut Vec<Broken>) {
    let mut readings: BTreeMap<usize, Reading> = BTreeMap::new();
    let mut begun = BTreeSet::new();
    let mut ended: BTreeSet<(usize, &str, &str)> = BTreeSet::new();
    let mut received: BTreeMap<(&str, u64), (&str, &str)> = BTreeMap::new();
    // What a client was told that it can't have.
    let mut excused: Vec<(String, u64)> = Vec::new();
    // What was told before that may be missing: the client knows.
    let mut gap = 0;
    for said in &client.said {
        let reading = readings.entry(said.connection).or_default();
        match &said.what {
            Line::Answered { to, result } => {
                if let Some((epoch, seq)) = result.position() {
                    if to.begins() && !result.repeated {
                        received.insert((epoch, seq), (&result.cmd_id, "Started"));
                        reading.had.insert((epoch.to_owned(), seq));
                    }
                    if result.recovered == Some(false) {
                        excused.push((epoch.to_owned(), seq));
                        gap = said.at;
                    }
                }
                if result.event == "Started" {
                    begun.insert(result.cmd_id.as_str());
                }
                if result.replayed.is_some() {
                    reading.replayed.insert(result.cmd_id.clone());
                    if result.replayed == Some(false) {
                        excused.push((result.cmd_id.clone(), u64::MAX));
                    }
                }
            }
            Line::Told(told) => {
                let id = told.cmd_id.as_str();
                if !client.commands.contains_key(id) {
                    let how = format!("client {} was told of {id}", client.number);
                    found.push(broken("P4", how));
                    continue;
                }
                if told.event == "Started" {
                    begun.insert(id);
                } else if !begun.contains(id) && excused.is_empty() {
                    found.push(broken("P2", format!("{id}: {} before Started", told.event)));
                }
                let Some((epoch, seq)) = told.position() else { continue };
                received.insert((epoch, seq), (id, &told.event));
                if !reading.had.insert((epoch.to_owned(), seq)) {
                    let how = format!("{id}: {} ({seq}) twice on {}", told.event, said.connection);
                    found.push(broken("P2", how));
                    continue;
                }
                let highest = reading.at.entry(epoch.to_owned()).or_default();
                if seq > *highest {
                    *highest = seq;
                } else if !reading.replayed.contains(id) {
                    let how = format!("{id}: {} ({seq}) behind {highest}", told.event);
                    found.push(broken("P2", how));
                }
                let again = reading.replayed.contains(id);
                if ended.contains(&(said.connection, epoch, id)) && !again {
                    found.push(broken("P2", format!("{id}: {} after Ended", told.event)));
                }
                if told.event == "Ended" {
                    ended.insert((said.connection, epoch, id));
                }
            }
            Line::Connected | Line::Asked(_) | Line::Refused { .. } | Line::Closed => {}
        }
    }
    if history.told {
        compare(history, client, &received, &excused, gap, found);
    }
}

/// What the store told and what the client received are the same.
fn compare(
    history: &Seen<'_>,
    client: &Client,
    received: &BTreeMap<(&str, u64), (&str, &str)>,
    excused: &[(String, u64)],
    gap: Time,
    found: &mut Vec<Broken>,
) {
    let mut told = BTreeMap::new();
    for event in &history.events {
        let event_at = event.at;
        let What::Told { cmd_id, epoch, seq, event, .. } = &event.what else { continue };
        if client.commands.contains_key(cmd_id) {
            told.insert((epoch.as_str(), *seq), (cmd_id.as_str(), event.as_str(), event_at));
        }
    }
    for (position, (id, event)) in received {
        let known = told.get(position).map(|(id, event, _)| (*id, *event));
        if known != Some((*id, *event)) {
            found.push(broken("P2", format!("{id}: {event} {position:?} was never committed")));
        }
    }
    if !client.is_connected {
        return;
    }
    for (position, (id, event, at)) in &told {
        let (epoch, seq) = position;
        let is_excused = excused.iter().any(|(what, until)| {
            what == id || (what == epoch && seq <= until) || (what != epoch && *until != u64::MAX)
        });
        let degraded = client.commands.get(*id).is_some_and(|command| command.degraded);
        // A forgetful store may tell of a command that was over for its client before.
        let was_over = || {
            let mut received = received.iter();
            received.any(|((other, _), (known, event))| {
                other != epoch && known == id && *event == "Ended"
            })
        };
        // The history ends while it is on its way.
        let is_last = at + ON_ITS_WAY > history.end;
        let known =
            received.contains_key(position) || *at <= gap || is_excused || degraded || is_last;
        if !(known || was_over() || is_lost_unheard(history, client, id, epoch, *at)) {
            found.push(broken("P2", format!("{id}: {event} ({seq}) was never received")));
        }
    }
}

/// Whether the store lost an entry of a command before its client was told that it began: until then
/// its client knows only that it may have begun, and asks again.
fn is_lost_unheard(history: &Seen<'_>, client: &Client, id: &str, epoch: &str, at: Time) -> bool {
    let begun = history.events.iter().find_map(|event| match &event.what {
        What::Told { cmd_id, epoch: of, event: told, .. } => {
            (cmd_id == id && of == epoch && told == "Started").then_some(event.at)
        }
        _ => None,
    });
    let Some(begun) = begun else { return false };
    let lost = history.faults().find(|(lost, _, kind)| **kind == Fault::StoreLost && *lost >= at);
    let Some((lost, ..)) = lost else { return false };
    // Had there been more time, its client would have heard of it.
    let in_time = lost - begun <= SOON + away(history, begun..lost);
    let tells = |body: &Body| body.cmd_id == id && body.event == "Started";
    let was_told = client.said.iter().any(|said| match &said.what {
        Line::Answered { result, .. } => said.at >= begun && tells(result),
        Line::Told(told) => said.at >= begun && tells(told),
        Line::Connected | Line::Asked(_) | Line::Refused { .. } | Line::Closed => false,
    });
    in_time && !was_told
}

/// Once a leader of a term was heard, none of an older one is.
pub fn judge_terms(history: &Seen<'_>, found: &mut Vec<Broken>) {
    let mut newest: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for event in &history.events {
        let What::Applied { stack, epoch, term } = &event.what else { continue };
        let newest = newest.entry((stack, epoch)).or_default();
        if *term < *newest {
            let how = format!("{stack}: what term {term} reported was applied after {newest}");
            found.push(broken("fencing", how));
        }
        *newest = (*newest).max(*term);
    }
}
