//! The command line: arguments in, exit code out.
//!
//! Everything that can go wrong before a server runs (arguments, configuration, a busy port) is
//! one clear line on standard error. What a server has to say goes through the log.

mod arguments;
mod ask;
mod call;
mod doctor;
mod drain;
mod exit;
mod healthcheck;
mod pods;
mod signals;
mod start;

use std::future::Future;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::admin::Readiness;
use crate::config::{self, Config, ConfigError, Loaded};
use crate::telemetry::{self, LogLevels};

use arguments::{Action, Arguments, CheckConfig, ConfigFile, Run};
pub use exit::Exit;
use signals::Signals;

/// Runs the command line and says how it went.
pub fn main() -> ExitCode {
    let Arguments { action } = Arguments::parse();
    let exit = match action {
        Action::Serve(file) => serve(&file),
        // Its greeting is for a visitor; the log is for what goes wrong.
        Action::Demo(demo) => with_log(&quiet(&Config::default()), |levels| {
            until_stopped(|ready| start::demo(demo, levels, ready))
        }),
        Action::SimulateOpensips(simulate) => with_log(&Config::default(), |_| {
            until_stopped(|ready| start::simulate(simulate, ready))
        }),
        Action::Call(call) => on_runtime(call::call(call)),
        Action::Run(run) => run_once(run),
        Action::CheckConfig(check) => check_config(&check),
        Action::Healthcheck(healthcheck) => healthcheck::healthcheck(&healthcheck),
        Action::Doctor(doctor) => doctor::doctor(&doctor),
        Action::Drain(drain) => drain::drain(&drain),
        Action::Openrpc => {
            say(crate::rpc::openrpc::DOCUMENT.trim_end());
            Exit::Success
        }
    };
    exit.into()
}

fn serve(file: &ConfigFile) -> Exit {
    let Loaded { config, warnings, is_old } = match load(file) {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    with_log(&config, |levels| {
        if is_old {
            tracing::info!("the configuration has the old server's form; all its keys count");
        }
        for line in warnings.lines() {
            tracing::warn!("{line}");
        }
        until_stopped(|ready| start::serve(config.clone(), file.config.clone(), levels, ready))
    })
}

fn run_once(run: Run) -> Exit {
    let Loaded { config, .. } = match load(&run.file) {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    // Events are what this command prints; the log is for what goes wrong.
    with_log(&quiet(&config), |levels| {
        on_runtime(async move { start::run(run, config, levels).await.unwrap_or_else(failed) })
    })
}

/// The same, with warnings only unless another level was asked for.
fn quiet(config: &Config) -> Config {
    let mut quiet = config.clone();
    if quiet.log.level == config::LogFilter::info() {
        quiet.log.level = config::LogFilter::warn();
    }
    quiet
}

fn check_config(check: &CheckConfig) -> Exit {
    if check.default {
        say(config::DEFAULT_YAML.trim_end());
        return Exit::Success;
    }
    let Loaded { config, warnings, is_old } = match load(&check.file) {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    for line in warnings.lines() {
        say(&format!("warning: {line}"));
    }
    let form = if is_old { ", in the old server's form" } else { "" };
    match &check.file.config {
        Some(file) => say(&format!("{}: good{form}", file.display())),
        None => say("defaults and variables: good"),
    }
    if !check.live {
        return Exit::Success;
    }
    on_runtime(async move {
        match start::probe(config).await {
            Ok(true) => Exit::Success,
            Ok(false) => Exit::Failed,
            Err(text) => failed(text),
        }
    })
}

/// The configuration, or its problems on standard error.
fn load(file: &ConfigFile) -> Result<Loaded, Exit> {
    config::load(file.config.as_deref(), config::process_environment()).map_err(|error| {
        eprintln!("{error}");
        if let ConfigError::Wrong { problems, .. } = &error {
            let (n, s) = (problems.len(), if problems.len() == 1 { "" } else { "s" });
            eprintln!("{n} problem{s} in the configuration; nothing was started");
        }
        Exit::Usage
    })
}

fn with_log(config: &Config, then: impl FnOnce(LogLevels) -> Exit) -> Exit {
    match telemetry::start(&config.log) {
        Ok(levels) => then(levels),
        Err(error) => failed(error.to_string()),
    }
}

/// Runs what `begin` starts; the first signal drains it, the second one ends the process.
fn until_stopped<F>(begin: impl FnOnce(Readiness) -> F) -> Exit
where
    F: Future<Output = Result<Exit, String>>,
{
    let readiness = Readiness::starting();
    let stop = readiness.clone();
    let running = begin(readiness);
    on_runtime(async move {
        let signals = match Signals::listen() {
            Ok(signals) => signals,
            Err(error) => return failed(format!("signals can't be received: {error}")),
        };
        tokio::spawn(signals.first_then_force(move || {
            tracing::info!("draining; a second signal forces");
            stop.drain();
        }));
        running.await.unwrap_or_else(failed)
    })
}

fn on_runtime(work: impl Future<Output = Exit>) -> Exit {
    on(tokio::runtime::Builder::new_multi_thread(), work)
}

/// For work that is over in milliseconds: no threads are started for it.
fn on_one_thread(work: impl Future<Output = Exit>) -> Exit {
    on(tokio::runtime::Builder::new_current_thread(), work)
}

fn on(mut runtime: tokio::runtime::Builder, work: impl Future<Output = Exit>) -> Exit {
    match runtime.enable_all().build() {
        Ok(runtime) => {
            let exit = runtime.block_on(work);
            // What still runs has had its time; nothing may hold the process up now.
            runtime.shutdown_background();
            exit
        }
        Err(error) => failed(format!("no runtime: {error}")),
    }
}

/// One line on standard output. A reader that has gone (`| head`) is no reason to fail.
fn say(text: &str) {
    drop(writeln!(std::io::stdout(), "{text}"));
}

fn failed(text: impl AsRef<str>) -> Exit {
    eprintln!("{}", text.as_ref());
    Exit::Failed
}
