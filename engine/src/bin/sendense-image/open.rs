//! Opening what the operator named.

use std::io;
use std::path::Path;
use std::sync::Arc;

use sendense_engine::Error;
use sendense_engine::chain::offline::{self, Follow, OpenFile};
use sendense_engine::chain::{Chain, ChainOptions, LayerFormat};
use sendense_engine::io::{Io, IoConfig};
use sendense_engine::storage::local::{open_beneath, open_path};
use sendense_engine::storage::{Create, File, LockKind};

use crate::cli::{Backing, ChainArgs, Format, OpenArgs};
use crate::output::Failure;

const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Opens files to read, with QEMU's reader lock unless it is to be left out.
#[derive(Debug)]
struct Opener {
    force_share: bool,
}

impl Opener {
    fn locked(&self, file: Arc<dyn File>) -> io::Result<Arc<dyn File>> {
        if !self.force_share {
            file.lock(LockKind::Reader)?;
        }
        Ok(file)
    }
}

impl OpenFile for Opener {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.locked(open_path(path, Create::OpenRead)?)
    }

    fn open_beneath(&self, dir: &Path, name: &str) -> io::Result<Arc<dyn File>> {
        self.locked(open_beneath(dir, name, Create::OpenRead)?)
    }
}

/// Opens one file, and tells its format: the one that was named, else by QCOW2's magic alone.
pub(crate) fn file(
    path: &Path,
    format: Option<Format>,
    force_share: bool,
) -> Result<(Arc<dyn File>, Format), Failure> {
    let at = |e| Failure::from(Error::io(path.display().to_string(), e));
    let file = Opener { force_share }.open(path).map_err(at)?;
    let format = match format {
        Some(format) => format,
        None => recognise(&*file).map_err(at)?,
    };
    Ok((file, format))
}

fn recognise(file: &dyn File) -> io::Result<Format> {
    let mut magic = [0; 4];
    file.read_at_blocking(0, &mut magic)?;
    Ok(if magic == MAGIC {
        Format::Qcow2
    } else {
        Format::Raw
    })
}

/// Opens the chain that a file stands on.
pub(crate) fn chain(path: &Path, args: &OpenArgs) -> Result<Arc<Chain>, Failure> {
    chain_of(path, args.format, &args.chain)
}

/// Opens the chain that a file of this format stands on.
pub(crate) fn chain_of(
    path: &Path,
    format: Option<Format>,
    args: &ChainArgs,
) -> Result<Arc<Chain>, Failure> {
    let opener = Opener {
        force_share: args.force_share,
    };
    let format = match format {
        Some(format) => format,
        None => {
            let at = |e| Failure::from(Error::io(path.display().to_string(), e));
            // Not locked: only four bytes are looked at.
            recognise(&*open_path(path, Create::OpenRead).map_err(at)?).map_err(at)?
        }
    };
    let format = match format {
        Format::Raw => LayerFormat::Raw,
        Format::Qcow2 => LayerFormat::Qcow2,
    };
    let follow = match args.backing {
        Backing::None => Follow::Never,
        Backing::Beneath if args.allow_backing.is_empty() => Follow::Beneath,
        Backing::Beneath => Follow::Allow(args.allow_backing.clone()),
    };
    let options = ChainOptions::default();
    Ok(offline::open(&opener, path, format, &follow, options)?)
}

/// Runs asynchronous work on this thread.
pub(crate) fn block_on<F: Future<Output = Result<T, Failure>>, T>(
    work: impl FnOnce(Io) -> F,
) -> Result<T, Failure> {
    let hint = "close other programs, then try again";
    let failed = |e: io::Error| Failure::new(format!("no runtime: {e}"), hint);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    runtime.block_on(async {
        let io = Io::new(IoConfig::small()).map_err(failed)?;
        work(io).await
    })
}
