//! A server in a process of its own, and which core it runs on.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

#[path = "../../tests/process/mod.rs"]
pub mod child;

pub use child::Process;

const CALLPLANE: &str = env!("CARGO_BIN_EXE_callplane");

/// The core of the server.
const SERVER: &str = "0";

/// The core of the client, and of whatever plays the stack.
const CLIENT: &str = "1";

/// Keeps this process on the client's core; servers that are started get the other one.
pub fn pin_client() {
    let pid = std::process::id().to_string();
    let done = Command::new("taskset").args(["-cp", CLIENT, &pid]).stdout(Stdio::null()).status();
    if !done.is_ok_and(|status| status.success()) {
        println!("not pinned: taskset did not take core {CLIENT}; read ratios only");
    }
}

/// The product itself, `callplane serve` with its defaults and these variables, on the server's
/// core.
pub fn serve(variables: &[(&str, String)]) -> Process {
    serve_by(pinned(&PathBuf::from(CALLPLANE)), variables)
}

/// The same on any core, one of several processes.
pub fn serve_anywhere(variables: &[(&str, String)]) -> Process {
    serve_by(Command::new(CALLPLANE), variables)
}

fn serve_by(mut command: Command, variables: &[(&str, String)]) -> Process {
    command.arg("serve").envs(child::ANY_PORTS);
    for (key, value) in variables {
        command.env(format!("CALLPLANE_{key}"), value);
    }
    Process::start(command, child::SERVES)
}

/// This program again, with this argument, on the server's core. It calls [`serving`].
pub fn myself(role: &str) -> Process {
    let mut command = pinned(&std::env::current_exe().unwrap());
    command.arg(role);
    Process::start(command, child::SERVES)
}

/// This program again with these arguments, on any core.
pub fn myself_anywhere(arguments: &[&str]) -> Process {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(arguments);
    Process::start(command, child::SERVES)
}

fn pinned(program: &PathBuf) -> Command {
    let has_core = Command::new("taskset").args(["-c", SERVER, "true"]).status();
    if has_core.is_ok_and(|status| status.success()) {
        let mut command = Command::new("taskset");
        command.args(["-c", SERVER]).arg(program);
        command
    } else {
        Command::new(program)
    }
}

/// In a server that a bench is itself: says where it listens. Ends with the bench.
pub fn serving(clients: SocketAddr) {
    eprintln!("serving clients={clients}");
    std::thread::spawn(|| {
        let _ = std::io::stdin().lines().count();
        std::process::exit(0);
    });
}
