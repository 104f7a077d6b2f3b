//! Requests and replies of a good server, in all three forms.

use super::*;
use crate::wire::{STATE_HOLE, STATE_ZERO, chunk as kind, cmd_flags};

#[tokio::test]
async fn replies_are_matched_by_cookie_in_any_order() {
    let (client, mut server) = connected(&Offer::simple()).await;
    let reads = join_all((0..8u64).map(|i| {
        let client = client.clone();
        async move { client.read(i * 512, 512).await.unwrap() }
    }));
    let script = async {
        let mut asked = Vec::new();
        for _ in 0..8 {
            asked.push(server.request().await.0);
        }
        for request in asked.iter().rev() {
            let fill = u8::try_from(request.offset / 512).unwrap();
            server.simple(request.cookie, 0, &[fill; 512]).await;
        }
    };
    let (found, ()) = tokio::join!(reads, script);
    for (i, bytes) in (0u8..).zip(found) {
        assert_eq!(bytes, [i; 512]);
    }
}

#[tokio::test]
async fn a_write_is_moved_split_and_marked() {
    for offer in [Offer::simple(), Offer::extended()] {
        let options = ConnectOptions {
            max_payload: 1000,
            max_requests: 2,
            ..options()
        };
        let offer = Offer {
            block_size: Some(BlockSize {
                minimum: 512,
                preferred: 4096,
                maximum: 32 << 20,
            }),
            ..offer
        };
        let (client, mut server) = connected_with(&offer, options).await;
        let content: Vec<u8> = (0..2048usize).map(|i| (i / 8).to_le_bytes()[0]).collect();
        let script = async {
            let mut disk = vec![0; 4096];
            for _ in 0..4 {
                let (request, payload) = server.request().await;
                // 1000 is no multiple of the server's unit: 512 is.
                assert_eq!((request.command, request.len), (cmd::WRITE, 512));
                let expected = if server.extended {
                    cmd_flags::FUA | cmd_flags::PAYLOAD_LEN
                } else {
                    cmd_flags::FUA
                };
                assert_eq!(request.flags, expected);
                let at = usize::try_from(request.offset).unwrap();
                disk[at..at + 512].copy_from_slice(&payload);
                if server.extended {
                    server.chunk(&request, kind::NONE, true, &[]).await;
                } else {
                    server.simple(request.cookie, 0, &[]).await;
                }
            }
            disk
        };
        let (written, disk) = tokio::join!(client.write(1024, content.clone(), true), script);
        written.unwrap();
        assert_eq!(disk[1024..3072], content);
    }
}

#[tokio::test]
async fn a_structured_read_comes_in_pieces_of_any_order() {
    for offer in [Offer::structured(), Offer::extended()] {
        let (client, mut server) = connected(&offer).await;
        // The caller's buffer is reused, so a hole must really be zeroed.
        let read = client.read_into(100, vec![0xaa; 30]);
        let script = async {
            let (r, _) = server.request().await;
            let hole = wire::hole_payload(110, 10);
            server.chunk(&r, kind::OFFSET_HOLE, false, &hole).await;
            let last = data(120, &[3; 10]);
            server.chunk(&r, kind::OFFSET_DATA, false, &last).await;
            let first = data(100, &[1; 10]);
            server.chunk(&r, kind::OFFSET_DATA, true, &first).await;
        };
        let (bytes, ()) = tokio::join!(read, script);
        assert_eq!(bytes.unwrap(), [[1; 10], [0; 10], [3; 10]].concat());
    }
}

#[tokio::test]
async fn a_remote_error_fails_its_call_alone() {
    let (client, mut server) = connected(&Offer::structured()).await;
    let script = async {
        let (r, _) = server.request().await;
        let some = data(0, &[1; 8]);
        server.chunk(&r, kind::OFFSET_DATA, false, &some).await;
        let error = wire::error_payload(5, "disk \x07on fire", Some(9));
        server.chunk(&r, kind::ERROR_OFFSET, false, &error).await;
        server.chunk(&r, kind::NONE, true, &[]).await;
        let (r, _) = server.request().await;
        server.simple(r.cookie, 28, &[]).await;
        let (r, _) = server.request().await;
        server.simple(r.cookie, 0, &[]).await;
    };
    let calls = async {
        let error = client.read(0, 512).await.unwrap_err();
        assert_eq!(error.errno(), Some(NbdErrno::Io));
        assert_eq!(
            error.to_string(),
            "READ at byte 0 failed on the server: input/output error: disk  on fire"
        );
        let error = client.write(0, vec![1; 512], false).await.unwrap_err();
        assert_eq!(error.errno(), Some(NbdErrno::NoSpace));
        assert!(!error.is_fatal());
        client.flush().await.unwrap();
        assert!(client.ended().is_none());
    };
    tokio::join!(calls, script);
}

