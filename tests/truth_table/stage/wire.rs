//! The wire between the server and a stack: a relay of datagrams that loses and doubles what a row
//! names, both ways and for events, and keeps a log of all it carried.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

use serde_json::{Value, json};
use tokio::net::UdpSocket;
use tokio::runtime::Handle;

use crate::support::DEADLINE;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Request,
    Reply,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Lose,
    Double,
    /// Answered in the stack's place with this error; nothing arrives.
    Refuse(u16, &'static str),
}

struct Rule {
    way: Way,
    method: &'static str,
    fault: Fault,
    times: u32,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    /// Who asked what under this id.
    asked: HashMap<u64, (SocketAddr, String)>,
    /// Where the server listens for events.
    events_to: Option<SocketAddr>,
    lost_events: Vec<&'static str>,
    log: Vec<String>,
    requests: HashMap<String, usize>,
    answers: HashMap<String, usize>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    born: Instant,
    events: UdpSocket,
    relay_events: SocketAddr,
}

/// The relay; its tasks end with the runtime.
pub struct Wire {
    pub mi: SocketAddr,
    shared: Arc<Shared>,
}

impl Wire {
    /// A relay before this stack.
    pub fn start(runtime: &Handle, stack: SocketAddr) -> Wire {
        let (mi, shared) = runtime.block_on(async {
            let server_side = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
            let stack_side = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
            stack_side.connect(stack).await.unwrap();
            let events = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let relay_events = events.local_addr().unwrap();
            let shared = Arc::new(Shared {
                state: Mutex::default(),
                changed: Condvar::new(),
                born: Instant::now(),
                events,
                relay_events,
            });
            let mi = server_side.local_addr().unwrap();
            tokio::spawn(requests(
                Arc::clone(&shared),
                Arc::clone(&server_side),
                Arc::clone(&stack_side),
            ));
            tokio::spawn(replies(Arc::clone(&shared), server_side, stack_side));
            tokio::spawn(events_pass(Arc::clone(&shared)));
            (mi, shared)
        });
        Wire { mi, shared }
    }

    /// The next reply to this command never arrives.
    pub fn lose_reply(&self, method: &'static str) {
        self.rule(Way::Reply, method, Fault::Lose, 1);
    }

    /// The next request of this command never arrives.
    pub fn lose_request(&self, method: &'static str) {
        self.rule(Way::Request, method, Fault::Lose, 1);
    }

    /// The next request of this command arrives twice.
    pub fn double_request(&self, method: &'static str) {
        self.rule(Way::Request, method, Fault::Double, 1);
    }

    /// The next request of this command is refused with these words, as the stack refuses what it
    /// can't read.
    pub fn refuse(&self, method: &'static str, code: u16, words: &'static str) {
        self.rule(Way::Request, method, Fault::Refuse(code, words), 1);
    }

    fn rule(&self, way: Way, method: &'static str, fault: Fault, times: u32) {
        self.shared.lock().rules.push(Rule { way, method, fault, times });
    }

    /// Every request and reply arrives again.
    pub fn mend(&self) {
        let mut state = self.shared.lock();
        state.rules.clear();
        state.lost_events.clear();
    }

