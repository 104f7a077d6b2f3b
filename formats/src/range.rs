//! Offsets as types: a guest offset is never taken for a host offset.

use std::fmt;

macro_rules! offset {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(u64);

        impl $name {
            /// Wraps a plain number.
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            /// The plain number.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The sum, or `None` past the end of `u64`.
            pub const fn checked_add(self, n: u64) -> Option<Self> {
                match self.0.checked_add(n) {
                    Some(v) => Some(Self(v)),
                    None => None,
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }
    };
}

offset! {
    /// A byte of the virtual disk.
    GuestOffset
}
offset! {
    /// A byte of the image file.
    HostOffset
}
offset! {
    /// The number of a guest cluster, counted from the disk's start.
    ClusterIndex
}

/// A run of bytes of the virtual disk. May be empty; `start + len` never overflows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GuestRange {
    start: GuestOffset,
    len: u64,
}

impl GuestRange {
    /// The range, or `None` where its end overflows `u64`.
    pub const fn new(start: u64, len: u64) -> Option<Self> {
        match start.checked_add(len) {
            Some(_) => Some(Self {
                start: GuestOffset::new(start),
                len,
            }),
            None => None,
        }
    }

    /// From `start` to before `end`; empty (at `start`) where `end` is not behind it.
    pub const fn between(start: u64, end: u64) -> Self {
        Self {
            start: GuestOffset::new(start),
            len: end.saturating_sub(start),
        }
    }

    /// The first byte.
    pub const fn start(self) -> GuestOffset {
        self.start
    }

    /// The length in bytes.
    pub const fn len(self) -> u64 {
        self.len
    }

    /// The byte behind the last one.
    pub const fn end(self) -> GuestOffset {
        GuestOffset::new(self.start.get() + self.len)
    }

    /// Whether it holds no byte.
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The part that both ranges share; empty (at the later start) where there is none.
    pub fn intersect(self, other: Self) -> Self {
        let start = self.start.max(other.start);
        let end = self.end().min(other.end());
        Self {
            start,
            len: end.get().saturating_sub(start.get()),
        }
    }
}

/// A cluster size: a power of two from 512 bytes to 2 MiB (QCOW2 specification, `cluster_bits`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClusterSize(u32);

impl ClusterSize {
    /// 64 KiB, our default and QEMU's.
    pub const DEFAULT: Self = Self(16);

    /// From the exponent, 9 to 21.
    pub const fn from_bits(bits: u32) -> Option<Self> {
        if bits >= 9 && bits <= 21 {
            Some(Self(bits))
        } else {
            None
        }
    }

    /// From the size in bytes.
    pub const fn from_bytes(bytes: u64) -> Option<Self> {
        if bytes.is_power_of_two() {
            Self::from_bits(bytes.trailing_zeros())
        } else {
            None
        }
    }

    /// The exponent.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        1 << self.0
    }

    /// The size in bytes, for indexing.
    pub const fn bytes_usize(self) -> usize {
        1 << self.0
    }

    /// The cluster that holds a byte.
    pub const fn index(self, at: GuestOffset) -> ClusterIndex {
        ClusterIndex::new(at.get() >> self.0)
    }

    /// The first byte of a cluster; saturates past the end of `u64`.
    pub const fn start(self, cluster: ClusterIndex) -> GuestOffset {
        match cluster.get().checked_mul(self.bytes()) {
            Some(v) => GuestOffset::new(v),
            None => GuestOffset::new(u64::MAX),
        }
    }

    /// How many clusters hold `len` bytes, the last one perhaps in part.
    pub const fn count(self, len: u64) -> u64 {
        len.div_ceil(self.bytes())
    }

    /// `len` rounded up to whole clusters, or `None` past the end of `u64`.
    pub const fn round_up(self, len: u64) -> Option<u64> {
        self.count(len).checked_mul(self.bytes())
    }
}
