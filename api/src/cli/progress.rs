//! Progress bars per disk on a terminal, silence otherwise.

use std::sync::Arc;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{Context, output};
use crate::mover::Progress;

/// The bars of one command.
#[derive(Debug)]
pub(super) struct Bars {
    all: Option<MultiProgress>,
}

/// One bar, or nothing where nobody watches. Dropped unfinished, it goes away.
#[derive(Debug)]
pub(super) struct Bar(Option<ProgressBar>);

impl Bars {
    pub(super) fn new(c: &Context) -> Self {
        Self {
            all: (!c.quiet && output::is_terminal()).then(MultiProgress::new),
        }
    }

    /// A bar of `total` bytes, and what moves it.
    pub(super) fn add(&self, name: &str, total: u64) -> (Bar, Progress) {
        let Some(all) = &self.all else {
            return (Bar(None), Arc::new(|_| {}));
        };
        let bar = all.add(ProgressBar::new(total));
        let line = "{prefix:12} {bar:30} {bytes:>11}/{total_bytes:11} {bytes_per_sec:>13} {eta:>5}";
        if let Ok(style) = ProgressStyle::with_template(line) {
            bar.set_style(style);
        }
        bar.set_prefix(name.to_owned());
        let moved = bar.clone();
        (Bar(Some(bar)), Arc::new(move |n| moved.inc(n)))
    }
}

impl Bar {
    /// Where it is, of how much.
    pub(super) fn set(&self, done: u64, total: u64) {
        if let Some(bar) = &self.0 {
            bar.set_length(total);
            bar.set_position(done.min(total));
        }
    }

    /// It stays as it is, full.
    pub(super) fn done(&self) {
        if let Some(bar) = &self.0 {
            bar.finish();
        }
    }

    /// It goes away.
    pub(super) fn clear(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = self.0.as_ref().filter(|bar| !bar.is_finished()) {
            bar.finish_and_clear();
        }
    }
}
