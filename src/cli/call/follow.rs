//! One command as its client sees it: what to send, what has come, how it ended.
//!
//! Pure: frames in, frames out. [`super::connection`] carries them. The order is:
//!
//! ```text
//! connect -> Echo (tells the session) -> the command -> events ... -> Ended
//! connection lost -> connect -> Resume -> recovered: go on (and repeat the command, if its answer
//!                                         was lost: the same id in the same session is the same command)
//!                                      -> not recovered: CommandGet, never repeat
//! ```
//!
//! An old server's Echo tells no session; a lost connection is `unknown` then.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::exit::Exit;

const HELLO: &str = "hello";
const COMMAND: &str = "command";
const RESUME: &str = "resume";
const GET: &str = "get";
const CANCEL: &str = "cancel";

/// A request for one command.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// The method.
    pub method: &'static str,
    /// Its params without `cmd_id`.
    pub params: serde_json::Map<String, Value>,
    /// The command's id.
    pub cmd_id: String,
    /// The session that it belongs to, if it may have been asked for before.
    pub place: Option<Place>,
}

/// Something to show.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// The command was begun.
    Started(Value),
    /// An event, the last one included.
    Event(Value),
    /// The server refused the request.
    Refused(Value),
    /// The connection is back and nothing was missed.
    Resumed,
    /// The connection is back, but something was missed; the reason.
    NotResumed(String),
    /// The server's answer to a cancel.
    Cancelling(Value),
}

/// What one message of the server leads to.
#[derive(Debug, Default, PartialEq)]
pub struct Next {
    /// What to show.
    pub told: Vec<Told>,
    /// What to send.
    pub send: Vec<String>,
    /// How it ended, if it has.
    pub exit: Option<Exit>,
}

/// Where a client stands in the stream. As text `EPOCH/SESSION`: before all that the session was told.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    session: String,
    epoch: String,
    seq: u64,
}

impl std::str::FromStr for Place {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((epoch, session)) if !epoch.is_empty() && !session.is_empty() => {
                Ok(Place { session: session.to_owned(), epoch: epoch.to_owned(), seq: 0 })
            }
            Some(_) | None => Err("write EPOCH/SESSION, as `Started` tells them"),
        }
    }
}

/// One command from asking to its end.
#[derive(Debug)]
pub struct Follow {
    asked: Asked,
    place: Option<Place>,
    sent: bool,
    started: bool,
    failed: bool,
    deadline: Option<Duration>,
}

impl Follow {
    /// Nothing has been sent yet.
    pub fn new(mut asked: Asked) -> Follow {
        let place = asked.place.take();
        Follow { asked, place, sent: false, started: false, failed: false, deadline: None }
    }

    /// What to send on a new connection.
    ///
    /// # Errors
    ///
    /// [`Exit::Unknown`] if the command has been sent and there is no session to resume.
    pub fn connected(&self) -> Result<String, Exit> {
        match &self.place {
            Some(Place { session, epoch, seq }) => {
                let params = json!({"session": session, "epoch": epoch, "seq": seq});
                Ok(request(RESUME, "Resume", params))
            }
            None if self.sent => Err(Exit::Unknown),
            None => Ok(request(HELLO, "Echo", json!({}))),
        }
    }

    /// What to send to give the command up.
    pub fn cancel(&self) -> String {
        request(CANCEL, "CommandCancel", json!({"cmd_id": self.asked.cmd_id}))
    }

    /// The arguments that ask for the same command again.
    pub fn again(&self) -> Option<String> {
        let Place { session, epoch, .. } = self.place.as_ref()?;
        Some(format!("--session {epoch}/{session} --cmd-id {}", self.asked.cmd_id))
    }

    /// Whether the request went out, so that the command may be under way.
    pub fn is_sent(&self) -> bool {
        self.sent
    }

    /// Whether the server has said `Started`.
    pub fn is_started(&self) -> bool {
        self.started
    }

