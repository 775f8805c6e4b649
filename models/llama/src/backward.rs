//! The loss and the adapters' gradients, from one graph or block by block.

use std::convert::Infallible;

use burn::module::Module;
use burn::tensor::{Device, Distribution, Int, Tensor};
use burn_paged::WeightPages;
use burn_qlora::{
    BackwardPass, CausalLm, Checkpointing, Continuations, LossAndGradients, TokenBatch,
    adapter_gradients, derive_seed, noise_magnitude, token_row_gradients,
};

use crate::block::Block;
use crate::model::Decoder;
use crate::residual::Residual;
use crate::rope::Positions;

impl CausalLm for Decoder {
    const LAYER_CHECKPOINTING: bool = true;
    const PACKING: bool = true;
    const NOISE: bool = true;

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
        let loss = |x| Ok::<_, Infallible>(self.head_nll_sum(x, batch.targets.clone()));
        let Ok(found) = self.gradients(batch, pass, loss);
        found
    }

    fn token_losses(&self, batch: &TokenBatch) -> Option<Tensor<2>> {
        let TokenBatch {
            input_ids,
            starts,
            targets,
        } = batch.clone();
        Some(self.token_nll(input_ids, starts, targets))
    }

    fn continuation_losses(&self, asked: &[Continuations]) -> Option<Tensor<2>> {
        Some(self.continuation_nll(asked))
    }

    fn weighted_gradients<E>(
        &self,
        batch: &TokenBatch,
        pass: &BackwardPass,
        weigh: impl FnOnce(Tensor<2>) -> Result<Tensor<2>, E>,
    ) -> Result<Option<LossAndGradients>, E> {
        let loss = |x| {
            let losses = self.head_token_nll(x, batch.targets.clone());
            let weights = weigh(losses.clone().inner())?;
            Ok((losses * Tensor::from_inner(weights)).sum())
        };
        self.gradients(batch, pass, loss).map(Some)
    }

    fn weight_pages(&self) -> Option<&WeightPages> {
        self.pages.as_ref()
    }

    /// The CPU's attention passes over the keys that a token does not see; that of other devices computes a score for every pair
    /// of a row's places.
    fn prefers_packed_rows(&self) -> bool {
        burn_fused::runs_cpu_kernels(&Decoder::device(self).without_autodiff())
    }

    fn device(&self) -> Device {
        Decoder::device(self)
    }

    fn context_len(&self) -> usize {
        self.config().context_len()
    }
}

/// The part of a pass that the seed of its noise is derived for; those before are the blocks.
const NOISE: u64 = u64::MAX;

impl Decoder {
    /// Returns the value and the gradients of `loss`, which is a function of the last block's output.
    fn gradients<E>(
        &self,
        batch: &TokenBatch,
        pass: &BackwardPass,
        loss: impl FnOnce(Residual) -> Result<Tensor<1>, E>,
    ) -> Result<LossAndGradients, E> {
        let x = self.noisy(self.embed(batch.input_ids.clone()), pass);
        let chain = Chain {
            model: self,
            input_ids: batch.input_ids.clone(),
            positions: self.positions(&batch.input_ids, batch.starts.clone()),
            pass,
        };
        match pass.checkpointing {
            Checkpointing::None => chain.at_once(x, loss),
            Checkpointing::Layer => chain.by_block(x, loss),
        }
    }

    /// Adds the noise of a pass to embeddings, `[batch, seq, hidden]`.
    fn noisy(&self, x: Tensor<3>, pass: &BackwardPass) -> Tensor<3> {
        if pass.noise == 0.0 {
            return x;
        }
        let [_, seq, width] = x.dims();
        let most = noise_magnitude(pass.noise, seq, width);
        let device = Decoder::device(self);
        device.seed(derive_seed(pass.seed, NOISE));
        let noise = Tensor::<3>::random(x.dims(), Distribution::Uniform(-most, most), &device);
        let dtype = x.dtype();
        x + noise.cast(dtype)
    }
}

