//! Whether the configuration's file still says what runs.
//!
//! A server reads its configuration once. Who changes the file must not believe that it counts: the
//! file is looked at now and then, and what differs is said once, with a gauge for alerts. The log
//! level alone is taken over at once.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::admin::{Part, Parts};
use crate::config::{self, Config, ConfigError, Loaded};
use crate::metrics::ConfigMetrics;
use crate::telemetry::LogLevels;

/// Between two looks, each of which costs one `stat`.
const LOOK: Duration = Duration::from_secs(10);

/// How the file stands to what runs.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    /// It says the same.
    Same,
    /// These keys have other values.
    Differs(Vec<String>),
    /// It can't be used.
    Wrong(String),
}

/// A file, and what was read from it when the server started.
pub struct Watched {
    file: PathBuf,
    running: Config,
    levels: LogLevels,
    metrics: ConfigMetrics,
    standing: Arc<Mutex<Standing>>,
    seen: Option<Seen>,
}

/// What tells that a file is another one. A link counts as what it leads to: Kubernetes replaces the
/// link to a directory of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    file: (u64, u64),
    bytes: u64,
    modified: (i64, i64),
}

impl Seen {
    fn of(about: &Metadata) -> Self {
        Self {
            file: (about.dev(), about.ino()),
            bytes: about.len(),
            modified: (about.mtime(), about.mtime_nsec()),
        }
    }
}

impl Watched {
    /// The file that `running` was read from.
    pub fn new(
        file: PathBuf,
        running: Config,
        levels: LogLevels,
        metrics: ConfigMetrics,
        parts: &Parts,
    ) -> Self {
        let standing = Arc::new(Mutex::new(Standing::Same));
        let (told, name) = (Arc::clone(&standing), file.display().to_string());
        parts.look_with(move || {
            let standing = told.lock().unwrap_or_else(PoisonError::into_inner);
            vec![part(&name, &standing)]
        });
        Self { file, running, levels, metrics, standing, seen: None }
    }

    /// Looks now and then, and whenever `look` is notified, until `stop`.
    pub async fn watch(mut self, look: Arc<Notify>, stop: CancellationToken) {
        loop {
            // Also at first: the file may have changed since it was read.
            self.look(false).await;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
                () = look.notified() => {
                    tracing::info!(file = %self.file.display(), "SIGHUP: the configuration's file is looked at");
                    self.look(true).await;
                }
            }
        }
    }

    /// Reads the file if it is another one than before, or if `asked`.
    async fn look(&mut self, asked: bool) {
        let about = tokio::fs::metadata(&self.file).await.ok();
        if about.as_ref().is_some_and(|about| !about.is_file()) {
            // A pipe may have no end, and never be a file again to whoever waits for it.
            let (file, reason) = (self.file.clone(), "it is no file".to_owned());
            self.seen = None;
            self.take(Err(ConfigError::Unreadable { file, reason }));
            return;
        }
        let seen = about.map(|about| Seen::of(&about));
        if seen == self.seen && seen.is_some() && !asked {
            return;
        }
        self.seen = seen;
        let file = self.file.clone();
        let read = move || config::load(Some(&file), config::process_environment());
        // Without a runtime that works there is nothing to be told.
        let Ok(read) = tokio::task::spawn_blocking(read).await else { return };
        self.take(read);
    }

    fn take(&mut self, read: Result<Loaded, ConfigError>) {
        if let Ok(Loaded { config, .. }) = &read {
            self.take_level(config);
        }
        let now = compare(&self.running, read);
        self.metrics.outdated(now != Standing::Same);
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        if *standing == now {
            return;
        }
        let file = self.file.display();
        match &now {
            Standing::Same => {
                tracing::info!(%file, "the configuration's file says again what runs")
            }
            Standing::Differs(keys) => {
                let keys = keys.join(", ");
                tracing::warn!(%file, keys, "the configuration's file has changed and is not read while running: restart to have it");
            }
            Standing::Wrong(problems) => {
                tracing::warn!(%file, problems, "the configuration's file can't be used: what runs goes on, a restart would fail");
            }
        }
        *standing = now;
    }

    /// What was set on the control port stays until the file's level changes.
    fn take_level(&mut self, read: &Config) {
        let level = &read.log.level;
        if *level != self.running.log.level && self.levels.set(level.clone()) {
            self.running.log.level = level.clone();
            tracing::info!(level = level.as_str(), "log level changed by the configuration's file");
        }
    }
}

fn compare(running: &Config, read: Result<Loaded, ConfigError>) -> Standing {
    match read {
        Ok(Loaded { config, .. }) => match running.differences(&config) {
            keys if keys.is_empty() => Standing::Same,
            keys => Standing::Differs(keys),
        },
        Err(error) => Standing::Wrong(error.to_string()),
    }
}

