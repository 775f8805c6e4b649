use crate::data::{Batch, BatchLayout, Dataset, Row};
use crate::error::FinetuneError;
use crate::evaluate::{check_weights, read};
use crate::objective::{LogProb, Objective, Scored, Slopes};
use burn::tensor::{Device, Tensor, TensorData};
use burn_qlora::{CausalLm, TokenBatch};

/// Sequences in a batch, with the places at which each is scored.
#[derive(Debug, Clone)]
pub(crate) struct PreferenceBatch {
    pub(crate) tensors: TokenBatch,
    /// Number of tokens that are not padding.
    pub(crate) tokens: usize,
    sequences: Vec<Sequence>,
}

/// A sequence of a batch. Places are those of `[batch, seq]`, row by row.
#[derive(Debug, Clone)]
struct Sequence {
    preferred: bool,
    reference: f64,
    /// The places that predict its answer.
    answer: Vec<usize>,
    /// The places that predict its prompt, where that counts.
    prompt: Vec<usize>,
}

/// The rows of a batch.
pub(super) struct Laid<'a> {
    /// The rows.
    pub rows: &'a [Row],
    /// What the reference gives each sequence of them; none where there is no reference.
    pub references: &'a [f64],
    /// Whether each sequence gets a row of its own, or those of a row share it.
    pub apart: bool,
    /// Whether the prompts of preferred answers count.
    pub learns_prompts: bool,
    /// How they lie in the batch.
    pub layout: BatchLayout,
}

impl PreferenceBatch {
    /// Puts rows on `device`.
    pub(super) fn collate(laid: &Laid<'_>, device: &Device) -> Self {
        let verdicts = laid.rows.iter().flat_map(|row| {
            let sequences = row.sequences().enumerate();
            sequences.map(|(place, _)| row.verdicts().prefers(place))
        });
        let references = laid.references.iter().copied();
        let mut judged = verdicts.zip(references.chain(std::iter::repeat(0.0)));
        let mut rows: Vec<Row> = if laid.apart {
            laid.rows.iter().flat_map(Row::apart).collect()
        } else {
            laid.rows.to_vec()
        };
        let (_, places) = laid.layout.places(rows.iter());
        let mut sequences = Vec::new();
        for (row, start) in rows.iter_mut().zip(places) {
            let spans: Vec<_> = row.sequences().collect();
            for (span, (preferred, reference)) in spans.into_iter().zip(judged.by_ref()) {
                let mut sequence = Sequence {
                    preferred,
                    reference,
                    answer: Vec::new(),
                    prompt: Vec::new(),
                };
                for place in span.skip(1) {
                    let predicted_at = start + place - 1;
                    if row.learn[place] {
                        sequence.answer.push(predicted_at);
                    } else if preferred && laid.learns_prompts {
                        sequence.prompt.push(predicted_at);
                        row.learn[place] = true;
                    }
                }
                sequences.push(sequence);
            }
        }
        let batch = Batch::laid_out(&rows, laid.layout, device);
        Self {
            tensors: batch.tensors,
            tokens: batch.tokens,
            sequences,
        }
    }

    /// Returns the number of its sequences.
    pub(crate) fn len(&self) -> usize {
        self.sequences.len()
    }

    /// Returns the tokens of preferred sequences, whose prompts count.
    pub(crate) fn nll_tokens(&self) -> usize {
        let preferred = self.sequences.iter().filter(|sequence| sequence.preferred);
        preferred
            .map(|sequence| sequence.answer.len() + sequence.prompt.len())
            .sum()
    }

    /// Returns the scores of its sequences by a model.
    ///
    /// # Errors
    /// [`FinetuneError::InvalidConfig`] for a model that gives no losses of tokens, [`FinetuneError::Device`].
    pub(crate) fn scored_by<M: CausalLm>(&self, model: &M) -> Result<Vec<Scored>, FinetuneError> {
        let losses = model.token_losses(&self.tensors);
        let scored = self.scored(losses.ok_or_else(no_token_losses)?)?;
        check_weights(model)?;
        Ok(scored)
    }

    /// Returns the scores of its sequences from the losses of its tokens, `[batch, seq]`.
    ///
    /// # Errors
    /// [`FinetuneError::Device`].
    pub(crate) fn scored(&self, losses: Tensor<2>) -> Result<Vec<Scored>, FinetuneError> {
        let places = losses.shape().num_elements();
        let losses = read("losses of tokens", losses.reshape([places]))?;
        let log_prob = |places: &[usize]| LogProb {
            sum: -places.iter().map(|place| losses[*place]).sum::<f64>(),
            tokens: places.len(),
        };
        let scored = self.sequences.iter().map(|sequence| Scored {
            preferred: sequence.preferred,
            answer: log_prob(&sequence.answer),
            prompt: log_prob(&sequence.prompt),
            reference: sequence.reference,
        });
        Ok(scored.collect())
    }

    /// Returns the weight of the loss of each token, `[batch, seq]`, from the slopes of each sequence.
    pub(crate) fn weights(&self, slopes: &[Slopes]) -> Tensor<2> {
        let [batch, seq] = self.tensors.targets.dims();
        let mut weights = vec![0f32; batch * seq];
        for (sequence, slopes) in self.sequences.iter().zip(slopes) {
            // A loss is minus a log-probability.
            for (places, slope) in [
                (&sequence.answer, slopes.answer),
                (&sequence.prompt, slopes.prompt),
            ] {
                for place in places {
                    weights[*place] = -slope as f32;
                }
            }
        }
        let device = self.tensors.targets.device().without_autodiff();
        Tensor::from_data(TensorData::new(weights, [batch, seq]), &device)
    }
}

