use super::score::LogProb;
use crate::error::FinetuneError;
use crate::ranks::Ranks;
use serde::{Deserialize, Serialize};

/// What is told of the preferences of a step or of an evaluation, by TRL's names. What an objective does not have, and of
/// labelled answers what there are none of, is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct PreferenceReport {
    /// Mean reward of chosen or desirable answers: beta times the log-ratio to the reference, in ORPO times the mean
    /// log-probability of a token.
    #[serde(rename = "rewards/chosen", skip_serializing_if = "Option::is_none")]
    pub rewards_chosen: Option<f64>,
    /// Mean reward of rejected or undesirable answers.
    #[serde(rename = "rewards/rejected", skip_serializing_if = "Option::is_none")]
    pub rewards_rejected: Option<f64>,
    /// The share of pairs whose chosen answer has the higher reward.
    #[serde(rename = "rewards/accuracies", skip_serializing_if = "Option::is_none")]
    pub rewards_accuracies: Option<f64>,
    /// The difference of the two mean rewards.
    #[serde(rename = "rewards/margins", skip_serializing_if = "Option::is_none")]
    pub rewards_margins: Option<f64>,
    /// Mean log-probability of chosen or desirable answers, in ORPO of a token.
    #[serde(rename = "logps/chosen", skip_serializing_if = "Option::is_none")]
    pub logps_chosen: Option<f64>,
    /// Mean log-probability of rejected or undesirable answers, in ORPO of a token.
    #[serde(rename = "logps/rejected", skip_serializing_if = "Option::is_none")]
    pub logps_rejected: Option<f64>,
    /// Of ORPO: the mean negative log-likelihood of a token of chosen rows, prompts included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nll_loss: Option<f64>,
    /// Of ORPO: the mean of `log σ(log_odds_chosen)`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_odds_ratio: Option<f64>,
    /// Of ORPO: the mean difference of the log odds of chosen and rejected answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_odds_chosen: Option<f64>,
    /// Of KTO: the estimated KL divergence from the reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
}

impl PreferenceReport {
    /// Returns what is told, by TRL's names.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let all = [
            ("rewards/chosen", self.rewards_chosen),
            ("rewards/rejected", self.rewards_rejected),
            ("rewards/accuracies", self.rewards_accuracies),
            ("rewards/margins", self.rewards_margins),
            ("logps/chosen", self.logps_chosen),
            ("logps/rejected", self.logps_rejected),
            ("nll_loss", self.nll_loss),
            ("log_odds_ratio", self.log_odds_ratio),
            ("log_odds_chosen", self.log_odds_chosen),
            ("kl", self.kl),
        ];
        all.into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
    }
}

/// Sums over answers of one side.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Side {
    count: usize,
    rewards: f64,
    logps: f64,
}

/// The sums that a [`PreferenceReport`] is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Tally {
    chosen: Side,
    rejected: Side,
    pairs: usize,
    accurate: usize,
    likelihood: LogProb,
    /// Sums of the ratio and of the log odds.
    odds: Option<[f64; 2]>,
    kl: Option<f64>,
}

impl Side {
    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.rewards += other.rewards;
        self.logps += other.logps;
    }

    fn mean(&self, sum: f64) -> Option<f64> {
        (self.count > 0).then(|| sum / self.count as f64)
    }
}

impl Tally {
    /// Counts a pair by the rewards and the log-probabilities of its two answers.
    pub(super) fn add_pair(&mut self, rewards: [f64; 2], logps: [f64; 2]) {
        self.add_answer(true, rewards[0], logps[0]);
        self.add_answer(false, rewards[1], logps[1]);
        self.pairs += 1;
        self.accurate += usize::from(rewards[0] > rewards[1]);
    }

    /// Counts an answer.
    pub(super) fn add_answer(&mut self, preferred: bool, reward: f64, logp: f64) {
        let side = if preferred {
            &mut self.chosen
        } else {
            &mut self.rejected
        };
        side.add(Side {
            count: 1,
            rewards: reward,
            logps: logp,
        });
    }

    /// Counts the odds of a pair.
    pub(super) fn add_odds(&mut self, ratio: f64, log_odds: f64) {
        let [ratios, odds] = self.odds.unwrap_or_default();
        self.odds = Some([ratios + ratio, odds + log_odds]);
    }

    /// Counts tokens that are learnt.
    pub(super) fn add_likelihood(&mut self, parts: impl IntoIterator<Item = LogProb>) {
        for part in parts {
            self.likelihood.sum += part.sum;
            self.likelihood.tokens += part.tokens;
        }
    }

    /// Notes the divergence of the step.
    pub(super) fn set_kl(&mut self, kl: f64) {
        self.kl = Some(kl);
    }

    /// Adds those of another part of the step.
    pub(crate) fn add(&mut self, other: &Self) {
        self.chosen.add(other.chosen);
        self.rejected.add(other.rejected);
        self.pairs += other.pairs;
        self.accurate += other.accurate;
        self.add_likelihood([other.likelihood]);
        if let Some([ratio, odds]) = other.odds {
            self.add_odds(ratio, odds);
        }
        self.kl = other.kl.or(self.kl);
    }

    /// Returns that of all `ranks` together, whose divergence is `kl` where there is one.
    ///
    /// # Errors
    /// [`FinetuneError::Ranks`].
    pub(crate) fn over(self, ranks: &Ranks, kl: Option<f64>) -> Result<Self, FinetuneError> {
        let of_side = |side: Side| [side.count as f64, side.rewards, side.logps];
        let [ratios, odds] = self.odds.unwrap_or_default();
        let others = [
            self.pairs as f64,
            self.accurate as f64,
            self.likelihood.sum,
            self.likelihood.tokens as f64,
            f64::from(self.odds.is_some()),
            ratios,
            odds,
        ];
        let mut sums = [of_side(self.chosen), of_side(self.rejected)].concat();
        sums.extend(others);
        ranks.sum(&mut sums)?;
        let side = |at: usize| Side {
            count: sums[at] as usize,
            rewards: sums[at + 1],
            logps: sums[at + 2],
        };
        Ok(Self {
            chosen: side(0),
            rejected: side(3),
            pairs: sums[6] as usize,
            accurate: sums[7] as usize,
            likelihood: LogProb {
                sum: sums[8],
                tokens: sums[9] as usize,
            },
            odds: (sums[10] > 0.0).then_some([sums[11], sums[12]]),
            kl,
        })
    }

    /// Returns what is told.
    pub(crate) fn report(&self) -> PreferenceReport {
        let Self {
            chosen, rejected, ..
        } = self;
        let rewards = [chosen, rejected].map(|side| side.mean(side.rewards));
        let logps = [chosen, rejected].map(|side| side.mean(side.logps));
        let margins = rewards[0].zip(rewards[1]);
        let of_pair = |sum: f64| sum / self.pairs as f64;
        let has_likelihood = self.likelihood.tokens > 0;
        PreferenceReport {
            rewards_chosen: rewards[0],
            rewards_rejected: rewards[1],
            rewards_accuracies: (self.pairs > 0).then(|| of_pair(self.accurate as f64)),
            rewards_margins: margins.map(|(chosen, rejected)| chosen - rejected),
            logps_chosen: logps[0],
            logps_rejected: logps[1],
            nll_loss: has_likelihood.then(|| -self.likelihood.mean()),
            log_odds_ratio: self.odds.map(|[ratio, _]| of_pair(ratio)),
            log_odds_chosen: self.odds.map(|[_, odds]| of_pair(odds)),
            kl: self.kl,
        }
    }
}