/// The blocks in a row; the loss comes at their end.
struct Chain<'a> {
    model: &'a Decoder,
    /// `[batch, seq]`.
    input_ids: Tensor<2, Int>,
    positions: Positions,
    pass: &'a BackwardPass,
}

impl Chain<'_> {
    /// Builds one graph from end to end.
    fn at_once<E>(
        &self,
        x: Tensor<3>,
        loss: impl FnOnce(Residual) -> Result<Tensor<1>, E>,
    ) -> Result<LossAndGradients, E> {
        self.model.announce(&self.model.layers);
        let layers = self.model.layers.iter().enumerate();
        let x = layers.fold(x.into(), |x, (index, block)| self.run(index, block, x));
        self.seed_head();
        Ok(LossAndGradients::of(self.model, loss(x)?, self.pass.scale))
    }

    /// Builds a graph for the loss, then one for each block from the last to the first. Of each only its input
    /// is known beforehand, and nothing is left of it when the next one is built.
    fn by_block<E>(
        &self,
        x: Tensor<3>,
        loss: impl FnOnce(Residual) -> Result<Tensor<1>, E>,
    ) -> Result<LossAndGradients, E> {
        let layers = &self.model.layers;
        // Nothing below the first adapter wants a gradient, or else the embedding does.
        let to_embedding = self.model.trains_embedding();
        let first = if to_embedding {
            0
        } else {
            let adapted = layers.iter().position(Block::has_adapters);
            adapted.unwrap_or(layers.len())
        };
        // The embedding has a graph of its own in the end.
        let x = if to_embedding { x.detach() } else { x };
        self.model
            .announce(layers.iter().chain(layers[first..].iter().rev()));
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
                block.forward_normalized(x, normalized, &self.positions)
            });

        let Residual { stream, update } = last;
        // The gradient of what is added to the stream is that of the sum.
        let stream = stream.detach().require_grad();
        let last = Residual {
            stream: stream.clone(),
            update,
        };
        self.seed_head();
        let loss = loss(last)?;
        let mut tape = loss.backward();
        let mut gradient = stream.grad_remove(&mut tape);
        let of_head = adapter_gradients(&self.model.head_adapter, &mut tape);
        let mut of_rows = token_row_gradients(self.model, &mut tape);
        drop((stream, tape));

        let mut gradients = Vec::with_capacity(inputs.len());
        let trained = layers.iter().enumerate().skip(first).zip(inputs);
        for ((index, block), x) in trained.rev() {
            let x = x.detach().set_require_grad(index > first || to_embedding);
            let y = self.run(index, block, x.clone().into());
            let Some(dy) = gradient.take() else { break };
            // Backward begins with ones, and 1 · dy is dy to the bit.
            let mut tape = (y.sum() * Tensor::from_inner(dy)).backward();
            gradient = x.grad_remove(&mut tape);
            gradients.push(adapter_gradients(block.adapters(), &mut tape));
        }
        if let Some(dx) = gradient.filter(|_| to_embedding) {
            let x = self.model.embed(self.input_ids.clone());
            let mut tape = (x * Tensor::from_inner(dx)).sum().backward();
            let found = token_row_gradients(self.model, &mut tape);
            of_rows = of_rows.into_iter().zip(found).map(sum).collect();
        }
        let of_layers = gradients.into_iter().rev().flatten();
        let gradients = of_layers.chain(of_head).chain(of_rows).collect();
        Ok(LossAndGradients::scaled(loss, gradients, self.pass.scale))
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

    /// Has the head draw its dropout from a seed of its own, as if it were a block behind the last.
    fn seed_head(&self) {
        let branch = self.model.head_adapter.as_ref();
        if branch.is_some_and(|branch| branch.dropout.prob > 0.0) {
            let index = self.model.layers.len() as u64;
            self.model.device().seed(derive_seed(self.pass.seed, index));
        }
    }
}

