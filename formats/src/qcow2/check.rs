//! The checker: every reference is counted and compared with the refcounts, as `qemu-img check`
//! does, and the header's flags are told as well.
//!
//! A *corruption* is what may cost data: a cluster that is used and not counted, tables that point
//! outside or onto each other, a wrong copied flag. A *leak* is a cluster that is counted and not
//! used. Guest data itself is not judged; that is the checksums' work.
//!
//! Memory follows what the tables hold (2.5 bytes for each cluster in use), time the file's
//! length, whatever the header claims: each table is read once, however often it is referred to.
//! Tables of snapshots and bitmaps beyond [`MAX_LISTED`] bytes together are a finding: in a file
//! with holes they would cost memory and hold nothing.

mod compare;
mod counts;
mod walk;

use counts::Counts;

use super::{Header, OpenError, OpenPolicy, ReadAt, open};
use crate::range::HostOffset;
use crate::{Error, ErrorKind, Result};

/// Findings that are kept in words; all are counted.
const MAX_FINDINGS: usize = 1000;
/// Bytes that the tables of snapshots and bitmaps may have together.
const MAX_LISTED: u64 = 64 << 30;

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckReport {
    /// Damage that may cost data.
    pub corruptions: u64,
    /// Clusters counted more often than they are used.
    pub leaks: u64,
    /// The findings in words, the first thousand.
    pub findings: Vec<Finding>,
    /// The header says that the image was not closed.
    pub dirty: bool,
    /// The header says that a writer found damage.
    pub corrupt: bool,
    /// Clusters of the virtual disk.
    pub total_clusters: u64,
    /// Guest clusters with space of their own, packed ones included.
    pub allocated_clusters: u64,
    /// Packed guest clusters.
    pub compressed_clusters: u64,
    /// Allocated guest clusters that do not follow the one before; packed ones always count.
    pub fragmented_clusters: u64,
    /// The byte behind the last cluster in use.
    pub image_end: HostOffset,
    /// Corruptions that lowering the leaked refcounts does not mend.
    beyond_leaks: u64,
    /// New bytes of refcount blocks without the leaks.
    repairs: Vec<(HostOffset, Vec<u8>)>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The byte of the file that it is about.
    pub at: HostOffset,
    /// One sentence.
    pub detail: String,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// It may cost data.
    Corruption,
    /// It costs space.
    Leak,
}

impl CheckReport {
    fn new(header: &Header) -> Self {
        Self {
            corruptions: 0,
            leaks: 0,
            findings: Vec::new(),
            dirty: header.dirty(),
            corrupt: header.corrupt(),
            total_clusters: header.cluster.count(header.virtual_size),
            allocated_clusters: 0,
            compressed_clusters: 0,
            fragmented_clusters: 0,
            image_end: HostOffset::new(0),
            beyond_leaks: 0,
            repairs: Vec::new(),
        }
    }

    /// No corruption and no leak. The header's flags do not count, as in `qemu-img`.
    pub fn is_clean(&self) -> bool {
        self.corruptions == 0 && self.leaks == 0
    }

    /// The exit code of `qemu-img check`: 0 clean, 2 corrupt, 3 only leaks.
    pub fn exit_code(&self) -> u8 {
        match (self.corruptions, self.leaks) {
            (0, 0) => 0,
            (0, _) => 3,
            _ => 2,
        }
    }

    /// Findings that were counted and not kept in words.
    pub fn findings_left_out(&self) -> u64 {
        (self.corruptions + self.leaks).saturating_sub(self.findings.len() as u64)
    }

    fn corruption(&mut self, at: HostOffset, detail: impl FnOnce() -> String) {
        self.beyond_leaks += 1;
        // Nothing is repaired any more.
        self.repairs = Vec::new();
        self.mendable(at, detail);
    }

    /// A corruption that is gone once the leaks are.
    fn mendable(&mut self, at: HostOffset, detail: impl FnOnce() -> String) {
        self.corruptions += 1;
        self.keep(Severity::Corruption, at, detail);
    }

    fn leak(&mut self, at: HostOffset, detail: impl FnOnce() -> String) {
        self.leaks += 1;
        self.keep(Severity::Leak, at, detail);
    }

    fn keep(&mut self, severity: Severity, at: HostOffset, detail: impl FnOnce() -> String) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding {
                severity,
                at,
                detail: detail(),
            });
        }
    }
}

/// Checks an image. An error means that it could not be checked: not an image, refused, unreadable.
pub fn check<R: ReadAt + ?Sized>(file: &R, policy: OpenPolicy) -> Result<CheckReport, OpenError> {
    let header = &open(file, policy)?.into_header();
    // No file is longer than 2^62 bytes: below it no sum of an offset and a length overflows.
    let file_len = file.len().min(1 << 62);
    let mut checker = Checker {
        file,
        file_len,
        counts: Counts::default(),
        report: CheckReport::new(header),
        budget: file_len.min(MAX_LISTED),
        header,
    };
    checker.walk()?;
    checker.compare()?;
    Ok(checker.report)
}

/// The writes that repair all leaks: pieces of refcount blocks. Refused while there is other damage,
/// because a cluster that looks unused may then be one that lost its reference.
pub fn repair_leaks(report: &CheckReport) -> Result<Vec<(HostOffset, Vec<u8>)>> {
    if report.beyond_leaks > 0 || report.corrupt {
        return Err(Error::new(
            ErrorKind::WrongState,
            "leaks are not repaired in an image that has other damage",
        ));
    }
    Ok(report.repairs.clone())
}

/// One check under way.
struct Checker<'a, R: ?Sized> {
    file: &'a R,
    file_len: u64,
    header: &'a Header,
    counts: Counts,
    report: CheckReport,
    /// Bytes of listed tables that may still be read. Tables that do not overlap never use it up.
    budget: u64,
}

impl<R: ReadAt + ?Sized> Checker<'_, R> {
    fn read(&self, at: HostOffset, len: usize) -> Result<Vec<u8>, OpenError> {
        let mut bytes = vec![0; len];
        self.file.read_at(at, &mut bytes)?;
        Ok(bytes)
    }

    /// Calls `each` with every number of a table, reading 64 KiB at a time.
    fn words(
        &mut self,
        at: HostOffset,
        count: u64,
        mut each: impl FnMut(&mut Self, u64, u64),
    ) -> Result<(), OpenError> {
        const PIECE: u64 = 8192;
        let mut done = 0;
        while done < count {
            let now = PIECE.min(count - done);
            let from = HostOffset::new(at.get().saturating_add(done * 8));
            // At most 64 KiB.
            let bytes = self.read(from, usize::try_from(now * 8).unwrap_or(0))?;
            for (index, word) in (done..).zip(super::bytes::u64s(&bytes)) {
                each(self, index, word);
            }
            done += now;
        }
        Ok(())
    }

    /// Clusters of the file, the last perhaps in part.
    fn file_clusters(&self) -> u64 {
        self.header.cluster.count(self.file_len)
    }

    fn is_aligned(&self, at: HostOffset) -> bool {
        at.get().is_multiple_of(self.header.cluster.bytes())
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers of a test")]
mod tests;
