//! What single values can't tell: ranges, and values that don't go together.

use std::collections::HashMap;
use std::time::Duration;

use super::decode::Report;
use super::model::{Admin, Commands, Config, Leadership, Limits, Listen, Redis, Stack, Store};
use super::value::{ByteSize, Transport};
use crate::core::plan::{HoldBy, ReferBy};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Reports all problems and warnings of `config`. `old` says that the file had the old server's
/// form, so that advice names keys its owner knows.
pub(super) fn check(config: &Config, old: bool, report: &mut Report) {
    listen(&config.listen, old, report);
    limits(&config.limits, report);
    commands(config, report);
    store(&config.store, report);
    redis(config, report);
    stacks(&config.stacks, &config.commands, report);
    admin(&config.admin, config, report);
    if !config.log.redact {
        report.risky("log.redact", "SIP addresses of users will stand in the logs in full");
    }
    within("drain.delay", config.drain.delay, Duration::ZERO, 10 * MINUTE, report);
    within("drain.timeout", config.drain.timeout, SECOND, 10 * MINUTE, report);
}

fn redis(config: &Config, report: &mut Report) {
    let Redis {
        address,
        sentinels,
        database,
        username,
        password_file,
        tls_ca_file,
        tls_cert_file,
        tls_key_file,
        replicas,
        ..
    } = &config.redis;
    if address.is_some() && !sentinels.is_empty() {
        report.wrong("redis.address", "stands beside `redis.sentinels`: one of the two is meant");
    }
    if *database > 15 {
        report.wrong("redis.database", "must be 0 to 15");
    }
    if *replicas > 5 {
        report.wrong("redis.replicas", "must be 0 to 5");
    }
    if username.is_some() && password_file.is_none() {
        report.wrong("redis.username", "wants `redis.password_file`");
    }
    if tls_cert_file.is_some() != tls_key_file.is_some() {
        report.wrong("redis.tls_cert_file", "and `redis.tls_key_file` go together");
    }
    if tls_cert_file.is_some() && tls_ca_file.is_none() {
        report.wrong(
            "redis.tls_cert_file",
            "is of no use without `redis.tls_ca_file`: there is no TLS",
        );
    }
    match (config.leadership, config.redis.is_used()) {
        (Some(Leadership::Standalone), true) => report.wrong(
            "leadership",
            "`standalone` takes every process for the only one; those that share a Redis would each \
             apply the stacks' events. Leave it out, or write `redis`",
        ),
        (Some(Leadership::Redis), false) => {
            report.wrong("leadership", "`redis` wants `redis.address` or `redis.sentinels`");
        }
        (Some(Leadership::Redis), true) | (Some(Leadership::Standalone), false) | (None, _) => {}
    }
    if config.redis.is_used() && sentinels.is_empty() && *replicas > 0 {
        report.risky(
            "redis.replicas",
            "without `redis.sentinels` a failover is noticed only when the address leads elsewhere",
        );
    }
}

fn listen(listen: &Listen, old: bool, report: &mut Report) {
    let address = &listen.address;
    if !address.is_loopback() {
        if listen.insecure_open {
            report.risky(
                "listen.insecure_open",
                format!("anyone who reaches {address} can start and end calls"),
            );
        } else if old {
            report.wrong(
                "listen.address",
                format!(
                    "{address} can be reached from other machines and there is no authentication. \
                     If that is wanted, as with the old server, add this line under `ws_server:` \
                     (the old server ignores it):  insecure_open: true\n    \
                     or set the variable CALLPLANE_LISTEN__INSECURE_OPEN=true; \
                     otherwise write `host: 127.0.0.1`"
                ),
            );
        } else {
            report.wrong(
                "listen.address",
                format!(
                    "{address} can be reached from other machines and there is no authentication. \
                     If that is wanted, set `listen.insecure_open: true` \
                     (CALLPLANE_LISTEN__INSECURE_OPEN=true); otherwise listen on 127.0.0.1"
                ),
            );
        }
    }
    let path = listen.path.as_str();
    if path == "/" && listen.console {
        report.wrong(
            "listen.path",
            "`/` is where the console is; take another path or set `listen.console: false`",
        );
    }
    if let Some(n) = listen.origins.iter().position(|origin| origin.is_null()) {
        report.risky(
            &format!("listen.origins[{n}]"),
            "any page can get the origin `null` by a sandboxed frame, so this lets all pages in",
        );
    }
}