use crate::error::NbdError as NbdErrno;

#[tokio::test]
async fn long_zeroes_and_trims_fit_the_headers_in_use() {
    for offer in [Offer::simple(), Offer::extended()] {
        let size = 10u64 << 30;
        let offer = Offer { size, ..offer };
        let parts = if offer.extended { 1 } else { 3 };
        let (client, mut server) = connected(&offer).await;
        let script = async {
            let mut total = 0;
            for _ in 0..parts * 2 {
                let (r, _) = server.request().await;
                total += r.len;
                if r.command == cmd::WRITE_ZEROES {
                    assert_eq!(r.flags, cmd_flags::NO_HOLE | cmd_flags::FAST_ZERO);
                }
                if server.extended {
                    server.chunk(&r, kind::NONE, true, &[]).await;
                } else {
                    server.simple(r.cookie, 0, &[]).await;
                }
            }
            assert_eq!(total, 2 * size);
        };
        let calls = async {
            let how = ZeroFlags {
                no_hole: true,
                fast: true,
            };
            client.write_zeroes(0, size, how, false).await.unwrap();
            client.trim(0, size).await.unwrap();
        };
        tokio::join!(calls, script);
    }
}

#[tokio::test]
async fn block_status_is_cut_to_the_request_and_mapped_to_its_end() {
    for offer in [Offer::structured(), Offer::extended()] {
        let (client, mut server) = connected(&offer).await;
        let extents = |list: &[(u64, u32)], ext| {
            let list: Vec<_> = list
                .iter()
                .map(|(len, flags)| StatusExtent {
                    len: *len,
                    flags: *flags,
                })
                .collect();
            wire::status_payload(7, &list, ext)
        };
        let script = async {
            let ext = server.extended;
            let kind = if ext {
                kind::BLOCK_STATUS_EXT
            } else {
                kind::BLOCK_STATUS
            };
            let hole = STATE_HOLE | STATE_ZERO;
            for (at, list) in [
                (4096, vec![(4096, 0), (4096, hole)]),
                (12288, vec![(4096, hole), (1 << 19, 0)]),
            ] {
                let (r, _) = server.request().await;
                assert_eq!(
                    (r.command, r.offset, r.len),
                    (cmd::BLOCK_STATUS, at, 20480 - at)
                );
                server.chunk(&r, kind, true, &extents(&list, ext)).await;
            }
        };
        let (map, ()) = tokio::join!(client.map("base:allocation", 4096, 16384), script);
        let map: Vec<_> = map
            .unwrap()
            .iter()
            .map(|(at, e)| (*at, e.len, e.flags))
            .collect();
        assert_eq!(map, [(4096, 4096, 0), (8192, 8192, 3), (16384, 4096, 0)]);
        let unknown = client.block_status("qemu:x", 0, 512).await.unwrap_err();
        assert!(unknown.to_string().contains("not negotiated"));
        assert!(
            client
                .block_status("base:allocation", 0, 0)
                .await
                .unwrap()
                .is_empty()
        );
    }
}

#[tokio::test]
async fn what_the_export_cannot_do_is_not_sent() {
    let offer = Offer {
        flags: export_flags::HAS_FLAGS | export_flags::READ_ONLY,
        block_size: Some(BlockSize {
            minimum: 512,
            preferred: 4096,
            maximum: 1 << 20,
        }),
        ..Offer::simple()
    };
    let (client, _server) = connected(&offer).await;
    let how = ZeroFlags::default();
    let fast = ZeroFlags {
        fast: true,
        ..ZeroFlags::default()
    };
    for (result, says) in [
        (client.read(1 << 20, 512).await.map(drop), "leave the disk"),
        (client.read(u64::MAX, 512).await.map(drop), "leave the disk"),
        (client.read(0, 100).await.map(drop), "whole blocks of 512"),
        (client.write(7, vec![0; 512], false).await, "whole blocks"),
        (client.write(0, vec![0; 512], false).await, "read-only"),
        (client.trim(0, 512).await, "read-only"),
        (client.write_zeroes(0, 512, how, true).await, "read-only"),
        (client.write_zeroes(0, 512, fast, true).await, "FAST_ZERO"),
        (client.flush().await, "no FLUSH"),
    ] {
        let error = result.unwrap_err();
        assert!(matches!(error, ClientError::Request { .. }), "{error:?}");
        assert!(error.to_string().contains(says), "{says}: {error}");
    }
    assert_eq!(client.read(512, 0).await.unwrap(), Vec::<u8>::new());
}

