//! Cursor pages: by (place, id), newest first, so that a page stays right while rows come in. The
//! place of most rows is the time at which they were made.

use data_encoding::BASE64URL_NOPAD;

use super::{Result, StoreError};

/// Where the last page ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The last row's place.
    pub place: i64,
    /// The last row's id.
    pub id: String,
}

impl Cursor {
    /// Before everything.
    pub fn start() -> Self {
        Self {
            place: i64::MAX,
            id: String::new(),
        }
    }

    /// From what a client sends back.
    pub fn parse(text: &str) -> Result<Self> {
        let bytes = BASE64URL_NOPAD
            .decode(text.as_bytes())
            .map_err(|_| StoreError::BadCursor)?;
        let text = String::from_utf8(bytes).map_err(|_| StoreError::BadCursor)?;
        let (at, id) = text.split_once(' ').ok_or(StoreError::BadCursor)?;
        Ok(Self {
            place: at.parse().map_err(|_| StoreError::BadCursor)?,
            id: id.to_owned(),
        })
    }

    /// For a client to send back.
    pub fn encode(&self) -> String {
        BASE64URL_NOPAD.encode(format!("{} {}", self.place, self.id).as_bytes())
    }
}

/// One page.
#[derive(Debug)]
pub struct Page<T> {
    /// Its rows, newest first.
    pub rows: Vec<T>,
    /// Where the next one begins; none on the last.
    pub next: Option<Cursor>,
}

impl<T> Page<T> {
    /// From up to `limit + 1` rows.
    pub(super) fn cut(mut rows: Vec<T>, limit: u32, key: impl Fn(&T) -> Cursor) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let next = if rows.len() > limit {
            rows.truncate(limit);
            rows.last().map(key)
        } else {
            None
        };
        Self { rows, next }
    }
}
