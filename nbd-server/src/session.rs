//! The transmission phase, without I/O: one request header in, what to do out; and the encoders of
//! every reply in the form that was agreed.
//!
//! Invariants: a call that comes out of [`Session::decode`] lies inside of the disk, is not empty
//! and carries only flags that were offered; how many payload bytes follow is known whether the
//! request is good or not, so the next header is always found; a READ that began in structured
//! form is never answered in simple form.

use crate::error::NbdError;
use crate::export::{ExportInfo, StatusExtent, ZeroFlags};
use crate::handshake::{Agreed, ReplyMode, sane_block_size};
use crate::limits::Limits;
use crate::wire::{
    ChunkHeader, Request, SimpleReply, chunk, cmd, cmd_flags, error_payload, hole_payload,
    status_payload,
};

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Read the range; in one chunk where `whole`.
    Read {
        /// The DF flag.
        whole: bool,
    },
    /// Write the payload that follows.
    Write {
        /// Flush before the reply.
        fua: bool,
    },
    /// Make the range zero.
    Zero {
        /// How.
        flags: ZeroFlags,
        /// Flush before the reply.
        fua: bool,
    },
    /// Trim the range.
    Trim {
        /// Flush before the reply.
        fua: bool,
    },
    /// Flush; the range is empty.
    Flush,
    /// Answer the selected contexts.
    Status {
        /// One extent only.
        one: bool,
    },
}

/// A request that passed all checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// The client's mark.
    pub cookie: u64,
    /// Where.
    pub at: u64,
    /// How much. For a write, so many payload bytes follow.
    pub len: u64,
    /// What.
    pub command: Command,
}

/// A request that is answered with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The client's mark.
    pub cookie: u64,
    /// The request's offset.
    pub at: u64,
    /// The error.
    pub error: NbdError,
    /// Why, for people.
    pub why: &'static str,
    /// So many payload bytes follow and are to be thrown away first.
    pub skip: u64,
    /// So many bytes from `at` on it asked to change; 0 where nothing would change: it is
    /// another command, or the export is read-only.
    pub changes: u64,
}

/// Why the stream cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The header does not begin with the magic that was agreed.
    #[error("a request did not begin with its magic")]
    Magic,
    /// A payload that is longer than is thrown away.
    #[error("a request announced a payload of {0} bytes")]
    Payload(u64),
}

/// What a request header means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Do it.
    Call(Call),
    /// An empty range: answer success.
    Nothing {
        /// The client's mark.
        cookie: u64,
        /// The request's offset.
        at: u64,
        /// Whether it was a READ.
        read: bool,
    },
    /// Answer an error.
    Refuse(Refusal),
    /// The client says goodbye.
    Disconnect,
    /// Close the connection.
    Broken {
        /// Why.
        why: Broken,
        /// The request's offset.
        at: u64,
        /// As in [`Refusal::changes`].
        changes: u64,
    },
}

/// What does not change during one transmission.
#[derive(Debug, Clone)]
pub struct Session {
    mode: ReplyMode,
    contexts: Vec<usize>,
    size: u64,
    minimum: u64,
    read_only: bool,
    can_flush: bool,
    can_trim: bool,
    can_zero: bool,
    can_fast_zero: bool,
    payload: u64,
    payload_drain: u64,
}

impl Session {
    /// For an export as agreed in the handshake.
    pub fn new(agreed: Agreed, info: &ExportInfo, limits: &Limits) -> Self {
        Self {
            mode: agreed.mode,
            contexts: agreed.contexts,
            size: info.size,
            minimum: u64::from(sane_block_size(info.block_size, limits.payload).minimum),
            read_only: info.read_only,
            can_flush: info.can_flush,
            can_trim: info.can_trim,
            can_zero: info.can_zero,
            can_fast_zero: info.can_zero && info.can_fast_zero,
            payload: u64::from(limits.payload),
            payload_drain: limits.payload_drain.max(u64::from(limits.payload)),
        }
    }

    /// Bytes of a request header.
    pub const fn header_len(&self) -> usize {
        Request::header_len(self.extended())
    }

    /// The form of replies.
    pub const fn mode(&self) -> ReplyMode {
        self.mode
    }