#[tokio::test]
async fn fua_is_a_flush_where_the_server_has_none() {
    let flags = export_flags::HAS_FLAGS | export_flags::SEND_FLUSH;
    let offer = Offer {
        flags,
        ..Offer::simple()
    };
    let (client, mut server) = connected(&offer).await;
    let script = async {
        for command in [cmd::WRITE, cmd::FLUSH] {
            let (r, _) = server.request().await;
            assert_eq!((r.command, r.flags), (command, 0));
            server.simple(r.cookie, 0, &[]).await;
        }
    };
    let (done, ()) = tokio::join!(client.write(0, vec![1; 10], true), script);
    done.unwrap();
}

#[tokio::test]
async fn disconnect_waits_for_replies_and_the_last_handle_says_disc() {
    let (client, mut server) = connected(&Offer::simple()).await;
    let other = client.clone();
    let script = async {
        let (r, _) = server.request().await;
        assert_eq!(r.command, cmd::WRITE);
        tokio::time::sleep(Duration::from_millis(20)).await;
        server.simple(r.cookie, 0, &[]).await;
        assert_eq!(server.request().await.0.command, cmd::DISC);
        let mut rest = Vec::new();
        server.io.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
        drop(server);
    };
    let write = client.write(0, vec![1; 512], false);
    let leave = async {
        tokio::task::yield_now().await;
        other.disconnect().await;
    };
    let (written, (), ()) = tokio::join!(write, leave, script);
    written.unwrap();
    assert!(matches!(client.read(0, 1).await, Err(ClientError::Closed)));
    assert!(matches!(client.ended(), Some(ClientError::Closed)));
    client.disconnect().await;

    let (client, mut server) = connected(&Offer::extended()).await;
    drop(client);
    assert_eq!(server.request().await.0.command, cmd::DISC);
}

#[tokio::test]
async fn the_quota_bounds_what_is_in_flight() {
    let options = ConnectOptions {
        max_bytes: 1024,
        ..options()
    };
    let (client, mut server) = connected_with(&Offer::simple(), options).await;
    let writes = join_all((0..4u64).map(|i| {
        let client = client.clone();
        async move { client.write(i * 512, vec![1; 512], false).await.unwrap() }
    }));
    let script = async {
        for _ in 0..2 {
            let first = server.request().await.0;
            let second = server.request().await.0;
            let third = tokio::time::timeout(Duration::from_millis(20), server.io.read_u8()).await;
            assert!(third.is_err());
            server.simple(first.cookie, 0, &[]).await;
            server.simple(second.cookie, 0, &[]).await;
        }
    };
    tokio::join!(writes, script);
    // One request beyond the quota still goes, alone.
    let write = client.write(0, vec![1; 4096], false);
    let script = async {
        let (r, _) = server.request().await;
        server.simple(r.cookie, 0, &[]).await;
    };
    let (done, ()) = tokio::join!(write, script);
    done.unwrap();
}

#[tokio::test]
async fn a_dropped_call_leaves_the_others_in_order() {
    let (client, mut server) = connected(&Offer::simple()).await;
    let dropped = tokio::time::timeout(Duration::from_millis(20), client.read(0, 512));
    assert!(dropped.await.is_err());
    let script = async {
        let (first, _) = server.request().await;
        let (second, _) = server.request().await;
        server.simple(first.cookie, 0, &[9; 512]).await;
        server.simple(second.cookie, 0, &[5; 512]).await;
    };
    let (bytes, ()) = tokio::join!(client.read(512, 512), script);
    assert_eq!(bytes.unwrap(), [5; 512]);
}
