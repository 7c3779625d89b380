//! What each client asked and was told, read from its frames.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::{History, Time, What};

/// One client's whole conversation, over all its connections.
#[derive(Debug, Default)]
pub struct Client {
    pub number: usize,
    pub said: Vec<Said>,
    /// Its commands, by their ids.
    pub commands: BTreeMap<String, Command>,
    /// Its last connection was still there at the end.
    pub is_connected: bool,
}

/// A command as its client knows it.
#[derive(Debug, Default)]
pub struct Command {
    pub method: String,
    /// What it was first asked with.
    pub params: Value,
    pub asked_at: Time,
    /// It was once answered without a record. Should there be one after all, its entries come later,
    /// or never.
    pub degraded: bool,
    /// When `Started` was first told, and how long it may take.
    pub started: Option<(Time, u64)>,
}

#[derive(Debug)]
pub struct Said {
    pub at: Time,
    pub connection: usize,
    pub what: Line,
}

/// What passed.
#[derive(Debug)]
pub enum Line {
    Connected,
    Asked(Asked),
    Answered { to: Asked, result: Box<Body> },
    Refused { to: Asked, kind: String },
    Told(Box<Body>),
    Closed,
}

#[derive(Debug, Clone, Default)]
pub struct Asked {
    pub method: String,
    pub cmd_id: String,
    pub params: Value,
    pub at: Time,
}

impl Asked {
    pub fn begins(&self) -> bool {
        self.method.starts_with("Call")
    }
}

/// A result, or the params of a notification.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Body {
    pub cmd_id: String,
    pub event: String,
    pub epoch: Option<String>,
    pub seq: u64,
    pub deadline_ms: u64,
    pub repeated: bool,
    pub replayed: Option<bool>,
    pub recovered: Option<bool>,
    pub state: Option<String>,
    pub outcome: Option<String>,
    pub up: Option<String>,
    pub observed: Option<String>,
    pub may_still_ring: bool,
    /// It went straight to the stack: nothing was recorded, as far as is known.
    pub degraded: bool,
    pub error: Option<Failure>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Failure {
    pub code: String,
    pub message: String,
    pub up: String,
}

impl Body {
    pub fn position(&self) -> Option<(&str, u64)> {
        self.epoch.as_deref().map(|epoch| (epoch, self.seq))
    }
}

#[derive(Deserialize)]
struct Request {
    id: u64,
    method: String,
    params: Value,
}

#[derive(Deserialize)]
struct Frame {
    id: Option<u64>,
    method: Option<String>,
    #[serde(default)]
    params: Option<Box<Body>>,
    #[serde(default)]
    result: Option<Box<Body>>,
    #[serde(default)]
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    data: Kind,
}

#[derive(Deserialize)]
struct Kind {
    kind: String,
}

/// Every client's conversation.
pub fn of(history: &History) -> Vec<Client> {
    let mut clients: BTreeMap<usize, Client> = BTreeMap::new();
    let mut owners = BTreeMap::new();
    let mut open: BTreeMap<(usize, u64), Asked> = BTreeMap::new();
    for event in &history.events {
        let (connection, line) = match &event.what {
            What::Connected { client, connection } => {
                owners.insert(*connection, *client);
                (*connection, Line::Connected)
            }
            What::Closed { connection, .. } => (*connection, Line::Closed),
            What::Sent { connection, text } => {
                let Request { id, method, params } = serde_json::from_str(text).unwrap();
                let cmd_id = params["cmd_id"].as_str().unwrap_or_default().to_owned();
                let asked = Asked { method, cmd_id, params, at: event.at };
                open.insert((*connection, id), asked.clone());
                (*connection, Line::Asked(asked))
            }
            What::Received { connection, text } => {
                let frame: Frame = serde_json::from_str(text).unwrap();
                let Some(line) = heard(*connection, frame, &mut open) else { continue };
                (*connection, line)
            }
            _ => continue,
        };
        let Some(owner) = owners.get(&connection) else { continue };
        let client = clients.entry(*owner).or_default();
        client.number = *owner;
        client.take(event.at, connection, line);
    }
    clients.into_values().collect()
}

fn heard(
    connection: usize,
    frame: Frame,
    open: &mut BTreeMap<(usize, u64), Asked>,
) -> Option<Line> {
    let Some(id) = frame.id else {
        let told = frame.params?;
        return (frame.method? != "Echo").then_some(Line::Told(told));
    };
    let to = open.remove(&(connection, id))?;
    match (frame.result, frame.error) {
        (Some(result), _) => Some(Line::Answered { to, result }),
        (None, Some(refusal)) => Some(Line::Refused { to, kind: refusal.data.kind }),
        (None, None) => None,
    }
}

impl Client {
    fn take(&mut self, at: Time, connection: usize, what: Line) {
        match &what {
            Line::Connected => self.is_connected = true,
            Line::Closed => self.is_connected = false,
            Line::Asked(asked) if asked.begins() => {
                self.commands.entry(asked.cmd_id.clone()).or_insert_with(|| Command {
                    method: asked.method.clone(),
                    params: asked.params.clone(),
                    asked_at: at,
                    degraded: false,
                    started: None,
                });
            }
            Line::Answered { to, result } if to.begins() => self.started(at, result),
            Line::Told(told) if told.event == "Started" => self.started(at, told),
            Line::Asked(_) | Line::Answered { .. } | Line::Refused { .. } | Line::Told(_) => {}
        }
        self.said.push(Said { at, connection, what });
    }

    fn started(&mut self, at: Time, told: &Body) {
        if let Some(command) = self.commands.get_mut(&told.cmd_id) {
            command.degraded |= told.degraded;
            command.started.get_or_insert((at, told.deadline_ms));
        }
    }

    /// What it was told, in order, with when and on which connection.
    pub fn told(&self) -> impl Iterator<Item = (Time, usize, &Body)> {
        self.said.iter().filter_map(|said| match &said.what {
            Line::Told(told) => Some((said.at, said.connection, &**told)),
            _ => None,
        })
    }
}
