//! Opening an image without I/O: say which bytes are needed, take them, be done.
//!
//! Three reads: the first sector, the header cluster, the L1 table. Each is bounded by the file's
//! length and the policy before it is asked for.

use std::io;

use super::map::Image;
use super::{Header, OpenPolicy};
use crate::range::HostOffset;
use crate::{Error, ErrorKind, Result};

/// Opens one image, step by step.
#[derive(Debug)]
pub struct Opener {
    file_len: u64,
    policy: OpenPolicy,
    state: State,
}

/// What an [`Opener`] wants next.
#[derive(Debug)]
pub enum OpenStep {
    /// Exactly these bytes of the file, handed to [`Opener::give`].
    Need {
        /// Where they begin.
        at: HostOffset,
        /// How many.
        len: usize,
    },
    /// The image is open.
    Done(Image),
}

#[derive(Debug)]
enum State {
    Start(Option<Vec<u8>>),
    Header(usize, Option<Vec<u8>>),
    Table(Box<Header>, Option<Vec<u8>>),
    Over,
}

impl Opener {
    /// An opener for a file of this length.
    pub fn new(file_len: u64, policy: OpenPolicy) -> Self {
        Self {
            file_len,
            policy,
            state: State::Start(None),
        }
    }

    /// What to do next. The same need comes again until it is given; after an error or `Done` the
    /// opener is used up.
    pub fn step(&mut self) -> Result<OpenStep> {
        loop {
            self.state = match std::mem::replace(&mut self.state, State::Over) {
                State::Start(None) => {
                    self.state = State::Start(None);
                    return Ok(need(0, self.clip(512)));
                }
                State::Start(Some(bytes)) => {
                    complete(&bytes, self.clip(512))?;
                    let wanted = self.clip(Header::wanted(&bytes)?);
                    State::Header(wanted, (wanted <= bytes.len()).then_some(bytes))
                }
                State::Header(wanted, None) => {
                    self.state = State::Header(wanted, None);
                    return Ok(need(0, wanted));
                }
                State::Header(wanted, Some(bytes)) => {
                    complete(&bytes, wanted)?;
                    let header = Header::parse_with(&bytes, self.file_len, &self.policy)?;
                    let empty = header.tables_needed() == 0;
                    State::Table(Box::new(header), empty.then(Vec::new))
                }
                State::Table(header, None) => {
                    let step = need(header.l1_at.get(), l1_len(&header));
                    self.state = State::Table(header, None);
                    return Ok(step);
                }
                State::Table(header, Some(bytes)) => {
                    complete(&bytes, l1_len(&header))?;
                    return Ok(OpenStep::Done(Image::new(*header, &bytes, self.file_len)));
                }
                State::Over => {
                    return Err(Error::new(
                        ErrorKind::WrongState,
                        "this opener has done its work",
                    ));
                }
            };
        }
    }

    /// Hands in the bytes that the last step asked for. Fewer are an error of the next step.
    pub fn give(&mut self, bytes: Vec<u8>) {
        match &mut self.state {
            State::Start(slot) | State::Header(_, slot) | State::Table(_, slot) => {
                *slot = Some(bytes);
            }
            State::Over => {}
        }
    }

    fn clip(&self, len: usize) -> usize {
        usize::try_from(self.file_len).map_or(len, |file| len.min(file))
    }
}

/// Bytes of the L1 entries that the disk needs; inside the file, as the header was checked.
fn l1_len(header: &Header) -> usize {
    usize::try_from(header.tables_needed() * 8).unwrap_or(usize::MAX)
}

fn need(at: u64, len: usize) -> OpenStep {
    OpenStep::Need {
        at: HostOffset::new(at),
        len,
    }
}

fn complete(bytes: &[u8], len: usize) -> Result<()> {
    if bytes.len() < len {
        return Err(Error::new(
            ErrorKind::Truncated,
            format!("{len} bytes were asked for and {} came", bytes.len()),
        ));
    }
    Ok(())
}

/// Random access to an image file, for the conveniences of this crate.
pub trait ReadAt {
    /// Bytes of the file.
    fn len(&self) -> u64;

    /// Whether the file has no byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf` from `at` on; what lies behind the file's end is zero.
    fn read_at(&self, at: HostOffset, buf: &mut [u8]) -> io::Result<()>;
}

impl ReadAt for [u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn read_at(&self, at: HostOffset, buf: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(at.get()).unwrap_or(usize::MAX);
        let from = self.get(from..).unwrap_or(&[]);
        let have = from.len().min(buf.len());
        let (front, back) = buf.split_at_mut(have);
        front.copy_from_slice(from.get(..have).unwrap_or(&[]));
        back.fill(0);
        Ok(())
    }
}

impl ReadAt for Vec<u8> {
    fn len(&self) -> u64 {
        ReadAt::len(self.as_slice())
    }

    fn read_at(&self, at: HostOffset, buf: &mut [u8]) -> io::Result<()> {
        self.as_slice().read_at(at, buf)
    }
}

impl<R: ReadAt + ?Sized> ReadAt for &R {
    fn len(&self) -> u64 {
        (**self).len()
    }

    fn read_at(&self, at: HostOffset, buf: &mut [u8]) -> io::Result<()> {
        (**self).read_at(at, buf)
    }
}

/// Why an image could not be opened or checked.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The image is refused.
    #[error(transparent)]
    Format(#[from] Error),
    /// The file could not be read.
    #[error("the image file cannot be read")]
    Io(#[from] io::Error),
}

/// Drives an [`Opener`] over a file.
pub fn open<R: ReadAt + ?Sized>(file: &R, policy: OpenPolicy) -> Result<Image, OpenError> {
    let mut opener = Opener::new(file.len(), policy);
    loop {
        match opener.step()? {
            OpenStep::Done(image) => return Ok(image),
            OpenStep::Need { at, len } => {
                let mut bytes = vec![0; len];
                file.read_at(at, &mut bytes)?;
                opener.give(bytes);
            }
        }
    }
}
