//! Bodies of the fuzz targets: library functions, so that the ordinary test run replays them.

#[cfg(feature = "client")]
pub use crate::client::fuzzing::{fuzz_client_handshake, fuzz_client_session, fuzz_uri};
use crate::export::{ExportInfo, Listed, Refused};
use crate::handshake::{Agreed, Handshake, ReplyMode, Step, TlsState};
use crate::limits::Limits;
use crate::session::{Call, Command, Event, Session};
use crate::wire::{OPTION_MAGIC, REQUEST_MAGIC};

/// Feeds a handshake: once with the bytes as they are, once with each option's magic and length
/// put right, so that the parsers behind them are reached.
pub fn fuzz_handshake(bytes: &[u8]) {
    for tls in [TlsState::Off, TlsState::Required] {
        drive(bytes, tls);
        let mut framed = vec![0, 0, 0, 3];
        for piece in bytes.chunks(40) {
            let (number, data) = piece.split_first().unwrap_or((&0, &[]));
            framed.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
            framed.extend_from_slice(&u32::from(number % 13).to_be_bytes());
            framed.extend_from_slice(&u32::try_from(data.len()).unwrap_or(0).to_be_bytes());
            framed.extend_from_slice(data);
        }
        drive(&framed, tls);
    }
}

fn drive(mut bytes: &[u8], tls: TlsState) {
    let mut handshake = Handshake::new(&Limits::default(), tls);
    let export = ExportInfo {
        contexts: vec!["x:y".into()],
        ..ExportInfo::writable(1 << 20)
    };
    let listed = [Listed {
        name: "a".into(),
        description: String::new(),
    }];
    loop {
        let (taken, mut step) = handshake.advance(bytes);
        bytes = bytes.get(taken..).unwrap_or_default();
        loop {
            let known = |name: &str| {
                if name.len() < 9 {
                    Ok(&export)
                } else {
                    Err(&Refused::Unknown)
                }
            };
            step = match step {
                Step::Describe(name) => handshake.described(known(&name)),
                Step::Open(name) => handshake.opened(known(&name)),
                Step::List => handshake.listed(Some(&listed)),
                other => {
                    step = other;
                    break;
                }
            };
        }
        match step {
            Step::StartTls => handshake.tls_started(),
            Step::Next => {}
            _ => return,
        }
        handshake.output().clear();
    }
}

/// Judges request headers and checks the promise that [`Session::decode`] makes about calls.
///
/// # Panics
/// Where the promise is broken: that is what a fuzzer looks for.
pub fn fuzz_session(bytes: &[u8]) {
    for mode in [
        ReplyMode::Simple,
        ReplyMode::Structured,
        ReplyMode::Extended,
    ] {
        for info in [
            ExportInfo::writable(1 << 20),
            ExportInfo::read_only((1 << 20) + 1),
        ] {
            let agreed = Agreed {
                mode,
                contexts: vec![0],
            };
            let session = Session::new(agreed, &info, &Limits::default());
            for piece in bytes.chunks(session.header_len()) {
                check(&session, &info, piece);
                let mut framed = REQUEST_MAGIC.to_be_bytes().to_vec();
                framed.extend_from_slice(piece);
                // Small numbers, so that some ranges lie inside.
                for at in [4, 6, 16, 17, 18, 19, 20, 24] {
                    if let Some(byte) = framed.get_mut(at) {
                        *byte = 0;
                    }
                }
                check(&session, &info, &framed);
            }
        }
    }
}

fn check(session: &Session, info: &ExportInfo, header: &[u8]) {
    let mut out = Vec::new();
    match session.decode(header) {
        Event::Call(call) => {
            let Call {
                cookie,
                at,
                len,
                command,
            } = call;
            assert!(command == Command::Flush || len > 0, "an empty call");
            assert!(
                command == Command::Flush
                    || at.checked_add(len).is_some_and(|end| end <= info.size),
                "a call outside of the disk"
            );
            session.success(
                &mut out,
                cookie,
                at,
                matches!(command, Command::Read { .. }),
            );
        }
        Event::Refuse(refusal) => {
            session.failure(
                &mut out,
                refusal.cookie,
                0,
                refusal.error,
                refusal.why,
                None,
            );
        }
        Event::Nothing { cookie, at, read } => session.success(&mut out, cookie, at, read),
        Event::Disconnect | Event::Broken { .. } => return,
    }
    assert!(!out.is_empty(), "a request without a reply");
}
