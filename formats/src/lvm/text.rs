//! The text form of the metadata: `key = value` and `section { ... }`, nested.

use std::collections::BTreeMap;

use crate::error::{Error, ErrorKind, Result};

/// Sections inside of sections: the metadata needs four.
const MAX_DEPTH: usize = 16;
/// Keys, values and elements of lists: what bounds the memory beyond the text's own length.
const MAX_NODES: usize = 400_000;
/// Bytes of a name.
const MAX_NAME: usize = 255;

/// What stands behind a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A whole number. A fraction is taken as text.
    Number(i64),
    /// Text.
    Text(String),
    /// A list of numbers and texts.
    List(Vec<Self>),
    /// A section.
    Section(Section),
}

/// Keys and values, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Section(BTreeMap<String, Value>);

impl Section {
    /// Parses a whole text. A NUL ends it.
    ///
    /// # Errors
    /// `Malformed` with the byte where it makes no sense, or for a key that comes twice;
    /// `TooLarge` beyond the limits on depth and count.
    pub fn parse(text: &[u8]) -> Result<Self> {
        Parser {
            text,
            at: 0,
            nodes: 0,
        }
        .document()
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// The section of a key.
    pub fn section(&self, key: &str) -> Option<&Self> {
        match self.get(key)? {
            Value::Section(section) => Some(section),
            _ => None,
        }
    }

    /// The text of a key.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number of a key, where it is not negative.
    pub fn number(&self, key: &str) -> Option<u64> {
        match self.get(key)? {
            Value::Number(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    /// Whether the list of a key, or its only value, has this text.
    pub fn lists(&self, key: &str, text: &str) -> bool {
        let is = |v: &Value| matches!(v, Value::Text(t) if t == text);
        match self.get(key) {
            Some(Value::List(list)) => list.iter().any(is),
            Some(value) => is(value),
            None => false,
        }
    }

    /// All sections inside, by name.
    pub fn sections(&self) -> impl Iterator<Item = (&str, &Self)> {
        self.0.iter().filter_map(|(name, value)| match value {
            Value::Section(section) => Some((name.as_str(), section)),
            _ => None,
        })
    }
}

struct Parser<'t> {
    text: &'t [u8],
    at: usize,
    nodes: usize,
}

impl Parser<'_> {
    fn document(mut self) -> Result<Section> {
        // Open sections with their names, outermost first: no recursion.
        let mut open: Vec<(String, Section)> = Vec::new();
        let mut here = Section::default();
        loop {
            self.space();
            match self.peek() {
                None if open.is_empty() => return Ok(here),
                None => return Err(self.bad("a section is not closed")),
                Some(b'}') => {
                    self.at += 1;
                    let (name, outer) = open.pop().ok_or_else(|| self.bad("a stray `}`"))?;
                    let inner = std::mem::replace(&mut here, outer);
                    self.put(&mut here, name, Value::Section(inner))?;
                }
                Some(_) => {
                    let name = self.word()?;
                    self.space();
                    match self.peek() {
                        Some(b'{') => {
                            self.at += 1;
                            if open.len() >= MAX_DEPTH {
                                return Err(self.large("sections too deep"));
                            }
                            open.push((name, std::mem::take(&mut here)));
                        }
                        Some(b'=') => {
                            self.at += 1;
                            let value = self.value()?;
                            self.put(&mut here, name, value)?;
                        }
                        _ => return Err(self.bad("neither `=` nor `{` behind a key")),
                    }
                }
            }
        }
    }

    fn put(&mut self, into: &mut Section, name: String, value: Value) -> Result<()> {
        self.count()?;
        if into.0.insert(name, value).is_some() {
            return Err(self.bad("a key comes twice"));
        }
        Ok(())
    }

    fn value(&mut self) -> Result<Value> {
        self.space();
        if self.peek() != Some(b'[') {
            return self.scalar();
        }
        self.at += 1;
        let mut list = Vec::new();
        loop {
            self.space();
            match self.peek() {
                Some(b']') => {
                    self.at += 1;
                    return Ok(Value::List(list));
                }
                Some(b',') if !list.is_empty() => self.at += 1,
                _ => {
                    self.count()?;
                    list.push(self.scalar()?);
                }
            }
        }
    }

    fn scalar(&mut self) -> Result<Value> {
        if self.peek() == Some(b'"') {
            return self.quoted().map(Value::Text);
        }
        let word = self.word()?;
        Ok(match word.parse() {
            Ok(number) => Value::Number(number),
            Err(_) => Value::Text(word),
        })
    }

    fn quoted(&mut self) -> Result<String> {
        let mut bytes = Vec::new();
        loop {
            self.at += 1;
            match self.peek() {
                None => return Err(self.bad("a text is not closed")),
                Some(b'"') => break,
                Some(b'\\') => {
                    self.at += 1;
                    bytes.extend(self.peek());
                }
                Some(byte) => bytes.push(byte),
            }
        }
        self.at += 1;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn word(&mut self) -> Result<String> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let part = |b: &&u8| b.is_ascii_graphic() && !b"={}[],\"#".contains(b);
        let word: Vec<u8> = rest.iter().take_while(part).copied().collect();
        if word.is_empty() || word.len() > MAX_NAME {
            return Err(self.bad("a name or value was expected"));
        }
        self.at += word.len();
        Ok(String::from_utf8_lossy(&word).into_owned())
    }

    fn space(&mut self) {
        while let Some(byte) = self.peek() {
            if byte == b'#' {
                let rest = self.text.get(self.at..).unwrap_or_default();
                self.at += rest.iter().take_while(|b| **b != b'\n').count();
            } else if byte.is_ascii_whitespace() {
                self.at += 1;
            } else {
                break;
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied().filter(|b| *b != 0)
    }

    fn count(&mut self) -> Result<()> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(self.large("too many keys"));
        }
        Ok(())
    }

    fn bad(&self, what: &str) -> Error {
        self.error(ErrorKind::Malformed, what)
    }

    fn large(&self, what: &str) -> Error {
        self.error(ErrorKind::TooLarge, what)
    }

    fn error(&self, kind: ErrorKind, what: &str) -> Error {
        Error::new(
            kind,
            format!("the metadata text: {what} (byte {})", self.at),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_lists_texts_and_numbers_are_read() {
        let text =
            b"# a comment {\ncontents = \"a \\\"quoted\\\" \\\\ text\" # more\nn=-5 f = 1.5\n\
            vg0 {\n\tlist = [\"a\", 7,\n \"b\"]\n\tempty=[] inner { x = 1 } \n}\n\0garbage {";
        let top = Section::parse(text).unwrap();
        assert_eq!(top.text("contents"), Some("a \"quoted\" \\ text"));
        assert_eq!(top.get("n"), Some(&Value::Number(-5)));
        assert_eq!((top.number("n"), top.text("f")), (None, Some("1.5")));
        let vg = top.section("vg0").unwrap();
        assert!(vg.lists("list", "b") && !vg.lists("list", "c"));
        assert_eq!(vg.get("empty"), Some(&Value::List(Vec::new())));
        assert_eq!(vg.section("inner").unwrap().number("x"), Some(1));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_place() {
        for text in [
            "a",
            "a = ",
            "a { b = 1",
            "}",
            "a = \"x",
            "a = [1",
            "= 1",
            "a = 1 a = 2",
            "a = [,]",
            "a b",
            "a = [[1]]",
        ] {
            let refused = Section::parse(text.as_bytes()).unwrap_err();
            assert_eq!(refused.kind, ErrorKind::Malformed, "{text}");
            assert!(refused.detail.contains("byte"), "{refused}");
        }
    }

    #[test]
    fn depth_and_count_are_bounded() {
        let deep = "a {".repeat(100_000);
        let many: String = (0..MAX_NODES + 1).map(|n| format!("a{n}=1\n")).collect();
        for text in [deep, many] {
            let refused = Section::parse(text.as_bytes()).unwrap_err();
            assert_eq!(refused.kind, ErrorKind::TooLarge);
        }
    }
}
