//! `callplane doctor`: one page for a support ticket.
//!
//! It changes nothing, and may run beside a server, in the server's own container: the trial of a
//! stack's events uses a free port, never the server's.

mod groups;
mod platform;
mod report;
mod samples;
mod server;

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use super::arguments::Doctor;
use super::exit::Exit;
use super::{failed, on_runtime, say, start};
use crate::config::{self, ByteSize, Config, ConfigError, HostPort, Loaded, Stack};
use crate::telemetry::{self, Kept};

use platform::Platform;
use report::Report;
use server::{LEASE, Told};

/// Looks at everything, and prints the page. The exit code is 0 where nothing is wrong, else 1.
pub fn doctor(arguments: &Doctor) -> Exit {
    let kept = match telemetry::keep() {
        Ok(kept) => kept,
        Err(error) => return failed(error.to_string()),
    };
    let (file, json) = (arguments.file.config.clone(), arguments.json);
    on_runtime(async move {
        let report = examine(file.as_deref(), &kept).await;
        if json {
            say(&format!("{:#}", report.json()));
        } else {
            say(report.page().trim_end());
        }
        if report.is_good() { Exit::Success } else { Exit::Failed }
    })
}

async fn examine(file: Option<&Path>, kept: &Kept) -> Report {
    let mut report = Report::default();
    program(&mut report);
    let variables = config::process_environment();
    let loaded = config::load(file, variables.clone());
    let config = loaded.as_ref().ok().map(|loaded| loaded.config.clone());
    Platform::here().tell(config.as_ref(), &mut report);
    configuration(file, &loaded, &mut report);
    // Also where the rest of the file is wrong, a server may run.
    let told = match config::reach(file, variables) {
        Ok((admin, _)) => Some((Told::by(&admin.listen).await, admin.listen)),
        Err(_) => None,
    };
    let mut known = BTreeSet::new();
    if let Some(config) = &config {
        redis(config, kept, &mut known, &mut report).await;
        leases(config, &mut known, &mut report).await;
        for stack in &config.stacks {
            let events = told.as_ref().map_or(0.0, |(told, _)| told.events_of(stack.name.as_str()));
            of_stack(config, stack, events, kept, &mut known, &mut report).await;
        }
    }
    if let Some((told, at)) = &told {
        told.tell(at, config.as_ref(), &known, &mut report);
    }
    report
}

