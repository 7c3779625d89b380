//! The program as a shell sees it: what it prints where, and its exit codes, without a server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::path::Path;
use std::process::{Command, Output};

fn callplane(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_callplane"))
        .args(arguments)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config"))
        .env_clear()
        .output()
        .unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_good_configuration() {
    for (file, line) in [
        ("old-sample.yml", "old-sample.yml: good, in the old server's form"),
        ("two-stacks.yml", "two-stacks.yml: good"),
    ] {
        let output = callplane(&["check-config", "--config", file]);
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        let text = out(&output);
        let (warnings, last) = text.trim_end().rsplit_once('\n').unwrap();
        assert_eq!(last, line);
        assert!(warnings.lines().all(|line| line.starts_with("warning: ")), "{warnings}");
    }
}

#[test]
fn a_bad_configuration_stops_every_command_that_reads_one_with_all_problems() {
    let expected =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/bad.txt"))
            .unwrap();
    let count = expected.lines().count();
    for arguments in [
        &["check-config", "--config", "bad.yml"][..],
        &["serve", "--config", "bad.yml"],
        &["run", "--config", "bad.yml", "end", "some-call"],
    ] {
        let output = callplane(arguments);
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(
            err(&output),
            format!("{expected}{count} problems in the configuration; nothing was started\n")
        );
        assert_eq!(out(&output), "");
    }
}

#[test]
fn a_missing_file_is_one_line() {
    for command in ["serve", "check-config"] {
        let output = callplane(&[command, "--config", "nowhere.yml"]);
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(
            err(&output),
            "nowhere.yml: can't read the configuration: No such file or directory (os error 2)\n"
        );
    }
}

#[test]
fn a_variable_counts_and_a_wrong_one_is_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_callplane"))
        .arg("check-config")
        .env_clear()
        .env("CALLPLANE_LIMITS__SESSIONS", "0")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        err(&output).lines().next(),
        Some("CALLPLANE_LIMITS__SESSIONS: limits.sessions: must be from 1 to 10000000")
    );
}

#[test]
#[cfg(unix)]
fn a_variable_that_is_not_utf_8_is_named() {
    use std::os::unix::ffi::OsStrExt as _;
    let output = Command::new(env!("CARGO_BIN_EXE_callplane"))
        .arg("check-config")
        .env_clear()
        .env("CALLPLANE_LOG__FILE", std::ffi::OsStr::from_bytes(b"/var/log/\xff"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(err(&output).lines().next(), Some("CALLPLANE_LOG__FILE: log.file: is not UTF-8"));
}

#[test]
fn the_printed_defaults_are_a_good_file() {
    let printed = callplane(&["check-config", "--default"]);
    assert_eq!(printed.status.code(), Some(0));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("callplane.yml");
    std::fs::write(&file, &printed.stdout).unwrap();
    let checked = callplane(&["check-config", "--config", file.to_str().unwrap()]);
    assert_eq!(checked.status.code(), Some(0), "{}", err(&checked));
}

#[test]
fn a_log_file_that_can_not_be_written_is_one_line() {
    let output = Command::new(env!("CARGO_BIN_EXE_callplane"))
        .arg("serve")
        .env_clear()
        .env("CALLPLANE_LOG__FILE", "/nowhere/callplane.log")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        err(&output),
        "/nowhere/callplane.log: can't open the log file: No such file or directory (os error 2)\n"
    );
}

#[test]
fn wrong_arguments_are_a_usage_error() {
    for arguments in [
        &["dance"][..],
        &["call", "start", "sip:a@x"],
        &["call", "transfer", "id", "somebody", "sip:a@x"],
        &["serve", "--cofnig", "x"],
        &[],
    ] {
        let output = callplane(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let text = err(&output);
        assert!(text.contains("Usage:") || text.contains("try '--help'"), "{arguments:?}: {text}");
    }
}

#[test]
fn the_control_interface_of_a_simulated_stack_stays_on_loopback() {
    let open = ["simulate-opensips", "--mi", "127.0.0.1:0", "--mi-http", "127.0.0.1:0"];
    let output = callplane(&[&open[..], &["--control", "0.0.0.0:0"]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("not on loopback"), "{}", err(&output));
}

#[test]
fn version_help_and_protocol_are_printed() {
    let version = format!("callplane {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(out(&callplane(&["--version"])), version);
    let help = out(&callplane(&["--help"]));
    for word in ["serve", "demo", "simulate-opensips", "check-config", "Exit codes:", "  130  "] {
        assert!(help.contains(word), "{word}:\n{help}");
    }
    // What it is today; nothing is made for Kubernetes yet.
    assert!(help.starts_with("A control plane for SIP calls"), "{help}");
    assert!(!help.contains("Kubernetes"), "{help}");
    let openrpc = callplane(&["openrpc"]);
    assert_eq!(openrpc.status.code(), Some(0));
    serde_json::from_slice::<serde_json::Value>(&openrpc.stdout).unwrap();
}
