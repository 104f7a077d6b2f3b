//! Which client certificates may open which declared exports: a valid certificate alone is no
//! right to every disk.

/// One rule: whoever shows a certificate with this name may open these exports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The certificate's subject, common name, or one of its DNS, URI or e-mail names; exactly.
    pub subject: String,
    /// Names of exports; a `*` at the end stands for anything.
    pub exports: Vec<String>,
}

impl Rule {
    fn covers(&self, export: &str) -> bool {
        self.exports.iter().any(|e| match e.strip_suffix('*') {
            Some(start) => export.starts_with(start),
            None => e == export,
        })
    }
}

/// The certificate names that may open an export; nobody where no rule covers it.
pub(super) fn subjects(rules: &[Rule], export: &str) -> Vec<String> {
    let covering = rules.iter().filter(|rule| rule.covers(export));
    covering.map(|rule| rule.subject.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_covers_what_it_names_and_nothing_else() {
        let rule = |subject: &str, exports: &[&str]| Rule {
            subject: subject.to_owned(),
            exports: exports.iter().map(|e| (*e).to_owned()).collect(),
        };
        let rules = [rule("a", &["raw1", "migration-*"]), rule("b", &["*"])];
        assert_eq!(subjects(&rules, "raw1"), ["a", "b"]);
        assert_eq!(subjects(&rules, "migration-7"), ["a", "b"]);
        assert_eq!(subjects(&rules, "raw10"), ["b"]);
        assert!(subjects(&rules[..1], "other").is_empty());
    }
}
