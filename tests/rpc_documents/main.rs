//! docs/protocol.md and docs/openrpc.json say what the code does.
//!
//! `CALLPLANE_WRITE_DOCS=1 cargo test --test rpc_documents` writes both anew.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod openrpc;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::BytesMut;
use callplane::client::close::Close;
use callplane::client::{BODY_TIMEOUT, HEAD_TIMEOUT, SEND_TIMEOUT};
use callplane::config::Config;
use callplane::core::failure::{Failure, Outcome, SipStatus, Up};
use callplane::core::ids::{CallId, CommandId, Epoch, Scope, SessionId, TenantId};
use callplane::core::notice::{Data, Event, Notice, Remarks};
use callplane::core::record::{Entry, Key};
use callplane::core::request::{Leg, Method as Commanded};
use callplane::rpc::error::{Kind, Refusal};
use callplane::rpc::frame::{Id, LONGEST_ID};
use callplane::rpc::method::Method;
use callplane::rpc::wire::{self, Ending, Known, Repeated, Standing, Started};
use callplane::store::Limits;
use openrpc::FAILURES;
use serde_json::Value;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)
}

/// Compares a document with what it should say, or writes it.
fn hold(name: &str, expected: &str) {
    if std::env::var_os("CALLPLANE_WRITE_DOCS").is_some() {
        fs::write(path(name), expected).unwrap();
    }
    let found = fs::read_to_string(path(name)).unwrap();
    assert!(found == expected, "docs/{name} differs: CALLPLANE_WRITE_DOCS=1 writes it anew");
}

