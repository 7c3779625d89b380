//! A program that runs for a test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// On a busy machine it all takes ten times as long as on an idle one.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// It writes what it says to a file. Dropped, it is killed.
pub struct Running {
    child: Child,
    /// Waits until whoever holds its pipe is gone, however that came, and kills the program: a test
    /// that is itself killed drops nothing.
    keeper: Child,
    log: PathBuf,
}

impl Running {
    /// Starts it; what it says goes to `NAME.log` in this folder.
    pub fn start(mut command: Command, folder: &Path, name: &str) -> Self {
        let log = folder.join(format!("{name}.log"));
        let said = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        command.stdin(Stdio::null()).stdout(said.try_clone().unwrap()).stderr(said);
        let started = command.spawn();
        let child = started.unwrap_or_else(|error| panic!("{name} can't be started: {error}"));
        let mut keeper = Command::new("sh");
        keeper.args(["-c", &format!("read -r _; kill -9 {}", child.id())]);
        keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let keeper = keeper.spawn().unwrap();
        Self { child, keeper, log }
    }

    /// Waits until that is so. Whether it came to it: it may end before, as it does where its port is
    /// taken.
    pub fn comes_to(&mut self, what: &str, mut is: impl FnMut() -> bool) -> bool {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if self.has_ended() {
                return false;
            }
            // What answers may be another's, on the port that ours did not get.
            if is() && !self.has_ended() {
                return true;
            }
            // Asking is not cheap where a program is started for it.
            std::thread::sleep(Duration::from_millis(150));
        }
        panic!("waited {DEADLINE:?} until {what}: {}", self.said());
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// What it wrote so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Lets it stand still, and returns when it does: on a busy machine threads run on until the one that
    /// was chosen for the signal has taken it.
    pub fn pause(&self) {
        self.signal("-STOP");
        let deadline = Instant::now() + DEADLINE;
        while !self.stands_still() {
            assert!(Instant::now() < deadline, "waited {DEADLINE:?} until it stands still");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn stands_still(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let mut states = threads.flatten().map(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // The state follows the name (proc_pid_stat(5)), which is in parentheses.
            stat.rsplit(") ").next().unwrap_or_default().chars().next()
        });
        states.all(|state| state == Some('T'))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for child in [&mut self.keeper, &mut self.child] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
