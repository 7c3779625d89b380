//! What holds for every configuration file and every set of variables.

use callplane::config::{self, ConfigError, Problem};

/// Panics if a promise is broken; else tells whether the configuration is good. Variables, one
/// `NAME=value` a line, may follow the file behind a NUL.
pub fn check(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let (file, variables) = text.split_once('\0').unwrap_or((text, ""));
    let environment = || {
        variables
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    match config::parse(file, Some("f.yml"), environment()) {
        Ok(loaded) => {
            for line in loaded.warnings.lines() {
                assert!(!line.is_empty());
            }
            let again = config::parse(file, Some("f.yml"), environment());
            assert_eq!(again.as_ref(), Ok(&loaded), "the same text means the same");
            true
        }
        Err(ConfigError::Wrong { problems, .. }) => {
            assert!(!problems.is_empty(), "a refusal says why");
            for problem in &problems {
                check_place(problem, file);
            }
            false
        }
        Err(ConfigError::Unreadable { .. }) => panic!("nothing was to be read from disk"),
    }
}

/// A problem's place is inside the file, so that an editor can go there.
fn check_place(problem: &Problem, file: &str) {
    assert!(!problem.text.is_empty());
    if let config::Origin::File { line, column } = problem.origin {
        let lines = lines_of(file);
        assert!(line >= 1 && column >= 1, "{problem:?}");
        assert!(line <= lines + 1, "line {line} of {lines}: {problem:?}");
    }
}

/// YAML ends a line with LF, CR LF, or a CR alone (YAML 1.2.2 section 5.4).
fn lines_of(file: &str) -> u64 {
    let breaks = file.replace("\r\n", "\n").matches(['\n', '\r']).count();
    u64::try_from(breaks + 1).expect("a file is in memory")
}
