//! What a run of guest bytes is, in the whole chain.

use sendense_formats::{GuestRange, HostOffset};

/// Where the bytes of a run come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// No layer says anything: reads as zero. Also what lies behind the end of a shorter parent.
    Unallocated {
        /// Host bytes of the layer that are kept although nothing points at them as data (the rest
        /// of a cluster with some subclusters written).
        host: Option<HostOffset>,
    },
    /// A layer says zero, perhaps with a host cluster kept for it, or a hole of a raw file.
    Zero {
        /// The kept host bytes.
        host: Option<HostOffset>,
    },
    /// Bytes of the layer's file.
    Data {
        /// The first of them.
        host: HostOffset,
    },
    /// (A part of) one compressed cluster of the layer's file.
    Compressed {
        /// The first compressed byte.
        host: HostOffset,
        /// An upper bound of their number.
        len: usize,
    },
}

impl Content {
    /// Whether the bytes read as zero without being read.
    pub const fn is_zero(self) -> bool {
        matches!(self, Self::Unallocated { .. } | Self::Zero { .. })
    }

    /// Whether some layer decides about the bytes.
    pub const fn is_present(self) -> bool {
        !matches!(self, Self::Unallocated { .. })
    }

    /// The content `skip` bytes further on in the same run.
    pub(super) fn skip(self, skip: u64) -> Self {
        let on = |host: HostOffset| HostOffset::new(host.get().saturating_add(skip));
        match self {
            Self::Data { host } => Self::Data { host: on(host) },
            Self::Zero { host } => Self::Zero { host: host.map(on) },
            Self::Unallocated { host } => Self::Unallocated { host: host.map(on) },
            packed @ Self::Compressed { .. } => packed,
        }
    }

    /// Whether `next`, `len` bytes behind, simply goes on.
    pub(super) fn continues(self, len: u64, next: Self) -> bool {
        match self {
            Self::Compressed { .. } => false,
            _ => self.skip(len) == next,
        }
    }
}

/// A run of guest bytes of one content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The bytes.
    pub range: GuestRange,
    /// The layer that decides: 0 is the newest.
    pub depth: usize,
    /// What they are.
    pub content: Content,
}

impl Piece {
    /// The part inside of `within`; `None` where there is none.
    pub(super) fn clip(self, within: GuestRange) -> Option<Self> {
        let range = self.range.intersect(within);
        if range.is_empty() {
            return None;
        }
        let skip = range.start().get() - self.range.start().get();
        Some(Self {
            range,
            depth: self.depth,
            content: self.content.skip(skip),
        })
    }
}

/// Appends in guest order, merging what simply goes on.
pub(super) fn append(to: &mut Vec<Piece>, piece: Piece) {
    if let Some(last) = to.last_mut()
        && last.depth == piece.depth
        && last.range.end() == piece.range.start()
        && last.content.continues(last.range.len(), piece.content)
        && let Some(joined) = GuestRange::new(
            last.range.start().get(),
            last.range.len() + piece.range.len(),
        )
    {
        last.range = joined;
        return;
    }
    to.push(piece);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(start: u64, len: u64, content: Content) -> Piece {
        Piece {
            range: GuestRange::new(start, len).unwrap(),
            depth: 0,
            content,
        }
    }

    #[test]
    fn only_what_goes_on_is_merged() {
        let data = |h| Content::Data {
            host: HostOffset::new(h),
        };
        let packed = Content::Compressed {
            host: HostOffset::new(9),
            len: 3,
        };
        let mut out = Vec::new();
        for p in [
            piece(0, 8, data(100)),
            piece(8, 8, data(108)),
            piece(16, 8, data(200)),
            piece(24, 8, Content::Unallocated { host: None }),
            piece(32, 8, Content::Unallocated { host: None }),
            piece(40, 8, Content::Zero { host: None }),
            piece(48, 8, packed),
            piece(56, 8, packed),
        ] {
            append(&mut out, p);
        }
        let lens: Vec<u64> = out.iter().map(|p| p.range.len()).collect();
        assert_eq!(lens, [16, 8, 16, 8, 8, 8]);
        let cut = out[0].clip(GuestRange::new(10, 100).unwrap()).unwrap();
        assert_eq!(cut.content, data(110));
        assert_eq!(cut.range.len(), 6);
    }
}
