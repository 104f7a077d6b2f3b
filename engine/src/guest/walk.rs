//! All that stands beneath a directory: depth first, without recursion, loops found.

use std::collections::HashSet;
use std::vec::IntoIter;

use super::{Cursor, Entry, Fault, FaultKind, FileSystem, FileType, NodeId, Stat};

/// Directories inside of directories that are entered.
const MAX_DEPTH: usize = 2048;
/// Directories that one walk enters.
const MAX_DIRECTORIES: usize = 4 << 20;
/// Names that are asked for at once, in each open directory.
const PAGE: usize = 256;

/// One node and the way to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Components with slashes between them, from where the paths of the walk begin; no slash in
    /// front. Names that hold a slash or NUL, or are `.`, `..` or empty, never come.
    pub path: Vec<u8>,
    /// The node.
    pub node: NodeId,
    /// Its facts.
    pub stat: Stat,
}

/// What a walk comes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A directory, before what is in it.
    Enter(Item),
    /// The same directory, behind what is in it.
    Leave(Item),
    /// Anything else.
    Node(Item),
    /// Something cannot be shown; the walk goes on behind it.
    Fault {
        /// Its path, as far as it is known.
        path: Vec<u8>,
        /// Why.
        fault: Fault,
    },
}

/// Whether a name may be one component of a path.
///
/// # Errors
/// `Damaged`: no guest system makes others.
pub fn check_name(name: &[u8]) -> Result<(), Fault> {
    let odd = name.is_empty() || matches!(name, b"." | b"..");
    if odd || name.contains(&b'/') || name.contains(&0) {
        let shown = name.escape_ascii();
        return Err(Fault::damaged(format!(
            "the name \"{shown}\" is refused: no system could have made it"
        )));
    }
    Ok(())
}

/// Puts a name behind a path.
pub fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(path.len() + name.len() + 1);
    joined.extend_from_slice(path);
    if !path.is_empty() {
        joined.push(b'/');
    }
    joined.extend_from_slice(name);
    joined
}

/// A walk in progress. Memory is bounded by the depth and by 8 bytes and a little for each
/// directory that was entered.
#[derive(Debug)]
pub struct Walk<'f> {
    fs: &'f dyn FileSystem,
    begin: Option<(Vec<u8>, NodeId)>,
    open: Vec<Open>,
    seen: HashSet<NodeId>,
    deep: bool,
}

#[derive(Debug)]
struct Open {
    item: Item,
    page: IntoIter<Entry>,
    next: Option<Cursor>,
}

impl<'f> Walk<'f> {
    /// Of `node` and all beneath it; paths begin with `path`. Where `deep` is not set, directories
    /// inside of it are entered and left at once.
    pub fn new(fs: &'f dyn FileSystem, path: Vec<u8>, node: NodeId, deep: bool) -> Self {
        Self {
            fs,
            begin: Some((path, node)),
            open: Vec::new(),
            seen: HashSet::new(),
            deep,
        }
    }

    fn meet(&mut self, path: Vec<u8>, node: NodeId) -> Step {
        let stat = match self.fs.stat(node) {
            Ok(stat) => stat,
            Err(fault) => return Step::Fault { path, fault },
        };
        let item = Item { path, node, stat };
        if item.stat.file_type != FileType::Directory {
            return Step::Node(item);
        }
        let refused = if self.open.len() >= MAX_DEPTH {
            Some(Fault::new(
                FaultKind::Limit,
                format!("more than {MAX_DEPTH} directories inside of each other"),
            ))
        } else if self.seen.len() >= MAX_DIRECTORIES {
            Some(Fault::new(
                FaultKind::Limit,
                format!("more than {MAX_DIRECTORIES} directories"),
            ))
        } else if !self.seen.insert(node) {
            Some(Fault::damaged("this directory was reached before: a loop"))
        } else {
            None
        };
        if let Some(fault) = refused {
            let path = item.path;
            return Step::Fault { path, fault };
        }
        let inside = self.deep || self.open.is_empty();
        self.open.push(Open {
            item: item.clone(),
            page: Vec::new().into_iter(),
            next: inside.then(Cursor::default),
        });
        Step::Enter(item)
    }
}

impl Iterator for Walk<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if let Some((path, node)) = self.begin.take() {
            return Some(self.meet(path, node));
        }
        loop {
            let here = self.open.last_mut()?;
            if let Some(entry) = here.page.next() {
                if let Err(fault) = check_name(&entry.name) {
                    let path = here.item.path.clone();
                    return Some(Step::Fault { path, fault });
                }
                let path = join(&here.item.path, &entry.name);
                return Some(self.meet(path, entry.node));
            }
            let Some(from) = here.next.take() else {
                return self.open.pop().map(|done| Step::Leave(done.item));
            };
            let fault = match self.fs.list(here.item.node, from, PAGE) {
                Ok(page) if page.next == Some(from) => Fault::damaged("a directory does not end"),
                Ok(page) => {
                    here.page = page.entries.into_iter();
                    here.next = page.next;
                    continue;
                }
                Err(fault) => fault,
            };
            let path = here.item.path.clone();
            return Some(Step::Fault { path, fault });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Item as Made, Tree};
    use super::*;

    fn dir(names: &[(&[u8], u64)]) -> Made {
        Made::Dir(names.iter().map(|(n, i)| (n.to_vec(), *i)).collect())
    }

    fn told(fs: &Tree, deep: bool) -> Vec<String> {
        let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
        let steps = Walk::new(fs, Vec::new(), NodeId(0), deep);
        let told = steps.map(|step| match step {
            Step::Enter(item) => format!("+{}", text(&item.path)),
            Step::Leave(item) => format!("-{}", text(&item.path)),
            Step::Node(item) => text(&item.path),
            Step::Fault { path, fault } => format!("!{} {:?}", text(&path), fault.kind),
        });
        told.collect()
    }

    #[test]
    fn everything_comes_once_and_loops_and_impossible_names_are_faults() {
        let fs = Tree::new(vec![
            dir(&[
                (b"a", 1),
                (b"b/../..", 2),
                (b"..", 2),
                (b"f", 2),
                (b"gone", 9),
            ]),
            dir(&[(b"up", 0), (b"g", 2), (b"again", 1)]),
            Made::File(Vec::new()),
        ]);
        let want = [
            "+",
            "+a",
            "!a/up Damaged",
            "a/g",
            "!a/again Damaged",
            "-a",
            "! Damaged",
            "! Damaged",
            "f",
            "!gone NotFound",
            "-",
        ];
        assert_eq!(told(&fs, true), want);
        assert_eq!(told(&fs, false)[..3], ["+", "+a", "-a"]);
    }

    #[test]
    fn depth_is_bounded() {
        let mut items: Vec<_> = (1..3000).map(|n| dir(&[(b"d", n)])).collect();
        items.push(dir(&[]));
        let told = told(&Tree::new(items), true);
        assert!(told.iter().any(|step| step.ends_with("Limit")));
        assert_eq!(told.len(), 2 * MAX_DEPTH + 1);
    }
}
