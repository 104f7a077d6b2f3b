//! Reading guest bytes: the map says where from, adjacent host runs are one read.
//!
//! Two forms with one plan. The asynchronous one reads straight into the caller's buffer where one
//! run holds all of it; where it is pieced together, each piece is read into a buffer of its own,
//! so one request holds at most its own length a second time. Unpacking and checking run on
//! threads that may block.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt;
use futures_util::stream;
use lru::LruCache;
use sendense_formats::GuestRange;
use sendense_formats::qcow2::decompress;

use super::Chain;
use super::checked::Checked;
use super::layer::{Layer, named};
use super::piece::{Content, Piece};
use crate::io::Io;
use crate::pool::IoBuf;
use crate::{Error, ErrorKind, Result};

/// Pieces of one request that are read at the same time.
const PARALLEL: usize = 8;
/// Bytes of unpacked clusters that are kept.
const UNPACKED_BYTES: usize = 8 << 20;

/// Where a part of the caller's buffer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Zero,
    File { depth: usize, host: u64 },
    Packed(Packed),
}

/// A compressed cluster, and how far into it the part begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Packed {
    depth: usize,
    host: u64,
    len: usize,
    skip: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    to: Range<usize>,
    from: From,
}

/// The last unpacked clusters: small reads in a row share one.
#[derive(Debug)]
pub(super) struct Unpacked(Mutex<Recent>);

#[derive(Debug)]
struct Recent {
    clusters: LruCache<(usize, u64), Arc<[u8]>>,
    bytes: usize,
}

impl Default for Unpacked {
    fn default() -> Self {
        Self(Mutex::new(Recent {
            clusters: LruCache::unbounded(),
            bytes: 0,
        }))
    }
}

impl Unpacked {
    fn get(&self, key: (usize, u64)) -> Option<Arc<[u8]>> {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recent.clusters.get(&key).cloned()
    }

    fn put(&self, key: (usize, u64), cluster: Arc<[u8]>) {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recent.bytes += cluster.len();
        if let Some(old) = recent.clusters.put(key, cluster) {
            recent.bytes = recent.bytes.saturating_sub(old.len());
        }
        while recent.bytes > UNPACKED_BYTES {
            let Some((_, old)) = recent.clusters.pop_lru() else {
                break;
            };
            recent.bytes = recent.bytes.saturating_sub(old.len());
        }
    }
}

impl Chain {
    /// Fills `buf` from guest byte `at`. Blocking.
    pub fn read_blocking(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        let range = self.range(at, buf.len())?;
        for part in self.plan(&self.map(range)?) {
            let Some(to) = buf.get_mut(part.to) else {
                continue;
            };
            match part.from {
                From::Zero => to.fill(0),
                From::File { depth, host } => self.read_file(depth, host, to)?,
                From::Packed(packed) => copy_skipped(&self.unpack(packed)?, packed.skip, to),
            }
        }
        Ok(())
    }

    /// Fills `buf` from guest byte `at`. The buffer comes back in any case.
    pub async fn read(self: &Arc<Self>, io: &Io, at: u64, mut buf: IoBuf) -> (IoBuf, Result<()>) {
        let plan = match self.plan_async(at, buf.len()).await {
            Ok(plan) => plan,
            Err(e) => return (buf, Err(e)),
        };
        if let [only] = plan.as_slice()
            && let From::File { depth, host } = only.from
            && self.checksums.is_none()
            && let Some(layer) = self.layers.get(depth)
        {
            let (buf, result) = layer.file().read_at(io, host, buf).await;
            return (buf, result.map_err(|e| Error::io(layer.name(), e)));
        }
        let mut wanted = Vec::new();
        for part in plan {
            match part.from {
                From::Zero => {
                    if let Some(to) = buf.as_mut().get_mut(part.to) {
                        to.fill(0);
                    }
                }
                _ => wanted.push(part),
            }
        }
        let mut parts = stream::iter(wanted)
            .map(|part| self.part(io, part))
            .buffer_unordered(PARALLEL);
        let mut result = Ok(());
        while let Some((to, bytes)) = parts.next().await {
            match bytes {
                Ok(bytes) => {
                    if let Some(to) = buf.as_mut().get_mut(to) {
                        bytes.copy_to(to);
                    }
                }
                Err(e) => result = Err(e),
            }
        }
        drop(parts);
        (buf, result)
    }

    async fn plan_async(self: &Arc<Self>, at: u64, len: usize) -> Result<Vec<Part>> {
        let range = self.range(at, len)?;
        Ok(self.plan(&self.map_async(range).await?))
    }

    async fn part(self: &Arc<Self>, io: &Io, part: Part) -> (Range<usize>, Result<Bytes>) {
        let len = part.to.len();
        let result = match part.from {
            From::Zero => Ok(Bytes::None),
            From::File { depth, host } if self.checksums.is_none() => {
                self.fragment(io, depth, host, len).await
            }
            From::File { depth, host } => {
                self.blocking(move |chain| {
                    let mut bytes = vec![0; len];
                    chain.read_file(depth, host, &mut bytes)?;
                    Ok(Bytes::Own(bytes))
                })
                .await
            }
            From::Packed(packed) => match self.unpacked.get((packed.depth, packed.host)) {
                Some(cluster) => Ok(Bytes::Cluster(cluster, packed.skip)),
                None => {
                    self.blocking(move |chain| {
                        Ok(Bytes::Cluster(chain.unpack(packed)?, packed.skip))
                    })
                    .await
                }
            },
        };
        (part.to, result)
    }

