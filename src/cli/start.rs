//! What the subcommands start: the one file of the command line that calls [`crate::app`] and the
//! simulated stack.

use crate::admin::Readiness;
use crate::config::Config;
use crate::telemetry::LogLevels;

use super::arguments::{Demo, Run, Simulate};
use super::exit::Exit;

/// Serves until `readiness` is told to drain and the drain is over.
///
/// # Errors
///
/// One clear line: a busy port, a listener that died.
pub async fn serve(config: Config, levels: LogLevels, readiness: Readiness) -> Result<(), String> {
    // crate::app::serve(config, levels, readiness)
    drop((config, levels, readiness));
    Err("(in work)".to_owned())
}

/// Serves a simulated stack with phones, and the console.
pub async fn demo(arguments: Demo, readiness: Readiness) -> Result<(), String> {
    drop((arguments, readiness));
    Err("(in work)".to_owned())
}

/// Is a simulated OpenSIPS until `readiness` is told to drain.
pub async fn simulate(arguments: Simulate, readiness: Readiness) -> Result<(), String> {
    drop((arguments, readiness));
    Err("(in work)".to_owned())
}

/// Runs one command straight at a stack.
pub async fn run(arguments: Run, config: Config) -> Result<Exit, String> {
    drop((arguments, config));
    Err("(in work)".to_owned())
}

/// Asks every stack whether its management interface answers and its events arrive: a line each,
/// and whether all is well.
pub async fn probe(config: Config) -> Result<bool, String> {
    drop(config);
    Err("(in work)".to_owned())
}
