//! A server in a process of its own, what it costs, and which core it runs on.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The core of the server.
const SERVER: &str = "0";

/// The core of the client, and of whatever plays the stack.
const CLIENT: &str = "1";

/// Ticks a second in `/proc/PID/stat`; the kernel has always shown it so (proc_pid_stat(5)).
const TICKS: f64 = 100.0;

/// Keeps this process on the client's core; servers that are started get the other one.
pub fn pin_client() {
    let pid = std::process::id().to_string();
    let done = Command::new("taskset").args(["-cp", CLIENT, &pid]).stdout(Stdio::null()).status();
    if !done.is_ok_and(|status| status.success()) {
        println!("not pinned: taskset did not take core {CLIENT}; read ratios only");
    }
}

/// A running server. Dropped, it is killed.
pub struct Process {
    child: Child,
    /// Where clients connect.
    pub clients: SocketAddr,
    /// Where metrics are, if it has any.
    pub operations: Option<SocketAddr>,
}

impl Process {
    /// The product itself, `callplane serve` with its defaults and these variables, on the
    /// server's core.
    pub fn callplane(variables: &[(&str, String)]) -> Self {
        let mut command = pinned(&PathBuf::from(env!("CARGO_BIN_EXE_callplane")));
        command.arg("serve");
        for key in ["LISTEN__ADDRESS", "ADMIN__LISTEN", "ADMIN__CONTROL"] {
            command.env(format!("CALLPLANE_{key}"), "127.0.0.1:0");
        }
        for (key, value) in variables {
            command.env(format!("CALLPLANE_{key}"), value);
        }
        Self::start(command)
    }

    /// This program again, with this argument, on the server's core. It calls [`serving`].
    pub fn myself(role: &str) -> Self {
        let mut command = pinned(&std::env::current_exe().unwrap());
        command.arg(role);
        Self::start(command)
    }

    fn start(mut command: Command) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = loop {
            let line = lines.next().expect("the server says where it listens").unwrap();
            if line.contains(" clients=") {
                break line;
            }
        };
        // A pipe that nobody reads would stop it.
        std::thread::spawn(move || lines.for_each(drop));
        let address = |name: &str| {
            let value = line.split(' ').find_map(|word| word.strip_prefix(name))?;
            value.parse().ok()
        };
        Self {
            child,
            clients: address("clients=").expect(&line),
            operations: address("operations="),
        }
    }

    /// Processor time so far.
    pub fn cpu(&self) -> Duration {
        let stat = self.proc("stat");
        let after_name = stat.rsplit_once(')').unwrap().1;
        let ticks: f64 =
            after_name.split_whitespace().skip(11).take(2).map(|f| f.parse::<f64>().unwrap()).sum();
        Duration::from_secs_f64(ticks / TICKS)
    }

    /// Resident bytes.
    pub fn resident(&self) -> u64 {
        let rollup = self.proc("smaps_rollup");
        let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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
