//! The process of one of our servers: says `ready`, seals when it is told to, ends with its input.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, ValueEnum};
use sendense_engine::ingest::{Ingest, IngestOptions};
use sendense_engine::plane::{ListenerPolicy, Plane, PlaneConfig, Source, bind_unix};
use sendense_engine::storage::{Create, local};
use sendense_formats::ClusterSize;
use sendense_formats::qcow2::CreateOptions;
use sendense_nbd::ExportInfo;
use sendense_nbd::registry::Entry;

use crate::bare;
use crate::null::Null;

/// What the process does with what it receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Forgets it.
    Null,
    /// Writes it into a flat file, with nothing else.
    Bare,
    /// Makes a restore point's image of it.
    Ingest,
}

/// The arguments of the process.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    kind: Kind,
    /// The socket to listen on.
    #[arg(long)]
    socket: PathBuf,
    /// The file to write.
    #[arg(long)]
    image: PathBuf,
    /// Bytes of the disk.
    #[arg(long)]
    size: u64,
    #[arg(long)]
    threads: u16,
}

impl Serve {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let listener = bind_unix(&self.socket)?;
        if self.kind == Kind::Bare {
            let image = self.image.clone();
            let size = self.size;
            std::thread::spawn(move || bare::serve(listener, &image, size));
            return obey(|| Ok(()));
        }
        let config = PlaneConfig {
            threads: usize::from(self.threads),
            ..PlaneConfig::default()
        };
        let plane = Plane::start(config)?;
        let ingest = match self.kind {
            Kind::Ingest => Some(ingest(&self.image, self.size)?),
            Kind::Null | Kind::Bare => None,
        };
        let source: Arc<dyn Source> = match &ingest {
            Some(ingest) => ingest.clone(),
            None => Arc::new(Null(ExportInfo::writable(self.size))),
        };
        plane
            .registry()
            .declare("bench", Entry::new(source))
            .context("declaring the export")?;
        let _listening = plane.listen_unix(listener, ListenerPolicy::default())?;
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        obey(|| {
            let Some(ingest) = ingest.clone() else {
                return Ok(());
            };
            let sealed = plane.spawn(|io| async move { ingest.prepare(&io).await });
            runtime.block_on(sealed)??;
            Ok(())
        })
    }
}

fn ingest(image: &Path, size: u64) -> anyhow::Result<Arc<Ingest>> {
    let file = local::open_path(image, Create::New)?;
    let create = CreateOptions {
        virtual_size: size,
        cluster: ClusterSize::DEFAULT,
        backing: None,
    };
    Ok(Ingest::create(IngestOptions::new(file, create))?)
}

/// Answers each line of the input after having sealed; ends with the input, and so with the bench.
fn obey(mut seal: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let say = |word: &str| writeln!(std::io::stdout(), "{word}");
    say("ready")?;
    for line in std::io::stdin().lock().lines() {
        line?;
        seal()?;
        say("sealed")?;
    }
    Ok(())
}
