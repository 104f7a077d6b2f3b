//! The client's side of the transmission, without I/O: requests go in and get a cookie and a
//! header; bytes of replies go in and finished requests come out.
//!
//! The server is taken for hostile. Each length is held against the request that it answers before
//! a byte is received for it; a READ must be covered byte for byte, once; a reply to nothing, of a
//! wrong kind or without end is an error, after which the connection is of no use any more.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::coverage::Coverage;
use super::error::{ClientError, peer_text};
use super::info::RemoteInfo;
use crate::error::NbdError;
use crate::export::StatusExtent;
use crate::wire::{self, ChunkHeader, Fields, Request, SimpleReply, chunk, cmd};

type Result<T> = std::result::Result<T, ClientError>;

/// What a READ fills. Locked only for the moment of one copy.
pub(crate) type Target = Arc<Mutex<dyn AsMut<[u8]> + Send>>;

/// The longest error chunk: its fields and the longest text.
const MAX_ERROR: u64 = 4 + 2 + 65535 + 8;
/// The most extents that a status reply may hold (protocol, BLOCK_STATUS).
const MAX_EXTENTS: u64 = 1 << 20;
/// The most error chunks and context chunks of one reply.
const MAX_SIDE_CHUNKS: usize = 64;

/// A request to be sent.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) command: u16,
    pub(crate) flags: u16,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// Where a READ's bytes go: from `start` of the target on.
pub(crate) struct Into_ {
    pub(crate) target: Target,
    pub(crate) start: usize,
}

/// What a finished request gives.
pub(crate) type Answer = std::result::Result<Vec<(u32, Vec<StatusExtent>)>, (NbdError, String)>;

/// A finished request: what was handed in with it, and the answer.
#[derive(Debug)]
pub(crate) struct Finished<T> {
    pub(crate) tag: T,
    pub(crate) answer: Answer,
}

/// What the session wants to receive.
pub(crate) enum Want {
    /// Exactly so many bytes, to be given to [`Session::give`].
    Bytes(usize),
    /// Payload: these bytes of the target, to be reported to [`Session::filled`].
    Data(Target, Range<usize>),
}

struct Pending<T> {
    tag: T,
    command: u16,
    offset: u64,
    len: u64,
    into: Option<Into_>,
    covered: Coverage,
    status: Vec<(u32, Vec<StatusExtent>)>,
    error: Option<(NbdError, String)>,
    side_chunks: usize,
}

enum Expect {
    /// The first bytes of a reply.
    Header,
    /// The rest of a structured header.
    HeaderRest([u8; wire::SIMPLE_REPLY_LEN]),
    /// The offset before a chunk's data.
    DataOffset(ChunkHeader),
    /// A READ's data, from the byte of the request on.
    Data {
        cookie: u64,
        at: u64,
        len: u64,
        done: bool,
    },
    /// A small payload.
    Payload(ChunkHeader),
}

/// One connection in transmission.
pub(crate) struct Session<T> {
    extended: bool,
    structured: bool,
    size: u64,
    contexts: Vec<u32>,
    pending: HashMap<u64, Pending<T>>,
    next_cookie: u64,
    expect: Expect,
}

impl<T> Session<T> {
    pub(crate) fn new(info: &RemoteInfo, contexts: Vec<u32>) -> Self {
        Self {
            extended: info.extended_headers,
            structured: info.structured_replies,
            size: info.size,
            contexts,
            pending: HashMap::new(),
            next_cookie: 1,
            expect: Expect::Header,
        }
    }

    /// Takes a request and appends its header; the payload of a WRITE is to follow it.
    pub(crate) fn ask(&mut self, asked: &Asked, into: Option<Into_>, tag: T, out: &mut Vec<u8>) {
        let cookie = self.next_cookie;
        self.next_cookie = self.next_cookie.wrapping_add(1);
        let payload_len = if self.extended && asked.command == cmd::WRITE {
            wire::cmd_flags::PAYLOAD_LEN
        } else {
            0
        };
        Request {
            flags: asked.flags | payload_len,
            command: asked.command,
            cookie,
            offset: asked.offset,
            len: asked.len,
        }
        .encode(out, self.extended);
        let pending = Pending {
            tag,
            command: asked.command,
            offset: asked.offset,
            len: asked.len,
            into,
            covered: Coverage::default(),
            status: Vec::new(),
            error: None,
            side_chunks: 0,
        };
        self.pending.insert(cookie, pending);
    }

