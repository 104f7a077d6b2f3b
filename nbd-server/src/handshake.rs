//! The newstyle handshake, fixed and plain, without I/O: bytes in, bytes out, questions to whoever has exports.
//!
//! Invariants: an option's data is taken off the stream whole before it is judged, so the next
//! option always parses; nothing is allocated by what a peer claims; what INFO says is what GO
//! would say, since both take one way; STARTTLS forgets everything that was agreed before it; no
//! text sent repeats a peer's words.
//!
//! ```text
//! flags -> header -> data ─┬─> answered ────────────────────> header ...
//!                          ├─> Describe / Open / List ─ told ─> header, or Transmit
//!                          └─> StartTls ─ tls_started ──────> header (as after flags)
//! ```

use crate::export::{ExportInfo, Listed, Refused};
use crate::limits::Limits;
use crate::meta::{self, MetaRequest};
use crate::wire::{
    CLIENT_FLAGS_LEN, Fields, Info, MAX_STRING, OPTION_HEADER_LEN, OptionHeader, export_name_reply,
    greeting, handshake_flags, info, list_entry, meta_context_entry, opt, option_reply, rep, text,
};

mod answer;
pub use answer::{sane_block_size, transmission_flags};

/// How TLS stands in this session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsState {
    /// Not to be had.
    Off,
    /// Nothing is answered before STARTTLS.
    Required,
    /// In force.
    Active,
}

/// The form of replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum ReplyMode {
    /// One header per request.
    #[default]
    Simple,
    /// Chunks.
    Structured,
    /// Chunks, and 64-bit lengths in both directions.
    Extended,
}

/// What was agreed when the transmission begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Agreed {
    /// The form of replies.
    pub mode: ReplyMode,
    /// Numbers of the metadata contexts that were selected (see [`meta`]).
    pub contexts: Vec<usize>,
}

/// What happens next. Send what [`Handshake::output`] holds before doing it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Give more bytes.
    More,
    /// Call again with what is left of the bytes.
    Next,
    /// Describe this export: [`Handshake::described`].
    Describe(String),
    /// Open this export: [`Handshake::opened`].
    Open(String),
    /// List the exports: [`Handshake::listed`].
    List,
    /// Begin TLS, then [`Handshake::tls_started`]. Bytes that came after the option in plain must
    /// be refused.
    StartTls,
    /// The transmission begins.
    Transmit(Agreed),
    /// Close the connection.
    Close(Close),
}

/// Why a handshake ends without a transmission.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Close {
    /// The client said goodbye.
    #[error("the client ended the handshake")]
    Aborted,
    /// Flags that are not known.
    #[error("the client set handshake flags {0:#x} that are not known here")]
    ClientFlags(u32),
    /// Without fixed newstyle a client knows EXPORT_NAME alone: it could not read an answer.
    #[error("option {0} came without the fixed newstyle that it needs")]
    NotFixed(u32),
    /// Not an option.
    #[error("an option did not begin with its magic")]
    Magic,
    /// Longer than is drained.
    #[error("option {option} claims {len} bytes")]
    TooLong {
        /// Which.
        option: u32,
        /// Claimed.
        len: u32,
    },
    /// More options than one handshake may have.
    #[error("more than {0} options in one handshake")]
    TooManyOptions(usize),
    /// EXPORT_NAME has no way to say no.
    #[error("EXPORT_NAME was refused: {0}")]
    ExportName(&'static str),
}

#[derive(Debug)]
enum State {
    Flags,
    Header,
    Data {
        option: u32,
        len: usize,
    },
    Skip {
        option: u32,
        left: usize,
        reply: u32,
        why: &'static str,
    },
    Asking(Ask),
    Over,
}

#[derive(Debug)]
enum Ask {
    Info {
        option: u32,
        name: String,
        wanted: Vec<u16>,
    },
    ExportName {
        name: String,
    },
    List,
    Meta {
        option: u32,
        name: String,
        queries: Vec<String>,
    },
}

/// One handshake.
#[derive(Debug)]
pub struct Handshake {
    state: State,
    tls: TlsState,
    limits: Limits,
    options: usize,
    listed: bool,
    partial: Vec<u8>,
    out: Vec<u8>,
    /// The client speaks fixed newstyle.
    fixed: bool,
    no_zeroes: bool,
    mode: ReplyMode,
    /// What SET_META_CONTEXT selected, for which export, and which contexts it had.
    selected: Option<(String, Vec<String>, Vec<usize>)>,
}

