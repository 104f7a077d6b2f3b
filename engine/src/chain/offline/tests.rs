//! Names in images: which are followed, and which never.

use sendense_formats::ClusterSize;
use sendense_formats::qcow2::{Backing, CreateOptions, Writer};

use super::*;
use crate::storage::mem::MemDirectory;
use crate::storage::{Create, Directory};

/// The root directory is `/`; `dir` holds the images.
#[derive(Debug)]
struct Disk(MemDirectory);

impl OpenFile for Disk {
    fn open(&self, path: &Path) -> std::io::Result<Arc<dyn File>> {
        let path = path.to_str().unwrap().trim_start_matches('/');
        self.0.open(path, Create::OpenRead)
    }

    fn open_beneath(&self, dir: &Path, name: &str) -> std::io::Result<Arc<dyn File>> {
        self.open(&dir.join(name))
    }
}

impl Disk {
    fn new() -> Self {
        let tree = MemDirectory::new();
        tree.create_dirs("dir/sub").unwrap();
        tree.create_dirs("other").unwrap();
        Self(tree)
    }

    fn image(&self, path: &str, backing: Option<(&str, Option<&str>)>) -> &Self {
        let mut writer = Writer::create(CreateOptions {
            virtual_size: 65536,
            cluster: ClusterSize::DEFAULT,
            // Our writer refuses hostile names: another one of the same length, replaced below.
            backing: backing.map(|(name, format)| Backing {
                name: "x".repeat(name.len()),
                format: Some(format.unwrap_or("none").into()),
            }),
        })
        .unwrap();
        let seal = writer.seal().unwrap();
        let file = self.0.open(path, Create::New).unwrap();
        for (at, bytes) in seal.metadata() {
            file.write_at_blocking(at.get(), &bytes).unwrap();
        }
        let mut header = seal.header();
        if let Some((name, format)) = backing {
            replace(
                &mut header,
                "x".repeat(name.len()).as_bytes(),
                name.as_bytes(),
            );
            if format.is_none() {
                // The backing format extension becomes one that nobody knows.
                replace(&mut header, &[0xe2, 0x79, 0x2a, 0xca], &[1, 2, 3, 4]);
            }
        }
        file.write_at_blocking(0, &header).unwrap();
        file.set_len(seal.file_len()).unwrap();
        self
    }

    fn follow(&self, path: &str, follow: &Follow) -> Result<Arc<Chain>> {
        let path = Path::new(path);
        open(
            self,
            path,
            LayerFormat::Qcow2,
            follow,
            ChainOptions::default(),
        )
    }

    fn depth(&self, path: &str) -> usize {
        self.follow(path, &Follow::Beneath).unwrap().layers().len()
    }
}

fn replace(bytes: &mut [u8], old: &[u8], new: &[u8]) {
    let at = bytes.windows(old.len()).rposition(|w| w == old).unwrap();
    bytes[at..at + new.len()].copy_from_slice(new);
}

const Q: Option<&str> = Some("qcow2");

#[test]
fn names_are_relative_to_the_image_that_holds_them() {
    let disk = Disk::new();
    disk.image("dir/sub/full", None)
        .image("dir/sub/middle", Some(("full", Q)))
        .image("dir/top", Some(("sub/middle", Q)));
    assert_eq!(disk.depth("/dir/top"), 3);
    assert_eq!(disk.depth("/dir/sub/middle"), 2);
    let alone = disk.follow("/dir/top", &Follow::Never).unwrap();
    assert_eq!(alone.layers().len(), 1);
}

#[test]
fn what_lies_outside_has_no_format_or_is_no_name_is_not_followed() {
    let outside = Follow::Allow(vec!["/other".into()]);
    for (name, format, allowed) in [
        ("../other/full", Q, true),
        ("/other/full", Q, true),
        ("json:{}", Q, false),
        ("nbd:x", Some("raw"), false),
        ("sub/full", None, false),
        ("sub/full", Some("vmdk"), false),
    ] {
        let disk = Disk::new();
        disk.image("other/full", None)
            .image("dir/sub/full", None)
            .image("dir/top", Some((name, format)));
        let e = disk.follow("/dir/top", &Follow::Beneath).unwrap_err();
        assert_eq!(e.kind, ErrorKind::Unsupported, "{name}");
        let followed = disk.follow("/dir/top", &outside);
        assert_eq!(followed.is_ok(), allowed, "{name}");
    }
}

#[test]
fn a_loop_and_an_endless_chain_end() {
    let disk = Disk::new();
    disk.image("dir/a", Some(("b", Q)))
        .image("dir/b", Some(("sub/../a", Q)));
    disk.image("dir/c", Some(("./c", Q)));
    // `..` is refused by its name already; the same file under another spelling is a loop.
    assert!(disk.follow("/dir/a", &Follow::Beneath).is_err());
    let e = disk.follow("/dir/c", &Follow::Beneath).unwrap_err();
    assert!(e.to_string().contains("loop"), "{e}");
    for i in 0..MAX_NAMED_DEPTH {
        let next = format!("n{}", i + 1);
        disk.image(&format!("dir/n{i}"), Some((&next, Q)));
    }
    disk.image(&format!("dir/n{MAX_NAMED_DEPTH}"), None);
    let e = disk.follow("/dir/n0", &Follow::Beneath).unwrap_err();
    assert!(e.to_string().contains("more than 256 layers"), "{e}");
    assert_eq!(disk.depth("/dir/n1"), MAX_NAMED_DEPTH);
}
