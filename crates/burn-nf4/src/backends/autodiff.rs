//! Gradients: only `x` has one, and the other direction of the same product is it.

use burn_autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind, unary},
};
use burn_core::backend::{AutodiffBackend, Backend, tensor::FloatTensor};
use burn_core::tensor::FloatDType;
use nf4::QuantConfig;

use crate::{Nf4Ops, Nf4Primitive};

impl<B: Backend + Nf4Ops, C: CheckpointStrategy> Nf4Ops for Autodiff<B, C> {
    /// Not differentiable: the words are constants of the graph.
    fn nf4_quantize(weight: FloatTensor<Self>, config: QuantConfig) -> Nf4Primitive<Self> {
        let inner = B::nf4_quantize(weight.into_primitive(), config);
        Nf4Primitive {
            packed: inner.packed,
            absmax: inner.absmax,
            layout: inner.layout,
        }
    }

    fn nf4_dequantize(weight: Nf4Primitive<Self>, dtype: FloatDType) -> FloatTensor<Self> {
        <Self as AutodiffBackend>::from_inner(B::nf4_dequantize(into_inner(weight), dtype))
    }

    fn nf4_matmul(
        x: FloatTensor<Self>,
        weight: Nf4Primitive<Self>,
        transposed: bool,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Nf4Matmul;

        impl<B: Backend + Nf4Ops> Backward<B, 1> for Nf4Matmul {
            /// Reference-counted words and a direction: `x` itself is never kept.
            type State = (Nf4Primitive<B>, bool);

            fn backward(
                self,
                ops: Ops<Self::State, 1>,
                grads: &mut Gradients,
                _checkpointer: &mut Checkpointer,
            ) {
                let (weight, transposed) = ops.state;
                unary::<B, _>(ops.parents, ops.node, grads, |grad| {
                    B::nf4_matmul(grad, weight, !transposed)
                });
            }
        }

        let weight = into_inner(weight);
        let guard = x.node();
        let x = x.into_primitive();
        match Nf4Matmul.prepare::<C>([guard]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = B::nf4_matmul(x, weight.clone(), transposed);
                prep.finish((weight, transposed), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::nf4_matmul(x, weight, transposed)),
        }
    }
}

fn into_inner<B: Backend, C: CheckpointStrategy>(
    weight: Nf4Primitive<Autodiff<B, C>>,
) -> Nf4Primitive<B> {
    Nf4Primitive {
        packed: weight.packed,
        absmax: weight.absmax,
        layout: weight.layout,
    }
}
