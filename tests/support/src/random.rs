//! Numbers that depend on a seed alone, the same on every machine.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// `len` numbers in [-1, 1).
pub fn uniform(seed: u64, len: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// `len` numbers about as `scale` times a normal distribution of variance 4/3 gives: each is the sum of four of [`uniform`].
pub fn normal(seed: u64, len: usize, scale: f32) -> Vec<f32> {
    let numbers = uniform(seed, 4 * len);
    numbers
        .chunks(4)
        .map(|four| four.iter().sum::<f32>() * scale)
        .collect()
}
