//! A packed weight that is read when it is used.

use burn::module::Module;
use burn::tensor::Device;
use burn_nf4::BlockwiseTensor;
use burn_paged::WeightPage;
use nf4::{Layout, QuantizedMatrix};

/// A frozen weight `[out_features, in_features]` in 4 bits, or in the blocks of a GGUF file, whose words are in
/// [`WeightPages`](burn_paged::WeightPages): they are on the device for as long as a product, or its graph, needs them.
///
/// It has no parameters: records do not hold it, and a model that is moved to another device leaves it on its own.
#[derive(Module, Debug)]
pub struct PagedWeight {
    #[module(skip)]
    page: WeightPage,
    #[module(skip)]
    layout: Layout,
    #[module(skip)]
    device: Device,
}

impl PagedWeight {
    /// Takes a page that holds the packed codes and then the block scales of a matrix of `layout`.
    pub(crate) fn new(page: WeightPage, layout: Layout, device: Device) -> Self {
        Self {
            page,
            layout,
            device,
        }
    }

    /// Reads the words to the device.
    pub fn tensor(&self) -> BlockwiseTensor {
        let mut packed = self.page.words();
        let absmax = packed.split_off(self.layout.packed_words());
        let matrix = QuantizedMatrix::from_parts(self.layout, packed, absmax)
            .expect("a page has as many words as were put there");
        // A constant of any graph.
        BlockwiseTensor::upload(matrix, &self.device.clone().without_autodiff())
    }

    /// Returns the shape and quantization of the weight.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Returns the device that the weight is used on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Returns the page that the words are in.
    pub fn page(&self) -> &WeightPage {
        &self.page
    }
}
