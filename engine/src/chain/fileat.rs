//! An engine file as the formats crate reads one.

use std::io;
use std::sync::Arc;

use sendense_formats::HostOffset;
use sendense_formats::qcow2::ReadAt;

use crate::storage::File;

/// Blocking access to a file of known length.
#[derive(Debug, Clone)]
pub struct FileAt {
    file: Arc<dyn File>,
    len: u64,
}

impl FileAt {
    /// The file as long as it is now.
    pub fn new(file: Arc<dyn File>) -> io::Result<Self> {
        let len = file.len()?;
        Ok(Self { file, len })
    }
}

impl ReadAt for FileAt {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, at: HostOffset, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_at_blocking(at.get(), buf)
    }
}
