//! One file in a listing: a line for people, or an object.

use std::fmt::Write;

use sendense_engine::guest::walk::Item;
use sendense_engine::guest::{Fault, FaultKind, FileType, Stat, Stream, Time, Xattr};
use serde::Serialize;

use crate::output::shown;

/// A file. Names come readable, and percent-encoded without loss.
#[derive(Debug, Serialize)]
pub(crate) struct Line<'a> {
    path: String,
    path_encoded: String,
    node: u64,
    #[serde(flatten)]
    stat: &'a Stat,
    #[serde(skip_serializing_if = "Option::is_none")]
    link_target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link_target_encoded: Option<String>,
    streams: Vec<StreamLine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    xattrs: Option<Vec<XattrLine>>,
}

#[derive(Debug, Serialize)]
struct StreamLine {
    name: String,
    name_encoded: String,
    size: u64,
}

#[derive(Debug, Serialize)]
struct XattrLine {
    name: String,
    name_encoded: String,
    value_hex: String,
}

/// What stands in the place of a file that cannot be shown.
#[derive(Debug, Serialize)]
pub(crate) struct Problem<'a> {
    path: String,
    path_encoded: String,
    error: &'a str,
    kind: FaultKind,
}

impl<'a> Problem<'a> {
    pub(crate) fn new(path: &[u8], fault: &'a Fault) -> Self {
        Self {
            path: format!("/{}", lossy(path)),
            path_encoded: format!("/{}", encoded(path)),
            error: &fault.what,
            kind: fault.kind,
        }
    }
}

impl<'a> Line<'a> {
    pub(crate) fn new(
        item: &'a Item,
        link: Option<&[u8]>,
        streams: &[Stream],
        xattrs: Option<&[Xattr]>,
    ) -> Self {
        let stream = |s: &Stream| StreamLine {
            name: lossy(&s.name),
            name_encoded: encoded(&s.name),
            size: s.size,
        };
        let xattr = |x: &Xattr| XattrLine {
            name: lossy(&x.name),
            name_encoded: encoded(&x.name),
            value_hex: hex(&x.value),
        };
        Self {
            path: format!("/{}", lossy(&item.path)),
            path_encoded: format!("/{}", encoded(&item.path)),
            node: item.node.0,
            stat: &item.stat,
            link_target: link.map(lossy),
            link_target_encoded: link.map(encoded),
            streams: streams.iter().map(stream).collect(),
            xattrs: xattrs.map(|all| all.iter().map(xattr).collect()),
        }
    }
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Every byte but letters, digits, `-`, `.`, `_`, `~` and `/` as `%` and two digits.
fn encoded(text: &[u8]) -> String {
    text.iter().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(byte) {
            out.push(char::from(*byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

/// A line much like that of `ls -l`, with the whole path; streams and attributes below.
pub(crate) fn human(
    item: &Item,
    link: Option<&[u8]>,
    streams: &[Stream],
    xattrs: Option<&[Xattr]>,
) -> String {
    let stat = &item.stat;
    let number = |n: Option<u32>| n.map_or("-".to_owned(), |n| n.to_string());
    let links = stat.links.map_or("-".to_owned(), |n| n.to_string());
    let size = match stat.device {
        Some((major, minor)) => format!("{major}, {minor}"),
        None => stat.size.to_string(),
    };
    let mut out = format!(
        "{} {links:>3} {:>6} {:>6} {size:>13} {} /{}",
        mode(stat),
        number(stat.uid),
        number(stat.gid),
        stat.modified.map_or("-".to_owned(), time),
        shown(&item.path),
    );
    if let Some(link) = link {
        let _ = write!(out, " -> {}", shown(link));
    }
    for stream in streams {
        let _ = write!(
            out,
            "\n    stream {} ({} bytes)",
            shown(&stream.name),
            stream.size
        );
    }
    for xattr in xattrs.unwrap_or_default() {
        let value = shown(&xattr.value);
        let _ = write!(out, "\n    {} = {value}", shown(&xattr.name));
    }
    out
}

fn time(time: Time) -> String {
    match jiff::Timestamp::from_second(time.seconds) {
        Ok(stamp) => stamp.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        // A year that no calendar here has.
        Err(_) => format!("@{}", time.seconds),
    }
}

fn mode(stat: &Stat) -> String {
    let mut out = String::from(match stat.file_type {
        FileType::File => "-",
        FileType::Directory => "d",
        FileType::Symlink => "l",
        FileType::CharDevice => "c",
        FileType::BlockDevice => "b",
        FileType::Fifo => "p",
        FileType::Socket => "s",
        FileType::Other => "?",
    });
    let Some(mode) = stat.mode else {
        out.push_str("?????????");
        return out;
    };
    // For owner, group and others: the set-id or sticky bit takes the place of the third letter.
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        out.push(if bits & 4 != 0 { 'r' } else { '-' });
        out.push(if bits & 2 != 0 { 'w' } else { '-' });
        out.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use sendense_engine::guest::NodeId;

    use super::*;

    #[test]
    fn names_lose_nothing_and_modes_read_as_in_ls() {
        let mut item = Item {
            path: b"a b/\xff\n\xc3\xa4".to_vec(),
            node: NodeId(7),
            stat: Stat::new(FileType::File, 5),
        };
        item.stat.mode = Some(0o4755);
        item.stat.modified = Some(Time {
            seconds: 0,
            nanos: 5,
        });
        let line = serde_json::to_value(Line::new(&item, Some(b"x y"), &[], None)).unwrap();
        assert_eq!(line["path_encoded"], "/a%20b/%FF%0A%C3%A4");
        assert_eq!(line["path"], "/a b/\u{fffd}\nä");
        assert_eq!(line["link_target_encoded"], "x%20y");
        assert_eq!((&line["size"], &line["mode"]), (&5.into(), &0o4755.into()));
        assert_eq!(line["modified"]["nanos"], 5);
        let text = human(&item, None, &[], None);
        assert!(text.starts_with("-rwsr-xr-x"), "{text}");
        assert!(
            text.ends_with("1970-01-01T00:00:00Z /a b/\\xff\\nä"),
            "{text}"
        );
        item.stat.mode = Some(0o1640);
        assert_eq!(mode(&item.stat), "-rw-r----T");
        assert_eq!(
            time(Time {
                seconds: i64::MAX,
                nanos: 0
            }),
            format!("@{}", i64::MAX)
        );
    }
}
