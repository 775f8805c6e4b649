//! The layers of one input, which get their gradients together: that of the input is made of those of all results at once.

use burn_autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, NodeGuard, Ops, OpsKind},
};
use burn_core::backend::{Backend, tensor::FloatTensor};
use burn_operands::autodiff::{ResultGradients, Tracked, results};

use super::into_inner;
use crate::ops::BlockwiseOps;
use crate::primitive::{GradientsPrimitive, LayerPrimitive, LayersPrimitive};
use crate::reference;

pub(super) fn forward<B: Backend + BlockwiseOps, C: CheckpointStrategy>(
    x: Tracked<B, C>,
    layers: LayersPrimitive<Autodiff<B, C>>,
) -> Vec<Tracked<B, C>> {
    let adapted = |layer: &&LayerPrimitive<_>| matches!(layer, LayerPrimitive::Adapted { .. });
    // The parents are x and the factors.
    match (layers.0.len(), layers.0.iter().filter(adapted).count()) {
        (2.., 0) => together::<B, C, 1>(x, layers),
        (2.., 1) => together::<B, C, 3>(x, layers),
        (2.., 2) => together::<B, C, 5>(x, layers),
        (2.., 3) => together::<B, C, 7>(x, layers),
        _ => reference::layers::<Autodiff<B, C>>(x, layers),
    }
}

#[derive(Debug)]
struct Layers;

/// `x`, the layers, and the results' gradients.
type Saved<B> = (FloatTensor<B>, LayersPrimitive<B>, ResultGradients<B>);

fn together<B: Backend + BlockwiseOps, C: CheckpointStrategy, const N: usize>(
    x: Tracked<B, C>,
    layers: LayersPrimitive<Autodiff<B, C>>,
) -> Vec<Tracked<B, C>> {
    let (x, x_node) = x.into_parts();
    let mut nodes = vec![x_node];
    let layers = layers.0.into_iter();
    let layers: Vec<_> = layers.map(|layer| constants(layer, &mut nodes)).collect();
    let layers = LayersPrimitive(layers);
    let nodes: [NodeGuard; N] = nodes
        .try_into()
        .unwrap_or_else(|nodes: Vec<_>| panic!("{N} parents, {} nodes", nodes.len()));
    let gradients = ResultGradients::new(layers.0.len());
    match Backward::<B, N>::prepare::<C>(Layers, nodes)
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(prep) => {
            let ys = B::blockwise_layers(x.clone(), layers.clone());
            let below = prep.finish((x, layers, gradients.clone()), ys[0].clone());
            results::<B, C>(&below, &gradients, ys)
        }
        OpsKind::UnTracked(prep) => {
            let ys = B::blockwise_layers(x, layers);
            let below = prep.finish(ys[0].clone());
            results::<B, C>(&below, &gradients, ys)
        }
    }
}

/// Returns a layer's tensors without the graph, and appends the nodes of its factors.
fn constants<B: Backend, C: CheckpointStrategy>(
    layer: LayerPrimitive<Autodiff<B, C>>,
    nodes: &mut Vec<NodeGuard>,
) -> LayerPrimitive<B> {
    match layer {
        LayerPrimitive::Base { weight } => LayerPrimitive::Base {
            weight: into_inner(weight),
        },
        LayerPrimitive::Adapted {
            weight,
            a,
            b,
            scale,
        } => {
            let [(a, a_node), (b, b_node)] = [a, b].map(|factor| factor.into_parts());
            nodes.extend([a_node, b_node]);
            LayerPrimitive::Adapted {
                weight: into_inner(weight),
                a,
                b,
                scale,
            }
        }
    }
}

impl<B: Backend + BlockwiseOps, const N: usize> Backward<B, N> for Layers {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (x, layers, gradients) = ops.state;
        let mut parents = ops.parents.into_iter();
        let x_node = parents.next().flatten();
        // A result that nothing was made of has nothing to say.
        let (mut used, mut known, mut factors) = (Vec::new(), Vec::new(), Vec::new());
        for (layer, gradient) in layers.0.into_iter().zip(gradients.take()) {
            let is_adapted = matches!(layer, LayerPrimitive::Adapted { .. });
            let nodes: Vec<_> = parents
                .by_ref()
                .take(if is_adapted { 2 } else { 0 })
                .collect();
            if let Some(gradient) = gradient {
                used.push(layer);
                known.push(gradient);
                factors.extend(nodes);
            }
        }
        if used.is_empty() {
            return;
        }
        let wants_dx = x_node.is_some();
        let (layers, gradients) = (LayersPrimitive(used), GradientsPrimitive(known));
        let found = B::blockwise_layers_backward(x, layers, gradients, wants_dx);
        let nodes = wants_dx.then_some(x_node).into_iter().chain(factors);
        for (node, gradient) in nodes.zip(found) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}
