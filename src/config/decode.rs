//! From the tree of nodes to typed sections, collecting every problem on the way.
//!
//! A section is declared once, with [`section!`]: its fields, their documentation and their
//! defaults. The macro makes the struct, its `Default`, its decoder, its writer and the list of its
//! keys, so none of them can drift from the others.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::problem::{KeyPath, Origin, Problem, shown};
use super::tree::{Node, Value};
use super::written::Setting;

/// What was found so far: problems, and where each key was written.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// Everything that must be mended.
    pub problems: Vec<Problem>,
    /// Everything that is allowed and risky.
    pub warnings: Vec<Problem>,
    places: BTreeMap<String, Origin>,
    renames: BTreeMap<String, String>,
    unread: BTreeSet<String>,
}

impl Report {
    /// Adds a problem at a known place.
    pub(super) fn problem(&mut self, origin: &Origin, key: &str, text: impl Into<String>) {
        let key = self.name_of(key);
        self.problems.push(Problem { origin: origin.clone(), key, text: text.into() });
    }

    /// Adds a problem at the place where `key`, or the nearest key above it, was written.
    ///
    /// Nothing is added if the value could not be read: its problem is known, and what would be
    /// judged here is the default.
    pub(super) fn wrong(&mut self, key: &str, text: impl Into<String>) {
        if self.unread.contains(key) {
            return;
        }
        let origin = self.place_of(key);
        self.problem(&origin, key, text);
    }

    /// Adds a warning at the place where `key`, or the nearest key above it, was written.
    pub(super) fn risky(&mut self, key: &str, text: impl Into<String>) {
        let origin = self.place_of(key);
        let key = self.name_of(key);
        self.warnings.push(Problem { origin, key, text: text.into() });
    }

    /// Says that `key` was written as `old` in the file.
    pub(super) fn rename(&mut self, key: &str, old: &str) {
        self.renames.insert(key.to_owned(), old.to_owned());
    }

    /// What the user called `key`.
    pub(super) fn name_of(&self, key: &str) -> String {
        self.renames.get(key).map_or_else(|| key.to_owned(), Clone::clone)
    }

    /// Whether `key` was written anywhere.
    pub(super) fn is_written(&self, key: &str) -> bool {
        self.places.contains_key(key)
    }

    /// Remembers where `path` was written.
    pub(super) fn place(&mut self, path: &KeyPath, origin: &Origin) {
        self.places.insert(path.as_str().to_owned(), origin.clone());
    }

    fn place_of(&self, key: &str) -> Origin {
        let mut key = key;
        loop {
            if let Some(origin) = self.places.get(key) {
                return origin.clone();
            }
            match key.rfind(['.', '[']) {
                Some(end) => key = key.get(..end).unwrap_or_default(),
                None => return Origin::Unset,
            }
        }
    }
}

/// A value that can be read from a node. `None` means that a problem has been reported.
pub(super) trait Decode: Sized {
    /// Reads `node`, which stands at `path`.
    fn decode(node: &Node, path: &KeyPath, report: &mut Report) -> Option<Self>;

    /// Adds the paths of all keys below `path`, in the order they are declared.
    fn keys(path: &KeyPath, into: &mut Vec<String>) {
        into.push(path.as_str().to_owned());
    }

    /// Adds all keys below `path` that have a value, in the order they are declared.
    fn write(&self, path: &KeyPath, into: &mut Vec<Setting>);
}

/// A value that is written as one piece of text.
pub(super) trait Scalar: Sized {
    /// Reads the text; the error says what would be right.
    fn from_text(text: &str) -> Result<Self, String>;

    /// The text from which the same is read.
    fn to_text(&self) -> String;
}

/// Implements [`Decode`] for types that are [`Scalar`].
macro_rules! scalars {
    ($($ty:ty),* $(,)?) => {$(
        impl $crate::config::decode::Decode for $ty {
            fn decode(
                node: &$crate::config::tree::Node,
                path: &$crate::config::problem::KeyPath,
                report: &mut $crate::config::decode::Report,
            ) -> Option<Self> {
                $crate::config::decode::scalar(node, path, report)
            }

            fn write(
                &self,
                path: &$crate::config::problem::KeyPath,
                into: &mut Vec<$crate::config::written::Setting>,
            ) {
                let text = $crate::config::decode::Scalar::to_text(self);
                let key = path.as_str().to_owned();
                into.push($crate::config::written::Setting { key, text });
            }
        }
    )*};
}
pub(super) use scalars;

/// Reads any [`Scalar`].
pub(super) fn scalar<T: Scalar>(node: &Node, path: &KeyPath, report: &mut Report) -> Option<T> {
    let read = match &node.value {
        Value::Text(text) => {
            let text = text.trim();
            T::from_text(text).map_err(|problem| match shown(text) {
                Cow::Owned(shown) => problem.replace(text, &shown),
                Cow::Borrowed(_) => problem,
            })
        }
        Value::Integer(n) => T::from_text(&n.to_string()),
        Value::Float(n) => T::from_text(&n.to_string()),
        Value::Bool(b) => T::from_text(if *b { "true" } else { "false" }),
        Value::Null => Err("has no value; give one, or remove the key for the default".to_owned()),
        Value::List(_) | Value::Map(_) => {
            Err(format!("wants one value, not {}", node.value.kind()))
        }
    };
    match read {
        Ok(value) => Some(value),
        Err(text) => {
            report.problem(&node.origin, path.as_str(), text);
            None
        }
    }
}

