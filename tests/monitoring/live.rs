//! Real processes under load, one after the other of what can go wrong with them, and a real
//! Prometheus that reads them: every query of the dashboard and of the alerts has data.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use callplane::core::request::Method;
use serde_json::json;

use crate::dashboard::{annotations, panels, variables};
use crate::expression::selectors;
use crate::file;
use crate::installation::{FEW, Installation, api_server, stack};
use crate::load::{self, Load};
use crate::prometheus::{JOB, NAMESPACE, PROMETHEUS, Prometheus};
use crate::redis_server::{self, RedisServer};
use crate::rules::{RULES, alerts};

const DEADLINE: Duration = Duration::from_secs(30);

/// How long all is well, as Prometheus counts: so many times it has read every process.
const READ: u32 = 8;

/// What can't be brought about here: a full queue behind a socket, a record of another version, a
/// defect, a client that does not read for half a minute.
const NEVER: [&str; 4] = [
    r#"callplane_event_received_events_total{result="overflow"}"#,
    r#"callplane_store_answered_commits_total{verdict="illegible"}"#,
    r#"callplane_session_refused_requests_total{kind="internal_error"}"#,
    r#"callplane_session_closed_connections_total{code="slow"}"#,
];

/// Alerts on slowness: a machine that builds and tests may well be slow.
const SLOW: [&str; 4] =
    ["CallplaneAnswersSlow", "CallplaneCommitsSlow", "CallplaneEventsSlow", "CallplaneStackSlow"];

/// Alerts that what is done here has to raise: they become pending at least.
const RAISED: [&str; 13] = [
    "CallplaneProcessDown",
    "CallplaneNoLeader",
    "CallplaneStackUnreachable",
    "CallplaneStackRestarted",
    "CallplaneEventsUnreadable",
    "CallplaneProcessDeaf",
    "CallplaneStoreAway",
    "CallplaneEpochChanged",
    "CallplaneSessionsRefused",
    "CallplaneCommandsRefused",
    "CallplaneLeaseUnconfirmed",
    "CallplaneLeaseFails",
    "CallplaneTracesDropped",
];

/// What only an election at an API server measures.
const OF_LEASE: &str = "callplane_leader_lease_";

