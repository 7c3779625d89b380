//! A client: it asks for things, loses its connection, comes back to any process, resumes, and repeats
//! what it had no answer to under the same id.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use callplane::clock::Nonces as _;
use callplane::core::ids::{SessionId, TenantId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::bug::Bug;
use super::executor::WORLD;
use super::history::{Fault, What};
use super::network::Place;
use super::random::Random;
use super::run::CALM;
use super::site::{PODS, Site, domain, phone};
use super::socket::{Served, Socket, Wire};

/// No answer to the first request within this: another process is tried.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long until a connection is tried again.
const AGAIN: Duration = Duration::from_millis(300);

pub struct Client {
    site: Arc<Site>,
    pub number: usize,
    tenant: TenantId,
    state: Mutex<State>,
}

struct State {
    random: Random,
    connections: usize,
    connection: Option<Connection>,
    /// The first request was answered.
    ready: bool,
    session: Option<String>,
    position: Option<(String, u64)>,
    past: Vec<String>,
    calls: Vec<(usize, String)>,
    commands: Vec<Command>,
    asked: BTreeMap<u64, Asked>,
    requests: u64,
}

struct Connection {
    number: usize,
    pod: usize,
    life: u64,
    wire: Arc<Wire>,
    sent: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nobody has answered yet.
    Asked,
    Running,
    /// Its end may have been missed.
    Unsure,
    Refused,
    Over,
}

struct Command {
    id: String,
    method: &'static str,
    params: Value,
    stack: usize,
    stage: Stage,
}

#[derive(Debug, Clone, Copy)]
enum Asked {
    Hello,
    Resume,
    Command(usize),
    Get(usize),
    /// Whose answer changes nothing for the client.
    Aside,
}

#[derive(Deserialize)]
struct Frame {
    id: Option<u64>,
    #[serde(default)]
    result: Option<Told>,
    #[serde(default)]
    error: Option<Refused>,
    #[serde(default)]
    params: Option<Told>,
}

#[derive(Deserialize)]
struct Told {
    cmd_id: Option<String>,
    event: Option<String>,
    outcome: Option<String>,
    state: Option<String>,
    recovered: Option<bool>,
    session: Option<String>,
    epoch: Option<String>,
    seq: Option<u64>,
    data: Option<Value>,
}

#[derive(Deserialize)]
struct Refused {
    data: Reason,
}

#[derive(Deserialize)]
struct Reason {
    kind: String,
}

impl Client {
    pub fn new(
        site: &Arc<Site>,
        number: usize,
        tenant: TenantId,
        calls: Vec<(usize, String)>,
    ) -> Arc<Self> {
        let state = State {
            random: site.fork(),
            connections: 0,
            connection: None,
            ready: false,
            session: None,
            position: None,
            past: Vec::new(),
            calls,
            commands: Vec::new(),
            asked: BTreeMap::new(),
            requests: 0,
        };
        Arc::new(Self { site: Arc::clone(site), number, tenant, state: Mutex::new(state) })
    }

    /// Connects to any process, and goes on trying.
    pub fn connect(self: &Arc<Self>) {
        let mut state = self.state.lock().unwrap();
        if state.connection.is_some() {
            return;
        }
        let pod = state.random.index(PODS);
        let serving = self.site.running(pod).filter(|running| running.feed.get().is_some());
        let Some(running) = serving else {
            drop(state);
            return self.later(AGAIN, |client| client.connect());
        };
        let Some(feed) = running.feed.get() else { return };
        state.connections += 1;
        let number = self.number * 1000 + state.connections;
        let wire = Arc::new(Wire::default());
        self.site.recorder.note(What::Connected { client: self.number, connection: number });
        let served = Served {
            executor: self.site.executor,
            commands: Arc::clone(&running.commands),
            feed: Arc::clone(feed),
            nonces: Arc::clone(&running.nonces) as _,
            tenant: self.tenant.clone(),
            wire: Arc::clone(&wire),
            write: self.writer(number, pod),
        };
        let socket = Socket::open(served, SessionId::derive(running.nonces.nonce()));
        let client = Arc::clone(self);
        self.site.executor.spawn(running.group, async move {
            let close = socket.converse().await;
            let wait = client.site.network.late(Place::Pod(pod), Place::Client(client.number));
            let code = close.map(|close| close.row().code);
            client.later(wait + Duration::from_millis(20), move |client| {
                client.lost(number, code);
            });
        });
        let (sent, life) = (self.site.executor.now(), running.life);
        state.connection = Some(Connection { number, pod, life, wire, sent });
        state.ready = false;
        state.asked.clear();
        match (state.session.clone(), state.position.clone()) {
            (Some(session), Some((epoch, seq))) => {
                let params = json!({"session": session, "epoch": epoch, "seq": seq});
                self.request(&mut state, Asked::Resume, "Resume", &params);
            }
            _ => self.request(&mut state, Asked::Hello, "Echo", &json!({})),
        }
        drop(state);
        self.later(PATIENCE, move |client| {
            let state = client.state.lock().unwrap();
            let waits = state.connection.as_ref().is_some_and(|own| own.number == number);
            if waits && !state.ready {
                drop(state);
                client.disconnect();
            }
        });
    }

    fn later(self: &Arc<Self>, wait: Duration, call: impl FnOnce(&Arc<Self>) + Send + 'static) {
        let client = Arc::clone(self);
        self.site.executor.after(wait, WORLD, move || call(&client));
    }

    /// What a process writes arrives in order, a little later.
    fn writer(self: &Arc<Self>, connection: usize, pod: usize) -> Box<dyn Fn(Bytes) + Send> {
        let client = Arc::clone(self);
        let state = Mutex::new((Duration::ZERO, None::<String>));
        Box::new(move |message| {
            let text = String::from_utf8(message.into()).unwrap();
            let mut state = state.lock().unwrap();
            let (last, kept) = &mut *state;
            for text in client.spoiled(text, kept) {
                let site = &client.site;
                let wait = site.network.late(Place::Pod(pod), Place::Client(client.number));
                *last = (site.executor.now() + wait).max(*last + Duration::from_micros(1));
                let client = Arc::clone(&client);
                site.executor.at(*last, WORLD, move || client.received(connection, text));
            }
        })
    }

    /// What a bug makes of a message.
    fn spoiled(&self, text: String, kept: &mut Option<String>) -> Vec<String> {
        let bug = match self.site.bug {
            Some(bug @ (Bug::TellsTwice | Bug::TellsNever | Bug::OutOfOrder)) => bug,
            Some(_) | None => return vec![text],
        };
        let notification = text.contains("\"method\"");
        let strikes = notification && self.site.draw(|random| random.percent(5));
        if bug == Bug::OutOfOrder {
            if let Some(before) = kept.take() {
                return vec![text, before];
            }
            if strikes {
                *kept = Some(text);
                return Vec::new();
            }
            return vec![text];
        }
        match bug {
            Bug::TellsTwice if strikes => vec![text.clone(), text],
            Bug::TellsNever if strikes => Vec::new(),
            _ => vec![text],
        }
    }

    fn request(&self, state: &mut State, asked: Asked, method: &str, params: &Value) {
        self.send(state, asked, method, &params.to_string());
    }

    fn send(&self, state: &mut State, asked: Asked, method: &str, params: &str) {
        let Some(connection) = &mut state.connection else { return };
        state.requests += 1;
        let id = state.requests;
        state.asked.insert(id, asked);
        let text =
            format!(r#"{{"id":{id},"jsonrpc":"2.0","method":"{method}","params":{params}}}"#);
        let number = connection.number;
        self.site.recorder.note(What::Sent { connection: number, text: text.clone() });
        let (here, there) = (Place::Client(self.number), Place::Pod(connection.pod));
        let at = self.site.executor.now() + self.site.network.late(here, there);
        connection.sent = at.max(connection.sent + Duration::from_micros(1));
        let wire = Arc::clone(&connection.wire);
        self.site.executor.at(connection.sent, WORLD, move || wire.frame(text));
    }

    fn received(self: &Arc<Self>, connection: usize, text: String) {
        let mut state = self.state.lock().unwrap();
        if state.connection.as_ref().is_none_or(|own| own.number != connection) {
            return;
        }
        let frame: Frame = serde_json::from_str(&text).unwrap();
        self.site.recorder.note(What::Received { connection, text });
        if let Some(id) = frame.id {
            let Some(asked) = state.asked.remove(&id) else { return };
            match (frame.result, frame.error) {
                (Some(told), _) => self.answered(&mut state, asked, &told),
                (None, Some(refused)) => self.refused(&mut state, asked, &refused.data.kind),
                (None, None) => {}
            }
            return;
        }
        let Some(told) = frame.params else { return };
        state.stand(&told, false);
        let Some(at) = state.number(told.cmd_id.as_deref()) else { return };
        if told.event.as_deref() == Some("Ended") {
            state.commands[at].stage = Stage::Over;
        }
        let call = told.data.as_ref().and_then(|data| data.get("callid")).and_then(Value::as_str);
        if let Some(call) = call {
            let known = (state.commands[at].stack, call.to_owned());
            if !state.calls.contains(&known) {
                state.calls.push(known);
            }
        }
    }

    fn answered(self: &Arc<Self>, state: &mut State, asked: Asked, told: &Told) {
        match asked {
            Asked::Hello => {
                state.session.clone_from(&told.session);
                state.stand(told, true);
                self.begin(state);
            }
            Asked::Resume => {
                state.stand(told, true);
                if told.recovered == Some(false) {
                    for command in &mut state.commands {
                        if command.stage == Stage::Running {
                            command.stage = Stage::Unsure;
                        }
                    }
                }
                self.begin(state);
            }
            Asked::Command(at) => {
                state.stand(told, false);
                let over = told.outcome.is_some();
                state.commands[at].stage = match state.commands[at].stage {
                    _ if over => Stage::Over,
                    Stage::Asked | Stage::Running | Stage::Refused => Stage::Running,
                    Stage::Unsure => Stage::Unsure,
                    Stage::Over => Stage::Over,
                };
            }
            Asked::Get(at) => {
                if told.state.as_deref() == Some("ended") {
                    state.commands[at].stage = Stage::Over;
                }
            }
            Asked::Aside => {}
        }
    }

    /// The conversation has begun: what was not answered before is asked again.
    fn begin(self: &Arc<Self>, state: &mut State) {
        state.ready = true;
        for at in 0..state.commands.len() {
            if state.commands[at].stage == Stage::Asked {
                self.command(state, at);
            }
        }
    }

    fn refused(self: &Arc<Self>, state: &mut State, asked: Asked, kind: &str) {
        let again = kind == "store_unavailable";
        match asked {
            Asked::Hello | Asked::Resume => {
                let number = state.connection.as_ref().map(|own| own.number);
                self.later(AGAIN, move |client| client.resume_again(number));
            }
            Asked::Command(at) if again => {
                self.later(Duration::from_millis(900), move |client| {
                    let mut state = client.state.lock().unwrap();
                    if state.ready && state.commands[at].stage == Stage::Asked {
                        client.command(&mut state, at);
                    }
                });
            }
            Asked::Command(at) => {
                if state.commands[at].stage == Stage::Asked {
                    state.commands[at].stage = Stage::Refused;
                }
            }
            Asked::Get(at) => {
                if kind == "unknown_command" {
                    state.commands[at].stage = Stage::Over;
                }
            }
            Asked::Aside => {}
        }
    }

    fn resume_again(self: &Arc<Self>, number: Option<usize>) {
        let mut state = self.state.lock().unwrap();
        if state.ready || state.connection.as_ref().map(|own| own.number) != number {
            return;
        }
        if let (Some(session), Some((epoch, seq))) = (state.session.clone(), state.position.clone())
        {
            let params = json!({"session": session, "epoch": epoch, "seq": seq});
            self.request(&mut state, Asked::Resume, "Resume", &params);
        }
    }

    fn command(&self, state: &mut State, at: usize) {
        let Command { method, params, .. } = &state.commands[at];
        let (method, params) = (*method, params.to_string());
        self.send(state, Asked::Command(at), method, &params);
    }

    /// The client leaves; the process hears of it some time later.
    pub fn disconnect(self: &Arc<Self>) {
        let mut state = self.state.lock().unwrap();
        let Some(connection) = state.connection.take() else { return };
        state.ready = false;
        let late = state.random.percent(30);
        let wait = if late { state.random.millis(500, 8000) } else { state.random.millis(0, 20) };
        drop(state);
        self.site.recorder.note(What::Closed { connection: connection.number, code: None });
        self.later(wait, move |_| connection.wire.hang_up());
        self.later(AGAIN, |client| client.connect());
    }

    /// The connection ended at the other end.
    fn lost(self: &Arc<Self>, number: usize, code: Option<u16>) {
        let mut state = self.state.lock().unwrap();
        if state.connection.as_ref().is_none_or(|own| own.number != number) {
            return;
        }
        state.connection = None;
        state.ready = false;
        drop(state);
        self.site.recorder.note(What::Closed { connection: number, code });
        self.connect();
    }

    /// Its process died.
    pub fn process_died(self: &Arc<Self>, pod: usize, life: u64) {
        let mut state = self.state.lock().unwrap();
        let Some(own) = &state.connection else { return };
        if (own.pod, own.life) != (pod, life) {
            return;
        }
        let number = own.number;
        let wait = state.random.millis(0, 400);
        drop(state);
        self.later(wait, move |client| client.lost(number, None));
    }

    /// Whether nothing is under way any more.
    pub fn is_settled(&self) -> bool {
        let state = self.state.lock().unwrap();
        state.ready
            && state.commands.iter().all(|command| match command.stage {
                Stage::Refused | Stage::Over => true,
                Stage::Asked | Stage::Running | Stage::Unsure => false,
            })
    }

    /// Asks after what it may have missed.
    pub fn ask_after(self: &Arc<Self>) {
        let mut state = self.state.lock().unwrap();
        if !state.ready {
            return;
        }
        for at in 0..state.commands.len() {
            let Command { id, stage, .. } = &state.commands[at];
            if *stage == Stage::Unsure {
                let params = json!({"cmd_id": id});
                self.request(&mut state, Asked::Get(at), "CommandGet", &params);
            }
        }
    }

    /// Does one thing of its own; later, where it is not connected.
    pub fn act(self: &Arc<Self>) {
        // What it does must have a chance to be seen.
        if self.site.executor.now() >= CALM {
            return;
        }
        let mut state = self.state.lock().unwrap();
        if !state.ready {
            drop(state);
            return self.later(Duration::from_millis(200), |client| client.act());
        }
        match state.random.below(100) {
            0..34 => self.start(&mut state),
            34..78 => self.change(&mut state),
            78..84 => self.about(&mut state, "CommandCancel"),
            84..87 => self.about(&mut state, "CommandGet"),
            87..92 => self.repeat(&mut state, false),
            92..95 => self.repeat(&mut state, true),
            _ => {
                drop(state);
                let until = u64::try_from(self.site.executor.now().as_millis()).unwrap();
                self.site.recorder.note(What::Fault { kind: Fault::Client, until });
                self.disconnect();
            }
        }
    }

    fn ask_for(
        &self,
        state: &mut State,
        method: &'static str,
        stack: usize,
        params: impl FnOnce(&str) -> Value,
    ) {
        let id = format!("c{}-{}", self.number, state.commands.len());
        let mut params = params(&id);
        params["cmd_id"] = id.clone().into();
        state.commands.push(Command { id, method, params, stack, stage: Stage::Asked });
        let at = state.commands.len() - 1;
        self.command(state, at);
    }

    fn start(&self, state: &mut State) {
        let random = &mut state.random;
        let stack = random.index(2);
        let caller = random.index(10);
        let callee = (caller + 1 + random.index(9)) % 10;
        let at = domain(stack);
        self.ask_for(state, "CallStart", stack, |id| {
            json!({
                "caller": format!("sip:{}@{at}", phone(stack, caller)),
                "callee": format!("sip:{}@{at};cmd={id}", phone(stack, callee)),
                "display": id,
            })
        });
    }

    fn change(&self, state: &mut State) {
        if state.calls.is_empty() {
            return self.start(state);
        }
        let at = state.random.index(state.calls.len());
        let (stack, call) = state.calls[at].clone();
        let leg = *state.random.pick(&["caller", "callee"]);
        match state.random.below(44) {
            0..12 => self.ask_for(state, "CallHold", stack, |_| json!({"callid": call})),
            12..22 => self.ask_for(state, "CallUnhold", stack, |_| json!({"callid": call})),
            22..32 => self.ask_for(state, "CallEnd", stack, |_| json!({"callid": call})),
            32..40 => {
                let to = phone(stack, state.random.index(10));
                let domain = domain(stack);
                self.ask_for(state, "CallBlindTransfer", stack, |id| {
                    let destination = format!("sip:{to}@{domain};cmd={id}");
                    json!({"callid": call, "leg": leg, "destination": destination})
                });
            }
            _ => {
                let others: Vec<_> = state.calls.iter().filter(|(on, _)| *on == stack).collect();
                let other = others[state.random.clone().index(others.len())].1.clone();
                if other == call {
                    return self.start(state);
                }
                self.ask_for(
                    state,
                    "CallAttendedTransfer",
                    stack,
                    |_| json!({"callidA": call, "legA": leg, "callidB": other, "legB": "callee"}),
                );
            }
        }
    }

    /// A question about one of its commands.
    fn about(&self, state: &mut State, method: &'static str) {
        if state.commands.is_empty() {
            return self.start(state);
        }
        let at = state.commands.len() - 1 - state.random.index(state.commands.len().min(3));
        let params = json!({"cmd_id": state.commands[at].id});
        self.request(state, Asked::Aside, method, &params);
    }

    /// The same again, or something else under the same id.
    fn repeat(&self, state: &mut State, other: bool) {
        if state.commands.is_empty() {
            return self.start(state);
        }
        let at = state.random.index(state.commands.len());
        let Command { method, params, stage, .. } = &state.commands[at];
        // What was never answered might begin with the other params.
        if other && matches!(stage, Stage::Asked | Stage::Refused) {
            return;
        }
        let (method, mut params) = (*method, params.clone());
        if other {
            params["external_id"] = "other".into();
            if method == "CallStart" {
                params["ring_timeout"] = 7.into();
            } else {
                params["callid"] = "another".into();
                params["callidA"] = "another".into();
            }
            return self.request(state, Asked::Aside, method, &params);
        }
        self.request(state, Asked::Command(at), method, &params);
    }
}

impl State {
    fn number(&self, id: Option<&str>) -> Option<usize> {
        let id = id?;
        self.commands.iter().position(|command| command.id == id)
    }

    /// Remembers the highest position; that of an answer to `Resume` counts as it is.
    fn stand(&mut self, told: &Told, exact: bool) {
        let (Some(epoch), Some(seq)) = (&told.epoch, told.seq) else { return };
        match &mut self.position {
            Some((at, highest)) if at == epoch => {
                *highest = if exact { seq } else { seq.max(*highest) };
            }
            Some(_) if !exact && self.past.contains(epoch) => {}
            position => {
                if let Some((before, _)) = position.take() {
                    self.past.push(before);
                }
                *position = Some((epoch.clone(), seq));
            }
        }
    }
}
