//! The wire between the server and a stack: a relay of datagrams that loses, doubles and keeps back
//! what a test names, both ways and for events, and remembers all it carried.

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

use serde_json::{Value, json};
use tokio::net::UdpSocket;

use super::DEADLINE;

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
}

/// A request of the server to the stack, as it was sent.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub text: String,
    pub at: Instant,
    /// When it was answered.
    pub answered: Option<Instant>,
    id: Option<u64>,
    from: SocketAddr,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    asked: Vec<Asked>,
    /// Where the server listens for events.
    events_to: Option<SocketAddr>,
    lost_events: Vec<&'static str>,
    /// Replies to this command are kept back.
    kept_command: Option<&'static str>,
    kept: Vec<(SocketAddr, String)>,
    log: Vec<String>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    born: Instant,
    server: UdpSocket,
    stack: UdpSocket,
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
    pub async fn before(stack_at: SocketAddr) -> Wire {
        let [server, stack, events] = [(); 3].map(|()| UdpSocket::bind("127.0.0.1:0"));
        let (server, stack, events) =
            (server.await.unwrap(), stack.await.unwrap(), events.await.unwrap());
        stack.connect(stack_at).await.unwrap();
        let mi = server.local_addr().unwrap();
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            born: Instant::now(),
            relay_events: events.local_addr().unwrap(),
            server,
            stack,
            events,
        });
        tokio::spawn(requests(Arc::clone(&shared)));
        tokio::spawn(replies(Arc::clone(&shared)));
        tokio::spawn(events_pass(Arc::clone(&shared)));
        Wire { mi, shared }
    }

    /// The next reply to this command never arrives.
    pub fn lose_reply(&self, method: &'static str) {
        self.rule(Way::Reply, method, Fault::Lose);
    }

    /// The next request of this command never arrives.
    pub fn lose_request(&self, method: &'static str) {
        self.rule(Way::Request, method, Fault::Lose);
    }

    /// The next request of this command arrives twice.
    pub fn double_request(&self, method: &'static str) {
        self.rule(Way::Request, method, Fault::Double);
    }

    /// The next request of this command is refused with these words, as the stack refuses what it
    /// can't read.
    pub fn refuse(&self, method: &'static str, code: u16, words: &'static str) {
        self.rule(Way::Request, method, Fault::Refuse(code, words));
    }

    fn rule(&self, way: Way, method: &'static str, fault: Fault) {
        self.shared.lock().rules.push(Rule { way, method, fault });
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

    /// Replies to this command arrive when [`Wire::release`] says so.
    pub fn keep_replies(&self, method: &'static str) {
        self.shared.lock().kept_command = Some(method);
    }

    pub async fn release(&self) {
        let kept = {
            let mut state = self.shared.lock();
            state.kept_command = None;
            std::mem::take(&mut state.kept)
        };
        for (to, text) in kept {
            self.shared.server.send_to(text.as_bytes(), to).await.unwrap();
        }
    }

    /// All requests that left the server.
    pub fn all(&self) -> Vec<Asked> {
        self.shared.lock().asked.clone()
    }

    /// Those of one command.
    pub fn of(&self, method: &str) -> Vec<Asked> {
        self.all().into_iter().filter(|asked| asked.method == method).collect()
    }

    /// How many requests of this command left the server.
    pub fn asked(&self, method: &str) -> usize {
        self.of(method).len()
    }

    /// Blocks until so many requests of this command have left the server.
    pub fn wait_asked(&self, method: &str, times: usize) {
        self.wait(method, times, |_| true);
    }

    /// Blocks until so many requests of this command were answered.
    pub fn wait_answered(&self, method: &str, times: usize) {
        self.wait(method, times, |asked| asked.answered.is_some());
    }

    fn wait(&self, method: &str, times: usize, counts: fn(&Asked) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        let mut state = self.shared.lock();
        let seen = |state: &State| {
            state.asked.iter().filter(|asked| asked.method == method && counts(asked)).count()
        };
        while seen(&state) < times {
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
        let at = state.rules.iter().position(|r| r.way == way && r.method == method)?;
        Some(state.rules.remove(at).fault)
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

async fn requests(shared: Arc<Shared>) {
    let mut buffer = vec![0; 65_536];
    while let Ok((length, from)) = shared.server.recv_from(&mut buffer).await {
        let mut text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let request: Value = serde_json::from_str(&text).unwrap_or_default();
        let method = request["method"].as_str().unwrap_or_default().to_owned();
        let fault = {
            let mut state = shared.lock();
            let fault = Shared::fault(&mut state, Way::Request, &method);
            let socket = request["params"]["socket"].as_str().unwrap_or_default();
            if method == "event_subscribe" {
                state.events_to =
                    socket.strip_prefix(SOCKET).and_then(|address| address.parse().ok());
            }
            state.asked.push(Asked {
                method,
                text: text.clone(),
                at: Instant::now(),
                answered: None,
                id: request["id"].as_u64(),
                from,
            });
            if let Some(ours) = state.events_to {
                let relay = format!("{SOCKET}{}", shared.relay_events);
                text = text.replace(&format!("{SOCKET}{ours}"), &relay);
            }
            shared.note(&mut state, arrow(fault, ["->", "=>", "-x"]), &text);
            fault
        };
        shared.changed.notify_all();
        if let Some(Fault::Refuse(code, message)) = fault {
            let error = json!({"code": code, "message": message});
            let reply = json!({"jsonrpc": "2.0", "error": error, "id": request["id"]});
            let _sent = shared.server.send_to(reply.to_string().as_bytes(), from).await;
        }
        for _copy in 0..copies(fault) {
            // A stack that is away refuses; its reply is missed just so.
            let _sent = shared.stack.send(text.as_bytes()).await;
        }
    }
}

async fn replies(shared: Arc<Shared>) {
    let mut buffer = vec![0; 70_000];
    loop {
        let Ok(length) = shared.stack.recv(&mut buffer).await else {
            tokio::task::yield_now().await;
            continue;
        };
        let mut text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let id = serde_json::from_str::<Value>(&text).ok().and_then(|reply| reply["id"].as_u64());
        let (to, fault) = {
            let mut state = shared.lock();
            let asked = state.asked.iter_mut().rev().find(|asked| id.is_some() && asked.id == id);
            let Some(asked) = asked else {
                shared.note(&mut state, "??", &text);
                continue;
            };
            asked.answered.get_or_insert_with(Instant::now);
            let (to, method) = (asked.from, asked.method.clone());
            if let Some(ours) = state.events_to {
                let relay = format!("{SOCKET}{}", shared.relay_events);
                text = text.replace(&relay, &format!("{SOCKET}{ours}"));
            }
            let fault = Shared::fault(&mut state, Way::Reply, &method);
            shared.note(&mut state, arrow(fault, ["<-", "<=", "x-"]), &text);
            if state.kept_command.is_some_and(|kept| kept == method) {
                state.kept.push((to, text));
                continue;
            }
            (to, fault)
        };
        shared.changed.notify_all();
        for _copy in 0..copies(fault) {
            let _sent = shared.server.send_to(text.as_bytes(), to).await;
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
