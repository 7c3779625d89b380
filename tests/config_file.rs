//! The configuration as its users meet it: files, variables, messages.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use callplane::config::{self, Config, ConfigError, DEFAULT_YAML, Loaded, Transport};
use callplane::core::script::Grade;

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(name)
}

fn load(name: &str) -> Result<Loaded, ConfigError> {
    load_with(name, &[])
}

fn load_with(name: &str, environment: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let text = std::fs::read_to_string(sample(name)).unwrap();
    config::parse(&text, Some(name), variables(environment))
}

fn variables(environment: &[(&str, &str)]) -> Vec<(String, String)> {
    environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn from_environment(environment: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    config::load(None, variables(environment))
}

#[test]
fn the_documented_file_says_exactly_the_defaults() {
    let loaded = config::parse(DEFAULT_YAML, None, []).unwrap();
    assert_eq!(loaded.config, Config::default());
    assert_eq!(config::load(None, []).unwrap().config, Config::default());
}

#[test]
fn the_documented_file_has_every_key_once_with_words_above_it() {
    let lines: Vec<&str> = DEFAULT_YAML.lines().collect();
    let mut path: Vec<(usize, String)> = Vec::new();
    let mut written = Vec::new();
    for (n, line) in lines.iter().enumerate() {
        let bare = line.trim_start().trim_start_matches("- ");
        if bare.is_empty() || bare.starts_with('#') {
            continue;
        }
        let indent = line.len() - bare.len();
        let key = bare.split(':').next().unwrap();
        let is_item = line.trim_start().starts_with("- ");
        path.retain(|(at, _)| *at < indent);
        let above = path.last().map(|(_, key)| key.clone()).unwrap_or_default();
        let above = if above == "stacks" || is_item { "stacks[0]".to_owned() } else { above };
        let key = if above.is_empty() { key.to_owned() } else { format!("{above}.{key}") };
        assert!(
            lines[n - 1].trim_start().starts_with('#'),
            "line {}: `{key}` has no words above it",
            n + 1
        );
        path.push((indent, key.clone()));
        written.push(key);
    }
    let leaves: Vec<String> = written
        .iter()
        .filter(|key| {
            let below =
                |other: &&String| other.len() > key.len() && other.starts_with(key.as_str());
            !written
                .iter()
                .any(|other| below(&other) && matches!(other.as_bytes()[key.len()], b'.' | b'['))
        })
        .cloned()
        .collect();
    let known: Vec<String> = config::keys().into_iter().filter(|key| key != "stacks").collect();
    assert_eq!(leaves, known);
}

#[test]
fn the_old_servers_file_is_taken_as_it_is() {
    let loaded = load("old-sample.yml").unwrap();
    assert!(loaded.is_old);
    let Config { listen, stacks, log, .. } = loaded.config;
    assert_eq!(listen.address.to_string(), "127.0.0.1:5059");
    assert_eq!(listen.path.as_str(), "/call-api");
    assert_eq!(stacks.len(), 1);
    assert_eq!(stacks[0].mi.to_string(), "udp:127.0.0.1:8080");
    assert_eq!(stacks[0].next_hop, None);
    assert_eq!(log.level.as_str(), "info");
    assert_eq!(log.file, None);
}

#[test]
fn every_key_of_the_old_file_counts_and_unknown_ones_are_warned_about() {
    let loaded = load("old-full.yml").unwrap();
    let Config { listen, stacks, log, .. } = loaded.config;
    assert_eq!(listen.address.to_string(), "127.0.0.2:6059");
    assert_eq!(listen.path.as_str(), "/calls");
    assert_eq!(stacks[0].mi.to_string(), "udp:10.1.2.3:8888");
    assert_eq!(stacks[0].next_hop.as_ref().unwrap().as_str(), "sip:10.1.2.3:5060");
    assert_eq!(stacks[0].events, None, "events go to the address that reaches a remote stack");
    assert_eq!(log.level.as_str(), "warn");
    assert_eq!(log.file.as_deref(), Some("/var/log/call-api.log"));
    let warnings: Vec<String> = loaded.warnings.lines().collect();
    assert!(
        warnings.iter().any(|line| line.starts_with(
            "old-full.yml:5:3: ws_server.origin: ignored, as the old server did: unknown key"
        )),
        "{warnings:?}"
    );
}

#[test]
fn the_file_of_the_old_one_shot_tool_is_taken_too() {
    let loaded = load("old-command.yml").unwrap();
    assert!(loaded.is_old);
    assert_eq!(loaded.config.stacks[0].next_hop.as_ref().unwrap().as_str(), "sip:127.0.0.1");
    assert_eq!(loaded.config.log.level.as_str(), "debug");
}

#[test]
fn old_defaults_hold_for_empty_values() {
    let text = "ws_server: {host: '', port: 0, http_path: ''}\nmi: {url: ''}\nsip:\n";
    let loaded = config::parse(text, None, []).unwrap();
    let defaults = Config::default();
    assert_eq!(loaded.config, defaults);
}

#[test]
fn an_old_file_open_to_the_network_is_refused_with_the_line_to_add() {
    let refused = load("old-open.yml").unwrap_err().to_string();
    assert!(
        refused.starts_with("old-open.yml:2:9: ws_server.host: 0.0.0.0:5059 can be"),
        "{refused}"
    );
    assert!(refused.contains("insecure_open: true"), "{refused}");
    assert!(refused.contains("CALLPLANE_LISTEN__INSECURE_OPEN=true"), "{refused}");

    // Both ways that the message names do work.
    let opened = load("old-opened.yml").unwrap();
    assert!(opened.config.listen.insecure_open);
    let origins: Vec<_> = opened.config.listen.origins.iter().map(|o| o.as_str()).collect();
    assert_eq!(origins, ["https://crm.example"]);
    let opened = load_with("old-open.yml", &[("CALLPLANE_LISTEN__INSECURE_OPEN", "true")]).unwrap();
    assert_eq!(opened.config.listen.address.to_string(), "0.0.0.0:5059");
    assert!(opened.warnings.lines().any(|line| line.contains("anyone who reaches")));
}

#[test]
fn a_mixture_of_both_forms_is_refused() {
    let refused = load("mixture.yml").unwrap_err().to_string();
    let lines: Vec<&str> = refused.lines().collect();
    assert_eq!(lines.len(), 2, "{refused}");
    assert!(
        lines[0].starts_with(
            "mixture.yml:3:1: limits: belongs to callplane's own form, but `ws_server` (line 1)"
        ),
        "{refused}"
    );
    assert!(lines[1].starts_with("mixture.yml:6:3: log.format: "), "{refused}");
}

#[test]
fn all_problems_are_told_at_once_each_with_its_place() {
    let ConfigError::Wrong { problems, .. } = load("bad.yml").unwrap_err() else {
        panic!("not the kind of error expected")
    };
    let told: String =
        ConfigError::Wrong { file: Some("bad.yml".to_owned()), problems }.to_string();
    let expected = std::fs::read_to_string(sample("bad.txt")).unwrap();
    assert_eq!(told.trim(), expected.trim());
}

#[test]
fn an_own_file_with_two_stacks() {
    let loaded = load("two-stacks.yml").unwrap();
    assert!(!loaded.is_old);
    let config = loaded.config;
    assert_eq!(config.install.as_str(), "blue");
    assert_eq!(config.commands.ring_timeout, Duration::from_secs(30));
    assert_eq!(config.listen.origins[0].as_str(), "https://crm.example");
    let [east, west] = &config.stacks[..] else { panic!("two stacks") };
    assert_eq!(east.grade, Grade::Reference);
    assert_eq!(east.domains[1].as_str(), "east.example.net");
    assert_eq!(east.mi_http.as_ref().unwrap().to_string(), "http://east.internal:8888/mi");
    assert_eq!(west.events.as_ref().unwrap().transport, Transport::Tcp);
    assert_eq!(west.grade, Grade::Auto);
    let warnings: Vec<String> = loaded.warnings.lines().collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("two-stacks.yml:4:18: listen.insecure_open: "), "{warnings:?}");
}

