//! What each key of nbd-server means to us: kept, noted as without effect, or refused by name.
//!
//! Rule: a key that we do not honour is only *noted* where leaving it out can neither lose data
//! nor open the export to more people than it was; everything else is refused.

use super::ini::{Key, Problem, Section};

/// What the bytes of a declared export are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeclaredFormat {
    /// The bytes of a file or block device, as they are.
    Raw,
    /// The disk inside of a QCOW2 file, read-only.
    Qcow2,
}

/// One export as a file declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// The export's name: the section's.
    pub name: String,
    /// The file that declares it.
    pub file: String,
    /// The line of its section.
    pub line: u32,
    /// The absolute path of the disk (`exportname`).
    pub path: String,
    /// Raw unless `format = qcow2` says otherwise; never guessed from the content.
    pub format: DeclaredFormat,
    /// Whether the format was stated, which a file that begins like a QCOW2 image needs.
    pub format_stated: bool,
    /// No writes.
    pub readonly: bool,
    /// Serve this many bytes instead of the file's size.
    pub filesize: Option<u64>,
    /// Serve FLUSH. On unless the file says `flush = false`: nbd-server leaves it off, and writes
    /// that a client believes stable are lost with the host.
    pub flush: bool,
    /// Serve FUA; on like `flush`, and served only with it.
    pub fua: bool,
    /// Serve TRIM.
    pub trim: bool,
    /// Tell that the medium spins.
    pub rotational: bool,
    /// Put every write on stable storage before its reply.
    pub sync: bool,
    /// Tell that FLUSH covers all connections.
    pub multiconn: bool,
    /// How many clients at once, where limited.
    pub maxconnections: Option<u32>,
    /// Refuse clients without TLS.
    pub force_tls: bool,
    /// Show it in LIST.
    pub listed: bool,
    /// Free text for people.
    pub description: Option<String>,
}

/// What `[generic]` says that concerns exports.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Generic {
    pub(super) includedir: Option<(String, u32)>,
    pub(super) allowlist: Option<bool>,
    pub(super) force_tls: bool,
}

/// Collects what is refused and what is only noted.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) problems: Vec<Problem>,
    pub(super) notes: Vec<Problem>,
}

impl Findings {
    pub(super) fn problem(&mut self, file: &str, line: u32, text: impl Into<String>) {
        self.problems.push(at(file, line, text));
    }

    fn note(&mut self, file: &str, line: u32, text: impl Into<String>) {
        self.notes.push(at(file, line, text));
    }
}

fn at(file: &str, line: u32, text: impl Into<String>) -> Problem {
    Problem {
        file: file.to_owned(),
        line,
        text: text.into(),
    }
}

const NO_EFFECT: &str = "has no effect here";

/// Reads `[generic]`.
pub(super) fn generic(file: &str, section: &Section, found: &mut Findings) -> Generic {
    let mut generic = Generic::default();
    for key in &section.keys {
        let line = key.line;
        match key.name.as_str() {
            "includedir" => generic.includedir = Some((key.value.clone(), line)),
            "allowlist" => generic.allowlist = flag(file, key, found),
            "force_tls" => generic.force_tls = flag(file, key, found).unwrap_or(true),
            "user" | "group" => found.note(
                file,
                line,
                format!(
                    "`{}` {NO_EFFECT}: the service runs as its unit says",
                    key.name
                ),
            ),
            "port" | "listenaddr" | "unixsock" | "duallisten" => found.note(
                file,
                line,
                format!(
                    "`{}` {NO_EFFECT}: sendensed listens where --nbd-listen and its data \
                     directory say",
                    key.name
                ),
            ),
            "certfile" | "keyfile" | "cacertfile" | "tlsprio" => found.note(
                file,
                line,
                format!(
                    "`{}` {NO_EFFECT}: TLS is set in the daemon's configuration",
                    key.name
                ),
            ),
            "max_threads" | "splice" => {
                found.note(file, line, format!("`{}` {NO_EFFECT}", key.name));
            }
            "oldstyle" => {
                if flag(file, key, found) == Some(true) {
                    found.problem(
                        file,
                        line,
                        "`oldstyle` is not supported: the old handshake is gone from NBD",
                    );
                }
            }
            _ => unknown(file, key, "[generic]", found),
        }
    }
    generic
}