/// A time as a reader says it.
fn spoken(time: Duration) -> String {
    let seconds = time.as_secs();
    assert_eq!(Duration::from_secs(seconds), time);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

/// A number of bytes as a reader says it.
fn sized(bytes: usize) -> String {
    let (whole, unit) = if bytes < 1 << 20 { (bytes >> 10, "KiB") } else { (bytes >> 20, "MiB") };
    format!("{whole} {unit}")
}

fn limits() -> String {
    let Config { limits, store, .. } = Config::default();
    let mut table = "| limit | value | key | beyond it |\n|---|---|---|---|\n".to_owned();
    let mut row = |limit: &str, value: String, key: &str, beyond: &str| {
        let key = if key.is_empty() { String::new() } else { format!("`{key}`") };
        writeln!(table, "| {limit} | {value} | {key} | {beyond} |").unwrap();
    };
    row(
        "message",
        sized(limits.max_message.bytes()),
        "limits.max_message",
        "close 4500; 413 for a POST",
    );
    row(
        "requests in a batch",
        limits.max_batch.to_string(),
        "limits.max_batch",
        "one error -32600 for the whole batch",
    );
    let commands = limits.commands_in_flight;
    row(
        "commands that a connection began and that run at once, `CallEnd` not counted",
        commands.to_string(),
        "limits.commands_in_flight",
        "error -32004",
    );
    row(
        "`CallEnd`s of a connection that wait for their answer",
        commands.to_string(),
        "limits.commands_in_flight",
        "error -32004",
    );
    row(
        "requests of a connection that wait for the store or a stack",
        callplane::app::settings::client(&Config::default()).in_flight().to_string(),
        "limits.commands_in_flight",
        "the next ones are not read until one is answered. Always four times the commands",
    );
    row(
        "commands of before that a repeat tells a connection again",
        callplane::client::session::MOST_REPLAYED.to_string(),
        "",
        "`replayed: false`",
    );
    row(
        "commands of all sessions that run at once",
        callplane::engine::RUNNING.to_string(),
        "",
        "error -32004, but not for `CallEnd`",
    );
    row(
        "bytes waiting to be read by a client",
        sized(limits.outbound_bytes.bytes()),
        "limits.outbound_bytes",
        "close 4001. From a quarter of it on the client's requests are not read",
    );
    row("written bytes left unread", spoken(SEND_TIMEOUT), "", "close 4001");
    let (ping, idle) = (spoken(limits.ping_interval), spoken(limits.idle_timeout));
    row("silence of a client until it is pinged", ping, "limits.ping_interval", "a ping");
    row("the same until it is closed", idle, "limits.idle_timeout", "close 4002");
    row("WebSockets of a server", limits.sessions.to_string(), "limits.sessions", "HTTP 503");
    let sessions = limits.sessions;
    row(
        "other connections of a server",
        sessions.to_string(),
        "limits.sessions",
        "not accepted until another one ends",
    );
    row(
        "POSTs that wait for `Ended`",
        (sessions / 2).to_string(),
        "limits.sessions",
        "HTTP 503 with `Retry-After`. Always half of the other connections",
    );
    row("head of an HTTP request", spoken(HEAD_TIMEOUT), "", "the connection is dropped");
    row("body of a POST", spoken(BODY_TIMEOUT), "", "HTTP 408");
    row("`id` of a request", format!("{LONGEST_ID} bytes"), "", "error -32600");
    row(
        "id of an ended start or transfer",
        spoken(store.keep_starts),
        "store.keep_starts",
        "forgotten: `unknown_command`",
    );
    row("id of another ended command", spoken(store.keep_others), "store.keep_others", "the same");
    row(
        "ended commands whose ids are kept",
        Limits::default().ended.to_string(),
        "",
        "the oldest holds and ends are forgotten first, then starts and transfers",
    );
    let kept = format!("{}, {}", spoken(store.keep_notices), sized(store.notices_bytes.bytes()));
    row(
        "notifications of all sessions for `Resume` and repeats",
        kept,
        "store.keep_notices`, `store.notices_bytes",
        "`recovered: false`, `trimmed`; `replayed: false`",
    );
    table
}

fn errors() -> String {
    let mut table =
        "| code | `kind` | message | HTTP | temporary | what to do |\n|---|---|---|---|---|---|\n"
            .to_owned();
    for kind in Kind::ALL {
        let row = kind.row();
        let temporary = if row.temporary { "yes" } else { "no" };
        let (code, word, message, http, advice) =
            (row.code, row.word, row.message, row.http, row.advice);
        writeln!(table, "| {code} | `{word}` | {message} | {http} | {temporary} | {advice} |")
            .unwrap();
    }
    table
}

fn close_codes() -> String {
    let mut table = "| code | reason | connect again | meaning |\n|---|---|---|---|\n".to_owned();
    for close in Close::ALL {
        let row = close.row();
        let again = if row.reconnect { "yes" } else { "no" };
        writeln!(table, "| {} | {} | {again} | {} |", row.code, row.word, row.meaning).unwrap();
    }
    table
}

fn methods() -> String {
    let document = openrpc::document();
    let mut text = String::new();
    for described in document["methods"].as_array().unwrap() {
        let name = described["name"].as_str().unwrap();
        write!(text, "### {name}\n\n{}\n\n", described["summary"].as_str().unwrap()).unwrap();
        let own: Vec<_> = described["params"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|param| {
                let common = ["cmd_id", "external_id", "stack", "traceparent"];
                param["required"] == true || !common.contains(&param["name"].as_str().unwrap())
            })
            .collect();
        if !own.is_empty() {
            text.push_str("| parameter | | meaning |\n|---|---|---|\n");
        }
        for param in &own {
            let required = if param["required"] == true { "required" } else { "optional" };
            let meaning = param["schema"]["description"].as_str().unwrap();
            let meaning = meaning.replace('\n', " ");
            writeln!(text, "| `{}` | {required} | {meaning} |", param["name"].as_str().unwrap())
                .unwrap();
        }
        if !own.is_empty() {
            text.push('\n');
        }
        if let Some(events) = described["x-events"].as_array() {
            let names: Vec<_> =
                events.iter().map(|event| format!("`{}`", event.as_str().unwrap())).collect();
            write!(text, "Events: {}\n\n", names.join(", ")).unwrap();
        } else if let Some(members) = result_members(&document, described) {
            write!(text, "Result: {members}\n\n").unwrap();
        }
    }
    text.trim_end().to_owned() + "\n"
}

/// The members of a method's result, those that may be absent with a question mark.
fn result_members(document: &Value, described: &Value) -> Option<String> {
    let schema = resolve(document, &described["result"]["schema"]);
    let required: Vec<_> =
        schema["required"].as_array()?.iter().filter_map(Value::as_str).collect();
    let members = schema["properties"].as_object()?.keys().map(|name| {
        if required.contains(&name.as_str()) { format!("`{name}`") } else { format!("`{name}`?") }
    });
    Some(members.collect::<Vec<_>>().join(", "))
}

fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap(),
        None => schema,
    }
}

#[test]
fn the_protocol_page_has_the_tables_of_the_code() {
    let page = fs::read_to_string(path("protocol.md")).unwrap();
    let mut expected = String::new();
    let mut rest = page.as_str();
    for (mark, table) in [
        ("limits", limits()),
        ("errors", errors()),
        ("methods", methods()),
        ("close codes", close_codes()),
    ] {
        let begin = format!("<!-- generated: {mark} -->\n");
        let (before, after) = rest.split_once(&begin).unwrap_or_else(|| panic!("no mark {mark}"));
        let (_, after) = after.split_once("<!-- end -->").unwrap();
        write!(expected, "{before}{begin}\n{table}\n<!-- end -->").unwrap();
        rest = after;
    }
    expected.push_str(rest);
    hold("protocol.md", &expected);
}