#[test]
fn variables_lie_over_the_file() {
    let loaded = load_with(
        "two-stacks.yml",
        &[
            ("CALLPLANE_INSTALL", "green"),
            ("CALLPLANE_LISTEN__ADDRESS", "127.0.0.1:7"),
            ("CALLPLANE_LISTEN__INSECURE_OPEN", "false"),
            ("CALLPLANE_LISTEN__ORIGINS", "https://a.example, https://b.example"),
            ("CALLPLANE_STACKS__1__MI", "udp:10.9.9.9:1"),
            ("CALLPLANE_STACKS__1__BREAKER__FAILURES", "9"),
            ("CALLPLANE_STACKS__0__DOMAINS", "[]"),
            ("CALLPLANE_STACKS__2", "{name: north, mi: udp:10.9.9.8:1}"),
            // Set by Kubernetes for a Service of this name, not ours.
            ("CALLPLANE_PORT", "tcp://10.0.0.1:5059"),
            ("CALLPLANE_SERVICE_HOST", "10.0.0.1"),
            ("CALLPLANE_SERVICE_PORT_CALL_API", "5059"),
            ("CALLPLANE_PORT_5059_TCP_ADDR", "10.0.0.1"),
            ("CALLPLANE_PORT_5059_TCP_PORT", "5059"),
            ("CALLPLANE_ADMIN_PORT", "tcp://10.0.0.2:9090"),
            ("CALLPLANE_ADMIN_PORT_9090_TCP", "tcp://10.0.0.2:9090"),
            // Read with the arguments.
            ("CALLPLANE_CONFIG", "two-stacks.yml"),
            ("CALLPLANE_SERVER", "ws://127.0.0.1:1/call-api"),
            ("HOME", "/root"),
        ],
    )
    .unwrap();
    let config = loaded.config;
    assert_eq!(config.install.as_str(), "green");
    assert_eq!(config.listen.address.to_string(), "127.0.0.1:7");
    assert!(!config.listen.insecure_open);
    assert_eq!(config.listen.origins.len(), 2);
    assert_eq!(config.stacks[1].mi.to_string(), "udp:10.9.9.9:1");
    assert_eq!(config.stacks[1].breaker.failures, 9);
    assert!(config.stacks[0].domains.is_empty());
    assert_eq!(config.stacks[2].name.as_str(), "north");
    assert_eq!(config.stacks[2].fr_timeout, None);
}

