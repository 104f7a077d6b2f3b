//! Paths inside a guest: bytes, resolved inside of the guest's own tree and nowhere else.
//!
//! Links are resolved by the guest's rules with the volume's root as `/`; `..` at the root stays
//! there. Nothing here ever becomes a path of the host.

use std::collections::VecDeque;

use super::{Fault, FaultKind, FileSystem, FileType, NodeId, Result};

/// Components that one resolution walks at most, links included.
const MAX_STEPS: usize = 4096;
/// Links that one resolution follows at most, as in Linux.
const MAX_LINKS: usize = 40;

/// What becomes of a link in the last component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// It is the answer itself.
    Show,
    /// It is followed.
    Follow,
}

/// Splits a path at its slashes; empty components and `.` do not count.
pub fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|b| *b == b'/')
        .filter(|c| !c.is_empty() && *c != b".")
}

/// Finds the node of a path from the root.
///
/// # Errors
/// `NotFound` and `WrongType` as the guest's own system would answer; `Limit` for loops of links
/// and for paths that grow too long.
pub fn resolve(fs: &dyn FileSystem, path: &[u8], last: Last) -> Result<NodeId> {
    let mut left: VecDeque<Vec<u8>> = components(path).map(<[u8]>::to_vec).collect();
    // The way from the root to here, for `..`: formats that keep no parent have it too.
    let mut way = vec![fs.root()];
    let (mut steps, mut links) = (0, 0);
    while let Some(name) = left.pop_front() {
        steps += 1;
        if steps > MAX_STEPS {
            return Err(Fault::new(FaultKind::Limit, "the path has too many steps"));
        }
        if name == b".." {
            if way.len() > 1 {
                way.pop();
            }
            continue;
        }
        let here = way.last().copied().unwrap_or_else(|| fs.root());
        let entry = fs.lookup(here, &name)?;
        let file_type = match entry.file_type {
            Some(known) => known,
            None => fs.stat(entry.node)?.file_type,
        };
        let follow = file_type == FileType::Symlink && (!left.is_empty() || last == Last::Follow);
        if !follow {
            if !left.is_empty() && file_type != FileType::Directory {
                return Err(Fault::new(
                    FaultKind::WrongType,
                    format!("{:?} is no directory", String::from_utf8_lossy(&name)),
                ));
            }
            way.push(entry.node);
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(Fault::new(
                FaultKind::Limit,
                "too many links, or a loop of them",
            ));
        }
        let target = fs.link(entry.node)?;
        if target.first() == Some(&b'/') {
            way.truncate(1);
        }
        for name in components(&target).collect::<Vec<_>>().into_iter().rev() {
            left.push_front(name.to_vec());
        }
        if left.len() > MAX_STEPS {
            return Err(Fault::new(FaultKind::Limit, "the path has too many steps"));
        }
    }
    Ok(way.last().copied().unwrap_or_else(|| fs.root()))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Item, Tree};
    use super::*;

    fn tree() -> Tree {
        let dir = |names: &[(&str, u64)]| {
            Item::Dir(
                names
                    .iter()
                    .map(|(n, i)| (n.as_bytes().to_vec(), *i))
                    .collect(),
            )
        };
        let link = |to: &str| Item::Link(to.as_bytes().to_vec());
        Tree::new(vec![
            dir(&[
                ("etc", 1),
                ("up", 3),
                ("abs", 4),
                ("loop", 5),
                ("file", 6),
                ("far", 7),
            ]),
            dir(&[("passwd", 2), ("back", 8)]),
            Item::File(b"guest".to_vec()),
            link("../../../../etc/passwd"),
            link("/etc"),
            link("loop"),
            Item::File(Vec::new()),
            link("abs/back/etc/passwd"),
            link(".."),
        ])
    }

    #[test]
    fn links_are_followed_inside_the_guests_own_tree() {
        let fs = tree();
        for path in [
            "/etc/passwd",
            "up",
            "abs/passwd",
            "etc/../../etc/./passwd",
            "far",
            "//etc//passwd",
        ] {
            assert_eq!(
                resolve(&fs, path.as_bytes(), Last::Follow).unwrap(),
                NodeId(2),
                "{path}"
            );
        }
        assert_eq!(resolve(&fs, b"up", Last::Show).unwrap(), NodeId(3));
        assert_eq!(resolve(&fs, b"/../..", Last::Follow).unwrap(), NodeId(0));
        assert_eq!(resolve(&fs, b"", Last::Follow).unwrap(), NodeId(0));
    }

    #[test]
    fn loops_and_what_is_no_directory_end_with_a_reason() {
        let fs = tree();
        let kind = |path: &[u8]| resolve(&fs, path, Last::Follow).unwrap_err().kind;
        assert_eq!(kind(b"loop"), FaultKind::Limit);
        assert_eq!(kind(b"loop/x"), FaultKind::Limit);
        assert_eq!(kind(b"file/x"), FaultKind::WrongType);
        assert_eq!(kind(b"file/../etc"), FaultKind::WrongType);
        assert_eq!(kind(b"nothing"), FaultKind::NotFound);
        let long = b"etc/../".repeat(5000);
        assert_eq!(kind(&long), FaultKind::Limit);
    }
}
