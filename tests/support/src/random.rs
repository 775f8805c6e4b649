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

/// Blocks of llama.cpp's format `name`, of `block_bytes` each: any codes and factors, and scales and minima from 2^-11 to 0.02, so
/// that a product shows an error in any block.
///
/// # Panics
/// If the format has no scales that are known here.
pub fn gguf_blocks(seed: u64, name: &str, block_bytes: usize, blocks: usize) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut bytes: Vec<u8> = (0..blocks * block_bytes).map(|_| rng.random()).collect();
    for block in bytes.chunks_exact_mut(block_bytes) {
        let halves: &[usize] = match name {
            "Q4_0" | "Q5_0" | "Q8_0" | "IQ4_NL" => &[0],
            "Q4_1" | "Q5_1" | "Q4_K" | "Q5_K" => &[0, 2],
            "Q6_K" => &[208],
            "MXFP4" => {
                block[0] = rng.random_range(118..124);
                &[]
            }
            _ => panic!("{name} has no scales that are known here"),
        };
        for at in halves {
            let magnitude = rng.random_range(0x1000..0x2500u16);
            let sign = rng.random_range(0..2u16) << 15;
            block[*at..at + 2].copy_from_slice(&(magnitude | sign).to_le_bytes());
        }
    }
    bytes
}