#[test]
fn the_openrpc_document_is_that_of_the_code() {
    let text = serde_json::to_string_pretty(&openrpc::document()).unwrap() + "\n";
    hold("openrpc.json", &text);
}

#[test]
fn the_protocol_page_explains_every_event_and_failure() {
    let page = fs::read_to_string(path("protocol.md")).unwrap();
    for event in Event::ALL {
        assert!(page.contains(&format!("`{}`", event.as_str())), "{event:?}");
    }
    let codes = page.split("### Why commands fail").nth(1).unwrap();
    let codes = codes.split("\n## ").next().unwrap();
    for code in FAILURES {
        assert!(codes.contains(&format!("`{}`", code.as_str())), "{code:?}");
    }
}

#[test]
fn the_list_of_failures_is_complete() {
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/core/failure.rs");
    let source = fs::read_to_string(source).unwrap();
    let words: BTreeSet<_> = source
        .lines()
        .filter(|line| line.trim_start().starts_with("Self::"))
        .filter_map(|line| line.split_once("=> \"")?.1.split('"').next())
        .collect();
    let listed: BTreeSet<_> = FAILURES.iter().map(|code| code.as_str()).collect();
    for word in &listed {
        assert!(words.contains(word), "{word}");
    }
    // The other words of that file are those of Up and Outcome.
    let others: Vec<_> = words.difference(&listed).copied().collect();
    assert_eq!(others, ["failed", "no", "not_started", "success", "unknown", "yes"]);
}

/// Everything under `src`, without comments and without the tests of a file.
fn sources(folder: &Path, except: &[&str], text: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, except, text);
        } else if !except.iter().any(|file| path.ends_with(file)) {
            let file = fs::read_to_string(&path).unwrap();
            let file = file.split("#[cfg(test)]\nmod tests").next().unwrap();
            let code = file.lines().filter(|line| !line.trim_start().starts_with("//"));
            text.extend(code.flat_map(|line| [line, "\n"]));
        }
    }
}

#[test]
fn every_documented_error_is_one_that_is_sent() {
    let mut code = String::new();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    sources(&src, &["rpc/error.rs", "core/failure.rs"], &mut code);
    let named = |name: String| {
        code.match_indices(&name).any(|(at, _)| {
            !code[at + name.len()..].starts_with(|next: char| next.is_ascii_alphanumeric())
        })
    };
    for kind in Kind::ALL {
        assert!(named(format!("Kind::{kind:?}")), "{kind:?} is never answered");
    }
    for failure in FAILURES {
        assert!(named(format!("Code::{failure:?}")), "{failure:?} is never told");
    }
}

#[test]
fn the_described_params_are_those_that_are_read() {
    let document = openrpc::document();
    for (method, described) in Method::ALL.iter().zip(document["methods"].as_array().unwrap()) {
        assert_eq!(described["name"], method.as_str());
        let told: BTreeSet<_> = described["params"]
            .as_array()
            .unwrap()
            .iter()
            .map(|param| (param["name"].as_str().unwrap(), param["required"] == true))
            .collect();
        let read: BTreeSet<_> = method.fields().iter().copied().collect();
        assert_eq!(told, read, "{method:?}");
    }
}

