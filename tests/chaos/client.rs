//! A client: it asks for things, loses its connection, comes back to any living process, resumes, and
//! repeats what it had no answer to under the same id.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::history::{Fault, What};
use super::pods::Pods;
use super::random::Random;
use super::record::Recorder;
use super::stack::{PHONES, domain, phone};

/// A process that says nothing for this long, though something was asked, is left.
const PATIENCE: Duration = Duration::from_secs(3);

/// When nothing goes wrong any more, all commands have ended within this.
const SETTLE: Duration = Duration::from_secs(60);

/// How often a client looks whether it has something to do.
const TICK: Duration = Duration::from_millis(100);

/// Most commands of one client that run at a time.
const AT_ONCE: usize = 4;

/// What clients are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Ask for things.
    Busy,
    /// Wait for what runs.
    Calm,
    /// Leave.
    Over,
}

/// What all clients share.
pub struct Common {
    pub pods: Arc<Pods>,
    pub recorder: Arc<Recorder>,
    pub phase: watch::Receiver<Phase>,
    /// Calls that phones placed by themselves.
    pub given: Vec<(usize, String)>,
    pub figures: Mutex<Figures>,
    /// Between two things that one client does of its own, on average.
    pub pause: Duration,
}

/// What is measured beside.
#[derive(Debug, Default)]
pub struct Figures {
    /// From the loss of a connection to the answer of `Resume` on another.
    pub homes: Vec<Duration>,
    pub recovered: usize,
    /// `Resume`s that were not recovered, by reason.
    pub not_recovered: BTreeMap<String, usize>,
    pub received: usize,
    /// Commands whose request was never answered when the store lost its memory: not repeated.
    pub given_up: Vec<String>,
    /// Refusals by kind.
    pub refused: BTreeMap<String, usize>,
    /// The process of each connection.
    pub pods: BTreeMap<usize, usize>,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

pub struct Client {
    common: Arc<Common>,
    number: usize,
    random: Random,
    connections: usize,
    ready: bool,
    session: Option<String>,
    position: Option<(String, u64)>,
    past: Vec<String>,
    calls: Vec<(usize, String)>,
    commands: Vec<Command>,
    by_id: BTreeMap<String, usize>,
    asked: BTreeMap<u64, Asked>,
    requests: u64,
    lost: Option<Instant>,
    /// When something was received last, or asked while nothing was open.
    heard: Instant,
    next: Instant,
    asks_after: Instant,
    again: Vec<(Instant, Again)>,
    /// Whether nothing is under way any more.
    settled: watch::Sender<Standing>,
}

/// How a client stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    pub ready: bool,
    /// What is under way, by id.
    pub open: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
enum Again {
    Hello,
    Command(usize),
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
    /// It is of an epoch that is over: a repeat could be another command.
    is_old: bool,
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
    reason: Option<String>,
    session: Option<String>,
    epoch: Option<String>,
    seq: Option<u64>,
    data: Option<Value>,
    #[serde(default)]
    degraded: bool,
}

#[derive(Deserialize)]
struct Refused {
    data: Reason,
}

#[derive(Deserialize)]
struct Reason {
    kind: String,
}

/// Why a client leaves its connection.
enum Left {
    /// The other end ended it; the close code, if one came.
    Lost(Option<u16>),
    /// Of its own will, or since nothing came.
    Gone,
    /// All is over: the connection was there to the end.
    Stayed,
}

impl Client {
    pub fn new(common: &Arc<Common>, number: usize, random: Random) -> Self {
        let now = Instant::now();
        Self {
            common: Arc::clone(common),
            number,
            random,
            connections: 0,
            ready: false,
            session: None,
            position: None,
            past: Vec::new(),
            calls: common.given.clone(),
            commands: Vec::new(),
            by_id: BTreeMap::new(),
            asked: BTreeMap::new(),
            requests: 0,
            lost: None,
            heard: now,
            next: now,
            asks_after: now,
            again: Vec::new(),
            settled: watch::Sender::default(),
        }
    }

    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.settled.subscribe()
    }

