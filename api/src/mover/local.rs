//! Files and block devices of this machine: size, and where data is.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileTypeExt;

use rustix::fs::SeekFrom as At;

/// The size of a regular file or block device.
pub(super) fn size(file: &File) -> std::io::Result<u64> {
    let meta = file.metadata()?;
    if meta.is_file() {
        Ok(meta.len())
    } else if meta.file_type().is_block_device() {
        let mut handle = file;
        handle.seek(SeekFrom::End(0))
    } else {
        Err(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            "is neither a regular file nor a block device",
        ))
    }
}

/// Whether it is a block device.
pub(super) fn is_device(file: &File) -> std::io::Result<bool> {
    Ok(file.metadata()?.file_type().is_block_device())
}

/// The next run that is all data or all hole, from `at` on and not beyond `end`. Where the file
/// system cannot tell, everything is data.
pub(super) fn next_run(file: &File, at: u64, end: u64) -> std::io::Result<(Range<u64>, bool)> {
    match rustix::fs::seek(file, At::Data(at)) {
        Ok(data) if data > at => Ok((at..data.min(end), true)),
        Ok(_) => match rustix::fs::seek(file, At::Hole(at)) {
            Ok(hole) if hole > at => Ok((at..hole.min(end), false)),
            _ => Ok((at..end, false)),
        },
        // No data behind `at`.
        Err(rustix::io::Errno::NXIO) => Ok((at..end, true)),
        Err(_) => Ok((at..end, false)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn runs_cover_a_sparse_file_without_gaps() {
        let file = tempfile::tempfile().unwrap();
        file.set_len((8 << 20) + 513).unwrap();
        file.write_all_at(b"data", 4 << 20).unwrap();
        let end = size(&file).unwrap();
        let (mut at, mut holes, mut seen_data) = (0, 0, false);
        while at < end {
            let (run, hole) = next_run(&file, at, end).unwrap();
            assert_eq!(run.start, at);
            assert!(run.end > at);
            if hole {
                holes += run.end - run.start;
                assert!(!run.contains(&(4 << 20)));
            } else {
                seen_data |= run.contains(&(4 << 20));
            }
            at = run.end;
        }
        assert!(seen_data);
        assert!(holes > 0);
    }
}
