//! The configuration: one YAML file, environment variables over it, defaults below it.
//!
//! ```text
//! file -> tree (values with places) -> [predecessor: the old server's keys become ours]
//!      -> environment (variables on top) -> decode (typed sections) -> check -> Config
//! ```
//!
//! Unknown keys are refused. All problems of a file are found in one run and reported with line
//! and column (or the variable's name); what is allowed but risky is a warning. Nothing here opens
//! a socket.
//!
//! [`DEFAULT_YAML`] names every key with its documentation; it parses to [`Config::default`].

mod check;
mod decode;
mod environment;
mod model;
mod predecessor;
mod problem;
mod tree;
mod value;
mod written;

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

pub use model::{
    Admin, Breaker, Commands, Config, Drain, Kubernetes, Leadership, Limits, Listen, Log,
    LogFormat, Redis, Stack, Store, Traces,
};
pub use problem::{Origin, Problem};
pub use value::{
    ByteSize, CollectorUrl, Domain, HostPort, HttpPath, HttpUrl, LogFilter, ObjectName, Share,
    SipUri, StackName, StackSocket, Transport, WebOrigin,
};
pub use written::Setting;

use decode::{Decode, Report};
use problem::KeyPath;

/// All keys with their documentation and defaults, as YAML.
pub const DEFAULT_YAML: &str = include_str!("default.yml");

/// The longest file that is read. A configuration is a few KiB.
const MAX_FILE: usize = 1024 * 1024;

/// A configuration without problems.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// What is allowed and risky.
    pub warnings: Warnings,
    /// Whether the file had the old server's form (`ws_server`, `mi`, `sip`, `log`).
    pub is_old: bool,
}

/// Risky settings, and the file they stand in; `Display` gives one line each.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Warnings {
    /// The file's name as the user gave it.
    pub file: Option<String>,
    /// The settings.
    pub list: Vec<Problem>,
}

impl Warnings {
    /// One line for each.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.list.iter().map(|problem| line(self.file.as_deref(), problem))
    }
}

