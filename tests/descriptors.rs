//! A flood of connections leaves the process the descriptors that it needs itself.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

const DEADLINE: Duration = Duration::from_secs(20);

/// Ended when dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server under this limit; where clients and where probes connect.
fn start(ulimit: &str) -> (Server, SocketAddr, SocketAddr) {
    let script = format!("ulimit {ulimit}; exec \"$0\" serve");
    let mut child = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_callplane")])
        .env("CALLPLANE_LISTEN__ADDRESS", "127.0.0.1:0")
        .env("CALLPLANE_ADMIN__LISTEN", "127.0.0.1:0")
        .env("CALLPLANE_ADMIN__CONTROL", "127.0.0.1:0")
        .env("CALLPLANE_STACKS__0__MI", "udp:127.0.0.1:9")
        .stderr(Stdio::piped())
        .spawn()
        .expect("the server starts");
    let log = BufReader::new(child.stderr.take().unwrap());
    let server = Server(child);
    let mut lines = log.lines().map_while(Result::ok);
    let line = lines.find(|line| line.contains("callplane serves")).expect("it serves");
    let address = |name: &str| {
        let rest = line.split(name).nth(1).unwrap_or_else(|| panic!("{name} in {line}"));
        rest.split_whitespace().next().unwrap().parse().unwrap()
    };
    let (clients, operations) = (address(" clients="), address(" operations="));
    // Whoever logs must not wait for a reader.
    std::thread::spawn(move || lines.for_each(drop));
    (server, clients, operations)
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
    let (_server, clients, operations) = start("-n 200");
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
    let (server, ..) = start("-S -n 200");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.0.id())).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(words[0], words[1], "{line}");
    assert_ne!(words[0], "200", "{line}");
}