scalars!(bool, u16, u32, usize, String, Duration);

impl Scalar for bool {
    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(format!("`{other}` is neither `true` nor `false`")),
        }
    }

    fn to_text(&self) -> String {
        self.to_string()
    }
}

impl Scalar for String {
    fn from_text(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }

    fn to_text(&self) -> String {
        self.clone()
    }
}

/// Implements [`Scalar`] for whole numbers.
macro_rules! whole_numbers {
    ($($ty:ty),*) => {$(
        impl Scalar for $ty {
            fn from_text(text: &str) -> Result<Self, String> {
                text.parse().map_err(|_| {
                    format!("`{text}` is not a whole number from 0 to {}", <$ty>::MAX)
                })
            }

            fn to_text(&self) -> String {
                self.to_string()
            }
        }
    )*};
}
whole_numbers!(u16, u32, usize);

impl Scalar for Duration {
    fn from_text(text: &str) -> Result<Self, String> {
        let wanted = || {
            format!("`{text}` is not a duration; write a whole number and ms, s, m or h, like `5s`")
        };
        if text == "0" {
            return Ok(Duration::ZERO);
        }
        let unit = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wanted)?;
        let (number, unit) = text.split_at(unit);
        let number: u64 = number.parse().map_err(|_| wanted())?;
        let milliseconds = match unit.trim_start() {
            "ms" => 1,
            "s" => 1000,
            "m" => 60 * 1000,
            "h" => 60 * 60 * 1000,
            _ => return Err(wanted()),
        };
        number.checked_mul(milliseconds).map(Duration::from_millis).ok_or_else(wanted)
    }

    fn to_text(&self) -> String {
        let ms = self.as_millis();
        match ms {
            0 => "0".to_owned(),
            _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
            _ if ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
            _ if ms.is_multiple_of(1000) => format!("{}s", ms / 1000),
            _ => format!("{ms}ms"),
        }
    }
}

impl<T: Decode> Decode for Option<T> {
    fn decode(node: &Node, path: &KeyPath, report: &mut Report) -> Option<Self> {
        match &node.value {
            Value::Null => Some(None),
            Value::Bool(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::List(_)
            | Value::Map(_) => T::decode(node, path, report).map(Some),
        }
    }

    fn write(&self, path: &KeyPath, into: &mut Vec<Setting>) {
        if let Some(value) = self {
            value.write(path, into);
        }
    }
}

impl<T: Decode> Decode for Vec<T> {
    fn decode(node: &Node, path: &KeyPath, report: &mut Report) -> Option<Self> {
        let from_variable;
        let items = match (&node.value, &node.origin) {
            (Value::List(items), _) => items,
            // A variable holds one text; commas make it a list.
            (Value::Text(text), Origin::Env(_)) => {
                from_variable = text
                    .split(',')
                    .map(|item| Node::text(item.trim(), node.origin.clone()))
                    .collect();
                &from_variable
            }
            (Value::Null, _) => return Some(Vec::new()),
            (value, origin) => {
                let text = format!("wants a list, not {}", value.kind());
                report.problem(origin, path.as_str(), text);
                return None;
            }
        };
        // All items are read, so that all problems are told; one bad item spoils the list.
        let read: Vec<Option<T>> = items
            .iter()
            .enumerate()
            .map(|(n, item)| {
                let path = path.item(n);
                report.place(&path, &item.origin);
                T::decode(item, &path, report)
            })
            .collect();
        read.into_iter().collect()
    }

    fn keys(path: &KeyPath, into: &mut Vec<String>) {
        into.push(path.as_str().to_owned());
        let below = into.len();
        T::keys(&path.item(0), into);
        // A list of plain values is one key.
        if into.len() == below + 1 {
            into.truncate(below);
        }
    }

    fn write(&self, path: &KeyPath, into: &mut Vec<Setting>) {
        let mut items = Vec::new();
        for (n, item) in self.iter().enumerate() {
            item.write(&path.item(n), &mut items);
        }
        let mut keys = Vec::new();
        Self::keys(path, &mut keys);
        if keys.len() > 1 {
            into.append(&mut items);
        } else if !items.is_empty() {
            let texts: Vec<String> = items.into_iter().map(|item| item.text).collect();
            into.push(Setting { key: path.as_str().to_owned(), text: texts.join(",") });
        }
    }
}

/// A mapping that is being read field by field.
pub(super) struct Section<'a> {
    node: &'a Node,
    path: &'a KeyPath,
}

