//! Gradients against differences, and where they must not flow.

use burn_nf4::{BlockwiseTensor, QuantConfig};
use qlora_test_support::random::normal;
use qlora_test_support::{tensor, values};

use crate::support::{TestDevice, random_weight};

/// `sum(y²) / 2` in f64, so that only the product under test rounds.
fn loss(y: &[f32]) -> f64 {
    y.iter().map(|y| f64::from(*y).powi(2)).sum::<f64>() / 2.0
}

pub fn agrees_with_central_differences(test: &TestDevice) {
    let (m, n, k) = (5, 24, 80);
    let autodiff = test.device.clone().autodiff();
    let (weight, _) = random_weight(21, [n, k], &test.device);
    for transposed in [false, true] {
        let (inner, multiply): (_, fn(&BlockwiseTensor, _) -> _) = if transposed {
            (n, |w, x| w.matmul_transposed::<2>(x))
        } else {
            (k, |w, x| w.matmul::<2>(x))
        };
        let at = normal(22, m * inner, 1.0);
        let x = tensor(at.clone(), [m, inner], &autodiff).require_grad();
        let y = multiply(&weight, x.clone());
        let gradients = (y.clone() * y / 2.0).sum().backward();
        let gradient = values(x.grad(&gradients).expect("a gradient of x"));
        for seed in 23..28 {
            let direction = normal(seed, m * inner, 1.0);
            let moved = |step: f32| {
                let x = at
                    .iter()
                    .zip(&direction)
                    .map(|(x, d)| x + step * d)
                    .collect();
                loss(&values(multiply(
                    &weight,
                    tensor(x, [m, inner], &test.device),
                )))
            };
            // The loss is quadratic in x: central differences have no truncation error, so the step
            // may be large, and what remains is f32 rounding of the product, some 1e-6 of the loss.
            let step = 0.5;
            let numeric = (moved(step) - moved(-step)) / (2.0 * f64::from(step));
            let analytic: f64 = gradient
                .iter()
                .zip(&direction)
                .map(|(g, d)| f64::from(*g) * f64::from(*d))
                .sum();
            let scale = loss(&values(multiply(
                &weight,
                tensor(at.clone(), [m, inner], &test.device),
            )));
            assert!(
                (numeric - analytic).abs() <= 10.0 * test.tolerance * scale,
                "transposed {transposed}, direction {seed}: {numeric} by differences, {analytic} by autodiff"
            );
        }
    }
}

pub fn flows_through_both_directions_and_stops_at_the_words(test: &TestDevice) {
    let autodiff = test.device.clone().autodiff();
    let dense = tensor(normal(31, 16 * 40, 0.1), [16, 40], &autodiff).require_grad();
    let weight = BlockwiseTensor::quantize(dense.clone(), QuantConfig::default()).unwrap();
    // Once on the plain device, as a constant; once carried to the autodiff device, as a module would.
    for weight in [weight.clone(), weight.to_device(&autodiff)] {
        let x = tensor(normal(32, 2 * 3 * 40, 1.0), [2, 3, 40], &autodiff).require_grad();
        let y = weight.matmul(x.clone());
        let back = weight.matmul_transposed(y);
        // Multiplying with the dense words in between keeps them in the graph, as a constant.
        let gradients = (back.sum() + weight.dequantize().autodiff().sum()).backward();
        let gradient = x.grad(&gradients).expect("a gradient of x");
        assert_eq!(gradient.dims(), [2, 3, 40]);
        assert!(
            dense.grad(&gradients).is_none(),
            "the weight got a gradient"
        );

        // d sum(x·Wᵀ·W) / dx = 1·Wᵀ·W.
        let ones = tensor(vec![1.0; 2 * 3 * 40], [2, 3, 40], &test.device);
        let expected: Vec<f64> = values(weight.matmul_transposed(weight.matmul(ones)))
            .into_iter()
            .map(f64::from)
            .collect();
        crate::support::assert_close("dx", &values(gradient), &expected, test.tolerance);
    }
}
