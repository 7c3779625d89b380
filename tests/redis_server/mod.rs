//! Real Redis servers on free loopback ports, for tests.
//!
//! It is `redis-server`, or what `REDIS_SERVER_BIN` names. Where that is not installed, [`is_here`]
//! says so by name and the test returns.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code; every test binary uses a part of it"
)]

pub mod certificates;
pub mod patience;
pub mod sentinels;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use callplane::core::ids::Install;
use callplane::store::Limits;
use callplane::store::redis::{Access, Address, RedisBus, RedisStore, Servers, Settings};
use tempfile::TempDir;

use certificates::Certificates;

pub const DEADLINE: Duration = Duration::from_secs(20);

/// The server, and what it says it is.
static PROGRAM: LazyLock<(String, Option<String>)> = LazyLock::new(|| {
    let program = std::env::var("REDIS_SERVER_BIN").unwrap_or_else(|_| "redis-server".to_owned());
    let told = Command::new(&program).arg("--version").output().ok();
    let told = told.map(|told| String::from_utf8_lossy(&told.stdout).trim().to_owned());
    (program, told)
});

fn program() -> &'static str {
    &PROGRAM.0
}

/// Whether a Redis can be started; says which one a test has, or that it is skipped.
pub fn is_here(test: &str) -> bool {
    match &*PROGRAM {
        (program, Some(what)) => println!("{test}: {program}, {what}"),
        (program, None) => println!("skipped: {test} ({program} is not installed)"),
    }
    PROGRAM.1.is_some()
}

/// The ACL user that speaks TLS to an encrypted server, and its password.
const USER: (&str, &str) = ("callplane", "hush-hush");

/// What it needs, and not more. (Redis 6.2 gives a user all channels unless told otherwise.)
pub const RIGHTS: [&str; 7] =
    ["resetchannels", "~cp:*", "&cp:*", "+@all", "-@admin", "-@dangerous", "+info"];

/// How a server is started.
#[derive(Default)]
pub struct Setup {
    /// The port of its master.
    pub replica_of: Option<u16>,
}

/// The store and the bus of a process of this installation.
pub async fn connect(
    settings: Settings,
    install: Install,
    limits: Limits,
) -> (Arc<RedisStore>, RedisBus) {
    let store = Arc::new(RedisStore::start(settings, install, limits).unwrap());
    let bus = RedisBus::start(Arc::clone(&store)).await;
    (store, bus.expect("the bus subscribes"))
}

/// A running Redis that writes down what it does. Dropped, it is killed.
pub struct RedisServer {
    child: Child,
    port: u16,
    folder: TempDir,
    arguments: Vec<String>,
    settings: Settings,
}

impl RedisServer {
    pub fn start() -> Self {
        Self::start_as(Setup::default())
    }

    pub fn start_as(setup: Setup) -> Self {
        Self::start_by(
            |_| {
                setup
                    .replica_of
                    .iter()
                    .flat_map(|master| {
                        ["--replicaof".to_owned(), "127.0.0.1".to_owned(), master.to_string()]
                    })
                    .collect()
            },
            Settings::of,
        )
    }

    /// One that speaks TLS and knows an ACL user. (Tests ask it without.)
    pub fn start_encrypted(certificates: &Certificates) -> Self {
        let password = certificates.folder().join("password");
        std::fs::write(&password, format!("{}\n", USER.1)).unwrap();
        let tls_port = std::cell::Cell::new(0);
        let arguments = |_| {
            tls_port.set(free_port());
            let mut arguments = certificates.arguments(tls_port.get());
            arguments.extend(["--user", USER.0, "on", &format!(">{}", USER.1)].map(str::to_owned));
            arguments.extend(RIGHTS.map(str::to_owned));
            arguments
        };
        let settings = |_| Settings {
            servers: Servers::One(Address { host: "127.0.0.1".to_owned(), port: tls_port.get() }),
            access: Access {
                user: Some(USER.0.to_owned()),
                password: Some(password.clone()),
                tls: Some(certificates.tls()),
            },
            ..Settings::of(Address { host: "127.0.0.1".to_owned(), port: tls_port.get() })
        };
        Self::start_by(arguments, settings)
    }

