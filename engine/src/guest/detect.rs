//! What a volume holds, by its signatures, and the reader for it.

use std::sync::Arc;

use super::{Blocks, Fault, FaultKind, FileSystem, OpenOptions, Result, ext, fat, xfs};

/// What stands on a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Found {
    /// ext2, ext3 or ext4.
    Ext,
    /// XFS of any version.
    Xfs,
    /// NTFS.
    Ntfs,
    /// FAT12, FAT16 or FAT32.
    Fat,
    /// A physical volume of LVM2: a part of something larger.
    LvmMember,
    /// Something that is known by its signature and not read yet, by name.
    Known(&'static str),
    /// Nothing that is known.
    Nothing,
}

impl Found {
    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext => "ext2, ext3 or ext4",
            Self::Xfs => "XFS",
            Self::Ntfs => "NTFS",
            Self::Fat => "FAT",
            Self::LvmMember => "physical volume of LVM2",
            Self::Known(what) => what,
            Self::Nothing => "nothing that is known",
        }
    }
}

/// A signature: bytes at a place, and what they mean.
type Signature = (u64, &'static [u8], Found);

/// In order: what may stand in front of something else's leftovers comes first.
const SIGNATURES: &[Signature] = &[
    (0, b"LUKS\xba\xbe", Found::Known("LUKS encryption")),
    (3, b"-FVE-FS-", Found::Known("BitLocker encryption")),
    (
        3,
        b"MSWIN4.1\0\0\0\0\0\0\0\0-FVE",
        Found::Known("BitLocker encryption"),
    ),
    (3, b"ReFS\0\0\0\0", Found::Known("ReFS")),
    (3, b"EXFAT   ", Found::Known("exFAT")),
    (3, b"NTFS    ", Found::Ntfs),
    (0, b"XFSB", Found::Xfs),
    (0x1_0040, b"_BHRfS_M", Found::Known("btrfs")),
    (0x438, b"\x53\xef", Found::Ext),
    (0x8001, b"CD001", Found::Known("ISO 9660")),
    (0x8001, b"BEA01", Found::Known("UDF")),
    (0x1018, b"LABELONE", Found::LvmMember),
    (4086, b"SWAPSPACE2", Found::Known("swap space")),
    (0x400, b"H+\0\x04", Found::Known("HFS+")),
    (0x20, b"NXSB", Found::Known("APFS")),
    (0x1000, b"\xfc\x4e\x2b\xa9", Found::Known("Linux RAID")),
    (0, b"\xfc\x4e\x2b\xa9", Found::Known("Linux RAID")),
    (0x400, b"\x10\x20\xf5\xf2", Found::Known("F2FS")),
    (0, b"hsqs", Found::Known("SquashFS")),
];

/// Sectors of 512 bytes in which LVM2 looks for its label.
const LVM_SECTORS: u64 = 4;
/// Uberblocks of ZFS stand every so many bytes in the first label, 128 KiB long from here on.
const ZFS_UBERBLOCKS: (u64, u64, u64) = (128 << 10, 256 << 10, 1024);

/// Looks at the signatures of a volume. One that is too short for a signature does not have it.
///
/// # Errors
/// Where it cannot be read.
pub fn detect(volume: &dyn Blocks) -> Result<Found> {
    for sector in 0..LVM_SECTORS {
        let label = has(volume, sector * 512, b"LABELONE")?;
        if label && has(volume, sector * 512 + 24, b"LVM2 001")? {
            return Ok(Found::LvmMember);
        }
    }
    for (at, bytes, found) in SIGNATURES {
        if *found != Found::LvmMember && has(volume, *at, bytes)? {
            return Ok(*found);
        }
    }
    if is_fat(volume)? {
        return Ok(Found::Fat);
    }
    let (from, to, step) = ZFS_UBERBLOCKS;
    for at in (from..to).step_by(usize::try_from(step).unwrap_or(1024)) {
        let little = has(volume, at, &0x00ba_b10c_u64.to_le_bytes())?;
        if little || has(volume, at, &0x00ba_b10c_u64.to_be_bytes())? {
            return Ok(Found::Known("ZFS"));
        }
    }
    Ok(Found::Nothing)
}

fn has(volume: &dyn Blocks, at: u64, bytes: &[u8]) -> Result<bool> {
    let end = at.saturating_add(bytes.len() as u64);
    Ok(end <= volume.size() && volume.bytes(at, bytes.len())? == bytes)
}

/// FAT has no signature worth the name: its parameters have to make sense together.
fn is_fat(volume: &dyn Blocks) -> Result<bool> {
    if volume.size() < 512 {
        return Ok(false);
    }
    let sector = volume.bytes(0, 512)?;
    let byte = |at: usize| sector.get(at).copied().unwrap_or(0);
    let word = |at: usize| u16::from_le_bytes([byte(at), byte(at + 1)]);
    let jump = byte(0) == 0xe9 || (byte(0) == 0xeb && byte(2) == 0x90);
    let sane = matches!(word(11), 512 | 1024 | 2048 | 4096)
        && byte(13).is_power_of_two()
        && word(14) > 0
        && matches!(byte(16), 1 | 2)
        && (byte(21) == 0xf0 || byte(21) >= 0xf8);
    let sized = word(19) > 0 || byte(32) | byte(33) | byte(34) | byte(35) != 0;
    Ok(jump && sane && sized && word(510) == 0xaa55)
}

/// Opens the file system on a volume.
///
/// # Errors
/// `Unsupported`, by name, for what is not read yet; `NotFound` where no file system is known;
/// whatever the reader finds.
pub fn open(volume: Arc<dyn Blocks>, options: &OpenOptions) -> Result<Box<dyn FileSystem>> {
    let not_yet = |what: &str| Err(Fault::unsupported(format!("{what} is not read yet")));
    match detect(&volume)? {
        Found::Ext => ext::open(volume, options),
        Found::Xfs => xfs::open(volume, options),
        Found::Ntfs => not_yet("NTFS"),
        Found::Fat => fat::open(volume),
        Found::LvmMember => Err(Fault::unsupported(
            "a physical volume of LVM2 is a part of a volume group, not a file system",
        )),
        Found::Known(what) => not_yet(what),
        Found::Nothing => Err(Fault::new(
            FaultKind::NotFound,
            "no file system is known by its signature",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_read_yet_is_named_and_nothing_is_nothing() {
        let mut disk = vec![0u8; 256 << 10];
        assert_eq!(detect(&disk).unwrap(), Found::Nothing);
        disk[..6].copy_from_slice(b"LUKS\xba\xbe");
        assert_eq!(detect(&disk).unwrap(), Found::Known("LUKS encryption"));
        let refused = open(Arc::new(disk), &OpenOptions::default()).unwrap_err();
        assert_eq!(refused.kind, FaultKind::Unsupported);
        assert!(refused.what.contains("LUKS"), "{refused}");
    }

    #[test]
    fn a_volume_shorter_than_a_signature_is_no_error() {
        for len in [0, 1, 511, 512, 1080] {
            assert_eq!(detect(&vec![0u8; len]).unwrap(), Found::Nothing);
        }
    }
}
