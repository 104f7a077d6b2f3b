//! What strangers and broken clients send, by the names of the known cases.

use super::*;
use crate::wire::{cmd, export_flags, info, meta_context_data, parse_list_entry};

/// An option header that claims `len` bytes.
fn claims(number: u32, len: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    option(&mut bytes, number, b"");
    bytes[12..16].copy_from_slice(&len.to_be_bytes());
    bytes
}

#[tokio::test]
async fn unknown_option_is_unsup_and_the_next_list_parses() {
    let end = probe(async |mut raw| {
        raw.hello().await;
        assert_eq!(raw.ends(4711, b"some data").await, rep::ERR_UNSUP);
        assert_eq!(raw.ends(opt::PEEK_EXPORT, b"").await, rep::ERR_UNSUP);
        let listed = raw.option(opt::LIST, b"").await;
        assert_eq!(parse_list_entry(&listed[0].1), Some(("good", "a disk")));
        assert_eq!(raw.ends(opt::ABORT, b"").await, rep::ACK);
        raw.eof().await;
    })
    .await;
    assert_eq!(end.unwrap().end, End::Aborted);
}

#[tokio::test]
async fn go_unknown_then_go_good() {
    let end = probe(async |mut raw| {
        raw.hello().await;
        for option in [opt::INFO, opt::GO] {
            assert_eq!(
                raw.ends(option, &go_data("bad", &[])).await,
                rep::ERR_UNKNOWN
            );
            let refused = raw.option(option, &go_data("full", &[])).await;
            assert_eq!(refused[0].0, rep::ERR_POLICY);
            assert!(refused[0].1.starts_with(b"full: all of its 1"));
        }
        assert_eq!(raw.ends(opt::GO, &go_data("good", &[])).await, rep::ACK);
        raw.request(cmd::DISC, 0, 0, 0).await;
        raw.eof().await;
    })
    .await;
    assert_eq!(end.unwrap().end, End::Disconnected);
}

