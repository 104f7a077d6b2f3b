//! The one test binary.

#[cfg(test)]
mod nbd_client;
