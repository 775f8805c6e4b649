//! The parts of a 4-bit weight as bitsandbytes records them, as the words that a device holds.

/// Bytes as little-endian words, the last one filled up with zeros.
pub fn words(bytes: &[u8]) -> Vec<u32> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let words = bytes.as_chunks().0.iter();
    words.map(|word| u32::from_le_bytes(*word)).collect()
}

/// The words of `elements` codes: a recorded byte has the first of its two in the high nibble, a word its first in the low one.
/// Bits that no element fills are zero.
pub fn packed_words(bytes: &[u8], elements: usize) -> Vec<u32> {
    let mut codes: Vec<u8> = bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .take(elements)
        .collect();
    codes.resize(codes.len().next_multiple_of(8), 0);
    let word = |codes: &[u8]| {
        let codes = codes.iter().rev();
        codes.fold(0, |word, code| word << 4 | u32::from(*code))
    };
    codes.chunks(8).map(word).collect()
}

/// The words of doubly quantized scales: `codes`, four a word, then `nested`, `offset` and `map` as bits.
pub fn scale_words(codes: &[u8], nested: &[f32], offset: f32, map: &[f32]) -> Vec<u32> {
    let floats = nested.iter().chain([&offset]).chain(map);
    let mut words = words(codes);
    words.extend(floats.map(|value| value.to_bits()));
    words
}

/// The codes in words, low nibble first.
pub fn codes(words: &[u32], elements: usize) -> Vec<u32> {
    let codes = words
        .iter()
        .flat_map(|word| (0..8).map(move |i| word >> (4 * i) & 15));
    codes.take(elements).collect()
}

/// Codes of FP4 with its second zero, 8, replaced by its first: which of them a small value gets is not part of the format.
pub fn with_one_zero(mut codes: Vec<u32>) -> Vec<u32> {
    for code in &mut codes {
        if *code == 8 {
            *code = 0;
        }
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nibbles_are_swapped_and_what_is_left_is_zero() {
        let bytes = [0x12, 0x34, 0x56, 0x78, 0x9a];
        assert_eq!(packed_words(&bytes, 9), [0x8765_4321, 0x9]);
        let codes = codes(&packed_words(&bytes, 9), 9);
        assert_eq!(codes, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(with_one_zero(codes)[7], 0);
    }

    #[test]
    fn scales_stand_behind_their_codes() {
        let words = scale_words(&[1, 2, 3, 4, 5], &[1.0], 0.5, &[2.0]);
        let [one, half, two] = [1.0f32, 0.5, 2.0].map(f32::to_bits);
        assert_eq!(words, [0x0403_0201, 5, one, half, two]);
    }
}
