//! Helm, and what it renders.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

pub use crate::api_server::programs::{are_here, program};
use crate::kept;

/// Helm with nothing of this machine's own.
pub fn helm(arguments: &[&str]) -> Output {
    let own = tempfile::tempdir().unwrap();
    let mut command = Command::new(program("helm"));
    for (variable, folder) in
        [("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config"), ("HELM_DATA_HOME", "data")]
    {
        command.env(variable, own.path().join(folder));
    }
    command.args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// What renders with little said: a Redis and a stack.
pub const SMALL: [&str; 2] =
    ["config.redis.address=redis:6379", "config.stacks[0].mi=udp:10.0.0.5:8080"];

/// Helm's answer to `helm template` with these `--set`s.
pub fn template(sets: &[&str], more: &[&str]) -> Output {
    let chart = kept::chart();
    let mut arguments =
        vec!["template", "callplane", chart.to_str().unwrap(), "--namespace", "calls"];
    for set in sets {
        arguments.extend(["--set", set]);
    }
    arguments.extend(more);
    helm(&arguments)
}

/// The text of the objects.
pub fn text_with(sets: &[&str], more: &[&str]) -> String {
    let output = template(sets, more);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{sets:?} {more:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The objects, and those of `helm test`.
pub fn objects_with(sets: &[&str], more: &[&str]) -> Vec<Value> {
    parsed(&text_with(sets, more))
}

/// [`SMALL`] and these.
pub fn objects(sets: &[&str]) -> Vec<Value> {
    objects_with(&[&SMALL, sets].concat(), &[])
}

pub fn parsed(text: &str) -> Vec<Value> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    objects.into_iter().filter(Value::is_object).collect()
}

/// The object of this kind and name.
pub fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> Option<&'a Value> {
    objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
}

pub fn get<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    find(objects, kind, name).unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// The values files of `examples`.
pub fn examples() -> Vec<PathBuf> {
    let folder = std::fs::read_dir(kept::chart().join("examples")).unwrap();
    let mut found: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|ending| ending == "yaml"));
    found.sort();
    assert!(found.len() >= 3, "{found:?}");
    found
}
