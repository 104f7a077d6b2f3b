//! Extended attributes: in the inode, in leaves of a tree by hash, long values in blocks of their
//! own ("Extended Attributes").

use std::collections::HashSet;

use super::acl;
use super::fields::{be16, be32, byte, index};
use super::inode::{Fork, Format, Inode};
use super::map;
use super::store::{Seal, Store};
use crate::guest::{Blocks, Fault, FaultKind, Result, Xattr};

/// Bytes in front of the entries of a leaf, of the children of a node, of a part of a value.
const LEAF_HEAD: usize = 80;
const NODE_HEAD: usize = 64;
const VALUE_HEAD: usize = 56;
const LEAF: u16 = 0x3bee;
const NODE: u16 = 0x3ebe;
/// Linux lets no value be longer.
const LONGEST_VALUE: u32 = 64 << 10;
/// Bytes of all names and values of one inode.
const MOST_BYTES: usize = 16 << 20;
/// A tree by hash is lower.
const DEEPEST: usize = 8;

/// Flags of an entry.
mod flag {
    pub(super) const LOCAL: u8 = 0x1;
    pub(super) const ROOT: u8 = 0x2;
    pub(super) const SECURE: u8 = 0x4;
    pub(super) const PARENT: u8 = 0x8;
    pub(super) const INCOMPLETE: u8 = 0x80;
}

const SEAL: Seal = Seal {
    what: "a block of attributes",
    crc: 12,
    place: 16,
    uuid: 32,
    owner: 48,
};
const VALUE_SEAL: Seal = Seal {
    what: "an attribute's value",
    crc: 12,
    place: 40,
    uuid: 16,
    owner: 32,
};

/// All attributes of an inode.
pub(super) fn all(store: &Store, inode: &Inode) -> Result<Vec<Xattr>> {
    let Some(fork) = inode.attributes()? else {
        return Ok(Vec::new());
    };
    let mut found = Attributes::default();
    match fork.format {
        Format::Local => found.short(fork.body)?,
        // A place for attributes, and none of them.
        Format::Extents if fork.extents == 0 => {}
        _ => found.leaves(store, &fork)?,
    }
    Ok(found.all)
}

/// The attributes, while they are found.
#[derive(Default)]
struct Attributes {
    all: Vec<Xattr>,
    bytes: usize,
}

impl Attributes {
    fn add(&mut self, flags: u8, name: &[u8], value: Vec<u8>) -> Result<()> {
        self.bytes = self.bytes.saturating_add(name.len() + value.len() + 64);
        if self.bytes > MOST_BYTES {
            return Err(Fault::new(
                FaultKind::Limit,
                format!("more than {MOST_BYTES} bytes of attributes"),
            ));
        }
        if name.is_empty() || name.contains(&0) {
            return Err(Fault::damaged("an attribute without a name"));
        }
        let prefix: &[u8] = match (flags & flag::ROOT != 0, flags & flag::SECURE != 0) {
            (false, false) => b"user.",
            (true, false) => b"trusted.",
            (false, true) => b"security.",
            (true, true) => return Err(Fault::damaged("an attribute of two kinds")),
        };
        let list = acl::kernel_name(name).filter(|_| prefix == b"trusted.");
        self.all.push(match list {
            Some(name) => Xattr {
                name: name.to_vec(),
                value: acl::to_kernel(&value)?,
            },
            None => Xattr {
                name: [prefix, name].concat(),
                value,
            },
        });
        Ok(())
    }

    /// Attributes within the inode: a length, a count, and entries without gaps.
    fn short(&mut self, body: &[u8]) -> Result<()> {
        let wrong = || Fault::damaged("the attributes do not fit in the inode");
        let body = body.get(..be16(body, 0).into()).ok_or_else(wrong)?;
        let mut at = 4;
        for _ in 0..byte(body, 2) {
            let (name_len, value_len) = (byte(body, at), byte(body, at + 1));
            let flags = byte(body, at + 2);
            let name_at = at + 3;
            let value_at = name_at + usize::from(name_len);
            at = value_at + usize::from(value_len);
            let name = body.get(name_at..value_at);
            let value = body.get(value_at..at);
            let (name, value) = name.zip(value).ok_or_else(wrong)?;
            if flags & (flag::INCOMPLETE | flag::PARENT) == 0 {
                self.add(flags, name, value.to_vec())?;
            }
        }
        Ok(())
    }

