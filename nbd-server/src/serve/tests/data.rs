//! Data through the wire: order, cutting, flushing, holes, errors in the middle.

use super::*;
use crate::wire::{
    chunk, cmd, cmd_flags, meta_context_data, parse_error_payload, parse_hole_payload,
    parse_status_payload,
};

const STRUCTURED: &[u32] = &[opt::STRUCTURED_REPLY];

fn disk() -> Rc<Spy> {
    Spy::new(ExportInfo::writable(1 << 20))
}

#[tokio::test]
async fn a_long_write_is_cut_on_clusters_and_flushed_once_before_the_reply() {
    let spy = disk();
    against(
        &spy,
        FewPool::new(1),
        ServeConfig::default(),
        async |mut raw| {
            raw.go(&[]).await;
            raw.request(cmd::WRITE, cmd_flags::FUA, 512, 200_000).await;
            raw.send(&vec![9; 200_000]).await;
            assert_eq!(raw.simple().await, 0);
            raw.request(
                cmd::WRITE_ZEROES,
                cmd_flags::FUA | cmd_flags::NO_HOLE,
                0,
                1 << 20,
            )
            .await;
            assert_eq!(raw.simple().await, 0);
            raw.request(cmd::TRIM, cmd_flags::FUA, 7, 9).await;
            assert_eq!(raw.simple().await, 0);
        },
    )
    .await
    .0
    .unwrap();
    let expected = [
        "write 512 65024",
        "write 65536 65536",
        "write 131072 65536",
        "write 196608 3904",
        "flush",
        "zero 0 1048576 true false",
        "flush",
        "trim 7 9",
        "flush",
    ];
    assert_eq!(*spy.log.borrow(), expected);
    let bytes = spy.bytes.borrow();
    assert!(bytes[512..200_512].iter().all(|byte| *byte == 9));
    assert_eq!((bytes[511], bytes[200_512]), (0, 140));
}

#[tokio::test]
async fn a_failed_part_fails_the_write_and_nothing_is_flushed() {
    let spy = disk();
    spy.bad.set(Some(70_000));
    against(
        &spy,
        FewPool::new(2),
        ServeConfig::default(),
        async |mut raw| {
            raw.go(STRUCTURED).await;
            raw.request(cmd::WRITE, cmd_flags::FUA, 0, 200_000).await;
            raw.send(&vec![9; 200_000]).await;
            let (header, payload) = raw.chunk(false).await;
            assert_eq!((header.kind, header.done()), (chunk::ERROR_OFFSET, true));
            let (error, text, offset) = parse_error_payload(&payload).unwrap();
            assert_eq!(
                (error, text, offset),
                (5, "input/output error", Some(65536))
            );
        },
    )
    .await
    .0
    .unwrap();
    assert!(!spy.log.borrow().contains(&"flush".to_owned()));
}

/// A long simple READ, small ones and writes all at once, over two buffers each.
#[tokio::test]
async fn simple_replies_never_interleave_and_an_empty_pool_does_not_deadlock() {
    let spy = disk();
    let (end, ()) = against(&spy, FewPool::new(1), ServeConfig::default(), async |raw| {
        let mut raw = raw;
        raw.go(&[]).await;
        let (read, mut write) = tokio::io::split(raw.0);
        let mut raw = Raw(tokio::io::join(read, tokio::io::sink()));
        let mut lengths = std::collections::BTreeMap::new();
        let mut script = Vec::new();
        for turn in 0..60_u64 {
            let at = turn * 512;
            let (command, len) = match turn % 4 {
                0 => (cmd::READ, 700_000),
                1 => (cmd::READ, 5_000),
                2 => (cmd::WRITE, 150_000),
                _ => (cmd::FLUSH, 0),
            };
            lengths.insert(at, if command == cmd::READ { len } else { 0 });
            script.extend(request(command, 0, at, len, false));
            if command == cmd::WRITE {
                let from = usize::try_from(at).unwrap();
                script.extend_from_slice(&spy.bytes.borrow()[from..from + 150_000]);
            }
        }
        let expected = spy.bytes.borrow().clone();
        let answers = async {
            while !lengths.is_empty() {
                let head = raw.take(16).await;
                let head = SimpleReply::decode(&head).unwrap();
                assert_eq!(head.error, 0);
                let len = usize::try_from(lengths.remove(&head.cookie).unwrap()).unwrap();
                let at = usize::try_from(head.cookie).unwrap();
                assert!(raw.take(len).await == expected[at..at + len]);
            }
        };
        tokio::join!(write.write_all(&script), answers).0.unwrap();
        write.shutdown().await.unwrap();
    })
    .await;
    assert_eq!(end.unwrap().counts.requests, 60);
}

