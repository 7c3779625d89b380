//! `callplane healthcheck`: does the server of this configuration live?
//!
//! It runs every few seconds in a container, so it costs a few milliseconds: one thread, one
//! connection, no log.

use std::time::Duration;

use hyper::{Method, StatusCode};

use super::arguments::Healthcheck;
use super::ask::{Answer, Silent, ask};
use super::exit::Exit;
use super::{failed, on_one_thread, say};
use crate::config::{self, HostPort};

/// Whoever is asked is on this machine: one that takes longer is as good as dead.
const WITHIN: Duration = Duration::from_secs(2);

/// Asks, and says so in one line. The exit code is 0 or 1, as containers want it.
pub fn healthcheck(arguments: &Healthcheck) -> Exit {
    let file = arguments.file.config.as_deref();
    let admin = match config::reach(file, config::process_environment()) {
        Ok((admin, _)) => admin,
        Err(error) => return failed(error.to_string()),
    };
    let path = if arguments.ready { "/readyz" } else { "/livez" };
    on_one_thread(async move {
        match verdict(&admin.listen, path, ask(Method::GET, &admin.listen, path, WITHIN).await) {
            Ok(line) => {
                say(&line);
                Exit::Success
            }
            Err(line) => failed(line),
        }
    })
}

fn verdict(at: &HostPort, path: &str, asked: Result<Answer, Silent>) -> Result<String, String> {
    match asked {
        Ok(Answer { status: StatusCode::OK, text }) => Ok(format!("{at}{path}: {text}")),
        Ok(Answer { status, text }) => {
            let first = text.lines().next().unwrap_or_default();
            Err(format!("{at}{path}: {} {first}", status.as_u16()))
        }
        Err(silent) => Err(format!("{at}{path}: {silent}")),
    }
}
