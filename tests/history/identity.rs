//! P3: an id is one command, and no command places a second call or sends a second REFER.

use std::collections::BTreeMap;

use super::conversation::{Client, Line};
use super::ends::forgot;
use super::{Broken, Seen, What};

fn broken(how: String) -> Broken {
    Broken { promise: "P3", how }
}

pub fn judge_answers(history: &Seen<'_>, client: &Client, found: &mut Vec<Broken>) {
    // Since when an id is taken, and by what.
    let mut taken: BTreeMap<&str, (u64, &serde_json::Value)> = BTreeMap::new();
    for said in &client.said {
        match &said.what {
            Line::Answered { result, .. } if result.degraded => {}
            Line::Answered { to, result } if to.begins() && result.event == "Started" => {
                let known = taken.get(to.cmd_id.as_str()).copied();
                taken.entry(&to.cmd_id).or_insert((said.at, &to.params));
                let Some((since, params)) = known else { continue };
                if forgot(history, since.saturating_sub(5000), said.at) {
                    taken.insert(&to.cmd_id, (said.at, &to.params));
                } else if *params != to.params {
                    let how = format!("{}: other params were taken", to.cmd_id);
                    found.push(broken(how));
                } else if !result.repeated {
                    found.push(broken(format!("{} began twice", to.cmd_id)));
                }
            }
            Line::Refused { to, kind } if kind == "id_conflict" => {
                let known = taken.get(to.cmd_id.as_str());
                let holds = |since: &u64| !forgot(history, since.saturating_sub(5000), said.at);
                if known.is_some_and(|(since, params)| **params == to.params && holds(since)) {
                    found.push(broken(format!("{}: the same again is a conflict", to.cmd_id)));
                }
            }
            _ => {}
        }
    }
}

/// The mark that a command leaves in an address: `;cmd=ID`.
pub fn mark(address: &str) -> Option<&str> {
    let (_, rest) = address.split_once(";cmd=")?;
    rest.split([';', '>', '?']).next()
}

/// The mark that a start leaves in a display name.
pub fn displayed(from: &str) -> Option<&str> {
    from.strip_prefix('"')?.split('"').next()
}

pub fn judge_phones(history: &Seen<'_>, clients: &[Client], found: &mut Vec<Broken>) {
    let mut sent: BTreeMap<(&str, String), usize> = BTreeMap::new();
    for event in &history.events {
        let key = match &event.what {
            What::Invite { from, by_proxy: true, .. } => {
                displayed(from).map(|mark| ("INVITE", mark.to_owned()))
            }
            What::Refer { call, to, .. } => match mark(to) {
                Some(mark) => Some(("REFER", mark.to_owned())),
                None => replaced(to).map(|other| ("REFER", format!("{call} {other}"))),
            },
            _ => continue,
        };
        if let Some(key) = key {
            *sent.entry(key).or_default() += 1;
        }
    }
    let losses = history.faults().filter(|(_, _, kind)| **kind == super::Fault::StoreLost).count();
    for ((method, of), count) in sent {
        let asked = match of.split_once(' ') {
            None => 1,
            Some((call, other)) => clients
                .iter()
                .flat_map(|client| client.commands.values())
                .filter(|command| {
                    command.params["callidA"] == call && command.params["callidB"] == other
                })
                .count(),
        };
        if count > asked * (1 + losses) {
            found.push(broken(format!("{of}: {count} {method}s reached a phone")));
        }
    }
}

/// The call that a REFER replaces.
fn replaced(to: &str) -> Option<&str> {
    let (_, rest) = to.split_once("Replaces=")?;
    rest.split(['%', ';']).next()
}
