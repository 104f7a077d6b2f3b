//! `map`: where each byte of the disk lies, entry by entry as `qemu-img map` tells it.

use std::io::{self, BufWriter, Write};

use sendense_engine::chain::{Chain, Content, Piece};
use sendense_formats::GuestRange;
use serde::Serialize;

use crate::cli::{MapArgs, Output};
use crate::holes::Holes;
use crate::open;
use crate::output::Failure;

/// Guest bytes that are mapped at once.
const STEP: u64 = 512 << 20;

/// One line. The names and their order are those of `qemu-img map --output=json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Entry {
    start: u64,
    length: u64,
    depth: usize,
    present: bool,
    zero: bool,
    data: bool,
    compressed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
}

impl Entry {
    /// What QEMU tells of a disk without a byte.
    const NOTHING: Self = Self {
        start: 0,
        length: 0,
        depth: 0,
        present: false,
        zero: false,
        data: false,
        compressed: false,
        offset: None,
    };

    fn new(piece: Piece) -> Self {
        let (zero, data, compressed, offset) = match piece.content {
            Content::Unallocated { host } | Content::Zero { host } => (true, false, false, host),
            Content::Data { host } => (false, true, false, Some(host)),
            Content::Compressed { .. } => (false, true, true, None),
        };
        Self {
            start: piece.range.start().get(),
            length: piece.range.len(),
            depth: piece.depth,
            present: piece.content.is_present(),
            zero,
            data,
            compressed,
            offset: offset.map(|h| h.get()),
        }
    }

    /// Takes the next entry in where it only goes on.
    fn join(&mut self, next: &Self) -> bool {
        let goes_on = match (self.offset, next.offset) {
            (None, None) => true,
            (Some(here), Some(there)) => here.checked_add(self.length) == Some(there),
            _ => false,
        };
        let same = |e: &Self| (e.depth, e.present, e.zero, e.data, e.compressed);
        if goes_on && same(self) == same(next) {
            self.length = self.length.saturating_add(next.length);
            return true;
        }
        false
    }
}

pub(crate) fn run(output: Output, args: &MapArgs) -> Result<u8, Failure> {
    let chain = open::chain(&args.file, &args.open)?;
    let mut out = Printer {
        out: BufWriter::new(io::stdout().lock()),
        output,
        first: true,
    };
    out.begin()?;
    let mut held: Option<Entry> = None;
    walk(&chain, &mut |entry| {
        if let Some(last) = &mut held {
            if last.join(&entry) {
                return Ok(());
            }
            out.entry(&chain, last)?;
        }
        held = Some(entry);
        Ok(())
    })?;
    if let Some(last) = held {
        out.entry(&chain, &last)?;
    }
    out.end()?;
    Ok(0)
}

fn walk(chain: &Chain, emit: &mut dyn FnMut(Entry) -> Result<(), Failure>) -> Result<(), Failure> {
    if chain.size() == 0 {
        return emit(Entry::NOTHING);
    }
    let holes = Holes::judge(chain)?;
    let mut at = 0;
    while at < chain.size() {
        let Some(range) = GuestRange::new(at, STEP.min(chain.size() - at)) else {
            break;
        };
        for piece in chain.map(range)? {
            let mut entry = Entry::new(piece);
            let Content::Data { host } = piece.content else {
                emit(entry)?;
                continue;
            };
            let parts = holes.split(chain, piece.depth, host.get(), piece.range.len())?;
            let mut done = 0;
            for (length, zero) in parts {
                entry.start = piece.range.start().get() + done;
                entry.offset = Some(host.get() + done);
                entry.length = length;
                entry.zero = zero;
                emit(entry.clone())?;
                done += length;
            }
        }
        at = range.end().get();
    }
    // QEMU sees a raw file end on a sector.
    let rest = chain.size().next_multiple_of(512) - chain.size();
    if rest > 0 && chain.layers().first().is_some_and(|l| l.image().is_none()) {
        emit(Entry {
            start: chain.size(),
            length: rest,
            depth: 0,
            present: true,
            zero: true,
            data: false,
            compressed: false,
            offset: Some(chain.size()),
        })?;
    }
    Ok(())
}

struct Printer<W: Write> {
    out: W,
    output: Output,
    first: bool,
}

impl<W: Write> Printer<W> {
    fn begin(&mut self) -> io::Result<()> {
        match self.output {
            Output::Json => write!(self.out, "["),
            Output::Human => writeln!(
                self.out,
                "{:<18} {:<18} {:<5} {:<12} {:<18} file",
                "start", "length", "depth", "content", "offset"
            ),
        }
    }

    fn entry(&mut self, chain: &Chain, entry: &Entry) -> io::Result<()> {
        if self.output == Output::Json {
            let comma = if self.first { "" } else { ",\n" };
            self.first = false;
            return write!(self.out, "{comma}{}", serde_json::to_string(entry)?);
        }
        let content = match entry {
            Entry {
                compressed: true, ..
            } => "compressed",
            Entry { data: true, .. } => "data",
            Entry { present: true, .. } => "zero",
            _ => "unallocated",
        };
        let offset = entry.offset.map_or("-".to_owned(), |o| format!("{o:#x}"));
        let layer = chain.layers().get(entry.depth).filter(|_| entry.present);
        writeln!(
            self.out,
            "{:<#18x} {:<#18x} {:<5} {content:<12} {offset:<18} {}",
            entry.start,
            entry.length,
            entry.depth,
            layer.map_or("-", |l| l.name()),
        )
    }

    fn end(&mut self) -> io::Result<()> {
        if self.output == Output::Json {
            writeln!(self.out, "]")?;
        }
        self.out.flush()
    }
}
