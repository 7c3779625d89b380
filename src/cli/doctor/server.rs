//! The running server, as its operations port tells of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hyper::Method;

use super::platform::RMEM_MAX;
use super::report::Report;
use super::samples::{Sample, Samples};
use crate::cli::ask::{Silent, ask};
use crate::config::{Config, HostPort};

/// What elects, among what is told of already.
pub const LEASE: &str = "lease";

/// How long it may take to answer.
const WITHIN: Duration = Duration::from_secs(2);

/// What a running server told.
#[derive(Debug, Default)]
pub struct Told {
    ready: Option<String>,
    metrics: Option<String>,
    silent: Option<Silent>,
}

impl Told {
    /// Asks the server of this operations port.
    pub async fn by(at: &HostPort) -> Told {
        let mut told = Told::default();
        match ask(Method::GET, at, "/readyz?verbose", WITHIN).await {
            Ok(answer) => told.ready = Some(answer.text),
            Err(silent) => {
                told.silent = Some(silent);
                return told;
            }
        }
        told.metrics =
            ask(Method::GET, at, "/metrics", WITHIN).await.ok().map(|answer| answer.text);
        told
    }

    /// Events of this stack that the server has had.
    pub fn events_of(&self, stack: &str) -> f64 {
        let samples = Samples::of(self.metrics.as_deref().unwrap_or_default());
        samples.of_stack("callplane_event_received_events_total", stack).unwrap_or_default()
    }

    /// Tells of it. What concerns one of `known` is told of already.
    pub fn tell(
        &self,
        at: &HostPort,
        config: Option<&Config>,
        known: &BTreeSet<String>,
        report: &mut Report,
    ) {
        report.begin(format!("server at {at}"));
        match &self.silent {
            Some(silent @ (Silent::Away(_) | Silent::AnyPort)) => {
                report.note("", silent.to_string());
                return;
            }
            Some(silent @ (Silent::Broken(_) | Silent::Slow(_))) => report.bad(
                "",
                silent.to_string(),
                "it accepts and does not answer: is it held up (processors above), or is another \
                 program at this port?",
            ),
            None => {}
        }
        for line in self.ready.as_deref().unwrap_or_default().lines() {
            part(line, known, report);
        }
        if let Some(text) = &self.metrics {
            measured(&Samples::of(text), config, report);
        }
    }
}

/// One line of `/readyz?verbose`.
fn part(line: &str, known: &BTreeSet<String>, report: &mut Report) {
    if let Some(text) = line.strip_prefix("[+]") {
        report.good("", text);
    } else if let Some(text) = line.strip_prefix("[-]") {
        let name = text.split(" failed: ").next().unwrap_or(text);
        if is_known(name, known) {
            report.bad_again("", text);
        } else {
            report.bad("", text, advice(name));
        }
    } else {
        report.note("", line);
    }
}

/// Whether this part fails for a reason that is told of already. Nobody leads without a store.
fn is_known(part: &str, known: &BTreeSet<String>) -> bool {
    let (is_store, is_lead) = (part == "store", part.ends_with(" leader"));
    ((is_store || is_lead) && known.contains("redis"))
        || (is_lead && known.contains(LEASE))
        || known.iter().any(|known| part.starts_with(&format!("{known} ")))
}

fn advice(part: &str) -> &'static str {
    match part {
        "store" => "Redis answers here and not the server: its log says why (redis: ...)",
        "listeners" => "it is starting: what it waits for is told with it, and in its log",
        "drain" => "it is being stopped; if nobody wants that, start it again",
        "configuration" => "restart it to have what the file says; it goes on as it is till then",
        _ if part.ends_with(" management interface") => {
            "the stack answers here and not the server: it tries again every few seconds, its log says more"
        }
        _ if part.ends_with(" events") => {
            "subscribed: the stack can't send to this process: NetworkPolicy, firewall, translation of \
             addresses, stacks[].advertise (its log names the socket). Never subscribed: its log says \
             whether the stack refuses or did not answer"
        }
        _ if part.ends_with(" leader") => {
            "somebody leads within seconds as soon as Redis and the API server answer; what stands in \
             brackets are the API server's own words: the Role, the namespace, a policy"
        }
        _ => "its log says more",
    }
}

fn measured(samples: &Samples<'_>, config: Option<&Config>, report: &mut Report) {
    version(samples, report);
    process(samples, report);
    let whole = |name: &str| samples.sum(name).to_string();
    report.note("sessions", format!("{} open", whole("callplane_session_open_connections")));
    report.note("commands", commands(samples));
    let epochs = samples.sum("callplane_store_seen_epochs_total");
    let store = format!(
        "{} processes live, {epochs} epochs seen",
        whole("callplane_store_alive_processes")
    );
    if epochs > 1.0 {
        report.warn(
            "store",
            store,
            "Redis failed over, was restarted or flushed: what it had not kept ended as unknown. \
             Several at once point at its memory, its disk or its Sentinels",
        );
    } else {
        report.note("store", store);
    }
    for stack in config.into_iter().flat_map(|config| &config.stacks) {
        of_stack(samples, stack.name.as_str(), stack.receive_buffer.bytes(), report);
    }
    for Sample { name, labels, value } in samples.of_area("callplane_leader_lease_") {
        if !["_bucket", "_sum", "_count"].iter().any(|end| name.ends_with(end)) {
            report.note("lease", format!("{name}{{{labels}}} {value}"));
        }
    }
}

