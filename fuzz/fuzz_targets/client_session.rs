//! Explores the target `client_session`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sendense_fuzz::run("client_session", bytes));
