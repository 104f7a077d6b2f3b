//! What was asked to change and has not come to the export.

use std::rc::Rc;

use crate::export::Export;

/// A range on its way from a request's header to the export. Wherever that way ends early, by a
/// refusal, a cut payload or the end of the connection, dropping it tells the export.
pub(super) struct Unserved<X: Export> {
    export: Rc<X>,
    at: u64,
    len: u64,
}

impl<X: Export> Unserved<X> {
    /// `len` bytes from `at` on; 0 where the request changes nothing.
    pub(super) fn new(export: &Rc<X>, at: u64, len: u64) -> Self {
        Self {
            export: Rc::clone(export),
            at,
            len,
        }
    }

    /// Splits off the first `len` bytes, which go their own way from here on.
    pub(super) fn split(&mut self, len: u64) -> Self {
        let front = Self::new(&self.export, self.at, len.min(self.len));
        self.at = self.at.saturating_add(front.len);
        self.len -= front.len;
        front
    }

    /// It is handed over now: the export answers for it.
    pub(super) fn served(mut self) {
        self.len = 0;
    }
}

impl<X: Export> Drop for Unserved<X> {
    fn drop(&mut self) {
        if self.len > 0 {
            self.export.refused(self.at, self.len);
        }
    }
}
