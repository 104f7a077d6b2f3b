use super::*;
use crate::export::{BlockSize, StatusExtent};

#[test]
fn greeting_is_what_the_protocol_says() {
    let bytes = greeting();
    assert_eq!(&bytes[..16], b"NBDMAGICIHAVEOPT");
    assert_eq!(parse_greeting(&bytes), Some(3));
}

#[test]
fn requests_pass_both_ways() {
    let request = Request {
        flags: 1,
        command: cmd::WRITE,
        cookie: 7,
        offset: 1 << 40,
        len: 4096,
    };
    for extended in [false, true] {
        let mut bytes = Vec::new();
        request.encode(&mut bytes, extended);
        assert_eq!(bytes.len(), Request::header_len(extended));
        assert_eq!(Request::decode(&bytes, extended), Some(request));
        assert_eq!(Request::decode(&bytes, !extended), None);
        assert_eq!(Request::decode(&bytes[..27], extended), None);
    }
}

#[test]
fn replies_pass_both_ways() {
    let mut bytes = Vec::new();
    SimpleReply {
        error: 5,
        cookie: 9,
    }
    .encode(&mut bytes);
    assert_eq!(bytes.len(), SIMPLE_REPLY_LEN);
    assert_eq!(
        SimpleReply::decode(&bytes),
        Some(SimpleReply {
            error: 5,
            cookie: 9
        })
    );
    for extended in [false, true] {
        let offset = if extended { 3 } else { 0 };
        let header = ChunkHeader {
            flags: 1,
            kind: chunk::OFFSET_DATA,
            cookie: 2,
            offset,
            len: 100,
        };
        let mut bytes = Vec::new();
        header.encode(&mut bytes, extended);
        assert_eq!(bytes.len(), ChunkHeader::header_len(extended));
        assert_eq!(ChunkHeader::decode(&bytes, extended), Some(header));
        let extents = [
            StatusExtent { len: 5, flags: 3 },
            StatusExtent { len: 9, flags: 0 },
        ];
        let payload = status_payload(4, &extents, extended);
        assert_eq!(
            parse_status_payload(&payload, extended),
            Some((4, extents.to_vec()))
        );
        assert_eq!(
            parse_status_payload(&payload[..payload.len() - 1], extended),
            None
        );
    }
    assert_eq!(parse_hole_payload(&hole_payload(1, 2)), Some((1, 2)));
    assert_eq!(
        parse_error_payload(&error_payload(5, "bad", None)),
        Some((5, "bad", None))
    );
    assert_eq!(
        parse_error_payload(&error_payload(5, "", Some(8))),
        Some((5, "", Some(8)))
    );
    let long = error_payload(5, &"ä".repeat(4000), None);
    assert_eq!(parse_error_payload(&long).unwrap().1.len(), 4096);
}

#[test]
fn options_pass_both_ways() {
    let mut bytes = Vec::new();
    option(&mut bytes, opt::GO, &go_data("disk", &[info::BLOCK_SIZE]));
    let header = OptionHeader::decode(bytes[..16].try_into().unwrap()).unwrap();
    assert_eq!(
        header,
        OptionHeader {
            option: opt::GO,
            len: 12
        }
    );
    assert_eq!(bytes.len(), 28);
    let sizes = Info::BlockSize(BlockSize::default());
    for piece in [
        Info::Export { size: 1, flags: 2 },
        Info::Name("n"),
        Info::Description("d"),
        sizes,
        Info::Other(77),
    ] {
        assert_eq!(Info::decode(&piece.encode()), Some(piece));
    }
    assert_eq!(parse_list_entry(&list_entry("a", "b")), Some(("a", "b")));
    assert_eq!(
        parse_meta_context_entry(&meta_context_entry(1, BASE_ALLOCATION)),
        Some((1, BASE_ALLOCATION))
    );
    assert_eq!(meta_context_data("x", &["base:"]).len(), 4 + 1 + 4 + 4 + 5);
}

#[test]
fn text_refuses_what_is_no_protocol_string() {
    assert_eq!(text(b"ok"), Some("ok"));
    assert_eq!(text(b"a\0b"), None);
    assert_eq!(text(&[0xff]), None);
    assert!(text(&[b'x'; 4096]).is_some());
    assert_eq!(text(&[b'x'; 4097]), None);
}
