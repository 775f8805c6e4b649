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
            let [chosen_odds, rejected_odds] = means.map(log_odds);
            let log_odds = chosen_odds - rejected_odds;
            let ratio = log_sigmoid(log_odds);
            judged.loss -= beta * ratio + a_token * (chosen.answer.sum + chosen.prompt.sum);
            let slope = -beta * sigmoid(-log_odds);
            judged.slopes.extend([
                Slopes {
                    answer: -beta * of_chosen(means[0], rejected_odds) / tokens(chosen) - a_token,
                    prompt: -a_token,
                },
                Slopes {
                    answer: slope / means[1].exp_m1() / tokens(rejected),
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

/// Returns `σ(rejected_odds - log_odds(log_p)) / (1 - p)`, the derivative of the ratio by the log-probability of the chosen
/// answer, which is a number also where that is certain.
fn of_chosen(log_p: f64, rejected_odds: f64) -> f64 {
    1.0 / ((log_p - rejected_odds).exp() - log_p.exp_m1())
}

fn tokens(scored: &Scored) -> f64 {
    scored.answer.tokens.max(1) as f64
}
