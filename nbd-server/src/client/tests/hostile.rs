//! A server that lies in transmission: one clean error, every call told, nothing hangs.

use super::*;
use crate::wire::{ChunkHeader, chunk as kind};

/// A client asks once in each of two ways; the server answers the first request (a READ of 64 bytes
/// at 4096, or a BLOCK_STATUS of it) with `bytes`. Both calls must fail with the same error.
async fn breaks(
    offer: &Offer,
    command: u16,
    bytes: impl FnOnce(&Request, bool) -> Vec<u8>,
) -> String {
    let (client, mut server) = connected(offer).await;
    let first = async {
        match command {
            cmd::READ => client.read(4096, 64).await.map(drop),
            cmd::BLOCK_STATUS => client
                .block_status("base:allocation", 4096, 64)
                .await
                .map(drop),
            _ => client.write(4096, vec![0; 64], false).await,
        }
    };
    let other = client.clone();
    let waiting = async { other.flush().await };
    let script = async {
        let (request, _) = server.request().await;
        assert_eq!(request.command, command);
        server.request().await;
        let extended = server.extended;
        server.send(&bytes(&request, extended)).await;
        // The client hangs up.
        let mut rest = Vec::new();
        let _ = server.io.read_to_end(&mut rest).await;
    };
    let all = async { tokio::join!(first, waiting, script) };
    let (first, waiting, ()) = tokio::time::timeout(Duration::from_secs(4), all)
        .await
        .expect("it hangs");
    let text = |r: Result<()>| match r.unwrap_err() {
        ClientError::Protocol(text) => text.into_owned(),
        other => panic!("{other:?}"),
    };
    let (first, waiting) = (text(first), text(waiting));
    assert_eq!(first, waiting);
    assert_eq!(text(client.flush().await), first);
    first
}

fn simple(cookie: u64, error: u32) -> Vec<u8> {
    let mut out = Vec::new();
    wire::SimpleReply { error, cookie }.encode(&mut out);
    out
}

fn header(to: &Request, kind: u16, len: u64, extended: bool) -> Vec<u8> {
    let mut out = Vec::new();
    ChunkHeader {
        flags: 1,
        kind,
        cookie: to.cookie,
        offset: if extended { to.offset } else { 0 },
        len,
    }
    .encode(&mut out, extended);
    out
}

#[tokio::test]
async fn lies_in_simple_replies() {
    let offer = Offer::simple();
    let says = breaks(&offer, cmd::READ, |r, _| simple(r.cookie + 1000, 0)).await;
    assert!(says.contains("never sent"), "{says}");
    let says = breaks(&offer, cmd::READ, |_, _| vec![0; 16]).await;
    assert!(says.contains("wrong magic"), "{says}");
    // Chunks where none were negotiated.
    let says = breaks(&offer, cmd::READ, |r, e| {
        chunk(r, kind::OFFSET_DATA, true, &data(4096, &[1; 64]), e)
    });
    let says = says.await;
    assert!(says.contains("wrong magic"), "{says}");
}

#[tokio::test]
async fn a_second_reply_to_one_request_answers_nobody_elses() {
    let (client, mut server) = connected(&Offer::simple()).await;
    let script = async {
        let (r, _) = server.request().await;
        server.request().await;
        server.send(&simple(r.cookie, 0).repeat(2)).await;
    };
    let write = client.write(0, vec![0; 64], false);
    let (written, flushed, ()) = tokio::join!(write, client.flush(), script);
    written.unwrap();
    let error = flushed.unwrap_err();
    assert!(error.to_string().contains("never sent"), "{error}");
}

