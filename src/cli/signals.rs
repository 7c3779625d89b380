//! SIGTERM and SIGINT: the first asks to stop, the second forces.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::exit::Exit;

/// The two signals that mean "stop".
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes both signals over from the system's default, which ends the process at once.
    ///
    /// # Errors
    ///
    /// What the system says if that is not possible.
    pub fn listen() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Completes at the next signal, with the exit code of a process that it ended.
    pub async fn next(&mut self) -> Exit {
        tokio::select! {
            _ = self.terminate.recv() => Exit::Terminated,
            _ = self.interrupt.recv() => Exit::Interrupted,
        }
    }

    /// Calls `first` at the first signal; ends the process at the second.
    pub async fn first_then_force(mut self, first: impl FnOnce()) {
        self.next().await;
        first();
        let exit = self.next().await;
        tracing::warn!("second signal: leaving without flushing");
        std::process::exit(i32::from(exit.code()));
    }
}