    /// Between finding a port and taking it somebody else may, so there are several tries.
    fn start_by(
        arguments: impl Fn(u16) -> Vec<String>,
        settings: impl Fn(Address) -> Settings,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..20 {
            let port = free_port();
            let arguments = server_arguments(&folder, port, arguments(port));
            if let Some(child) = run(folder.path(), port, None, &arguments) {
                let settings = settings(Address { host: "127.0.0.1".to_owned(), port });
                return Self { child, port, folder, arguments, settings };
            }
        }
        panic!("{} does not start", program());
    }

    /// How it is reached.
    pub fn settings(&self) -> Settings {
        self.settings.clone()
    }

    /// The store and the bus of a process of this installation.
    pub async fn connect(&self, install: Install, limits: Limits) -> (Arc<RedisStore>, RedisBus) {
        connect(self.settings(), install, limits).await
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Asks it in Redis' own protocol; the answer's first line.
    pub fn ask(&self, words: &[&str]) -> String {
        first_line(self.port, words).expect("it answers")
    }

    /// The same, all of the answer that comes at once.
    pub fn ask_all(&self, words: &[&str]) -> String {
        ask_of(self.port, None, words).expect("it answers")
    }

    /// Asks several things over one connection.
    pub fn ask_in_a_row(&self, all: &[&[&str]]) {
        let mut line = Line::to(self.port).expect("it takes a connection");
        for words in all {
            line.ask(words).expect("it answers");
        }
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again where it was, with what it had written down.
    pub fn restart(&mut self) {
        let again = run(self.folder.path(), self.port, None, &self.arguments);
        self.child = again.expect("it starts again on the port that it had");
    }

    pub fn pause(&self) {
        self.signal("-STOP");
    }

    pub fn go_on(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.pid()]).status().unwrap().success());
    }

    pub fn pid(&self) -> String {
        self.child.id().to_string()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A free port that no connection gets by itself: those are from 32768 on (ip(7)). Else a client that
/// tries a server that is gone could come to be connected to itself, and keep the port.
fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    loop {
        let taken = TAKEN.fetch_add(1, Ordering::Relaxed);
        let spread = std::process::id().wrapping_mul(211).wrapping_add(taken) % 16_000;
        let port = 16_000 + u16::try_from(spread).unwrap();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// It writes before it answers, so that what was answered outlives a kill. (With `everysec` it puts
/// a write off while the disk is busy.)
fn server_arguments(folder: &TempDir, port: u16, more: Vec<String>) -> Vec<String> {
    let port = port.to_string();
    let folder = folder.path().display().to_string();
    let mut arguments: Vec<String> = [
        ["--bind", "127.0.0.1"],
        ["--port", &port],
        ["--save", ""],
        ["--appendonly", "yes"],
        ["--appendfsync", "no"],
        ["--repl-diskless-sync-delay", "0"],
        ["--dir", &folder],
    ]
    .concat()
    .into_iter()
    .map(str::to_owned)
    .collect();
    arguments.extend(more);
    arguments
}

/// A user and its password.
type Login = Option<(&'static str, &'static str)>;

/// `None`: it ended, as it does where the port is taken.
fn run(folder: &Path, port: u16, login: Login, arguments: &[String]) -> Option<Child> {
    let log = std::fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
    let mut child = Command::new(program())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        let pong = || ask_of(port, login, &["PING"]).is_some_and(|answer| answer == "+PONG\r\n");
        // It may be another's, on the port that ours did not get.
        if pong() && pong() && child.try_wait().unwrap().is_none() {
            return Some(child);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
    let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
    panic!("{} does not answer on port {port}: {log}", program());
}

fn first_line(port: u16, words: &[&str]) -> Option<String> {
    Some(ask_of(port, None, words)?.lines().next()?.to_owned())
}

/// What a server answers, as far as it comes at once.
fn ask_of(port: u16, login: Login, words: &[&str]) -> Option<String> {
    let mut line = Line::to(port)?;
    if let Some((user, password)) = login {
        line.ask(&["AUTH", user, password])?;
    }
    line.ask(words)
}

/// A connection to a server.
struct Line(TcpStream);

impl Line {
    fn to(port: u16) -> Option<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        Some(Self(stream))
    }

    fn ask(&mut self, words: &[&str]) -> Option<String> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.0.write_all(request.as_bytes()).ok()?;
        let mut answer = [0; 16_384];
        let length = self.0.read(&mut answer).ok()?;
        Some(String::from_utf8_lossy(&answer[..length]).into_owned())
    }
}
