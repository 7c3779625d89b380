//! Environment variables laid over the file: `CALLPLANE_<SECTION>__<KEY>`.
//!
//! `CALLPLANE_LISTEN__ADDRESS` is `listen.address`, `CALLPLANE_STACKS__0__MI` is `stacks[0].mi`,
//! `CALLPLANE_INSTALL` is `install`. A name that is no key is refused, but for those that arguments
//! are read from, and those that Kubernetes sets for Services: `CALLPLANE_SERVICE_HOST`,
//! `CALLPLANE_PORT`, `CALLPLANE_ADMIN_PORT_9090_TCP_ADDR`.

use super::decode::Report;
use super::problem::{KeyPath, Origin};
use super::tree::{self, Entry, Node, Value};

const PREFIX: &str = "CALLPLANE_";

/// What the command line reads itself.
const ARGUMENTS: [&str; 2] = ["CONFIG", "SERVER"];

/// Lays `variables` over `root`.
pub(super) fn overlay(
    root: &mut Node,
    variables: impl IntoIterator<Item = (String, String)>,
    report: &mut Report,
) {
    let mut ours: Vec<(String, String)> = variables
        .into_iter()
        .filter(|(name, value)| {
            name.strip_prefix(PREFIX)
                .is_some_and(|rest| !ARGUMENTS.contains(&rest) && !is_of_a_service(rest, value))
        })
        .collect();
    // So that elements of a list come one after the other: the tenth after the second.
    ours.sort_by_cached_key(|(name, _)| name.split("__").map(Step::of).collect::<Vec<_>>());
    for (name, value) in ours {
        let path = name.strip_prefix(PREFIX).unwrap_or_default().to_ascii_lowercase();
        let steps: Vec<&str> = path.split("__").collect();
        let origin = Origin::Env(name.clone());
        if value.contains(char::REPLACEMENT_CHARACTER) {
            report.problem(&origin, &steps.join("."), "is not UTF-8");
            continue;
        }
        if steps.len() == 1 && !is_plain(&path) {
            report.problem(&origin, "", unknown(&name));
            continue;
        }
        match value_of(&value, &origin) {
            Ok(node) => put(root, &steps, node, &KeyPath::default(), &origin, report),
            Err(text) => report.problem(&origin, &steps.join("."), text),
        }
    }
}

/// Whether this is a key without a section, such as `install`.
fn is_plain(name: &str) -> bool {
    let keys = super::keys();
    let is_inside = |key: &String| key.starts_with(&format!("{name}["));
    keys.iter().any(|key| key == name) && !keys.iter().any(is_inside)
}

/// Whether Kubernetes sets such a variable for a Service whose name begins with `callplane`.
fn is_of_a_service(name: &str, value: &str) -> bool {
    if name.contains("__") {
        return false;
    }
    let words: Vec<&str> = name.split('_').collect();
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    let is_port = |number: &str, protocol: &str| {
        is_number(number) && matches!(protocol, "TCP" | "UDP" | "SCTP")
    };
    // A port of a Service may have a name of its own.
    let of_service = words.windows(2).any(|pair| pair == ["SERVICE", "PORT"]);
    of_service
        || match words.as_slice() {
            [.., "SERVICE", "HOST"] => true,
            [.., "PORT", number, protocol]
            | [.., "PORT", number, protocol, "PROTO" | "PORT" | "ADDR"]
                if is_port(number, protocol) =>
            {
                true
            }
            // With the address of the port as its value: nobody writes a port of ours like that.
            [.., "PORT"] => value.contains("://"),
            _ => false,
        }
}

/// What to say of a name that is no key.
fn unknown(name: &str) -> String {
    let single = |name: &str| name.replace("__", "_");
    let keys = super::keys().into_iter().map(|key| {
        let steps = key.to_ascii_uppercase().replace("[0]", "__0").replace('.', "__");
        format!("{PREFIX}{steps}")
    });
    let keys: Vec<String> = keys.collect();
    if let Some(meant) = keys.iter().find(|key| single(key) == single(name)) {
        return format!("unknown variable; did you mean `{meant}`?");
    }
    let section = format!("{name}__");
    match keys.iter().find(|key| key.starts_with(&section)) {
        Some(key) => format!("is a section; its keys are set one by one, such as `{key}`"),
        None => format!("unknown variable; a key is set by `{PREFIX}<SECTION>__<KEY>`"),
    }
}

/// A part of a name, as names are put in order.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Element(usize),
    Key(String),
}

impl Step {
    fn of(text: &str) -> Step {
        text.parse().map_or_else(|_| Step::Key(text.to_owned()), Step::Element)
    }
}

/// Lists and mappings are written as in YAML, on one line; everything else is plain text.
fn value_of(text: &str, origin: &Origin) -> Result<Node, String> {
    if text.is_empty() {
        return Ok(Node { value: Value::Null, origin: origin.clone() });
    }
    if !text.starts_with(['[', '{']) {
        return Ok(Node::text(text, origin.clone()));
    }
    let mut node = tree::parse(text).map_err(|problem| problem.text)?;
    move_to(&mut node, origin);
    Ok(node)
}

fn move_to(node: &mut Node, origin: &Origin) {
    node.origin = origin.clone();
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| move_to(item, origin)),
        Value::Map(entries) => entries.iter_mut().for_each(|entry| {
            entry.origin = origin.clone();
            move_to(&mut entry.node, origin);
        }),
        Value::Null | Value::Bool(_) | Value::Integer(_) | Value::Float(_) | Value::Text(_) => {}
    }
}

fn put(
    at: &mut Node,
    steps: &[&str],
    node: Node,
    path: &KeyPath,
    origin: &Origin,
    report: &mut Report,
) {
    let Some((step, rest)) = steps.split_first() else {
        *at = node;
        return;
    };
    if let Ok(index) = step.parse::<usize>() {
        if matches!(at.value, Value::Null) {
            *at = Node { value: Value::List(Vec::new()), origin: origin.clone() };
        }
        if let Value::List(items) = &mut at.value {
            let path = path.item(index);
            if index == items.len() {
                items.push(Node { value: Value::Null, origin: origin.clone() });
            }
            match items.get_mut(index) {
                Some(item) => put(item, rest, node, &path, origin, report),
                None => {
                    report.problem(origin, path.as_str(), "leaves a gap in the list before it");
                }
            }
            return;
        }
    }
    if matches!(at.value, Value::Null) {
        *at = Node { value: Value::Map(Vec::new()), origin: origin.clone() };
    }
    let path = path.key(step);
    let Value::Map(entries) = &mut at.value else {
        let text = format!("does not fit: the key above it holds {}", at.value.kind());
        report.problem(origin, path.as_str(), text);
        return;
    };
    if !entries.iter().any(|entry| entry.key == *step) {
        let node = Node { value: Value::Null, origin: origin.clone() };
        entries.push(Entry { key: (*step).to_owned(), origin: origin.clone(), node });
    }
    if let Some(entry) = entries.iter_mut().find(|entry| entry.key == *step) {
        put(&mut entry.node, rest, node, &path, origin, report);
    }
}
