//! `callplane drain`: has the server of this configuration stop in order.
//!
//! What SIGTERM does too. For hooks that run before it, as Kubernetes' preStop: a SIGTERM that comes
//! then is the first signal, not the second one that forces.

use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};

use super::arguments::DrainServer;
use super::ask::{Answer, Silent, ask, connect};
use super::exit::Exit;
use super::{failed, on_one_thread, say};
use crate::config::{self, Drain, HostPort};

/// How long the server may take to say that it has heard it.
const WITHIN: Duration = Duration::from_secs(2);

/// How long a server takes beyond its own times to be gone.
const BEYOND: Duration = Duration::from_secs(2);

/// Between two looks whether it is gone.
const LOOK: Duration = Duration::from_millis(50);

/// Tells it, and waits if that is wanted.
pub fn drain(arguments: &DrainServer) -> Exit {
    let file = arguments.file.config.as_deref();
    let (admin, drain) = match config::reach(file, config::process_environment()) {
        Ok(reach) => reach,
        Err(error) => {
            eprintln!("{error}");
            return Exit::Usage;
        }
    };
    let wait = arguments.wait;
    on_one_thread(async move {
        let at = &admin.control;
        match ask(Method::POST, at, "/drain", WITHIN).await {
            Ok(Answer { status: StatusCode::ACCEPTED, .. }) if wait => {
                until_gone(at, longest(&drain)).await
            }
            Ok(Answer { status: StatusCode::ACCEPTED, .. }) => {
                say(&format!("{at}: draining"));
                Exit::Success
            }
            Ok(Answer { status, text }) => {
                failed(format!("{at}/drain: {} {text}", status.as_u16()))
            }
            Err(silent @ Silent::Away(_)) => {
                eprintln!("{at}: {silent}");
                Exit::NotConnected
            }
            Err(silent @ (Silent::AnyPort | Silent::Broken(_) | Silent::Slow(_))) => {
                failed(format!("{at}: {silent}"))
            }
        }
    })
}

/// By then a server of this configuration is gone.
fn longest(drain: &Drain) -> Duration {
    drain.delay + drain.timeout + BEYOND
}

/// A server that is gone accepts no more, and nobody else does.
async fn until_gone(at: &HostPort, within: Duration) -> Exit {
    let began = Instant::now();
    say(&format!("{at}: draining, which takes {} s at most", within.as_secs()));
    loop {
        let last = match tokio::time::timeout(WITHIN, connect(at)).await {
            Ok(Err(silent)) if silent.is_gone() => break,
            Ok(Err(silent)) => format!(" (or it can't be asked: {silent})"),
            // One that is too busy to accept is still there.
            Ok(Ok(_)) | Err(_) => String::new(),
        };
        if began.elapsed() > within {
            return failed(format!("{at}: still there after {} s{last}", within.as_secs()));
        }
        tokio::time::sleep(LOOK).await;
    }
    say(&format!("{at}: gone after {:.1} s", began.elapsed().as_secs_f32()));
    Exit::Success
}
