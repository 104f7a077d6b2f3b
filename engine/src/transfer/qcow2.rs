//! A new QCOW2 file as the end of a copy: a full image without a parent.
//!
//! A disk that ends inside of a sector gets the rest of it as zero, since QEMU knows no other: the
//! image is of [`image_size`](sendense_formats::qcow2::image_size) bytes.
//!
//! Order, as in a seal: data as it comes; then the metadata in one run; sync; the header cluster,
//! until when the file carries no magic; the length; sync.

use std::cell::RefCell;
use std::sync::Arc;

use sendense_formats::qcow2::{CreateOptions, Outcome, WritePlan, Writer};
use sendense_formats::{ClusterSize, GuestRange};

use super::{DiskSink, Lent};
use crate::io::Io;
use crate::pool::IoBuf;
use crate::storage::{File, LocalBoxFuture, WriteRun};
use crate::{Error, ErrorKind, Result};

/// Writes a QCOW2 file.
#[derive(Debug)]
pub struct Qcow2Sink {
    file: Arc<dyn File>,
    /// Never borrowed across an await.
    writer: RefCell<Writer>,
    cluster: ClusterSize,
    name: String,
}

impl Qcow2Sink {
    /// Into a new, empty file.
    pub fn new(
        file: Arc<dyn File>,
        size: u64,
        cluster: ClusterSize,
        name: impl Into<String>,
    ) -> Result<Self> {
        let name = name.into();
        let len = file.len().map_err(|e| Error::io(name.clone(), e))?;
        if len != 0 {
            return Err(Error::new(
                ErrorKind::Exists,
                format!("{name}: is not empty, and nothing is overwritten unasked"),
            ));
        }
        let writer = Writer::create(CreateOptions {
            virtual_size: size,
            cluster,
            backing: None,
        })?;
        Ok(Self {
            file,
            writer: RefCell::new(writer),
            cluster,
            name,
        })
    }

    fn plan(&self, runs: &[WriteRun]) -> Result<(Vec<WritePlan>, Vec<WriteRun>)> {
        let mut writer = self.writer.borrow_mut();
        let size = self.cluster.bytes();
        let (mut plans, mut host_runs) = (Vec::new(), Vec::new());
        for WriteRun { at, part } in runs {
            let first = at >> self.cluster.bits();
            let count = self.cluster.count(part.len() as u64);
            let plan = writer.plan_write(sendense_formats::ClusterIndex::new(first), count)?;
            for run in &plan.runs {
                let skip = (run.first.get() - first).saturating_mul(size);
                let skip = usize::try_from(skip).unwrap_or(usize::MAX);
                let start = part.start.saturating_add(skip);
                let len = usize::try_from(run.count.saturating_mul(size)).unwrap_or(usize::MAX);
                // The disk's last cluster may be cut: the file's bytes behind it are never
                // written, and read as zero.
                let end = start.saturating_add(len).min(part.end);
                host_runs.push(WriteRun {
                    at: run.host.get(),
                    part: start..end,
                });
            }
            plans.push(plan);
        }
        Ok((plans, host_runs))
    }

    async fn put(&self, io: &Io, at: u64, bytes: &[u8]) -> Result<()> {
        let run = WriteRun {
            at,
            part: 0..bytes.len(),
        };
        let buf = IoBuf::copy_of(bytes);
        let (_, result) = self.file.write_runs(io, buf, vec![run]).await;
        result.map_err(|e| Error::io(self.name.clone(), e))
    }

    async fn sync(&self, io: &Io) -> Result<()> {
        let result = self.file.sync(io).await;
        result.map_err(|e| Error::io(self.name.clone(), e))
    }
}

impl DiskSink for Qcow2Sink {
    fn unit(&self) -> u64 {
        self.cluster.bytes()
    }

    fn write<'a>(
        &'a self,
        io: &'a Io,
        buf: IoBuf,
        runs: Vec<WriteRun>,
    ) -> LocalBoxFuture<'a, Lent<()>> {
        Box::pin(async move {
            let (plans, host_runs) = match self.plan(&runs) {
                Ok(planned) => planned,
                Err(e) => return (Some(buf), Err(e)),
            };
            let (buf, result) = self.file.write_runs(io, buf, host_runs).await;
            let mut result = result.map_err(|e| Error::io(self.name.clone(), e));
            let outcome = if result.is_ok() {
                Outcome::Done
            } else {
                Outcome::Failed
            };
            let mut writer = self.writer.borrow_mut();
            for plan in plans {
                let settled = writer.settle(plan, outcome).map_err(Error::from);
                result = result.and(settled);
            }
            (Some(buf), result)
        })
    }

    fn zero<'a>(&'a self, _io: &'a Io, _range: GuestRange) -> LocalBoxFuture<'a, Result<()>> {
        // What is never written is unallocated, and without a parent that is zero.
        Box::pin(async { Ok(()) })
    }

    fn finish<'a>(&'a self, io: &'a Io) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let seal = self.writer.borrow_mut().seal()?;
            for (at, bytes) in seal.metadata() {
                self.put(io, at.get(), &bytes).await?;
            }
            self.sync(io).await?;
            self.put(io, 0, &seal.header()).await?;
            let len = self.file.set_len(seal.file_len());
            len.map_err(|e| Error::io(self.name.clone(), e))?;
            self.sync(io).await
        })
    }
}
