//! The id of a restore point, which is also the id of the job that makes it:
//! `backup-pgtest2-20251004120000`, and `-2`, `-3`, ... behind it within one second.
//!
//! At most 64 bytes of letters, digits, `-`, `_` and `.`: safe as a file name, in a URL and in a
//! shell. The time in it is a label in UTC; order is the sequence number.

use jiff::Timestamp;

use super::text_id::{is_plain, plain_part, text_id};
use crate::{Error, ErrorKind, Result};

const MAX: usize = 64;
const PREFIX: &str = "backup-";
const MAX_SUFFIX: u32 = 9999;
/// What is left for the VM's name beside the prefix, the time and the longest suffix.
const NAME_MAX: usize = MAX - PREFIX.len() - "-20251004120000".len() - "-9999".len();

text_id! {
    /// A restore point, and the job that makes it.
    BackupId, "the backup id", check
}

fn check(text: &str) -> Result<(), String> {
    let shape = || format!("{text:?} is not of the form backup-NAME-YYYYMMDDHHMMSS[-n]");
    if text.len() > MAX {
        return Err(format!("has {} bytes, more than {MAX}", text.len()));
    }
    let rest = text.strip_prefix(PREFIX).ok_or_else(shape)?;
    if !is_plain(rest) {
        return Err(shape());
    }
    let (head, last) = rest.rsplit_once('-').ok_or_else(shape)?;
    let name = if is_stamp(last) {
        head
    } else if is_suffix(last) {
        let (name, stamp) = head.rsplit_once('-').ok_or_else(shape)?;
        if !is_stamp(stamp) {
            return Err(shape());
        }
        name
    } else {
        return Err(shape());
    };
    if name.is_empty() {
        Err(shape())
    } else {
        Ok(())
    }
}

fn is_stamp(text: &str) -> bool {
    text.len() == 14 && text.bytes().all(|b| b.is_ascii_digit())
}

/// Whether this is a number of at most four digits, 2 or more, as we print it.
pub(super) fn is_suffix(text: &str) -> bool {
    text.len() <= 4
        && !text.starts_with('0')
        && text.bytes().all(|b| b.is_ascii_digit())
        && text.parse::<u32>().is_ok_and(|n| n >= 2)
}

/// The first of `base`, `base-2`, `base-3`, ... that is not taken.
pub(super) fn first_free(base: &str, mut taken: impl FnMut(&str) -> bool) -> Result<String> {
    if !taken(base) {
        return Ok(base.to_owned());
    }
    (2..=MAX_SUFFIX)
        .map(|n| format!("{base}-{n}"))
        .find(|name| !taken(name))
        .ok_or_else(|| {
            Error::new(
                ErrorKind::Exists,
                format!("{base} and all of its {MAX_SUFFIX} suffixes are taken"),
            )
        })
}

impl BackupId {
    /// A new id for a VM of this name at this moment, the first one that is not `taken`.
    pub fn new(
        vm_name: &str,
        at: Timestamp,
        mut taken: impl FnMut(&BackupId) -> bool,
    ) -> Result<Self> {
        let base = format!(
            "{PREFIX}{}-{}",
            plain_part(vm_name, NAME_MAX),
            at.strftime("%Y%m%d%H%M%S")
        );
        let name = first_free(&base, |name| taken(&Self(name.to_owned())))?;
        Self::parse(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn noon() -> Timestamp {
        "2025-10-04T12:00:00.5Z".parse().unwrap()
    }

    #[test]
    fn it_reads_as_the_product_says() {
        let id = BackupId::new("pgtest2", noon(), |_| false).unwrap();
        assert_eq!(id.as_str(), "backup-pgtest2-20251004120000");
        let second = BackupId::new("pgtest2", noon(), |taken| *taken == id).unwrap();
        assert_eq!(second.as_str(), "backup-pgtest2-20251004120000-2");
        assert!(BackupId::new("pgtest2", noon(), |_| true).is_err());
    }

    #[test]
    fn what_is_no_backup_id_is_refused() {
        for bad in [
            "",
            "backup-",
            "backup-x",
            "backup--20251004120000",
            "backup-x-2025100412000",
            "backup-x-20251004120000-1",
            "backup-x-20251004120000-02",
            "backup-x-20251004120000-10000",
            "backup-../x-20251004120000",
            "backup-x y-20251004120000",
            "restore-x-20251004120000",
        ] {
            assert!(BackupId::parse(bad).is_err(), "{bad}");
        }
        let long = format!("backup-{}-20251004120000", "x".repeat(43));
        assert!(BackupId::parse(long).is_err());
    }

    proptest! {
        #[test]
        fn any_vm_name_gives_a_valid_id(name in any::<String>(), taken in 0usize..3) {
            let mut left = taken;
            let id = BackupId::new(&name, noon(), |_| { let t = left > 0; left = left.saturating_sub(1); t }).unwrap();
            prop_assert!(id.as_str().len() <= MAX);
            prop_assert_eq!(BackupId::parse(id.as_str()).unwrap(), id);
        }

        #[test]
        fn reading_an_id_never_panics(text in any::<String>()) {
            let _ = BackupId::parse(text);
        }
    }
}