    /// Appends DISC, which has no reply.
    pub(crate) fn disconnect(&self, out: &mut Vec<u8>) {
        Request {
            flags: 0,
            command: cmd::DISC,
            cookie: 0,
            offset: 0,
            len: 0,
        }
        .encode(out, self.extended);
    }

    /// Whether no request waits for a reply.
    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// Takes what was handed in with the requests that are not answered.
    pub(crate) fn abandon(&mut self) -> Vec<T> {
        self.pending.drain().map(|(_, p)| p.tag).collect()
    }

    /// Whether what comes next begins a reply or a chunk.
    pub(crate) fn at_header(&self) -> bool {
        matches!(self.expect, Expect::Header)
    }

    /// What to receive next.
    pub(crate) fn want(&self) -> Result<Want> {
        let header = wire::SIMPLE_REPLY_LEN;
        Ok(match &self.expect {
            Expect::Header if self.extended => Want::Bytes(wire::EXTENDED_CHUNK_HEADER_LEN),
            Expect::Header => Want::Bytes(header),
            Expect::HeaderRest(_) => Want::Bytes(wire::STRUCTURED_CHUNK_HEADER_LEN - header),
            Expect::DataOffset(_) => Want::Bytes(8),
            Expect::Payload(chunk) => Want::Bytes(to_usize(chunk.len)?),
            Expect::Data {
                cookie, at, len, ..
            } => {
                let pending = self.pending.get(cookie).ok_or_else(unknown_cookie)?;
                let into = pending.into.as_ref().ok_or_else(unexpected)?;
                let from = to_usize(at - pending.offset)?.checked_add(into.start);
                let from = from.ok_or_else(unexpected)?;
                let to = from.checked_add(to_usize(*len)?).ok_or_else(unexpected)?;
                Want::Data(Arc::clone(&into.target), from..to)
            }
        })
    }

    /// The bytes of [`Want::Data`] are in their place.
    pub(crate) fn filled(&mut self) -> Result<Option<Finished<T>>> {
        match std::mem::replace(&mut self.expect, Expect::Header) {
            Expect::Data { cookie, done, .. } if done => self.finish(cookie),
            Expect::Data { .. } => Ok(None),
            _ => Err(unexpected()),
        }
    }

    /// Takes the bytes of [`Want::Bytes`].
    pub(crate) fn give(&mut self, bytes: &[u8]) -> Result<Option<Finished<T>>> {
        match std::mem::replace(&mut self.expect, Expect::Header) {
            Expect::Header => {
                if !self.extended
                    && let Some(reply) = SimpleReply::decode(bytes)
                {
                    return self.simple(reply);
                }
                if self.extended || !self.structured {
                    let header = self
                        .structured
                        .then(|| ChunkHeader::decode(bytes, self.extended));
                    return match header.flatten() {
                        Some(header) => self.chunk(header),
                        None => Err(ClientError::protocol("a reply with a wrong magic")),
                    };
                }
                let start = bytes.try_into().map_err(|_| unexpected())?;
                self.expect = Expect::HeaderRest(start);
                Ok(None)
            }
            Expect::HeaderRest(start) => {
                let mut whole = start.to_vec();
                whole.extend_from_slice(bytes);
                let header = ChunkHeader::decode(&whole, false)
                    .ok_or(ClientError::protocol("a reply with a wrong magic"))?;
                self.chunk(header)
            }
            Expect::DataOffset(header) => {
                let at = Fields::new(bytes).u64().ok_or_else(unexpected)?;
                let len = header.len.saturating_sub(8);
                self.cover(header.cookie, at, len)?;
                self.expect = Expect::Data {
                    cookie: header.cookie,
                    at,
                    len,
                    done: header.done(),
                };
                Ok(None)
            }
            Expect::Payload(header) => self.payload(header, bytes),
            Expect::Data { .. } => Err(unexpected()),
        }
    }

