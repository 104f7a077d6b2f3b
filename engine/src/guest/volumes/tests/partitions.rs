use serde_json::Value;

use super::rig::*;
use crate::guest::Found;
use crate::guest::volumes::Origin;

const MIB: u64 = 1 << 20;

/// A disk that sfdisk made, and the partitions as sfdisk tells them: number, first byte, bytes.
fn made(script: &str, mib: u64) -> (Vec<u8>, Vec<(u64, u64, u64)>) {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), "disk", mib * MIB);
    let name = path.to_str().unwrap();
    tool("sfdisk", &["-q", name], script);
    let told: Value = serde_json::from_str(&tool("sfdisk", &["--json", name], "")).unwrap();
    let table = &told["partitiontable"];
    let sector = table["sectorsize"].as_u64().unwrap_or(512);
    let parts = table["partitions"].as_array().unwrap().iter();
    let parts = parts.filter(|p| !matches!(p["type"].as_str(), Some("5" | "f" | "85")));
    let parts = parts.map(|p| {
        let number = p["node"].as_str().unwrap().rsplit("disk").next().unwrap();
        let of = |key: &str| p[key].as_u64().unwrap() * sector;
        (number.parse().unwrap(), of("start"), of("size"))
    });
    (std::fs::read(&path).unwrap(), parts.collect())
}

/// Every partition is there under its number, with its own bytes.
fn same(mut disk: Vec<u8>, parts: &[(u64, u64, u64)]) {
    for (number, start, len) in parts {
        let (first, last) = (at(*start), at(start + len) - 1);
        let number = u8::try_from(*number).unwrap();
        disk[first] = number;
        disk[last] = number + 100;
    }
    let volumes = of(&[&disk]);
    let want: Vec<String> = parts.iter().map(|p| format!("disk0-part{}", p.0)).collect();
    assert_eq!(ids(&volumes), want);
    for (volume, (number, _, len)) in volumes.iter().zip(parts) {
        let (bytes, _) = blocks(volume);
        assert_eq!((volume.size, bytes.size()), (*len, *len));
        let number = u8::try_from(*number).unwrap();
        assert_eq!(bytes.bytes(0, 1).unwrap(), [number]);
        assert_eq!(bytes.bytes(len - 1, 1).unwrap(), [number + 100]);
        assert_eq!(volume.origin, Origin::Partition);
        assert_eq!(volume.notes, [""; 0]);
    }
}

const GPT: &str = "label: gpt\nsize=2MiB, name=\"EFI system\"\nsize=3MiB, name=root\nsize=1MiB\n";

#[test]
fn partitions_of_a_gpt_are_those_that_sfdisk_tells() {
    let (disk, parts) = made(GPT, 12);
    assert_eq!(parts.len(), 3);
    let volumes = of(&[&disk]);
    assert_eq!(volumes[0].name.as_deref(), Some("EFI system"));
    assert_eq!(volumes[2].name, None);
    same(disk, &parts);
}

#[test]
fn partitions_of_an_mbr_are_those_that_sfdisk_tells_logical_ones_too() {
    let script = "label: dos\nsize=2MiB, type=83, bootable\nsize=9MiB, type=5\nsize=1MiB, type=7\n\
                  size=1MiB, type=83\nsize=2MiB, type=83\nsize=1MiB, type=82\n";
    let (disk, parts) = made(script, 16);
    let numbers: Vec<u64> = parts.iter().map(|p| p.0).collect();
    assert_eq!(numbers, [1, 3, 4, 5, 6]);
    same(disk, &parts);
}

