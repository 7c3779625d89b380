//! The file of the OpenSIPS Call API, accepted as it is.
//!
//! Its keys and defaults (read from that server, version of 2023-10):
//!
//! | its key | ours | its default |
//! |---|---|---|
//! | `ws_server.host`, `ws_server.port` | `listen.address` | `localhost`, 5059 (also for 0) |
//! | `ws_server.http_path` | `listen.path` | `/call-api` |
//! | `mi.url` | `stacks[0].mi` | `127.0.0.1:8080`, UDP |
//! | `sip.uri` | `stacks[0].next_hop` | none |
//! | `log.file_path` | `log.file` | standard error |
//! | `log.level` | `log.level` | `info` |
//!
//! That server ignores keys it does not know, so they are warned about here, not refused. Two keys
//! are ours: `ws_server.insecure_open`, so that the file can say the explicit word, and
//! `ws_server.origins`, for pages of other hosts; it can still be read by both.

use super::decode::{Report, Section};
use super::problem::{KeyPath, Origin};
use super::tree::{Entry, Node, Value};

const SECTIONS: [&str; 4] = ["ws_server", "mi", "sip", "log"];

/// Whether `root` is such a file. `log` stands in both forms and decides nothing by itself.
pub(super) fn is_old(root: &Node) -> bool {
    old_key(root).is_some()
}

fn old_key(root: &Node) -> Option<(&str, &Origin)> {
    let own = root
        .entries()
        .iter()
        .find(|entry| matches!(entry.key.as_str(), "ws_server" | "mi" | "sip"))
        .map(|entry| (entry.key.as_str(), &entry.origin));
    own.or_else(|| {
        let log = root.get("log")?;
        let entry = log.entries().iter().find(|entry| entry.key == "file_path")?;
        Some(("log.file_path", &entry.origin))
    })
}

/// The same settings in our keys; every node keeps its place in the file.
///
/// `known` are our own top-level keys: one of them beside an old one is an error, since nobody
/// could say which of the two counts.
pub(super) fn translate(root: &Node, known: &[String], report: &mut Report) -> Node {
    refuse_mixture(root, known, report);
    warn_of_ignored(root, report);
    report.rename("listen.address", "ws_server.host");
    report.rename("listen.path", "ws_server.http_path");
    report.rename("listen.insecure_open", "ws_server.insecure_open");
    report.rename("listen.origins", "ws_server.origins");
    report.rename("stacks[0].mi", "mi.url");
    report.rename("stacks[0].next_hop", "sip.uri");
    report.rename("log.file", "log.file_path");

    let mut listen = Vec::new();
    listen.extend(address(root, report));
    listen.extend(moved(root, "ws_server", "http_path", "path"));
    listen.extend(moved(root, "ws_server", "insecure_open", "insecure_open"));
    listen.extend(moved(root, "ws_server", "origins", "origins"));
    let mut stack = Vec::new();
    stack.extend(moved(root, "mi", "url", "mi"));
    stack.extend(moved(root, "sip", "uri", "next_hop"));
    let mut log = Vec::new();
    log.extend(moved(root, "log", "file_path", "file"));
    log.extend(moved(root, "log", "level", "level").map(|mut entry| {
        entry.node.value = level(entry.node.value);
        entry
    }));

    let map = |entries, section: &str| Node {
        value: Value::Map(entries),
        origin: root.get(section).map(|node| node.origin.clone()).unwrap_or_default(),
    };
    let mi = map(stack, "mi");
    let stacks = Node { origin: mi.origin.clone(), value: Value::List(vec![mi]) };
    let sections =
        [("listen", map(listen, "ws_server")), ("stacks", stacks), ("log", map(log, "log"))];
    let entries = sections
        .into_iter()
        .map(|(key, node)| Entry { key: key.to_owned(), origin: node.origin.clone(), node })
        .collect();
    Node { value: Value::Map(entries), origin: root.origin.clone() }
}

