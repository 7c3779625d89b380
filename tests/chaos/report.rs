//! What a run showed: broken promises, unknown outcomes with their reasons, and figures.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::history::{self, Broken, Fault, History, Time, What};
use super::mi::Asked;
use super::round::Played;

#[derive(Default)]
pub struct Report {
    pub rounds: usize,
    kills: usize,
    kills_of_leaders: usize,
    commands: usize,
    outcomes: BTreeMap<String, usize>,
    unknown: Vec<String>,
    reasons: BTreeMap<String, usize>,
    broken: Vec<String>,
    notifications: usize,
    recovered: usize,
    not_recovered: BTreeMap<String, usize>,
    given_up: usize,
    refused: BTreeMap<String, usize>,
    homes: Vec<u64>,
    elections: Vec<u64>,
}

/// A command's end as a client was told it.
struct End {
    at: Time,
    id: String,
    method: String,
    outcome: String,
    code: String,
    message: String,
    up: String,
}

impl Report {
    pub fn add(&mut self, played: &Played) {
        self.rounds += 1;
        self.kills += played.kills.len();
        let ends = ends(&played.history);
        self.commands += ends.len();
        for end in &ends {
            *self.outcomes.entry(end.outcome.clone()).or_default() += 1;
            if end.outcome == "unknown" {
                let (reason, is_truth) = reason(played, end);
                *self.reasons.entry(reason.clone()).or_default() += 1;
                let line = format!(
                    "round {} {:>7} {} ({}) {} \"{}\" up {}: {reason}",
                    self.rounds, end.at, end.id, end.method, end.code, end.message, end.up
                );
                if !is_truth {
                    self.broken.push(format!("truth: {line}"));
                }
                self.unknown.push(line);
            }
        }
        let round = self.rounds;
        let said = |broken: Broken| format!("round {round}: {broken}");
        self.broken.extend(history::judge(&played.history).into_iter().map(said));
        let open = played.open.iter();
        self.broken.extend(open.map(|open| format!("round {round}: P1: without outcome: {open}")));
        let panics = played.panics.iter();
        self.broken.extend(panics.map(|panic| format!("round {round}: P5: {panic}")));
        self.figures(played);
    }

    fn figures(&mut self, played: &Played) {
        let figures = &played.figures;
        let told = |event: &&history::Event| matches!(&event.what, What::Received { text, .. } if text.contains("\"method\""));
        self.notifications += played.history.events.iter().filter(told).count();
        self.recovered += figures.recovered;
        for (reason, count) in &figures.not_recovered {
            *self.not_recovered.entry(reason.clone()).or_default() += count;
        }
        for (kind, count) in &figures.refused {
            *self.refused.entry(kind.clone()).or_default() += count;
        }
        self.given_up += figures.given_up.len();
        let homes = figures.homes.iter().map(|home| u64::try_from(home.as_millis()).unwrap());
        self.homes.extend(homes);
        for (at, _, led) in &played.kills {
            if !led.is_empty() {
                self.kills_of_leaders += 1;
            }
            for stack in led {
                let name = format!("stack{stack}");
                let next = played
                    .leads
                    .iter()
                    .find(|lead| lead.leads && lead.at > *at && lead.stack == name);
                if let Some(next) = next {
                    self.elections.push(next.at - at);
                }
            }
        }
    }

    /// A line of the round that was added last.
    pub fn of_round(&self, played: &Played) -> String {
        format!(
            "round {}: {} kills, calm at {} ms, settled {} ms and clear {} ms later; \
             {} commands so far, {} unknown, {} broken promises",
            self.rounds,
            played.kills.len(),
            played.calm,
            played.settled - played.calm,
            played.cleared - played.settled,
            self.commands,
            self.unknown.len(),
            self.broken.len(),
        )
    }

    pub fn assert(&self, seed: u64) {
        assert!(
            self.broken.is_empty(),
            "CHAOS_SEED={seed}: {} broken promises:\n{}",
            self.broken.len(),
            self.broken.join("\n")
        );
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} kills, {} of leaders", self.kills, self.kills_of_leaders)?;
        writeln!(f, "{} commands ended: {:?}", self.commands, self.outcomes)?;
        writeln!(f, "{} notifications checked", self.notifications)?;
        writeln!(f, "{} resumed, not recovered: {:?}", self.recovered, self.not_recovered)?;
        writeln!(f, "{} requests not repeated since the store forgot", self.given_up)?;
        writeln!(f, "refused: {:?}", self.refused)?;
        writeln!(f, "a lost connection to its answered Resume, ms: {}", spread(&self.homes))?;
        writeln!(f, "a leader's kill to the next one's lead, ms: {}", spread(&self.elections))?;
        writeln!(f, "{} unknown:", self.unknown.len())?;
        for (reason, count) in &self.reasons {
            writeln!(f, "  {count:>4} {reason}")?;
        }
        for line in &self.unknown {
            writeln!(f, "    {line}")?;
        }
        write!(f, "{} broken promises", self.broken.len())
    }
}

fn spread(all: &[u64]) -> String {
    let mut all = all.to_vec();
    all.sort_unstable();
    let at = |percent: usize| all.get((all.len().max(1) - 1) * percent / 100).copied();
    match (at(50), at(99), at(100)) {
        (Some(half), Some(most), Some(all_of)) => {
            format!("median {half}, p99 {most}, most {all_of} ({} times)", all.len())
        }
        _ => "none".to_owned(),
    }
}

