//! Cutting a disk, or parts of it, into blocks: data to be read, or zero.

use std::collections::VecDeque;

use sendense_formats::GuestRange;

use super::{DiskReader, Span};
use crate::Result;

/// Guest bytes that a reader is asked about at once.
const WINDOW: u64 = 512 << 20;

/// Walks a reader's disk over the wanted ranges, in order.
///
/// Zero spans are shrunk to whole units (at the disk's end, to the end), so that a unit with any
/// data in it is read whole; data comes in blocks of at most `block` bytes that end on multiples
/// of it.
pub(super) struct Walk<'a> {
    reader: &'a dyn DiskReader,
    wanted: VecDeque<GuestRange>,
    unit: u64,
    block: u64,
    ready: VecDeque<Span>,
}

impl<'a> Walk<'a> {
    /// `wanted` is sorted and does not overlap; `block` is a multiple of `unit`.
    pub(super) fn new(
        reader: &'a dyn DiskReader,
        wanted: impl IntoIterator<Item = GuestRange>,
        unit: u64,
        block: u64,
    ) -> Self {
        Self {
            reader,
            wanted: wanted.into_iter().filter(|r| !r.is_empty()).collect(),
            unit,
            block,
            ready: VecDeque::new(),
        }
    }

    /// The next block.
    pub(super) async fn next(&mut self) -> Result<Option<Span>> {
        loop {
            if let Some(span) = self.ready.pop_front() {
                return Ok(Some(span));
            }
            let Some(window) = self.window() else {
                return Ok(None);
            };
            if let Some(next) = self.wanted.front() {
                let end = next
                    .end()
                    .get()
                    .min(next_multiple(next.start().get(), WINDOW));
                if let Some(next) = range(next.start().get(), end) {
                    self.reader.prepare(next);
                }
            }
            let spans = self.reader.spans(window).await?;
            self.cut(window, &spans);
        }
    }

    /// The next part of what is wanted that lies in one window.
    fn window(&mut self) -> Option<GuestRange> {
        let next = self.wanted.front_mut()?;
        let (start, end) = (next.start().get(), next.end().get());
        let stop = next_multiple(start, WINDOW).min(end);
        match range(stop, end) {
            Some(rest) => *next = rest,
            None => drop(self.wanted.pop_front()),
        }
        range(start, stop)
    }

    fn cut(&mut self, window: GuestRange, spans: &[Span]) {
        let mut at = window.start().get();
        for span in spans.iter().filter(|s| s.zero) {
            let inside = span.range.intersect(window);
            let from = inside.start().get().next_multiple_of(self.unit);
            let end = inside.end().get();
            let to = if end == self.reader.size() {
                end
            } else {
                end - end % self.unit
            };
            if from.max(at) < to {
                self.data(at, from.max(at));
                self.ready
                    .extend(range(from.max(at), to).map(|range| Span { range, zero: true }));
                at = to;
            }
        }
        self.data(at, window.end().get());
    }

    fn data(&mut self, mut at: u64, end: u64) {
        while at < end {
            let stop = next_multiple(at, self.block).min(end);
            self.ready
                .extend(range(at, stop).map(|range| Span { range, zero: false }));
            at = stop;
        }
    }
}

/// `None` where it would be empty.
fn range(from: u64, to: u64) -> Option<GuestRange> {
    GuestRange::new(from, to.saturating_sub(from)).filter(|r| !r.is_empty())
}

/// The next multiple behind `at`.
fn next_multiple(at: u64, of: u64) -> u64 {
    (at - at % of).saturating_add(of)
}
