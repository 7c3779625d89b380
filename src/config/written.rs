//! A configuration written down again: key by key, as one would set it.
//!
//! There are no secrets in it: passwords and keys are files, and only their names stand here.

use std::collections::BTreeMap;

use super::decode::Decode as _;
use super::model::Config;
use super::problem::KeyPath;

/// A key and its value as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The key, `stacks[0].mi`.
    pub key: String,
    /// The value. Parts of a list stand one after the other with commas.
    pub text: String,
}

impl Config {
    /// All keys that have a value, in the order of [`super::DEFAULT_YAML`].
    #[must_use]
    pub fn written(&self) -> Vec<Setting> {
        let mut written = Vec::new();
        self.write(&KeyPath::default(), &mut written);
        written
    }

    /// The keys whose values are not the defaults; each stack's name and where it is, always.
    #[must_use]
    pub fn told(&self) -> Vec<Setting> {
        let defaults = Config::default().by_key();
        let is_told = |setting: &Setting| {
            // All stacks have the same defaults.
            let (key, of_stack) = match setting.key.split_once("].") {
                Some((_, key)) => (format!("stacks[0].{key}"), Some(key)),
                None => (setting.key.clone(), None),
            };
            matches!(of_stack, Some("name" | "mi")) || defaults.get(&key) != Some(&setting.text)
        };
        self.written().into_iter().filter(is_told).collect()
    }

    /// The keys that have another value in the other one; of a list element that only one of the two
    /// has its own key.
    #[must_use]
    pub fn differences(&self, other: &Config) -> Vec<String> {
        let (mine, theirs) = (self.by_key(), other.by_key());
        let has = |all: &BTreeMap<String, String>, element: &str| {
            let inside = format!("{element}.");
            all.keys().any(|key| key.starts_with(&inside))
        };
        let mut found = Vec::new();
        for setting in self.written().into_iter().chain(other.written()) {
            if mine.get(&setting.key) == theirs.get(&setting.key) {
                continue;
            }
            let element = setting.key.rfind(']').and_then(|end| setting.key.get(..=end));
            let key = match element {
                Some(element) if has(&mine, element) != has(&theirs, element) => element.to_owned(),
                Some(_) | None => setting.key,
            };
            if !found.contains(&key) {
                found.push(key);
            }
        }
        found
    }

    fn by_key(&self) -> BTreeMap<String, String> {
        self.written().into_iter().map(|setting| (setting.key, setting.text)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{load, parse};

    fn config(text: &str) -> Config {
        parse(text, None, []).unwrap().config
    }

    /// The variable that sets a key.
    fn variable(key: &str) -> String {
        let steps = key.to_ascii_uppercase().replace('[', "__").replace(']', "").replace('.', "__");
        format!("CALLPLANE_{steps}")
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        for text in [
            "",
            include_str!("../../tests/config/two-stacks.yml"),
            include_str!("../../tests/config/old-full.yml"),
            "listen: {origins: [\"https://a.example\", \"null\"], console: false}\n\
             limits: {max_message: 65537, ping_interval: 1500ms}\n\
             commands: {grace: 0, transfer: call_transfer, setup_sdp: \"v=0\\r\\ns=-\\r\\n\"}\n\
             redis: {sentinels: [\"a:1\", \"[::1]:2\"], replicas: 2}\nleadership: redis\n\
             stacks: [{name: a, events: \"tcp:[::1]:5065\", domains: [a.example, b.example]}]\n",
        ] {
            let config = parse(text, None, []).unwrap().config;
            let written = config.written().into_iter();
            let variables = written.map(|setting| (variable(&setting.key), setting.text));
            assert_eq!(load(None, variables).unwrap().config, config, "{text}");
        }
    }

    #[test]
    fn only_what_differs_from_the_defaults_is_told() {
        let told = |text: &str| {
            let told = config(text).told().into_iter();
            told.map(|setting| format!("{}={}", setting.key, setting.text)).collect::<Vec<_>>()
        };
        let stack = ["stacks[0].name=opensips", "stacks[0].mi=udp:127.0.0.1:8080"];
        assert_eq!(told(""), stack);
        assert_eq!(
            told(
                "drain: {timeout: 90s, delay: 0s}\nstacks: [{}, {name: b, mi: \"udp:[::1]:9\", in_flight: 9}]"
            ),
            [
                &stack[..],
                &[
                    "stacks[1].name=b",
                    "stacks[1].mi=udp:[::1]:9",
                    "stacks[1].in_flight=9",
                    "drain.timeout=90s",
                ]
            ]
            .concat()
        );
    }

    #[test]
    fn differences_are_named_by_their_keys() {
        let one = config("stacks: [{name: a}]\nlisten: {origins: [\"https://a.example\"]}");
        assert_eq!(one.differences(&one), Vec::<String>::new());
        let other =
            config("stacks: [{name: b}, {name: c, mi: \"[::1]:9\"}]\nlog: {level: debug, file: x}");
        let keys = ["listen.origins", "stacks[0].name", "log.level", "stacks[1]", "log.file"];
        assert_eq!(one.differences(&other), keys);
        let mut back = other.differences(&one);
        back.sort_unstable();
        let mut keys = keys;
        keys.sort_unstable();
        assert_eq!(back, keys);
    }
}
