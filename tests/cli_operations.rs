//! What a container and its hooks call beside a running server: `healthcheck` and `drain`, with real
//! processes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod process;

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use process::{ANY_PORTS, Process, SERVES};
use tempfile::TempDir;

/// A server without a stack, and the file in which others find where it is.
struct Beside {
    server: Process,
    folder: TempDir,
}

impl Beside {
    /// With these `drain.delay` and `drain.timeout`.
    fn start(delay: &str, timeout: &str) -> Self {
        let mut variables = ANY_PORTS.to_vec();
        variables.push(("CALLPLANE_DRAIN__DELAY", delay));
        variables.push(("CALLPLANE_DRAIN__TIMEOUT", timeout));
        variables.push(("NO_COLOR", "1"));
        let server = Process::callplane(&["serve"], &variables, SERVES);
        let beside = Self { server, folder: tempfile::tempdir().unwrap() };
        let listen = beside.server.operations.unwrap();
        beside
            .write(&format!("{listen}"), &format!("drain: {{delay: {delay}, timeout: {timeout}}}"));
        beside
    }

    /// The file, with this address of the operations port and more lines.
    fn write(&self, listen: &str, more: &str) {
        let control = self.server.control.unwrap();
        let text = format!("admin:\n  listen: '{listen}'\n  control: '{control}'\n{more}\n");
        std::fs::write(self.folder.path().join("callplane.yml"), text).unwrap();
    }

    /// `callplane` with these arguments, beside the server: its exit code, and its one line.
    fn run(&self, arguments: &[&str]) -> (i32, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_callplane"))
            .args(arguments)
            .env_clear()
            .env("CALLPLANE_CONFIG", self.folder.path().join("callplane.yml"))
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(said).unwrap())
    }

    fn healthcheck(&self) -> [(i32, String); 2] {
        [self.run(&["healthcheck"]), self.run(&["healthcheck", "--ready"])]
    }
}

/// One line of each, with the address that was asked.
fn told(at: SocketAddr, lives: (i32, &str), ready: (i32, &str)) -> [(i32, String); 2] {
    [
        (lives.0, format!("{at}/livez: {}\n", lives.1)),
        (ready.0, format!("{at}/readyz: {}\n", ready.1)),
    ]
}

#[test]
fn a_container_asks_whether_the_server_lives_and_whether_it_takes_clients() {
    let mut beside = Beside::start("60s", "1s");
    let at = beside.server.operations.unwrap();
    assert_eq!(beside.healthcheck(), told(at, (0, "alive"), (0, "ready")));
    assert_eq!(beside.run(&["drain"]).0, 0);
    assert_eq!(beside.healthcheck(), told(at, (0, "alive"), (1, "503 draining")));
    beside.server.signal("TERM");
    beside.server.signal("INT");
    beside.server.exit();
    let away = "no server answers: Connection refused (os error 111)";
    assert_eq!(beside.healthcheck(), told(at, (1, away), (1, away)));
}

#[test]
fn a_server_that_listens_everywhere_is_asked_on_loopback() {
    let beside = Beside::start("0s", "1s");
    let port = beside.server.operations.unwrap().port();
    for listen in [format!("0.0.0.0:{port}"), format!("[::]:{port}")] {
        beside.write(&listen, "");
        assert_eq!(beside.run(&["healthcheck"]), (0, format!("{listen}/livez: alive\n")));
    }
}

