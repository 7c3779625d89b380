//! The Management Interface over UDP, as little of it as a test needs.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// An error reply of OpenSIPS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MiError {
    pub code: i64,
    pub message: String,
}

pub type Reply = Result<Value, MiError>;

/// One socket to one OpenSIPS. Replies are matched by id: asynchronous commands overtake each other.
pub struct Mi {
    socket: UdpSocket,
    next: u32,
    early: HashMap<u64, Reply>,
}

impl Mi {
    pub fn connect(to: SocketAddr) -> Mi {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a loopback port");
        socket.connect(to).expect("a loopback address");
        Mi { socket, next: 0, early: HashMap::new() }
    }

    /// Sends a command; its reply is fetched with [`Mi::wait`].
    pub fn send(&mut self, method: &str, params: Value) -> u64 {
        self.next += 1;
        let mut request = json!({"jsonrpc": "2.0", "id": self.next, "method": method});
        if !params.is_null() {
            request["params"] = params;
        }
        self.socket.send(request.to_string().as_bytes()).expect("sent to loopback");
        u64::from(self.next)
    }

    /// The reply to `id`, if it comes in time.
    pub fn wait_for(&mut self, id: u64, patience: Duration) -> Option<Reply> {
        let deadline = Instant::now() + patience;
        let mut buffer = vec![0u8; 70_000];
        loop {
            if let Some(reply) = self.early.remove(&id) {
                return Some(reply);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            self.socket.set_read_timeout(Some(left)).expect("a timeout above zero");
            let Ok(length) = self.socket.recv(&mut buffer) else { continue };
            let Ok(reply) = serde_json::from_slice::<Value>(&buffer[..length]) else { continue };
            if let Some(id) = reply["id"].as_u64() {
                self.early.insert(id, read(&reply));
            }
        }
    }

    /// The reply to `id`; no reply is a failed test.
    pub fn wait(&mut self, id: u64) -> Reply {
        self.wait_for(id, super::DEADLINE).expect("a reply from OpenSIPS")
    }

    pub fn call(&mut self, method: &str, params: Value) -> Reply {
        let id = self.send(method, params);
        self.wait(id)
    }
}

fn read(reply: &Value) -> Reply {
    match reply.get("error") {
        Some(error) => Err(MiError {
            code: error["code"].as_i64().unwrap_or(0),
            message: error["message"].as_str().unwrap_or("").to_owned(),
        }),
        None => Ok(reply["result"].clone()),
    }
}
