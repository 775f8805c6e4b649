//! [`BlockwiseLayer`], a matrix and what adapts it.

use std::fmt::Debug;

use burn_core::backend::Dispatch;
use burn_core::tensor::{DType, Tensor};
use burn_fused::{Epilogue, Prologue};

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
        Self::check_operand(&layers, &x)?;
        let layers = layers.into_iter().map(Self::into_primitive).collect();
        let ys = <Dispatch as BlockwiseOps>::blockwise_layers(
            x.into_dispatch(),
            LayersPrimitive(layers),
        );
        Ok(ys.into_iter().map(Tensor::from_dispatch).collect())
    }

    /// Returns the results of the `epilogue` of [`forward_each`](Self::forward_each), whose `x: [.., in_features]` goes through the
    /// `prologue` before. A device that is slow to be told what to do computes them as one, for a few rows; results that are rounded
    /// to half precision in between stay in f32 then.
    ///
    /// Differentiable, as the operations one by one.
    ///
    /// # Errors
    /// As [`forward_each`](Self::forward_each); an epilogue of another number of layers, or of other shapes, dtypes or devices, and
    /// a norm of another width.
    pub fn forward_fused<const D: usize>(
        layers: Vec<Self>,
        x: Tensor<D>,
        prologue: Prologue,
        epilogue: Epilogue<D>,
    ) -> Result<Vec<Tensor<D>>, BlockwiseTensorError> {
        Self::check_operand(&layers, &x)?;
        check_prologue(&x, &prologue)?;
        check_epilogue(&layers, &x, &epilogue)?;
        let layers = layers.into_iter().map(Self::into_primitive).collect();
        let results = <Dispatch as BlockwiseOps>::blockwise_fused_layers(
            x.into_dispatch(),
            prologue.into(),
            LayersPrimitive(layers),
            epilogue.into(),
        );
        Ok(results.into_iter().map(Tensor::from_dispatch).collect())
    }

    /// Refuses an `x` that one of the layers does not take.
    fn check_operand<const D: usize>(
        layers: &[Self],
        x: &Tensor<D>,
    ) -> Result<(), BlockwiseTensorError> {
        for Self { weight, factors } in layers {
            let operation = match factors {
                Some(_) => LORA_MATMUL,
                None => "blockwise matmul",
            };
            weight.check_operand(operation, x, weight.layout().in_features())?;
        }
        Ok(())
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

/// Returns whether [`BlockwiseLayer::forward_fused`] computes layers of `x`, none of them adapted, and what is around them in one: of
/// a few rows, on a device whose every operation is a launch, without autodiff.
pub fn fuses_layers<const D: usize>(x: &Tensor<D>) -> bool {
    match x.device().as_dispatch() {
        #[cfg(feature = "cubecl-backend")]
        burn_core::backend::DispatchDevice::Cube(device) => {
            let rows = x.dims()[..D - 1].iter().product();
            qlora_cubecl::matmul::fuses_layers(&device.client(), rows)
        }
        _ => false,
    }
}

/// Refuses a norm that does not fit `x`.
fn check_prologue<const D: usize>(
    x: &Tensor<D>,
    prologue: &Prologue,
) -> Result<(), BlockwiseTensorError> {
    let Prologue::RmsNorm { weight, .. } = prologue else {
        return Ok(());
    };
    let [width] = weight.dims();
    check("the width of the norm", width, x.dims()[D - 1])?;
    check("the device of the norm", weight.device(), x.device())
}

/// Refuses an epilogue that does not fit the results of the layers.
fn check_epilogue<const D: usize>(
    layers: &[BlockwiseLayer],
    x: &Tensor<D>,
    epilogue: &Epilogue<D>,
) -> Result<(), BlockwiseTensorError> {
    let count = layers.len();
    check(
        "the number of layers",
        count,
        epilogue.layers().unwrap_or(count),
    )?;
    let width = |layer: usize| layers[layer].weight.layout().out_features();
    match epilogue {
        Epilogue::None => Ok(()),
        Epilogue::Add { residual } => {
            let mut dims = x.dims();
            dims[D - 1] = width(0);
            check("the shape of the residual", residual.dims(), dims)?;
            check("the dtype of the residual", residual.dtype(), x.dtype())?;
            check("the device of the residual", residual.device(), x.device())
        }
        Epilogue::Glu { .. } => check("the width of the gate", width(0), width(1)),
    }
}

fn check<T: Debug + PartialEq>(
    what: &'static str,
    found: T,
    expected: T,
) -> Result<(), BlockwiseTensorError> {
    if found == expected {
        return Ok(());
    }
    Err(BlockwiseTensorError::Around {
        what,
        found: format!("{found:?}"),
        expected: format!("{expected:?}"),
    })
}
