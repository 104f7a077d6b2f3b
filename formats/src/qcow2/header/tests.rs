use proptest::prelude::*;

use super::*;

fn sample() -> Header {
    Header {
        l1_entries: 2,
        l1_at: HostOffset::new(0x30000),
        refcount_table_at: HostOffset::new(0x10000),
        refcount_table_clusters: 1,
        ..Header::new(ClusterSize::DEFAULT, (1 << 30) + 512)
    }
    .with_l1_for_size()
}

impl Header {
    fn with_l1_for_size(mut self) -> Self {
        self.l1_entries = u32::try_from(self.tables_needed()).unwrap();
        self
    }
}

fn patched(edit: impl FnOnce(&mut Vec<u8>)) -> Result<Header> {
    let mut bytes = sample().encode().unwrap();
    edit(&mut bytes);
    Header::parse(&bytes, 1 << 20)
}

fn kind(edit: impl FnOnce(&mut Vec<u8>)) -> ErrorKind {
    patched(edit).unwrap_err().kind
}

#[test]
fn what_is_written_is_read_again() {
    let mut header = sample();
    header.backing = Some(Backing {
        name: "full.qcow2".into(),
        format: Some("qcow2".into()),
    });
    let bytes = header.encode().unwrap();
    assert_eq!(bytes.len(), 65536);
    assert_eq!(&bytes[100..104], &104_u32.to_be_bytes());
    assert_eq!(&bytes[104..108], &layout::EXT_BACKING_FORMAT.to_be_bytes());
    assert_eq!(Header::parse(&bytes, 1 << 20).unwrap(), header);
    assert_eq!(Header::wanted(&bytes[..24]).unwrap(), 65536);
}

#[test]
fn foreign_parts_are_kept() {
    let mut header = sample();
    header.compression = Compression::Zstd;
    header.incompatible = INCOMPATIBLE_COMPRESSION | INCOMPATIBLE_DIRTY;
    header.extra = vec![7; 16];
    header.extensions = vec![Extension {
        kind: 0x1234_5678,
        data: vec![1, 2, 3],
    }];
    let read = Header::parse(&header.encode().unwrap(), 1 << 20).unwrap();
    assert_eq!(read, header);
    assert!(read.dirty() && !read.corrupt() && !read.extended_l2());
}

#[test]
fn a_version_2_header_has_no_features() {
    let mut bytes = sample().encode().unwrap();
    bytes[7] = 2;
    bytes[72..].fill(0);
    bytes[72..76].copy_from_slice(&layout::EXT_BACKING_FORMAT.to_be_bytes());
    bytes[79] = 3;
    bytes[80..83].copy_from_slice(b"raw");
    bytes[8..16].copy_from_slice(&200_u64.to_be_bytes());
    bytes[19] = 4;
    bytes[200..204].copy_from_slice(b"base");
    let header = Header::parse(&bytes, 1 << 20).unwrap();
    assert_eq!((header.version, header.refcount_order), (2, 4));
    let backing = header.backing.unwrap();
    assert_eq!(
        (backing.name.as_str(), backing.format.as_deref()),
        ("base", Some("raw"))
    );
}

#[test]
fn refusals_have_names() {
    assert_eq!(kind(|b| b[0] = 0), ErrorKind::NotThisFormat);
    assert_eq!(kind(|b| b[7] = 4), ErrorKind::Unsupported);
    assert_eq!(kind(|b| b[23] = 8), ErrorKind::Malformed);
    assert_eq!(kind(|b| b[23] = 22), ErrorKind::Malformed);
    assert_eq!(kind(|b| b[24] = 0xff), ErrorKind::TooLarge);
    assert_eq!(kind(|b| b[26] = 1), ErrorKind::Malformed);
    assert_eq!(kind(|b| b[36] = 1), ErrorKind::TooLarge);
    assert_eq!(kind(|b| b[47] = 1), ErrorKind::Malformed);
    assert_eq!(kind(|b| b[40] = 0xff), ErrorKind::Malformed);
    assert_eq!(kind(|b| b[44] = 0xff), ErrorKind::Truncated);
    assert_eq!(kind(|b| b[56] = 1), ErrorKind::TooLarge);
    assert_eq!(kind(|b| b[59] = 0), ErrorKind::Malformed);
    assert_eq!(kind(|b| b[60] = 1), ErrorKind::TooLarge);
    assert_eq!(kind(|b| b[99] = 7), ErrorKind::Malformed);
    assert_eq!(kind(|b| b[103] = 96), ErrorKind::Malformed);
    assert_eq!(kind(|b| b[79] = 1 << 3), ErrorKind::Malformed);
    assert_eq!(kind(|b| b.truncate(90)), ErrorKind::Truncated);
    assert_eq!(kind(|b| b[12] = 0xff), ErrorKind::Malformed);

    let aes = patched(|b| b[35] = 1).unwrap_err();
    assert!(aes.kind == ErrorKind::Unsupported && aes.detail.contains("AES"));
    let luks = patched(|b| b[35] = 2).unwrap_err();
    assert!(luks.detail.contains("LUKS"));
    let data_file = patched(|b| b[79] = 4).unwrap_err();
    assert!(data_file.detail.contains("external data file"));
    assert_eq!(data_file.kind, ErrorKind::Unsupported);
}

