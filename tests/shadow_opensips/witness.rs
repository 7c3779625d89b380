//! One more subscriber, which counts what the stack tells: nothing but that is done here.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;
use socket2::SockRef;

use super::support::mi::Mi;

/// All that processes subscribe to. A stock script does not have the last.
const EVENTS: [&str; 4] = ["E_DLG_STATE_CHANGED", "E_CALL_TRANSFER", "E_CALL_HOLD", "E_CALLPLANE"];

/// As much room as processes ask for.
const BUFFER: usize = 4 << 20;

/// How often it is looked whether it is over.
const LOOK: Duration = Duration::from_millis(100);

/// Longer than any test.
const EXPIRES: u32 = 600;

/// It counts until it is dropped, and is subscribed so long.
pub struct Witness {
    mi: SocketAddr,
    at: SocketAddr,
    events: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    counting: Option<JoinHandle<()>>,
}

impl Witness {
    pub fn begin(mi: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        SockRef::from(&socket).set_recv_buffer_size(BUFFER).unwrap();
        socket.set_read_timeout(Some(LOOK)).unwrap();
        let at = socket.local_addr().unwrap();
        let (events, stop) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, over) = (Arc::clone(&events), Arc::clone(&stop));
        let counting = Some(std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !over.load(Ordering::Relaxed) {
                if socket.recv(&mut buffer).is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        }));
        let witness = Self { mi, at, events, stop, counting };
        assert!(witness.subscribe(EXPIRES) >= EVENTS.len() - 1, "the stack takes a subscriber");
        witness
    }

    /// To all that there is, for so long; how many events these are.
    fn subscribe(&self, expire: u32) -> usize {
        let (mut mi, socket) = (Mi::connect(self.mi), format!("udp:{}", self.at));
        let of = |event: &&&str| {
            let params = json!({"event": event, "socket": socket, "expire": expire});
            mi.call("event_subscribe", params).is_ok()
        };
        EVENTS.iter().filter(of).count()
    }

    /// Where events come to it.
    pub fn address(&self) -> String {
        self.at.to_string()
    }

    /// How many came so far.
    pub fn events(&self) -> u32 {
        self.events.load(Ordering::Relaxed)
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.subscribe(0);
        }
        self.stop.store(true, Ordering::Relaxed);
        if let Some(counting) = self.counting.take() {
            let _ended = counting.join();
        }
    }
}
