//! What ends a program when the test that started it was itself killed.

use std::process::{Child, Command, Stdio};

/// A shell that waits until whoever holds this is gone, however that came, and kills the program.
pub struct Keeper(Child);

impl Keeper {
    pub fn of(pid: u32) -> Self {
        // Nothing is ever written: what it reads is the end, when the last holder of the pipe ends.
        let watch = format!("read -r _; kill -9 {pid}");
        let mut shell = Command::new("sh");
        shell.args(["-c", &watch]).stdin(Stdio::piped()).stdout(Stdio::null());
        Self(shell.stderr(Stdio::null()).spawn().unwrap())
    }

    /// Its program is ended by somebody else.
    pub fn dismiss(mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
