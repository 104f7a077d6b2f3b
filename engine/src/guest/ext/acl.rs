//! POSIX access lists: ext keeps them shorter than the kernel shows them.

use super::fields::{le16, le32};
use crate::guest::{Fault, Result};

pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

/// The version of ext's form, and of the kernel's.
const OURS: u32 = 1;
const KERNEL: u32 = 2;
/// Tags of entries that name a user or a group; the others have no number.
const NAMED: [u16; 2] = [0x02, 0x08];
/// The number of who is not named.
const NOBODY: u32 = !0;

pub(super) fn is_list(name: &[u8]) -> bool {
    name == ACCESS || name == DEFAULT
}

/// A list in the form that the kernel's `getxattr` answers.
///
/// # Errors
/// `Damaged` where it is no list.
pub(super) fn to_kernel(list: &[u8]) -> Result<Vec<u8>> {
    let wrong = || Fault::damaged("an access list that makes no sense");
    if list.len() < 4 || le32(list, 0) != OURS {
        return Err(wrong());
    }
    let mut rest = list.get(4..).unwrap_or_default();
    let mut out = KERNEL.to_le_bytes().to_vec();
    while !rest.is_empty() {
        let tag = le16(rest, 0);
        let len = if NAMED.contains(&tag) { 8 } else { 4 };
        let (entry, behind) = rest.split_at_checked(len).ok_or_else(wrong)?;
        out.extend_from_slice(entry);
        if len == 4 {
            out.extend_from_slice(&NOBODY.to_le_bytes());
        }
        rest = behind;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_list_grows_and_a_broken_one_is_refused() {
        let ours = [
            &[1u8, 0, 0, 0][..],
            &[1, 0, 6, 0],
            &[2, 0, 4, 0, 9, 0, 0, 0],
            &[0x20, 0, 0, 0],
        ]
        .concat();
        let kernel = [
            &[2u8, 0, 0, 0][..],
            &[1, 0, 6, 0, 255, 255, 255, 255],
            &[2, 0, 4, 0, 9, 0, 0, 0],
            &[0x20, 0, 0, 0, 255, 255, 255, 255],
        ]
        .concat();
        assert_eq!(to_kernel(&ours).unwrap(), kernel);
        for cut in [0, 3, 6, 11] {
            assert!(to_kernel(&ours[..cut]).is_err(), "{cut}");
        }
    }
}
