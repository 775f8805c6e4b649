use super::report::Tally;
use crate::error::FinetuneError;
use crate::ranks::Ranks;

/// The log-probability of tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct LogProb {
    /// The sum over them.
    pub sum: f64,
    /// Their number.
    pub tokens: usize,
}

impl LogProb {
    /// Returns that of a token.
    pub(super) fn mean(self) -> f64 {
        self.sum / self.tokens.max(1) as f64
    }
}

/// A sequence as a model scores it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scored {
    /// Whether it is chosen, or desirable.
    pub preferred: bool,
    /// Its answer.
    pub answer: LogProb,
    /// Its prompt, as far as that counts.
    pub prompt: LogProb,
    /// The log-probability that the reference gives its answer.
    pub reference: f64,
}

impl Scored {
    /// Returns the logarithm of the ratio of the answer's probabilities by the model and by the reference.
    pub(crate) fn log_ratio(&self) -> f64 {
        self.answer.sum - self.reference
    }
}

/// What a step has in all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Totals {
    /// Pairs or answers.
    pub examples: usize,
    /// Tokens of preferred sequences, where their prompts count.
    pub nll_tokens: usize,
    /// The KL divergence from the reference, where that is estimated.
    pub kl: f64,
}

/// The derivatives of a [`Judgement`]'s loss by the log-probabilities of a sequence.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Slopes {
    /// By that of each token of the answer.
    pub answer: f64,
    /// By that of each token of the prompt.
    pub prompt: f64,
}

/// What an objective says of sequences.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Judgement {
    /// The loss of all examples together: that of a step is their sum over the number of its examples.
    pub loss: f64,
    /// Its derivatives, for each sequence.
    pub slopes: Vec<Slopes>,
    /// What is told of them.
    pub tally: Tally,
}

/// Returns `1 / (1 + exp(-x))`.
pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Returns the logarithm of [`sigmoid`], which has digits where that is 0.
pub(super) fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

impl Totals {
    /// Returns the divergence that answers to the prompts of others tell of, at least 0; 0 of none. `mismatched` are this one's
    /// share of those of all `ranks`.
    ///
    /// # Errors
    /// [`FinetuneError::Ranks`].
    pub(crate) fn kl_over(mismatched: &[Scored], ranks: &Ranks) -> Result<f64, FinetuneError> {
        let sum = mismatched.iter().map(Scored::log_ratio).sum();
        let mut sums: [f64; 2] = [sum, mismatched.len() as f64];
        ranks.sum(&mut sums)?;
        Ok((sums[0] / sums[1].max(1.0)).max(0.0))
    }
}
