//! A configuration file, and variables over it.

#![no_main]

#[path = "../invariants/config.rs"]
mod config;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = config::check(data);
});
