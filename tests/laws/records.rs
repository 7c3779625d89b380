//! Records as they are stored: while processes are replaced one after the other, two versions read
//! what the other wrote.
//!
//! `tests/records/format-1.jsonl` holds a record of each kind of state, as the version that brought
//! the format wrote it. It is not changed any more; a state that is new gets a line of its own
//! (`CALLPLANE_WRITE_RECORDS=1`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use callplane::core::ids::{CommandId, Digest, Epoch, Nonce, Scope, SessionId, TenantId};
use callplane::core::record::{FORMAT, Key, Record};
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use serde_json::Value;

use crate::{World, moves, plan, requests};

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/records/format-1.jsonl")
}

/// What kind of state it is: every name in it, with what it stands in.
fn kind(value: &Value, path: &str, kinds: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                kind(member, &format!("{path}.{name}"), kinds);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| kind(item, path, kinds)),
        // The name of an enum's variant.
        Value::String(text) if text.starts_with(|c: char| c.is_ascii_uppercase()) => {
            kinds.insert(format!("{path}={text}"));
        }
        Value::Null => {
            kinds.insert(format!("{path}=null"));
        }
        Value::String(_) | Value::Number(_) | Value::Bool(_) => {
            kinds.insert(path.to_owned());
        }
    }
}

fn record_of(world: &World, version: u64) -> Record {
    Record {
        key: Key {
            tenant: TenantId::default(),
            scope: Scope::Session(SessionId::derive(Nonce(1))),
            id: CommandId::parse("a").unwrap(),
        },
        digest: Digest([7; 32]),
        session: SessionId::derive(Nonce(1)),
        format: FORMAT,
        born: Epoch::derive(Nonce(2)),
        version,
        first_seq: 0,
        external_id: Some(Arc::from("x")),
        trace: None,
        state: world.command.clone(),
    }
}

/// Records that the machines come to: as few as show every name that can stand in one.
fn seen(rounds: usize) -> BTreeMap<BTreeSet<String>, String> {
    let mut runner = TestRunner::deterministic();
    let (mut known, mut kept) = (BTreeSet::new(), BTreeMap::new());
    for round in 0..rounds {
        for (which, request) in requests().iter().enumerate() {
            let bits = (round + which) % 8;
            let mut world =
                World::begin(request, plan(bits & 1 == 1, bits & 2 == 2, bits & 4 == 4));
            let moves = moves().new_tree(&mut runner).unwrap().current();
            for (version, one) in (1..).zip(&moves) {
                let record = record_of(&world, version);
                let mut kinds = BTreeSet::new();
                kind(&serde_json::to_value(&record.state).unwrap(), "", &mut kinds);
                if !kinds.is_subset(&known) {
                    known.extend(kinds.iter().cloned());
                    kept.insert(kinds, serde_json::to_string(&record).unwrap());
                }
                world.apply(one);
            }
        }
    }
    kept
}

fn written() -> Vec<String> {
    let text = fs::read_to_string(golden()).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn what_an_earlier_build_wrote_is_read_and_written_back_to_the_byte() {
    let lines = written();
    assert!(lines.len() > 20, "{} lines", lines.len());
    for line in lines {
        let record: Record = serde_json::from_str(&line).unwrap();
        assert_eq!(serde_json::to_string(&record).unwrap(), line);
    }
}

#[test]
fn every_kind_of_state_is_among_those_an_earlier_build_can_read() {
    let mut known = BTreeSet::new();
    let mut lines = written();
    for line in &lines {
        let value: Value = serde_json::from_str(line).unwrap();
        kind(&value["state"], "", &mut known);
    }
    let writes = std::env::var_os("CALLPLANE_WRITE_RECORDS").is_some();
    let seen = seen(if writes { 1000 } else { 100 }).into_iter();
    let new: Vec<String> =
        seen.filter(|(kinds, _)| !kinds.is_subset(&known)).map(|(_, line)| line).collect();
    if writes {
        lines.extend(new);
        fs::create_dir_all(golden().parent().unwrap()).unwrap();
        fs::write(golden(), lines.join("\n") + "\n").unwrap();
        return;
    }
    assert!(new.is_empty(), "an earlier build may not read these: {new:#?}");
}

/// What a later build adds is passed over.
#[test]
fn members_that_are_not_known_are_no_obstacle() {
    fn add(value: &mut Value) {
        match value {
            Value::Object(members) => {
                members.values_mut().for_each(add);
                // A variant of an enum is an object with one member, its name.
                let variant =
                    members.len() == 1 && members.keys().all(|k| k.starts_with(char::is_uppercase));
                // A duration is serde's own, and stays as it is.
                if !variant && !members.contains_key("nanos") {
                    members.insert("brought_by_a_later_build".to_owned(), Value::from(1));
                }
            }
            Value::Array(items) => items.iter_mut().for_each(add),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    for line in written() {
        let mut value: Value = serde_json::from_str(&line).unwrap();
        add(&mut value);
        let record: Record = serde_json::from_value(value).unwrap();
        assert_eq!(serde_json::to_string(&record).unwrap(), line);
    }
}