#[test]
fn more_than_ten_stacks_may_be_named_by_variables() {
    let variables = (0..12).flat_map(|n| {
        let at = format!("CALLPLANE_STACKS__{n}__");
        let mi = (format!("{at}MI"), format!("udp:10.0.0.{n}:8080"));
        [mi, (format!("{at}NAME"), format!("stack-{n}"))]
    });
    let config = callplane::config::parse("", None, variables).unwrap().config;
    let names: Vec<_> = config.stacks.iter().map(|stack| stack.name.as_str()).collect();
    assert_eq!(names.len(), 12);
    assert_eq!(names[10], "stack-10");
}

#[test]
fn a_variable_that_is_wrong_is_named() {
    let refused = from_environment(&[
        ("CALLPLANE_LISTEN__ADRESS", "127.0.0.1:1"),
        ("CALLPLANE_LIMITS__SESSIONS", "many"),
        ("CALLPLANE_STACKS__4__MI", "udp:127.0.0.1:1"),
        ("CALLPLANE_LISTEN__ORIGINS", "[https://a.example"),
        ("CALLPLANE_LISTEN", "127.0.0.1:1"),
        ("CALLPLANE_LISTEN_ADDRESS", "127.0.0.1:1"),
        ("CALLPLANE_LISTEN_PORT", "5059"),
        ("CALLPLANE_LISTEN__PATH", "/\u{fffd}"),
    ])
    .unwrap_err()
    .to_string();
    for part in [
        "CALLPLANE_LISTEN__ADRESS: listen.adress: unknown key; did you mean `address`?",
        "CALLPLANE_LIMITS__SESSIONS: limits.sessions: `many` is not a whole number",
        "CALLPLANE_STACKS__4__MI: stacks[4]: leaves a gap",
        "CALLPLANE_LISTEN__ORIGINS: listen.origins: not valid YAML",
        "CALLPLANE_LISTEN: is a section; its keys are set one by one, such as `CALLPLANE_LISTEN__ADDRESS`",
        "CALLPLANE_LISTEN_ADDRESS: unknown variable; did you mean `CALLPLANE_LISTEN__ADDRESS`?",
        "CALLPLANE_LISTEN_PORT: unknown variable; a key is set by `CALLPLANE_<SECTION>__<KEY>`",
        "CALLPLANE_LISTEN__PATH: listen.path: is not UTF-8",
    ] {
        assert!(refused.contains(part), "{part}\n in\n{refused}");
    }
}