impl Handshake {
    /// At its beginning; the greeting is in [`output`](Self::output).
    pub fn new(limits: &Limits, tls: TlsState) -> Self {
        Self {
            state: State::Flags,
            tls,
            limits: limits.clone(),
            options: limits.options,
            listed: false,
            partial: Vec::new(),
            out: greeting().to_vec(),
            fixed: false,
            no_zeroes: false,
            mode: ReplyMode::Simple,
            selected: None,
        }
    }

    /// What is to be sent; empty it once it was.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Takes bytes: how many it took, and what happens next. Handles at most one option a call,
    /// and takes nothing behind the option that begins TLS or the transmission.
    pub fn advance(&mut self, input: &[u8]) -> (usize, Step) {
        if let State::Skip {
            option,
            left,
            reply,
            why,
        } = self.state
        {
            let taken = left.min(input.len());
            if taken < left {
                self.state = State::Skip {
                    option,
                    left: left - taken,
                    reply,
                    why,
                };
                return (taken, Step::More);
            }
            self.refuse(option, reply, why);
            return (taken, Step::Next);
        }
        let need = match self.state {
            State::Flags => CLIENT_FLAGS_LEN,
            State::Header => OPTION_HEADER_LEN,
            State::Data { len, .. } => len,
            State::Skip { .. } | State::Asking(_) | State::Over => return (0, Step::More),
        };
        let missing = need.saturating_sub(self.partial.len());
        let Some((now, _)) = input.split_at_checked(missing) else {
            self.partial.extend_from_slice(input);
            return (input.len(), Step::More);
        };
        let mut whole = std::mem::take(&mut self.partial);
        whole.extend_from_slice(now);
        let step = self.message(&whole);
        whole.clear();
        self.partial = whole;
        (missing, step)
    }

    fn message(&mut self, bytes: &[u8]) -> Step {
        match self.state {
            State::Flags => self.flags(bytes),
            State::Header => self.header(bytes),
            State::Data { option, .. } => self.option(option, bytes),
            State::Skip { .. } | State::Asking(_) | State::Over => Step::More,
        }
    }

    fn flags(&mut self, bytes: &[u8]) -> Step {
        let flags = Fields::new(bytes).u32().unwrap_or(u32::MAX);
        let fixed = u32::from(handshake_flags::FIXED_NEWSTYLE);
        let no_zeroes = u32::from(handshake_flags::NO_ZEROES);
        if flags & !(fixed | no_zeroes) != 0 {
            return self.close(Close::ClientFlags(flags));
        }
        self.fixed = flags & fixed != 0;
        self.no_zeroes = flags & no_zeroes != 0;
        self.state = State::Header;
        Step::Next
    }

    fn header(&mut self, bytes: &[u8]) -> Step {
        let header = bytes.first_chunk().and_then(OptionHeader::decode);
        let Some(OptionHeader { option, len }) = header else {
            return self.close(Close::Magic);
        };
        if self.options == 0 {
            return self.close(Close::TooManyOptions(self.limits.options));
        }
        self.options -= 1;
        let length = usize::try_from(len).unwrap_or(usize::MAX);
        if length > self.limits.option_drain_bytes {
            return self.close(Close::TooLong { option, len });
        }
        let name_alone = option == opt::EXPORT_NAME;
        if !self.fixed && !name_alone {
            return self.close(Close::NotFixed(option));
        }
        if name_alone && self.tls == TlsState::Required {
            return self.close(Close::ExportName("TLS is required"));
        }
        if name_alone && length > MAX_STRING {
            return self.close(Close::ExportName("the name is longer than 4096 bytes"));
        }
        let skip = |reply, why| State::Skip {
            option,
            left: length,
            reply,
            why,
        };
        let before_tls = !matches!(option, opt::STARTTLS | opt::ABORT);
        let known = matches!(
            option,
            opt::EXPORT_NAME
                | opt::ABORT
                | opt::LIST
                | opt::STARTTLS
                | opt::INFO
                | opt::GO
                | opt::STRUCTURED_REPLY
                | opt::LIST_META_CONTEXT
                | opt::SET_META_CONTEXT
                | opt::EXTENDED_HEADERS
        );
        self.state = if self.tls == TlsState::Required && before_tls {
            skip(rep::ERR_TLS_REQD, "TLS is required: send STARTTLS first")
        } else if !known {
            skip(rep::ERR_UNSUP, "this option is not known here")
        } else if length > self.limits.option_bytes {
            skip(rep::ERR_TOO_BIG, "this option's data is too big")
        } else {
            State::Data {
                option,
                len: length,
            }
        };
        Step::Next
    }

