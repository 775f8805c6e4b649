//! Ticks of an axis: round numbers, a few of them.

/// Returns round numbers from `least` to `most`, about `count` of them.
pub fn ticks(least: f64, most: f64, count: usize) -> Vec<f64> {
    let range = most - least;
    if !range.is_finite() || range <= 0.0 {
        return vec![least];
    }
    let rough = range / count.max(1) as f64;
    let power = 10f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    let step = steps.into_iter().map(|step| step * power);
    let step = step.clone().find(|step| *step >= rough).unwrap_or(rough);
    let first = (least / step).ceil() as i64;
    let last = (most / step).floor() as i64;
    (first..=last).map(|place| place as f64 * step).collect()
}

/// Returns a number as a tick shows it: as many digits as tell ticks apart.
pub fn label(number: f64) -> String {
    let size = number.abs();
    if number == 0.0 {
        "0".to_owned()
    } else if (1e-3..1e5).contains(&size) {
        let text = format!("{number:.4}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        let text = format!("{number:.2e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        let digits = digits.trim_end_matches('0').trim_end_matches('.');
        format!("{digits}e{power}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_round_and_within_the_range() {
        assert_eq!(ticks(0.0, 10.0, 5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks(1.0, 30.0, 5), [10.0, 20.0, 30.0]);
        let small = ticks(0.0, 2e-4, 4).into_iter().map(label);
        let small: Vec<String> = small.collect();
        assert_eq!(small, ["0", "5e-5", "1e-4", "1.5e-4", "2e-4"]);
        assert_eq!(ticks(3.0, 3.0, 5), [3.0]);
        assert_eq!(ticks(0.0, f64::INFINITY, 5), [0.0]);
        let labels = [2.5, 0.125, 1200.0, 250000.0, -0.5].map(label);
        assert_eq!(labels, ["2.5", "0.125", "1200", "2.5e5", "-0.5"]);
    }
}
