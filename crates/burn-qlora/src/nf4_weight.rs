//! The packed weight as a Burn module.

use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, Int, Tensor};
use burn_nf4::Nf4Tensor;
use nf4::Layout;

/// A frozen 4-bit weight `[out_features, in_features]`.
///
/// Its words are integer parameters of dtype u32: records, safetensors files and device moves carry
/// them as they are, while gradients, optimizers, dtype casts and `unfreeze`, which all look at float
/// parameters only, pass them by.
#[derive(Module, Debug)]
pub struct Nf4Weight {
    /// 4-bit codes, eight a word: `[packed_words]`, u32.
    pub packed: Param<Tensor<1, Int>>,
    /// Block scales, double-quantized or f32 bit patterns: `[absmax_words]`, u32.
    pub absmax: Param<Tensor<1, Int>>,
    #[module(skip)]
    layout: Layout,
}

impl Nf4Weight {
    /// Takes the tensor's words over without a copy.
    pub fn new(tensor: Nf4Tensor) -> Self {
        let (packed, absmax, layout) = tensor.into_parts();
        Self {
            packed: Param::initialized(ParamId::new(), packed),
            absmax: Param::initialized(ParamId::new(), absmax),
            layout,
        }
    }

    /// Returns the same words as a tensor to compute with. No copy is made.
    ///
    /// # Panics
    /// When a record that was loaded without validation changed the number of words.
    pub fn tensor(&self) -> Nf4Tensor {
        Nf4Tensor::from_parts(self.packed.val(), self.absmax.val(), self.layout)
            .expect("the words of an Nf4Weight should fit its layout")
    }

    /// Returns the shape and quantization of the weight.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Returns the device of the words.
    pub fn device(&self) -> Device {
        self.packed.lazy_device()
    }
}
