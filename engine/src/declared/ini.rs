//! The file syntax of nbd-server: `[section]`, `key = value`, `#` comment lines (GKeyFile).
//!
//! Every section and key keeps the line that it stands on, so that whatever is refused later is
//! refused by name and place. Nothing is interpreted here. As in GKeyFile, leading white space of
//! a value is dropped and trailing white space kept, `\s \t \n \r \\` are escapes, a section that
//! comes twice in one file is an error (there it would be merged, and one disk would be lost).

use std::fmt;

/// What is wrong, or worth knowing, at one line of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problem {
    /// The file as it was named.
    pub file: String,
    /// The line, counted from 1; 0 where the whole file is meant.
    pub line: u32,
    /// One sentence.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            write!(f, "{}: {}", self.file, self.text)
        } else {
            write!(f, "{}:{}: {}", self.file, self.line, self.text)
        }
    }
}

/// One `key = value` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) value: String,
    pub(super) line: u32,
}

/// One `[name]` with its keys, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) name: String,
    pub(super) line: u32,
    pub(super) keys: Vec<Key>,
}

/// Splits a file into sections. All problems are told, not only the first.
pub(super) fn parse(file: &str, text: &str) -> Result<Vec<Section>, Vec<Problem>> {
    let mut sections: Vec<Section> = Vec::new();
    let mut problems = Vec::new();
    let mut number = 0u32;
    for line in text.lines() {
        number = number.saturating_add(1);
        let mut problem = |text: String| {
            problems.push(Problem {
                file: file.to_owned(),
                line: number,
                text,
            });
        };
        let start = line.trim_start();
        if start.is_empty() || start.starts_with('#') {
            continue;
        }
        if let Some(rest) = start.strip_prefix('[') {
            let Some(name) = rest.trim_end().strip_suffix(']') else {
                problem("a section line ends with `]`".into());
                continue;
            };
            if name.is_empty() || name.contains(['[', ']']) || name.contains(char::is_control) {
                problem(format!("`{}` is no section name", name.escape_debug()));
                continue;
            }
            if let Some(first) = sections.iter().find(|s| s.name == name) {
                problem(format!("[{name}] is there already, at line {}", first.line));
                continue;
            }
            sections.push(Section {
                name: name.to_owned(),
                line: number,
                keys: Vec::new(),
            });
            continue;
        }
        let Some((name, value)) = start.split_once('=') else {
            problem("this is neither a section, nor `key = value`, nor a `#` comment".into());
            continue;
        };
        let name = name.trim_end();
        if name.is_empty() || name.contains(['[', ']']) {
            problem(format!("`{}` is no key", name.escape_debug()));
            continue;
        }
        let Some(section) = sections.last_mut() else {
            problem(format!("`{name}` stands before the first section"));
            continue;
        };
        match unescape(value.trim_start()) {
            Ok(value) => section.keys.push(Key {
                name: name.to_owned(),
                value,
                line: number,
            }),
            Err(why) => problem(format!("`{name}`: {why}")),
        }
    }
    if problems.is_empty() {
        Ok(sections)
    } else {
        Err(problems)
    }
}

fn unescape(value: &str) -> Result<String, String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        out.push(match chars.next() {
            Some('s') => ' ',
            Some('t') => '\t',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('\\') => '\\',
            Some(other) => return Err(format!("`\\{other}` is no escape")),
            None => return Err("a value cannot end with a single `\\`".into()),
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_keys_comments_and_lines() {
        let text = "# head\n\n[generic]\r\n  user = nbd\n[disk one]\nexportname=/dev/x\\sy \n";
        let sections = parse("f", text).unwrap();
        assert_eq!(sections.len(), 2);
        assert_eq!(sections[0].keys[0].value, "nbd");
        assert_eq!(sections[0].keys[0].line, 4);
        assert_eq!(sections[1].name, "disk one");
        assert_eq!(sections[1].keys[0].value, "/dev/x y ");
    }

    #[test]
    fn every_problem_is_told_with_its_line() {
        let text = "early=1\n[a]\nnonsense\n[a]\n[b\n[c]\nk=\\q\n[]\n=v\n";
        let problems = parse("/etc/x.conf", text).unwrap_err();
        let lines: Vec<u32> = problems.iter().map(|p| p.line).collect();
        assert_eq!(lines, [1, 3, 4, 5, 7, 8, 9]);
        assert_eq!(
            problems[1].to_string(),
            "/etc/x.conf:3: this is neither a section, nor `key = value`, nor a `#` comment"
        );
        assert!(problems[2].text.contains("line 2"));
    }
}
