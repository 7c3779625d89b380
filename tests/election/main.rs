//! Five real processes, a real API server and a real Redis: who leads, how fast another does, and what
//! happens when the API server is in trouble.
//!
//! `ELECTION_OUTAGE` says how many seconds the API server is away (20).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it measured"
)]

#[path = "../api_server/mod.rs"]
mod api_server;
#[path = "../chaos/link.rs"]
mod link;
mod pods;
#[path = "../redis_server/mod.rs"]
mod redis_server;
#[path = "../site/mod.rs"]
mod site;

use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use link::Way;
use pods::{DEADLINE, Field, LEASE, Said};

const PODS: usize = 5;

/// Who measures times does so alone; the others may be beside each other.
static MEASURING: RwLock<()> = RwLock::new(());

/// Whether times are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Times {
    Measured,
    Long,
}

fn are_here(test: &str) -> bool {
    redis_server::is_here(test) && api_server::is_here(test)
}

/// Runs a test where its servers are.
fn with_a_field(test: &str, times: Times, play: impl AsyncFnOnce(&mut Field)) {
    if !are_here(test) {
        return;
    }
    let measuring = || MEASURING.write().unwrap_or_else(PoisonError::into_inner);
    let waiting = || MEASURING.read().unwrap_or_else(PoisonError::into_inner);
    let _alone = (times == Times::Measured).then(measuring);
    let _beside = (times == Times::Long).then(waiting);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut field = Field::start(PODS).await;
        play(&mut field).await;
        // Whatever happened: nobody ever led in a term of somebody else.
        let mut terms: Vec<(u64, usize)> = field
            .said_since(Instant::now() - Duration::from_secs(3600))
            .iter()
            .filter_map(|said| said.leads.map(|term| (term, said.pod)))
            .collect();
        terms.sort_unstable();
        terms.dedup();
        let apart = terms.windows(2).all(|two| two[0].0 != two[1].0);
        assert!(apart, "two led in one term: {terms:?}");
    });
}

fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

/// Tells how long the next took, which must be so long at most.
fn within(what: &str, most: Duration, since: Instant, next: Said) {
    let took = next.at.duration_since(since);
    println!("{what}: {} s", seconds(took));
    assert!(took <= most, "{what}: {took:?}, more than {most:?}");
}

#[test]
fn a_killed_leader_is_followed_within_five_seconds() {
    with_a_field(
        "a_killed_leader_is_followed_within_five_seconds",
        Times::Measured,
        async |field| {
            for round in 1..=5 {
                let (leader, term) = field.leader().expect("somebody leads");
                let at = Instant::now();
                field.kill(leader);
                let next = field.leader_since(at).await;
                assert!(next.pod != leader && next.leads > Some(term), "{next:?}");
                within(&format!("killed {round}"), Duration::from_secs(5), at, next);
                field.run(leader).await;
            }
            // One process was started with each kill, and the Lease has changed hands as often.
            assert_eq!(field.lease(".spec.leaseTransitions"), "5");
            let (leader, _) = field.leader().unwrap();
            let holder = field.lease(".spec.holderIdentity");
            assert!(holder.starts_with(&format!("callplane-{leader}_")), "{holder}");
            let events = [
                "-n",
                &field.namespace,
                "get",
                "events",
                "-o",
                "jsonpath={.items[*].note}{.items[*].message}",
            ];
            let told = field.server.kubectl_said(&events);
            assert!(
                told.contains(&format!("callplane-{leader} leads the SIP stacks' events")),
                "{told}"
            );
        },
    );
}

/// As when one machine had the leader and the API server's end of everybody's connections.
#[test]
fn a_leader_that_dies_with_everybody_s_connections_is_followed_as_soon() {
    let name = "a_leader_that_dies_with_everybody_s_connections_is_followed_as_soon";
    with_a_field(name, Times::Measured, async |field| {
        let (leader, term) = field.leader().expect("somebody leads");
        let at = Instant::now();
        for pod in &field.pods {
            pod.link.set(Way::Gone);
        }
        field.kill(leader);
        let next = field.leader_since(at).await;
        within("killed with all connections", Duration::from_secs(6), at, next);
        assert!(next.pod != leader && next.leads > Some(term), "{next:?}");
    });
}

