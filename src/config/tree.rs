//! A YAML document as a tree in which every node knows where it was written.
//!
//! Decoding straight into structs would stop at the first problem and forget positions. From this
//! tree [`super::decode`] finds all problems in one run, and [`super::environment`] can lay
//! variables over the file before anything is checked.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Spanned};

use super::problem::{Origin, Problem};

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Node {
    /// The value.
    pub value: Value,
    /// Where it was written.
    pub origin: Origin,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) enum Value {
    /// Nothing, `null`, `~`.
    #[default]
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// A whole number.
    Integer(i128),
    /// Another number.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order written; a key may stand twice, the decoder refuses that.
    Map(Vec<Entry>),
}

/// A key of a mapping and its value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    /// The key.
    pub key: String,
    /// Where the key was written.
    pub origin: Origin,
    /// Its value.
    pub node: Node,
}

impl Node {
    /// Text that was written at `origin`.
    pub(super) fn text(text: impl Into<String>, origin: Origin) -> Node {
        Node { value: Value::Text(text.into()), origin }
    }

    /// The entries of a mapping; none for anything else.
    pub(super) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            Value::Null
            | Value::Bool(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::List(_) => &[],
        }
    }

    /// The value of `key`, if this is a mapping that has it.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.node)
    }
}

impl Value {
    /// What this is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Integer(_) | Value::Float(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// Parses `text`; on a syntax error its message and position.
pub(super) fn parse(text: &str) -> Result<Node, Problem> {
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        strict_booleans: true,
        with_snippet: false,
    };
    match serde_saphyr::from_str_with_options::<Option<Spanned<Value>>>(text, options) {
        Ok(Some(spanned)) => Ok(spanned.into()),
        Ok(None) => Ok(Node::default()),
        Err(error) => {
            let origin = error.location().map_or(Origin::Unset, place);
            let text = error.without_snippet().to_string();
            Err(Problem { origin, key: String::new(), text: format!("not valid YAML: {text}") })
        }
    }
}

fn place(location: serde_saphyr::Location) -> Origin {
    match location.line() {
        0 => Origin::Unset,
        line => Origin::File { line, column: location.column() },
    }
}

impl From<Spanned<Value>> for Node {
    fn from(spanned: Spanned<Value>) -> Node {
        Node { value: spanned.value, origin: place(spanned.referenced) }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value, a list or a mapping with text keys")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Integer(v.into()))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::Integer(v.into()))
    }

    fn visit_i128<E>(self, v: i128) -> Result<Value, E> {
        Ok(Value::Integer(v))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Value::Float(v))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::Text(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::Text(v))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element::<Spanned<Value>>()? {
            items.push(item.into());
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let node: Node = map.next_value::<Spanned<Value>>()?.into();
            entries.push(Entry { key: key.value, origin: place(key.referenced), node });
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: u64, column: u64) -> Origin {
        Origin::File { line, column }
    }

    #[test]
    fn every_node_and_key_knows_its_place() {
        let root = parse("a: 1\nb:\n  - x: yes\n    y: '2'\n  - 5s\n").unwrap();
        let b = &root.entries()[1];
        assert_eq!((b.key.as_str(), b.origin.clone()), ("b", at(2, 1)));
        assert_eq!(root.get("a"), Some(&Node { value: Value::Integer(1), origin: at(1, 4) }));
        let Value::List(items) = &b.node.value else { panic!("not a list") };
        assert_eq!(items[0].get("x"), Some(&Node::text("yes", at(3, 8))));
        assert_eq!(items[0].get("y"), Some(&Node::text("2", at(4, 8))));
        assert_eq!(items[0].entries()[1].origin, at(4, 5));
        assert_eq!(items[1], Node::text("5s", at(5, 5)));
    }

    #[test]
    fn an_empty_document_is_nothing_and_a_repeated_key_stays_visible() {
        assert_eq!(parse("# only a comment\n").unwrap().value, Value::Null);
        assert_eq!(parse("").unwrap().value, Value::Null);
        assert_eq!(parse("a: 1\na: 2\n").unwrap().entries().len(), 2);
    }

    #[test]
    fn a_syntax_error_has_a_place() {
        let problem = parse("a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
        assert!(matches!(problem.origin, Origin::File { line: 2 | 3, .. }), "{problem}");
    }
}
