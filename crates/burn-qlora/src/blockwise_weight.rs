//! The packed weight as a Burn module.

use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, Int, Tensor};
use burn_nf4::BlockwiseTensor;
use nf4::{Codebook, Format, GgufFormat, Layout};

/// A frozen weight `[out_features, in_features]` in 4 bits, or in the blocks of a GGUF file.
///
/// Its words are integer parameters of dtype u32 (i32 with the same bits on a device without u32): records, safetensors files and device moves carry
/// them as they are, while gradients, optimizers, dtype casts and `unfreeze`, which all look at float
/// parameters only, pass them by.
///
/// A record holds the words and what they mean: `format` has no elements, and as its shape
/// `[out_features, in_features, block_size, codebook, double_quant, 0]`, the codebook by its place in [`Codebook::ALL`], or behind
/// those the format by its place in [`GgufFormat::ALL`]. Loading
/// compares shapes, so words of another format or matrix are refused as any parameter of another shape is. A record from
/// before `format` is refused as incomplete; who knows that its format is the module's loads it with
/// [`allow_partial`](burn::store::ModuleRecord::allow_partial).
#[derive(Module, Debug)]
pub struct BlockwiseWeight {
    /// Codes, eight of 4 bits or four of 8 bits a word: `[packed_words]`, u32.
    pub packed: Param<Tensor<1, Int>>,
    /// Block scales, in the form that the format has them: `[absmax_words]`, u32.
    pub absmax: Param<Tensor<1, Int>>,
    /// The shape and format of the weight, as a shape without elements, u32.
    pub format: Param<Tensor<6, Int>>,
    #[module(skip)]
    layout: Layout,
}

impl BlockwiseWeight {
    /// Takes the tensor's words over without a copy.
    pub fn new(tensor: BlockwiseTensor) -> Self {
        let (packed, absmax, layout) = tensor.into_parts();
        let format = Tensor::empty(format_shape(&layout), (&packed.device(), packed.dtype()));
        Self {
            format: Param::initialized(ParamId::new(), format),
            packed: Param::initialized(ParamId::new(), packed),
            absmax: Param::initialized(ParamId::new(), absmax),
            layout,
        }
    }

    /// Returns the same words as a tensor to compute with. No copy is made.
    ///
    /// # Panics
    /// When a record that was loaded without validation changed the number of words.
    pub fn tensor(&self) -> BlockwiseTensor {
        BlockwiseTensor::from_parts(self.packed.val(), self.absmax.val(), self.layout)
            .expect("the words of a BlockwiseWeight should fit its layout")
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

/// Returns the shape that stands for a layout.
fn format_shape(layout: &Layout) -> [usize; 6] {
    let [out_features, in_features] = layout.shape();
    let (codebook, double_quant) = match layout.format() {
        Format::Quantized(config) => {
            let place = Codebook::ALL.iter().position(|it| *it == config.codebook);
            (place, config.double_quant)
        }
        Format::Gguf(format) => {
            let place = GgufFormat::ALL.iter().position(|it| *it == format);
            (place.map(|place| Codebook::ALL.len() + place), false)
        }
    };
    [
        out_features,
        in_features,
        layout.block_format().block_size,
        codebook.expect("the lists are of all codebooks and formats"),
        usize::from(double_quant),
        0,
    ]
}
