//! Blocks that a replayed journal puts over the volume, in memory.

use std::collections::HashMap;
use std::sync::Arc;

use super::blocks::inside;
use super::{Blocks, Fault, FaultKind, Result};

/// A volume with some of its blocks replaced. Nothing is ever written to the volume.
#[derive(Debug)]
pub struct Overlay {
    of: Arc<dyn Blocks>,
    block: usize,
    replaced: HashMap<u64, Box<[u8]>>,
    /// Blocks that may be replaced at most.
    limit: usize,
}

impl Overlay {
    /// Over `of`, in blocks of `block` bytes (not 0), with `memory` bytes of blocks at most.
    pub fn new(of: Arc<dyn Blocks>, block: usize, memory: usize) -> Self {
        let block = block.max(1);
        Self {
            of,
            block,
            replaced: HashMap::new(),
            limit: memory / block,
        }
    }

    /// Replaces a block.
    ///
    /// # Errors
    /// `Damaged` for a block outside of the volume or of another length, `Limit` beyond the
    /// memory.
    pub fn put(&mut self, number: u64, bytes: Box<[u8]>) -> Result<()> {
        let at = number.checked_mul(self.block as u64);
        let at = at.ok_or_else(|| Fault::damaged("the journal names a block outside"))?;
        inside(self.of.size(), at, self.block)?;
        if bytes.len() != self.block {
            return Err(Fault::damaged(
                "the journal holds a block of another length",
            ));
        }
        if self.replaced.len() >= self.limit && !self.replaced.contains_key(&number) {
            return Err(Fault::new(
                FaultKind::Limit,
                format!("the journal changes more than {} blocks", self.limit),
            ));
        }
        self.replaced.insert(number, bytes);
        Ok(())
    }

    /// Replaces some bytes of blocks, each read first.
    ///
    /// # Errors
    /// As [`put`](Self::put), and where the volume cannot be read.
    pub fn patch(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        inside(self.of.size(), at, bytes.len())?;
        let (mut at, mut rest) = (at, bytes);
        while !rest.is_empty() {
            let number = at / self.block as u64;
            let skip = usize::try_from(at % self.block as u64).unwrap_or(0);
            let len = rest.len().min(self.block - skip);
            let mut block = self.bytes(number.saturating_mul(self.block as u64), self.block)?;
            let (now, behind) = rest.split_at_checked(len).unwrap_or((rest, &[]));
            if let Some(to) = block.get_mut(skip..skip + len) {
                to.copy_from_slice(now);
            }
            self.put(number, block.into())?;
            at += len as u64;
            rest = behind;
        }
        Ok(())
    }

    /// How many blocks are replaced.
    pub fn len(&self) -> usize {
        self.replaced.len()
    }

    /// Whether nothing is replaced.
    pub fn is_empty(&self) -> bool {
        self.replaced.is_empty()
    }
}

impl Blocks for Overlay {
    fn size(&self) -> u64 {
        self.of.size()
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        self.of.read_at(at, buf)?;
        if self.replaced.is_empty() || buf.is_empty() {
            return Ok(());
        }
        let block = self.block as u64;
        let end = at + buf.len() as u64;
        for number in at / block..end.div_ceil(block) {
            let Some(bytes) = self.replaced.get(&number) else {
                continue;
            };
            let start = number * block;
            let (from, to) = (start.max(at), (start + block).min(end));
            let part = |base: u64| {
                let offset = |n: u64| usize::try_from(n - base).unwrap_or(usize::MAX);
                offset(from)..offset(to)
            };
            if let (Some(to), Some(from)) = (buf.get_mut(part(at)), bytes.get(part(start))) {
                to.copy_from_slice(from);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaced_blocks_are_read_and_others_are_the_volumes() {
        let disk: Arc<dyn Blocks> = Arc::new(vec![1u8; 4096]);
        let mut over = Overlay::new(Arc::clone(&disk), 512, 1024);
        over.put(1, vec![2; 512].into()).unwrap();
        over.patch(510, &[3; 4]).unwrap();
        let mut want = vec![1u8; 1100];
        want[512..1024].fill(2);
        want[510..514].fill(3);
        assert_eq!(over.bytes(0, 1100).unwrap(), want);
        assert_eq!(over.bytes(511, 2).unwrap(), [3, 3]);
        assert_eq!(disk.bytes(510, 4).unwrap(), [1; 4]);
    }

    #[test]
    fn memory_and_place_are_bounded() {
        let mut over = Overlay::new(Arc::new(vec![0u8; 2048]), 512, 1024);
        assert!(over.put(4, vec![0; 512].into()).is_err());
        assert!(over.put(u64::MAX, vec![0; 512].into()).is_err());
        assert!(over.put(0, vec![0; 511].into()).is_err());
        over.put(0, vec![0; 512].into()).unwrap();
        over.put(1, vec![0; 512].into()).unwrap();
        over.put(1, vec![9; 512].into()).unwrap();
        let full = over.put(2, vec![0; 512].into()).unwrap_err();
        assert_eq!(full.kind, FaultKind::Limit);
    }
}
