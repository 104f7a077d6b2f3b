//! Negotiation: what is asked for, what is settled for, and what is refused.

use super::*;
use crate::wire::handshake_flags;

#[tokio::test]
async fn the_best_form_that_the_server_has_is_taken() {
    let (client, _server) = connected(&Offer::simple()).await;
    let info = client.info();
    assert_eq!((info.size, info.flags), (1 << 20, ALL_FLAGS));
    assert!(!info.structured_replies && !info.extended_headers && info.contexts.is_empty());
    assert!(info.can_flush() && info.can_fua() && info.multi_conn() && !info.read_only());
    assert_eq!(info.block_size.maximum, 32 << 20);

    let (client, _server) = connected(&Offer::structured()).await;
    let info = client.info();
    assert!(info.structured_replies && !info.extended_headers);
    assert!(info.has_context("base:allocation"));

    let (client, _server) = connected(&Offer::extended()).await;
    assert!(client.info().structured_replies && client.info().extended_headers);
}

#[tokio::test]
async fn a_server_without_go_is_asked_by_export_name() {
    let offer = Offer {
        go: false,
        ..Offer::simple()
    };
    let (client, _server) = connected(&offer).await;
    assert_eq!(client.info().size, 1 << 20);

    // Before "fixed newstyle": EXPORT_NAME at once, and 124 zeroes behind the answer.
    let (near, mut server) = pair();
    let options = options();
    let script = async {
        let mut greeting = wire::greeting();
        greeting[17] = 0;
        server.send(&greeting).await;
        assert_eq!(server.receive(4).await, [0; 4]);
        assert_eq!(server.option().await, (opt::EXPORT_NAME, b"disk".to_vec()));
        let mut out = Vec::new();
        wire::export_name_reply(&mut out, 512, 1, false);
        server.send(&out).await;
    };
    let (client, ()) = tokio::join!(Client::over(near, "disk", &options), script);
    assert_eq!(client.unwrap().info().size, 512);
    assert_eq!(handshake_flags::FIXED_NEWSTYLE, 1);
}

#[tokio::test]
async fn a_refusal_keeps_the_servers_reason_and_not_its_tricks() {
    for (kind, refusal) in [
        (rep::ERR_UNKNOWN, Refusal::Unknown),
        (rep::ERR_POLICY, Refusal::Policy),
        (rep::ERR_TLS_REQD, Refusal::TlsRequired),
        (rep::ERR_SHUTDOWN, Refusal::Shutdown),
        (rep::ERR_TOO_BIG, Refusal::Other(rep::ERR_TOO_BIG)),
    ] {
        let (near, mut server) = pair();
        let options = ConnectOptions {
            structured_replies: false,
            ..options()
        };
        let script = async {
            server.greet().await;
            assert_eq!(server.option().await.0, opt::GO);
            server.reply(opt::GO, kind, b"go \x1b[2Jaway\xff").await;
        };
        let (client, ()) = tokio::join!(Client::over(near, "secret", &options), script);
        let error = client.unwrap_err();
        assert!(
            error.to_string().ends_with("go  [2Jaway\u{fffd}"),
            "{error}"
        );
        assert!(!error.to_string().contains("secret"));
        assert!(error.is_fatal() && !error.hint().is_empty());
        let ClientError::Refused { refusal: got, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!(got, refusal);
    }
}

/// Runs a connection whose handshake ends in a protocol error, and gives its text.
async fn fails<F>(script: impl FnOnce(Server) -> F) -> String
where
    F: Future<Output = Server>,
{
    let (near, server) = pair();
    let options = options();
    let connect = Client::over(near, "disk", &options);
    let (client, _server) = tokio::join!(connect, script(server));
    match client.unwrap_err() {
        ClientError::Protocol(text) => text.into_owned(),
        other => panic!("{other:?}"),
    }
}

/// The same, where one reply to the first GO is wrong.
async fn fails_at_go(replies: &[(u32, Vec<u8>)]) -> String {
    fails(|mut server| async move {
        server.greet().await;
        loop {
            let (option, _) = server.option().await;
            if option != opt::GO {
                server.reply(option, rep::ERR_UNSUP, &[]).await;
                continue;
            }
            for (kind, data) in replies {
                server.reply(option, *kind, data).await;
            }
            return server;
        }
    })
    .await
}

#[tokio::test]
async fn a_hostile_handshake_ends_in_a_clean_error() {
    let oldstyle = b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53\x00\x00";
    for greeting in [oldstyle.as_slice(), b"SSH-2.0-OpenSSH_9.9", &[0; 18]] {
        let text = fails(|mut server| async move {
            server.send(&greeting[..18]).await;
            server
        });
        assert!(text.await.contains("newstyle"));
    }
    let export = |size| {
        let flags = 1;
        (rep::INFO, Info::Export { size, flags }.encode())
    };
    let sizes = |minimum, preferred, maximum| {
        let sizes = BlockSize {
            minimum,
            preferred,
            maximum,
        };
        (rep::INFO, Info::BlockSize(sizes).encode())
    };
    for (replies, says) in [
        (vec![(rep::ACK, vec![])], "without a size"),
        (vec![export(u64::MAX)], "negative size"),
        (vec![(rep::INFO, vec![0, 0, 1])], "malformed piece"),
        (vec![(rep::INFO, vec![])], "malformed piece"),
        (vec![(rep::INFO, vec![0, 1, 0xff])], "malformed piece"),
        (vec![(rep::ACK, vec![1])], "ACK with data"),
        (vec![(rep::SERVER, vec![0; 4])], "does not fit"),
        (vec![(99, vec![])], "does not fit"),
        (vec![sizes(0, 512, 1024)], "block sizes"),
        (vec![sizes(3, 512, 1024)], "block sizes"),
        (vec![sizes(1 << 17, 1 << 17, 1 << 20)], "block sizes"),
        (vec![sizes(1024, 512, 1024)], "block sizes"),
        (vec![sizes(1024, 1024, 512)], "block sizes"),
    ] {
        let text = fails_at_go(&replies).await;
        assert!(text.contains(says), "{says}: {text}");
    }
}

#[tokio::test]
async fn replies_that_are_too_long_or_to_something_else_are_not_received() {
    for (reply, says) in [
        ((opt::EXTENDED_HEADERS, rep::INFO, 65537u32), "too long"),
        ((opt::EXTENDED_HEADERS, rep::INFO, u32::MAX), "too long"),
        ((opt::GO, rep::ACK, 0), "another option"),
    ] {
        let text = fails(|mut server| async move {
            server.greet().await;
            assert_eq!(server.option().await.0, opt::EXTENDED_HEADERS);
            let mut out = wire::OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
            for word in [reply.0, reply.1, reply.2] {
                out.extend_from_slice(&word.to_be_bytes());
            }
            server.send(&out).await;
            server
        });
        let text = text.await;
        assert!(text.contains(says), "{says}: {text}");
    }
    let text = fails(|mut server| async move {
        server.greet().await;
        server.option().await;
        server.send(&[0xaa; 20]).await;
        server
    });
    assert!(text.await.contains("wrong magic"));
}

#[tokio::test]
async fn only_contexts_that_were_asked_for_are_taken() {
    for entries in [
        vec![(1, "qemu:dirty-bitmap:x")],
        vec![(1, "base:allocation"), (2, "base:allocation")],
    ] {
        let text = fails(|mut server| async move {
            server.greet().await;
            assert_eq!(server.option().await.0, opt::EXTENDED_HEADERS);
            server
                .reply(opt::EXTENDED_HEADERS, rep::ERR_UNSUP, &[])
                .await;
            assert_eq!(server.option().await.0, opt::STRUCTURED_REPLY);
            server.reply(opt::STRUCTURED_REPLY, rep::ACK, &[]).await;
            let (option, asked) = server.option().await;
            assert_eq!(option, opt::SET_META_CONTEXT);
            assert_eq!(asked, wire::meta_context_data("disk", &["base:allocation"]));
            for (id, name) in entries {
                let entry = wire::meta_context_entry(id, name);
                server.reply(option, rep::META_CONTEXT, &entry).await;
            }
            server
        });
        assert!(text.await.contains("context"));
    }
    // None at all is no error, and the GO after it tells the truth about the export.
    let offer = Offer {
        contexts: Vec::new(),
        ..Offer::structured()
    };
    let (client, _server) = connected(&offer).await;
    assert!(client.info().contexts.is_empty());
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let (near, _server) = pair();
    let options = ConnectOptions {
        connect_timeout: Duration::from_millis(50),
        ..options()
    };
    let error = Client::over(near, "disk", &options).await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout(_)), "{error:?}");
    let (near, server) = pair();
    drop(server);
    let error = Client::over(near, "disk", &options).await.unwrap_err();
    assert!(matches!(error, ClientError::Io(_)), "{error:?}");
}

