//! Commands that are under way when the leader goes: what decides each happens at phones a little
//! later, and how each must end is known.

use serde_json::{Value, json};

use super::client::Client;
use super::history::What;
use super::phones::EACH;
use super::record::Recorder;
use super::stack::{Stack, domain};

/// One command and how it must end.
pub struct Wish {
    pub id: String,
    method: &'static str,
    params: Value,
    pub wanted: &'static str,
}

const TAKEN: &str = "success";
/// With the code that no list tells.
const START_REFUSED: &str = "failed callee_busy 486";
const TRANSFER_REFUSED: &str = "failed target_busy 486";

/// The address of a phone, with the mark of a command.
pub fn uri(user: &str, id: &str) -> String {
    format!("sip:{user}@{};cmd={id}", domain(0))
}

/// All of one takeover. Each is about calls of its own.
pub async fn wishes(number: usize, stack: &Stack, recorder: &Recorder) -> Vec<Wish> {
    let mut wishes = Vec::new();
    let talk = async |from: &str, to: &str| {
        let call = stack.talk(from, to).await;
        recorder.note(What::Given { stack: 0, call: call.clone() });
        call
    };
    for at in 0..EACH {
        let id = |kind: &str| format!("c{number}-{kind}{at}");
        let (takes, refuses) = (format!("takes{at}"), format!("refuses{at}"));
        let (target, starts, transfers) = if at.is_multiple_of(2) {
            (takes, TAKEN, TAKEN)
        } else {
            (refuses, START_REFUSED, TRANSFER_REFUSED)
        };
        let (start, transfer, hold) = (id("start"), id("transfer"), id("hold"));
        wishes.push(Wish {
            method: "CallStart",
            params: json!({
                "caller": uri(&format!("asks{at}"), &start).split(';').next(),
                "callee": uri(&target, &start), "display": start,
            }),
            wanted: starts,
            id: start,
        });
        let call = talk("talks0", &format!("talks{}", 1 + at % (EACH - 1))).await;
        wishes.push(Wish {
            method: "CallBlindTransfer",
            params: json!({
                "callid": call, "leg": "callee", "destination": uri(&target, &transfer),
            }),
            wanted: transfers,
            id: transfer,
        });
        let call = talk(&format!("holds{at}"), &format!("holds{}", (at + 1) % EACH)).await;
        let params = json!({"callid": call});
        wishes.push(Wish { method: "CallHold", params, wanted: TAKEN, id: hold });
    }
    wishes
}

impl Wish {
    /// Whether a phone calls another one for it.
    pub fn calls(&self) -> bool {
        self.method != "CallHold"
    }

    /// The call that it is about.
    pub fn call(&self) -> Option<String> {
        self.params["callid"].as_str().map(str::to_owned)
    }

    pub fn ask(&self, client: &Client) {
        client.ask(&self.id, self.method, self.params.clone());
    }
}
