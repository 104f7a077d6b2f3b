//! The one end-to-end test binary: each module is a group of promises. A file that is forgotten
//! here fails `every_test_file_is_listed`.

mod agent;
mod bad_input;
mod chain;
mod checks;
mod declared;
mod devices;
mod files;
mod foreign;
mod full;
mod growth;
mod guest_points;
mod hostile_images;
mod interop;
mod known_damage;
mod lifecycle;
mod locks;
mod multidisk;
mod nbd_client;
mod origin_faults;
mod pull;
mod quickstart;
mod refusals;
mod restarts;
mod semantics;
mod sizes;
mod written_on;

#[test]
fn every_test_file_is_listed() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let listed = std::fs::read_to_string(here.join("runner.rs")).unwrap();
    for entry in std::fs::read_dir(here).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(module) = name.strip_suffix(".rs").filter(|m| *m != "runner") {
            assert!(
                listed.contains(&format!("mod {module};")),
                "{name} is not listed"
            );
        }
    }
}
