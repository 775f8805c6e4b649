/// The tolerance of a value around the expected one, with its reason.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    bound: Bound,
    reason: &'static str,
}

#[derive(Clone, Copy, Debug)]
enum Bound {
    Absolute(f64),
    OfLargest(f64),
    OfEach(f64),
}

impl Tolerance {
    /// `limit` for every value.
    pub fn absolute(limit: f64, reason: &'static str) -> Self {
        let bound = Bound::Absolute(limit);
        Self { bound, reason }
    }

    /// `part` of the largest magnitude that is expected.
    pub fn of_largest(part: f64, reason: &'static str) -> Self {
        let bound = Bound::OfLargest(part);
        Self { bound, reason }
    }

    /// `part` of 1 plus the magnitude that is expected, for each value on its own.
    pub fn of_each(part: f64, reason: &'static str) -> Self {
        let bound = Bound::OfEach(part);
        Self { bound, reason }
    }
}

/// Asserts that `found` has as many values as `expected`, all of them within `tolerance`.
#[track_caller]
pub fn assert_close<E: Copy + Into<f64>>(
    what: &str,
    found: &[f32],
    expected: &[E],
    tolerance: Tolerance,
) {
    let magnitude = |value: &E| (*value).into().abs();
    let limit: &dyn Fn(usize) -> f64 = match tolerance.bound {
        Bound::Absolute(limit) => &move |_| limit,
        Bound::OfLargest(part) => {
            let limit = part * expected.iter().map(magnitude).fold(0.0, f64::max);
            &move |_| limit
        }
        Bound::OfEach(part) => &move |i: usize| part * (1.0 + magnitude(&expected[i])),
    };
    assert_within(what, found, expected, tolerance.reason, limit);
}

/// Asserts that `found` has as many values as `expected` and that value `i` is within `limit(i)`.
#[track_caller]
pub fn assert_within<E: Copy + Into<f64>>(
    what: &str,
    found: &[f32],
    expected: &[E],
    reason: &str,
    limit: impl Fn(usize) -> f64,
) {
    assert_eq!(
        found.len(),
        expected.len(),
        "{what}: another number of values"
    );
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let (limit, expected) = (limit(i), expected.into());
        let error = (f64::from(found) - expected).abs();
        // Not `>`, so that NaN fails.
        assert!(
            error <= limit,
            "{what}: value {i} is {found}, not {expected}; off by {error:e}, allowed {limit:e} ({reason})"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bound_admits_what_it_says() {
        let expected = [1.0f32, -100.0];
        assert_close("absolute", &[1.5, -100.5], &expected, tolerance(0.5));
        let largest = Tolerance::of_largest(0.01, "a test");
        assert_close("of the largest", &[2.0, -99.0], &expected, largest);
        let each = Tolerance::of_each(0.01, "a test");
        assert_close("of each", &[1.015, -101.0], &expected, each);
    }

    #[test]
    #[should_panic(expected = "y: value 1 is NaN, not 0; off by NaN, allowed 5e-1 (a test)")]
    fn what_is_no_number_is_refused_with_the_reason() {
        assert_close("y", &[0.0, f32::NAN], &[0.0f64; 2], tolerance(0.5));
    }

    #[test]
    #[should_panic(expected = "of the largest: value 0 is 3")]
    fn what_is_too_far_is_refused() {
        let tolerance = Tolerance::of_largest(0.01, "a test");
        assert_close("of the largest", &[3.0, 100.0], &[1.0, 100.0f64], tolerance);
    }

    #[test]
    #[should_panic(expected = "z: another number of values")]
    fn nothing_is_not_close_to_something() {
        assert_close("z", &[], &[0.0f64], tolerance(1.0));
    }

    fn tolerance(limit: f64) -> Tolerance {
        Tolerance::absolute(limit, "a test")
    }
}
