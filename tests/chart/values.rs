//! The values: each has words, a place in the schema, and a line in the table of the chart's README.

use serde_json::Value;

use crate::documented::{Entry, entries};
use crate::kept;

fn values() -> (Vec<Entry>, Value) {
    let yaml = kept::read(&kept::chart().join("values.yaml"));
    (entries(&yaml), serde_saphyr::from_str(&yaml).unwrap())
}

fn at<'a>(values: &'a Value, path: &[String]) -> &'a Value {
    path.iter().fold(values, |at, key| &at[key.as_str()])
}

/// Those that a reader of the table sees: with words of their own.
fn documented(entries: &[Entry]) -> impl Iterator<Item = &Entry> {
    entries.iter().filter(|entry| !entry.words.is_empty())
}

#[test]
fn every_value_has_words() {
    let (entries, _) = values();
    for entry in entries.iter().filter(|entry| entry.words.is_empty()) {
        let above = (1..entry.path.len()).map(|n| &entry.path[..n]);
        let mut told = above.filter(|path| documented(&entries).any(|e| e.path == *path));
        let is_section = documented(&entries)
            .any(|e| e.path.len() > entry.path.len() && e.path.starts_with(&entry.path));
        assert!(is_section || told.next().is_some(), "{} has no words", entry.key());
    }
}

#[test]
fn the_table_of_values_says_what_values_yaml_says() {
    let (entries, values) = values();
    let mut table = String::from("| value | default | meaning |\n| --- | --- | --- |\n");
    for entry in documented(&entries) {
        let has_rows = documented(&entries)
            .any(|e| e.path.len() > entry.path.len() && e.path.starts_with(&entry.path));
        let default = if has_rows {
            String::new()
        } else {
            match at(&values, &entry.path) {
                Value::String(text) if text.is_empty() => "`\"\"`".to_owned(),
                Value::String(text) => format!("`{text}`"),
                other => format!("`{other}`"),
            }
        };
        let words = entry.words.replace('|', "\\|");
        table.push_str(&format!("| `{}` | {default} | {words} |\n", entry.key()));
    }
    let path = kept::chart().join("README.md");
    let written = kept::read(&path);
    let (begin, end) = ("<!-- values: begin -->\n", "<!-- values: end -->");
    let (before, rest) = written.split_once(begin).expect("the README marks the table's begin");
    let (_, after) = rest.split_once(end).expect("the README marks the table's end");
    kept::must_say(&path, &format!("{before}{begin}\n{table}\n{end}{after}"));
}

/// Every value stands in the schema, and every property of the schema is a value: neither can be
/// forgotten. Every object refuses what it does not know, but for those that are Kubernetes' own.
#[test]
fn the_schema_knows_the_values_and_nothing_else() {
    let (_, values) = values();
    let schema: Value =
        serde_json::from_str(&kept::read(&kept::chart().join("values.schema.json"))).unwrap();
    same(&schema, &schema, &values, "");
}

fn same(whole: &Value, schema: &Value, value: &Value, key: &str) {
    let schema = match schema["$ref"].as_str() {
        Some(name) => &whole["definitions"][name.trim_start_matches("#/definitions/")],
        None => schema,
    };
    // `config` follows from callplane's keys; here it holds some defaults only.
    let (Some(properties), Some(object)) = (schema["properties"].as_object(), value.as_object())
    else {
        return;
    };
    assert_eq!(schema["additionalProperties"], false, "`{key}` takes anything");
    for (name, below) in object {
        let known = properties.get(name);
        let known = known.unwrap_or_else(|| panic!("`{key}.{name}` is not in the schema"));
        same(whole, known, below, &format!("{key}.{name}"));
    }
    // What many values share, or is not said by default, has no value of its own.
    if schema.get("required").is_some() || ["", ".config"].contains(&key) || object.is_empty() {
        for name in properties.keys().filter(|_| key.is_empty()) {
            assert!(name == "global" || object.contains_key(name), "no value `{name}`");
        }
        return;
    }
    for name in properties.keys() {
        let optional =
            ["initialDelaySeconds", "successThreshold", "claims"].contains(&name.as_str());
        let own = key.starts_with(".config.") || optional;
        assert!(own || object.contains_key(name), "`{key}.{name}` is in the schema only");
    }
}

#[test]
fn the_charts_version_is_that_of_callplane() {
    let chart: Value =
        serde_saphyr::from_str(&kept::read(&kept::chart().join("Chart.yaml"))).unwrap();
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    let images = chart["annotations"]["artifacthub.io/images"].as_str().unwrap();
    let (_, values) = values();
    let own = values["image"]["repository"].as_str().unwrap();
    assert!(images.contains(&format!("image: {own}:{}\n", env!("CARGO_PKG_VERSION"))), "{images}");
    let redis = &values["redis"]["embedded"]["image"];
    let redis = [&redis["repository"], &redis["tag"]].map(|part| part.as_str().unwrap());
    assert!(images.contains(&format!("image: {}\n", redis.join(":"))), "{images}");
}
