//! Gradients: the words have none. That of `x` is the other direction of the same product; the factors of a LoRA layer
//! get theirs from `x`, the only thing that is kept.

mod layers;

use burn_autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind, unary},
};
use burn_core::backend::{AutodiffBackend, Backend, tensor::FloatTensor};
use burn_core::tensor::FloatDType;
use nf4::{Direction, QuantConfig};

use crate::ops::BlockwiseOps;
use crate::primitive::{BlockwisePrimitive, LayersPrimitive};

impl<B: Backend + BlockwiseOps, C: CheckpointStrategy> BlockwiseOps for Autodiff<B, C> {
    /// Not differentiable: the words are constants of the graph.
    fn blockwise_quantize(
        weight: FloatTensor<Self>,
        config: QuantConfig,
    ) -> BlockwisePrimitive<Self> {
        let inner = B::blockwise_quantize(weight.into_primitive(), config);
        BlockwisePrimitive {
            packed: inner.packed,
            absmax: inner.absmax,
            layout: inner.layout,
        }
    }

    fn blockwise_dequantize(
        weight: BlockwisePrimitive<Self>,
        dtype: FloatDType,
    ) -> FloatTensor<Self> {
        <Self as AutodiffBackend>::from_inner(B::blockwise_dequantize(into_inner(weight), dtype))
    }

    fn blockwise_matmul(
        x: FloatTensor<Self>,
        weight: BlockwisePrimitive<Self>,
        direction: Direction,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct BlockwiseMatmul;

        impl<B: Backend + BlockwiseOps> Backward<B, 1> for BlockwiseMatmul {
            /// Reference-counted words and a direction: `x` itself is never kept.
            type State = (BlockwisePrimitive<B>, Direction);

            fn backward(
                self,
                ops: Ops<Self::State, 1>,
                grads: &mut Gradients,
                _checkpointer: &mut Checkpointer,
            ) {
                let (weight, direction) = ops.state;
                unary::<B, _>(ops.parents, ops.node, grads, |grad| {
                    B::blockwise_matmul(grad, weight, opposite(direction))
                });
            }
        }

        let weight = into_inner(weight);
        let guard = x.node();
        let x = x.into_primitive();
        match BlockwiseMatmul
            .prepare::<C>([guard])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let y = B::blockwise_matmul(x, weight.clone(), direction);
                prep.finish((weight, direction), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::blockwise_matmul(x, weight, direction)),
        }
    }

    fn blockwise_layers(
        x: FloatTensor<Self>,
        layers: LayersPrimitive<Self>,
    ) -> Vec<FloatTensor<Self>> {
        layers::forward::<B, C>(x, layers)
    }

    fn blockwise_lora_matmul(
        x: FloatTensor<Self>,
        weight: BlockwisePrimitive<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        let weight = into_inner(weight);
        let [(x, x_node), (a, a_node), (b, b_node)] = [x, a, b].map(|tensor| tensor.into_parts());
        match Backward::<B, 3>::prepare::<C>(LoraMatmul, [x_node, a_node, b_node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let y = B::blockwise_lora_matmul(
                    x.clone(),
                    weight.clone(),
                    a.clone(),
                    b.clone(),
                    scale,
                );
                prep.finish(([x, a, b], weight, scale), y)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::blockwise_lora_matmul(x, weight, a, b, scale))
            }
        }
    }
}

#[derive(Debug)]
struct LoraMatmul;

impl<B: Backend + BlockwiseOps> Backward<B, 3> for LoraMatmul {
    /// `x` and the factors, reference-counted words, and the scale.
    type State = ([FloatTensor<B>; 3], BlockwisePrimitive<B>, f64);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let ([x, a, b], weight, scale) = ops.state;
        let [x_node, a_node, b_node] = ops.parents;
        let (da, db) = match x_node {
            Some(node) => {
                let (dx, da, db) = B::blockwise_lora_backward(x, weight, a, b, scale, grad);
                grads.register::<B>(node.id, dx);
                (da, db)
            }
            None => B::blockwise_lora_backward_factors(x, weight, a, b, scale, grad),
        };
        for (node, gradient) in [(a_node, da), (b_node, db)] {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

/// Returns the direction of the gradient.
fn opposite(direction: Direction) -> Direction {
    match direction {
        Direction::Forward => Direction::Transposed,
        Direction::Transposed => Direction::Forward,
    }
}

fn into_inner<B: Backend, C: CheckpointStrategy>(
    weight: BlockwisePrimitive<Autodiff<B, C>>,
) -> BlockwisePrimitive<B> {
    BlockwisePrimitive {
        packed: weight.packed,
        absmax: weight.absmax,
        layout: weight.layout,
    }
}
