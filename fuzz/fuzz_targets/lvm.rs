//! Explores the target `lvm`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sendense_fuzz::run("lvm", bytes));
