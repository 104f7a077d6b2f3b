//! Identifiers of volumes: stable, fit for a path, each once.

use std::collections::HashSet;

/// Those that were given out.
#[derive(Debug, Default)]
pub(super) struct Ids(HashSet<String>);

impl Ids {
    /// Gives one out; where it is taken already, with a number behind it.
    pub(super) fn take(&mut self, id: String) -> String {
        let mut now = id.clone();
        let mut number = 1u64;
        while !self.0.insert(now.clone()) {
            number += 1;
            now = format!("{id}~{number}");
        }
        now
    }
}

/// Of a whole disk.
pub(super) fn disk(number: u32) -> String {
    format!("disk{number}")
}

/// Of a partition.
pub(super) fn partition(disk: u32, number: u32) -> String {
    format!("disk{disk}-part{number}")
}

/// Of a logical volume. `mark` tells apart groups of one name.
pub(super) fn logical(group: &str, mark: Option<&str>, volume: &str) -> String {
    let mark = mark.map_or(String::new(), |mark| format!("@{mark}"));
    format!("{}{mark}-{}", escape(group), escape(volume))
}

/// Doubles hyphens, so that the one between two names is found again; what LVM2 would not allow in
/// a name is shown by its bytes.
fn escape(name: &str) -> String {
    let mut out = String::new();
    for byte in name.bytes() {
        match byte {
            b'-' => out.push_str("--"),
            b'+' | b'_' | b'.' => out.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_meet_stay_apart_and_nothing_leaves_a_path() {
        assert_eq!(logical("vg0", None, "root"), "vg0-root");
        assert_ne!(logical("a-b", None, "c"), logical("a", None, "b-c"));
        assert_eq!(logical("../x", None, "a\nb"), "..%2Fx-a%0Ab");
        assert_eq!(logical("vg", Some("AbCdEf"), "lv"), "vg@AbCdEf-lv");
        let mut ids = Ids::default();
        let given: Vec<_> = (0..3).map(|_| ids.take("disk0-part1".to_owned())).collect();
        assert_eq!(given, ["disk0-part1", "disk0-part1~2", "disk0-part1~3"]);
    }
}
