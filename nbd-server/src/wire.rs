//! The words of the NBD protocol: magics, flags, numbers, and codecs for both directions.
//!
//! Everything is big-endian. Nothing here allocates by what a peer claims, keeps state or does I/O:
//! encoders give bytes, decoders read from a slice and answer `None` where it is too short or wrong.
//!
//! ```text
//! handshake     NBDMAGIC u64 | IHAVEOPT u64 | flags u16          -> client flags u32
//! option        IHAVEOPT u64 | option u32 | length u32 | data
//! option reply  3e889045565a9 u64 | option u32 | type u32 | length u32 | data
//! request       25609513 u32 | flags u16 | type u16 | cookie u64 | offset u64 | length u32      28 bytes
//! extended      21e41c71 u32 | flags u16 | type u16 | cookie u64 | offset u64 | length u64      32 bytes
//! simple reply  67446698 u32 | error u32 | cookie u64                                           16 bytes
//! chunk         668e33ef u32 | flags u16 | type u16 | cookie u64 | length u32                   20 bytes
//! ext. chunk    6e8a278c u32 | flags u16 | type u16 | cookie u64 | offset u64 | length u64      32 bytes
//! ```

mod option;
mod reply;
mod request;

pub use option::{
    CLIENT_FLAGS_LEN, GREETING_LEN, Info, OPTION_HEADER_LEN, OPTION_REPLY_HEADER_LEN, OptionHeader,
    OptionReplyHeader, export_name_reply, go_data, greeting, list_entry, meta_context_data,
    meta_context_entry, option, option_reply, parse_greeting, parse_list_entry,
    parse_meta_context_entry,
};
pub use reply::{
    ChunkHeader, EXTENDED_CHUNK_HEADER_LEN, SIMPLE_REPLY_LEN, STRUCTURED_CHUNK_HEADER_LEN,
    SimpleReply, error_payload, hole_payload, parse_error_payload, parse_hole_payload,
    parse_status_payload, status_payload,
};
pub use request::{COMPACT_REQUEST_LEN, EXTENDED_REQUEST_LEN, Request};

/// First word of the server's greeting, "NBDMAGIC".
pub const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second word of the greeting and first of every option, "IHAVEOPT".
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// First word of every option reply.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// First word of a compact request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// First word of an extended request.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// First word of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// First word of a structured reply chunk.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// First word of an extended reply chunk.
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// The port of `nbd://` without one.
pub const DEFAULT_PORT: u16 = 10809;
/// The longest string (name, description, query) that the protocol allows.
pub const MAX_STRING: usize = 4096;

