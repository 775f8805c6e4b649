/// transformers' `labels` of rows of `seq` tokens, each at the place of the token that it follows; -100 is what follows the last.
pub fn targets(labels: &[i64], seq: usize) -> Vec<i64> {
    let rows = labels.chunks(seq);
    rows.flat_map(|row| row[1..].iter().copied().chain([-100]))
        .collect()
}

/// The negative log-likelihood of every target, given as many rows of `logits`: 0 where there is none.
///
/// # Panics
/// If there is not one row of logits for each target.
pub fn token_losses(logits: &[f32], targets: &[i64]) -> Vec<f32> {
    let rows = logits.chunks(logits.len() / targets.len());
    assert_eq!(rows.len(), targets.len(), "rows of logits for targets");
    let loss = |(logits, target): (&[f32], &i64)| {
        let Ok(class) = usize::try_from(*target) else {
            return 0.0;
        };
        let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        (sum.ln() - f64::from(logits[class])) as f32
    };
    rows.zip(targets).map(loss).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_the_label_of_the_next_token() {
        assert_eq!(targets(&[-100, 5, 6, 1, 2, 3], 3), [5, 6, -100, 2, 3, -100]);
    }

    #[test]
    fn the_loss_of_one_of_two_equal_classes_is_the_logarithm_of_two() {
        let losses = token_losses(&[1.0, 1.0, 0.0, 9.0], &[1, -100]);
        assert_eq!(losses, [std::f32::consts::LN_2, 0.0]);
    }
}
