use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use super::rig::*;
use crate::guest::Found;
use crate::guest::volumes::{Content, Origin, Volume};

/// A loop device over a part of a file, given back at the end.
struct Loop(String);

impl Loop {
    fn new(path: &Path, offset: u64) -> Self {
        let offset = offset.to_string();
        let args = ["-f", "--show", "-o", &offset, path.to_str().unwrap()];
        for _ in 0..200 {
            // Others take loop devices too, and two may pick the same one.
            let out = std::process::Command::new("/usr/sbin/losetup")
                .args(args)
                .output();
            let out = out.unwrap();
            if out.status.success() {
                return Self(String::from_utf8(out.stdout).unwrap().trim().to_owned());
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!("no free loop device");
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::process::Command::new("/usr/sbin/losetup")
            .args(["-d", &self.0])
            .status();
    }
}

/// One group over two disks, made by lvm2: the second physical volume in a partition. The disks,
/// and lvm2's own report of the segments and of where extents begin.
fn made() -> (Vec<Vec<u8>>, Value, Value) {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    let first = file(dir.path(), "first", 40 << 20);
    let second = file(dir.path(), "second", 40 << 20);
    tool(
        "sfdisk",
        &["-q", second.to_str().unwrap()],
        "label: gpt\ntype=lvm\n",
    );
    let (a, b) = (Loop::new(&first, 0), Loop::new(&second, 1 << 20));
    let config = format!(
        "global {{ activation=0 use_lvmpolld=0 event_activation=0 locking_dir=\"{dir}\" }} devices \
         {{ filter=[\"a|^{}$|\",\"a|^{}$|\",\"r|.*|\"] use_devicesfile=0 \
         obtain_device_list_from_udev=0 external_device_info_source=\"none\" }} backup {{ \
         backup=0 archive=0 }}",
        a.0,
        b.0,
        dir = dir.path().display()
    );
    let lvm = |args: &[&str]| {
        let mut all = vec![args[0], "--config", &config];
        all.extend(&args[1..]);
        tool("lvm", &all, "")
    };
    let create = |name: &str, rest: &[&str]| {
        let mut all = vec!["lvcreate", "-q", "-an", "-Zn", "-Wn", "-n", name];
        all.extend(rest);
        lvm(&all)
    };
    lvm(&["pvcreate", "-q", &a.0, &b.0]);
    lvm(&["vgcreate", "-q", "-s", "1M", "vg0", &a.0, &b.0]);
    create("root", &["-L", "4M", "vg0", &a.0]);
    create("other", &["-L", "2M", "vg0", &a.0]);
    lvm(&["lvextend", "-q", "-L", "9M", "vg0/root", &a.0]);
    lvm(&["lvextend", "-q", "-L", "12M", "vg0/root", &b.0]);
    create("fast-str", &["-i", "2", "-I", "16k", "-L", "10M", "vg0"]);
    let json = |args: &[&str]| -> Value { serde_json::from_str(&lvm(args)).unwrap() };
    let common = ["--reportformat", "json", "--units", "b", "--nosuffix", "-o"];
    let of = |what: &str, columns: &str| {
        let mut args = vec![what];
        args.extend(common);
        args.push(columns);
        json(&args)
    };
    let segments = of(
        "lvs",
        "lv_name,lv_size,seg_start,seg_size,stripes,stripe_size,devices",
    );
    let mut physical = of("pvs", "pv_name,pe_start");
    for pv in physical["report"][0]["pv"].as_array_mut().unwrap() {
        let second = pv["pv_name"] == b.0.as_str();
        pv["disk"] = u64::from(second).into();
        pv["offset"] = (if second { 1u64 << 20 } else { 0 }).into();
    }
    drop((a, b));
    let read = |path| std::fs::read(path).unwrap();
    (vec![read(&first), read(&second)], segments, physical)
}

fn number(value: &Value) -> u64 {
    value.as_str().unwrap().trim().parse().unwrap()
}

/// Where a byte of a logical volume lies, from lvm2's report alone: the disk and the byte there.
fn map(segments: &Value, physical: &Value, name: &str, at: u64) -> (usize, usize) {
    let rows = segments["report"][0]["lv"].as_array().unwrap();
    let row = rows.iter().find(|row| {
        let start = number(&row["seg_start"]);
        row["lv_name"] == name && at >= start && at < start + number(&row["seg_size"])
    });
    let row = row.unwrap();
    let within = at - number(&row["seg_start"]);
    let (count, stripe) = (number(&row["stripes"]), number(&row["stripe_size"]).max(1));
    let (turn, on_leg) = match count {
        1 => (0, within),
        _ => {
            let chunk = within / stripe;
            (chunk % count, chunk / count * stripe + within % stripe)
        }
    };
    let device = row["devices"]
        .as_str()
        .unwrap()
        .split(',')
        .nth(super::rig::at(turn))
        .unwrap();
    let (device, extent) = device.trim_end_matches(')').split_once('(').unwrap();
    let pvs = physical["report"][0]["pv"].as_array().unwrap();
    let pv = pvs.iter().find(|pv| pv["pv_name"] == device).unwrap();
    let first = number(&pv["pe_start"]) + extent.parse::<u64>().unwrap() * (1 << 20);
    let disk = super::rig::at(pv["disk"].as_u64().unwrap());
    (
        disk,
        super::rig::at(pv["offset"].as_u64().unwrap() + first + on_leg),
    )
}

#[test]
fn logical_volumes_are_mapped_as_lvm2_reports_them() {
    let (mut disks, segments, physical) = made();
    let volumes = of(&[&disks[0], &disks[1]]);
    assert_eq!(
        ids(&volumes),
        [
            "disk0",
            "disk1-part1",
            "vg0-fast--str",
            "vg0-other",
            "vg0-root"
        ]
    );
    assert_eq!(blocks(&volumes[0]).1, Found::LvmMember);
    assert!(
        volumes[1].notes[0].contains("group vg0"),
        "{:?}",
        volumes[1].notes
    );
    for (name, id, size) in [
        ("root", "vg0-root", 12u64 << 20),
        ("other", "vg0-other", 2 << 20),
        ("fast-str", "vg0-fast--str", 10 << 20),
    ] {
        // Each 4 KiB carries its own number, where lvm2 says that it lies.
        for at in (0..size).step_by(4096) {
            let (disk, byte) = map(&segments, &physical, name, at);
            disks[disk][byte..byte + 8].copy_from_slice(&at.to_le_bytes());
        }
        let volumes = of(&[&disks[0], &disks[1]]);
        let volume = get(&volumes, id);
        assert_eq!((volume.size, volume.origin), (size, Origin::Logical));
        assert_eq!(volume.name.as_deref(), Some(format!("vg0/{name}").as_str()));
        let (bytes, _) = blocks(volume);
        let all = bytes.bytes(0, at(size)).unwrap();
        for at in (0..at(size)).step_by(4096) {
            assert_eq!(all[at..at + 8], (at as u64).to_le_bytes(), "{name} at {at}");
        }
        let (there, pieces) = (size - 20_000, 20_000);
        assert_eq!(bytes.bytes(there, pieces).unwrap(), all[at(there)..]);
    }
    assert_eq!(get(&of(&[&disks[0], &disks[1]]), "vg0-other").disks, [0]);
    assert_eq!(get(&of(&[&disks[0], &disks[1]]), "vg0-root").disks, [0, 1]);

    // One disk is gone: what stands on it is named, the rest works.
    let volumes = of(&[&disks[0]]);
    assert!(why(get(&volumes, "vg0-root")).contains("is missing"));
    assert!(why(get(&volumes, "vg0-fast--str")).contains("is missing"));
    assert_eq!(blocks(get(&volumes, "vg0-other")).0.size(), 2 << 20);
    // A second copy of one: which is the right one is not guessed.
    let volumes = of(&[&disks[0], &disks[1], &disks[1]]);
    assert!(why(get(&volumes, "vg0-root")).contains("there 2 times"));
}

/// One physical volume with these logical volumes.
fn alone(logical: &str) -> Vec<u8> {
    pv(&id('A'), PV_LEN, &group("vg", 'V', 1, &['A'], logical), 512)
}

#[test]
fn what_is_not_read_yet_is_named_and_hidden_volumes_are_not_shown() {
    let mut logical = lv("root", &[&linear(0, 0)]) + &lv("snap", &[&linear(0, 1)]);
    for kind in [
        "thin",
        "thin-pool",
        "raid1",
        "mirror",
        "cache",
        "vdo",
        "zero",
        "error",
    ] {
        let segment = format!("start_extent = 0\nextent_count = 1\ntype = \"{kind}\"");
        logical += &lv(&format!("a_{}", kind.replace('-', "_")), &[&segment]);
    }
    logical += &lv("hidden", &[&linear(0, 2)]).replace(", \"VISIBLE\"", "");
    let snapshot = "start_extent = 0\nextent_count = 1\ntype = \"snapshot\"\norigin = \"root\"\n\
                    cow_store = \"snap\"";
    logical += &lv("snapshot0", &[snapshot]).replace(", \"VISIBLE\"", "");
    logical += &lv("moving", &[&linear(0, 3).replace("pv0", "pvmove0")]);
    let volumes = of(&[&alone(&logical)]);
    assert_eq!(blocks(get(&volumes, "vg-root")).0.size(), 64 << 10);
    assert!(why(get(&volumes, "vg-snap")).contains("snapshot of root"));
    assert!(why(get(&volumes, "vg-a_raid1")).contains("type raid1"));
    assert!(why(get(&volumes, "vg-a_thin_pool")).contains("type thin-pool"));
    assert!(why(get(&volumes, "vg-moving")).contains("pvmove0"));
    let named = ids(&volumes);
    assert!(
        !named.contains(&"vg-hidden") && !named.contains(&"vg-snapshot0"),
        "{named:?}"
    );
    let refused = volumes
        .iter()
        .filter(|v| matches!(v.content, Content::Unavailable(_)));
    assert_eq!(refused.count(), 10);
}

#[test]
fn the_newest_metadata_counts_and_groups_of_one_name_stay_apart() {
    let text =
        |seqno, name: &str| group("vg", 'V', seqno, &['A', 'B'], &lv(name, &[&linear(0, 0)]));
    let a = pv(&id('A'), PV_LEN, &text(9, "new"), 512);
    let b = pv(&id('B'), PV_LEN, &text(8, "old"), 512);
    for order in [[&a, &b], [&b, &a]] {
        let volumes = of(&[order[0], order[1]]);
        assert_eq!(ids(&volumes), ["disk0", "disk1", "vg-new"]);
    }
    let twin = pv(
        &id('C'),
        PV_LEN,
        &group("vg", 'W', 1, &['C'], &lv("new", &[&linear(0, 0)])),
        512,
    );
    let volumes = of(&[&a, &b, &twin]);
    assert_eq!(&ids(&volumes)[3..], ["vg@VbCdEf-new", "vg@WbCdEf-new"]);
    assert_eq!((volumes[3].disks[0], volumes[4].disks[0]), (0, 2));

    // A disk that the group wrote on without holds old data.
    let missing =
        text(10, "new").replacen("flags = []\npe_start", "flags = [\"MISSING\"]\npe_start", 1);
    let b = pv(&id('B'), PV_LEN, &missing, 512);
    assert!(why(get(&of(&[&a, &b]), "vg-new")).contains("was missing"));
}

#[test]
fn a_text_that_goes_round_is_read_and_a_broken_one_is_said() {
    let text = group("vg", 'V', 1, &['A'], &lv("root", &[&linear(0, 5)]));
    let mut disk = pv(&id('A'), PV_LEN, &text, (64 << 10) - 100);
    let start = (128 << 10) + 5 * (64 << 10);
    disk[start..start + 4].copy_from_slice(b"XFSB");
    let volumes = of(&[&disk]);
    assert_eq!(blocks(get(&volumes, "vg-root")).1, Found::Xfs);
    disk[4096 + 600] ^= 1;
    let volumes = of(&[&disk]);
    assert_eq!(ids(&volumes), ["disk0"]);
    assert!(
        volumes[0].notes[0].contains("wrong checksum"),
        "{:?}",
        volumes[0].notes
    );
    // A label that is broken is no silence either.
    disk[560] ^= 1;
    let volumes = of(&[&disk]);
    assert!(why(&volumes[0]).contains("wrong checksum"));
    // And one that waits for its group.
    let volumes = of(&[&pv(&id('A'), PV_LEN, "", 512)]);
    assert!(volumes[0].notes[0].contains("no volume group"));
}

#[test]
fn segments_outside_of_their_disk_are_refused() {
    let beyond = lv("beyond", &[&linear(0, 16)]);
    let far = lv("far", &[&linear(0, u32::MAX)]);
    let volumes = of(&[&alone(&(beyond.clone() + &far))]);
    assert!(why(get(&volumes, "vg-beyond")).contains("outside"));
    assert!(why(get(&volumes, "vg-far")).contains("outside"));
    let last = lv("last", &[&linear(0, 15)]);
    let mut disk = alone(&last);
    assert_eq!(blocks(get(&of(&[&disk]), "vg-last")).0.size(), 64 << 10);
    disk.truncate(PV_LEN - 1);
    assert!(why(get(&of(&[&disk]), "vg-last")).contains("past the end"));
}

#[test]
fn changed_bytes_in_metadata_never_panic_and_never_hang() {
    let striped = "start_extent = 0\nextent_count = 4\ntype = \"striped\"\nstripe_count = 2\n\
                   stripe_size = 8\nstripes = [\n\"pv0\", 1,\n\"pv1\", 3\n]";
    let text = group(
        "vg",
        'V',
        7,
        &['A', 'B'],
        &(lv("root", &[&linear(0, 0)]) + &lv("fast", &[striped])),
    );
    let mut dice = Dice(11);
    let begun = std::time::Instant::now();
    let check = |volumes: &[Volume]| {
        for volume in volumes {
            if let Content::Blocks { blocks, .. } = &volume.content {
                let len = blocks.size().min(1 << 20) as usize;
                blocks.bytes(0, len).unwrap();
            }
        }
    };
    let other = pv(&id('B'), PV_LEN, "", 512);
    let mut seen = 0;
    for round in 0..600 {
        let mut bytes = text.clone().into_bytes();
        let raw = round % 3 == 0;
        if !raw {
            // Under a right checksum: the parser has to stand it.
            for _ in 0..=dice.below(3) {
                let at = dice.below(bytes.len());
                bytes[at] = match dice.below(3) {
                    0 => b"{}[]\",=#\\0 9"[dice.below(12)],
                    1 => b'0' + u8::try_from(dice.below(10)).unwrap(),
                    _ => bytes[at] ^ 1 << dice.below(7),
                };
            }
        }
        // Bytes of any value: the checksum is over bytes.
        let text: String = bytes.iter().map(|b| char::from(*b & 0x7f)).collect();
        let mut disk = pv(&id('A'), PV_LEN, &text, 512);
        if raw {
            for _ in 0..=dice.below(3) {
                let at = [512, 4096, 4608][dice.below(3)] + dice.below(512);
                disk[at] ^= 1 << dice.below(8);
            }
        }
        let volumes = of(&[&disk, &other]);
        seen += usize::from(volumes.len() > 2);
        check(&volumes);
    }
    assert!(seen > 50, "too few were read at all: {seen}");
    assert!(begun.elapsed().as_secs() < 60);
}
