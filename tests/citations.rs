//! Facts and rows are cited by number. Every cited number exists in the pages that give them
//! their meaning, and every row of the truth table is played.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const FACTS: &str = "docs/opensips/facts.md";
const OUTCOMES: &str = "docs/outcomes.md";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap()
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// All that may cite: of sources the comments, of pages and scripts the whole text.
fn citing() -> Vec<(PathBuf, String)> {
    let mut found: Vec<PathBuf> =
        ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root().join(name)).to_vec();
    for folder in ["src", "tests", "benches", "docs", "fuzz/fuzz_targets", "fuzz/invariants"] {
        files(&root().join(folder), &mut found);
    }
    let text_of = |path: &PathBuf| {
        let ending = path.extension()?.to_str()?;
        let comments = |text: String| {
            let lines = text.lines().filter_map(|line| Some(line.split_once("//")?.1));
            lines.collect::<Vec<_>>().join("\n")
        };
        match ending {
            "rs" => Some(comments(std::fs::read_to_string(path).unwrap())),
            "md" | "cfg" => Some(std::fs::read_to_string(path).unwrap()),
            _ => None,
        }
    };
    found.into_iter().filter_map(|path| Some((path.clone(), text_of(&path)?))).collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty())
}

/// `F4`, `W11`.
fn is_fact(word: &str) -> bool {
    let number = word.strip_prefix(['F', 'W']);
    number.is_some_and(|n| (1..=2).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit()))
}

/// The facts that the page gives: `**F4. Its words**`.
fn facts() -> BTreeSet<String> {
    let page = read(FACTS);
    let given = page.lines().filter_map(|line| line.strip_prefix("**"));
    let mut facts = BTreeSet::new();
    for fact in given.filter_map(|line| words(line).next().filter(|word| is_fact(word))) {
        assert!(facts.insert(fact.to_owned()), "{fact} is given twice");
    }
    facts
}

/// The rows that the page gives: `| 27 | ...`.
fn rows() -> BTreeSet<u32> {
    let page = read(OUTCOMES);
    let given = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next());
    let mut rows = BTreeSet::new();
    for row in given.filter_map(|number| number.parse().ok()) {
        assert!(rows.insert(row), "row {row} is given twice");
    }
    rows
}

/// The numbers of `row 27`, `rows 44 to 46`, `rows 11, 12 and 15`.
fn rows_cited(text: &str) -> BTreeSet<u32> {
    let mut cited = BTreeSet::new();
    let mut in_list = false;
    for word in words(text) {
        match word.parse() {
            Ok(number) if in_list => {
                cited.insert(number);
            }
            Ok(_) | Err(_) => {
                in_list = matches!(word, "row" | "rows")
                    || (in_list && matches!(word, "to" | "and" | "or"))
            }
        }
    }
    cited
}

/// The numbers of the tests that are called `row_27_...` (or `finding_...`).
fn played(kind: &str) -> BTreeSet<u32> {
    let mut found = Vec::new();
    files(&root().join("tests/truth_table"), &mut found);
    let beginning = format!("{kind}_");
    let mut numbers = BTreeSet::new();
    for path in found {
        let text = std::fs::read_to_string(path).unwrap();
        let names = text.split(&beginning).skip(1);
        numbers.extend(names.filter_map(|name| name.split_once('_')?.0.parse::<u32>().ok()));
    }
    numbers
}

#[test]
fn every_fact_that_is_cited_is_given() {
    let facts = facts();
    assert!(facts.len() > 30, "{facts:?}");
    let mut cited = 0;
    for (path, text) in citing() {
        for fact in words(&text).filter(|word| is_fact(word)) {
            assert!(facts.contains(fact), "{} cites {fact}: not in {FACTS}", path.display());
            cited += 1;
        }
    }
    assert!(cited > 50, "{cited}");
    for number in played("finding") {
        assert!(facts.contains(&format!("F{number}")), "finding_{number:02}: not in {FACTS}");
    }
}

#[test]
fn every_row_that_is_cited_is_given() {
    let rows = rows();
    for (path, text) in citing() {
        for row in rows_cited(&text) {
            assert!(rows.contains(&row), "{} cites row {row}: not in {OUTCOMES}", path.display());
        }
    }
}

#[test]
fn every_row_of_the_truth_table_is_played_and_no_other() {
    assert_eq!(rows(), (1..=47).collect());
    assert_eq!(played("row"), rows());
}
