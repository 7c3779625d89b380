//! A SIP address of a client or of the configuration.

#![no_main]

#[path = "../invariants/sip_address.rs"]
mod sip_address;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = sip_address::check(data);
});
