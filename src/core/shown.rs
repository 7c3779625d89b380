//! What others chose, where a person reads it.

/// The longest text of others in a line, in characters.
const LONGEST: usize = 300;

/// A text of others as a part of a line: it begins no line of its own, moves no cursor, turns no text
/// round, and is not too long to read.
#[must_use]
pub fn in_line(text: &str) -> String {
    let printable = |c: char| if moves(c) { '\u{fffd}' } else { c };
    let mut line: String = text.chars().take(LONGEST).map(printable).collect();
    if text.chars().nth(LONGEST).is_some() {
        line.push('…');
    }
    line
}

/// Control characters, separators of lines and paragraphs, and what changes the direction of writing
/// (Unicode 16, section 23.2).
fn moves(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_others_forges_no_line() {
        assert_eq!(in_line("a\n[+]b\u{1b}[31m"), "a\u{fffd}[+]b\u{fffd}[31m");
        assert_eq!(in_line("a\u{2028}b\u{202e}c"), "a\u{fffd}b\u{fffd}c");
        let long = in_line(&"ä".repeat(LONGEST + 1));
        assert_eq!(long, format!("{}…", "ä".repeat(LONGEST)));
        assert_eq!(in_line(&"ä".repeat(LONGEST)), "ä".repeat(LONGEST));
    }
}
