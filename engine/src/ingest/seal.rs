//! Sealing one disk: steps 1 to 7 of the seal, but for the checksum file and the names, which are
//! the repository's (steps 7 to 10).
//!
//! Until step 4 the first cluster of the file is zero, so a crash before it leaves no image; after
//! it the file is complete. A preparation that was cut off can be run again: it writes the same
//! bytes to the same places.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;
use sendense_formats::qcow2::{Counts, OpenPolicy, OpenStep, Opener, Seal, image_size};
use sendense_formats::{ClusterSize, HostOffset};

use super::checksums::Checksums;
use super::core::Core;
use super::life::Phase;
use super::lock;
use crate::io::Io;
use crate::pool::IoBuf;
use crate::storage::WriteRun;
use crate::{Error, ErrorKind, Result};

/// Bytes of metadata that are moved at once; a cluster is never longer.
const PIECE: u64 = 2 << 20;
/// Pieces in flight.
const PARALLEL: usize = 4;

/// A complete, synced and checked image under its temporary name.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The exact length of the file.
    pub file_len: u64,
    /// The disk's exact size in bytes; the image's header says whole sectors.
    pub virtual_size: u64,
    /// The cluster size.
    pub cluster: ClusterSize,
    /// How much of what the image holds.
    pub counts: Counts,
    /// Bytes of the disk that were sent: written, zeroed or trimmed.
    pub covered_bytes: u64,
    /// Payload bytes that were received.
    pub transferred_bytes: u64,
    /// Bytes of the clusters that hold data.
    pub stored_bytes: u64,
    /// Bytes that came as zero.
    pub zero_bytes: u64,
    /// CRC-32 of every cluster of the file, metadata included.
    pub checksums: Arc<Checksums>,
}

/// How far the seal has come.
#[derive(Debug, Default)]
pub(super) struct Sealing {
    /// The metadata, once planning has ended.
    seal: Option<Seal>,
    prepared: Option<Prepared>,
}

impl Core {
    pub(super) async fn prepare(&self, io: &Io) -> Result<Prepared> {
        let mut sealing = self.sealing.lock().await;
        if let Some(prepared) = &sealing.prepared {
            return Ok(prepared.clone());
        }
        // (1) Freeze: later writes get ESHUTDOWN. Drain. What is missing is told before anything
        // is decided, and the export is open again for it. Then fill the partial clusters.
        self.life.freeze().await?;
        self.sound()?;
        if sealing.seal.is_none() {
            self.covered_or_thaw()?;
        }
        let failed = self.write_out(io).await;
        self.sound()?;
        failed.map_err(|e| Error::with(ErrorKind::Io, self.label.clone(), e))?;
        if sealing.seal.is_none() {
            sealing.seal = Some(lock(&self.plan).writer.seal()?);
        }
        let Some(seal) = &sealing.seal else {
            return Err(Error::new(ErrorKind::WrongState, self.label.clone()));
        };
        self.ahead.stop().await;
        // (2) The metadata run behind the data.
        let header = seal.header();
        self.write_metadata(io, seal).await?;
        // (3) Data and metadata are on stable storage before the magic is.
        self.sync(io).await?;
        self.sound()?;
        // (4) The header cluster: from here on the file is an image.
        self.record(0, &header);
        self.put(io, 0, IoBuf::copy_of(&header)).await?;
        // (5) Cut what was allocated ahead; sync.
        let cut = self.file.set_len(seal.file_len());
        cut.map_err(|e| self.stored("cutting to length", &e))?;
        self.sync(io).await?;
        // (6) Read it back through the same descriptor, as a reader would.
        self.check(io, seal, &header).await?;
        // (7) The checksums are complete; their file is the repository's.
        let prepared = self.describe(seal.file_len());
        self.life.enter(Phase::Sealed);
        self.sound()?;
        sealing.prepared = Some(prepared.clone());
        Ok(prepared)
    }

    /// Fails where the export is poisoned or cancelled.
    fn sound(&self) -> Result<()> {
        if let Some(error) = self.life.poisoned() {
            return Err(error);
        }
        match self.life.phase() {
            Phase::Aborted => Err(Error::new(
                ErrorKind::WrongState,
                format!("{}: the backup was cancelled", self.label),
            )),
            Phase::Open | Phase::Frozen | Phase::Sealed => Ok(()),
        }
    }

    fn covered_or_thaw(&self) -> Result<()> {
        let Some(missing) = lock(&self.coverage).missing() else {
            return Ok(());
        };
        self.life.enter(Phase::Open);
        lock(&self.coverage).thaw();
        Err(Error::new(
            ErrorKind::IncompleteCoverage {
                missing: missing.first,
                more: missing.more,
            },
            format!("{}: not everything was sent", self.label),
        ))
    }

    /// A storage failure: poison, and what to tell.
    fn stored(&self, what: &str, error: &std::io::Error) -> Error {
        self.life.poison(self.doing(what), error);
        self.life
            .poisoned()
            .unwrap_or_else(|| Error::new(ErrorKind::Io, self.label.clone()))
    }

