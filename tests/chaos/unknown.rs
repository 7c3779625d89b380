//! Why a command's end could not be known.
//!
//! Each `unknown` is held against what was done to the processes, to Redis and to the links, and against
//! what phones saw. One that nothing explains is a broken promise.

use serde_json::Value;

use super::faults::Done;
use super::history::{Fault, History, Time, What};
use super::mi::Asked;
use super::report::End;
use super::round::Played;

/// A fault is felt this much longer: until others have noticed, and a lead has changed hands.
const FELT: Time = 2500;

/// The reason, and whether it makes the word true.
pub fn reason(played: &Played, end: &End) -> (String, bool) {
    let Some(asking) = Asking::of(played, &end.id) else {
        return ("it was never asked".to_owned(), false);
    };
    let grade = if asking.params.to_string().contains("stack1") { "reference" } else { "stock" };
    if let Some(what) = store_lost(played, &asking, end) {
        return (what.to_owned(), true);
    }
    if let Some(silence) = silence_of(&end.code) {
        return (format!("{grade}: {silence}"), true);
    }
    let sent = sent(played, &asking, end);
    for request in sent.iter().rev() {
        let from = request.at.saturating_sub(100);
        let until = request.answered.unwrap_or(end.at).min(end.at) + FELT;
        if let Some(trouble) = trouble(played, request.pod, from, until) {
            let what = kind_of(request);
            return (format!("{grade}: {what} under way, its process {}", trouble.what), true);
        }
    }
    // What was to be sent next was in the hands of who was asked, or of who heard the stack.
    let stack = usize::from(grade == "reference");
    let last = sent.iter().map(|asked| asked.answered.unwrap_or(asked.at)).max();
    let from = last.unwrap_or(asking.at).saturating_sub(50);
    let name = format!("stack{stack}");
    let of_it = |at: Time| {
        let mut leads = played.leads.iter().filter(move |lead| lead.leads && lead.at <= at);
        leads.rfind(|lead| lead.stack == name).map(|lead| lead.pod)
    };
    let leaders = [of_it(from), of_it(from + 500), of_it(from + 4000)].into_iter().flatten();
    let asked = asking.pods.iter().copied().filter(|_| sent.is_empty());
    let until = (from + 4000).min(end.at);
    let mut next = asked.chain(leaders);
    if let Some(trouble) = next.find_map(|pod| trouble(played, pod, from, until)) {
        let what = match last {
            None => "nothing was seen sent",
            Some(_) => "what was to be sent next was not seen sent",
        };
        return (format!("{grade}: {what}, its process {}", trouble.what), true);
    }
    if let Some(seen) = seen_at_phones(&played.history, &end.id)
        && (0..played.pods)
            .all(|pod| trouble(played, pod, seen.saturating_sub(100), end.at).is_some())
    {
        return (format!("{grade}: nobody who heard of the new call lived on"), true);
    }
    // Whoever had sent it had the next look at its timer, or on its way.
    let mut hands = sent.iter().map(|asked| asked.pod).chain(asking.pods.iter().copied());
    if let Some(trouble) = hands.find_map(|pod| trouble(played, pod, from, end.at + FELT)) {
        let what = format!("{grade}: what was to be looked at next, its process {}", trouble.what);
        return (what, true);
    }
    if matches!(end.code.as_str(), "refer_ignored" | "caller_hung_up" | "call_ended") {
        return (format!("{grade}: a phone took a REFER and did nothing, or hung up"), true);
    }
    let sent: Vec<String> = sent
        .iter()
        .map(|asked| {
            let what = kind_of(asked);
            format!("{what} by {} at {} answered {:?}", asked.pod, asked.at, asked.answered)
        })
        .collect();
    let (at, pods) = (asking.at, &asking.pods);
    (format!("UNEXPLAINED ({grade}, asked {pods:?} at {at}, sent {sent:?})"), false)
}

/// What a client asked.
struct Asking {
    at: Time,
    params: Value,
    /// The processes that it asked, in order.
    pods: Vec<usize>,
}