/// Adds two gradients of one parameter, each if it is there.
fn sum((one, other): (Option<Tensor<2>>, Option<Tensor<2>>)) -> Option<Tensor<2>> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one + other),
        (one, other) => one.or(other),
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::load::LoadOptions;
    use burn::tensor::Int;
    use qlora_test_support::fixture;

    fn batch(device: &Device) -> TokenBatch {
        let ids = Tensor::<1, Int>::arange(3..67, device).reshape([2, 32]);
        TokenBatch {
            input_ids: ids.clone(),
            starts: None,
            targets: ids.add_scalar(1),
        }
    }

    /// `uniform_(-alpha / sqrt(L · d), alpha / sqrt(L · d))` of transformers' hook: bounds, mean and variance, and a draw of its
    /// own for each seed.
    #[test]
    fn noise_is_uniform_within_its_magnitude() {
        let _alone = qlora_test_support::alone();
        let device = Device::flex().autodiff();
        let checkpoint = Checkpoint::open(fixture("tiny_llama")).unwrap();
        let model = Decoder::load(&checkpoint, &LoadOptions::default(), &device).unwrap();
        let pass = |noise, seed| BackwardPass {
            scale: 1.0,
            seed,
            noise,
            checkpointing: Checkpointing::None,
        };
        let x = model.embed(batch(&device).input_ids);
        let width = x.dims()[2];
        let drawn = |noise, seed| -> Vec<f32> {
            let noisy = model.noisy(x.clone(), &pass(noise, seed)) - x.clone();
            noisy.into_data().iter().collect()
        };
        assert!(drawn(0.0, 1).iter().all(|value| *value == 0.0));
        let values = drawn(5.0, 1);
        assert_eq!(values, drawn(5.0, 1));
        assert_ne!(values, drawn(5.0, 2));
        let most = 5.0 / (32.0 * width as f64).sqrt();
        let values: Vec<f64> = values.into_iter().map(f64::from).collect();
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|value| value * value).sum::<f64>() / count;
        let largest = values
            .iter()
            .fold(0.0, |largest: f64, value| largest.max(value.abs()));
        // Of 64 rows of the embedding: what is rounded in adding and subtracting is below 1e-6.
        assert!(
            largest <= most + 1e-6 && largest > 0.98 * most,
            "{largest} of {most}"
        );
        // Five standard deviations of the mean, and of the mean of the squares.
        let deviation = most / 3f64.sqrt() / count.sqrt();
        assert!(mean.abs() < 5.0 * deviation, "{mean}");
        let expected = most * most / 3.0;
        let deviation = most * most * (4f64 / 45.0).sqrt() / count.sqrt();
        assert!(
            (variance - expected).abs() < 5.0 * deviation,
            "{variance} is not {expected}"
        );
    }

    /// Evaluation has none, and what is kept for the backward pass changes nothing.
    #[test]
    fn noise_is_of_training_alone_and_the_same_with_checkpointing() {
        let _alone = qlora_test_support::alone();
        let device = Device::flex().autodiff();
        let checkpoint = Checkpoint::open(fixture("tiny_llama")).unwrap();
        let mut model = Decoder::load(&checkpoint, &LoadOptions::default(), &device).unwrap();
        burn_qlora::attach_adapters(&mut model, &burn_qlora::LoraConfig::new(2, 4.0), 1).unwrap();
        let batch = batch(&device);
        let loss = |noise, checkpointing| {
            let pass = BackwardPass {
                scale: 1.0,
                seed: 3,
                noise,
                checkpointing,
            };
            let found = model.loss_and_gradients(&batch, &pass);
            found.loss.into_scalar::<f64>()
        };
        let plain = model.loss_sum(&batch).into_scalar::<f64>();
        assert_eq!(loss(0.0, Checkpointing::None), plain);
        let noisy = loss(5.0, Checkpointing::None);
        assert_ne!(noisy, plain);
        assert_eq!(noisy, loss(5.0, Checkpointing::Layer));
        assert_eq!(model.loss_sum(&batch).into_scalar::<f64>(), plain);
    }
}
