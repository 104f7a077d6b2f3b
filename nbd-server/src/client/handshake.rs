//! The client's side of the handshake, without I/O: it says what to send and how many bytes to
//! receive next, and never asks for a byte more than the message at hand. So nothing that was
//! injected before TLS can be taken for something behind it.
//!
//! Order: greeting, STARTTLS (where required: no TLS is the end), then for a session
//! EXTENDED_HEADERS or STRUCTURED_REPLY, SET_META_CONTEXT, GO, with EXPORT_NAME for servers that
//! know no GO. Whatever a server sends is bounded in length and in number.

use std::collections::VecDeque;

use super::error::{ClientError, Refusal, peer_text};
use super::info::RemoteInfo;
use crate::export::{BlockSize, Listed};
use crate::wire::{self, Fields, Info, OptionReplyHeader, handshake_flags, info, opt, rep};

type Result<T> = std::result::Result<T, ClientError>;

/// The longest option reply that we take: two of the protocol's strings and some.
const MAX_REPLY: u32 = 65536;
/// The most replies to one option: bounds LIST and hostile INFO alike.
const MAX_REPLIES: usize = 65536;
/// The most text of LIST that we keep.
const MAX_LIST_BYTES: usize = 16 << 20;
/// Disk sizes are signed everywhere below.
const MAX_SIZE: u64 = i64::MAX.unsigned_abs();

/// What the handshake is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To use the export.
    Use,
    /// To describe it.
    Describe,
    /// To list the server's exports.
    List,
}

/// What is wanted of the server.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) purpose: Purpose,
    pub(crate) export: String,
    pub(crate) tls: bool,
    pub(crate) extended: bool,
    pub(crate) structured: bool,
    pub(crate) contexts: Vec<String>,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Send these bytes.
    Send(Vec<u8>),
    /// Receive exactly so many bytes and [`give`](Handshake::give) them.
    Receive(usize),
    /// Do the TLS handshake, then call [`tls_ready`](Handshake::tls_ready).
    StartTls,
    /// Take the [`outcome`](Handshake::outcome).
    Done,
}

/// What came out of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) info: RemoteInfo,
    /// The server's number of each of `info.contexts`.
    pub(crate) context_ids: Vec<u32>,
    pub(crate) listed: Vec<Listed>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Tls,
    Extended,
    Structured,
    Meta,
    Go,
    List,
    Abort,
}

#[derive(Debug)]
enum State {
    Greeting,
    ReplyHeader(Step),
    ReplyData(Step, OptionReplyHeader),
    Tls,
    ExportName,
    Done,
}

#[derive(Debug)]
pub(crate) struct Handshake {
    wanted: Wanted,
    state: State,
    out: Vec<u8>,
    steps: VecDeque<Step>,
    no_zeroes: bool,
    replies: usize,
    list_bytes: usize,
    sized: bool,
    outcome: Outcome,
}