fn version(samples: &Samples<'_>, report: &mut Report) {
    let ours = env!("CARGO_PKG_VERSION");
    let built = samples.named("callplane_process_build_state").next();
    match built.and_then(|built| built.label("version")) {
        Some(version) if version == ours => report.note("version", version),
        Some(version) => report.warn(
            "version",
            format!("{version}, and this program is {ours}"),
            "ask the server with its own program",
        ),
        None => report.warn("version", "not told", "is it a callplane that answers there?"),
    }
}

fn process(samples: &Samples<'_>, report: &mut Report) {
    let value = |name: &str| samples.value(name);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    if let (Some(began), Ok(now)) = (value("process_start_time_seconds"), now) {
        let up = std::time::Duration::from_secs_f64((now.as_secs_f64() - began).max(0.0));
        report.note("up for", format!("{} s", up.as_secs()));
    }
    if let Some(bytes) = value("process_resident_memory_bytes") {
        report.note("resident memory", format!("{:.0} MiB", bytes / f64::from(1 << 20)));
    }
    if let (Some(open), Some(most)) = (value("process_open_fds"), value("process_max_fds")) {
        let text = format!("{open} of {most}");
        if open > most * 0.8 {
            let advice = "new clients are refused soon: raise the hard limit of descriptors";
            report.bad("open descriptors", text, advice);
        } else {
            report.note("open descriptors", text);
        }
    }
}

fn commands(samples: &Samples<'_>) -> String {
    let mut ended: BTreeMap<&str, f64> = BTreeMap::new();
    for sample in samples.named("callplane_command_ended_commands_total") {
        *ended.entry(sample.label("outcome").unwrap_or("?")).or_default() += sample.value;
    }
    let running = samples.sum("callplane_command_running_commands");
    let ended: String =
        ended.iter().map(|(outcome, count)| format!(", {count} {outcome}")).collect();
    let started = samples.sum("callplane_command_started_commands_total");
    format!(
        "{running} run, {started} begun; ended{}",
        if ended.is_empty() { ", none" } else { &ended }
    )
}

fn of_stack(samples: &Samples<'_>, stack: &str, wanted: usize, report: &mut Report) {
    let value = |name: &str| samples.of_stack(name, stack);
    let number = |name: &str| value(name).unwrap_or_default();
    let name = format!("stack {stack}");
    let leads =
        if number("callplane_leader_held_state") > 0.0 { "leads here" } else { "does not lead" };
    let age = value("callplane_event_subscription_age_seconds")
        .map_or_else(|| "not subscribed".to_owned(), |age| format!("subscribed {age:.0} s ago"));
    let text = format!(
        "{leads}, {age}, {} events, {} restarts seen",
        number("callplane_event_received_events_total"),
        number("callplane_stack_seen_restarts_total"),
    );
    let lost = number("callplane_event_lost_events_total");
    let given = value("callplane_event_buffer_bytes");
    if lost > 0.0 {
        report.warn(
            name,
            format!("{text}, {lost} events lost"),
            "too many waited: is the process held up (processors above)?",
        );
    } else if let Some(given) = given.filter(|given| *given < wanted as f64) {
        let text = format!("{text}, a receive buffer of {given} in place of {wanted} bytes");
        if report.is_told(RMEM_MAX) {
            report.note(name, text);
        } else {
            report.warn(name, text, &format!("on the node: sysctl -w {RMEM_MAX}={wanted}"));
        }
    } else {
        report.note(name, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_already_is_no_second_problem() {
        let ready = "[+]listeners ok: up\n[-]stack east events failed: never subscribed\n\
                     [-]stack eastern events failed: none\n[-]stack eastern leader failed: nobody\n\
                     [-]store failed: away\nreadyz check passed";
        let told = Told { ready: Some(ready.to_owned()), ..Told::default() };
        let known = BTreeSet::from(["stack east".to_owned(), "redis".to_owned()]);
        let mut report = Report::default();
        told.tell(&HostPort::loopback(1), None, &known, &mut report);
        let page = report.page();
        assert!(page.contains("  [-] store failed: away\n"), "{page}");
        assert!(page.contains("problems: 1\n"), "{page}");
        assert!(page.contains("127.0.0.1:1: stack eastern events failed: none\n"), "{page}");
    }

    #[test]
    fn what_is_measured_is_judged() {
        let metrics = crate::metrics::Metrics::new();
        metrics.store.epoch();
        metrics.store.epoch();
        let stack = metrics.stack("opensips");
        stack.lost(4);
        stack.leads(true);
        metrics.commands.started("CallStart");
        metrics.commands.ended("CallStart", "success", Duration::from_secs(1));
        let told = Told {
            ready: Some("ready".to_owned()),
            metrics: Some(metrics.render().unwrap()),
            silent: None,
        };
        let mut report = Report::default();
        let config = Config::default();
        told.tell(&HostPort::loopback(1), Some(&config), &BTreeSet::new(), &mut report);
        let page = report.page();
        for text in [
            "0 run, 1 begun; ended, 1 success",
            "2 epochs seen",
            "leads here, not subscribed, 0 events, 0 restarts seen, 4 events lost",
            "warnings: 2",
            "problems: 0",
        ] {
            assert!(page.contains(text), "{text}:\n{page}");
        }
    }

    #[test]
    fn a_server_that_is_not_there_is_no_problem_and_one_that_hangs_is() {
        for (silent, problems) in [
            (Silent::Away(std::io::ErrorKind::ConnectionRefused.into()), "problems: 0"),
            (Silent::Slow(WITHIN), "problems: 1"),
        ] {
            let told = Told { silent: Some(silent), ..Told::default() };
            let mut report = Report::default();
            told.tell(&HostPort::loopback(1), None, &BTreeSet::new(), &mut report);
            assert!(report.page().contains(problems), "{}", report.page());
        }
    }
}
