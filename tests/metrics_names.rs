//! The list of metrics, pinned: dashboards and alerts are written against these names.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use callplane::metrics::{BreakerState, Metrics};

/// Metrics on which everything has happened once.
fn used() -> Metrics {
    let metrics = Metrics::new();
    let second = Duration::from_secs(1);
    drop(metrics.sessions.opened());
    metrics.sessions.refused("origin");
    metrics.sessions.message();
    metrics.sessions.sent(100);
    metrics.sessions.waiting(50);
    metrics.commands.started("CallStart");
    metrics.commands.ended("CallStart", "success", second);
    metrics.commands.refused("CallStart", "call_busy");
    metrics.store.commit("applied", second);
    metrics.store.kept(1, 2);
    metrics.bus.delivered(second);
    metrics.bus.caught_up(3);
    let stack = metrics.stack("east");
    stack.sent("dlg_list");
    stack.answered("dlg_list", "ok", std::time::Duration::from_millis(2));
    stack.healthy(true);
    stack.breaker(BreakerState::Open);
    stack.restarted();
    stack.event("E_CALL_TRANSFER", "applied");
    stack.subscription_confirmed();
    stack.event_buffer(212_992);
    metrics
}

/// `name type {labels}` of every family of ours, in order.
fn listed(text: &str) -> Vec<String> {
    let mut types: BTreeMap<&str, &str> = BTreeMap::new();
    let mut labels: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            types.insert(name, kind);
            continue;
        }
        let Some((sample, rest)) = line.split_once('{') else { continue };
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| sample.strip_suffix(suffix).filter(|name| types.contains_key(name)))
            .unwrap_or(sample);
        let (inside, _) = rest.split_once('}').unwrap();
        let names = inside.split(',').map(|pair| pair.split_once('=').unwrap().0);
        labels.entry(family).or_default().extend(names.filter(|name| *name != "le"));
    }
    types
        .iter()
        .filter(|(name, _)| name.starts_with("callplane_"))
        .map(|(name, kind)| {
            let labels = labels.get(name).into_iter().flatten().copied().collect::<Vec<_>>();
            format!("{name} {kind} {{{}}}", labels.join(","))
        })
        .collect()
}

#[test]
fn the_list_of_metrics_is_the_documented_one() {
    let text = used().render().unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/metrics_names.txt");
    let expected = std::fs::read_to_string(golden).unwrap();
    assert_eq!(listed(&text).join("\n"), expected.trim());
}

#[test]
fn names_say_area_thing_and_unit() {
    let units = [
        "connections",
        "messages",
        "bytes",
        "commands",
        "seconds",
        "commits",
        "records",
        "entries",
        "requests",
        "state",
        "restarts",
        "events",
    ];
    for line in listed(&used().render().unwrap()) {
        let mut words = line.split(' ');
        let (name, kind) = (words.next().unwrap(), words.next().unwrap());
        let bare = name.strip_suffix("_total").unwrap_or(name);
        assert_eq!(kind == "counter", bare != name, "{line}: only counters end in _total");
        assert!(bare.split('_').count() >= 4 || bare.ends_with("_seconds"), "{line}");
        assert!(units.iter().any(|unit| bare.ends_with(unit)), "{line}: no known unit");
    }
}

#[test]
fn counts_are_those_of_one_server() {
    let (one, other) = (used(), Metrics::new());
    let line = |metrics: &Metrics, start: &str| {
        metrics.render().unwrap().lines().find(|line| line.starts_with(start)).map(str::to_owned)
    };
    let ended = "callplane_command_ended_commands_total{";
    assert!(line(&one, ended).unwrap().ends_with("outcome=\"success\"} 1"));
    assert_eq!(line(&other, ended), None);
    assert_eq!(
        line(&one, "callplane_command_running_commands{").unwrap(),
        "callplane_command_running_commands{method=\"CallStart\"} 0"
    );
    assert_eq!(
        line(&one, "callplane_session_open_connections").unwrap(),
        "callplane_session_open_connections 0"
    );
    assert!(
        line(&one, "callplane_session_closed_connections_total").unwrap().contains("code=\"lost\"")
    );
}

#[test]
fn a_session_and_a_request_are_counted_by_how_they_ended() {
    let metrics = Metrics::new();
    let mut open = metrics.sessions.opened();
    let text = metrics.render().unwrap();
    assert!(text.contains("callplane_session_open_connections 1\n"));
    open.closing("slow");
    drop(open);
    let east = metrics.stack("east");
    east.sent("ping");
    east.answered("ping", "abandoned", std::time::Duration::from_millis(2));
    let text = metrics.render().unwrap();
    assert!(text.contains("callplane_session_open_connections 0\n"));
    assert!(text.contains("callplane_session_closed_connections_total{code=\"slow\"} 1\n"));
    assert!(text.contains("command=\"ping\",result=\"abandoned\",stack=\"east\"} 1\n"));
    assert!(!text.contains("callplane_event_subscription_age_seconds{"), "never confirmed");
}

#[cfg(target_os = "linux")]
#[test]
fn the_process_is_measured_too() {
    let text = Metrics::new().render().unwrap();
    for name in ["process_resident_memory_bytes", "process_open_fds", "process_cpu_seconds_total"] {
        assert!(text.contains(name), "{name}");
    }
}
