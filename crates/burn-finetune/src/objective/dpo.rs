use super::Dpo;
use super::score::{Judgement, Scored, Slopes, log_sigmoid, sigmoid};

impl Dpo {
    pub(super) fn judge(&self, sequences: &[Scored]) -> Judgement {
        let Self {
            beta,
            label_smoothing,
        } = *self;
        let mut judged = Judgement::default();
        for [chosen, rejected] in sequences.as_chunks().0 {
            let rewards = [chosen, rejected].map(|scored| beta * scored.log_ratio());
            let margin = rewards[0] - rewards[1];
            judged.loss -= (1.0 - label_smoothing) * log_sigmoid(margin)
                + label_smoothing * log_sigmoid(-margin);
            let slope =
                label_smoothing * sigmoid(margin) - (1.0 - label_smoothing) * sigmoid(-margin);
            judged
                .slopes
                .extend([beta * slope, -beta * slope].map(|answer| Slopes {
                    answer,
                    prompt: 0.0,
                }));
            let logps = [chosen, rejected].map(|scored| scored.answer.sum);
            judged.tally.add_pair(rewards, logps);
        }
        judged
    }
}
