use super::Kto;
use super::score::{Judgement, Scored, Slopes, Totals, sigmoid};

impl Kto {
    pub(super) fn judge(&self, sequences: &[Scored], totals: &Totals) -> Judgement {
        let Self {
            beta,
            desirable_weight,
            undesirable_weight,
        } = *self;
        let mut judged = Judgement::default();
        for scored in sequences {
            let ahead = scored.log_ratio() - totals.kl;
            let (weight, sign) = if scored.preferred {
                (desirable_weight, 1.0)
            } else {
                (undesirable_weight, -1.0)
            };
            let value = sigmoid(sign * beta * ahead);
            judged.loss += weight * (1.0 - value);
            judged.slopes.push(Slopes {
                answer: -weight * sign * beta * value * (1.0 - value),
                prompt: 0.0,
            });
            let reward = beta * scored.log_ratio();
            let (preferred, logp) = (scored.preferred, scored.answer.sum);
            judged.tally.add_answer(preferred, reward, logp);
        }
        judged.tally.set_kl(totals.kl);
        judged
    }
}
