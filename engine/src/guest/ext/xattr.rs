//! Extended attributes: in the inode, in a block of their own, in inodes of their own ("Extended
//! Attributes").

use super::fields::{byte, index, le16, le32};
use super::inode::{Inode, flag};
use super::store::Store;
use super::{acl, content, crc};
use crate::guest::{Fault, FaultKind, Result, Xattr};

const MAGIC: u32 = 0xea02_0000;
/// Bytes in front of an entry's name.
const HEAD: usize = 16;
/// Bytes in front of the first entry of a block.
const BLOCK_HEAD: usize = 32;
/// Linux lets no value be longer.
const LONGEST_VALUE: u32 = 64 << 10;
/// Bytes of all values of one inode: entries may share what they name.
const MOST_BYTES: usize = 16 << 20;
/// The name of content that stands among the attributes.
const INLINE: (u8, &[u8]) = (7, b"data");

/// What a number in an entry stands for. Others hold what is not shown as an attribute.
fn prefix(number: u8) -> Option<&'static [u8]> {
    Some(match number {
        1 => b"user.",
        2 => acl::ACCESS,
        3 => acl::DEFAULT,
        4 => b"trusted.",
        6 => b"security.",
        8 => b"system.richacl",
        _ => return None,
    })
}

/// One entry, its value not looked at yet.
struct Raw<'a> {
    prefix: u8,
    name: &'a [u8],
    value: Value<'a>,
}

enum Value<'a> {
    Here(&'a [u8]),
    Inode { number: u32, len: u32 },
}

/// All attributes of an inode.
pub(super) fn all(store: &Store, inode: &Inode) -> Result<Vec<Xattr>> {
    let (mut found, mut bytes) = (Vec::new(), 0usize);
    let block = own_block(store, inode)?;
    let mut raw = in_inode(inode)?;
    raw.extend(match &block {
        Some(block) => entries(block, BLOCK_HEAD, 0)?,
        None => Vec::new(),
    });
    for Raw {
        prefix: number,
        name,
        value,
    } in raw
    {
        let Some(prefix) = prefix(number) else {
            continue;
        };
        let value = match value {
            Value::Here(value) => value.to_vec(),
            Value::Inode { number, len } => in_own_inode(store, number, len)?,
        };
        bytes = bytes.saturating_add(value.len());
        if bytes > MOST_BYTES {
            return Err(Fault::new(
                FaultKind::Limit,
                format!(
                    "inode {} has more than {MOST_BYTES} bytes of attributes",
                    inode.number
                ),
            ));
        }
        let value = match acl::is_list(prefix) {
            true => acl::to_kernel(&value)?,
            false => value,
        };
        let name = [prefix, name].concat();
        found.push(Xattr { name, value });
    }
    Ok(found)
}

/// The part of content that stands among the attributes; empty where there is none.
pub(super) fn inline_rest(store: &Store, inode: &Inode) -> Result<Vec<u8>> {
    let mut raw = in_inode(inode)?.into_iter();
    match raw.find(|raw| (raw.prefix, raw.name) == INLINE) {
        Some(Raw {
            value: Value::Here(value),
            ..
        }) => Ok(value.to_vec()),
        Some(Raw {
            value: Value::Inode { number, len },
            ..
        }) => in_own_inode(store, number, len),
        None => Ok(Vec::new()),
    }
}

fn in_inode(inode: &Inode) -> Result<Vec<Raw<'_>>> {
    match inode.tail() {
        tail if le32(tail, 0) == MAGIC => entries(tail, 4, 4),
        _ => Ok(Vec::new()),
    }
    .map_err(|fault| fault.at(format!("inode {}", inode.number)))
}

fn own_block(store: &Store, inode: &Inode) -> Result<Option<Vec<u8>>> {
    if inode.xattr_block == 0 {
        return Ok(None);
    }
    let place = |fault: Fault| fault.at(format!("attributes of inode {}", inode.number));
    let block = store.block(inode.xattr_block).map_err(place)?;
    if le32(&block, 0) != MAGIC || le32(&block, 8) != 1 {
        return Err(place(Fault::damaged("a block without its magic number")));
    }
    let crc = crc::crc32c(store.sb.seed, &inode.xattr_block.to_le_bytes());
    let crc = crc::crc32c_without(crc, &block, 0x10, 4);
    if store.sb.metadata_csum() && crc != le32(&block, 0x10) {
        return Err(place(Fault::damaged("the checksum is wrong")));
    }
    Ok(Some(block))
}

/// The entries of `area` from `first` on; values count from `base`.
fn entries(area: &[u8], first: usize, base: usize) -> Result<Vec<Raw<'_>>> {
    let (mut all, mut at) = (Vec::new(), first);
    loop {
        let entry = area.get(at..).unwrap_or_default();
        if entry.len() < 4 {
            return Err(Fault::damaged("the attributes do not end"));
        }
        if le32(entry, 0) == 0 {
            return Ok(all);
        }
        let name_len = usize::from(byte(entry, 0));
        let (number, len) = (le32(entry, 4), le32(entry, 8));
        let value = match number {
            0 => {
                let start = base.saturating_add(usize::from(le16(entry, 2)));
                let start = if len == 0 { 0 } else { start };
                area.get(start..start.saturating_add(index(len)))
                    .map(Value::Here)
            }
            _ => Some(Value::Inode { number, len }),
        };
        match (entry.get(HEAD..HEAD + name_len), value) {
            (Some(name), Some(value)) => all.push(Raw {
                prefix: byte(entry, 1),
                name,
                value,
            }),
            _ => return Err(Fault::damaged("an attribute lies outside of its place")),
        }
        at += (HEAD + name_len).next_multiple_of(4);
    }
}

/// A long value, which is the content of an inode of its own.
fn in_own_inode(store: &Store, number: u32, len: u32) -> Result<Vec<u8>> {
    let inode = store.any_inode(number)?;
    let fits = inode.size == u64::from(len) && len <= LONGEST_VALUE;
    if !inode.has(flag::VALUE) || !fits {
        return Err(Fault::damaged(format!(
            "inode {number} is not an attribute of {len} bytes"
        )));
    }
    let mut value = vec![0; index(len)];
    content::read(store, &inode, 0, &mut value)?;
    Ok(value)
}