#[test]
fn a_stack_named_only_by_variables_replaces_the_default_one() {
    let loaded = from_environment(&[("CALLPLANE_STACKS__0__MI", "udp:127.0.0.1:1")]).unwrap();
    assert_eq!(loaded.config.stacks.len(), 1);
    assert_eq!(loaded.config.stacks[0].mi.to_string(), "udp:127.0.0.1:1");
}

#[test]
fn a_semantic_problem_has_the_place_of_the_key_that_was_written() {
    for (text, place) in [
        ("stacks:\n  - fr_inv_timeout: 40s\n", "f.yml:2:21: stacks[0].fr_inv_timeout: "),
        (
            "commands:\n  ring_timeout: 50s\nstacks: [{fr_inv_timeout: 50s}]\n",
            "f.yml:2:17: commands.ring_timeout: ",
        ),
        ("stacks: []\n", "f.yml:1:9: stacks: names no stack"),
        ("limits:\n  ping_interval: 2m\n", "f.yml:2:3: limits.idle_timeout: must be longer"),
        (
            "admin:\n  listen: 127.0.0.1:5059\n",
            "f.yml:2:11: admin.listen: uses the same port as `listen.address`",
        ),
        ("listen: {path: /}\n", "f.yml:1:16: listen.path: `/` is where the console is"),
        (
            "redis: {address: 'amy:secret@redis:6379'}\n",
            "f.yml:1:18: redis.address: `***@redis:6379` is not an address",
        ),
        ("traces: {sample: 1.5}\n", "f.yml:1:18: traces.sample: `1.5` is not a share"),
        ("traces: {otlp: 'tempo:4317'}\n", "f.yml:1:16: traces.otlp: `tempo:4317` is not a"),
        (
            "traces: {otlp: 'http://tempo', ca_file: ca.pem}\n",
            "f.yml:1:41: traces.ca_file: is of no use unless `traces.otlp` begins with `https://`",
        ),
    ] {
        let refused = config::parse(text, Some("f.yml"), []).unwrap_err().to_string();
        assert!(refused.starts_with(place), "{text}\n{refused}");
        assert_eq!(refused.lines().count(), 1, "{refused}");
    }
}

#[test]
fn no_problem_quotes_what_stands_before_an_at_sign() {
    let places = [
        "redis: {address: 'PASSWORD@redis:6379'}",
        "redis: {address: 'redis://amy:PASSWORD@redis:6379'}",
        "redis: {sentinels: ['a:1', 'amy:PASSWORD@redis:6379']}",
        "redis: {database: 'PASSWORD@redis'}",
        "redis: {'amy:PASSWORD@redis:6379': 1}",
        "stacks: [{mi: 'udp:amy:PASSWORD@redis:8080'}]",
        "stacks: [{mi_http: 'http://amy:PASS@WORD@redis/mi'}]",
        "stacks: [{mi_http: 'https://amy:PASSWORD@redis/mi'}]",
        "stacks: [{next_hop: 'sip:amy:PASSWORD@redis?Subject=1'}]",
        "traces: {otlp: 'http://amy:PASSWORD@redis:4317'}",
        "listen: {origins: ['https://amy:PASSWORD@redis']}",
        "ws_server: {host: 'amy:PASSWORD@redis'}",
        "mi: {url: 'amy:PASSWORD@redis:8080'}",
    ];
    for text in places {
        let refused = config::parse(text, Some("f.yml"), []).unwrap_err().to_string();
        assert!(refused.contains("***@redis") && !refused.contains("PASS"), "{text}\n{refused}");
    }
    for (name, value) in [
        ("CALLPLANE_TRACES__OTLP", "https://amy:PASSWORD@redis/v1"),
        ("CALLPLANE_REDIS__SENTINELS", "a:1,amy:PASSWORD@redis:6379"),
    ] {
        let refused = from_environment(&[(name, value)]).unwrap_err().to_string();
        assert!(refused.contains("***@redis") && !refused.contains("PASS"), "{refused}");
    }
}

