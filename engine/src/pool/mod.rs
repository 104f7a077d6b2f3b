//! Buffers: aligned, owned, lent from bounded reserves, one pool per data-plane thread.
//!
//! Receiving, replying and internal fills have reserves of their own, so that a reply can leave
//! while receiving is held back, and a fill never waits for a peer. Each connection has a quota
//! in the first two. Waiting is first come, first served, and a dropped wait loses nothing.
//!
//! Invariant: the memory that a pool lends was allocated when it was made and is never more.

mod buf;
mod shelf;

use std::fmt;
use std::sync::Arc;

use sendense_nbd::{BufferPool, Purpose};
use tokio::sync::Semaphore;

pub use buf::{ALIGN, IoBuf};
use shelf::{Region, Shelf};

/// The size of a small slot, and the unit of quotas.
pub const SMALL_SLOT: usize = 64 << 10;

/// How much a pool holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    /// Bytes of a large slot; raised to a multiple of 64 KiB.
    pub slot_len: usize,
    /// Large slots to receive payloads.
    pub receive_slots: usize,
    /// Large slots for what is replied.
    pub reply_slots: usize,
    /// Large slots for internal fills.
    pub internal_slots: usize,
    /// Slots of 64 KiB in each of the three reserves, beside the large ones.
    pub small_slots: usize,
    /// What one connection may hold of the receive reserve, and again of the reply reserve, in
    /// bytes; at least one large slot.
    pub connection_quota: usize,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            slot_len: 1 << 20,
            receive_slots: 32,
            reply_slots: 16,
            internal_slots: 8,
            small_slots: 64,
            connection_quota: 16 << 20,
        }
    }
}

impl PoolConfig {
    /// A pool of a few slots: for tests and offline tools.
    pub fn small() -> Self {
        Self {
            receive_slots: 4,
            reply_slots: 4,
            internal_slots: 2,
            small_slots: 8,
            connection_quota: 4 << 20,
            ..Self::default()
        }
    }

    fn slot_len(&self) -> usize {
        self.slot_len
            .clamp(SMALL_SLOT, 1 << 30)
            .next_multiple_of(SMALL_SLOT)
    }
}

/// Large and small slots for one purpose.
#[derive(Debug)]
struct Reserve {
    large: Arc<Shelf>,
    small: Arc<Shelf>,
}

impl Reserve {
    fn new(region: &mut Region, slots: usize, slot_len: usize, small_slots: usize) -> Self {
        Self {
            large: Shelf::new(region, slots.max(1), slot_len),
            small: Shelf::new(region, small_slots.max(1), SMALL_SLOT),
        }
    }

    fn shelf(&self, len: usize) -> &Arc<Shelf> {
        if len <= SMALL_SLOT {
            &self.small
        } else {
            &self.large
        }
    }
}

/// The slots of one thread.
pub(crate) struct SharedPool {
    receive: Reserve,
    reply: Reserve,
    internal: Reserve,
    slot_len: usize,
    quota_units: usize,
    region: Region,
}

impl fmt::Debug for SharedPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedPool")
            .field("slot_len", &self.slot_len)
            .finish_non_exhaustive()
    }
}

impl SharedPool {
    pub(crate) fn new(config: &PoolConfig) -> Arc<Self> {
        let slot_len = config.slot_len();
        let large =
            config.receive_slots.max(1) + config.reply_slots.max(1) + config.internal_slots.max(1);
        let total = large * slot_len + 3 * config.small_slots.max(1) * SMALL_SLOT;
        let mut region = Region::new(total);
        let receive = Reserve::new(
            &mut region,
            config.receive_slots,
            slot_len,
            config.small_slots,
        );
        let reply = Reserve::new(
            &mut region,
            config.reply_slots,
            slot_len,
            config.small_slots,
        );
        let internal = Reserve::new(
            &mut region,
            config.internal_slots,
            slot_len,
            config.small_slots,
        );
        Arc::new(Self {
            receive,
            reply,
            internal,
            slot_len,
            quota_units: config.connection_quota.max(slot_len).div_ceil(SMALL_SLOT),
            region,
        })
    }

    /// Where all slots lie, for registering them with a ring: address and bytes.
    pub(crate) fn region(&self) -> (usize, usize) {
        self.region.span()
    }

    /// A buffer of the internal reserve. Longer than a slot, it comes from the heap while it
    /// occupies as many slots as it is long, all of them at most.
    pub(crate) async fn scratch(&self, len: usize) -> IoBuf {
        if len <= self.slot_len {
            return self.internal.shelf(len).take(len, None).await;
        }
        self.internal.large.take_heap(len).await
    }
}

/// One connection's handle to its thread's pool. Cloning shares the quota.
#[derive(Debug, Clone)]
pub struct Pool {
    shared: Arc<SharedPool>,
    receive: Arc<Semaphore>,
    reply: Arc<Semaphore>,
}

impl Pool {
    pub(crate) fn new(shared: Arc<SharedPool>) -> Self {
        let units = shared.quota_units;
        Self {
            shared,
            receive: Arc::new(Semaphore::new(units)),
            reply: Arc::new(Semaphore::new(units)),
        }
    }
}

impl BufferPool for Pool {
    type Buf = IoBuf;

    fn slot_len(&self) -> usize {
        self.shared.slot_len
    }

    async fn take(&self, len: usize, purpose: Purpose) -> IoBuf {
        let (reserve, quota) = match purpose {
            Purpose::Receive => (&self.shared.receive, &self.receive),
            Purpose::Reply => (&self.shared.reply, &self.reply),
        };
        let shelf = reserve.shelf(len);
        // The quota comes first: whoever has used up its own never stands in others' way.
        let quota = Arc::clone(quota)
            .acquire_many_owned(shelf.units())
            .await
            .ok();
        shelf.take(len, quota).await
    }
}

#[cfg(test)]
mod tests;
