//! Sendense.
