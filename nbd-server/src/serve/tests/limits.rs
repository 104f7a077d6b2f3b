//! Time and memory: who is cut, who may stay, what is never held.

use std::time::Duration;

use tokio::time::sleep;

use super::*;
use crate::registry::RefuseAll;
use crate::wire::{cmd, cmd_flags};

#[tokio::test(start_paused = true)]
async fn a_slow_handshake_is_cut_and_an_idle_connection_stays() {
    let end = probe(async |mut raw| {
        raw.hello().await;
        raw.eof().await;
    })
    .await;
    assert!(matches!(end, Err(ServeError::Timeout(limit)) if limit == Duration::from_secs(10)));
    let end = probe(async |mut raw| {
        raw.go(&[]).await;
        sleep(Duration::from_secs(1 << 20)).await;
        raw.request(cmd::FLUSH, 0, 0, 0).await;
        assert_eq!(raw.simple().await, 0);
    })
    .await;
    assert_eq!(end.unwrap().end, End::HungUp);
}

#[tokio::test(start_paused = true)]
async fn a_half_sent_message_is_cut_after_thirty_seconds() {
    let whole = request(cmd::WRITE, 0, 0, 100_000, false);
    for sent in [5, 28] {
        let end = probe(async |mut raw| {
            raw.go(&[]).await;
            raw.send(&whole[..sent]).await;
            raw.eof().await;
        })
        .await;
        assert_eq!(end.unwrap().end, End::ReceiveStalled);
    }
    // A byte now and then is no progress; sixteen thousand are.
    for (step, expected) in [(1, End::ReceiveStalled), (20_000, End::HungUp)] {
        let spy = Spy::new(ExportInfo::writable(1 << 20));
        let drip = async |mut raw: Raw| {
            raw.go(&[]).await;
            raw.send(&whole).await;
            for _ in 0..5 {
                sleep(Duration::from_secs(20)).await;
                if raw.0.write_all(&vec![1; step]).await.is_err() {
                    return;
                }
            }
            assert_eq!(raw.simple().await, 0);
        };
        let (end, ()) = against(&spy, FewPool::new(1), ServeConfig::default(), drip).await;
        assert_eq!(end.unwrap().end, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_take_its_replies_is_cut() {
    for mode in [&[][..], &[opt::STRUCTURED_REPLY]] {
        let end = probe(async |mut raw| {
            raw.go(mode).await;
            for at in 0..4 {
                raw.request(cmd::READ, 0, at, 900_000).await;
            }
            sleep(Duration::from_secs(60)).await;
        })
        .await;
        assert_eq!(end.unwrap().end, End::SendStalled);
    }
}

/// Waiting for our own storage is not the peer's fault, however long it takes.
#[tokio::test(start_paused = true)]
async fn slow_storage_holds_receiving_back_and_cuts_nobody() {
    let spy = Spy::new(ExportInfo::writable(1 << 20));
    spy.gate.forget_permits(1 << 20);
    let (end, ()) = against(
        &spy,
        FewPool::new(1),
        ServeConfig::default(),
        async |mut raw| {
            raw.go(&[]).await;
            raw.request(cmd::WRITE, 0, 0, 200_000).await;
            let sent = async {
                raw.send(&vec![1; 200_000]).await;
                assert_eq!(raw.simple().await, 0);
            };
            let open = async {
                sleep(Duration::from_secs(500)).await;
                assert!(spy.log.borrow().is_empty());
                spy.gate.add_permits(100);
            };
            tokio::join!(sent, open);
        },
    )
    .await;
    assert_eq!(end.unwrap().counts.bytes_written, 200_000);
}

#[tokio::test(start_paused = true)]
async fn operations_in_flight_are_awaited_for_a_bounded_time() {
    let spy = Spy::new(ExportInfo::writable(1 << 20));
    spy.gate.forget_permits(1 << 20);
    let started = Instant::now();
    let (end, ()) = against(
        &spy,
        FewPool::new(1),
        ServeConfig::default(),
        async |mut raw| {
            raw.go(&[]).await;
            raw.request(cmd::WRITE, 0, 0, 512).await;
            raw.send(&[1; 512]).await;
            raw.request(cmd::DISC, 0, 0, 0).await;
        },
    )
    .await;
    assert_eq!(end.unwrap().end, End::Disconnected);
    assert_eq!(started.elapsed().as_secs(), 30);
    assert_eq!(Rc::strong_count(&spy), 1);
}

/// Tiny limits: every request still gets its answer.
#[tokio::test]
async fn everything_works_within_one_request_and_one_buffer() {
    let limits = Limits {
        requests: 1,
        receive_bytes: 4096,
        reply_bytes: 4096,
        ..Limits::default()
    };
    for mode in [&[][..], &[opt::STRUCTURED_REPLY]] {
        let spy = Spy::new(ExportInfo::writable(1 << 20));
        let cfg = ServeConfig {
            limits: limits.clone(),
            ..ServeConfig::default()
        };
        let (end, ()) = against(&spy, FewPool::new(1), cfg, async |mut raw| {
            raw.go(mode).await;
            raw.request(cmd::WRITE, cmd_flags::FUA, 1000, 20_000).await;
            raw.send(&[7; 20_000]).await;
            assert_eq!(raw.simple().await, 0);
            raw.request(cmd::READ, 0, 1000, 20_000).await;
            if mode.is_empty() {
                assert_eq!(raw.simple().await, 0);
                assert_eq!(raw.take(20_000).await, [7; 20_000]);
            } else {
                let mut got = 0;
                loop {
                    let (header, payload) = raw.chunk(false).await;
                    got += payload.len().saturating_sub(8);
                    if header.done() {
                        break;
                    }
                }
                assert_eq!(got, 20_000);
            }
        })
        .await;
        assert_eq!(end.unwrap().counts.errors, 0);
        assert_eq!(spy.log.borrow()[0], "write 1000 3096");
    }
}

/// A client that asks without end and never reads: what waits stays small.
#[tokio::test(start_paused = true)]
async fn unread_small_replies_hold_receiving_back() {
    let spy = Spy::new(ExportInfo::writable(1 << 20));
    let (end, sent) = against(
        &spy,
        FewPool::new(1),
        ServeConfig::default(),
        async |mut raw| {
            raw.go(&[opt::STRUCTURED_REPLY]).await;
            let batch: Vec<u8> = (0..1000)
                .flat_map(|_| request(cmd::CACHE, 0, 0, 512, false))
                .collect();
            let mut sent = 0;
            while raw.0.write_all(&batch).await.is_ok() {
                sent += 1000;
            }
            sent
        },
    )
    .await;
    assert_eq!(end.unwrap().end, End::SendStalled);
    // The pipe takes 256 KiB, the outbox as much again; each reply is longer than its request.
    assert!(sent < 40_000, "{sent}");
}

/// A server beyond its limit answers at once and says which limit.
#[tokio::test]
async fn a_server_that_is_full_says_so() {
    let (ours, theirs) = duplex(4096);
    let reason = "the server is full: all of its 64 connections are in use";
    let full = RefuseAll::<Spy>::new(Refused::Policy(reason.into()));
    let cfg = ServeConfig::default();
    let client = async |mut raw: Raw| {
        raw.hello().await;
        assert_eq!(raw.ends(opt::LIST, b"").await, rep::ERR_POLICY);
        let told = raw.option(opt::GO, &go_data("good", &[])).await;
        assert_eq!(told, [(rep::ERR_POLICY, reason.as_bytes().to_vec())]);
    };
    let (end, ()) = tokio::join!(
        serve(ours, FewPool::new(1), &full, &cfg),
        client(Raw(theirs))
    );
    assert!(!end.unwrap().opened);
}