#[test]
fn the_backup_of_a_gpt_is_read_where_the_first_is_broken_and_that_is_said() {
    let (disk, parts) = made(GPT, 12);
    for broken in [520, 1024 + 5] {
        let mut disk = disk.clone();
        disk[broken] ^= 1;
        let volumes = of(&[&disk]);
        assert_eq!(volumes.len(), parts.len());
        for (volume, (_, _, len)) in volumes.iter().zip(&parts) {
            assert_eq!(volume.size, *len);
            assert!(volume.notes[0].contains("backup"), "{:?}", volume.notes);
        }
        // Both broken: nothing is guessed.
        let last = disk.len() - 512 + 20;
        disk[last] ^= 1;
        let volumes = of(&[&disk]);
        assert_eq!(ids(&volumes), ["disk0"]);
        assert!(why(&volumes[0]).contains("backup"), "{}", why(&volumes[0]));
        // A file system over the whole disk is not hidden by what is left of a table.
        disk[0x438..0x43a].copy_from_slice(&[0x53, 0xef]);
        let volumes = of(&[&disk]);
        assert_eq!(
            (ids(&volumes), blocks(&volumes[0]).1),
            (vec!["disk0"], Found::Ext)
        );
        assert!(
            volumes[0].notes[0].contains("backup"),
            "{:?}",
            volumes[0].notes
        );
    }
    // A wiped beginning behind the protective MBR.
    let mut wiped = disk.clone();
    wiped[512..34 * 512].fill(0);
    assert!(of(&[&wiped])[0].notes[0].contains("gone"));
    // And a wiped MBR.
    let mut wiped = disk;
    wiped[..512].fill(0);
    let volumes = of(&[&wiped]);
    assert_eq!(volumes.len(), 3);
    assert!(volumes[0].notes[0].contains("protective"));
}

#[test]
fn sectors_of_4096_bytes_are_recognised() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), "disk", 16 * MIB);
    let name = path.to_str().unwrap();
    tool(
        "fdisk",
        &["-b", "4096", name],
        "g\nn\n\n\n+2M\nn\n\n\n\nw\n",
    );
    let volumes = of(&[&std::fs::read(&path).unwrap()]);
    assert_eq!(ids(&volumes), ["disk0-part1", "disk0-part2"]);
    assert_eq!(volumes[0].size, 2 * MIB);

    // An MBR does not say it: what stands on the partitions does.
    let mut disk = vec![0u8; 16 << 20];
    disk[446 + 4] = 0x83;
    disk[446 + 8..446 + 12].copy_from_slice(&256u32.to_le_bytes());
    disk[446 + 12..446 + 16].copy_from_slice(&1024u32.to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let volumes = of(&[&disk]);
    assert_eq!(
        (volumes[0].size, blocks(&volumes[0]).1),
        (512 << 10, Found::Nothing)
    );
    disk[256 * 4096..256 * 4096 + 4].copy_from_slice(b"XFSB");
    let volumes = of(&[&disk]);
    assert_eq!(
        (volumes[0].size, blocks(&volumes[0]).1),
        (4 << 20, Found::Xfs)
    );
    assert!(volumes[0].notes[0].contains("4096"));
    // Where 512 make sense they win.
    disk[256 * 512..256 * 512 + 4].copy_from_slice(b"XFSB");
    assert_eq!(of(&[&disk])[0].size, 512 << 10);
}