impl Handshake {
    pub(crate) fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            state: State::Greeting,
            out: Vec::new(),
            steps: VecDeque::new(),
            no_zeroes: false,
            replies: 0,
            list_bytes: 0,
            sized: false,
            outcome: Outcome {
                info: RemoteInfo::empty(),
                context_ids: Vec::new(),
                listed: Vec::new(),
            },
        }
    }

    /// What to do next.
    pub(crate) fn next(&mut self) -> Action {
        if !self.out.is_empty() {
            return Action::Send(std::mem::take(&mut self.out));
        }
        match &self.state {
            State::Greeting => Action::Receive(wire::GREETING_LEN),
            State::ReplyHeader(_) => Action::Receive(wire::OPTION_REPLY_HEADER_LEN),
            // Bounded by MAX_REPLY.
            State::ReplyData(_, header) => {
                Action::Receive(usize::try_from(header.len).unwrap_or(usize::MAX))
            }
            State::ExportName => Action::Receive(if self.no_zeroes { 10 } else { 134 }),
            State::Tls => Action::StartTls,
            State::Done => Action::Done,
        }
    }

    /// What came out, once [`Action::Done`] was said.
    pub(crate) fn outcome(self) -> Outcome {
        self.outcome
    }

    /// TLS is in force.
    pub(crate) fn tls_ready(&mut self) {
        self.outcome.info.tls = true;
        self.advance();
    }

    /// Takes the bytes that were asked for.
    pub(crate) fn give(&mut self, bytes: &[u8]) -> Result<()> {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Greeting => self.greeting(bytes),
            State::ReplyHeader(step) => {
                let header = bytes
                    .try_into()
                    .ok()
                    .and_then(OptionReplyHeader::decode)
                    .ok_or(ClientError::protocol("an option reply with a wrong magic"))?;
                if header.option != self.number(step) {
                    return Err(ClientError::protocol("a reply to another option"));
                }
                if header.len > MAX_REPLY {
                    return Err(ClientError::protocol("an option reply that is too long"));
                }
                if header.len == 0 {
                    return self.reply(step, header, &[]);
                }
                self.state = State::ReplyData(step, header);
                Ok(())
            }
            State::ReplyData(step, header) => self.reply(step, header, bytes),
            State::ExportName => {
                let mut fields = Fields::new(bytes);
                let (Some(size), Some(flags)) = (fields.u64(), fields.u16()) else {
                    return Err(ClientError::protocol("a short answer to EXPORT_NAME"));
                };
                self.export(size, flags)?;
                self.state = State::Done;
                Ok(())
            }
            State::Tls | State::Done => Err(ClientError::protocol("bytes that nobody asked for")),
        }
    }

    fn greeting(&mut self, bytes: &[u8]) -> Result<()> {
        let flags =
            bytes
                .try_into()
                .ok()
                .and_then(wire::parse_greeting)
                .ok_or(ClientError::protocol(
                    "the greeting is not that of a newstyle NBD server",
                ))?;
        let fixed = flags & handshake_flags::FIXED_NEWSTYLE != 0;
        self.no_zeroes = flags & handshake_flags::NO_ZEROES != 0;
        let answer = flags & (handshake_flags::FIXED_NEWSTYLE | handshake_flags::NO_ZEROES);
        self.out.extend_from_slice(&u32::from(answer).to_be_bytes());
        if !fixed {
            // Before "fixed" a server may hang up on anything but EXPORT_NAME.
            if self.wanted.tls {
                return Err(refused(Refusal::NoTls));
            }
            if self.wanted.purpose != Purpose::Use {
                return Err(refused(Refusal::Unsupported));
            }
            self.export_name();
            return Ok(());
        }
        if self.wanted.tls {
            self.steps.push_back(Step::Tls);
        }
        if self.wanted.purpose == Purpose::List {
            self.steps.extend([Step::List, Step::Abort]);
        } else {
            if self.wanted.extended && self.wanted.structured {
                self.steps.push_back(Step::Extended);
            }
            self.steps.extend([Step::Structured, Step::Meta, Step::Go]);
            if self.wanted.purpose == Purpose::Describe {
                self.steps.push_back(Step::Abort);
            }
        }
        self.advance();
        Ok(())
    }

    /// Sends the next option that applies.
    fn advance(&mut self) {
        self.replies = 0;
        let describe = self.wanted.purpose == Purpose::Describe;
        while let Some(step) = self.steps.pop_front() {
            let info = &self.outcome.info;
            let data = match step {
                Step::Structured if info.structured_replies || !self.wanted.structured => continue,
                Step::Meta if !info.structured_replies => continue,
                Step::Meta if !describe && self.wanted.contexts.is_empty() => continue,
                Step::Meta => {
                    // No query at all lists every context that the export has.
                    let queries: Vec<&str> = if describe {
                        Vec::new()
                    } else {
                        self.wanted.contexts.iter().map(String::as_str).collect()
                    };
                    wire::meta_context_data(&self.wanted.export, &queries)
                }
                Step::Go => wire::go_data(
                    &self.wanted.export,
                    &[info::NAME, info::DESCRIPTION, info::BLOCK_SIZE],
                ),
                Step::Tls | Step::Extended | Step::Structured | Step::List | Step::Abort => {
                    Vec::new()
                }
            };
            let number = self.number(step);
            wire::option(&mut self.out, number, &data);
            // Nobody waits for the answer to ABORT: the peer may close first.
            self.state = match step {
                Step::Abort => State::Done,
                _ => State::ReplyHeader(step),
            };
            return;
        }
        self.state = State::Done;
    }

    fn number(&self, step: Step) -> u32 {
        let describe = self.wanted.purpose == Purpose::Describe;
        match step {
            Step::Tls => opt::STARTTLS,
            Step::Extended => opt::EXTENDED_HEADERS,
            Step::Structured => opt::STRUCTURED_REPLY,
            Step::Meta if describe => opt::LIST_META_CONTEXT,
            Step::Meta => opt::SET_META_CONTEXT,
            Step::Go if describe => opt::INFO,
            Step::Go => opt::GO,
            Step::List => opt::LIST,
            Step::Abort => opt::ABORT,
        }
    }

    fn reply(&mut self, step: Step, header: OptionReplyHeader, data: &[u8]) -> Result<()> {
        self.replies += 1;
        if self.replies > MAX_REPLIES {
            return Err(ClientError::protocol("endless replies to one option"));
        }
        if header.kind & rep::ERROR_BIT != 0 {
            return self.error(step, header.kind, data);
        }
        match (step, header.kind) {
            (_, rep::ACK) if !data.is_empty() => {
                return Err(ClientError::protocol("an ACK with data"));
            }
            (Step::Tls, rep::ACK) => {
                self.state = State::Tls;
                return Ok(());
            }
            (Step::Extended, rep::ACK) => {
                self.outcome.info.extended_headers = true;
                self.outcome.info.structured_replies = true;
            }
            (Step::Structured, rep::ACK) => self.outcome.info.structured_replies = true,
            (Step::Go, rep::ACK) if !self.sized => {
                return Err(ClientError::protocol("GO was acknowledged without a size"));
            }
            (Step::Go | Step::Meta | Step::List, rep::ACK) => {}
            (Step::Go, rep::INFO) => {
                self.info(data)?;
                self.state = State::ReplyHeader(step);
                return Ok(());
            }
            (Step::Meta, rep::META_CONTEXT) => {
                self.context(data)?;
                self.state = State::ReplyHeader(step);
                return Ok(());
            }
            (Step::List, rep::SERVER) => {
                self.listed(data)?;
                self.state = State::ReplyHeader(step);
                return Ok(());
            }
            _ => return Err(ClientError::protocol("an option reply that does not fit")),
        }
        if step == Step::Go && self.wanted.purpose == Purpose::Use {
            // In transmission from here on.
            self.state = State::Done;
        } else {
            self.advance();
        }
        Ok(())
    }

    fn error(&mut self, step: Step, kind: u32, text: &[u8]) -> Result<()> {
        match (step, kind) {
            // Wishes: go on without. An unknown export is told by GO.
            (Step::Extended | Step::Structured, _) => self.advance(),
            (Step::Meta, _) => {
                self.outcome.info.contexts.clear();
                self.outcome.context_ids.clear();
                self.advance();
            }
            (Step::Go, rep::ERR_UNSUP) if self.wanted.purpose == Purpose::Use => {
                self.export_name();
            }
            _ => {
                let refusal = match (step, kind) {
                    (Step::Tls, _) => Refusal::NoTls,
                    (_, rep::ERR_UNKNOWN) => Refusal::Unknown,
                    (_, rep::ERR_POLICY) => Refusal::Policy,
                    (_, rep::ERR_UNSUP) => Refusal::Unsupported,
                    (_, rep::ERR_TLS_REQD) => Refusal::TlsRequired,
                    (_, rep::ERR_SHUTDOWN) => Refusal::Shutdown,
                    (_, other) => Refusal::Other(other),
                };
                return Err(ClientError::Refused {
                    refusal,
                    message: peer_text(text),
                });
            }
        }
        Ok(())
    }

    fn export_name(&mut self) {
        wire::option(
            &mut self.out,
            opt::EXPORT_NAME,
            self.wanted.export.as_bytes(),
        );
        self.state = State::ExportName;
    }

    fn export(&mut self, size: u64, flags: u16) -> Result<()> {
        if size > MAX_SIZE {
            return Err(ClientError::protocol("a negative size"));
        }
        self.sized = true;
        self.outcome.info.size = size;
        self.outcome.info.flags = flags;
        Ok(())
    }

    fn info(&mut self, data: &[u8]) -> Result<()> {
        let piece =
            Info::decode(data).ok_or(ClientError::protocol("a malformed piece of information"))?;
        let info = &mut self.outcome.info;
        match piece {
            Info::Export { size, flags } => return self.export(size, flags),
            // The name that was asked for may be a secret: it is not kept here without need.
            Info::Name(name) => {
                info.canonical_name = (name != self.wanted.export).then(|| name.to_owned());
            }
            Info::Description(text) => info.description = Some(peer_text(text.as_bytes())),
            Info::BlockSize(sizes) => info.block_size = checked(sizes)?,
            Info::Other(_) => {}
        }
        Ok(())
    }

    fn context(&mut self, data: &[u8]) -> Result<()> {
        let (id, name) = wire::parse_meta_context_entry(data)
            .ok_or(ClientError::protocol("a malformed metadata context"))?;
        let outcome = &mut self.outcome;
        if self.wanted.purpose == Purpose::Use {
            // A context that nobody asked for could not be told from another's answer.
            let asked = self.wanted.contexts.iter().any(|c| c == name);
            if !asked || outcome.info.has_context(name) || outcome.context_ids.contains(&id) {
                return Err(ClientError::protocol(
                    "a metadata context that was not asked for, or one twice",
                ));
            }
        } else if outcome.info.contexts.len() >= 1024 {
            return Err(ClientError::protocol("endless metadata contexts"));
        }
        outcome.info.contexts.push(name.to_owned());
        outcome.context_ids.push(id);
        Ok(())
    }

    fn listed(&mut self, data: &[u8]) -> Result<()> {
        self.list_bytes += data.len();
        if self.list_bytes > MAX_LIST_BYTES {
            return Err(ClientError::protocol("an endless list of exports"));
        }
        let (name, description) = wire::parse_list_entry(data)
            .ok_or(ClientError::protocol("a malformed entry of the list"))?;
        self.outcome.listed.push(Listed {
            name: name.to_owned(),
            description: peer_text(description.as_bytes()),
        });
        Ok(())
    }
}

fn refused(refusal: Refusal) -> ClientError {
    ClientError::Refused {
        refusal,
        message: String::new(),
    }
}

/// Block sizes that can be worked with (protocol, "Block size constraints").
fn checked(sizes: BlockSize) -> Result<BlockSize> {
    let BlockSize {
        minimum,
        preferred,
        maximum,
    } = sizes;
    let sound = minimum.is_power_of_two()
        && minimum <= 65536
        && preferred.is_power_of_two()
        && preferred >= minimum
        && maximum >= minimum;
    sound
        .then_some(sizes)
        .ok_or(ClientError::protocol("impossible block sizes"))
}