    /// From `Started` to `Ended` at the latest, as the server said.
    pub fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// Takes a message of the server. What is no JSON-RPC of ours is ignored.
    pub fn message(&mut self, text: &str) -> Next {
        match serde_json::from_str::<Value>(text) {
            Ok(Value::Array(messages)) => {
                let mut all = Next::default();
                for message in messages {
                    let next = self.one(message);
                    all.told.extend(next.told);
                    all.send.extend(next.send);
                    all.exit = all.exit.or(next.exit);
                }
                all
            }
            Ok(message) => self.one(message),
            Err(_) => Next::default(),
        }
    }

    fn one(&mut self, message: Value) -> Next {
        if let Some(params) = message.get("params") {
            return self.notification(params.clone(), message);
        }
        let id = message.get("id").and_then(Value::as_str).unwrap_or_default();
        let result = message.get("result").cloned();
        if let Some(result) = &result {
            self.stand(result);
        }
        match (id, result) {
            (HELLO, _) => Next { send: vec![self.command()], ..Next::default() },
            (COMMAND, Some(result)) => self.begun(result, message),
            (COMMAND, None) => Next {
                told: vec![Told::Refused(message)],
                exit: Some(Exit::Refused),
                ..Next::default()
            },
            (RESUME, Some(result)) => self.resumed(&result),
            (RESUME, None) => Next {
                told: vec![Told::NotResumed(text_of(&message, "/error/message"))],
                exit: Some(Exit::Unknown),
                ..Next::default()
            },
            (GET, Some(result)) => Next { exit: ended(&result), ..Next::default() },
            (GET, None) => Next { exit: Some(Exit::Unknown), ..Next::default() },
            (CANCEL, _) => Next { told: vec![Told::Cancelling(message)], ..Next::default() },
            _ => Next::default(),
        }
    }

    fn command(&mut self) -> String {
        self.sent = true;
        let mut params = self.asked.params.clone();
        params.insert("cmd_id".to_owned(), self.asked.cmd_id.clone().into());
        request(COMMAND, self.asked.method, Value::Object(params))
    }

    fn begun(&mut self, result: Value, message: Value) -> Next {
        self.started = true;
        self.deadline =
            result.get("deadline_ms").and_then(Value::as_u64).map(Duration::from_millis);
        // An id that was used before may be a command that has ended; its events follow only if
        // they are still kept.
        let replayed = result.get("replayed").and_then(Value::as_bool).unwrap_or(true);
        let exit = if replayed { None } else { ended(&result) };
        Next { told: vec![Told::Started(message)], exit, ..Next::default() }
    }

    fn resumed(&mut self, result: &Value) -> Next {
        if result.get("recovered").and_then(Value::as_bool) == Some(true) {
            let send = if self.started { Vec::new() } else { vec![self.command()] };
            return Next { told: vec![Told::Resumed], send, exit: None };
        }
        let get = request(GET, "CommandGet", json!({"cmd_id": self.asked.cmd_id}));
        let reason = text_of(result, "/reason");
        Next { told: vec![Told::NotResumed(reason)], send: vec![get], exit: None }
    }

    fn notification(&mut self, params: Value, message: Value) -> Next {
        self.stand(&params);
        if params.get("cmd_id").and_then(Value::as_str) != Some(&self.asked.cmd_id) {
            return Next::default();
        }
        let exit = match params.get("event").and_then(Value::as_str) {
            // As a notification only after a lost answer.
            Some("Started") => {
                self.started = true;
                return Next { told: vec![Told::Started(message)], ..Next::default() };
            }
            Some("Error") => {
                self.failed = true;
                None
            }
            // Only old servers leave the outcome out.
            Some("Ended") => Some(ended(&params).unwrap_or(match self.failed {
                true => Exit::Failed,
                false => Exit::Success,
            })),
            Some(_) | None => None,
        };
        Next { told: vec![Told::Event(message)], exit, ..Next::default() }
    }

