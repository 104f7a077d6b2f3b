//! Patterns for paths inside a guest: `/var/www/*.php`, `/home/?/[a-m]*`.
//!
//! `*` is any run of characters within one component, names that begin with a dot too; `?` is one
//! character; `[a-c]`, `[!a]` one byte of a set; `\` takes the next character as it is. A component
//! that is there exactly as written is taken, whatever characters it has.

use super::path::{self, Last};
use super::walk::{check_name, join};
use super::{Cursor, Fault, FaultKind, FileSystem, FileType, NodeId, Result};

/// Paths that one pattern may name.
const MAX_MATCHES: usize = 100_000;
/// Names of one directory that are asked for at once.
const PAGE: usize = 1024;

/// A path that a pattern names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// Components with slashes between them; empty for the root.
    pub path: Vec<u8>,
    /// What is there.
    pub node: NodeId,
}

/// The paths that a pattern names, in the order of the directories. A link in the middle is
/// followed inside of the guest's tree; one at the end is itself.
///
/// # Errors
/// `NotFound` where it names nothing, `Invalid` for `..`, `Limit` for too many, and what the reader
/// finds on the way.
pub fn expand(fs: &dyn FileSystem, pattern: &[u8]) -> Result<Vec<Match>> {
    let mut here = vec![Match {
        path: Vec::new(),
        node: fs.root(),
    }];
    for (depth, part) in path::components(pattern).enumerate() {
        if part == b".." {
            return Err(Fault::new(
                FaultKind::Invalid,
                "`..` cannot stand in a path to extract: write the path itself",
            ));
        }
        let mut found = Vec::new();
        for above in here {
            if depth > 0 && !enter(fs, &above)? {
                continue;
            }
            let node = match depth {
                0 => above.node,
                _ => path::resolve(fs, &above.path, Last::Follow)?,
            };
            step(fs, &above.path, node, part, &mut found)?;
        }
        here = found;
    }
    if here.is_empty() {
        return Err(Fault::new(
            FaultKind::NotFound,
            format!("nothing is named by \"{}\"", pattern.escape_ascii()),
        ));
    }
    Ok(here)
}

/// Whether what was found may hold further components.
fn enter(fs: &dyn FileSystem, found: &Match) -> Result<bool> {
    match path::resolve(fs, &found.path, Last::Follow) {
        Ok(node) => Ok(fs.stat(node)?.file_type == FileType::Directory),
        // A link that leads nowhere.
        Err(fault) if matches!(fault.kind, FaultKind::NotFound | FaultKind::WrongType) => Ok(false),
        Err(fault) => Err(fault),
    }
}

fn step(
    fs: &dyn FileSystem,
    above: &[u8],
    dir: NodeId,
    part: &[u8],
    found: &mut Vec<Match>,
) -> Result<()> {
    let plain = !part.iter().any(|b| b"*?[\\".contains(b));
    match fs.lookup(dir, part) {
        Ok(entry) => {
            found.push(Match {
                path: join(above, part),
                node: entry.node,
            });
            return Ok(());
        }
        Err(fault) if fault.kind == FaultKind::NotFound && plain => return Ok(()),
        Err(fault) if fault.kind == FaultKind::NotFound => {}
        Err(fault) => return Err(fault),
    }
    let mut from = Cursor::default();
    loop {
        let page = fs.list(dir, from, PAGE)?;
        for entry in page.entries {
            if check_name(&entry.name).is_err() || !matches(part, &entry.name) {
                continue;
            }
            if found.len() >= MAX_MATCHES {
                return Err(Fault::new(
                    FaultKind::Limit,
                    format!("more than {MAX_MATCHES} paths are named: name a directory instead"),
                ));
            }
            found.push(Match {
                path: join(above, &entry.name),
                node: entry.node,
            });
        }
        match page.next {
            Some(next) if next != from => from = next,
            Some(_) => return Err(Fault::damaged("a directory does not end")),
            None => return Ok(()),
        }
    }
}

/// Whether one component fits. The time is at most the product of both lengths.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut pattern, mut name) = (pattern, name);
    // Where to go on when what follows the last `*` does not fit.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', rest @ ..] = pattern {
            retry = Some((rest, name));
            pattern = rest;
            continue;
        }
        match one(pattern, name) {
            Some((rest, behind)) => (pattern, name) = (rest, behind),
            None if pattern.is_empty() && name.is_empty() => return true,
            None => {
                let Some((rest, [_, behind @ ..])) = retry else {
                    return false;
                };
                retry = Some((rest, behind));
                (pattern, name) = (rest, behind);
            }
        }
    }
}

