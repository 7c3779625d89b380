//! `/readyz?verbose`: each part of a server, as it comes and goes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod redis_server;
mod site;

use callplane::admin::Readiness;
use callplane::app::Server;
use callplane::client::console::Hints;
use callplane::config::{Config, LogFilter};
use callplane::stack::simulated::Script;
use callplane::telemetry::LogLevels;
use redis_server::{RedisServer, is_here};
use site::{Proxy, Site, any_port, config_for, configured, http, until};

async fn page(site: &Site) -> (u16, String) {
    http(site.operations, "GET", "/readyz?verbose", None).await
}

/// Waits for a page with lines that begin so, and the status of `/readyz` beside it.
async fn shows(site: &Site, lines: &[&str]) {
    let shown = async |line: &str| page(site).await.1.lines().any(|shown| shown.starts_with(line));
    for line in lines {
        until(line, async || shown(line).await).await;
    }
    assert_eq!(http(site.operations, "GET", "/readyz", None).await, (200, "ready\n".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stack_that_comes_and_goes_does_not_make_a_server_unready() {
    let proxy = Proxy::start(Script::Reference, any_port()).await;
    let mut config = config_for(proxy.mi);
    let stack = config.stacks.first_mut().unwrap();
    stack.breaker.failures = 1;
    let site = Site::of(&config).await;
    site.joined().await;
    let (status, text) = page(&site).await;
    let fresh = |line: &str| {
        // How long ago is a matter of the machine.
        line.starts_with("[+]stack sim events ok: subscription confirmed ")
    };
    let mut lines: Vec<&str> = text.lines().collect();
    assert_eq!((status, lines.iter().filter(|line| fresh(line)).count()), (200, 1), "{text}");
    lines.retain(|line| !fresh(line));
    assert_eq!(
        lines,
        [
            "[+]listeners ok: up",
            "[+]drain ok: none has begun",
            "[+]store ok: in memory, this process is alone",
            "[+]stack sim management interface ok: answers",
            "[+]stack sim leader ok: this process, in term 1",
            "readyz check passed",
        ]
    );
    let at = proxy.stop().await;
    shows(
        &site,
        &[&format!(
            "[-]stack sim management interface failed: udp:{at} does not answer: commands are refused \
             with stack_unreachable (does not make it unready)"
        )],
    )
    .await;
    let proxy = Proxy::start(Script::Reference, at).await;
    shows(&site, &["[+]stack sim management interface ok: answers"]).await;
    assert!(site.stop().await);
    proxy.stop().await;
}

fn shared(redis: u16, proxy: &Proxy) -> Config {
    configured(&format!(
        "redis: {{address: \"127.0.0.1:{redis}\"}}\nstacks: [{{name: sim, mi: \"udp:{}\"}}]\n",
        proxy.mi
    ))
}

/// It would be waited for by those that serve.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_come_to_serve_does_not_contend() {
    if !is_here("a_server_that_does_not_come_to_serve_does_not_contend") {
        return;
    }
    let redis = tokio::task::spawn_blocking(RedisServer::start).await.unwrap();
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::start(Script::Reference, any_port()).await;
    let (mi, port, events) = (proxy.mi, redis.port(), taken.local_addr().unwrap());
    let api = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    api.set_nonblocking(true).unwrap();
    let account = tempfile::tempdir().unwrap();
    let ca = rcgen::generate_simple_self_signed(["server".to_owned()]).unwrap().cert.pem();
    for (name, text) in [("ca.crt", &*ca), ("token", "token"), ("namespace", "here")] {
        std::fs::write(account.path().join(name), text).unwrap();
    }
    let config = configured(&format!(
        "redis: {{address: \"127.0.0.1:{port}\"}}\n\
         leadership: kubernetes\n\
         kubernetes: {{server: \"{}\", account: \"{}\"}}\n\
         stacks: [{{name: sim, mi: \"udp:{mi}\", events: \"udp:{events}\"}}]\n",
        api.local_addr().unwrap(),
        account.path().display()
    ));
    let (hints, levels) = (Hints::default(), LogLevels::detached(LogFilter::info()));
    let started = Server::start(&config, &hints, levels, Readiness::starting()).await;
    let Err(error) = started else { panic!("it started") };
    assert!(error.to_string().contains("cannot listen for events"), "{error}");
    let asked = api.accept().map_err(|error| error.kind());
    assert_eq!(asked.err(), Some(std::io::ErrorKind::WouldBlock), "it contended");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_know_of_redis_and_of_who_leads() {
    if !is_here("servers_know_of_redis_and_of_who_leads") {
        return;
    }
    let redis = tokio::task::spawn_blocking(RedisServer::start).await.unwrap();
    let proxy = Proxy::start(Script::Reference, any_port()).await;
    let config = shared(redis.port(), &proxy);
    let leading = Site::of(&config).await;
    leading.joined().await;
    shows(&leading, &["[+]stack sim leader ok: this process, in term "]).await;
    let other = Site::of(&config).await;
    let two = "[+]store ok: redis answers, 2 processes live";
    shows(&other, &["[+]stack sim leader ok: another process", two]).await;
    drop(redis);
    let away = "[-]store failed: redis does not answer: new commands are refused with \
                store_unavailable (does not make it unready)";
    let nobody = "[-]stack sim leader failed: nobody is known to lead (does not make it unready)";
    shows(&leading, &[away, nobody]).await;
    shows(&other, &[away, nobody]).await;
    proxy.stop().await;
}
