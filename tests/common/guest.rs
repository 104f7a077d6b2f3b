//! A machine of two disks that holds every kind of volume and file system: partitions of a GPT,
//! and linear and striped logical volumes over both disks.
//!
//! Each file system stands in a file of its own, where its driver writes it. Its bytes then go to
//! where they belong on the disks: there is no device-mapper here, so logical volumes are mapped
//! by what lvm2 reports of their segments.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::command::{run, text};
use crate::device::Loop;
use crate::disk::{Act, Change, Disk};

const MIB: u64 = 1 << 20;
/// An extent of the volume group.
const EXTENT: u64 = MIB;
/// Bytes that lie in one piece on a disk, whatever the volume.
const PIECE: u64 = 16 << 10;

/// The driver of a file system, and what it can keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// The kernel's own: all that POSIX has.
    Kernel,
    /// ntfs-3g, by FUSE.
    Ntfs,
    /// mtools: names, content and time.
    Mtools,
}

/// One file system of the machine.
#[derive(Debug)]
pub struct Volume {
    /// As it is known in a restore point.
    pub id: &'static str,
    /// Who writes it.
    pub driver: Driver,
    /// Where it stands alone.
    pub file: PathBuf,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// On the first disk, from this byte on.
    Partition(u64),
    /// The segments of a logical volume.
    Logical(Vec<Segment>),
}

#[derive(Debug)]
struct Segment {
    start: u64,
    size: u64,
    stripe: u64,
    /// Disk and byte of each stripe's beginning.
    legs: Vec<(usize, u64)>,
}

/// The machine.
#[derive(Debug)]
pub struct Guest {
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Its file systems.
    pub volumes: Vec<Volume>,
}

impl Guest {
    /// Makes the disks and empty file systems in `dir`.
    pub fn make(dir: &Path) -> Self {
        let disks = vec![
            Disk::empty(&dir.join("disk0"), 900 * MIB),
            Disk::empty(&dir.join("disk1"), 160 * MIB),
        ];
        let script = dir.join("script");
        let table =
            "label: gpt\nsize=40MiB, type=U\nsize=200MiB\nsize=320MiB\nsize=100MiB\ntype=V\n";
        std::fs::write(&script, table).unwrap();
        let made = format!("sfdisk -q {} < {}", text(&disks[0].path), text(&script));
        run("sh", &["-c", &made]).ok();
        let told = run("sfdisk", &["--json", text(&disks[0].path)]).ok().json();
        let part = |n: usize, key: &str| {
            let number = &told["partitiontable"]["partitions"][n][key];
            number.as_u64().unwrap() * 512
        };
        let logical = logical(dir, &disks, part(4, "start"));
        let mut volumes = Vec::new();
        for (n, id, driver, mkfs) in [
            (0, "disk0-part1", Driver::Mtools, "mkfs.fat -F 32 -s 1"),
            (
                1,
                "disk0-part2",
                Driver::Kernel,
                "mkfs.ext4 -q -F -O inline_data -I 256",
            ),
            (2, "disk0-part3", Driver::Kernel, "mkfs.xfs -q"),
            (3, "disk0-part4", Driver::Ntfs, "mkntfs -q -F -f"),
        ] {
            let place = Place::Partition(part(n, "start"));
            volumes.push(volume(dir, id, driver, mkfs, part(n, "size"), place));
        }
        for ((id, mkfs), segments) in [
            ("vg0-data", "mkfs.ext4 -q -F -b 1024"),
            ("vg0-striped", "mkfs.ext3 -q -F"),
        ]
        .into_iter()
        .zip(logical)
        {
            let size = segments.iter().map(|s| s.size).sum();
            let place = Place::Logical(segments);
            volumes.push(volume(dir, id, Driver::Kernel, mkfs, size, place));
        }
        Self { disks, volumes }
    }

    /// Brings what the drivers wrote to the disks; what changed on each.
    pub fn settle(&self) -> Vec<Vec<Change>> {
        let mut changes: Vec<Vec<Change>> = self.disks.iter().map(|_| Vec::new()).collect();
        for volume in &self.volumes {
            let file = std::fs::File::open(&volume.file).unwrap();
            let size = file.metadata().unwrap().len();
            let mut piece = vec![0; PIECE as usize];
            for at in (0..size).step_by(PIECE as usize) {
                file.read_exact_at(&mut piece, at).unwrap();
                let (disk, to) = volume.place.of(at);
                if self.disks[disk].read(to, PIECE) != piece {
                    self.disks[disk].write(to, &piece);
                    changes[disk].push(Change {
                        at: to,
                        len: PIECE,
                        act: Act::Write,
                    });
                }
            }
        }
        changes.into_iter().map(merged).collect()
    }
}

