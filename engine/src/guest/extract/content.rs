//! The content of one file: data where it is, holes where they are.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::Trouble;
use crate::Result;
use crate::guest::walk::Item;
use crate::guest::{Fault, FileSystem};

/// Bytes that are moved at once.
pub(super) const STEP: usize = 1 << 20;

/// Copies the content into a new file; tells the bytes as they are written.
pub(super) fn copy(
    fs: &dyn FileSystem,
    item: &Item,
    to: &File,
    buf: &mut [u8],
    moved: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<(), Trouble> {
    let size = item.stat.size;
    to.set_len(size)?;
    let mut at = 0;
    while at < size {
        let Some(data) = fs.data(item.node, None, at)? else {
            break;
        };
        let end = data.end.min(size);
        at = data.start.max(at);
        if end <= at && data.start < size {
            return Err(Fault::damaged("the file's extents do not go on").into());
        }
        while at < end {
            let len = usize::try_from(end - at).unwrap_or(STEP).min(buf.len());
            let part = buf.get_mut(..len).unwrap_or_default();
            let got = fs.read(item.node, None, at, part)?;
            let Some(part) = part.get(..got).filter(|part| !part.is_empty()) else {
                return Err(Fault::damaged(format!("the content ends at {at} of {size}")).into());
            };
            to.write_all_at(part, at)?;
            at += got as u64;
            moved(got as u64).map_err(Trouble::Stop)?;
        }
    }
    Ok(())
}
