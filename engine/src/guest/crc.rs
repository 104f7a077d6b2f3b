//! The checksums of ext4, jbd2 and XFS: running values, no final inversion.

/// The table of a reflected CRC-32.
#[expect(clippy::indexing_slicing, reason = "evaluated while it compiles")]
const fn reflected(polynomial: u32) -> [u32; 256] {
    let mut table = [0; 256];
    let (mut n, mut byte) = (0, 0u32);
    while n < 256 {
        let (mut crc, mut bit) = (byte, 0);
        while bit < 8 {
            crc = crc >> 1 ^ (polynomial & 0u32.wrapping_sub(crc & 1));
            bit += 1;
        }
        table[n] = crc;
        (n, byte) = (n + 1, byte + 1);
    }
    table
}

/// The table of a CRC-32 that takes the highest bit first.
#[expect(clippy::indexing_slicing, reason = "evaluated while it compiles")]
const fn straight(polynomial: u32) -> [u32; 256] {
    let mut table = [0; 256];
    let (mut n, mut byte) = (0, 0u32);
    while n < 256 {
        let (mut crc, mut bit) = (byte << 24, 0);
        while bit < 8 {
            crc = crc << 1 ^ (polynomial & 0u32.wrapping_sub(crc >> 31));
            bit += 1;
        }
        table[n] = crc;
        (n, byte) = (n + 1, byte + 1);
    }
    table
}

static CASTAGNOLI: [u32; 256] = reflected(0x82f6_3b78);
static ETHERNET: [u32; 256] = straight(0x04c1_1db7);

fn entry(table: &[u32; 256], at: u8) -> u32 {
    table.get(usize::from(at)).copied().unwrap_or(0)
}

/// CRC-32C (Castagnoli): metadata checksums, journal checksums of versions 2 and 3.
pub(in crate::guest) fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |crc, byte| {
        let [low, ..] = crc.to_le_bytes();
        crc >> 8 ^ entry(&CASTAGNOLI, low ^ byte)
    })
}

/// CRC-32, highest bit first: the journal's first checksums, over whole transactions.
pub(in crate::guest) fn crc32_straight(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |crc, byte| {
        let [high, ..] = crc.to_be_bytes();
        crc << 8 ^ entry(&ETHERNET, high ^ byte)
    })
}

/// CRC-16 (reflected 0x8005): group descriptors before metadata checksums.
pub(in crate::guest) fn crc16(seed: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(seed, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| {
            crc >> 1 ^ (0xa001 & 0u16.wrapping_sub(crc & 1))
        })
    })
}

/// [`crc32c`] over a record with the `hole` bytes at `at` taken as zero: where the record keeps
/// the checksum itself.
pub(in crate::guest) fn crc32c_without(seed: u32, record: &[u8], at: usize, hole: usize) -> u32 {
    let (front, rest) = record.split_at_checked(at).unwrap_or((record, &[]));
    let hole = hole.min(rest.len());
    let crc = (0..hole).fold(crc32c(seed, front), |crc, _| crc32c(crc, &[0]));
    crc32c(crc, rest.get(hole..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_check_values_come_out() {
        let check = b"123456789";
        assert_eq!(!crc32c(!0, check), 0xe306_9283);
        assert_eq!(!crc32_straight(!0, check), 0xfc89_1918);
        assert_eq!(crc16(!0, check), 0x4b37);
        assert_eq!(crc32c_without(7, b"abXXcd", 2, 2), crc32c(7, b"ab\0\0cd"));
    }
}
