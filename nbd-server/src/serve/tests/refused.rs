//! The export hears of every change that was asked for and never came to it.

use super::*;
use crate::session::Broken;
use crate::wire::{cmd, cmd_flags};

const SIZE: u64 = 1 << 20;

/// What the export noted while a client said this.
async fn noted(client: impl AsyncFnOnce(Raw)) -> (Summary, Vec<String>) {
    let spy = Spy::new(ExportInfo::writable(SIZE));
    let cfg = ServeConfig::default();
    let (end, ()) = against(&spy, FewPool::new(4), cfg, client).await;
    let log = spy.log.borrow().clone();
    (end.unwrap(), log)
}

#[tokio::test]
async fn a_change_that_the_session_refuses_is_told_with_its_range() {
    let unknown = 1 << 9;
    let (_, log) = noted(async |mut raw| {
        raw.go(&[]).await;
        raw.request(cmd::WRITE, unknown, 4096, 512).await;
        raw.send(&[1; 512]).await;
        assert_ne!(raw.simple().await, 0);
        raw.request(cmd::WRITE, 0, SIZE - 512, 1024).await;
        raw.send(&[1; 1024]).await;
        assert_ne!(raw.simple().await, 0);
        for (command, flags) in [(cmd::WRITE_ZEROES, unknown), (cmd::TRIM, cmd_flags::DF)] {
            raw.request(command, flags, 8192, 700).await;
            assert_ne!(raw.simple().await, 0);
        }
        raw.request(cmd::TRIM, 0, u64::MAX, 9).await;
        assert_ne!(raw.simple().await, 0);
        // None of these would change anything.
        for command in [cmd::READ, cmd::CACHE, cmd::BLOCK_STATUS] {
            raw.request(command, unknown, 0, 512).await;
            assert_ne!(raw.simple().await, 0);
        }
        raw.request(cmd::WRITE, 0, 0, 0).await;
        assert_eq!(raw.simple().await, 0);
        raw.request(cmd::WRITE_ZEROES, 0, 0, 10).await;
        assert_eq!(raw.simple().await, 0);
        raw.request(cmd::DISC, 0, 0, 0).await;
    })
    .await;
    let expected = [
        "refused 4096 512".to_owned(),
        format!("refused {} 1024", SIZE - 512),
        "refused 8192 700".to_owned(),
        "refused 8192 700".to_owned(),
        format!("refused {} 9", u64::MAX),
        "zero 0 10 false false".to_owned(),
    ];
    assert_eq!(log, expected);
}

#[tokio::test]
async fn a_refused_write_in_extended_form_and_a_broken_one_are_told() {
    let (end, log) = noted(async |mut raw| {
        raw.go(&[opt::EXTENDED_HEADERS]).await;
        raw.send(&request(cmd::WRITE_ZEROES, 0, 512, SIZE, true))
            .await;
        assert!(raw.chunk(true).await.0.done());
        raw.send(&request(cmd::WRITE, 0, 1024, 1 << 40, true)).await;
        raw.eof().await;
    })
    .await;
    assert_eq!(end.end, End::Broken(Broken::Payload(1 << 40)));
    let expected = [
        format!("refused 512 {SIZE}"),
        format!("refused 1024 {}", 1_u64 << 40),
    ];
    assert_eq!(log, expected);
}

#[tokio::test]
async fn of_a_write_that_is_cut_off_what_never_came_is_told() {
    let (end, mut log) = noted(async |mut raw| {
        raw.go(&[]).await;
        raw.request(cmd::WRITE, 0, 0, 200 << 10).await;
        raw.send(&vec![7; 100 << 10]).await;
    })
    .await;
    assert_eq!(end.end, End::Truncated);
    log.sort();
    assert_eq!(log, ["refused 65536 139264", "write 0 65536"]);
    // Not a byte of the payload came; and a refused one is cut off as well.
    for flags in [0, 1 << 9] {
        let (end, log) = noted(async |mut raw| {
            raw.go(&[]).await;
            raw.request(cmd::WRITE, flags, 512, 1024).await;
            raw.send(&[1; 3][..usize::from(flags != 0)]).await;
        })
        .await;
        assert_eq!(end.end, End::Truncated);
        assert_eq!(log, ["refused 512 1024"]);
    }
}

#[tokio::test(start_paused = true)]
async fn of_a_write_that_stalls_what_never_came_is_told() {
    let (end, log) = noted(async |mut raw| {
        raw.go(&[]).await;
        raw.request(cmd::WRITE, 0, 4096, 4096).await;
        raw.send(&[7; 100]).await;
        raw.eof().await;
    })
    .await;
    assert_eq!(end.end, End::ReceiveStalled);
    assert_eq!(log, ["refused 4096 4096"]);
}

/// The server ends in the middle of everything: what waits for its turn was not handed over.
#[tokio::test]
async fn a_connection_that_is_dropped_tells_what_it_still_held() {
    let spy = Spy::new(ExportInfo::writable(SIZE));
    let shelf = Shelf(Rc::clone(&spy));
    let (ours, theirs) = duplex(256 << 10);
    let cfg = ServeConfig::default();
    let mut serving = Box::pin(serve(ours, FewPool::new(4), &shelf, &cfg));
    let client = async {
        let mut raw = Raw(theirs);
        raw.go(&[]).await;
        raw.request(cmd::WRITE, 0, 512, 1024).await;
        raw.send(&[1; 10]).await;
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        raw
    };
    let _raw = tokio::select! {
        biased;
        _ = &mut serving => panic!("it ended by itself"),
        raw = client => raw,
    };
    assert!(spy.log.borrow().is_empty());
    drop(serving);
    assert_eq!(*spy.log.borrow(), ["refused 512 1024"]);
}