    fn option(&mut self, option: u32, data: &[u8]) -> Step {
        match option {
            opt::ABORT => {
                self.acknowledge(option);
                self.close(Close::Aborted)
            }
            opt::EXPORT_NAME => match text(data) {
                Some(name) => {
                    let name = name.to_owned();
                    self.state = State::Asking(Ask::ExportName { name: name.clone() });
                    Step::Open(name)
                }
                None => self.close(Close::ExportName("the name is no UTF-8 without NUL")),
            },
            opt::INFO | opt::GO => self.info_or_go(option, data),
            opt::LIST_META_CONTEXT | opt::SET_META_CONTEXT => self.meta_context(option, data),
            // Those that carry no data.
            _ if !data.is_empty() => {
                self.refuse(option, rep::ERR_INVALID, "this option carries no data")
            }
            opt::LIST => {
                self.state = State::Asking(Ask::List);
                Step::List
            }
            opt::STARTTLS => match self.tls {
                TlsState::Off => self.refuse(option, rep::ERR_POLICY, "TLS is not enabled here"),
                TlsState::Active => {
                    self.refuse(option, rep::ERR_INVALID, "TLS is in force already")
                }
                TlsState::Required => {
                    self.acknowledge(option);
                    self.state = State::Over;
                    Step::StartTls
                }
            },
            opt::STRUCTURED_REPLY => match self.mode {
                ReplyMode::Simple => self.agree(option, ReplyMode::Structured),
                ReplyMode::Structured => self.refuse(
                    option,
                    rep::ERR_INVALID,
                    "structured replies are agreed already",
                ),
                ReplyMode::Extended => {
                    let why = "extended headers are agreed already";
                    self.refuse(option, rep::ERR_EXT_HEADER_REQD, why)
                }
            },
            opt::EXTENDED_HEADERS if self.mode == ReplyMode::Extended => self.refuse(
                option,
                rep::ERR_INVALID,
                "extended headers are agreed already",
            ),
            opt::EXTENDED_HEADERS => self.agree(option, ReplyMode::Extended),
            _ => self.refuse(option, rep::ERR_UNSUP, "this option is not known here"),
        }
    }

    fn info_or_go(&mut self, option: u32, data: &[u8]) -> Step {
        let Some((name, wanted)) = parse_info(data) else {
            return self.refuse(
                option,
                rep::ERR_INVALID,
                "the name or the list is malformed",
            );
        };
        let name = name.to_owned();
        self.state = State::Asking(Ask::Info {
            option,
            name: name.clone(),
            wanted,
        });
        if option == opt::GO {
            Step::Open(name)
        } else {
            Step::Describe(name)
        }
    }

    fn meta_context(&mut self, option: u32, data: &[u8]) -> Step {
        if option == opt::SET_META_CONTEXT {
            // Whatever comes of this one, the selection before it is gone.
            self.selected = None;
        }
        if self.mode == ReplyMode::Simple {
            let why = "structured replies must be agreed first";
            return self.refuse(option, rep::ERR_INVALID, why);
        }
        let Some(request) = MetaRequest::parse(data) else {
            return self.refuse(option, rep::ERR_INVALID, "the name or a query is malformed");
        };
        let name = request.name.to_owned();
        let queries = request.queries.into_iter().map(str::to_owned).collect();
        self.state = State::Asking(Ask::Meta {
            option,
            name: name.clone(),
            queries,
        });
        Step::Describe(name)
    }

    /// The TLS session stands: begins anew behind the client flags, nothing agreed.
    pub fn tls_started(&mut self) {
        self.state = State::Header;
        self.tls = TlsState::Active;
        self.mode = ReplyMode::Simple;
        self.selected = None;
        self.options = self.limits.options;
        self.partial.clear();
        self.out.clear();
    }

    fn close(&mut self, why: Close) -> Step {
        self.state = State::Over;
        Step::Close(why)
    }

    fn acknowledge(&mut self, option: u32) {
        option_reply(&mut self.out, option, rep::ACK, &[]);
    }

    fn agree(&mut self, option: u32, mode: ReplyMode) -> Step {
        self.mode = mode;
        self.acknowledge(option);
        self.state = State::Header;
        Step::Next
    }

    fn refuse(&mut self, option: u32, kind: u32, why: &str) -> Step {
        option_reply(&mut self.out, option, kind, why.as_bytes());
        self.state = State::Header;
        Step::Next
    }
}

/// Name and wanted information of INFO and GO, nothing behind them.
fn parse_info(data: &[u8]) -> Option<(&str, Vec<u16>)> {
    let mut fields = Fields::new(data);
    let name = text(fields.counted()?)?;
    let count = fields.u16()?;
    let mut wanted = Vec::new();
    for _ in 0..count {
        wanted.push(fields.u16()?);
    }
    fields.is_empty().then_some((name, wanted))
}

#[cfg(test)]
mod tests;
