//! What an operation on an export can answer, with the errno that NBD puts on the wire.

/// The errors of the NBD transmission phase (protocol, "Error values").
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NbdError {
    /// EPERM (1): a write to a read-only export.
    #[error("operation not permitted")]
    NotPermitted,
    /// EIO (5): storage failed, or the export is poisoned.
    #[error("input/output error")]
    Io,
    /// ENOMEM (12): out of a bounded resource.
    #[error("out of memory")]
    NoMemory,
    /// EINVAL (22): a malformed or misplaced request.
    #[error("invalid argument")]
    Invalid,
    /// ENOSPC (28): no space, or a write past the end.
    #[error("no space left")]
    NoSpace,
    /// EOVERFLOW (75): longer than can be served.
    #[error("value too large")]
    Overflow,
    /// ENOTSUP (95): only for a fast zero that would not be fast.
    #[error("operation not supported")]
    NotSupported,
    /// ESHUTDOWN (108): the export is frozen or going away.
    #[error("the export is shutting down")]
    Shutdown,
}

impl NbdError {
    /// The number on the wire.
    pub const fn errno(self) -> u32 {
        match self {
            Self::NotPermitted => 1,
            Self::Io => 5,
            Self::NoMemory => 12,
            Self::Invalid => 22,
            Self::NoSpace => 28,
            Self::Overflow => 75,
            Self::NotSupported => 95,
            Self::Shutdown => 108,
        }
    }

    /// From the number on the wire; what is unknown reads as EINVAL, as the protocol asks.
    pub const fn from_errno(errno: u32) -> Self {
        match errno {
            1 => Self::NotPermitted,
            5 => Self::Io,
            12 => Self::NoMemory,
            28 => Self::NoSpace,
            75 => Self::Overflow,
            95 => Self::NotSupported,
            108 => Self::Shutdown,
            _ => Self::Invalid,
        }
    }
}