    /// Events with such text in them don't arrive any more.
    pub fn lose_events(&self, texts: &[&'static str]) {
        self.shared.lock().lost_events.extend(texts);
    }

    /// How many requests of this command left the server.
    pub fn asked(&self, method: &str) -> usize {
        self.shared.lock().requests.get(method).copied().unwrap_or_default()
    }

    /// Waits until so many requests of this command have left the server.
    pub fn wait_asked(&self, method: &str, times: usize) {
        self.wait(method, times, |state| &state.requests);
    }

    /// Waits until so many requests of this command were answered.
    pub fn wait_answered(&self, method: &str, times: usize) {
        self.wait(method, times, |state| &state.answers);
    }

    fn wait(&self, method: &str, times: usize, of: fn(&State) -> &HashMap<String, usize>) {
        let deadline = Instant::now() + DEADLINE;
        let mut state = self.shared.lock();
        while of(&state).get(method).copied().unwrap_or_default() < times {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited in vain for {method} {times} times");
            state = self.shared.changed.wait_timeout(state, left).expect("no panic inside").0;
        }
    }

    /// All that passed, one line each.
    pub fn log(&self) -> String {
        self.shared.lock().log.join("\n")
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic inside")
    }

    fn note(&self, state: &mut State, arrow: &str, text: &str) {
        let at = self.born.elapsed().as_secs_f64();
        state.log.push(format!("{at:8.3} {arrow} {text}"));
    }

    /// What is to happen to a message.
    fn fault(state: &mut State, way: Way, method: &str) -> Option<Fault> {
        let rule = state.rules.iter_mut().find(|r| r.way == way && r.method == method)?;
        rule.times -= 1;
        let fault = rule.fault;
        state.rules.retain(|rule| rule.times > 0);
        Some(fault)
    }
}

const SOCKET: &str = "udp:";

fn copies(fault: Option<Fault>) -> usize {
    match fault {
        None => 1,
        Some(Fault::Double) => 2,
        Some(Fault::Lose | Fault::Refuse(..)) => 0,
    }
}

/// For the log: passed, doubled, lost.
fn arrow(fault: Option<Fault>, [passed, doubled, lost]: [&'static str; 3]) -> &'static str {
    match fault {
        None => passed,
        Some(Fault::Double) => doubled,
        Some(Fault::Lose | Fault::Refuse(..)) => lost,
    }
}

async fn requests(shared: Arc<Shared>, server: Arc<UdpSocket>, stack: Arc<UdpSocket>) {
    let mut buffer = vec![0; 65_536];
    while let Ok((length, from)) = server.recv_from(&mut buffer).await {
        let mut text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let Ok(request) = serde_json::from_str::<Value>(&text) else { continue };
        let method = request["method"].as_str().unwrap_or_default().to_owned();
        let fault = {
            let mut state = shared.lock();
            if let Some(id) = request["id"].as_u64() {
                state.asked.insert(id, (from, method.clone()));
            }
            *state.requests.entry(method.clone()).or_default() += 1;
            let socket = request["params"]["socket"].as_str().unwrap_or_default();
            if method == "event_subscribe" {
                state.events_to =
                    socket.strip_prefix(SOCKET).and_then(|address| address.parse().ok());
            }
            if let Some(ours) = state.events_to {
                let relay = format!("{SOCKET}{}", shared.relay_events);
                text = text.replace(&format!("{SOCKET}{ours}"), &relay);
            }
            let fault = Shared::fault(&mut state, Way::Request, &method);
            shared.note(&mut state, arrow(fault, ["->", "=>", "-x"]), &text);
            fault
        };
        shared.changed.notify_all();
        if let Some(Fault::Refuse(code, message)) = fault {
            let error = json!({"code": code, "message": message});
            let reply = json!({"jsonrpc": "2.0", "error": error, "id": request["id"]});
            let _sent = server.send_to(reply.to_string().as_bytes(), from).await;
        }
        for _copy in 0..copies(fault) {
            // A stack that is away refuses; its reply is missed just so.
            let _sent = stack.send(text.as_bytes()).await;
        }
    }
}

async fn replies(shared: Arc<Shared>, server: Arc<UdpSocket>, stack: Arc<UdpSocket>) {
    let mut buffer = vec![0; 70_000];
    loop {
        let Ok(length) = stack.recv(&mut buffer).await else {
            tokio::task::yield_now().await;
            continue;
        };
        let mut text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let id = serde_json::from_str::<Value>(&text).ok().and_then(|reply| reply["id"].as_u64());
        let (to, fault) = {
            let mut state = shared.lock();
            let Some((to, method)) = id.and_then(|id| state.asked.get(&id).cloned()) else {
                shared.note(&mut state, "??", &text);
                continue;
            };
            if let Some(ours) = state.events_to {
                let relay = format!("{SOCKET}{}", shared.relay_events);
                text = text.replace(&relay, &format!("{SOCKET}{ours}"));
            }
            let fault = Shared::fault(&mut state, Way::Reply, &method);
            shared.note(&mut state, arrow(fault, ["<-", "<=", "x-"]), &text);
            *state.answers.entry(method).or_default() += 1;
            (to, fault)
        };
        shared.changed.notify_all();
        for _copy in 0..copies(fault) {
            let _sent = server.send_to(text.as_bytes(), to).await;
        }
    }
}

async fn events_pass(shared: Arc<Shared>) {
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok((length, _)) = shared.events.recv_from(&mut buffer).await else {
            tokio::task::yield_now().await;
            continue;
        };
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let to = {
            let mut state = shared.lock();
            let lost = state.lost_events.iter().any(|name| text.contains(name));
            shared.note(&mut state, if lost { "x~" } else { "<~" }, &text);
            state.events_to.filter(|_| !lost)
        };
        if let Some(to) = to {
            let _sent = shared.events.send_to(text.as_bytes(), to).await;
        }
    }
}
