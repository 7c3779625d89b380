//! Whether a stack's events find their way to a process: how it is told where they go, and what it
//! makes of a stack that answers and whose events do not come.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod site;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use callplane::config::Config;
use callplane::stack::simulated::Script;
use callplane::stack::simulated::server::{SimulateConfig, Simulated};
use serde_json::{Value, json};
use site::wire::Wire;
use site::{DOMAIN, Proxy, Site, a_call, any_port, config_for, configured, until};
use tokio::sync::oneshot;

/// A third of it is how long nothing may come in until that is tried.
const SUBSCRIPTION: Duration = Duration::from_secs(3);

/// Three of those and what three trials take, on a machine that has other things to do.
const NOTICED: Duration = Duration::from_secs(15);

fn quick(mut config: Config) -> Config {
    config.stacks[0].subscription = SUBSCRIPTION;
    config
}

/// The value of a metric of the one stack.
async fn metric(site: &Site, name: &str) -> Option<f64> {
    let text = site.metrics().await;
    let line = text.lines().find(|line| line.starts_with(&format!("{name}{{")))?;
    line.rsplit(' ').next()?.parse().ok()
}

const ARRIVING: &str = "callplane_event_probe_arriving_state";
const MISSED: &str = "callplane_event_probe_missed_events_total";

async fn arriving(site: &Site, wanted: f64) {
    let what = format!("events arrive: {wanted}");
    until(&what, async || metric(site, ARRIVING).await == Some(wanted)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_do_not_come_are_noticed_made_good_by_looking_and_heard_again() {
    let proxy = Proxy::start(Script::Stock, any_port()).await;
    let wire = Wire::before(proxy.mi).await;
    let site = Site::of(&quick(config_for(wire.mi))).await;
    site.joined().await;
    arriving(&site, 1.0).await;
    assert!(metric(&site, "callplane_event_probe_latency_seconds").await.unwrap() < 1.0);
    assert_eq!(metric(&site, MISSED).await, Some(0.0));

    proxy.faults(json!({"lose_events": {"ppm": 1_000_000}})).await;
    let (lost, looked) = (Instant::now(), wire.asked("dlg_list_ctx"));
    arriving(&site, 0.0).await;
    assert!(lost.elapsed() < NOTICED, "{:?}", lost.elapsed());
    assert!(metric(&site, MISSED).await.unwrap() >= 3.0);
    // Lists are looked at for as long as it lasts, and commands end by that.
    until("lists are looked at", async || wire.asked("dlg_list_ctx") > looked + 1).await;
    let mut client = site.client().await;
    a_call(&mut client).await;

    proxy.faults(json!({"lose_events": {"ppm": 0}})).await;
    arriving(&site, 1.0).await;
    assert!(metric(&site, "callplane_event_probe_age_seconds").await.unwrap() < 10.0);
    drop(client);
    site.stop().await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_advertised_address_is_noticed() {
    let proxy = Proxy::start(Script::Stock, any_port()).await;
    let elsewhere = UdpSocket::bind("127.0.0.1:0").unwrap();
    let config = format!(
        "stacks:\n  - name: sim\n    mi: udp:{}\n    next_hop: sip:{DOMAIN}\n    events: udp:127.0.0.1:{}\n    \
         advertise: udp:{}\n",
        proxy.mi,
        free_port(),
        elsewhere.local_addr().unwrap(),
    );
    let site = Site::of(&quick(configured(&config))).await;
    site.joined().await;
    arriving(&site, 0.0).await;
    site.stop().await;
    proxy.stop().await;
}

/// A busy stack tells by itself that its events arrive, and one of several processes asks for all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_is_asked_of_a_stack_than_it_takes() {
    let proxy = Proxy::start(Script::Stock, any_port()).await;
    let (mut wires, mut sites) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let wire = Wire::before(proxy.mi).await;
        let mut config = quick(config_for(wire.mi));
        config.install =
            callplane::core::ids::Install::parse(&format!("i{}", sites.len())).unwrap();
        let site = Site::of(&config).await;
        site.joined().await;
        arriving(&site, 1.0).await;
        wires.push(wire);
        sites.push(site);
    }
    let raised = || wires.iter().map(|wire| wire.asked("raise_event")).sum::<usize>();
    let (before, began) = (raised(), Instant::now());
    until("some periods have passed", async || began.elapsed() > SUBSCRIPTION * 3).await;
    let (periods, raised) = (9, raised() - before);
    // Each looks every two seconds only, so two may ask in one period.
    assert!((1..=periods * 2).contains(&raised), "{raised} trials of three in {periods} periods");
    for site in sites {
        site.stop().await;
    }
    proxy.stop().await;
}

fn free_port() -> u16 {
    UdpSocket::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port()
}

async fn subscribers(mi: SocketAddr) -> Vec<Value> {
    let socket = tokio::net::UdpSocket::bind((if mi.is_ipv6() { "::1" } else { "127.0.0.1" }, 0));
    let socket = socket.await.unwrap();
    let asked = json!({
        "jsonrpc": "2.0", "id": 1, "method": "subscribers_list",
        "params": {"event": "E_DLG_STATE_CHANGED"},
    });
    socket.send_to(asked.to_string().as_bytes(), mi).await.unwrap();
    let mut answer = vec![0; 65_536];
    let length = socket.recv(&mut answer).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer[..length]).unwrap();
    answer["result"]["Event"]["Subscribers"].as_array().cloned().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_port_on_all_addresses_the_stack_is_told_the_one_it_sees() {
    let proxy = Proxy::start(Script::Stock, any_port()).await;
    for any in ["0.0.0.0", "[::]"] {
        let port = free_port();
        let config = format!(
            "stacks:\n  - name: sim\n    mi: udp:{}\n    next_hop: sip:{DOMAIN}\n    events: udp:{any}:{port}\n",
            proxy.mi
        );
        let site = Site::of(&quick(configured(&config))).await;
        site.joined().await;
        arriving(&site, 1.0).await;
        let told = format!("udp:0177.0000.0000.0001:{port}");
        let all = subscribers(proxy.mi).await;
        assert!(all.iter().any(|one| one["socket"] == told), "{all:?}");
        site.stop().await;
    }
    proxy.stop().await;
}

/// OpenSIPS takes the first address for the second one where both have the same port.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_whose_addresses_begin_alike_both_hear_the_stack() {
    let proxy = Proxy::start(Script::Stock, any_port()).await;
    let port = free_port();
    let mut sites = Vec::new();
    for ip in ["127.0.0.12", "127.0.0.1", "127.0.0.123"] {
        let config = format!(
            "install: i{}\nstacks:\n  - name: sim\n    mi: udp:{}\n    next_hop: sip:{DOMAIN}\n    \
             events: udp:{ip}:{port}\n",
            sites.len(),
            proxy.mi
        );
        let site = Site::of(&quick(configured(&config))).await;
        site.joined().await;
        sites.push(site);
    }
    for site in &sites {
        arriving(site, 1.0).await;
    }
    assert_eq!(subscribers(proxy.mi).await.len(), 3);
    // One that leaves takes nobody's subscription with it.
    assert!(sites.remove(1).stop().await);
    until("the two others are left", async || {
        let all = subscribers(proxy.mi).await;
        all.iter().filter(|one| one["ttl"].is_number()).count() == 2
    })
    .await;
    for site in sites {
        site.stop().await;
    }
    proxy.stop().await;
}

