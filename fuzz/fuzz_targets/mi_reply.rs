//! One reply datagram of a Management Interface.

#![no_main]

#[path = "../invariants/mi_reply.rs"]
mod mi_reply;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = mi_reply::check(data);
});