fn limits(limits: &Limits, report: &mut Report) {
    let Limits {
        max_message,
        max_batch,
        commands_in_flight,
        outbound_bytes,
        ping_interval,
        idle_timeout,
        sessions,
    } = limits;
    size("limits.max_message", *max_message, ByteSize::kib(1), ByteSize::mib(16), report);
    count("limits.max_batch", *max_batch, 1000, report);
    count("limits.commands_in_flight", *commands_in_flight, 10_000, report);
    size("limits.outbound_bytes", *outbound_bytes, ByteSize::kib(16), ByteSize::mib(1024), report);
    count("limits.sessions", *sessions, 10_000_000, report);
    within("limits.ping_interval", *ping_interval, SECOND, 60 * MINUTE, report);
    if idle_timeout <= ping_interval {
        report.wrong(
            "limits.idle_timeout",
            "must be longer than `limits.ping_interval`, else idle connections are closed before they are asked",
        );
    } else if *idle_timeout < *ping_interval * 2 {
        report
            .risky("limits.idle_timeout", "less than two pings: one lost pong closes a connection");
    }
    if outbound_bytes.bytes() < max_message.bytes() {
        report.risky(
            "limits.outbound_bytes",
            "less than `limits.max_message`: the answer to one long batch can close its connection",
        );
    }
}

fn commands(config: &Config, report: &mut Report) {
    let Commands { ring_timeout, refer_follow, grace, mi_reply, transfer, hold, .. } =
        &config.commands;
    within("commands.ring_timeout", *ring_timeout, SECOND, MINUTE, report);
    if ring_timeout.subsec_nanos() != 0 {
        report.wrong("commands.ring_timeout", "must be whole seconds");
    }
    within("commands.refer_follow", *refer_follow, SECOND, MINUTE, report);
    within("commands.grace", *grace, Duration::ZERO, 10 * SECOND, report);
    within("commands.mi_reply", *mi_reply, Duration::from_millis(50), 30 * SECOND, report);
    if *transfer == ReferBy::Stack {
        report.risky("commands.transfer", "a phone's refusal is seen late, without its code");
    }
    if *hold == HoldBy::Stack {
        report.risky(
            "commands.hold",
            "a phone that never answers a `call_hold` crashes OpenSIPS 3.6.8; `reinvite` is safe",
        );
    }
    if config.commands.setup_sdp.as_ref().is_some_and(|sdp| !sdp.starts_with("v=0")) {
        report.wrong("commands.setup_sdp", "is no session description: it must begin with `v=0`");
    }
}

fn store(store: &Store, report: &mut Report) {
    let day = 24 * 60 * MINUTE;
    within("store.keep_starts", store.keep_starts, SECOND, 30 * day, report);
    within("store.keep_others", store.keep_others, SECOND, 30 * day, report);
    within("store.keep_notices", store.keep_notices, SECOND, day, report);
    size(
        "store.notices_bytes",
        store.notices_bytes,
        ByteSize::kib(64),
        ByteSize::mib(65_536),
        report,
    );
    if store.keep_starts < 15 * MINUTE {
        report.risky(
            "store.keep_starts",
            "a client that repeats a start after this time places a second call",
        );
    }
    if store.keep_notices < MINUTE {
        report.risky("store.keep_notices", "a client that was away longer than this can't resume");
    }
}

fn stacks(stacks: &[Stack], commands: &Commands, report: &mut Report) {
    if stacks.is_empty() {
        report.wrong("stacks", "names no stack; at least one is needed");
    }
    for (n, stack) in stacks.iter().enumerate() {
        one_stack(stack, &format!("stacks[{n}]"), commands, report);
    }
    unique(stacks, "name", |stack| vec![stack.name.as_str().to_owned()], report);
    unique(stacks, "mi", |stack| vec![stack.mi.to_string()], report);
    unique(
        stacks,
        "events",
        |stack| {
            let fixed = stack.events.as_ref().filter(|socket| socket.address.port() != 0);
            fixed.map(ToString::to_string).into_iter().collect()
        },
        report,
    );
    unique(
        stacks,
        "domains",
        |stack| stack.domains.iter().map(|domain| domain.as_str().to_owned()).collect(),
        report,
    );
}

fn unique(
    stacks: &[Stack],
    key: &str,
    values: impl Fn(&Stack) -> Vec<String>,
    report: &mut Report,
) {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (n, stack) in stacks.iter().enumerate() {
        for value in values(stack) {
            if let Some(first) = seen.get(&value) {
                let text = format!("`{value}` is used twice, by stacks[{first}] and stacks[{n}]");
                report.wrong(&format!("stacks[{n}].{key}"), text);
            } else {
                seen.insert(value, n);
            }
        }
    }
}

