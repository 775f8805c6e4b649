//! A quantized matrix, owned and borrowed.

use crate::error::FormatError;
use crate::layout::Layout;

/// A quantized matrix in host memory, in the word format described at [`Layout`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuantizedMatrix {
    layout: Layout,
    packed: Vec<u32>,
    absmax: Vec<u32>,
}

/// A quantized matrix whose words are borrowed: from a tensor's storage or a mapped file.
#[derive(Clone, Copy, Debug)]
pub struct MatrixRef<'a> {
    layout: Layout,
    packed: &'a [u32],
    absmax: &'a [u32],
}

impl QuantizedMatrix {
    /// Assembles a matrix from its words.
    ///
    /// # Errors
    /// [`FormatError::WordCount`] if a length is not what `layout` says.
    pub fn from_parts(
        layout: Layout,
        packed: Vec<u32>,
        absmax: Vec<u32>,
    ) -> Result<Self, FormatError> {
        MatrixRef::new(layout, &packed, &absmax)?;
        Ok(Self {
            layout,
            packed,
            absmax,
        })
    }

    /// Returns the layout, the packed codes and the scales.
    pub fn into_parts(self) -> (Layout, Vec<u32>, Vec<u32>) {
        (self.layout, self.packed, self.absmax)
    }

    /// Returns the shape and format.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Returns the packed codes, [`Layout::packed_words`] words.
    pub fn packed(&self) -> &[u32] {
        &self.packed
    }

    /// Returns the scales, [`Layout::absmax_words`] words.
    pub fn absmax(&self) -> &[u32] {
        &self.absmax
    }

    /// Borrows the matrix, as kernels take it.
    pub fn as_ref(&self) -> MatrixRef<'_> {
        MatrixRef {
            layout: self.layout,
            packed: &self.packed,
            absmax: &self.absmax,
        }
    }
}

impl<'a> MatrixRef<'a> {
    /// Views words that lie elsewhere.
    ///
    /// # Errors
    /// [`FormatError::WordCount`] if a length is not what `layout` says.
    pub fn new(layout: Layout, packed: &'a [u32], absmax: &'a [u32]) -> Result<Self, FormatError> {
        let check = |part, len, expected| {
            if len == expected {
                Ok(())
            } else {
                Err(FormatError::WordCount {
                    part,
                    len,
                    expected,
                })
            }
        };
        check("packed", packed.len(), layout.packed_words())?;
        check("absmax", absmax.len(), layout.absmax_words())?;
        Ok(Self {
            layout,
            packed,
            absmax,
        })
    }

    /// Returns the shape and format.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Returns the packed codes, [`Layout::packed_words`] words.
    pub fn packed(&self) -> &'a [u32] {
        self.packed
    }

    /// Returns the scales, [`Layout::absmax_words`] words.
    pub fn absmax(&self) -> &'a [u32] {
        self.absmax
    }

    /// Copies the words.
    pub fn to_owned(&self) -> QuantizedMatrix {
        QuantizedMatrix {
            layout: self.layout,
            packed: self.packed.to_vec(),
            absmax: self.absmax.to_vec(),
        }
    }
}
