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

impl Bars {
    pub(super) fn new(c: &Context) -> Self {
        Self {
            all: (!c.quiet && output::is_terminal()).then(MultiProgress::new),
        }
    }

    /// A bar of `total` bytes, and what moves it.
    pub(super) fn add(&self, name: &str, total: u64) -> (Option<ProgressBar>, Progress) {
        let Some(all) = &self.all else {
            return (None, Arc::new(|_| {}));
        };
        let bar = all.add(ProgressBar::new(total));
        let line = "{prefix:12} {bar:30} {bytes:>11}/{total_bytes:11} {bytes_per_sec:>13} {eta:>5}";
        if let Ok(style) = ProgressStyle::with_template(line) {
            bar.set_style(style);
        }
        bar.set_prefix(name.to_owned());
        let moved = bar.clone();
        (Some(bar), Arc::new(move |n| moved.inc(n)))
    }
}
