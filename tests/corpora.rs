//! The corpora of the fuzz targets, replayed as ordinary tests: every file, every file cut short
//! at every byte, and every file with each byte changed. The invariants are those of the targets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

#[path = "../fuzz/invariants/config.rs"]
mod config;
#[path = "../fuzz/invariants/event.rs"]
mod event;
#[path = "../fuzz/invariants/frame.rs"]
mod frame;
#[path = "../fuzz/invariants/mi_reply.rs"]
mod mi_reply;
#[path = "../fuzz/invariants/sip_address.rs"]
mod sip_address;

/// Files longer than this are replayed whole only.
const LONGEST_MUTATED: usize = 1500;

/// Bytes that mean something in JSON, in SIP or to a C program.
const TELLING: &[u8] = b"\0\n\"\\}0<\xff";

/// Bytes that mean something in YAML.
const TELLING_IN_YAML: &[u8] = b"\0:[";

type Check = fn(&[u8]) -> bool;

#[test]
fn frames_of_clients() {
    replay("frame", frame::check, TELLING);
}

#[test]
fn sip_addresses() {
    replay("sip_address", sip_address::check, TELLING);
}

#[test]
fn management_replies() {
    replay("mi_reply", mi_reply::check, TELLING);
}

#[test]
fn events() {
    replay("event", event::check, TELLING);
}

#[test]
fn configurations() {
    replay("config", config::check, TELLING_IN_YAML);
}

/// A file whose name begins with `bad-` must be refused, any other one taken: a corpus that is
/// turned away at the first byte would show nothing.
fn replay(target: &str, check: Check, telling: &[u8]) {
    let files = corpus(target);
    assert!(files.len() >= 12, "{target} has only {} seeds", files.len());
    for file in &files {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap();
        let data = std::fs::read(file).unwrap();
        let taken = checked(check, &data, file);
        assert_eq!(taken, !name.starts_with("bad-"), "{}: taken or not", file.display());
        if data.len() > LONGEST_MUTATED {
            continue;
        }
        for end in 0..data.len() {
            checked(check, &data[..end], file);
            let mut changed = data.clone();
            for &byte in telling {
                changed[end] = byte;
                checked(check, &changed, file);
            }
        }
    }
}

/// The files of a corpus, in a fixed order.
fn corpus(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn checked(check: Check, data: &[u8], file: &Path) -> bool {
    catch_unwind(AssertUnwindSafe(|| check(data))).unwrap_or_else(|_| {
        panic!("{} broke an invariant as {:?}", file.display(), String::from_utf8_lossy(data))
    })
}