#[tokio::test]
async fn structured_reads_come_in_chunks_whatever_the_pool_holds() {
    let spy = disk();
    let (end, ()) = against(
        &spy,
        FewPool::new(1),
        ServeConfig::default(),
        async |mut raw| {
            raw.go(STRUCTURED).await;
            for at in 0..8 {
                raw.request(cmd::READ, 0, at, 900_000).await;
            }
            let mut got: Vec<Vec<Option<u8>>> = vec![vec![None; 900_000]; 8];
            let mut open = 8;
            while open > 0 {
                let (header, payload) = raw.chunk(false).await;
                open -= u32::from(header.done());
                if header.kind == chunk::NONE {
                    continue;
                }
                assert_eq!(header.kind, chunk::OFFSET_DATA);
                let at = u64::from_be_bytes(payload[..8].try_into().unwrap()) - header.cookie;
                let into = &mut got[usize::try_from(header.cookie).unwrap()];
                for (to, from) in into[usize::try_from(at).unwrap()..]
                    .iter_mut()
                    .zip(&payload[8..])
                {
                    assert_eq!(to.replace(*from), None);
                }
            }
            for (at, got) in got.into_iter().enumerate() {
                let got: Option<Vec<u8>> = got.into_iter().collect();
                assert!(got.unwrap() == spy.bytes.borrow()[at..at + 900_000]);
            }
        },
    )
    .await;
    assert_eq!(end.unwrap().counts.bytes_read, 8 * 900_000);
}

#[tokio::test]
async fn zero_ranges_travel_as_holes_but_not_with_df() {
    let spy = Rc::new(Spy {
        extent: 128 << 10,
        ..Rc::into_inner(disk()).unwrap()
    });
    against(
        &spy,
        FewPool::new(4),
        ServeConfig::default(),
        async |mut raw| {
            raw.go(STRUCTURED).await;
            raw.request(cmd::READ, 0, 64 << 10, 256 << 10).await;
            let (mut holes, mut data) = (Vec::new(), 0);
            loop {
                let (header, payload) = raw.chunk(false).await;
                match header.kind {
                    chunk::OFFSET_HOLE => holes.push(parse_hole_payload(&payload).unwrap()),
                    chunk::OFFSET_DATA => data += payload.len() - 8,
                    _ => {}
                }
                if header.done() {
                    break;
                }
            }
            assert_eq!((holes, data), (vec![(128 << 10, 128 << 10)], 128 << 10));
            raw.request(cmd::READ, cmd_flags::DF, 128 << 10, 64 << 10)
                .await;
            let (header, payload) = raw.chunk(false).await;
            assert_eq!(
                (header.kind, payload.len()),
                (chunk::OFFSET_DATA, (64 << 10) + 8)
            );
            raw.request(cmd::READ, cmd_flags::DF, 0, 65 << 10).await;
            let (header, payload) = raw.chunk(false).await;
            assert_eq!(header.kind, chunk::ERROR);
            assert_eq!(parse_error_payload(&payload).unwrap().0, 75);
        },
    )
    .await
    .0
    .unwrap();
}

