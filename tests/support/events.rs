//! A subscriber to OpenSIPS events over UDP that keeps all it gets.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::DEADLINE;
use super::mi::Mi;

#[derive(Clone, Debug)]
pub struct Event {
    pub name: String,
    pub params: Value,
}

impl Event {
    /// A string parameter, `""` if it is not there.
    pub fn text(&self, key: &str) -> &str {
        self.params[key].as_str().unwrap_or("")
    }
}

struct Shared {
    seen: Mutex<Vec<Event>>,
    changed: Condvar,
    stop: AtomicBool,
}

/// A running sink; it stops when dropped.
pub struct Events {
    shared: Arc<Shared>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Events {
    /// Subscribes to these events for ten minutes.
    pub fn subscribe(mi: &mut Mi, names: &[&str]) -> Events {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a loopback port");
        let address = socket.local_addr().expect("its address");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout above zero");
        let shared = Arc::new(Shared {
            seen: Mutex::new(Vec::new()),
            changed: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let worker = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0u8; 65_536];
            while !worker.stop.load(Ordering::Relaxed) {
                let Ok(length) = socket.recv(&mut buffer) else { continue };
                let Ok(value) = serde_json::from_slice::<Value>(&buffer[..length]) else {
                    continue;
                };
                let name = value["method"].as_str().unwrap_or("").to_owned();
                let event = Event { name, params: value["params"].clone() };
                worker.seen.lock().expect("no panic inside").push(event);
                worker.changed.notify_all();
            }
        });
        for name in names {
            let socket = format!("udp:{address}");
            let params = json!({"event": name, "socket": socket, "expire": 600});
            assert_eq!(mi.call("event_subscribe", params), Ok(json!("OK")), "subscribe to {name}");
        }
        Events { shared, address, thread: Some(thread) }
    }

    pub fn all(&self) -> Vec<Event> {
        self.shared.seen.lock().expect("no panic inside").clone()
    }

    /// Waits for an event; panics with all that came after the deadline.
    pub fn wait(&self, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        let deadline = Instant::now() + DEADLINE;
        let mut seen = self.shared.seen.lock().expect("no panic inside");
        loop {
            if let Some(event) = seen.iter().find(|event| wanted(event)) {
                return event.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no event: {what}; seen: {seen:#?}");
            seen = self.shared.changed.wait_timeout(seen, left).expect("no panic inside").0;
        }
    }

    /// Waits for `E_CALLPLANE` of this kind and operation.
    pub fn wait_kind(&self, kind: &str, op: &str) -> Event {
        self.wait(&format!("{kind} of {op}"), |event| {
            event.name == "E_CALLPLANE" && event.text("kind") == kind && event.text("op") == op
        })
    }

    /// Waits until the dialog with this Call-ID enters a state.
    pub fn wait_state(&self, call_id: &str, state: u64) -> Event {
        self.wait(&format!("{call_id} in state {state}"), |event| {
            event.name == "E_DLG_STATE_CHANGED"
                && event.text("callid") == call_id
                && event.params["new_state"] == state
        })
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}
