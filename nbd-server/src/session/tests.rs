use super::*;
use proptest::prelude::*;

fn session(info: &ExportInfo, mode: ReplyMode, contexts: Vec<usize>) -> Session {
    Session::new(Agreed { mode, contexts }, info, &Limits::default())
}

fn judge(session: &Session, command: u16, flags: u16, offset: u64, len: u64) -> Event {
    let mut bytes = Vec::new();
    let request = Request {
        flags,
        command,
        cookie: 1,
        offset,
        len,
    };
    request.encode(&mut bytes, session.mode() == ReplyMode::Extended);
    session.decode(&bytes)
}

fn refused(event: Event) -> (NbdError, u64) {
    match event {
        Event::Refuse(refusal) => (refusal.error, refusal.skip),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn past_the_end() {
    let session = session(&ExportInfo::writable(4096), ReplyMode::Structured, vec![0]);
    for (command, error, skip) in [
        (cmd::WRITE, NbdError::NoSpace, 2),
        (cmd::WRITE_ZEROES, NbdError::NoSpace, 0),
        (cmd::READ, NbdError::Invalid, 0),
        (cmd::TRIM, NbdError::Invalid, 0),
        (cmd::BLOCK_STATUS, NbdError::Invalid, 0),
    ] {
        assert_eq!(refused(judge(&session, command, 0, 4095, 2)), (error, skip));
        assert_eq!(
            refused(judge(&session, command, 0, u64::MAX, 2)),
            (error, skip)
        );
        assert!(matches!(
            judge(&session, command, 0, 4095, 1),
            Event::Call(_)
        ));
    }
}

#[test]
fn read_only_and_what_is_not_offered() {
    let session = session(&ExportInfo::read_only(4096), ReplyMode::Simple, vec![]);
    assert_eq!(
        refused(judge(&session, cmd::WRITE, 0, 0, 9)),
        (NbdError::NotPermitted, 9)
    );
    for command in [cmd::WRITE_ZEROES, cmd::TRIM] {
        assert_eq!(
            refused(judge(&session, command, 0, 0, 9)),
            (NbdError::NotPermitted, 0)
        );
    }
    for command in [cmd::BLOCK_STATUS, cmd::CACHE, cmd::RESIZE, 77] {
        assert_eq!(
            refused(judge(&session, command, 0, 0, 9)),
            (NbdError::Invalid, 0)
        );
    }
    assert_eq!(
        refused(judge(&session, cmd::READ, cmd_flags::DF, 0, 9)).0,
        NbdError::Invalid
    );
    assert_eq!(
        refused(judge(&session, cmd::READ, 1 << 9, 0, 9)).0,
        NbdError::Invalid
    );
    let no_payload = judge(&session, cmd::READ, cmd_flags::PAYLOAD_LEN, 0, 9);
    assert_eq!(refused(no_payload), (NbdError::Invalid, 0));
    assert!(matches!(
        judge(&session, cmd::READ, cmd_flags::FUA, 0, 9),
        Event::Call(_)
    ));
    assert_eq!(judge(&session, cmd::DISC, 0, 0, 0), Event::Disconnect);
    let magic = session.decode(&[0; 28]);
    let broken = Event::Broken {
        why: Broken::Magic,
        at: 0,
        changes: 0,
    };
    assert_eq!(magic, broken);
}

#[test]
fn payload_lengths() {
    let compact = session(
        &ExportInfo::writable(1 << 40),
        ReplyMode::Structured,
        vec![],
    );
    assert!(matches!(
        judge(&compact, cmd::WRITE, 0, 0, 64 << 20),
        Event::Call(_)
    ));
    let over = refused(judge(&compact, cmd::WRITE, 0, 0, 65 << 20));
    assert_eq!(over, (NbdError::Invalid, 65 << 20));
    let far = judge(&compact, cmd::WRITE, 0, 0, 129 << 20);
    let broken = |len| Event::Broken {
        why: Broken::Payload(len),
        at: 0,
        changes: len,
    };
    assert_eq!(far, broken(129 << 20));
    assert_eq!(
        refused(judge(&compact, cmd::READ, 0, 0, 65 << 20)),
        (NbdError::Overflow, 0)
    );
    assert!(matches!(
        judge(&compact, cmd::WRITE_ZEROES, 0, 0, 0xffff_ffff),
        Event::Call(_)
    ));

    let extended = session(&ExportInfo::writable(1 << 40), ReplyMode::Extended, vec![0]);
    let flag = cmd_flags::PAYLOAD_LEN;
    assert!(matches!(
        judge(&extended, cmd::WRITE, flag, 0, 5),
        Event::Call(_)
    ));
    assert!(matches!(
        judge(&extended, cmd::WRITE, 0, 0, 5),
        Event::Call(_)
    ));
    assert_eq!(
        refused(judge(&extended, cmd::READ, flag, 0, 5)),
        (NbdError::Invalid, 5)
    );
    assert_eq!(
        judge(&extended, cmd::TRIM, flag, 0, 1 << 40),
        broken(1 << 40)
    );
    assert!(matches!(
        judge(&extended, cmd::WRITE_ZEROES, 0, 0, 1 << 40),
        Event::Call(_)
    ));
    assert!(matches!(
        judge(&extended, cmd::BLOCK_STATUS, 0, 0, 1 << 40),
        Event::Call(_)
    ));
}

#[test]
fn fua_stands_on_every_command() {
    let session = session(&ExportInfo::writable(4096), ReplyMode::Structured, vec![0]);
    for command in [
        cmd::READ,
        cmd::WRITE,
        cmd::TRIM,
        cmd::FLUSH,
        cmd::WRITE_ZEROES,
        cmd::BLOCK_STATUS,
    ] {
        assert!(matches!(
            judge(&session, command, cmd_flags::FUA, 0, 8),
            Event::Call(_)
        ));
    }
    let info = ExportInfo {
        can_flush: false,
        can_fast_zero: false,
        ..ExportInfo::writable(4096)
    };
    let session = self::session(&info, ReplyMode::Simple, vec![]);
    assert_eq!(
        refused(judge(&session, cmd::WRITE, cmd_flags::FUA, 0, 8)),
        (NbdError::Invalid, 8)
    );
    let fast = judge(&session, cmd::WRITE_ZEROES, cmd_flags::FAST_ZERO, 0, 8);
    assert_eq!(refused(fast).0, NbdError::Invalid);
    assert!(matches!(
        judge(&session, cmd::WRITE_ZEROES, cmd_flags::NO_HOLE, 0, 8),
        Event::Call(_)
    ));
}

#[test]
fn empty_ranges_and_minimum_blocks() {
    let mut info = ExportInfo::writable(4096);
    info.block_size.minimum = 512;
    let session = session(&info, ReplyMode::Structured, vec![0]);
    let nothing = Event::Nothing {
        cookie: 1,
        at: 0,
        read: true,
    };
    assert_eq!(judge(&session, cmd::READ, 0, 0, 0), nothing);
    assert!(matches!(
        judge(&session, cmd::WRITE, 0, 4096, 0),
        Event::Nothing { .. }
    ));
    assert_eq!(
        refused(judge(&session, cmd::BLOCK_STATUS, 0, 0, 0)).0,
        NbdError::Invalid
    );
    assert_eq!(
        refused(judge(&session, cmd::WRITE, 0, 1, 512)),
        (NbdError::Invalid, 512)
    );
    assert_eq!(
        refused(judge(&session, cmd::READ, 0, 512, 5)).0,
        NbdError::Invalid
    );
}

#[test]
fn a_structured_read_is_never_answered_in_simple_form() {
    for mode in [ReplyMode::Structured, ReplyMode::Extended] {
        let session = session(&ExportInfo::writable(4096), mode, vec![]);
        let extended = mode == ReplyMode::Extended;
        let call = Call {
            cookie: 3,
            at: 7,
            len: 9,
            command: Command::Read { whole: false },
        };
        let mut out = Vec::new();
        session.success(&mut out, 3, 7, true);
        let head = ChunkHeader::decode(&out, extended).unwrap();
        assert!(head.done() && head.kind == chunk::NONE && head.len == 0);
        out.clear();
        session.failure(&mut out, 3, 7, NbdError::Io, "disk", Some(8));
        let head = ChunkHeader::decode(&out, extended).unwrap();
        assert_eq!((head.kind, head.len), (chunk::ERROR_OFFSET, 18));
        out.clear();
        session.data(&mut out, &call, 7, 9, true);
        let head = ChunkHeader::decode(&out, extended).unwrap();
        assert_eq!((head.kind, head.len), (chunk::OFFSET_DATA, 17));
    }
}

proptest! {
    #[test]
    fn random_headers_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        crate::fuzzing::fuzz_session(&bytes);
    }
}