#[test]
fn the_described_words_are_those_that_are_written() {
    let document = openrpc::document();
    let described = |name: &str| {
        let schema = &document["components"]["schemas"][name];
        let words = schema["oneOf"].as_array().unwrap().iter().map(|word| &word["const"]);
        words.map(|word| word.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(described("LegWord"), [Leg::Caller, Leg::Callee].map(Leg::as_str));
    assert_eq!(described("UpWord"), [Up::Yes, Up::No, Up::Unknown].map(Up::as_str));
    let outcomes = [
        Outcome::Success,
        Outcome::Failed,
        Outcome::Cancelled,
        Outcome::NotStarted,
        Outcome::Unknown { up: Up::No },
    ];
    assert_eq!(described("OutcomeWord"), outcomes.map(|outcome| outcome.as_str()));
}

#[test]
fn every_event_belongs_to_a_method() {
    let told: BTreeSet<_> = Commanded::ALL.into_iter().flat_map(openrpc::events).collect();
    assert_eq!(told, Event::ALL.iter().collect());
}

/// Everything in `value` is described, and everything required is there.
fn fits(document: &Value, name: &str, value: &Value) -> BTreeSet<String> {
    let schema = &document["components"]["schemas"][name];
    let known = schema["properties"].as_object().unwrap_or_else(|| panic!("no schema {name}"));
    let keys: BTreeSet<String> = value.as_object().unwrap().keys().cloned().collect();
    for key in &keys {
        assert!(known.contains_key(key), "{name} does not describe {key}: {value}");
    }
    for required in schema["required"].as_array().into_iter().flatten() {
        assert!(keys.contains(required.as_str().unwrap()), "{name} lacks {required}: {value}");
    }
    keys
}

fn written(write: impl FnOnce(&mut BytesMut)) -> Value {
    let mut out = BytesMut::new();
    write(&mut out);
    serde_json::from_slice(&out).unwrap()
}

#[test]
fn what_is_written_is_what_is_described() {
    let document = openrpc::document();
    let (epoch, session) = (Epoch::parse("e1").unwrap(), SessionId::parse("s1").unwrap());
    let id = CommandId::parse("c\"1\\").unwrap();
    let standing = Standing { session: &session, epoch: &epoch, seq: 7 };
    let failure = Failure {
        code: FAILURES[0],
        text: "486 Busy \"Here\"".into(),
        sip: Some(SipStatus::new(486, "Busy \"Here\"")),
        up: Up::No,
    };
    let remarks = Remarks {
        replaced: Some(true),
        may_still_ring: true,
        already: true,
        leg_left_up: true,
        observed_by_notify: true,
    };
    let ending = Ending {
        outcome: Outcome::Unknown { up: Up::Yes },
        remarks: remarks.clone(),
        failure: Some(failure.clone()),
    };
    let started = Started {
        cmd_id: &id,
        deadline_ms: Some(1),
        external_id: Some("x"),
        standing: Some(standing),
        repeated: Some(Repeated { replayed: Some(false), ended: Some(&ending) }),
    };
    let all = |name: &str| {
        let schema = &document["components"]["schemas"][name]["properties"];
        schema.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>()
    };
    let value = written(|out| wire::started(out, &started));
    let straight = written(|out| wire::straight(out, &id, "Started", &ending));
    let mut members = fits(&document, "StartedResult", &straight);
    assert!(members.contains("degraded"), "{straight}");
    members.extend(fits(&document, "StartedResult", &value));
    assert_eq!(members, all("StartedResult"));
    assert_eq!(value["cmd_id"], "c\"1\\");
    fits(&document, "ErrorDetails", &value["error"]);
    let known = Known {
        cmd_id: &id,
        method: Commanded::CallHold,
        deadline_ms: 1,
        external_id: Some("x"),
        ended: Some(&ending),
    };
    let value = written(|out| wire::known(out, &known));
    assert_eq!(fits(&document, "CommandGetResult", &value), all("CommandGetResult"));
    let value = written(|out| wire::cancelling(out, &id, Some(&ending), true));
    assert_eq!(fits(&document, "CommandCancelResult", &value), all("CommandCancelResult"));

    let data = Data {
        callee: Some("a".into()),
        caller: Some("b".into()),
        callid: CallId::parse("c").ok(),
        destination: Some("d".into()),
        extra: SipStatus::parse("180 Ringing"),
        leg: Some(Leg::Callee),
    };
    let key = Key { tenant: TenantId::default(), scope: Scope::OneShot, id };
    let mut seen = BTreeSet::new();
    for notice in [
        Notice::Started { deadline_ms: 1 },
        Notice::Progress { event: Event::TransferPending, data },
        Notice::Error(failure),
        Notice::Ended { outcome: Outcome::Unknown { up: Up::No }, remarks },
    ] {
        let entry = Entry {
            seq: 1,
            session: session.clone(),
            key: key.clone(),
            method: Commanded::CallStart,
            external_id: Some("x".into()),
            asked: None,
            notice,
        };
        let value = written(|out| wire::notification(out, &epoch, &entry));
        assert_eq!(value["method"], "CallStart");
        let params = &value["params"];
        seen.extend(fits(&document, "EventParams", params));
        if params["data"].is_object() {
            assert_eq!(fits(&document, "EventData", &params["data"]), all("EventData"));
        }
    }
    assert_eq!(seen, all("EventParams"));

    let refusal = Refusal::new(Kind::StoreUnavailable)
        .at("f")
        .because("r")
        .of(key.id.clone())
        .retry_after(std::time::Duration::from_secs(1));
    let value = written(|out| wire::error(out, Id::NULL, &refusal));
    assert_eq!(fits(&document, "ErrorData", &value["error"]["data"]), all("ErrorData"));
}