/// Why there is no configuration.
#[derive(Debug, Clone, PartialEq)]
pub enum ConfigError {
    /// The file can't be read.
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// All that is wrong, in the order of the file.
    Wrong {
        /// The file's name as the user gave it.
        file: Option<String>,
        /// What is wrong; at least one.
        problems: Vec<Problem>,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Unreadable { file, reason } => {
                write!(f, "{}: can't read the configuration: {reason}", file.display())
            }
            ConfigError::Wrong { file, problems } => {
                for (n, problem) in problems.iter().enumerate() {
                    let end = if n == 0 { "" } else { "\n" };
                    write!(f, "{end}{}", line(file.as_deref(), problem))?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ConfigError {}

/// `file:line:column: key: text`, the form that editors follow.
fn line(file: Option<&str>, problem: &Problem) -> String {
    let key = if problem.key.is_empty() { String::new() } else { format!("{}: ", problem.key) };
    let text = &problem.text;
    match (&problem.origin, file) {
        (Origin::File { line, column }, Some(file)) => {
            format!("{file}:{line}:{column}: {key}{text}")
        }
        (Origin::Unset, Some(file)) => format!("{file}: {key}{text}"),
        (Origin::File { .. } | Origin::Unset, None) | (Origin::Env(_), _) => problem.to_string(),
    }
}

/// Reads `file` (defaults without one) and lays the `CALLPLANE_` variables of `environment` over
/// it.
///
/// # Errors
///
/// [`ConfigError::Unreadable`] if the file can't be read, is not UTF-8 or longer than 1 MiB;
/// [`ConfigError::Wrong`] with all problems otherwise.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, ConfigError> {
    let Text { text, name } = text_of(file)?;
    parse(&text, name.as_deref(), environment)
}

/// How a server that may run can be asked, and how long it takes to stop: `admin` and `drain` as
/// [`load`] has them.
///
/// A mistake elsewhere in the file is left alone: whoever edits it must not have a server that runs
/// well taken for a dead one.
///
/// # Errors
///
/// As [`load`], for these two sections.
pub fn reach(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<(Admin, Drain), ConfigError> {
    let Text { text, name } = text_of(file)?;
    let wrong = |problems: Vec<Problem>| ConfigError::Wrong { file: name.clone(), problems };
    let Reading { config, mut report, .. } =
        read_all(&text, environment).map_err(|problem| wrong(vec![problem]))?;
    report.problems.retain(|problem| {
        let section = problem.key.split(['.', '[']).next();
        section.is_some_and(|section| ["admin", "drain"].contains(&section))
    });
    if report.problems.is_empty() {
        Ok((config.admin, config.drain))
    } else {
        report.problems.sort();
        Err(wrong(report.problems))
    }
}

/// A file's text, and its name as the user gave it.
struct Text {
    text: String,
    name: Option<String>,
}

fn text_of(file: Option<&Path>) -> Result<Text, ConfigError> {
    let Some(path) = file else { return Ok(Text { text: String::new(), name: None }) };
    let unreadable = |reason: String| ConfigError::Unreadable { file: path.to_owned(), reason };
    let about = std::fs::metadata(path).map_err(|e| unreadable(e.to_string()))?;
    if about.is_dir() {
        return Err(unreadable("it is a directory".to_owned()));
    }
    let text = read(path).map_err(|e| unreadable(e.to_string()))?;
    if text.len() > MAX_FILE {
        return Err(unreadable("it is longer than 1 MiB".to_owned()));
    }
    let text = String::from_utf8(text).map_err(|e| unreadable(e.to_string()))?;
    Ok(Text { text, name: Some(path.display().to_string()) })
}

/// No more of a file than tells that it is too long: a device has no end and says no length.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let most = u64::try_from(MAX_FILE).unwrap_or(u64::MAX).saturating_add(1);
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(most).read_to_end(&mut text)?;
    Ok(text)
}

/// As [`load`], from text; `name` stands in messages as the file's name.
///
/// # Errors
///
/// [`ConfigError::Wrong`] with all problems.
pub fn parse(
    text: &str,
    name: Option<&str>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, ConfigError> {
    let wrong = |mut problems: Vec<Problem>| {
        problems.sort();
        problems.dedup();
        ConfigError::Wrong { file: name.map(str::to_owned), problems }
    };
    let Reading { config, report, is_old } =
        read_all(text, environment).map_err(|problem| wrong(vec![problem]))?;
    if report.problems.is_empty() {
        let mut list = report.warnings;
        list.sort();
        Ok(Loaded { config, warnings: Warnings { file: name.map(str::to_owned), list }, is_old })
    } else {
        Err(wrong(report.problems))
    }
}

/// What a text says, and all that is wrong with it.
struct Reading {
    config: Config,
    report: Report,
    is_old: bool,
}

/// Fails only where there is no YAML.
fn read_all(
    text: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Reading, Problem> {
    let mut root = tree::parse(text)?;
    let mut report = Report::default();
    let is_old = predecessor::is_old(&root);
    if is_old {
        root = predecessor::translate(&root, &sections(), &mut report);
    }
    environment::overlay(&mut root, environment, &mut report);
    let config = Config::decode(&root, &KeyPath::default(), &mut report).unwrap_or_default();
    check::check(&config, is_old, &mut report);
    Ok(Reading { config, report, is_old })
}

/// The `CALLPLANE_` variables of this process. What is not UTF-8 in them is replaced by U+FFFD, and
/// refused for that when the variable is read.
pub fn process_environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .map(|(name, value)| {
            (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
        })
        .filter(|(name, _)| name.starts_with("CALLPLANE_"))
        .collect()
}

/// The paths of all keys, `stacks[0].mi`, in the order of [`DEFAULT_YAML`].
pub fn keys() -> Vec<String> {
    let mut keys = Vec::new();
    Config::keys(&KeyPath::default(), &mut keys);
    keys
}

/// The top-level keys.
fn sections() -> Vec<String> {
    let mut sections: Vec<String> =
        keys().iter().filter_map(|key| key.split(['.', '[']).next().map(str::to_owned)).collect();
    sections.dedup();
    sections
}
