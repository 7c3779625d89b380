//! SIGTERM and SIGINT: the first asks to stop, the second forces. SIGHUP asks to look at the
//! configuration.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

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

/// Says at each SIGHUP that there is nothing to look at, where there is no file.
pub async fn say_that_there_is_no_file(look: Arc<Notify>) {
    loop {
        look.notified().await;
        tracing::info!("SIGHUP: there is no configuration file to look at");
    }
}

/// Notifies at each SIGHUP, which ends the process no more.
///
/// # Errors
///
/// What the system says if that is not possible.
pub fn hang_ups() -> io::Result<Arc<Notify>> {
    let mut hang_up = signal(SignalKind::hangup())?;
    let notify = Arc::new(Notify::new());
    let notified = Arc::clone(&notify);
    tokio::spawn(async move {
        while hang_up.recv().await.is_some() {
            notified.notify_one();
        }
    });
    Ok(notify)
}
