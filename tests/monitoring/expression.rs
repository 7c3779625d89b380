//! What a PromQL expression asks for: its selectors and the labels that it names. No parser:
//! Prometheus itself is asked whether an expression is one.

/// Words before a list of labels.
const LISTS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];

/// A metric, and what stands behind it in braces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector {
    pub metric: String,
    pub matchers: String,
}

impl std::fmt::Display for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.metric, self.matchers)
    }
}

/// Metrics that callplane tells, or Prometheus about it.
fn is_metric(word: &str) -> bool {
    word.starts_with("callplane_")
        || word.starts_with("process_")
        || ["up", "ALERTS"].contains(&word)
}

/// The words of an expression with what follows each; texts in quotes are no words.
fn words(expression: &str) -> Vec<(&str, &str)> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let (mut rest, mut words) = (expression, Vec::new());
    while let Some(first) = rest.chars().next() {
        if first == '"' {
            let end = rest[1..].find('"').expect("a text ends") + 2;
            rest = &rest[end..];
        } else if is_part(first) {
            let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            words.push((&rest[..end], &rest[end..]));
            rest = &rest[end..];
        } else {
            rest = &rest[first.len_utf8()..];
        }
    }
    words
}

/// The selectors, in order.
pub fn selectors(expression: &str) -> Vec<Selector> {
    let metrics = words(expression).into_iter().filter(|(word, _)| is_metric(word));
    let selectors = metrics.map(|(word, rest)| {
        let matchers = match rest.strip_prefix('{') {
            Some(inside) => &rest[..inside.find('}').expect("braces are closed") + 2],
            None => "",
        };
        Selector { metric: word.to_owned(), matchers: matchers.to_owned() }
    });
    selectors.collect()
}

/// The labels of `by (..)`, `on (..)` and so on, list by list.
fn lists(expression: &str) -> Vec<(&str, Vec<&str>)> {
    let mut lists = Vec::new();
    for (word, rest) in words(expression) {
        let Some(inside) = rest.trim_start().strip_prefix('(') else { continue };
        if LISTS.contains(&word) {
            let (inside, _) = inside.split_once(')').expect("a list is closed");
            let labels = inside.split(',').map(str::trim).filter(|label| !label.is_empty());
            lists.push((word, labels.collect()));
        }
    }
    lists
}

/// All labels that the expression names.
pub fn labels(expression: &str) -> Vec<String> {
    let listed = lists(expression).into_iter().flat_map(|(_, labels)| labels);
    let matched = selectors(expression);
    let matched = matched.iter().flat_map(|selector| matchers(&selector.matchers));
    listed.map(str::to_owned).chain(matched).collect()
}

/// The labels that the outermost aggregation keeps.
pub fn kept(expression: &str) -> Vec<String> {
    let of_by = lists(expression).into_iter().find(|(word, _)| *word == "by");
    of_by.into_iter().flat_map(|(_, labels)| labels).map(str::to_owned).collect()
}

fn matchers(braces: &str) -> Vec<String> {
    let names = words(braces).into_iter().map(|(word, _)| word.to_owned());
    names.collect()
}

#[test]
fn selectors_and_labels_are_found() {
    let expression = r#"sum by (job, le) (rate(callplane_a_b_total{stack=~"x by (y)", job="up"}[5m]))
        / on (job) group_left () up unless process_open_fds > 0.5"#;
    let found: Vec<_> = selectors(expression).iter().map(ToString::to_string).collect();
    let first = r#"callplane_a_b_total{stack=~"x by (y)", job="up"}"#;
    assert_eq!(found, [first, "up", "process_open_fds"]);
    assert_eq!(labels(expression), ["job", "le", "job", "stack", "job"]);
    assert_eq!(kept(expression), ["job", "le"]);
}
