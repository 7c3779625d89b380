//! A YAML file whose keys have their words above them: `default.yml`, `values.yaml`.

/// A key as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path; a list's first item has the path of the list.
    pub path: Vec<String>,
    /// What stands above it, in one line; empty without a comment.
    pub words: String,
    /// What stands behind it in its line.
    pub text: String,
}

impl Entry {
    pub fn key(&self) -> String {
        self.path.join(".")
    }
}

/// All keys, in order.
pub fn entries(yaml: &str) -> Vec<Entry> {
    let mut found: Vec<Entry> = Vec::new();
    let mut above: Vec<(usize, String)> = Vec::new();
    let mut words: Vec<&str> = Vec::new();
    for line in yaml.lines() {
        let bare = line.trim_start();
        if let Some(comment) = bare.strip_prefix('#') {
            words.push(comment.trim());
            continue;
        }
        let item = bare.trim_start_matches("- ");
        let indent = line.len() - item.len();
        let told = std::mem::take(&mut words).join(" ");
        let Some((key, text)) = item.split_once(':').filter(|(key, _)| is_key(key)) else {
            continue;
        };
        above.retain(|(at, _)| *at < indent);
        above.push((indent, key.to_owned()));
        let path = above.iter().map(|(_, key)| key.clone()).collect();
        found.push(Entry { path, words: told, text: text.trim().to_owned() });
    }
    found
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-./".contains(&b))
}

#[test]
fn words_belong_to_the_key_below_them() {
    let yaml = "# A file.\n\n# The list.\nlist:\n    # Its name,\n    # all of it.\n  - name: x\n    bare:\nend: [1]\n";
    let found: Vec<(String, String, String)> =
        entries(yaml).into_iter().map(|e| (e.key(), e.words, e.text)).collect();
    let entry = |key: &str, words: &str, text: &str| (key.into(), words.into(), text.into());
    assert_eq!(
        found,
        [
            entry("list", "The list.", ""),
            entry("list.name", "Its name, all of it.", "x"),
            entry("list.bare", "", ""),
            entry("end", "", "[1]"),
        ]
    );
}