    fn simple(&mut self, reply: SimpleReply) -> Result<Option<Finished<T>>> {
        let pending = self.pending_mut(reply.cookie)?;
        if pending.status.len() + pending.side_chunks > 0 || !pending.covered.is_empty() {
            return Err(ClientError::protocol("a simple reply behind a chunk"));
        }
        if reply.error != 0 {
            pending.error = Some((NbdError::from_errno(reply.error), String::new()));
        }
        let (command, offset, len) = (pending.command, pending.offset, pending.len);
        match command {
            cmd::READ | cmd::BLOCK_STATUS if self.structured => {
                Err(ClientError::protocol("a simple reply where chunks are due"))
            }
            cmd::READ if reply.error == 0 => {
                self.cover(reply.cookie, offset, len)?;
                self.expect = Expect::Data {
                    cookie: reply.cookie,
                    at: offset,
                    len,
                    done: true,
                };
                Ok(None)
            }
            _ => self.finish(reply.cookie),
        }
    }

    /// A chunk's header: everything that can be known before its payload is checked here.
    fn chunk(&mut self, header: ChunkHeader) -> Result<Option<Finished<T>>> {
        let extended = self.extended;
        let pending = self.pending_mut(header.cookie)?;
        if extended && header.offset != pending.offset {
            return Err(ClientError::protocol("a reply for another offset"));
        }
        let read = pending.command == cmd::READ;
        let side = header.kind & chunk::ERROR_BIT != 0 || pending.command == cmd::BLOCK_STATUS;
        if side {
            pending.side_chunks += 1;
            if pending.side_chunks > MAX_SIDE_CHUNKS {
                return Err(ClientError::protocol("a reply without end"));
            }
        }
        let len = header.len;
        match header.kind {
            chunk::NONE if len == 0 && header.done() => self.finish(header.cookie),
            chunk::OFFSET_DATA if read && len > 8 && len - 8 <= pending.len => {
                self.expect = Expect::DataOffset(header);
                Ok(None)
            }
            chunk::OFFSET_HOLE if read && len == 12 => self.expect_payload(header),
            chunk::BLOCK_STATUS | chunk::BLOCK_STATUS_EXT => {
                let ext = header.kind == chunk::BLOCK_STATUS_EXT;
                let (fixed, each) = if ext { (8, 16) } else { (4, 8) };
                let most = fixed + each * MAX_EXTENTS;
                if pending.command != cmd::BLOCK_STATUS || ext != extended || len > most {
                    return Err(ClientError::protocol("a status chunk that does not fit"));
                }
                self.expect_payload(header)
            }
            kind if kind & chunk::ERROR_BIT != 0 && (6..=MAX_ERROR).contains(&len) => {
                self.expect_payload(header)
            }
            _ => Err(ClientError::protocol(
                "a chunk that does not fit its request",
            )),
        }
    }

    fn expect_payload(&mut self, header: ChunkHeader) -> Result<Option<Finished<T>>> {
        // An empty one would ask for 0 bytes, for ever.
        if header.len == 0 {
            return Err(ClientError::protocol("a chunk without its payload"));
        }
        self.expect = Expect::Payload(header);
        Ok(None)
    }