/// The first `Ended` of each command.
fn ends(history: &History) -> Vec<End> {
    let mut errors: BTreeMap<String, Value> = BTreeMap::new();
    let mut ends: BTreeMap<String, End> = BTreeMap::new();
    for event in &history.events {
        let What::Received { text, .. } = &event.what else { continue };
        if !text.contains("\"Ended\"") && !text.contains("\"Error\"") {
            continue;
        }
        let frame: Value = serde_json::from_str(text).unwrap();
        let (Some(method), params) = (frame["method"].as_str(), &frame["params"]) else { continue };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let id = text(&params["cmd_id"]);
        if method == "Echo" {
            continue;
        }
        match params["event"].as_str() {
            Some("Error") => drop(errors.insert(id, params["error"].clone())),
            Some("Ended") => {
                let error = errors.get(&id).cloned().unwrap_or_default();
                ends.entry(id.clone()).or_insert(End {
                    at: event.at,
                    id,
                    method: method.to_owned(),
                    outcome: text(&params["outcome"]),
                    code: text(&error["code"]),
                    message: text(&error["message"]),
                    up: text(&params["up"]),
                });
            }
            Some(_) | None => {}
        }
    }
    ends.into_values().collect()
}

/// Why a command's end could not be known, and whether that is the truth.
fn reason(played: &Played, end: &End) -> (String, bool) {
    let Some((asked_at, params)) = asked(&played.history, &end.id) else {
        return ("never asked".to_owned(), false);
    };
    let lost = played.history.events.iter().any(|event| {
        matches!(&event.what, What::Fault { kind: Fault::StoreLost, .. })
            && event.at + 5000 >= asked_at
            && event.at <= end.at
    });
    if lost {
        return ("the store forgot everything while it ran".to_owned(), true);
    }
    let grade = if names_stack_1(&params) { "reference" } else { "stock" };
    let sent: Vec<&Asked> = played
        .asked
        .iter()
        .filter(|asked| {
            asked.at + 50 >= asked_at && asked.at <= end.at && is_of(asked, end, &params)
        })
        .collect();
    // The newest request whose performer had trouble while it was under way.
    for asked in sent.iter().rev() {
        let from = asked.at.saturating_sub(500);
        let until = asked.answered.unwrap_or(end.at).min(end.at) + 2500;
        let trouble = played.faults.iter().find(|done| {
            done.pod.is_none_or(|pod| pod == asked.pod) && done.at <= until && done.until >= from
        });
        if let Some(trouble) = trouble {
            let what = kind_of(asked);
            return (
                format!("{what} under way ({grade}), and its process's trouble: {}", trouble.what),
                true,
            );
        }
    }
    if let Some(silence) = silence_of(&end.code, &end.message) {
        return (silence.to_owned(), true);
    }
    let near = played.faults.iter().find(|done| done.at <= end.at && done.until >= asked_at);
    match (sent.is_empty(), near) {
        (true, Some(near)) => {
            (format!("nothing was sent that was seen ({grade}), {} meanwhile", near.what), true)
        }
        (_, near) => {
            let near = near.map_or("nothing went wrong", |near| near.what);
            let sent: Vec<String> = sent
                .iter()
                .map(|asked| {
                    format!(
                        "{} by {} at {} answered {:?}",
                        kind_of(asked),
                        asked.pod,
                        asked.at,
                        asked.answered
                    )
                })
                .collect();
            (format!("UNEXPLAINED ({grade}, asked at {asked_at}, {near}, sent {sent:?})"), false)
        }
    }
}

/// What phones do by themselves that tells nothing (rows 14 to 16, 29, 37 and 39 of
/// docs/outcomes.md).
fn silence_of(code: &str, message: &str) -> Option<&'static str> {
    match code {
        "leg_timeout" => Some("a phone never answered a re-INVITE"),
        "leg_refused" => Some("a phone refused, and the other could not be put back"),
        "refer_ignored" => Some("a phone took a REFER and did nothing"),
        "caller_hung_up" | "call_ended" => Some("a phone hung up with a REFER under way"),
        "reply_lost" if message == "transfer not confirmed" => {
            Some("a phone told nothing of its call")
        }
        _ => None,
    }
}

fn names_stack_1(params: &Value) -> bool {
    let text = params.to_string();
    text.contains("stack1")
}

fn asked(history: &History, id: &str) -> Option<(Time, Value)> {
    let needle = format!("\"{id}\"");
    history.events.iter().find_map(|event| {
        let What::Sent { text, .. } = &event.what else { return None };
        if !text.contains(&needle) {
            return None;
        }
        let frame: Value = serde_json::from_str(text).unwrap();
        let is_it =
            frame["params"]["cmd_id"] == id && frame["method"].as_str()?.starts_with("Call");
        is_it.then(|| (event.at, frame["params"].clone()))
    })
}

/// Whether a request to a proxy is of this command: it shows its mark, or changes its call.
fn is_of(asked: &Asked, end: &End, params: &Value) -> bool {
    let marks = [format!("cmd={}", end.id), format!("\\\"{}\\\"", end.id)];
    let marked = marks.iter().any(|mark| {
        asked
            .text
            .match_indices(mark.as_str())
            .any(|(at, _)| !asked.text[at + mark.len()..].starts_with(|c: char| c.is_ascii_digit()))
    });
    let call = ["callid", "callidA"].iter().find_map(|name| params[*name].as_str());
    marked || call.is_some_and(|call| asked.text.contains(&format!("\"{call}\"")))
}

fn kind_of(asked: &Asked) -> &'static str {
    match asked.method.as_str() {
        "t_uac_dlg" => "an INVITE",
        "call_transfer" => "a REFER",
        _ if asked.text.contains("REFER") => "a REFER",
        _ if asked.text.contains("INVITE") => "a re-INVITE",
        _ => "a request in the call",
    }
}
