//! A look at everything that a file system shows, for images that may say anything.

use std::collections::HashSet;

use crate::guest::{Cursor, FileSystem};

/// Looks at `nodes` nodes at most, `pages` pages of each directory and `runs` runs of each file;
/// what is answered does not matter, only that it is.
pub(in crate::guest) fn look(fs: &dyn FileSystem, nodes: usize, pages: usize, runs: usize) {
    let (mut left, mut seen) = (vec![fs.root()], HashSet::new());
    while let Some(node) = left.pop().filter(|_| seen.len() < nodes) {
        if !seen.insert(node) {
            continue;
        }
        let _ = (fs.xattrs(node), fs.link(node), fs.stat(node));
        let mut from = Cursor::default();
        for _ in 0..pages {
            let Ok(page) = fs.list(node, from, 100) else {
                break;
            };
            left.extend(page.entries.iter().map(|entry| entry.node));
            let Some(next) = page.next else { break };
            from = next;
        }
        let mut at = 0;
        for _ in 0..runs {
            let _ = fs.read(node, None, at, &mut [0; 3000]);
            match fs.data(node, None, at) {
                Ok(Some(range)) => at = range.end,
                _ => break,
            }
        }
    }
}