    /// The metadata contexts that were selected.
    pub fn contexts(&self) -> &[usize] {
        &self.contexts
    }

    const fn extended(&self) -> bool {
        matches!(self.mode, ReplyMode::Extended)
    }

    /// Judges one request header.
    pub fn decode(&self, header: &[u8]) -> Event {
        let Some(request) = Request::decode(header, self.extended()) else {
            return Event::Broken {
                why: Broken::Magic,
                at: 0,
                changes: 0,
            };
        };
        let changes = if changes(request.command) && !self.read_only {
            request.len
        } else {
            0
        };
        let payload_flag = self.extended() && request.flags & cmd_flags::PAYLOAD_LEN != 0;
        let carries = request.command == cmd::WRITE || payload_flag;
        let skip = if carries { request.len } else { 0 };
        if skip > self.payload_drain {
            return Event::Broken {
                why: Broken::Payload(skip),
                at: request.offset,
                changes,
            };
        }
        if request.command == cmd::DISC {
            return Event::Disconnect;
        }
        match self.judge(&request) {
            Ok(_) if request.len == 0 && request.command != cmd::FLUSH => Event::Nothing {
                cookie: request.cookie,
                at: request.offset,
                read: request.command == cmd::READ,
            },
            Ok(command) => {
                let (cookie, at, len) = (request.cookie, request.offset, request.len);
                Event::Call(Call {
                    cookie,
                    at,
                    len,
                    command,
                })
            }
            Err((error, why)) => {
                let (cookie, at) = (request.cookie, request.offset);
                Event::Refuse(Refusal {
                    cookie,
                    at,
                    error,
                    why,
                    skip,
                    changes,
                })
            }
        }
    }

    fn judge(&self, request: &Request) -> Result<Command, (NbdError, &'static str)> {
        if changes(request.command) && self.read_only {
            return Err((NbdError::NotPermitted, "the export is read-only"));
        }
        let offered = match request.command {
            cmd::READ | cmd::WRITE => true,
            cmd::FLUSH => self.can_flush,
            cmd::TRIM => self.can_trim,
            cmd::WRITE_ZEROES => self.can_zero,
            cmd::BLOCK_STATUS => !self.contexts.is_empty(),
            _ => false,
        };
        if !offered {
            return Err((NbdError::Invalid, "this command is not offered"));
        }
        if request.flags & !self.flags_of(request.command) != 0 {
            return Err((NbdError::Invalid, "a flag is not offered for this command"));
        }
        if request.command == cmd::FLUSH {
            return Ok(Command::Flush);
        }
        self.range(request)?;
        let has = |flag| request.flags & flag != 0;
        let fua = has(cmd_flags::FUA);
        Ok(match request.command {
            cmd::READ => Command::Read {
                whole: has(cmd_flags::DF),
            },
            cmd::WRITE => Command::Write { fua },
            cmd::TRIM => Command::Trim { fua },
            cmd::WRITE_ZEROES => Command::Zero {
                flags: ZeroFlags {
                    no_hole: has(cmd_flags::NO_HOLE),
                    fast: has(cmd_flags::FAST_ZERO),
                },
                fua,
            },
            _ => Command::Status {
                one: has(cmd_flags::REQ_ONE),
            },
        })
    }

    /// The flags that a command may carry. FUA may stand on every one once it was offered.
    const fn flags_of(&self, command: u16) -> u16 {
        let fua = if self.can_flush { cmd_flags::FUA } else { 0 };
        let fast = if self.can_fast_zero {
            cmd_flags::FAST_ZERO
        } else {
            0
        };
        fua | match command {
            cmd::READ if !matches!(self.mode, ReplyMode::Simple) => cmd_flags::DF,
            // Where it is missing in extended form the payload is there all the same.
            cmd::WRITE if self.extended() => cmd_flags::PAYLOAD_LEN,
            cmd::WRITE_ZEROES => cmd_flags::NO_HOLE | fast,
            cmd::BLOCK_STATUS => cmd_flags::REQ_ONE,
            _ => 0,
        }
    }