impl Asking {
    fn of(played: &Played, id: &str) -> Option<Self> {
        let needle = format!("\"{id}\"");
        let mut asking: Option<Self> = None;
        for event in &played.history.events {
            let What::Sent { connection, text } = &event.what else { continue };
            if !text.contains(&needle) {
                continue;
            }
            let frame: Value = serde_json::from_str(text).unwrap();
            let method = frame["method"].as_str().unwrap();
            if frame["params"]["cmd_id"] != id || !method.starts_with("Call") {
                continue;
            }
            let params = frame["params"].clone();
            let asking = asking.get_or_insert(Self { at: event.at, params, pods: Vec::new() });
            asking.pods.extend(played.figures.pods.get(connection));
        }
        asking
    }

    /// The call that it changes.
    fn call(&self) -> Option<&str> {
        ["callid", "callidA"].iter().find_map(|name| self.params[*name].as_str())
    }
}

fn store_lost(played: &Played, asking: &Asking, end: &End) -> Option<&'static str> {
    let changed = played.faults.iter().any(|done| {
        done.what.starts_with("failover") && done.at <= end.at && done.until + 1000 >= asking.at
    });
    if changed {
        return Some("another redis became master while it ran");
    }
    let lost = played.history.events.iter().any(|event| {
        matches!(&event.what, What::Fault { kind: Fault::StoreLost, .. })
            && event.at + 5000 >= asking.at
            && event.at <= end.at
    });
    if lost {
        return Some("the store forgot everything while it ran");
    }
    let restarted = played.faults.iter().any(|done| {
        done.what == "redis restarted" && done.at <= end.at && done.until + 500 >= asking.at
    });
    restarted.then_some("the store restarted while it ran: it may have lost what it knew last")
}

/// What was sent to phones for it.
fn sent<'a>(played: &'a Played, asking: &Asking, end: &End) -> Vec<&'a Asked> {
    let of_it = |asked: &&Asked| {
        asked.at + 50 >= asking.at && asked.at <= end.at && is_of(asked, &end.id, asking.call())
    };
    played.asked.iter().filter(of_it).collect()
}

/// What was done to this process (or to all) in that time.
fn trouble(played: &Played, pod: usize, from: Time, until: Time) -> Option<&Done> {
    played.faults.iter().find(|done| {
        // One that died said nothing from then on; what it had said before was said.
        let until = if done.what == "killed" { until.saturating_sub(FELT - 500) } else { until };
        done.pod.is_none_or(|of| of == pod)
            && done.what != "rolling restart"
            && done.at <= until
            && done.until >= from
    })
}

/// When an INVITE of it first reached a phone.
fn seen_at_phones(history: &History, id: &str) -> Option<Time> {
    let mark = format!("cmd={id}");
    history.events.iter().find_map(|event| match &event.what {
        What::Invite { asked, by_proxy: false, .. } if has(asked, &mark) => Some(event.at),
        _ => None,
    })
}

/// What phones say by themselves that tells nothing (rows 37 and 39 of docs/outcomes.md).
fn silence_of(code: &str) -> Option<&'static str> {
    match code {
        "leg_timeout" => Some("a phone never answered a re-INVITE"),
        "leg_refused" => Some("a phone refused, and the other could not be put back"),
        _ => None,
    }
}

/// Whether a request to a proxy is of this command: it shows its mark, or changes its call.
fn is_of(asked: &Asked, id: &str, call: Option<&str>) -> bool {
    has(&asked.text, &format!("cmd={id}"))
        || asked.text.contains(&format!("\\\"{id}\\\""))
        || call.is_some_and(|call| asked.text.contains(&format!("\"{call}\"")))
}

/// Whether this number stands there, and not one that only begins so.
fn has(text: &str, mark: &str) -> bool {
    text.match_indices(mark)
        .any(|(at, _)| !text[at + mark.len()..].starts_with(|c: char| c.is_ascii_digit()))
}

fn kind_of(asked: &Asked) -> &'static str {
    match asked.method.as_str() {
        "t_uac_dlg" => "an INVITE",
        "call_transfer" => "a REFER",
        _ if asked.text.contains("REFER") => "a REFER",
        _ if asked.text.contains("INVITE") => "a re-INVITE",
        _ => "a request in the call",
    }
}
