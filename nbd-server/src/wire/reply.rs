//! Replies: simple, structured chunks, extended chunks, and the payloads of chunks.

use super::{
    EXTENDED_REPLY_MAGIC, Fields, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, chunk, len32,
};
use crate::export::StatusExtent;

/// A simple reply's header.
pub const SIMPLE_REPLY_LEN: usize = 16;
/// A structured chunk's header.
pub const STRUCTURED_CHUNK_HEADER_LEN: usize = 20;
/// An extended chunk's header.
pub const EXTENDED_CHUNK_HEADER_LEN: usize = 32;

/// A simple reply; the data of a READ follows where `error` is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimpleReply {
    /// 0, or an errno of the protocol.
    pub error: u32,
    /// The request's.
    pub cookie: u64,
}

impl SimpleReply {
    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        out.extend_from_slice(&self.error.to_be_bytes());
        out.extend_from_slice(&self.cookie.to_be_bytes());
    }

    /// From the wire; `None` where the magic is another or `bytes` too short.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        if fields.u32()? != SIMPLE_REPLY_MAGIC {
            return None;
        }
        Some(Self {
            error: fields.u32()?,
            cookie: fields.u64()?,
        })
    }
}

/// The header of one chunk of a structured or extended reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHeader {
    /// [`chunk::FLAG_DONE`] on the last.
    pub flags: u16,
    /// One of the types of [`chunk`].
    pub kind: u16,
    /// The request's.
    pub cookie: u64,
    /// The request's offset; only extended headers carry it.
    pub offset: u64,
    /// Of the payload that follows.
    pub len: u64,
}

impl ChunkHeader {
    /// Whether this ends the reply.
    pub const fn done(&self) -> bool {
        self.flags & chunk::FLAG_DONE != 0
    }

    /// Appends it. In structured form a longer length saturates: callers check before.
    pub fn encode(&self, out: &mut Vec<u8>, extended: bool) {
        let magic = if extended {
            EXTENDED_REPLY_MAGIC
        } else {
            STRUCTURED_REPLY_MAGIC
        };
        out.extend_from_slice(&magic.to_be_bytes());
        out.extend_from_slice(&self.flags.to_be_bytes());
        out.extend_from_slice(&self.kind.to_be_bytes());
        out.extend_from_slice(&self.cookie.to_be_bytes());
        if extended {
            out.extend_from_slice(&self.offset.to_be_bytes());
            out.extend_from_slice(&self.len.to_be_bytes());
        } else {
            let len = usize::try_from(self.len).map_or(u32::MAX, len32);
            out.extend_from_slice(&len.to_be_bytes());
        }
    }

    /// From the wire; `None` where the magic is another or `bytes` too short.
    pub fn decode(bytes: &[u8], extended: bool) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        let magic = if extended {
            EXTENDED_REPLY_MAGIC
        } else {
            STRUCTURED_REPLY_MAGIC
        };
        if fields.u32()? != magic {
            return None;
        }
        let (flags, kind, cookie) = (fields.u16()?, fields.u16()?, fields.u64()?);
        let (offset, len) = if extended {
            (fields.u64()?, fields.u64()?)
        } else {
            (0, u64::from(fields.u32()?))
        };
        Some(Self {
            flags,
            kind,
            cookie,
            offset,
            len,
        })
    }

    /// Header length of the form that was negotiated.
    pub const fn header_len(extended: bool) -> usize {
        if extended {
            EXTENDED_CHUNK_HEADER_LEN
        } else {
            STRUCTURED_CHUNK_HEADER_LEN
        }
    }
}

/// The payload of OFFSET_HOLE.
pub fn hole_payload(offset: u64, len: u32) -> [u8; 12] {
    let mut out = [0; 12];
    for (to, from) in out
        .iter_mut()
        .zip(offset.to_be_bytes().into_iter().chain(len.to_be_bytes()))
    {
        *to = from;
    }
    out
}

/// Offset and length of OFFSET_HOLE.
pub fn parse_hole_payload(payload: &[u8]) -> Option<(u64, u32)> {
    let mut fields = Fields::new(payload);
    let found = (fields.u64()?, fields.u32()?);
    fields.is_empty().then_some(found)
}

/// The payload of ERROR, or of ERROR_OFFSET where an offset is given. The text is cut at 4096
/// bytes, as the protocol asks.
pub fn error_payload(error: u32, message: &str, offset: Option<u64>) -> Vec<u8> {
    let mut end = message.len().min(super::MAX_STRING);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    let message = message.get(..end).unwrap_or_default();
    let mut out = Vec::with_capacity(14 + message.len());
    out.extend_from_slice(&error.to_be_bytes());
    out.extend_from_slice(
        &u16::try_from(message.len())
            .unwrap_or_default()
            .to_be_bytes(),
    );
    out.extend_from_slice(message.as_bytes());
    if let Some(offset) = offset {
        out.extend_from_slice(&offset.to_be_bytes());
    }
    out
}

/// Error, text and (ERROR_OFFSET) the rest of an error chunk; text that is no UTF-8 reads as empty.
pub fn parse_error_payload(payload: &[u8]) -> Option<(u32, &str, Option<u64>)> {
    let mut fields = Fields::new(payload);
    let error = fields.u32()?;
    let len = usize::from(fields.u16()?);
    let message = std::str::from_utf8(fields.take(len)?).unwrap_or_default();
    Some((error, message, fields.u64()))
}

/// The payload of BLOCK_STATUS (or, extended, BLOCK_STATUS_EXT) for one context.
pub fn status_payload(context: u32, extents: &[StatusExtent], extended: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + extents.len() * if extended { 16 } else { 8 });
    out.extend_from_slice(&context.to_be_bytes());
    if extended {
        out.extend_from_slice(&len32(extents.len()).to_be_bytes());
        for extent in extents {
            out.extend_from_slice(&extent.len.to_be_bytes());
            out.extend_from_slice(&u64::from(extent.flags).to_be_bytes());
        }
    } else {
        for extent in extents {
            let len = u32::try_from(extent.len).unwrap_or(u32::MAX);
            out.extend_from_slice(&len.to_be_bytes());
            out.extend_from_slice(&extent.flags.to_be_bytes());
        }
    }
    out
}

/// Context and extents of a BLOCK_STATUS or BLOCK_STATUS_EXT chunk; `None` where it has a wrong
/// shape, no extent, an empty extent, or flags that do not fit 32 bits.
pub fn parse_status_payload(payload: &[u8], extended: bool) -> Option<(u32, Vec<StatusExtent>)> {
    let mut fields = Fields::new(payload);
    let context = fields.u32()?;
    let each = if extended { 16 } else { 8 };
    let claimed = if extended { Some(fields.u32()?) } else { None };
    let count = fields.rest().len() / each;
    if claimed.is_some_and(|claimed| usize::try_from(claimed) != Ok(count)) {
        return None;
    }
    let mut extents = Vec::with_capacity(count);
    for _ in 0..count {
        let (len, flags) = if extended {
            (fields.u64()?, u32::try_from(fields.u64()?).ok()?)
        } else {
            (u64::from(fields.u32()?), fields.u32()?)
        };
        if len == 0 {
            return None;
        }
        extents.push(StatusExtent { len, flags });
    }
    (fields.is_empty() && !extents.is_empty()).then_some((context, extents))
}
