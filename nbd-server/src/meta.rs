//! Metadata contexts: what a client asks for in the handshake, and the extents it is answered.
//!
//! Contexts are numbered alike everywhere: 0 is `base:allocation`, which every export has, and
//! 1 + i is the i-th of [`ExportInfo::contexts`](crate::ExportInfo::contexts). The same number
//! goes over the wire.

use crate::export::StatusExtent;
use crate::wire::{BASE_ALLOCATION, Fields, text};

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaRequest<'a> {
    /// The export.
    pub name: &'a str,
    /// Context names; in a list also prefixes that end with a colon.
    pub queries: Vec<&'a str>,
}

impl<'a> MetaRequest<'a> {
    /// From an option's data; `None` where it has a wrong shape or trailing bytes. What is
    /// allocated is bounded by the data that is really there.
    pub fn parse(data: &'a [u8]) -> Option<Self> {
        let mut fields = Fields::new(data);
        let name = text(fields.counted()?)?;
        let count = fields.u32()?;
        let mut queries = Vec::new();
        for _ in 0..count {
            queries.push(text(fields.counted()?)?);
        }
        fields.is_empty().then_some(Self { name, queries })
    }
}

/// The contexts of an export that has `contexts` beside the one that all have.
pub fn known(contexts: &[String]) -> impl Iterator<Item = (usize, &str)> {
    std::iter::once(BASE_ALLOCATION)
        .chain(contexts.iter().map(String::as_str))
        .enumerate()
}

/// Numbers of the contexts that LIST_META_CONTEXT shows: all where nothing is asked, else what is
/// named, a name that ends with a colon standing for all that begin with it.
pub fn list(contexts: &[String], queries: &[&str]) -> Vec<usize> {
    let matches = |name: &str| {
        queries.is_empty()
            || queries
                .iter()
                .any(|query| name == *query || (query.ends_with(':') && name.starts_with(query)))
    };
    known(contexts)
        .filter(|(_, name)| matches(name))
        .map(|(id, _)| id)
        .collect()
}

/// Numbers of the contexts that SET_META_CONTEXT selects: what is named exactly. What is not
/// known is left out, as the protocol asks.
pub fn select(contexts: &[String], queries: &[&str]) -> Vec<usize> {
    known(contexts)
        .filter(|(_, name)| queries.contains(name))
        .map(|(id, _)| id)
        .collect()
}

/// Brings the extents that an export answers into the shape that the protocol demands: none
/// empty, neighbours with the same flags merged, together at most `len` bytes, at most `max`
/// of them. `None` where nothing is left.
pub fn clip(extents: Vec<StatusExtent>, len: u64, max: usize) -> Option<Vec<StatusExtent>> {
    let mut left = len;
    let mut out: Vec<StatusExtent> = Vec::with_capacity(extents.len().min(max));
    for extent in extents {
        let len = extent.len.min(left);
        if len == 0 {
            continue;
        }
        if let Some(last) = out.last_mut().filter(|last| last.flags == extent.flags) {
            last.len += len;
        } else if out.len() < max {
            out.push(StatusExtent {
                len,
                flags: extent.flags,
            });
        } else {
            break;
        }
        left -= len;
    }
    (!out.is_empty()).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::meta_context_data;

    #[test]
    fn requests_are_parsed_to_the_last_byte() {
        let data = meta_context_data("x", &["base:", "a:b"]);
        let request = MetaRequest::parse(&data).unwrap();
        assert_eq!(
            request,
            MetaRequest {
                name: "x",
                queries: vec!["base:", "a:b"]
            }
        );
        let mut trailing = data.clone();
        trailing.push(0);
        assert_eq!(MetaRequest::parse(&trailing), None);
        for cut in 0..data.len() {
            assert_eq!(MetaRequest::parse(&data[..cut]), None);
        }
        let claims = [&[0, 0, 0, 0][..], &[0xff; 4]].concat();
        assert_eq!(MetaRequest::parse(&claims), None);
    }

    #[test]
    fn wildcards_list_but_do_not_select() {
        let more = ["qemu:dirty-bitmap:point".to_owned()];
        assert_eq!(list(&more, &[]), [0, 1]);
        assert_eq!(list(&more, &["base:"]), [0]);
        assert_eq!(list(&more, &["qemu:"]), [1]);
        assert_eq!(list(&more, &["qemu:dirty-bitmap:"]), [1]);
        assert_eq!(list(&more, &["nothing", ""]), [0; 0]);
        assert_eq!(select(&more, &["base:"]), [0; 0]);
        assert_eq!(
            select(&more, &["qemu:dirty-bitmap:point", "base:allocation"]),
            [0, 1]
        );
        assert_eq!(select(&more, &[]), [0; 0]);
    }

    #[test]
    fn extents_are_brought_into_shape() {
        let extent = |len, flags| StatusExtent { len, flags };
        let given = vec![
            extent(5, 0),
            extent(0, 1),
            extent(5, 0),
            extent(7, 3),
            extent(100, 0),
        ];
        assert_eq!(
            clip(given.clone(), 20, 9),
            Some(vec![extent(10, 0), extent(7, 3), extent(3, 0)])
        );
        assert_eq!(clip(given.clone(), 20, 1), Some(vec![extent(10, 0)]));
        assert_eq!(clip(given, 3, 9), Some(vec![extent(3, 0)]));
        assert_eq!(clip(vec![extent(0, 0)], 3, 9), None);
        let whole = vec![extent(u64::from(u32::MAX), 0), extent(1 << 40, 0)];
        assert_eq!(
            clip(whole, 0xffff_ffff, 9),
            Some(vec![extent(0xffff_ffff, 0)])
        );
    }
}
