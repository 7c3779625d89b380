//! One frame of a client, through the parser and a whole session.

#![no_main]

#[path = "../invariants/frame.rs"]
mod frame;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = frame::check(data);
});
