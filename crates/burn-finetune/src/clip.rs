//! Clipping by the global norm, as `torch.nn.utils.clip_grad_norm_` does it.
//!
//! Burn's own `GradientClipping::Norm` holds every tensor to the limit by itself, which is another update.

use burn::tensor::Tensor;

/// The sum of squares of every gradient, each `[1]` and still on its device. Their sum's root is the
/// global norm; reading them together costs one synchronisation.
pub fn squared_norms(gradients: &[Option<Tensor<2>>]) -> Vec<Tensor<1>> {
    gradients
        .iter()
        .flatten()
        .map(|gradient| gradient.clone().square().sum())
        .collect()
}

/// The factor that brings a global norm down to `max_norm`: `min(1, max_norm / (norm + 1e-6))`.
pub fn coefficient(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.0)
}

/// Multiplies every gradient by `coefficient`.
pub fn scale(gradients: &mut [Option<Tensor<2>>], coefficient: f64) {
    if coefficient == 1.0 {
        return;
    }
    for gradient in gradients.iter_mut() {
        *gradient = gradient.take().map(|value| value.mul_scalar(coefficient));
    }
}
