//! The request header, compact and extended.

use super::{EXTENDED_REQUEST_MAGIC, Fields, REQUEST_MAGIC, len32};

/// A compact request header.
pub const COMPACT_REQUEST_LEN: usize = 28;
/// An extended request header.
pub const EXTENDED_REQUEST_LEN: usize = 32;

/// One request as it stands in its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Of [`super::cmd_flags`].
    pub flags: u16,
    /// One of [`super::cmd`], or anything else.
    pub command: u16,
    /// The client's own mark, given back with the reply.
    pub cookie: u64,
    /// Where, in bytes.
    pub offset: u64,
    /// How much, in bytes; compact headers carry 32 bits.
    pub len: u64,
}

impl Request {
    /// From the wire, in the form that was negotiated; `None` where the magic is wrong or
    /// `bytes` too short.
    pub fn decode(bytes: &[u8], extended: bool) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        let magic = if extended {
            EXTENDED_REQUEST_MAGIC
        } else {
            REQUEST_MAGIC
        };
        if fields.u32()? != magic {
            return None;
        }
        Some(Self {
            flags: fields.u16()?,
            command: fields.u16()?,
            cookie: fields.u64()?,
            offset: fields.u64()?,
            len: if extended {
                fields.u64()?
            } else {
                u64::from(fields.u32()?)
            },
        })
    }

    /// Appends the header. In compact form a longer length saturates: callers check before.
    pub fn encode(&self, out: &mut Vec<u8>, extended: bool) {
        let magic = if extended {
            EXTENDED_REQUEST_MAGIC
        } else {
            REQUEST_MAGIC
        };
        out.extend_from_slice(&magic.to_be_bytes());
        out.extend_from_slice(&self.flags.to_be_bytes());
        out.extend_from_slice(&self.command.to_be_bytes());
        out.extend_from_slice(&self.cookie.to_be_bytes());
        out.extend_from_slice(&self.offset.to_be_bytes());
        if extended {
            out.extend_from_slice(&self.len.to_be_bytes());
        } else {
            let len = usize::try_from(self.len).map_or(u32::MAX, len32);
            out.extend_from_slice(&len.to_be_bytes());
        }
    }

    /// Header length of the form that was negotiated.
    pub const fn header_len(extended: bool) -> usize {
        if extended {
            EXTENDED_REQUEST_LEN
        } else {
            COMPACT_REQUEST_LEN
        }
    }
}