/// The API server's end of the leader's connections is gone without a word; another one answers.
#[test]
fn a_leader_whose_connections_lead_nowhere_any_more_leads_on() {
    let name = "a_leader_whose_connections_lead_nowhere_any_more_leads_on";
    with_a_field(name, Times::Measured, async |field| {
        let before = field.leader().expect("somebody leads");
        let at = Instant::now();
        field.pods[before.0].link.set(Way::Gone);
        tokio::time::sleep(LEASE * 3).await;
        assert!(field.said_since(at).is_empty(), "{:?}", field.said_since(at));
        let alone = field.metric(before.0, "callplane_leader_unconfirmed_state", &[]).await;
        assert!(alone < f64::EPSILON, "it is not renewed again");
    });
}

#[test]
fn a_leader_that_is_told_to_stop_hands_over_within_half_a_second() {
    let name = "a_leader_that_is_told_to_stop_hands_over_within_half_a_second";
    with_a_field(name, Times::Measured, async |field| {
        for round in 1..=5 {
            let (leader, term) = field.leader().expect("somebody leads");
            let at = Instant::now();
            field.signal(leader, "-TERM");
            let next = field.leader_since(at).await;
            assert!(next.pod != leader && next.leads > Some(term), "{next:?}");
            within(&format!("handed over {round}"), Duration::from_millis(500), at, next);
            assert!(field.ended(leader).await, "it did not end in order");
            field.run(leader).await;
        }
    });
}