fn one_stack(stack: &Stack, at: &str, commands: &Commands, report: &mut Report) {
    let key = |name: &str| format!("{at}.{name}");
    if stack.mi.transport != Transport::Udp {
        report.wrong(&key("mi"), "is spoken over UDP; HTTP has its own key, `mi_http`");
    }
    if stack.mi.address.port() == 0 {
        report.wrong(&key("mi"), "needs a port");
    }
    if stack.mi_http.is_none() {
        report.risky(
            &key("mi_http"),
            "not set (in a file or by CALLPLANE_STACKS__0__MI_HTTP): once the list of dialogs no longer \
             fits a datagram (some dozens of calls), nothing can prove that a call is gone, and such \
             commands end `unknown`",
        );
    }
    events(stack, at, report);
    if let Some(fr_timeout) = stack.fr_timeout {
        within(&key("fr_timeout"), fr_timeout, SECOND, 10 * MINUTE, report);
    }
    if let Some(fr_inv_timeout) = stack.fr_inv_timeout {
        within(&key("fr_inv_timeout"), fr_inv_timeout, 2 * SECOND, 60 * MINUTE, report);
    }
    let fr_inv_timeout = stack.fr_inv_timeout.unwrap_or(Stack::FR_INV_TIMEOUT);
    if commands.ring_timeout >= fr_inv_timeout {
        // The place is that of the value which was written; the other is a default.
        let culprit = if report.is_written("commands.ring_timeout") {
            "commands.ring_timeout".to_owned()
        } else {
            key("fr_inv_timeout")
        };
        let text = format!(
            "`commands.ring_timeout` ({} s) must be less than `{at}.fr_inv_timeout` ({} s): else \
             the stack gives up before callplane does",
            commands.ring_timeout.as_secs(),
            fr_inv_timeout.as_secs(),
        );
        report.wrong(&culprit, text);
    }
    count(&key("in_flight"), stack.in_flight, 10_000, report);
    count(&key("breaker.failures"), stack.breaker.failures as usize, 1000, report);
    within(&key("breaker.open"), stack.breaker.open, Duration::from_millis(100), MINUTE, report);
    within(&key("subscription"), stack.subscription, 15 * SECOND, 24 * 60 * MINUTE, report);
    if stack.subscription.subsec_nanos() != 0 {
        report.wrong(&key("subscription"), "must be whole seconds");
    }
    size(
        &key("receive_buffer"),
        stack.receive_buffer,
        ByteSize::kib(64),
        ByteSize::mib(1024),
        report,
    );
}

fn events(stack: &Stack, at: &str, report: &mut Report) {
    let key = |name: &str| format!("{at}.{name}");
    let (named, socket) = match (&stack.advertise, &stack.events) {
        (Some(advertised), _) => ("advertise", Some(advertised)),
        (None, events) => ("events", events.as_ref()),
    };
    if socket.is_some_and(|socket| socket.address.is_ipv6() && !socket.address.is_any()) {
        report
            .risky(&key(named), "is an IPv6 address; OpenSIPS sends events to IPv4 addresses only");
    }
    if let Some(advertised) = &stack.advertise {
        if advertised.address.port() == 0 || advertised.address.is_any() {
            report
                .wrong(&key("advertise"), "must be an address and port that the stack can send to");
        }
        let transport = stack.events.as_ref().map_or(Transport::Udp, |socket| socket.transport);
        if advertised.transport != transport {
            report.wrong(&key("advertise"), "must have the same transport as `events`");
        }
        if stack.events.as_ref().is_none_or(|socket| socket.address.port() == 0) {
            report.risky(
                &key("advertise"),
                "is a fixed port while `events` takes any free one; give `events` a port",
            );
        }
    } else if let Some(socket) = &stack.events
        && socket.address.is_loopback()
        && !stack.mi.address.is_loopback()
    {
        report.risky(
            &key("events"),
            "is on loopback, but the stack is not on this machine: its events won't arrive",
        );
    }
}

fn admin(admin: &Admin, config: &Config, report: &mut Report) {
    if !admin.control.is_loopback() {
        report.wrong(
            "admin.control",
            "must be a loopback address: whoever reaches it can stop the server",
        );
    }
    let sockets = [
        ("listen.address", &config.listen.address),
        ("admin.listen", &admin.listen),
        ("admin.control", &admin.control),
    ];
    for (n, (key, address)) in sockets.iter().enumerate() {
        let taken = sockets.iter().take(n).find(|(_, other)| {
            let same_host = other.host() == address.host() || other.is_any() || address.is_any();
            address.port() != 0 && other.port() == address.port() && same_host
        });
        if let Some((other, _)) = taken {
            report.wrong(key, format!("uses the same port as `{other}`"));
        }
    }
}

fn within(key: &str, value: Duration, least: Duration, most: Duration, report: &mut Report) {
    if value < least || value > most {
        report.wrong(key, format!("must be from {} to {}", written(least), written(most)));
    }
}

fn size(key: &str, value: ByteSize, least: ByteSize, most: ByteSize, report: &mut Report) {
    if value < least || value > most {
        report.wrong(key, format!("must be from {} KiB to {} KiB", least.0 / 1024, most.0 / 1024));
    }
}

fn count(key: &str, value: usize, most: usize, report: &mut Report) {
    if value < 1 || value > most {
        report.wrong(key, format!("must be from 1 to {most}"));
    }
}

fn written(duration: Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        0 => "0".to_owned(),
        _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
        _ if ms.is_multiple_of(1000) => format!("{}s", ms / 1000),
        _ => format!("{ms}ms"),
    }
}
