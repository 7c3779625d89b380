//! `callplane demo --pods 3`: a server is killed while it sets a call up, and the call goes on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod redis_server;

use std::io::{BufRead as _, BufReader, Lines};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// A process that is killed when the test is over.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(None)) {
            return;
        }
        // It ends what it started.
        let _ = Command::new("kill").args(["-INT", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}

/// Nothing here takes this long.
const DEADLINE: Duration = Duration::from_secs(20);

fn callplane(arguments: &[&str]) -> (Running, Lines<BufReader<ChildStdout>>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_callplane"));
    let mut child = command.args(arguments).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (Running(child), lines)
}

/// The next line with this in it; the others are passed over.
fn line_with(lines: &mut Lines<BufReader<ChildStdout>>, what: &str) -> String {
    let mut passed = Vec::new();
    for line in lines.by_ref().map_while(Result::ok) {
        if line.contains(what) {
            return line;
        }
        passed.push(line);
    }
    panic!("it ended without {what}: {passed:#?}");
}

fn last_word(line: &str) -> String {
    line.rsplit(' ').next().unwrap().to_owned()
}

#[test]
fn a_call_goes_on_though_every_server_that_had_it_is_killed() {
    if !redis_server::is_here("a_call_goes_on_though_every_server_that_had_it_is_killed") {
        return;
    }
    let (_demo, mut said) = callplane(&["demo", "--pods", "3", "--port", "0"]);
    let server = last_word(&line_with(&mut said, "clients"));
    let pids: Vec<_> = (0..3).map(|_| last_word(&line_with(&mut said, "pid"))).collect();
    line_with(&mut said, "Ctrl-C");
    let (_call, mut told) = callplane(&[
        "call",
        "--server",
        &server,
        "start",
        "sip:alice@demo.callplane",
        "sip:bob@demo.callplane",
    ]);
    line_with(&mut told, "TransferPending");
    let with_client = line_with(&mut said, "has 1 client");
    assert!(pids.iter().any(|pid| with_client.contains(pid)), "{with_client}: {pids:?}");
    // Of the two one has the client, and one of them may lead; the one that is left is enough.
    let other = pids.iter().find(|pid| !with_client.contains(*pid)).unwrap();
    let of_client = pids.iter().find(|pid| with_client.contains(*pid)).unwrap();
    for pid in [of_client, other] {
        assert!(Command::new("kill").args(["-9", pid]).status().unwrap().success());
    }
    line_with(&mut told, "CalleeAnswered");
    assert!(line_with(&mut told, "Ended").ends_with("success"));
    assert!(line_with(&mut said, "gone").contains("comes again"));
}

#[test]
fn a_redis_that_does_not_run_is_told_and_not_waited_for() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("a_redis_that_does_not_run");
    std::fs::create_dir_all(&folder).unwrap();
    let program = folder.join("redis-server");
    std::fs::write(&program, "#!/bin/sh\nexit 7\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_callplane"));
    command.args(["demo", "--pods", "2", "--port", "0"]).env("PATH", &folder);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut demo = Running(child);
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = demo.0.try_wait().unwrap() {
            break status;
        }
        assert!(begun.elapsed() < DEADLINE, "it waits for a Redis that has ended");
        std::thread::sleep(Duration::from_millis(20));
    };
    let said = std::io::read_to_string(demo.0.stderr.take().unwrap()).unwrap();
    assert!(!status.success(), "{said}");
    assert!(said.contains("redis-server on port") && said.contains("exit status: 7"), "{said}");
}
