//! A real Redis on a free loopback port, for tests.
//!
//! Where `redis-server` is not installed, [`is_here`] says so by name and the test returns.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code; every test binary uses a part of it"
)]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use callplane::core::ids::Install;
use callplane::store::Limits;
use callplane::store::redis::{Address, RedisBus, RedisStore, Settings};
use tempfile::TempDir;

const PROGRAM: &str = "redis-server";
const DEADLINE: Duration = Duration::from_secs(20);

/// Whether a Redis can be started; else says which test is skipped.
pub fn is_here(test: &str) -> bool {
    let here = Command::new(PROGRAM).arg("--version").stdout(Stdio::null()).status().is_ok();
    if !here {
        println!("skipped: {test} ({PROGRAM} is not installed)");
    }
    here
}

/// A running Redis that writes down what it does. Dropped, it is killed.
pub struct RedisServer {
    child: Child,
    port: u16,
    folder: TempDir,
}

impl RedisServer {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Between finding a port and taking it somebody else may.
        for _ in 0..20 {
            let port = free_port();
            if let Some(child) = run(&folder, port) {
                return Self { child, port, folder };
            }
        }
        panic!("{PROGRAM} does not start");
    }

    /// How it is reached.
    pub fn settings(&self) -> Settings {
        Settings::of(Address { host: "127.0.0.1".to_owned(), port: self.port })
    }

    /// The store and the bus of a process of this installation.
    pub async fn connect(&self, install: Install, limits: Limits) -> (Arc<RedisStore>, RedisBus) {
        let store = Arc::new(RedisStore::start(self.settings(), install, limits).unwrap());
        let bus = RedisBus::start(Arc::clone(&store)).await;
        (store, bus.expect("the bus subscribes"))
    }

    /// Asks it in Redis' own protocol; the answer's first line.
    pub fn ask(&self, words: &[&str]) -> String {
        ask(self.port, words).expect("it answers")
    }

    /// The same, all of the answer that comes at once.
    pub fn ask_all(&self, words: &[&str]) -> String {
        answer(self.port, words).expect("it answers")
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again where it was, with what it had written down.
    pub fn restart(&mut self) {
        let again = run(&self.folder, self.port);
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

/// `None`: it ended, as it does where the port is taken.
///
/// It writes before it answers, so that what was answered outlives a kill. (With `everysec` it puts
/// a write off while the disk is busy.)
fn run(folder: &TempDir, port: u16) -> Option<Child> {
    let mut child = Command::new(PROGRAM)
        .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""])
        .args(["--appendonly", "yes", "--appendfsync", "no", "--loglevel", "warning"])
        .arg("--dir")
        .arg(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        if ask(port, &["PING"]).is_some_and(|answer| answer == "+PONG") {
            // It may be another's, on the port that ours did not get.
            let ours = ask(port, &["CONFIG", "GET", "dir"]).is_some()
                && child.try_wait().unwrap().is_none();
            return ours.then_some(child);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
    panic!("{PROGRAM} does not answer on port {port}");
}

fn ask(port: u16, words: &[&str]) -> Option<String> {
    Some(answer(port, words)?.lines().next()?.to_owned())
}

fn answer(port: u16, words: &[&str]) -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = [0; 16_384];
    let length = stream.read(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer[..length]).into_owned())
}
