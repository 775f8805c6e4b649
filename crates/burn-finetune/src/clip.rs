//! Clipping by the global norm, as `torch.nn.utils.clip_grad_norm_` does it.
//!
//! Burn's own `GradientClipping::Norm` holds every tensor to the limit by itself, which is another update.

use burn::tensor::Tensor;

/// Elements from which on Flex adds on several threads, in the order in which they come to it.
const UNORDERED: usize = 4 << 20;

/// Returns sums of squares, each `[1]` and still on its device: of every gradient, in pieces of rows where it is so large that
/// the number of threads would decide the last bits. The root of all together is the global norm; reading them
/// together costs one synchronisation.
pub(crate) fn squared_norms(gradients: &[Option<Tensor<2>>]) -> Vec<Tensor<1>> {
    let pieces = gradients.iter().flatten().flat_map(pieces);
    pieces.map(|piece| piece.square().sum()).collect()
}

/// Returns the gradient in pieces of fewer than [`UNORDERED`] elements, or of one row.
fn pieces(gradient: &Tensor<2>) -> Vec<Tensor<2>> {
    let [rows, columns] = gradient.dims();
    if rows * columns < UNORDERED {
        return vec![gradient.clone()];
    }
    let size = ((UNORDERED - 1) / columns).max(1);
    gradient.clone().split(size, 0)
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
    fn a_large_gradient_is_summed_in_pieces() {
        let device = Device::flex();
        let small = Tensor::<2>::ones([3, 7], &device);
        let large = Tensor::<2>::ones([3, UNORDERED / 2], &device);
        let sums = squared_norms(&[Some(small), None, Some(large)]);
        let sums: Vec<f32> = sums.into_iter().map(|sum| sum.into_scalar()).collect();
        assert_eq!(
            sums,
            [21.0]
                .into_iter()
                .chain([(UNORDERED / 2) as f32; 3])
                .collect::<Vec<_>>()
        );
    }

    #[test]
    fn every_gradient_is_scaled() {
        let mut gradients = [Some(Tensor::<2>::ones([2, 2], &Device::flex())), None];
        scale(&mut gradients, 0.25);
        let scaled = gradients[0].take().unwrap().into_data();
        assert!(scaled.iter::<f32>().all(|value| value == 0.25));
    }
}