    /// Until the phase is [`Phase::Over`].
    pub async fn run(mut self) {
        while *self.common.phase.borrow() != Phase::Over {
            let Some((pod, at)) = self.common.pods.any(&mut self.random) else {
                sleep(Duration::from_millis(20)).await;
                continue;
            };
            let url = format!("ws://{at}/call-api");
            let Ok(Ok((socket, _))) = timeout(PATIENCE, connect_async(&url)).await else {
                sleep(self.random.millis(20, 120)).await;
                continue;
            };
            self.connections += 1;
            let connection = self.number * 10_000 + self.connections;
            self.common.figures.lock().unwrap().pods.insert(connection, pod);
            self.note(What::Connected { client: self.number, connection });
            let left = self.converse(socket, connection).await;
            let code = match left {
                Left::Stayed => return,
                Left::Lost(code) => code,
                Left::Gone => None,
            };
            self.note(What::Closed { connection, code });
            self.lost.get_or_insert_with(Instant::now);
            self.ready = false;
            self.show();
            if code.is_none() {
                sleep(self.random.millis(5, 60)).await;
            }
        }
    }

    fn note(&self, what: What) {
        self.common.recorder.note(what);
    }

    async fn converse(&mut self, mut socket: Socket, connection: usize) -> Left {
        self.asked.clear();
        self.again.clear();
        self.ready = false;
        self.heard = Instant::now();
        let mut out = Vec::new();
        self.greet(&mut out);
        let mut tick = tokio::time::interval(TICK);
        loop {
            for text in out.drain(..) {
                self.note(What::Sent { connection, text: String::clone(&text) });
                if timeout(PATIENCE, socket.send(Message::text(text))).await.is_err() {
                    return Left::Gone;
                }
            }
            tokio::select! {
                biased;
                message = socket.next() => match message {
                    Some(Ok(Message::Text(text))) => {
                        self.heard = Instant::now();
                        let text = text.as_str().to_owned();
                        self.note(What::Received { connection, text: text.clone() });
                        self.received(&text, &mut out);
                        self.show();
                    }
                    Some(Ok(Message::Close(frame))) => {
                        return Left::Lost(frame.map(|frame| frame.code.into()));
                    }
                    Some(Ok(_)) => self.heard = Instant::now(),
                    Some(Err(_)) | None => return Left::Lost(None),
                },
                _ = tick.tick() => {
                    let phase = *self.common.phase.borrow();
                    if phase == Phase::Over {
                        return Left::Stayed;
                    }
                    if !self.asked.is_empty() && self.heard.elapsed() > PATIENCE {
                        return Left::Gone;
                    }
                    if self.look_around(phase, &mut out) {
                        return Left::Gone;
                    }
                    self.show();
                }
            }
        }
    }

    /// What is to be done by now. Whether the client hangs up.
    fn look_around(&mut self, phase: Phase, out: &mut Vec<String>) -> bool {
        let now = Instant::now();
        let (due, later) = self.again.drain(..).partition(|(at, _)| *at <= now);
        self.again = later;
        let due: Vec<(Instant, Again)> = due;
        for (_, again) in due {
            match again {
                Again::Hello if !self.ready => self.greet(out),
                Again::Command(at) if self.ready && self.commands[at].stage == Stage::Asked => {
                    self.command(at, out);
                }
                Again::Hello | Again::Command(_) => {}
            }
        }
        if !self.ready {
            return false;
        }
        if self.asks_after <= now {
            self.asks_after = now + Duration::from_secs(1);
            self.ask_after(out);
        }
        if phase != Phase::Busy || self.next > now {
            return false;
        }
        let pause = u64::try_from(self.common.pause.as_millis()).unwrap();
        self.next = now + self.random.millis(pause / 4, pause * 7 / 4);
        self.act(out)
    }

    fn show(&self) {
        let open = self.commands.iter().filter(|command| match command.stage {
            Stage::Refused | Stage::Over => false,
            Stage::Asked | Stage::Running | Stage::Unsure => true,
        });
        let open = open.map(|command| format!("{} {:?}", command.id, command.stage)).collect();
        let standing = Standing { ready: self.ready, open };
        self.settled.send_if_modified(|known| {
            let changes = *known != standing;
            *known = standing;
            changes
        });
    }