fn program(report: &mut Report) {
    report.begin(format!("callplane {}", env!("CARGO_PKG_VERSION")));
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    let libc = if cfg!(target_env = "musl") { "musl" } else { "glibc" };
    let (arch, system) = (std::env::consts::ARCH, std::env::consts::OS);
    report.note("build", format!("{build}, {arch} {system} {libc}"));
    report.note("time", jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    report.note("host", host.trim());
    if let Ok(pod) = std::env::var("POD_NAME") {
        let namespace = std::env::var("POD_NAMESPACE").unwrap_or_default();
        report.note("pod", format!("{namespace}/{pod}"));
    }
}

fn configuration(file: Option<&Path>, loaded: &Result<Loaded, ConfigError>, report: &mut Report) {
    report.begin("configuration");
    match file {
        Some(file) => report.note("file", file.display().to_string()),
        None => report.note("file", "none: defaults and variables"),
    }
    let names: Vec<String> =
        config::process_environment().into_iter().map(|(name, _)| name).collect();
    if !names.is_empty() {
        report.note("variables", names.join(" "));
    }
    let advice = "mend it: callplane check-config --default shows all keys. Nothing that needs it was \
                  looked at";
    let Loaded { config, warnings, is_old } = match loaded {
        Ok(loaded) => loaded,
        Err(ConfigError::Wrong { problems, .. }) => {
            for problem in problems {
                report.bad("", problem.to_string(), advice);
            }
            return;
        }
        Err(error @ ConfigError::Unreadable { .. }) => {
            report.bad("", error.to_string(), advice);
            return;
        }
    };
    if *is_old {
        report.note("form", "the old server's");
    }
    for config::Setting { key, text } in config.told() {
        // What a phone is offered is long, and may name somebody.
        let text = if key == "commands.setup_sdp" { format!("{} bytes", text.len()) } else { text };
        report.note(key, text);
    }
    for warning in &warnings.list {
        report.warn("", warning.to_string(), "");
    }
    files(config, report);
}

/// The files that are named must be there; what is in them is nobody's concern.
fn files(config: &Config, report: &mut Report) {
    for config::Setting { key, text } in config.written() {
        if !key.ends_with("_file") {
            continue;
        }
        let advice = "is the Secret mounted there, and may this user read it?";
        match readable(Path::new(&text)) {
            Ok(0) => report.bad(key, format!("{text} is empty"), advice),
            Ok(bytes) => report.good(key, format!("{text} can be read, {bytes} bytes")),
            Err(error) => report.bad(key, format!("{text} {error}"), advice),
        }
    }
}

/// How long a file is that can be read. A pipe or a device is none: it may have no end.
fn readable(path: &Path) -> Result<u64, String> {
    let failed = |error: std::io::Error| format!("can't be read: {error}");
    let about = std::fs::metadata(path).map_err(failed)?;
    if !about.is_file() {
        return Err("is no file".to_owned());
    }
    let mut first = [0];
    std::fs::File::open(path).and_then(|mut file| file.read(&mut first)).map_err(failed)?;
    Ok(about.len())
}

async fn redis(config: &Config, kept: &Kept, known: &mut BTreeSet<String>, report: &mut Report) {
    let found = start::probe_redis(config).await;
    match found {
        Ok(None) => {
            report.begin("store");
            report.note("", "in memory: what a process knows ends with it");
        }
        Ok(Some(found)) => {
            report.begin("redis");
            tell(&found, known, report);
        }
        Err(error) => {
            report.begin("redis");
            known.insert("redis".to_owned());
            report.bad("", error, "the file that is named can't be used");
        }
    }
    said(kept, report);
}

/// The Leases that elect, as the API server has them.
async fn leases(config: &Config, known: &mut BTreeSet<String>, report: &mut Report) {
    if config.leadership != Some(config::Leadership::Kubernetes) {
        return;
    }
    report.begin("kubernetes");
    let looks = match start::look_at_leases(config).await {
        Ok(looks) => looks,
        Err(error) => {
            known.insert(LEASE.to_owned());
            report.bad("", error, "without an API server nobody is elected");
            return;
        }
    };
    for (name, found) in looks {
        let name = format!("lease {name}");
        match found {
            Ok(Some(seen)) => lease(name, &seen, config.kubernetes.lease_duration, report),
            Ok(None) => report.note(name, "is not there; whoever starts first makes it"),
            Err(why) => {
                known.insert(LEASE.to_owned());
                report.bad(
                    name,
                    why,
                    "does the Role let this account get, create, update, watch and list this one \
                     Lease, and does a NetworkPolicy let us out to the API server?",
                );
            }
        }
    }
}

fn lease(name: String, seen: &start::Seen, lasts: Duration, report: &mut Report) {
    let holder = seen.holder.as_deref().unwrap_or("nobody");
    let changes = seen.transitions;
    let ago = seen.renewed.unwrap_or_default();
    let text = format!(
        "held by {holder}, renewed {} s ago, has changed hands {changes} times",
        ago.as_secs()
    );
    if ago > 3 * lasts || seen.holder.is_none() {
        report.warn(
            name,
            text,
            "nobody renews it: do the processes run, and do they reach the API server? A clock that \
             is wrong looks like this, too",
        );
    } else {
        report.good(name, text);
    }
}

async fn of_stack(
    config: &Config,
    stack: &Stack,
    events: f64,
    kept: &Kept,
    known: &mut BTreeSet<String>,
    report: &mut Report,
) {
    report.begin(format!("stack {} at {}", stack.name.as_str(), stack.mi));
    match start::probe_stack(config, &at_a_free_port(stack)).await {
        // The server hears what this trial does not: the way to its own port is another one.
        Ok(found) if found.is_lost_event() && events > 0.0 => {
            if let Some(summary) = found.summary() {
                report.good("", summary);
            }
            report.note(
                "",
                format!("a trial event did not arrive at a free port; at the server {events} have"),
            );
        }
        Ok(found) => tell(&found, known, report),
        Err(error) => {
            known.insert(format!("stack {}", stack.name.as_str()));
            report.bad("", error, "our own sockets could not be opened");
        }
    }
    if let Some(place) = fixed_place(stack) {
        report.note(
            "",
            format!(
                "tried at a free port, not at the server's ({place}): a Service or NetworkPolicy \
                 for that port was not tried"
            ),
        );
    }
    said(kept, report);
}

fn tell(found: &start::Finding, known: &mut BTreeSet<String>, report: &mut Report) {
    if let Some(summary) = found.summary() {
        report.good("", summary);
    }
    if let Some(trouble) = found.trouble() {
        known.insert(found.subject());
        report.bad("", trouble.what, trouble.advice);
    }
    for warning in found.warnings() {
        report.warn("", warning, "");
    }
}

/// What was logged meanwhile says why.
fn said(kept: &Kept, report: &mut Report) {
    for line in kept.take() {
        report.note("", format!("log: {line}"));
    }
}

/// The same stack with its events at another port than the server's; few are expected.
fn at_a_free_port(stack: &Stack) -> Stack {
    let mut trial = stack.clone();
    trial.advertise = None;
    trial.receive_buffer = ByteSize::kib(64);
    if let Some(events) = &mut trial.events {
        events.address = events.address.with_port(0);
    }
    trial
}

/// Where the server's events come in, if that is a place of its own.
fn fixed_place(stack: &Stack) -> Option<String> {
    let fixed = |at: &HostPort| at.port() != 0;
    let events = stack.events.as_ref().filter(|events| fixed(&events.address));
    match (events, &stack.advertise) {
        (Some(events), Some(advertise)) => {
            Some(format!("{events}, told to the stack as {advertise}"))
        }
        (Some(events), None) => Some(events.to_string()),
        (None, Some(advertise)) => Some(format!("told to the stack as {advertise}")),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(text: &str) -> Stack {
        let config = config::parse(&format!("stacks: [{{{text}}}]"), None, []).unwrap().config;
        config.stacks.into_iter().next().unwrap()
    }

    #[test]
    fn the_trial_never_takes_the_servers_port() {
        let fixed = stack("events: \"udp:127.0.0.1:5065\", advertise: \"udp:10.0.0.1:5065\"");
        let trial = at_a_free_port(&fixed);
        assert_eq!(trial.events.unwrap().to_string(), "udp:127.0.0.1:0");
        assert_eq!(trial.advertise, None);
        let place = fixed_place(&fixed).unwrap();
        assert_eq!(place, "udp:127.0.0.1:5065, told to the stack as udp:10.0.0.1:5065");
        assert_eq!(fixed_place(&stack("name: a")), None);
        assert_eq!(at_a_free_port(&stack("name: a")).events, None);
    }
}
