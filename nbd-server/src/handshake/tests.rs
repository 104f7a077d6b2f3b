use super::*;
use crate::export::BlockSize;
use crate::wire::{go_data, meta_context_data, option};
use proptest::prelude::*;

fn ready(tls: TlsState) -> Handshake {
    let mut handshake = Handshake::new(&Limits::default(), tls);
    assert_eq!(handshake.output().len(), 18);
    assert_eq!(handshake.advance(&[0, 0, 0, 3]), (4, Step::Next));
    handshake.output().clear();
    handshake
}

/// Gives one option; the step, and the types of the replies so far.
fn send(handshake: &mut Handshake, number: u32, data: &[u8]) -> Step {
    let mut bytes = Vec::new();
    option(&mut bytes, number, data);
    let (taken, step) = handshake.advance(&bytes);
    assert_eq!((taken, &step), (16, &Step::Next));
    let (taken, step) = handshake.advance(&bytes[16..]);
    assert_eq!(taken, data.len());
    step
}

fn replies(handshake: &mut Handshake) -> Vec<(u32, Vec<u8>)> {
    let bytes = std::mem::take(handshake.output());
    let mut rest = &bytes[..];
    let mut found = Vec::new();
    while !rest.is_empty() {
        let header =
            crate::wire::OptionReplyHeader::decode(rest[..20].try_into().unwrap()).unwrap();
        let len = header.len as usize;
        found.push((header.kind, rest[20..20 + len].to_vec()));
        rest = &rest[20 + len..];
    }
    found
}

fn kinds(handshake: &mut Handshake) -> Vec<u32> {
    replies(handshake)
        .into_iter()
        .map(|(kind, _)| kind)
        .collect()
}

#[test]
fn info_says_what_go_says() {
    let wanted = [
        info::NAME,
        info::DESCRIPTION,
        info::BLOCK_SIZE,
        99,
        info::NAME,
    ];
    let mut export = ExportInfo::writable(77);
    export.description = Some("x".repeat(5000));
    let mut handshake = ready(TlsState::Off);
    assert_eq!(
        send(&mut handshake, opt::INFO, &go_data("d", &wanted)),
        Step::Describe("d".into())
    );
    assert_eq!(handshake.described(Ok(&export)), Step::Next);
    let told = replies(&mut handshake);
    assert_eq!(
        send(&mut handshake, opt::GO, &go_data("d", &wanted)),
        Step::Open("d".into())
    );
    assert_eq!(
        handshake.opened(Ok(&export)),
        Step::Transmit(Agreed::default())
    );
    assert_eq!(replies(&mut handshake), told);
    assert_eq!(told.len(), 5);
    assert_eq!(told[2].1.len(), 2 + 4096);
    assert_eq!(handshake.advance(b"next phase"), (0, Step::More));
}

#[test]
fn trailing_bytes_are_invalid_and_the_stream_stays_in_step() {
    let mut handshake = ready(TlsState::Off);
    let mut data = go_data("d", &[]);
    data.push(0);
    assert_eq!(send(&mut handshake, opt::GO, &data), Step::Next);
    assert_eq!(send(&mut handshake, opt::LIST, b"x"), Step::Next);
    assert_eq!(
        send(&mut handshake, opt::STRUCTURED_REPLY, b"x"),
        Step::Next
    );
    assert_eq!(send(&mut handshake, opt::STRUCTURED_REPLY, b""), Step::Next);
    let mut data = meta_context_data("d", &[]);
    data.push(0);
    assert_eq!(
        send(&mut handshake, opt::SET_META_CONTEXT, &data),
        Step::Next
    );
    assert_eq!(send(&mut handshake, opt::LIST, b""), Step::List);
    assert_eq!(handshake.listed(Some(&[])), Step::Next);
    let expected = [
        rep::ERR_INVALID,
        rep::ERR_INVALID,
        rep::ERR_INVALID,
        rep::ACK,
        rep::ERR_INVALID,
        rep::ACK,
    ];
    assert_eq!(kinds(&mut handshake), expected);
}

#[test]
fn required_tls_answers_nothing_else_and_starttls_forgets() {
    let mut handshake = ready(TlsState::Required);
    for number in [opt::LIST, opt::GO, opt::STRUCTURED_REPLY, 4711] {
        assert_eq!(send(&mut handshake, number, b""), Step::Next);
        assert_eq!(kinds(&mut handshake), [rep::ERR_TLS_REQD]);
    }
    assert_eq!(send(&mut handshake, opt::STARTTLS, b"x"), Step::Next);
    assert_eq!(kinds(&mut handshake), [rep::ERR_INVALID]);
    assert_eq!(send(&mut handshake, opt::STARTTLS, b""), Step::StartTls);
    assert_eq!(kinds(&mut handshake), [rep::ACK]);
    assert_eq!(handshake.advance(b"plain"), (0, Step::More));
    handshake.tls_started();
    assert_eq!(send(&mut handshake, opt::STARTTLS, b""), Step::Next);
    assert_eq!(kinds(&mut handshake), [rep::ERR_INVALID]);

    let mut bytes = Vec::new();
    option(&mut bytes, opt::EXPORT_NAME, b"");
    let mut handshake = ready(TlsState::Required);
    assert!(matches!(
        handshake.advance(&bytes),
        (16, Step::Close(Close::ExportName(_)))
    ));

    let mut handshake = ready(TlsState::Off);
    assert_eq!(send(&mut handshake, opt::STARTTLS, b""), Step::Next);
    assert_eq!(kinds(&mut handshake), [rep::ERR_POLICY]);
}

