//! Bytes made worse, by dice that fall the same way each time: flipped, cut, doubled, spliced, with lengths that lie. It
//! knows nothing of what it hits; the fuzz targets do better, this runs wherever the tests run.

/// Longest result, in bytes: slow readers are not what is looked for.
const LEN_MAX: usize = 24 * 1024;
/// Changes made to one file at once.
const CHANGES_MAX: u64 = 6;
/// Longest piece moved, removed or doubled, in bytes.
const PIECE_LEN_MAX: u64 = 64;
/// Numbers at which readers go wrong.
const NUMBERS: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];
/// Texts at which readers of text go wrong.
const TEXTS: [&str; 24] = [
    "\"",
    "\\",
    "\n",
    "\r\n",
    "\0",
    "=",
    "[",
    "]]",
    "{{",
    "}",
    "#",
    ":",
    "::ffff:127.0.0.1",
    "0",
    "-1",
    "1e999",
    "18446744073709551616",
    "\u{feff}",
    "я",
    "\u{202e}",
    "../",
    "'''",
    "NaN",
    "\u{1f600}",
];

/// SplitMix64.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Dice that fall as this text and number say.
    pub fn of(text: &str, number: u64) -> Self {
        // FNV-1a.
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self(hash ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// From 0, below `end`; 0 if that is 0.
    fn below(&mut self, end: u64) -> usize {
        self.word().checked_rem(end).unwrap_or(0) as usize
    }

    fn range(&mut self, len: usize) -> std::ops::Range<usize> {
        let start = self.below(len as u64 + 1);
        let end = (start + self.below(PIECE_LEN_MAX + 1)).min(len);
        start..end
    }
}

/// `bytes` made worse; pieces may come from `other`, which the same reader reads.
pub fn mutated(bytes: &[u8], other: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut made = bytes.to_vec();
    for _ in 0..=dice.below(CHANGES_MAX) {
        change(&mut made, other, dice);
    }
    made.truncate(LEN_MAX);
    made
}

fn change(made: &mut Vec<u8>, other: &[u8], dice: &mut Dice) {
    let at = dice.below(made.len() as u64);
    match dice.below(12) {
        0 | 1 => made.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << dice.below(8)),
        2 => made.iter_mut().skip(at).take(1).for_each(|byte| *byte = dice.below(256) as u8),
        3 => made.truncate(at),
        4 => drop(made.drain(dice.range(made.len()))),
        5 => {
            let piece = made[dice.range(made.len())].to_vec();
            drop(made.splice(at..at, piece));
        }
        6 => {
            let piece = other[dice.range(other.len())].to_vec();
            let over = at..(at + piece.len()).min(made.len());
            drop(made.splice(over, piece));
        }
        // The beginning of one, the end of another.
        7 => {
            made.truncate(at);
            made.extend_from_slice(&other[dice.below(other.len() as u64)..]);
        }
        8 => {
            let number = NUMBERS[dice.below(NUMBERS.len() as u64)].to_be_bytes();
            let width = 1 << dice.below(4);
            let end = (at + width).min(made.len());
            drop(made.splice(at..end, number[8 - width..].iter().copied()));
        }
        9 => {
            let text = TEXTS[dice.below(TEXTS.len() as u64)];
            drop(made.splice(at..at, text.bytes()));
        }
        10 => {
            let byte = dice.below(256) as u8;
            let count = dice.below(PIECE_LEN_MAX);
            drop(made.splice(at..at, std::iter::repeat_n(byte, count)));
        }
        // A digit among digits.
        _ => made.iter_mut().skip(at).find(|byte| byte.is_ascii_digit()).into_iter().for_each(|byte| {
            *byte = b'0' + dice.below(10) as u8;
        }),
    }
}
