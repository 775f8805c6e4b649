//! The values that codes stand for, 16 lanes at a time.

use crate::simd::Simd;

/// The codes of a format, as instructions decode them.
pub(crate) trait Codes<S: Simd>: Copy {
    /// Codes in a word.
    const PER_WORD: usize;

    /// Returns the values of code `j` of the word in every lane, the lowest bits first.
    fn values(self, s: S, words: S::U, j: u32) -> S::F;

    /// Returns the values of the codes `2 * pair` and `2 * pair + 1`.
    fn pair(self, s: S, words: S::U, pair: u32) -> [S::F; 2];

    /// Returns the values of the first 16 codes of consecutive words.
    fn consecutive(self, s: S, words: &[u32]) -> S::F;
}

/// Codes of 4 bits and their table.
#[derive(Clone, Copy)]
pub(crate) struct Nibbles<S: Simd>(S::Table);

impl<S: Simd> Nibbles<S> {
    #[inline(always)]
    pub(crate) fn new(s: S, values: &[f32; 16]) -> Self {
        Self(s.table(values))
    }
}

impl<S: Simd> Codes<S> for Nibbles<S> {
    const PER_WORD: usize = 8;

    #[inline(always)]
    fn values(self, s: S, words: S::U, j: u32) -> S::F {
        s.lookup(self.0, s.shift_right(words, 4 * j))
    }

    #[inline(always)]
    fn pair(self, s: S, words: S::U, pair: u32) -> [S::F; 2] {
        s.lookup_pair(self.0, words, pair)
    }

    #[inline(always)]
    fn consecutive(self, s: S, words: &[u32]) -> S::F {
        let words = words.first_chunk().expect("16 codes are two words");
        s.lookup(self.0, s.codes(words))
    }
}

/// Codes of 8 bits, which stand for themselves less a constant.
#[derive(Clone, Copy)]
pub(crate) struct Bytes {
    /// What is to be added to the number that [`FRACTION`] makes of a code.
    offset: f32,
}

/// 2^23 as bits: the last bits of its fraction count ones, so that a byte among them is added to it.
const FRACTION: u32 = 0x4b00_0000;

impl Bytes {
    #[inline(always)]
    pub(crate) fn new(zero: u8) -> Self {
        Self {
            offset: -(f32::from_bits(FRACTION) + f32::from(zero)),
        }
    }

    /// Returns the values of bytes with nothing above them; nothing is rounded.
    #[inline(always)]
    fn of_bytes<S: Simd>(self, s: S, bytes: S::U) -> S::F {
        let number = s.float(s.or_u(bytes, s.splat_u(FRACTION)));
        s.add(number, s.splat(self.offset))
    }
}

impl<S: Simd> Codes<S> for Bytes {
    const PER_WORD: usize = 4;

    #[inline(always)]
    fn values(self, s: S, words: S::U, j: u32) -> S::F {
        self.of_bytes(s, s.and_u(s.shift_right(words, 8 * j), s.splat_u(255)))
    }

    #[inline(always)]
    fn pair(self, s: S, words: S::U, pair: u32) -> [S::F; 2] {
        [
            self.values(s, words, 2 * pair),
            self.values(s, words, 2 * pair + 1),
        ]
    }

    #[inline(always)]
    fn consecutive(self, s: S, words: &[u32]) -> S::F {
        let words = words.first_chunk().expect("16 codes are four words");
        self.of_bytes(s, s.widen(*words))
    }
}

/// Returns the elements that lanes of code values stand for: times their scales, and with their minima if there are any.
#[inline(always)]
pub(crate) fn scaled<S: Simd, const MINIMA: bool>(
    s: S,
    values: S::F,
    [scale, minimum]: [S::F; 2],
) -> S::F {
    let scaled = s.mul(values, scale);
    if MINIMA {
        s.add(scaled, minimum)
    } else {
        scaled
    }
}

/// Runs `$body` with `$codes` the codes of `$format` ([`nf4::BlockFormat`]), and `$MINIMA` whether it has minima.
macro_rules! with_codes {
    ($s:ident, $format:expr, |$codes:ident, $MINIMA:ident| $body:expr) => {{
        let format: nf4::BlockFormat = $format;
        match (format.codes, format.scales.has_minima()) {
            (nf4::Codes::Table(values), false) => {
                const $MINIMA: bool = false;
                let $codes = $crate::blocks::codes::Nibbles::new($s, values);
                $body
            }
            (nf4::Codes::Table(values), true) => {
                const $MINIMA: bool = true;
                let $codes = $crate::blocks::codes::Nibbles::new($s, values);
                $body
            }
            (nf4::Codes::Bytes { zero }, false) => {
                const $MINIMA: bool = false;
                let $codes = $crate::blocks::codes::Bytes::new(zero);
                $body
            }
            (nf4::Codes::Bytes { zero }, true) => {
                const $MINIMA: bool = true;
                let $codes = $crate::blocks::codes::Bytes::new(zero);
                $body
            }
        }
    }};
}
pub(crate) use with_codes;
