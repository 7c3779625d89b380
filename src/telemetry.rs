//! Logs: where they go, in which form, and what must not stand in them.
//!
//! [`start`] installs the subscriber of this process. Every line, whoever wrote it, passes
//! [`redact`] before it leaves, so that a forgotten wrapper can't put a user's address into a log.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::{Level, Metadata};
use tracing_log::AsLog as _;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::filter::{EnvFilter, FilterExt as _, FilterFn, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

use crate::config::{Log, LogFilter, LogFormat};

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log file can't be opened.
    #[error("{}: can't open the log file: {reason}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// This process logs already.
    #[error("logging has been started before")]
    Started,
}

/// Changes what is logged while the server runs. Cheap to clone.
#[derive(Clone)]
pub struct LogLevels {
    change: Arc<dyn Fn(&LogFilter) -> bool + Send + Sync>,
    current: Arc<Mutex<LogFilter>>,
}

impl std::fmt::Debug for LogLevels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogLevels").field("current", &self.current()).finish_non_exhaustive()
    }
}

impl LogLevels {
    /// Levels that are remembered and change nothing: for a process that has its own subscriber.
    pub fn detached(filter: LogFilter) -> LogLevels {
        LogLevels { change: Arc::new(|_| true), current: Arc::new(Mutex::new(filter)) }
    }

    /// Logs by `filter` from now on; `false` if the subscriber is gone.
    pub fn set(&self, filter: LogFilter) -> bool {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = (self.change)(&filter);
        if changed {
            *current = filter;
        }
        changed
    }

    /// What is logged now.
    pub fn current(&self) -> LogFilter {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Starts logging as `log` says, for the whole process.
///
/// # Errors
///
/// [`TelemetryError::File`] if the log file can't be opened, [`TelemetryError::Started`] the second
/// time.
pub fn start(log: &Log) -> Result<LogLevels, TelemetryError> {
    let (sink, colours) = match &log.file {
        None => {
            (Sink::Stderr, io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        }
        Some(name) => (Sink::File(Arc::new(open(name)?)), false),
    };
    let writer = LineWriter { sink, redact: log.redact };
    let (filter, handle) = reload::Layer::new(env_filter(&log.level));
    Registry::default()
        .with(layer(log.format, colours, writer).with_filter(filter.and(shown(log.redact))))
        .try_init()
        .map_err(|_| TelemetryError::Started)?;
    Ok(LogLevels {
        change: Arc::new(move |filter| {
            let changed = handle.reload(env_filter(filter)).is_ok();
            // The libraries that write with `log` ask it before they ask the subscriber.
            tracing_log::log::set_max_level(LevelFilter::current().as_log());
            changed
        }),
        current: Arc::new(Mutex::new(log.level.clone())),
    })
}

/// Warnings and errors of this process that are kept instead of being written.
#[derive(Debug)]
pub struct Kept(Arc<Mutex<Vec<u8>>>);

impl Kept {
    /// The lines since the last time, redacted, without their time.
    pub fn take(&self) -> Vec<String> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&std::mem::take(&mut *kept)).into_owned();
        text.lines().map(|line| line.trim().to_owned()).collect()
    }
}

/// Keeps what goes wrong, for a command whose page tells it.
///
/// # Errors
///
/// [`TelemetryError::Started`] where this process logs already.
pub fn keep() -> Result<Kept, TelemetryError> {
    let memory = Arc::new(Mutex::new(Vec::new()));
    let writer = LineWriter { sink: Sink::Memory(Arc::clone(&memory)), redact: true };
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false);
    let layer = layer.without_time().with_target(false);
    Registry::default()
        .with(layer.with_filter(env_filter(&LogFilter::warn())))
        .try_init()
        .map_err(|_| TelemetryError::Started)?;
    Ok(Kept(memory))
}

fn open(name: &str) -> Result<File, TelemetryError> {
    OpenOptions::new().create(true).append(true).open(name).map_err(|error| TelemetryError::File {
        file: PathBuf::from(name),
        reason: error.to_string(),
    })
}

/// Where all is to be told, the libraries that carry requests to the API server and spans to a
/// collector tell of each of their frames. Who wants that names them: `debug,h2=debug`.
const CARRIERS: &str = "h2=info,hyper_util=info,tonic=info,tower=info";

/// This library calls each request that the API server does not answer an error, and shows the whole of
/// each answer that it can't read. Our own lines tell it once, as what it is: the leader leads on.
const ALARMED: &str = "kube_client::client=off,kube_client::client::tls=warn";

fn env_filter(filter: &LogFilter) -> EnvFilter {
    let filter = filter.as_str();
    if filter.split(',').any(|part| matches!(part, "debug" | "trace")) {
        return EnvFilter::new(format!("{CARRIERS},{filter}"));
    }
    EnvFilter::new(format!("{ALARMED},{filter}"))
}

