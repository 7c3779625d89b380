//! `callplane call`: one command through a running server.

mod connection;
mod follow;
mod show;

use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Map, Value};

pub use connection::follow;
pub use follow::{Asked, Place};
pub use show::Form;

use super::arguments::{Asking, Call, CallCommand, Party};
use super::exit::Exit;

/// Runs the command.
pub async fn call(arguments: Call) -> Exit {
    let Call { server, asking, command } = arguments;
    let form = form(&asking);
    follow(&server, asked(command, asking), form).await
}

/// How events are to be shown.
pub fn form(asking: &Asking) -> Form {
    if asking.json { Form::Json } else { Form::Lines }
}

/// The request for a command.
pub fn asked(command: CallCommand, asking: Asking) -> Asked {
    let mut params = Map::new();
    let mut put = |name: &str, value: Value| {
        if !value.is_null() {
            params.insert(name.to_owned(), value);
        }
    };
    let method = match command {
        CallCommand::Start { caller, callee, ring_timeout, display, auto_answer, ringing } => {
            put("caller", caller.into());
            put("callee", callee.into());
            put("ring_timeout", ring_timeout.into());
            put("display", display.into());
            put("auto_answer", auto_answer.then_some(true).into());
            put("ringing", ringing.then_some(true).into());
            "CallStart"
        }
        CallCommand::Hold { callid } => {
            put("callid", callid.into());
            "CallHold"
        }
        CallCommand::Unhold { callid } => {
            put("callid", callid.into());
            "CallUnhold"
        }
        CallCommand::End { callid } => {
            put("callid", callid.into());
            "CallEnd"
        }
        CallCommand::Transfer { callid, leg, destination } => {
            put("callid", callid.into());
            put("leg", word(leg).into());
            put("destination", destination.into());
            "CallBlindTransfer"
        }
        CallCommand::Attended { callid_a, leg_a, callid_b, leg_b } => {
            put("callidA", callid_a.into());
            put("legA", word(leg_a).into());
            put("callidB", callid_b.into());
            put("legB", word(leg_b).into());
            "CallAttendedTransfer"
        }
    };
    put("external_id", asking.external_id.into());
    put("stack", asking.stack.into());
    let cmd_id = asking.cmd_id.unwrap_or_else(fresh_id);
    Asked { method, params, cmd_id, place: asking.session }
}

fn word(party: Party) -> &'static str {
    match party {
        Party::Caller => "caller",
        Party::Callee => "callee",
    }
}

/// An id that no other command of this session has: a session has one command here, so even the
/// fixed one would do if the system had no randomness.
fn fresh_id() -> String {
    let mut bytes = [0; 8];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => format!("cli-{:016x}", u64::from_be_bytes(bytes)),
        Err(_) => "cli".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::arguments::{Action, Arguments};
    use clap::Parser;
    use serde_json::json;

    fn asked_by(line: &str) -> (Asked, String) {
        let words = std::iter::once("callplane").chain(line.split(' '));
        let Action::Call(call) = Arguments::parse_from(words).action else { panic!("not a call") };
        let server = call.server.clone();
        (asked(call.command, call.asking), server)
    }

    #[test]
    fn arguments_become_the_methods_of_the_protocol() {
        for (line, method, params) in [
            (
                "call start sip:a@x sip:b@x --ring-timeout 30 --display Ann --auto-answer --external-id t7 --cmd-id c",
                "CallStart",
                json!({"caller":"sip:a@x","callee":"sip:b@x","ring_timeout":30,"display":"Ann","auto_answer":true,"external_id":"t7"}),
            ),
            (
                "call start sip:a@x sip:b@x --cmd-id c",
                "CallStart",
                json!({"caller":"sip:a@x","callee":"sip:b@x"}),
            ),
            ("call hold id1 --cmd-id c", "CallHold", json!({"callid":"id1"})),
            (
                "call unhold id1 --stack east --cmd-id c",
                "CallUnhold",
                json!({"callid":"id1","stack":"east"}),
            ),
            ("call end id1 --cmd-id c", "CallEnd", json!({"callid":"id1"})),
            (
                "call transfer id1 callee sip:c@x --cmd-id c",
                "CallBlindTransfer",
                json!({"callid":"id1","leg":"callee","destination":"sip:c@x"}),
            ),
            (
                "call attended id1 caller id2 callee --cmd-id c",
                "CallAttendedTransfer",
                json!({"callidA":"id1","legA":"caller","callidB":"id2","legB":"callee"}),
            ),
        ] {
            let (asked, _) = asked_by(line);
            assert_eq!((asked.method, Value::Object(asked.params)), (method, params), "{line}");
            assert_eq!(asked.cmd_id, "c");
        }
    }

    #[test]
    fn ids_differ_and_the_server_has_a_default() {
        let (one, server) = asked_by("call end id1");
        let (other, _) = asked_by("call end id1");
        assert_ne!(one.cmd_id, other.cmd_id);
        if std::env::var_os("CALLPLANE_SERVER").is_none() {
            assert_eq!(server, "ws://127.0.0.1:5059/call-api");
        }
    }
}
