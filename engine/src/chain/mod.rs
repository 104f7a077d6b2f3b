//! A chain of layers read as one disk.
//!
//! Opening reads headers and L1 tables only. What each guest byte is (which layer, which host
//! byte) is flattened per region of at most 512 MiB when first asked for, kept in a cache with a
//! byte limit, and shared by all readers; so a read costs the same at any depth.
//!
//! Invariant: each layer is clipped at its own size. Behind the end of a shorter layer the disk
//! reads zero, whatever deeper layers hold, as in QEMU. "Unallocated" means ask the parent;
//! nothing else does.
//!
//! Layers are given, never found: a name inside of an image is not followed here (see
//! [`offline`] for the one tool that does).

mod cache;
mod checked;
mod fileat;
mod layer;
pub mod offline;
mod piece;
mod read;
mod scan;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use sendense_formats::GuestRange;
use sendense_formats::qcow2::OpenPolicy;

pub use checked::Checksums;
pub use fileat::FileAt;
pub use layer::{Layer, LayerFormat, LayerSource};
pub use piece::{Content, Piece};

use cache::{Cache, Lookup, Region, Ticket};
use checked::Checked;
use read::Unpacked;
use scan::Scan;

use crate::{Error, ErrorKind, Result};

/// The most layers of a chain.
pub const MAX_DEPTH: usize = 4096;
/// Guest bytes of one region of the map, at most.
const REGION: u64 = 512 << 20;
/// Granules of one region, at most: tiny clusters get smaller regions.
const REGION_GRANULES: u64 = 65536;

/// How a chain is opened.
#[derive(Debug, Clone)]
pub struct ChainOptions {
    /// Limits for each image.
    pub policy: OpenPolicy,
    /// Bytes of flattened map that are kept.
    pub map_bytes: usize,
    /// Checksums; where given, everything that is read is checked, tables included.
    pub checksums: Option<Arc<dyn Checksums>>,
    /// Take the last layer as the bottom even where its header names a backing file. What it does
    /// not hold then reads as zero.
    pub ignore_backing: bool,
}

impl Default for ChainOptions {
    fn default() -> Self {
        Self {
            policy: OpenPolicy::default(),
            map_bytes: 64 << 20,
            checksums: None,
            ignore_backing: false,
        }
    }
}

/// An open chain. Any number of threads read it at once.
#[derive(Debug)]
pub struct Chain {
    layers: Vec<Layer>,
    size: u64,
    region: u64,
    cache: Arc<Cache>,
    unpacked: Unpacked,
    checksums: Option<Arc<dyn Checksums>>,
}