impl Place {
    /// The disk and the byte there of a piece.
    fn of(&self, at: u64) -> (usize, u64) {
        let segments = match self {
            Self::Partition(start) => return (0, start + at),
            Self::Logical(segments) => segments,
        };
        let found = segments
            .iter()
            .find(|s| at >= s.start && at < s.start + s.size);
        let found = found.unwrap();
        let (within, count) = (at - found.start, found.legs.len() as u64);
        if count == 1 {
            return (found.legs[0].0, found.legs[0].1 + within);
        }
        let (chunk, rest) = (within / found.stripe, within % found.stripe);
        let (disk, first) = found.legs[(chunk % count) as usize];
        (disk, first + chunk / count * found.stripe + rest)
    }
}

fn volume(
    dir: &Path,
    id: &'static str,
    driver: Driver,
    mkfs: &str,
    size: u64,
    place: Place,
) -> Volume {
    let file = dir.join(format!("{id}.fs"));
    Disk::empty(&file, size);
    run("sh", &["-c", &format!("{mkfs} {}", text(&file))]).ok();
    Volume {
        id,
        driver,
        file,
        place,
    }
}

fn merged(mut changes: Vec<Change>) -> Vec<Change> {
    changes.sort_by_key(|c| c.at);
    let mut out: Vec<Change> = Vec::new();
    for change in changes {
        match out.last_mut() {
            Some(last) if last.at + last.len == change.at && last.len < MIB => {
                last.len += change.len;
            }
            _ => out.push(change),
        }
    }
    out
}

/// Makes the group over a partition of the first disk and the whole second one; the segments of
/// `data` (linear, over both, in three parts) and of `striped`.
fn logical(dir: &Path, disks: &[Disk], part: u64) -> [Vec<Segment>; 2] {
    let first = Loop::part(&disks[0].path, part);
    let second = Loop::over(&disks[1].path);
    let config = format!(
        "global {{ activation=0 use_lvmpolld=0 event_activation=0 locking_dir=\"{}\" }} devices \
         {{ filter=[\"a|^{}$|\",\"a|^{}$|\",\"r|.*|\"] use_devicesfile=0 \
         obtain_device_list_from_udev=0 external_device_info_source=\"none\" }} backup {{ \
         backup=0 archive=0 }}",
        dir.display(),
        first.0,
        second.0
    );
    let lvm = |line: &str| {
        let mut words = line.split(' ');
        let mut args = vec![words.next().unwrap(), "--config", &config];
        args.extend(words);
        run("lvm", &args).ok()
    };
    lvm(&format!("pvcreate -q {} {}", first.0, second.0));
    lvm(&format!("vgcreate -q -s 1M vg0 {} {}", first.0, second.0));
    lvm(&format!(
        "lvcreate -q -an -Zn -Wn -n data -L 40M vg0 {}",
        first.0
    ));
    lvm(&format!(
        "lvcreate -q -an -Zn -Wn -n other -L 2M vg0 {}",
        first.0
    ));
    lvm(&format!("lvextend -q -L 70M vg0/data {}", first.0));
    lvm(&format!("lvextend -q -L 110M vg0/data {}", second.0));
    lvm("lvcreate -q -an -Zn -Wn -n striped -i 2 -I 16k -L 80M vg0");
    let report = "--reportformat json --units b --nosuffix -o";
    let segments = lvm(&format!(
        "lvs {report} lv_name,seg_start,seg_size,stripes,stripe_size,devices"
    ));
    let physical = lvm(&format!("pvs {report} pv_name,pe_start")).json();
    // Bytes of each disk at which its extents begin.
    let begin = |device: &str| {
        let all = physical["report"][0]["pv"].as_array().unwrap();
        let pv = all.iter().find(|pv| pv["pv_name"] == device).unwrap();
        match device == first.0 {
            true => (0, part + number(&pv["pe_start"])),
            false => (1, number(&pv["pe_start"])),
        }
    };
    let segments = segments.json();
    let rows = segments["report"][0]["lv"].as_array().unwrap();
    ["data", "striped"].map(|name| {
        let rows = rows.iter().filter(|row| row["lv_name"] == name);
        rows.map(|row| segment(row, &begin)).collect()
    })
}

fn number(value: &Value) -> u64 {
    value.as_str().unwrap().trim().parse().unwrap()
}

fn segment(row: &Value, begin: &dyn Fn(&str) -> (usize, u64)) -> Segment {
    let legs = row["devices"].as_str().unwrap().split(',').map(|leg| {
        let (device, extent) = leg.trim_end_matches(')').split_once('(').unwrap();
        let (disk, first) = begin(device);
        (disk, first + extent.parse::<u64>().unwrap() * EXTENT)
    });
    Segment {
        start: number(&row["seg_start"]),
        size: number(&row["seg_size"]),
        stripe: number(&row["stripe_size"]),
        legs: legs.collect(),
    }
}