    fn payload(&mut self, header: ChunkHeader, bytes: &[u8]) -> Result<Option<Finished<T>>> {
        match header.kind {
            chunk::OFFSET_HOLE => {
                let (at, len) = wire::parse_hole_payload(bytes).ok_or_else(unexpected)?;
                self.cover(header.cookie, at, u64::from(len))?;
                self.zero(header.cookie, at, u64::from(len))?;
            }
            chunk::BLOCK_STATUS | chunk::BLOCK_STATUS_EXT => {
                let (id, extents) = wire::parse_status_payload(bytes, self.extended)
                    .ok_or(ClientError::protocol("a malformed or empty block status"))?;
                let (known, size) = (self.contexts.contains(&id), self.size);
                let pending = self.pending_mut(header.cookie)?;
                if !known || pending.status.iter().any(|(seen, _)| *seen == id) {
                    return Err(ClientError::protocol(
                        "a status of a context that was not asked for, or one twice",
                    ));
                }
                let extents = clipped(extents, pending.offset, pending.len, size)?;
                pending.status.push((id, extents));
            }
            _ => {
                let (errno, text, _) = wire::parse_error_payload(bytes)
                    .filter(|(errno, ..)| *errno != 0)
                    .ok_or(ClientError::protocol("a malformed error chunk"))?;
                let error = (NbdError::from_errno(errno), peer_text(text.as_bytes()));
                self.pending_mut(header.cookie)?.error.get_or_insert(error);
            }
        }
        if header.done() {
            return self.finish(header.cookie);
        }
        Ok(None)
    }

    /// Marks bytes of a READ as given; refuses what is outside of it or was given before.
    fn cover(&mut self, cookie: u64, at: u64, len: u64) -> Result<()> {
        let pending = self.pending_mut(cookie)?;
        let inside = at >= pending.offset
            && at
                .checked_add(len)
                .is_some_and(|end| end <= pending.offset + pending.len);
        if len == 0 || !inside {
            return Err(ClientError::protocol("data outside of its request"));
        }
        if !pending.covered.add(at, at + len) {
            return Err(ClientError::protocol("data twice, or in too many pieces"));
        }
        Ok(())
    }

    fn zero(&mut self, cookie: u64, at: u64, len: u64) -> Result<()> {
        let pending = self.pending_mut(cookie)?;
        let into = pending.into.as_ref().ok_or_else(unexpected)?;
        let from = into.start.checked_add(to_usize(at - pending.offset)?);
        let range = from.and_then(|from| Some(from..from.checked_add(usize::try_from(len).ok()?)?));
        let mut target = into.target.lock().unwrap_or_else(PoisonError::into_inner);
        range
            .and_then(|range| target.as_mut().get_mut(range))
            .ok_or_else(unexpected)?
            .fill(0);
        Ok(())
    }

    fn finish(&mut self, cookie: u64) -> Result<Option<Finished<T>>> {
        let contexts = self.contexts.len();
        let pending = self.pending.remove(&cookie).ok_or_else(unknown_cookie)?;
        let answer = match pending.error {
            Some(error) => Err(error),
            None => {
                if pending.command == cmd::READ
                    && !pending
                        .covered
                        .is_exactly(pending.offset, pending.offset + pending.len)
                {
                    return Err(ClientError::protocol("a READ with bytes missing"));
                }
                if pending.command == cmd::BLOCK_STATUS && pending.status.len() != contexts {
                    return Err(ClientError::protocol(
                        "a block status without every context",
                    ));
                }
                Ok(pending.status)
            }
        };
        Ok(Some(Finished {
            tag: pending.tag,
            answer,
        }))
    }

    fn pending_mut(&mut self, cookie: u64) -> Result<&mut Pending<T>> {
        self.pending.get_mut(&cookie).ok_or_else(unknown_cookie)
    }
}

/// Extents cut at the end of the request. The last may reach past it (it tells what follows), but
/// none may begin there, and none may leave the disk.
fn clipped(
    mut extents: Vec<StatusExtent>,
    offset: u64,
    len: u64,
    size: u64,
) -> Result<Vec<StatusExtent>> {
    let mut left = len;
    let mut at = offset;
    for extent in &mut extents {
        if left == 0 {
            return Err(ClientError::protocol("a status extent behind the request"));
        }
        at = at
            .checked_add(extent.len)
            .filter(|end| *end <= size)
            .ok_or(ClientError::protocol("a status extent past the disk's end"))?;
        extent.len = extent.len.min(left);
        left -= extent.len;
    }
    Ok(extents)
}

fn to_usize(n: u64) -> Result<usize> {
    usize::try_from(n).map_err(|_| unexpected())
}

fn unknown_cookie() -> ClientError {
    ClientError::protocol("a reply to a request that was never sent")
}

fn unexpected() -> ClientError {
    ClientError::protocol("bytes that nobody asked for")
}
