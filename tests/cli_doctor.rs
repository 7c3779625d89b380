//! `callplane doctor`, beside real servers: what it finds, and what it leaves alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod api_server;
mod process;
mod redis_server;
mod site;

use std::path::PathBuf;
use std::process::Command;

use callplane::stack::simulated::Script;
use process::{Process, SERVES};
use redis_server::{RedisServer, is_here};
use serde_json::Value;
use site::{Proxy, any_port, http, until};
use tempfile::TempDir;

/// A file, and a server that was started with it.
struct Ticket {
    folder: TempDir,
}

impl Ticket {
    fn with(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("callplane.yml"), text).unwrap();
        Self { folder }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("callplane.yml")
    }

    /// The page and the exit code.
    async fn page(&self, more: &[&'static str]) -> (i32, String) {
        let (file, more) = (self.file(), more.to_vec());
        let asked = move || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_callplane"));
            command.arg("doctor").args(more).env_clear().env("CALLPLANE_CONFIG", file);
            command.output().unwrap()
        };
        let output = tokio::task::spawn_blocking(asked).await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said, "", "all it has to say is on the page");
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    }

    /// A server by this file, and its control port.
    async fn serve(&self) -> Process {
        let file = self.file().to_str().unwrap().to_owned();
        let started =
            move || Process::callplane(&["serve", "--config", &file], &[("NO_COLOR", "1")], SERVES);
        tokio::task::spawn_blocking(started).await.unwrap()
    }
}

