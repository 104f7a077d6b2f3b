//! Writing the header cluster: fixed part, extensions, end mark, backing name, zeros.

use super::{Compression, Header, layout};
use crate::qcow2::safe_backing_name;
use crate::{Error, ErrorKind, Result};

/// One feature-name entry: class, bit, name padded with zeros.
const NAME_ENTRY: usize = 48;

impl Header {
    /// The first cluster of the file. Version 3 only; a backing file needs its format and a name
    /// that passes [`safe_backing_name`].
    pub fn encode(&self) -> Result<Vec<u8>> {
        if self.version != 3 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "only version 3 headers are written",
            ));
        }
        let mut out = self.fixed();
        let name = match &self.backing {
            None => "",
            Some(backing) => {
                safe_backing_name(&backing.name)?;
                let format = backing.format.as_deref().unwrap_or_default();
                if format.is_empty() || format.len() > layout::MAX_BACKING_FORMAT {
                    return Err(Error::new(
                        ErrorKind::Malformed,
                        "a backing file is only written with the name of its format",
                    ));
                }
                push_extension(&mut out, layout::EXT_BACKING_FORMAT, format.as_bytes());
                &backing.name
            }
        };
        let mut rest = Vec::new();
        for extension in &self.extensions {
            push_extension(&mut rest, extension.kind, &extension.data);
        }
        rest.extend_from_slice(&[0; 8]);

        // The names are a courtesy to other readers: in a 512-byte cluster there is no room.
        let size = self.cluster.bytes_usize();
        let names = feature_names();
        if out.len() + 8 + names.len() + rest.len() + name.len() <= size {
            push_extension(&mut out, layout::EXT_FEATURE_NAMES, &names);
        }
        out.extend_from_slice(&rest);
        if !name.is_empty() {
            let at = out.len() as u64;
            put(&mut out, 8, &at.to_be_bytes());
            let len = u32::try_from(name.len()).unwrap_or(u32::MAX);
            put(&mut out, 16, &len.to_be_bytes());
            out.extend_from_slice(name.as_bytes());
        }
        if out.len() > size {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "a header of {} bytes does not fit into a cluster",
                    out.len()
                ),
            ));
        }
        out.resize(size, 0);
        Ok(out)
    }

    /// The fixed fields, 104 bytes where that is enough. The backing name's place is filled in
    /// later.
    fn fixed(&self) -> Vec<u8> {
        let long = self.compression != Compression::Zlib || !self.extra.is_empty();
        let padding = self.extra.len().next_multiple_of(8) - self.extra.len();
        let length = match long {
            false => layout::V3_HEADER,
            true => layout::V3_HEADER_COMPRESSION + self.extra.len() + padding,
        };
        let mut out = Vec::with_capacity(self.cluster.bytes_usize());
        out.extend_from_slice(&layout::MAGIC.to_be_bytes());
        out.extend_from_slice(&self.version.to_be_bytes());
        out.extend_from_slice(&[0; 12]);
        out.extend_from_slice(&self.cluster.bits().to_be_bytes());
        out.extend_from_slice(&self.virtual_size.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.l1_entries.to_be_bytes());
        out.extend_from_slice(&self.l1_at.get().to_be_bytes());
        out.extend_from_slice(&self.refcount_table_at.get().to_be_bytes());
        out.extend_from_slice(&self.refcount_table_clusters.to_be_bytes());
        out.extend_from_slice(&self.snapshots.to_be_bytes());
        out.extend_from_slice(&self.snapshots_at.get().to_be_bytes());
        out.extend_from_slice(&self.incompatible.to_be_bytes());
        out.extend_from_slice(&self.compatible.to_be_bytes());
        out.extend_from_slice(&self.autoclear.to_be_bytes());
        out.extend_from_slice(&self.refcount_order.to_be_bytes());
        out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        if long {
            out.push(u8::from(self.compression == Compression::Zstd));
            out.extend_from_slice(&[0; 7]);
            out.extend_from_slice(&self.extra);
            out.resize(length, 0);
        }
        out
    }
}

fn push_extension(out: &mut Vec<u8>, kind: u32, data: &[u8]) {
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(8), 0);
}

fn feature_names() -> Vec<u8> {
    let mut out = Vec::with_capacity(layout::FEATURE_NAMES.len() * NAME_ENTRY);
    for (class, bit, name) in layout::FEATURE_NAMES {
        let end = out.len() + NAME_ENTRY;
        out.extend_from_slice(&[class, bit]);
        out.extend_from_slice(name.as_bytes());
        out.resize(end, 0);
    }
    out
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(slot) = out.get_mut(at..at + bytes.len()) {
        slot.copy_from_slice(bytes);
    }
}
