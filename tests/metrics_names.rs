//! The list of metrics, pinned: dashboards and alerts are written against these names.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod site;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use callplane::metrics::Metrics;
use callplane::stack::opensips::meter::BreakerState;
use callplane::stack::simulated::Script;
use serde_json::json;
use site::{Proxy, Site, a_call, any_port, http_with, sip};

/// Metrics on which everything has happened once.
fn used() -> Metrics {
    let metrics = Metrics::new();
    let second = Duration::from_secs(1);
    let mut open = metrics.sessions.opened();
    open.waiting(50);
    drop(open);
    metrics.sessions.refused("origin");
    metrics.sessions.allowed(9);
    metrics.sessions.message();
    metrics.sessions.sent(100);
    metrics.sessions.refused_request("CallStart", "call_busy");
    metrics.commands.started("CallStart");
    metrics.commands.answered("CallStart", second);
    metrics.commands.running("CallStart", 1);
    metrics.commands.ended("CallStart", "success", second);
    metrics.store.commit("applied", second);
    metrics.store.kept(1, 2);
    metrics.store.beat(3);
    metrics.store.epoch();
    metrics.lease.asked("get", "ok", Some(second));
    metrics.lease.unconfirmed(true);
    metrics.traces.exported(3);
    metrics.traces.dropped("full", 1);
    metrics.config.outdated(true);
    let stack = metrics.stack("east");
    metrics.event_applied("east", second);
    stack.allowed(9);
    stack.sent("dlg_list");
    stack.answered("dlg_list", "ok", std::time::Duration::from_millis(2));
    stack.healthy(true);
    stack.breaker(BreakerState::Open.as_number());
    stack.restarted();
    stack.event("E_CALL_TRANSFER", "reported");
    stack.lost(1);
    stack.subscription_confirmed();
    stack.subscription_lasts(std::time::Duration::from_secs(60));
    stack.event_buffer(212_992);
    stack.trial_took(second);
    stack.trial_missed();
    stack.events_arrive(true);
    stack.leads(true);
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

/// What only moves when something goes wrong, at a moment that a reader hardly meets, or where a
/// collector is configured (`tests/otlp.rs`) or a Lease elects.
const QUIET: [&str; 11] = [
    "callplane_config_outdated_state",
    "callplane_event_lost_events_total",
    "callplane_event_probe_missed_events_total",
    "callplane_leader_lease_request",
    "callplane_leader_unconfirmed_state",
    "callplane_mi_in_flight_requests",
    "callplane_session_waiting_bytes",
    "callplane_stack_breaker_state",
    "callplane_stack_seen_restarts_total",
    "callplane_trace_dropped_spans_total",
    "callplane_trace_exported_spans_total",
];

/// A metric that a server shows and never moves says that nothing happens where nobody looks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_moves_in_a_server_that_works() {
    let proxy = Proxy::start(Script::Reference, any_port()).await;
    let site = Site::start(proxy.mi).await;
    site.joined().await;
    let mut client = site.client().await;
    a_call(&mut client).await;
    client.send("CallHold", json!({})).await;
    assert_eq!(client.receive().await["error"]["code"], -32602);
    let foreign = "Connection: Upgrade\r\nUpgrade: websocket\r\nOrigin: https://evil.example\r\n";
    assert_eq!(http_with(site.clients, "GET", "/call-api", foreign, None).await.0, 403);
    // Something is under way at the stack and in the server: a phone rings.
    let erin = json!({"caller": sip("erin"), "callee": sip("bob"), "cmd_id": "erin"});
    client.send("CallStart", erin).await;
    assert_eq!(client.receive().await["result"]["event"], "Started");
    let mut other = site.client().await;
    other.send("Echo", json!({})).await;
    other.receive().await;
    drop(other);
    let mut still = listed(&used().render().unwrap());
    still.retain(|line| !QUIET.iter().any(|quiet| line.starts_with(quiet)));
    let deadline = Instant::now() + Duration::from_secs(20);
    while !still.is_empty() {
        assert!(Instant::now() < deadline, "never moved: {still:#?}");
        let text = site.metrics().await;
        still.retain(|line| {
            let name = line.split(' ').next().unwrap();
            !text.lines().filter(|sample| sample.starts_with(name)).any(|sample| {
                let (_, value) = sample.rsplit_once(' ').unwrap();
                value.parse::<f64>().unwrap() > 0.0
            })
        });
    }
    client.send("CommandCancel", json!({"cmd_id": "erin"})).await;
    while client.receive().await["params"]["event"] != "Ended" {}
    drop(client);
    site.stop().await;
    proxy.stop().await;
}

/// docs/operations.md has a row for each, with its kind and labels.
#[test]
fn the_operators_page_lists_them_all() {
    let rows: Vec<String> = include_str!("../docs/operations.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `callplane_"))
        .filter(|row| row.matches(" | ").count() == 3)
        .map(|row| {
            let mut cells = row.split('|').map(|cell| cell.trim().trim_matches('`'));
            let mut next = || cells.next().unwrap();
            let (name, kind, labels) = (next(), next(), next());
            format!("callplane_{name} {kind} {{{}}}", labels.replace(", ", ","))
        })
        .collect();
    assert_eq!(rows, listed(&used().render().unwrap()));
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
        "requests",
        "state",
        "restarts",
        "events",
        "terms",
        "epochs",
        "processes",
        "spans",
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
        "callplane_command_running_commands{method=\"CallStart\"} 1"
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
