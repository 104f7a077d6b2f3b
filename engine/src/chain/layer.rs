//! One file of a chain: its header and L1 table in memory, its L2 tables read when asked for.

use std::fmt;
use std::sync::Arc;

use sendense_formats::qcow2::{Image, OpenPolicy, OpenStep, Opener};

use crate::storage::File;
use crate::{Error, ErrorKind, Result};

/// What QEMU rounds the size of a raw file up to.
pub(super) const SECTOR: u64 = 512;

/// What the bytes of a layer's file are. Stated by whoever opens the chain, never probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerFormat {
    /// A QCOW2 image.
    Qcow2,
    /// The disk itself; only at the bottom of a chain.
    Raw,
}

/// A file to be opened as a layer.
#[derive(Debug, Clone)]
pub struct LayerSource {
    /// The file.
    pub file: Arc<dyn File>,
    /// What its bytes are.
    pub format: LayerFormat,
    /// How messages name it.
    pub name: String,
    /// The disk's exact size in bytes, where it is known: a header says whole sectors. Above what
    /// the image holds it means nothing.
    pub disk: Option<u64>,
}

impl LayerSource {
    /// A QCOW2 layer.
    pub fn qcow2(file: Arc<dyn File>, name: impl Into<String>) -> Self {
        Self {
            file,
            format: LayerFormat::Qcow2,
            name: name.into(),
            disk: None,
        }
    }

    /// With the disk's exact size in bytes.
    #[must_use]
    pub fn with_disk(self, bytes: u64) -> Self {
        Self {
            disk: Some(bytes),
            ..self
        }
    }

    /// A raw layer.
    pub fn raw(file: Arc<dyn File>, name: impl Into<String>) -> Self {
        Self {
            file,
            format: LayerFormat::Raw,
            name: name.into(),
            disk: None,
        }
    }
}

impl From<Arc<dyn File>> for LayerSource {
    fn from(file: Arc<dyn File>) -> Self {
        Self::qcow2(file, "the image")
    }
}

/// An opened layer.
pub struct Layer {
    name: String,
    file: Arc<dyn File>,
    len: u64,
    size: u64,
    image: Option<Image>,
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layer")
            .field("name", &self.name)
            .field("size", &self.size)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl Layer {
    /// Reads header and L1 table.
    pub(super) fn open(source: LayerSource, policy: &OpenPolicy) -> Result<Self> {
        let LayerSource {
            file,
            format,
            name,
            disk,
        } = source;
        let len = file.len().map_err(|e| Error::io(name.clone(), e))?;
        let image = match format {
            LayerFormat::Raw => None,
            LayerFormat::Qcow2 => {
                let mut opener = Opener::new(len, policy.clone());
                loop {
                    match opener.step().map_err(|e| named(&name, e))? {
                        OpenStep::Done(image) => break Some(image),
                        OpenStep::Need { at, len } => {
                            let mut bytes = vec![0; len];
                            file.read_at_blocking(at.get(), &mut bytes)
                                .map_err(|e| Error::io(name.clone(), e))?;
                            opener.give(bytes);
                        }
                    }
                }
            }
        };
        let size = image.as_ref().map_or(len, Image::virtual_size);
        let size = disk.map_or(size, |disk| disk.min(size));
        Ok(Self {
            name,
            file,
            len,
            size,
            image,
        })
    }

    /// How messages name it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file.
    pub fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// The file's length when it was opened.
    pub fn file_len(&self) -> u64 {
        self.len
    }

    /// The bytes of the disk as this layer sees it.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where the layer ends for those above it: a raw file ends on a sector, as in QEMU.
    pub(super) fn end(&self) -> u64 {
        match &self.image {
            Some(_) => self.size,
            None => self.size.next_multiple_of(SECTOR),
        }
    }

    /// The image; `None` for a raw layer.
    pub fn image(&self) -> Option<&Image> {
        self.image.as_ref()
    }

    /// The backing file that its header names. Untrusted text.
    pub fn backing(&self) -> Option<&str> {
        let backing = self.image.as_ref()?.header().backing.as_ref()?;
        Some(&backing.name)
    }

    /// The smallest unit in which its map can change.
    pub(super) fn granule(&self) -> u64 {
        self.image.as_ref().map_or(u64::MAX, |image| {
            let cluster = image.cluster().bytes();
            if image.header().extended_l2() {
                cluster / 32
            } else {
                cluster
            }
        })
    }

    pub(super) fn damaged(&self, what: impl fmt::Display) -> Error {
        Error::new(ErrorKind::Damaged, format!("{}: {what}", self.name))
    }
}

/// A format error with the layer's name in front.
pub(super) fn named(name: &str, e: sendense_formats::Error) -> Error {
    let mut e = Error::from(e);
    name.clone_into(&mut e.at);
    e
}
