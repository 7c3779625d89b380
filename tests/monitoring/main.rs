//! Alerts and dashboard, held against what they are made of: the metrics, the runbook, and a real
//! Prometheus that reads real processes under load.
//!
//! What needs `prometheus`, `promtool` or `redis-server` says so and is skipped where they are not
//! installed.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it left out"
)]

mod alerts;
#[path = "../api_server/mod.rs"]
mod api_server;
mod boards;
mod dashboard;
mod expression;
mod installation;
mod live;
mod load;
#[path = "../process/mod.rs"]
mod process;
mod prometheus;
#[path = "../redis_server/mod.rs"]
mod redis_server;
mod rules;
#[path = "../site/mod.rs"]
mod site;

use std::path::{Path, PathBuf};

/// A file of the repository.
fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn text_of(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The names of all metrics of ours, with their labels.
fn metrics() -> Vec<(String, Vec<String>)> {
    let list = text_of("tests/metrics_names.txt");
    let lines = list.lines().map(|line| {
        let mut words = line.split(' ');
        let (name, _) = (words.next().unwrap(), words.next());
        let labels = words.next().unwrap().trim_matches(['{', '}']).split(',');
        let labels = labels.filter(|label| !label.is_empty()).map(str::to_owned).collect();
        (name.to_owned(), labels)
    });
    lines.collect()
}
