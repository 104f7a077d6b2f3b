//! What stands in a guest file system: owned, serialisable, the same for every format.

use serde::{Deserialize, Serialize};

/// A file, directory or other thing of one file system; what the number means is the reader's
/// (an inode, a file record, the place of a directory entry). Valid while the volume is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u64);

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileType {
    /// Bytes.
    File,
    /// Names of other nodes.
    Directory,
    /// A symbolic link, a junction, a mount point.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// Something that this reader knows to be there and not what it is.
    Other,
}

impl FileType {
    /// The type that the upper bits of a POSIX mode tell (`S_IFMT`).
    pub const fn of_mode(mode: u32) -> Self {
        match mode >> 12 & 0xf {
            0x1 => Self::Fifo,
            0x2 => Self::CharDevice,
            0x4 => Self::Directory,
            0x6 => Self::BlockDevice,
            0x8 => Self::File,
            0xa => Self::Symlink,
            0xc => Self::Socket,
            _ => Self::Other,
        }
    }
}

/// A point in time: seconds since 1970 UTC, and nanoseconds below 10^9. A guest may write any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Time {
    /// Whole seconds, negative before 1970.
    pub seconds: i64,
    /// Below one second.
    pub nanos: u32,
}

/// The facts of one node. What a format does not have is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// What it is.
    pub file_type: FileType,
    /// Length in bytes of the content; of a link, of its target.
    pub size: u64,
    /// Bytes that it takes on the volume, where the format says.
    pub allocated: Option<u64>,
    /// POSIX permissions with set-id and sticky bits (07777).
    pub mode: Option<u32>,
    /// POSIX owner.
    pub uid: Option<u32>,
    /// POSIX group.
    pub gid: Option<u32>,
    /// Hard links.
    pub links: Option<u64>,
    /// Major and minor number of a device node.
    pub device: Option<(u32, u32)>,
    /// Last change of the content.
    pub modified: Option<Time>,
    /// Last access.
    pub accessed: Option<Time>,
    /// Last change of the node.
    pub changed: Option<Time>,
    /// Birth.
    pub created: Option<Time>,
    /// The owner's security identifier in its text form, `S-1-5-...`.
    pub owner_sid: Option<String>,
    /// DOS attribute bits.
    pub dos_attributes: Option<u32>,
}

impl Stat {
    /// A node of a type and size of which nothing else is known.
    pub const fn new(file_type: FileType, size: u64) -> Self {
        Self {
            file_type,
            size,
            allocated: None,
            mode: None,
            uid: None,
            gid: None,
            links: None,
            device: None,
            modified: None,
            accessed: None,
            changed: None,
            created: None,
            owner_sid: None,
            dos_attributes: None,
        }
    }
}

/// One name in a directory. `.` and `..` are never shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The name's bytes as the guest wrote them; UTF-16 names as UTF-8, lone surrogates as WTF-8.
    #[serde(with = "serde_bytes")]
    pub name: Vec<u8>,
    /// What it names.
    pub node: NodeId,
    /// Its type, where the directory tells without a look at the node.
    pub file_type: Option<FileType>,
}

/// Where a listing goes on. Opaque; `Cursor(0)` is the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cursor(pub u64);

/// A part of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Page {
    /// In the directory's own order.
    pub entries: Vec<Entry>,
    /// Where it goes on; `None` at the end.
    pub next: Option<Cursor>,
}

/// An extended attribute with its prefix: `user.x`, `security.selinux`,
/// `system.posix_acl_access` in the kernel's own form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xattr {
    /// The full name.
    #[serde(with = "serde_bytes")]
    pub name: Vec<u8>,
    /// The value.
    #[serde(with = "serde_bytes")]
    pub value: Vec<u8>,
}

/// A named stream beside the content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// Its name.
    #[serde(with = "serde_bytes")]
    pub name: Vec<u8>,
    /// Length in bytes.
    pub size: u64,
}
