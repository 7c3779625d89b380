//! The arrows of `src/lib.rs`, held by reading the sources: who may know whom.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// What stands before the tests of a file, without comments.
fn code_of(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The rooms that a file of `room` names by `crate::`.
fn rooms_named(code: &str) -> BTreeSet<&str> {
    code.split("crate::")
        .skip(1)
        .map(|rest| {
            rest.split(|c: char| !c.is_ascii_lowercase() && c != '_').next().unwrap_or_default()
        })
        .collect()
}

fn files_of(room: &str) -> Vec<(PathBuf, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let (file, folder) = (src.join(format!("{room}.rs")), src.join(room));
    if file.is_file() {
        found.push(file);
    }
    if folder.is_dir() {
        sources(&folder, &mut found);
    }
    assert!(!found.is_empty(), "no room {room}");
    found.into_iter().map(|path| (path.clone(), code_of(&path))).collect()
}

/// Each room, and the only ones that it may know beside itself.
const MAY_KNOW: [(&str, &[&str]); 13] = [
    ("core", &[]),
    ("rpc", &["core"]),
    ("clock", &["core"]),
    ("bus", &["core"]),
    ("leadership", &["core", "clock"]),
    ("store", &["core", "clock", "bus", "leadership"]),
    ("stack", &["core", "clock"]),
    ("engine", &["core", "clock", "store", "stack"]),
    ("events", &["core", "clock", "engine", "leadership", "stack", "store"]),
    ("client", &["core", "rpc", "metrics"]),
    ("config", &["core"]),
    ("traces", &["core", "clock", "metrics", "telemetry"]),
    ("admin", &["core", "metrics", "telemetry", "config"]),
];

#[test]
fn rooms_know_only_whom_the_flow_allows() {
    for (room, allowed) in MAY_KNOW {
        for (path, code) in files_of(room) {
            for named in rooms_named(&code) {
                let ok = named == room || allowed.contains(&named);
                assert!(ok, "{} knows {named}", path.display());
            }
        }
    }
}

#[test]
fn adapters_of_one_trait_never_see_each_other() {
    for (one, other) in [
        ("stack/opensips", "stack::simulated"),
        ("stack/simulated", "stack::opensips"),
        ("store/redis", "store::memory"),
        ("store/memory", "store::redis"),
        ("leadership/kubernetes", "store::redis"),
    ] {
        let sibling = other.replace("stack", "super").replace("store", "super");
        for (path, code) in files_of(one) {
            let seen = code.contains(other) || code.contains(&sibling);
            assert!(!seen, "{} sees {other}", path.display());
        }
    }
}

#[test]
fn how_redis_is_reached_knows_nothing_of_what_is_kept_there() {
    for (path, code) in files_of("store/redis/reach") {
        let rooms = rooms_named(&code);
        let store = code.matches("crate::store::").count();
        let only = ["crate::store::Away", "crate::store::redis)"];
        let known: usize = only.iter().map(|name| code.matches(name).count()).sum();
        assert_eq!(store, known, "{} wants more of the store than `Away`", path.display());
        assert!(!rooms.contains("core"), "{} knows what is kept", path.display());
        assert!(!code.contains("super::super"), "{} knows who asks", path.display());
    }
}

#[test]
fn the_core_and_the_engine_have_no_runtime_clock_or_chance_of_their_own() {
    for room in ["core", "rpc", "engine"] {
        for (path, code) in files_of(room) {
            for banned in ["tokio", "Instant::now", "SystemTime", "std::thread", "rand::"] {
                assert!(!code.contains(banned), "{} uses {banned}", path.display());
            }
        }
    }
}

#[test]
fn only_the_command_line_and_the_composition_root_know_the_application() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    sources(&src, &mut all);
    for path in all {
        let inside = |room: &str| path.starts_with(src.join(room));
        if !inside("app") && !inside("cli") {
            assert!(!code_of(&path).contains("crate::app"), "{} knows the app", path.display());
        }
    }
}
