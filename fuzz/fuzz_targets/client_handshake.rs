//! Explores the target `client_handshake`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sendense_fuzz::run("client_handshake", bytes));
