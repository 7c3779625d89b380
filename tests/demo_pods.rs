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
use std::process::{Child, ChildStdout, Command, Stdio};

/// A process that is killed when the test is over.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It ends what it started.
        let _ = Command::new("kill").args(["-INT", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}

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
    // One of the two has the client, the leader, or both; the one that is left is enough.
    for pid in &pids[..2] {
        assert!(Command::new("kill").args(["-9", pid]).status().unwrap().success());
    }
    line_with(&mut told, "CalleeAnswered");
    assert!(line_with(&mut told, "Ended").ends_with("success"));
    assert!(line_with(&mut said, "gone").contains("comes again"));
}