fn part(file: &str, standing: &Standing) -> Part {
    match standing {
        Standing::Same => Part::well("configuration", format!("runs as in {file}")),
        Standing::Differs(keys) => Part::ill(
            "configuration",
            format!("{file} has changed, restart to have it: {}", keys.join(", ")),
        ),
        Standing::Wrong(_) => Part::ill(
            "configuration",
            format!("{file} can't be used, a restart would fail: ask callplane check-config"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    struct Folder {
        folder: tempfile::TempDir,
        parts: Parts,
        metrics: Metrics,
        levels: LogLevels,
        watched: Watched,
    }

    /// As Kubernetes mounts a ConfigMap: `callplane.yml` is a link through the link `..data`.
    impl Folder {
        fn with(text: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("callplane.yml");
            std::os::unix::fs::symlink("..data/callplane.yml", &file).unwrap();
            put(&folder, "1", text);
            let (parts, metrics) = (Parts::default(), Metrics::new());
            let running = config::load(Some(&file), []).unwrap().config;
            let levels = LogLevels::detached(running.log.level.clone());
            let (level, counts) = (levels.clone(), metrics.config.clone());
            let watched = Watched::new(file, running, level, counts, &parts);
            Self { folder, parts, metrics, levels, watched }
        }

        /// Puts a new one in place, and looks.
        async fn becomes(&mut self, version: &str, text: &str) -> (bool, Part) {
            put(&self.folder, version, text);
            self.watched.look(false).await;
            let outdated = "callplane_config_outdated_state 1\n";
            let is_outdated = self.metrics.render().unwrap().contains(outdated);
            (is_outdated, self.parts.now().pop().unwrap())
        }
    }

    fn put(folder: &tempfile::TempDir, version: &str, text: &str) {
        let path = folder.path();
        let directory = format!("..{version}");
        std::fs::create_dir(path.join(&directory)).unwrap();
        std::fs::write(path.join(&directory).join("callplane.yml"), text).unwrap();
        std::os::unix::fs::symlink(&directory, path.join("..data_tmp")).unwrap();
        std::fs::rename(path.join("..data_tmp"), path.join("..data")).unwrap();
    }

    #[tokio::test]
    async fn what_differs_is_told_until_the_file_says_again_what_runs() {
        let mut folder = Folder::with("drain: {timeout: 5s}");
        assert!(!folder.becomes("2", "drain: {timeout: 5000ms}").await.0, "it means the same");
        let changed = folder.becomes("3", "drain: {timeout: 6s}\nlimits: {sessions: 9}").await;
        assert!(changed.0);
        assert!(changed.1.text.ends_with("restart to have it: limits.sessions, drain.timeout"));
        let wrong = folder.becomes("4", "drain: {timeout: never}").await;
        assert!(wrong.0 && wrong.1.text.contains("a restart would fail"), "{wrong:?}");
        let back = folder.becomes("5", "drain: {timeout: 5s}").await;
        assert!(!back.0 && back.1.is_well, "{back:?}");
        std::fs::remove_file(folder.folder.path().join("..data")).unwrap();
        folder.watched.look(false).await;
        assert!(!folder.parts.now().pop().unwrap().is_well, "the file is gone");
    }

    #[tokio::test]
    async fn a_pipe_in_the_files_place_is_not_waited_for() {
        let mut folder = Folder::with("drain: {timeout: 5s}");
        let at = folder.folder.path().join("..2");
        std::fs::create_dir(&at).unwrap();
        let made = std::process::Command::new("mkfifo").arg(at.join("callplane.yml")).status();
        assert!(made.unwrap().success());
        let data = folder.folder.path().join("..data");
        std::fs::remove_file(&data).unwrap();
        std::os::unix::fs::symlink("..2", &data).unwrap();
        let look = folder.watched.look(false);
        tokio::time::timeout(Duration::from_secs(5), look).await.expect("it waits for its end");
        let part = folder.parts.now().pop().unwrap();
        assert!(!part.is_well, "{part:?}");
        std::fs::remove_file(&data).unwrap();
        assert!(folder.becomes("3", "drain: {timeout: 5s}").await.1.is_well);
    }

    #[tokio::test]
    async fn the_log_level_is_taken_over_at_once() {
        let mut folder = Folder::with("log: {level: info}");
        let changed = folder.becomes("2", "log: {level: debug}").await;
        assert!(!changed.0 && changed.1.is_well, "nothing is left to restart for: {changed:?}");
        assert_eq!(folder.levels.current().as_str(), "debug");
        // What was asked for on the control port stays.
        folder.levels.set("warn".parse().unwrap());
        assert!(folder.becomes("3", "log: {level: debug}\ninstall: b").await.0);
        assert_eq!(folder.levels.current().as_str(), "warn");
    }

    #[tokio::test]
    async fn a_file_that_is_the_same_is_not_read_unless_asked() {
        let mut folder = Folder::with("log: {level: info}");
        folder.watched.look(false).await;
        folder.watched.running.drain.timeout = Duration::from_secs(1);
        folder.watched.look(false).await;
        assert!(folder.parts.now().pop().unwrap().is_well, "it was read");
        folder.watched.look(true).await;
        assert!(!folder.parts.now().pop().unwrap().is_well, "it was not read");
    }
}