#[test]
fn an_unknown_feature_is_named_by_the_image() {
    let error = patched(|b| {
        b[79] = 0x20;
        // The first entry of the feature-name table becomes the one for bit 5.
        b[113] = 5;
        b[114..119].copy_from_slice(b"warp\0");
    })
    .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert!(error.detail.contains("bit 5") && error.detail.contains("warp"));
}

#[test]
fn unsafe_names_are_not_written() {
    let mut header = sample();
    for (name, format) in [("/abs", Some("raw")), ("../x", Some("raw")), ("x", None)] {
        header.backing = Some(Backing {
            name: name.into(),
            format: format.map(Into::into),
        });
        assert!(header.encode().is_err());
    }
}

#[test]
fn small_clusters_leave_out_the_names() {
    let mut header = Header::new(ClusterSize::from_bits(9).unwrap(), 4096);
    header.l1_entries = 1;
    header.l1_at = HostOffset::new(1536);
    header.refcount_table_at = HostOffset::new(512);
    header.refcount_table_clusters = 1;
    let bytes = header.encode().unwrap();
    assert_eq!(bytes.len(), 512);
    assert_eq!(Header::parse(&bytes, 4096).unwrap(), header);
    header.backing = Some(Backing {
        name: "x".repeat(500),
        format: Some("qcow2".into()),
    });
    assert_eq!(header.encode().unwrap_err().kind, ErrorKind::TooLarge);
}

proptest! {
    #[test]
    fn any_header_survives_the_round_trip(
        bits in 14_u32..=21,
        size in 0_u64..1 << 40,
        order in 0_u32..=6,
        flags in 0_u64..4,
        extended in any::<bool>(),
        zstd in any::<bool>(),
        name in "[a-z0-9 ]{1,40}/[a-z:]{1,20}",
        extra in proptest::collection::vec(any::<u8>(), 0..4),
        data in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let mut header = Header::new(ClusterSize::from_bits(bits).unwrap(), size);
        header.refcount_order = order;
        header.incompatible = flags
            | if extended { INCOMPATIBLE_EXTENDED_L2 } else { 0 }
            | if zstd { INCOMPATIBLE_COMPRESSION } else { 0 };
        header.compression = if zstd { Compression::Zstd } else { Compression::Zlib };
        header.backing = Some(Backing { name, format: Some("qcow2".into()) });
        header.extra = extra.iter().flat_map(|b| [*b; 8]).collect();
        header.extensions = vec![Extension { kind: 77, data }];
        header.refcount_table_at = HostOffset::new(header.cluster.bytes());
        header.refcount_table_clusters = 1;
        header.l1_at = HostOffset::new(3 * header.cluster.bytes());
        let header = header.with_l1_for_size();
        let read = Header::parse(&header.encode().unwrap(), 1 << 40).unwrap();
        prop_assert_eq!(read, header);
    }

    #[test]
    fn damaged_headers_never_panic(
        edits in proptest::collection::vec((0_usize..700, any::<u8>()), 1..12),
        cut in 0_usize..65536,
        len in any::<u64>(),
    ) {
        let mut bytes = sample().encode().unwrap();
        for (at, value) in edits {
            bytes[at] = value;
        }
        bytes.truncate(cut.max(8));
        let _ = Header::wanted(&bytes);
        let _ = Header::parse(&bytes, len);
    }
}
