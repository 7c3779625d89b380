//! How Redis is reached: what is wrong with it is told once and clearly, no call hangs by it, and it
//! works as soon as it is put right. Each test has one thread, whose log it reads.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "support/log.rs"]
mod log;
mod redis_server;

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use callplane::core::ids::{Install, StackId, TenantId};
use callplane::core::record::Position;
use callplane::store::redis::{
    Access, Address, BadFile, BadSettings, Purpose, RedisBus, RedisStore, Servers, Settings, Tls,
    Unusable,
};
use callplane::store::{Away, Limits, Store as _};

use log::Log;
use redis_server::certificates::Certificates;
use redis_server::patience::{AT_ONCE, DEADLINE, IN_TIME, started, within};
use redis_server::sentinels::{self, Guarded};
use redis_server::{RedisServer, is_here};

/// Time to connect in vain more than once.
const SEVERAL_ATTEMPTS: Duration = Duration::from_millis(1200);

/// After it was put right, until it is used.
const BACK: Duration = Duration::from_millis(1500);

async fn head(store: &RedisStore) -> Result<Position, Away> {
    store.head(&TenantId::default()).await
}

/// Away in time, and at once from then on, for several attempts to connect.
async fn away(store: &RedisStore) {
    assert_eq!(within(IN_TIME, "the first call", head(store)).await, Err(Away));
    let begun = Instant::now();
    while begun.elapsed() < SEVERAL_ATTEMPTS {
        assert_eq!(within(AT_ONCE, "a later call", head(store)).await, Err(Away));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn back(store: &RedisStore) -> Position {
    within(BACK, "to be back", async {
        loop {
            if let Ok(head) = head(store).await {
                return head;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

/// One warning, which says this.
fn told_once(log: &Log, what: &str) {
    let told = log.lines("WARN");
    assert!(told.len() == 1 && told[0].contains(what), "{what}: {told:#?}");
}

fn write(path: &Path, what: &str) {
    std::fs::write(path, what).unwrap();
}

fn access_of(settings: &Settings) -> (Access, Tls) {
    let access = settings.access.clone();
    let tls = access.tls.clone().unwrap();
    (access, tls)
}

#[tokio::test]
async fn a_wrong_password_is_told_once_and_the_right_one_is_used_when_it_is_written() {
    if !is_here("a_wrong_password_is_told_once_and_the_right_one_is_used_when_it_is_written") {
        return;
    }
    let certificates = Certificates::made();
    let server = RedisServer::start_encrypted(&certificates);
    let password = server.settings().access.password.unwrap();
    let right = std::fs::read_to_string(&password).unwrap();
    write(&password, "not-the-one\n");
    let log = Log::default();
    let _kept = log.keep();
    let store = started(server.settings());
    away(&store).await;
    told_once(&log, "does not let us in");
    write(&password, &right);
    back(&store).await;

    // It is changed while we are connected.
    write(&password, "the-next-one");
    let user = server.settings().access.user.unwrap();
    server.ask(&["ACL", "SETUSER", &user, "resetpass", ">the-next-one"]);
    server.ask(&["CLIENT", "KILL", "USER", &user]);
    back(&store).await;
    assert_eq!(log.lines("WARN").len(), 1);
    for secret in ["not-the-one", right.trim(), "the-next-one"] {
        assert_eq!(log.lines(secret), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_server_that_others_vouch_for_is_not_spoken_to_until_they_may() {
    if !is_here("a_server_that_others_vouch_for_is_not_spoken_to_until_they_may") {
        return;
    }
    let (certificates, others) = (Certificates::made(), Certificates::made());
    let server = RedisServer::start_encrypted(&certificates);
    let (access, tls) = access_of(&server.settings());
    let ca = certificates.folder().join("trusted.pem");
    std::fs::copy(others.tls().ca, &ca).unwrap();
    let log = Log::default();
    let _kept = log.keep();
    let access = Access { tls: Some(Tls { ca: ca.clone(), ..tls.clone() }), ..access };
    let store = started(Settings { access, ..server.settings() });
    away(&store).await;
    told_once(&log, "invalid peer certificate");
    std::fs::copy(tls.ca, &ca).unwrap();
    back(&store).await;
}

#[tokio::test]
async fn what_is_wrong_with_a_way_to_a_server_is_told_once() {
    if !is_here("what_is_wrong_with_a_way_to_a_server_is_told_once") {
        return;
    }
    let certificates = Certificates::made();
    let encrypted = RedisServer::start_encrypted(&certificates);
    let plain = RedisServer::start();
    let settings = encrypted.settings();
    let (access, tls) = access_of(&settings);
    let (Servers::One(encrypted_at), Servers::One(plain_at)) =
        (settings.servers.clone(), plain.settings().servers)
    else {
        panic!("one server each");
    };
    let password_alone = Access { tls: None, ..access.clone() };
    let stranger = Access { tls: Some(Tls { identity: None, ..tls }), ..access.clone() };
    let replica_of = plain_at.port.to_string();
    let replica = RedisServer::start();
    replica.ask(&["REPLICAOF", "127.0.0.1", &replica_of]);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = Settings::of(Address { host: "127.0.0.1".to_owned(), port });
    let elsewhere = Settings::of(Address { host: "redis.invalid".to_owned(), port: plain_at.port });
    let by_name = Address { host: "localhost".to_owned(), ..encrypted_at.clone() };
    let few_rights = plain.settings();
    // By a reset or an end, as it comes.
    let broke_off = format!("{}:{} broke off: ", encrypted_at.host, encrypted_at.port);
    let cases = [
        ("is not the master", replica.settings()),
        ("can't be reached", nobody),
        ("redis.invalid", elsewhere),
        ("no TLS with 127.0.0.1", Settings { access, ..plain.settings() }),
        (
            "certificate not valid for name \"localhost\"",
            Settings { servers: Servers::One(by_name), ..settings.clone() },
        ),
        ("fatal alert: CertificateRequired", Settings { access: stranger, ..settings.clone() }),
        (&*broke_off, Settings { access: password_alone.clone(), ..settings }),
        ("does not let us in", Settings { access: password_alone, ..few_rights }),
    ];
    let log = Log::default();
    let _kept = log.keep();
    let stores = cases.iter().map(|(_, settings)| started(settings.clone()));
    futures_util::future::join_all(stores.map(|store| async move { away(&store).await })).await;
    let told = log.lines("WARN");
    for (what, _) in &cases {
        let of_it = told.iter().filter(|line| line.contains(what)).count();
        assert_eq!(of_it, if *what == broke_off { 2 } else { 1 }, "{what}: {told:#?}");
    }
    assert_eq!(told.len(), cases.len(), "{told:#?}");
}

#[tokio::test]
async fn a_server_that_says_nothing_holds_up_no_call() {
    // The system takes the connection, and nobody ever reads from it.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = Address { host: "127.0.0.1".to_owned(), port: silent.local_addr().unwrap().port() };
    let certificates = Certificates::made();
    let plain = Settings::of(at.clone());
    let tls = Some(Tls { identity: None, ..certificates.tls() });
    let encrypted =
        Settings { access: Access { tls, ..Access::default() }, ..Settings::of(at.clone()) };
    let servers = Servers::Sentinels { of: vec![at], master: sentinels::MASTER.to_owned() };
    let sentinel = Settings { servers, ..plain.clone() };
    for (what, settings, warnings) in [
        ("does not answer", plain, 1),
        ("no TLS with", encrypted, 1),
        // The Sentinel is told of as well.
        ("0 of 1 Sentinels answer", sentinel, 2),
    ] {
        let log = Log::default();
        let _kept = log.keep();
        let store = started(settings);
        away(&store).await;
        let told = log.lines("WARN");
        assert!(told.len() == warnings && told.iter().any(|line| line.contains(what)), "{told:#?}");
        assert!(within(DEADLINE, "the bus", RedisBus::start(store)).await.is_err());
    }
}

#[tokio::test]
async fn files_that_can_not_be_used_are_refused_at_the_start() {
    let certificates = Certificates::made();
    let at = Address { host: "127.0.0.1".to_owned(), port: 1 };
    let gone = certificates.folder().join("gone");
    let ca = Tls { ca: gone.clone(), ..certificates.tls() };
    for (access, purpose) in [
        (Access { tls: Some(ca), ..Access::default() }, Purpose::Ca),
        (Access { password: Some(gone.clone()), ..Access::default() }, Purpose::Password),
    ] {
        let settings = Settings { access, ..Settings::of(at.clone()) };
        let refused = RedisStore::start(settings, Install::default(), Limits::default());
        let why = Unusable::Unread(std::io::ErrorKind::NotFound);
        let bad = BadFile { purpose, path: gone.clone(), why };
        assert_eq!(refused.err(), Some(BadSettings::File(bad)));
    }
}

#[tokio::test]
async fn a_master_that_is_made_a_replica_is_left_until_it_is_none_any_more() {
    if !is_here("a_master_that_is_made_a_replica_is_left_until_it_is_none_any_more") {
        return;
    }
    let (server, other) = (RedisServer::start(), RedisServer::start());
    let Servers::One(at) = other.settings().servers else { panic!("one server") };
    let log = Log::default();
    let _kept = log.keep();
    let (writes, reads) = (started(server.settings()), started(server.settings()));
    let before = back(&writes).await;
    assert_eq!(back(&reads).await, before);
    server.ask(&["REPLICAOF", "127.0.0.1", &at.port.to_string()]);
    // One learns it by a write that is refused, the other one asks.
    let refused = within(IN_TIME, "a write", writes.lead(&StackId::new("s"))).await;
    assert_eq!(refused, Err(Away));
    let noticed = async {
        while head(&reads).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(Duration::from_millis(2500), "to notice", noticed).await;
    away(&writes).await;
    let told = log.lines("no connection error");
    assert_eq!(told.len(), 2, "one line each: {told:#?}");
    server.ask(&["REPLICAOF", "NO", "ONE"]);
    let after = back(&writes).await;
    assert_ne!(after.epoch, before.epoch, "it has the other one's memory");
    assert_eq!(back(&reads).await, after);
}

#[tokio::test]
async fn a_server_that_refuses_every_write_fills_no_log() {
    if !is_here("a_server_that_refuses_every_write_fills_no_log") {
        return;
    }
    let server = RedisServer::start();
    let store = started(server.settings());
    back(&store).await;
    server.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    let log = Log::default();
    let _kept = log.keep();
    for _ in 0..50 {
        assert_eq!(store.lead(&StackId::new("s")).await, Err(Away));
        assert!(head(&store).await.is_ok());
    }
    told_once(&log, "OOM");
}

#[tokio::test]
async fn a_server_that_takes_no_scripts_any_more_is_away_at_once() {
    if !is_here("a_server_that_takes_no_scripts_any_more_is_away_at_once") {
        return;
    }
    let server = RedisServer::start();
    let store = started(server.settings());
    back(&store).await;
    server.ask(&["SCRIPT", "FLUSH"]);
    server.ask(&["ACL", "SETUSER", "default", "-script"]);
    let log = Log::default();
    let _kept = log.keep();
    let stack = StackId::new("s");
    for _ in 0..10 {
        let asked = within(AT_ONCE, "a call", store.lead(&stack)).await;
        assert_eq!(asked, Err(Away));
    }
    told_once(&log, "no permissions to run the 'script");
    server.ask(&["ACL", "SETUSER", "default", "+script"]);
    assert!(store.lead(&stack).await.is_ok());
}

#[tokio::test]
async fn databases_are_apart() {
    if !is_here("databases_are_apart") {
        return;
    }
    let server = RedisServer::start();
    let first = back(&started(server.settings())).await;
    let other = started(Settings { database: 3, ..server.settings() });
    assert_ne!(back(&other).await.epoch, first.epoch);
    assert_eq!(back(&started(server.settings())).await, first);
}

#[tokio::test]
async fn a_master_that_no_sentinel_knows_is_told_once_and_used_when_they_do() {
    if !is_here("a_master_that_no_sentinel_knows_is_told_once_and_used_when_they_do") {
        return;
    }
    let guarded = tokio::task::spawn_blocking(Guarded::start).await.unwrap();
    let Servers::Sentinels { of, .. } = guarded.settings().servers else { panic!("Sentinels") };
    let settings = Settings {
        servers: Servers::Sentinels { of, master: "others".to_owned() },
        ..guarded.settings()
    };
    let log = Log::default();
    let _kept = log.keep();
    let store = started(settings);
    away(&store).await;
    told_once(&log, "the Sentinels know no master of the name others");
    guarded.watch("others");
    back(&store).await;
}

/// The suites' users have them.
#[test]
fn the_rights_in_the_manual_are_those_that_suffice() {
    let manual = include_str!("../docs/operations.md");
    let at_sentinels = sentinels::RIGHTS.replace('|', "\\|");
    for (row, rights) in [
        ("| an ACL user |", redis_server::RIGHTS.join(" ")),
        ("| an ACL user at the Sentinels |", at_sentinels),
    ] {
        let written = format!("{row} `{rights}`");
        assert!(manual.contains(&written), "the manual lacks {written}");
    }
}

#[tokio::test]
async fn sentinels_are_spoken_to_as_the_servers_unless_told_otherwise() {
    if !is_here("sentinels_are_spoken_to_as_the_servers_unless_told_otherwise") {
        return;
    }
    let certificates = Certificates::made();
    let server = RedisServer::start_encrypted(&certificates);
    let Servers::One(at) = server.settings().servers else { panic!("one server") };
    let (_sentinel, sentinel) = sentinels::encrypted(&certificates, at.port);
    let servers = Servers::Sentinels { of: vec![sentinel], master: sentinels::MASTER.to_owned() };
    let store = started(Settings { servers, ..server.settings() });
    let through = within(IN_TIME, "to be there", head(&store)).await.unwrap();
    assert_eq!(through, head(&started(server.settings())).await.unwrap());
}
