//! How long a server takes from its start to a 200 of `/readyz`.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use super::process::{ANY_PORTS, Process, SERVES};

const DEADLINE: Duration = Duration::from_secs(20);

/// Starts `serve`, on free ports unless these variables say otherwise, and waits until it is ready.
pub fn serve(mut program: Command, variables: &[(&str, &str)]) -> (Process, Duration) {
    let begin = Instant::now();
    program.arg("serve").envs(ANY_PORTS).envs(variables.iter().copied());
    // It says where it listens as soon as it is ready.
    let process = Process::start(program, SERVES);
    let answer = readyz(process.operations.expect("it says where probes are"));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    (process, begin.elapsed())
}

/// From the start of a server to its readiness.
pub fn after(program: Command, variables: &[(&str, &str)]) -> Duration {
    serve(program, variables).1
}

fn readyz(operations: SocketAddr) -> String {
    let mut stream = TcpStream::connect(operations).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: probe\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}

/// The one in the middle, and the longest.
pub fn median_and_worst(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() - 1])
}