    async fn sync(&self, io: &Io) -> Result<()> {
        let synced = self.file.sync(io).await;
        synced.map_err(|e| self.stored("syncing", &e))
    }

    async fn put(&self, io: &Io, at: u64, buf: IoBuf) -> Result<()> {
        let part = 0..buf.len();
        let (_, result) = self
            .file
            .write_runs(io, buf, vec![WriteRun { at, part }])
            .await;
        result.map_err(|e| self.stored("writing metadata", &e))
    }

    /// Notes the checksums of clusters that are written at `at`.
    fn record(&self, at: u64, bytes: &[u8]) {
        let first = at >> self.cluster.bits();
        let sums: Vec<u32> = bytes
            .chunks(self.cluster.bytes_usize())
            .map(crc32fast::hash)
            .collect();
        let mut plan = lock(&self.plan);
        for (host, crc) in (first..).zip(sums) {
            plan.checksums.set(host, crc);
        }
    }

    /// Whether clusters are what was noted for them.
    fn recorded(&self, at: u64, bytes: &[u8]) -> bool {
        let first = at >> self.cluster.bits();
        let sums: Vec<u32> = bytes
            .chunks(self.cluster.bytes_usize())
            .map(crc32fast::hash)
            .collect();
        let plan = lock(&self.plan);
        (first..)
            .zip(sums)
            .all(|(host, crc)| plan.checksums.get(host) == Some(crc))
    }

    async fn write_metadata(&self, io: &Io, seal: &Seal) -> Result<()> {
        let mut written = stream::iter(pieces(seal))
            .map(|(at, len)| async move {
                let mut buf = IoBuf::heap(len);
                seal.fill_metadata(HostOffset::new(at), buf.as_mut())?;
                self.record(at, buf.as_ref());
                self.put(io, at, buf).await
            })
            .buffer_unordered(PARALLEL);
        let mut result = Ok(());
        while let Some(one) = written.next().await {
            result = result.and(one);
        }
        result
    }

    async fn check(&self, io: &Io, seal: &Seal, header: &[u8]) -> Result<()> {
        let wrong = |what: String| {
            let what = format!("{}: {what}", self.label);
            self.life.poison_with(false, what.clone());
            Error::new(ErrorKind::Damaged, what)
        };
        let len = self
            .file
            .len()
            .map_err(|e| self.stored("asking for the length", &e))?;
        if len != seal.file_len() {
            return Err(wrong(format!(
                "the file has {len} bytes instead of {}",
                seal.file_len()
            )));
        }
        let mut opener = Opener::new(len, OpenPolicy::default());
        let image = loop {
            match opener.step().map_err(|e| wrong(e.to_string()))? {
                OpenStep::Need { at, len } => {
                    let bytes = self.get(io, at.get(), len).await?;
                    opener.give(bytes.as_ref().to_vec());
                }
                OpenStep::Done(image) => break image,
            }
        };
        if image.virtual_size() != image_size(self.size) || image.cluster() != self.cluster {
            return Err(wrong("the header reads back as another disk's".to_owned()));
        }
        let first = self.get(io, 0, header.len()).await?;
        if first.as_ref() != header {
            return Err(wrong("the header cluster does not read back".to_owned()));
        }
        // Against the checksums of what was written, which every later verify goes by.
        let mut compared = stream::iter(pieces(seal))
            .map(|(at, len)| async move {
                let found = self.get(io, at, len).await?;
                Ok::<_, Error>((at, self.recorded(at, found.as_ref())))
            })
            .buffer_unordered(PARALLEL);
        while let Some(one) = compared.next().await {
            let (at, same) = one?;
            if !same {
                return Err(wrong(format!("metadata at byte {at} does not read back")));
            }
        }
        Ok(())
    }

    async fn get(&self, io: &Io, at: u64, len: usize) -> Result<IoBuf> {
        let (buf, result) = self.file.read_at(io, at, IoBuf::heap(len)).await;
        match result {
            Ok(()) => Ok(buf),
            Err(e) => Err(self.stored("reading metadata back", &e)),
        }
    }

    fn describe(&self, file_len: u64) -> Prepared {
        let (counts, checksums) = {
            let mut plan = lock(&self.plan);
            // Moved, not copied: there are many, and nothing changes any more.
            let none = Checksums::new(self.cluster);
            let all = std::mem::replace(&mut plan.checksums, none);
            (plan.writer.counts(), Arc::new(all))
        };
        let progress = self.progress();
        Prepared {
            file_len,
            virtual_size: self.size,
            cluster: self.cluster,
            counts,
            covered_bytes: progress.covered,
            transferred_bytes: progress.transferred,
            stored_bytes: progress.stored,
            zero_bytes: progress.zero,
            checksums,
        }
    }
}

/// The metadata run in pieces of whole clusters.
fn pieces(seal: &Seal) -> impl Iterator<Item = (u64, usize)> {
    let end = seal.file_len();
    let mut at = seal.metadata_at().get();
    std::iter::from_fn(move || {
        let len = PIECE.min(end.saturating_sub(at));
        let piece = (at, usize::try_from(len).ok()?);
        at += len;
        (len > 0).then_some(piece)
    })
}
