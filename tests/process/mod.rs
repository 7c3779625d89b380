//! A program in a process of its own: where it listens, and what it costs.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code; every test binary and bench uses a part of it"
)]

pub mod cpu;

use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(20);

/// Ports that are free, for `callplane serve`.
pub const ANY_PORTS: [(&str, &str); 3] = [
    ("CALLPLANE_LISTEN__ADDRESS", "127.0.0.1:0"),
    ("CALLPLANE_ADMIN__LISTEN", "127.0.0.1:0"),
    ("CALLPLANE_ADMIN__CONTROL", "127.0.0.1:0"),
];

/// What stands before the address of clients in the log of `callplane serve`.
pub const SERVES: &str = " clients=";

/// A running server. Dropped, it is killed.
pub struct Process {
    child: Child,
    /// Where clients connect.
    pub clients: SocketAddr,
    /// Where probes and metrics are, if it has any.
    pub operations: Option<SocketAddr>,
    /// Where it can be told to stop, if it can.
    pub control: Option<SocketAddr>,
}

impl Process {
    /// `callplane` with these arguments. Clients find it behind `mark`.
    pub fn callplane(arguments: &[&str], variables: &[(&str, &str)], mark: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_callplane"));
        command.args(arguments).envs(variables.iter().copied());
        Self::start(command, mark)
    }

    /// Starts it and waits until it says where it listens.
    pub fn start(mut command: Command, mark: &str) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let (said, saying) = channel();
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for stream in streams {
            let said = said.clone();
            // Reads to the end: a process whose pipe is full would stop.
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _ = said.send(line);
                }
            });
        }
        drop(said);
        let deadline = Instant::now() + DEADLINE;
        let mut lines = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = saying.recv_timeout(left) else {
                let _ = child.kill();
                let _ = child.wait();
                panic!("it does not say where it listens, only: {lines:#?}");
            };
            if let Some(clients) = address(&line, mark) {
                let operations = address(&line, " operations=");
                let control = address(&line, " control=");
                return Self { child, clients, operations, control };
            }
            lines.push(line);
        }
    }

    /// Sends it a signal, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().unwrap();
        assert!(sent.success(), "kill -s {name} {id}");
    }

    /// Its exit code, when it has ended.
    pub fn ended(&mut self) -> Option<i32> {
        self.child.try_wait().unwrap().map(|status| status.code().expect("an exit code"))
    }

    /// Waits until it has ended; its exit code.
    pub fn exit(&mut self) -> i32 {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.ended() {
                Some(code) => return code,
                None => assert!(Instant::now() < deadline, "it does not end"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Processor time so far.
    pub fn cpu(&self) -> Duration {
        cpu::spent(&self.child.id().to_string())
    }

    /// Resident bytes.
    pub fn resident(&self) -> u64 {
        let rollup = self.proc("smaps_rollup");
        let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// What the kernel tells of it under this name.
    pub fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn address(line: &str, mark: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once(mark)?;
    let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':'));
    rest.get(..end.unwrap_or(rest.len()))?.parse().ok()
}
