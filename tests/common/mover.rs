//! Movers: whoever sends a disk's blocks into an export. None of them is ours, so that both sides
//! of the wire are checked against somebody else's reading of the protocol.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::command::{Ran, run};
use crate::disk::{Act, Change, Disk, Random};

/// libnbd's nbdcopy, the usual way to send a whole disk: several connections, zeroes detected.
#[track_caller]
pub fn nbdcopy(disk: &Disk, uri: &str) -> Ran {
    run("nbdcopy", &["--flush", disk.path.to_str().unwrap(), uri])
}

/// What libnbd did with a list of operations.
#[derive(Debug)]
pub struct Sent {
    /// Operations that were answered, errors included.
    pub done: u64,
    /// The errors, `{"op", "errno"}` each.
    pub errors: Vec<Value>,
}

/// Runs a plan of `send.py` (libnbd's Python binding) against an export.
#[track_caller]
pub fn send(source: &Path, uri: &str, plan: &Value) -> Sent {
    let mut child = spawn(source, uri, plan);
    let output = {
        drop(child.stdin.take());
        child.wait_with_output().unwrap()
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    sent(&text)
}

/// Starts a plan and leaves it running (for plans with `pause`).
#[track_caller]
pub fn spawn(source: &Path, uri: &str, plan: &Value) -> std::process::Child {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("common/send.py");
    let mut child = Command::new("/usr/bin/python3")
        .arg(script)
        .arg(uri)
        .arg(source)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A child that ends early closes the pipe: its own words are the better message.
    let _ = child
        .stdin
        .take()
        .unwrap()
        .write_all(plan.to_string().as_bytes());
    child
}

/// Reads what `send.py` printed.
#[track_caller]
pub fn sent(line: &str) -> Sent {
    let answer: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    Sent {
        done: answer["done"].as_u64().unwrap(),
        errors: answer["errors"].as_array().unwrap().clone(),
    }
}

/// Changes as operations for `send.py`, dealt to `connections` at random.
pub fn operations(changes: &[Change], connections: u64, random: &mut Random) -> Vec<Value> {
    changes
        .iter()
        .map(|c| {
            let op = match c.act {
                Act::Write => "write",
                Act::Zero => "zero",
                Act::Trim => "trim",
            };
            json!({ "conn": random.below(connections), "op": op, "at": c.at, "len": c.len })
        })
        .collect()
}

/// Sends changes in random order over several connections, with some rewrites of what was sent.
#[track_caller]
pub fn send_changes(disk: &Disk, uri: &str, changes: &[Change], connections: u64, seed: u64) {
    let mut random = Random::new(seed);
    let mut shuffled = changes.to_vec();
    random.shuffle(&mut shuffled);
    let again: Vec<Change> = shuffled.iter().copied().filter(|c| c.at % 7 == 0).collect();
    shuffled.extend(again);
    let sent = send(
        &disk.path,
        uri,
        &json!({
            "connections": connections, "window": 8, "flush": true,
            "ops": operations(&shuffled, connections, &mut random),
        }),
    );
    assert!(sent.errors.is_empty(), "{:?}", sent.errors);
    assert_eq!(sent.done, shuffled.len() as u64);
}
