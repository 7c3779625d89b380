//! What a run showed: broken promises, unknown outcomes with their reasons, and figures.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::history::{self, Broken, History, Time, What};
use super::lost;
use super::round::Played;
use super::unknown;

#[derive(Default)]
pub struct Report {
    seed: u64,
    pub rounds: usize,
    kills: usize,
    kills_of_leaders: usize,
    commands: usize,
    outcomes: BTreeMap<String, usize>,
    unknown: Vec<String>,
    reasons: BTreeMap<String, usize>,
    broken: Vec<String>,
    notifications: usize,
    checked: usize,
    recovered: usize,
    not_recovered: BTreeMap<String, usize>,
    given_up: usize,
    refused: BTreeMap<String, usize>,
    homes: Vec<u64>,
    elections: Vec<u64>,
}

/// A command's end as a client was told it.
pub struct End {
    pub at: Time,
    pub id: String,
    pub method: String,
    pub outcome: String,
    pub code: String,
    pub message: String,
    pub up: String,
}

impl Report {
    pub fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    pub fn add(&mut self, played: &Played) {
        self.rounds += 1;
        self.kills += played.kills.len();
        let ends = ends(&played.history);
        self.commands += ends.len();
        for end in &ends {
            *self.outcomes.entry(end.outcome.clone()).or_default() += 1;
            if end.outcome == "unknown" {
                let (reason, is_truth) = unknown::reason(played, end);
                *self.reasons.entry(reason.clone()).or_default() += 1;
                let line = format!(
                    "round {}: {:>7} {} ({}) {} \"{}\" up {}: {reason}",
                    self.rounds, end.at, end.id, end.method, end.code, end.message, end.up
                );
                if !is_truth {
                    self.broken.push(format!("truth: {line}"));
                }
                self.unknown.push(line);
            }
        }
        let round = self.rounds;
        let round_of = format!("round {round}:");
        let said = |broken: Broken| format!("round {round}: {broken}");
        self.broken.extend(history::judge(&played.history).into_iter().map(said));
        self.broken
            .extend(late(&played.history).into_iter().map(|late| format!("{round_of} {late}")));
        let (checked, lost) = lost::judge(&played.history);
        self.checked += checked;
        let lost = lost.into_iter().chain(lost::twice(&played.history));
        self.broken.extend(lost.map(|lost| format!("round {round}: {lost}")));
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

    /// The round that was added last: its line, and what it broke.
    pub fn of_round(&self, played: &Played) -> String {
        let this = format!("round {}:", self.rounds);
        let broken = self.broken.iter().filter(|broken| broken.contains(&this));
        let broken: String = broken.map(|broken| format!("\n  {broken}")).collect();
        format!(
            "round {}: {} kills, calm at {} ms, settled {} ms and clear {} ms later; \
             {} commands so far, {} unknown, {} broken promises{broken}",
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

    pub fn assert_kept(&self) {
        let (seed, count, broken) = (self.seed, self.broken.len(), self.broken.join("\n"));
        assert!(self.broken.is_empty(), "CHAOS_SEED={seed}: {count} broken promises:\n{broken}");
    }

    /// Nothing is unknown but what phones did not say.
    pub fn assert_known(&self) {
        let of_processes = self.reasons.keys().filter(|reason| !reason.contains("a phone"));
        let reasons: Vec<_> = of_processes.collect();
        let (seed, unknown) = (self.seed, self.unknown.join("\n"));
        assert!(reasons.is_empty(), "CHAOS_SEED={seed}: unknown:\n{unknown}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} kills, {} of leaders", self.kills, self.kills_of_leaders)?;
        writeln!(f, "{} commands ended: {:?}", self.commands, self.outcomes)?;
        let (received, checked) = (self.notifications, self.checked);
        writeln!(f, "{received} notifications received; {checked} entries were due, and came")?;
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

/// Commands that ended later than they had stated, whatever was away meanwhile: their deadlines are
/// longer than all that is done here.
fn late(history: &History) -> Vec<String> {
    let mut due: BTreeMap<&str, Time> = BTreeMap::new();
    let mut asked: BTreeMap<&str, Time> = BTreeMap::new();
    let mut late = Vec::new();
    for event in &history.events {
        match &event.what {
            What::Told { cmd_id, event: what, .. } if what == "Started" => {
                asked.insert(cmd_id, event.at);
            }
            What::Told { cmd_id, event: what, .. }
                if what == "Ended"
                    && due.get(cmd_id.as_str()).is_some_and(|due| event.at > due + 1000) =>
            {
                late.push(format!("P1: {cmd_id} ended at {}, later than stated", event.at));
            }
            What::Received { text, .. } if text.contains("\"deadline_ms\"") => {
                let frame: Value = serde_json::from_str(text).unwrap();
                let said =
                    if frame["result"].is_object() { &frame["result"] } else { &frame["params"] };
                let (id, within) = (said["cmd_id"].as_str(), said["deadline_ms"].as_u64());
                if let (Some(id), Some(within)) = (id, within)
                    && let Some((id, asked)) = asked.get_key_value(id)
                {
                    due.insert(id, asked + within);
                }
            }
            _ => {}
        }
    }
    late
}
