//! Bodies of the client's fuzz targets: everything that a server may say.

use std::sync::{Arc, Mutex, PoisonError};

use super::handshake::{Action, Handshake, Purpose, Wanted};
use super::info::RemoteInfo;
use super::session::{Asked, Into_, Session, Want};
use crate::wire::{
    EXTENDED_REPLY_MAGIC, OPTION_REPLY_MAGIC, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, cmd,
    greeting, rep,
};

/// Feeds a client's handshake: once with the bytes as they are, once behind a good greeting and
/// with each reply's magic, option and length put right.
pub fn fuzz_client_handshake(bytes: &[u8]) {
    for purpose in [Purpose::Use, Purpose::Describe, Purpose::List] {
        for tls in [false, true] {
            let wanted = Wanted {
                purpose,
                export: "a".into(),
                tls,
                extended: true,
                structured: true,
                contexts: vec!["base:allocation".into(), "x:y".into()],
            };
            drive_handshake(Handshake::new(wanted.clone()), bytes, false);
            drive_handshake(Handshake::new(wanted), bytes, true);
        }
    }
}

fn drive_handshake(mut handshake: Handshake, mut bytes: &[u8], framed: bool) {
    let mut greeted = false;
    let mut option = [0; 4];
    let mut length = [0; 4];
    loop {
        let len = match handshake.next() {
            Action::Send(out) => {
                // The option that is asked stands behind the last magic.
                let at = out.windows(8).rposition(|w| w == b"IHAVEOPT");
                let asked = at.and_then(|at| out.get(at + 8..at + 12)?.try_into().ok());
                option = asked.unwrap_or(option);
                continue;
            }
            Action::StartTls => {
                handshake.tls_ready();
                continue;
            }
            Action::Done => {
                let outcome = handshake.outcome();
                assert!(
                    i64::try_from(outcome.info.size).is_ok(),
                    "a negative size was let through"
                );
                assert_eq!(outcome.info.contexts.len(), outcome.context_ids.len());
                return;
            }
            Action::Receive(len) => len,
        };
        assert!(len > 0 && len <= 65536, "a receive of {len} bytes");
        let mut piece = if framed && !greeted {
            greeting().to_vec()
        } else {
            let Some((piece, rest)) = bytes.split_at_checked(len) else {
                return;
            };
            bytes = rest;
            piece.to_vec()
        };
        if framed && greeted && len == 20 {
            let kinds = [rep::ACK, rep::SERVER, rep::INFO, rep::META_CONTEXT];
            let choice = piece.get(12).copied().unwrap_or(0);
            let kind = kinds.get(usize::from(choice % 8)).copied();
            let kind = kind.unwrap_or(rep::ERROR_BIT | u32::from(choice / 8));
            length[3] = piece.get(19).copied().unwrap_or(0);
            piece = [
                &OPTION_REPLY_MAGIC.to_be_bytes()[..],
                &option,
                &kind.to_be_bytes(),
                &length,
            ]
            .concat();
        }
        greeted = true;
        if handshake.give(&piece).is_err() {
            return;
        }
    }
}

/// Feeds replies to a set of requests, in each form: once as they are, once with each header's
/// magic and cookie put right.
pub fn fuzz_client_session(bytes: &[u8]) {
    for (structured, extended) in [(false, false), (true, false), (true, true)] {
        for framed in [false, true] {
            drive_session(bytes, structured, extended, framed);
        }
    }
}

fn drive_session(mut bytes: &[u8], structured: bool, extended: bool, framed: bool) {
    let info = RemoteInfo {
        size: 1 << 20,
        structured_replies: structured,
        extended_headers: extended,
        ..RemoteInfo::empty()
    };
    let mut session = Session::new(&info, if structured { vec![1, 2] } else { Vec::new() });
    let memory = Arc::new(Mutex::new(vec![0xaa; 96]));
    let mut out = Vec::new();
    let commands = [
        cmd::READ,
        cmd::READ,
        cmd::WRITE,
        cmd::BLOCK_STATUS,
        cmd::FLUSH,
    ];
    for (tag, command) in commands.into_iter().enumerate() {
        let into = (command == cmd::READ).then(|| Into_ {
            target: memory.clone(),
            start: tag * 64,
        });
        let asked = Asked {
            command,
            flags: 0,
            offset: if command == cmd::FLUSH { 0 } else { 16 },
            len: if tag == 0 { 64 } else { 32 },
        };
        session.ask(&asked, into, tag, &mut out);
    }
    let mut waiting = commands.len();
    loop {
        let Ok(want) = session.want() else { return };
        let finished = match want {
            Want::Bytes(len) => {
                let Some((piece, rest)) = bytes.split_at_checked(len) else {
                    return;
                };
                bytes = rest;
                let mut piece = piece.to_vec();
                if framed && session.at_header() {
                    put_right(&mut piece, structured, extended);
                } else if framed && let [high @ .., _] = piece.as_mut_slice() {
                    // The length at a structured header's end, or an offset: small ones fit.
                    if high.len() == 3 || high.len() == 7 {
                        high.fill(0);
                    }
                }
                session.give(&piece)
            }
            Want::Data(target, range) => {
                let Some((piece, rest)) = bytes.split_at_checked(range.len()) else {
                    return;
                };
                bytes = rest;
                let mut memory = target.lock().unwrap_or_else(PoisonError::into_inner);
                let room = memory.as_mut().get_mut(range);
                assert!(room.is_some(), "data outside of the caller's memory");
                if let Some(room) = room {
                    room.copy_from_slice(piece);
                }
                drop(memory);
                session.filled()
            }
        };
        match finished {
            Ok(None) => {}
            Ok(Some(_)) => {
                waiting -= 1;
            }
            Err(_) => return,
        }
        assert_eq!(session.is_idle(), waiting == 0, "a request was lost");
    }
}

fn put_right(piece: &mut [u8], structured: bool, extended: bool) {
    let simple = !structured || (!extended && piece.first().is_some_and(|b| b & 1 == 0));
    let magic = if extended {
        EXTENDED_REPLY_MAGIC
    } else if simple {
        SIMPLE_REPLY_MAGIC
    } else {
        STRUCTURED_REPLY_MAGIC
    };
    for (to, from) in piece.iter_mut().zip(magic.to_be_bytes()) {
        *to = from;
    }
    // Flags, types, cookies, lengths and offsets small enough to fit now and then.
    let mask = |piece: &mut [u8], at: std::ops::Range<usize>, mask: u8| {
        let bytes = piece.get_mut(at).unwrap_or_default();
        bytes.iter_mut().for_each(|byte| *byte &= mask);
    };
    if structured && !simple {
        mask(piece, 4..5, 0);
        mask(piece, 5..6, 1);
        mask(piece, 6..7, 0x80);
        mask(piece, 7..8, 7);
    }
    mask(piece, 8..15, 0);
    mask(piece, 15..16, 7);
    if extended {
        mask(piece, 16..23, 0);
        mask(piece, 24..31, 0);
    }
}

/// Reads a URI and holds what it prints against itself.
pub fn fuzz_uri(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(uri) = text.parse::<crate::uri::NbdUri>() {
        assert_eq!(uri.to_string().parse(), Ok(uri), "a URI changed on its way");
    }
}
