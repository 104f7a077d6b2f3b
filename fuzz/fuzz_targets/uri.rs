//! Explores the target `uri`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sendense_fuzz::run("uri", bytes));
