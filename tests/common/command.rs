//! Runs a program, with its output kept for the message of a failing test.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What a program answered.
#[derive(Debug)]
pub struct Ran {
    /// The exit code; -1 for a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// Fails the test where the program did not exit with 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(
            self.code, 0,
            "exit {}\n{}\n{}",
            self.code, self.stdout, self.stderr
        );
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("not JSON ({e}): {}\n{}", self.stdout, self.stderr))
    }
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs a program to its end.
#[track_caller]
pub fn run(program: &str, args: &[&str]) -> Ran {
    run_command(Command::new(program).args(args))
}

/// Runs a prepared command to its end, system directories in its path.
#[track_caller]
pub fn run_command(command: &mut Command) -> Ran {
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .output()
        .unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    Ran {
        code: status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// The path of one of our own binaries, built beside the test binary.
pub fn ours(name: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let dir = exe.parent().and_then(|deps| deps.parent()).unwrap();
    let path = dir.join(name);
    assert!(
        path.exists(),
        "{} is not built: run tests/run",
        path.display()
    );
    path
}

/// Runs one of our own binaries.
#[track_caller]
pub fn run_ours(name: &str, args: &[&str]) -> Ran {
    run_command(Command::new(ours(name)).args(args))
}
