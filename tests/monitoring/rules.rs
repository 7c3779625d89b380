//! The alerts as they are written, and the cases that are played for them.

use serde::Deserialize;

use crate::{file, text_of};

pub const RULES: &str = "charts/callplane/alerts/callplane.yml";
pub const CASES: &str = "tests/alerts";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    name: String,
    rules: Vec<Alert>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alert {
    pub alert: String,
    pub expr: String,
    #[serde(rename = "for")]
    pub lasting: Option<String>,
    pub labels: Labels,
    pub annotations: Annotations,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Labels {
    pub severity: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Annotations {
    pub summary: String,
    pub description: String,
    pub runbook_url: String,
}

#[derive(Debug, Deserialize)]
struct Cases {
    tests: Vec<Case>,
}

#[derive(Debug, Deserialize)]
struct Case {
    alert_rule_test: Vec<Played>,
}

/// What is expected of an alert in one case.
#[derive(Debug, Deserialize)]
pub struct Played {
    pub alertname: String,
    exp_alerts: Vec<serde_json::Value>,
}

impl Played {
    pub fn fires(&self) -> bool {
        !self.exp_alerts.is_empty()
    }
}

/// All alerts, in order.
pub fn alerts() -> Vec<Alert> {
    let rules: Rules = serde_saphyr::from_str(&text_of(RULES)).unwrap();
    assert!(rules.groups.iter().all(|group| group.name.starts_with("callplane.")));
    rules.groups.into_iter().flat_map(|group| group.rules).collect()
}

/// The files with the cases.
pub fn case_files() -> Vec<String> {
    let entries = std::fs::read_dir(file(CASES)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.map(|name| format!("{CASES}/{name}")).collect();
    names.sort();
    names
}

/// What is played, in all files.
pub fn played() -> Vec<Played> {
    let files = case_files().into_iter().map(|name| {
        let cases: Cases = serde_saphyr::from_str(&text_of(&name))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        cases
    });
    files.flat_map(|cases| cases.tests).flat_map(|case| case.alert_rule_test).collect()
}
