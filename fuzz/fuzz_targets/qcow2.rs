//! Explores the target `qcow2`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sendense_fuzz::run("qcow2", bytes));