impl Chain {
    /// Opens the layers, newest first. Blocking.
    ///
    /// Every layer but the last must be an image that names a backing file, and the last must not
    /// name one: a chain with a layer left out would read as zero where the parent had data.
    pub fn open<L: Into<LayerSource>>(
        layers: impl IntoIterator<Item = L>,
        options: ChainOptions,
    ) -> Result<Arc<Self>> {
        let mut open = Vec::new();
        for source in layers {
            if open.len() >= MAX_DEPTH {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("a chain of more than {MAX_DEPTH} layers"),
                ));
            }
            open.push(Layer::open(source.into(), &options.policy)?);
        }
        Self::from_layers(open, options)
    }

    fn from_layers(layers: Vec<Layer>, options: ChainOptions) -> Result<Arc<Self>> {
        let Some((last, above)) = layers.split_last() else {
            return Err(Error::new(ErrorKind::Invalid, "a chain without a layer"));
        };
        for layer in above {
            if layer.backing().is_none() {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!(
                        "{}: has no backing file, yet stands over another layer",
                        layer.name()
                    ),
                ));
            }
        }
        if let Some(backing) = last.backing()
            && !options.ignore_backing
        {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{}: needs its backing file `{backing}`", last.name()),
            ));
        }
        let size = layers.first().map_or(0, Layer::size);
        let granule = layers.iter().map(Layer::granule).min().unwrap_or(REGION);
        Ok(Arc::new(Self {
            size,
            region: granule.saturating_mul(REGION_GRANULES).min(REGION),
            cache: Cache::new(options.map_bytes),
            unpacked: Unpacked::default(),
            checksums: options.checksums,
            layers,
        }))
    }

    /// The disk's size in bytes: that of the newest layer.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The layers, newest first.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Bytes that the flattened map holds at the moment.
    pub fn map_memory(&self) -> usize {
        self.cache.bytes()
    }

    /// What the bytes of `range` are, in guest order, without gaps; neighbours that simply go on
    /// are one piece. Clipped at the disk's end. Blocking where the map is not in memory.
    ///
    /// Memory follows the length of the range: walk a large disk in steps.
    pub fn map(&self, range: GuestRange) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        for index in self.regions(range) {
            collect(&self.region_blocking(index)?, range, &mut pieces);
        }
        Ok(pieces)
    }

    /// Like [`map`](Self::map), for tasks: a region that is not in memory is loaded on a thread
    /// that may block.
    pub async fn map_async(self: &Arc<Self>, range: GuestRange) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        for index in self.regions(range) {
            collect(&self.region_async(index).await?, range, &mut pieces);
        }
        Ok(pieces)
    }

    /// Which bytes of `range` the newest layer decides about: what this point changed.
    pub fn changed_by_top(&self, range: GuestRange) -> Result<Vec<(GuestRange, bool)>> {
        Ok(changed(&self.map(range)?))
    }

    /// Starts to build the map of a range that will be read soon; call inside of a tokio runtime.
    pub fn prefetch(self: &Arc<Self>, range: GuestRange) {
        for index in self.regions(range) {
            if let Lookup::Build(ticket) = self.cache.look(index) {
                let chain = self.clone();
                tokio::task::spawn_blocking(move || chain.build(index, ticket));
            }
        }
    }

    /// The numbers of the regions that `range` touches.
    fn regions(&self, range: GuestRange) -> std::ops::Range<u64> {
        let end = range.end().get().min(self.size);
        let start = range.start().get();
        if start >= end {
            return 0..0;
        }
        start / self.region..end.div_ceil(self.region)
    }

    fn region_blocking(&self, index: u64) -> Result<Region> {
        match self.cache.look(index) {
            Lookup::Hit(region) => Ok(region),
            Lookup::Wait(flight) => flight.wait(),
            Lookup::Build(ticket) => self.build(index, ticket),
        }
    }

    async fn region_async(self: &Arc<Self>, index: u64) -> Result<Region> {
        match self.cache.look(index) {
            Lookup::Hit(region) => Ok(region),
            Lookup::Wait(flight) => flight.wait_async().await,
            Lookup::Build(ticket) => {
                // The build goes on where this task is dropped: others may wait for it.
                let flight = ticket.flight();
                let chain = self.clone();
                tokio::task::spawn_blocking(move || chain.build(index, ticket));
                flight.wait_async().await
            }
        }
    }

    fn build(&self, index: u64, ticket: Ticket) -> Result<Region> {
        ticket.settle(self.flatten(index))
    }

    fn flatten(&self, index: u64) -> Result<Vec<Piece>> {
        let start = index.saturating_mul(self.region);
        let end = start.saturating_add(self.region).min(self.size);
        let mut out: Vec<Piece> = Vec::new();
        // What no layer so far decides about, with what the last of them keeps for it.
        let mut open: Vec<(GuestRange, Content)> = Vec::new();
        let Some(window) = GuestRange::new(start, end.saturating_sub(start)) else {
            return Ok(out);
        };
        open.push((window, Content::Unallocated { host: None }));
        let bottom = self.layers.len().saturating_sub(1);
        for (depth, layer) in self.layers.iter().enumerate() {
            let mut deeper: Vec<(GuestRange, Content)> = Vec::new();
            let checked = self
                .checksums
                .as_deref()
                .map(|sums| Checked { sums, depth });
            let mut scan = Scan::new(layer, window, checked);
            for (range, content) in open {
                let (inside, behind) = split(range, if depth == 0 { end } else { layer.end() });
                if !behind.is_empty() {
                    out.push(Piece {
                        range: behind,
                        depth: depth.saturating_sub(1),
                        content: content.skip(inside.len()),
                    });
                }
                if inside.is_empty() {
                    continue;
                }
                scan.map(inside, &mut |range, content| {
                    if content.is_present() || depth == bottom {
                        out.push(Piece {
                            range,
                            depth,
                            content,
                        });
                        return;
                    }
                    match deeper.last_mut() {
                        Some((last, kept))
                            if last.end() == range.start()
                                && kept.continues(last.len(), content) =>
                        {
                            *last = GuestRange::new(last.start().get(), last.len() + range.len())
                                .unwrap_or(*last);
                        }
                        _ => deeper.push((range, content)),
                    }
                })?;
            }
            open = deeper;
            if open.is_empty() {
                break;
            }
        }
        out.sort_unstable_by_key(|p| p.range.start());
        let mut merged = Vec::with_capacity(out.len());
        for piece in out {
            piece::append(&mut merged, piece);
        }
        merged.shrink_to_fit();
        self.check_gapless(&merged, start, end)?;
        Ok(merged)
    }

    /// A gap or an overlap would be read as something: never go on with one.
    fn check_gapless(&self, pieces: &[Piece], start: u64, end: u64) -> Result<()> {
        let mut at = start;
        for piece in pieces {
            if piece.range.start().get() != at {
                return Err(Error::new(
                    ErrorKind::Damaged,
                    format!("the map of the chain has a gap at guest byte {at}"),
                ));
            }
            at = piece.range.end().get();
        }
        if at == end {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Damaged,
            format!("the map of the chain ends at guest byte {at} instead of {end}"),
        ))
    }
}

/// The changed parts of a mapped range, merged.
pub(crate) fn changed(pieces: &[Piece]) -> Vec<(GuestRange, bool)> {
    let mut out: Vec<(GuestRange, bool)> = Vec::new();
    for piece in pieces {
        let changed = piece.depth == 0 && piece.content.is_present();
        match out.last_mut() {
            Some((range, flag)) if *flag == changed => {
                *range = GuestRange::new(range.start().get(), range.len() + piece.range.len())
                    .unwrap_or(*range);
            }
            _ => out.push((piece.range, changed)),
        }
    }
    out
}

/// The parts of a region that lie in `range`.
fn collect(region: &Region, range: GuestRange, to: &mut Vec<Piece>) {
    let first = region.partition_point(|p| p.range.end() <= range.start());
    for piece in region.iter().skip(first) {
        match piece.clip(range) {
            Some(piece) => piece::append(to, piece),
            None => break,
        }
    }
}

/// The parts before and behind `size`.
fn split(range: GuestRange, size: u64) -> (GuestRange, GuestRange) {
    let (start, end) = (range.start().get(), range.end().get());
    let at = size.clamp(start, end);
    let part = |from, to: u64| GuestRange::new(from, to - from).unwrap_or(range);
    (part(start, at), part(at, end))
}
