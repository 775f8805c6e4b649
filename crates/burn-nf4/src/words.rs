//! Words between host and device: U32, or I32 with the same bits on a backend that has no U32 (LibTorch).

use burn_core::tensor::{DType, TensorData};

/// The dtypes that words may have on a device.
pub(crate) const WORD_DTYPES: [DType; 2] = [DType::U32, DType::I32];

/// Returns words as a backend takes them, `[len]` in `dtype`, which is one of [`WORD_DTYPES`].
pub(crate) fn data(words: Vec<u32>, dtype: DType) -> TensorData {
    let len = words.len();
    match dtype {
        DType::I32 => {
            let words: Vec<i32> = words.into_iter().map(u32::cast_signed).collect();
            TensorData::new(words, [len])
        }
        _ => TensorData::new(words, [len]),
    }
}

/// Returns the words in `data`, or nothing if it holds something else.
pub(crate) fn from_data(data: TensorData) -> Option<Vec<u32>> {
    match data.dtype() {
        DType::U32 => data.try_into_vec().ok(),
        DType::I32 => {
            let words: Vec<i32> = data.try_into_vec().ok()?;
            Some(words.into_iter().map(i32::cast_unsigned).collect())
        }
        _ => None,
    }
}

/// Returns the first of [`WORD_DTYPES`] that a device has.
pub(crate) fn dtype(supports: impl Fn(DType) -> bool) -> DType {
    let [unsigned, signed] = WORD_DTYPES;
    if supports(unsigned) { unsigned } else { signed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_their_bits_without_unsigned_integers() {
        let words = vec![0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX];
        let signed = dtype(|dtype| dtype == DType::I32);
        assert_eq!(signed, DType::I32);
        for dtype in WORD_DTYPES {
            let data = data(words.clone(), dtype);
            assert_eq!(data.dtype(), dtype);
            assert_eq!(from_data(data).unwrap(), words);
        }
        assert_eq!(from_data(TensorData::new(vec![1i64], [1])), None);
    }
}
