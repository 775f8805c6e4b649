//! The vision transformer: patches of an image instead of words.

use burn::module::{Module, Param};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor};
use burn_qlora::{AnyLinear, AnyLinearConfig, LoraModel};

use crate::encoder::Block;

/// Rows and columns of an image.
pub const SIDE: usize = 16;
const PATCH: usize = 4;
/// Patches in a row.
const ROW: usize = SIDE / PATCH;
/// Classes of images.
pub const CLASSES: usize = 4;

/// An encoder over the patches, whose mean is classified.
#[derive(Module, LoraModel, Debug)]
pub struct VisionTransformer {
    /// What is elsewhere a convolution that steps as far as its kernel reaches.
    patches: AnyLinear,
    /// `[patches, width]`.
    positions: Param<Tensor<2>>,
    blocks: Vec<Block>,
    norm: LayerNorm,
    #[lora(skip)] // as small as it is, it stays dense, and frozen
    head: Linear,
}

impl VisionTransformer {
    /// Returns a dense model of `blocks` blocks.
    pub fn new(width: usize, blocks: usize, device: &Device) -> Self {
        let normal = Initializer::Normal {
            mean: 0.0,
            std: 0.02,
        };
        Self {
            patches: AnyLinearConfig::new(PATCH * PATCH, width).init(device),
            positions: normal.init([ROW * ROW, width], device),
            blocks: (0..blocks).map(|_| Block::new(width, 4, device)).collect(),
            norm: LayerNormConfig::new(width).init(device),
            head: LinearConfig::new(width, CLASSES).init(device),
        }
    }

    /// Maps `images: [batch, SIDE, SIDE]` to the logits of the classes, `[batch, CLASSES]`.
    pub fn forward(&self, images: Tensor<3>) -> Tensor<2> {
        let [batch, _, _] = images.dims();
        let patches = images
            .reshape([batch, ROW, PATCH, ROW, PATCH])
            .swap_dims(2, 3)
            .reshape([batch, ROW * ROW, PATCH * PATCH]);
        let x = self.patches.forward(patches) + self.positions.val().unsqueeze();
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x));
        let mean = self.norm.forward(x).mean_dim(1).squeeze_dim::<2>(1);
        self.head.forward(mean)
    }

    /// Returns the mean loss of images of these classes, `[1]`.
    pub fn loss(&self, images: Tensor<3>, classes: Tensor<1, Int>) -> Tensor<1> {
        let logits = self.forward(images);
        let loss = CrossEntropyLossConfig::new().init(&logits.device());
        loss.forward(logits, classes)
    }
}