    /// Follows the position that results and notifications carry.
    fn stand(&mut self, told: &Value) {
        let text = |name| told.get(name).and_then(Value::as_str).map(str::to_owned);
        let (Some(epoch), Some(seq)) = (text("epoch"), told.get("seq").and_then(Value::as_u64))
        else {
            return;
        };
        let session = text("session").or_else(|| self.place.as_ref().map(|p| p.session.clone()));
        let Some(session) = session else { return };
        let seq = match &self.place {
            // A replay keeps its old numbers; the position is the highest seen.
            Some(place) if place.epoch == epoch => place.seq.max(seq),
            Some(_) | None => seq,
        };
        self.place = Some(Place { session, epoch, seq });
    }
}

fn request(id: &str, method: &str, params: Value) -> String {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string()
}

fn ended(told: &Value) -> Option<Exit> {
    told.get("outcome").and_then(Value::as_str).map(Exit::of_outcome)
}

fn text_of(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("no reason given").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow() -> Follow {
        let params = json!({"callid": "abc"}).as_object().unwrap().clone();
        Follow::new(Asked { method: "CallEnd", params, cmd_id: "c1".to_owned(), place: None })
    }

    fn parsed(sent: &str) -> Value {
        serde_json::from_str(sent).unwrap()
    }

    /// A client that has been told its session and has sent the command.
    fn asking() -> Follow {
        let mut follow = follow();
        assert_eq!(parsed(&follow.connected().unwrap())["method"], "Echo");
        let hello = r#"{"jsonrpc":"2.0","id":"hello","result":{"cmd_id":"x","event":"Started","session":"s","epoch":"e1","seq":4}}"#;
        let next = follow.message(hello);
        assert_eq!(
            parsed(&next.send[0]),
            json!({"jsonrpc":"2.0","id":"command","method":"CallEnd","params":{"callid":"abc","cmd_id":"c1"}})
        );
        follow
    }

    fn event(params: Value) -> String {
        json!({"jsonrpc":"2.0","method":"CallEnd","params":params}).to_string()
    }

    const STARTED: &str = r#"{"jsonrpc":"2.0","id":"command","result":{"cmd_id":"c1","event":"Started","deadline_ms":7500}}"#;

    /// What became of a command is asked in its session; of another process's memory nothing is.
    #[test]
    fn a_command_is_asked_for_again_in_its_session() {
        let params = json!({"callid": "abc"}).as_object().unwrap().clone();
        let place = Some("e1/s".parse().unwrap());
        let mut follow =
            Follow::new(Asked { method: "CallEnd", params, cmd_id: "c1".to_owned(), place });
        let resume = parsed(&follow.connected().unwrap());
        assert_eq!(resume["params"], json!({"session": "s", "epoch": "e1", "seq": 0}));
        let back = |recovered: bool| {
            json!({"jsonrpc":"2.0","id":"resume","result":{"recovered":recovered,"reason":"restarted"}})
                .to_string()
        };
        let next = follow.message(&back(true));
        assert_eq!(parsed(&next.send[0])["params"]["cmd_id"], "c1");
        let next = follow.message(&back(false));
        assert_eq!(parsed(&next.send[0])["method"], "CommandGet", "never a second one");
        assert_eq!(follow.again().unwrap(), "--session e1/s --cmd-id c1");
        for bad in ["", "e1", "/s", "e1/"] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }

    #[test]
    fn outcomes_become_exit_codes() {
        for (outcome, exit) in [
            ("success", Exit::Success),
            ("failed", Exit::Failed),
            ("cancelled", Exit::Cancelled),
            ("not_started", Exit::NotStarted),
            ("unknown", Exit::Unknown),
            ("a word of tomorrow", Exit::Unknown),
        ] {
            let mut follow = asking();
            assert_eq!(follow.message(STARTED).exit, None);
            assert_eq!(follow.deadline(), Some(Duration::from_millis(7500)));
            let ended = event(json!({"cmd_id":"c1","event":"Ended","outcome":outcome}));
            assert_eq!(follow.message(&ended).exit, Some(exit));
        }
    }

    #[test]
    fn an_old_servers_end_is_told_by_its_error() {
        for (failed, exit) in [(false, Exit::Success), (true, Exit::Failed)] {
            let mut follow = asking();
            follow.message(STARTED);
            if failed {
                let error =
                    event(json!({"cmd_id":"c1","event":"Error","data":"404 Dialog not found"}));
                assert_eq!(follow.message(&error).exit, None);
            }
            assert_eq!(
                follow.message(&event(json!({"cmd_id":"c1","event":"Ended"}))).exit,
                Some(exit)
            );
        }
    }

    #[test]
    fn another_commands_events_are_none_of_ours() {
        let mut follow = asking();
        let next =
            follow.message(&event(json!({"cmd_id":"c2","event":"Ended","outcome":"failed"})));
        assert_eq!(next, Next::default());
        assert_eq!(follow.message("not json"), Next::default());
        assert_eq!(follow.message("[]"), Next::default());
    }

    #[test]
    fn a_refusal_ends_it() {
        let refused =
            r#"{"jsonrpc":"2.0","id":"command","error":{"code":-32602,"message":"bad params"}}"#;
        let next = asking().message(refused);
        assert_eq!(next.exit, Some(Exit::Refused));
        assert!(matches!(next.told[..], [Told::Refused(_)]));
    }

    #[test]
    fn a_lost_connection_is_resumed_from_the_highest_position() {
        let mut follow = asking();
        follow.message(STARTED);
        for seq in [9, 7] {
            follow.message(&event(json!({"cmd_id":"c1","event":"X","epoch":"e1","seq":seq})));
        }
        let resume = parsed(&follow.connected().unwrap());
        assert_eq!(resume["method"], "Resume");
        assert_eq!(resume["params"], json!({"session":"s","epoch":"e1","seq":9}));
        let back = r#"{"jsonrpc":"2.0","id":"resume","result":{"recovered":true}}"#;
        assert_eq!(follow.message(back), Next { told: vec![Told::Resumed], ..Next::default() });
    }

    #[test]
    fn a_request_whose_answer_was_lost_is_repeated_with_its_id_and_only_in_its_session() {
        let mut follow = asking();
        follow.connected().unwrap();
        let next = follow.message(r#"{"jsonrpc":"2.0","id":"resume","result":{"recovered":true}}"#);
        assert_eq!(parsed(&next.send[0])["params"]["cmd_id"], "c1");

        // A server that has forgotten: the same request would be a second command.
        let mut follow = asking();
        follow.connected().unwrap();
        let lost = r#"{"jsonrpc":"2.0","id":"resume","result":{"recovered":false,"reason":"restarted","session":"s","epoch":"e2","seq":0}}"#;
        let next = follow.message(lost);
        assert_eq!(next.told, [Told::NotResumed("restarted".to_owned())]);
        assert_eq!(parsed(&next.send[0])["method"], "CommandGet");
        let gone =
            r#"{"jsonrpc":"2.0","id":"get","error":{"code":-32004,"message":"no such command"}}"#;
        assert_eq!(follow.message(gone).exit, Some(Exit::Unknown));
    }

    #[test]
    fn without_a_session_a_lost_connection_is_unknown() {
        let mut follow = follow();
        follow
            .message(r#"{"jsonrpc":"2.0","id":"hello","result":{"cmd_id":"x","event":"Started"}}"#);
        assert!(follow.is_sent());
        assert_eq!(follow.connected(), Err(Exit::Unknown));
    }

    #[test]
    fn a_known_id_whose_events_are_no_longer_kept_ends_at_once() {
        let mut follow = asking();
        let known = r#"{"jsonrpc":"2.0","id":"command","result":{"cmd_id":"c1","event":"Started","repeated":true,"replayed":false,"outcome":"failed"}}"#;
        assert_eq!(follow.message(known).exit, Some(Exit::Failed));
    }
}
