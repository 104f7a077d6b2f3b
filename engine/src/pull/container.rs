//! Disk image containers by their magic: a file that holds a disk in a format of its own rather
//! than being the disk, byte for byte.
//!
//! Only for a refusal: nothing is read on the strength of what is found here.

/// Bytes from the start of a source that [`container`] wants to see, as far as there are so many.
pub(super) const HEAD: usize = 4096;
/// Where the sector begins that ends a fixed VHD, counted from the end.
const FOOTER: usize = 512;

/// VirtualBox puts its magic behind a line of text.
const VDI_AT: usize = 64;
const VDI: &[u8] = &[0x7f, 0x10, 0xda, 0xbe];

/// The name of the container format whose beginning or end this is; none where it may be a disk.
/// `head` is the start of the file, `tail` its end, both as long as is known.
pub(super) fn container(head: &[u8], tail: &[u8]) -> Option<&'static str> {
    const MAGICS: [(&[u8], &str); 9] = [
        (b"QFI\xfb", "QCOW2"),
        (b"QED\0", "QED"),
        (b"KDMV", "VMDK"),
        (b"COWD", "VMDK"),
        (b"# Disk DescriptorFile", "VMDK"),
        (b"vhdxfile", "VHDX"),
        (b"conectix", "VHD"),
        (b"WithoutFreeSpace", "Parallels"),
        (b"WithouFreSpacExt", "Parallels"),
    ];
    let at_start = MAGICS.iter().find(|(magic, _)| head.starts_with(magic));
    if let Some((_, name)) = at_start {
        return Some(name);
    }
    if head.get(VDI_AT..).is_some_and(|h| h.starts_with(VDI)) {
        return Some("VDI");
    }
    let footer = tail.len().checked_sub(FOOTER).and_then(|at| tail.get(at..));
    footer
        .is_some_and(|f| f.starts_with(b"conectix"))
        .then_some("VHD")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_told_from_disks() {
        for (magic, name) in [
            (&b"QFI\xfb\0\0\0\x03"[..], "QCOW2"),
            (b"KDMV\x01\0\0\0", "VMDK"),
            (b"# Disk DescriptorFile\nversion=1\n", "VMDK"),
            (b"vhdxfileM\0i\0", "VHDX"),
            (b"conectix\0\0\0\x02", "VHD"),
        ] {
            let mut head = magic.to_vec();
            head.resize(HEAD, 0);
            assert_eq!(container(&head, &[]), Some(name));
            // Behind the first byte it is the disk's own content.
            head.insert(0, 0);
            assert_eq!(container(&head, &[]), None, "{name}");
        }
        let mut vdi = b"<<< Oracle VM VirtualBox Disk Image >>>\n".to_vec();
        vdi.resize(VDI_AT, 0);
        vdi.extend_from_slice(VDI);
        assert_eq!(container(&vdi, &[]), Some("VDI"));

        let mut footer = vec![0; HEAD];
        footer[HEAD - FOOTER..][..8].copy_from_slice(b"conectix");
        assert_eq!(container(&[0; HEAD], &footer), Some("VHD"));
        for disk in [&b""[..], b"QFI", &[0; HEAD], b"\xeb\x63\x90 a boot sector"] {
            assert_eq!(container(disk, disk), None);
        }
    }
}
