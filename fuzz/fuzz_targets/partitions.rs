//! Explores the target `partitions`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sendense_fuzz::run("partitions", bytes));
