use super::Orpo;
use super::score::{Judgement, Scored, Slopes, Totals, log_sigmoid, sigmoid};

impl Orpo {
    pub(super) fn judge(&self, sequences: &[Scored], totals: &Totals) -> Judgement {
        let beta = self.beta;
        // A sum over pairs is divided by their number; that over tokens has to be divided by theirs.
        let a_token = totals.examples as f64 / totals.nll_tokens.max(1) as f64;
        let mut judged = Judgement::default();
        for [chosen, rejected] in sequences.as_chunks().0 {
            let means = [chosen, rejected].map(|scored| scored.answer.mean());
            let log_odds = log_odds(means[0]) - log_odds(means[1]);
            let ratio = log_sigmoid(log_odds);
            judged.loss -= beta * ratio + a_token * (chosen.answer.sum + chosen.prompt.sum);
            let slope = -beta * sigmoid(-log_odds);
            judged.slopes.extend([
                Slopes {
                    answer: slope * of_token(means[0], chosen) - a_token,
                    prompt: -a_token,
                },
                Slopes {
                    answer: -slope * of_token(means[1], rejected),
                    prompt: 0.0,
                },
            ]);
            let rewards = means.map(|mean| beta * mean);
            judged.tally.add_pair(rewards, means);
            judged.tally.add_odds(ratio, log_odds);
            judged.tally.add_likelihood([chosen.answer, chosen.prompt]);
        }
        judged
    }
}

/// Returns the logarithm of `p / (1 - p)` from that of `p`, as TRL's `log1mexp` has it.
fn log_odds(log_p: f64) -> f64 {
    let log_rest = if log_p < -std::f64::consts::LN_2 {
        (-log_p.exp()).ln_1p()
    } else {
        (-log_p.exp_m1()).ln()
    };
    log_p - log_rest
}

/// Returns the derivative of [`log_odds`] of a mean by the log-probability of each of its tokens.
fn of_token(mean: f64, scored: &Scored) -> f64 {
    -1.0 / (mean.exp_m1() * scored.answer.tokens.max(1) as f64)
}
