//! What a server refuses, and what it cuts off, is never taken for sent; and who is refused hears
//! why.

use std::time::{Duration, Instant};

use sendense_tests::backup;
use sendense_tests::daemon::{Daemon, PATIENCE};
use sendense_tests::disk::Disk;
use sendense_tests::raw::{RawClient, WRITE, WRITE_ZEROES};
use serde_json::{Value, json};

const EINVAL: u32 = 22;
const UNKNOWN_FLAG: u16 = 1 << 9;

/// A sparse full that one raw client pushes.
struct Push {
    daemon: Daemon,
    started: Value,
    dir: tempfile::TempDir,
}

impl Push {
    fn start(size: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let daemon = Daemon::start(&dir.path().join("data"));
        let started = daemon.start_backup(&json!({
            "vm_name": "vm", "backup_type": "full", "repository": "local",
            "disks": [{ "disk_id": 0, "size_bytes": size, "sparse": true }],
        }));
        Self {
            daemon,
            started,
            dir,
        }
    }

    fn client(&self) -> RawClient {
        let name = self.started["disks"][0]["export_name"].as_str().unwrap();
        RawClient::open(&self.daemon.nbd, name).unwrap()
    }

    /// Completes, which must be refused for exactly this range.
    #[track_caller]
    fn lacks(&self, at: u64, len: u64) {
        let id = backup::id(&self.started);
        let body = json!({ "disks": [{ "disk_id": 0 }] });
        let refused = self
            .daemon
            .post(&format!("/backup/{id}/complete?wait=30"), &body)
            .expect(409);
        assert_eq!(refused["code"], "incomplete_coverage", "{refused}");
        let text = refused.to_string();
        for number in [at, len] {
            assert!(text.contains(&number.to_string()), "{number}: {refused}");
        }
    }

    #[track_caller]
    fn seals_as(&self, disk: &Disk) {
        let id = backup::id(&self.started);
        self.daemon.complete(&id, &json!([{ "disk_id": 0 }]));
        sendense_tests::oracle::identical(&self.daemon.images(&id)[0], &disk.path);
    }

    /// Waits until the server has noticed the end of a connection.
    #[track_caller]
    fn until_logged(&self, what: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.daemon.log().contains(what) {
            assert!(Instant::now() < end, "{}", self.daemon.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_change_that_the_server_refuses_keeps_a_sparse_full_from_being_sealed() {
    let push = Push::start(8 << 20);
    let disk = Disk::empty(&push.dir.path().join("disk"), 8 << 20);
    disk.write(1 << 20, &[7; 65536]);
    let mut client = push.client();
    client.send(WRITE, 0, 1 << 20, 65536, &disk.read(1 << 20, 65536));
    assert_eq!(client.error(), 0);

    // Newer bytes of a part of it, with a flag that is not known.
    disk.write((1 << 20) + 4096, &[9; 12_288]);
    let (at, len) = ((1 << 20) + 4096, 12_288);
    client.send(WRITE, UNKNOWN_FLAG, at, len, &[9; 12_288]);
    assert_eq!(client.error(), EINVAL);
    push.lacks(at, len.into());
    client.send(WRITE, 0, at, len, &[9; 12_288]);
    assert_eq!(client.error(), 0);

    client.send(WRITE_ZEROES, UNKNOWN_FLAG, 3 << 20, 77_777, &[]);
    assert_eq!(client.error(), EINVAL);
    push.lacks(3 << 20, 77_777);
    client.send(WRITE_ZEROES, 0, 3 << 20, 77_777, &[]);
    assert_eq!(client.error(), 0);
    push.seals_as(&disk);
}

#[test]
fn a_write_that_is_cut_off_keeps_a_sparse_full_from_being_sealed() {
    let push = Push::start(8 << 20);
    let disk = Disk::empty(&push.dir.path().join("disk"), 8 << 20);
    disk.write(2 << 20, &[5; 99_000]);
    let mut client = push.client();
    client.send(WRITE, 0, 2 << 20, 99_000, &[5; 40_000]);
    drop(client);
    push.until_logged("hung up in the middle");
    push.lacks(2 << 20, 99_000);
    let mut client = push.client();
    client.send(WRITE, 0, 2 << 20, 99_000, &[5; 99_000]);
    assert_eq!(client.error(), 0);
    push.seals_as(&disk);
}

#[test]
fn an_export_that_is_full_is_refused_at_once_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::scattered(&dir.path().join("disk.raw"), 1 << 20, 50, 3);
    let exports = dir.path().join("exports.conf");
    let path = disk.path.display();
    let text = format!("[generic]\n[busy]\nexportname = {path}\nmaxconnections = 2\n");
    std::fs::write(&exports, text).unwrap();
    let config = format!("[nbd]\nexports = {exports:?}\n");
    let daemon = Daemon::start_with_config(&dir.path().join("data"), &config);
    let first = RawClient::open(&daemon.nbd, "busy").unwrap();
    let _second = RawClient::open(&daemon.nbd, "busy").unwrap();
    let reason = RawClient::open(&daemon.nbd, "busy").unwrap_err();
    assert!(reason.contains("all of its 2 connections"), "{reason}");
    drop(first);
    let end = Instant::now() + PATIENCE;
    while RawClient::open(&daemon.nbd, "busy").is_err() {
        assert!(Instant::now() < end, "the seat does not come free");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_server_that_is_full_is_refused_at_once_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("data"));
    // As many as it takes; none of them goes on behind the greeting.
    let seats: Vec<_> = (0..256)
        .map(|_| RawClient::greeted(&daemon.nbd).unwrap())
        .collect();
    let reason = RawClient::open(&daemon.nbd, "any").unwrap_err();
    assert!(reason.contains("all of its 256 connections"), "{reason}");
    assert!(
        daemon.log().contains("a connection is refused"),
        "{}",
        daemon.log()
    );
    drop(seats);
    let end = Instant::now() + PATIENCE;
    while RawClient::open(&daemon.nbd, "any")
        .unwrap_err()
        .contains("the server is full")
    {
        assert!(Instant::now() < end, "the seats do not come free");
        std::thread::sleep(Duration::from_millis(20));
    }
}