    /// The first request of a connection.
    fn greet(&mut self, out: &mut Vec<String>) {
        match (self.session.clone(), self.position.clone()) {
            (Some(session), Some((epoch, seq))) => {
                let params = json!({"session": session, "epoch": epoch, "seq": seq});
                self.request(Asked::Resume, "Resume", &params, out);
            }
            _ => self.request(Asked::Hello, "Echo", &json!({}), out),
        }
    }

    fn request(&mut self, asked: Asked, method: &str, params: &Value, out: &mut Vec<String>) {
        if self.asked.is_empty() {
            self.heard = Instant::now();
        }
        self.requests += 1;
        self.asked.insert(self.requests, asked);
        let id = self.requests;
        let text = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        out.push(text.to_string());
    }

    fn received(&mut self, text: &str, out: &mut Vec<String>) {
        let frame: Frame = serde_json::from_str(text).unwrap();
        self.common.figures.lock().unwrap().received += 1;
        if let Some(id) = frame.id {
            let Some(asked) = self.asked.remove(&id) else { return };
            match (frame.result, frame.error) {
                (Some(told), _) => self.answered(asked, &told, out),
                (None, Some(refused)) => self.refused(asked, &refused.data.kind),
                (None, None) => {}
            }
            return;
        }
        let Some(told) = frame.params else { return };
        self.stand(&told, false);
        let known = told.cmd_id.as_deref().and_then(|id| self.by_id.get(id).copied());
        let Some(at) = known else { return };
        match told.event.as_deref() {
            Some("Ended") => self.commands[at].stage = Stage::Over,
            // The answer to its request was lost.
            Some("Started") if self.commands[at].stage == Stage::Asked => {
                self.commands[at].stage = Stage::Running;
            }
            Some(_) | None => {}
        }
        let call = told.data.as_ref().and_then(|data| data.get("callid")).and_then(Value::as_str);
        if let Some(call) = call {
            let known = (self.commands[at].stack, call.to_owned());
            if !self.calls.contains(&known) {
                self.calls.push(known);
            }
        }
    }

    fn answered(&mut self, asked: Asked, told: &Told, out: &mut Vec<String>) {
        match asked {
            Asked::Hello => {
                self.session.clone_from(&told.session);
                self.stand(told, true);
                self.begin(out);
            }
            Asked::Resume => {
                self.stand(told, true);
                self.resumed(told);
                self.begin(out);
            }
            Asked::Command(at) => {
                self.stand(told, false);
                let over = told.outcome.is_some();
                // Done without the store: nothing knows it.
                self.commands[at].is_old |= told.degraded;
                self.commands[at].stage = match self.commands[at].stage {
                    _ if over => Stage::Over,
                    Stage::Asked | Stage::Running | Stage::Refused => Stage::Running,
                    Stage::Unsure => Stage::Unsure,
                    Stage::Over => Stage::Over,
                };
            }
            Asked::Get(at) => {
                if told.state.as_deref() == Some("ended") {
                    self.commands[at].stage = Stage::Over;
                }
            }
            Asked::Aside => {}
        }
    }

    fn resumed(&mut self, told: &Told) {
        let mut figures = self.common.figures.lock().unwrap();
        if let Some(lost) = self.lost.take() {
            figures.homes.push(lost.elapsed());
        }
        if told.recovered != Some(false) {
            figures.recovered += 1;
            return;
        }
        let reason = told.reason.clone().unwrap_or_default();
        let restarted = reason == "restarted";
        *figures.not_recovered.entry(reason).or_default() += 1;
        drop(figures);
        self.ask_anew(restarted);
    }

    /// What runs may have gone on or ended without a word; where the store is another one, what was
    /// asked before is not asked again.
    fn ask_anew(&mut self, restarted: bool) {
        let mut figures = self.common.figures.lock().unwrap();
        for command in &mut self.commands {
            command.is_old |= restarted;
            match command.stage {
                Stage::Running => command.stage = Stage::Unsure,
                // To repeat it now could place a second call: the store does not know the first.
                Stage::Asked if restarted => {
                    figures.given_up.push(command.id.clone());
                    command.stage = Stage::Over;
                }
                Stage::Asked | Stage::Unsure | Stage::Refused | Stage::Over => {}
            }
        }
    }