#[tokio::test]
async fn a_read_that_fails_in_the_middle() {
    let spy = disk();
    spy.bad.set(Some(100_000));
    against(
        &spy,
        FewPool::new(4),
        ServeConfig::default(),
        async |mut raw| {
            raw.go(STRUCTURED).await;
            raw.request(cmd::READ, 0, 0, 200_000).await;
            loop {
                let (header, payload) = raw.chunk(false).await;
                if header.kind & chunk::ERROR_BIT != 0 {
                    assert_eq!(parse_error_payload(&payload).unwrap().2, Some(65536));
                    assert!(header.done());
                    break;
                }
            }
            raw.request(cmd::READ, 0, 0, 512).await;
            assert!(raw.chunk(false).await.0.done());
        },
    )
    .await
    .0
    .unwrap();
    // A simple reply that has begun has no other way than to hang up.
    let (end, ()) = against(
        &spy,
        FewPool::new(4),
        ServeConfig::default(),
        async |mut raw| {
            raw.go(&[]).await;
            raw.request(cmd::READ, 0, 65536, 65536).await;
            assert_eq!(raw.simple().await, 5);
            raw.request(cmd::READ, 0, 0, 200_000).await;
            let mut rest = Vec::new();
            raw.0.read_to_end(&mut rest).await.unwrap();
            assert!(rest.len() <= 16 + 65536);
        },
    )
    .await;
    assert_eq!(end.unwrap().end, End::ReadFailed);
}

#[tokio::test]
async fn block_status_of_two_contexts_compact_and_extended() {
    let mut info = ExportInfo::writable(1 << 20);
    info.contexts = vec!["x:changed".into()];
    for extended in [false, true] {
        let spy = Spy::new(info.clone());
        let spy = Rc::new(Spy {
            extent: 256 << 10,
            ..Rc::into_inner(spy).unwrap()
        });
        against(
            &spy,
            FewPool::new(1),
            ServeConfig::default(),
            async |mut raw| {
                raw.hello().await;
                let mode = if extended {
                    opt::EXTENDED_HEADERS
                } else {
                    opt::STRUCTURED_REPLY
                };
                assert_eq!(raw.ends(mode, b"").await, rep::ACK);
                let meta = meta_context_data("good", &["base:allocation", "x:changed"]);
                assert_eq!(raw.ends(opt::SET_META_CONTEXT, &meta).await, rep::ACK);
                assert_eq!(raw.ends(opt::GO, &go_data("good", &[])).await, rep::ACK);
                for (flags, count) in [(0, 4), (cmd_flags::REQ_ONE, 1)] {
                    raw.send(&request(cmd::BLOCK_STATUS, flags, 0, 1 << 20, extended))
                        .await;
                    for context in [0, 1] {
                        let (header, payload) = raw.chunk(extended).await;
                        let (id, extents) = parse_status_payload(&payload, extended).unwrap();
                        assert_eq!(
                            (id, extents.len(), header.done()),
                            (context, count, context == 1)
                        );
                        assert!(extents.iter().all(|extent| extent.len == 256 << 10));
                    }
                }
            },
        )
        .await
        .0
        .unwrap();
    }
}

#[tokio::test]
async fn replies_of_requests_in_flight_reach_a_client_that_only_stopped_sending() {
    let spy = disk();
    let (end, ()) = against(
        &spy,
        FewPool::new(2),
        ServeConfig::default(),
        async |mut raw| {
            raw.go(&[]).await;
            raw.request(cmd::WRITE, cmd_flags::FUA, 0, 512).await;
            raw.send(&[1; 512]).await;
            raw.0.shutdown().await.unwrap();
            assert_eq!(raw.simple().await, 0);
            raw.eof().await;
        },
    )
    .await;
    assert_eq!(end.unwrap().end, End::HungUp);
    assert_eq!(*spy.log.borrow(), ["write 0 512", "flush"]);
}
