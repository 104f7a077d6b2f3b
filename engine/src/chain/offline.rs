//! Opening a chain by the names in its images: for the offline tool alone.
//!
//! The first image is named by the operator. A backing name is followed only where it is relative
//! and stays beneath that image's directory (opened without following links), or where the
//! operator allowed its path or a directory above it, which no link leads out of. Formats come from the image's own header, never from content;
//! a backing file without a stated format is refused. Loops and depth are bounded.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use sendense_formats::qcow2::safe_backing_name;

use super::{Chain, ChainOptions, LayerFormat, LayerSource};
use crate::chain::layer::Layer;
use crate::storage::File;
use crate::{Error, ErrorKind, Result};

/// The deepest chain that is followed by name.
pub const MAX_NAMED_DEPTH: usize = 256;

/// Which names in images are followed.
#[derive(Debug, Clone, Default)]
pub enum Follow {
    /// Relative names beneath the first image's directory, and these paths.
    #[default]
    Beneath,
    /// As `Beneath`, and any backing file that is one of these or lies beneath one. What these are
    /// is the operator's word; behind them no link is followed.
    Allow(Vec<PathBuf>),
    /// None: what the first image does not hold reads as zero.
    Never,
}

/// How files are opened: by path, read-only. A parameter so that the tool decides about locks.
pub trait OpenFile {
    /// Opens a file that the operator named.
    fn open(&self, path: &Path) -> std::io::Result<Arc<dyn File>>;

    /// Opens `name` beneath `dir` without following a link and without leaving `dir`.
    fn open_beneath(&self, dir: &Path, name: &str) -> std::io::Result<Arc<dyn File>>;
}

/// Opens the image at `path` and, as `follow` allows, what it stands on.
pub fn open(
    opener: &dyn OpenFile,
    path: &Path,
    format: LayerFormat,
    follow: &Follow,
    mut options: ChainOptions,
) -> Result<Arc<Chain>> {
    let mut layers = Vec::new();
    let mut seen = HashSet::new();
    let root = directory(path);
    let mut next = Some((Step::Named(path.to_owned()), format));
    while let Some((step, format)) = next.take() {
        if layers.len() >= MAX_NAMED_DEPTH {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("{}: more than {MAX_NAMED_DEPTH} layers", path.display()),
            ));
        }
        let full = step.path(&root);
        if !seen.insert(full.clone()) {
            return Err(Error::new(
                ErrorKind::Damaged,
                format!("{}: the chain of backing files is a loop", full.display()),
            ));
        }
        let file = match &step {
            Step::Named(path) => opener.open(path),
            Step::Beneath(name) => opener.open_beneath(&root, name),
            Step::Allowed { entry, rest, .. } if rest.is_empty() => opener.open(entry),
            Step::Allowed { entry, rest, .. } => opener.open_beneath(entry, rest),
        };
        let name = full.display().to_string();
        let file = file.map_err(|e| Error::io(name.clone(), e))?;
        let source = LayerSource {
            file,
            format,
            name,
            disk: None,
        };
        let layer = Layer::open(source, &options.policy)?;
        if !matches!(follow, Follow::Never) {
            next = backing(&layer, &step, &root, follow)?;
        }
        layers.push(layer);
    }
    options.ignore_backing |= matches!(follow, Follow::Never);
    Chain::from_layers(layers, options)
}

/// How a layer is reached.
#[derive(Debug, Clone)]
enum Step {
    /// By a path that the operator named.
    Named(PathBuf),
    /// By a relative name beneath the first image's directory.
    Beneath(String),
    /// Beneath a path that the operator allowed, or that path itself; and how it is called.
    Allowed {
        entry: PathBuf,
        rest: String,
        full: PathBuf,
    },
}

impl Step {
    fn path(&self, root: &Path) -> PathBuf {
        match self {
            Self::Named(path) => tidy(path),
            Self::Beneath(name) => tidy(&root.join(name)),
            Self::Allowed { full, .. } => full.clone(),
        }
    }
}

fn backing(
    layer: &Layer,
    from: &Step,
    root: &Path,
    follow: &Follow,
) -> Result<Option<(Step, LayerFormat)>> {
    let Some(backing) = layer.image().and_then(|i| i.header().backing.as_ref()) else {
        return Ok(None);
    };
    let format = match backing.format.as_deref() {
        Some("qcow2") => LayerFormat::Qcow2,
        Some("raw") => LayerFormat::Raw,
        Some(other) => {
            return Err(denied(
                layer,
                &format!("backing format `{}`", other.escape_debug()),
            ));
        }
        None => {
            return Err(denied(
                layer,
                "a backing file without a stated format, which is never guessed",
            ));
        }
    };
    // Relative names are relative to the image that holds them.
    let name = &backing.name;
    if let Step::Named(path) = from
        && directory(path) == *root
        && safe_backing_name(name).is_ok()
    {
        return Ok(Some((Step::Beneath(name.clone()), format)));
    }
    if let Step::Beneath(here) = from
        && safe_backing_name(name).is_ok()
    {
        let beside = match here.rsplit_once('/') {
            Some((dir, _)) => format!("{dir}/{name}"),
            None => name.clone(),
        };
        return Ok(Some((Step::Beneath(beside), format)));
    }
    let base = directory(&from.path(root));
    let full = tidy(&base.join(name));
    if let Follow::Allow(allowed) = follow
        && !name.split('/').next().is_some_and(|s| s.contains(':'))
        && let Some((entry, rest)) = covering(allowed, &full)
    {
        return Ok(Some((Step::Allowed { entry, rest, full }, format)));
    }
    let shown: String = name.chars().take(200).collect();
    Err(denied(
        layer,
        &format!(
            "the backing file `{}`, which is not allowed",
            shown.escape_debug()
        ),
    ))
}

fn denied(layer: &Layer, what: &str) -> Error {
    let why = sendense_formats::Error::new(
        sendense_formats::ErrorKind::Denied,
        format!("the image names {what}"),
    );
    Error::with(ErrorKind::Unsupported, layer.name(), why)
}

/// The longest allowed path that covers `path`, and what lies behind it.
fn covering(allowed: &[PathBuf], path: &Path) -> Option<(PathBuf, String)> {
    let path = absolute(path);
    let beneath = |entry: &PathBuf| {
        let rest = path.strip_prefix(absolute(entry)).ok()?;
        Some((entry.clone(), rest.to_str()?.to_owned()))
    };
    let entries = allowed.iter().filter_map(beneath);
    entries.min_by_key(|(_, rest)| rest.len())
}

/// For comparing what the operator wrote in one way with what he wrote in another.
fn absolute(path: &Path) -> PathBuf {
    tidy(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
}

fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => tidy(dir),
        _ => PathBuf::from("."),
    }
}

/// The path without `.` and with `..` taken back, as text: links are not looked at.
fn tidy(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                if !matches!(out.components().next_back(), Some(Component::Normal(_))) {
                    out.push("..");
                } else {
                    out.pop();
                }
            }
            other => out.push(other),
        }
    }
    if out.as_os_str().is_empty() {
        out.push(".");
    }
    out
}
