//! The few lines that the daemon itself prints.
#![expect(clippy::print_stderr, reason = "this is where the daemon speaks")]

use std::io::Write;

use super::Daemon;

/// A line on standard output.
pub fn say(text: &str) {
    // A closed pipe is the reader's way of saying "enough".
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A line on standard error.
pub fn say_error(text: &str) {
    eprintln!("{text}");
}

/// Says where it listens. Whoever started it may read this line and begin.
pub fn say_ready(daemon: &Daemon) {
    let config = daemon.service().config();
    say(&format!(
        "sendensed is ready: http://{} nbd://{} {}",
        daemon.http(),
        daemon.nbd(),
        config.nbd_socket().display()
    ));
    // Whoever waits for the line sees it now.
    let _ = std::io::stdout().flush();
}
