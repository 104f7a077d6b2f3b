//! docs/SEMANTICS.md and the tests agree: each promise names tests, and each of them exists.

use std::path::Path;

#[test]
fn every_promise_of_semantics_names_a_test_that_exists() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let promises = std::fs::read_to_string(here.join("../docs/SEMANTICS.md")).unwrap();
    let mut tests = String::new();
    for entry in std::fs::read_dir(here).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "rs") {
            tests.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
    for promise in promises.split("\n## ").skip(1) {
        let heading = promise.lines().next().unwrap();
        let named: Vec<&str> = promise
            .lines()
            .filter_map(|l| l.strip_prefix("- `").and_then(|l| l.strip_suffix('`')))
            .collect();
        assert!(!named.is_empty(), "{heading}: no test");
        for test in named {
            assert!(
                tests.contains(&format!("fn {test}()")),
                "{heading}: no test {test}"
            );
        }
    }
}