fn refuse_mixture(root: &Node, known: &[String], report: &mut Report) {
    let Some((old, origin)) = old_key(root) else { return };
    let place = match origin {
        Origin::File { line, .. } => format!("`{old}` (line {line})"),
        Origin::Unset | Origin::Env(_) => format!("`{old}`"),
    };
    let refuse = |report: &mut Report, entry: &Entry, key: &str| {
        let text = format!(
            "belongs to callplane's own form, but {place} belongs to the old server's; use one \
             form: keep the old file as it is and set this by an environment variable, or rewrite \
             it (`callplane check-config --default` shows all keys)"
        );
        report.problem(&entry.origin, key, text);
    };
    for entry in root.entries() {
        if known.contains(&entry.key) && !SECTIONS.contains(&entry.key.as_str()) {
            refuse(report, entry, &entry.key);
        }
    }
    for entry in root.get("log").map(Node::entries).unwrap_or_default() {
        if matches!(entry.key.as_str(), "format" | "file" | "redact") {
            refuse(report, entry, &format!("log.{}", entry.key));
        }
    }
}

fn warn_of_ignored(root: &Node, report: &mut Report) {
    for (section, keys) in [
        ("ws_server", &["host", "port", "http_path", "insecure_open", "origins"][..]),
        ("mi", &["url"]),
        ("sip", &["uri"]),
        ("log", &["file_path", "level", "format", "file", "redact"]),
    ] {
        let Some(node) = root.get(section) else { continue };
        let path = KeyPath::default().key(section);
        let mut found = Report::default();
        if Section::open(node, &path, keys, &mut found).is_none() {
            report.problems.append(&mut found.problems);
        }
        for mut problem in found.problems {
            problem.text = format!("ignored, as the old server did: {}", problem.text);
            report.warnings.push(problem);
        }
    }
}

/// An old entry under its new name; nothing where the old server took its default (absent, empty).
fn moved(root: &Node, section: &str, key: &str, name: &str) -> Option<Entry> {
    let node = root.get(section)?.get(key)?;
    let is_default = match &node.value {
        Value::Null => true,
        Value::Text(text) => text.is_empty(),
        Value::Bool(_) | Value::Integer(_) | Value::Float(_) | Value::List(_) | Value::Map(_) => {
            false
        }
    };
    let entry = || Entry { key: name.to_owned(), origin: node.origin.clone(), node: node.clone() };
    (!is_default).then(entry)
}

/// Host and port become one address.
fn address(root: &Node, report: &mut Report) -> Option<Entry> {
    let host = moved(root, "ws_server", "host", "address");
    let port = moved(root, "ws_server", "port", "address")
        .filter(|entry| entry.node.value != Value::Integer(0));
    let number = match port.as_ref().map(|entry| &entry.node) {
        None => 5059,
        Some(Node { value: Value::Integer(n), .. }) if (1..=65_535).contains(n) => *n,
        Some(node) => {
            report.problem(&node.origin, "ws_server.port", "is not a port, 1 to 65535");
            return None;
        }
    };
    let name = match host.as_ref().map(|entry| &entry.node) {
        None => "localhost".to_owned(),
        Some(Node { value: Value::Text(text), .. })
            if text.contains(':') && !text.starts_with('[') =>
        {
            format!("[{text}]")
        }
        Some(Node { value: Value::Text(text), .. }) => text.clone(),
        Some(node) => {
            let text = format!("wants a host, not {}", node.value.kind());
            report.problem(&node.origin, "ws_server.host", text);
            return None;
        }
    };
    let mut entry = host.or(port)?;
    entry.node.value = Value::Text(format!("{name}:{number}"));
    Some(entry)
}

/// The level names of the old server's log library that `tracing` does not have.
fn level(value: Value) -> Value {
    match value {
        Value::Text(text) => match text.to_ascii_lowercase().as_str() {
            "panic" | "fatal" => Value::Text("error".to_owned()),
            "warning" => Value::Text("warn".to_owned()),
            _ => Value::Text(text),
        },
        other => other,
    }
}
