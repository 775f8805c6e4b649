//! A quantized matrix on a device.

use cubecl::prelude::*;
use cubecl::server::Handle;
use cubecl::std::tensor::TensorHandle;
use nf4::Layout;

use crate::decode::WordsLaunch;
use crate::format::CodeFormat;
use crate::operand::{buffer, contiguous};
use crate::scales::ScalesLaunch;

/// A quantized `[out_features, in_features]` matrix on a device: two buffers of `u32` words and what they mean.
#[derive(Clone, Debug)]
pub struct Weight {
    /// The codes, [`Layout::packed_words`] words.
    pub packed: Handle,
    /// The scales and minima, [`Layout::absmax_words`] words.
    pub absmax: Handle,
    /// Shape and format.
    pub layout: Layout,
}

impl Weight {
    /// Takes tensors of `u32` words, which are copied where the words do not lie one after another.
    pub fn new(
        client: &Client,
        packed: TensorHandle,
        absmax: TensorHandle,
        layout: Layout,
    ) -> Self {
        let [packed, absmax] = [packed, absmax].map(|words| contiguous(client, words).handle);
        Self {
            packed,
            absmax,
            layout,
        }
    }

    /// Returns codes and scales as tensors of `u32` words, of one dimension each.
    pub fn into_words(self) -> [TensorHandle; 2] {
        let dtype = u32::elem_type_native();
        [
            (self.packed, self.layout.packed_words()),
            (self.absmax, self.layout.absmax_words()),
        ]
        .map(|(words, len)| TensorHandle::new_contiguous([len], words, dtype))
    }

    /// Returns the codes and what they stand for.
    pub(crate) fn codes(&self) -> CodeFormat {
        self.layout.block_format().into()
    }

    /// Returns the elements of a block.
    pub(crate) fn block_size(&self) -> usize {
        self.layout.block_format().block_size
    }

    /// Returns codes and scales as a kernel argument.
    pub(crate) fn words_arg(&self) -> WordsLaunch {
        WordsLaunch::new(self.packed_arg(), self.scales_arg())
    }

    /// Returns the codes as a kernel argument.
    pub(crate) fn packed_arg(&self) -> BufferArg {
        buffer(&self.packed, self.layout.packed_words())
    }

    /// Returns the scales as a kernel argument.
    pub(crate) fn scales_arg(&self) -> ScalesLaunch {
        let format = self.layout.block_format();
        ScalesLaunch::new(
            buffer(&self.absmax, self.layout.absmax_words()),
            format.block_size.trailing_zeros(),
            self.layout.nested_words().start as u32,
            self.layout.offset_word() as u32,
            0,
            format.scales,
        )
    }
}
