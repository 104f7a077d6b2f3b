//! An ingest over memory, with what reads its image back the long way.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sendense_formats::ClusterSize;
use sendense_formats::qcow2::{Backing, CreateOptions};
use sendense_nbd::{NbdError, ZeroFlags};

use crate::chain::{Chain, LayerSource};
use crate::ingest::{CoverageRule, Ingest, IngestOptions, Prepared};
use crate::io::{Io, IoConfig};
use crate::plane::{DynExport, Source};
use crate::pool::IoBuf;
use crate::storage::mem::MemDirectory;
use crate::storage::{Create, Directory, Extent, File, LocalBoxFuture, LockKind, WriteRun};

/// Runs a test as a data-plane thread would.
pub(super) fn block_on<F: Future>(test: F) -> F::Output {
    let rt = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&rt, test)
}

/// Bytes that say where they belong; all zero for a fill of 0.
pub(super) fn pattern(fill: u8, len: usize) -> Vec<u8> {
    let byte = |i: usize| fill.wrapping_mul(u8::try_from(i % 251).unwrap() | 1);
    (0..len).map(byte).collect()
}

fn io() -> Io {
    Io::new(IoConfig::small()).unwrap()
}

pub(super) struct Rig {
    pub(super) directory: MemDirectory,
    pub(super) ingest: Arc<Ingest>,
    file: Arc<dyn File>,
    size: u64,
    below: Vec<(Arc<dyn File>, u64)>,
}

/// One connection.
pub(super) struct Disk(Rc<dyn DynExport>);

impl Rig {
    pub(super) fn full(size: u64) -> Self {
        Self::with(size, None, |_| {})
    }

    pub(super) fn over(base: &Self, size: u64) -> Self {
        Self::with(size, Some(base), |_| {})
    }

    /// A file that gives way at every step, and an accumulator that is always too small.
    pub(super) fn slow(size: u64, bits: u32, base: Option<&Self>, seed: u64) -> Self {
        Self::with(size, base, |options| {
            options.create.cluster = ClusterSize::from_bits(bits).unwrap();
            options.accumulator_bytes = 0;
            options.file = Arc::new(Slow {
                file: Arc::clone(&options.file),
                seed: AtomicU64::new(seed),
            });
        })
    }

    pub(super) fn with(
        size: u64,
        base: Option<&Self>,
        change: impl FnOnce(&mut IngestOptions),
    ) -> Self {
        let directory = MemDirectory::new();
        let file = directory.open("disk.qcow2", Create::New).unwrap();
        let mut below = Vec::new();
        let mut create = CreateOptions {
            virtual_size: size,
            cluster: ClusterSize::DEFAULT,
            backing: None,
        };
        let mut options = IngestOptions::new(Arc::clone(&file), create.clone());
        options.coverage = CoverageRule::Free;
        if let Some(base) = base {
            create.backing = Some(Backing {
                name: "base.qcow2".to_owned(),
                format: Some("qcow2".to_owned()),
            });
            options.create = create;
            below = base.files();
            options.parent = Some(Arc::new(base.chain()));
        }
        change(&mut options);
        Self {
            directory,
            ingest: Ingest::create(options).unwrap(),
            file,
            size,
            below,
        }
    }

    /// The images, newest first, with the exact sizes that a sidecar would know.
    fn files(&self) -> Vec<(Arc<dyn File>, u64)> {
        let mut files = vec![(Arc::clone(&self.file), self.size)];
        files.extend(self.below.iter().cloned());
        files
    }

    /// The sealed image over its parents, as a reader opens it.
    fn chain(&self) -> Arc<Chain> {
        let layers = self
            .files()
            .into_iter()
            .map(|(file, size)| LayerSource::qcow2(file, "layer").with_disk(size));
        Chain::open(layers.collect::<Vec<_>>(), Default::default()).unwrap()
    }

    pub(super) fn attach(&self) -> Disk {
        Disk::new(&self.ingest)
    }

    pub(super) async fn seal(&self) -> crate::Result<Prepared> {
        let prepared = self.ingest.prepare(&io()).await?;
        let bytes = self.bytes();
        assert_eq!(bytes.len() as u64, prepared.file_len);
        let sums: Vec<u32> = bytes
            .chunks(prepared.cluster.bytes_usize())
            .map(crc32fast::hash)
            .collect();
        assert_eq!(prepared.checksums.iter().collect::<Vec<_>>(), sums);
        Ok(prepared)
    }