    /// The conversation has begun: what was not answered before is asked again.
    fn begin(&mut self, out: &mut Vec<String>) {
        self.ready = true;
        for at in 0..self.commands.len() {
            if self.commands[at].stage == Stage::Asked {
                self.command(at, out);
            }
        }
    }

    fn refused(&mut self, asked: Asked, kind: &str) {
        *self.common.figures.lock().unwrap().refused.entry(kind.to_owned()).or_default() += 1;
        let soon = Instant::now() + Duration::from_millis(300);
        match asked {
            Asked::Hello | Asked::Resume => self.again.push((soon, Again::Hello)),
            Asked::Command(at) if kind == "store_unavailable" || kind == "draining" => {
                let later = Instant::now() + Duration::from_millis(900);
                self.again.push((later, Again::Command(at)));
            }
            Asked::Command(at) => {
                if self.commands[at].stage == Stage::Asked {
                    self.commands[at].stage = Stage::Refused;
                }
            }
            Asked::Get(at) => {
                if kind == "unknown_command" {
                    self.commands[at].stage = Stage::Over;
                }
            }
            Asked::Aside => {}
        }
    }

    fn command(&mut self, at: usize, out: &mut Vec<String>) {
        let Command { method, params, .. } = &self.commands[at];
        let (method, params) = (*method, params.clone());
        self.request(Asked::Command(at), method, &params, out);
    }

    /// Asks after what it may have missed.
    fn ask_after(&mut self, out: &mut Vec<String>) {
        for at in 0..self.commands.len() {
            if self.commands[at].stage == Stage::Unsure {
                let params = json!({"cmd_id": self.commands[at].id});
                self.request(Asked::Get(at), "CommandGet", &params, out);
            }
        }
    }

    /// Does one thing of its own. Whether it hangs up.
    fn act(&mut self, out: &mut Vec<String>) -> bool {
        let open = self.commands.iter().rev().take(50).filter(|command| {
            matches!(command.stage, Stage::Asked | Stage::Running | Stage::Unsure)
        });
        let full = open.count() >= AT_ONCE;
        match self.random.below(100) {
            0..84 if full => self.about("CommandGet", out),
            0..34 => self.start(out),
            34..76 => self.change(out),
            76..81 => self.about("CommandCancel", out),
            81..84 => self.about("CommandGet", out),
            84..90 => self.repeat(false, out),
            90..92 => self.repeat(true, out),
            92..97 => {
                let said = json!({"at": self.requests});
                self.request(Asked::Aside, "Echo", &said, out);
            }
            _ => {
                let until = self.common.recorder.now();
                self.note(What::Fault { kind: Fault::Client, until });
                return true;
            }
        }
        false
    }

    fn ask_for(
        &mut self,
        method: &'static str,
        stack: usize,
        params: impl FnOnce(&str) -> Value,
        out: &mut Vec<String>,
    ) {
        let id = format!("c{}-{}", self.number, self.commands.len());
        let mut params = params(&id);
        params["cmd_id"] = id.clone().into();
        let at = self.commands.len();
        self.by_id.insert(id.clone(), at);
        self.commands.push(Command {
            id,
            method,
            params,
            stack,
            stage: Stage::Asked,
            is_old: false,
        });
        self.command(at, out);
    }

    fn start(&mut self, out: &mut Vec<String>) {
        let stack = self.random.index(2);
        let caller = self.random.index(PHONES);
        let callee = (caller + 1 + self.random.index(PHONES - 1)) % PHONES;
        let at = domain(stack);
        let params = |id: &str| {
            json!({
                "caller": format!("sip:{}@{at}", phone(stack, caller)),
                "callee": format!("sip:{}@{at};cmd={id}", phone(stack, callee)),
                "display": id,
                "stack": format!("stack{stack}"),
            })
        };
        self.ask_for("CallStart", stack, params, out);
    }

