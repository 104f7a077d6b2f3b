//! A file or block device of this machine into a backup's export.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use sendense_nbd::ZeroFlags;
use sendense_nbd::client::{ClientPool, ConnectOptions};
use tokio::task::JoinSet;

use super::{CHUNK, IN_FLIGHT, MoveError, Progress, blocking, connect, local, zero};

/// Zeroes are cut out of data in blocks of this size: the usual cluster.
const ZERO_UNIT: usize = 64 << 10;

/// The longest WRITE_ZEROES of one request.
const ZERO_CHUNK: u64 = 1 << 30;

/// What is sent where.
#[derive(Clone)]
pub struct Push {
    /// The file or block device.
    pub path: PathBuf,
    /// The export, as the daemon named it.
    pub uris: Vec<String>,
    /// The ranges to send, as (offset, length); all of it where it is none.
    pub ranges: Option<Vec<(u64, u64)>>,
    /// Connections.
    pub connections: usize,
    /// Told how many more bytes are dealt with.
    pub progress: Progress,
}

impl std::fmt::Debug for Push {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URIs are capabilities: they stay out of logs.
        f.debug_struct("Push")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// The size of a disk image or block device, as it will have to be sent.
pub(crate) fn size_of(path: &std::path::Path) -> std::io::Result<u64> {
    local::size(&File::open(path)?)
}

/// How images begin that are not the disk itself.
const IMAGES: [(&str, &[u8]); 5] = [
    ("QCOW2", b"QFI\xfb"),
    ("VMDK", b"KDMV"),
    ("VMDK", b"COWD"),
    ("VMDK", b"# Disk DescriptorFile"),
    ("VHDX", b"vhdxfile"),
];

/// What to tell about a file that holds an image rather than the disk itself.
pub(crate) fn image_warning(path: &std::path::Path) -> std::io::Result<Option<String>> {
    let mut head = Vec::new();
    let file = File::open(path)?;
    if local::is_device(&file)? {
        return Ok(None);
    }
    file.take(64).read_to_end(&mut head)?;
    let found = IMAGES.iter().find(|(_, magic)| head.starts_with(magic));
    Ok(found.map(|(format, _)| {
        let how = match *format {
            "QCOW2" => "`sendense-image convert`",
            _ => "`qemu-img convert -O raw`",
        };
        format!(
            "{} looks like a {format} image; it is sent byte for byte as the disk itself ({how} \
             makes a raw image of it)",
            path.display()
        )
    }))
}

/// Sends it. Everything was answered when this ends well; the seal makes it durable.
pub async fn push(push: Push) -> Result<(), MoveError> {
    let pool = connect(&push.uris, push.connections, &ConnectOptions::default()).await?;
    let result = send(&pool, &push).await;
    pool.disconnect().await;
    result
}

async fn send(pool: &ClientPool, push: &Push) -> Result<(), MoveError> {
    let name = push.path.display().to_string();
    let path = push.path.clone();
    let (file, size) = blocking(move || {
        let failed = |e| MoveError::file(format!("{} cannot be read", path.display()), e);
        let file = File::open(&path).map_err(failed)?;
        let size = local::size(&file).map_err(failed)?;
        Ok((Arc::new(file), size))
    })
    .await?;
    if size != pool.info().size {
        return Err(MoveError::Misfit(format!(
            "{name} has {size} bytes, the backup was started for {}",
            pool.info().size
        )));
    }
    let ranges = push.ranges.clone().unwrap_or_else(|| vec![(0, size)]);
    let mut sender = Sender {
        pool,
        file,
        name,
        progress: Arc::clone(&push.progress),
        flying: JoinSet::new(),
    };
    for (offset, length) in ranges {
        let end = offset
            .checked_add(length)
            .filter(|end| *end <= size)
            .ok_or_else(|| {
                MoveError::Misfit(format!(
                    "the change at {offset} of {length} bytes lies beyond the disk's {size}"
                ))
            })?;
        sender.range(offset, end).await?;
    }
    while !sender.flying.is_empty() {
        sender.land_one().await?;
    }
    Ok(())
}

struct Sender<'a> {
    pool: &'a ClientPool,
    file: Arc<File>,
    name: String,
    progress: Progress,
    flying: JoinSet<Result<(), MoveError>>,
}

impl Sender<'_> {
    async fn range(&mut self, mut at: u64, end: u64) -> Result<(), MoveError> {
        while at < end {
            let (file, name) = (Arc::clone(&self.file), self.name.clone());
            let (run, hole) = blocking(move || {
                local::next_run(&file, at, end)
                    .map_err(|e| MoveError::file(format!("{name} cannot be read"), e))
            })
            .await?;
            // Cut on multiples of the chunk, so that clusters stay whole.
            let step = if hole { ZERO_CHUNK } else { CHUNK };
            while at < run.end {
                let next = (at - at % step).saturating_add(step).min(run.end);
                self.launch(at, next - at, hole).await?;
                at = next;
            }
        }
        Ok(())
    }

    async fn launch(&mut self, at: u64, len: u64, hole: bool) -> Result<(), MoveError> {
        while self.flying.len() >= IN_FLIGHT {
            self.land_one().await?;
        }
        let client = self.pool.client().clone();
        let (file, name) = (Arc::clone(&self.file), self.name.clone());
        let progress = Arc::clone(&self.progress);
        self.flying.spawn(async move {
            let zeroes = ZeroFlags::default();
            if hole {
                client.write_zeroes(at, len, zeroes, false).await?;
                progress(len);
                return Ok(());
            }
            let (bytes, runs) = blocking(move || {
                let bytes = read(&file, &name, at, len)?;
                let runs = zero::runs(at, &bytes, ZERO_UNIT);
                Ok((Bytes::from(bytes), runs))
            })
            .await?;
            for (run, zero) in runs {
                let (at, len) = (at + run.start as u64, run.len() as u64);
                if zero {
                    client.write_zeroes(at, len, zeroes, false).await?;
                } else {
                    client.write(at, bytes.slice(run), false).await?;
                }
                progress(len);
            }
            Ok(())
        });
        Ok(())
    }

    async fn land_one(&mut self) -> Result<(), MoveError> {
        match self.flying.join_next().await {
            Some(Ok(result)) => result,
            Some(Err(e)) => Err(MoveError::Misfit(format!("a sender ended: {e}"))),
            None => Ok(()),
        }
    }
}

fn read(file: &File, name: &str, at: u64, len: u64) -> Result<Vec<u8>, MoveError> {
    let len = usize::try_from(len)
        .map_err(|_| MoveError::Misfit("a chunk does not fit into memory".to_owned()))?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, at)
        .map_err(|e| MoveError::file(format!("{name} cannot be read at {at}"), e))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_told_from_a_disk_by_how_it_begins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        for (format, magic) in IMAGES {
            let mut bytes = magic.to_vec();
            bytes.resize(512, 0);
            std::fs::write(&path, &bytes).unwrap();
            let said = image_warning(&path).unwrap().unwrap();
            assert!(said.contains(format) && said.contains("disk"), "{said}");
        }
        for raw in [&b""[..], b"QFI", &[0; 512], b"\xeb\x63\x90QFI\xfb"] {
            std::fs::write(&path, raw).unwrap();
            assert_eq!(image_warning(&path).unwrap(), None);
        }
        assert!(image_warning(&dir.path().join("missing")).is_err());
    }
}
