//! A WebSocket client that does as little as it may: text out under a mask of zeros, text in as
//! it stands in the receive buffer.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// One connection.
pub struct Socket {
    stream: TcpStream,
    unsent: Vec<u8>,
    received: Vec<u8>,
}

/// Room for one read; all sockets of a loop share it.
pub fn scratch() -> Vec<u8> {
    vec![0; 256 * 1024]
}

impl Socket {
    /// Connects to the protocol's path; reads and writes wait from then on for nothing.
    pub fn connect(to: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(to).expect("the server takes connections");
        stream.set_nodelay(true).unwrap();
        write!(
            stream,
            "GET /call-api HTTP/1.1\r\nHost: {to}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        .unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).expect("the server answers the handshake");
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head);
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        stream.set_nonblocking(true).unwrap();
        Self { stream, unsent: Vec::new(), received: Vec::new() }
    }

    /// Puts a text message behind what is to be sent.
    pub fn queue(&mut self, text: &str) {
        self.frame(0x81, text.as_bytes());
    }

    fn frame(&mut self, first: u8, payload: &[u8]) {
        self.unsent.push(first);
        match u8::try_from(payload.len()) {
            Ok(short @ ..126) => self.unsent.push(0x80 | short),
            Ok(_) | Err(_) => {
                self.unsent.push(0x80 | 126);
                let length = u16::try_from(payload.len()).expect("a bench sends short messages");
                self.unsent.extend_from_slice(&length.to_be_bytes());
            }
        }
        // A mask of zeros: the server unmasks as always, the client has nothing to do.
        self.unsent.extend_from_slice(&[0; 4]);
        self.unsent.extend_from_slice(payload);
    }

    /// Writes as much as the system takes.
    pub fn send(&mut self) {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(written) => drop(self.unsent.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("the connection broke: {error}"),
            }
        }
    }

    /// Hands out the messages that have come. Says whether there were any bytes.
    pub fn receive(&mut self, scratch: &mut [u8], mut each: impl FnMut(&[u8])) -> bool {
        let read = match self.stream.read(scratch) {
            Ok(0) => panic!("the server closed the connection"),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => panic!("the connection broke: {error}"),
        };
        self.received.extend_from_slice(&scratch[..read]);
        let received = std::mem::take(&mut self.received);
        let mut rest = received.as_slice();
        while let Some((first, payload, after)) = split(rest) {
            rest = after;
            match first & 0x0f {
                1 => each(payload),
                8 => panic!("closed: {}", String::from_utf8_lossy(&payload[2..])),
                9 => {
                    self.frame(0x8a, payload);
                    self.send();
                }
                _ => {}
            }
        }
        let left = rest.len();
        self.received = received;
        self.received.drain(..self.received.len() - left);
        true
    }

    /// Waits for the next bytes, or as long as this.
    pub fn wait(&mut self, scratch: &mut [u8], longest: Duration, each: impl FnMut(&[u8])) {
        assert!(self.comes(scratch, longest, each), "nothing came in {longest:?}");
    }

    /// The same, where nothing may come.
    pub fn comes(
        &mut self,
        scratch: &mut [u8],
        longest: Duration,
        each: impl FnMut(&[u8]),
    ) -> bool {
        self.stream.set_nonblocking(false).unwrap();
        self.stream.set_read_timeout(Some(longest)).unwrap();
        let came = self.receive(scratch, each);
        self.stream.set_nonblocking(true).unwrap();
        came
    }
}

/// First byte and payload of a whole frame, and what follows it.
fn split(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (head, length) = match *bytes.get(1)? & 0x7f {
        126 => (4, usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]))),
        127 => panic!("a message of more than 64 KiB"),
        short => (2, usize::from(short)),
    };
    let payload = bytes.get(head..head + length)?;
    Some((bytes[0], payload, &bytes[head + length..]))
}
