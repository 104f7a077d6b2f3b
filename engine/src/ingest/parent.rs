//! What an overlay asks for the bytes that it does not hold.

use std::fmt::Debug;
use std::sync::Arc;

use crate::Result;
use crate::chain::Chain;
use crate::io::Io;
use crate::pool::IoBuf;
use crate::storage::LocalBoxFuture;

/// The disk as the parent restore point holds it: a sealed chain, or any other fixed content.
pub trait Parent: Send + Sync + Debug + 'static {
    /// Its size in bytes; behind it the child's disk reads zero.
    fn size(&self) -> u64;

    /// Fills `buf` from `at`; the caller stays inside of [`size`](Self::size).
    fn read<'a>(
        &'a self,
        io: &'a Io,
        at: u64,
        buf: IoBuf,
    ) -> LocalBoxFuture<'a, (IoBuf, Result<()>)>;

    /// Blocking form of [`read`](Self::read).
    fn read_blocking(&self, at: u64, buf: &mut [u8]) -> Result<()>;
}

/// A sealed chain as a parent.
impl Parent for Arc<Chain> {
    fn size(&self) -> u64 {
        Chain::size(self)
    }

    fn read<'a>(
        &'a self,
        io: &'a Io,
        at: u64,
        buf: IoBuf,
    ) -> LocalBoxFuture<'a, (IoBuf, Result<()>)> {
        Box::pin(Chain::read(self, io, at, buf))
    }

    fn read_blocking(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        Chain::read_blocking(self, at, buf)
    }
}
