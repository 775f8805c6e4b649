//! The loss and the adapters' gradients, from one graph or block by block.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use burn_qlora::{
    BackwardPass, CausalLm, Checkpointing, LossAndGradients, TokenBatch, adapter_gradients,
    derive_seed,
};

use crate::block::Block;
use crate::model::Decoder;
use crate::residual::Residual;
use crate::rope::Positions;

impl CausalLm for Decoder {
    const LAYER_CHECKPOINTING: bool = true;
    const PACKING: bool = true;

    fn loss_sum(&self, batch: &TokenBatch) -> Tensor<1> {
        let TokenBatch {
            input_ids,
            starts,
            targets,
        } = batch.clone();
        self.nll_sum(input_ids, starts, targets)
    }

    /// Dropout draws are seeded block by block, so they do not depend on what is kept. On Flex neither
    /// do the bits of the results.
    fn loss_and_gradients(&self, batch: &TokenBatch, pass: &BackwardPass) -> LossAndGradients {
        let x = self.embed(batch.input_ids.clone());
        let chain = Chain {
            model: self,
            positions: self.positions(&batch.input_ids, batch.starts.clone()),
            targets: &batch.targets,
            pass,
        };
        match pass.checkpointing {
            Checkpointing::None => chain.at_once(x),
            Checkpointing::Layer => chain.by_block(x),
        }
    }

    fn device(&self) -> Device {
        Decoder::device(self)
    }

    fn context_len(&self) -> usize {
        self.config().max_position_embeddings
    }
}

/// The blocks in a row with the loss at their end.
struct Chain<'a> {
    model: &'a Decoder,
    positions: Positions,
    targets: &'a Tensor<2, Int>,
    pass: &'a BackwardPass,
}

impl Chain<'_> {
    /// Builds one graph from end to end.
    fn at_once(&self, x: Tensor<3>) -> LossAndGradients {
        let layers = self.model.layers.iter().enumerate();
        let x = layers.fold(x.into(), |x, (index, block)| self.run(index, block, x));
        LossAndGradients::of(self.model, self.loss_sum(x), self.pass.scale)
    }

    /// Builds a graph for the loss, then one for each block from the last to the first. Of each only its input
    /// is known beforehand, and nothing is left of it when the next one is built.
    fn by_block(&self, x: Tensor<3>) -> LossAndGradients {
        let layers = &self.model.layers;
        // Nothing below the first adapter wants a gradient.
        let first = layers.iter().position(Block::has_adapters);
        let first = first.unwrap_or(layers.len());
        let mut inputs = Vec::with_capacity(layers.len() - first);
        let last = layers
            .iter()
            .enumerate()
            .fold(x.into(), |x, (index, block)| {
                // Without trainable parameters there is no graph; dropout stays on.
                let block = block.clone().no_grad();
                let (x, normalized) = block.attention_input(x);
                if index >= first {
                    inputs.push(x.clone());
                }
                self.seed(index, &block);
                block.forward_normalized(x, normalized, &self.positions, None)
            });

        let Residual { stream, update } = last;
        // The gradient of what is added to the stream is that of the sum.
        let stream = stream.detach().require_grad();
        let last = Residual {
            stream: stream.clone(),
            update,
        };
        let loss = self.loss_sum(last);
        let mut gradient = stream.grad_remove(&mut loss.backward());
        drop(stream);

        let mut gradients = Vec::with_capacity(inputs.len());
        let trained = layers.iter().enumerate().skip(first).zip(inputs);
        for ((index, block), x) in trained.rev() {
            let x = x.detach().set_require_grad(index > first);
            let y = self.run(index, block, x.clone().into());
            let Some(dy) = gradient.take() else { break };
            // Backward begins with ones, and 1 · dy is dy to the bit.
            let mut tape = (y.sum() * Tensor::from_inner(dy)).backward();
            gradient = x.grad_remove(&mut tape);
            gradients.push(adapter_gradients(block.frozen_linears(), &mut tape));
        }
        let gradients = gradients.into_iter().rev().flatten().collect();
        LossAndGradients::scaled(loss, gradients, self.pass.scale)
    }

    /// Runs block `index`, drawing its dropout from a seed of its own.
    fn run(&self, index: usize, block: &Block, x: Residual) -> Residual {
        self.seed(index, block);
        block.forward(x, &self.positions, None)
    }

    fn seed(&self, index: usize, block: &Block) {
        if block.has_dropout() {
            let device = self.model.device();
            device.seed(derive_seed(self.pass.seed, index as u64));
        }
    }

    fn loss_sum(&self, x: Residual) -> Tensor<1> {
        self.model.head_nll_sum(x, self.targets.clone())
    }
}