impl<'a> Section<'a> {
    /// Checks that `node` is a mapping with no other keys than `known`, each once.
    pub(super) fn open(
        node: &'a Node,
        path: &'a KeyPath,
        known: &[&str],
        report: &mut Report,
    ) -> Option<Section<'a>> {
        if !matches!(node.value, Value::Map(_) | Value::Null) {
            let text = format!("wants a mapping of keys, not {}", node.value.kind());
            report.problem(&node.origin, path.as_str(), text);
            return None;
        }
        let mut seen: Vec<&str> = Vec::new();
        for entry in node.entries() {
            let name = path.key(&shown(&entry.key));
            if !known.contains(&entry.key.as_str()) {
                report.problem(&entry.origin, name.as_str(), unknown(&entry.key, known));
            } else if seen.contains(&entry.key.as_str()) {
                report.problem(&entry.origin, name.as_str(), "stands here a second time");
            }
            seen.push(&entry.key);
        }
        Some(Section { node, path })
    }

    /// Reads the field `name`, or gives the default if it is not there or wrong (the problem is
    /// reported then, and the whole is thrown away at the end).
    pub(super) fn field<T: Decode>(
        &self,
        name: &str,
        default: impl FnOnce() -> T,
        report: &mut Report,
    ) -> T {
        let Some(node) = self.node.get(name) else { return default() };
        let path = self.path.key(name);
        report.place(&path, &node.origin);
        let read = T::decode(node, &path, report);
        if read.is_none() {
            report.unread.insert(path.as_str().to_owned());
        }
        read.unwrap_or_else(default)
    }
}

fn unknown(key: &str, known: &[&str]) -> String {
    let near = known
        .iter()
        .map(|candidate| (distance(key, candidate), candidate))
        .filter(|(distance, _)| *distance <= 2)
        .min();
    match near {
        Some((_, candidate)) => format!("unknown key; did you mean `{candidate}`?"),
        None => format!("unknown key; known here: {}", known.join(", ")),
    }
}

/// Edits (Levenshtein) that turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut corner = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (cb, &above) in b.iter().zip(row.iter().skip(1)) {
            let here = (corner + usize::from(ca != *cb)).min(left + 1).min(above + 1);
            corner = above;
            left = here;
            next.push(here);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

/// Declares a section: each field with its documentation and default.
macro_rules! section {
    (
        $(#[$about:meta])*
        pub struct $name:ident {
            $($(#[$doc:meta])* pub $field:ident: $ty:ty = $default:expr,)*
        }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            $($(#[$doc])* pub $field: $ty,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $crate::config::decode::Decode for $name {
            fn decode(
                node: &$crate::config::tree::Node,
                path: &$crate::config::problem::KeyPath,
                report: &mut $crate::config::decode::Report,
            ) -> Option<Self> {
                let known = &[$(stringify!($field)),*];
                let section = $crate::config::decode::Section::open(node, path, known, report)?;
                Some(Self {
                    $($field: section.field(stringify!($field), || $default, report),)*
                })
            }

            fn keys(path: &$crate::config::problem::KeyPath, into: &mut Vec<String>) {
                $(<$ty as $crate::config::decode::Decode>::keys(
                    &path.key(stringify!($field)), into,
                );)*
            }

            fn write(
                &self,
                path: &$crate::config::problem::KeyPath,
                into: &mut Vec<$crate::config::written::Setting>,
            ) {
                $($crate::config::decode::Decode::write(
                    &self.$field, &path.key(stringify!($field)), into,
                );)*
            }
        }
    };
}
pub(super) use section;

/// Declares an enum that is written as one of a few words.
macro_rules! choice {
    (
        $(#[$about:meta])*
        pub enum $name:ident {
            $($(#[$doc:meta])* $variant:ident = $word:literal,)*
        }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$doc])* $variant,)*
        }

        $crate::config::decode::words!($name { $($variant = $word,)* });
    };
}
pub(super) use choice;

/// Says how the configuration writes an enum: the core's own are declared there.
macro_rules! words {
    ($name:ident { $($variant:ident = $word:literal,)* }) => {
        impl $crate::config::decode::Scalar for $name {
            fn from_text(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok($name::$variant),)*
                    other => Err(format!(
                        "`{other}` is none of: {}", [$($word),*].join(", "),
                    )),
                }
            }

            fn to_text(&self) -> String {
                match self {
                    $($name::$variant => $word.to_owned(),)*
                }
            }
        }

        $crate::config::decode::scalars!($name);
    };
}
pub(super) use words;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_want_a_unit() {
        let read = |text| <Duration as Scalar>::from_text(text);
        assert_eq!(read("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(read("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(read("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(read("0"), Ok(Duration::ZERO));
        for bad in ["5", "s", "-5s", "5 minutes", "1.5s", "", "99999999999999999h"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_near_miss_gets_a_suggestion() {
        assert_eq!(unknown("pth", &["path", "origins"]), "unknown key; did you mean `path`?");
        assert_eq!(unknown("zzz", &["path", "port"]), "unknown key; known here: path, port");
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