/// Reads one export's section; `None` where it has no usable `exportname`.
pub(super) fn export(
    file: &str,
    section: &Section,
    generic: &Generic,
    found: &mut Findings,
) -> Option<Declared> {
    let mut path = None;
    let mut d = Declared {
        name: section.name.clone(),
        file: file.to_owned(),
        line: section.line,
        path: String::new(),
        format: DeclaredFormat::Raw,
        format_stated: false,
        readonly: false,
        filesize: None,
        flush: true,
        fua: true,
        trim: false,
        rotational: false,
        sync: false,
        multiconn: true,
        maxconnections: None,
        force_tls: generic.force_tls,
        listed: generic.allowlist.unwrap_or(true),
        description: None,
    };
    for key in &section.keys {
        let line = key.line;
        match key.name.as_str() {
            "exportname" => path = Some((key.value.clone(), line)),
            "format" => match key.value.trim_end() {
                "raw" => (d.format, d.format_stated) = (DeclaredFormat::Raw, true),
                "qcow2" => (d.format, d.format_stated) = (DeclaredFormat::Qcow2, true),
                other => found.problem(
                    file,
                    line,
                    format!(
                        "`format` is `raw` or `qcow2`, not `{}`",
                        other.escape_debug()
                    ),
                ),
            },
            "description" => d.description = Some(key.value.clone()),
            // As nbd-server has it, 0 stands for the disk's own size.
            "filesize" => d.filesize = number(file, key, found).filter(|n| *n > 0),
            "maxconnections" => {
                d.maxconnections = number(file, key, found)
                    .filter(|n| *n > 0)
                    .map(|n| u32::try_from(n).unwrap_or(u32::MAX));
            }
            "readonly" => set(&mut d.readonly, file, key, found),
            "flush" => set(&mut d.flush, file, key, found),
            "fua" => set(&mut d.fua, file, key, found),
            "trim" => set(&mut d.trim, file, key, found),
            "rotational" => set(&mut d.rotational, file, key, found),
            "sync" => set(&mut d.sync, file, key, found),
            "multiconn" => set(&mut d.multiconn, file, key, found),
            "force_tls" => {
                let own = flag(file, key, found).unwrap_or(true);
                d.force_tls = own || generic.force_tls;
            }
            name => harmless_or_refused(file, name, key, found),
        }
    }
    let Some((path, line)) = path else {
        found.problem(
            file,
            section.line,
            format!("[{}] has no `exportname`", section.name),
        );
        return None;
    };
    d.path = path;
    check_path(file, line, &d, section, found);
    Some(d)
}

/// Keys that we do not honour.
fn harmless_or_refused(file: &str, name: &str, key: &Key, found: &mut Findings) {
    match name {
        "copyonwrite" | "temporary" | "multifile" | "treefiles" | "sdp" | "waitfile" => {
            if flag(file, key, found) == Some(true) {
                found.problem(file, key.line, format!("`{name}` is not supported"));
            }
        }
        "virtstyle" | "splice" => {}
        "sparse_cow" | "cowdir" | "listenaddr" | "port" => {
            found.note(file, key.line, format!("`{name}` {NO_EFFECT}"));
        }
        "timeout" => {
            if number(file, key, found).is_some_and(|n| n > 0) {
                found.note(
                    file,
                    key.line,
                    format!("`timeout` {NO_EFFECT}: the server has its own limits"),
                );
            }
        }
        "authfile" => found.problem(
            file,
            key.line,
            "`authfile` is not supported: without it everyone could connect; restrict the \
             listener, or use TLS with client certificates",
        ),
        "prerun" | "postrun" => found.problem(
            file,
            key.line,
            format!("`{name}` is not supported: the server starts no commands"),
        ),
        "transactionlog" | "datalog" => {
            found.problem(file, key.line, format!("`{name}` is not supported"));
        }
        _ => unknown(file, key, "an export", found),
    }
}

fn check_path(file: &str, line: u32, d: &Declared, section: &Section, found: &mut Findings) {
    if !d.path.starts_with('/') {
        found.problem(
            file,
            line,
            format!(
                "`exportname` is an absolute path, not `{}`",
                d.path.escape_debug()
            ),
        );
    } else if d.path.contains('\0') {
        found.problem(file, line, "`exportname` holds a zero byte");
    }
    let literal = section
        .keys
        .iter()
        .rev()
        .find(|k| k.name == "virtstyle")
        .is_some_and(|k| k.value.trim_end() == "none");
    if d.path.contains("%s") && !literal {
        found.problem(
            file,
            line,
            "`exportname` with `%s` is not supported: one name, one disk; `virtstyle = none` \
             takes it literally",
        );
    }
}

fn unknown(file: &str, key: &Key, of: &str, found: &mut Findings) {
    found.problem(
        file,
        key.line,
        format!(
            "`{}` is no key of {of} that we know",
            key.name.escape_debug()
        ),
    );
}

fn set(into: &mut bool, file: &str, key: &Key, found: &mut Findings) {
    if let Some(value) = flag(file, key, found) {
        *into = value;
    }
}

/// A boolean as GKeyFile reads it.
fn flag(file: &str, key: &Key, found: &mut Findings) -> Option<bool> {
    match key.value.trim_end() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        other => {
            found.problem(
                file,
                key.line,
                format!(
                    "`{}` is true or false, not `{}`",
                    key.name,
                    other.escape_debug()
                ),
            );
            None
        }
    }
}

fn number(file: &str, key: &Key, found: &mut Findings) -> Option<u64> {
    match key.value.trim_end().parse::<u64>() {
        Ok(n) if i64::try_from(n).is_ok() => Some(n),
        _ => {
            found.problem(
                file,
                key.line,
                format!(
                    "`{}` is a whole number, not `{}`",
                    key.name,
                    key.value.escape_debug()
                ),
            );
            None
        }
    }
}
