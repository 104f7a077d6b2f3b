//! Where a header's tables may lie, and how large they and the disk may be.

use super::{Header, at, layout};
use crate::qcow2::OpenPolicy;
use crate::range::{ClusterSize, HostOffset};
use crate::{ErrorKind, Result};

impl Header {
    /// The L1 and refcount tables are aligned, inside the file, and within the limits.
    pub(super) fn tables(&self, file_len: u64, policy: &OpenPolicy) -> Result<()> {
        if self.virtual_size > policy.max_virtual_size {
            return Err(at(
                ErrorKind::TooLarge,
                24,
                format!(
                    "the image claims a disk of {} bytes, more than the limit of {}",
                    self.virtual_size, policy.max_virtual_size
                ),
            ));
        }
        let place = Place {
            cluster: self.cluster,
            file_len,
        };
        let l1_bytes = u64::from(self.l1_entries) * 8;
        place.limit("L1 table", 36, l1_bytes, policy.max_l1_bytes)?;
        let needed = self.tables_needed();
        if needed * 8 > policy.max_l1_bytes {
            return Err(at(
                ErrorKind::TooLarge,
                24,
                format!(
                    "a disk of {} bytes needs an L1 table beyond the limit",
                    self.virtual_size
                ),
            ));
        }
        if u64::from(self.l1_entries) < needed {
            return Err(at(
                ErrorKind::Malformed,
                36,
                format!(
                    "the L1 table has {} entries and the disk needs {needed}",
                    self.l1_entries
                ),
            ));
        }
        place.check("L1 table", 40, self.l1_at, l1_bytes)?;

        let table = u64::from(self.refcount_table_clusters) * self.cluster.bytes();
        place.limit("refcount table", 56, table, policy.max_refcount_table_bytes)?;
        if table == 0 {
            return Err(at(
                ErrorKind::Malformed,
                56,
                "the image has no refcount table",
            ));
        }
        place.check("refcount table", 48, self.refcount_table_at, table)?;

        if self.snapshots > layout::MAX_SNAPSHOTS {
            return Err(at(
                ErrorKind::TooLarge,
                60,
                format!("{} snapshots are more than QEMU allows", self.snapshots),
            ));
        }
        // Their table is not needed to read the disk: only a check looks where it lies.
        Ok(())
    }
}

/// The geometry against which a table's place is judged.
struct Place {
    cluster: ClusterSize,
    file_len: u64,
}

impl Place {
    fn limit(&self, what: &str, field: u64, bytes: u64, limit: u64) -> Result<()> {
        if bytes > limit {
            return Err(at(
                ErrorKind::TooLarge,
                field,
                format!("the {what} claims {bytes} bytes, more than the limit of {limit}"),
            ));
        }
        Ok(())
    }

    fn check(&self, what: &str, field: u64, start: HostOffset, bytes: u64) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let start = start.get();
        if !start.is_multiple_of(self.cluster.bytes()) || start == 0 || start >= layout::MAX_HOST {
            return Err(at(
                ErrorKind::Malformed,
                field,
                format!("the {what} cannot lie at byte {start}"),
            ));
        }
        if start
            .checked_add(bytes)
            .is_none_or(|end| end > self.file_len)
        {
            return Err(at(
                ErrorKind::Truncated,
                field,
                format!(
                    "the {what} ({bytes} bytes at {start}) goes beyond the file's end at {}",
                    self.file_len
                ),
            ));
        }
        Ok(())
    }
}