#[tokio::test]
async fn tls_is_never_downgraded() {
    use super::super::handshake::{Action, Handshake, Purpose, Wanted};

    let wanted = Wanted {
        purpose: Purpose::Use,
        export: "disk".into(),
        tls: true,
        extended: true,
        structured: true,
        contexts: Vec::new(),
    };
    let starttls = |handshake: &mut Handshake| {
        handshake.give(&wire::greeting()).unwrap();
        let Action::Send(out) = handshake.next() else {
            panic!("nothing to send");
        };
        let mut expected = vec![0, 0, 0, 3];
        wire::option(&mut expected, opt::STARTTLS, &[]);
        // STARTTLS goes first and alone: no name crosses the wire in the clear.
        assert_eq!(out, expected);
        assert_eq!(handshake.next(), Action::Receive(20));
    };
    let header = |kind| {
        let mut out = Vec::new();
        wire::option_reply(&mut out, opt::STARTTLS, kind, &[]);
        out
    };
    for kind in [rep::ERR_UNSUP, rep::ERR_POLICY, rep::ERR_INVALID] {
        let mut handshake = Handshake::new(wanted.clone());
        starttls(&mut handshake);
        let error = handshake.give(&header(kind)).unwrap_err();
        let refusal = Refusal::NoTls;
        assert!(matches!(error, ClientError::Refused { refusal: r, .. } if r == refusal));
    }
    let mut handshake = Handshake::new(wanted.clone());
    starttls(&mut handshake);
    handshake.give(&header(rep::ACK)).unwrap();
    // Not a byte more before TLS: what is injected here cannot be read as an option reply.
    assert_eq!(handshake.next(), Action::StartTls);
    assert!(handshake.give(&header(rep::ACK)).is_err());
    handshake.tls_ready();
    assert!(matches!(handshake.next(), Action::Send(_)));
    // A server from before options cannot have TLS.
    let mut handshake = Handshake::new(wanted);
    let mut greeting = wire::greeting();
    greeting[17] = 0;
    assert!(handshake.give(&greeting).is_err());
}