    /// Goes down to the first leaf, and from leaf to leaf.
    fn leaves(&mut self, store: &Store, fork: &Fork<'_>) -> Result<()> {
        let (mut next, mut block) = (0, read(store, fork, 0)?);
        for _ in 0..DEEPEST {
            if be16(&block, 8) != NODE {
                break;
            }
            if be16(&block, 56) == 0 {
                return Err(Fault::damaged("a node of attributes without children"));
            }
            next = be32(&block, NODE_HEAD + 4);
            block = read(store, fork, next)?;
        }
        let mut seen = HashSet::from([next]);
        loop {
            if be16(&block, 8) != LEAF {
                return Err(Fault::damaged(format!(
                    "block {next} of the attributes is no leaf"
                )));
            }
            self.leaf(store, fork, &block)?;
            next = be32(&block, 0);
            if next == 0 {
                return Ok(());
            }
            // Leaves without attributes cost nothing of the limit on bytes.
            self.bytes = self.bytes.saturating_add(256);
            if !seen.insert(next) || self.bytes > MOST_BYTES {
                return Err(Fault::damaged("the attributes do not end"));
            }
            block = read(store, fork, next)?;
        }
    }

    fn leaf(&mut self, store: &Store, fork: &Fork<'_>, leaf: &[u8]) -> Result<()> {
        let wrong = || Fault::damaged("an attribute lies outside of its block");
        for n in 0..usize::from(be16(leaf, 56)) {
            let entry = leaf.get(LEAF_HEAD + n * 8..LEAF_HEAD + n * 8 + 8);
            let entry = entry.ok_or_else(wrong)?;
            let flags = byte(entry, 6);
            if flags & (flag::INCOMPLETE | flag::PARENT) != 0 {
                continue;
            }
            let body = leaf.get(be16(entry, 4).into()..).ok_or_else(wrong)?;
            let local = flags & flag::LOCAL != 0;
            let (name_len, name_at) = match local {
                true => (byte(body, 2), 3),
                false => (byte(body, 8), 9),
            };
            let value_at = name_at + usize::from(name_len);
            let name = body.get(name_at..value_at).ok_or_else(wrong)?;
            let value = match local {
                true => {
                    let end = value_at + usize::from(be16(body, 0));
                    body.get(value_at..end).ok_or_else(wrong)?.to_vec()
                }
                false => far(store, fork, be32(body, 0), be32(body, 4))?,
            };
            self.add(flags, name, value)?;
        }
        Ok(())
    }
}

/// A block of the tree by hash.
fn read(store: &Store, fork: &Fork<'_>, logical: u32) -> Result<Vec<u8>> {
    let run = map::find(store, fork, logical.into())?;
    let missing = || Fault::damaged(format!("block {logical} of the attributes is missing"));
    let at = run.at.ok_or_else(missing)?;
    let block = store.blocks.bytes(at, store.sb.block_size)?;
    store.check(&block, &SEAL, at, fork.inode)?;
    Ok(block)
}

/// A long value: blocks from `first` on, each with a head of its own.
fn far(store: &Store, fork: &Fork<'_>, first: u32, len: u32) -> Result<Vec<u8>> {
    let wrong = || Fault::damaged(format!("a value of {len} bytes from block {first} on"));
    if len > LONGEST_VALUE || first == 0 {
        return Err(wrong());
    }
    let (len, mut value) = (index(len), Vec::new());
    let mut logical = u64::from(first);
    while value.len() < len {
        let at = map::find(store, fork, logical)?.at.ok_or_else(wrong)?;
        let block = store.blocks.bytes(at, store.sb.block_size)?;
        let here = (len - value.len()).min(block.len() - VALUE_HEAD);
        let fits = index(be32(&block, 4)) == value.len() && index(be32(&block, 8)) == here;
        if block.get(..4) != Some(b"XARM") || !fits {
            return Err(wrong());
        }
        store.check(&block, &VALUE_SEAL, at, fork.inode)?;
        let bytes = block.get(VALUE_HEAD..VALUE_HEAD + here);
        value.extend_from_slice(bytes.ok_or_else(wrong)?);
        logical += 1;
    }
    Ok(value)
}
