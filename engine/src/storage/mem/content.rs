//! The bytes of one memory file: sparse, in chunks.

use std::collections::BTreeMap;

use crate::storage::Extent;

/// The granularity of holes.
const CHUNK: u64 = 4096;

/// Sparse bytes with a length.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    chunks: BTreeMap<u64, Vec<u8>>,
    len: u64,
}

/// One chunk's share of a range: chunk index, start within the chunk, bytes.
fn pieces(at: u64, len: u64) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = at.saturating_add(len);
    let mut at = at;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let start = at % CHUNK;
        let part = (CHUNK - start).min(end - at);
        let index = at / CHUNK;
        at += part;
        // Both are at most CHUNK.
        Some((
            index,
            usize::try_from(start).ok()?,
            usize::try_from(part).ok()?,
        ))
    })
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes that hold memory.
    pub(super) fn stored(&self) -> u64 {
        u64::try_from(self.chunks.len())
            .unwrap_or(u64::MAX)
            .saturating_mul(CHUNK)
    }

    /// Bytes that a write to this range would newly store.
    pub(super) fn missing(&self, at: u64, len: u64) -> u64 {
        let new = pieces(at, len)
            .filter(|(index, ..)| !self.chunks.contains_key(index))
            .count();
        u64::try_from(new).unwrap_or(u64::MAX).saturating_mul(CHUNK)
    }

    pub(super) fn read(&self, at: u64, buf: &mut [u8]) {
        buf.fill(0);
        let mut rest = buf;
        let len = u64::try_from(rest.len()).unwrap_or(u64::MAX);
        for (index, start, part) in pieces(at, len) {
            let (head, tail) = std::mem::take(&mut rest).split_at_mut(part);
            if let Some(from) = self
                .chunks
                .get(&index)
                .and_then(|c| c.get(start..start + part))
            {
                head.copy_from_slice(from);
            }
            rest = tail;
        }
    }

    pub(super) fn write(&mut self, at: u64, bytes: &[u8]) {
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let mut rest = bytes;
        for (index, start, part) in pieces(at, len) {
            let (head, tail) = rest.split_at(part);
            let chunk = self.chunks.entry(index).or_insert_with(|| vec![0; 4096]);
            if let Some(to) = chunk.get_mut(start..start + part) {
                to.copy_from_slice(head);
            }
            rest = tail;
        }
        self.len = self.len.max(at.saturating_add(len));
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.zero(len, self.len - len);
        }
        self.len = len;
    }

    pub(super) fn extend(&mut self, len: u64) {
        self.len = self.len.max(len);
    }

    /// Makes a range read as zero; whole chunks become holes.
    pub(super) fn zero(&mut self, at: u64, len: u64) {
        let end = at.saturating_add(len);
        let whole = at.div_ceil(CHUNK)..end / CHUNK;
        if whole.start < whole.end {
            let mut behind = self.chunks.split_off(&whole.start);
            self.chunks.append(&mut behind.split_off(&whole.end));
        }
        let edges = [
            (at, end.min(whole.start * CHUNK)),
            (at.max(whole.end * CHUNK), end),
        ];
        for (from, to) in edges {
            for (index, start, part) in pieces(from, to.saturating_sub(from)) {
                let chunk = self.chunks.get_mut(&index);
                if let Some(bytes) = chunk.and_then(|c| c.get_mut(start..start + part)) {
                    bytes.fill(0);
                }
            }
        }
    }

    pub(super) fn extents(&self, at: u64, len: u64) -> Vec<Extent> {
        let end = at.saturating_add(len);
        let mut out: Vec<Extent> = Vec::new();
        let mut push = |at: u64, to: u64, hole: bool| match out.last_mut() {
            _ if at >= to => {}
            Some(last) if last.hole == hole => last.len += to - at,
            _ => out.push(Extent {
                at,
                len: to - at,
                hole,
            }),
        };
        let mut done = at;
        for index in self
            .chunks
            .range(at / CHUNK..end.div_ceil(CHUNK))
            .map(|(index, _)| *index)
        {
            let (from, to) = ((index * CHUNK).max(at), ((index + 1) * CHUNK).min(end));
            push(done, from, true);
            push(from, to, false);
            done = to;
        }
        push(done, end, true);
        out
    }
}
