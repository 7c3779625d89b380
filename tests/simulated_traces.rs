//! Every recording of a real OpenSIPS is replayed against the simulated one.
//!
//! A recording tells what went to the Management Interface, what phones did, and what came back.
//! The replay sends the same requests at the same (virtual) times, makes the phones behave as
//! they were seen to, and compares replies and events. What is random is set aside: ids, tags,
//! branches, points in time. Replies are compared with the request they answer; events as a
//! partial order, since real ones come from several processes: per subscriber, the order within
//! one dialog's states, one leg's hold, one call's transfer and one call's NOTIFYs must agree.
//!
//! Every file under `tests/traces/3.6` and `4.0` must be named in `RECORDINGS`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use callplane::stack::simulated::{
    Behaviour, Channel, Direction, Notify, Output, PhoneConfig, Script, Version, World,
    WorldConfig, reply_text,
};
use serde_json::{Value, json};

const PHONES: [&str; 3] = ["alice", "bob", "carol"];

/// What of a recording is compared.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Compared {
    /// Replies and events.
    All,
    /// Replies; the events show TCP buffering between sockets, which is no matter of OpenSIPS'
    /// own messages.
    Replies,
    /// Nothing but that the requests are taken: the recording has notes only.
    NotesOnly,
}

const RECORDINGS: &[(&str, Compared)] = &[
    ("attended", Compared::All),
    ("attended_fail", Compared::All),
    ("big", Compared::All),
    ("blind_no_follow", Compared::All),
    ("blind_no_notify", Compared::All),
    ("blind_notify_late", Compared::All),
    ("blind_ok", Compared::All),
    ("blind_refused", Compared::All),
    ("blind_silent", Compared::All),
    ("blind_target_fail", Compared::All),
    ("call_start_fail", Compared::All),
    ("call_start_ok", Compared::All),
    ("call_start_peer_bye", Compared::All),
    ("dlg_states", Compared::All),
    ("end", Compared::All),
    ("hold", Compared::All),
    ("hold_491", Compared::All),
    ("hold_both_calls", Compared::All),
    ("hold_early", Compared::All),
    ("hold_leg", Compared::All),
    ("hold_reject", Compared::All),
    // Ends with the crash of 3.6.8: no reply to `uptime`.
    ("hold_timeout", Compared::All),
    // Rows that show the HTTP server itself (paths, content types) are the server's tests.
    ("http", Compared::All),
    ("http_batch", Compared::All),
    ("inject", Compared::All),
    ("lists", Compared::All),
    // Both end with the crash of 4.0.1.
    ("mi_batch", Compared::All),
    ("mi_no_method", Compared::All),
    ("mi_protocol", Compared::All),
    ("restart", Compared::All),
    ("seq_refer", Compared::All),
    ("stream", Compared::All),
    // `reliable_mode` adds ids to events, which are set aside.
    ("stream_reliable", Compared::All),
    ("stream_slow", Compared::Replies),
    ("stream_stuck", Compared::Replies),
    ("subscribe", Compared::All),
    ("transfer_early", Compared::All),
    ("transfer_errors", Compared::All),
    ("uac_cancel", Compared::All),
    ("uac_concurrent", Compared::All),
    ("udp_burst", Compared::NotesOnly),
];

/// Recordings of the reference script.
const REFERENCE_RECORDINGS: &[(&str, Compared)] = &[
    ("attended_fails", Compared::All),
    ("attended_ok", Compared::All),
    ("blind_no_notify", Compared::All),
    ("blind_ok", Compared::All),
    ("blind_target_fails", Compared::All),
    ("connect", Compared::All),
    ("end_states", Compared::All),
    ("hold", Compared::All),
    ("hold_refused", Compared::All),
    ("start_again", Compared::All),
    ("start_bye_then_dial", Compared::All),
    ("start_callee_fails", Compared::All),
    ("start_cancel", Compared::All),
    ("start_cancel_ringing_callee", Compared::All),
    ("start_hangup", Compared::All),
    ("start_ok", Compared::All),
    ("start_refer_refused", Compared::All),
    ("start_refer_silent", Compared::All),
    ("start_refused", Compared::All),
    ("start_revoke", Compared::All),
    ("start_silent", Compared::All),
    ("unknown_calls", Compared::All),
];

#[test]
fn opensips_3_6() {
    replay_all("3.6", Version::V3_6, Script::Stock, RECORDINGS);
}

#[test]
fn opensips_4_0() {
    replay_all("4.0", Version::V4_0, Script::Stock, RECORDINGS);
}

#[test]
fn reference_script_on_opensips_3_6() {
    replay_all("3.6-reference", Version::V3_6, Script::Reference, REFERENCE_RECORDINGS);
}

#[test]
fn reference_script_on_opensips_4_0() {
    replay_all("4.0-reference", Version::V4_0, Script::Reference, REFERENCE_RECORDINGS);
}