#[tokio::test]
async fn lies_about_data() {
    type Lie = fn(&Request, bool) -> Vec<u8>;
    let lies: &[(Lie, &str)] = &[
        (
            |r, e| chunk(r, kind::OFFSET_DATA, true, &data(4095, &[1; 2]), e),
            "outside",
        ),
        (
            |r, e| chunk(r, kind::OFFSET_DATA, true, &data(4159, &[1; 2]), e),
            "outside",
        ),
        (
            |r, e| chunk(r, kind::OFFSET_DATA, true, &data(u64::MAX, &[1; 2]), e),
            "outside",
        ),
        (
            |r, e| header(r, kind::OFFSET_DATA, 64 + 9, e),
            "does not fit",
        ),
        (
            |r, e| header(r, kind::OFFSET_DATA, u64::from(u32::MAX), e),
            "does not fit",
        ),
        (|r, e| header(r, kind::OFFSET_DATA, 8, e), "does not fit"),
        (|r, e| header(r, kind::OFFSET_DATA, 0, e), "does not fit"),
        (
            |r, e| chunk(r, kind::OFFSET_DATA, true, &data(4096, &[1; 63]), e),
            "bytes missing",
        ),
        (|r, e| chunk(r, kind::NONE, true, &[], e), "bytes missing"),
        (|r, e| chunk(r, kind::NONE, false, &[], e), "does not fit"),
        (|r, e| chunk(r, kind::NONE, true, &[1], e), "does not fit"),
        (
            |r, e| chunk(r, kind::OFFSET_HOLE, true, &wire::hole_payload(4096, 65), e),
            "outside",
        ),
        (
            |r, e| chunk(r, kind::OFFSET_HOLE, true, &wire::hole_payload(4096, 0), e),
            "outside",
        ),
        (
            |r, e| chunk(r, kind::OFFSET_HOLE, true, &[0; 11], e),
            "does not fit",
        ),
        (
            |r, e| {
                let mut out = chunk(r, kind::OFFSET_DATA, false, &data(4096, &[1; 64]), e);
                out.extend(chunk(
                    r,
                    kind::OFFSET_HOLE,
                    true,
                    &wire::hole_payload(4100, 1),
                    e,
                ));
                out
            },
            "data twice",
        ),
        (
            |r, e| {
                let piece = chunk(r, kind::OFFSET_DATA, false, &data(4096, &[1; 32]), e);
                [piece.clone(), piece].concat()
            },
            "data twice",
        ),
        (|r, e| chunk(r, 77, true, &[0; 8], e), "does not fit"),
        (
            |r, e| chunk(r, kind::ERROR, true, &[0, 0, 0, 5], e),
            "does not fit",
        ),
        (
            |r, e| chunk(r, kind::ERROR, true, &[0, 0, 0, 5, 0, 9], e),
            "malformed error",
        ),
        (
            |r, e| chunk(r, kind::ERROR, true, &[0; 6], e),
            "malformed error",
        ),
        (|r, e| header(r, kind::ERROR, 1 << 20, e), "does not fit"),
        (
            |r, e| {
                let error = wire::error_payload(5, "again", None);
                chunk(r, kind::ERROR, false, &error, e).repeat(100)
            },
            "without end",
        ),
        (
            |r, e| chunk(r, kind::BLOCK_STATUS, true, &[0; 12], e),
            "status chunk that does not fit",
        ),
    ];
    for offer in [Offer::structured(), Offer::extended()] {
        for (n, (lie, says)) in lies.iter().enumerate() {
            let text = breaks(&offer, cmd::READ, lie).await;
            assert!(text.contains(says), "lie {n}: {text}");
        }
    }
    let structured = Offer::structured();
    let text = breaks(&structured, cmd::READ, |r, _| simple(r.cookie, 0)).await;
    assert!(text.contains("where chunks are due"), "{text}");
    let extended = Offer::extended();
    let text = breaks(&extended, cmd::READ, |r, _| {
        chunk(r, kind::OFFSET_DATA, true, &data(4096, &[1; 64]), false)
    });
    let text = text.await;
    assert!(text.contains("wrong magic"), "{text}");
    let text = breaks(&extended, cmd::READ, |r, e| {
        let moved = Request { offset: 0, ..*r };
        chunk(&moved, kind::OFFSET_DATA, true, &data(4096, &[1; 64]), e)
    });
    let text = text.await;
    assert!(text.contains("another offset"), "{text}");
}

#[tokio::test]
async fn lies_about_block_status() {
    fn status(r: &Request, id: u32, list: &[u64], e: bool) -> Vec<u8> {
        let list: Vec<_> = list
            .iter()
            .map(|len| StatusExtent {
                len: *len,
                flags: 0,
            })
            .collect();
        let payload = wire::status_payload(id, &list, e);
        let kind = if e {
            kind::BLOCK_STATUS_EXT
        } else {
            kind::BLOCK_STATUS
        };
        chunk(r, kind, true, &payload, e)
    }
    type Lie = fn(&Request, bool) -> Vec<u8>;
    let lies: &[(Lie, &str)] = &[
        (|r, e| status(r, 8, &[64], e), "not asked for"),
        (|r, e| status(r, 7, &[], e), "malformed or empty"),
        (|r, e| status(r, 7, &[0, 64], e), "malformed or empty"),
        (|r, e| status(r, 7, &[64, 1], e), "behind the request"),
        (|r, e| status(r, 7, &[1 << 20], e), "past the disk's end"),
        (
            |r, e| chunk(r, kind::NONE, true, &[], e),
            "without every context",
        ),
        (
            |r, e| chunk(r, kind::OFFSET_DATA, true, &data(4096, &[1; 8]), e),
            "does not fit",
        ),
        (
            |r, e| header(r, if e { 6 } else { 5 }, 20 << 20, e),
            "status chunk that does not fit",
        ),
        (
            |r, e| chunk(r, if e { 5 } else { 6 }, true, &[0; 24], e),
            "does not fit",
        ),
        (
            |r, e| chunk(r, if e { 6 } else { 5 }, true, &[], e),
            "without its payload",
        ),
    ];
    for offer in [Offer::structured(), Offer::extended()] {
        for (n, (lie, says)) in lies.iter().enumerate() {
            let text = breaks(&offer, cmd::BLOCK_STATUS, lie).await;
            assert!(text.contains(says), "lie {n}: {text}");
        }
    }
}