    async fn fragment(&self, io: &Io, depth: usize, host: u64, len: usize) -> Result<Bytes> {
        let layer = self.layer(depth)?;
        let (buf, result) = layer.file().read_at(io, host, IoBuf::heap(len)).await;
        result.map_err(|e| Error::io(layer.name(), e))?;
        Ok(Bytes::Io(buf))
    }

    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let chain = self.clone();
        match tokio::task::spawn_blocking(move || work(&chain)).await {
            Ok(result) => result,
            Err(e) => Err(Error::with(ErrorKind::Io, "a read was interrupted", e)),
        }
    }

    fn range(&self, at: u64, len: usize) -> Result<GuestRange> {
        GuestRange::new(at, len as u64)
            .filter(|r| r.end().get() <= self.size)
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::Invalid,
                    format!(
                        "{len} bytes at {at} are not inside of a disk of {} bytes",
                        self.size
                    ),
                )
            })
    }

    fn layer(&self, depth: usize) -> Result<&Layer> {
        self.layers
            .get(depth)
            .ok_or_else(|| Error::new(ErrorKind::WrongState, "no such layer in this chain"))
    }

    /// Turns pieces into parts of the buffer.
    fn plan(&self, pieces: &[Piece]) -> Vec<Part> {
        let start = pieces.first().map_or(0, |p| p.range.start().get());
        let mut parts: Vec<Part> = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let offset = |at: u64| usize::try_from(at - start).unwrap_or(usize::MAX);
            let to = offset(piece.range.start().get())..offset(piece.range.end().get());
            let from = match piece.content {
                Content::Unallocated { .. } | Content::Zero { .. } => From::Zero,
                Content::Data { host } => From::File {
                    depth: piece.depth,
                    host: host.get(),
                },
                Content::Compressed { host, len } => {
                    let cluster = self
                        .layers
                        .get(piece.depth)
                        .and_then(Layer::image)
                        .map_or(1, |i| i.cluster().bytes());
                    From::Packed(Packed {
                        depth: piece.depth,
                        host: host.get(),
                        len,
                        skip: usize::try_from(piece.range.start().get() % cluster).unwrap_or(0),
                    })
                }
            };
            match parts.last_mut() {
                Some(last) if continues(last, from) => last.to.end = to.end,
                _ => parts.push(Part { to, from }),
            }
        }
        parts
    }

    fn read_file(&self, depth: usize, host: u64, to: &mut [u8]) -> Result<()> {
        let layer = self.layer(depth)?;
        match self.checksums.as_deref() {
            Some(sums) => Checked { sums, depth }.read(layer, host, to),
            None => layer
                .file()
                .read_at_blocking(host, to)
                .map_err(|e| Error::io(layer.name(), e)),
        }
    }

    fn unpack(&self, packed: Packed) -> Result<Arc<[u8]>> {
        let key = (packed.depth, packed.host);
        if let Some(cluster) = self.unpacked.get(key) {
            return Ok(cluster);
        }
        let layer = self.layer(packed.depth)?;
        let Some(image) = layer.image() else {
            return Err(layer.damaged("a raw layer has no compressed cluster"));
        };
        let mut src = vec![0; packed.len];
        self.read_file(packed.depth, packed.host, &mut src)?;
        let mut cluster = vec![0; image.cluster().bytes_usize()];
        decompress(image.header().compression, &src, &mut cluster).map_err(|mut e| {
            e.at = Some(sendense_formats::HostOffset::new(packed.host));
            named(layer.name(), e)
        })?;
        let cluster: Arc<[u8]> = cluster.into();
        self.unpacked.put(key, cluster.clone());
        Ok(cluster)
    }
}

/// What was read for one part.
#[derive(Debug)]
enum Bytes {
    None,
    Io(IoBuf),
    Own(Vec<u8>),
    Cluster(Arc<[u8]>, usize),
}

impl Bytes {
    fn copy_to(&self, to: &mut [u8]) {
        match self {
            Self::None => {}
            Self::Io(buf) => copy_skipped(buf.as_ref(), 0, to),
            Self::Own(bytes) => copy_skipped(bytes, 0, to),
            Self::Cluster(cluster, skip) => copy_skipped(cluster, *skip, to),
        }
    }
}

fn copy_skipped(from: &[u8], skip: usize, to: &mut [u8]) {
    let end = skip.saturating_add(to.len());
    if let Some(from) = from.get(skip..end) {
        to.copy_from_slice(from);
    }
}

/// Whether `from` goes on where `last` ends.
fn continues(last: &Part, from: From) -> bool {
    match (last.from, from) {
        (From::Zero, From::Zero) => true,
        (
            From::File { depth, host },
            From::File {
                depth: next_depth,
                host: next,
            },
        ) => depth == next_depth && host.checked_add(last.to.len() as u64) == Some(next),
        _ => false,
    }
}