/// Keeps back what [`redact`] can't hide: at trace level the WebSocket library shows whole messages,
/// with display names and references in them.
///
/// It says that it keeps back no whole level. Without that every trace line of every library would
/// be asked about, one by one: half of the time of an Echo.
fn shown(redact: bool) -> FilterFn<impl Fn(&Metadata<'_>) -> bool> {
    let shown = move |of: &Metadata<'_>| {
        !redact || *of.level() < Level::TRACE || !of.target().starts_with("tungstenite")
    };
    filter_fn(shown).with_max_level_hint(LevelFilter::TRACE)
}

fn layer<W>(format: LogFormat, colours: bool, writer: W) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(colours);
    match format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_span_list(false).boxed(),
    }
}

/// Where lines go.
#[derive(Debug, Clone)]
enum Sink {
    Stderr,
    File(Arc<File>),
    Memory(Arc<Mutex<Vec<u8>>>),
}

/// Writes whole lines, redacted if wanted.
#[derive(Debug, Clone)]
struct LineWriter {
    sink: Sink,
    redact: bool,
}

impl<'w> MakeWriter<'w> for LineWriter {
    type Writer = LineWriter;

    fn make_writer(&'w self) -> LineWriter {
        self.clone()
    }
}

impl Write for LineWriter {
    /// `tracing_subscriber` hands over each event as one piece, so one piece is one write.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let text = if self.redact { redact(&text) } else { text };
        match &self.sink {
            Sink::Stderr => io::stderr().lock().write_all(text.as_bytes())?,
            Sink::File(file) => (&**file).write_all(text.as_bytes())?,
            Sink::Memory(memory) => memory
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend_from_slice(text.as_bytes()),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hides the users of all `sip:`, `sips:` and `tel:` addresses in `text`. Doing it twice changes
/// nothing more.
pub fn redact(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, user, after)) = next_user(rest) {
        out.push_str(before);
        out.extend(user.chars().next());
        out.push_str("***");
        rest = after;
    }
    if out.is_empty() {
        return Cow::Borrowed(text);
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Splits at the first user of an address: what stands before it, the user, what follows.
fn next_user(text: &str) -> Option<(&str, &str, &str)> {
    let bytes = text.as_bytes();
    for (colon, _) in text.match_indices(':') {
        let Some(scheme) = ["sips", "sip", "tel"].into_iter().find(|scheme| {
            let start = colon.wrapping_sub(scheme.len());
            bytes.get(start..colon).is_some_and(|s| s.eq_ignore_ascii_case(scheme.as_bytes()))
                && !start
                    .checked_sub(1)
                    .and_then(|i| bytes.get(i))
                    .is_some_and(u8::is_ascii_alphanumeric)
        }) else {
            continue;
        };
        let (before, address) = text.split_at_checked(colon + 1)?;
        // A host has no '@', so the last one ends the user, whatever the user is made of.
        let whole = address.find(|c: char| c.is_whitespace() || "<>\"\\".contains(c));
        let address = address.get(..whole.unwrap_or(address.len()))?;
        let length = if scheme == "tel" {
            address.find([';', ',', ')']).unwrap_or(address.len())
        } else {
            match address.rfind('@') {
                Some(at) => at,
                None => continue,
            }
        };
        if length == 0 {
            continue;
        }
        let user = address.get(..length)?;
        return Some((before, user, text.get(colon + 1 + length..)?));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_hidden_and_hosts_stay() {
        for (text, hidden) in [
            ("sip:alice@example.org", "sip:a***@example.org"),
            (
                "<SIPS:Bob.Smith@10.0.0.1:5061;transport=tls>",
                "<SIPS:B***@10.0.0.1:5061;transport=tls>",
            ),
            ("from sip:a@x to sip:bob@y", "from sip:a***@x to sip:b***@y"),
            ("{\"caller\":\"sip:äöü@x\"}", "{\"caller\":\"sip:ä***@x\"}"),
            ("tel:+43123456;ext=1", "tel:+***;ext=1"),
            ("sip:a@b@c", "sip:a***@c"),
            ("gossip:alice@x", "gossip:alice@x"),
            ("sip:proxy.example:5060 sip: sip:@x tel:", "sip:proxy.example:5060 sip: sip:@x tel:"),
            ("a:b sip:bob@y", "a:b sip:b***@y"),
            ("nothing", "nothing"),
        ] {
            assert_eq!(redact(text), hidden);
            assert_eq!(redact(hidden), hidden, "twice is as once");
        }
    }

    fn logged(format: LogFormat, redact: bool, write: impl FnOnce(&LogLevels)) -> String {
        let memory = Arc::new(Mutex::new(Vec::new()));
        let writer = LineWriter { sink: Sink::Memory(memory.clone()), redact };
        let (filter, handle) = reload::Layer::new(env_filter(&LogFilter::info()));
        let levels = LogLevels {
            change: Arc::new(move |filter| handle.reload(env_filter(filter)).is_ok()),
            current: Arc::new(Mutex::new(LogFilter::info())),
        };
        let subscriber = Registry::default()
            .with(layer(format, false, writer).with_filter(filter.and(shown(redact))));
        tracing::subscriber::with_default(subscriber, || write(&levels));
        let bytes = memory.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn no_line_leaves_with_a_users_address() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let text = logged(format, true, |_| {
                let span = tracing::info_span!("command", caller = "sip:carol@x");
                let _entered = span.enter();
                tracing::info!(callee = "sip:bob@y", "start from sip:alice@z");
            });
            for hidden in ["sip:c***@x", "sip:b***@y", "sip:a***@z"] {
                assert!(text.contains(hidden), "{text}");
            }
            for plain in ["carol", "bob", "alice"] {
                assert!(!text.contains(plain), "{text}");
            }
        }
        let open = logged(LogFormat::Text, false, |_| tracing::info!("sip:alice@z"));
        assert!(open.contains("alice"));
    }

    #[test]
    fn whole_messages_are_shown_only_where_nothing_is_hidden() {
        for redact in [true, false] {
            let text = logged(LogFormat::Text, redact, |levels| {
                assert!(levels.set("trace".parse().unwrap()));
                tracing::trace!(target: "tungstenite::protocol", "Received message Carol Smith");
                tracing::debug!(target: "tungstenite::protocol", "closing");
                tracing::trace!("ours");
            });
            assert_eq!(text.contains("Carol Smith"), !redact, "{text}");
            assert!(text.contains("closing") && text.contains("ours"), "{text}");
        }
    }

    #[test]
    fn each_frame_of_a_library_is_told_of_only_where_it_is_named() {
        for (filter, told) in [("debug", false), ("debug,h2=debug", true), ("info,h2=debug", true)]
        {
            let text = logged(LogFormat::Text, true, |levels| {
                assert!(levels.set(filter.parse().unwrap()));
                tracing::debug!(target: "h2::codec::framed_write", "send a frame");
            });
            assert_eq!(text.contains("send a frame"), told, "{filter}: {text}");
        }
    }

    #[test]
    fn an_api_server_that_is_away_is_no_error_unless_that_is_wanted() {
        let wanted = "info,kube_client::client=warn";
        for (filter, told) in [("info", false), ("warn", false), ("debug", true), (wanted, true)] {
            let text = logged(LogFormat::Text, true, |levels| {
                assert!(levels.set(filter.parse().unwrap()));
                tracing::error!(target: "kube_client::client::builder", "failed with error");
                tracing::warn!(target: "kube_client::client", "<html>");
                tracing::warn!(target: "kube_client::client::tls", "failed to reload CA bundle");
                tracing::warn!("ours");
            });
            for theirs in ["failed with error", "<html>"] {
                assert_eq!(text.contains(theirs), told, "{filter}: {text}");
            }
            for told in ["CA bundle", "ours"] {
                assert!(text.contains(told), "{filter}: {text}");
            }
        }
    }

    #[test]
    fn what_is_below_the_level_is_not_even_asked_about() {
        let writer = LineWriter { sink: Sink::Memory(Arc::default()), redact: true };
        let layer = layer(LogFormat::Text, false, writer);
        let subscriber = Registry::default()
            .with(layer.with_filter(env_filter(&LogFilter::info()).and(shown(true))));
        assert_eq!(tracing::Subscriber::max_level_hint(&subscriber), Some(LevelFilter::INFO));
    }

    #[test]
    fn json_lines_are_json() {
        let text = logged(LogFormat::Json, true, |_| {
            tracing::info!(stack = "east", "a \"quoted\" sip:a\"b@c line");
        });
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["stack"], "east");
    }

    #[test]
    fn the_level_changes_while_running() {
        let text = logged(LogFormat::Text, true, |levels| {
            tracing::debug!("before");
            assert!(levels.set("debug".parse().unwrap()));
            assert_eq!(levels.current().as_str(), "debug");
            tracing::debug!("after");
        });
        assert!(!text.contains("before") && text.contains("after"), "{text}");
    }

    #[test]
    fn a_log_file_that_can_not_be_opened_is_one_line() {
        let refused = open("/nowhere/callplane.log").unwrap_err().to_string();
        assert_eq!(
            refused,
            "/nowhere/callplane.log: can't open the log file: No such file or directory (os error 2)"
        );
    }
}