/// Returns the error of a model without [`CausalLm::token_losses`].
pub(super) fn no_token_losses() -> FinetuneError {
    FinetuneError::InvalidConfig {
        field: "objective",
        value: "one of preferences".into(),
        expected: "sft: this model does not tell the losses of its tokens apart",
    }
}

/// Checks that rows are what an objective learns from.
///
/// # Errors
/// [`FinetuneError::InvalidConfig`].
pub(super) fn check_examples(objective: &Objective, rows: &Row) -> Result<(), FinetuneError> {
    if rows.verdicts().kind() == objective.examples() {
        return Ok(());
    }
    Err(FinetuneError::InvalidConfig {
        field: "objective",
        value: objective.name().into(),
        expected: "one that learns from such rows: texts are for sft, pairs for dpo and orpo, labelled answers for kto",
    })
}

/// Checks that rows are texts, for an objective of no preferences.
///
/// # Errors
/// [`FinetuneError::InvalidConfig`], [`FinetuneError::Read`].
pub(crate) fn check_texts(data: &Dataset) -> Result<(), FinetuneError> {
    match data.is_empty() {
        true => Ok(()),
        false => check_examples(&Objective::Sft, &data.row(0)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Int;

    fn pair() -> Row {
        let answer = |ids: Vec<u32>, prompt| {
            let learn = (0..ids.len()).map(|place| place >= prompt).collect();
            Row::new(ids, learn)
        };
        Row::pair(answer(vec![1, 2, 3, 4], 2), &answer(vec![1, 2, 5], 2))
    }

    fn batch(apart: bool, learns_prompts: bool, layout: BatchLayout) -> PreferenceBatch {
        let rows = [pair(), pair()];
        let laid = Laid {
            rows: &rows,
            references: &[-1.0, -2.0, -3.0, -4.0],
            apart,
            learns_prompts,
            layout,
        };
        PreferenceBatch::collate(&laid, &Device::flex())
    }

    fn targets(batch: &PreferenceBatch) -> Vec<i64> {
        let targets: Tensor<2, Int> = batch.tensors.targets.clone();
        targets.into_data().iter::<i64>().collect()
    }

    /// The loss of the token at place `p` of a batch is `p` and a half.
    fn scored(batch: &PreferenceBatch) -> Vec<(f64, f64, f64)> {
        let [rows, seq] = batch.tensors.targets.dims();
        let losses: Vec<f32> = (0..rows * seq).map(|place| place as f32 + 0.5).collect();
        let losses = Tensor::from_data(TensorData::new(losses, [rows, seq]), &Device::flex());
        let scored = batch.scored(losses).unwrap().into_iter();
        scored
            .map(|scored| (scored.answer.sum, scored.prompt.sum, scored.reference))
            .collect()
    }

    #[test]
    fn sequences_have_rows_of_their_own() {
        let batch = batch(true, false, BatchLayout::Padded);
        let row = [[-100, 3, 4, -100], [-100, 5, -100, -100]].concat();
        assert_eq!(targets(&batch), [row.clone(), row].concat());
        assert!(batch.tensors.starts.is_none());
        let sums = [
            (-4.0, 0.0, -1.0),
            (-5.5, 0.0, -2.0),
            (-20.0, 0.0, -3.0),
            (-13.5, 0.0, -4.0),
        ];
        assert_eq!(scored(&batch), sums);
        assert_eq!(batch.tokens, 14);
    }

    #[test]
    fn sequences_are_scored_where_they_lie_end_to_end() {
        let batch = batch(true, false, BatchLayout::EndToEnd);
        let row = [-100, 3, 4, -100, -100, 5, -100];
        assert_eq!(targets(&batch), [row, row].concat());
        let sums = [
            (-4.0, 0.0, -1.0),
            (-5.5, 0.0, -2.0),
            (-18.0, 0.0, -3.0),
            (-12.5, 0.0, -4.0),
        ];
        assert_eq!(scored(&batch), sums);
        assert_eq!(batch.tokens, 14);
    }

    #[test]
    fn packed_pairs_share_a_row_and_prompts_may_count() {
        let batch = batch(false, true, BatchLayout::Padded);
        let row = [2, 3, 4, -100, -100, 5, -100];
        assert_eq!(targets(&batch), [row, row].concat());
        assert!(batch.tensors.starts.is_some());
        assert_eq!(scored(&batch)[0], (-4.0, -0.5, -1.0));
        assert_eq!(scored(&batch)[1], (-5.5, 0.0, -2.0));
        assert_eq!(batch.nll_tokens(), 6);
        let slopes = |answer, prompt| Slopes { answer, prompt };
        let weights = batch.weights(&[
            slopes(1.0, 2.0),
            slopes(3.0, 9.0),
            slopes(4.0, 5.0),
            slopes(6.0, 9.0),
        ]);
        let weights: Vec<f32> = weights.into_data().iter::<f32>().collect();
        let expected = [
            -2.0, -1.0, -1.0, 0.0, 0.0, -3.0, 0.0, -5.0, -4.0, -4.0, 0.0, 0.0, -6.0, 0.0,
        ];
        assert_eq!(weights, expected);
    }

    #[test]
    fn rows_are_told_from_those_of_another_objective() {
        let objective = Objective::Dpo(Default::default());
        check_examples(&objective, &pair()).unwrap();
        for row in [Row::all(vec![1, 2]), Row::all(vec![1, 2]).labelled(true)] {
            let error = check_examples(&objective, &row).unwrap_err().to_string();
            assert!(error.contains("objective is dpo"), "{error}");
        }
    }
}