/// Requests may go over IPv6; events come over IPv4 only, and `advertise` says where.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stack_that_is_asked_over_ipv6_sends_its_events_over_ipv4() {
    if UdpSocket::bind("[::1]:0").is_err() {
        return println!("skipped: this machine has no IPv6");
    }
    let loopback = SocketAddr::from((IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]), 0));
    let config = SimulateConfig {
        mi_udp: loopback,
        mi_http: None,
        control: None,
        ..SimulateConfig::default()
    };
    let simulated = Simulated::bind(config).await.unwrap();
    let mi = simulated.addresses().mi_udp;
    let (stop, stopped) = oneshot::channel::<()>();
    let stack = tokio::spawn(simulated.run(async {
        let _ = stopped.await;
    }));
    let with = |port: u16, advertise: &str| {
        let config = format!(
            "stacks:\n  - name: sim\n    mi: udp:{mi}\n    next_hop: sip:{DOMAIN}\n    events: udp:[::]:{port}\n{advertise}"
        );
        quick(configured(&config))
    };
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let site = Site::of(&with(to.port(), &format!("    advertise: udp:{to}\n"))).await;
    site.joined().await;
    arriving(&site, 1.0).await;
    site.stop().await;
    // Without, it is told an address that it takes from nobody.
    let site = Site::of(&with(free_port(), "")).await;
    let refused = async || {
        let text = site.metrics().await;
        let line =
            "callplane_mi_answered_requests_total{command=\"event_subscribe\",result=\"refused\"";
        text.lines().any(|known| known.starts_with(line))
    };
    until("the subscription is refused", refused).await;
    assert_eq!(metric(&site, "callplane_event_subscription_age_seconds").await, None);
    site.stop().await;
    drop(stop);
    stack.await.unwrap();
}

/// A process that dies gives nothing back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_process_s_subscription_does_no_harm_and_runs_out() {
    let proxy = Proxy::start(Script::Stock, any_port()).await;
    let dead = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = format!("udp:{dead}");
    let asking = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for event in ["E_DLG_STATE_CHANGED", "E_CALL_TRANSFER", "E_CALL_HOLD"] {
        let subscribe = json!({
            "jsonrpc": "2.0", "id": 1, "method": "event_subscribe",
            "params": {"event": event, "socket": silent, "expire": 4},
        });
        asking.send_to(subscribe.to_string().as_bytes(), proxy.mi).await.unwrap();
        asking.recv(&mut [0; 1000]).await.unwrap();
    }
    let site = Site::of(&quick(config_for(proxy.mi))).await;
    site.joined().await;
    let mut client = site.client().await;
    a_call(&mut client).await;
    let alive = async || {
        let all = subscribers(proxy.mi).await;
        all.iter().any(|one| one["socket"] == silent.as_str() && one["ttl"].is_number())
    };
    assert!(alive().await, "it stood beside");
    until("it has run out", async || !alive().await).await;
    a_call(&mut client).await;
    arriving(&site, 1.0).await;
    drop(client);
    site.stop().await;
    proxy.stop().await;
}