    fn change(&mut self, out: &mut Vec<String>) {
        if self.calls.is_empty() {
            return self.start(out);
        }
        // Mostly the newest ones: the others have often ended.
        let newest = self.calls.len().min(6);
        let at = self.calls.len() - 1 - self.random.index(newest);
        let (stack, call) = self.calls[at].clone();
        let leg = *self.random.pick(&["caller", "callee"]);
        let named = format!("stack{stack}");
        match self.random.below(42) {
            0..13 => {
                let params = |_: &str| json!({"callid": call, "stack": named});
                self.ask_for("CallHold", stack, params, out);
            }
            13..23 => {
                let params = |_: &str| json!({"callid": call, "stack": named});
                self.ask_for("CallUnhold", stack, params, out);
            }
            23..30 => {
                let params = |_: &str| json!({"callid": call, "stack": named});
                self.ask_for("CallEnd", stack, params, out);
            }
            30..37 => {
                let (to, domain) = (phone(stack, self.random.index(PHONES)), domain(stack));
                let params = |id: &str| {
                    let destination = format!("sip:{to}@{domain};cmd={id}");
                    json!({"callid": call, "leg": leg, "destination": destination, "stack": named})
                };
                self.ask_for("CallBlindTransfer", stack, params, out);
            }
            _ => {
                let others = self.calls.iter().rev().take(8);
                let others: Vec<_> =
                    others.filter(|(on, other)| *on == stack && *other != call).cloned().collect();
                if others.is_empty() {
                    return self.start(out);
                }
                let other = self.random.pick(&others).1.clone();
                let params = |_: &str| {
                    json!({
                        "callidA": call, "legA": leg, "callidB": other, "legB": "callee",
                        "stack": named,
                    })
                };
                self.ask_for("CallAttendedTransfer", stack, params, out);
            }
        }
    }

    /// A question about one of its commands.
    fn about(&mut self, method: &'static str, out: &mut Vec<String>) {
        if self.commands.is_empty() {
            return;
        }
        let newest = self.commands.len().min(3);
        let at = self.commands.len() - 1 - self.random.index(newest);
        let params = json!({"cmd_id": self.commands[at].id});
        self.request(Asked::Aside, method, &params, out);
    }

    /// The same again, or something else under the same id.
    fn repeat(&mut self, other: bool, out: &mut Vec<String>) {
        if self.commands.is_empty() {
            return;
        }
        let newest = self.commands.len().min(10);
        let at = self.commands.len() - 1 - self.random.index(newest);
        let Command { method, params, stage, is_old, .. } = &self.commands[at];
        if *is_old {
            return;
        }
        let (method, mut params, stage) = (*method, params.clone(), *stage);
        match (stage, other) {
            // What was never answered might begin with the other params, and what is unsure anew.
            (Stage::Asked | Stage::Refused | Stage::Unsure, true) | (Stage::Unsure, false) => {}
            (_, true) => {
                params["external_id"] = "other".into();
                if method == "CallStart" {
                    params["ring_timeout"] = 7.into();
                } else {
                    params["callid"] = "another".into();
                    params["callidA"] = "another".into();
                }
                self.request(Asked::Aside, method, &params, out);
            }
            (_, false) => self.request(Asked::Command(at), method, &params, out),
        }
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
                    let answered = |command: &&mut Command| command.stage != Stage::Asked;
                    self.commands
                        .iter_mut()
                        .filter(answered)
                        .for_each(|command| command.is_old = true);
                }
                *position = Some((epoch.clone(), seq));
            }
        }
    }
}

/// Waits until nothing is under way for any client. What still is when that takes too long.
pub async fn settle(standings: &[watch::Receiver<Standing>]) -> Vec<String> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let mut open = Vec::new();
        for (number, standing) in standings.iter().enumerate() {
            let standing = standing.borrow();
            if !standing.ready {
                open.push(format!("client {number} has no connection"));
            }
            open.extend(standing.open.iter().cloned());
        }
        if open.is_empty() || Instant::now() > deadline {
            return open;
        }
        sleep(Duration::from_millis(50)).await;
    }
}