#[test]
fn partitions_that_overlap_or_leave_the_disk_are_shown_with_the_reason() {
    let mut disk = vec![0u8; 1 << 20];
    let entries = [(100u32, 200u32), (299, 10), (400, 10), (2000, 100)];
    for (slot, (start, sectors)) in entries.iter().enumerate() {
        let at = 446 + slot * 16;
        disk[at + 4] = 0x83;
        disk[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        disk[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
    }
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let volumes = of(&[&disk]);
    assert_eq!(volumes.len(), 4);
    assert!(why(&volumes[0]).contains("overlaps with partition 2"));
    assert!(why(&volumes[1]).contains("overlaps with partition 1"));
    assert_eq!(blocks(&volumes[2]).0.size(), 5120);
    assert!(why(&volumes[3]).contains("outside of the disk"));
    // A chain that is broken: what came before stands, and the gap is said.
    disk[446 + 3 * 16 + 4] = 5;
    let volumes = of(&[&disk]);
    assert_eq!(volumes.len(), 3);
    assert!(
        volumes[2].notes[0].contains("no table"),
        "{:?}",
        volumes[2].notes
    );
}

#[test]
fn dynamic_disks_are_named_and_a_leftover_is_shown_beside_the_table() {
    let mut disk = vec![0u8; 1 << 20];
    disk[446 + 4] = 0x42;
    disk[446 + 8] = 63;
    disk[446 + 12] = 100;
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let volumes = of(&[&disk]);
    assert!(why(&volumes[0]).contains("dynamic disk"));
    disk[0x438..0x43a].copy_from_slice(&[0x53, 0xef]);
    let volumes = of(&[&disk]);
    assert_eq!(ids(&volumes), ["disk0", "disk0-part1"]);
    assert!(volumes[0].notes[0].contains("leftover"));

    let ldm = "label: gpt\nsize=2MiB, type=AF9B60A0-1431-4F62-BC68-3311714A69AD\n";
    let (disk, _) = made(ldm, 8);
    assert!(why(&of(&[&disk])[0]).contains("dynamic disk"));
}

#[test]
fn a_disk_without_a_table_is_one_volume_and_other_disks_are_looked_at_too() {
    let mut xfs = vec![0u8; 8192];
    xfs[..4].copy_from_slice(b"XFSB");
    let volumes = of(&[&xfs, &[], &[0; 100], &[0; 70_000]]);
    assert_eq!(ids(&volumes), ["disk0", "disk1", "disk2", "disk3"]);
    assert_eq!(blocks(&volumes[0]).1, Found::Xfs);
    assert_eq!(blocks(&volumes[3]).1, Found::Nothing);
    let summary = volumes[0].summary();
    let text = serde_json::to_string(&summary).unwrap();
    let back: crate::guest::volumes::Summary = serde_json::from_str(&text).unwrap();
    assert_eq!((back.content.as_deref(), back.size), (Some("XFS"), 8192));
}

/// Makes the checksums of the first GPT right, whatever it says.
fn reseal(disk: &mut [u8]) {
    let word = |disk: &[u8], at: usize| u32::from_le_bytes(disk[at..at + 4].try_into().unwrap());
    let len = u64::from(word(disk, 592)) * u64::from(word(disk, 596));
    if let Some(entries) = usize::try_from(len)
        .ok()
        .and_then(|n| disk.get(1024..1024 + n))
    {
        let crc = crc32fast::hash(entries);
        disk[600..604].copy_from_slice(&crc.to_le_bytes());
    }
    disk[528..532].fill(0);
    let crc = crc32fast::hash(&disk[512..604]);
    disk[528..532].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn flipped_bits_in_tables_never_panic_and_never_hang() {
    let (gpt, _) = made(GPT, 12);
    let script = "label: dos\nsize=2MiB, type=83\nsize=6MiB, type=5\nsize=1MiB\nsize=1MiB\n";
    let (mbr, parts) = made(script, 12);
    // The sectors of each chained table stand 1 MiB before their partitions.
    let chained: Vec<usize> = parts.iter().map(|p| at(p.1) - (1 << 20)).collect();
    let mut dice = Dice(5);
    let begun = std::time::Instant::now();
    for round in 0..400 {
        let mut disk = if round % 2 == 0 {
            gpt.clone()
        } else {
            mbr.clone()
        };
        for _ in 0..=dice.below(4) {
            let from = match (round % 2, dice.below(4)) {
                (0, 0) => disk.len() - 33 * 512,
                (0, _) | (_, 0) => 440,
                (_, n) => chained.get(n).map_or(446, |at| at + 440),
            };
            let span = if round % 2 == 0 { 33 * 512 } else { 72 };
            let at = (from + dice.below(span)).min(disk.len() - 1);
            disk[at] ^= 1 << dice.below(8);
        }
        if round % 4 == 0 {
            reseal(&mut disk);
        }
        let volumes = of(&[&disk]);
        assert!(!volumes.is_empty());
        for volume in &volumes {
            if let crate::guest::volumes::Content::Blocks { blocks, .. } = &volume.content {
                assert!(blocks.size() <= disk.len() as u64);
                blocks.bytes(blocks.size() - 1, 1).unwrap();
            }
        }
    }
    assert!(begun.elapsed().as_secs() < 60);
}
