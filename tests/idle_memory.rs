//! What an idle session costs the real server. `benches/idle.rs` measures it; this only holds that
//! nothing big stays behind: one buffer of HTTP for each socket was two thirds of all (20 KB).
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
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(20);

/// Sockets between the two looks; what the server needs anyway is there by the first. With 1,024
/// descriptors, which is all that many systems give, it takes 672 sessions.
const MORE: u64 = 500;

struct Server {
    child: Child,
    clients: SocketAddr,
}

impl Server {
    fn start() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_callplane"));
        for key in ["LISTEN__ADDRESS", "ADMIN__LISTEN", "ADMIN__CONTROL"] {
            command.env(format!("CALLPLANE_{key}"), "127.0.0.1:0");
        }
        let mut child = command.arg("serve").stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let line = lines.find(|line| line.contains(" clients=")).expect("it says where it listens");
        std::thread::spawn(move || lines.for_each(drop));
        let clients = line.split(' ').find_map(|word| word.strip_prefix("clients=")).unwrap();
        Self { clients: clients.parse().unwrap(), child }
    }

    fn resident(&self) -> u64 {
        let rollup = format!("/proc/{}/smaps_rollup", self.child.id());
        let rollup = std::fs::read_to_string(rollup).unwrap();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// A WebSocket whose session has answered: the whole of it is there.
    fn socket(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.clients).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        write!(
            stream,
            "GET /call-api HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        .unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        // A ping of no bytes under a mask of zeros, and its pong.
        stream.write_all(&[0x89, 0x80, 0, 0, 0, 0]).unwrap();
        let mut pong = [0; 2];
        stream.read_exact(&mut pong).unwrap();
        assert_eq!(pong, [0x8a, 0]);
        stream
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn an_idle_session_keeps_no_large_buffer() {
    let server = Server::start();
    let mut sockets: Vec<TcpStream> = (0..100).map(|_| server.socket()).collect();
    let before = server.resident();
    sockets.extend((0..MORE).map(|_| server.socket()));
    let each = (server.resident() - before) / MORE;
    // 5,242 without that buffer, 13,107 with it.
    assert!(each < 9 * 1024, "{each} bytes each");
}
