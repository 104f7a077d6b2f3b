//! The fuzz targets by name. On nightly, `cargo fuzz run --features libfuzzer NAME` explores one of
//! them; on stable, the test below replays every file of `corpus/NAME/`, and simple mutations of
//! it, in the ordinary test run.

/// The body of a target: takes any bytes, panics where a promise is broken.
pub type Body = fn(&[u8]);

/// Every target. Each has a file in `fuzz_targets/` and seeds in `corpus/`.
pub const TARGETS: &[(&str, Body)] = &[
    ("qcow2", sendense_formats::fuzzing::fuzz_qcow2),
    ("changes", sendense_formats::fuzzing::fuzz_changes),
    ("partitions", sendense_formats::fuzzing::fuzz_partitions),
    ("lvm", sendense_formats::fuzzing::fuzz_lvm),
    ("handshake", sendense_nbd::fuzzing::fuzz_handshake),
    ("session", sendense_nbd::fuzzing::fuzz_session),
    (
        "client_handshake",
        sendense_nbd::fuzzing::fuzz_client_handshake,
    ),
    ("client_session", sendense_nbd::fuzzing::fuzz_client_session),
    ("uri", sendense_nbd::fuzzing::fuzz_uri),
];

/// Runs the body of a target by its name.
///
/// # Panics
/// Where a promise of the target is broken, and for a name that is none.
pub fn run(name: &str, bytes: &[u8]) {
    let found = TARGETS.iter().find(|(target, _)| *target == name);
    assert!(found.is_some(), "there is no target `{name}`");
    if let Some((_, body)) = found {
        body(bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
        let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        let mut files: Vec<_> = entries
            .map(|entry| entry.unwrap())
            .map(|entry| {
                let name = entry.file_name().into_string().unwrap();
                (name, std::fs::read(entry.path()).unwrap())
            })
            .collect();
        files.sort();
        files
    }

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR"))
    }

    /// Says which input it was before a panic unwinds through.
    struct Trace<'a>(&'a str, &'a str, usize);

    impl Drop for Trace<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("target {}, seed {}, mutation {}", self.0, self.1, self.2);
            }
        }
    }

    #[test]
    fn every_seed_and_its_mutations_are_harmless() {
        for (name, body) in TARGETS {
            let seeds = files(&root().join("corpus").join(name));
            assert!(!seeds.is_empty(), "{name} has no seeds");
            for (seed, bytes) in seeds {
                let trace = Trace(name, &seed, 0);
                body(&bytes);
                drop(trace);
                // The same on every run; fewer for the long ones.
                let rounds = (2_000_000 / (bytes.len() + 1000)).min(1000);
                let mut x = 0x9e37_79b9_7f4a_7c15_u64;
                let mut dice = |below: usize| {
                    x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                    usize::try_from(x >> 33).unwrap() % below.max(1)
                };
                for round in 1..=rounds {
                    let mut mutated = bytes.clone();
                    for _ in 0..=dice(4) {
                        let at = dice(mutated.len());
                        match (dice(5), mutated.get_mut(at)) {
                            (0, Some(byte)) => *byte = 0,
                            (1, Some(byte)) => *byte = 0xff,
                            (2, _) => mutated.truncate(at),
                            (3, Some(byte)) => *byte ^= 1 << dice(8),
                            (_, Some(byte)) => *byte = byte.wrapping_add(1),
                            (_, None) => {}
                        }
                    }
                    let _trace = Trace(name, &seed, round);
                    body(&mutated);
                }
            }
        }
    }

    #[test]
    fn targets_files_and_corpora_are_the_same_set() {
        let mut names: Vec<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        names.sort();
        let stem = |(name, _): &(String, _)| name.trim_end_matches(".rs").to_owned();
        let sources: Vec<_> = files(&root().join("fuzz_targets"))
            .iter()
            .map(stem)
            .collect();
        assert_eq!(sources, names);
        let corpora = std::fs::read_dir(root().join("corpus")).unwrap();
        let mut corpora: Vec<_> = corpora
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        corpora.sort();
        assert_eq!(corpora, names);
    }
}
