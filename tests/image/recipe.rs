//! The Dockerfile, read.

use serde_json::Value;

/// A word in capitals and what stands behind it.
#[derive(Debug)]
pub struct Instruction {
    pub name: String,
    pub text: String,
}

/// What stands between one `FROM` and the next.
#[derive(Debug)]
pub struct Stage {
    /// What it begins with.
    pub from: String,
    pub instructions: Vec<Instruction>,
}

impl Stage {
    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        let named = self.instructions.iter().filter(move |one| one.name == name);
        named.map(|one| one.text.as_str())
    }

    /// What the only instruction of this name says.
    pub fn only(&self, name: &str) -> &str {
        let all: Vec<_> = self.all(name).collect();
        assert_eq!(all.len(), 1, "{name}: {all:?}");
        all[0]
    }

    /// The default of a build argument.
    pub fn argument(&self, name: &str) -> Option<&str> {
        self.all("ARG").find_map(|text| text.strip_prefix(name)?.strip_prefix('='))
    }
}

/// The words of an instruction that no shell is to split.
pub fn words(text: &str) -> Vec<String> {
    let words: Value = serde_json::from_str(text).unwrap_or_else(|why| {
        panic!("a shell would run this, and there is none: {text} ({why})");
    });
    let words = words.as_array().expect("a list of words").iter();
    words.map(|word| word.as_str().expect("a word").to_owned()).collect()
}

pub fn stages(text: &str) -> Vec<Stage> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let joined = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    let mut stages: Vec<Stage> = Vec::new();
    for line in joined.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (name, text) = line.split_once(' ').expect("an instruction and its text");
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if name == "FROM" {
            stages.push(Stage { from: text, instructions: Vec::new() });
            continue;
        }
        let stage = stages.last_mut().expect("a stage begins before anything else");
        stage.instructions.push(Instruction { name: name.to_owned(), text });
    }
    stages
}