/// Whoever edits the file must not have a server that runs well taken for a dead one.
#[test]
fn a_mistake_elsewhere_in_the_file_does_not_make_a_server_look_dead() {
    let beside = Beside::start("0s", "1s");
    let at = beside.server.operations.unwrap();
    beside.write(&at.to_string(), "limits: {sessions: none}\nstack: []");
    assert_eq!(beside.run(&["check-config"]).0, 2);
    assert_eq!(beside.healthcheck(), told(at, (0, "alive"), (0, "ready")));
    beside.write(&at.to_string(), "admins: {}\ndraining: {}");
    assert_eq!(beside.healthcheck(), told(at, (0, "alive"), (0, "ready")));
    beside.write("nonsense", "limits: {sessions: none}");
    let (code, line) = beside.run(&["healthcheck"]);
    assert_eq!(code, 1);
    assert!(line.contains("admin.listen: `nonsense` is not an address"), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
}

#[test]
fn a_server_that_stands_still_is_given_up_after_two_seconds() {
    let beside = Beside::start("0s", "1s");
    let at = beside.server.operations.unwrap();
    beside.server.signal("STOP");
    let began = Instant::now();
    assert_eq!(beside.run(&["healthcheck"]), (1, format!("{at}/livez: no answer within 2 s\n")));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

/// Kubernetes sends SIGTERM after the hook: a drain that has begun by then goes on to its end.
#[test]
fn a_signal_after_a_drain_is_the_first_one() {
    let mut beside = Beside::start("2s", "1s");
    assert_eq!(beside.run(&["drain"]).0, 0);
    beside.server.signal("TERM");
    let hurried = Instant::now() + Duration::from_millis(500);
    while Instant::now() < hurried {
        assert_eq!(beside.server.ended(), None, "the signal has cut the drain off");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(beside.server.exit(), 0);
    let mut beside = Beside::start("60s", "1s");
    assert_eq!(beside.run(&["drain"]).0, 0);
    beside.server.signal("TERM");
    beside.server.signal("INT");
    assert_eq!(beside.server.exit(), 130, "the second signal forces");
}

#[test]
fn who_waits_for_a_drain_goes_on_when_the_server_is_gone() {
    let mut beside = Beside::start("1s", "1s");
    let began = Instant::now();
    let (code, text) = beside.run(&["drain", "--wait"]);
    assert_eq!(code, 0, "{text}");
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(text.contains(": draining, which takes 4 s at most\n"), "{text}");
    assert!(text.contains(": gone after "), "{text}");
    assert_eq!(beside.server.exit(), 0);
    let (code, text) = beside.run(&["drain", "--wait"]);
    assert_eq!(code, 5, "{text}");
    assert!(text.contains("no server answers"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[test]
fn who_waits_for_a_drain_does_not_wait_for_ever() {
    let beside = Beside::start("60s", "1s");
    // The file says less than the server was started with.
    beside.write(&beside.server.operations.unwrap().to_string(), "drain: {timeout: 1s}");
    let (code, text) = beside.run(&["drain", "--wait"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains(": still there after 3 s\n"), "{text}");
}

#[test]
fn a_server_without_a_file_says_so_when_it_is_asked_to_look_at_it() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let log_file = log.display().to_string();
    let variables = [&ANY_PORTS[..], &[("CALLPLANE_LOG__FILE", &log_file)]].concat();
    let mut child = Command::new(env!("CARGO_BIN_EXE_callplane"))
        .arg("serve")
        .envs(variables)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let until = |what: &str| {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            if said.contains(what) {
                return true;
            }
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let serves = until("callplane serves");
    let hung_up = Command::new("kill").args(["-s", "HUP", &child.id().to_string()]).status();
    let told = until("SIGHUP: there is no configuration file to look at");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(serves && hung_up.unwrap().success() && told, "{serves} {told}");
}

/// Who edits the file is told that it does not count yet; only the log level does.
#[test]
fn a_file_that_has_changed_is_told_of_and_its_log_level_taken() {
    let folder = tempfile::tempdir().unwrap();
    let (file, log) = (folder.path().join("callplane.yml"), folder.path().join("log"));
    let write = |more: &str| {
        let log = log.display();
        std::fs::write(&file, format!("log: {{file: '{log}', level: info}}\n{more}\n")).unwrap();
    };
    write("");
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    let until = |what: &str| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !said().contains(what) {
            assert!(Instant::now() < deadline, "not said: {what}\n{}", said());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let mut child = Command::new(env!("CARGO_BIN_EXE_callplane"))
        .args(["serve", "--config", file.to_str().unwrap()])
        .envs(ANY_PORTS)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    until("callplane serves");
    write("drain: {timeout: 7s}");
    // Nobody is asked to wait for the next look.
    let hung_up = Command::new("kill").args(["-s", "HUP", &child.id().to_string()]).status();
    assert!(hung_up.unwrap().success());
    until("has changed and is not read while running: restart to have it");
    assert!(said().contains("keys=\"drain.timeout\""), "{}", said());
    let text = format!("log: {{file: '{}', level: debug}}\n", log.display());
    std::fs::write(&file, text).unwrap();
    // The file is looked at without being asked to, too.
    until("log level changed by the configuration's file level=\"debug\"");
    until("the configuration's file says again what runs");
    child.kill().unwrap();
    child.wait().unwrap();
}
