//! Whether a connection was told all of its session's entries between the first place that it was told
//! of and the last one.
//!
//! The checker of histories excuses whatever may lie before a `recovered: false`; here each connection
//! stands for itself, and nothing is excused.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::history::{History, What};

type Seqs = BTreeMap<u64, (String, String)>;

/// One connection's part of the stream.
#[derive(Default)]
struct Reading {
    client: usize,
    /// Of each epoch: behind which place all is to be had.
    from: BTreeMap<String, u64>,
    had: BTreeMap<String, BTreeSet<u64>>,
    /// Calls that were ended straight at the stack: what a record tells of that is not told.
    straight: BTreeSet<String>,
}

/// How many entries were to be had, and which of them never came.
pub fn judge(history: &History) -> (usize, Vec<String>) {
    // What was committed, by client and epoch. (Ids are `cCLIENT-NUMBER`.)
    let mut told: BTreeMap<(usize, &str), Seqs> = BTreeMap::new();
    let mut readings: BTreeMap<usize, Reading> = BTreeMap::new();
    for event in &history.events {
        match &event.what {
            What::Told { cmd_id, epoch, seq, event, .. } => {
                let number = cmd_id.strip_prefix('c').and_then(|rest| rest.split('-').next());
                let Some(client) = number.and_then(|number| number.parse().ok()) else { continue };
                let seqs = told.entry((client, epoch)).or_default();
                seqs.insert(*seq, (cmd_id.clone(), event.clone()));
            }
            What::Connected { client, connection } => {
                readings.entry(*connection).or_default().client = *client;
            }
            What::Received { connection, text } => {
                readings.entry(*connection).or_default().take(text);
            }
            _ => {}
        }
    }
    let (mut checked, mut lost) = (0, Vec::new());
    for (connection, reading) in &readings {
        for (epoch, from) in &reading.from {
            let nothing = BTreeSet::new();
            let had = reading.had.get(epoch).unwrap_or(&nothing);
            let (Some(last), Some(seqs)) = (had.last(), told.get(&(reading.client, epoch))) else {
                continue;
            };
            for (seq, (id, event)) in seqs.range(from + 1..) {
                if seq > last {
                    break;
                }
                checked += 1;
                if reading.straight.contains(id) {
                    continue;
                }
                if !had.contains(seq) {
                    let place = format!("{id}: {event} ({epoch} {seq})");
                    lost.push(format!("P2: {place} never came on connection {connection}"));
                }
            }
        }
    }
    (checked, lost)
}

impl Reading {
    fn take(&mut self, text: &str) {
        let frame: Value = serde_json::from_str(text).unwrap();
        let (result, params) = (&frame["result"], &frame["params"]);
        let is_answer = result.is_object();
        let said = if is_answer { result } else { params };
        if said["degraded"] == true {
            self.straight.insert(said["cmd_id"].as_str().unwrap_or_default().to_owned());
        }
        let (Some(epoch), Some(seq)) = (said["epoch"].as_str(), said["seq"].as_u64()) else {
            return;
        };
        // A result without a command's event names a place that was reached; an entry is one itself.
        let is_entry = said["event"].is_string() && frame["method"] != "Echo";
        let is_entry = is_entry && !(is_answer && said["deadline_ms"].is_null());
        let before = if is_entry { seq.saturating_sub(1) } else { seq };
        self.from.entry(epoch.to_owned()).or_insert(before);
        if is_entry {
            self.had.entry(epoch.to_owned()).or_default().insert(seq);
        }
    }
}

/// INVITEs and REFERs that reached a phone a second time for one command. No client here repeats a
/// request of an epoch that is over, so not even a store that forgot excuses any.
pub fn twice(history: &History) -> Vec<String> {
    let mut sent: BTreeMap<(&str, String), usize> = BTreeMap::new();
    for event in &history.events {
        let (what, mark) = match &event.what {
            What::Invite { from, by_proxy: true, .. } => {
                ("INVITE", from.strip_prefix('"').and_then(|rest| rest.split('"').next()))
            }
            What::Refer { to, .. } => {
                let mark = to.split_once(";cmd=").map(|(_, rest)| rest);
                ("REFER", mark.and_then(|rest| rest.split([';', '>', '?']).next()))
            }
            _ => continue,
        };
        if let Some(mark) = mark {
            *sent.entry((what, mark.to_owned())).or_default() += 1;
        }
    }
    let again = sent.into_iter().filter(|(_, count)| *count > 1);
    again.map(|((what, id), count)| format!("P3: {id}: {count} {what}s reached a phone")).collect()
}