/// Takes one character of the name with the beginning of the pattern; what is left of both.
fn one<'a>(pattern: &'a [u8], name: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let [byte, behind @ ..] = name else {
        return None;
    };
    match pattern {
        [b'?', rest @ ..] => Some((rest, name.get(character(name)..)?)),
        [b'\\', plain, rest @ ..] => (plain == byte).then_some((rest, behind)),
        [b'[', rest @ ..] => {
            let Some((fits, rest)) = set(rest, *byte) else {
                return (*byte == b'[').then_some((rest, behind));
            };
            fits.then_some((rest, behind))
        }
        [plain, rest @ ..] => (plain == byte).then_some((rest, behind)),
        [] => None,
    }
}

/// The bytes of the first character; of what is no UTF-8, one.
fn character(name: &[u8]) -> usize {
    let len = (1..=4).find(|len| {
        name.get(..*len)
            .is_some_and(|bytes| std::str::from_utf8(bytes).is_ok())
    });
    len.unwrap_or(1)
}

/// Whether a byte is in the set that begins here, and the pattern behind it; `None` where the set
/// does not end.
fn set(pattern: &[u8], byte: u8) -> Option<(bool, &[u8])> {
    let (negated, mut rest) = match pattern {
        [b'!' | b'^', rest @ ..] => (true, rest),
        _ => (false, pattern),
    };
    let (mut fits, mut first) = (false, true);
    loop {
        match rest {
            [b']', behind @ ..] if !first => return Some((fits != negated, behind)),
            [from, b'-', to, behind @ ..] if *to != b']' => {
                fits |= (*from..=*to).contains(&byte);
                rest = behind;
            }
            [one, behind @ ..] => {
                fits |= *one == byte;
                rest = behind;
            }
            [] => return None,
        }
        first = false;
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Item, Tree};
    use super::*;

    #[test]
    fn components_fit_as_in_a_shell() {
        for (pattern, name, fits) in [
            ("*", ".hidden", true),
            ("*.php", "index.php", true),
            ("*.php", "index.php5", false),
            ("a*b*c", "aXbYbc", true),
            ("a*b*c", "aXbY", false),
            ("?", "ä", true),
            ("??", "ä", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]]", "]", true),
            ("a[", "a[", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("", "", true),
            ("**", "", true),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), name.as_bytes()),
                fits,
                "{pattern} {name}"
            );
        }
        let hostile = "*a".repeat(120) + "b";
        assert!(!matches(hostile.as_bytes(), "a".repeat(255).as_bytes()));
    }

    #[test]
    fn a_pattern_names_paths_through_links_inside_the_tree() {
        let dir = |names: &[(&str, u64)]| {
            Item::Dir(
                names
                    .iter()
                    .map(|(n, i)| (n.as_bytes().to_vec(), *i))
                    .collect(),
            )
        };
        let fs = Tree::new(vec![
            dir(&[("www", 1), ("link", 3), ("broken", 4), ("file", 2)]),
            dir(&[("a.php", 2), ("b.php", 2), ("c[1].txt", 2), ("sub", 5)]),
            Item::File(Vec::new()),
            Item::Link(b"/www".to_vec()),
            Item::Link(b"../../nowhere".to_vec()),
            dir(&[("d.php", 2)]),
        ]);
        let paths = |pattern: &str| -> Vec<String> {
            let found = expand(&fs, pattern.as_bytes()).unwrap();
            let text = found
                .into_iter()
                .map(|m| String::from_utf8(m.path).unwrap());
            text.collect()
        };
        assert_eq!(paths("/www/*.php"), ["www/a.php", "www/b.php"]);
        assert_eq!(paths("link/a.php"), ["link/a.php"]);
        assert_eq!(paths("/*/a*"), ["www/a.php", "link/a.php"]);
        assert_eq!(paths("www/c[1].txt"), ["www/c[1].txt"]);
        assert_eq!(paths("*/*/*"), ["www/sub/d.php", "link/sub/d.php"]);
        assert_eq!(paths("/"), [""]);
        assert_eq!(paths("link"), ["link"]);
        let kind = |pattern: &str| expand(&fs, pattern.as_bytes()).unwrap_err().kind;
        assert_eq!(kind("www/*.txt5"), FaultKind::NotFound);
        assert_eq!(kind("www/../file"), FaultKind::Invalid);
        assert_eq!(kind("file/x"), FaultKind::NotFound);
    }
}
