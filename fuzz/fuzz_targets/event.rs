//! One event datagram.

#![no_main]

#[path = "../invariants/event.rs"]
mod event;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = event::check(data);
});
