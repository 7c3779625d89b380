//! Two thousand events a second in the stack's place, to all who subscribed. Most are about calls that
//! nobody listens to; the others are what phones report of transfers that ring on and on.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Events a second.
const RATE: u32 = 2_000;

/// One in so many is a report.
const ONE_IN: u32 = 25;

/// The statuses that each transfer reports, one after the other: each is told once. Phones say 180 of
/// their own.
const STATUSES: [u64; 98] = {
    let mut all = [0; 98];
    let (mut at, mut status) = (0, 101);
    while at < all.len() {
        if status != 180 {
            all[at] = status;
            at += 1;
        }
        status += 1;
    }
    all
};

/// How often it is asked who has subscribed.
const ASK: Duration = Duration::from_millis(250);

/// Which transfer, and which status it reported.
pub type Report = (usize, u64);

/// The noise. Dropped, it ends.
pub struct Noise {
    stop: Arc<AtomicBool>,
    subscribers: Arc<Mutex<Vec<String>>>,
    sending: Option<JoinHandle<Sent>>,
}

/// What was sent.
#[derive(Debug, Default)]
pub struct Sent {
    pub events: u32,
    pub reports: Vec<Report>,
    pub took: Duration,
}

impl Noise {
    /// About these calls, whose transfers ring.
    pub fn begin(mi: SocketAddr, calls: Vec<String>) -> Self {
        let (stop, subscribers) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(ask(mi))));
        let (stopped, known) = (Arc::clone(&stop), Arc::clone(&subscribers));
        let sending = Some(std::thread::spawn(move || send(mi, &calls, &stopped, &known)));
        Self { stop, subscribers, sending }
    }

    /// Where events go by now.
    pub fn subscribers(&self) -> Vec<String> {
        self.subscribers.lock().unwrap().clone()
    }

    pub fn end(mut self) -> Sent {
        self.stop.store(true, Ordering::Relaxed);
        self.sending.take().unwrap().join().unwrap()
    }
}

impl Drop for Noise {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// All who subscribed.
pub fn ask(mi: SocketAddr) -> Vec<String> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let asked = json!({
        "jsonrpc": "2.0", "id": 1, "method": "subscribers_list",
        "params": {"event": "E_CALL_TRANSFER"},
    });
    socket.send_to(asked.to_string().as_bytes(), mi).unwrap();
    let mut answer = vec![0; 65_536];
    let length = socket.recv(&mut answer).expect("the stack answers");
    let answer: Value = serde_json::from_slice(&answer[..length]).unwrap();
    let list = answer["result"]["Event"]["Subscribers"].as_array().cloned().unwrap_or_default();
    let alive = list.iter().filter(|one| one["ttl"].is_number());
    let sockets = alive.filter_map(|one| one["socket"].as_str()?.strip_prefix("udp:"));
    sockets.map(str::to_owned).collect()
}

fn send(
    mi: SocketAddr,
    calls: &[String],
    stop: &AtomicBool,
    subscribers: &Mutex<Vec<String>>,
) -> Sent {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (began, mut sent) = (Instant::now(), Sent::default());
    let gap = Duration::from_secs(1) / RATE;
    let (mut to, mut ask_at) = (subscribers.lock().unwrap().clone(), began + ASK);
    while !stop.load(Ordering::Relaxed) {
        let due = began + gap * sent.events;
        while Instant::now() < due {
            std::thread::sleep(Duration::from_micros(200));
        }
        if Instant::now() > ask_at {
            to = ask(mi);
            subscribers.lock().unwrap().clone_from(&to);
            ask_at = Instant::now() + ASK;
        }
        let number = sent.reports.len();
        let (transfer, at) = (number % calls.len(), number / calls.len());
        let event = match STATUSES.get(at) {
            Some(status) if sent.events.is_multiple_of(ONE_IN) => {
                sent.reports.push((transfer, *status));
                report(&calls[transfer], *status)
            }
            Some(_) | None => nobody_listens(sent.events),
        };
        let text = event.to_string();
        for subscriber in &to {
            // Nobody is there any more, perhaps.
            let _ = socket.send_to(text.as_bytes(), subscriber);
        }
        sent.events += 1;
    }
    sent.took = began.elapsed();
    sent
}

fn report(call: &str, status: u64) -> Value {
    json!({
        "jsonrpc": "2.0", "method": "E_CALL_TRANSFER", "params": {
            "callid": call, "leg": "callee", "transfer_callid": "", "destination": "",
            "state": "notify", "status": format!("{status} Progress"),
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

/// Datagrams that the system threw away, by the local port of their socket.
pub fn thrown_away() -> BTreeMap<u16, u64> {
    let table = std::fs::read_to_string("/proc/net/udp").unwrap_or_default();
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let port = words.get(1)?.rsplit_once(':')?.1;
        Some((u16::from_str_radix(port, 16).ok()?, words.last()?.parse().ok()?))
    };
    table.lines().skip(1).filter_map(line).collect()
}
