//! The handshake's messages: greeting, options, option replies.

use super::{
    Fields, NBD_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, handshake_flags, info, len32, text,
};
use crate::export::BlockSize;

/// The server's greeting.
pub const GREETING_LEN: usize = 18;
/// The client's answer to it.
pub const CLIENT_FLAGS_LEN: usize = 4;
/// Before an option's data.
pub const OPTION_HEADER_LEN: usize = 16;
/// Before an option reply's data.
pub const OPTION_REPLY_HEADER_LEN: usize = 20;

/// The greeting of a fixed-newstyle server.
pub fn greeting() -> [u8; GREETING_LEN] {
    let flags = handshake_flags::FIXED_NEWSTYLE | handshake_flags::NO_ZEROES;
    let mut out = [0; GREETING_LEN];
    let fields = NBD_MAGIC
        .to_be_bytes()
        .into_iter()
        .chain(OPTION_MAGIC.to_be_bytes());
    for (to, from) in out.iter_mut().zip(fields.chain(flags.to_be_bytes())) {
        *to = from;
    }
    out
}

/// The flags of a newstyle greeting; `None` for anything else (oldstyle included).
pub fn parse_greeting(bytes: &[u8; GREETING_LEN]) -> Option<u16> {
    let mut fields = Fields::new(bytes);
    if fields.u64()? != NBD_MAGIC || fields.u64()? != OPTION_MAGIC {
        return None;
    }
    fields.u16()
}

/// What precedes an option's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionHeader {
    /// One of [`super::opt`], or anything else.
    pub option: u32,
    /// Of the data that follows.
    pub len: u32,
}

impl OptionHeader {
    /// From the wire; `None` where the magic is wrong.
    pub fn decode(bytes: &[u8; OPTION_HEADER_LEN]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        if fields.u64()? != OPTION_MAGIC {
            return None;
        }
        Some(Self {
            option: fields.u32()?,
            len: fields.u32()?,
        })
    }
}

/// Appends a whole option (client to server).
pub fn option(out: &mut Vec<u8>, option: u32, data: &[u8]) {
    out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&len32(data.len()).to_be_bytes());
    out.extend_from_slice(data);
}

/// The data of INFO and GO: the name and the information types asked for.
pub fn go_data(name: &str, wanted: &[u16]) -> Vec<u8> {
    let mut out = Vec::with_capacity(6 + name.len() + 2 * wanted.len());
    counted(&mut out, name.as_bytes());
    let count = u16::try_from(wanted.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&count.to_be_bytes());
    for id in wanted.iter().take(usize::from(count)) {
        out.extend_from_slice(&id.to_be_bytes());
    }
    out
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
pub fn meta_context_data(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    counted(&mut out, name.as_bytes());
    out.extend_from_slice(&len32(queries.len()).to_be_bytes());
    for query in queries {
        counted(&mut out, query.as_bytes());
    }
    out
}

fn counted(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&len32(bytes.len()).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// What precedes an option reply's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionReplyHeader {
    /// The option that it answers.
    pub option: u32,
    /// One of [`super::rep`].
    pub kind: u32,
    /// Of the data that follows.
    pub len: u32,
}

impl OptionReplyHeader {
    /// From the wire; `None` where the magic is wrong.
    pub fn decode(bytes: &[u8; OPTION_REPLY_HEADER_LEN]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        if fields.u64()? != OPTION_REPLY_MAGIC {
            return None;
        }
        Some(Self {
            option: fields.u32()?,
            kind: fields.u32()?,
            len: fields.u32()?,
        })
    }
}

/// Appends a whole option reply (server to client).
pub fn option_reply(out: &mut Vec<u8>, option: u32, kind: u32, data: &[u8]) {
    out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&len32(data.len()).to_be_bytes());
    out.extend_from_slice(data);
}

/// The answer to EXPORT_NAME, which has no header of its own.
pub fn export_name_reply(out: &mut Vec<u8>, size: u64, flags: u16, no_zeroes: bool) {
    out.extend_from_slice(&size.to_be_bytes());
    out.extend_from_slice(&flags.to_be_bytes());
    if !no_zeroes {
        out.extend_from_slice(&[0; 124]);
    }
}

/// The data of one SERVER reply: name, then text for people.
pub fn list_entry(name: &str, description: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + name.len() + description.len());
    counted(&mut out, name.as_bytes());
    out.extend_from_slice(description.as_bytes());
    out
}

/// Name and text of one SERVER reply.
pub fn parse_list_entry(data: &[u8]) -> Option<(&str, &str)> {
    let mut fields = Fields::new(data);
    let name = text(fields.counted()?)?;
    Some((name, text(fields.rest())?))
}

/// The data of one META_CONTEXT reply: the context's number in this session, and its name.
pub fn meta_context_entry(id: u32, name: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + name.len());
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(name.as_bytes());
    out
}

/// Number and name of one META_CONTEXT reply.
pub fn parse_meta_context_entry(data: &[u8]) -> Option<(u32, &str)> {
    let mut fields = Fields::new(data);
    let id = fields.u32()?;
    Some((id, text(fields.rest())?))
}

/// The data of one INFO reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Info<'a> {
    /// Size and transmission flags.
    Export {
        /// Bytes.
        size: u64,
        /// Of [`super::export_flags`].
        flags: u16,
    },
    /// The canonical name.
    Name(&'a str),
    /// Text for people.
    Description(&'a str),
    /// Sizes.
    BlockSize(BlockSize),
    /// A type that is not known here.
    Other(u16),
}

impl<'a> Info<'a> {
    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Export { size, flags } => {
                out.extend_from_slice(&info::EXPORT.to_be_bytes());
                out.extend_from_slice(&size.to_be_bytes());
                out.extend_from_slice(&flags.to_be_bytes());
            }
            Self::Name(name) => {
                out.extend_from_slice(&info::NAME.to_be_bytes());
                out.extend_from_slice(name.as_bytes());
            }
            Self::Description(description) => {
                out.extend_from_slice(&info::DESCRIPTION.to_be_bytes());
                out.extend_from_slice(description.as_bytes());
            }
            Self::BlockSize(sizes) => {
                out.extend_from_slice(&info::BLOCK_SIZE.to_be_bytes());
                for size in [sizes.minimum, sizes.preferred, sizes.maximum] {
                    out.extend_from_slice(&size.to_be_bytes());
                }
            }
            Self::Other(id) => out.extend_from_slice(&id.to_be_bytes()),
        }
        out
    }

    /// From the data of a reply; `None` where a known type has a wrong shape.
    pub fn decode(data: &'a [u8]) -> Option<Self> {
        let mut fields = Fields::new(data);
        let found = match fields.u16()? {
            info::EXPORT => Self::Export {
                size: fields.u64()?,
                flags: fields.u16()?,
            },
            info::NAME => return Some(Self::Name(text(fields.rest())?)),
            info::DESCRIPTION => return Some(Self::Description(text(fields.rest())?)),
            info::BLOCK_SIZE => Self::BlockSize(BlockSize {
                minimum: fields.u32()?,
                preferred: fields.u32()?,
                maximum: fields.u32()?,
            }),
            other => return Some(Self::Other(other)),
        };
        fields.is_empty().then_some(found)
    }
}