impl Installation {
    /// Asks Prometheus until the expression gives something.
    async fn until(&self, what: &str, expr: &str) {
        let deadline = Instant::now() + DEADLINE;
        while self.prometheus.query(expr).await.is_empty() {
            assert!(Instant::now() < deadline, "waited in vain: {what}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Until the alert is pending or fires.
    async fn raised(&self, alert: &str) {
        assert!(RAISED.contains(&alert), "{alert}");
        self.until(alert, &format!("ALERTS{{alertname=\"{alert}\"}}")).await;
    }

    async fn all_is_well(&self) {
        let well = "min(callplane_stack_health_state) == 1 and min(callplane_store_up_state) == 1 \
                    and sum(callplane_leader_held_state) == 1 and min(up) == 1";
        self.until("all to be well", well).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_has_data_and_no_alert_is_raised_while_all_is_well() {
    let test = "every_query_has_data_and_no_alert_is_raised_while_all_is_well";
    if !PROMETHEUS.is_here(test) || !redis_server::is_here(test) {
        return;
    }
    let begun = Instant::now();
    let of_lease = "what the Lease measures, in every_query_has_data";
    let servers = tokio::task::spawn_blocking(move || (RedisServer::start(), api_server(of_lease)));
    let prometheus = Prometheus::start(&file(RULES)).await;
    let (redis, api_server) = servers.await.unwrap();
    let mut all = Installation::of(redis, stack().await, prometheus, api_server);
    println!("started until {:?}", begun.elapsed());
    for _ in 0..3 {
        all.add();
    }
    let load = Load::start(&all.places);
    all_goes_well(&all).await;
    println!("well until {:?}", begun.elapsed());

    turned_away(&mut all).await;
    println!("turned away until {:?}", begun.elapsed());
    a_leader_is_killed(&mut all).await;
    println!("killed until {:?}", begun.elapsed());
    a_stack_goes_away(&all).await;
    println!("without a stack until {:?}", begun.elapsed());
    redis_goes_away(&mut all).await;
    println!("without Redis until {:?}", begun.elapsed());
    the_api_server_goes_away(&all).await;
    everything_was_done(&all).await;
    all.raised("CallplaneTracesDropped").await;
    drop(load);
    println!("without an API server until {:?}", begun.elapsed());

    let seconds = begun.elapsed().as_secs() + 1;
    the_dashboard_has_data(&all, seconds).await;
    the_alerts_have_data(&all).await;
    println!("asked until {:?}", begun.elapsed());
}

async fn all_goes_well(all: &Installation) {
    all.all_is_well().await;
    let read = format!("min(count_over_time(up[5m])) >= {READ} and count(up) == 3");
    all.until("Prometheus to read", &read).await;
    let mut raised = all.prometheus.alerts().await;
    // Until it is subscribed and somebody leads, alerts may be pending for a moment.
    raised.retain(|(name, state)| state == "firing" || !SLOW.contains(&name.as_str()));
    assert!(raised.is_empty(), "raised though all is well: {raised:?}");
}

async fn turned_away(all: &mut Installation) {
    let (name, place) = all.add_small_and_deaf();
    load::come_from_a_foreign_page(place).await;
    let crowd = load::crowd(place, FEW).await;
    all.raised("CallplaneSessionsRefused").await;
    drop(crowd);
    all.send_rubbish().await;
    all.raised("CallplaneEventsUnreadable").await;
    all.raised("CallplaneProcessDeaf").await;
    all.remove(&name);
}

async fn a_leader_is_killed(all: &mut Installation) {
    let leader = all.prometheus.query("callplane_leader_held_state == 1").await;
    let leader = leader[0]["metric"]["pod"].as_str().unwrap().to_owned();
    all.kill(&leader);
    all.raised("CallplaneProcessDown").await;
    all.raised("CallplaneNoLeader").await;
    all.add_with_traces();
    all.all_is_well().await;
}

async fn a_stack_goes_away(all: &Installation) {
    all.proxy.faults(json!({"lose_replies": {"ppm": 1_000_000}})).await;
    let timeouts = "callplane_mi_answered_requests_total{result=\"timeout\"}";
    all.until("a request without an answer", timeouts).await;
    all.proxy.faults(json!({"lose_replies": {"ppm": 0}})).await;
    all.all_is_well().await;
    let place = all.places.lock().unwrap()[0];
    load::ring(place).await;
    all.proxy.control("POST", "/restart", Some(&json!({"down_ms": 4000}))).await;
    all.raised("CallplaneStackUnreachable").await;
    all.raised("CallplaneStackRestarted").await;
    all.all_is_well().await;
}

async fn redis_goes_away(all: &mut Installation) {
    all.redis.kill();
    all.raised("CallplaneStoreAway").await;
    all.raised("CallplaneCommandsRefused").await;
    all.redis.restart();
    all.raised("CallplaneEpochChanged").await;
    all.all_is_well().await;
}

/// It stays away: nothing that follows needs it.
async fn the_api_server_goes_away(all: &Installation) {
    let Some(server) = &all.api_server else { return };
    server.stop();
    all.raised("CallplaneLeaseUnconfirmed").await;
    all.raised("CallplaneLeaseFails").await;
}

/// A panel that has data of one method would do without it of all others.
async fn everything_was_done(all: &Installation) {
    let ended = "last_over_time(callplane_command_ended_commands_total[5m])";
    for (label, count) in [("method", Method::ALL.len()), ("outcome", 5)] {
        let distinct = format!("count(group by ({label}) ({ended})) == {count}");
        all.until(&format!("a command of each {label} to end"), &distinct).await;
    }
}

/// An expression of the dashboard, with everything chosen.
fn filled(expr: &str) -> String {
    let filled = expr
        .replace("$__rate_interval", "15s")
        .replace("$__range", "5m")
        .replace("$namespace", NAMESPACE)
        .replace("$job", JOB)
        .replace("$pod", ".*")
        .replace("$stack", ".+");
    assert!(!filled.contains('$'), "{filled}");
    filled
}

async fn the_dashboard_has_data(all: &Installation, seconds: u64) {
    let prometheus = &all.prometheus;
    let mut empty = Vec::new();
    let queries = panels().into_iter().flat_map(|panel| {
        let title = panel.title;
        panel.queries.into_iter().map(move |query| (title.clone(), query.expr))
    });
    let marks = annotations().into_iter().map(|expr| ("a mark".to_owned(), expr));
    let mut asked = 0;
    for (title, expr) in queries.chain(marks) {
        let numbers = prometheus.numbers(&filled(&expr), seconds).await;
        let may_be_empty = all.api_server.is_none() && expr.contains(OF_LEASE);
        if !may_be_empty && !numbers.iter().any(|number| number.is_finite()) {
            empty.push(format!("{title}: {expr}"));
        }
        asked += 1;
    }
    assert!(empty.is_empty(), "no data: {empty:#?}");
    assert!(asked > 60, "{asked}");
    for (name, metric, label) in variables() {
        let values = prometheus.query(&filled(&format!("group by ({label}) ({metric})"))).await;
        let named = values.iter().all(|value| !value["metric"][&label].is_null());
        assert!(named && !values.is_empty(), "{name} has no values");
    }
}

async fn the_alerts_have_data(all: &Installation) {
    let prometheus = &all.prometheus;
    let rules = prometheus.rules().await;
    assert_eq!(rules.len(), alerts().len());
    for (name, error) in rules {
        assert_eq!(error, "", "{name}");
    }
    let mut asked = BTreeSet::new();
    for alert in alerts() {
        prometheus.query(&alert.expr).await;
        asked.extend(selectors(&alert.expr));
    }
    if all.api_server.is_none() {
        asked.retain(|selector| !selector.metric.starts_with(OF_LEASE));
    }
    let mut empty = BTreeSet::new();
    for selector in &asked {
        let seen = format!("last_over_time({selector}[10m])");
        if prometheus.query(&seen).await.is_empty() {
            empty.insert(selector.to_string());
        }
    }
    assert_eq!(empty, NEVER.map(str::to_owned).into(), "what has no data, and what may have none");
    for alert in RAISED {
        if all.api_server.is_none() && alert.starts_with("CallplaneLease") {
            continue;
        }
        let seen = format!("last_over_time(ALERTS{{alertname=\"{alert}\"}}[10m])");
        assert!(!prometheus.query(&seen).await.is_empty(), "{alert} was not raised");
    }
}
