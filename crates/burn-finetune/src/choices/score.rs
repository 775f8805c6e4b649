use super::read::{Asked, ChoiceData};
use crate::error::FinetuneError;
use crate::evaluate::{check_weights, read};
use burn_qlora::{CausalLm, Continuations};

/// Returns the log-likelihood, in nats, of every choice of every question by `model`, without gradients and dropout. After each
/// batch of `batch_size` questions `told` is given how many of how many are done.
///
/// A question goes through the model once for all of its choices where the model has a cache, and questions of like lengths
/// together.
///
/// # Errors
/// [`FinetuneError::Device`], [`FinetuneError::EvalNotFinite`], and [`FinetuneError::InvalidConfig`] for a model that gives no
/// losses of tokens.
///
/// # Panics
/// When `batch_size` is 0.
pub fn score_choices<M: CausalLm>(
    model: &M,
    data: &ChoiceData,
    batch_size: usize,
    told: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Vec<f64>>, FinetuneError> {
    let model = model.valid();
    let mut order: Vec<usize> = (0..data.len()).collect();
    // The longest come first: what does not fit into memory shows at once.
    let len = |place: &usize| {
        let tokens = data.asked[*place].tokens.iter();
        tokens.map(Continuations::longest).max()
    };
    order.sort_by_key(|place| std::cmp::Reverse(len(place)));
    let mut found = vec![Vec::new(); data.len()];
    for (batch, places) in order.chunks(batch_size).enumerate() {
        let asked: Vec<&Asked> = places.iter().map(|place| &data.asked[*place]).collect();
        let scores = log_likelihoods(&model, &asked)?;
        for (place, scores) in places.iter().zip(scores) {
            found[*place] = scores;
        }
        told((batch * batch_size) + places.len(), data.len());
    }
    Ok(found)
}

/// Returns the log-likelihood of every choice of each question.
fn log_likelihoods<M: CausalLm>(
    model: &M,
    asked: &[&Asked],
) -> Result<Vec<Vec<f64>>, FinetuneError> {
    let tokens = asked.iter().flat_map(|asked| &asked.tokens).cloned();
    let tokens: Vec<Continuations> = tokens.collect();
    let losses = model.continuation_losses(&tokens);
    let losses = losses.ok_or_else(|| FinetuneError::InvalidConfig {
        field: "the model",
        value: "one without losses of tokens".into(),
        expected: "one that tells the losses of its tokens apart, to measure choices",
    })?;
    let [choices, width] = losses.dims();
    let losses = read("losses of choices", losses.reshape([choices * width]))?;
    check_weights(model)?;
    let mut sums = losses
        .chunks(width)
        .map(|losses| -losses.iter().sum::<f64>());
    let scores = asked.iter().map(|asked| {
        let scores: Vec<f64> = sums.by_ref().take(asked.lengths.len()).collect();
        match scores.iter().find(|score| !score.is_finite()) {
            Some(score) => Err(FinetuneError::EvalNotFinite {
                value: *score,
                rows: vec![asked.place.clone()],
            }),
            None => Ok(scores),
        }
    });
    scores.collect()
}
