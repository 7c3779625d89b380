//! Environment variables laid over the file: `CALLPLANE_<SECTION>__<KEY>`.
//!
//! `CALLPLANE_LISTEN__ADDRESS` is `listen.address`, `CALLPLANE_STACKS__0__MI` is `stacks[0].mi`,
//! `CALLPLANE_INSTALL` is `install`. Other names without a double underscore are not ours:
//! Kubernetes sets `CALLPLANE_PORT`, `CALLPLANE_SERVICE_HOST` and more for a Service `callplane`.

use super::decode::Report;
use super::problem::{KeyPath, Origin};
use super::tree::{self, Entry, Node, Value};

const PREFIX: &str = "CALLPLANE_";

/// Lays `variables` over `root`.
pub(super) fn overlay(
    root: &mut Node,
    variables: impl IntoIterator<Item = (String, String)>,
    report: &mut Report,
) {
    let mut ours: Vec<(String, String)> = variables
        .into_iter()
        .filter(|(name, _)| {
            name.strip_prefix(PREFIX).is_some_and(|rest| rest == "INSTALL" || rest.contains("__"))
        })
        .collect();
    // So that elements of a list come one after the other: the tenth after the second.
    ours.sort_by_cached_key(|(name, _)| name.split("__").map(Step::of).collect::<Vec<_>>());
    for (name, value) in ours {
        let path = name.strip_prefix(PREFIX).unwrap_or_default().to_ascii_lowercase();
        let steps: Vec<&str> = path.split("__").collect();
        let origin = Origin::Env(name.clone());
        match value_of(&value, &origin) {
            Ok(node) => put(root, &steps, node, &KeyPath::default(), &origin, report),
            Err(text) => report.problem(&origin, &steps.join("."), text),
        }
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