#[test]
fn risky_settings_warn_and_pass() {
    for (text, key) in [
        ("commands: {hold: call_hold}", "commands.hold"),
        ("commands: {transfer: call_transfer}", "commands.transfer"),
        ("log: {redact: false}", "log.redact"),
        ("listen: {origins: ['null']}", "listen.origins[0]"),
        ("store: {keep_starts: 10s}", "store.keep_starts"),
        ("limits: {idle_timeout: 30s}", "limits.idle_timeout"),
        ("stacks: [{mi: 'udp:10.0.0.1:1', events: 'udp:127.0.0.1:7000'}]", "stacks[0].events"),
        ("traces: {otlp: 'http://tempo', sample: 0}", "traces.sample"),
        ("", "stacks[0].mi_http"),
    ] {
        let loaded = config::parse(text, None, []).unwrap();
        let keys: Vec<&str> = loaded.warnings.list.iter().map(|w| w.key.as_str()).collect();
        assert!(keys.contains(&key), "{text}: {keys:?}");
    }
}

#[test]
fn what_is_no_file_is_one_clear_line() {
    let missing = config::load(Some(Path::new("/nowhere/callplane.yml")), []).unwrap_err();
    assert_eq!(
        missing.to_string(),
        "/nowhere/callplane.yml: can't read the configuration: No such file or directory (os error 2)"
    );
    let folder = config::load(Some(Path::new("/")), []).unwrap_err();
    assert_eq!(folder.to_string(), "/: can't read the configuration: it is a directory");
    let endless = config::load(Some(Path::new("/dev/zero")), []).unwrap_err();
    let text = "/dev/zero: can't read the configuration: it is longer than 1 MiB";
    assert_eq!(endless.to_string(), text);
}

#[test]
fn hostile_text_is_refused_and_never_a_panic() {
    for text in [
        "\u{0}",
        "a: &a [*a]",
        "- - - -",
        "? [1]: 2",
        "!!binary x",
        "a: !foo b",
        "listen: 5",
        "stacks: {}",
        "stacks: [1, null]",
        "{{{{",
        "<<: {a: 1}",
        "123: 4",
        "--- a\n--- b",
        "listen: {address: [1]}",
        "stacks: [[[]]]",
        "ws_server: []",
        "ws_server: {port: x, host: 3}",
        "log: {file_path: {}}",
        "ws_server: {insecure_open: maybe}",
    ] {
        assert!(config::parse(text, None, []).is_err(), "{text:?} was accepted");
    }
    let deep = format!("listen: {}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(config::parse(&deep, None, []).is_err());
}

/// Each names what is wrong, at the place where it was written.
#[test]
fn a_leadership_that_can_not_work_is_refused() {
    let redis = "redis: {address: \"127.0.0.1:6379\"}\n";
    for (text, key, part) in [
        ("leadership: kubernetes", "leadership", "the Lease elects, and Redis decides"),
        ("kubernetes: {lease: other}", "kubernetes", "without `leadership: kubernetes`"),
        (
            "leadership: kubernetes\nkubernetes: {lease_duration: 2500ms}",
            "kubernetes.lease_duration",
            "whole seconds",
        ),
        (
            "leadership: kubernetes\nkubernetes: {lease_duration: 90s}",
            "kubernetes.lease_duration",
            "from 2s to 1m",
        ),
        ("leadership: kubernetes\nkubernetes: {lease: Wrong_}", "kubernetes.lease", "no name"),
    ] {
        let redis = if part.contains("Redis") { "" } else { redis };
        let refused = callplane::config::parse(&format!("{redis}{text}"), None, []);
        let problems = format!("{:?}", refused.expect_err(text));
        assert!(problems.contains(&format!("key: \"{key}\"")), "{problems}");
        assert!(problems.contains(part), "{problems}");
    }
    let good = format!("{redis}leadership: kubernetes\nkubernetes: {{lease: a.b-c}}");
    assert!(callplane::config::parse(&good, None, []).is_ok());
}
