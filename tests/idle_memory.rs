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

mod process;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use process::{ANY_PORTS, Process, SERVES};

const DEADLINE: Duration = Duration::from_secs(20);

/// Sockets between the two looks; what the server needs anyway is there by the first. With 1,024
/// descriptors, which is all that many systems give, it takes 672 sessions.
const MORE: u64 = 500;

/// A WebSocket whose session has answered: the whole of it is there.
fn session(server: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(server).unwrap();
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

#[test]
fn an_idle_session_keeps_no_large_buffer() {
    let server = Process::callplane(&["serve"], &ANY_PORTS, SERVES);
    let mut sockets: Vec<TcpStream> = (0..100).map(|_| session(server.clients)).collect();
    let before = server.resident();
    sockets.extend((0..MORE).map(|_| session(server.clients)));
    let each = (server.resident() - before) / MORE;
    // 5,242 without that buffer, 13,107 with it.
    assert!(each < 9 * 1024, "{each} bytes each");
}
