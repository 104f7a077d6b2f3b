//! Numbers in records, all little-endian: what lies behind a record reads zero.

pub(super) fn byte(record: &[u8], at: usize) -> u8 {
    record.get(at).copied().unwrap_or(0)
}

pub(super) fn le16(record: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([byte(record, at), byte(record, at.saturating_add(1))])
}

pub(super) fn le32(record: &[u8], at: usize) -> u32 {
    u32::from(le16(record, at.saturating_add(2))) << 16 | u32::from(le16(record, at))
}
