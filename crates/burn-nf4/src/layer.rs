//! [`BlockwiseLayer`], a matrix and what adapts it.

use burn_core::backend::Dispatch;
use burn_core::tensor::{DType, Tensor};

use crate::error::BlockwiseTensorError;
use crate::ops::BlockwiseOps;
use crate::primitive::{LayerPrimitive, LayersPrimitive};
use crate::tensor::BlockwiseTensor;

/// What errors call the product with an adapted matrix.
const LORA_MATMUL: &str = "blockwise lora_matmul";

/// A linear layer: a packed matrix, with the low-rank one of a LoRA adapter on top if it is adapted.
#[derive(Clone, Debug)]
pub struct BlockwiseLayer {
    weight: BlockwiseTensor,
    factors: Option<Factors>,
}

/// `scale · A · B`.
#[derive(Clone, Debug)]
struct Factors {
    a: Tensor<2>,
    b: Tensor<2>,
    scale: f64,
}

impl BlockwiseLayer {
    /// Returns the layer of a matrix.
    pub const fn new(weight: BlockwiseTensor) -> Self {
        Self {
            weight,
            factors: None,
        }
    }

    /// Returns the layer `x · Wᵀ + scale · (x · A) · B`.
    ///
    /// `a: [in_features, rank]` and `b: [rank, out_features]`, both f32.
    ///
    /// # Errors
    /// Factors that are not f32, do not fit the matrix or each other, or lie on another device.
    pub fn adapted(
        weight: BlockwiseTensor,
        a: Tensor<2>,
        b: Tensor<2>,
        scale: f64,
    ) -> Result<Self, BlockwiseTensorError> {
        let [out_features, in_features] = weight.layout().shape();
        let (a_shape, b_shape) = (a.dims(), b.dims());
        let rank = a_shape[1];
        if rank == 0 || a_shape[0] != in_features || b_shape != [rank, out_features] {
            return Err(BlockwiseTensorError::Factors {
                a: a_shape,
                b: b_shape,
                out_features,
                in_features,
            });
        }
        for (what, factor) in [("factor A", &a), ("factor B", &b)] {
            let device = factor.device();
            weight.check_device(LORA_MATMUL, what, &device)?;
            if factor.dtype() != DType::F32 {
                let dtype = factor.dtype();
                return Err(BlockwiseTensorError::unsupported(
                    LORA_MATMUL,
                    dtype,
                    &device,
                ));
            }
        }
        Ok(Self {
            weight,
            factors: Some(Factors { a, b, scale }),
        })
    }

    /// Maps `x: [.., in_features]` through each of some layers: `[.., out_features]` in the dtype of `x`, as
    /// [`BlockwiseTensor::matmul`] and [`BlockwiseTensor::lora_matmul`] do for one. What the layers' products have in common is
    /// done once, where a backend knows how.
    ///
    /// # Errors
    /// As [`BlockwiseTensor::try_matmul`], for any of the layers.
    pub fn forward_each<const D: usize>(
        layers: Vec<Self>,
        x: Tensor<D>,
    ) -> Result<Vec<Tensor<D>>, BlockwiseTensorError> {
        for Self { weight, factors } in &layers {
            let operation = match factors {
                Some(_) => LORA_MATMUL,
                None => "blockwise matmul",
            };
            weight.check_operand(operation, &x, weight.layout().in_features())?;
        }
        let layers = layers.into_iter().map(Self::into_primitive).collect();
        let ys = <Dispatch as BlockwiseOps>::blockwise_layers(
            x.into_dispatch(),
            LayersPrimitive(layers),
        );
        Ok(ys.into_iter().map(Tensor::from_dispatch).collect())
    }

    fn into_primitive(self) -> LayerPrimitive<Dispatch> {
        let weight = self.weight.into_primitive();
        match self.factors {
            Some(Factors { a, b, scale }) => LayerPrimitive::Adapted {
                weight,
                a: a.into_dispatch(),
                b: b.into_dispatch(),
                scale,
            },
            None => LayerPrimitive::Base { weight },
        }
    }
}