#[tokio::test]
async fn a_server_that_stops_is_given_up() {
    for after in [0, 10, 16, 40] {
        let options = ConnectOptions {
            reply_timeout: Duration::from_millis(60),
            ..options()
        };
        let (client, mut server) = connected_with(&Offer::simple(), options).await;
        let script = async {
            let (r, _) = server.request().await;
            let mut reply = simple(r.cookie, 0);
            reply.extend([1; 512]);
            server.send(&reply[..after]).await;
        };
        let (read, (), waiting) = tokio::join!(client.read(0, 512), script, client.flush());
        for error in [read.unwrap_err(), waiting.unwrap_err()] {
            assert!(matches!(error, ClientError::Timeout(_)), "{error:?}");
        }
    }
}

#[tokio::test]
async fn a_server_that_closes_fails_what_waits() {
    let (client, mut server) = connected(&Offer::structured()).await;
    let script = async {
        server.request().await;
        server.io.shutdown().await.unwrap();
        drop(server);
    };
    let (read, ()) = tokio::join!(client.read(0, 512), script);
    assert!(matches!(read, Err(ClientError::Io(_))), "{read:?}");
    let later = client.read(0, 512).await.unwrap_err();
    assert!(matches!(later, ClientError::Io(_)), "{later:?}");
    assert!(client.ended().is_some());
}

/// A server that tells a byte at a time, alternating or not, is not followed without end.
#[tokio::test]
async fn a_map_of_endless_extents_is_refused_and_the_connection_lives() {
    for odd in [0, 1] {
        let offer = Offer {
            size: 1 << 30,
            ..Offer::structured()
        };
        let (client, mut server) = connected(&offer).await;
        let list: Vec<_> = (0..1_u32 << 17)
            .map(|n| StatusExtent {
                len: 1,
                flags: n & odd,
            })
            .collect();
        let payload = wire::status_payload(7, &list, false);
        let script = async {
            let mut asked = 0;
            loop {
                let (r, _) = server.request().await;
                if r.command != cmd::BLOCK_STATUS {
                    server.send(&chunk(&r, kind::NONE, true, &[], false)).await;
                    return asked;
                }
                asked += 1;
                let reply = chunk(&r, kind::BLOCK_STATUS, true, &payload, false);
                server.send(&reply).await;
            }
        };
        let calls = async {
            let error = client.map("base:allocation", 0, 1 << 30).await.unwrap_err();
            let most = MAX_EXTENTS;
            assert!(
                matches!(error, ClientError::TooManyExtents { most: m, .. } if m == most),
                "{error}"
            );
            client.flush().await.unwrap();
        };
        let ((), asked) = tokio::join!(calls, script);
        assert_eq!(asked, 9);
    }
}

#[tokio::test]
async fn extents_are_of_whole_blocks_except_at_the_end() {
    let offer = Offer {
        size: 10_000,
        block_size: Some(BlockSize {
            minimum: 512,
            preferred: 4096,
            maximum: 1 << 20,
        }),
        ..Offer::structured()
    };
    for (first, good) in [(512, true), (513, false), (1, false)] {
        let (client, mut server) = connected(&offer).await;
        let script = async {
            let (r, _) = server.request().await;
            let list = [first, r.len - first].map(|len| StatusExtent { len, flags: 0 });
            let payload = wire::status_payload(7, &list, false);
            let reply = chunk(&r, kind::BLOCK_STATUS, true, &payload, false);
            server.send(&reply).await;
        };
        let asked = client.block_status("base:allocation", 0, 9728);
        let (told, ()) = tokio::join!(asked, script);
        match told {
            Ok(list) => assert!(good && list.len() == 2, "{first}"),
            Err(ClientError::Protocol(text)) => {
                assert!(!good && text.contains("broken blocks"), "{text}");
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}
