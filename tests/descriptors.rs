//! A flood of connections leaves the process the descriptors that it needs itself.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod process;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use process::{ANY_PORTS, Process, SERVES};
use socket2::{Domain, Socket, Type};

const DEADLINE: Duration = Duration::from_secs(20);

/// A server under this limit.
fn start(ulimit: &str) -> Process {
    let script = format!("ulimit {ulimit}; exec \"$0\" serve");
    let mut command = Command::new("sh");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_callplane")]).envs(ANY_PORTS);
    Process::start(command, SERVES)
}

fn get(at: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&at, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE / 4))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A connection that is not waited for: the server need not take it.
fn beginning_to_connect(to: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    // Most likely it says that it is under way.
    let _ = socket.connect(&to.into());
    socket
}

/// How long a server that does serve is waited for. Well below the ten seconds after which those
/// that say nothing lose their places.
const SILENCE: Duration = Duration::from_secs(1);

/// Whether whoever comes now is still served.
fn serves_one_more(clients: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&clients, SILENCE) else { return false };
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    let asked = write!(stream, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    asked.is_ok() && matches!(stream.read(&mut [0]), Ok(1))
}

#[test]
fn probes_are_answered_while_clients_use_up_what_they_may() {
    let server = start("-n 200");
    let (clients, operations) = (server.clients, server.operations.unwrap());
    assert!(serves_one_more(clients), "a client is served before the flood");
    let flood: Vec<_> = (0..400).map(|_| beginning_to_connect(clients)).collect();
    let begin = Instant::now();
    while serves_one_more(clients) {
        assert!(begin.elapsed() < DEADLINE, "the flood never used up what clients may");
    }
    let answer = get(operations, "/livez").expect("a probe is answered");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(flood);
}

#[test]
fn the_soft_limit_is_raised_to_the_hard_one() {
    let limits = start("-S -n 200").proc("limits");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(words[0], words[1], "{line}");
    assert_ne!(words[0], "200", "{line}");
}
