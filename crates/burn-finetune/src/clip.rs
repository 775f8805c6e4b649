//! Clipping by the global norm, as `torch.nn.utils.clip_grad_norm_` does it.
//!
//! Burn's own `GradientClipping::Norm` holds every tensor to the limit by itself, which is another update.

use burn::tensor::Tensor;

/// Returns the sum of squares of every gradient, each `[1]` and still on its device. Their sum's root is the
/// global norm; reading them together costs one synchronisation.
pub(crate) fn squared_norms(gradients: &[Option<Tensor<2>>]) -> Vec<Tensor<1>> {
    gradients
        .iter()
        .flatten()
        .map(|gradient| gradient.clone().square().sum())
        .collect()
}

/// Returns the factor that brings a global norm down to `max_norm`: `min(1, max_norm / (norm + 1e-6))`.
pub(crate) fn coefficient(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.0)
}

/// Multiplies every gradient by `coefficient`.
pub(crate) fn scale(gradients: &mut [Option<Tensor<2>>], coefficient: f64) {
    if coefficient == 1.0 {
        return;
    }
    for gradient in gradients.iter_mut() {
        *gradient = gradient.take().map(|value| value.mul_scalar(coefficient));
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn the_coefficient_is_that_of_torch() {
        assert_eq!(coefficient(2.0, 4.0), 1.0);
        assert!((coefficient(2.0, 0.5) - 0.5 / (2.0 + 1e-6)).abs() < 1e-15);
    }

    #[test]
    fn every_gradient_is_scaled() {
        let mut gradients = [Some(Tensor::<2>::ones([2, 2], &Device::flex())), None];
        scale(&mut gradients, 0.25);
        let scaled = gradients[0].take().unwrap().into_data();
        assert!(scaled.iter::<f32>().all(|value| value == 0.25));
    }
}
