//! Each alert has its words, its entry in the runbook, and cases that Prometheus itself plays.

use std::collections::BTreeSet;

use crate::expression::{labels, selectors};
use crate::prometheus::{PROMTOOL, promtool};
use crate::rules::{RULES, alerts, case_files, played};
use crate::{file, metrics, text_of};

const RUNBOOK: &str = "https://github.com/callplane/callplane/blob/main/docs/operations.md#";

/// Labels that Prometheus and what finds processes give.
const GIVEN: [&str; 5] = ["namespace", "job", "pod", "instance", "le"];

/// The entries of the runbook: what stands under each heading of an alert.
fn runbook() -> Vec<(String, String)> {
    let page = text_of("docs/operations.md");
    let entries = page.split("\n### Callplane").skip(1).map(|entry| {
        let (name, body) = entry.split_once('\n').unwrap();
        let body = body.split("\n#").next().unwrap().trim();
        (format!("Callplane{name}"), body.to_owned())
    });
    entries.collect()
}

#[test]
fn every_alert_says_what_it_is_and_where_to_read_on() {
    let mut names = BTreeSet::new();
    for alert in alerts() {
        let name = &alert.alert;
        assert!(name.starts_with("Callplane"), "{name}");
        assert!(names.insert(name.clone()), "{name} is there twice");
        assert!(["warning", "critical"].contains(&alert.labels.severity.as_str()), "{name}");
        let words = &alert.annotations;
        assert!(!words.summary.contains("{{"), "{name}: a summary is the same for all");
        assert!(!words.summary.ends_with('.') && words.summary.len() < 80, "{name}");
        assert!(words.description.ends_with('.'), "{name}");
        assert_eq!(words.runbook_url, format!("{RUNBOOK}{}", name.to_lowercase()));
    }
    assert!(names.len() > 30, "{names:?}");
}

#[test]
fn the_runbook_has_an_entry_for_each_alert_and_for_no_other() {
    let entries = runbook();
    let named: Vec<_> = entries.iter().map(|(name, _)| name.clone()).collect();
    let alerts: Vec<_> = alerts().into_iter().map(|alert| alert.alert).collect();
    assert_eq!(named, alerts, "in the order of the rules");
    for (name, body) in entries {
        for part in ["**Means**", "**Look**", "**Do**"] {
            assert!(body.contains(part), "{name} has no {part}");
        }
    }
}

#[test]
fn alerts_name_metrics_and_labels_that_there_are() {
    let metrics = metrics();
    let mut known: BTreeSet<_> = GIVEN.into_iter().map(str::to_owned).collect();
    known.extend(metrics.iter().flat_map(|(_, labels)| labels.clone()));
    for alert in alerts() {
        let asked = selectors(&alert.expr);
        assert!(!asked.is_empty(), "{}", alert.alert);
        for selector in asked.iter().filter(|asked| asked.metric.starts_with("callplane_")) {
            let bare = selector.metric.trim_end_matches("_bucket");
            let there = metrics.iter().any(|(name, _)| name == bare);
            assert!(there, "{}: there is no {}", alert.alert, selector.metric);
        }
        for label in labels(&alert.expr) {
            assert!(known.contains(&label), "{}: there is no label {label}", alert.alert);
        }
        // What it tells comes from labels that are left.
        let told = &alert.annotations.description;
        for label in told.split("$labels.").skip(1) {
            let label = label.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap();
            assert!(known.contains(label), "{}: tells no label {label}", alert.alert);
        }
    }
}

#[test]
fn every_alert_has_a_case_that_fires_and_one_that_does_not() {
    let played = played();
    let of = |name: &str, fires: bool| {
        played.iter().any(|case| case.alertname == name && case.fires() == fires)
    };
    let names: BTreeSet<_> = alerts().into_iter().map(|alert| alert.alert).collect();
    for name in &names {
        assert!(of(name, true), "no case in which {name} fires");
        assert!(of(name, false), "no case in which {name} is silent");
    }
    for case in &played {
        assert!(names.contains(&case.alertname), "{} is no alert", case.alertname);
    }
}

#[test]
fn prometheus_plays_every_case() {
    let test = "prometheus_plays_every_case";
    if !PROMTOOL.is_here(test) {
        return;
    }
    promtool(&["check", "rules", &file(RULES).display().to_string()]);
    let files: Vec<_> = case_files().iter().map(|name| file(name).display().to_string()).collect();
    let mut arguments = vec!["test", "rules"];
    arguments.extend(files.iter().map(String::as_str));
    promtool(&arguments);
}
