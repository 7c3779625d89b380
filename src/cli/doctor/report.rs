//! What the doctor has found: sections of lines, and what is wrong once more at the end.
//!
//! Every text passes [`hidden`] before it leaves: the page is for a ticket.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::telemetry::redact;

/// What a line says of its thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Plain,
    Good,
    Warning,
    Problem,
}

impl Mark {
    fn sign(self) -> &'static str {
        match self {
            Mark::Plain => "   ",
            Mark::Good => "[+]",
            Mark::Warning => "[!]",
            Mark::Problem => "[-]",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Mark::Plain => "note",
            Mark::Good => "ok",
            Mark::Warning => "warning",
            Mark::Problem => "problem",
        }
    }
}

#[derive(Debug)]
struct Line {
    mark: Mark,
    name: String,
    text: String,
}

#[derive(Debug)]
struct Section {
    title: String,
    lines: Vec<Line>,
}

/// Something that is wrong, and what to do about it.
#[derive(Debug)]
struct Trouble {
    section: String,
    what: String,
    advice: String,
}

/// The whole page. Lines go to the section that was begun last.
#[derive(Debug, Default)]
pub struct Report {
    sections: Vec<Section>,
    problems: Vec<Trouble>,
    warnings: Vec<Trouble>,
}

/// The longest line of the list at the end.
const WIDTH: usize = 100;

/// Columns before the text of a line.
const NAMES: usize = 22;

impl Report {
    /// Begins a section.
    pub fn begin(&mut self, title: impl Into<String>) {
        self.sections.push(Section { title: title.into(), lines: Vec::new() });
    }

    /// A line that judges nothing.
    pub fn note(&mut self, name: impl Into<String>, text: impl Into<String>) {
        self.line(Mark::Plain, name.into(), text.into());
    }

    /// A line of something that is as it should be.
    pub fn good(&mut self, name: impl Into<String>, text: impl Into<String>) {
        self.line(Mark::Good, name.into(), text.into());
    }

    /// A line of something that may become a problem.
    pub fn warn(&mut self, name: impl Into<String>, text: impl Into<String>, advice: &str) {
        let (name, text) = (name.into(), text.into());
        self.warnings.push(self.trouble(&name, &text, advice));
        self.line(Mark::Warning, name, text);
    }

    /// A line of something that does not work.
    pub fn bad(&mut self, name: impl Into<String>, text: impl Into<String>, advice: &str) {
        let (name, text) = (name.into(), text.into());
        self.problems.push(self.trouble(&name, &text, advice));
        self.line(Mark::Problem, name, text);
    }

    /// The same of something that is told of already.
    pub fn bad_again(&mut self, name: impl Into<String>, text: impl Into<String>) {
        self.line(Mark::Problem, name.into(), text.into());
    }

    /// Whether something is told of by this name.
    #[must_use]
    pub fn is_told(&self, name: &str) -> bool {
        self.problems.iter().chain(&self.warnings).any(|trouble| trouble.what.starts_with(name))
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.problems.is_empty()
    }

    fn line(&mut self, mark: Mark, name: String, text: String) {
        if let Some(section) = self.sections.last_mut() {
            section.lines.push(Line { mark, name: hidden(&name), text: hidden(&text) });
        }
    }

    fn trouble(&self, name: &str, text: &str, advice: &str) -> Trouble {
        let section = self.sections.last().map(|section| section.title.clone());
        let what = if name.is_empty() { text.to_owned() } else { format!("{name}: {text}") };
        Trouble {
            section: section.unwrap_or_default(),
            what: hidden(&what),
            advice: hidden(advice),
        }
    }

    /// The page for people.
    #[must_use]
    pub fn page(&self) -> String {
        let mut page = String::new();
        // Writing to a string can't fail.
        for section in &self.sections {
            let _ = writeln!(page, "{}", section.title);
            for Line { mark, name, text } in &section.lines {
                let mut texts = text.lines();
                let first = texts.next().unwrap_or_default();
                let line = match name.is_empty() {
                    true => format!("  {} {first}", mark.sign()),
                    false => format!("  {} {name:<NAMES$} {first}", mark.sign()),
                };
                let _ = writeln!(page, "{}", line.trim_end());
                for more in texts {
                    let _ = writeln!(page, "      {more}");
                }
            }
            page.push('\n');
        }
        for (word, troubles) in [("warnings", &self.warnings), ("problems", &self.problems)] {
            if word == "problems" || !troubles.is_empty() {
                let _ = writeln!(page, "{word}: {}", troubles.len());
            }
            for (n, Trouble { section, what, advice }) in troubles.iter().enumerate() {
                wrap(&mut page, &format!("{:>3}. ", n + 1), &format!("{section}: {what}"));
                advice.lines().for_each(|line| wrap(&mut page, "     -> ", line));
            }
        }
        page
    }