/// Flags of the greeting and of the client's answer to it; the same two bits on both sides.
pub mod handshake_flags {
    /// Fixed newstyle: unknown options are answered.
    pub const FIXED_NEWSTYLE: u16 = 1 << 0;
    /// EXPORT_NAME is not followed by 124 zero bytes.
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// Option numbers.
pub mod opt {
    /// Choose an export and start, without a way to refuse.
    pub const EXPORT_NAME: u32 = 1;
    /// End the session.
    pub const ABORT: u32 = 2;
    /// List exports.
    pub const LIST: u32 = 3;
    /// Withdrawn from the protocol.
    pub const PEEK_EXPORT: u32 = 4;
    /// Upgrade to TLS.
    pub const STARTTLS: u32 = 5;
    /// Describe an export.
    pub const INFO: u32 = 6;
    /// Describe an export and start.
    pub const GO: u32 = 7;
    /// Replies in chunks.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// List metadata contexts.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Select metadata contexts.
    pub const SET_META_CONTEXT: u32 = 10;
    /// 64-bit lengths.
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Option reply types.
pub mod rep {
    /// Done.
    pub const ACK: u32 = 1;
    /// One export of LIST.
    pub const SERVER: u32 = 2;
    /// One piece of INFO or GO.
    pub const INFO: u32 = 3;
    /// One metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// The bit that makes a type an error.
    pub const ERROR_BIT: u32 = 1 << 31;
    /// The option is not known.
    pub const ERR_UNSUP: u32 = ERROR_BIT | 1;
    /// Forbidden by policy.
    pub const ERR_POLICY: u32 = ERROR_BIT | 2;
    /// Malformed, or misplaced.
    pub const ERR_INVALID: u32 = ERROR_BIT | 3;
    /// Not on this platform.
    pub const ERR_PLATFORM: u32 = ERROR_BIT | 4;
    /// Only after STARTTLS.
    pub const ERR_TLS_REQD: u32 = ERROR_BIT | 5;
    /// No such export.
    pub const ERR_UNKNOWN: u32 = ERROR_BIT | 6;
    /// Going away.
    pub const ERR_SHUTDOWN: u32 = ERROR_BIT | 7;
    /// The client must ask for the block size.
    pub const ERR_BLOCK_SIZE_REQD: u32 = ERROR_BIT | 8;
    /// The option or its answer is too big.
    pub const ERR_TOO_BIG: u32 = ERROR_BIT | 9;
    /// Extended headers are in force or needed.
    pub const ERR_EXT_HEADER_REQD: u32 = ERROR_BIT | 10;
}

/// Information types of INFO and GO.
pub mod info {
    /// Size and transmission flags; always sent.
    pub const EXPORT: u16 = 0;
    /// The canonical name.
    pub const NAME: u16 = 1;
    /// Text for people.
    pub const DESCRIPTION: u16 = 2;
    /// Minimum, preferred, maximum.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags of an export.
pub mod export_flags {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// Writes are refused.
    pub const READ_ONLY: u16 = 1 << 1;
    /// FLUSH is served.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// The FUA flag is served.
    pub const SEND_FUA: u16 = 1 << 3;
    /// A spinning medium.
    pub const ROTATIONAL: u16 = 1 << 4;
    /// TRIM is served.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// WRITE_ZEROES is served.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// The DF flag is served.
    pub const SEND_DF: u16 = 1 << 7;
    /// FLUSH on one connection covers all.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// RESIZE is served (never by us).
    pub const SEND_RESIZE: u16 = 1 << 9;
    /// CACHE is served (never by us).
    pub const SEND_CACHE: u16 = 1 << 10;
    /// The FAST_ZERO flag is served.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
    /// BLOCK_STATUS takes a payload (never by us).
    pub const BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;
}

/// Command types.
pub mod cmd {
    /// Read.
    pub const READ: u16 = 0;
    /// Write; the payload follows.
    pub const WRITE: u16 = 1;
    /// Disconnect; no reply.
    pub const DISC: u16 = 2;
    /// Put on stable storage.
    pub const FLUSH: u16 = 3;
    /// The content is not needed.
    pub const TRIM: u16 = 4;
    /// Read ahead.
    pub const CACHE: u16 = 5;
    /// Make it read as zeroes.
    pub const WRITE_ZEROES: u16 = 6;
    /// Ask the selected metadata contexts.
    pub const BLOCK_STATUS: u16 = 7;
    /// Change the size.
    pub const RESIZE: u16 = 8;
}

/// Command flags.
pub mod cmd_flags {
    /// Reply only when on stable storage.
    pub const FUA: u16 = 1 << 0;
    /// WRITE_ZEROES: keep it allocated.
    pub const NO_HOLE: u16 = 1 << 1;
    /// READ: one chunk.
    pub const DF: u16 = 1 << 2;
    /// BLOCK_STATUS: one extent.
    pub const REQ_ONE: u16 = 1 << 3;
    /// WRITE_ZEROES: fail rather than be slow.
    pub const FAST_ZERO: u16 = 1 << 4;
    /// Extended headers: the length is that of a payload.
    pub const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Structured and extended chunk types.
pub mod chunk {
    /// Set on the last chunk of a reply.
    pub const FLAG_DONE: u16 = 1 << 0;
    /// Nothing, only the end.
    pub const NONE: u16 = 0;
    /// Offset u64, then data.
    pub const OFFSET_DATA: u16 = 1;
    /// Offset u64, length u32 of zeroes.
    pub const OFFSET_HOLE: u16 = 2;
    /// Context u32, then (length u32, flags u32) each.
    pub const BLOCK_STATUS: u16 = 5;
    /// Context u32, count u32, then (length u64, flags u64) each.
    pub const BLOCK_STATUS_EXT: u16 = 6;
    /// The bit that makes a type an error.
    pub const ERROR_BIT: u16 = 1 << 15;
    /// Error u32, text length u16, text.
    pub const ERROR: u16 = ERROR_BIT | 1;
    /// The same, then offset u64.
    pub const ERROR_OFFSET: u16 = ERROR_BIT | 2;
}

/// The context that every export has: bit 0 HOLE, bit 1 ZERO.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// `base:allocation`: a write may need space.
pub const STATE_HOLE: u32 = 1 << 0;
/// `base:allocation`: reads as zeroes.
pub const STATE_ZERO: u32 = 1 << 1;

/// Reads big-endian fields one after another; `None` behind the end.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// From the start of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// What is left.
    pub const fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// Whether everything was read: trailing bytes make most messages invalid.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    /// The next two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// The next four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// The next eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    /// A u32 length and that many bytes.
    pub fn counted(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u32()?).ok()?;
        self.take(len)
    }
}

/// A protocol string: UTF-8, no NUL, at most [`MAX_STRING`] bytes.
pub fn text(bytes: &[u8]) -> Option<&str> {
    if bytes.len() > MAX_STRING || bytes.contains(&0) {
        return None;
    }
    std::str::from_utf8(bytes).ok()
}

/// A length of something of ours as the u32 that the wire has for it; what is longer than 4 GiB
/// never gets here, and saturating keeps the encoders total.
fn len32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
