//! POSIX access lists: XFS keeps them under names and in a form of its own.

use super::fields::{be16, be32};
use crate::guest::{Fault, Result};

/// The version of the kernel's form.
const KERNEL: u32 = 2;
/// Bytes of one entry.
const ENTRY: usize = 12;
/// Tags of entries that name a user or a group; the number of the others means nothing.
const NAMED: [u32; 2] = [0x02, 0x08];
const NOBODY: u32 = !0;

/// The kernel's name for an attribute that holds a list, by its name among the trusted ones.
pub(super) fn kernel_name(name: &[u8]) -> Option<&'static [u8]> {
    match name {
        b"SGI_ACL_FILE" => Some(b"system.posix_acl_access"),
        b"SGI_ACL_DEFAULT" => Some(b"system.posix_acl_default"),
        _ => None,
    }
}

/// A list in the form that the kernel's `getxattr` answers.
///
/// # Errors
/// `Damaged` where it is no list.
pub(super) fn to_kernel(list: &[u8]) -> Result<Vec<u8>> {
    let wrong = || Fault::damaged("an access list that makes no sense");
    let (head, entries) = list.split_at_checked(4).ok_or_else(wrong)?;
    let count = usize::try_from(be32(head, 0)).ok();
    let len = count.and_then(|count| count.checked_mul(ENTRY));
    let entries = len.and_then(|len| entries.get(..len)).ok_or_else(wrong)?;
    let mut out = KERNEL.to_le_bytes().to_vec();
    for entry in entries.chunks_exact(ENTRY) {
        let (tag, perm) = (be32(entry, 0), be16(entry, 8));
        let id = match NAMED.contains(&tag) {
            true => be32(entry, 4),
            false => NOBODY,
        };
        let short = u16::try_from(tag).map_err(|_| wrong())?;
        out.extend_from_slice(&short.to_le_bytes());
        out.extend_from_slice(&perm.to_le_bytes());
        out.extend_from_slice(&id.to_le_bytes());
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_turned_and_a_broken_one_is_refused() {
        let ours = [
            &[0u8, 0, 0, 2][..],
            &[0, 0, 0, 1, 0, 0, 0, 77, 0, 6, 0, 0],
            &[0, 0, 0, 2, 0, 0, 0, 9, 0, 4, 0, 0],
        ]
        .concat();
        let kernel = [
            &[2u8, 0, 0, 0][..],
            &[1, 0, 6, 0, 255, 255, 255, 255],
            &[2, 0, 4, 0, 9, 0, 0, 0],
        ]
        .concat();
        assert_eq!(to_kernel(&ours).unwrap(), kernel);
        for cut in [0, 3, 6, 27] {
            assert!(to_kernel(&ours[..cut]).is_err(), "{cut}");
        }
    }
}