#[test]
fn a_leader_that_stands_still_is_followed_and_its_late_word_does_not_count() {
    let name = "a_leader_that_stands_still_is_followed_and_its_late_word_does_not_count";
    with_a_field(name, Times::Measured, async |field| {
        let (leader, term) = field.leader().expect("somebody leads");
        let at = Instant::now();
        field.signal(leader, "-STOP");
        let next = field.leader_since(at).await;
        within("stopped", Duration::from_secs(5), at, next);
        assert!(next.pod != leader && next.leads > Some(term), "{next:?}");
        let terms = |field: &Field| field.redis.ask_all(&["HGETALL", "cp:election:terms"]);
        let drawn = terms(field);
        assert!(drawn.contains(&next.leads.unwrap().to_string()), "{drawn}");
        let woke = Instant::now();
        field.signal(leader, "-CONT");
        let steps_down = async {
            while !field.said_since(woke).iter().any(|s| s.pod == leader && s.leads.is_none()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(DEADLINE, steps_down).await.expect("it believes that it leads");
        println!("it knows after {} s", seconds(woke.elapsed()));
        assert_eq!(terms(field), drawn, "it drew a term");
        assert_eq!(field.leader().unwrap().0, next.pod);
    });
}

/// The API server is away: whoever leads goes on. Whoever is missing when it is back is followed then.
#[test]
fn without_an_api_server_the_leader_leads_on() {
    with_a_field("without_an_api_server_the_leader_leads_on", Times::Long, async |field| {
        let outage = std::env::var("ELECTION_OUTAGE").ok().map(|text| text.parse().unwrap());
        let outage = Duration::from_secs(outage.unwrap_or(20));
        let before = field.leader().expect("somebody leads");
        for how in ["stopped", "paused"] {
            let at = Instant::now();
            if how == "stopped" {
                field.server.stop()
            } else {
                field.server.pause()
            }
            tokio::time::sleep(outage / 2).await;
            let alone = field.metric(before.0, "callplane_leader_unconfirmed_state", &[]).await;
            assert!((alone - 1.0).abs() < f64::EPSILON, "{how}: it is not said that it leads on");
            tokio::time::sleep(outage / 2).await;
            if how == "stopped" {
                field.server.start_again()
            } else {
                field.server.go_on()
            }
            // Everybody else finds the Lease older than it may be, and leaves it to the one who has it.
            tokio::time::sleep(LEASE * 2).await;
            assert!(field.said_since(at).is_empty(), "{how}: {:?}", field.said_since(at));
            let alone = field.metric(before.0, "callplane_leader_unconfirmed_state", &[]).await;
            assert!(alone < f64::EPSILON, "{how}: it is not said that it is renewed");
        }
        field.server.stop();
        // Who can't give its Lease back does not wait for ever until it can.
        let at = Instant::now();
        field.signal(before.0, "-TERM");
        field.ended(before.0).await;
        println!("told to stop in an outage: ended after {} s", seconds(at.elapsed()));
        assert!(at.elapsed() < LEASE + Duration::from_secs(4), "{:?}", at.elapsed());
        tokio::time::sleep(LEASE * 2).await;
        let at = Instant::now();
        field.server.start_again();
        let next = field.leader_since(at).await;
        within("gone in an outage, after its end", Duration::from_secs(15), at, next);
    });
}

/// A leader that is cut off from the API server alone hears from the store that it is one no more.
#[test]
fn a_leader_that_is_cut_off_is_followed_and_knows_it() {
    with_a_field(
        "a_leader_that_is_cut_off_is_followed_and_knows_it",
        Times::Measured,
        async |field| {
            for way in [Way::Stalled, Way::Refused] {
                let (leader, term) = field.leader().expect("somebody leads");
                let at = Instant::now();
                field.pods[leader].link.set(way);
                let next = field.leader_since(at).await;
                within(&format!("cut off ({way:?})"), Duration::from_secs(6), at, next);
                assert!(next.pod != leader && next.leads > Some(term), "{next:?}");
                let knows = async {
                    while !field.said_since(at).iter().any(|s| s.pod == leader && s.leads.is_none())
                    {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                };
                tokio::time::timeout(DEADLINE, knows).await.expect("it believes that it leads");
                let knew = field.said_since(at).into_iter().find(|s| s.pod == leader).unwrap();
                let after = knew.at.saturating_duration_since(next.at);
                println!("it knows {} s after another leads", seconds(after));
                assert!(after < Duration::from_millis(1_500), "{after:?}");
                field.pods[leader].link.set(Way::Open);
            }
        },
    );
}

/// A leader that alone does not reach Redis applies nothing, however well it renews its Lease.
#[test]
fn a_leader_that_alone_does_not_reach_redis_is_followed() {
    let name = "a_leader_that_alone_does_not_reach_redis_is_followed";
    with_a_field(name, Times::Measured, async |field| {
        let (leader, term) = field.leader().expect("somebody leads");
        let at = Instant::now();
        field.pods[leader].to_redis.set(Way::Stalled);
        let next = field.leader_since(at).await;
        within("cut off from Redis", Duration::from_secs(12), at, next);
        assert!(next.pod != leader && next.leads > Some(term), "{next:?}");
        field.pods[leader].to_redis.set(Way::Open);
    });
}

#[test]
fn with_an_api_server_that_takes_ten_seconds_somebody_leads() {
    let name = "with_an_api_server_that_takes_ten_seconds_somebody_leads";
    with_a_field(name, Times::Long, async |field| {
        let before = field.leader().expect("somebody leads");
        let at = Instant::now();
        for pod in &field.pods {
            pod.link.set(Way::Late(Duration::from_secs(5)));
        }
        tokio::time::sleep(Duration::from_secs(25)).await;
        let said = field.said_since(at);
        let leader = field.leader().expect("somebody leads");
        // It may be that another came through first: then that one leads, and it stays so.
        let changes = said.iter().filter(|said| said.leads.is_some()).count();
        println!("slow: {changes} changes of leader");
        assert!(changes <= 1 && (changes == 0) == (leader == before), "{before:?}: {said:?}");
        for pod in &field.pods {
            pod.link.set(Way::Open);
        }
    });
}

#[test]
fn a_lease_that_is_deleted_or_edited_by_hand_comes_right_again() {
    let name = "a_lease_that_is_deleted_or_edited_by_hand_comes_right_again";
    with_a_field(name, Times::Long, async |field| {
        let namespace = field.namespace.clone();
        let before = field.leader().expect("somebody leads");
        let at = Instant::now();
        field.server.kubectl_said(&["-n", &namespace, "delete", "lease", "callplane"]);
        tokio::time::sleep(LEASE).await;
        assert!(field.said_since(at).is_empty(), "deleted: {:?}", field.said_since(at));
        assert!(field.lease(".spec.holderIdentity").contains(&format!("callplane-{}_", before.0)));

        let patch = |patch: &str| {
            let all =
                ["-n", &namespace, "patch", "lease", "callplane", "--type=merge", "-p", patch];
            field.server.kubectl_said(&all);
        };
        patch(r#"{"spec":{"holderIdentity":""},"metadata":{"labels":{"team":"voice"}}}"#);
        tokio::time::sleep(LEASE).await;
        assert!(field.said_since(at).is_empty(), "emptied: {:?}", field.said_since(at));
        assert_eq!(field.lease(".metadata.labels.team"), "voice", "labels of others are kept");

        let at = Instant::now();
        patch(r#"{"spec":{"holderIdentity":"somebody","leaseDurationSeconds":1}}"#);
        let next = field.leader_since(at).await;
        within("another's name", Duration::from_secs(6), at, next);
        assert!(next.leads > Some(before.1), "{next:?}");
    });
}

#[test]
fn a_token_that_is_refused_and_rights_that_are_taken_away_are_told_and_got_over() {
    let name = "a_token_that_is_refused_and_rights_that_are_taken_away_are_told_and_got_over";
    with_a_field(name, Times::Long, async |field| {
        let before = field.leader().expect("somebody leads");
        let at = Instant::now();
        let namespace = field.namespace.clone();
        field.server.kubectl_said(&["-n", &namespace, "delete", "rolebinding", "callplane"]);
        let refused = |result: &'static str| {
            let field = &*field;
            async move {
                let labels = [result, "verb=\"put\""];
                field.metric(before.0, "callplane_leader_lease_requests_total", &labels).await
            }
        };
        let deadline = Instant::now() + DEADLINE;
        while refused("forbidden").await < 2.0 {
            assert!(Instant::now() < deadline, "nobody counts what is forbidden");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        field.server.let_lead(&namespace, "callplane", &["callplane".to_owned()]);
        let good = field.token();
        // A new process, since those that run have read their token for the next minute.
        field.write_token("nobody gave this one");
        let other = (before.0 + 1) % PODS;
        field.kill(other);
        field.run(other).await;
        let labels = ["unauthorized"];
        let deadline = Instant::now() + DEADLINE;
        while field.metric(other, "callplane_leader_lease_requests_total", &labels).await < 1.0 {
            assert!(Instant::now() < deadline, "nobody counts a refused token");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        field.write_token(&good);
        let labels = ["result=\"ok\"", "verb=\"watch\""];
        while field.metric(other, "callplane_leader_lease_requests_total", &labels).await < 1.0 {
            assert!(Instant::now() < deadline, "a good token is not read again");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(field.said_since(at).is_empty(), "{:?}", field.said_since(at));
    });
}

/// Kind to the API server: whoever has the Lease writes it each second, everybody else watches.
#[test]
fn standbys_watch_and_do_not_poll() {
    with_a_field("standbys_watch_and_do_not_poll", Times::Long, async |field| {
        let (leader, _) = field.leader().expect("somebody leads");
        let asked = async |field: &Field, pod| {
            field.metric(pod, "callplane_leader_lease_requests_total", &[]).await
        };
        let mut before = Vec::new();
        for pod in 0..PODS {
            // Each has looked how it stands, and watches.
            for verb in ["verb=\"get\"", "verb=\"watch\""] {
                let name = "callplane_leader_lease_requests_total";
                let begun = async || field.metric(pod, name, &[verb]).await >= 1.0;
                site::until("it watches", begun).await;
            }
            before.push(asked(field, pod).await);
        }
        let while_watched = Duration::from_secs(10);
        tokio::time::sleep(while_watched).await;
        for (pod, before) in before.into_iter().enumerate() {
            let asked = asked(field, pod).await - before;
            println!("pod {pod}: {} requests a minute", asked * 6.0);
            let most = if pod == leader { 12.0 } else { 0.0 };
            assert!(asked <= most, "pod {pod} asked {asked} times in {while_watched:?}");
        }
    });
}
