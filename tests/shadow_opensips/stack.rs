//! A real OpenSIPS and its phones, and what these phones know of what was decided.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use callplane::stack::simulated::Script;
use serde_json::json;

use super::history::Time;
use super::noise::NOISE;
use super::phones::{self, Character};
pub use super::phones::{FR_INV_TIMEOUT, FR_TIMEOUT, RECEIVE_BUFFER};
pub use super::real::{Stack, domain};
use super::support::opensips::Options;
use super::support::phone::{Behaviour, Entry, Role, View, Way};
use super::support::sip::Direction;
use super::wave::Wish;
use super::wire::http;

/// As before the simulated one; and before a stock script it is the stack that refers, for then it also
/// tells what phones report. With the shipped one that is not asked for, and the processes say so.
pub const TIMES: &str =
    "ring_timeout: 60s\n  refer_follow: 10s\n  hold: call_hold\n  transfer: call_transfer";

pub async fn start(script: Script, _seed: u64) -> Stack {
    let options = Options {
        fr_timeout: FR_TIMEOUT,
        fr_inv_timeout: FR_INV_TIMEOUT,
        first: NOISE,
        ..Options::default()
    };
    let mut stack = Stack::with(0, script, options);
    for (user, character) in phones::all() {
        stack.add(&user, behaviour(character));
    }
    stack
}

fn behaviour(character: Character) -> Behaviour {
    let plain = Behaviour::default();
    match character {
        Character::Plain => plain,
        Character::Takes(late) => Behaviour { ring_for: late, ..plain },
        Character::Refuses(late) => Behaviour { ring_for: late, answer: Some(486), ..plain },
        Character::Holds(late) => Behaviour { reinvite_after: late, ..plain },
        Character::Rings => Behaviour { answer: None, ..plain },
    }
}

/// What phones did about one command.
#[derive(Debug, Default)]
struct Saw {
    /// Their last words on it, and how long ago they were said.
    last: Vec<(u16, Duration)>,
    /// What those were asked for who hold.
    offered: Vec<Option<Direction>>,
}

impl Saw {
    /// Whether that is how it ended.
    fn is(&self, wish: &Wish, outcome: &str) -> bool {
        let said: Vec<u16> = self.last.iter().map(|(status, _)| *status).collect();
        let held = self.offered == [Some(Direction::Inactive); 2];
        match (wish.calls(), &said[..]) {
            (true, [200]) => outcome == "success",
            (true, [486]) => outcome.starts_with("failed ") && outcome.ends_with(" 486"),
            (false, [200, 200]) => held && outcome == "success",
            _ => false,
        }
    }
}

impl Stack {
    /// Whether all of these calls are up.
    pub async fn are_up(&self, calls: &[String]) -> bool {
        let asked = json!({"jsonrpc": "2.0", "id": 1, "method": "dlg_list"});
        let listed = http(self.mi_http, "POST", "/mi", Some(&asked)).await;
        let dialogs = listed["result"]["Dialogs"].as_array().cloned().unwrap_or_default();
        let is_up =
            |call: &String| dialogs.iter().any(|one| one["callid"] == **call && one["state"] == 4);
        calls.iter().all(is_up)
    }

    /// How many of these a phone decided within that time, by its own log.
    pub fn decided(&self, wishes: &[Wish], within: Range<Time>, now: Time) -> Option<usize> {
        let saw = self.saw(wishes);
        let at = |ago: &Duration| now.saturating_sub(u64::try_from(ago.as_millis()).unwrap());
        let last = saw.values().filter_map(|saw| saw.last.iter().map(|(_, ago)| at(ago)).max());
        Some(last.filter(|at| within.contains(at)).count())
    }

    /// Where a command was told to have ended otherwise than phones saw.
    pub fn told_wrong(&self, told: &[(&Wish, String)]) -> Vec<String> {
        let saw = self.saw(told.iter().map(|(wish, _)| *wish));
        let wrong = told.iter().filter_map(|(wish, outcome)| {
            let saw = &saw[&wish.id];
            let wrong = !saw.is(wish, outcome);
            wrong.then(|| format!("{}: {outcome} was told, phones saw {saw:?}", wish.id))
        });
        // An end may be asked for twice, and OpenSIPS sends both. Its own hold does not count its offers.
        let its_own = [": BYE with CSeq", ": offer o= version"];
        let mut hurt = self.violations();
        hurt.retain(|said| !its_own.iter().any(|known| said.contains(known)));
        wrong.chain(hurt.into_iter().map(|said| format!("a phone: {said}"))).collect()
    }

    /// What phones saw of each.
    fn saw<'a>(&self, wishes: impl IntoIterator<Item = &'a Wish>) -> BTreeMap<String, Saw> {
        let known = self.phones().map(|phone| (phone.view(), phone.ago(Duration::ZERO)));
        let known: Vec<(View, Duration)> = known.collect();
        let of = |wish: &Wish| {
            let placed = || known.iter().find_map(|(view, _)| placed(&view.log, &wish.id));
            let call = if wish.calls() { placed() } else { wish.call() };
            let mut saw = Saw::default();
            for (view, now) in &known {
                let Some(dialog) = call.as_ref().and_then(|call| view.dialog(call)) else {
                    continue;
                };
                let answers = view.log.iter().filter(|entry| is_answer(entry, &dialog.call_id));
                // Who was called has taken that call before.
                let before = usize::from(!wish.calls() && dialog.role == Role::Callee);
                if let Some(last) = answers.skip(before).last() {
                    saw.last.push((last.message.status(), now.saturating_sub(last.at)));
                }
                saw.offered.push(dialog.offers.last().map(|offer| offer.direction));
            }
            (wish.id.clone(), saw)
        };
        wishes.into_iter().map(of).collect()
    }
}

/// Whether a phone's last word on an INVITE of this call.
fn is_answer(entry: &Entry, call: &str) -> bool {
    let message = &entry.message;
    let is_final = message.is_response() && message.status() >= 200;
    entry.way == Way::Out
        && !entry.again
        && is_final
        && message.method() == "INVITE"
        && message.call_id() == call
}

/// The call that was placed for a command.
fn placed(log: &[Entry], id: &str) -> Option<String> {
    let mark = format!(";cmd={id}");
    let is_its = |uri: &str| {
        let rest = uri.split_once(&mark).map(|(_, rest)| rest);
        rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric()))
    };
    let entry = log.iter().find(|entry| {
        let message = &entry.message;
        entry.way == Way::Out && message.method() == "INVITE" && is_its(message.uri())
    });
    entry.map(|entry| entry.message.call_id().to_owned())
}
