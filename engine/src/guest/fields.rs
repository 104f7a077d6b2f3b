//! Numbers in records. The caller has checked the record's length: what lies behind it reads zero.

fn take<const N: usize>(record: &[u8], at: usize) -> [u8; N] {
    let bytes = at.checked_add(N).and_then(|end| record.get(at..end));
    bytes.and_then(|b| b.try_into().ok()).unwrap_or([0; N])
}

pub(in crate::guest) fn byte(record: &[u8], at: usize) -> u8 {
    record.get(at).copied().unwrap_or(0)
}

pub(in crate::guest) fn le16(record: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(take(record, at))
}

pub(in crate::guest) fn le32(record: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(take(record, at))
}

pub(in crate::guest) fn be16(record: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(take(record, at))
}

pub(in crate::guest) fn be32(record: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(take(record, at))
}

pub(in crate::guest) fn be64(record: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(take(record, at))
}

/// A number whose upper half stands elsewhere.
pub(in crate::guest) fn wide(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// An index into memory; one that does not fit is outside of everything.
pub(in crate::guest) fn index(n: impl TryInto<usize>) -> usize {
    n.try_into().unwrap_or(usize::MAX)
}
