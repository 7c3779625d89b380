//! P6: callplane ends no call that nobody asked it to end, and leaves none of its own.

use std::collections::{BTreeMap, BTreeSet};

use super::conversation::{Client, Command};
use super::identity::mark;
use super::{Broken, Fault, Seen, What};

fn broken(how: String) -> Broken {
    Broken { promise: "P6", how }
}

/// The setup legs of this installation.
fn is_setup(call: &str) -> bool {
    call.starts_with("cp-")
}

/// `alice` of `sip:alice@example.com`.
pub fn user(address: &str) -> &str {
    let rest = address.split_once("sip:").map_or("", |(_, rest)| rest);
    rest.split('@').next().unwrap_or_default()
}

pub fn judge(history: &Seen<'_>, clients: &[Client], found: &mut Vec<Broken>) {
    let commands = || clients.iter().flat_map(|client| &client.commands);
    let names = |command: &Command, call: &str| {
        ["callid", "callidA", "callidB"].iter().any(|name| command.params[*name] == call)
    };
    let mut marks: BTreeMap<&str, &str> = BTreeMap::new();
    let mut first_seen: BTreeMap<&str, u64> = BTreeMap::new();
    let mut asked: BTreeSet<&str> = BTreeSet::new();
    let mut referred: BTreeSet<&str> = BTreeSet::new();
    for event in &history.events {
        match &event.what {
            What::Refer { phone, .. } => drop(referred.insert(phone.as_str())),
            What::Invite { call, from, asked: address, .. } => {
                first_seen.entry(call).or_insert(event.at);
                if let Some(mark) = mark(address) {
                    marks.insert(call, mark);
                }
                // A phone that was referred may call without any mark of ours.
                if referred.contains(user(from)) {
                    asked.insert(call);
                }
            }
            What::EndedByProxy { call, .. } if !is_setup(call) => {
                let named = asked.contains(call.as_str())
                    || marks.contains_key(call.as_str())
                    || commands().any(|(_, command)| {
                        names(command, call)
                            && !matches!(command.method.as_str(), "CallHold" | "CallUnhold")
                    });
                if !named {
                    found.push(broken(format!("{call} was ended, and nobody asked for it")));
                }
            }
            What::Left { stack, call, setup: true } => {
                let since = first_seen.get(call.as_str()).copied().unwrap_or_default();
                let restarted = history.faults().any(|(at, until, kind)| {
                    *kind == Fault::Restart { stack: *stack } && until.max(at) >= since
                });
                if !restarted {
                    found.push(broken(format!("{call}, a leg of our own, was left")));
                }
            }
            _ => {}
        }
    }
}