    /// The file as it is.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![
            0;
            usize::try_from(self.file.len().unwrap())
                .unwrap()
                .max(65536)
        ];
        self.file.read_at_blocking(0, &mut bytes).unwrap();
        bytes
    }

    /// Changes a byte of the file behind everybody's back.
    pub(super) fn damage(&self, at: u64) {
        self.file.write_at_blocking(at, &[0x55]).unwrap();
    }

    /// The disk as the sealed chain gives it.
    pub(super) fn read_sealed(&self) -> Vec<u8> {
        let chain = self.chain();
        let mut bytes = vec![1; usize::try_from(chain.size()).unwrap()];
        chain.read_blocking(0, &mut bytes).unwrap();
        bytes
    }
}

impl Disk {
    /// A connection on this thread, with buffers of its own.
    pub(super) fn new(ingest: &Ingest) -> Self {
        Self(ingest.attach(&io()))
    }

    pub(super) async fn write(&self, at: u64, bytes: Vec<u8>) -> Result<(), NbdError> {
        self.0.write(at, IoBuf::copy_of(&bytes)).await.result
    }

    pub(super) async fn read(&self, at: u64, len: usize) -> Result<Vec<u8>, NbdError> {
        let mut buf = IoBuf::heap(len);
        buf.as_mut().fill(0xee);
        let done = self.0.read(at, buf).await;
        done.result.map(|()| done.buf.as_ref().to_vec())
    }

    pub(super) async fn zero(&self, at: u64, len: u64) -> Result<(), NbdError> {
        self.0.write_zeroes(at, len, ZeroFlags::default()).await
    }

    pub(super) async fn trim(&self, at: u64, len: u64) -> Result<(), NbdError> {
        self.0.trim(at, len).await
    }

    pub(super) async fn flush(&self) -> Result<(), NbdError> {
        self.0.flush().await
    }

    /// The session refused a change of this range, or never got all of it.
    pub(super) fn refused(&self, at: u64, len: u64) {
        self.0.refused(at, len);
    }

    /// Length and flags of each extent.
    pub(super) fn status(&self, at: u64, len: u64) -> Result<Vec<(u64, u32)>, NbdError> {
        let status = futures_util::FutureExt::now_or_never(self.0.block_status(0, at, len, 100));
        Ok(status.unwrap()?.iter().map(|e| (e.len, e.flags)).collect())
    }
}

/// A file whose operations take a few turns, so that others come between.
#[derive(Debug)]
struct Slow {
    file: Arc<dyn File>,
    seed: AtomicU64,
}

impl Slow {
    async fn wait(&self) {
        let next = |s: u64| Some(s.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        let seed = self
            .seed
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        for _ in 0..seed.unwrap_or(0) >> 62 {
            tokio::task::yield_now().await;
        }
    }
}

impl File for Slow {
    fn read_at<'a>(
        &'a self,
        io: &'a Io,
        at: u64,
        buf: IoBuf,
    ) -> LocalBoxFuture<'a, (IoBuf, io::Result<()>)> {
        Box::pin(async move {
            self.wait().await;
            let done = self.file.read_at(io, at, buf).await;
            self.wait().await;
            done
        })
    }

    fn write_runs<'a>(
        &'a self,
        io: &'a Io,
        buf: IoBuf,
        runs: Vec<WriteRun>,
    ) -> LocalBoxFuture<'a, (IoBuf, io::Result<()>)> {
        Box::pin(async move {
            self.wait().await;
            let done = self.file.write_runs(io, buf, runs).await;
            self.wait().await;
            done
        })
    }

    fn sync<'a>(&'a self, io: &'a Io) -> LocalBoxFuture<'a, io::Result<()>> {
        self.file.sync(io)
    }

    fn read_at_blocking(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_at_blocking(at, buf)
    }

    fn write_at_blocking(&self, at: u64, buf: &[u8]) -> io::Result<()> {
        self.file.write_at_blocking(at, buf)
    }

    fn sync_blocking(&self) -> io::Result<()> {
        self.file.sync_blocking()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn identity(&self) -> io::Result<(u64, u64)> {
        self.file.identity()
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<bool> {
        self.file.allocate(at, len)
    }

    fn punch(&self, at: u64, len: u64) -> io::Result<bool> {
        self.file.punch(at, len)
    }

    fn extents(&self, at: u64, len: u64) -> io::Result<Vec<Extent>> {
        self.file.extents(at, len)
    }

    fn lock(&self, kind: LockKind) -> io::Result<()> {
        self.file.lock(kind)
    }

    fn unlock(&self) -> io::Result<()> {
        self.file.unlock()
    }
}