#[test]
fn a_selection_counts_for_its_own_export_only() {
    let export = ExportInfo {
        contexts: vec!["x:y".into()],
        ..ExportInfo::read_only(9)
    };
    for (name, contexts) in [("d", vec![0, 1]), ("e", vec![])] {
        let mut handshake = ready(TlsState::Off);
        let query = meta_context_data("d", &["base:allocation", "x:y", "z:"]);
        assert_eq!(
            send(&mut handshake, opt::SET_META_CONTEXT, &query),
            Step::Next
        );
        assert_eq!(send(&mut handshake, opt::EXTENDED_HEADERS, b""), Step::Next);
        assert_eq!(send(&mut handshake, opt::STRUCTURED_REPLY, b""), Step::Next);
        assert_eq!(
            kinds(&mut handshake),
            [rep::ERR_INVALID, rep::ACK, rep::ERR_EXT_HEADER_REQD]
        );
        assert_eq!(
            send(&mut handshake, opt::SET_META_CONTEXT, &query),
            Step::Describe("d".into())
        );
        assert_eq!(handshake.described(Ok(&export)), Step::Next);
        assert_eq!(
            kinds(&mut handshake),
            [rep::META_CONTEXT, rep::META_CONTEXT, rep::ACK]
        );
        assert_eq!(
            send(&mut handshake, opt::GO, &go_data(name, &[])),
            Step::Open(name.into())
        );
        let agreed = Agreed {
            mode: ReplyMode::Extended,
            contexts,
        };
        assert_eq!(handshake.opened(Ok(&export)), Step::Transmit(agreed));
    }
}

#[test]
fn limits_of_length_and_number() {
    let mut handshake = ready(TlsState::Off);
    let (mut header, len) = (Vec::new(), 200_000_u32);
    option(&mut header, opt::GO, b"");
    header[12..16].copy_from_slice(&len.to_be_bytes());
    assert_eq!(handshake.advance(&header), (16, Step::Next));
    assert_eq!(handshake.advance(&[0; 100_000]), (100_000, Step::More));
    assert_eq!(handshake.advance(&[0; 150_000]), (100_000, Step::Next));
    assert_eq!(kinds(&mut handshake), [rep::ERR_TOO_BIG]);
    header[12..16].copy_from_slice(&(u32::MAX >> 1).to_be_bytes());
    assert!(matches!(
        handshake.advance(&header),
        (16, Step::Close(Close::TooLong { .. }))
    ));

    let mut handshake = ready(TlsState::Off);
    for _ in 0..Limits::default().options {
        assert_eq!(send(&mut handshake, 4711, b"abc"), Step::Next);
    }
    header[12..16].copy_from_slice(&[0; 4]);
    assert!(matches!(
        handshake.advance(&header).1,
        Step::Close(Close::TooManyOptions(64))
    ));

    let mut handshake = Handshake::new(&Limits::default(), TlsState::Off);
    assert_eq!(
        handshake.advance(&[0, 0, 0, 7]).1,
        Step::Close(Close::ClientFlags(7))
    );
}

#[test]
fn plain_newstyle_knows_the_name_alone() {
    for number in [opt::GO, opt::LIST, opt::ABORT, 4711] {
        let mut handshake = Handshake::new(&Limits::default(), TlsState::Off);
        handshake.output().clear();
        assert_eq!(handshake.advance(&[0; 4]), (4, Step::Next));
        let mut bytes = Vec::new();
        option(&mut bytes, number, b"");
        let closed = Step::Close(Close::NotFixed(number));
        assert_eq!(handshake.advance(&bytes), (16, closed));
        assert!(handshake.output().is_empty());
    }
    let mut handshake = Handshake::new(&Limits::default(), TlsState::Off);
    assert_eq!(handshake.advance(&[0; 4]), (4, Step::Next));
    let step = send(&mut handshake, opt::EXPORT_NAME, b"d");
    assert_eq!(step, Step::Open("d".into()));
}

#[test]
fn block_sizes_are_made_legal() {
    let sizes = BlockSize {
        minimum: 3,
        preferred: 1,
        maximum: u32::MAX,
    };
    let sane = sane_block_size(sizes, 64 << 20);
    assert_eq!(
        sane,
        BlockSize {
            minimum: 2,
            preferred: 512,
            maximum: 64 << 20
        }
    );
    let zero = BlockSize {
        minimum: 0,
        preferred: 0,
        maximum: 0,
    };
    assert_eq!(
        sane_block_size(zero, 64 << 20),
        BlockSize {
            minimum: 1,
            preferred: 512,
            maximum: 512
        }
    );
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        crate::fuzzing::fuzz_handshake(&bytes);
    }
}
