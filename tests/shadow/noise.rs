//! Two thousand events a second in the stack's place, to all who subscribed. Most are about calls that
//! nobody listens to; the others are what phones report of transfers that ring on and on.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::amount::{self, ONE_IN, Ringing, Sent};
use super::sockets::subscribers;
use super::stack::Stack;

/// How often it is asked who has subscribed.
const ASK: Duration = Duration::from_millis(250);

/// The noise. Dropped, it ends.
pub struct Noise {
    shared: Arc<Shared>,
    sending: Option<JoinHandle<Sent>>,
}

struct Shared {
    stop: AtomicBool,
    events: AtomicU32,
    subscribers: Mutex<Vec<String>>,
}

impl Noise {
    /// About these transfers among others.
    pub fn begin(stacks: &Arc<[Stack; 1]>, ringing: Vec<Ringing>) -> Self {
        let mi = stacks[0].mi;
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            events: AtomicU32::new(0),
            subscribers: Mutex::new(subscribers(mi)),
        });
        let theirs = Arc::clone(&shared);
        let sending = Some(std::thread::spawn(move || send(mi, &ringing, &theirs)));
        Self { shared, sending }
    }

    /// Where events go by now.
    pub fn subscribers(&self) -> Vec<String> {
        self.shared.subscribers.lock().unwrap().clone()
    }

    /// How many were sent so far, to each.
    pub fn events(&self) -> u32 {
        self.shared.events.load(Ordering::Relaxed)
    }

    pub fn end(mut self) -> Sent {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.sending.take().unwrap().join().unwrap()
    }
}

impl Drop for Noise {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

fn send(mi: SocketAddr, ringing: &[Ringing], shared: &Shared) -> Sent {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (began, mut sent) = (Instant::now(), Sent::default());
    let gap = Duration::from_secs(1) / amount::rate();
    let (mut to, mut ask_at) = (shared.subscribers.lock().unwrap().clone(), began + ASK);
    while !shared.stop.load(Ordering::Relaxed) {
        let due = began + gap * sent.events;
        while Instant::now() < due {
            std::thread::sleep(Duration::from_micros(200));
        }
        if Instant::now() > ask_at {
            to = subscribers(mi);
            shared.subscribers.lock().unwrap().clone_from(&to);
            ask_at = Instant::now() + ASK;
        }
        let event = match amount::report(sent.reports.len(), ringing.len()) {
            Some((transfer, status)) if sent.events.is_multiple_of(ONE_IN) => {
                sent.reports.push((transfer, status));
                report(&ringing[transfer].call, status)
            }
            Some(_) | None => nobody_listens(sent.events),
        };
        let text = event.to_string();
        for subscriber in &to {
            // Nobody is there any more, perhaps.
            let _ = socket.send_to(text.as_bytes(), subscriber);
        }
        sent.events += 1;
        shared.events.store(sent.events, Ordering::Relaxed);
    }
    sent.took = began.elapsed();
    sent
}

fn report(call: &str, status: u64) -> Value {
    json!({
        "jsonrpc": "2.0", "method": "E_CALL_TRANSFER", "params": {
            "callid": call, "leg": "callee", "transfer_callid": "", "destination": "",
            "state": "notify", "status": amount::words(status),
        },
    })
}

fn nobody_listens(number: u32) -> Value {
    json!({
        "jsonrpc": "2.0", "method": "E_DLG_STATE_CHANGED", "params": {
            "id": number.to_string(), "db_id": number.to_string(),
            "callid": format!("nobody-listens-to-{number}@198.51.100.7"),
            "from_tag": "f", "to_tag": "t", "old_state": 3, "new_state": 4,
        },
    })
}
