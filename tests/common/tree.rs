//! Directory trees by `tree.py`: filled, changed, and told name by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::command::{Ran, run, text};

/// All that is told of each path.
pub type Told = BTreeMap<String, Value>;

#[track_caller]
fn script(args: &[&str]) -> Ran {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("common/tree.py");
    let mut all = vec![text(&script)];
    all.extend(args);
    run("/usr/bin/python3", &all).ok()
}

/// Makes a tree; `posix` with all that a Unix file system has, or names, content and times alone.
#[track_caller]
pub fn fill(dir: &Path, posix: bool) {
    script(&["fill", text(dir), kind(posix)]);
}

/// Changes a tree for the `n`th time, from 1.
#[track_caller]
pub fn change(dir: &Path, n: usize, posix: bool) {
    script(&["change", text(dir), &n.to_string(), kind(posix)]);
}

fn kind(posix: bool) -> &'static str {
    if posix { "posix" } else { "plain" }
}

/// What the kernel tells of a tree.
#[track_caller]
pub fn view(dir: &Path) -> Told {
    told(&script(&["view", text(dir)]))
}

/// What our own listing tells: lines of JSON with attributes.
#[track_caller]
pub fn listed(lines: &str, keep: &Path) -> Told {
    let file: PathBuf = keep.to_owned();
    std::fs::write(&file, lines).unwrap();
    told(&script(&["ours", text(&file)]))
}

#[track_caller]
fn told(ran: &Ran) -> Told {
    let entries = ran.stdout.lines().map(|line| {
        let entry: Value = serde_json::from_str(line).unwrap();
        (entry["path"].as_str().unwrap().to_owned(), entry)
    });
    entries.collect()
}

/// Without what a comparison does not look at.
pub fn only(told: &Told, keys: &[&str]) -> Told {
    let kept = told.iter().map(|(path, entry)| {
        let entry = entry.as_object().unwrap().iter();
        let entry = entry.filter(|(key, _)| keys.contains(&key.as_str()));
        let entry = entry.map(|(key, value)| (key.clone(), value.clone()));
        (path.clone(), Value::Object(entry.collect()))
    });
    kept.collect()
}

/// Fails with the first entries that differ.
#[track_caller]
pub fn same(ours: &Told, theirs: &Told, what: &str) {
    let paths: std::collections::BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let wrong: Vec<String> = paths
        .into_iter()
        .filter(|path| ours.get(*path) != theirs.get(*path))
        .map(|path| format!("{path}\n  {:?}\n  {:?}", ours.get(path), theirs.get(path)))
        .collect();
    let first = wrong.iter().take(5).cloned().collect::<Vec<_>>().join("\n");
    assert!(
        wrong.is_empty(),
        "{what}: {} differ, ours and theirs:\n{first}",
        wrong.len()
    );
}
