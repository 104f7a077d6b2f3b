//! Names, long and short.
//!
//! Long names are UTF-16 and become UTF-8; a lone surrogate becomes the three bytes of WTF-8.
//! Short names are bytes in the code page of whoever wrote them, which the volume does not name:
//! ASCII is exact, the rest is read as code page 437. The lower-case bits of Windows NT count for
//! ASCII letters.

use super::fields::{byte, le16};

/// The upper half of code page 437.
const UPPER: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";
/// Characters in one slot of a long name, and slots of the longest one.
const PER_SLOT: usize = 13;
const MAX_SLOTS: usize = 20;

/// Bytes in code page 437, without the spaces behind them.
pub(super) fn text(bytes: &[u8]) -> String {
    let decode = |b: &u8| match b {
        0..0x80 => char::from(*b),
        _ => UPPER
            .chars()
            .nth(usize::from(b - 0x80))
            .unwrap_or('\u{fffd}'),
    };
    let text: String = bytes.iter().map(decode).collect();
    text.trim_end_matches(' ').to_owned()
}

/// The name in a short slot.
pub(super) fn short(slot: &[u8]) -> Vec<u8> {
    let mut raw: Vec<u8> = slot.iter().take(11).copied().collect();
    // 0xe5 in front would mean that the slot is deleted.
    if let Some(first) = raw.first_mut().filter(|b| **b == 0x05) {
        *first = 0xe5;
    }
    let (base, extension) = raw.split_at_checked(8).unwrap_or_default();
    let lower = |part: &[u8], bit: u8| match byte(slot, 12) & bit {
        0 => text(part),
        _ => text(part).to_ascii_lowercase(),
    };
    let (mut name, extension) = (lower(base, 0x08), lower(extension, 0x10));
    if !extension.is_empty() {
        name.push('.');
        name.push_str(&extension);
    }
    name.into_bytes()
}

/// What a long name's slots carry of the short name that they belong to.
fn checksum(slot: &[u8]) -> u8 {
    let name = slot.iter().take(11);
    name.fold(0, |sum: u8, b| sum.rotate_right(1).wrapping_add(*b))
}

/// The slots of a long name, which come last part first, right in front of the short one.
#[derive(Debug, Default)]
pub(super) struct Long {
    units: Vec<u16>,
    /// The part that has to come next; 0 where it is whole.
    wanted: usize,
    checksum: u8,
}

impl Long {
    /// Takes a slot. One that does not belong to those before it undoes them.
    pub(super) fn push(&mut self, slot: &[u8]) {
        let number = usize::from(byte(slot, 0) & 0x3f);
        let sum = byte(slot, 13);
        if byte(slot, 0) & 0x40 != 0 {
            self.units.clear();
            self.checksum = sum;
            self.wanted = number;
        }
        if number == 0 || number > MAX_SLOTS || number != self.wanted || sum != self.checksum {
            *self = Self::default();
            return;
        }
        let places = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
        let part: [u16; PER_SLOT] = places.map(|at| le16(slot, at));
        self.units.splice(0..0, part);
        self.wanted -= 1;
    }

    /// Ends a name: what was collected, where it is whole and belongs to this short slot.
    pub(super) fn take(&mut self, slot: &[u8]) -> Option<Vec<u8>> {
        let whole = std::mem::take(self);
        if whole.units.is_empty() || whole.wanted != 0 || whole.checksum != checksum(slot) {
            return None;
        }
        let units = whole.units.iter().copied().take_while(|unit| *unit != 0);
        let name = wtf8(units);
        (!name.is_empty()).then_some(name)
    }
}

fn wtf8(units: impl Iterator<Item = u16>) -> Vec<u8> {
    let mut name = Vec::new();
    for found in char::decode_utf16(units) {
        match found {
            Ok(found) => name.extend_from_slice(found.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(lone) => {
                let [high, low] = lone.unpaired_surrogate().to_be_bytes();
                let middle = (high & 0x0f) << 2 | low >> 6;
                name.extend_from_slice(&[0xe0 | high >> 4, 0x80 | middle, 0x80 | low & 0x3f]);
            }
        }
    }
    name
}

/// Whether two names differ in case alone.
pub(super) fn same(one: &[u8], other: &[u8]) -> bool {
    match (std::str::from_utf8(one), std::str::from_utf8(other)) {
        (Ok(one), Ok(other)) => {
            let lower = |name: &str| {
                name.chars()
                    .flat_map(char::to_lowercase)
                    .collect::<String>()
            };
            lower(one) == lower(other)
        }
        _ => one.eq_ignore_ascii_case(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_keep_their_bytes_their_case_bits_and_their_code_page() {
        let slot = |name: &[u8; 11], bits: u8| [name, &[0x20, bits][..]].concat();
        assert_eq!(short(&slot(b"README  TXT", 0)), b"README.TXT");
        assert_eq!(short(&slot(b"README  TXT", 0x18)), b"readme.txt");
        assert_eq!(short(&slot(b"README  TXT", 0x10)), b"README.txt");
        assert_eq!(short(&slot(b"A B        ", 0x08)), b"a b");
        assert_eq!(
            short(&slot(b"\x05\x80\xff     X  ", 0)),
            "σÇ\u{a0}.X".as_bytes()
        );
        assert_eq!(UPPER.chars().count(), 128);
    }

    #[test]
    fn a_lone_surrogate_becomes_three_bytes() {
        let units = [0x61, 0xd83d, 0xde00, 0xd800, 0x62];
        let want = ["a😀".as_bytes(), b"\xed\xa0\x80b"].concat();
        assert_eq!(wtf8(units.into_iter()), want);
    }
}
