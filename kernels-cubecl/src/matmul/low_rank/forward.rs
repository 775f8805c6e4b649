//! The product with a quantized matrix and a low-rank one.

use cubecl::prelude::*;
use cubecl::std::tensor::TensorHandle;

use super::super::GEMV_MAX_ROWS;
use super::super::layers::{Layer, layers};
use super::super::problem::Rows;
use super::super::select::DeviceKind;
use super::expand::{Expansion, expand};
use super::factors::{Factors, LowRank, Projected};
use super::gather::{Gathering, gather};
use super::project::project;
use crate::error::KernelError;
use crate::operand::contiguous;
use crate::weight::Weight;

/// Returns `y = x·Wᵀ + s·(x·A)·B`, `[.., out_features]`, in a new contiguous tensor of `x`'s dtype.
///
/// `x: [.., in_features]`, in f32, f16 or bf16; rows an equal distance apart are read where they lie. Sums are in f32. The
/// product with `W` is rounded to `x`'s dtype before the low-rank one is added, and the sum again.
///
/// # Errors
/// As [`matmul`](super::super::matmul()), and [`KernelError::NotSingle`].
pub fn forward(
    client: &Client,
    x: TensorHandle,
    weight: Weight,
    low_rank: LowRank,
) -> Result<TensorHandle, KernelError> {
    let layer = Layer {
        weight,
        low_rank: Some(low_rank),
    };
    let mut ys = layers(client, x, vec![layer])?;
    Ok(ys.remove(0))
}

/// Adds their low-rank products to the results of layers of one `x`, which has at least one row and one column, as each of them.
///
/// # Errors
/// [`KernelError::TooLarge`], [`KernelError::TooManyRows`].
pub(in crate::matmul) fn add_each(
    client: &Client,
    x: &Rows,
    layers: &[(&Factors, &TensorHandle)],
) -> Result<(), KernelError> {
    // A CPU's cores would wait for each other where they share sums.
    if x.m > GEMV_MAX_ROWS || DeviceKind::of(client) == DeviceKind::Cpu {
        for (factors, y) in layers {
            let projected = project(client, x, &factors.a_transposed(client), factors.scale)?;
            expand(client, &[expansion(factors, &projected, y)])?;
        }
        return Ok(());
    }
    // Of each product a factor, what lies between the factors and the result; beside them `x` and the sizes.
    let at_once = (client.properties().hardware.max_bindings as usize / 3).clamp(2, 4) - 1;
    for layers in layers.chunks(at_once) {
        let of_rank = |(factors, _): &(&Factors, _)| Projected::empty(client, x.m, factors.b.rank);
        let projected: Vec<_> = layers.iter().map(of_rank).collect::<Result<_, _>>()?;
        let a: Vec<_> = layers
            .iter()
            .map(|(factors, _)| contiguous(client, factors.a.clone()))
            .collect();
        let gatherings = layers.iter().zip(&projected).zip(&a);
        let gatherings: Vec<_> = gatherings
            .map(|(((factors, _), projected), a)| Gathering {
                a,
                scale: factors.scale,
                projected,
            })
            .collect();
        gather(client, x, layers[0].0.a.shape()[0], &gatherings);
        let expansions = layers.iter().zip(&projected);
        let expansions: Vec<_> = expansions
            .map(|((factors, y), projected)| expansion(factors, projected, y))
            .collect();
        expand(client, &expansions)?;
    }
    Ok(())
}

fn expansion<'a>(
    factors: &'a Factors,
    projected: &'a Projected,
    y: &'a TensorHandle,
) -> Expansion<'a> {
    Expansion {
        projected,
        factor: &factors.b,
        y,
    }
}