#[test]
fn every_recording_is_named_once() {
    for (folder, recordings) in [
        ("3.6", RECORDINGS),
        ("4.0", RECORDINGS),
        ("3.6-reference", REFERENCE_RECORDINGS),
        ("4.0-reference", REFERENCE_RECORDINGS),
    ] {
        let mut there: Vec<String> = std::fs::read_dir(traces().join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        there.sort();
        let mut named: Vec<String> = recordings.iter().map(|(n, _)| (*n).to_owned()).collect();
        named.sort();
        assert_eq!(there, named, "tests/traces/{folder} and the list differ");
    }
}

#[test]
fn answers_come_when_the_phones_answer_not_in_the_order_asked() {
    for (folder, version) in [("3.6", Version::V3_6), ("4.0", Version::V4_0)] {
        let recording = Recording::read(&traces().join(folder).join("uac_concurrent.jsonl"));
        let replayed = Replay::run(&recording, version, Script::Stock);
        let mut answered = replayed.replies.clone();
        answered.sort_by_key(|r| r.at);
        let ids: Vec<_> = answered.iter().map(|r| parsed(&r.text)["id"].clone()).collect();
        assert_eq!(ids, [json!(4), json!(3), json!(2), json!(1)], "{folder}");
    }
}

#[test]
fn one_seed_gives_one_history() {
    let recording = Recording::read(&traces().join("3.6/blind_target_fail.jsonl"));
    let texts = || {
        let replayed = Replay::run(&recording, Version::V3_6, Script::Stock);
        let events: Vec<_> = replayed.events.into_iter().map(|e| (e.at, e.text)).collect();
        let replies: Vec<_> = replayed.replies.into_iter().map(|r| (r.at, r.text)).collect();
        (events, replies)
    };
    assert_eq!(texts(), texts());
}

fn traces() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traces")
}