    /// The same for programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let line = |Line { mark, name, text }: &Line| json!({"mark": mark.word(), "name": name, "text": text});
        let sections = self.sections.iter().map(|section| {
            let lines: Vec<Value> = section.lines.iter().map(line).collect();
            json!({"title": section.title, "lines": lines})
        });
        let troubles = |troubles: &[Trouble]| -> Vec<Value> {
            let told = troubles.iter().map(|Trouble { section, what, advice }| {
                json!({"section": section, "what": what, "advice": advice})
            });
            told.collect()
        };
        json!({
            "sections": sections.collect::<Vec<Value>>(),
            "warnings": troubles(&self.warnings),
            "problems": troubles(&self.problems),
        })
    }
}

/// Writes a text behind `lead`, in lines that a ticket shows whole.
fn wrap(page: &mut String, lead: &str, text: &str) {
    let indent = " ".repeat(lead.len());
    let mut line = lead.to_owned();
    let mut is_begun = false;
    for word in text.split_whitespace() {
        if is_begun && line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(page, "{line}");
            line.clone_from(&indent);
            is_begun = false;
        }
        if is_begun {
            line.push(' ');
        }
        line.push_str(word);
        is_begun = true;
    }
    let _ = writeln!(page, "{line}");
}

/// Without the users of SIP addresses, and without what stands before the host of a URL or of another
/// address.
fn hidden(text: &str) -> String {
    let text = without_credentials(&redact(text));
    let mut out = String::with_capacity(text.len());
    let mut rest: &str = &text;
    while let Some((before, after)) = rest.split_once("://") {
        out.push_str(before);
        out.push_str("://");
        let ends = |c: char| c.is_whitespace() || "/\"'<>,?#".contains(c);
        let (authority, others) = after.split_at(after.find(ends).unwrap_or(after.len()));
        match authority.rsplit_once('@') {
            Some((_, host)) => {
                out.push_str("***@");
                out.push_str(host);
            }
            None => out.push_str(authority),
        }
        rest = others;
    }
    out.push_str(rest);
    out
}

/// `user:password@host`, which is no address that a configuration takes, and stands in what is said of
/// it. That of a URL begins elsewhere, and users of SIP addresses are hidden already.
fn without_credentials(text: &str) -> String {
    let ends = |c: char| c.is_whitespace() || "`'\"<>".contains(c);
    let words = text.split_inclusive(ends).map(|word| {
        let is_one =
            |user: &str| user.contains(':') && !user.contains("://") && !user.ends_with("***");
        match word.rsplit_once('@') {
            Some((user, host)) if is_one(user) => format!("***@{host}"),
            Some(_) | None => word.to_owned(),
        }
    });
    words.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_no_users_and_no_passwords() {
        for (text, shown) in [
            ("http://amy:pass@collector.example:4317/x", "http://***@collector.example:4317/x"),
            ("redis://:p@ss@a, redis://b", "redis://***@a, redis://b"),
            ("sip:alice@example.org", "sip:a***@example.org"),
            ("`amy:p@ss@host:6379` is none", "`***@host:6379` is none"),
            ("redis.address: `:pass@host`", "redis.address: `***@host`"),
            ("http://127.0.0.1:8888/mi?a@b", "http://127.0.0.1:8888/mi?a@b"),
            ("nothing", "nothing"),
        ] {
            assert_eq!(hidden(text), shown);
        }
        let mut report = Report::default();
        report.begin("configuration");
        report.bad("a", "http://u:secret@h", "ask http://u:secret@h");
        report.note("b", "sip:alice@h");
        for text in [report.page(), report.json().to_string()] {
            assert!(!text.contains("secret") && !text.contains("alice"), "{text}");
        }
    }

    #[test]
    fn long_advice_is_folded_under_itself() {
        let mut page = String::new();
        wrap(&mut page, "  1. ", &"word ".repeat(30));
        let lines: Vec<&str> = page.lines().collect();
        assert_eq!(lines.len(), 2, "{page}");
        assert!(lines.iter().all(|line| line.len() <= WIDTH), "{page}");
        assert!(lines[0].starts_with("  1. word word") && lines[1].starts_with("     word"));
        let mut page = String::new();
        wrap(&mut page, "-> ", &"x".repeat(WIDTH));
        assert_eq!(page.lines().count(), 1, "a long word is not cut");
    }

    #[test]
    fn what_is_wrong_stands_in_its_place_and_at_the_end_with_advice() {
        let mut report = Report::default();
        report.begin("platform");
        report.note("kernel", "6.1");
        report.warn("descriptors", "1024", "raise them");
        assert!(report.is_good(), "a warning is no problem");
        report.begin("redis");
        report.bad("", "does not answer", "look\nthere");
        report.bad_again("", "said by the server too");
        assert!(!report.is_good());
        let expected = "\
platform
      kernel                 6.1
  [!] descriptors            1024

redis
  [-] does not answer
  [-] said by the server too

warnings: 1
  1. platform: descriptors: 1024
     -> raise them
problems: 1
  1. redis: does not answer
     -> look
     -> there
";
        assert_eq!(report.page(), expected);
        assert_eq!(report.json()["problems"][0]["advice"], "look\nthere");
        assert_eq!(report.json()["sections"][0]["lines"][1]["mark"], "warning");
        assert!(Report::default().page().ends_with("problems: 0\n"));
    }
}
