//! Sound points are sound; a single changed byte anywhere is found, and named.

use sendense_formats::GuestRange;

use super::*;
use crate::repository::BackupKind;
use crate::repository::testing::{CLUSTER, World, disk};
use crate::storage::mem::MemDirectory;
use crate::storage::{Create, Directory};

fn world(dir: &MemDirectory) -> (World, Vec<LayerFile>) {
    let mut world = World::new(dir.clone());
    world.backup(BackupKind::Full, 0, 1);
    let point = world.backup(BackupKind::Incremental, 2, 2);
    let layers = world.repo.layers(world.vm, point.id(), disk(0)).unwrap();
    (world, layers)
}

fn flip(dir: &MemDirectory, world: &World, file: &str, at: u64) {
    let path = format!("{}/{file}", crate::repository::disk_dir(world.vm, disk(0)));
    let file = dir.open(&path, Create::OpenWrite).unwrap();
    let mut byte = [0];
    file.read_at_blocking(at, &mut byte).unwrap();
    file.write_at_blocking(at, &[byte[0] ^ 0x10]).unwrap();
}

#[test]
fn a_sound_point_is_sound() {
    let (_world, layers) = world(&MemDirectory::new());
    let progress = Progress::new();
    let report = verify(&layers, &progress).unwrap();
    assert_eq!(report.findings, []);
    assert!(report.is_sound());
    let all: u64 = layers.iter().map(|l| l.record.image.len).sum();
    assert_eq!((report.checked, progress.snapshot().done), (all, all));
}

#[test]
fn a_changed_byte_of_data_names_file_host_cluster_and_guest_bytes() {
    let dir = MemDirectory::new();
    let (world, layers) = world(&dir);
    let full = layers[1].record.image.file.clone();
    // The only data cluster of the full is host cluster 1.
    flip(&dir, &world, &full, CLUSTER.bytes() + 77);
    let report = verify(&layers, &Progress::new()).unwrap();
    assert!(!report.is_sound());
    let [only] = report.findings.as_slice() else {
        panic!("{report:?}");
    };
    assert_eq!((only.kind, &only.file), (FindingKind::Checksum, &full));
    assert_eq!(only.host_cluster, Some(1));
    assert_eq!(only.guest, [GuestRange::new(0, CLUSTER.bytes()).unwrap()]);
}

#[test]
fn every_byte_of_every_file_is_watched() {
    for name in ["image", "checksums"] {
        for step in 0..40 {
            let dir = MemDirectory::new();
            let (world, layers) = world(&dir);
            let record = &layers[0].record;
            let (file, len) = match name {
                "image" => (&record.image.file, record.image.len),
                _ => (&record.checksums.file, record.checksums.len),
            };
            let at = step * (len - 1) / 39;
            flip(&dir, &world, file, at);
            let report = verify(&layers, &Progress::new()).unwrap();
            assert!(!report.is_sound(), "byte {at} of the {name}");
        }
    }
}

#[test]
fn layers_that_do_not_belong_together_are_told() {
    let (_world, layers) = world(&MemDirectory::new());
    let (_other, other) = world(&MemDirectory::new());
    let mixed = [layers[0].clone(), other[1].clone()];
    let report = verify(&mixed, &Progress::new()).unwrap();
    assert!(
        report
            .findings
            .iter()
            .any(|f| f.kind == FindingKind::Identity)
    );
    let alone = verify(&layers[..1], &Progress::new()).unwrap();
    assert!(
        alone
            .findings
            .iter()
            .any(|f| f.detail == "its parent is missing")
    );
}

#[test]
fn verifying_can_be_cancelled() {
    let (_world, layers) = world(&MemDirectory::new());
    let progress = Progress::new();
    progress.cancel();
    verify(&layers, &progress).unwrap_err();
}
