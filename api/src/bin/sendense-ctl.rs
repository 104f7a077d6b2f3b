//! Sendense.
fn main() {}