fn replay_all(folder: &str, version: Version, script: Script, recordings: &[(&str, Compared)]) {
    let mut wrong = Vec::new();
    for (name, compared) in recordings {
        let recording = Recording::read(&traces().join(folder).join(format!("{name}.jsonl")));
        let replay = Replay::run(&recording, version, script);
        let mut differences = Vec::new();
        let mut things = 0;
        if *compared == Compared::NotesOnly {
            let only_notes = recording.rows.iter().all(|r| r.channel == "note");
            assert!(only_notes, "{folder}/{name} has more than notes");
        } else {
            things += compare_replies(&recording, &replay, &mut differences);
            assert!(things > 0, "{folder}/{name}: no reply to compare");
        }
        if *compared == Compared::All {
            things += compare_events(&recording, &replay, &mut differences);
        }
        println!("{folder}/{name}: {things} replies and events compared");
        wrong.extend(differences.into_iter().map(|d| format!("{folder}/{name}: {d}")));
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

/// A line of a recording.
#[derive(Debug, Clone)]
struct Row {
    at: f64,
    channel: String,
    direction: String,
    row: Value,
}

impl Row {
    fn raw(&self) -> Option<&str> {
        self.row["raw"].as_str()
    }

    fn text(&self, member: &str) -> &str {
        self.row[member].as_str().unwrap_or_default()
    }

    /// The phone whose SIP message this is.
    fn phone(&self) -> Option<&str> {
        self.channel.strip_prefix("sip:")
    }

    fn is_out(&self, method: &str) -> bool {
        self.direction == "out" && self.text("start").split(' ').next() == Some(method)
    }

    fn is_in(&self, method: &str) -> bool {
        self.direction == "in" && self.text("start").split(' ').next() == Some(method)
    }

    /// The status code of a reply this phone sent.
    fn replied(&self) -> Option<u16> {
        if self.direction != "out" {
            return None;
        }
        self.text("start").strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok()
    }
}

struct Recording {
    /// Made on an OpenSIPS that had other recordings before: lists show their dialogs too.
    shared: bool,
    rows: Vec<Row>,
    sip_port: u32,
    /// Dialog id, from-tag and to-tag by Call-ID, as recorded.
    dialogs: Vec<(String, String)>,
    tags: Vec<(String, String, bool)>,
}

impl Recording {
    fn read(path: &Path) -> Recording {
        let text =
            std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut rows: Vec<Row> = text
            .lines()
            .map(|line| {
                let row: Value = serde_json::from_str(line).unwrap();
                Row {
                    at: row["t"].as_f64().unwrap(),
                    channel: row["ch"].as_str().unwrap().to_owned(),
                    direction: row["dir"].as_str().unwrap_or_default().to_owned(),
                    row,
                }
            })
            .collect();
        rows.sort_by(|a, b| a.at.total_cmp(&b.at));
        let sip_port = text
            .match_indices("127.0.0.1:")
            .filter_map(|(i, m)| text.get(i + m.len()..i + m.len() + 5)?.parse::<u32>().ok())
            .find_map(|p| match p % 100 {
                60 => Some(p),
                66 => Some(p - 6),
                _ => None,
            })
            .unwrap_or(22060);
        let mut dialogs = Vec::new();
        let mut tags = Vec::new();
        for row in &rows {
            for message in json_stream(row.raw().unwrap_or_default()) {
                find_dialogs(&message, &mut dialogs, &mut tags);
            }
        }
        let shared = path.to_string_lossy().contains("-reference");
        Recording { shared, rows, sip_port, dialogs, tags }
    }

    /// Takes dialogs of earlier recordings out of a list.
    fn leave_out_strangers(&self, answer: &mut Value) {
        let list = answer.pointer_mut("/result/Dialogs").and_then(Value::as_array_mut);
        let Some(list) = list.filter(|_| self.shared) else { return };
        list.retain(|dialog| {
            let callid = dialog["callid"].as_str().unwrap();
            self.rows.iter().any(|r| {
                let listed =
                    r.direction == "in" && r.raw().is_some_and(|t| t.contains("\"Dialogs\""));
                r.text("callid") == callid
                    || (!listed && r.raw().is_some_and(|t| t.contains(callid)))
            })
        });
    }

    /// Ports are base + 60 for SIP, base + 101.. for phones.
    fn config(&self, version: Version, script: Script) -> WorldConfig {
        let base = self.sip_port - 60;
        WorldConfig {
            version,
            script,
            domain: format!("127.0.0.1:{}", self.sip_port),
            callplane_socket: format!("127.0.0.1:{}", base + 66),
            fr_timeout: Duration::from_secs(match script {
                Script::Stock => 5,
                Script::Reference => 2,
            }),
            fr_inv_timeout: Duration::from_secs(8),
            dialog_timeout: Duration::from_secs(3600),
            hop: Duration::from_micros(100),
            supervised: None,
            phones: PHONES
                .into_iter()
                .zip(base + 101..)
                .map(|(name, port)| PhoneConfig::new(name, &format!("127.0.0.1:{port}")))
                .collect(),
            ..WorldConfig::default()
        }
    }
}

/// Dialog ids and tags with their Call-IDs, wherever they are shown.
fn find_dialogs(
    value: &Value,
    dialogs: &mut Vec<(String, String)>,
    tags: &mut Vec<(String, String, bool)>,
) {
    match value {
        Value::Object(map) => {
            let text = |name: &str| map.get(name).and_then(Value::as_str);
            if let Some(callid) = text("callid") {
                if let Some(id) = text("ID").or_else(|| text("id")) {
                    dialogs.push((id.to_owned(), callid.to_owned()));
                }
                for (name, from) in [("from_tag", true), ("caller_tag", true), ("to_tag", false)] {
                    if let Some(tag) = text(name) {
                        tags.push((tag.to_owned(), callid.to_owned(), from));
                    }
                }
            }
            map.values().for_each(|v| find_dialogs(v, dialogs, tags));
        }
        Value::Array(list) => list.iter().for_each(|v| find_dialogs(v, dialogs, tags)),
        _ => {}
    }
}

/// JSON values written back to back; what is no JSON is left out.
fn json_stream(text: &str) -> Vec<Value> {
    serde_json::Deserializer::from_str(text).into_iter::<Value>().map_while(Result::ok).collect()
}

fn first_json(text: &str) -> Value {
    json_stream(text).into_iter().next().unwrap_or(Value::Null)
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
}

/// What a phone did each time it was asked, in the order of time.
#[derive(Debug, Default)]
struct Observed {
    calls: Vec<(f64, u16, bool, u64)>,
    refers: Vec<Referred>,
    reinvites: Vec<(f64, u16, u64)>,
    infos: Vec<(f64, u16)>,
}

#[derive(Debug, Clone)]
struct Referred {
    at: f64,
    code: u16,
    follow: bool,
    follow_ms: u64,
    notify: Notify,
    notify_early: bool,
    notify_body: Option<String>,
}

/// Milliseconds between two points, as a lab script would have set them: multiples of 50.
fn lab_ms(from: f64, to: f64) -> u64 {
    let ms = ((to - from) * 1000.0 / 50.0).floor() * 50.0;
    if ms > 0.0 { ms as u64 } else { 0 }
}

fn observe(rows: &[Row], phone: &str) -> Observed {
    let own: Vec<&Row> = rows.iter().filter(|r| r.phone() == Some(phone)).collect();
    let mut seen = Vec::new();
    let mut observed = Observed::default();
    for (i, row) in own.iter().enumerate() {
        let (callid, cseq) = (row.text("callid"), row.text("cseq"));
        let Some(method) = cseq.split(' ').nth(1) else { continue };
        if row.direction != "in" || !row.is_in(method) || seen.contains(&(callid, cseq)) {
            continue;
        }
        seen.push((callid, cseq));
        let later = own.get(i + 1..).unwrap_or_default();
        let replies: Vec<(f64, u16)> = later
            .iter()
            .filter(|r| r.text("callid") == callid && r.text("cseq") == cseq)
            .filter_map(|r| Some((r.at, r.replied()?)))
            .collect();
        let last = replies.iter().find(|(_, code)| *code >= 200).copied();
        let in_dialog = row.text("to").contains("tag=");
        match method {
            "INVITE" if !in_dialog => {
                let cancelled =
                    later.iter().any(|r| r.is_in("CANCEL") && r.text("callid") == callid);
                let code = match last {
                    Some((_, 487)) if cancelled => 0,
                    Some((_, code)) => code,
                    None => 0,
                };
                let rings = replies.iter().any(|(_, code)| *code == 180);
                let ms = last.map_or(0, |(at, _)| lab_ms(row.at, at));
                observed.calls.push((row.at, code, rings, if code == 0 { 0 } else { ms }));
            }
            "INVITE" => {
                let (at, code) = last.unwrap_or((row.at, 0));
                observed.reinvites.push((row.at, code, lab_ms(row.at, at)));
            }
            "REFER" => observed.refers.push(observe_refer(row, last, later)),
            "INFO" => observed.infos.push((row.at, last.map_or(0, |(_, code)| code))),
            _ => {}
        }
    }
    observed
}

fn observe_refer(row: &Row, last: Option<(f64, u16)>, later: &[&Row]) -> Referred {
    let next = later
        .iter()
        .find(|r| r.is_in("REFER") && r.text("cseq") != row.text("cseq"))
        .map_or(f64::INFINITY, |r| r.at);
    let until = |r: &&&Row| r.at < next;
    let invite = later.iter().filter(until).find(|r| r.is_out("INVITE"));
    let notifies: Vec<(f64, &str)> = later
        .iter()
        .filter(until)
        .filter(|r| r.is_out("NOTIFY") && r.text("callid") == row.text("callid"))
        .map(|r| (r.at, r.text("body")))
        .collect();
    let trying = notifies.iter().find(|(_, body)| body.starts_with("SIP/2.0 100"));
    let odd = notifies
        .iter()
        .find(|(_, body)| body.strip_suffix("\r\n").is_none_or(|b| b.contains("\r\n")))
        .map(|(_, body)| (*body).to_owned());
    Referred {
        at: row.at,
        code: last.map_or(0, |(_, code)| code),
        follow: invite.is_some(),
        follow_ms: match (last, invite) {
            (Some((at, _)), Some(invite)) => lab_ms(at, invite.at),
            (Some(_) | None, _) => 0,
        },
        notify: match (notifies.is_empty(), trying) {
            (true, _) => Notify::None,
            (false, None) => Notify::Final,
            (false, Some(_)) => Notify::All,
        },
        notify_early: trying.zip(invite).is_none_or(|((at, _), invite)| *at <= invite.at),
        notify_body: odd,
    }
}

/// The value of the next use from `now` on; the last one if there is none.
fn upcoming<T>(list: &[T], now: f64, at: impl Fn(&T) -> f64) -> Option<&T> {
    list.iter().find(|x| at(x) >= now).or(list.last())
}

impl Observed {
    /// How the phone has to behave from `now` on until it is asked the next time.
    fn behaviour(&self, now: f64) -> Behaviour {
        let direction = Some(Direction::SendRecv);
        let mut b = Behaviour { direction, ..Behaviour::default() };
        if let Some((_, answer, ring, ring_ms)) = upcoming(&self.calls, now, |c| c.0) {
            (b.answer, b.ring, b.ring_ms) = (*answer, *ring, *ring_ms);
        }
        if let Some(refer) = upcoming(&self.refers, now, |r| r.at) {
            b.refer = refer.code;
            b.follow = refer.follow;
            b.follow_ms = refer.follow_ms;
            b.notify = refer.notify;
            b.notify_early = refer.notify_early;
            b.notify_body = refer.notify_body.clone();
        }
        if let Some((_, code, ms)) = upcoming(&self.reinvites, now, |r| r.0) {
            (b.reinvite, b.reinvite_ms) = (*code, *ms);
        }
        if let Some((_, code)) = upcoming(&self.infos, now, |i| i.0) {
            b.info = *code;
        }
        b
    }
}

#[derive(Debug, Clone)]
struct Sent {
    at: Duration,
    /// The row of the recording whose request it answers.
    ticket: u64,
    text: String,
}

struct Event {
    at: Duration,
    socket: String,
    text: String,
}

/// A recording played to a world.
struct Replay {
    replies: Vec<Sent>,
    events: Vec<Event>,
    /// Call-IDs of referred calls: (in the replay, as recorded).
    callids: Vec<(String, String)>,
}

impl Replay {
    fn run(recording: &Recording, version: Version, script: Script) -> Replay {
        let mut world = World::new(7, recording.config(version, script));
        let mut replay = Replay { replies: Vec::new(), events: Vec::new(), callids: Vec::new() };
        let observed: Vec<(&str, Observed)> =
            PHONES.into_iter().map(|name| (name, observe(&recording.rows, name))).collect();
        let actions = placed_calls(&recording.rows);
        let mut gone = false;
        for (number, row) in recording.rows.iter().enumerate() {
            let now = Duration::from_secs_f64(row.at);
            replay.until(&mut world, now, &actions);
            gone |= row.text("text") == "a phone that is registered and gone";
            for (name, observed) in &observed {
                let mut behaviour = observed.behaviour(row.at);
                if gone && *name == "alice" {
                    (behaviour.ring, behaviour.answer) = (false, 0);
                }
                world.set_behaviour(name, behaviour);
            }
            let ticket = number as u64;
            match row.channel.as_str() {
                "mi" if row.direction == "out" => {
                    let text = replay.translated(recording, &world, row.raw().unwrap());
                    world.receive(now, ticket, Channel::Datagram, text.as_bytes());
                }
                "http" if row.direction == "out" && served(row) => {
                    let text = replay.translated(recording, &world, row.raw().unwrap());
                    world.receive(now, ticket, Channel::Http, text.as_bytes());
                }
                "note" if row.text("text").starts_with("restart now") => {
                    world.restart(now, Some(Duration::from_secs(1)));
                }
                "note" if row.text("text").ends_with(" dialogs") => {
                    // `big` was recorded without the phones' messages.
                    let count: usize = row.text("text").split(' ').next().unwrap().parse().unwrap();
                    for n in world.calls().len()..count {
                        let callid = format!("big-{n:03}-{}", "x".repeat(60));
                        world.place_call_as(now, "alice", "bob", Some(&callid)).unwrap();
                    }
                    replay.until(&mut world, now + Duration::from_millis(1), &actions);
                }
                _ => replay.phone_acts(&mut world, row, now, &actions),
            }
        }
        let end = recording.rows.last().map_or(0.0, |r| r.at);
        // OpenSIPS' timers of N seconds end within the second before: what a recording shows last
        // may come a second later here.
        replay.until(&mut world, Duration::from_secs_f64(end + 1.0), &actions);
        replay
    }

    fn phone_acts(&self, world: &mut World, row: &Row, now: Duration, actions: &Actions) {
        let Some(phone) = row.phone() else { return };
        let callid = row.text("callid");
        let target = row.text("start").split(' ').nth(1).unwrap_or_default();
        if row.is_out("INVITE") && row.text("cseq") == "1 INVITE" {
            if actions.placed.contains(callid) {
                world.place_call_as(now, phone, target, Some(callid)).unwrap();
            }
        } else if row.is_out("BYE") || row.is_out("CANCEL") {
            let callid = self.in_replay(callid);
            // False for a call this phone ends by itself, having replaced it.
            world.hang_up(now, phone, &callid);
        }
    }

    /// Runs the world up to `now` and takes what came out.
    fn until(&mut self, world: &mut World, now: Duration, actions: &Actions) {
        loop {
            let due = world.due().filter(|due| *due <= now);
            let at = due.unwrap_or(now);
            world.advance(at);
            while let Some(output) = world.take() {
                match output {
                    Output::Answer { asker, answer } => self.replies.push(Sent {
                        at,
                        ticket: asker.ticket,
                        text: reply_text(&asker, &answer),
                    }),
                    Output::Plain { ticket, text } => {
                        self.replies.push(Sent { at, ticket, text: text.to_owned() });
                    }
                    Output::Event { socket, event } => {
                        let mut text = String::new();
                        event.encode(&mut text);
                        self.events.push(Event { at, socket: socket.to_string(), text });
                    }
                    Output::Down | Output::Up => {}
                }
            }
            self.learn(world, actions);
            if due.is_none() {
                return;
            }
        }
    }

    /// Finds the new calls: the first referred call of a phone in the replay is the first one in
    /// the recording.
    fn learn(&mut self, world: &World, actions: &Actions) {
        for call in world.calls() {
            let name = call.callid.split('-').next().unwrap_or_default();
            let known = self.callids.iter().any(|(c, _)| *c == call.callid);
            if known || !PHONES.contains(&name) || actions.placed.contains(&call.callid) {
                continue;
            }
            let taken = self.callids.iter().filter(|(c, _)| c.starts_with(name)).count();
            let recorded = actions.referred.iter().filter(|(p, _)| p == name).nth(taken);
            if let Some((_, recorded)) = recorded {
                self.callids.push((call.callid.clone(), recorded.clone()));
            }
        }
    }

    fn in_replay(&self, recorded: &str) -> String {
        self.callids
            .iter()
            .find(|(_, r)| r == recorded)
            .map_or_else(|| recorded.to_owned(), |(replayed, _)| replayed.clone())
    }

    /// A recorded request with the replay's Call-IDs, dialog ids and tags.
    fn translated(&self, recording: &Recording, world: &World, raw: &str) -> String {
        let mut text = raw.to_owned();
        let calls = world.calls();
        let live = |recorded: &str| {
            let callid = self.in_replay(recorded);
            calls.iter().find(|c| c.callid == callid)
        };
        for (id, callid) in &recording.dialogs {
            if let Some(call) = live(callid).filter(|_| text.contains(id)) {
                text = text.replace(id, &call.dialog);
            }
        }
        for (tag, callid, from) in &recording.tags {
            if let Some(call) = live(callid).filter(|_| text.contains(tag)) {
                let own = if *from { &call.caller_tag } else { &call.callee_tag };
                text = text.replace(tag, own);
            }
        }
        for (replayed, recorded) in &self.callids {
            text = text.replace(recorded, replayed);
        }
        text
    }
}

/// The calls phones placed: by themselves, and because of a REFER (phone and Call-ID).
#[derive(Debug, Default)]
struct Actions {
    placed: BTreeSet<String>,
    referred: Vec<(String, String)>,
}

fn placed_calls(rows: &[Row]) -> Actions {
    let mut found = Actions::default();
    let mut pending: BTreeMap<&str, usize> = BTreeMap::new();
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for row in rows {
        let Some(phone) = row.phone() else { continue };
        let (callid, cseq) = (row.text("callid"), row.text("cseq"));
        if cseq.ends_with("REFER") && row.replied().is_some_and(|c| c < 300) {
            *pending.entry(phone).or_default() += 1;
        }
        if !row.is_out("INVITE") || cseq != "1 INVITE" || seen.contains(&(callid, cseq)) {
            continue;
        }
        seen.push((callid, cseq));
        match pending.get_mut(phone) {
            Some(count) if *count > 0 => {
                *count -= 1;
                found.referred.push((phone.to_owned(), callid.to_owned()));
            }
            Some(_) | None => {
                found.placed.insert(callid.to_owned());
            }
        }
    }
    found
}

/// HTTP rows that OpenSIPS' MI answers, not its HTTP server.
fn served(row: &Row) -> bool {
    row.text("path").starts_with("/mi") && row.text("ctype") == "application/json"
}

/// Which request row each reply row answers, by the id it carries.
fn compare_replies(recording: &Recording, replay: &Replay, wrong: &mut Vec<String>) -> usize {
    let mut open: Vec<(usize, Value)> = Vec::new();
    let mut compared = 0;
    for (number, row) in recording.rows.iter().enumerate() {
        if row.channel != "mi" && row.channel != "http" {
            continue;
        }
        if row.direction == "out" {
            if row.channel == "mi" || served(row) {
                open.push((number, first_json(row.raw().unwrap())["id"].clone()));
            }
            continue;
        }
        let Some(raw) = row.raw() else {
            // Nothing came: nothing may come in the replay either, as far as was waited.
            if row.channel == "mi" && open.len() == 1 {
                let (ticket, _) = open.remove(0);
                let until = Duration::from_secs_f64(row.at);
                if let Some(r) =
                    replay.replies.iter().find(|r| r.ticket == ticket as u64 && r.at <= until)
                {
                    wrong.push(format!("t={} no reply expected: {}", row.at, r.text));
                }
                compared += 1;
            }
            continue;
        };
        if row.row["status"].as_u64().is_some_and(|s| s != 200) {
            continue;
        }
        let id = parsed(raw)["id"].clone();
        let same = |sent: &Value| {
            *sent == id
                || (id == json!(2_147_483_647) && sent.as_u64() > id.as_u64())
                || (id.is_null() && !sent.is_string())
                || (row.row["bytes"].is_u64())
        };
        let Some(place) = open.iter().position(|(_, sent)| same(sent)) else {
            wrong.push(format!("t={} reply without request: {raw}", row.at));
            continue;
        };
        let (ticket, _) = open.remove(place);
        compared += 1;
        let replies: Vec<&Sent> =
            replay.replies.iter().filter(|r| r.ticket == ticket as u64).collect();
        match replies.as_slice() {
            [one] => match row.row["bytes"].as_u64() {
                // Cut in the recording: the kind and the length.
                Some(bytes) if recording.shared => {
                    let length = one.text.len() as u64;
                    if length > bytes || !one.text.contains("\"Dialogs\"") {
                        wrong.push(format!("t={} {length} bytes, recorded {bytes}", row.at));
                    }
                }
                Some(bytes) => {
                    let (bytes, length) = (bytes as f64, one.text.len() as f64);
                    if (bytes - length).abs() > bytes * 0.02 || !one.text.contains("\"Dialogs\"") {
                        wrong.push(format!("t={} {length} bytes, recorded {bytes}", row.at));
                    }
                }
                None => {
                    let context = format!("t={} id {id}", row.at);
                    let mut answer = parsed(raw);
                    recording.leave_out_strangers(&mut answer);
                    same_value(&answer, &replay.recorded(&one.text), &context, "", wrong);
                }
            },
            other => wrong.push(format!("t={} {} replies, recorded {raw}", row.at, other.len())),
        }
    }
    compared
}

impl Replay {
    /// A text of the replay with the recorded Call-IDs.
    fn recorded(&self, text: &str) -> Value {
        let mut text = text.to_owned();
        for (replayed, recorded) in &self.callids {
            text = text.replace(replayed, recorded);
        }
        parsed(&text)
    }
}

/// Members that are random or points in time: only their kind is compared.
const RANDOM: &[&str] = &[
    "ID",
    "id",
    "db_id",
    "caller_tag",
    "callee_tag",
    "from_tag",
    "to_tag",
    "datestart",
    "dateout",
    "Now",
    "Up since",
    "Up time",
    "ContactID",
    "Callid",
    "cp_caller_tag",
    "cp_referred_tag",
];
/// Seconds that may be one off: the replay does not know the fraction of the second.
const SECONDS: &[&str] = &["ttl", "Expires"];
/// Seconds since 1970, or 0.
const POINTS: &[&str] = &["timestart", "timeout"];

fn same_value(
    recorded: &Value,
    replayed: &Value,
    context: &str,
    name: &str,
    wrong: &mut Vec<String>,
) {
    let mut differ = || wrong.push(format!("{context} {name}: {replayed}, recorded {recorded}"));
    match (recorded, replayed) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = |m: &serde_json::Map<String, Value>| m.keys().cloned().collect::<Vec<_>>();
            if keys(a) != keys(b) {
                return differ();
            }
            for (key, value) in a {
                // The id of an answer or event type is no dialog's.
                let random = RANDOM.contains(&key.as_str()) && !(key == "id" && value.is_number());
                if random {
                    if value.is_null() != b[key].is_null()
                        || value.is_string() != b[key].is_string()
                    {
                        wrong.push(format!("{context} {key}: {}, recorded {value}", b[key]));
                    }
                } else {
                    same_value(value, &b[key], context, key, wrong);
                }
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            if a.len() != b.len() {
                return differ();
            }
            // Lists of dialogs and addresses come in the order of a hash table.
            let sorted = |list: &[Value]| {
                let mut list = list.to_vec();
                list.sort_by_key(|v| {
                    ["callid", "AOR"]
                        .iter()
                        .find_map(|k| v[k].as_str())
                        .unwrap_or_default()
                        .to_owned()
                });
                list
            };
            for (a, b) in sorted(a).iter().zip(&sorted(b)) {
                same_value(a, b, context, name, wrong);
            }
        }
        (Value::Number(a), Value::Number(b)) if SECONDS.contains(&name) => {
            if (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() > 1.0 {
                differ();
            }
        }
        (Value::Number(a), Value::Number(b)) if POINTS.contains(&name) => {
            if (a.as_u64() == Some(0)) != (b.as_u64() == Some(0)) {
                differ();
            }
        }
        // The lab's phones have no phrase for some codes.
        (Value::String(a), Value::String(_)) if name == "Reason" && a == "Status" => {}
        (Value::String(a), Value::String(b)) => {
            if set_aside(a) != set_aside(b) {
                differ();
            }
        }
        (a, b) => {
            if a != b {
                differ();
            }
        }
    }
}

/// A text without its random parts.
fn set_aside(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    loop {
        let next = ["tag=", "did=", "osid=", "branch="]
            .iter()
            .filter_map(|m| Some((rest.find(m)? + m.len(), ())))
            .min();
        let Some((at, ())) = next else {
            out.push_str(rest);
            return out;
        };
        let (kept, random) = rest.split_at(at);
        out.push_str(kept);
        out.push('*');
        let end = random.find([';', '>', '\r', '&', ' ', '"']).unwrap_or(random.len());
        rest = random.split_at(end).1;
    }
}

/// What must keep its order among events, and the event without its random parts.
fn ordered_by(event: &Value) -> String {
    let p = &event["params"];
    let text = |name: &str| p[name].as_str().unwrap_or_default().to_owned();
    let name = event["method"].as_str().unwrap_or_default();
    match name {
        "E_CALL_TRANSFER" => format!("{name} {} {}", text("callid"), text("state") == "notify"),
        "E_CALLPLANE" => format!("{name} {} {}", text("callid"), text("kind")),
        _ => format!("{name} {} {}", text("callid"), text("leg")),
    }
}

/// Events a real OpenSIPS lost on the way, as it may (event_datagram never waits): they are in
/// the recording of the other version.
const LOST_IN_RECORDING: &[&str] = &["E_CALLPLANE cp-lab-0-vz4vcXU bye"];

type Ordered = BTreeMap<String, Vec<Value>>;

fn compare_events(recording: &Recording, replay: &Replay, wrong: &mut Vec<String>) -> usize {
    let mut recorded: BTreeMap<String, Ordered> = BTreeMap::new();
    let mut replayed: BTreeMap<String, Ordered> = BTreeMap::new();
    let mut count = 0;
    for row in &recording.rows {
        if !["event", "tcp"].contains(&row.channel.as_str()) || row.direction != "in" {
            continue;
        }
        for mut event in json_stream(row.raw().unwrap_or_default()) {
            if row.channel == "tcp" {
                event.as_object_mut().unwrap().remove("id");
            }
            count += 1;
            let port = row.row["port"].to_string();
            let group = recorded.entry(port).or_default().entry(ordered_by(&event)).or_default();
            group.push(event);
        }
    }
    let deaf = deaf_time(recording);
    for event in &replay.events {
        let port = event.socket.split(['/']).next().unwrap().rsplit(':').next().unwrap();
        let at = event.at.as_secs_f64();
        let is_tcp = event.socket.starts_with("tcp");
        if is_tcp && deaf.is_some_and(|(from, to)| at > from && at < to) {
            continue;
        }
        // Nobody recorded this port at all: the lab's dead subscriber.
        let value = replay.recorded(&event.text);
        let group = replayed.entry(port.to_owned()).or_default();
        group.entry(ordered_by(&value)).or_default().push(value);
    }
    let dead = (recording.sip_port - 60 + 203).to_string();
    replayed.remove(&dead);
    for groups in replayed.values_mut() {
        groups.retain(|group, _| !LOST_IN_RECORDING.contains(&group.as_str()));
    }
    let names = |m: &BTreeMap<String, Ordered>| {
        m.iter()
            .flat_map(|(port, groups)| {
                groups.iter().map(move |(g, list)| (port.clone(), g.clone(), list.len()))
            })
            .collect::<Vec<_>>()
    };
    if names(&recorded) != names(&replayed) {
        let (a, b) = (names(&recorded), names(&replayed));
        for missing in a.iter().filter(|x| !b.contains(x)) {
            wrong.push(format!("events missing: {missing:?}"));
        }
        for extra in b.iter().filter(|x| !a.contains(x)) {
            wrong.push(format!("events too many: {extra:?}"));
        }
        return count;
    }
    for (port, groups) in &recorded {
        for (group, events) in groups {
            // Events of `raise_event` belong to no call: any order.
            let sorted = |list: &[Value]| {
                let mut list = list.to_vec();
                list.sort_by_key(|e| e["params"].as_array().map_or(0, Vec::len));
                list
            };
            for (a, b) in sorted(events).iter().zip(&sorted(&replayed[port][group])) {
                let (mut a, mut b) = (a.clone(), b.clone());
                if a["params"]["state"] == "notify" {
                    // Empty once `ok` or `fail` came; which is first is a race.
                    a["params"]["leg"] = Value::Null;
                    b["params"]["leg"] = Value::Null;
                }
                same_value(&a, &b, &format!("port {port} {group}"), "", wrong);
            }
        }
    }
    count
}

/// The time in which the lab's TCP listener was gone.
fn deaf_time(recording: &Recording) -> Option<(f64, f64)> {
    let at =
        |text: &str| recording.rows.iter().find(|r| r.text("text").starts_with(text)).map(|r| r.at);
    Some((at("nobody listens")?, at("listener is back")?))
}

#[test]
fn the_replay_notices_differences() {
    let mut wrong = Vec::new();
    let cases = [
        (json!({"a": 1}), json!({"a": 2})),
        (json!({"a": 1}), json!({"a": 1, "b": 2})),
        (json!([1]), json!([1, 2])),
        (json!({"to_tag": null}), json!({"to_tag": "x"})),
        (json!({"ttl": 600}), json!({"ttl": 590})),
        (json!({"timeout": 0}), json!({"timeout": 5})),
        (json!("a;tag=1;x"), json!("a;tag=2;y")),
    ];
    for (i, (a, b)) in cases.iter().enumerate() {
        same_value(a, b, "", "", &mut wrong);
        assert_eq!(wrong.len(), i + 1, "{a} {b}");
    }
    same_value(
        &json!({"ttl": 600, "t": "a;tag=1"}),
        &json!({"ttl": 599, "t": "a;tag=2"}),
        "",
        "",
        &mut wrong,
    );
    assert_eq!(wrong.len(), cases.len());
}
