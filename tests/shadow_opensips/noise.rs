//! Two thousand events a second of the proxy's own, to all who subscribed.
//!
//! One in [`ONE_IN`] is a report: the NOTIFY of a phone whose transfer rings, which the proxy answers and
//! tells. The others are about calls that nobody listens to: the proxy's script raises so many at a time
//! when it gets a certain OPTIONS. All leave the proxy's workers by its own sockets, beside those that
//! its calls bring about; and what counts is what arrives at one more subscriber.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::amount::{self, ONE_IN, Report, Ringing, Sent};
use super::sockets::subscribers;
use super::stack::Stack;
use super::support::phone::{Entry, Way};
use super::witness::Witness;

/// What the script raises at a time.
const AT_ONCE: u32 = 8;

/// An answer to a phone's report does not take longer.
const ANSWERED: Duration = Duration::from_secs(5);

/// What the script has for it, with as many as [`AT_ONCE`]. The name of a value and the value come in
/// the same order.
pub const NOISE: &str = r#"    if (is_method("OPTIONS") && $rU == "noise") {
        $var(noise) = 0;
        while ($var(noise) < 8) {
            $avp(noise_name) := NULL;
            $avp(noise_value) := NULL;
            $avp(noise_name) = "id";        $avp(noise_value) = "5a1.$var(noise)";
            $avp(noise_name) = "db_id";     $avp(noise_value) = "5813$var(noise)";
            $avp(noise_name) = "callid";    $avp(noise_value) = "nobody-listens-to-$ci-$var(noise)";
            $avp(noise_name) = "from_tag";  $avp(noise_value) = "f";
            $avp(noise_name) = "to_tag";    $avp(noise_value) = "t";
            $avp(noise_name) = "old_state"; $avp(noise_value) = 3;
            $avp(noise_name) = "new_state"; $avp(noise_value) = 4;
            raise_event("E_DLG_STATE_CHANGED", $avp(noise_name), $avp(noise_value));
            $var(noise) = $var(noise) + 1;
        }
        exit;
    }
"#;

/// The noise. Dropped, it ends.
pub struct Noise {
    stacks: Arc<[Stack; 1]>,
    ringing: Vec<Ringing>,
    witness: Witness,
    began: Instant,
    stop: Arc<AtomicBool>,
    sending: Option<JoinHandle<()>>,
}

impl Noise {
    /// About these transfers among others.
    pub fn begin(stacks: &Arc<[Stack; 1]>, ringing: Vec<Ringing>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let witness = tokio::task::block_in_place(|| Witness::begin(stacks[0].mi));
        let (stack, theirs, stopped) = (Arc::clone(stacks), ringing.clone(), Arc::clone(&stop));
        let began = Instant::now();
        let sending = std::thread::spawn(move || send(&stack[0], &theirs, began, &stopped));
        let (stacks, sending) = (Arc::clone(stacks), Some(sending));
        Self { stacks, ringing, witness, began, stop, sending }
    }

    /// Where events go by now, but for the one more.
    pub fn subscribers(&self) -> Vec<String> {
        let mut all = subscribers(self.stacks[0].mi);
        all.retain(|to| *to != self.witness.address());
        all
    }

    /// How many came so far, to one of them.
    pub fn events(&self) -> u32 {
        self.witness.events()
    }

    pub fn end(mut self) -> Sent {
        self.stop.store(true, Ordering::Relaxed);
        let sending = self.sending.take().unwrap();
        tokio::task::block_in_place(|| sending.join()).unwrap();
        let (events, took) = (self.witness.events(), self.began.elapsed());
        let (reports, untaken) = tokio::task::block_in_place(|| self.reports());
        Sent { events, reports, untaken, took }
    }

    /// What the proxy took of reports, for it tells one before it answers it; and how many it never
    /// answered. A phone sends each once, and its network may lose it.
    fn reports(&self) -> (Vec<Report>, usize) {
        let deadline = Instant::now() + ANSWERED;
        loop {
            let (mut answered, mut open) = (Vec::new(), 0);
            for (transfer, ringing) in self.ringing.iter().enumerate() {
                let log = self.stacks[0].phone(&ringing.transferee).log_since(0);
                let (taken, left) = taken(&log, &ringing.call);
                answered.extend(taken.into_iter().map(|status| (transfer, status)));
                open += left;
            }
            if open == 0 || Instant::now() > deadline {
                return (answered, open);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Noise {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The statuses that a phone reported of a call and that were taken; and how many were not.
fn taken(log: &[Entry], call: &str) -> (Vec<u64>, usize) {
    let all = log
        .iter()
        .filter(|entry| entry.message.method() == "NOTIFY" && entry.message.call_id() == call);
    let mut reported = BTreeMap::new();
    let mut taken = Vec::new();
    for Entry { way, message, .. } in all {
        match way {
            Way::Out => {
                let status = message.body.strip_prefix("SIP/2.0 ").map(str::trim_end);
                reported.extend(status.and_then(amount::status_in).map(|s| (message.cseq().0, s)));
            }
            Way::In if message.status() == 200 => taken.extend(reported.remove(&message.cseq().0)),
            Way::In => {}
        }
    }
    (taken, reported.len())
}

/// Sends what makes the proxy tell them, each in its time.
fn send(stack: &Stack, ringing: &[Ringing], began: Instant, stop: &AtomicBool) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (proxy, from) = (stack.sip(), socket.local_addr().unwrap());
    let gap = Duration::from_secs(1) / amount::rate();
    let (mut events, mut reports) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let due = began + gap * events;
        while Instant::now() < due {
            std::thread::sleep(Duration::from_micros(200));
        }
        match amount::report(reports, ringing.len()) {
            Some((transfer, status)) if events.is_multiple_of(ONE_IN) => {
                report(stack, &ringing[transfer], status);
                (events, reports) = (events + 1, reports + 1);
            }
            Some(_) | None => {
                let text = options(proxy, from, events);
                let _sent = socket.send_to(text.as_bytes(), proxy);
                events += AT_ONCE;
            }
        }
    }
}

/// As a phone reports, whose transfer rings on.
fn report(stack: &Stack, Ringing { call, transferee }: &Ringing, status: u64) {
    let headers = [
        ("Event", "refer"),
        ("Subscription-State", "active;expires=60"),
        ("Content-Type", "message/sipfrag;version=2.0"),
    ];
    let body = format!("SIP/2.0 {}\r\n", amount::words(status));
    stack.phone(transferee).send_in_dialog(call, "NOTIFY", &headers, &body);
}

fn options(proxy: SocketAddr, from: SocketAddr, number: u32) -> String {
    format!(
        "OPTIONS sip:noise@{proxy} SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bK{number}\r\n\
         Max-Forwards: 70\r\nFrom: <sip:noise@{proxy}>;tag={number}\r\nTo: <sip:noise@{proxy}>\r\n\
         Call-ID: {number}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    )
}
