//! The operands of operations as the kernels take them.

use burn_core::backend::{Flex, TensorMetadata};
use burn_flex::FlexTensor;
use burn_operands::flex::Values;
use nf4::{Layout, MatrixRef};
use qlora_cpu::low_rank::{Layer, LowRank};

use crate::primitive::{BlockwisePrimitive, LayerPrimitive};

/// The words of a matrix, one after another.
pub(super) struct Words {
    packed: FlexTensor,
    absmax: FlexTensor,
    pub(super) layout: Layout,
}

impl Words {
    pub(super) fn new(weight: BlockwisePrimitive<Flex>) -> Self {
        // A contiguous part of a larger storage is read where it lies.
        let words = |words: FlexTensor| match words.as_slice::<u32>() {
            Some(_) => words,
            None => words.to_contiguous(),
        };
        Self {
            packed: words(weight.packed),
            absmax: words(weight.absmax),
            layout: weight.layout,
        }
    }

    pub(super) fn matrix(&self) -> MatrixRef<'_> {
        let [packed, absmax] = [&self.packed, &self.absmax].map(|words| {
            FlexTensor::as_slice(words).unwrap_or_else(|| {
                panic!("an nf4 word tensor must be U32, not {:?}", words.dtype())
            })
        });
        MatrixRef::new(self.layout, packed, absmax)
            .unwrap_or_else(|error| panic!("malformed blockwise tensor: {error}"))
    }
}

/// The factors of a LoRA layer.
pub(super) struct Factors {
    a: Values<f32>,
    b: Values<f32>,
    rank: usize,
    scale: f32,
}

impl Factors {
    pub(super) fn new(a: FlexTensor, b: FlexTensor, scale: f64) -> Self {
        Self {
            rank: a.shape()[1],
            a: Values::new(a),
            b: Values::new(b),
            scale: scale as f32,
        }
    }

    pub(super) fn view(&self) -> LowRank<'_> {
        LowRank::new(&self.a, &self.b, self.rank, self.scale)
    }

    /// Returns the shapes of both for a weight in `layout`.
    pub(super) fn shapes(&self, layout: Layout) -> [[usize; 2]; 2] {
        let [out_features, in_features] = layout.shape();
        [[in_features, self.rank], [self.rank, out_features]]
    }
}

/// A layer.
pub(super) struct LayerOperands {
    words: Words,
    factors: Option<Factors>,
}

impl LayerOperands {
    pub(super) fn new(layer: LayerPrimitive<Flex>) -> Self {
        match layer {
            LayerPrimitive::Base { weight } => Self {
                words: Words::new(weight),
                factors: None,
            },
            LayerPrimitive::Adapted {
                weight,
                a,
                b,
                scale,
            } => Self {
                words: Words::new(weight),
                factors: Some(Factors::new(a, b, scale)),
            },
        }
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.words.layout
    }

    /// Returns the shapes of the factors, if the layer is adapted.
    pub(super) fn factor_shapes(&self) -> Option<[[usize; 2]; 2]> {
        let factors = self.factors.as_ref()?;
        Some(factors.shapes(self.words.layout))
    }

    pub(super) fn view(&self) -> Layer<'_> {
        Layer {
            w: self.words.matrix(),
            low_rank: self.factors.as_ref().map(Factors::view),
        }
    }
}

/// Returns the product of all dimensions but the last.
pub(super) fn rows(x: &FlexTensor) -> usize {
    x.shape().iter().rev().skip(1).product()
}
