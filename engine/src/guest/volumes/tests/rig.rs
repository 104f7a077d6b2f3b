//! Disks made by the real tools and by hand.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use crate::guest::volumes::{Content, Disk, Volume, volumes};
use crate::guest::{Blocks, Found};

/// Runs a tool with this on its standard input; its output.
pub(super) fn tool(name: &str, args: &[&str], input: &str) -> String {
    let path = format!(
        "{}:/usr/sbin:/sbin",
        std::env::var("PATH").unwrap_or_default()
    );
    let mut child = Command::new(name)
        .args(args)
        .env("PATH", path)
        .env("LC_ALL", "C")
        .env("LVM_SUPPRESS_FD_WARNINGS", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{name}: {e} (tests/run installs the peers)"));
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let out = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{name} {args:?}: {text}{said}");
    text
}

/// An empty file of a length.
pub(super) fn file(dir: &Path, name: &str, len: u64) -> PathBuf {
    let path = dir.join(name);
    std::fs::File::create(&path).unwrap().set_len(len).unwrap();
    path
}

pub(super) fn disk(number: u32, bytes: Vec<u8>) -> Disk {
    Disk {
        number,
        blocks: Arc::new(bytes),
    }
}

pub(super) fn of(disks: &[&[u8]]) -> Vec<Volume> {
    let disks: Vec<Disk> = (0..).zip(disks).map(|(n, d)| disk(n, d.to_vec())).collect();
    volumes(&disks).unwrap()
}

pub(super) fn ids(volumes: &[Volume]) -> Vec<&str> {
    volumes.iter().map(|v| v.id.as_str()).collect()
}

pub(super) fn get<'v>(volumes: &'v [Volume], id: &str) -> &'v Volume {
    let found = volumes.iter().find(|v| v.id == id);
    found.unwrap_or_else(|| panic!("no {id} in {:?}", ids(volumes)))
}

pub(super) fn blocks(volume: &Volume) -> (&Arc<dyn Blocks>, Found) {
    match &volume.content {
        Content::Blocks { blocks, found } => (blocks, *found),
        Content::Unavailable(why) => panic!("{}: {why}", volume.id),
    }
}

pub(super) fn why(volume: &Volume) -> &str {
    match &volume.content {
        Content::Unavailable(why) => why,
        Content::Blocks { found, .. } => panic!("{} holds {found:?}", volume.id),
    }
}

/// LVM2's checksum, bit by bit.
pub(super) fn lvm_crc(bytes: &[u8]) -> u32 {
    let mut crc = 0xf597_a6cf_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 * (crc & 1));
        }
    }
    crc
}

/// Bytes of the metadata area of [`pv`], at byte 4096.
const AREA: usize = 64 << 10;

/// A physical volume with a metadata text that begins so far into its area, going round at the end.
pub(super) fn pv(id: &str, len: usize, text: &str, begin: usize) -> Vec<u8> {
    let mut bytes = vec![0u8; len];
    let put = |bytes: &mut Vec<u8>, at: usize, what: &[u8]| {
        bytes[at..at + what.len()].copy_from_slice(what);
    };
    put(&mut bytes, 512, b"LABELONE");
    put(&mut bytes, 520, &1u64.to_le_bytes());
    put(&mut bytes, 532, &32u32.to_le_bytes());
    put(&mut bytes, 536, b"LVM2 001");
    put(&mut bytes, 544, id.replace('-', "").as_bytes());
    put(&mut bytes, 576, &(len as u64).to_le_bytes());
    put(&mut bytes, 584, &(128u64 << 10).to_le_bytes());
    put(&mut bytes, 616, &4096u64.to_le_bytes());
    put(&mut bytes, 624, &(AREA as u64).to_le_bytes());
    let crc = lvm_crc(&bytes[532..1024]);
    put(&mut bytes, 528, &crc.to_le_bytes());

    put(&mut bytes, 4100, b"\x20LVM2\x20x[5A%r0N*>");
    put(&mut bytes, 4116, &1u32.to_le_bytes());
    put(&mut bytes, 4120, &4096u64.to_le_bytes());
    put(&mut bytes, 4128, &(AREA as u64).to_le_bytes());
    if !text.is_empty() {
        put(&mut bytes, 4136, &(begin as u64).to_le_bytes());
        put(&mut bytes, 4144, &(text.len() as u64).to_le_bytes());
        put(&mut bytes, 4152, &lvm_crc(text.as_bytes()).to_le_bytes());
        let (here, round) = text.as_bytes().split_at(text.len().min(AREA - begin));
        put(&mut bytes, 4096 + begin, here);
        put(&mut bytes, 4096 + 512, round);
    }
    let crc = lvm_crc(&bytes[4100..4608]);
    put(&mut bytes, 4096, &crc.to_le_bytes());
    bytes
}

/// An identifier that begins with this letter.
pub(super) fn id(letter: char) -> String {
    format!("{letter}bCdEf-0123-4567-89ab-cdef-ghij-klmnop")
}

/// A group with extents of 64 KiB on physical volumes of 16 extents, the first at 128 KiB.
pub(super) fn group(name: &str, vg: char, seqno: u32, pvs: &[char], logical: &str) -> String {
    let mut text = format!(
        "{name} {{\nid = \"{}\"\nseqno = {seqno}\nformat = \"lvm2\"\nstatus = [\"READ\", \"WRITE\"]\n\
         flags = []\nextent_size = 128\nphysical_volumes {{\n",
        id(vg)
    );
    for (n, pv) in pvs.iter().enumerate() {
        text += &format!(
            "pv{n} {{\nid = \"{}\"\nstatus = [\"ALLOCATABLE\"]\nflags = []\npe_start = 256\n\
             pe_count = 16\n}}\n",
            id(*pv)
        );
    }
    text + &format!("}}\nlogical_volumes {{\n{logical}}}\n}}\n# made\nversion = 1\n\0")
}

/// A visible logical volume of these segments.
pub(super) fn lv(name: &str, segments: &[&str]) -> String {
    let mut text = format!(
        "{name} {{\nid = \"{}\"\nstatus = [\"READ\", \"WRITE\", \"VISIBLE\"]\nflags = []\n\
         segment_count = {}\n",
        id('L'),
        segments.len()
    );
    for (n, segment) in segments.iter().enumerate() {
        text += &format!("segment{} {{\n{segment}\n}}\n", n + 1);
    }
    text + "}\n"
}

/// A segment of one extent on the first physical volume.
pub(super) fn linear(pv: usize, extent: u32) -> String {
    format!(
        "start_extent = 0\nextent_count = 1\ntype = \"striped\"\nstripe_count = 1\nstripes = \
         [\n\"pv{pv}\", {extent}\n]"
    )
}

/// The size of what [`group`] describes.
pub(super) const PV_LEN: usize = (128 << 10) + 16 * (64 << 10);

/// A number as an index.
pub(super) fn at(n: u64) -> usize {
    usize::try_from(n).unwrap()
}

/// The same on every run.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        usize::try_from(self.0 >> 33).unwrap() % most.max(1)
    }
}
