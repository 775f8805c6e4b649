//! The factors of one layer on the host, and a weight that they are added to.

use nf4::Direction;
use qlora_cpu::Cpu;
use qlora_cpu::dense::{Beta, DenseRef};
use serde::{Deserialize, Serialize};

use crate::config::LoraConfig;

/// The factors of one layer in peft's orientation, on the host.
#[derive(Debug, Clone)]
pub struct Factors {
    /// `[rank, in_features]`, row-major.
    pub a: Vec<f32>,
    /// `[out_features, rank]`, row-major.
    pub b: Vec<f32>,
    /// The layer's own rank, alpha and rule of scaling.
    pub config: LoraConfig,
}

/// What adding factors does to a weight, in squares of Frobenius norms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct WeightChange {
    /// `‖s·B·A‖²`.
    pub delta: f64,
    /// `‖W‖²` of the weight before.
    pub weight: f64,
}

impl WeightChange {
    /// Returns `‖s·B·A‖ / ‖W‖`.
    pub fn relative_norm(&self) -> f64 {
        (self.delta / self.weight).sqrt()
    }
}

impl std::ops::AddAssign for WeightChange {
    /// Takes several weights as one.
    fn add_assign(&mut self, other: Self) {
        self.delta += other.delta;
        self.weight += other.weight;
    }
}

/// Values of the product that are in memory at a time.
const PRODUCT: usize = 1 << 20;

impl Factors {
    /// Adds `s·B·A` to `weight`, `[out_features, in_features]` row by row: each value of the product is summed in f32, scaled and
    /// added, as peft's `merge_and_unload` does.
    ///
    /// # Panics
    /// If `weight` is not of the factors' shape.
    pub fn add_to(&self, weight: &mut [f32]) -> WeightChange {
        let rank = self.config.rank;
        let width = self.a.len() / rank;
        assert_eq!(
            weight.len(),
            self.b.len() / rank * width,
            "the weight should be of the shape of the product"
        );
        let mut change = WeightChange::default();
        if weight.is_empty() {
            return change;
        }
        let scale = self.config.scale() as f32;
        let a = DenseRef::new(&self.a, [rank, width]);
        let rows = (PRODUCT / width).max(1);
        let mut product = vec![0.0; rows * width];
        let weights = weight.chunks_mut(rows * width);
        for (weight, b) in weights.zip(self.b.chunks(rows * rank)) {
            let (m, product) = (b.len() / rank, &mut product[..weight.len()]);
            Cpu::default().dense_matmul(a, b, m, product, Direction::Transposed, Beta::Zero);
            for (weight, product) in weight.iter_mut().zip(product) {
                let delta = *product * scale;
                change.weight += f64::from(*weight).powi(2);
                change.delta += f64::from(delta).powi(2);
                *weight += delta;
            }
        }
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_product_is_added_and_both_are_measured() {
        let config = LoraConfig::new(2, 6.0);
        let factors = Factors {
            a: vec![1.0, 0.0, 2.0, 0.0, 1.0, -1.0],
            b: vec![1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0],
            config,
        };
        let mut weight = vec![1.0; 12];
        let change = factors.add_to(&mut weight);
        let expected = [4.0, 1.0, 7.0, 1.0, 4.0, -2.0, 4.0, 4.0, 4.0, 1.0, 1.0, 1.0];
        assert_eq!(weight, expected);
        let sum = |values: [f64; 12]| values.map(|value| value * value).iter().sum::<f64>();
        let delta = expected.map(|value| f64::from(value) - 1.0);
        assert_eq!((change.delta, change.weight), (sum(delta), 12.0));
        assert_eq!(change.relative_norm(), (sum(delta) / 12.0).sqrt());
    }
}
