use super::batch::no_token_losses;
use super::rows::PreferenceRows;
use crate::error::FinetuneError;
use crate::objective::{PreferenceReport, Tally, Totals};
use crate::train::trainer;
use burn::tensor::Tensor;
use burn_qlora::{BackwardPass, CausalLm, Checkpointing, derive_seed};

/// How preferences go through a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PreferencePass {
    /// Rows of a micro-batch.
    pub batch_size: usize,
    /// Seed of the dropout and of the noise.
    pub seed: u64,
    /// NEFTune's alpha, of the noise on embeddings; 0 for none.
    pub noise: f64,
    /// The part of the forward pass that is kept.
    pub checkpointing: Checkpointing,
}

/// The loss of preferences and the gradients of the adapters, which have no autodiff association.
#[derive(Debug)]
pub struct PreferenceGradients {
    /// Mean loss of a pair or an answer.
    pub loss: f64,
    /// What else is told of them.
    pub preferences: PreferenceReport,
    /// Number of tokens that are not padding.
    pub tokens: usize,
    /// The gradients of A and B of every adapter, in the order of the model's layers.
    pub gradients: Vec<Option<Tensor<2>>>,
}

impl PreferenceRows<'_> {
    /// Returns the loss and the gradients of the rows at `places`.
    ///
    /// The loss is the mean over all their pairs or answers, and KTO's divergence is that of all of them, so that they do not
    /// depend on how the rows are divided among micro-batches. Each micro-batch is run once: the losses of its tokens are
    /// read to the host, where the objective makes a weight of each.
    ///
    /// # Errors
    /// [`FinetuneError::InvalidConfig`] for a model that gives no losses of tokens, [`FinetuneError::Read`],
    /// [`FinetuneError::Device`].
    ///
    /// # Panics
    /// When the batch size is 0.
    pub fn gradients<M: CausalLm>(
        &self,
        model: &M,
        places: &[usize],
        pass: &PreferencePass,
    ) -> Result<PreferenceGradients, FinetuneError> {
        let objective = self.objective();
        let device = model.device();
        let kl = self.divergence(model, places, pass.batch_size)?;
        let chunks = places.chunks(pass.batch_size);
        let batches = chunks.map(|places| self.batch(places, &device));
        let batches = batches.collect::<Result<Vec<_>, _>>()?;
        let sequences = batches.iter().map(|batch| batch.len()).sum();
        let totals = Totals {
            examples: objective.examples().examples(sequences),
            nll_tokens: batches.iter().map(|batch| batch.nll_tokens()).sum(),
            kl,
        };
        let scale = 1.0 / totals.examples.max(1) as f64;

        let (mut gradients, mut loss, mut tally) = (Vec::new(), 0.0, Tally::default());
        for (index, batch) in batches.iter().enumerate() {
            let pass = BackwardPass {
                scale,
                seed: derive_seed(pass.seed, index as u64),
                noise: pass.noise,
                checkpointing: pass.checkpointing,
            };
            let found = model.weighted_gradients(&batch.tensors, &pass, |losses| {
                let judged = objective.judge(&batch.scored(losses)?, &totals);
                loss += judged.loss;
                tally.add(&judged.tally);
                Ok::<_, FinetuneError>(batch.weights(&judged.slopes))
            })?;
            let found = found.ok_or_else(no_token_losses)?;
            trainer::add(&mut gradients, found.gradients);
        }
        Ok(PreferenceGradients {
            loss: scale * loss,
            preferences: tally.report(),
            tokens: batches.iter().map(|batch| batch.tokens).sum(),
            gradients,
        })
    }

    /// Returns the divergence from the reference, without gradients; 0 where none is estimated.
    fn divergence<M: CausalLm>(
        &self,
        model: &M,
        places: &[usize],
        batch_size: usize,
    ) -> Result<f64, FinetuneError> {
        if !self.objective().estimates_kl() {
            return Ok(0.0);
        }
        let model = model.valid();
        let device = model.device().without_autodiff();
        let mut scored = Vec::new();
        for places in places.chunks(batch_size) {
            if let Some(batch) = self.mismatched(places, &device)? {
                scored.extend(batch.scored_by(&model)?);
            }
        }
        Ok(Totals::kl_of(&scored))
    }
}