#[tokio::test]
async fn hostile_name_lengths_and_names_are_not_echoed() {
    probe(async |mut raw| {
        raw.hello().await;
        let mut data = go_data("x", &[]);
        data[..4].copy_from_slice(&[0xff; 4]);
        assert_eq!(raw.ends(opt::GO, &data).await, rep::ERR_INVALID);
        let longest = raw.option(opt::GO, &go_data(&"n".repeat(4096), &[])).await;
        assert_eq!(longest[0].0, rep::ERR_UNKNOWN);
        assert!(longest[0].1.len() < 100);
        let too_long = go_data(&"n".repeat(4097), &[]);
        assert_eq!(raw.ends(opt::GO, &too_long).await, rep::ERR_INVALID);
        assert_eq!(
            raw.ends(opt::INFO, &go_data("a\0b", &[])).await,
            rep::ERR_INVALID
        );
        assert_eq!(
            raw.ends(opt::INFO, b"\0\0\0\x01\xff\0\0").await,
            rep::ERR_INVALID
        );
        assert_eq!(raw.ends(opt::INFO, b"").await, rep::ERR_INVALID);
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn misplaced_options_are_invalid() {
    probe(async |mut raw| {
        raw.hello().await;
        assert_eq!(raw.ends(opt::LIST, b"data").await, rep::ERR_INVALID);
        let meta = meta_context_data("good", &["base:allocation"]);
        assert_eq!(
            raw.ends(opt::SET_META_CONTEXT, &meta).await,
            rep::ERR_INVALID
        );
        assert_eq!(raw.ends(opt::STRUCTURED_REPLY, b"").await, rep::ACK);
        assert_eq!(raw.ends(opt::STRUCTURED_REPLY, b"").await, rep::ERR_INVALID);
        let mut trailing = meta.clone();
        trailing.push(0);
        assert_eq!(
            raw.ends(opt::SET_META_CONTEXT, &trailing).await,
            rep::ERR_INVALID
        );
        assert_eq!(raw.option(opt::SET_META_CONTEXT, &meta).await.len(), 2);
        let unknown = meta_context_data("bad", &["base:allocation"]);
        assert_eq!(
            raw.ends(opt::SET_META_CONTEXT, &unknown).await,
            rep::ERR_UNKNOWN
        );
        assert_eq!(raw.ends(opt::STARTTLS, b"").await, rep::ERR_POLICY);
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn unknown_and_repeated_information_is_ignored() {
    probe(async |mut raw| {
        raw.hello().await;
        let data = go_data(
            "good",
            &[77, info::NAME, info::NAME, info::BLOCK_SIZE, 0xffff],
        );
        let told = raw.option(opt::INFO, &data).await;
        let kinds: Vec<u16> = told[..3]
            .iter()
            .map(|(_, data)| u16::from_be_bytes([data[0], data[1]]))
            .collect();
        assert_eq!(
            (told.len(), kinds),
            (4, vec![info::EXPORT, info::NAME, info::BLOCK_SIZE])
        );
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn option_of_two_gigabytes_and_unknown_client_flags_disconnect() {
    let end = probe(async |mut raw| {
        raw.hello().await;
        raw.send(&claims(opt::GO, u32::MAX >> 1)).await;
        raw.eof().await;
    })
    .await;
    assert!(matches!(
        end,
        Err(ServeError::Handshake(Close::TooLong { .. }))
    ));
    let end = probe(async |mut raw| {
        raw.take(18).await;
        raw.send(&[0, 0, 0, 0x43]).await;
        raw.eof().await;
    })
    .await;
    assert!(matches!(
        end,
        Err(ServeError::Handshake(Close::ClientFlags(0x43)))
    ));
    let end = probe(async |mut raw| {
        raw.hello().await;
        raw.send(b"GET / HTTP/1.1\r\n").await;
        raw.eof().await;
    })
    .await;
    assert!(matches!(end, Err(ServeError::Handshake(Close::Magic))));
}

#[tokio::test]
async fn too_big_an_option_is_drained_and_answered() {
    probe(async |mut raw| {
        raw.hello().await;
        raw.send(&claims(opt::GO, 100_000)).await;
        raw.send(&[7; 100_000]).await;
        assert_eq!(raw.answers(opt::GO).await[0].0, rep::ERR_TOO_BIG);
        assert_eq!(raw.ends(opt::LIST, b"").await, rep::ACK);
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn export_name_with_and_without_zeroes_and_refused() {
    // The first two are of plain newstyle.
    for (flags, zeroes) in [(0, 124), (2, 0), (1, 124), (3, 0)] {
        probe(async |mut raw| {
            raw.take(18).await;
            raw.send(&[0, 0, 0, flags]).await;
            let mut bytes = Vec::new();
            option(&mut bytes, opt::EXPORT_NAME, b"good");
            raw.send(&bytes).await;
            let reply = raw.take(10 + zeroes).await;
            assert_eq!(reply[..8], (1_u64 << 20).to_be_bytes());
            assert_eq!(
                u16::from_be_bytes([reply[8], reply[9]]) & export_flags::SEND_DF,
                0
            );
            raw.request(cmd::READ, 0, 512, 512).await;
            assert_eq!(raw.simple().await, 0);
            assert_eq!(raw.take(512).await, [1; 512]);
            raw.request(cmd::DISC, 0, 0, 0).await;
            raw.eof().await;
        })
        .await
        .unwrap();
    }
    let end = probe(async |mut raw| {
        raw.hello().await;
        let mut bytes = Vec::new();
        option(&mut bytes, opt::EXPORT_NAME, b"bad");
        raw.send(&bytes).await;
        raw.eof().await;
    })
    .await;
    assert!(matches!(
        end,
        Err(ServeError::Handshake(Close::ExportName(_)))
    ));
}

#[tokio::test]
async fn unknown_command_is_einval_and_the_connection_stays() {
    probe(async |mut raw| {
        raw.go(&[]).await;
        for (command, flags) in [(99, 0), (cmd::CACHE, 0), (cmd::READ, 1 << 15)] {
            raw.request(command, flags, 0, 512).await;
            assert_eq!(raw.simple().await, 22);
        }
        raw.request(cmd::WRITE, 1 << 15, 0, 512).await;
        raw.send(&[1; 512]).await;
        assert_eq!(raw.simple().await, 22);
        raw.request(cmd::FLUSH, 0, 0, 0).await;
        assert_eq!(raw.simple().await, 0);
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn bad_request_magic_disconnects_and_says_why() {
    let end = probe(async |mut raw| {
        raw.go(&[]).await;
        raw.send(&[0x55; 28]).await;
        raw.eof().await;
    })
    .await;
    assert_eq!(end.unwrap().end, End::Broken(Broken::Magic));
}

#[tokio::test]
async fn offset_and_length_that_overflow() {
    probe(async |mut raw| {
        raw.go(&[]).await;
        for (command, error) in [(cmd::READ, 22), (cmd::TRIM, 22), (cmd::WRITE_ZEROES, 28)] {
            raw.request(command, 0, u64::MAX - 10, 512).await;
            assert_eq!(raw.simple().await, error);
        }
        raw.request(cmd::WRITE, 0, u64::MAX, 512).await;
        raw.send(&[1; 512]).await;
        assert_eq!(raw.simple().await, 28);
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn write_to_a_read_only_export_is_eperm() {
    let spy = Spy::new(ExportInfo::read_only(1 << 20));
    let (end, ()) = against(
        &spy,
        FewPool::new(1),
        ServeConfig::default(),
        async |mut raw| {
            raw.go(&[]).await;
            raw.request(cmd::WRITE, 0, 0, 4096).await;
            raw.send(&[1; 4096]).await;
            assert_eq!(raw.simple().await, 1);
            raw.request(cmd::TRIM, 0, 0, 4096).await;
            assert_eq!(raw.simple().await, 1);
        },
    )
    .await;
    assert_eq!(end.unwrap().end, End::HungUp);
    assert!(spy.log.borrow().is_empty());
}

#[tokio::test]
async fn payload_of_65_mib_is_one_clean_error_and_129_mib_disconnects() {
    let end = probe(async |mut raw| {
        raw.go(&[]).await;
        raw.request(cmd::WRITE, 0, 0, 65 << 20).await;
        for _ in 0..65 {
            raw.send(&vec![1; 1 << 20]).await;
        }
        assert_eq!(raw.simple().await, 22);
        raw.request(cmd::FLUSH, 0, 0, 0).await;
        assert_eq!(raw.simple().await, 0);
        raw.request(cmd::WRITE, 0, 0, 129 << 20).await;
        raw.eof().await;
    })
    .await;
    assert_eq!(end.unwrap().end, End::Broken(Broken::Payload(129 << 20)));
}

#[tokio::test]
async fn hanging_up_anywhere_ends_cleanly() {
    let mut script = Vec::from([0, 0, 0, 3]);
    option(&mut script, opt::STRUCTURED_REPLY, b"");
    option(&mut script, opt::GO, &go_data("good", &[]));
    let before = script.len();
    script.extend(request(cmd::WRITE, 0, 0, 100, false));
    script.extend([5; 100]);
    for cut in 0..script.len() {
        let end = probe(async |mut raw| {
            raw.send(&script[..cut]).await;
            raw.0.shutdown().await.unwrap();
            let mut rest = Vec::new();
            raw.0.read_to_end(&mut rest).await.unwrap();
        })
        .await
        .unwrap()
        .end;
        let gone = probe(async |mut raw| raw.send(&script[..cut]).await)
            .await
            .unwrap()
            .end;
        assert!(
            matches!(gone, End::HungUp | End::Truncated),
            "at {cut}: {gone}"
        );
        let whole = cut <= before;
        assert_eq!(
            end,
            if whole { End::HungUp } else { End::Truncated },
            "at {cut}"
        );
    }
}
