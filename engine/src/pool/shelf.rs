//! Slots of one size, and the memory that all slots are cut from.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{IoBuf, SMALL_SLOT};

/// Regions start on a huge page's boundary, so that the kernel can back them with huge pages.
const HUGE: usize = 2 << 20;

/// One allocation that all slots of a pool are cut from.
pub(super) struct Region {
    /// What has not been cut yet.
    rest: BytesMut,
    base: usize,
    len: usize,
    /// The pieces around the slots. Holding them keeps the whole allocation, so that its addresses
    /// mean these pages for as long as a ring has them registered.
    _ends: (BytesMut, BytesMut),
}

impl Region {
    pub(super) fn new(len: usize) -> Self {
        let mut head = BytesMut::zeroed(len + HUGE + 1);
        let skip = head.as_ptr().align_offset(HUGE).min(HUGE);
        let mut rest = head.split_off(skip);
        let tail = rest.split_off(len);
        Self {
            base: rest.as_ptr().addr(),
            len,
            rest,
            _ends: (head, tail),
        }
    }

    pub(super) fn span(&self) -> (usize, usize) {
        (self.base, self.len)
    }

    fn cut(&mut self, len: usize) -> BytesMut {
        let len = len.min(self.rest.len());
        self.rest.split_to(len)
    }
}

/// Slots of one size in one reserve.
pub(super) struct Shelf {
    slot_len: usize,
    slots: usize,
    /// One permit for each slot in `free`; its queue is first in, first out.
    seats: Arc<Semaphore>,
    /// Used as a stack: the slot that was used last is the one that is still in the cache.
    free: Mutex<Vec<BytesMut>>,
}

impl Shelf {
    pub(super) fn new(region: &mut Region, slots: usize, slot_len: usize) -> Arc<Self> {
        let free = (0..slots).map(|_| region.cut(slot_len)).collect();
        Arc::new(Self {
            slot_len,
            slots,
            seats: Arc::new(Semaphore::new(slots)),
            free: Mutex::new(free),
        })
    }

    /// What a slot counts in quotas.
    pub(super) fn units(&self) -> u32 {
        u32::try_from(self.slot_len / SMALL_SLOT).unwrap_or(u32::MAX)
    }

    /// Waits for a slot.
    pub(super) async fn take(
        self: &Arc<Self>,
        len: usize,
        quota: Option<OwnedSemaphorePermit>,
    ) -> IoBuf {
        let seat = Arc::clone(&self.seats).acquire_owned().await.ok();
        let slot = self
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        match slot {
            Some(mem) => {
                let home = Home {
                    shelf: Some(Arc::clone(self)),
                    _seat: seat,
                    _quota: quota,
                };
                IoBuf::from_aligned(mem, len, Some(home))
            }
            // A slot lies here for every permit, so this is never reached.
            None => IoBuf::heap(len),
        }
    }

    /// Waits for as many slots as `len` bytes would fill, and lends heap memory in their place.
    pub(super) async fn take_heap(self: &Arc<Self>, len: usize) -> IoBuf {
        let seats = len.div_ceil(self.slot_len).min(self.slots);
        let seats = u32::try_from(seats).unwrap_or(u32::MAX);
        let seat = Arc::clone(&self.seats).acquire_many_owned(seats).await.ok();
        IoBuf::heap(len).living_at(Home {
            shelf: None,
            _seat: seat,
            _quota: None,
        })
    }

    fn put(&self, mem: BytesMut) {
        self.free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(mem);
    }
}

/// What a lent buffer gives back when it is dropped: first its memory, then the permits, so that
/// a permit always finds a slot.
pub(super) struct Home {
    /// `None` where the memory is the heap's and only occupies seats.
    shelf: Option<Arc<Shelf>>,
    _seat: Option<OwnedSemaphorePermit>,
    _quota: Option<OwnedSemaphorePermit>,
}

impl Home {
    pub(super) fn give_back(self, mem: BytesMut) {
        if let Some(shelf) = &self.shelf {
            shelf.put(mem);
        }
    }
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shelf")
            .field("slot_len", &self.slot_len)
            .field("slots", &self.slots)
            .field("free", &self.seats.available_permits())
            .finish()
    }
}
