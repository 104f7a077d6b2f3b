//! A reader that lets through only what a parser of changed extents can take in bounded memory.
//!
//! The parser keeps a name, a value and one byte per open bracket while it reads them; nothing in
//! JSON bounds these, and the length of the text must not.

use std::io::{self, Read};

use crate::error::{Error, ErrorKind};

/// The longest name or value, and the most brackets open at once.
const LONGEST: usize = 64 << 10;

/// Passes bytes on up to the first one that breaks a limit. What comes before that one is always
/// given out, so that how the text was cut into reads does not decide which error is found.
#[derive(Debug)]
pub(super) struct Bounded<R> {
    inner: R,
    max_bytes: usize,
    read: usize,
    /// Bytes of the name or value under way.
    word: usize,
    /// Open brackets.
    depth: usize,
    in_string: bool,
    escaped: bool,
    stopped: Option<Error>,
}

impl<R: Read> Bounded<R> {
    pub(super) fn new(inner: R, max_bytes: usize) -> Self {
        Self {
            inner,
            max_bytes,
            read: 0,
            word: 0,
            depth: 0,
            in_string: false,
            escaped: false,
            stopped: None,
        }
    }

    /// The limit that the text broke, or how reading failed.
    pub(super) fn stopped(&mut self) -> Option<Error> {
        self.stopped.take()
    }

    /// Follows the text by one byte. Whether it is JSON is for the parser to say; on what is none,
    /// the counts only have to stay bounded.
    fn follow(&mut self, byte: u8) -> Result<(), Error> {
        let too_large = |detail| Err(Error::new(ErrorKind::TooLarge, detail));
        self.read += 1;
        if self.read > self.max_bytes {
            return too_large(format!(
                "the change list is longer than the {} bytes allowed",
                self.max_bytes
            ));
        }
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' if self.in_string => self.escaped = true,
            b'"' => {
                self.in_string = !self.in_string;
                self.word = 0;
            }
            _ if self.in_string => {}
            b'[' | b'{' => {
                self.depth += 1;
                self.word = 0;
            }
            b']' | b'}' => {
                self.depth = self.depth.saturating_sub(1);
                self.word = 0;
            }
            b',' | b':' | b' ' | b'\t' | b'\n' | b'\r' => self.word = 0,
            _ => {}
        }
        self.word += 1;
        if self.word > LONGEST || self.depth > LONGEST {
            return too_large(format!(
                "the change list has a name or value of more than {LONGEST} bytes, or more than \
                 {LONGEST} open brackets, before its byte {}",
                self.read
            ));
        }
        Ok(())
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Some(e) = &self.stopped {
            return Err(io::Error::other(e.clone()));
        }
        let n = self.inner.read(buf).inspect_err(|e| {
            if e.kind() != io::ErrorKind::Interrupted {
                let detail = format!("the change list could not be read to its end: {e}");
                self.stopped = Some(Error::new(ErrorKind::Truncated, detail));
            }
        })?;
        let got = buf.get(..n).unwrap_or_default();
        for (sound, byte) in got.iter().enumerate() {
            if let Err(e) = self.follow(*byte) {
                self.stopped = Some(e.clone());
                return match sound {
                    0 => Err(io::Error::other(e)),
                    _ => Ok(sound),
                };
            }
        }
        Ok(n)
    }
}