    fn range(&self, request: &Request) -> Result<(), (NbdError, &'static str)> {
        let moves = matches!(request.command, cmd::READ | cmd::WRITE);
        if moves && request.len > self.payload {
            let error = if request.command == cmd::READ {
                NbdError::Overflow
            } else {
                NbdError::Invalid
            };
            return Err((error, "longer than is served in one request"));
        }
        if request.len == 0 && request.command == cmd::BLOCK_STATUS {
            return Err((NbdError::Invalid, "the range is empty"));
        }
        if !(request.offset | request.len).is_multiple_of(self.minimum) {
            return Err((
                NbdError::Invalid,
                "the range is not a multiple of the minimum block",
            ));
        }
        if request
            .offset
            .checked_add(request.len)
            .is_none_or(|end| end > self.size)
        {
            let grows = matches!(request.command, cmd::WRITE | cmd::WRITE_ZEROES);
            let error = if grows {
                NbdError::NoSpace
            } else {
                NbdError::Invalid
            };
            return Err((error, "the range goes past the end of the export"));
        }
        Ok(())
    }

    /// Appends success without data.
    pub fn success(&self, out: &mut Vec<u8>, cookie: u64, at: u64, read: bool) {
        if self.extended() || (read && self.mode != ReplyMode::Simple) {
            self.chunk(out, cookie, at, chunk::NONE, 0, true);
        } else {
            SimpleReply { error: 0, cookie }.encode(out);
        }
    }

    /// Appends an error that ends the reply; `offset` tells where in the data it lies.
    pub fn failure(
        &self,
        out: &mut Vec<u8>,
        cookie: u64,
        at: u64,
        error: NbdError,
        why: &str,
        offset: Option<u64>,
    ) {
        if self.mode == ReplyMode::Simple {
            SimpleReply {
                error: error.errno(),
                cookie,
            }
            .encode(out);
            return;
        }
        let payload = error_payload(error.errno(), why, offset);
        let kind = if offset.is_some() {
            chunk::ERROR_OFFSET
        } else {
            chunk::ERROR
        };
        self.chunk(out, cookie, at, kind, payload.len(), true);
        out.extend_from_slice(&payload);
    }

    /// Appends what stands before `len` bytes of data of a READ at `at`; the data itself begins
    /// at `offset`. In simple form there is one for the whole reply.
    pub fn data(&self, out: &mut Vec<u8>, call: &Call, offset: u64, len: usize, done: bool) {
        if self.mode == ReplyMode::Simple {
            SimpleReply {
                error: 0,
                cookie: call.cookie,
            }
            .encode(out);
            return;
        }
        let payload = len.saturating_add(8);
        self.chunk(out, call.cookie, call.at, chunk::OFFSET_DATA, payload, done);
        out.extend_from_slice(&offset.to_be_bytes());
    }

    /// Appends a hole in the answer to a READ. Not in simple form.
    pub fn hole(&self, out: &mut Vec<u8>, call: &Call, offset: u64, len: u32, done: bool) {
        let payload = hole_payload(offset, len);
        self.chunk(
            out,
            call.cookie,
            call.at,
            chunk::OFFSET_HOLE,
            payload.len(),
            done,
        );
        out.extend_from_slice(&payload);
    }

    /// Appends the extents of one context.
    pub fn status(
        &self,
        out: &mut Vec<u8>,
        call: &Call,
        context: usize,
        extents: &[StatusExtent],
        done: bool,
    ) {
        let context = u32::try_from(context).unwrap_or(u32::MAX);
        let payload = status_payload(context, extents, self.extended());
        let kind = if self.extended() {
            chunk::BLOCK_STATUS_EXT
        } else {
            chunk::BLOCK_STATUS
        };
        self.chunk(out, call.cookie, call.at, kind, payload.len(), done);
        out.extend_from_slice(&payload);
    }

    fn chunk(&self, out: &mut Vec<u8>, cookie: u64, at: u64, kind: u16, len: usize, done: bool) {
        let flags = if done { chunk::FLAG_DONE } else { 0 };
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        ChunkHeader {
            flags,
            kind,
            cookie,
            offset: at,
            len,
        }
        .encode(out, self.extended());
    }
}

/// Whether a command changes its range.
const fn changes(command: u16) -> bool {
    matches!(command, cmd::WRITE | cmd::WRITE_ZEROES | cmd::TRIM)
}

#[cfg(test)]
mod tests;
