//! What the chart's schema says of `config`: callplane's own keys, with their words.

use callplane::config::{DEFAULT_YAML, keys};
use serde_json::{Map, Value, json};

use crate::documented::{Entry, entries};
use crate::kept;

/// The keys whose values are words.
const CHOICES: [(&str, &[&str]); 6] = [
    ("leadership", &["standalone", "redis", "kubernetes"]),
    ("commands.transfer", &["sequential", "call_transfer"]),
    ("commands.hold", &["reinvite", "call_hold"]),
    ("log.format", &["text", "json"]),
    ("stacks.grade", &["auto", "stock", "reference"]),
    ("stacks.callops_mode", &["param", "manual", "callid"]),
];

const DURATION: &str = "^([0-9]+(ms|s|m|h)|0)$";
const SIZE: &str = "^[0-9]+ ?(B|KiB|MiB|GiB)?$";
const ADDRESS: &str = "^.+:[0-9]{1,5}$";
/// Not with HTTP or TCP before it: `mi` is spoken over UDP.
const DATAGRAMS: &str = r"^(udp:)?([^:\[\]]+|\[[^\]]+\]):[0-9]{1,5}$";
/// One of the words, or a list like `info,callplane::stack=debug`.
const LEVEL: &str = "^(off|error|warn|info|debug|trace|.*[=,].*)$";
const SOCKET: &str = "^((udp|tcp):)?.+:[0-9]{1,5}$";

/// The keys whose default is nothing or a bare word, and what their values look like.
const PATTERNS: [(&str, &str); 10] = [
    ("install", "^[a-z0-9]{1,8}$"),
    ("redis.address", ADDRESS),
    ("log.level", LEVEL),
    ("stacks.mi", DATAGRAMS),
    ("stacks.mi_http", "^http://.+"),
    ("stacks.events", SOCKET),
    ("stacks.advertise", SOCKET),
    ("stacks.next_hop", "^sips?:.+"),
    ("stacks.fr_timeout", DURATION),
    ("stacks.fr_inv_timeout", DURATION),
];

/// One value, judged by its key and its default.
fn value(key: &str, default: &str) -> Value {
    // What is nothing by default may be written as nothing.
    let text = if default.is_empty() { json!(["string", "null"]) } else { json!("string") };
    let is = |pattern: &str| json!({"type": text, "pattern": pattern});
    if let Some((_, words)) = CHOICES.iter().find(|(known, _)| *known == key) {
        let mut words: Vec<Option<&str>> = words.iter().copied().map(Some).collect();
        words.extend(default.is_empty().then_some(None));
        return json!({"enum": words});
    }
    if let Some((_, pattern)) = PATTERNS.iter().find(|(known, _)| *known == key) {
        return is(pattern);
    }
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let begins_with_digit = default.starts_with(|c: char| c.is_ascii_digit());
    let number = default.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &default[number.len()..];
    match (default, unit) {
        ("true" | "false", _) => json!({"type": "boolean"}),
        ("[]", _) if key == "redis.sentinels" => json!({"type": "array", "items": is(ADDRESS)}),
        ("[]", _) => json!({"type": "array", "items": {"type": "string"}}),
        (_, "") if digits(default) => json!({"type": "integer", "minimum": 0}),
        (_, "") if default.parse::<f64>().is_ok() => json!({"type": "number", "minimum": 0}),
        // A whole number without a unit is only right for nothing at all, or for bytes.
        (_, "ms" | "s" | "m" | "h") if begins_with_digit => {
            json!({"oneOf": [{"type": "string", "pattern": DURATION}, {"const": 0}]})
        }
        (_, "KiB" | "MiB" | "GiB") => {
            json!({"type": ["string", "integer"], "pattern": SIZE, "minimum": 0})
        }
        _ if begins_with_digit && default.contains(':') => is(ADDRESS),
        _ => json!({"type": text}),
    }
}

/// The whole: every key of `default.yml`, and none else.
fn config() -> Value {
    let known = entries(DEFAULT_YAML);
    let mut below = section(&known, &[]);
    let stacks = below.get_mut("properties").unwrap().get_mut("stacks").unwrap();
    let item = json!({
        "type": "object",
        "additionalProperties": false,
        "properties": stacks["properties"],
    });
    let words = stacks["description"].clone();
    *stacks = json!({"type": "array", "items": item, "description": words});
    below
}

fn section(known: &[Entry], at: &[String]) -> Value {
    let mut properties = Map::new();
    let depth = at.len();
    for entry in known.iter().filter(|entry| entry.path.len() == depth + 1) {
        if !entry.path.starts_with(at) {
            continue;
        }
        let has_more = known
            .iter()
            .any(|other| other.path.len() > depth + 1 && other.path.starts_with(&entry.path));
        let mut one =
            if has_more { section(known, &entry.path) } else { value(&entry.key(), &entry.text) };
        one["description"] = Value::String(entry.words.clone());
        properties.insert(entry.path[depth].clone(), one);
    }
    json!({"type": "object", "additionalProperties": false, "properties": properties})
}

/// Behind this the schema's last part begins.
const MARK: &str = "\n    \"config\": ";

#[test]
fn the_schema_of_config_has_the_keys_of_the_configuration() {
    let path = kept::chart().join("values.schema.json");
    let written = kept::read(&path);
    let (before, _) = written.rsplit_once(MARK).expect("the schema ends with `config`");
    let config = serde_json::to_string_pretty(&config()).unwrap().replace('\n', "\n    ");
    kept::must_say(&path, &format!("{before}{MARK}{config}\n  }}\n}}\n"));
}

#[test]
fn no_key_of_the_configuration_is_missing_in_its_schema() {
    let config = config();
    for key in keys() {
        let mut at = &config;
        for step in key.split('.') {
            let step = step.trim_end_matches("[0]");
            at = &at["properties"][step];
            if step == "stacks" {
                at = &at["items"];
            }
        }
        assert!(at.is_object(), "{key}");
    }
}

#[test]
fn values_of_config_are_judged_by_their_defaults() {
    assert_eq!(value("drain.delay", "0s")["oneOf"][0]["pattern"], DURATION);
    assert_eq!(value("limits.sessions", "100000")["type"], "integer");
    assert_eq!(value("traces.sample", "1.0")["type"], "number");
    assert_eq!(value("admin.listen", "127.0.0.1:9090")["pattern"], ADDRESS);
    assert_eq!(value("limits.max_message", "64KiB")["pattern"], SIZE);
    assert_eq!(value("log.level", "info")["pattern"], LEVEL);
    assert_eq!(value("redis.username", ""), json!({"type": ["string", "null"]}));
    assert_eq!(value("leadership", "")["enum"][3], Value::Null);
}