fn free_port() -> u16 {
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn ports() -> String {
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listeners = [free(), free(), free()];
    let [clients, listen, control] = listeners.map(|one| one.local_addr().unwrap());
    format!(
        "listen: {{address: '{clients}'}}\nadmin: {{listen: '{listen}', control: '{control}'}}\n\
         drain: {{timeout: 1s}}\n"
    )
}

fn contains_all(page: &str, texts: &[&str]) {
    for text in texts {
        assert!(page.contains(text), "no `{text}` in:\n{page}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_well_gets_a_clean_page_and_keeps_its_port() {
    let proxy = Proxy::start(Script::Reference, any_port()).await;
    let events = free_port();
    let ticket = Ticket::with(&format!(
        "{}stacks:\n  - {{name: main, mi: 'udp:{}', events: 'udp:127.0.0.1:{events}', \
         next_hop: 'sip:walter@proxy.example', subscription: 45s, receive_buffer: 64KiB}}\n",
        ports(),
        proxy.mi
    ));
    let server = ticket.serve().await;
    let operations = server.operations.unwrap();
    let metric =
        async |text: &str| http(operations, "GET", "/metrics", None).await.1.contains(text);
    until("it subscribes", async || metric("callplane_event_subscription_age_seconds{").await)
        .await;
    let (code, page) = ticket.page(&[]).await;
    assert_eq!(code, 0, "{page}");
    contains_all(
        &page,
        &[
            "stacks[0].events       udp:127.0.0.1:",
            "sip:w***@proxy.example",
            "reference script; an event arrived after ",
            "tried at a free port, not at the server's (udp:127.0.0.1:",
            "[+] stack main leader ok: this process, in term 1",
            "runs as in ",
            "leads here, subscribed ",
        ],
    );
    assert!(page.ends_with("problems: 0\n"), "{page}");
    assert!(!page.contains("walter"), "{page}");
    let (code, json) = ticket.page(&["--json"]).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, json["problems"].as_array().map(Vec::len)), (0, Some(0)), "{json}");
    // The server still hears what the stack tells it.
    assert!(metric("callplane_stack_health_state{stack=\"main\"} 1").await);
    assert!(metric("callplane_event_subscription_life_seconds{stack=\"main\"} 45\n").await);
    let ready = http(operations, "GET", "/readyz?verbose", None).await;
    assert!(ready.1.contains("[+]stack main events ok"), "{ready:?}");
    drop(server);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stack_and_a_redis_that_are_away_are_told_once_with_advice() {
    let ticket = Ticket::with(&format!(
        "{}redis: {{address: '127.0.0.1:1'}}\nstacks: [{{name: dead, mi: 'udp:127.0.0.1:{}'}}]\n",
        ports(),
        free_port()
    ));
    let (code, page) = ticket.page(&[]).await;
    assert_eq!(code, 1, "{page}");
    contains_all(
        &page,
        &[
            "problems: 2\n",
            "1. redis: 127.0.0.1:1 can't be reached: Connection refused (os error 111)\n     -> is it there",
            "2. stack dead at udp:127.0.0.1:",
            "log: WARN redis: no connection error=127.0.0.1:1 can't be reached: Connection refused",
            "no server answers",
        ],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_file_is_told_and_the_server_that_runs_is_asked_all_the_same() {
    let ticket = Ticket::with(&ports());
    let _server = ticket.serve().await;
    let text = std::fs::read_to_string(ticket.file()).unwrap();
    std::fs::write(ticket.file(), format!("{text}limits: {{sessions: many}}\nstack: []\n"))
        .unwrap();
    let (code, page) = ticket.page(&[]).await;
    assert_eq!(code, 1, "{page}");
    contains_all(
        &page,
        &["limits.sessions: `many` is not", "did you mean `stacks`?", "[+] listeners ok: up"],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_stay_in_their_files() {
    if !is_here("passwords_stay_in_their_files") {
        return;
    }
    let redis = tokio::task::spawn_blocking(RedisServer::start).await.unwrap();
    let ticket = Ticket::with("");
    let secret = ticket.folder.path().join("password");
    std::fs::write(&secret, "open-sesame").unwrap();
    let text = format!(
        "{}redis: {{address: '127.0.0.1:{}', username: default, password_file: '{}'}}\n",
        ports(),
        redis.port(),
        secret.display()
    );
    std::fs::write(ticket.file(), text).unwrap();
    let (_, page) = ticket.page(&[]).await;
    contains_all(&page, &["password can be read, 11 bytes", "[+] release "]);
    assert!(!page.contains("open-sesame"), "{page}");
    std::fs::remove_file(&secret).unwrap();
    let (code, page) = ticket.page(&[]).await;
    assert_eq!(code, 1, "{page}");
    contains_all(&page, &["redis.password_file: ", "is the Secret mounted there"]);
    // What is no file may have no end, or no beginning.
    std::os::unix::fs::symlink("/dev/null", &secret).unwrap();
    let (code, page) = ticket.page(&[]).await;
    assert_eq!(code, 1, "{page}");
    contains_all(
        &page,
        &["password is no file", "redis: the file of the password, ", "it is no file"],
    );
}

/// What an API server refuses is told in its own words.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_may_not_be_read_is_told_and_one_that_may_is_shown() {
    let test = "a_lease_that_may_not_be_read_is_told_and_one_that_may_is_shown";
    if !api_server::is_here(test) || !is_here(test) {
        return;
    }
    let server = tokio::task::spawn_blocking(api_server::ApiServer::shared).await.unwrap();
    let redis = tokio::task::spawn_blocking(RedisServer::start).await.unwrap();
    let namespace = server.namespace("doctor");
    for account in ["leader", "nobody"] {
        server.let_lead(&namespace, account, &[account.to_owned()]);
    }
    let ticket = |account: &str| {
        let folder = server.service_account_dir(&namespace, account);
        Ticket::with(&format!(
            "{}redis: {{address: '127.0.0.1:{}'}}\nleadership: kubernetes\nkubernetes: {{lease: leader, \
             server: '127.0.0.1:{}', account: '{}'}}\nstacks: [{{mi: 'udp:127.0.0.1:{}'}}]\n",
            ports(),
            redis.port(),
            server.port(),
            folder.display(),
            free_port(),
        ))
    };
    let (leader, nobody) = (ticket("leader"), ticket("nobody"));
    let absent = leader.page(&[]).await.1;
    contains_all(&absent, &["lease leader           is not there"]);
    let process = leader.serve().await;
    until("it leads", async || {
        leader.page(&[]).await.1.contains("leader ok: this process, in term")
    })
    .await;
    contains_all(&leader.page(&[]).await.1, &["[+] lease leader           held by "]);
    drop(process);
    let (code, page) = nobody.page(&[]).await;
    assert_eq!(code, 1, "{page}");
    contains_all(
        &page,
        &[
            "leases.coordination.k8s.io \"leader\" is forbidden: User ",
            "does the Role let this account",
        ],
    );
}
