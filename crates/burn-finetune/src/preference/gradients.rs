use super::batch::{PreferenceBatch, no_token_losses};
use super::rows::PreferenceRows;
use crate::data::BatchLayout;
use crate::error::FinetuneError;
use crate::objective::{PreferenceReport, Tally, Totals};
use crate::ranks::Ranks;
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
        self.gradients_of_rank(model, places, pass, &Ranks::single())
    }

    /// Returns what [`gradients`](Self::gradients) does, with the gradients of this one's share of the micro-batches alone; all else
    /// is that of all `ranks`.
    ///
    /// # Errors
    /// As for that, and [`FinetuneError::Ranks`].
    pub(crate) fn gradients_of_rank<M: CausalLm>(
        &self,
        model: &M,
        places: &[usize],
        pass: &PreferencePass,
        ranks: &Ranks,
    ) -> Result<PreferenceGradients, FinetuneError> {
        let objective = self.objective();
        let device = model.device();
        let layout = BatchLayout::of(model, pass.noise);
        let kl = self.divergence(model, places, pass.batch_size, ranks)?;
        let chunks: Vec<&[usize]> = places.chunks(pass.batch_size).collect();
        let own = ranks.share(chunks.len());
        let batches = own.map(|index| Ok((index, self.batch(chunks[index], layout, &device)?)));
        let batches = batches.collect::<Result<Vec<_>, FinetuneError>>()?;
        let count = |of: fn(&PreferenceBatch) -> usize| {
            batches.iter().map(|(_, batch)| of(batch) as f64).sum()
        };
        let mut counts: [f64; 3] = [
            count(PreferenceBatch::len),
            count(PreferenceBatch::nll_tokens),
            count(|batch| batch.tokens),
        ];
        ranks.sum(&mut counts)?;
        let [sequences, nll_tokens, tokens] = counts.map(|count| count as usize);
        let totals = Totals {
            examples: objective.examples().examples(sequences),
            nll_tokens,
            kl,
        };
        let scale = 1.0 / totals.examples.max(1) as f64;

        let (mut gradients, mut loss, mut tally) = (Vec::new(), [0.0], Tally::default());
        for (index, batch) in &batches {
            let pass = BackwardPass {
                scale,
                seed: derive_seed(pass.seed, *index as u64),
                noise: pass.noise,
                checkpointing: pass.checkpointing,
            };
            let found = model.weighted_gradients(&batch.tensors, &pass, |losses| {
                let judged = objective.judge(&batch.scored(losses)?, &totals);
                loss[0] += judged.loss;
                tally.add(&judged.tally);
                Ok::<_, FinetuneError>(batch.weights(&judged.slopes))
            })?;
            let found = found.ok_or_else(no_token_losses)?;
            trainer::add(&mut gradients, found.gradients);
        }
        ranks.sum(&mut loss)?;
        let kl = objective.estimates_kl().then_some(kl);
        Ok(PreferenceGradients {
            loss: scale * loss[0],
            preferences: tally.over(ranks, kl)?.report(),
            tokens,
            gradients,
        })
    }

    /// Returns the divergence from the reference, without gradients; 0 where none is estimated.
    fn divergence<M: CausalLm>(
        &self,
        model: &M,
        places: &[usize],
        batch_size: usize,
        ranks: &Ranks,
    ) -> Result<f64, FinetuneError> {
        if !self.objective().estimates_kl() {
            return Ok(0.0);
        }
        let model = model.valid();
        let device = model.device().without_autodiff();
        let layout = BatchLayout::of(&model, 0.0);
        let chunks: Vec<&[usize]> = places.chunks(batch_size).collect();
        let mut scored = Vec::new();
        for index in ranks.share(chunks.len()) {
            if let Some(batch) = self.mismatched(chunks[index], layout, &device)? {
                scored.extend(batch.scored_by(&model)?);
            }
        }
        Totals::kl_over(&scored, ranks)
    }
}
