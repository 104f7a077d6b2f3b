//! The small languages of the options: `N=FILE`, `N=TOKEN`, `N=SIZE`, `N,key=value,...`.

use std::path::PathBuf;
use std::str::FromStr;

use crate::types::{ImageFormat, NewVmDisk, StartDisk};

fn number(text: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is no disk number"))
}

fn pair(text: &str) -> Result<(u32, &str), String> {
    let (n, rest) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is not N=VALUE"))?;
    if rest.is_empty() {
        return Err(format!("nothing stands behind {n}="));
    }
    Ok((number(n)?, rest))
}

/// A size in bytes, or with K, M, G or T behind it (powers of 1024).
pub(super) fn size(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is no size: bytes, or a number with K, M, G or T");
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (text.get(..at), 10),
        Some((at, 'm' | 'M')) => (text.get(..at), 20),
        Some((at, 'g' | 'G')) => (text.get(..at), 30),
        Some((at, 't' | 'T')) => (text.get(..at), 40),
        _ => (Some(text), 0),
    };
    let n: u64 = digits.and_then(|d| d.parse().ok()).ok_or_else(bad)?;
    n.checked_mul(1 << shift).ok_or_else(bad)
}

/// `N=FILE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DiskPath {
    /// The disk.
    pub(super) disk: u32,
    /// The file.
    pub(super) path: PathBuf,
}

impl FromStr for DiskPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (disk, path) = pair(text)?;
        Ok(Self {
            disk,
            path: path.into(),
        })
    }
}

/// `N=TEXT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DiskText {
    /// The disk.
    pub(super) disk: u32,
    /// The text.
    pub(super) text: String,
}

impl FromStr for DiskText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (disk, text) = pair(text)?;
        Ok(Self {
            disk,
            text: text.to_owned(),
        })
    }
}

/// The text for one disk.
pub(super) fn text_of(list: &[DiskText], disk: u32) -> Option<String> {
    list.iter().find(|t| t.disk == disk).map(|t| t.text.clone())
}

/// `N=SIZE[,KEY[,SOURCE]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DiskSize(pub(super) NewVmDisk);

impl FromStr for DiskSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (disk_id, rest) = pair(text)?;
        let mut parts = rest.splitn(3, ',');
        Ok(Self(NewVmDisk {
            disk_id,
            size_bytes: size(parts.next().unwrap_or_default())?,
            device_key: parts.next().map(str::to_owned).filter(|k| !k.is_empty()),
            source: parts.next().map(str::to_owned),
        }))
    }
}

/// `N[,size=BYTES][,device-key=KEY][,source=SOURCE][,format=raw][,base=TOKEN][,change-id=TOKEN][,sparse]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DiskSpec(pub(super) StartDisk);

impl FromStr for DiskSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let mut disk = StartDisk {
            disk_id: number(parts.next().unwrap_or_default())?,
            ..StartDisk::default()
        };
        for part in parts {
            match part.split_once('=') {
                None if part == "sparse" => disk.sparse = true,
                Some(("size", v)) => disk.size_bytes = Some(size(v)?),
                Some(("device-key", v)) => disk.device_key = Some(v.to_owned()),
                Some(("source", v)) => disk.source = Some(v.to_owned()),
                Some(("format", "raw")) => disk.source_format = Some(ImageFormat::Raw),
                Some(("base", v)) => disk.base_change_id = Some(v.to_owned()),
                Some(("change-id", v)) => disk.change_id = Some(v.to_owned()),
                _ => return Err(format!("{part:?} is not known here")),
            }
        }
        Ok(Self(disk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("513"), Ok(513));
        assert_eq!(size("10G"), Ok(10 << 30));
        assert_eq!(size("2t"), Ok(2 << 40));
        for bad in ["", "G", "-1", "1.5G", "99999999999T", "10Ä"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn disks() {
        let d: DiskPath = "1=./a=b.img".parse().unwrap();
        assert_eq!((d.disk, d.path), (1, PathBuf::from("./a=b.img")));
        assert!("a=b".parse::<DiskPath>().is_err());
        assert!("1=".parse::<DiskPath>().is_err());
        let d: DiskSize = "0=1K,2000,file:/a,b".parse().unwrap();
        assert_eq!(d.0.source.as_deref(), Some("file:/a,b"));
        let d: DiskSpec = "2,size=1M,format=raw,base=52 ab/1,sparse".parse().unwrap();
        assert_eq!(d.0.size_bytes, Some(1 << 20));
        assert_eq!(d.0.base_change_id.as_deref(), Some("52 ab/1"));
        assert!(d.0.sparse);
        assert_eq!(d.0.source_format, Some(ImageFormat::Raw));
        assert!("0,format=vmdk".parse::<DiskSpec>().is_err());
        assert!("0,colour=red".parse::<DiskSpec>().is_err());
    }
}
